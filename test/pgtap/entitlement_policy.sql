-- Row policies: entitled() is asked once per statement, entitlement_protect() hides a table
-- from whoever is not entitled, policy_lint() finds what is slow or open.
BEGIN;
SELECT * FROM no_plan();

CREATE ROLE gp_owner LOGIN IN ROLE grownext_user;
CREATE ROLE gp_app LOGIN IN ROLE grownext_user;
CREATE ROLE gp_other LOGIN IN ROLE grownext_user;
CREATE SCHEMA gp AUTHORIZATION gp_owner;
GRANT USAGE ON SCHEMA gp TO gp_app, gp_other;

SELECT grownext.product_define('gp-app', 'App');
SELECT grownext.feature_define('gp.docs', 'gp-app', 'boolean');
SELECT grownext.feature_define('gp.' || repeat('long_', 30), 'gp-app', 'boolean');
SELECT grownext.tenant_create('gp-one', 'One', id => '00000000-0000-4000-8000-00000000a001');
SELECT grownext.tenant_create('gp-two', 'Two', id => '00000000-0000-4000-8000-00000000a002');
SELECT grownext.entitlement_grant('00000000-0000-4000-8000-00000000a001', 'gp.docs', 'true') AS grant_id \gset

CREATE FUNCTION gp.plan_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE line text; plan text := '';
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP plan := plan || line || E'\n'; END LOOP;
    RETURN plan;
END $$;
GRANT EXECUTE ON FUNCTION gp.plan_of(text) TO PUBLIC;

SET ROLE gp_owner;
CREATE TABLE gp.doc (id int PRIMARY KEY, tenant_id uuid NOT NULL, body text);
INSERT INTO gp.doc SELECT g, ('00000000-0000-4000-8000-00000000a00' || 1 + g % 2)::uuid, 'x' FROM generate_series(1, 100) AS g;
GRANT SELECT, INSERT, UPDATE, DELETE ON gp.doc TO gp_app;
ALTER TABLE gp.doc ENABLE ROW LEVEL SECURITY;
CREATE POLICY ask ON gp.doc USING (grownext.entitled('gp.docs'));
RESET ROLE;

-- Asked once -------------------------------------------------------------------

SELECT grownext.act_as('ann', '00000000-0000-4000-8000-00000000a001');
SET ROLE gp_app;
SELECT alike(gp.plan_of('SELECT * FROM gp.doc'), '%InitPlan%', 'a policy asks once per statement');
SELECT unalike(gp.plan_of('SELECT * FROM gp.doc'), '%Filter: %entitled%', 'not for each row');
SELECT alike(gp.plan_of('SELECT count(*) FROM gp.doc WHERE grownext.entitled(''gp.docs'') OR id = 1'), '%InitPlan%', 'so does a condition of a query');
SELECT alike(gp.plan_of('SELECT grownext.entitled(''gp.docs''), id FROM gp.doc'), '%InitPlan%', 'and a column');
SELECT alike(gp.plan_of('SELECT * FROM gp.doc WHERE grownext.entitled(''gp.docs'', tenant_id)'), '%entitled(''gp.docs''::text, tenant_id)%',
            'but not what depends on the row');
