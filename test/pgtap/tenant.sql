-- The API of component tenant: its signatures, who may call what, and that nobody gets
-- at another tenant through any argument.
BEGIN;
SELECT * FROM no_plan();

CREATE ROLE gt_service LOGIN IN ROLE grownext_service;
CREATE ROLE gt_user LOGIN IN ROLE grownext_user;
CREATE ROLE gt_auditor LOGIN IN ROLE grownext_auditor;
CREATE ROLE gt_anon LOGIN IN ROLE grownext_anon;
CREATE ROLE gt_worker LOGIN IN ROLE grownext_worker;
CREATE ROLE gt_monitor LOGIN IN ROLE grownext_monitor;

-- Signatures are a promise -----------------------------------------------------

SELECT is(pg_get_function_identity_arguments(f.signature::regprocedure), f.arguments, f.signature)
  FROM (VALUES
    ('grownext.tenant_create', 'slug text, name text, owner_id uuid, attributes jsonb, id uuid, external_id text, parent_id uuid, bundle text, time_zone text, region text'),
    ('grownext.tenant_update', 'tenant_id uuid, changes jsonb'),
    ('grownext.tenant_suspend', 'tenant_id uuid, reason text'),
    ('grownext.tenant_resume', 'tenant_id uuid'),
    ('grownext.tenant_delete', 'tenant_id uuid, grace interval'),
    ('grownext.tenant_restore', 'tenant_id uuid'),
    ('grownext.slug_resolve', 'slug text'),
    ('grownext.role_define', 'role text, permissions text[], tenant_id uuid'),
    ('grownext.role_drop', 'role text, tenant_id uuid'),
    ('grownext.member_add', 'tenant_id uuid, user_id uuid, role text'),
    ('grownext.member_set_role', 'tenant_id uuid, user_id uuid, role text'),
    ('grownext.member_remove', 'tenant_id uuid, user_id uuid'),
    ('grownext.ownership_offer', 'tenant_id uuid, user_id uuid'),
    ('grownext.ownership_accept', 'offer uuid'),
    ('grownext.ownership_withdraw', 'offer uuid'),
    ('grownext.invitation_create', 'tenant_id uuid, email text, role text, ttl interval'),
    ('grownext.invitation_accept', 'token text, user_id uuid'),
    ('grownext.invitation_resend', 'id uuid'),
    ('grownext.invitation_revoke', 'id uuid'),
    ('grownext.invitation_message', 'id uuid'),
    ('grownext.domain_claim', 'tenant_id uuid, domain text'),
    ('grownext.domain_verify', 'tenant_id uuid, domain text'),
    ('grownext.domain_update', 'tenant_id uuid, domain text, changes jsonb'),
    ('grownext.domain_release', 'tenant_id uuid, domain text'),
    ('grownext.domain_match', 'user_id uuid'),
    ('grownext.domain_join', 'tenant_id uuid, user_id uuid'),
    ('grownext.tenant_isolate', 'relation regclass, tenant_column name, options jsonb'),
    ('grownext.tenant_unisolate', 'relation regclass'),
    ('grownext.has_permission', 'permission text')) AS d (name, arguments)
 CROSS JOIN LATERAL (SELECT d.arguments, (SELECT p.oid::regprocedure::text FROM pg_proc AS p WHERE p.oid = d.name::regproc) AS signature) AS f;

-- Who may call what -------------------------------------------------------------

SELECT is(
    ARRAY(SELECT r::text FROM unnest('{gt_service,gt_user,gt_auditor,gt_anon,gt_worker,gt_monitor}'::text[]) AS r
           WHERE has_function_privilege(r, g.name::regproc, 'EXECUTE')),
    g.roles, g.name || ' is for ' || g.roles::text)
  FROM (VALUES
    ('grownext.tenant_create', '{gt_service}'::text[]),
    ('grownext.slug_resolve', '{gt_service}'),
    ('grownext.tenant_suspend', '{gt_service}'),
    ('grownext.tenant_resume', '{gt_service}'),
    ('grownext.tenant_restore', '{gt_service}'),
    ('grownext.member_add', '{gt_service}'),
    ('grownext.invitation_message', '{gt_service}'),
    ('grownext.domain_verify', '{gt_service}'),
    ('grownext.domain_match', '{gt_service}'),
    ('grownext.domain_join', '{gt_service}'),
    ('grownext.tenant_update', '{gt_service,gt_user}'),
    ('grownext.tenant_delete', '{gt_service,gt_user}'),
    ('grownext.role_define', '{gt_service,gt_user}'),
    ('grownext.role_drop', '{gt_service,gt_user}'),
    ('grownext.member_set_role', '{gt_service,gt_user}'),
    ('grownext.member_remove', '{gt_service,gt_user}'),
    ('grownext.ownership_offer', '{gt_service,gt_user}'),
    ('grownext.ownership_accept', '{gt_service,gt_user}'),
    ('grownext.ownership_withdraw', '{gt_service,gt_user}'),
    ('grownext.invitation_create', '{gt_service,gt_user}'),
    ('grownext.invitation_accept', '{gt_service,gt_user}'),
    ('grownext.invitation_resend', '{gt_service,gt_user}'),
    ('grownext.invitation_revoke', '{gt_service,gt_user}'),
    ('grownext.domain_claim', '{gt_service,gt_user}'),
    ('grownext.domain_update', '{gt_service,gt_user}'),
    ('grownext.domain_release', '{gt_service,gt_user}'),
    ('grownext.tenant_isolate', '{gt_service,gt_user}'),
    ('grownext.tenant_unisolate', '{gt_service,gt_user}'),
    ('grownext.has_permission', '{gt_service,gt_user,gt_anon,gt_worker}')) AS g (name, roles);
