-- Entitlements in tokens: on request of the profile, a bitset over the catalogue with the
-- versions of what it depends on; and what becomes of it once something changed.
\set QUIET 1
\o /dev/null
\set key_file `pwd` '/entitlement_claims_tap.key'
\setenv KEY_FILE :key_file
\! (umask 077; echo "k1:$(openssl rand -base64 32)" > "$KEY_FILE")
ALTER SYSTEM SET grownext.master_key_file = :'key_file';
SELECT pg_reload_conf();
\c
\o
SET client_min_messages = warning;
SELECT * FROM no_plan();

CREATE ROLE regress_ec_service IN ROLE grownext_service;
CREATE ROLE regress_ec_user IN ROLE grownext_user;
\o /dev/null
SELECT grownext.setup('https://auth.example.com', ARRAY['my-api']);
\set ann '''a1111111-1111-4111-8111-1111111111ec'''
\set bob '''b1111111-1111-4111-8111-1111111111ec'''
\set one '''00000000-0000-4000-8000-0000000ec001'''
\set two '''00000000-0000-4000-8000-0000000ec002'''
SELECT grownext.user_create('ann-ec@example.com', id => :ann);
SELECT grownext.user_create('bob-ec@example.com', id => :bob);
SELECT grownext.product_define('ec', 'App');
SELECT grownext.feature_define('ec.f' || g, 'ec', CASE g WHEN 2 THEN 'limit' WHEN 5 THEN 'metered' ELSE 'boolean' END) FROM generate_series(0, 9) AS g;
SELECT grownext.tenant_create('ec-one', 'One', owner_id => :ann, id => :one);
SELECT grownext.tenant_create('ec-two', 'Two', owner_id => :bob, id => :two);
SELECT grownext.entitlement_grant(:one, 'ec.f0', 'true');
SELECT grownext.entitlement_grant(:one, 'ec.f2', '5') AS limit_id \gset
SELECT grownext.entitlement_grant(:one, 'ec.f5', '0');
SELECT grownext.entitlement_grant(:one, 'ec.f9', 'true');
-- the claims of a token
CREATE FUNCTION pg_temp.claims_of(token text) RETURNS jsonb LANGUAGE sql AS $$ SELECT grownext.jwt_verify(token) $$;
\o

-- The bitset --------------------------------------------------------------------------

SELECT has_type('grownext', 'entitlement_claims_state', 'type entitlement_claims_state');
SELECT is(grownext.entitlement_claims(:one) ->> 'ent', 'BQI', 'features 0, 2 and 9: bytes 05 02, the lowest bit first');
SELECT is(grownext.entitlement_claims(:two) ->> 'ent', '', 'nothing is an empty bitset');
SELECT is(grownext.entitlement_claims('00000000-0000-4000-8000-0000000ec0ff') ->> 'ent', '', 'an unknown tenant has nothing');
SELECT is((SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(grownext.entitlement_claims(:one)) AS k), '{ent,entc,entv}', 'no limit and no balance');
SELECT ok(grownext.entitlement_claims(:one) ->> 'entc' ~ '^[A-Za-z0-9_-]{11}$' AND grownext.entitlement_claims(:one) ->> 'entv' ~ '^[A-Za-z0-9_-]{11}$', 'versions of 64 bits');
SELECT is(grownext.entitlement_catalogue() ->> 'entc', grownext.entitlement_claims(:one) ->> 'entc', 'entitlement_catalogue() has the version');
SELECT is(grownext.entitlement_catalogue() -> 'features' ->> 9, 'ec.f9', 'and the names by bit');
SELECT is((SELECT array_agg(e.allowed ORDER BY f.id) FROM grownext.entitlements(:one) AS e JOIN _grownext.entitlement_feature AS f USING (feature)),
          (SELECT array_agg(get_bit('\x0502'::bytea, f.id) = 1 ORDER BY f.id) FROM _grownext.entitlement_feature AS f), 'the bits are the answers of entitlements()');

-- In tokens, on request -----------------------------------------------------------------

