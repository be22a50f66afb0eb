-- Signing keys and tokens. In a database of its own, because the master key belongs
-- to the whole server.
\set SHOW_CONTEXT never
\getenv builddir PG_ABS_BUILDDIR
\set key_file :builddir '/results/jwt_master.key'
\setenv KEY_FILE :key_file
\! (umask 077; echo "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=" > "$KEY_FILE")
ALTER SYSTEM SET grownext.master_key_file = :'key_file';
SELECT pg_reload_conf();
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_jwt;
CREATE DATABASE regress_jwt ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0;
\c regress_jwt
CREATE EXTENSION grownext;
SET timezone = 'UTC';

-- base64url of a text, and a token from header and payload with a borrowed signature
CREATE FUNCTION b64(data text) RETURNS text LANGUAGE sql AS
$$ SELECT rtrim(translate(encode(convert_to(data, 'UTF8'), 'base64'), E'+/\n', '-_'), '=') $$;
CREATE FUNCTION unb64(data text) RETURNS jsonb LANGUAGE sql AS
$$ SELECT convert_from(decode(rpad(translate(data, '-_', '+/'), (length(data) + 3) / 4 * 4, '='), 'base64'), 'UTF8')::jsonb $$;
CREATE FUNCTION forged(token text, header jsonb, payload text DEFAULT NULL) RETURNS text LANGUAGE sql AS
$$ SELECT b64(coalesce(unb64(split_part(token, '.', 1)) || header, header)::text) || '.' || coalesce(b64(payload), split_part(token, '.', 2)) || '.' || split_part(token, '.', 3) $$;

-- before setup: the error says what to do
SELECT grownext.jwt_mint('ann');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.jwt_verify('a.b.c');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.discovery();
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.jwks();
SELECT item, state, detail, hint FROM _grownext.jwt_status();

SELECT step, state FROM grownext.setup('https://auth.example.com', ARRAY['my-api', 'other-api']) WHERE step IN ('master key', 'signing key');
SELECT step, state FROM grownext.setup('https://auth.example.com', ARRAY['my-api', 'other-api']) WHERE step IN ('master key', 'signing key');
SELECT purpose, alg, state, provider, activated_at IS NOT NULL AS activated FROM grownext.signing_key;
SELECT kid FROM grownext.signing_key \gset first_
SELECT grownext.discovery();

-- the JWKS holds the public part and nothing else; the kid is the thumbprint
SELECT k ->> 'kid' = :'first_kid' AS same_kid, k ->> 'kid' = grownext.jwk_thumbprint(k) AS thumbprint,
       (SELECT string_agg(m, ' ' ORDER BY m) FROM jsonb_object_keys(k) AS m) AS members
  FROM jsonb_array_elements(grownext.jwks() -> 'keys') AS k;
SELECT grownext.jwks('email');

-- a token says what it must, and what was asked for
SET grownext.test_clock = '2026-01-01 00:00:00.5+00';
SELECT grownext.jwt_mint('ann', '{"tenant_id": "11111111-1111-4111-8111-111111111111", "scope": "read"}') AS token \gset
RESET grownext.test_clock;
SELECT unb64(split_part(:'token', '.', 1)) - 'kid' AS header, unb64(split_part(:'token', '.', 1)) ->> 'kid' = :'first_kid' AS kid;
SELECT unb64(split_part(:'token', '.', 2)) - 'jti' AS claims, length(unb64(split_part(:'token', '.', 2)) ->> 'jti') AS jti;
SELECT length(split_part(:'token', '.', 3)) AS signature;
SELECT (unb64(split_part(t, '.', 2)) ->> 'exp')::int - (unb64(split_part(t, '.', 2)) ->> 'iat')::int AS ttl, unb64(split_part(t, '.', 2)) ->> 'aud' AS audience, unb64(split_part(t, '.', 2)) ->> 'client_id' AS client
  FROM grownext.jwt_mint('ann', '{"client_id": "cli"}', 'other-api', '1 day') AS t;
