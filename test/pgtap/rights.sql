-- Each right of a role has an owner of record: what one giver takes back, another still gives.
BEGIN;
SELECT plan(33);

CREATE ROLE regress_one;
SELECT grownext.queue_define(q) FROM unnest(ARRAY['a', 'b']) AS q;

-- may(NAME): whether regress_one may call a function of ours
CREATE FUNCTION pg_temp.may(name text) RETURNS boolean LANGUAGE sql AS $$
    SELECT bool_and(has_function_privilege('regress_one', p.oid, 'EXECUTE') AND has_schema_privilege('regress_one', 'grownext', 'USAGE'))
      FROM pg_proc AS p WHERE p.proname = may.name AND p.pronamespace = 'grownext'::regnamespace;
$$;

SELECT is(pg_temp.may(f), false, f || ': not to begin with') FROM unnest(ARRAY['enqueue', 'job_get', 'queue_handle', 'queue_stats', 'current_job', 'jwks']) AS f;

-- the order in which they come and go makes no difference
SELECT grownext.queue_grant('a', 'regress_one', 'enqueue');
SELECT grownext.capability_grant('service', 'regress_one');
SELECT is(pg_temp.may('queue_stats'), true, 'a capability gives its rights');
SELECT grownext.capability_revoke('service', 'regress_one');
SELECT is(pg_temp.may('queue_stats'), false, 'and takes them');
SELECT is(pg_temp.may('jwks'), false, 'all of them');
SELECT is(pg_temp.may('enqueue') AND pg_temp.may('enqueue_many') AND pg_temp.may('job_get'), true, 'but not what a right on a queue gives');
SELECT is(pg_temp.may('queue_handle'), false, 'which is no more than it says');
SET LOCAL ROLE regress_one;
SELECT isnt(grownext.enqueue('a', tenant_id => NULL), NULL, 'it is of use');
RESET ROLE;

SELECT grownext.capability_grant('service', 'regress_one');
SELECT grownext.queue_revoke('a', 'regress_one', 'enqueue');
SELECT is(pg_temp.may('enqueue') AND pg_temp.may('job_get'), true, 'the right on the queue goes, the capability still gives it');
SELECT grownext.queue_grant('a', 'regress_one', 'work');
SELECT grownext.queue_grant('b', 'regress_one', 'enqueue');
SELECT grownext.capability_revoke('service', 'regress_one');
SELECT is(pg_temp.may('enqueue') AND pg_temp.may('job_get') AND pg_temp.may('queue_handle') AND pg_temp.may('current_job'), true, 'the other way round');
SELECT grownext.queue_revoke('a', 'regress_one', 'work');
SELECT is(pg_temp.may('queue_handle') OR pg_temp.may('current_job'), false, 'the right to work goes');
SELECT is(has_type_privilege('regress_one', 'grownext.job', 'USAGE'), false, 'with the type of a job');
SELECT is(pg_temp.may('job_get'), true, 'and leaves what the right to enqueue needs, too');

-- a queue that is dropped takes its rights along
SELECT grownext.queue_drop('b');
SELECT is(pg_temp.may('enqueue') OR pg_temp.may('job_get'), false, 'a queue is dropped with the rights on it');
SELECT is(has_schema_privilege('regress_one', 'grownext', 'USAGE'), false, 'nothing is left');
SELECT is_empty($$ SELECT * FROM _grownext.core_right WHERE role_name = 'regress_one' $$, 'nor on record');

-- capabilities overlap
SELECT grownext.capability_grant(c, 'regress_one') FROM unnest(ARRAY['user', 'monitor', 'auditor']) AS c;
SELECT grownext.capability_revoke('user', 'regress_one');
SELECT is(pg_temp.may('jwks') AND pg_temp.may('queue_stats'), true, 'of three capabilities two are left');
SELECT grownext.capability_revoke('monitor', 'regress_one');
SELECT is(pg_temp.may('jwks') AND NOT pg_temp.may('queue_stats'), true, 'and one');
SELECT grownext.capability_revoke('auditor', 'regress_one');
SELECT is(pg_temp.may('jwks'), false, 'and none');

-- what a DBA granted before stays
GRANT USAGE ON SCHEMA grownext TO regress_one;
GRANT EXECUTE ON FUNCTION grownext.jwks(text) TO regress_one;
SELECT grownext.capability_grant('monitor', 'regress_one');
SELECT is((SELECT count(*) FROM _grownext.core_right WHERE role_name = 'regress_one' AND giver = 'grant'), 2::bigint, 'what was granted by hand is on record');
SELECT grownext.capability_revoke('monitor', 'regress_one');
SELECT is(pg_temp.may('jwks'), true, 'and stays');
SELECT is(pg_temp.may('queue_stats'), false, 'alone');

-- and so does what the extension gives its own roles
SELECT grownext.queue_grant('a', 'grownext_user', 'work');
SELECT is(has_function_privilege('grownext_user', 'grownext.queue_handle(text,regprocedure,jsonb,name)', 'EXECUTE'), true, 'a right on a queue for a role of ours');
SELECT grownext.queue_revoke('a', 'grownext_user', 'work');
SELECT is(has_function_privilege('grownext_user', 'grownext.queue_handle(text,regprocedure,jsonb,name)', 'EXECUTE'), false, 'goes');
SELECT is(has_function_privilege('grownext_user', 'grownext.current_job()', 'EXECUTE') AND has_type_privilege('grownext_user', 'grownext.job', 'USAGE'), true, 'and what it has by itself stays');

-- a role that was dropped and made again has nothing
SELECT grownext.capability_grant('service', 'regress_one');
DROP OWNED BY regress_one;
DROP ROLE regress_one;
CREATE ROLE regress_one;
SELECT is(pg_temp.may('enqueue'), false, 'a new role of an old name has no right');
SELECT lives_ok($$ SELECT grownext.capability_revoke('service', 'regress_one') $$, 'what is on record can be taken back');
SELECT is_empty($$ SELECT * FROM _grownext.core_right AS r WHERE role_name = 'regress_one' AND giver <> 'grant' $$, 'and is gone');

-- nobody else reads or writes the record
SELECT is_empty($$ SELECT * FROM pg_class AS c, aclexplode(c.relacl) AS a WHERE c.oid = '_grownext.core_right'::regclass AND a.grantee <> c.relowner $$, 'the record is the owner''s');

SELECT * FROM finish();
ROLLBACK;