SELECT is(
    ARRAY(SELECT r::text FROM unnest('{gt_service,gt_user,gt_auditor,gt_anon,gt_worker,gt_monitor}'::text[]) AS r
           WHERE has_table_privilege(r, v.name, 'SELECT')),
    '{gt_service,gt_user,gt_auditor}'::text[], v.name || ' is for services, users and auditors')
  FROM unnest('{grownext.tenant,grownext.member,grownext.role,grownext.ownership_offer,grownext.invitation,grownext.domain}'::text[]) AS v (name);

-- Two tenants -------------------------------------------------------------------

CREATE TEMP TABLE world AS
SELECT 'a1000000-0000-4000-8000-000000000001'::uuid AS acme, 'a1000000-0000-4000-8000-000000000002'::uuid AS beta,
       'b1000000-0000-4000-8000-000000000001'::uuid AS ann, 'b1000000-0000-4000-8000-000000000002'::uuid AS bob;
GRANT SELECT ON world TO PUBLIC;
SELECT lives_ok($$ SELECT grownext.user_create('ann@tap.example', id => ann), grownext.user_create('bob@tap.example', id => bob) FROM world $$, 'users');
SELECT lives_ok($$ SELECT grownext.tenant_create('tap-acme', 'Acme', ann, id => acme), grownext.tenant_create('tap-beta', 'Beta', bob, id => beta) FROM world $$, 'tenants');
SELECT lives_ok($$ SELECT grownext.role_define('helper', '{docs.read}', beta) FROM world $$, 'a role of the other tenant');

SET LOCAL SESSION AUTHORIZATION gt_service;
SELECT is((SELECT count(*) FROM grownext.tenant WHERE slug LIKE 'tap-%'), 2::bigint, 'a service sees every tenant');
SELECT is((SELECT count(*) FROM grownext.member AS m JOIN world AS w ON m.tenant_id IN (w.acme, w.beta)), 2::bigint, 'and their members');
SELECT grownext.act_as(ann::text, acme) FROM world;
SET LOCAL ROLE gt_service;

-- the same transaction, now as an end user of tenant acme
RESET SESSION AUTHORIZATION;
SET LOCAL SESSION AUTHORIZATION gt_user;
SELECT is((SELECT array_agg(slug) FROM grownext.tenant), '{tap-acme}', 'an end user sees the own tenant only');
SELECT is((SELECT array_agg(m.user_id) FROM grownext.member AS m), (SELECT ARRAY[ann] FROM world), 'and its members only');
SELECT is((SELECT count(*) FROM grownext.role WHERE role = 'helper'), 0::bigint, 'and no role of another tenant');
SELECT is((SELECT array_agg(role ORDER BY role) FROM grownext.role), '{admin,member,owner}', 'but the built-in ones');
SELECT is(grownext.has_permission('any.thing'), true, 'the owner has every permission');
SELECT throws_ok($$ SELECT grownext.tenant_update(beta, '{"name": "Mine"}') FROM world $$, '42501', NULL, 'no end user changes a tenant');
SELECT throws_ok($$ SELECT grownext.tenant_suspend(acme, 'x') FROM world $$, '42501', NULL, 'nor suspends one, not even the own');
SELECT throws_ok($$ SELECT grownext.member_add(acme, bob, 'owner') FROM world $$, '42501', NULL, 'nor adds members');
SELECT throws_ok($$ SELECT _grownext.tenant_role_of(acme, ann) FROM world $$, '42501', NULL, 'internals are out of reach');
RESET SESSION AUTHORIZATION;

SET LOCAL SESSION AUTHORIZATION gt_auditor;
SELECT is((SELECT count(*) FROM grownext.tenant WHERE slug LIKE 'tap-%'), 2::bigint, 'an auditor sees every tenant');
RESET SESSION AUTHORIZATION;
SET LOCAL SESSION AUTHORIZATION gt_monitor;
SELECT throws_ok('SELECT * FROM grownext.tenant', '42501', NULL, 'a monitor sees none');
RESET SESSION AUTHORIZATION;