SELECT count(DISTINCT unb64(split_part(grownext.jwt_mint('ann'), '.', 2)) ->> 'jti') AS different FROM generate_series(1, 100);

-- what it may not say
SELECT grownext.jwt_mint('ann', '{"exp": 1}');
SELECT grownext.jwt_mint('ann', '{"sid": "11111111-1111-4111-8111-111111111111"}');
SELECT grownext.jwt_mint('ann', '{"act": {"sub": "bob"}}');
SELECT grownext.jwt_mint('ann', '{"nested": {"exp": 1}}') IS NOT NULL AS only_on_top;
SELECT grownext.jwt_mint('ann', '{"tenant_id": "acme"}');
SELECT grownext.jwt_mint('ann', '{"role": "nobody here"}');
SELECT grownext.jwt_mint('ann', '{"role": "grownext_owner"}');
SELECT grownext.jwt_mint('ann', '{"role": "pg_read_all_data"}');
SELECT grownext.jwt_mint('ann', '{"role": "grownext_user"}') IS NOT NULL AS minted;
SELECT grownext.jwt_mint('ann', '{"n": 1234567890123456789}');
SELECT grownext.jwt_mint('ann', '[]');
SELECT grownext.jwt_mint('');
SELECT grownext.jwt_mint(NULL);
SELECT grownext.jwt_mint('ann', audience => 'somebody-else');
SELECT grownext.jwt_mint('ann', ttl => '0');
SELECT grownext.jwt_mint('ann', ttl => '25 hours');
SELECT grownext.jwt_mint('ann', ttl => '100000 years');
SELECT grownext.jwt_mint('ann', jsonb_build_object('x', repeat('x', 8000)));
SELECT grownext.jwt_mint('ann', purpose => 'email');
\echo :LAST_ERROR_SQLSTATE

-- verified: claims come back; expired: NX012, with 30 seconds of leeway
SET grownext.test_clock = '2026-01-01 00:10+00';
SELECT grownext.jwt_verify(:'token') - 'jti' AS claims;
SELECT active, error, kid = :'first_kid' AS kid, header ->> 'typ' AS typ, claims ->> 'sub' AS sub FROM grownext.jwt_inspect(:'token');
SELECT grownext.jwt_verify(:'token', 'my-api', 'https://auth.example.com') IS NOT NULL AS verified;
SET grownext.test_clock = '2026-01-01 00:15:29+00';
SELECT grownext.jwt_verify(:'token') IS NOT NULL AS within_leeway;
SET grownext.test_clock = '2026-01-01 00:15:30+00';
SELECT grownext.jwt_verify(:'token');
\echo :LAST_ERROR_SQLSTATE
SELECT active, error, claims ->> 'sub' AS sub FROM grownext.jwt_inspect(:'token');
SET grownext.test_clock = '2025-12-31 23:59:29+00';
SELECT grownext.jwt_verify(:'token');
\echo :LAST_ERROR_SQLSTATE
SET grownext.test_clock = '2026-01-01 00:10+00';

-- no NULL means any
SELECT grownext.jwt_verify(NULL);
SELECT active, error, kid, header, claims FROM grownext.jwt_inspect(NULL);
SELECT grownext.jwt_verify(:'token', 'other-api');
SELECT grownext.jwt_verify(:'token', 'somebody-else');
SELECT grownext.jwt_verify(:'token', issuer => 'https://evil.example.com');
SELECT grownext.jwt_verify(:'token', purpose => 'email');
SELECT grownext.jwt_verify(:'token', purpose => NULL);

-- what published attacks send is refused, by a row and without an error
CREATE TEMP TABLE attack (name text, token text);
INSERT INTO attack
SELECT 'alg ' || alg, forged(:'token', jsonb_build_object('alg', alg))
  FROM unnest(ARRAY['none', 'None', 'NONE', 'nOnE', 'HS256', 'RS256', 'ES384', 'es256', 'ES256 ', '']) AS alg
