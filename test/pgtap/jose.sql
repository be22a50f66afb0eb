-- Generic JOSE: jws_sign(), jws_verify(), jwk_thumbprint() with the vectors of RFC 7515, 7520
-- and 8037; what they refuse, and how
BEGIN;
SELECT * FROM no_plan();

CREATE TEMP TABLE jwk (name text PRIMARY KEY, private jsonb, public jsonb);
INSERT INTO jwk (name, private) VALUES
    ('hmac', '{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}'),
    ('rsa', '{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","d":"Eq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyWPEAeP88vLNO97IjlA7_GQ5sLKMgvfTeXZx9SE-7YwVol2NXOoAJe46sui395IW_GO-pWJ1O0BkTGoVEn2bKVRUCgu-GjBVaYLU6f3l9kJfFNS3E0QbVdxzubSu3Mkqzjkn439X0M_V51gfpRLI9JYanrC4D4qAdGcopV_0ZHHzQlBjudU2QvXt4ehNYTCBr6XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl_x_jTj3ccPDVZFD9pIuhLhBOneufuBiB4cS98l2SR_RQyGWSeWjnczT0QU91p1DhOVRuOopznQ","p":"4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH_5IB3jw3bcxGn6QLvnEtfdUdiYrqBdss1l58BQ3KhooKeQTa9AB0Hw_Py5PJdTJNPY8cQn7ouZ2KKDcmnPGBY5t7yLc1QlQ5xHdwW1VhvKn-nXqhJTBgIPgtldC-KDV5z-y2XDwGUc","q":"uQPEfgmVtjL0Uyyx88GZFF1fOunH3-7cepKmtH4pxhtCoHqpWmT8YAmZxaewHgHAjLYsp1ZSe7zFYHj7C6ul7TjeLQeZD_YwD66t62wDmpe_HlB-TnBA-njbglfIsRLtXlnDzQkv5dTltRJ11BKBBypeeF6689rjcJIDEz9RWdc","dp":"BwKfV3Akq5_MFZDFZCnW-wzl-CCo83WoZvnLQwCTeDv8uzluRSnm71I3QCLdhrqE2e9YkxvuxdBfpT_PI7Yz-FOKnu1R6HsJeDCjn12Sk3vmAktV2zb34MCdy7cpdTh_YVr7tss2u6vneTwrA86rZtu5Mbr1C1XsmvkxHQAdYo0","dq":"h_96-mK1R_7glhsum81dZxjTnYynPbZpHziZjeeHcXYsXaaMwkOlODsWa7I9xXDoRwbKgB719rrmI2oKr6N3Do9U0ajaHF-NKJnwgjMd2w9cjz3_-kyNlxAr2v4IKhGNpmM5iIgOS1VZnOZ68m6_pbLBSp3nssTdlqvd0tIiTHU","qi":"IYd7DHOhrWvxkwPQsRM2tOgrjbcrfvtQJipd-DlcxyVuuM9sQLdgjVk2oy26F0EmpScGLq2MowX7fhd_QJQ3ydy5cY7YIBi87w93IKLEdfnbJtoOPLUW0ITrJReOgo1cq9SbsxYawBgfp_gh6A5603k2-ZQwVK0JKSHuLFkuQ3U"}'),
    ('ec', '{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","d":"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}'),
    ('okp', '{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}');
UPDATE jwk SET public = CASE name WHEN 'hmac' THEN private ELSE private - '{d,p,q,dp,dq,qi}'::text[] END;

CREATE FUNCTION pg_temp.key(wanted text) RETURNS jsonb LANGUAGE sql AS 'SELECT private FROM jwk WHERE name = wanted';
CREATE FUNCTION pg_temp.public(wanted text) RETURNS jsonb LANGUAGE sql AS 'SELECT public FROM jwk WHERE name = wanted';
CREATE FUNCTION pg_temp.error(token text, jwk jsonb) RETURNS text LANGUAGE sql AS 'SELECT coalesce(error, ''valid'') FROM grownext.jws_verify(token, jwk)';
CREATE FUNCTION pg_temp.header(token text) RETURNS jsonb LANGUAGE sql AS
$$ SELECT convert_from(decode(rpad(translate(split_part(token, '.', 1), '-_', '+/'), (length(split_part(token, '.', 1)) + 3) / 4 * 4, '='), 'base64'), 'UTF8')::jsonb $$;

