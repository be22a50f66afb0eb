-- The life of signing keys, their policies, profiles of tokens, claims hooks, discovery and
-- rewrapping: shapes, rights, states and refusals
\getenv directory PWD
\set key_file :directory '/keys_master.key'
\setenv KEY_FILE :key_file
\! rm -f "$KEY_FILE"; umask 077; echo "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=" > "$KEY_FILE"
\o /dev/null
ALTER SYSTEM SET grownext.master_key_file = :'key_file';
SELECT pg_reload_conf();
\c
\o
BEGIN;
SELECT * FROM no_plan();
SET LOCAL client_min_messages = error;
SELECT is(current_setting('grownext.master_key_file') <> '', true, 'there is a master key');
SELECT count(*) FROM grownext.setup('https://id.example.com', ARRAY['api', 'other']) \gset setup_

-- Shapes and rights ------------------------------------------------------------

CREATE TEMP TABLE promised (name text, arguments text, result text, grantees text);
INSERT INTO promised VALUES
    ('key_rewrap', 'max_count integer DEFAULT NULL::integer', 'integer', 'admin'),
    ('key_import', 'file text, purpose text DEFAULT ''access''::text', 'text', 'admin'),
    ('key_policy_define', 'purpose text, options jsonb DEFAULT ''{}''::jsonb', 'void', 'admin'),
    ('token_profile_define', 'purpose text, options jsonb', 'void', 'admin'),
    ('jwks', 'purpose text DEFAULT NULL::text', 'jsonb', 'admin anon auditor monitor service user worker'),
    ('discovery', '', 'jsonb', 'admin anon auditor monitor service user worker');
SELECT is(pg_get_function_arguments(p.oid), t.arguments, t.name || ': its arguments') FROM promised AS t JOIN pg_proc AS p ON p.proname = t.name AND p.pronamespace = 'grownext'::regnamespace ORDER BY t.name;
SELECT is(pg_get_function_result(p.oid), t.result, t.name || ': its result') FROM promised AS t JOIN pg_proc AS p ON p.proname = t.name AND p.pronamespace = 'grownext'::regnamespace ORDER BY t.name;
SELECT is((SELECT string_agg(replace(r.rolname, 'grownext_', ''), ' ' ORDER BY r.rolname) FROM pg_roles AS r
            WHERE r.rolname ~ '^grownext_' AND r.rolname <> 'grownext_owner' AND has_function_privilege(r.oid, p.oid, 'EXECUTE')),
          t.grantees, t.name || ': who may call it')
  FROM promised AS t LEFT JOIN pg_proc AS p ON p.proname = t.name AND p.pronamespace = 'grownext'::regnamespace ORDER BY t.name;
SELECT columns_are('grownext', 'key_policy', ARRAY['purpose', 'rotate_after', 'publish_before', 'rotate_at', 'keep_retired', 'next_kid', 'publish_at', 'next_rotation_at']);
SELECT columns_are('grownext', 'token_profile', ARRAY['purpose', 'issuer', 'audiences', 'ttl', 'max_ttl', 'claims', 'typ', 'alg', 'claims_hook', 'hook_owner', 'defined', 'entitlements']);
SELECT is_empty($$SELECT column_name FROM information_schema.columns WHERE table_schema = 'grownext' AND column_name = 'sealed'$$, 'no view shows a private part');

-- the views' own readers can read them
SET LOCAL ROLE grownext_monitor;
SELECT lives_ok($$SELECT * FROM grownext.key_policy$$, 'a monitor reads the policies');
SELECT lives_ok($$SELECT * FROM grownext.token_profile$$, 'and the profiles');
SELECT throws_ok($$SELECT grownext.key_rewrap()$$, '42501', NULL, 'but seals nothing');
SET LOCAL ROLE grownext_service;
SELECT throws_ok($$SELECT grownext.token_profile_define('access', '{}')$$, '42501', NULL, 'a service defines no profile');
SELECT throws_ok($$SELECT grownext.key_policy_define('access')$$, '42501', NULL, 'and no policy');
SELECT throws_ok($$SELECT _grownext.jwt_profile_store('access', '{}', NULL, NULL, NULL)$$, '42501', NULL, 'nor past the front door');
RESET ROLE;

-- States -----------------------------------------------------------------------