UNION ALL SELECT 'alg none, no signature', split_part(forged(:'token', '{"alg": "none"}'), '.', 1) || '.' || split_part(:'token', '.', 2) || '.'
UNION ALL SELECT 'no alg', b64('{"kid": "' || :'first_kid' || '"}') || '.' || split_part(:'token', '.', 2) || '.' || split_part(:'token', '.', 3)
UNION ALL SELECT 'signature stripped', split_part(:'token', '.', 1) || '.' || split_part(:'token', '.', 2) || '.'
UNION ALL SELECT 'two segments', split_part(:'token', '.', 1) || '.' || split_part(:'token', '.', 2)
UNION ALL SELECT 'extra segment', :'token' || '.extra'
UNION ALL SELECT 'trailing dot', :'token' || '.'
UNION ALL SELECT 'padding', :'token' || '=='
UNION ALL SELECT 'white space', :'token' || E'\n'
UNION ALL SELECT 'trailing bits', left(:'token', -1) || translate(right(:'token', 1), 'AQgw', 'BRhx')
UNION ALL SELECT 'standard base64', overlay(:'token' placing '+/' from length(:'token') - 10 for 2)
UNION ALL SELECT 'changed payload', forged(:'token', '{}', (unb64(split_part(:'token', '.', 2)) || '{"sub": "root"}')::text)
UNION ALL SELECT 'duplicate exp', forged(:'token', '{}', '{"exp": 5, "exp": 4102444800}')
UNION ALL SELECT 'kid ' || kid, forged(:'token', jsonb_build_object('kid', kid))
  FROM unnest(ARRAY['x'' UNION SELECT ''1'';--', '../../dev/null', '|sleep 10', '', repeat('k', 65)]) AS kid
UNION ALL SELECT 'no kid', b64('{"alg": "ES256", "typ": "at+jwt"}') || '.' || split_part(:'token', '.', 2) || '.' || split_part(:'token', '.', 3)
UNION ALL SELECT 'jwk in the header', forged(:'token', jsonb_build_object('jwk', grownext.jwks() -> 'keys' -> 0))
UNION ALL SELECT 'jku', forged(:'token', '{"jku": "https://evil.example.com/jwks"}')
UNION ALL SELECT 'crit', forged(:'token', '{"crit": ["exp"]}')
UNION ALL SELECT 'zip', forged(:'token', '{"zip": "DEF"}')
UNION ALL SELECT 'typ JWT', forged(:'token', '{"typ": "JWT"}')
UNION ALL SELECT 'no typ', b64('{"alg": "ES256", "kid": "' || :'first_kid' || '"}') || '.' || split_part(:'token', '.', 2) || '.' || split_part(:'token', '.', 3)
UNION ALL SELECT 'JSON serialization', jsonb_build_object('protected', split_part(:'token', '.', 1), 'payload', split_part(:'token', '.', 2), 'signature', split_part(:'token', '.', 3))::text
UNION ALL SELECT 'r and s of 0', split_part(:'token', '.', 1) || '.' || split_part(:'token', '.', 2) || '.' || repeat('A', 86)
UNION ALL SELECT 'a byte too many', :'token' || 'AA'
UNION ALL SELECT 'a signature in DER', split_part(:'token', '.', 1) || '.' || split_part(:'token', '.', 2) || '.MEQCIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABAiAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB'
UNION ALL SELECT 'large', repeat('A', 17000)
UNION ALL SELECT 'nothing', '';
SELECT a.name, i.active, i.error, i.claims IS NOT NULL AS claims FROM attack AS a, grownext.jwt_inspect(a.token) AS i;
-- one changed character anywhere
SELECT count(*) AS mutations, count(*) FILTER (WHERE (grownext.jwt_inspect(overlay(:'token' placing CASE substr(:'token', i, 1) WHEN 'A' THEN 'B' ELSE 'A' END from i for 1))).active) AS accepted
  FROM generate_series(1, length(:'token')) AS i;
