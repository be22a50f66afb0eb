-- The audit log: append-only, outside the extension, and knowing who did it.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE DATABASE regress_audit TEMPLATE template0 ENCODING 'UTF8';
\c regress_audit
CREATE EXTENSION grownext;
CREATE ROLE regress_audit_admin IN ROLE grownext_admin;
CREATE ROLE regress_audit_service IN ROLE grownext_service;
CREATE ROLE regress_audit_auditor IN ROLE grownext_auditor;
CREATE ROLE regress_audit_app IN ROLE grownext_user;
CREATE ROLE regress_audit_anon IN ROLE grownext_anon;
CREATE ROLE regress_audit_stranger;
RESET client_min_messages;
\set acme '''11111111-1111-4111-8111-111111111111'''
\set other '''22222222-2222-4222-8222-222222222222'''

-- before its first use there is no log, and nobody needs to know
SELECT to_regnamespace('grownext_audit') IS NULL AS absent;
SELECT count(*) FROM grownext.audit_event;
SELECT count(*) FROM grownext.audit_search();
SELECT item, state, detail FROM _grownext.audit_status();

-- a first use that is rolled back leaves nothing
BEGIN;
SELECT _grownext.audit_write('thing.made', 'thing:1', NULL, NULL, '{"n": 1}') IS NOT NULL AS written;
SELECT count(*) FROM grownext.audit_event;
ROLLBACK;
SELECT to_regnamespace('grownext_audit') IS NULL AS absent;

-- the log makes itself, for a caller who is no superuser, and belongs to the owner
SET SESSION AUTHORIZATION regress_audit_service;
SELECT grownext.audit_append('project.created', 'project:1', '{"name": "One"}', :acme) AS id;
RESET SESSION AUTHORIZATION;
SELECT n.nspowner::regrole AS schema_owner, c.relowner::regrole AS table_owner, s.relowner::regrole AS sequence_owner
  FROM pg_namespace AS n, pg_class AS c, pg_class AS s
 WHERE n.nspname = 'grownext_audit' AND c.oid = 'grownext_audit.event'::regclass AND s.oid = 'grownext_audit.event_id_seq'::regclass;
SELECT count(*) AS members FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'grownext'
 WHERE d.deptype = 'e' AND d.objid IN ('grownext_audit'::regnamespace, 'grownext_audit.event'::regclass, 'grownext_audit.event_id_seq'::regclass);
SELECT has_schema_privilege('public', 'grownext_audit', 'USAGE') AS public_usage,
       has_table_privilege('grownext_auditor', 'grownext_audit.event', 'SELECT') AS auditor_select;
SELECT item, state, detail FROM _grownext.audit_status();

-- who did it: the role of the session without a caller, else the caller; an impersonation names both
SET SESSION AUTHORIZATION regress_audit_service;
SELECT grownext.audit_append('platform.checked') AS id;
BEGIN;
SELECT grownext.act_as('ada', :acme);
SELECT grownext.audit_append('project.renamed', 'project:1', category => 'data') AS id;
COMMIT;
BEGIN;
SELECT grownext.act_as('ada', :acme, '{"request_id": "req-7"}', reason => 'ticket 7');
SELECT grownext.audit_append('project.deleted', 'project:1') AS id;
SELECT grownext.audit_append('project.deleted', 'project:2', actor => 'importer', occurred_at => '2020-02-29 12:00+00') AS id;
COMMIT;
SELECT id, tenant_id, actor, on_behalf_of, session_role, action, target, category, context, request_id, actor_source
  FROM grownext.audit_event ORDER BY id;
-- the server's own time stands beside the caller's; NULL context is {}
SELECT id, occurred_at < recorded_at AS backdated, change, txid IS NOT NULL AS txid FROM grownext.audit_event WHERE occurred_at <> recorded_at;
SELECT grownext.audit_append('project.created', NULL, NULL, :other) AS id;
SELECT context FROM grownext.audit_event WHERE tenant_id = :other;
RESET SESSION AUTHORIZATION;