SELECT is((SELECT string_agg(state, ' ') FROM grownext.signing_key WHERE purpose = 'access'), 'active', 'setup made one key');
SELECT throws_ok($$SELECT grownext.key_rotate()$$, '55000', 'there is no standby key for purpose "access"');
SELECT grownext.key_create() AS second \gset
SELECT throws_ok($$SELECT grownext.key_rotate()$$, '55000', format('standby key "%s" was published too short a time ago', :'second'));
SELECT lives_ok($$SELECT grownext.key_policy_define('access', '{"publish_before": "2 hours"}')$$);
SAVEPOINT s;
UPDATE _grownext.jwt_key SET published_at = now() - interval '1 hour' WHERE kid = :'second';
SELECT throws_ok($$SELECT grownext.key_rotate()$$, '55000', NULL, 'a policy asks for longer publication, of whoever rotates');
UPDATE _grownext.jwt_key SET published_at = now() - interval '3 hours' WHERE kid = :'second';
SELECT is(grownext.key_rotate(), :'second', 'then the standby key becomes active');
SELECT is(grownext.key_rotate('access', true) <> :'second', true, 'force makes a key and activates it at once');
SELECT is((SELECT string_agg(state, ' ' ORDER BY state) FROM grownext.signing_key WHERE purpose = 'access'), 'active retiring retiring', 'one active key, the others retire');
SELECT is((SELECT count(DISTINCT accepted_until - retired_at) || ' ' || min(accepted_until - retired_at) FROM grownext.signing_key WHERE state = 'retiring'), '1 1 day 01:00:00', 'and are accepted for an hour longer than the longest token lives');
ROLLBACK TO s;
SELECT throws_ok($$SELECT grownext.key_create(provider => 'pkcs11')$$, '0A000', 'key provider "pkcs11" is not supported');
SELECT throws_ok($$SELECT grownext.key_create(NULL)$$, '22004');
SELECT throws_ok($$SELECT grownext.key_rotate('Not A Purpose')$$, '22023');
SELECT throws_ok($$SELECT grownext.key_rotate(NULL)$$, '22023');
SELECT throws_ok(format('UPDATE _grownext.jwt_key SET state = ''active'', activated_at = now() WHERE kid = %L', :'second'), '23505', NULL, 'two active keys of a purpose cannot be stored');
SELECT throws_ok($$UPDATE _grownext.jwt_key SET longest_ttl = 0$$, '23514');
-- a kid that was revoked never comes back
SELECT grownext.key_revoke(:'second', 'lost') \g /dev/null
SELECT throws_ok(format($$SELECT _grownext.jwt_key_add(kid, purpose, alg, provider, ref, public_jwk, '\x00', now(), '{}') FROM _grownext.jwt_key WHERE kid = %L$$, :'second'),
    '42710', format('signing key "%s" exists already', :'second'), 'a revoked key is not added again');
-- a key of a provider that this library does not have
SAVEPOINT s;
UPDATE _grownext.jwt_key SET provider = 'pkcs11', sealed = NULL WHERE state = 'active' AND purpose = 'access';
SELECT throws_matching($$SELECT grownext.jwt_mint('ann')$$, 'is held by provider "pkcs11", which this library does not have', 'its key does not sign here, and the message says why');
ROLLBACK TO s;
-- a key whose private part went, as it does when it is revoked or its last token has expired
UPDATE _grownext.jwt_key SET sealed = NULL WHERE state = 'active' AND purpose = 'access';
SELECT throws_ok($$SELECT grownext.jwt_mint('ann')$$, 'NX016', 'the active signing key for purpose "access" has no private part', 'it does not sign');
ROLLBACK TO s;
SELECT grownext.key_create('HS256', 'inner'), grownext.key_rotate('inner') \g /dev/null
SELECT grownext.jwt_mint('ann', purpose => 'inner') AS inner_token \gset
UPDATE _grownext.jwt_key SET sealed = NULL WHERE state = 'active' AND purpose = 'inner';
SELECT throws_ok(format($$SELECT grownext.jwt_verify(%L, purpose => 'inner')$$, :'inner_token'), 'NX011', 'token is not valid', 'nor verify, if it is symmetric');
ROLLBACK TO s;

-- Policies ---------------------------------------------------------------------

SELECT throws_ok(format('SELECT grownext.key_policy_define(%L, %L)', t.purpose, t.options), '22023', t.message)
  FROM (VALUES ('access', '{"colour": "red"}', 'unknown option "colour"'),
               ('access', '{"rotate_after": 90}', 'option "rotate_after" must be of type string'),
               ('access', '{"rotate_after": "soon"}', 'option "rotate_after" must be an interval'),
               ('access', '{"rotate_after": "12 hours"}', 'option "rotate_after" must be longer than "publish_before", which is 1 day'),
               ('access', '{"rotate_after": "90 days", "publish_before": "5 minutes"}', 'option "publish_before" must be at least 6 minutes'),
               ('access', '{"rotate_after": "-90 days"}', 'option "rotate_after" must be longer than "publish_before", which is 1 day'),
               ('access', '{"keep_retired": "-1 day"}', 'option "keep_retired" must not be negative'),
               ('access', '{"rotate_at": "25:00"}', 'option "rotate_at" must be a time of day in UTC'),
               ('access', '[]', 'options must be a JSON object'),
               ('access', NULL, 'options must be a JSON object'),
               ('Not A Purpose', '{}', 'a key''s purpose must be up to 32 of a-z, 0-9 and "_", a letter first'),
               (NULL, '{}', 'a key''s purpose must be up to 32 of a-z, 0-9 and "_", a letter first')) AS t (purpose, options, message);