SELECT grownext.jwt_verify(:'token' || '.extra');
\echo :LAST_ERROR_SQLSTATE

-- a token of another purpose does not pass for an access token
SELECT grownext.key_rotate('email') AS email_kid \gset
SELECT grownext.jwt_mint('ann', purpose => 'email') AS email_token \gset
SELECT active, error FROM grownext.jwt_inspect(:'email_token');
SELECT active, header ->> 'typ' AS typ, claims ? 'client_id' AS client FROM grownext.jwt_inspect(:'email_token', purpose => 'email');
BEGIN;
SELECT grownext.authenticate(:'email_token');
ROLLBACK;

-- rotation: a standby key is published before it signs, a retiring one is taken until its tokens are gone
SELECT grownext.key_rotate();
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.key_create() AS second_kid \gset
SELECT jsonb_array_length(grownext.jwks('access') -> 'keys') AS published;
DO $$
BEGIN
    PERFORM grownext.key_rotate();
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    RAISE NOTICE 'refused: published too short a time ago';
END $$;
SET grownext.test_clock = '2026-01-01 00:16+00';
SELECT grownext.key_rotate() = :'second_kid' AS rotated;
SELECT kid = :'first_kid' AS first, state, retired_at FROM grownext.signing_key WHERE purpose = 'access' ORDER BY state;
SELECT unb64(split_part(grownext.jwt_mint('ann'), '.', 1)) ->> 'kid' = :'second_kid' AS signs_with_it;
SET grownext.test_clock = '2026-01-01 00:10+00';
SELECT active, error FROM grownext.jwt_inspect(:'token');
-- 25 hours after the rotation the old key is gone, from the JWKS too
SET grownext.test_clock = '2026-01-02 01:15:59+00';
SELECT jsonb_array_length(grownext.jwks('access') -> 'keys') AS published, (grownext.jwt_inspect(:'token')).error;
SET grownext.test_clock = '2026-01-02 01:16+00';
SELECT jsonb_array_length(grownext.jwks('access') -> 'keys') AS published, (grownext.jwt_inspect(:'token')).error;
SET grownext.test_clock = '2026-01-01 00:10+00';
-- force does not wait
SELECT grownext.key_rotate(force => true) <> :'second_kid' AS another;
SELECT state, count(*) FROM grownext.signing_key WHERE purpose = 'access' GROUP BY state ORDER BY state;

-- revocation: at once, for good; the private part is destroyed
SELECT grownext.key_revoke(:'first_kid', '');
SELECT grownext.key_revoke('no such key', 'lost');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.key_revoke(:'first_kid', 'stolen');
SELECT active, error, claims FROM grownext.jwt_inspect(:'token');
SELECT grownext.jwt_verify(:'token');
SELECT k.state, k.revoked_at IS NOT NULL AS revoked, j.sealed FROM grownext.signing_key AS k JOIN _grownext.jwt_key AS j USING (kid) WHERE kid = :'first_kid';
SELECT jsonb_path_exists(grownext.jwks(), '$.keys[*] ? (@.kid == $kid)', jsonb_build_object('kid', :'first_kid')) AS published;
-- undone with a savepoint, it is undone here too
SELECT grownext.jwt_mint('ann') AS token \gset
BEGIN;
SAVEPOINT s;
SELECT grownext.key_revoke(kid, 'by mistake') FROM grownext.signing_key WHERE purpose = 'access' AND state = 'active';
SELECT (grownext.jwt_inspect(:'token')).error;
SELECT grownext.jwt_mint('ann');
ROLLBACK TO s;
SELECT (grownext.jwt_inspect(:'token')).active;
COMMIT;
-- with no active key the next rotation activates at once
SELECT grownext.key_revoke(kid, 'by intent') FROM grownext.signing_key WHERE purpose = 'access' AND state = 'active';
SELECT state, detail, hint FROM _grownext.jwt_status();
SELECT grownext.key_rotate() IS NOT NULL AS rotated;
SELECT state FROM _grownext.jwt_status();

