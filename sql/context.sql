-- The caller's context, as a trusted gateway binds it.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS grownext;
RESET client_min_messages;
\set tenant '''11111111-1111-4111-8111-111111111111'''
\set claims '''{"sub": "22222222-2222-4222-8222-222222222222", "tenant_id": "11111111-1111-4111-8111-111111111111", "scope": "read write", "app": {"plan": "pro", "n": 7}}'''

-- without a caller every accessor is NULL
SELECT grownext.claims(), grownext.claim('sub'), grownext.current_subject(), grownext.current_user_id(),
       grownext.current_tenant(), grownext.current_session(), grownext.current_actor(), grownext.has_scope('read');
SELECT grownext.scope_require('read');
\echo :LAST_ERROR_SQLSTATE

-- claims that a session set itself count for nothing
BEGIN;
SELECT set_config('request.jwt.claims', :claims, true) IS NOT NULL AS set;
SELECT grownext.current_subject();
DO $$ BEGIN PERFORM grownext.pre_request(); EXCEPTION WHEN SQLSTATE 'NX003' THEN RAISE NOTICE 'refused: not a trusted gateway'; END $$;
ROLLBACK;

-- nobody can set the context itself
SET grownext.context = '00';
\echo :LAST_ERROR_SQLSTATE
SELECT set_config('grownext.context', '', false);
ALTER ROLE CURRENT_USER SET grownext.context = '00';
SHOW grownext.context;

-- trusted: pre_request checks and binds, and not before
SELECT grownext.gateway_trust(session_user);
BEGIN;
SELECT set_config('request.jwt.claims', :claims, true) IS NOT NULL AS set;
SELECT grownext.current_subject() AS before;
SELECT grownext.pre_request();
SELECT grownext.current_subject(), grownext.current_user_id(), grownext.current_actor();
SELECT grownext.current_tenant(), grownext.current_session();
SELECT grownext.has_scope('read') AS read, grownext.has_scope('rea') AS rea, grownext.has_scope('read write') AS both, grownext.has_scope('') AS empty;
SELECT grownext.claim('app.plan') AS plan, grownext.claim('app.n') AS n, grownext.claim('app') AS app, grownext.claim('app.plan.x') AS x, grownext.claim('nothing') AS nothing;
SELECT grownext.scope_require('write');
DO $$ BEGIN PERFORM grownext.scope_require('admin'); EXCEPTION WHEN SQLSTATE 'NX014' THEN RAISE NOTICE 'refused: %', SQLERRM; END $$;

-- one transaction, one request
SAVEPOINT s;
SELECT set_config('request.jwt.claims', '{"sub": "other"}', true) IS NOT NULL AS set;
SELECT grownext.current_subject();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT grownext.current_subject();

-- parallel workers know the caller; a worker that did not would count nothing
CREATE TABLE context_rows AS SELECT i, :tenant::uuid AS tenant_id FROM generate_series(1, 20000) AS i;
SET LOCAL parallel_setup_cost = 0;
SET LOCAL parallel_tuple_cost = 0;
SET LOCAL min_parallel_table_scan_size = 0;
ALTER TABLE context_rows SET (parallel_workers = 2);
EXPLAIN (COSTS OFF) SELECT count(*) FROM context_rows WHERE tenant_id = grownext.current_tenant() AND grownext.claim('app.plan') || i::text <> '';
SELECT count(*) FROM context_rows WHERE tenant_id = grownext.current_tenant() AND grownext.claim('app.plan') || i::text <> '';
COMMIT;

-- it ended with the transaction
SELECT grownext.current_subject(), grownext.current_tenant();

-- a savepoint that is rolled back takes its binding with it; one that is released keeps it
BEGIN;
SELECT set_config('request.jwt.claims', :claims, true) IS NOT NULL AS set;
SAVEPOINT s;
SELECT grownext.pre_request();
SELECT grownext.current_tenant() = :tenant AS bound;
ROLLBACK TO s;
SELECT grownext.current_tenant() IS NULL AS unbound;
SAVEPOINT s2;
SELECT grownext.pre_request();
RELEASE s2;
SELECT grownext.current_tenant() = :tenant AS bound;
COMMIT;

-- a malformed tenant is refused when it is bound, not row by row
BEGIN;
SELECT set_config('request.jwt.claims', '{"sub": "a", "tenant_id": "acme"}', true);
SELECT grownext.pre_request();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN;
SELECT set_config('request.jwt.claims', '[1]', true);
SELECT grownext.pre_request();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN;
SELECT set_config('request.jwt.claims', '{"sub": ', true);
SELECT grownext.pre_request();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- the tenant of a foreign token may stand elsewhere
BEGIN;
SET LOCAL grownext.tenant_claim = 'app_metadata.tenant_id';
SELECT set_config('request.jwt.claims', '{"sub": "a", "app_metadata": {"tenant_id": "11111111-1111-4111-8111-111111111111"}}', true) IS NOT NULL AS set;
SELECT grownext.pre_request();
SELECT grownext.current_tenant(), grownext.current_user_id();
ROLLBACK;

-- an impersonation names the one who is answerable
BEGIN;
SELECT set_config('request.jwt.claims', '{"sub": "victim", "act": {"sub": "support"}}', true) IS NOT NULL AS set;
SELECT grownext.pre_request();
SELECT grownext.current_subject(), grownext.current_actor();
ROLLBACK;

-- with require_pre_request off the claims count at once, until the trust is taken back
INSERT INTO _grownext.core_option VALUES ('require_pre_request', 'false');
BEGIN;
SELECT set_config('request.jwt.claims', :claims, true) IS NOT NULL AS set;
SELECT grownext.current_tenant() = :tenant AS bound;
COMMIT;
DELETE FROM _grownext.core_option WHERE name = 'require_pre_request';
BEGIN;
SELECT set_config('request.jwt.claims', :claims, true) IS NOT NULL AS set;
SELECT grownext.current_tenant();
ROLLBACK;
SELECT grownext.gateway_distrust(session_user);
BEGIN;
SELECT set_config('request.jwt.claims', :claims, true) IS NOT NULL AS set;
DO $$ BEGIN PERFORM grownext.pre_request(); EXCEPTION WHEN SQLSTATE 'NX003' THEN RAISE NOTICE 'refused: not a trusted gateway'; END $$;
ROLLBACK;

-- which tenant a call concerns
CREATE ROLE regress_caller;
CREATE ROLE regress_service IN ROLE grownext_service;
GRANT USAGE ON SCHEMA _grownext TO regress_caller, regress_service;
GRANT EXECUTE ON FUNCTION _grownext.core_caller_tenant(uuid), _grownext.core_caller_has(text) TO regress_caller, regress_service;
SET ROLE regress_caller;
SELECT _grownext.core_caller_tenant(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT _grownext.core_caller_tenant(:tenant);
\echo :LAST_ERROR_SQLSTATE
SELECT _grownext.core_caller_has('service'), _grownext.core_caller_has('no such thing');
SET ROLE regress_service;
SELECT _grownext.core_caller_tenant(:tenant), _grownext.core_caller_has('service'), _grownext.core_caller_has('admin');
RESET ROLE;
REVOKE ALL ON FUNCTION _grownext.core_caller_tenant(uuid), _grownext.core_caller_has(text) FROM regress_caller, regress_service;
REVOKE ALL ON SCHEMA _grownext FROM regress_caller, regress_service;
DROP ROLE regress_caller, regress_service;
DROP TABLE context_rows;
