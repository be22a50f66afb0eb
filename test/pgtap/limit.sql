-- Limits on tables: whatever brings rows or takes them away is counted, once, and nobody
-- but the table moves the counter.
BEGIN;
SELECT * FROM no_plan();

CREATE ROLE gl_owner LOGIN IN ROLE grownext_service;
CREATE ROLE gl_service LOGIN IN ROLE grownext_service;
CREATE ROLE gl_user LOGIN IN ROLE grownext_user;
CREATE SCHEMA app AUTHORIZATION gl_owner;
GRANT USAGE ON SCHEMA app TO gl_user, gl_service;

SELECT is(pg_get_function_identity_arguments(d.name::regproc) || ' -> ' || pg_get_function_result(d.name::regproc), d.signature, d.name)
  FROM (VALUES
    ('grownext.limit_protect', 'relation regclass, feature text, tenant_column name -> void'),
    ('grownext.limit_unprotect', 'relation regclass, feature text -> void'),
    ('grownext.limit_recount', 'feature text -> bigint')) AS d (name, signature);
SELECT ok(has_function_privilege('gl_service', f.name::regproc, 'EXECUTE') AND NOT has_function_privilege('gl_user', f.name::regproc, 'EXECUTE'), f.name || ' is not for end users')
  FROM unnest('{grownext.limit_protect,grownext.limit_unprotect,grownext.limit_recount,grownext.limit_count}'::text[]) AS f (name);

SELECT grownext.product_define('tap', 'Tap');
SELECT grownext.feature_define('tap.projects', 'tap', 'limit');
SELECT grownext.feature_define('tap.other', 'tap', 'limit', '{"default": "unlimited"}');
SELECT grownext.feature_define('tap.calls', 'tap', 'metered');
SELECT grownext.feature_define('tap.a_limit_whose_name_is_longer_than_a_name_of_a_trigger_may_be', 'tap', 'limit', '{"default": "unlimited"}');
SELECT grownext.bundle_define('tap-small', '{"tap.projects": 3}');
SELECT grownext.bundle_define('tap-none', '{"tap.projects": 0}');
CREATE TEMP TABLE world AS
SELECT 'a2000000-0000-4000-8000-000000000001'::uuid AS acme, 'a2000000-0000-4000-8000-000000000002'::uuid AS beta;
GRANT SELECT ON world TO PUBLIC;
SELECT grownext.tenant_create('tap-limit-acme', 'Acme', id => acme, bundle => 'tap-small'), grownext.tenant_create('tap-limit-beta', 'Beta', id => beta, bundle => 'tap-small') FROM world;

-- What the counter says of a tenant; and the same by counting anew.
CREATE FUNCTION pg_temp.used(tenant uuid) RETURNS bigint LANGUAGE sql AS $$
    SELECT used FROM grownext.entitlement('tap.projects', tenant) $$;
CREATE FUNCTION pg_temp.both() RETURNS text LANGUAGE sql AS $$
    SELECT format('%s %s, %s wrong', pg_temp.used(acme), pg_temp.used(beta), grownext.limit_recount('tap.projects')) FROM world $$;

SET LOCAL SESSION AUTHORIZATION gl_owner;
CREATE TABLE app.project (id int PRIMARY KEY, tenant_id uuid, name text, parent int REFERENCES app.project ON DELETE CASCADE);
GRANT SELECT, INSERT, UPDATE, DELETE ON app.project TO gl_user;
RESET SESSION AUTHORIZATION;
INSERT INTO app.project SELECT 1, acme, 'there before' FROM world;

-- Protecting ---------------------------------------------------------------------