-- Vectors: what is signed without chance is the same to the last character
SELECT is(grownext.jws_sign('Example of Ed25519 signing', pg_temp.key('okp')),
    'eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg',
    'RFC 8037 A.4: EdDSA');
SELECT is(grownext.jws_sign(convert_to(E'{"iss":"joe",\r\n "exp":1300819380,\r\n "http://example.com/is_root":true}', 'UTF8'), pg_temp.key('rsa'), '{"alg": "RS256"}'),
    'eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw',
    'RFC 7515 A.2: RS256');
SELECT is(pg_temp.error('eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk', pg_temp.public('hmac')), 'valid', 'RFC 7515 A.1: HS256');
SELECT is(pg_temp.error('eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q', pg_temp.public('ec')), 'valid', 'RFC 7515 A.3: ES256');

-- Every algorithm both ways
CREATE TEMP TABLE algorithm (alg text, key text);
INSERT INTO algorithm SELECT 'HS' || size, 'hmac' FROM unnest(ARRAY[256, 384, 512]) AS size;
INSERT INTO algorithm SELECT kind || size, 'rsa' FROM unnest(ARRAY['RS', 'PS']) AS kind, unnest(ARRAY[256, 384, 512]) AS size;
INSERT INTO algorithm VALUES ('ES256', 'ec'), ('EdDSA', 'okp');
SELECT is(jsonb_build_object('valid', valid, 'payload', payload, 'header', header),
          jsonb_build_object('valid', true, 'payload', '\x00ff'::bytea, 'header', jsonb_build_object('alg', alg, 'kid', 'k1', 'typ', 'x')),
          format('%s signs any bytes and verifies them, and carries its header', alg))
  FROM algorithm,
       LATERAL grownext.jws_sign('\x00ff', pg_temp.key(key) || '{"kid": "k1"}', jsonb_build_object('alg', alg, 'typ', 'x')) AS token,
       LATERAL grownext.jws_verify(token, pg_temp.public(key)) ORDER BY alg;
SELECT is(pg_temp.error(grownext.jws_sign('x', pg_temp.key(a.key), jsonb_build_object('alg', a.alg)), pg_temp.public(b.key) || jsonb_build_object('alg', b.alg)),
          CASE WHEN a.alg = b.alg THEN 'valid' ELSE 'wrong_algorithm' END, format('%s where the key is for %s', a.alg, b.alg))
  FROM algorithm AS a, algorithm AS b ORDER BY a.alg, b.alg;

-- What a header says
SELECT is(pg_temp.header(grownext.jws_sign('', pg_temp.key('ec'))), '{"alg": "ES256"}', 'a curve has its algorithm');
SELECT is(pg_temp.header(grownext.jws_sign('', pg_temp.key('rsa') || '{"alg": "PS512", "kid": "k"}')), '{"alg": "PS512", "kid": "k"}', 'a key may say its own, and its kid');
SELECT is(pg_temp.header(grownext.jws_sign('', pg_temp.key('ec') || '{"kid": "k"}', '{"kid": "l", "typ": "JWT", "x": [1, {"y": null, "z": "\"\u0001é"}]}')),
    '{"alg": "ES256", "kid": "l", "typ": "JWT", "x": [1, {"y": null, "z": "\"\u0001é"}]}', 'the header''s kid counts, and the rest is carried');
