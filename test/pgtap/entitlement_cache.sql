-- What a session remembers about tenants is never stale: changes of its own, savepoints,
-- time, the hierarchy, users, and a memory for hardly one tenant. Other sessions are in
-- the isolation specs and in test/t.
BEGIN;
SELECT * FROM no_plan();

SELECT grownext.product_define('gc-app', 'App');
SELECT grownext.feature_define('gc.a', 'gc-app', 'boolean');
SELECT grownext.feature_define('gc.up', 'gc-app', 'boolean', '{"inherit": "parent"}');
SELECT grownext.feature_define('gc.rows', 'gc-app', 'limit', '{"inherit": "parent"}');
SELECT grownext.feature_define('gc.calls', 'gc-app', 'metered', '{"inherit": "pool"}');
SELECT grownext.feature_define('gc.theme', 'gc-app', 'config', '{"inherit": "parent", "default": {"value": "plain"}}');
\set one '''00000000-0000-4000-8000-00000000c001'''
\set two '''00000000-0000-4000-8000-00000000c002'''
\set three '''00000000-0000-4000-8000-00000000c003'''
SELECT grownext.tenant_create('gc-one', 'One', id => :one);
SELECT grownext.tenant_create('gc-two', 'Two', id => :two, parent_id => :one);
SELECT grownext.tenant_create('gc-three', 'Three', id => :three, parent_id => :two);

-- The own transaction -----------------------------------------------------------------

SELECT is(grownext.entitled('gc.a', :one), false, 'not yet');
SELECT grownext.entitlement_grant(:one, 'gc.a', 'true') AS grant_id \gset
SELECT is(grownext.entitled('gc.a', :one), true, 'seen by the next statement of the session that changed it');
SAVEPOINT s;
SELECT grownext.entitlement_revoke(:'grant_id');
SELECT is(grownext.entitled('gc.a', :one), false, 'revoked in a savepoint');
ROLLBACK TO s;
SELECT is(grownext.entitled('gc.a', :one), true, 'and not, once it is rolled back');
SAVEPOINT s;
SELECT grownext.feature_define('gc.new', 'gc-app', 'boolean', '{"default": true}');
SELECT is(grownext.entitled('gc.new', :one), true, 'a new feature');
ROLLBACK TO s;
SELECT is(grownext.entitled('gc.new', :one), false, 'a feature that was rolled back is unknown');
SELECT is((grownext.entitlement('gc.new', :one)).reason, 'unknown_feature', 'and said to be');
SELECT is(grownext.entitled('gc.a', '00000000-0000-4000-8000-00000000c0ff'), false, 'an unknown tenant');
SELECT grownext.tenant_create('gc-late', 'Late', id => '00000000-0000-4000-8000-00000000c0ff');
SELECT is((grownext.entitlement('gc.a', '00000000-0000-4000-8000-00000000c0ff')).reason, 'not_included', 'is known once it is there');
SELECT grownext.tenant_suspend(:one, 'test');
SELECT is(grownext.entitled('gc.a', :one), false, 'suspended');
SELECT grownext.tenant_resume(:one);
SELECT is(grownext.entitled('gc.a', :one), true, 'resumed');

-- Within one statement, between rows
CREATE FUNCTION gc_flip(id uuid) RETURNS boolean LANGUAGE plpgsql VOLATILE AS
$$ BEGIN PERFORM grownext.entitlement_revoke(id); RETURN grownext.entitled('gc.a', '00000000-0000-4000-8000-00000000c001'); END $$;
SAVEPOINT s;
SELECT is(gc_flip(:'grant_id'), false, 'changed by a function, seen by it');
ROLLBACK TO s;

-- Time --------------------------------------------------------------------------------