SELECT is((SELECT count(*) FROM _grownext.jwt_rotation), 0::bigint, 'without rotate_after nothing rotates');
SELECT lives_ok($$SELECT grownext.key_policy_define('access', '{"rotate_after": "90 days", "publish_before": "1 day", "rotate_at": "03:00", "keep_retired": "10 days"}')$$);
UPDATE _grownext.jwt_key SET activated_at = '2030-01-01 12:00+00', published_at = '2030-01-01 12:00+00', created_at = '2030-01-01 12:00+00' WHERE purpose = 'access' AND state = 'active';
SELECT kid AS first FROM grownext.signing_key WHERE purpose = 'access' AND state = 'active' \gset
SELECT is((SELECT publish_at || ' ' || next_rotation_at FROM grownext.key_policy), '2030-04-01 03:00:00+00 2030-04-02 03:00:00+00', 'age and time of day say when the next one is published and signs');
SELECT is(_grownext.jwt_tick('2030-03-31 00:00+00'), '2030-03-31 01:00+00'::timestamptz, 'a pass long before does nothing and comes back in an hour');
SELECT is(_grownext.jwt_tick('2030-04-01 02:30+00'), '2030-04-01 03:00+00'::timestamptz, 'or when something is due');
SELECT is((SELECT count(*) FROM grownext.signing_key WHERE state = 'standby'), 0::bigint, 'nothing is published yet');
SELECT isnt(_grownext.jwt_tick('2030-04-01 03:00+00'), NULL, 'the pass publishes');
SELECT is((SELECT string_agg(state, ' ' ORDER BY state) FROM grownext.signing_key WHERE purpose = 'access' AND state <> 'revoked'), 'active standby', 'the successor');
SELECT is((SELECT next_rotation_at FROM grownext.key_policy), '2030-04-02 03:00+00'::timestamptz, 'in time');
SELECT is(_grownext.jwt_tick('2030-04-02 02:59:55+00'), '2030-04-02 03:00:05+00'::timestamptz, 'a pass just before does nothing');
SELECT is((SELECT kid FROM grownext.signing_key WHERE purpose = 'access' AND state = 'active'), :'first', 'the old key signs on');
SELECT is(_grownext.jwt_tick('2030-04-02 03:00+00'), '2030-04-02 04:00+00'::timestamptz, 'then the successor signs');
SELECT is((SELECT state || ' ' || accepted_until FROM grownext.signing_key WHERE kid = :'first'), 'retiring 2030-04-03 04:00:00+00', 'and the old one retires');
SELECT is(_grownext.jwt_tick('2030-04-02 03:00+00'), '2030-04-02 04:00+00'::timestamptz, 'the same pass again does nothing more');
SELECT isnt((SELECT sealed FROM _grownext.jwt_key WHERE kid = :'first'), NULL, 'its private part is there');
SELECT _grownext.jwt_tick('2030-04-03 04:00+00') \g /dev/null
SELECT is((SELECT sealed IS NULL FROM _grownext.jwt_key WHERE kid = :'first'), true, 'until its last token has expired');
SET LOCAL grownext.test_clock = '2030-04-03 04:00+00';
SELECT is(jsonb_array_length(grownext.jwks('access') -> 'keys'), 1, 'it left the JWKS then');
RESET grownext.test_clock;
SELECT _grownext.jwt_tick('2030-04-13 03:59+00') \g /dev/null
SELECT is(EXISTS (SELECT FROM grownext.signing_key WHERE kid = :'first'), true, 'it is kept for as long as the policy says');
SELECT _grownext.jwt_tick('2030-04-13 04:00+00') \g /dev/null
SELECT is(NOT EXISTS (SELECT FROM grownext.signing_key WHERE kid = :'first'), true, 'and forgotten');
SELECT is((SELECT state FROM grownext.signing_key WHERE kid = :'second'), 'revoked', 'a revoked key is not');
SELECT is((SELECT count(*) FROM grownext.audit_event WHERE action = 'key.forgotten' AND target = 'key:' || :'first'), 1::bigint, 'the audit log keeps that, too');
-- a pass that comes late publishes first, and waits
SELECT _grownext.jwt_tick('2031-01-01 00:00+00') \g /dev/null
SELECT is((SELECT string_agg(state, ' ' ORDER BY state) = 'active standby' FROM grownext.signing_key WHERE purpose = 'access' AND state <> 'revoked'), true, 'a late pass does not activate what it publishes');
SELECT is((SELECT next_rotation_at FROM grownext.key_policy), '2031-01-02 03:00+00'::timestamptz, 'the key signs after its publication, at its time of day');
-- a revoked active key is nobody's to replace but an admin's
SAVEPOINT s;
SELECT grownext.key_revoke(kid, 'stolen') FROM grownext.signing_key WHERE purpose = 'access' AND state = 'active' \g /dev/null
SELECT _grownext.jwt_tick('2031-02-01 00:00+00') \g /dev/null
SELECT is(NOT EXISTS (SELECT FROM grownext.signing_key WHERE purpose = 'access' AND state = 'active'), true, 'without an active key nothing happens by itself');
ROLLBACK TO s;
UPDATE _grownext.jwt_key SET activated_at = now(), published_at = now() WHERE purpose = 'access' AND state = 'active';
DELETE FROM _grownext.jwt_key WHERE purpose = 'access' AND state = 'standby';
SELECT lives_ok($$SELECT grownext.key_policy_define('access')$$, 'a policy is replaced by what is defined next');
SELECT is((SELECT rotate_after IS NULL FROM grownext.key_policy), true, 'by nothing, too');