-- an end user writes to the own tenant's log, in the own name
SET SESSION AUTHORIZATION regress_audit_app;
SELECT grownext.audit_append('project.created');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.audit_append('project.created', tenant_id => :acme);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.audit_append('project.created', actor => 'somebody else');
\echo :LAST_ERROR_SQLSTATE
RESET SESSION AUTHORIZATION;
BEGIN;
SELECT grownext.act_as('bob', :acme);
SET LOCAL ROLE regress_audit_app;
SELECT grownext.audit_append('report.viewed', 'report:9') AS id;
SELECT actor, tenant_id, action FROM grownext.audit_event WHERE action = 'report.viewed';
-- and sees that log alone
SELECT count(*), count(DISTINCT tenant_id) AS tenants FROM grownext.audit_event;
SELECT count(*), count(DISTINCT tenant_id) AS tenants FROM grownext.audit_search();
SELECT count(*) FROM grownext.audit_search(tenant_id => :acme);
SAVEPOINT s;
SELECT count(*) FROM grownext.audit_search(tenant_id => :other);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT grownext.audit_append('project.created', actor => 'somebody else');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT grownext.audit_append('project.created', tenant_id => :other);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
-- a function that tells what it sees gets nothing of other tenants before the barrier
CREATE FUNCTION pg_temp.peek(uuid) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN IF $1 <> '11111111-1111-4111-8111-111111111111' THEN RAISE NOTICE 'leaked %', $1; END IF; RETURN true; END $$;
SELECT count(*) FROM grownext.audit_event WHERE pg_temp.peek(tenant_id);
COMMIT;
SET SESSION AUTHORIZATION regress_audit_app;
SELECT count(*) FROM grownext.audit_event;
SELECT count(*) FROM grownext.audit_search();
\echo :LAST_ERROR_SQLSTATE

-- auditor, admin and service see everything, the global log too
SET SESSION AUTHORIZATION regress_audit_auditor;
SELECT count(*), count(*) FILTER (WHERE tenant_id IS NULL) AS global, count(DISTINCT tenant_id) AS tenants FROM grownext.audit_event;
SELECT count(*) FROM grownext.audit_search(tenant_id => :other);
SET SESSION AUTHORIZATION regress_audit_admin;
SELECT count(*) FROM grownext.audit_event;
-- others see nothing, nor the table
SET SESSION AUTHORIZATION regress_audit_anon;
SELECT * FROM grownext.audit_event;
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.audit_append('a.b');
\echo :LAST_ERROR_SQLSTATE
SET SESSION AUTHORIZATION regress_audit_stranger;
SELECT * FROM grownext.audit_event;
\echo :LAST_ERROR_SQLSTATE
SET SESSION AUTHORIZATION regress_audit_auditor;
SELECT * FROM grownext_audit.event;
\echo :LAST_ERROR_SQLSTATE
INSERT INTO grownext.audit_event (action) VALUES ('forged');
\echo :LAST_ERROR_SQLSTATE
RESET SESSION AUTHORIZATION;

-- search: newest first, page by page, filtered
SET SESSION AUTHORIZATION regress_audit_auditor;
SELECT id, action FROM grownext.audit_search(count => 2);
SELECT id, action FROM grownext.audit_search(count => 2, after => '8');
SELECT id, action, target FROM grownext.audit_search('{"action": "project.deleted", "on_behalf_of": "ada"}');
SELECT id, action FROM grownext.audit_search('{"category": "data"}', tenant_id => :acme);
SELECT id, occurred_at AT TIME ZONE 'UTC' AS occurred_at FROM grownext.audit_search(since => '2020-01-01', until => '2021-01-01');
SELECT id FROM grownext.audit_search('{"colour": "red"}');
\echo :LAST_ERROR_SQLSTATE
SELECT id FROM grownext.audit_search(count => 0);
\echo :LAST_ERROR_SQLSTATE
SELECT id FROM grownext.audit_search(count => 1001);
SELECT id FROM grownext.audit_search(after => 'x; DROP TABLE event');
\echo :LAST_ERROR_SQLSTATE
RESET SESSION AUTHORIZATION;

