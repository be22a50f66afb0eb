-- Second factors and step-up, with codes computed here by pgcrypto
\ir ../lib/master_key.psql
CREATE EXTENSION pgcrypto;
BEGIN;
SELECT * FROM no_plan();
SELECT set_config('grownext.test_clock', '2030-01-01 12:00:00+00', true) AS at \gset
SELECT count(*) AS steps FROM grownext.setup('https://auth.example.com', ARRAY['my-api']) \gset
\set ann '''a1111111-1111-4111-8111-111111111111''::uuid'
\set bob '''b1111111-1111-4111-8111-111111111111''::uuid'
SELECT grownext.user_create('ann@example.com', 'Ann', id => :ann) = :ann AS made \gset
SELECT grownext.user_create('bob@example.com', 'Bob', id => :bob) = :bob AS made \gset

-- RFC 4648 and RFC 6238 once more, and not by our own code
CREATE FUNCTION pg_temp.unbase32(secret text) RETURNS bytea LANGUAGE sql AS $$
    SELECT string_agg(set_byte('\x00', 0, substring(bits FROM i * 8 + 1 FOR 8)::bit(8)::int), '' ORDER BY i)
      FROM (SELECT string_agg((strpos('ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', c) - 1)::bit(5)::text, '' ORDER BY n) AS bits
              FROM unnest(string_to_array(secret, NULL)) WITH ORDINALITY AS x (c, n)) AS b,
           generate_series(0, length(bits) / 8 - 1) AS i;
$$;
CREATE FUNCTION pg_temp.code(secret text, at timestamptz, steps int DEFAULT 0, algorithm text DEFAULT 'sha1', digits int DEFAULT 6) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    mac CONSTANT bytea := hmac(int8send(floor(extract(epoch FROM at) / 30)::bigint + steps), pg_temp.unbase32(secret), algorithm);
    place CONSTANT int := get_byte(mac, length(mac) - 1) & 15;
BEGIN
    RETURN lpad(((((get_byte(mac, place) & 127)::bigint << 24) + (get_byte(mac, place + 1) << 16) + (get_byte(mac, place + 2) << 8) + get_byte(mac, place + 3))
                 % (10 ^ digits)::bigint)::text, digits, '0');
END
$$;
CREATE FUNCTION pg_temp.wrong(right_code text) RETURNS text LANGUAGE sql AS $$
    SELECT translate(right_code, '0123456789', '1234567890');
$$;
-- any of the codes that would count now
CREATE FUNCTION pg_temp.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT current_setting('grownext.test_clock')::timestamptz $$;
CREATE FUNCTION pg_temp.clock(at text) RETURNS void LANGUAGE sql AS $$ SELECT set_config('grownext.test_clock', at, true) $$;

SELECT is(pg_temp.code('GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ', to_timestamp(59), 0, 'sha1', 8), '94287082', 'this test computes as RFC 6238 does');

-- Enrolment -------------------------------------------------------------------------

SELECT grownext.totp_enroll(:ann) AS factor \gset
SELECT is(ARRAY(SELECT jsonb_object_keys(:'factor') ORDER BY 1), ARRAY['algorithm', 'digits', 'factor_id', 'period', 'recovery_codes', 'secret', 'uri'], 'what an enrolment shows');
SELECT :'factor'::jsonb ->> 'secret' AS secret \gset
SELECT matches(:'secret'::text, '^[A-Z2-7]{32}$', 'a secret of 160 bits, in base32');
SELECT is(:'factor'::jsonb ->> 'uri', format('otpauth://totp/auth.example.com:ann%%40example.com?secret=%s&issuer=auth.example.com&algorithm=SHA1&digits=6&period=30', :'secret'), 'a URI for a picture');
SELECT is(jsonb_array_length(:'factor'::jsonb -> 'recovery_codes'), 10, 'ten recovery codes');
SELECT is_empty(format($$SELECT * FROM jsonb_array_elements_text(%L::jsonb -> 'recovery_codes') AS c WHERE c !~ '^[a-hjkmnp-z02-9]{4}(-[a-hjkmnp-z02-9]{4}){2}$'$$, :'factor'), 'without letters that are mistaken for others');
SELECT isnt(grownext.totp_enroll(:bob) ->> 'secret', :'secret', 'everybody has another');
SELECT results_eq('SELECT user_id, state, algorithm, digits, activated_at IS NULL, recovery_codes FROM grownext.totp_factor WHERE user_id = ' || quote_literal(:ann),
    format('VALUES (%L::uuid, ''pending'', ''SHA1'', 6, true, 10)', :ann), 'it waits for its first code');