SELECT ok(NOT pg_temp.claims_of(grownext.session_create(:ann, :one) ->> 'access_token') ? 'ent', 'not asked for: no claim');
SELECT throws_ok($$ SELECT grownext.token_profile_define('access', '{"entitlements": "yes"}') $$, '22023', NULL, 'a boolean');
SELECT lives_ok($$ SELECT grownext.token_profile_define('access', '{"entitlements": true}') $$, 'a profile asks');
SELECT is((SELECT entitlements FROM grownext.token_profile WHERE purpose = 'access'), true, 'and its view says so');
SELECT grownext.session_create(:ann, :one) ->> 'access_token' AS token \gset
SELECT pg_temp.claims_of(:'token')::text AS claims \gset
SELECT is(:'claims'::jsonb - (SELECT array_agg(k) FROM jsonb_object_keys(:'claims'::jsonb) AS k WHERE k NOT LIKE 'ent%'), grownext.entitlement_claims(:one, :ann), 'a session''s token has them');
SELECT ok(NOT pg_temp.claims_of(grownext.session_create(:ann) ->> 'access_token') ? 'ent', 'not without a tenant');
SELECT is(pg_temp.claims_of(grownext.jwt_mint('ann', jsonb_build_object('tenant_id', :one))) ->> 'ent', 'BQI', 'a minted token has them');
SELECT ok(NOT pg_temp.claims_of(grownext.jwt_mint('ann')) ? 'ent', 'a token without claims does not');
SELECT throws_ok(format('SELECT grownext.jwt_mint(''ann'', %L)', jsonb_build_object('tenant_id', :one, c, 'x')), '22023', format('claim "%s" is reserved', c), 'nobody says ' || c || ' himself')
  FROM unnest('{ent,entc,entv}'::text[]) AS c;

-- Current or not ------------------------------------------------------------------------

SELECT is(grownext.entitlement_claims_check(:'claims'), '(t,"{ec.f0,ec.f2,ec.f9}")'::grownext.entitlement_claims_state, 'as it was minted');
BEGIN;
SELECT grownext.entitlement_grant(:two, 'ec.f0', 'true');
SELECT is((grownext.entitlement_claims_check(:'claims')).current, true, 'another tenant''s change is none');
SELECT grownext.entitlement_grant(:one, 'ec.f1', 'true') AS grant_id \gset
SELECT is(grownext.entitlement_claims_check(:'claims'), '(f,"{ec.f0,ec.f2,ec.f9}")'::grownext.entitlement_claims_state, 'more was granted: not current, still readable');
SELECT grownext.entitlement_revoke(:'grant_id');
SELECT is((grownext.entitlement_claims_check(:'claims')).current, true, 'taken back: true again');
SELECT grownext.entitlement_grant(:one, 'ec.f2', '6');
SELECT is(grownext.entitlement_claims(:one) ->> 'ent', 'BQI', 'another limit is no other bit');
SELECT is((grownext.entitlement_claims_check(:'claims')).current, false, 'but another version');
ROLLBACK;
SELECT is((grownext.entitlement_claims_check(:'claims')).current, true, 'rolled back: true again');
BEGIN;
SELECT grownext.feature_define('ec.new', 'ec', 'boolean');
SELECT is(grownext.entitlement_claims_check(:'claims'), '(f,)'::grownext.entitlement_claims_state, 'another catalogue: the bits have no names');
ROLLBACK;
BEGIN;
SELECT grownext.tenant_suspend(:one, 'test');
SELECT is((grownext.entitlement_claims_check(:'claims')).current, false, 'suspended: not current');
ROLLBACK;
BEGIN;
SELECT grownext.entitlement_grant(:one, 'ec.f3', 'true', user_id => :ann);
SELECT is((grownext.entitlement_claims_check(:'claims')).current, false, 'a grant to the token''s user');
SELECT is((grownext.entitlement_claims_check(:'claims'::jsonb || jsonb_build_object('sub', :bob))).current, true, 'is nothing to another user''s');
ROLLBACK;
-- time passes, nobody writes
BEGIN;
SET LOCAL grownext.test_clock = '2040-01-01 00:00:00+00';
SELECT grownext.entitlement_grant(:one, 'ec.f8', 'true', valid_until => '2040-01-02');
SELECT grownext.entitlement_claims(:one) || jsonb_build_object('tenant_id', :one) AS timed \gset
SELECT is((grownext.entitlement_claims_check(:'timed')).current, true, 'before a grant ends');
SET LOCAL grownext.test_clock = '2040-01-02 00:00:00+00';
SELECT is((grownext.entitlement_claims_check(:'timed')).current, false, 'and when it has ended');
ROLLBACK;
-- an older snapshot
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT is((grownext.entitlement_claims_check(:'claims')).current, true, 'by the snapshot of REPEATABLE READ');
COMMIT;

-- What others may have written ------------------------------------------------------------

SELECT is(grownext.entitlement_claims_check(:'claims'::jsonb || jsonb_build_object('ent', v.ent)), '(f,)'::grownext.entitlement_claims_state, v.what)
  FROM (VALUES ('"BQI="'::jsonb, 'padding'), ('"BQ I"', 'a space'), ('"B"', 'a length that there is not'), ('"BQJ"', 'stray bits'), ('"$$$"', 'another alphabet'),
               ('"/w"', 'base64 without url'), ('"BQL_"', 'bits beyond the catalogue'), (to_jsonb(repeat('A', 4000)), 'a huge bitset'), (to_jsonb(repeat('_', 1000000)), 'a huger one'),
               ('5', 'a number'), ('null', 'null'), ('{}', 'an object'), ('["BQI"]', 'an array')) AS v (ent, what);