SELECT alike(gp.plan_of('UPDATE gp.doc SET body = ''y'' WHERE id = 1'), '%InitPlan%', 'updates too');
SELECT is((SELECT count(*) FROM gp.doc), 100::bigint, 'entitled: every row of the policy');
PREPARE docs AS SELECT count(*) FROM gp.doc;
SELECT results_eq('docs', 'SELECT 100::bigint', 'a prepared statement');
RESET ROLE;
SET LOCAL plan_cache_mode = force_generic_plan;
SELECT grownext.entitlement_revoke(:'grant_id');
SET ROLE gp_app;
SELECT results_eq('docs', 'SELECT 0::bigint', 'a cached plan does not outlive the entitlement');
SELECT is((SELECT count(*) FROM gp.doc), 0::bigint, 'nor does a new one');
RESET ROLE;
SELECT grownext.entitlement_grant('00000000-0000-4000-8000-00000000a001', 'gp.docs', 'true') AS grant_id \gset
SET ROLE gp_app;
SELECT results_eq('docs', 'SELECT 100::bigint', 'granted again');
RESET ROLE;
SET LOCAL grownext.entitled_once = off;
SET ROLE gp_app;
SELECT unalike(gp.plan_of('SELECT * FROM gp.doc'), '%InitPlan%', 'grownext.entitled_once = off: asked for each row');
SELECT is((SELECT count(*) FROM gp.doc), 100::bigint, 'with the same answer');
RESET ROLE;
SET LOCAL grownext.entitled_once = on;
SELECT is((SELECT grownext.entitled('gp.docs')), true, 'without a table it is an ordinary call');
SELECT is((SELECT count(*) FROM generate_series(1, 3) WHERE grownext.entitled('gp.docs')), 3::bigint, 'beside a function');
SELECT is((SELECT bool_and(s.e) FROM gp.doc AS d, LATERAL (SELECT grownext.entitled('gp.docs', d.tenant_id) AS e WHERE d.id = 2) AS s), true, 'in a lateral query');

-- entitlement_protect --------------------------------------------------------------

SET ROLE gp_owner;
DROP POLICY ask ON gp.doc;
SELECT lives_ok($$ SELECT grownext.entitlement_protect('gp.doc', 'gp.docs') $$, 'the owner protects the table');
SELECT lives_ok($$ SELECT grownext.entitlement_protect('gp.doc', 'gp.docs') $$, 'again');
SELECT is((SELECT count(*) FROM pg_policy WHERE polrelid = 'gp.doc'::regclass AND NOT polpermissive), 2::bigint, 'two restrictive policies: tenant and entitlement');
CREATE INDEX ON gp.doc (tenant_id);
RESET ROLE;
SET ROLE gp_app;
SELECT is((SELECT count(*) FROM gp.doc), 50::bigint, 'an entitled tenant sees its own rows');
SELECT lives_ok($$ INSERT INTO gp.doc VALUES (1001, '00000000-0000-4000-8000-00000000a001') $$, 'and writes them');
SELECT throws_ok($$ INSERT INTO gp.doc VALUES (1002, '00000000-0000-4000-8000-00000000a002') $$, '42501', NULL, 'not another''s');
SELECT alike(gp.plan_of('SELECT * FROM gp.doc'), '%One-Time Filter:%', 'the question is asked before the table is read');
SELECT pg_stat_get_xact_blocks_fetched('gp.doc'::regclass) AS fetched \gset
SELECT count(*) FROM gp.doc \gset
SELECT cmp_ok(pg_stat_get_xact_blocks_fetched('gp.doc'::regclass), '>', :fetched::bigint, 'which the entitled tenant''s query does');
RESET ROLE;
SELECT grownext.act_as('bob', '00000000-0000-4000-8000-00000000a002');
SET ROLE gp_app;
SELECT pg_stat_get_xact_blocks_fetched('gp.doc'::regclass) AS fetched \gset
SELECT is((SELECT count(*) FROM gp.doc), 0::bigint, 'a tenant that is not entitled sees none');
SELECT is(pg_stat_get_xact_blocks_fetched('gp.doc'::regclass), :fetched::bigint, 'and its query reads no page of the table');
SELECT throws_ok($$ INSERT INTO gp.doc VALUES (1003, '00000000-0000-4000-8000-00000000a002') $$, '42501', NULL, 'and writes none');
SELECT is_empty($$ UPDATE gp.doc SET body = 'z' RETURNING id $$, 'changes none');
SELECT is_empty($$ DELETE FROM gp.doc RETURNING id $$, 'deletes none');
RESET ROLE;
SET ROLE gp_owner;
SELECT is((SELECT count(*) FROM gp.doc), 0::bigint, 'the owner is bound, too');