-- Profiles -----------------------------------------------------------------------

SELECT is((SELECT format('%s %s %s %s %s %s', issuer, audiences, ttl, max_ttl, typ, defined) FROM grownext.token_profile WHERE purpose = 'access'),
    'https://id.example.com {api,other} 00:15:00 24:00:00 at+jwt f', 'what nobody defined has a profile');
SELECT throws_ok(format('SELECT grownext.token_profile_define(%L, %L)', t.purpose, t.options), t.code, t.message)
  FROM (VALUES ('access', '{"colour": "red"}', '22023', 'unknown option "colour"'),
               ('access', '{"ttl": 900}', '22023', 'option "ttl" must be of type string'),
               ('access', '{"ttl": "0 seconds"}', '22023', 'option "ttl" must be between 1 second and max_ttl, which is 24:00:00'),
               ('access', '{"ttl": "2 days"}', '22023', 'option "ttl" must be between 1 second and max_ttl, which is 24:00:00'),
               ('access', '{"max_ttl": "2 years"}', '22023', 'option "max_ttl" must be between 1 second and 365 days'),
               ('access', '{"max_ttl": "eternity"}', '22023', 'option "max_ttl" must be an interval'),
               ('access', '{"audiences": []}', '22023', 'option "audiences" must name at least one'),
               ('access', '{"audiences": [1]}', '22023', 'option "audiences" must be an array of up to 64 strings, none of them empty'),
               ('access', '{"claims": ["a", ""]}', '22023', 'option "claims" must be an array of up to 64 strings, none of them empty'),
               ('access', '{"issuer": " "}', '22023', 'option "issuer" must not be empty'),
               ('access', '{"typ": "a\"b"}', '22023', 'option "typ" must be a media type without "application/"'),
               ('mail', '{"typ": "AT+JWT"}', '22023', 'tokens of type "at+jwt" are access tokens'),
               ('access', '{"alg": "none"}', '0A000', 'algorithm "none" is not supported'),
               ('access', '[]', '22023', 'options must be a JSON object'),
               ('access', NULL, '22004', 'a profile needs a purpose and options'),
               (NULL, '{}', '22004', 'a profile needs a purpose and options'),
               ('Not A Purpose', '{}', '22023', 'a key''s purpose must be up to 32 of a-z, 0-9 and "_", a letter first')) AS t (purpose, options, code, message);

