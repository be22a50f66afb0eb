-- The frame: schemas, roles, registry, options, capabilities.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS grownext;
RESET client_min_messages;
SELECT grownext.extension_version() = extversion AS library_fits_sql FROM pg_extension WHERE extname = 'grownext';

-- every schema belongs to the owner, who is no superuser and cannot log in
SELECT n.nspname, r.rolname, r.rolsuper, r.rolcanlogin
  FROM pg_namespace AS n JOIN pg_roles AS r ON r.oid = n.nspowner
 WHERE n.nspname IN ('grownext', '_grownext', 'grownext_api') ORDER BY 1;

-- no object of ours belongs to a superuser
SELECT count(*) FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'grownext'
  JOIN pg_proc AS p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass
  JOIN pg_roles AS r ON r.oid = p.proowner
 WHERE d.deptype = 'e' AND r.rolsuper;

-- the error registry: unique codes of class NX
SELECT count(*) = count(DISTINCT code) AS codes_unique, count(*) = count(DISTINCT name) AS names_unique,
       bool_and(code ~ '^NX[0-9]{3}$') AS all_nx, bool_and(http IS NULL OR http BETWEEN 400 AND 599) AS http_fits
  FROM _grownext.core_errors();

-- options: unknown keys and wrong types are refused
SELECT _grownext.core_check_options('{"a": 1}', '{"a": "number"}');
SELECT _grownext.core_check_options('{"b": 1}', '{"a": "number", "c": "string"}');
\echo :LAST_ERROR_SQLSTATE
SELECT _grownext.core_check_options('{"b": 1}', '{}');
SELECT _grownext.core_check_options('{"a": "x"}', '{"a": "number"}');
SELECT _grownext.core_check_options('[]', '{}');
SELECT _grownext.core_check_options(NULL, '{}');

-- routes: a wrong type is refused, an unknown option too
SELECT grownext.event_route('Not A Type', 'q');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.event_route('tenant.created', 'q', '{"x": 1}');

-- gateways and capabilities: only for roles that exist
SELECT grownext.gateway_trust('regress_nobody');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.gateway_trust(NULL);
SELECT grownext.capability_grant('king', 'regress_nobody');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.capability_grant('service', 'regress_nobody');

-- a capability gives the rights of the role, in this database, and takes them back
CREATE ROLE regress_monitor;
SELECT has_function_privilege('regress_monitor', 'grownext.extension_version()', 'EXECUTE');
SELECT grownext.capability_grant('monitor', 'regress_monitor');
SELECT has_function_privilege('regress_monitor', 'grownext.extension_version()', 'EXECUTE'),
       has_schema_privilege('regress_monitor', 'grownext', 'USAGE'),
       has_schema_privilege('regress_monitor', '_grownext', 'USAGE'),
       has_function_privilege('regress_monitor', 'grownext.gateway_trust(name)', 'EXECUTE');
SELECT grownext.capability_revoke('monitor', 'regress_monitor');
SELECT has_function_privilege('regress_monitor', 'grownext.extension_version()', 'EXECUTE'),
       has_schema_privilege('regress_monitor', 'grownext', 'USAGE');
DROP ROLE regress_monitor;

-- the clock can be replaced by a superuser's test, and by nobody else
SET grownext.test_clock = '2030-01-02 03:04:05+00';
SELECT _grownext.core_now() AT TIME ZONE 'UTC';
SET grownext.test_clock = 'not a time';
\echo :LAST_ERROR_SQLSTATE
RESET grownext.test_clock;
SELECT abs(extract(epoch FROM clock_timestamp() - _grownext.core_now())) < 60 AS wall_clock;
CREATE ROLE regress_user;
SET ROLE regress_user;
SET grownext.test_clock = '2030-01-02 03:04:05+00';
\echo :LAST_ERROR_SQLSTATE
SET grownext.tenant_claim = 'x';
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
DROP ROLE regress_user;