SELECT throws_ok($$ SELECT grownext.entitlement_protect('gp.doc', 'gp.nothing') $$, '42704', 'feature "gp.nothing" does not exist', 'an unknown feature');
SELECT throws_ok($$ SELECT grownext.entitlement_protect('gp.doc', NULL) $$, '22004', NULL, 'no feature');
SELECT throws_ok($$ SELECT grownext.entitlement_protect(NULL, 'gp.docs') $$, '22004', NULL, 'no table');
SELECT throws_ok($$ SELECT grownext.entitlement_protect('gp.doc', 'gp.docs', 'body') $$, '42804', NULL, 'a column of another type');
SELECT throws_ok($$ SELECT grownext.entitlement_protect('pg_catalog.pg_class', 'gp.docs') $$, '42501', NULL, 'a catalogue');
SELECT lives_ok($$ SELECT grownext.entitlement_protect('gp.doc', 'gp.$$ || repeat('long_', 30) || $$') $$, 'a feature whose name is longer than a policy''s');
SELECT lives_ok($$ SELECT grownext.entitlement_unprotect('gp.doc', 'gp.$$ || repeat('long_', 30) || $$') $$, 'and back');
RESET ROLE;
SET ROLE gp_other;
SELECT throws_ok($$ SELECT grownext.entitlement_protect('gp.doc', 'gp.docs') $$, '42501', 'must be owner of table gp.doc', 'a table of somebody else');
SELECT throws_ok($$ SELECT grownext.entitlement_unprotect('gp.doc', 'gp.docs') $$, '42501', NULL, 'not back either');
RESET ROLE;