-- A tenant's rows cannot be reached through a leaky function of the caller --------

CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE 'saw %', $1; RETURN true; END $$;
CREATE TEMP TABLE seen (slug text);
GRANT INSERT ON seen TO gt_user;
CREATE FUNCTION pg_temp.note(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN INSERT INTO seen VALUES ($1); RETURN true; END $$;
SET LOCAL SESSION AUTHORIZATION gt_user;
SELECT is((SELECT count(*) FROM grownext.tenant WHERE pg_temp.note(slug)), 1::bigint, 'a cheap function in WHERE');
RESET SESSION AUTHORIZATION;
SELECT is((SELECT array_agg(slug) FROM seen), '{tap-acme}', 'is not called for rows of other tenants');

-- What cannot be isolated ----------------------------------------------------------

CREATE TABLE gt_plain (id int, tenant_id uuid);
CREATE INDEX ON gt_plain (tenant_id);
SET LOCAL SESSION AUTHORIZATION gt_user;
SELECT throws_ok($$ SELECT grownext.tenant_isolate('gt_plain') $$, '42501', NULL, 'a table of somebody else is refused');
SELECT throws_ok($$ SELECT grownext.tenant_unisolate('gt_plain') $$, '42501', NULL, 'taking it back too');
RESET SESSION AUTHORIZATION;
SELECT throws_ok($$ SELECT grownext.tenant_isolate('gt_plain_tenant_id_idx') $$, '42809', NULL, 'an index is refused');
SELECT throws_ok($$ SELECT grownext.tenant_isolate('pg_class', 'relname') $$, '42501', NULL, 'a catalogue is refused, for a superuser too');
SELECT throws_ok($$ SELECT grownext.tenant_isolate('information_schema.sql_parts', 'feature_id') $$, '42501', NULL, 'so is the information schema');
SELECT throws_ok($$ SELECT grownext.tenant_isolate('_grownext.tenant_member') $$, '42501', NULL, 'so are tables of an extension');
SELECT throws_ok($$ SELECT grownext.tenant_isolate(999999999) $$, '42809', NULL, 'so is what does not exist');
SELECT lives_ok($$ SELECT grownext.tenant_isolate('gt_plain') $$, 'a table of one''s own is accepted');
SELECT lives_ok($$ SELECT grownext.tenant_isolate('gt_plain') $$, 'twice too');
SELECT policies_are('public', 'gt_plain', '{grownext_tenant,grownext_tenant_permit}'::name[]);
SELECT is((SELECT polcmd::text || '/' || array_to_string(polroles, ',') FROM pg_policy WHERE polrelid = 'gt_plain'::regclass AND polname = 'grownext_tenant'), '*/0', 'for all commands and everybody');

-- a column default of the application's own is left alone
CREATE TABLE gt_default (id int, tenant_id uuid DEFAULT '00000000-0000-0000-0000-000000000000');
SELECT lives_ok($$ SELECT grownext.tenant_isolate('gt_default') $$, 'a table with a default');
SELECT is((SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'gt_default'::regclass),
          '''00000000-0000-0000-0000-000000000000''::uuid', 'keeps it');
SELECT lives_ok($$ SELECT grownext.tenant_unisolate('gt_default') $$, 'taken back');
SELECT is((SELECT count(*) FROM pg_attrdef WHERE adrelid = 'gt_default'::regclass), 1::bigint, 'and keeps it still');

-- names that need quotes
CREATE SCHEMA "gt Odd";
CREATE TABLE "gt Odd"."Ta""ble" (id int, "te nant" uuid NOT NULL);
SELECT is((SELECT array_agg(remedy) FROM grownext.tenant_isolate('"gt Odd"."Ta""ble"', 'te nant')),
          '{"CREATE INDEX CONCURRENTLY ON \"gt Odd\".\"Ta\"\"ble\" (\"te nant\");"}', 'odd names are quoted');
SELECT lives_ok($$ SELECT grownext.tenant_isolate('"gt Odd"."Ta""ble"', 'te nant', '{"index": true}') $$, 'and work');

-- a caller's search_path, operators and functions of the same names change nothing
CREATE SCHEMA gt_evil;
CREATE FUNCTION gt_evil.current_tenant() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid';
CREATE FUNCTION gt_evil.pg_has_role(name, oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
SET LOCAL search_path = gt_evil, pg_catalog, public;
SELECT public.lives_ok($$ SELECT grownext.tenant_isolate('public.gt_plain') $$, 'under a hostile search_path');
SET LOCAL search_path = public;
SELECT is((SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polrelid = 'gt_plain'::regclass AND polname = 'grownext_tenant'),
          '(tenant_id = grownext.current_tenant())', 'the policy asks grownext');

SELECT * FROM finish();
ROLLBACK;