SELECT is(pg_temp.used(acme), NULL, 'nobody counts before') FROM world;
SET LOCAL SESSION AUTHORIZATION gl_service;
SELECT throws_ok($$ SELECT grownext.limit_protect('app.project', 'tap.projects') $$, '42501', NULL, 'it takes the owner of the table');
SET LOCAL SESSION AUTHORIZATION gl_owner;
SELECT throws_ok($$ SELECT grownext.limit_protect(NULL, 'tap.projects') $$, '22004', NULL, 'no table');
SELECT throws_ok($$ SELECT grownext.limit_protect('app.project', NULL) $$, '22004', NULL, 'no feature');
SELECT throws_ok($$ SELECT grownext.limit_protect('app.project', 'tap.projects', NULL) $$, '22004', NULL, 'no column');
SELECT throws_ok($$ SELECT grownext.limit_protect('app.project', 'tap.unknown') $$, '42704', NULL, 'an unknown feature');
SELECT throws_ok($$ SELECT grownext.limit_protect('app.project', 'tap.calls') $$, '22023', NULL, 'a feature that is no limit');
SELECT throws_ok($$ SELECT grownext.limit_protect('app.project', 'tap.projects', 'owner') $$, '42703', NULL, 'a column that is not there');
SELECT throws_ok($$ SELECT grownext.limit_protect('app.project', 'tap.projects', 'name') $$, '42804', NULL, 'a column that is no uuid');
SELECT throws_ok($$ SELECT grownext.limit_protect('pg_catalog.pg_class', 'tap.projects') $$, '42501', NULL, 'a table of the system');
SELECT throws_ok($$ SELECT grownext.limit_protect('grownext.feature', 'tap.projects') $$, '42809', NULL, 'a view');
CREATE TEMP TABLE fleeting (tenant_id uuid);
SELECT throws_ok($$ SELECT grownext.limit_protect('fleeting', 'tap.projects') $$, '42809', NULL, 'a table whose rows vanish uncounted');
SELECT lives_ok($$ SELECT grownext.limit_protect('app.project', 'tap.projects') $$, 'the owner protects the table');
RESET SESSION AUTHORIZATION;
SELECT is(pg_temp.both(), '1 0, 0 wrong', 'rows that were there are units');
SELECT results_eq($$ SELECT allowed, used, quota, remaining, resets_at FROM world, grownext.entitlement('tap.projects', acme) $$,
                  $$ VALUES (true, 1::bigint, 3::bigint, 2::bigint, NULL::timestamptz) $$, 'entitlement() says what is used and left');
SELECT is(used, NULL, 'not of another instant') FROM world, grownext.entitlement('tap.projects', acme, now());
SELECT is((SELECT count(*) FROM grownext.entitlements(acme) WHERE used IS NOT NULL), 1::bigint, 'entitlements() too, of what is counted') FROM world;

-- Rows that come and go ------------------------------------------------------------

-- an end user, who has no right to anything of the platform
SET LOCAL SESSION AUTHORIZATION gl_user;
SELECT lives_ok($$ INSERT INTO app.project SELECT i, acme FROM world, generate_series(2, 3) AS i $$, 'an end user inserts');
SELECT throws_ok($$ INSERT INTO app.project SELECT 4, acme FROM world $$, 'NX021', 'the limit of "tap.projects" is reached', 'up to the limit');
SELECT throws_ok($$ INSERT INTO app.project SELECT i, beta FROM world, generate_series(4, 7) AS i $$, 'NX021', NULL, 'all rows of a statement or none');
SELECT lives_ok($$ UPDATE app.project SET name = 'other' $$, 'an update that moves nothing needs no room');
SELECT lives_ok($$ DELETE FROM app.project WHERE id = 3 $$, 'a delete gives back');
SELECT throws_ok($$ CREATE TRIGGER mine AFTER DELETE ON fleeting REFERENCING OLD TABLE AS o FOR EACH STATEMENT EXECUTE FUNCTION grownext.limit_count('tap.projects', 'tenant_id') $$,
                 '42501', NULL, 'and makes no trigger that gives back what it likes');