SET LOCAL grownext.test_clock = '2030-01-01 00:00:00+00';
SELECT grownext.entitlement_grant(:two, 'gc.a', 'true', valid_from => '2030-01-02', valid_until => '2030-01-03');
SELECT is(grownext.entitled('gc.a', :two), false, 'before it begins');
SET LOCAL grownext.test_clock = '2030-01-02 00:00:00+00';
SELECT is(grownext.entitled('gc.a', :two), true, 'from the instant at which it begins');
SET LOCAL grownext.test_clock = '2030-01-02 23:59:59.999999+00';
SELECT is(grownext.entitled('gc.a', :two), true, 'to the last microsecond');
SET LOCAL grownext.test_clock = '2030-01-03 00:00:00+00';
SELECT is(grownext.entitled('gc.a', :two), false, 'and no longer');
SET LOCAL grownext.test_clock = '2030-01-02 12:00:00+00';
SELECT is(grownext.entitled('gc.a', :two), true, 'a clock that is set back');
SELECT is((grownext.entitlement('gc.a', :two, at => '2030-01-03')).allowed, false, 'as of another instant');
SET LOCAL grownext.test_clock = '';
SELECT is(grownext.entitled('gc.a', :two), false, 'the wall clock again');

-- The hierarchy -------------------------------------------------------------------------

SELECT is(grownext.entitled('gc.up', :three), false, 'nobody above has it');
SELECT grownext.entitlement_grant(:one, 'gc.up', 'true') AS up_id \gset
SELECT is(grownext.entitled('gc.up', :three), true, 'a grant two levels above');
SELECT is((grownext.entitlement('gc.up', :three)).source, 'parent', 'is the parent''s');
SELECT is(grownext.entitled('gc.a', :three), false, 'what is not inherited is not');
SELECT grownext.entitlement_block(:three, 'gc.up', 'test') AS block_id \gset
SELECT is((grownext.entitlement('gc.up', :three)).reason, 'blocked', 'the own block is stronger');
SELECT grownext.entitlement_revoke(:'block_id');
SELECT grownext.tenant_suspend(:two, 'test');
SELECT is(grownext.entitled('gc.up', :three), false, 'nothing comes through a suspended tenant');
SELECT grownext.tenant_resume(:two);
SELECT is(grownext.entitled('gc.up', :three), true, 'until it is resumed');
SELECT grownext.tenant_update(:three, '{"parent_id": null}');
SELECT is(grownext.entitled('gc.up', :three), false, 'a tenant that was moved out');
SELECT grownext.tenant_update(:three, format('{"parent_id": "%s"}', :two)::jsonb);
SELECT is(grownext.entitled('gc.up', :three), true, 'and back in');
SELECT grownext.entitlement_revoke(:'up_id');
SELECT is(grownext.entitled('gc.up', :three), false, 'revoked above');
SELECT grownext.entitlement_grant(:one, 'gc.rows', '20');
SELECT is((grownext.entitlement('gc.rows', :three)).value, '20', 'a limit of the parent');
SELECT grownext.entitlement_grant(:three, 'gc.rows', '5');
SELECT is((grownext.entitlement('gc.rows', :three)).value, '5', 'the own one is nearer');
SELECT is((grownext.entitlement('gc.theme', :three)).value, '"plain"', 'a default is the last to ask');
SELECT grownext.entitlement_grant(:two, 'gc.theme', '{"value": "dark"}');
SELECT is((grownext.entitlement('gc.theme', :three)).value, '"dark"', 'after the parent');

-- a pool: setting and counter of the topmost tenant
SELECT grownext.entitlement_grant(:one, 'gc.calls', '10');
SELECT is((grownext.usage_consume('gc.calls', 4, tenant_id => :three)).remaining, 6::bigint, 'a tenant below consumes');
SELECT is((grownext.usage_consume('gc.calls', 5, tenant_id => :two)).remaining, 1::bigint, 'from the same pool');
SELECT is((grownext.usage_consume('gc.calls', 2, tenant_id => :one)).reason, 'quota_exceeded', 'as its owner');
SELECT is((grownext.entitlement('gc.calls', :three)).used, 9::bigint, 'and all see the same counter');
SELECT is((SELECT count(*) FROM grownext.usage_period WHERE feature = 'gc.calls' AND used > 0), 1::bigint, 'of which there is one');

-- Users ---------------------------------------------------------------------------------

