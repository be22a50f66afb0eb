-- Step-up: what a login is worth, and how a session rises; with codes computed by pgcrypto
\ir ../lib/master_key.psql
CREATE EXTENSION pgcrypto;
BEGIN;
SELECT * FROM no_plan();
SELECT set_config('grownext.test_clock', '2030-01-01 12:00:00+00', true) AS at \gset
SELECT count(*) AS steps FROM grownext.setup('https://auth.example.com', ARRAY['my-api', 'other-api']) \gset
\set ann '''a1111111-1111-4111-8111-111111111111''::uuid'
\set bob '''b1111111-1111-4111-8111-111111111111''::uuid'
SELECT grownext.user_create('ann@example.com', 'Ann', id => :ann) = :ann AS made \gset
SELECT grownext.user_create('bob@example.com', 'Bob', id => :bob) = :bob AS made \gset
CREATE ROLE regress_step_up_app IN ROLE grownext_user;
CREATE ROLE regress_step_up_service IN ROLE grownext_service;

CREATE FUNCTION pg_temp.clock(at text) RETURNS void LANGUAGE sql AS $$ SELECT set_config('grownext.test_clock', at, true) $$;
-- RFC 6238 with SHA-1 and six digits, of a secret in base32
CREATE FUNCTION pg_temp.code(secret text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    bits CONSTANT text := (SELECT string_agg((strpos('ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', c) - 1)::bit(5)::text, '' ORDER BY n)
                             FROM unnest(string_to_array(secret, NULL)) WITH ORDINALITY AS x (c, n));
    key CONSTANT bytea := (SELECT string_agg(set_byte('\x00', 0, substring(bits FROM i * 8 + 1 FOR 8)::bit(8)::int), '' ORDER BY i) FROM generate_series(0, 19) AS i);
    mac CONSTANT bytea := hmac(int8send(floor(extract(epoch FROM current_setting('grownext.test_clock')::timestamptz) / 30)::bigint), key, 'sha1');
    place CONSTANT int := get_byte(mac, 19) & 15;
BEGIN
    RETURN lpad(((((get_byte(mac, place) & 127)::bigint << 24) + (get_byte(mac, place + 1) << 16) + (get_byte(mac, place + 2) << 8) + get_byte(mac, place + 3)) % 1000000)::text, 6, '0');
END
$$;

-- What a login is worth ----------------------------------------------------------------

SELECT throws_ok($$SELECT grownext.require_step_up('aal1', '1 hour')$$, 'NX010', NULL, 'without a caller there is no login');
SELECT is(grownext.has_step_up('aal1', '1 hour'), NULL, 'and no answer');
CREATE TEMP TABLE login (claims jsonb, acr text, max_age interval, suffices boolean, why text);
INSERT INTO login VALUES
    ('{"acr": "aal2", "auth_time": 1893499200}', 'aal2', '5 minutes', true, 'the level and the time'),
    ('{"acr": "aal3", "auth_time": 1893499200}', 'aal2', '5 minutes', true, 'a higher level'),
    ('{"acr": "aal1", "auth_time": 1893499200}', 'aal2', '5 minutes', false, 'a lower level'),
    ('{"acr": "aal2", "auth_time": 1893498900}', 'aal2', '5 minutes', true, 'five minutes ago'),
    ('{"acr": "aal2", "auth_time": 1893498899}', 'aal2', '5 minutes', false, 'a second more'),
    ('{"acr": "aal2", "auth_time": 1893498899}', 'aal2', NULL, true, 'a level alone does not age'),
    ('{"auth_time": 1893499200}', NULL, '0', true, 'a time alone has no level'),
    ('{"auth_time": 1893499199.5}', NULL, '0', false, 'half a second is too old for now'),
    ('{"auth_time": 1893499230}', NULL, '5 minutes', true, 'a clock that is half a minute ahead'),
    ('{"auth_time": 1893499231}', NULL, '5 minutes', false, 'a login in the future'),
    ('{"acr": "aal2"}', 'aal2', '5 minutes', false, 'no time of a login'),
    ('{"auth_time": 1893499200}', 'aal1', NULL, false, 'no level'),
    ('{}', 'aal1', '5 minutes', false, 'neither'),
    ('{"acr": "gold"}', 'gold', NULL, true, 'another issuer''s level, by its name'),
    ('{"acr": "gold"}', 'aal1', NULL, false, 'which is not above ours'),
    ('{"acr": "aal3"}', 'gold', NULL, false, 'nor below'),
    ('{"acr": "aal22"}', 'aal1', NULL, false, 'a level that is none'),
    ('{"acr": "AAL2"}', 'aal2', NULL, false, 'in capitals'),
    ('{"acr": ["aal2"]}', 'aal2', NULL, false, 'acr that is no string'),
    ('{"acr": 2}', 'aal1', NULL, false, 'acr that is a number'),
    ('{"auth_time": "1893499200"}', NULL, '5 minutes', false, 'auth_time that is a string'),
    ('{"auth_time": true}', NULL, '5 minutes', false, 'auth_time that is true'),
    ('{"auth_time": 1e4000}', NULL, '5 minutes', false, 'auth_time beyond numbers'),
    ('{"auth_time": -1e4000}', NULL, '100 years', false, 'auth_time before numbers'),
    ('{"acr": ""}', '', NULL, true, 'an empty level is one like another');
-- What a query gives to a caller with these claims: a value, or all of a refusal. The
-- caller is undone with the subtransaction, or he would count before any token.
CREATE FUNCTION pg_temp.for_login(claims jsonb, query text, role name DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text; detail text; hint text;
BEGIN
    PERFORM grownext.act_as('ann', claims => claims);
    IF role IS NOT NULL THEN
        EXECUTE format('SET LOCAL ROLE %I', role);
    END IF;
    EXECUTE query INTO answer;
    RAISE EXCEPTION USING ERRCODE = 'UNDO1';
EXCEPTION
    WHEN SQLSTATE 'UNDO1' THEN RETURN answer;
    WHEN SQLSTATE 'NX015' THEN
        GET STACKED DIAGNOSTICS answer = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        RETURN concat_ws(E'\n', answer, detail, hint);
END
$$;
CREATE FUNCTION pg_temp.judged(claims jsonb, acr text, max_age interval) RETURNS text LANGUAGE sql AS $$
    SELECT pg_temp.for_login(claims, format('SELECT grownext.has_step_up(%L, %L)', acr, max_age))
           || CASE split_part(pg_temp.for_login(claims, format('SELECT grownext.require_step_up(%L, %L)', acr, max_age)), E'\n', 1)
              WHEN '' THEN ' passes' WHEN 'a fresher or stronger login is needed' THEN ' raises' END;
$$;
SELECT is(pg_temp.judged(claims, acr, max_age), CASE WHEN suffices THEN 'true passes' ELSE 'false raises' END, why) FROM login;
SELECT throws_ok('SELECT grownext.' || call, code, NULL, call || ': ' || code)
  FROM (VALUES ('require_step_up(NULL, NULL)', '22004'), ('has_step_up(NULL, NULL)', '22004'),
               ('require_step_up(''aal1'', ''-1 second'')', '22023'), ('has_step_up(NULL, ''-1 year'')', '22023')) AS v (call, code);
SELECT is(p.provolatile::text || p.proparallel::text, 'ss', p.proname || ' is stable and parallel safe')
  FROM pg_proc AS p WHERE p.pronamespace = 'grownext'::regnamespace AND p.proname IN ('has_step_up', 'require_step_up');

-- The refusal names what is needed
SELECT is(pg_temp.for_login('{"acr": "aal1", "auth_time": 1893497400}', $$SELECT grownext.require_step_up('aal2', '5 minutes')$$), $$a fresher or stronger login is needed
Needed: acr "aal2" and a login at most 300 seconds ago. The credential has acr "aal1" and a login 1800 seconds ago.
Verify a second factor with grownext.session_step_up(code) and use the access token that it returns, or sign in again.$$, 'message, detail and hint');
SELECT matches(pg_temp.for_login('{"acr": "aal1", "auth_time": 1893497400}', $$SELECT grownext.require_step_up(NULL, '5 minutes')$$),
    'Needed: a login at most 300 seconds ago\. ', 'what is not asked for is not named');
SELECT matches(pg_temp.for_login(jsonb_build_object('acr', repeat('ä', 1000)), $$SELECT grownext.require_step_up('aal2', NULL)$$),
    'has acr "ä{32}" and no time of a login', 'a long acr is cut');

-- In a policy and in a function
CREATE SCHEMA regress_step_up;
CREATE TABLE regress_step_up.payment (id int, amount int);
INSERT INTO regress_step_up.payment SELECT i, i FROM generate_series(1, 1000) AS i;
ALTER TABLE regress_step_up.payment ENABLE ROW LEVEL SECURITY;
CREATE POLICY small ON regress_step_up.payment USING (amount <= 10 OR grownext.has_step_up('aal2', '5 minutes'));
GRANT USAGE ON SCHEMA regress_step_up TO regress_step_up_app;
GRANT SELECT ON regress_step_up.payment TO regress_step_up_app;
SELECT is(pg_temp.for_login('{"acr": "aal1", "auth_time": 1893499200}', 'SELECT count(*) FROM regress_step_up.payment', 'regress_step_up_app'), '10', 'a policy shows less to a weak login');
SELECT is(pg_temp.for_login('{"acr": "aal2", "auth_time": 1893499200}', 'SELECT count(*) FROM regress_step_up.payment', 'regress_step_up_app'), '1000', 'and all to a strong one');

-- A session rises ------------------------------------------------------------------------

SELECT grownext.tenant_create('acme', 'Acme', owner_id => :ann) AS acme \gset
SELECT grownext.session_create(:ann, :'acme', '{"amr": ["pwd"], "acr": "aal1", "scope": "read write"}') AS weak \gset
SELECT :'weak'::jsonb ->> 'access_token' AS weak_token, :'weak'::jsonb ->> 'session_id' AS session \gset
SELECT grownext.session_create(:bob) ->> 'session_id' AS bobs_session \gset
SELECT grownext.totp_enroll(:ann) ->> 'secret' AS secret \gset
SELECT grownext.totp_enroll(:bob) ->> 'secret' AS bobs_secret \gset
SELECT pg_temp.clock('2030-01-01 12:10:00+00') AS at \gset
SELECT grownext.authenticate(:'weak_token') ->> 'sub' AS sub \gset
SET LOCAL ROLE regress_step_up_app;
SELECT throws_ok($$SELECT grownext.require_step_up('aal2', '5 minutes')$$, 'NX015', NULL, 'the session is weak');
SELECT is(grownext.session_step_up('000000') ->> 'error_description', 'the code is not valid', 'a wrong code');
SELECT is(grownext.session_step_up(NULL) ->> 'error', 'invalid_grant', 'NULL');
SELECT is(grownext.session_step_up(pg_temp.code(:'bobs_secret')) ->> 'error', 'invalid_grant', 'somebody else''s code');
SELECT throws_ok(format('SELECT grownext.session_step_up(%L, %L)', pg_temp.code(:'bobs_secret'), :'bobs_session'), '42501', NULL, 'somebody else''s session');
SELECT grownext.session_step_up(pg_temp.code(:'secret')) AS strong \gset
SELECT is(ARRAY(SELECT jsonb_object_keys(:'strong') ORDER BY 1), ARRAY['access_token', 'expires_in', 'session_id', 'token_type'], 'the right code: an access token, and the refresh token at hand goes on');
SELECT throws_ok($$SELECT grownext.require_step_up('aal2', '5 minutes')$$, 'NX015', NULL, 'the token at hand is as weak as it was');
RESET ROLE;
SELECT grownext.authenticate(:'strong'::jsonb ->> 'access_token') AS claims \gset
SELECT is(:'claims'::jsonb - '{iss,sub,exp,iat,jti,client_id,role}'::text[],
    jsonb_build_object('acr', 'aal2', 'amr', '["pwd", "otp", "mfa"]'::jsonb, 'auth_time', 1893499800, 'sid', :'session', 'aud', 'my-api',
                       'scope', 'read write', 'tenant_id', :'acme', 'tenant_role', 'owner'), 'the new one says how and when, in the same session and tenant');
SET LOCAL ROLE regress_step_up_app;
SELECT lives_ok($$SELECT grownext.require_step_up('aal2', '5 minutes')$$, 'and passes');
SELECT is(grownext.session_step_up(pg_temp.code(:'secret')) ->> 'error', 'invalid_grant', 'the code was used');
RESET ROLE;
SELECT is((SELECT array_agg(change) FROM grownext.audit_event WHERE action = 'session.stepped_up'),
    ARRAY[jsonb_build_object('before', '{"acr": "aal1", "amr": ["pwd"]}'::jsonb, 'after', jsonb_build_object('acr', 'aal2', 'amr', '["pwd", "otp", "mfa"]'::jsonb, 'user_id', :ann))], 'the log has it once');
SELECT grownext.session_refresh(:'weak'::jsonb ->> 'refresh_token') AS refreshed \gset
SELECT is(c ->> 'acr' || ' ' || (c ->> 'auth_time'), 'aal2 1893499800', 'so do tokens that are refreshed later') FROM grownext.jwt_verify(:'refreshed'::jsonb ->> 'access_token') AS c;

-- Strength ages
SELECT pg_temp.clock('2030-01-01 12:15:01+00') AS at \gset
SELECT grownext.authenticate(:'refreshed'::jsonb ->> 'access_token') ->> 'sub' AS sub \gset
SELECT throws_ok($$SELECT grownext.require_step_up('aal2', '5 minutes')$$, 'NX015', NULL, 'after five minutes it is not fresh any more');
SELECT lives_ok($$SELECT grownext.require_step_up('aal2', NULL)$$, 'though of the same level');

-- A token that was made for less rises to no more
SELECT _grownext.jwt_issue(:'sub', jsonb_build_object('sid', :'session', 'tenant_id', :'acme', 'scope', 'read', 'client_id', 'first-party'), 'other-api', '5 minutes', 'access') AS narrow \gset
SELECT grownext.authenticate(:'narrow', 'other-api') ->> 'sub' AS sub \gset
SET LOCAL ROLE regress_step_up_app;
SELECT grownext.session_step_up(pg_temp.code(:'secret')) ->> 'access_token' AS narrow \gset
RESET ROLE;
SELECT is(c ->> 'scope' || ' for ' || (c ->> 'aud'), 'read for other-api', 'scope and audience stay') FROM grownext.jwt_verify(:'narrow', 'other-api') AS c;

-- Trusted back ends
SELECT pg_temp.clock('2030-01-01 12:20:00+00') AS at \gset
SET LOCAL ROLE regress_step_up_service;
SELECT is(grownext.session_step_up(pg_temp.code(:'bobs_secret'), :'bobs_session') ->> 'token_type', 'Bearer', 'a service names the session; a first code activates the factor');
SELECT is(grownext.session_elevate(:'bobs_session', 'aal3', ARRAY['hwk']) ->> 'token_type', 'Bearer', 'or vouches for a factor of its own');
RESET ROLE;
SELECT pg_temp.clock('2030-01-01 12:21:00+00') AS at \gset
SET LOCAL ROLE regress_step_up_service;
SELECT is(grownext.session_step_up(pg_temp.code(:'bobs_secret'), :'bobs_session') ->> 'token_type', 'Bearer', 'a code afterwards');
SELECT is((SELECT acr || amr::text FROM grownext.session WHERE id = :'bobs_session'), 'aal3{otp,mfa,hwk}', 'lowers nothing and repeats nothing');
SELECT throws_ok('SELECT grownext.session_elevate(' || arguments || ')', code, NULL, format('session_elevate(%s): %s', arguments, code))
  FROM (VALUES ('NULL, ''aal2''', '22004'), ('gen_random_uuid(), NULL', '22004'), ('gen_random_uuid(), ''''', '22023'), ('gen_random_uuid(), ''a b''', '22023'),
               ('gen_random_uuid(), ''aal2'', ARRAY[NULL]', '22023'), ('gen_random_uuid(), repeat(''a'', 65)', '22023'), ('gen_random_uuid(), ''aal2'', array_fill(''x''::text, ARRAY[17])', '22023')) AS v (arguments, code);
SELECT is(grownext.session_elevate(gen_random_uuid(), 'aal2') ->> 'error', 'invalid_grant', 'a session that is not there');
SELECT is(grownext.session_revoke(:'bobs_session'), true, 'a session that ended');
SELECT is(grownext.session_step_up('123456', :'bobs_session') ->> 'error_description', 'the session has ended', 'does not rise');
RESET ROLE;
SELECT grownext.act_as('nobody in particular');
SELECT throws_ok($$SELECT grownext.session_step_up('123456')$$, 'NX010', NULL, 'who has no session cannot step it up');

-- End users and their own factor ------------------------------------------------------------

SELECT grownext.authenticate(:'refreshed'::jsonb ->> 'access_token') ->> 'acr' AS acr \gset
SELECT set_config('grownext.test_clock', '2030-01-01 12:24:00+00', true) AS at \gset
SELECT grownext.act_as(:'sub', claims => '{"acr": "aal1", "auth_time": 1893500640}');
SET LOCAL ROLE regress_step_up_app;
SELECT throws_ok('SELECT grownext.' || call, '42501', NULL, 'not for somebody else: ' || call)
  FROM (VALUES (format('totp_enroll(%L)', :bob)), (format('totp_verify(%L, ''123456'')', :bob)), (format('totp_recovery_codes(%L)', :bob)), (format('totp_disable(%L)', :bob))) AS v (call);
SELECT throws_ok('SELECT grownext.' || call, 'NX015', NULL, 'not with a weak login: ' || call)
  FROM (VALUES (format('totp_enroll(%L)', :ann)), (format('totp_recovery_codes(%L)', :ann)), (format('totp_disable(%L)', :ann))) AS v (call);
SELECT is(grownext.totp_verify(:ann, pg_temp.code(:'secret')), true, 'a code is judged with any login');
SELECT results_eq('SELECT user_id FROM grownext.totp_factor', format('VALUES (%L::uuid)', :ann), 'the own factor is seen');
SELECT throws_ok('SELECT * FROM _grownext.account_totp', '42501', NULL, 'its ciphertext is not');
RESET ROLE;
SELECT grownext.act_as(:'sub', claims => '{"acr": "aal2", "auth_time": 1893500640}', reason => 'support');
SET LOCAL ROLE regress_step_up_app;
SELECT throws_ok('SELECT grownext.' || call, '42501', NULL, 'not by impersonation: ' || call)
  FROM (VALUES (format('totp_enroll(%L)', :ann)), (format('totp_verify(%L, ''123456'')', :ann)), (format('totp_recovery_codes(%L)', :ann)), (format('totp_disable(%L)', :ann))) AS v (call);
SELECT throws_ok(format('SELECT grownext.session_step_up(''123456'', %L)', :'session'), '42501', NULL, 'nor does a session rise by it');
SELECT throws_ok(format('SELECT grownext.session_elevate(%L, ''aal3'')', :'session'), '42501', NULL, 'nobody vouches for himself');
RESET ROLE;
SELECT grownext.act_as(:'sub', claims => '{"acr": "aal2", "auth_time": 1893500640}');
SET LOCAL ROLE regress_step_up_app;
SELECT is(cardinality(grownext.totp_recovery_codes(:ann)), 10, 'with a strong one: new recovery codes');
SELECT is(grownext.totp_enroll(:ann) ->> 'algorithm', 'SHA1', 'another factor');
SELECT is(grownext.totp_disable(:ann), true, 'none');
SELECT is(grownext.totp_enroll(:ann) ->> 'algorithm', 'SHA1', 'a first one again');
RESET ROLE;
SELECT grownext.act_as('nobody in particular');
SET LOCAL ROLE regress_step_up_app;
SELECT throws_ok(format('SELECT grownext.totp_verify(%L, ''123456'')', :ann), '42501', NULL, 'a caller who is no user has no factor');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