SELECT throws_ok(format('SELECT grownext.jws_sign(%L, pg_temp.key(%L), %L)', '', key, header), '22023', message, format('%s with %s', key, header))
  FROM (VALUES ('rsa', '{}', 'the algorithm is open'), ('hmac', '{}', 'the algorithm is open'),
               ('ec', '[]', 'the header is not acceptable: it is not a JSON object'),
               ('ec', '{"alg": "RS256"}', 'the header is not acceptable: its alg is not one that the key can serve'),
               ('ec', '{"alg": "ES384"}', 'the header is not acceptable: its alg is not one that the key can serve'),
               ('ec', '{"alg": "none"}', 'the header is not acceptable: its alg is not one that the key can serve'),
               ('ec', '{"alg": 1}', 'the header is not acceptable: its alg is not one that the key can serve'),
               ('ec', '{"alg": null}', 'the header is not acceptable: its alg is not one that the key can serve'),
               ('ec', '{"crit": ["exp"]}', 'the header is not acceptable: crit and b64 are not supported'),
               ('ec', '{"b64": false}', 'the header is not acceptable: crit and b64 are not supported'),
               ('ec', '{"zip": "DEF"}', NULL), ('ec', '{"enc": "A256GCM"}', NULL), ('ec', '{"kid": 1}', NULL), ('ec', '{"kid": ""}', NULL), ('ec', '{"typ": "é"}', NULL),
               ('ec', '{"x": 99999999999999999999}', NULL), ('ec', '{"x": 1e400}', NULL),
               ('ec', '{"jwk": {"kty": "EC", "d": "AA"}}', 'the header is not acceptable: its jwk has a private part'),
               ('ec', '{"jwk": {"kty": "oct", "k": "AA"}}', 'the header is not acceptable: its jwk has a private part'),
               ('ec', jsonb_build_object('x', repeat('x', 2048))::text, 'the header is not acceptable: it is larger than 2 KiB'),
               ('ec', jsonb_build_object('kid', repeat('x', 65))::text, NULL)) AS c (key, header, message);
SELECT lives_ok($$SELECT grownext.jws_sign('', pg_temp.key('ec'), jsonb_build_object('jwk', pg_temp.public('ec')))$$, 'a public key may be embedded for its receiver');
SELECT throws_ok($$SELECT grownext.jws_sign(decode(repeat('00', 12300), 'hex'), pg_temp.key('ec'))$$, '54000', NULL, 'nothing is signed that is too large to be verified');

-- Keys that do not sign
SELECT throws_ok(format('SELECT grownext.jws_sign(%L, %L, %L)', '', jwk, '{}'), '22023', 'the JWK is not acceptable: ' || why, why)
  FROM (VALUES (pg_temp.public('ec'), 'it has no private part'), (pg_temp.public('rsa') || '{"alg": "RS256"}', 'it has no private part'),
               (jsonb_build_object('keys', jsonb_build_array(pg_temp.key('ec'))), 'it is a set; one key signs'),
               (pg_temp.key('ec') || '{"use": "enc"}', 'its use is not "sig"'),
               (pg_temp.key('ec') || '{"key_ops": ["verify"]}', 'its key_ops do not allow "sign"'),
               (pg_temp.key('ec') || '{"alg": "ES384"}', 'its alg does not fit its kty and crv'),
               (pg_temp.key('ec') || '{"crv": "P-384"}', 'a coordinate is not as long as those of its curve'),
               (pg_temp.key('ec') || '{"crv": "secp256k1"}', 'a key on secp256k1 has to say that its alg is ES256K'),
               (pg_temp.key('rsa') - 'qi' || '{"alg": "RS256"}', 'its private part is not complete'),
               (pg_temp.key('rsa') || '{"alg": "RS256", "oth": []}', 'it has more than two primes'),
               (pg_temp.key('rsa') || '{"alg": "RS256", "e": "Aw"}', 'its private part does not belong to its public part'),
               (pg_temp.key('ec') || '{"d": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"}', 'its private part does not belong to its public part'),
               (pg_temp.key('okp') || '{"d": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"}', 'its x does not belong to its d'),
               ('{"kty": "oct", "alg": "HS256", "k": "c2hvcnQ"}', 'it is shorter than the hash of its algorithm'),
               ('{"kty": "AKP", "alg": "ML-DSA-44"}', 'its kty and crv are not supported'),
               ('{}', 'it has no kty'), ('[]', 'it is not a JSON object of up to 256 KiB'), ('1', 'it is not a JSON object of up to 256 KiB'), ('null', 'it is not a JSON object of up to 256 KiB')) AS c (jwk, why);
