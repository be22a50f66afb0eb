-- Tables that are read page by page, whatever was done to them; core_touch() makes the
-- backend read them again
\ir ../lib/master_key.psql
BEGIN;
SELECT * FROM no_plan();
SELECT * FROM grownext.setup('https://auth.test', ARRAY['api']) \g /dev/null
SELECT grownext.jwt_mint('ann') AS token \gset
SELECT kid FROM grownext.signing_key WHERE purpose = 'access' AND state = 'active' \gset
CREATE FUNCTION read_again(token text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM _grownext.core_touch('jwt_marker_key');
    PERFORM _grownext.core_touch('core_marker_option');
    RETURN grownext.jwt_verify(token) ->> 'sub';
END $$;
SELECT is(read_again(:'token'), 'ann', 'a token of a key of the first page');

-- more rows than a page holds, and versions of rows that are not there any more
INSERT INTO _grownext.jwt_key (kid, purpose, alg, state, provider, public_jwk, created_at, published_at, revoked_at, revoke_reason)
SELECT substr(translate(encode(sha256(i::text::bytea), 'base64'), '+/=', '-_A'), 1, 43), 'access', 'ES256', 'revoked', 'local', public_jwk, now(), now(), now(), 'filler'
  FROM _grownext.jwt_key, generate_series(1, 200) AS i WHERE kid = :'kid';
UPDATE _grownext.jwt_key SET revoke_reason = 'filler again' WHERE revoke_reason = 'filler';
UPDATE _grownext.jwt_key SET longest_ttl = longest_ttl WHERE kid = :'kid';
SELECT cmp_ok(pg_relation_size('_grownext.jwt_key'), '>', 8 * 8192::bigint, 'many pages');
SELECT is(read_again(:'token'), 'ann', 'a token of a key of the last page');

-- values that are not in the row
UPDATE _grownext.jwt_key SET public_jwk = public_jwk || jsonb_build_object('x5c', (SELECT jsonb_agg(sha512(i::text::bytea)) FROM generate_series(1, 200) AS i)) WHERE kid = :'kid';
SELECT is(read_again(:'token'), 'ann', 'a public key that is stored out of line');

-- columns
SAVEPOINT s;
ALTER TABLE _grownext.jwt_key RENAME COLUMN provider TO provider_before;
ALTER TABLE _grownext.jwt_key ADD COLUMN provider text NOT NULL DEFAULT 'local';
SELECT is(read_again(:'token'), 'ann', 'a column that older rows do not hold');
SELECT is(read_again(grownext.jwt_mint('bea')), 'bea', 'has its default there');
ROLLBACK TO s;
ALTER TABLE _grownext.jwt_key ADD COLUMN passing int;
ALTER TABLE _grownext.jwt_key DROP COLUMN passing;
SELECT is(read_again(:'token'), 'ann', 'a column that was dropped');
ALTER TABLE _grownext.jwt_profile ADD COLUMN later text;
SELECT grownext.token_profile_define('access', '{"audiences": ["elsewhere"]}') \g /dev/null
SELECT throws_matching(format('SELECT read_again(%L)', :'token'), 'not valid', 'a profile');
SELECT is(read_again(grownext.jwt_mint('bea')), 'bea', 'and what it says');
DELETE FROM _grownext.jwt_profile;
SELECT is(read_again(:'token'), 'ann', 'no profile any more');

-- files
SAVEPOINT s;
ALTER TABLE _grownext.jwt_key ALTER COLUMN longest_ttl TYPE bigint;
SELECT is(read_again(:'token'), 'ann', 'a table that was written anew');
ALTER TABLE _grownext.jwt_key SET UNLOGGED;
SELECT is(read_again(:'token'), 'ann', 'one that is not logged');
TRUNCATE _grownext.jwt_key;
SELECT throws_matching(format('SELECT read_again(%L)', :'token'), 'not valid', 'an empty one');
ROLLBACK TO s;
SELECT is(read_again(:'token'), 'ann', 'all of it rolled back');
TRUNCATE _grownext.core_option;
SELECT throws_ok(format('SELECT read_again(%L)', :'token'), 'NX003', NULL, 'without options nothing is set up');
ROLLBACK TO s;
ALTER TABLE _grownext.jwt_key RENAME TO jwt_key_away;
SELECT throws_ok(format('SELECT read_again(%L)', :'token'), 'NX003', 'extension "grownext" is not installed in this database', 'a table that is not there');
ROLLBACK TO s;
SELECT is(read_again(:'token'), 'ann', 'it is there again');

SELECT * FROM finish();
ROLLBACK;