SELECT lives_ok($$SELECT grownext.token_profile_define('mail', '{"issuer": "https://mail.example.com", "audiences": ["link", "reply"], "ttl": "1 day", "max_ttl": "7 days", "claims": ["to"], "typ": "mail+jwt", "alg": "ES384"}')$$);
SELECT throws_ok($$SELECT grownext.key_create('ES256', 'mail')$$, '22023', 'keys of purpose "mail" must be of algorithm ES384, not ES256');
SELECT isnt(grownext.key_rotate('mail'), NULL, 'a key that nobody chose is of the profile''s algorithm');
SELECT is((SELECT alg FROM grownext.signing_key WHERE purpose = 'mail'), 'ES384');
SELECT grownext.jwt_mint('ann', '{"to": "ann@example.com"}', purpose => 'mail') AS token \gset
SELECT is((SELECT format('%s %s %s %s %s %s', i.active, i.header ->> 'typ', i.claims ->> 'iss', i.claims ->> 'aud', (i.claims ->> 'exp')::bigint - (i.claims ->> 'iat')::bigint, i.claims ? 'client_id')
             FROM grownext.jwt_inspect(:'token', purpose => 'mail') AS i), 't mail+jwt https://mail.example.com link 86400 f', 'mint and verify follow the profile');
SELECT is(grownext.jwt_verify(:'token', 'link', 'https://mail.example.com', 'mail') ->> 'to', 'ann@example.com', 'its issuer and audience can be named');
SELECT throws_ok(format('SELECT grownext.jwt_verify(%L, %L, %L, ''mail'')', :'token', t.audience, t.issuer), '22023', t.message)
  FROM (VALUES ('api', NULL, 'audience "api" is not one of this platform''s'), (NULL, 'https://id.example.com', 'issuer "https://id.example.com" is not trusted here')) AS t (audience, issuer, message);
SELECT is((grownext.jwt_inspect(:'token', 'reply', purpose => 'mail')).error, 'wrong_audience', 'another audience of the profile is not the token''s');
SELECT isnt((grownext.jwt_inspect(:'token')).error, NULL, 'nor is it an access token');
SELECT throws_ok($$SELECT grownext.jwt_mint('ann', '{"plan": "gold"}', purpose => 'mail')$$, '22023', 'claim "plan" is not one that the profile allows');
SELECT throws_ok($$SELECT grownext.jwt_mint('ann', ttl => '8 days', purpose => 'mail')$$, '22023', 'a token''s ttl must be between 1 second and 168 hours');
SELECT throws_ok($$SELECT grownext.jwt_mint('ann', audience => 'api', purpose => 'mail')$$, '22023', 'audience "api" is not one of this platform''s');
-- how long a retired key counts follows the longest token that it may have signed
SELECT isnt(grownext.key_rotate('mail', true), NULL);
SELECT is((SELECT accepted_until - retired_at FROM grownext.signing_key WHERE purpose = 'mail' AND state = 'retiring'), '169:00:00'::interval, 'max_ttl and an hour');
SELECT lives_ok($$SELECT grownext.token_profile_define('mail', '{"max_ttl": "8 days", "alg": "ES384"}')$$, 'a longer life');
SELECT lives_ok($$SELECT grownext.token_profile_define('mail', '{"max_ttl": "1 hour", "alg": "ES384"}')$$, 'and a shorter one');
SELECT isnt(grownext.key_rotate('mail', true), NULL);
SELECT is((SELECT max(accepted_until - retired_at) FROM grownext.signing_key WHERE purpose = 'mail' AND state = 'retiring'), '193:00:00'::interval, 'the longest that held while it signed counts');
SELECT is((grownext.jwt_inspect(:'token', purpose => 'mail')).error, 'wrong_type', 'a profile that changed judges old tokens, too');

-- Claims hooks ---------------------------------------------------------------------