SELECT grownext.user_create('gc-ann@example.com', id => '00000000-0000-4000-8000-00000000caaa');
SELECT grownext.user_create('gc-bob@example.com', id => '00000000-0000-4000-8000-00000000cbbb');
SELECT is(grownext.entitled('gc.up', :one), false, 'nobody has it');
SELECT grownext.entitlement_grant(:one, 'gc.up', 'true', user_id => '00000000-0000-4000-8000-00000000caaa');
SELECT is(grownext.entitled('gc.up', :one), false, 'the tenant has not');
SELECT grownext.act_as('00000000-0000-4000-8000-00000000caaa', :one);
SELECT is(grownext.entitled('gc.up'), true, 'one user has');
SELECT is((SELECT count(*) FROM generate_series(1, 3) AS g WHERE grownext.entitled('gc.' || CASE g WHEN 2 THEN 'a' ELSE 'up' END)), 3::bigint, 'several features in one call site');
SELECT grownext.act_as('00000000-0000-4000-8000-00000000cbbb', :one);
SELECT is(grownext.entitled('gc.up'), false, 'another has not');
SELECT grownext.act_as('robot', :one);
SELECT is(grownext.entitled('gc.up'), false, 'nor has who is no user');
SELECT grownext.act_as('00000000-0000-4000-8000-00000000caaa', :one);
SELECT is(grownext.entitled('gc.up'), true, 'and the first still has');

-- A memory for hardly one tenant ------------------------------------------------------------

SET LOCAL grownext.entitlement_cache_size = 64;
SELECT count(grownext.tenant_create('gc-many-' || g, 'Many', id => ('00000000-0000-4000-9000-' || lpad(to_hex(g), 12, '0'))::uuid)) FROM generate_series(1, 300) AS g;
SELECT count(grownext.entitlement_grant(('00000000-0000-4000-9000-' || lpad(to_hex(g), 12, '0'))::uuid, 'gc.a', 'true')) FROM generate_series(1, 300, 3) AS g;
SELECT is((SELECT count(*) FROM generate_series(1, 300) AS g, generate_series(1, 3)
            WHERE grownext.entitled('gc.a', ('00000000-0000-4000-9000-' || lpad(to_hex(g), 12, '0'))::uuid)), 300::bigint, 'every answer is right, three times over');

-- Explain -----------------------------------------------------------------------------------

SELECT grownext.entitlement_explain('gc.a', :one) AS e \gset
SELECT is(:'e'::jsonb ->> 'allowed', 'true', 'explain: the decision');
SELECT is(:'e'::jsonb ->> 'source', 'tenant_grant', 'who decided');
SELECT is((SELECT s ->> 'rule' FROM jsonb_array_elements(:'e'::jsonb -> 'steps') AS s WHERE s -> 'decided' = 'true'), 'tenant_grant', 'the deciding rule');
SELECT is(:'e'::jsonb #>> '{steps,4,candidates,0,id}', :'grant_id', 'and the grant behind it');
SELECT is(jsonb_array_length(:'e'::jsonb -> 'steps'), 5, 'nothing is looked at after it');
SELECT is((SELECT string_agg(s ->> 'rule', ' ') FROM jsonb_array_elements(grownext.entitlement_explain('gc.theme', :three) -> 'steps') AS s),
          'feature tenant block user_grant tenant_grant subscription parent', 'every rule up to the parent');
SELECT is(grownext.entitlement_explain('gc.calls', :three) ->> 'counted_at', :one, 'where a pool is counted');
SELECT is(grownext.entitlement_explain('gc.nothing', :one) #>> '{steps,0}', '{"rule": "feature", "decided": true}', 'an unknown feature');
SELECT is(grownext.entitlement_explain(NULL, :one) ->> 'reason', 'unknown_feature', 'no feature');
SELECT is((SELECT count(*) FROM grownext.feature AS f CROSS JOIN LATERAL grownext.entitlement(f.feature, :three) AS e
            WHERE (grownext.entitlement_explain(f.feature, :three) ->> 'allowed')::boolean IS DISTINCT FROM e.allowed), 0::bigint, 'explanation and answer agree');

SELECT throws_ok($$ SELECT grownext.feature_define('gc.bad', 'gc-app', 'boolean', '{"inherit": "pool"}') $$, '22023', NULL, 'only what is counted can be pooled');
SELECT throws_ok($$ SELECT grownext.feature_define('gc.bad', 'gc-app', 'boolean', '{"inherit": "aunt"}') $$, '22023', NULL, 'an unknown way to inherit');

SELECT * FROM finish();
ROLLBACK;