SELECT is(grownext.totp_verify(:ann, :'factor'::jsonb #>> '{recovery_codes,0}'), false, 'until then its recovery codes do not count');
SELECT throws_ok(format('SELECT grownext.totp_recovery_codes(%L)', :ann), '55000', NULL, 'nor are there others');
SELECT is(grownext.totp_verify(:ann, pg_temp.wrong(pg_temp.code(:'secret', pg_temp.now()))), false, 'a wrong code');
SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret', pg_temp.now())), true, 'the right code');
SELECT is((SELECT state FROM grownext.totp_factor WHERE user_id = :ann), 'active', 'from now on it counts');

-- Codes -----------------------------------------------------------------------------

SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret', pg_temp.now())), false, 'the same code again');
SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret', pg_temp.now(), -1)), false, 'the code before a used one');
SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret', pg_temp.now(), 2)), false, 'a code of two steps ahead');
SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret', pg_temp.now(), 1)), true, 'one of the next step: a clock may be ahead');
SELECT pg_temp.clock('2030-01-01 12:05:00+00') AS at \gset
SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret', pg_temp.now(), -2)), false, 'a code of two steps ago');
SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret', pg_temp.now(), -1)), true, 'one of the step before: a clock may be behind');
SELECT is(grownext.totp_verify(:ann, bad), false, format('refused: %s', why))
  FROM (VALUES (NULL, 'NULL'), ('', 'nothing'), (substr(pg_temp.code(:'secret', pg_temp.now()), 1, 5), 'five digits'), (pg_temp.code(:'secret', pg_temp.now()) || '0', 'seven digits'),
               (' ' || pg_temp.code(:'secret', pg_temp.now()), 'with a space in front'), (repeat('1', 10000000), 'a huge one')) AS v (bad, why);
SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret', pg_temp.now())), true, 'the code of now');
SELECT pg_temp.clock('2030-01-01 12:10:00+00') AS at \gset
SELECT is(grownext.totp_verify(:bob, pg_temp.code(:'secret', pg_temp.now())), false, 'a code of somebody else''s factor');
SELECT is(grownext.totp_verify(gen_random_uuid(), '123456'), false, 'of a user who is not there');
SELECT throws_ok('SELECT grownext.totp_verify(NULL, ''123456'')', '22004', NULL, 'of NULL');
SELECT grownext.user_disable(:ann);
SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret', pg_temp.now())), false, 'a disabled user''s code');
SELECT grownext.user_enable(:ann);
SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret', pg_temp.now())), true, 'which was not used up by that');

-- Recovery codes -----------------------------------------------------------------------

SELECT is(grownext.totp_verify(:ann, :'factor'::jsonb #>> '{recovery_codes,0}'), true, 'a recovery code');
SELECT is(grownext.totp_verify(:ann, :'factor'::jsonb #>> '{recovery_codes,0}'), false, 'once');
SELECT is(grownext.totp_verify(:ann, ' ' || upper(replace(:'factor'::jsonb #>> '{recovery_codes,1}', '-', ' '))), true, 'however it is typed');
SELECT is(grownext.totp_verify(:ann, left(:'factor'::jsonb #>> '{recovery_codes,2}', -1)), false, 'not in part');
SELECT is(grownext.totp_verify(:bob, :'factor'::jsonb #>> '{recovery_codes,2}'), false, 'not for somebody else');
SELECT is((SELECT recovery_codes FROM grownext.totp_factor WHERE user_id = :ann), 8, 'eight are left');
SELECT grownext.totp_recovery_codes(:ann) AS codes \gset
SELECT is(grownext.totp_verify(:ann, :'factor'::jsonb #>> '{recovery_codes,2}'), false, 'new ones end the old ones');
SELECT is(grownext.totp_verify(:ann, (:'codes'::text[])[10]), true, 'and count');
SELECT is_empty(format($$SELECT c FROM unnest(%L::text[]) AS c JOIN _grownext.account_recovery_code AS r ON encode(r.code_hash, 'hex') IN (encode(sha256(convert_to(c, 'UTF8')), 'hex'), encode(sha256(convert_to(replace(c, '-', ''), 'UTF8')), 'hex'))$$, :'codes'),
    'what is stored is no plain hash that could be searched for');

-- Other algorithms --------------------------------------------------------------------

SELECT pg_temp.clock('2030-01-01 13:00:00+00') AS at \gset
SELECT is(grownext.totp_disable(:bob), true, 'a factor that waits can be taken away');
SELECT is(grownext.totp_disable(:bob), false, 'once');
CREATE TEMP TABLE other (algorithm text, digits int, secret text);
SELECT grownext.totp_enroll(:bob, '{"algorithm": "SHA256", "digits": 8, "issuer": "Acme & Co", "label": "böb"}') AS factor2 \gset
SELECT is(:'factor2'::jsonb ->> 'uri', format('otpauth://totp/Acme%%20%%26%%20Co:b%%C3%%B6b?secret=%s&issuer=Acme%%20%%26%%20Co&algorithm=SHA256&digits=8&period=30', :'factor2'::jsonb ->> 'secret'), 'issuer and label are escaped');
SELECT is(length(pg_temp.unbase32(:'factor2'::jsonb ->> 'secret')), 32, 'SHA256 has a secret of 256 bits');
SELECT is(grownext.totp_verify(:bob, pg_temp.code(:'factor2'::jsonb ->> 'secret', pg_temp.now(), 0, 'sha256', 8)), true, 'SHA256 with eight digits');
SELECT grownext.totp_enroll(:bob, '{"algorithm": "SHA512"}') AS factor3 \gset
SELECT is(length(pg_temp.unbase32(:'factor3'::jsonb ->> 'secret')), 64, 'SHA512 has a secret of 512 bits');
SELECT is((SELECT array_agg(state ORDER BY state) FROM grownext.totp_factor WHERE user_id = :bob), ARRAY['active', 'pending'], 'a replacement waits beside the one that counts');
SELECT pg_temp.clock('2030-01-01 13:05:00+00') AS at \gset
SELECT is(grownext.totp_verify(:bob, pg_temp.code(:'factor2'::jsonb ->> 'secret', pg_temp.now(), 0, 'sha256', 8)), true, 'which still does');
SELECT is(grownext.totp_verify(:bob, pg_temp.code(:'factor3'::jsonb ->> 'secret', pg_temp.now(), 0, 'sha512', 6)), true, 'until the first code of the new one');
SELECT results_eq('SELECT id, algorithm FROM grownext.totp_factor WHERE user_id = ' || quote_literal(:bob), format('VALUES (%L::uuid, ''SHA512'')', :'factor3'::jsonb ->> 'factor_id'), 'which takes its place');
SELECT throws_ok(format('SELECT grownext.totp_enroll(%L, %L)', :bob, options), '22023', NULL, 'options ' || options)
  FROM (VALUES ('[]'), ('{"algorithm": "MD5"}'), ('{"algorithm": "sha1"}'), ('{"algorithm": null}'), ('{"digits": 7}'), ('{"digits": "6"}'), ('{"digits": 1e400}'), ('{"period": 60}'), ('{"issuer": ""}')) AS v (options);
SELECT throws_ok('SELECT grownext.totp_enroll(gen_random_uuid())', '42704', NULL, 'a user who is not there');
SELECT throws_ok('SELECT grownext.totp_enroll(NULL)', '22004', NULL, 'NULL');
SELECT grownext.totp_enroll(:bob) ->> 'factor_id' AS waiting \gset
SELECT is(_grownext.account_tick('2030-01-02 13:04:59+00') IS NOT NULL, true, 'a pass');
SELECT is((SELECT count(*) FROM grownext.totp_factor WHERE id = :'waiting'), 1::bigint, 'leaves a factor a day to be confirmed');
SELECT is(_grownext.account_tick('2030-01-02 13:05:00+00') IS NOT NULL, true, 'the next');
SELECT is((SELECT array_agg(state) FROM grownext.totp_factor WHERE user_id = :bob), ARRAY['active'], 'takes it away, and no other');

-- Too many wrong codes ------------------------------------------------------------------

SELECT pg_temp.clock('2030-01-02 12:00:00+00') AS at \gset
SAVEPOINT undone;
SELECT is((SELECT count(*) FROM generate_series(1, 10) WHERE grownext.totp_verify(:ann, pg_temp.wrong(pg_temp.code(:'secret', pg_temp.now())))), 0::bigint, 'ten wrong codes');
SELECT is((SELECT count(*) FROM grownext.audit_event WHERE action = 'totp.locked'), 1::bigint, 'the tenth is told to the log');
ROLLBACK TO undone;
SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret', pg_temp.now())), false, 'then the right one is refused, too, though all was rolled back');
SELECT is(grownext.totp_verify(:bob, pg_temp.code(:'factor3'::jsonb ->> 'secret', pg_temp.now(), 0, 'sha512', 6)), true, 'of this user alone');
SELECT pg_temp.clock('2030-01-02 12:01:29+00') AS at \gset
SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret', pg_temp.now())), false, 'a moment before the wait ends');
SELECT pg_temp.clock('2030-01-02 12:01:30+00') AS at \gset
SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret', pg_temp.now())), true, 'after it');
SELECT pg_temp.clock('2030-01-02 12:03:00+00') AS at \gset
SELECT is((SELECT count(*) FROM generate_series(1, 9) WHERE grownext.totp_verify(:ann, pg_temp.wrong(pg_temp.code(:'secret', pg_temp.now())))), 0::bigint, 'a right code takes the count back: nine more');
SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret', pg_temp.now())), true, 'and the right one');
SELECT is((SELECT count(*) FROM generate_series(0, 59) AS i
            WHERE set_config('grownext.test_clock', ('2030-01-03 00:00:00+00'::timestamptz + i * interval '2 minutes')::text, true) IS NOT NULL
              AND NOT grownext.totp_verify(:ann, pg_temp.wrong(pg_temp.code(:'secret', pg_temp.now())))), 60::bigint, 'sixty wrong codes, each after a wait');
SELECT pg_temp.clock('2030-01-03 02:10:00+00') AS at \gset
SELECT is((_grownext.core_failure_check('totp', :ann::text)).allowed, true, 'do not lock by the shorter limit');
SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret', pg_temp.now())), false, 'but by that of a day');
SELECT is((SELECT count(*) FROM grownext.audit_event WHERE action = 'totp.locked') BETWEEN 1 AND 10, true, 'which is told to the log');
SELECT pg_temp.clock('2030-01-04 12:00:00+00') AS at \gset
SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret', pg_temp.now())), true, 'until the day is over');

-- The log says what happened, and nothing else
SELECT is((SELECT array_agg(DISTINCT action ORDER BY action) FROM grownext.audit_event WHERE action LIKE 'totp.%'),
    ARRAY['totp.activated', 'totp.disabled', 'totp.enrolled', 'totp.locked', 'totp.recovery_code_used', 'totp.recovery_codes_created', 'totp.refused', 'totp.verified'], 'every kind of event');
SELECT is_empty(format($$SELECT e.* FROM grownext.audit_event AS e, jsonb_array_elements_text(%L::jsonb -> 'recovery_codes' || to_jsonb(%L::text)) AS secret WHERE e::text LIKE '%%' || secret || '%%'$$, :'factor', :'secret'), 'no code or secret is in it');
SELECT isnt_empty('SELECT sealed FROM _grownext.account_totp', 'there are ciphertexts');
SELECT is_empty(format($$SELECT 1 FROM _grownext.account_totp WHERE position(%L::bytea IN sealed) > 0$$, pg_temp.unbase32(:'secret')), 'none holds the secret in plain');
UPDATE _grownext.account_totp SET sealed = (SELECT f.sealed FROM _grownext.account_totp AS f WHERE f.user_id = :bob) WHERE user_id = :ann;
SELECT pg_temp.clock('2030-01-05 12:00:00+00') AS at \gset
SELECT throws_ok(format('SELECT grownext.totp_verify(%L, ''123456'')', :ann), 'XX001', NULL, 'a ciphertext that was swapped for another''s does not open');
SELECT is(grownext.totp_disable(:ann), true, 'a service takes a factor away');

SELECT * FROM finish();
ROLLBACK;