-- bad input
SET SESSION AUTHORIZATION regress_audit_service;
SELECT grownext.audit_append(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.audit_append('');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.audit_append('Project Created');
SELECT grownext.audit_append('.a');
SELECT grownext.audit_append('a..b');
SELECT grownext.audit_append('a.');
SELECT grownext.audit_append(repeat('ä', 200));
SELECT grownext.audit_append(repeat('a', 128)) IS NOT NULL AS longest;
SELECT grownext.audit_append(repeat('a', 129));
SELECT grownext.audit_append('a', '');
SELECT grownext.audit_append('a', repeat('x', 1025));
SELECT grownext.audit_append('a', E'line\nbreak');
SELECT grownext.audit_append('a', context => '[]');
SELECT grownext.audit_append('a', context => '1');
SELECT grownext.audit_append('a', context => jsonb_build_object('x', repeat('x', 65536)));
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.audit_append('a', occurred_at => now() + interval '10 minutes');
SELECT grownext.audit_append('a', occurred_at => 'infinity');
SELECT grownext.audit_append('a', occurred_at => '-infinity');
SELECT grownext.audit_append('a', actor => '');
-- what is not there yet says so
SELECT grownext.audit_append('a', personal => '{"email": "x"}');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.audit_append('a', sealed => true);
\echo :LAST_ERROR_SQLSTATE

-- an idempotency key stands for one event of one log
SELECT grownext.audit_append('invoice.paid', 'invoice:1', tenant_id => :acme, idempotency_key => 'k1') AS first \gset
SELECT grownext.audit_append('invoice.paid', 'invoice:1', tenant_id => :acme, idempotency_key => 'k1') = :first AS same;
SELECT grownext.audit_append('invoice.paid', 'invoice:2', tenant_id => :acme, idempotency_key => 'k1');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.audit_append('invoice.paid', 'invoice:1', tenant_id => :other, idempotency_key => 'k1') <> :first AS of_another_tenant;
SELECT grownext.audit_append('invoice.paid', idempotency_key => 'k1') <> :first AS of_the_global_log;
SELECT count(*) FROM grownext.audit_event WHERE action = 'invoice.paid';
-- rolled back, it is free again
BEGIN;
SELECT grownext.audit_append('invoice.paid', 'invoice:3', tenant_id => :acme, idempotency_key => 'k3') IS NOT NULL AS written;
ROLLBACK;
SELECT grownext.audit_append('invoice.paid', 'invoice:4', tenant_id => :acme, idempotency_key => 'k3') IS NOT NULL AS written;
RESET SESSION AUTHORIZATION;
-- and forgotten after a week
SELECT _grownext.audit_tick(now() + interval '6 days') > now() AS next;
SELECT count(*) FROM _grownext.audit_idempotency;
SELECT _grownext.audit_tick(now() + interval '8 days') > now() AS next;
SELECT count(*) FROM _grownext.audit_idempotency;

-- many at once: all or nothing, ids in order
SET SESSION AUTHORIZATION regress_audit_service;
SELECT ids[2] > ids[1] AS ordered, cardinality(ids)
  FROM grownext.audit_append_many('[{"action": "bulk.one", "target": "t:1", "context": {"n": [1, {"deep": true}]}},
       {"action": "bulk.two", "tenant_id": "11111111-1111-4111-8111-111111111111", "actor": "importer", "category": null, "occurred_at": "2021-01-01T00:00:00Z"}]') AS ids;
SELECT action, tenant_id, actor, context, CASE action WHEN 'bulk.two' THEN occurred_at AT TIME ZONE 'UTC' END AS occurred_at
  FROM grownext.audit_event WHERE action LIKE 'bulk.%' ORDER BY id;
SELECT grownext.audit_append_many('[]');
SELECT grownext.audit_append_many(NULL);
SELECT grownext.audit_append_many('[{"action": "bulk.three"}, {"target": "no action"}]');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.audit_append_many('[{"action": "bulk.three"}, 7]');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.audit_append_many('{"action": "bulk.three"}');
SELECT grownext.audit_append_many('"bulk.three"');
SELECT grownext.audit_append_many('[{"action": "bulk.three", "colour": "red"}]');
SELECT grownext.audit_append_many('[{"action": "bulk.three", "tenant_id": "acme"}]');
SELECT grownext.audit_append_many('[{"action": "bulk.three", "target": 7}]');
SELECT grownext.audit_append_many('[{"action": "bulk.three", "occurred_at": "yesterday or so"}]');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.audit_append_many(jsonb_agg('{"action": "bulk.three"}'::jsonb)) FROM generate_series(1, 10001);
SELECT count(*) FROM grownext.audit_event WHERE action = 'bulk.three';
RESET SESSION AUTHORIZATION;

-- images of a change, as other components write them
SELECT _grownext.audit_write('thing.changed', 'thing:1', :acme, '{"n": 1}', '{"n": 2}') IS NOT NULL AS written;
SELECT _grownext.audit_write('thing.changed', 'thing:2', :acme, 'null', '[1, "x"]') IS NOT NULL AS written;
SELECT _grownext.audit_write('thing.changed', 'thing:3', NULL, NULL, '"text"') IS NOT NULL AS written;
SELECT target, category, change FROM grownext.audit_event WHERE action = 'thing.changed' ORDER BY id;
SELECT _grownext.audit_write(NULL, 'x', NULL, NULL, NULL);
\echo :LAST_ERROR_SQLSTATE

-- nobody changes the log: not its owner, not a superuser, not as a replica
\set VERBOSITY terse
SET ROLE grownext_owner;
UPDATE grownext_audit.event SET actor = 'nobody';
\echo :LAST_ERROR_SQLSTATE
DELETE FROM grownext_audit.event;
\echo :LAST_ERROR_SQLSTATE
TRUNCATE grownext_audit.event;
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
SET session_replication_role = replica;
UPDATE grownext_audit.event SET actor = 'nobody';
DELETE FROM grownext_audit.event;
WITH gone AS (DELETE FROM grownext_audit.event RETURNING 1) SELECT count(*) FROM gone;
MERGE INTO grownext_audit.event AS e USING (SELECT 1) AS s ON true WHEN MATCHED THEN DELETE;
INSERT INTO grownext_audit.event SELECT * FROM grownext_audit.event LIMIT 1 ON CONFLICT (id) DO UPDATE SET actor = 'nobody';
TRUNCATE grownext_audit.event CASCADE;
RESET session_replication_role;
\echo :LAST_ERROR_SQLSTATE
-- nor what protects it
ALTER TABLE grownext_audit.event DISABLE TRIGGER event_append_only;
ALTER TABLE grownext_audit.event DISABLE TRIGGER ALL;
ALTER TABLE grownext_audit.event ENABLE REPLICA TRIGGER event_append_only;
DROP TRIGGER event_append_only ON grownext_audit.event;
ALTER TRIGGER event_append_only ON grownext_audit.event RENAME TO gone;
ALTER TABLE grownext_audit.event DROP COLUMN actor;
ALTER TABLE grownext_audit.event ALTER COLUMN actor TYPE varchar(3) USING 'x';
ALTER TABLE grownext_audit.event RENAME TO gone;
ALTER TABLE grownext_audit.event SET SCHEMA public;
ALTER TABLE grownext_audit.event SET UNLOGGED;
ALTER TABLE grownext_audit.event OWNER TO regress_audit_stranger;
ALTER SCHEMA grownext_audit RENAME TO gone;
CREATE RULE swallow AS ON INSERT TO grownext_audit.event DO INSTEAD NOTHING;
CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER swallow BEFORE INSERT ON grownext_audit.event FOR EACH ROW EXECUTE FUNCTION swallow();
DROP TABLE grownext_audit.event;
DROP SCHEMA grownext_audit CASCADE;
DROP SEQUENCE grownext_audit.event_id_seq CASCADE;
\echo :LAST_ERROR_SQLSTATE
-- even with the triggers disabled in the catalogue
BEGIN;
UPDATE pg_trigger SET tgenabled = 'D' WHERE tgrelid = 'grownext_audit.event'::regclass;
DELETE FROM grownext_audit.event;
ROLLBACK;
\set VERBOSITY default
-- what maintenance needs goes
VACUUM grownext_audit.event;
VACUUM FULL grownext_audit.event;
REINDEX TABLE grownext_audit.event;
CLUSTER grownext_audit.event USING event_pkey;
ANALYZE grownext_audit.event;
ALTER TABLE grownext_audit.event SET (autovacuum_vacuum_scale_factor = 0.1);
CREATE INDEX event_action_idx ON grownext_audit.event (action);
DROP INDEX grownext_audit.event_action_idx;
SELECT count(*) AS events FROM grownext_audit.event \gset

-- it outlives the extension, which does not go unasked
SET client_min_messages = warning;
DROP EXTENSION grownext;
\echo :LAST_ERROR_SQLSTATE
DROP EXTENSION grownext CASCADE;
SELECT count(*) = :events AS all_there FROM grownext_audit.event;
-- protected still: without its triggers, by the hooks
DELETE FROM grownext_audit.event;
\echo :LAST_ERROR_SQLSTATE
CREATE EXTENSION grownext;
SELECT item, state, detail FROM _grownext.audit_status();
SELECT count(*) = :events AS all_there FROM grownext.audit_event;
SELECT grownext.audit_append('platform.adopted') > :events AS goes_on;
SELECT item, state, detail FROM _grownext.audit_status();
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'grownext_audit.event'::regclass ORDER BY 1;

-- a log that a superuser restored without owners becomes the owner's; one of anybody else is refused
CREATE DATABASE regress_audit_other TEMPLATE template0 ENCODING 'UTF8';
\c regress_audit_other
SET client_min_messages = warning;
GRANT CREATE ON DATABASE regress_audit_other TO regress_audit_stranger;
CREATE EXTENSION grownext;
SET ROLE regress_audit_stranger;
CREATE SCHEMA grownext_audit;
CREATE TABLE grownext_audit.event (id int);
RESET ROLE;
SELECT _grownext.audit_write('a', NULL, NULL, NULL, NULL);
\echo :LAST_ERROR_SQLSTATE
DROP SCHEMA grownext_audit CASCADE;
CREATE SCHEMA grownext_audit;
CREATE SEQUENCE grownext_audit.event_id_seq;
SELECT _grownext.audit_write('a', NULL, NULL, NULL, NULL);
SELECT n.nspowner::regrole, c.relname, c.relowner::regrole FROM pg_namespace AS n JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'S')
 WHERE n.nspname = 'grownext_audit' ORDER BY 2;
\c postgres
DROP DATABASE regress_audit_other;
DROP DATABASE regress_audit;
DROP ROLE regress_audit_admin, regress_audit_service, regress_audit_auditor, regress_audit_app, regress_audit_anon, regress_audit_stranger;