RESET SESSION AUTHORIZATION;
SELECT is(pg_temp.both(), '2 0, 0 wrong', 'all of it is counted');
UPDATE app.project SET tenant_id = beta FROM world WHERE id = 2;
SELECT is(pg_temp.both(), '1 1, 0 wrong', 'a row that moves to another tenant takes its unit along');
UPDATE app.project SET tenant_id = CASE WHEN tenant_id = acme THEN beta ELSE acme END FROM world;
SELECT is(pg_temp.both(), '1 1, 0 wrong', 'two that change places, too');
UPDATE app.project SET tenant_id = NULL WHERE id = 2;
INSERT INTO app.project VALUES (20, NULL);
SELECT is(pg_temp.both(), '0 1, 0 wrong', 'a row without a tenant counts for nobody');
DELETE FROM app.project WHERE tenant_id IS NULL;
SAVEPOINT a;
INSERT INTO app.project SELECT 5, acme FROM world;
ROLLBACK TO a;
SELECT is(pg_temp.both(), '0 1, 0 wrong', 'a savepoint that is rolled back gives back');
INSERT INTO app.project SELECT i, acme FROM world, generate_series(1, 2) AS i ON CONFLICT (id) DO NOTHING;
SELECT is(pg_temp.both(), '1 1, 0 wrong', 'what ON CONFLICT leaves out is not counted');
INSERT INTO app.project SELECT i, acme FROM world, generate_series(1, 2) AS i ON CONFLICT (id) DO UPDATE SET tenant_id = EXCLUDED.tenant_id;
SELECT is(pg_temp.both(), '2 0, 0 wrong', 'what it updates is moved');
MERGE INTO app.project AS p USING (SELECT i, acme, beta FROM world, generate_series(2, 3) AS i) AS w ON p.id = w.i
 WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (w.i, w.beta);
SELECT is(pg_temp.both(), '1 1, 0 wrong', 'MERGE does both');
INSERT INTO app.project SELECT 30, acme, 'child', 1 FROM world;
DELETE FROM app.project WHERE id = 1;
SELECT is(pg_temp.both(), '0 1, 0 wrong', 'a cascade gives back what it deletes');
COPY app.project (id, tenant_id) FROM STDIN;
40	a2000000-0000-4000-8000-000000000001
41	a2000000-0000-4000-8000-000000000001
42	a2000000-0000-4000-8000-000000000002
\.
SELECT is(pg_temp.both(), '2 2, 0 wrong', 'COPY is counted');
SELECT throws_ok($$ INSERT INTO app.project VALUES (50, 'a2000000-0000-4000-8000-00000000000f') $$, 'NX020', NULL, 'a tenant that there is not has no room');
TRUNCATE app.project CASCADE;
SELECT is(pg_temp.both(), '0 0, 0 wrong', 'TRUNCATE gives all back');

-- The limit is the one of the moment --------------------------------------------------

INSERT INTO app.project SELECT i, acme FROM world, generate_series(1, 3) AS i;
SELECT grownext.subscription_change((SELECT s.id FROM grownext.subscription AS s WHERE s.tenant_id = acme), 'tap-none') FROM world;
SELECT results_eq($$ SELECT allowed, used, quota, remaining, reason FROM world, grownext.entitlement('tap.projects', acme) $$,
                  $$ VALUES (false, 3::bigint, 0::bigint, 0::bigint, 'limit_is_zero') $$, 'over a limit that shrank: reported');
SELECT throws_ok($$ INSERT INTO app.project SELECT 4, acme FROM world $$, 'NX021', NULL, 'no row comes');
SELECT lives_ok($$ DELETE FROM app.project WHERE id = 3 $$, 'rows may go');
SELECT lives_ok($$ UPDATE app.project SET name = 'renamed' $$, 'and be changed');
SELECT grownext.entitlement_grant(acme, 'tap.projects', '{"add": 3}') FROM world;
SELECT lives_ok($$ INSERT INTO app.project SELECT 3, acme FROM world $$, 'a grant makes room');
SELECT grownext.tenant_suspend(acme, 'tap') FROM world;
SELECT throws_ok($$ INSERT INTO app.project SELECT 4, acme FROM world $$, 'NX020', NULL, 'a suspended tenant gets no row');
SELECT lives_ok($$ DELETE FROM app.project WHERE id = 3 $$, 'and can lose one');
SELECT grownext.tenant_resume(acme) FROM world;
SELECT is((SELECT reason FROM grownext.usage_consume('tap.projects', tenant_id => acme)), 'not_metered', 'usage_consume() does not touch it') FROM world;
SELECT is((SELECT allowed FROM grownext.usage_return('tap.projects', tenant_id => acme)), false, 'usage_return() neither') FROM world;
SELECT is(pg_temp.both(), '2 0, 0 wrong', 'the counter is what the table says');

