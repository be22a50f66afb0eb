-- Tenants, members, roles, and the isolation of the application's tables.
\set SHOW_CONTEXT never
\set VERBOSITY default
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS grownext;
CREATE ROLE regress_tenant_service IN ROLE grownext_service;
CREATE ROLE regress_tenant_app IN ROLE grownext_user;
CREATE ROLE regress_tenant_report;
RESET client_min_messages;
SET grownext.test_clock = '2030-01-15 12:00:00+00';
\set acme '''a0000000-0000-4000-8000-000000000001'''
\set beta '''a0000000-0000-4000-8000-000000000002'''
\set ann '''b0000000-0000-4000-8000-000000000001'''
\set bob '''b0000000-0000-4000-8000-000000000002'''
SET ROLE regress_tenant_service;
SELECT grownext.user_create('ann@acme.example', id => :ann);
SELECT grownext.user_create('bob@acme.example', id => :bob);

-- a tenant is created with its owner; the same external id is the same tenant
SELECT grownext.tenant_create('rt-acme', 'Acme', owner_id => :ann, id => :acme, external_id => 'crm-1', time_zone => 'europe/berlin', region => 'eu-central');
SELECT grownext.tenant_create('rt-other', 'Other', external_id => 'crm-1');
SELECT slug, name, state, time_zone, region, attributes, created_at FROM grownext.tenant WHERE id = :acme;
SELECT user_id = :ann AS is_ann, role FROM grownext.member WHERE tenant_id = :acme;
SELECT grownext.tenant_create('rt-beta', 'Beta', owner_id => :bob, id => :beta);

-- slugs: 3 to 63 of a-z, 0-9 and "-", not reserved, not taken
SELECT grownext.tenant_create(s, 'X') FROM unnest(ARRAY['ab']) AS s;
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.tenant_create('Rt-Acme', 'X');
SELECT grownext.tenant_create('-rt', 'X');
SELECT grownext.tenant_create('rt_x', 'X');
SELECT grownext.tenant_create('xn--rt', 'X');
SELECT grownext.tenant_create(repeat('a', 64), 'X');
SELECT grownext.tenant_create('admin', 'X');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.tenant_create('rt-acme', 'X');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.tenant_create('rt-again', 'X', id => :acme);
\echo :LAST_ERROR_SQLSTATE

-- nothing else is taken on trust, and nothing is half written
SELECT grownext.tenant_create(NULL, 'X');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.tenant_create('rt-bad', '');
SELECT grownext.tenant_create('rt-bad', 'X', time_zone => 'Europe/Nowhere');
SELECT grownext.tenant_create('rt-bad', 'X', time_zone => 'ABC5');
SELECT grownext.tenant_create('rt-bad', 'X', region => 'EU central');
SELECT grownext.tenant_create('rt-bad', 'X', attributes => '[]');
SELECT grownext.tenant_create('rt-bad', 'X', owner_id => 'b0000000-0000-4000-8000-00000000000f');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.tenant_create('rt-bad', 'X', bundle => 'rt-no-such-bundle');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.tenant_create('rt-bad', 'X', parent_id => 'a0000000-0000-4000-8000-00000000000f');
SELECT count(*) FROM grownext.tenant WHERE slug = 'rt-bad';

-- changes: only known keys, only valid values, and what is the same is no change
SELECT grownext.tenant_update(:acme, '{"name": "Acme Ltd", "attributes": {"tier": 1}, "time_zone": "America/New_York"}');
SELECT slug, name, time_zone, attributes FROM grownext.tenant WHERE id = :acme;
SELECT grownext.tenant_update(:acme, '{"name": "Acme Ltd"}');
SELECT grownext.tenant_update(:acme, '{"state": "suspended"}');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.tenant_update(:acme, '{"slug": "rt-beta"}');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.tenant_update(:acme, '{"slug": "www"}');
SELECT grownext.tenant_update(:acme, '{"time_zone": null}');
SELECT grownext.tenant_update(:acme, NULL);
SELECT grownext.tenant_update('a0000000-0000-4000-8000-00000000000f', '{}');
\echo :LAST_ERROR_SQLSTATE

-- hierarchy: no circle, at most eight levels
SELECT grownext.tenant_update(:beta, jsonb_build_object('parent_id', :acme));
SELECT grownext.tenant_update(:acme, jsonb_build_object('parent_id', :beta));
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.tenant_update(:acme, jsonb_build_object('parent_id', :acme));
DO $$
DECLARE
    parent uuid := 'a0000000-0000-4000-8000-000000000002';
BEGIN
    FOR level IN 3..9 LOOP
        parent := grownext.tenant_create('rt-level-' || level, 'Level', parent_id => parent);
    END LOOP;
END
$$;
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM grownext.tenant WHERE slug LIKE 'rt-level-%';
SELECT grownext.tenant_update(:beta, '{"parent_id": null}');
SELECT parent_id FROM grownext.tenant WHERE id = :beta;