-- what cannot be made
SELECT grownext.key_create('RS1');
SELECT grownext.key_create('none');
SELECT grownext.key_create(purpose => 'Not A Purpose');
SELECT grownext.key_create(provider => 'pkcs11');
SELECT grownext.key_create(ref => '{"slot": 1}');
-- what can
SELECT grownext.key_create(alg, purpose => lower(alg)) IS NOT NULL AS made, grownext.key_rotate(lower(alg)) IS NOT NULL AS active FROM unnest(ARRAY['ES384', 'ES512']) AS alg;
SELECT i.active, i.header ->> 'alg' AS alg, length(split_part(t, '.', 3)) AS signature
  FROM unnest(ARRAY['es384', 'es512']) AS p, grownext.jwt_mint('ann', purpose => p) AS t, grownext.jwt_inspect(t, purpose => p) AS i;

-- every change of keys is in the audit log
SELECT action, count(*) FROM grownext.audit_event WHERE action LIKE 'key.%' GROUP BY action ORDER BY action;
SELECT change FROM grownext.audit_event WHERE action = 'key.revoked' AND target = 'key:' || :'first_kid';

-- generic JOSE: RFC 7515 A.3, RFC 7638 3.1
SELECT valid, error, header, convert_from(payload, 'UTF8') AS payload
  FROM grownext.jws_verify('eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q',
       '{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}');
SELECT grownext.jwk_thumbprint('{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}');
SELECT valid, error, header ->> 'typ' AS typ FROM grownext.jws_verify(:'token', grownext.jwks());
SELECT valid, error FROM grownext.jwt_mint('ann') AS t, grownext.jws_verify(t, grownext.jwks());
SELECT valid, error, header, payload FROM grownext.jws_verify('not a token', grownext.jwks());
SELECT valid, error FROM grownext.jws_verify(NULL, grownext.jwks());
SELECT grownext.jws_verify(:'token', '{"kty":"oct","k":"AAAA"}');
SELECT grownext.jws_verify(:'token', '{"keys":[]}');
SELECT grownext.jwk_thumbprint('{"kty":"oct","k":"AAAA"}');

-- parallel workers verify too
CREATE TABLE held AS SELECT grownext.jwt_mint(i::text) AS token FROM generate_series(1, 200) AS i;
ALTER TABLE held SET (parallel_workers = 2);
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT count(*) FROM held WHERE (grownext.jwt_inspect(token)).active;
SELECT count(*) FROM held WHERE (grownext.jwt_inspect(token)).active;

-- without the master key a token still verifies, and nothing is signed
\c
SELECT item, state FROM _grownext.crypto_status();
\! mv "$KEY_FILE" "$KEY_FILE.away"
SELECT item, state FROM _grownext.crypto_status();
SELECT count(*) FROM held WHERE (grownext.jwt_inspect(token)).active OR (grownext.jwt_inspect(token)).error = 'not_yet_valid' OR (grownext.jwt_inspect(token)).error = 'expired';
DO $$
BEGIN
    PERFORM grownext.jwt_mint('ann');
EXCEPTION WHEN SQLSTATE 'NX017' THEN
    RAISE NOTICE 'refused: no master key';
END $$;
\! mv "$KEY_FILE.away" "$KEY_FILE"
SELECT grownext.jwt_mint('ann') IS NOT NULL AS minted;

ALTER SYSTEM RESET grownext.master_key_file;
SELECT pg_reload_conf();
\! rm -f "$KEY_FILE"
\c contrib_regression
DROP DATABASE regress_jwt WITH (FORCE);