SELECT is(grownext.entitlement_claims_check(:'claims'::jsonb || '{"ent": "_wM"}'), '(f,"{ec.f0,ec.f1,ec.f2,ec.f3,ec.f4,ec.f5,ec.f6,ec.f7,ec.f8,ec.f9}")'::grownext.entitlement_claims_state,
          'other bits under the right versions are not current');
SELECT is(grownext.entitlement_claims_check(:'claims'::jsonb || '{"ent": "BQIA"}'), '(f,"{ec.f0,ec.f2,ec.f9}")'::grownext.entitlement_claims_state, 'nor is another spelling of the same');
SELECT is((grownext.entitlement_claims_check(:'claims'::jsonb || c)).current, false, c::text)
  FROM unnest('{"{\"entv\": \"AAAAAAAAAAA\"}","{\"entc\": \"AAAAAAAAAAA\"}","{\"entv\": 1}","{\"entv\": null}"}'::jsonb[]) AS c;
SELECT is(grownext.entitlement_claims_check(:'claims'::jsonb - 'ent'), '(f,)'::grownext.entitlement_claims_state, 'no bitset at all');
SELECT throws_ok($$ SELECT grownext.entitlement_claims_check('{}') $$, '22023', 'the claims name no tenant', 'no tenant');
SELECT throws_ok($$ SELECT grownext.entitlement_claims_check('{"tenant_id": "x"}') $$, '22023', 'the claims name no tenant', 'a tenant that is none');
SELECT throws_ok($$ SELECT grownext.entitlement_claims_check('[]') $$, '22023', 'the claims name no tenant', 'no object');
SELECT throws_ok($$ SELECT grownext.entitlement_claims_check() $$, 'NX010', NULL, 'no claims and nobody who calls');

-- A catalogue whose bits are too many for a token
BEGIN;
INSERT INTO _grownext.entitlement_feature (id, feature, product, kind, fold, created_at, updated_at)
SELECT g, 'ec.many' || g, 'ec', 'boolean', 'any', now(), now() FROM generate_series(10, 17000) AS g;
SELECT is(length(pg_temp.claims_of(grownext.session_create(:ann, :one) ->> 'access_token') ->> 'ent'), 3, 'zeroes at the end cost nothing');
SELECT grownext.entitlement_grant(:one, 'ec.many17000', 'true');
SELECT is(grownext.entitlement_claims(:one), NULL, 'too many: there are no such claims');
SELECT ok(NOT pg_temp.claims_of(grownext.session_create(:ann, :one) ->> 'access_token') ? 'entv', 'and a token does without');
ROLLBACK;

-- Rights ----------------------------------------------------------------------------------

BEGIN;
SET LOCAL ROLE regress_ec_user;
SELECT grownext.authenticate(:'token');
SELECT is((grownext.entitlement_claims_check()).current, true, 'an end user asks about the own token');
SELECT is(grownext.entitlement_claims(), grownext.entitlement_claims(:one), 'and for the own claims');
SELECT throws_ok(format('SELECT grownext.entitlement_claims(%L)', :two), '42501', NULL, 'not for another tenant''s');
SELECT throws_ok(format('SELECT grownext.entitlement_claims(NULL, %L)', :bob), '42501', NULL, 'nor another user''s');
SELECT throws_ok(format('SELECT grownext.entitlement_claims_check(%L)', :'claims'::jsonb || jsonb_build_object('tenant_id', :two)), '42501', NULL, 'nor about a token of another tenant');
SELECT throws_ok(format('SELECT grownext.entitlement_claims_check(%L)', :'claims'::jsonb || jsonb_build_object('sub', :bob)), '42501', NULL, 'or user');
SELECT is(grownext.entitlement_catalogue() -> 'features' ->> 0, 'ec.f0', 'the catalogue is no secret');
ROLLBACK;
SET ROLE regress_ec_service;
SELECT is((grownext.entitlement_claims_check(:'claims')).current, true, 'a service asks about any');
RESET ROLE;
SELECT function_privs_are('grownext', 'entitlement_claims', ARRAY['uuid', 'uuid'], 'grownext_anon', '{}'::text[], 'nobody asks for no one');

SELECT * FROM finish();
\o /dev/null
DROP ROLE regress_ec_service, regress_ec_user;
ALTER SYSTEM RESET grownext.master_key_file;
SELECT pg_reload_conf();