-- members: a role that exists, a user that exists, once
SELECT grownext.member_add(:acme, :bob, 'member');
SELECT grownext.member_add(:acme, :bob, 'admin');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.member_add(:acme, 'b0000000-0000-4000-8000-00000000000f', 'member');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.member_set_role(:acme, :bob, 'king');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.member_add('a0000000-0000-4000-8000-00000000000f', :bob, 'member');

-- the last owner stays owner and member; with another one he may go
SELECT grownext.member_remove(:acme, :ann);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.member_set_role(:acme, :ann, 'member');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.member_set_role(:acme, :bob, 'owner');
SELECT grownext.member_set_role(:acme, :ann, 'admin');
SELECT grownext.member_remove(:acme, :bob);
SELECT grownext.member_set_role(:acme, :ann, 'owner');
SELECT grownext.member_set_role(:acme, :bob, 'member');
SELECT user_id = :ann AS is_ann, role FROM grownext.member WHERE tenant_id = :acme ORDER BY role DESC;
SELECT grownext.member_remove(:acme, :bob);
SELECT grownext.member_remove(:acme, :bob);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.member_add(:acme, :bob, 'member');

-- roles: built in, redefined for all or for one tenant; owner is fixed
SELECT grownext.role_define('rt-auditor', '{reports.read,audit.*}', :acme);
SELECT grownext.role_define('owner', '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.role_define('Rt', '{}');
SELECT grownext.role_define('rt-x', '{Reports}');
SELECT grownext.role_define('rt-x', NULL);
SELECT grownext.member_add(:beta, :ann, 'rt-auditor');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.member_set_role(:acme, :bob, 'rt-auditor');
SELECT grownext.role_define('rt-everywhere', '{reports.*,reports.*,a}');
SELECT role, permissions, builtin FROM grownext.role WHERE tenant_id IS NULL OR tenant_id = :acme ORDER BY role;

-- permissions follow the role of this moment; without a caller there is no answer
SELECT grownext.has_permission('reports.read');
BEGIN;
SELECT grownext.act_as('b0000000-0000-4000-8000-000000000002', 'a0000000-0000-4000-8000-000000000001');
SELECT p, grownext.has_permission(p) FROM unnest('{reports.read,reports.write,audit.read,audit}'::text[]) AS p;
SELECT grownext.member_set_role(:acme, :bob, 'member');
SELECT grownext.has_permission('reports.read');
ROLLBACK;
BEGIN;
SELECT grownext.act_as('b0000000-0000-4000-8000-000000000001', 'a0000000-0000-4000-8000-000000000001');
SELECT grownext.has_permission('anything.at.all');
SELECT grownext.tenant_suspend(:acme, 'unpaid');
SELECT grownext.has_permission('anything.at.all');
ROLLBACK;

-- suspended: nobody has a role; twice is once
SELECT grownext.tenant_suspend(:acme, '');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.tenant_suspend(:acme, 'unpaid');
SELECT grownext.tenant_suspend(:acme, 'again');
SELECT state, suspended_at, suspend_reason FROM grownext.tenant WHERE id = :acme;
RESET ROLE;
SELECT _grownext.tenant_role_of(:acme, :ann);
SET ROLE regress_tenant_service;
SELECT grownext.tenant_resume(:acme);
SELECT state, suspended_at, suspend_reason FROM grownext.tenant WHERE id = :acme;
RESET ROLE;
SELECT _grownext.tenant_role_of(:acme, :ann), _grownext.tenant_role_of(:beta, :ann);

-- every change left one audit event, with before and after
SELECT action, count(*) FROM grownext.audit_event WHERE tenant_id = :acme GROUP BY action ORDER BY action;
SELECT change -> 'before' ->> 'name' AS before, change -> 'after' ->> 'name' AS after
  FROM grownext.audit_event WHERE tenant_id = :acme AND action = 'tenant.updated' ORDER BY id LIMIT 1;

-- isolation: only for the owner, only tables, only a uuid column, only known options
CREATE SCHEMA regress_tenant AUTHORIZATION regress_tenant_app;
GRANT USAGE ON SCHEMA regress_tenant TO PUBLIC;
CREATE TABLE regress_tenant.foreign_table_of_another (id int, tenant_id uuid);
SET ROLE regress_tenant_app;
CREATE TABLE regress_tenant.document (id int PRIMARY KEY, tenant_id uuid NOT NULL, body text);
CREATE VIEW regress_tenant.document_view AS SELECT * FROM regress_tenant.document;
SELECT * FROM grownext.tenant_isolate('regress_tenant.foreign_table_of_another');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM grownext.tenant_isolate('pg_catalog.pg_class');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM grownext.tenant_isolate('regress_tenant.document_view');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM grownext.tenant_isolate('regress_tenant.document', 'org_id');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM grownext.tenant_isolate('regress_tenant.document', 'body');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM grownext.tenant_isolate('regress_tenant.document', options => '{"forced": true}');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM grownext.tenant_isolate('regress_tenant.document', options => '{"force": "yes"}');
SELECT * FROM grownext.tenant_isolate(NULL);
RESET ROLE;
SELECT * FROM grownext.tenant_isolate('_grownext.tenant_tenant', 'id');
\echo :LAST_ERROR_SQLSTATE
SET ROLE regress_tenant_app;

-- it says what is wanting, and can be repeated
GRANT SELECT ON regress_tenant.document TO regress_tenant_report;
SELECT * FROM grownext.tenant_isolate('regress_tenant.document');
SELECT * FROM grownext.tenant_isolate('regress_tenant.document', options => '{"index": true}');
REVOKE SELECT ON regress_tenant.document FROM regress_tenant_report;
SELECT * FROM grownext.tenant_isolate('regress_tenant.document');
SELECT polname, polpermissive, polcmd, pg_get_expr(polqual, polrelid) AS qual, pg_get_expr(polwithcheck, polrelid) AS with_check
  FROM pg_policy WHERE polrelid = 'regress_tenant.document'::regclass ORDER BY polname;
SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = 'regress_tenant.document'::regclass;

-- no tenant sees nothing and writes nothing, the owner too
SELECT count(*) FROM regress_tenant.document;
INSERT INTO regress_tenant.document VALUES (1, 'a0000000-0000-4000-8000-000000000001', 'x');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
GRANT regress_tenant_app TO regress_tenant_service;
SET ROLE regress_tenant_service;

-- a tenant sees and writes its own rows, for all commands; the default fills the column
BEGIN;
SELECT grownext.act_as('ann', :acme);
INSERT INTO regress_tenant.document (id, body) VALUES (1, 'acme 1'), (2, 'acme 2');
COMMIT;
BEGIN;
SELECT grownext.act_as('bob', :beta);
INSERT INTO regress_tenant.document (id, body) VALUES (3, 'beta 3');
SELECT id, body FROM regress_tenant.document;
UPDATE regress_tenant.document SET body = 'stolen';
DELETE FROM regress_tenant.document WHERE id = 1;
SAVEPOINT s;
INSERT INTO regress_tenant.document VALUES (4, :acme, 'smuggled');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
UPDATE regress_tenant.document SET tenant_id = :acme;
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
COMMIT;
BEGIN;
SELECT grownext.act_as('ann', :acme);
SELECT id, body FROM regress_tenant.document ORDER BY id;
-- the tenant column's index is used, the accessor stands unwrapped
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT * FROM regress_tenant.document;
COMMIT;

-- a permissive policy of the application cannot widen it
RESET ROLE;
SET ROLE regress_tenant_app;
CREATE POLICY everything ON regress_tenant.document USING (true);
SELECT * FROM grownext.tenant_isolate('regress_tenant.document');
SELECT polname, polpermissive FROM pg_policy WHERE polrelid = 'regress_tenant.document'::regclass ORDER BY polname;
SELECT count(*) FROM regress_tenant.document;

-- and it is taken back: the application's policies stay
SELECT grownext.tenant_unisolate('regress_tenant.document');
SELECT polname FROM pg_policy WHERE polrelid = 'regress_tenant.document'::regclass ORDER BY polname;
SELECT count(*) FROM regress_tenant.document;
DROP POLICY everything ON regress_tenant.document;
SELECT grownext.tenant_unisolate('regress_tenant.document');
SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = 'regress_tenant.document'::regclass;
SELECT count(*) FROM pg_attrdef WHERE adrelid = 'regress_tenant.document'::regclass;

-- partitions are covered, and one that came later is reported
CREATE TABLE regress_tenant.event (tenant_id uuid NOT NULL, at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE regress_tenant.event_2030 PARTITION OF regress_tenant.event FOR VALUES FROM ('2030-01-01') TO ('2031-01-01');
CREATE INDEX ON regress_tenant.event (tenant_id);
INSERT INTO regress_tenant.event VALUES ('a0000000-0000-4000-8000-000000000001', '2030-05-05');
SELECT * FROM grownext.tenant_isolate('regress_tenant.event');
SELECT count(*) FROM regress_tenant.event;
SELECT count(*) FROM regress_tenant.event_2030;
CREATE TABLE regress_tenant.event_2031 PARTITION OF regress_tenant.event FOR VALUES FROM ('2031-01-01') TO ('2032-01-01');
RESET ROLE;
SELECT item, state, detail, hint FROM _grownext.tenant_status();
SET ROLE regress_tenant_app;
SELECT * FROM grownext.tenant_isolate('regress_tenant.event');
RESET ROLE;
SELECT item, state, detail, hint FROM _grownext.tenant_status();

-- without force the owner is free, others are not
SELECT * FROM grownext.tenant_isolate('regress_tenant.document', options => '{"force": false, "set_default": false}');
SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = 'regress_tenant.document'::regclass;
SET ROLE regress_tenant_app;
SELECT count(*) FROM regress_tenant.document;
RESET ROLE;

-- a user who is the last owner cannot be deleted, another one can
DELETE FROM _grownext.account_user WHERE id = :ann;
\echo :LAST_ERROR_SQLSTATE
DELETE FROM _grownext.tenant_member WHERE tenant_id = :acme AND user_id = :bob;

DROP SCHEMA regress_tenant CASCADE;
DROP OWNED BY regress_tenant_service, regress_tenant_app, regress_tenant_report;
DROP ROLE regress_tenant_service, regress_tenant_app, regress_tenant_report;