-- partitions answer with policies of their own
SET ROLE gp_owner;
CREATE TABLE gp.event (id int, tenant_id uuid NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE gp.event_1 PARTITION OF gp.event FOR VALUES FROM (0) TO (10);
SELECT grownext.entitlement_protect('gp.event', 'gp.docs');
SELECT is((SELECT count(*) FROM pg_policy WHERE polrelid = 'gp.event_1'::regclass AND polname = 'grownext_entitled.gp.docs'), 1::bigint, 'a partition is protected');
SELECT grownext.entitlement_unprotect('gp.event', 'gp.docs');
SELECT is((SELECT count(*) FROM pg_policy WHERE polrelid IN ('gp.event'::regclass, 'gp.event_1'::regclass) AND polname LIKE 'grownext_entitled%'), 0::bigint, 'and no more');
SELECT is((SELECT count(*) FROM pg_policy WHERE polrelid = 'gp.event_1'::regclass AND polname = 'grownext_tenant'), 1::bigint, 'but still isolated');
RESET ROLE;

-- policy_lint ------------------------------------------------------------------------

SELECT is_empty($$ SELECT * FROM grownext.policy_lint() WHERE relation = 'gp.doc' $$, 'what entitlement_protect() makes has no fault');
SET ROLE gp_owner;
CREATE FUNCTION gp.slow(t uuid) RETURNS boolean LANGUAGE plpgsql STABLE AS 'BEGIN RETURN true; END';
CREATE FUNCTION gp.moody() RETURNS boolean LANGUAGE sql VOLATILE AS 'SELECT random() < 2';
CREATE TABLE gp.bad (id int PRIMARY KEY, tenant_id uuid);
CREATE POLICY open_door ON gp.bad USING (true);
RESET ROLE;
SELECT set_eq($$ SELECT policy, problem FROM grownext.policy_lint() WHERE relation = 'gp.bad' $$,
              $$ VALUES ('open_door', 'lets everybody at rows of every tenant'), ('open_door', 'is for PUBLIC: for every role, also those that will be made'), (NULL, 'policies have no effect: row security is off') $$, 'open, and off');
ALTER TABLE gp.bad ENABLE ROW LEVEL SECURITY;
DROP POLICY open_door ON gp.bad;
CREATE POLICY p_slow ON gp.bad TO gp_app USING (gp.slow(tenant_id));
CREATE POLICY p_wrapped ON gp.bad TO gp_app USING ((SELECT gp.slow(NULL)));
CREATE POLICY p_setting ON gp.bad TO gp_app USING (tenant_id = current_setting('app.tenant')::uuid);
CREATE POLICY p_moody ON gp.bad TO gp_app USING (gp.moody());
CREATE POLICY p_self ON gp.bad TO gp_app USING (EXISTS (SELECT FROM gp.bad AS b WHERE b.id = 1));
CREATE POLICY p_unknown ON gp.bad TO gp_app USING (grownext.entitled('gp.typo'));
CREATE POLICY p_tenant ON gp.bad USING (tenant_id = grownext.current_tenant());
SELECT set_eq($$ SELECT policy, problem FROM grownext.policy_lint() WHERE relation = 'gp.bad' $$,
              $$ VALUES (NULL, 'row security is not forced: the owner sees every row'),
                        ('p_slow', 'calls slow() for each row'),
                        ('p_setting', 'calls current_setting() for each row'),
                        ('p_moody', 'calls moody() for each row'),
                        ('p_moody', 'calls moody(), which is volatile'),
                        ('p_self', 'reads its own table, which recurses'),
                        ('p_tenant', 'is for PUBLIC: for every role, also those that will be made'),
                        ('p_unknown', 'asks for feature "gp.typo", which does not exist'),
                        (NULL, 'no index leads with "tenant_id", by which policies choose rows') $$, 'every fault, and no other');
SELECT is((SELECT hint FROM grownext.policy_lint() WHERE relation = 'gp.bad' AND problem LIKE 'no index%'), 'CREATE INDEX CONCURRENTLY ON gp.bad (tenant_id);', 'with what mends it');
SELECT is((SELECT hint FROM grownext.policy_lint() WHERE relation = 'gp.bad' AND problem LIKE '%PUBLIC%'), 'ALTER POLICY p_tenant ON gp.bad TO grownext_user;', 'also whom it is for');

-- recursion by way of other tables, as the server finds it when it is too late
CREATE TABLE gp.folder (id int PRIMARY KEY, owner text);
CREATE TABLE gp.share (folder_id int, reader text);
CREATE TABLE gp.note (id int PRIMARY KEY, folder_id int);
ALTER TABLE gp.folder ENABLE ROW LEVEL SECURITY;
ALTER TABLE gp.folder FORCE ROW LEVEL SECURITY;
ALTER TABLE gp.share ENABLE ROW LEVEL SECURITY;
ALTER TABLE gp.share FORCE ROW LEVEL SECURITY;
ALTER TABLE gp.note ENABLE ROW LEVEL SECURITY;
ALTER TABLE gp.note FORCE ROW LEVEL SECURITY;
GRANT SELECT ON gp.folder, gp.share, gp.note TO gp_app;
CREATE POLICY shared ON gp.folder TO gp_app USING (id IN (SELECT s.folder_id FROM gp.share AS s));
CREATE POLICY own ON gp.share TO gp_app USING (reader = grownext.current_subject());
CREATE POLICY filed ON gp.note TO gp_app USING (folder_id IN (SELECT f.id FROM gp.folder AS f));
SELECT is_empty($$ SELECT * FROM grownext.policy_lint() WHERE relation IN ('gp.folder', 'gp.share', 'gp.note') $$, 'to read another table is no fault');
CREATE POLICY granted ON gp.share TO gp_app USING (folder_id IN (SELECT f.id FROM gp.folder AS f));
SELECT set_eq($$ SELECT relation, policy, problem FROM grownext.policy_lint() WHERE relation IN ('gp.folder', 'gp.share', 'gp.note') $$,
              $$ VALUES ('gp.folder', 'shared', 'reads gp.share, whose policies lead back here, which recurses'),
                        ('gp.share', 'granted', 'reads gp.folder, whose policies lead back here, which recurses') $$, 'a circle is, for those in it');
SET ROLE gp_app;
SELECT throws_ok('SELECT * FROM gp.folder', '42P17', NULL, 'which the server refuses');
RESET ROLE;
SELECT ok(NOT has_function_privilege('gp_app', 'grownext.policy_lint()', 'EXECUTE'), 'policy_lint() is not for end users');

SELECT * FROM finish();
ROLLBACK;