-- Several tables, partitions, row security -------------------------------------------

SET LOCAL SESSION AUTHORIZATION gl_owner;
CREATE TABLE app.draft (tenant_id uuid NOT NULL, id int) PARTITION BY LIST (tenant_id);
CREATE TABLE app.draft_acme PARTITION OF app.draft FOR VALUES IN ('a2000000-0000-4000-8000-000000000001');
CREATE TABLE app.draft_rest PARTITION OF app.draft DEFAULT;
SELECT grownext.limit_protect('app.draft', 'tap.projects');
SELECT count(*) FROM grownext.tenant_isolate('app.draft');
RESET SESSION AUTHORIZATION;
INSERT INTO app.draft SELECT acme, 1 FROM world;
SELECT is(pg_temp.both(), '3 0, 0 wrong', 'tables of one limit add up');
SELECT throws_ok($$ INSERT INTO app.draft_acme SELECT acme, 2 FROM world $$, 'NX021', NULL, 'a partition that is named directly counts');
UPDATE app.draft SET tenant_id = beta FROM world;
SELECT is(pg_temp.both(), '2 1, 0 wrong', 'a row that moves to another partition takes its unit along');
INSERT INTO app.draft_acme SELECT acme, 3 FROM world;
TRUNCATE app.draft;
SELECT is(pg_temp.both(), '2 0, 0 wrong', 'TRUNCATE of the parent reaches the partitions');
INSERT INTO app.draft SELECT beta, 1 FROM world;
ALTER TABLE app.draft DETACH PARTITION app.draft_rest;
SET LOCAL SESSION AUTHORIZATION gl_owner;
CREATE TABLE app.draft_beta PARTITION OF app.draft FOR VALUES IN ('a2000000-0000-4000-8000-000000000002');
RESET SESSION AUTHORIZATION;
SELECT is((SELECT count(*) FROM grownext.status() WHERE item = 'limit' AND state = 'degraded' AND detail LIKE '"app.draft_beta"%'), 1::bigint, 'status() names a partition that came later');
INSERT INTO app.draft_beta SELECT beta, 2 FROM world;
SELECT is(pg_temp.both(), '2 1, 1 wrong', 'what comes in there unseen is found by a recount');
SELECT is(pg_temp.both(), '2 2, 0 wrong', 'once');
SET LOCAL SESSION AUTHORIZATION gl_owner;
SELECT lives_ok($$ SELECT grownext.limit_protect('app.draft', 'tap.projects') $$, 'protected again, it takes new partitions in');
ALTER TABLE app.draft DISABLE TRIGGER "grownext_limit_insert.tap.projects";
RESET SESSION AUTHORIZATION;
SELECT is((SELECT count(*) FROM grownext.status() WHERE item = 'limit' AND detail LIKE '"app.draft" %'), 1::bigint, 'status() names a table whose trigger is disabled');
INSERT INTO app.draft SELECT beta, 3 FROM world;
SET LOCAL SESSION AUTHORIZATION gl_owner;
SELECT grownext.limit_protect('app.draft', 'tap.projects');
RESET SESSION AUTHORIZATION;
SELECT is((SELECT count(*) FROM grownext.status() WHERE item = 'limit'), 0::bigint, 'protected again, all is well');
SELECT is(pg_temp.both(), '2 3, 0 wrong', 'and counted');
-- fewer units than rows go: rows had come in unseen
ALTER TABLE app.draft_beta DISABLE TRIGGER USER;
INSERT INTO app.draft_beta SELECT beta, i FROM world, generate_series(10, 19) AS i;
ALTER TABLE app.draft_beta ENABLE TRIGGER USER;
DELETE FROM app.draft_beta;
SELECT is(pg_temp.used(beta), 0::bigint, 'a counter never falls below zero') FROM world;
SELECT is(pg_temp.both(), '2 0, 1 wrong', 'the row in the detached partition was among them');