CREATE ROLE regress_app;
CREATE ROLE regress_admin;
CREATE ROLE regress_bypass BYPASSRLS;
GRANT grownext_admin TO regress_admin;
CREATE SCHEMA regress_hook AUTHORIZATION regress_app;
GRANT USAGE ON SCHEMA regress_hook TO regress_admin;
CREATE TABLE regress_hook.seen (who text);
ALTER TABLE regress_hook.seen OWNER TO regress_app;
SET LOCAL ROLE regress_app;
CREATE FUNCTION regress_hook.add(subject text, claims jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    CASE subject
        WHEN 'none' THEN RETURN NULL;
        WHEN 'array' THEN RETURN '[]';
        WHEN 'sub' THEN RETURN '{"sub": "root"}';
        WHEN 'role' THEN RETURN '{"role": "postgres"}';
        WHEN 'tenant' THEN RETURN '{"tenant_id": "b2222222-2222-4222-8222-222222222222"}';
        WHEN 'taken' THEN RETURN '{"scope": "everything"}';
        WHEN 'secret' THEN RAISE EXCEPTION USING ERRCODE = 'P4711', MESSAGE = 'about ' || claims::text, DETAIL = claims::text, HINT = claims::text;
        WHEN 'retry' THEN RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = 'again';
        WHEN 'role2' THEN SET LOCAL ROLE regress_admin; RETURN NULL;
        WHEN 'deep' THEN RETURN jsonb_build_object('n', 1e30);
        ELSE INSERT INTO regress_hook.seen VALUES (current_user); RETURN jsonb_build_object('who', current_user::text, 'path', current_setting('search_path'), 'saw', claims);
    END CASE;
END $$;
CREATE FUNCTION regress_hook.wrong(subject text) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{}'::jsonb $$;
CREATE FUNCTION regress_hook.setof(subject text, claims jsonb) RETURNS SETOF jsonb LANGUAGE sql AS $$ SELECT '{}'::jsonb $$;
RESET ROLE;
CREATE FUNCTION regress_hook.of_superuser(subject text, claims jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{}'::jsonb $$;
CREATE FUNCTION regress_hook.of_owner(subject text, claims jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{}'::jsonb $$;
GRANT CREATE ON SCHEMA regress_hook TO grownext_owner, regress_bypass;
ALTER FUNCTION regress_hook.of_owner OWNER TO grownext_owner;
CREATE FUNCTION regress_hook.of_bypass(subject text, claims jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{}'::jsonb $$;
ALTER FUNCTION regress_hook.of_bypass OWNER TO regress_bypass;

SELECT throws_ok(format('SELECT grownext.token_profile_define(''access'', jsonb_build_object(''claims_hook'', %L::text))', t.hook), t.code, t.message, t.claim)
  FROM (VALUES ('regress_hook.nothing(text,jsonb)', '42883', NULL, 'a function that is not there'),
               ('regress_hook.wrong(text)', '42P13', 'function regress_hook.wrong(text) cannot be a claims hook', 'one of other arguments'),
               ('regress_hook.setof(text,jsonb)', '42P13', 'function regress_hook."setof"(text,jsonb) cannot be a claims hook', 'one that returns a set'),
               ('regress_hook.of_superuser(text,jsonb)', '42P13', 'function regress_hook.of_superuser(text,jsonb) cannot be a claims hook', 'one of a superuser'),
               ('regress_hook.of_owner(text,jsonb)', '42P13', 'function regress_hook.of_owner(text,jsonb) cannot be a claims hook', 'one of the extension''s owner'),
               ('regress_hook.of_bypass(text,jsonb)', '42P13', 'function regress_hook.of_bypass(text,jsonb) cannot be a claims hook', 'one of a role above row security'),
               ('pg_catalog.jsonb_extract_path(jsonb,text[])', '42P13', NULL, 'one of the system'),
               ('not a signature', '22P02', NULL, 'no function at all'),
               ('-', '42883', NULL, 'a dash')) AS t (hook, code, message, claim);
SET LOCAL ROLE regress_admin;
SELECT throws_ok($$SELECT grownext.token_profile_define('access', '{"claims_hook": "regress_hook.add(text,jsonb)"}')$$, '42501',
    'permission denied to let function regress_hook.add(text,jsonb) run as role "regress_app"', 'an admin who cannot become the owner lends nobody''s rights');
RESET ROLE;
GRANT regress_app TO regress_admin;
SET LOCAL ROLE regress_admin;
SELECT lives_ok($$SELECT grownext.token_profile_define('access', '{"claims_hook": "regress_hook.add(text,jsonb)"}')$$, 'one who can may register it');
RESET ROLE;
SELECT is((SELECT claims_hook || ' ' || hook_owner FROM grownext.token_profile WHERE purpose = 'access'), 'regress_hook.add(text,jsonb) regress_app', 'the view shows it');
SET LOCAL ROLE grownext_service;
SELECT is(grownext.jwt_verify(grownext.jwt_mint('ann', '{"plan": "gold"}')) - ARRAY['iss', 'aud', 'exp', 'iat', 'jti', 'client_id'],
    '{"sub": "ann", "plan": "gold", "who": "regress_app", "path": "pg_catalog, pg_temp", "saw": {"plan": "gold"}}', 'it adds claims, as its owner, whoever mints');
SELECT is(grownext.jwt_verify(grownext.jwt_mint('none')) ->> 'sub', 'none', 'or none');
SELECT throws_ok(format('SELECT grownext.jwt_mint(%L, ''{"scope": "s3cret"}'')', t.subject), t.code, t.message)
  FROM (VALUES ('array', 'NX018', 'claims hook regress_hook.add returned no object'),
               ('sub', 'NX018', 'claims hook regress_hook.add may not say claim "sub"'),
               ('role', 'NX018', 'claims hook regress_hook.add may not say claim "role"'),
               ('tenant', 'NX018', 'claims hook regress_hook.add may not say claim "tenant_id"'),
               ('taken', 'NX018', 'claims hook regress_hook.add may not say claim "scope"'),
               ('secret', 'NX018', 'claims hook regress_hook.add failed'),
               ('role2', 'NX018', 'claims hook regress_hook.add failed'),
               ('retry', '40001', 'again'),
               ('deep', '22023', 'a number among the claims has more than 18 digits')) AS t (subject, code, message);
RESET ROLE;
CREATE FUNCTION pg_temp.said(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
    context text;
BEGIN
    EXECUTE statement;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
    RETURN concat_ws(E'\n', message, detail, hint, context);
END $$;
SELECT unalike(replace(pg_temp.said($$SELECT grownext.jwt_mint('secret', '{"scope": "s3cret"}')$$), 'SELECT grownext.jwt_mint(''secret'', ''{"scope": "s3cret"}'')', ''), '%s3cret%', 'what a hook says of a failure is not passed on');
SELECT matches(pg_temp.said($$SELECT grownext.jwt_mint('secret')$$), 'It raised SQLSTATE P4711\.', 'its code is');
SELECT is(current_user::text || current_setting('search_path'), session_user || (SELECT reset_val FROM pg_settings WHERE name = 'search_path'), 'after a failure everybody is who they were');
-- checked again at every use
ALTER FUNCTION regress_hook.add OWNER TO regress_bypass;
SELECT matches(pg_temp.said($$SELECT grownext.jwt_mint('ann')$$), 'may not run.*stands above row security', 'a hook that was given to somebody else does not run');
SELECT is((SELECT state FROM grownext.status() WHERE item = 'claims hook of access'), 'failed', 'and status says so');
ALTER FUNCTION regress_hook.add OWNER TO regress_app;
ALTER ROLE regress_app SUPERUSER;
SELECT matches(pg_temp.said($$SELECT grownext.jwt_mint('ann')$$), 'its owner "regress_app" is a superuser', 'nor that of a role that became superuser');
ALTER ROLE regress_app NOSUPERUSER;
ALTER ROLE regress_app RENAME TO regress_renamed;
SELECT matches(pg_temp.said($$SELECT grownext.jwt_mint('ann')$$), 'not owned by role "regress_app" any more');
ALTER ROLE regress_renamed RENAME TO regress_app;
DROP FUNCTION regress_hook.add;
SELECT matches(pg_temp.said($$SELECT grownext.jwt_mint('ann')$$), 'it does not exist');
SELECT lives_ok($$SELECT grownext.token_profile_define('access', '{}')$$, 'a profile without a hook');
SELECT is(grownext.jwt_verify(grownext.jwt_mint('ann')) ->> 'sub', 'ann', 'mints again');

-- JWKS and discovery -----------------------------------------------------------------

INSERT INTO _grownext.jwt_key (kid, purpose, alg, state, provider, public_jwk, created_at, published_at)
VALUES (repeat('h', 43), 'internal', 'HS256', 'standby', 'local', '{"kty": "oct", "kid": "x", "alg": "HS256"}', now(), now()),
       (repeat('k', 43), 'internal', 'ES256', 'standby', 'local', '{"kty": "EC", "crv": "P-256", "x": "x", "y": "y", "d": "oops"}', now(), now());
SELECT is(grownext.jwks('internal'), '{"keys": []}', 'no symmetric key and no private part in a JWK Set, whatever is stored');
SELECT is(jsonb_array_length(grownext.jwks() -> 'keys'), (SELECT count(*)::int FROM grownext.signing_key WHERE state <> 'revoked' AND purpose <> 'internal'), 'all the others are there');

-- this database may have the functions already
CREATE TEMP TABLE endpoint AS SELECT p.oid FROM pg_proc AS p WHERE p.pronamespace IN ('grownext'::regnamespace, 'grownext_api'::regnamespace)
    AND p.proname IN ('token', 'token_introspect', 'token_revoke', 'introspect', 'revoke', 'userinfo');
UPDATE pg_proc SET proname = 'was_' || proname FROM endpoint AS e WHERE e.oid = pg_proc.oid;
SELECT is(grownext.discovery(), '{"issuer": "https://id.example.com", "jwks_uri": "https://id.example.com/.well-known/jwks.json", "response_types_supported": [], "grant_types_supported": [], "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256", "ES384"]}',
    'without a token endpoint nothing is promised');
CREATE FUNCTION grownext_api.token(grant_type text, refresh_token text, client_id text, client_secret text, subject_token text) RETURNS jsonb LANGUAGE sql AS $$ SELECT NULL::jsonb $$;
CREATE FUNCTION grownext_api.revoke(token text) RETURNS void LANGUAGE sql AS $$ SELECT $$;
SELECT is(grownext.discovery() - ARRAY['issuer', 'jwks_uri', 'response_types_supported', 'subject_types_supported', 'id_token_signing_alg_values_supported'],
    '{"token_endpoint": "https://id.example.com/token", "revocation_endpoint": "https://id.example.com/revoke",
      "grant_types_supported": ["client_credentials", "refresh_token", "urn:ietf:params:oauth:grant-type:token-exchange"],
      "token_endpoint_auth_methods_supported": ["client_secret_post", "none"], "revocation_endpoint_auth_methods_supported": ["none"]}',
    'what is in the catalogue is, with what it takes');
SELECT count(*) FROM grownext.setup('https://id.example.com', ARRAY['api'], '{"endpoint_base": "https://api.example.com/rpc/", "jwks_uri": "https://cdn.example.com/jwks", "scopes_supported": ["reports:read"]}') \gset setup_
SELECT is((SELECT format('%s %s %s', d ->> 'token_endpoint', d ->> 'jwks_uri', d -> 'scopes_supported') FROM grownext.discovery() AS d),
    'https://api.example.com/rpc/token https://cdn.example.com/jwks ["reports:read"]', 'where a gateway serves them is setup()''s to say');
SELECT throws_ok(format('SELECT grownext.setup(''https://id.example.com'', ''{api}'', %L)', t.options), '22023', t.message)
  FROM (VALUES ('{"endpoint_base": "rpc"}', 'option "endpoint_base" must be an http or https address without query and fragment'),
               ('{"jwks_uri": "https://a/?b"}', 'option "jwks_uri" must be an http or https address without query and fragment'),
               ('{"scopes_supported": ["a b"]}', 'option "scopes_supported" must be an array of scopes'),
               ('{"scopes_supported": "a"}', 'option "scopes_supported" must be of type array')) AS t (options, message);

-- Sealed values ------------------------------------------------------------------------

SELECT is_empty($$
    SELECT c.table_name || '.' || c.column_name FROM information_schema.columns AS c
     WHERE c.table_schema = '_grownext' AND c.column_name ~ '^sealed' AND c.data_type = 'bytea'
    EXCEPT SELECT substr(s.relation, length('_grownext.') + 1) || '.' || s.column_name FROM _grownext.crypto_sealed AS s$$,
    'every sealed column is registered, so that key_rewrap() finds it');
SELECT throws_ok($$SELECT grownext.key_rewrap(0)$$, '22023', 'max_count must be positive');
SELECT is(grownext.key_rewrap(), 0, 'under one master key there is nothing to seal again');
SELECT lives_ok($$SELECT grownext.secret_set('one', 'first'), grownext.secret_set('two', 'second')$$);
\! (umask 077; echo "k2:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI="; cat "$KEY_FILE") > "$KEY_FILE.next"; chmod 600 "$KEY_FILE.next"; mv "$KEY_FILE.next" "$KEY_FILE"
SELECT matches((SELECT state || ': ' || detail FROM grownext.status() WHERE item = 'sealed values'), '^degraded: (\d+) of \1 are sealed under "k1", not under the current master key "k2"$', 'status counts what is under the older one');
SELECT is(grownext.key_rewrap(1), 1, 'one at a time');
UPDATE _grownext.crypto_secret SET sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1) WHERE name = 'two';
CREATE TEMP TABLE left_over AS SELECT sum(sealed) AS amount FROM _grownext.crypto_sealed_counts() WHERE master_key = 'k1';
SELECT is(grownext.key_rewrap()::numeric, (SELECT amount - 1 FROM left_over), 'a damaged value does not keep the others from being sealed again');
SELECT results_eq($$SELECT name FROM _grownext.crypto_secret WHERE _grownext.crypto_sealed_under(sealed) = 'k1'$$, ARRAY['two'], 'it is left as it is');
SELECT is((SELECT count(*) FROM _grownext.crypto_reseal('crypto_secret two 1', '\x') AS r WHERE r.problem = 'it is damaged' AND r.resealed IS NULL), 1::bigint, 'nor does an empty one');
SELECT is((SELECT r.problem FROM _grownext.crypto_reseal('x', '\x01026b39' || decode(repeat('00', 40), 'hex')) AS r), 'master key "k9" is missing');
SELECT is(grownext.jwt_verify(grownext.jwt_mint('bob')) ->> 'sub', 'bob', 'keys sign as before');

SELECT * FROM finish();
ROLLBACK;
ALTER SYSTEM RESET grownext.master_key_file;
\o /dev/null
SELECT pg_reload_conf();
\o
\! rm -f "$KEY_FILE"