SELECT is(grownext.jws_sign(NULL, pg_temp.key('ec')), NULL, 'NULL is signed by nobody');

-- Keys that do not verify raise; tokens that are bad do not
SELECT throws_ok(format('SELECT grownext.jws_verify(%L, %L)', 'x', jwk), '22023', 'the JWK is not acceptable: ' || why, 'verify: ' || why)
  FROM (VALUES (pg_temp.key('rsa'), 'it is a private key; only public keys may be passed around'),
               (pg_temp.key('okp'), 'it is a private key; only public keys may be passed around'),
               (jsonb_build_object('keys', jsonb_build_array(pg_temp.public('ec'), pg_temp.public('hmac'))), 'it has symmetric keys beside public ones'),
               (jsonb_build_object('keys', jsonb_build_array(pg_temp.public('ec') || '{"kid": "a"}', pg_temp.public('rsa') || '{"kid": "a"}')), 'two keys have the same kid'),
               (pg_temp.public('rsa') || '{"e": "AQ"}', 'its e is not an odd number of 3 or more'),
               (pg_temp.public('rsa') || '{"n": "AQAB"}', 'its n is not an odd number of 2048 to 8192 bits'),
               (pg_temp.public('ec') || '{"y": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"}', 'its point is not on the curve')) AS c (jwk, why);
SELECT throws_ok('SELECT grownext.jws_verify(''x'', NULL)', '22023', 'the JWK is not acceptable: it is NULL', 'no key at all');
SELECT is(pg_temp.error(token, pg_temp.public('ec')), error, format('%s: %s', coalesce(translate(left(token, 30), E'\n', ' '), 'NULL'), error))
  FROM (VALUES (NULL, 'malformed'), ('', 'malformed'), ('a.b', 'malformed'), ('a.b.c.d', 'malformed'), (repeat('x', 20000), 'too_large'),
               (E'eyJhbGciOiJFUzI1NiJ9\n.e30.AA', 'malformed'), ('eyJhbGciOiJFUzI1NiJ9.e30.AA', 'bad_signature'), ('eyJhbGciOiJub25lIn0.e30.', 'wrong_algorithm'),
               ('eyJhbGciOiJFUzI1NiIsImNyaXQiOltdfQ.e30.AA', 'unsupported_critical')) AS c (token, error);
SELECT is(pg_temp.error(grownext.jws_sign('x', pg_temp.key('ec') || '{"kid": "a"}'), jsonb_build_object('keys', jsonb_build_array(pg_temp.public('ec') || '{"kid": "b"}', pg_temp.public('rsa') || '{"kid": "c"}'))),
    'unknown_key', 'a kid that the set has not got');

-- Only trusted back ends hand over private keys
CREATE ROLE regress_jose_service IN ROLE grownext_service;
CREATE ROLE regress_jose_user IN ROLE grownext_user;
GRANT SELECT ON jwk TO regress_jose_service, regress_jose_user;
SET LOCAL ROLE regress_jose_service;
SELECT lives_ok($$SELECT grownext.jws_sign('', private) FROM jwk WHERE name = 'ec'$$, 'a service signs');
SET LOCAL ROLE regress_jose_user;
SELECT throws_ok($$SELECT grownext.jws_sign('', private) FROM jwk WHERE name = 'ec'$$, '42501', NULL, 'a user does not');
SELECT lives_ok($$SELECT grownext.jws_verify('x', public) FROM jwk WHERE name = 'ec'$$, 'and verifies');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