SELECT is((SELECT sum(l.amount) FROM _grownext.entitlement_usage_history AS l JOIN _grownext.entitlement_feature AS f ON f.id = l.feature_id WHERE f.feature = 'tap.projects'),
          (SELECT sum(u.used) FROM _grownext.entitlement_usage AS u JOIN _grownext.entitlement_feature AS f ON f.id = u.feature_id WHERE f.feature = 'tap.projects'),
          'the ledger says what the counters say, after recounts too');

-- two limits over one table, one with a name that a trigger cannot bear
SET LOCAL SESSION AUTHORIZATION gl_owner;
SELECT lives_ok($$ SELECT grownext.limit_protect('app.project', 'tap.other'), grownext.limit_protect('app.project', 'tap.a_limit_whose_name_is_longer_than_a_name_of_a_trigger_may_be') $$, 'one table counts for several limits');
RESET SESSION AUTHORIZATION;
INSERT INTO app.project SELECT 90, beta FROM world;
SELECT is((SELECT array_agg(used ORDER BY feature) FROM grownext.entitlements(beta) WHERE feature LIKE 'tap.%' AND kind = 'limit'), '{1,1,2}', 'each counts') FROM world;
ALTER TABLE app.project RENAME tenant_id TO customer;
SELECT throws_ok($$ DELETE FROM app.project WHERE id = 90 $$, '42703', NULL, 'a column that was renamed is an error, not a unit that is lost');
ALTER TABLE app.project RENAME customer TO tenant_id;

-- The end --------------------------------------------------------------------------

SET LOCAL SESSION AUTHORIZATION gl_service;
SELECT throws_ok($$ SELECT grownext.limit_unprotect('app.project', 'tap.other') $$, '42501', NULL, 'it takes the owner to unprotect');
SELECT throws_ok($$ SELECT grownext.limit_recount('tap.unknown') $$, '42704', NULL, 'an unknown feature cannot be counted');
SELECT throws_ok($$ SELECT grownext.limit_recount('tap.calls') $$, '22023', NULL, 'nor one that is no limit');
SET LOCAL SESSION AUTHORIZATION gl_owner;
SELECT throws_ok($$ SELECT grownext.limit_unprotect(NULL, 'tap.other') $$, '22004', NULL, 'no table to unprotect');
SELECT throws_ok($$ SELECT grownext.limit_unprotect('grownext.feature', 'tap.other') $$, '42809', NULL, 'no view either');
SELECT lives_ok($$ SELECT grownext.limit_unprotect('app.project', 'tap.other') $$, 'the owner does');
RESET SESSION AUTHORIZATION;
SELECT is(used, NULL, 'its units are none any more') FROM world, grownext.entitlement('tap.other', beta);
SELECT is((SELECT count(*) FROM grownext.usage_period WHERE feature = 'tap.other'), 0::bigint, 'and the counters are gone');
SELECT is((SELECT count(*) FROM pg_trigger WHERE tgrelid = 'app.project'::regclass AND tgname LIKE 'grownext_limit%tap.other'), 0::bigint, 'as are the triggers');
-- a purge deletes the rows as their owner, and takes the counters along
SELECT count(*) FROM grownext.tenant_isolate('app.project', options => '{"on_purge": "delete"}');
SELECT grownext.tenant_delete(acme, '0') FROM world;
SET LOCAL grownext.test_clock = '2100-01-01 00:00+00';
SELECT _grownext.tenant_tick('2100-01-01'), _grownext.tenant_tick('2100-01-01');
SELECT is((SELECT count(*) FROM grownext.tenant, world WHERE id = acme), 0::bigint, 'a tenant with rows that count is purged');
SELECT is((SELECT count(*) FROM app.project, world WHERE tenant_id = acme), 0::bigint, 'with its rows');
-- dropped tables leave their counters until somebody looks
DROP TABLE app.project, app.draft, app.draft_rest;
SELECT _grownext.entitlement_tick('2100-01-01');
SELECT is((SELECT count(*) FROM _grownext.entitlement_gauge), 0::bigint, 'the background pass forgets limits whose tables were dropped');
SELECT is((SELECT count(*) FROM grownext.usage_period WHERE period = 'never'), 0::bigint, 'with their counters');
SELECT * FROM finish();
ROLLBACK;
