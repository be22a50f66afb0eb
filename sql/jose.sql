-- Platform keys of every algorithm, and what a backend remembers of tokens. In a database of
-- its own, because the master key belongs to the whole server.
\set SHOW_CONTEXT never
\getenv builddir PG_ABS_BUILDDIR
\set key_file :builddir '/results/jose_master.key'
\setenv KEY_FILE :key_file
\! (umask 077; echo "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=" > "$KEY_FILE")
ALTER SYSTEM SET grownext.master_key_file = :'key_file';
SELECT pg_reload_conf();
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_jose;
CREATE DATABASE regress_jose ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0;
\c regress_jose
CREATE EXTENSION grownext;
SET timezone = 'UTC';
SELECT count(*) > 0 AS set_up FROM grownext.setup('https://auth.example.com', ARRAY['my-api', 'other-api']);

-- a key of every algorithm signs, and its tokens verify
CREATE TABLE algorithm AS SELECT alg, lower(alg) AS purpose FROM unnest(ARRAY['HS256', 'HS384', 'HS512',
    'RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'ES256K', 'EdDSA']) AS alg;
SELECT count(grownext.key_create(alg, purpose)) AS made FROM algorithm;
SELECT count(grownext.key_rotate(purpose)) AS active FROM algorithm;
SELECT alg, header ->> 'alg' AS says, active, error, (grownext.jwt_verify(token, purpose => purpose) ->> 'scope') AS scope
  FROM algorithm, LATERAL grownext.jwt_mint('ann', '{"scope": "read"}', purpose => purpose) AS token,
       LATERAL grownext.jwt_inspect(token, purpose => purpose)
 ORDER BY alg;
-- the public part is published, and generic JOSE takes it; a secret has none
SELECT alg, (SELECT string_agg(m, ' ' ORDER BY m) FROM jsonb_object_keys(public_jwk) AS m) AS members, jsonb_array_length(jwks -> 'keys') AS published,
       CASE WHEN jsonb_array_length(jwks -> 'keys') > 0 THEN (grownext.jws_verify(grownext.jwt_mint('ann', purpose => purpose), jwks)).valid END AS valid
  FROM grownext.signing_key, grownext.jwks(purpose) WHERE purpose <> 'access' ORDER BY alg;
SELECT alg, kid = grownext.jwk_thumbprint(public_jwk) AS thumbprint FROM grownext.signing_key WHERE alg NOT LIKE 'HS%' AND purpose <> 'access' ORDER BY alg;
SELECT grownext.discovery() -> 'id_token_signing_alg_values_supported';
-- sizes of RSA
SELECT length(public_jwk ->> 'n') FROM grownext.signing_key WHERE alg = 'RS256';
SELECT grownext.key_create('PS256', 'large', ref => '{"bits": 4096}') IS NOT NULL AS made;
SELECT length(public_jwk ->> 'n') FROM grownext.signing_key WHERE purpose = 'large';
SELECT grownext.key_create('RS256', ref => '{"bits": 1024}');
SELECT grownext.key_create('RS256', ref => '{"bits": "2048"}');
SELECT grownext.key_create('EdDSA', ref => '{"bits": 2048}');
SELECT grownext.key_create('HS1');

-- A token is verified once and then looked up; each time it is asked what may have changed
CREATE TABLE held AS SELECT i, grownext.jwt_mint('user ' || i, ttl => '1 hour') AS token FROM generate_series(1, 700) AS i;
-- more of them than are remembered, in both directions
SELECT count(*) AS wrong FROM (SELECT i, token FROM held UNION ALL SELECT i, token FROM held) AS t WHERE grownext.jwt_verify(token) ->> 'sub' <> 'user ' || i;
SELECT count(*) AS wrong FROM (SELECT * FROM held ORDER BY i DESC) AS t WHERE grownext.jwt_verify(token) ->> 'sub' <> 'user ' || i;
SELECT token, left(token, -1) || CASE right(token, 1) WHEN 'A' THEN 'Q' ELSE 'A' END AS other_signature,
       grownext.jwt_mint('ann', audience => 'other-api') AS other FROM held WHERE i = 1 \gset
SELECT active, error, claims ->> 'sub' AS sub, header ->> 'typ' AS typ, kid IS NOT NULL AS kid FROM grownext.jwt_inspect(:'token');
SELECT active, error, claims ->> 'sub' AS sub, header ->> 'typ' AS typ, kid IS NOT NULL AS kid FROM grownext.jwt_inspect(:'token');
-- what was signed is the same, the signature is not
SELECT active, error FROM grownext.jwt_inspect(:'other_signature');
-- remembered for one audience, refused for the other
SELECT active, error FROM grownext.jwt_inspect(:'token', 'other-api');
SELECT active, error FROM grownext.jwt_inspect(:'token', 'my-api');
SELECT active, error FROM grownext.jwt_inspect(:'other', 'other-api');
SELECT active, error FROM grownext.jwt_inspect(:'other');
-- remembered for one purpose, refused for another
SELECT active, error FROM grownext.jwt_inspect(:'token', purpose => 'es256');
-- time goes by, and back
SELECT expires + interval '29 seconds' AS within, expires + interval '30 seconds' AS beyond, expires - interval '1 hour 31 seconds' AS before
  FROM to_timestamp((grownext.jwt_verify(:'token') ->> 'exp')::float8) AS expires \gset
SET grownext.test_clock = :'within';
SELECT active, error FROM grownext.jwt_inspect(:'token');
SET grownext.test_clock = :'beyond';
SELECT active, error, claims ->> 'sub' AS sub FROM grownext.jwt_inspect(:'token');
SELECT grownext.jwt_verify(:'token');
SET grownext.test_clock = :'before';
SELECT active, error FROM grownext.jwt_inspect(:'token');
RESET grownext.test_clock;
SELECT active, error FROM grownext.jwt_inspect(:'token');
-- a key that is revoked, and not after all
BEGIN;
SELECT grownext.key_revoke(kid, 'stolen') FROM grownext.signing_key WHERE purpose = 'access' AND state = 'active';
SELECT active, error FROM grownext.jwt_inspect(:'token');
ROLLBACK;
SELECT active, error FROM grownext.jwt_inspect(:'token');
BEGIN;
SAVEPOINT before;
SELECT grownext.key_revoke(kid, 'stolen') FROM grownext.signing_key WHERE purpose = 'access' AND state = 'active';
SELECT active, error FROM grownext.jwt_inspect(:'token');
ROLLBACK TO before;
SELECT active, error FROM grownext.jwt_inspect(:'token');
COMMIT;
-- an audience that is no longer ours
SELECT count(*) > 0 AS set_up FROM grownext.setup('https://auth.example.com', ARRAY['other-api']);
SELECT active, error FROM grownext.jwt_inspect(:'token');
SELECT count(*) > 0 AS set_up FROM grownext.setup('https://auth.example.com', ARRAY['my-api']);
SELECT active, error FROM grownext.jwt_inspect(:'token');
-- a key that retires, and then is done with
SELECT grownext.key_rotate(force => true) IS NOT NULL AS rotated;
SELECT active, error FROM grownext.jwt_inspect(:'token');
UPDATE _grownext.jwt_key SET accepted_until = now() WHERE state = 'retiring' AND purpose = 'access';
SELECT active, error FROM grownext.jwt_inspect(:'token');
UPDATE _grownext.jwt_key SET accepted_until = now() + interval '1 hour' WHERE state = 'retiring' AND purpose = 'access';
SELECT active, error FROM grownext.jwt_inspect(:'token');
SELECT grownext.key_revoke(kid, 'stolen') FROM grownext.signing_key WHERE purpose = 'access' AND state = 'retiring';
SELECT active, error FROM grownext.jwt_inspect(:'token');
SELECT active, error FROM grownext.jwt_inspect(:'token');

-- damage is said when the key is needed, and harms no other
UPDATE _grownext.jwt_key SET public_jwk = '{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}' WHERE purpose = 'es256';
SELECT token AS damaged FROM (SELECT grownext.jwt_mint('ann') AS token) AS t \gset
SELECT active, error FROM grownext.jwt_inspect(:'damaged');
\set VERBOSITY sqlstate
SELECT grownext.jwt_mint('ann', purpose => 'es256');
\set VERBOSITY default
ALTER SYSTEM RESET grownext.master_key_file;
SELECT pg_reload_conf();
\! rm -f "$KEY_FILE"
\c contrib_regression
DROP DATABASE regress_jose WITH (FORCE);
