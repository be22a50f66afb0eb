-- Crypto, jwt, account, session: the API's shape, who may call what, and refusals
BEGIN;
SELECT * FROM no_plan();

-- Shapes: the promise to users; parameters by name, in order, with the number of defaults
CREATE TEMP TABLE promised (name text, arguments text, result text, volatility text);
INSERT INTO promised VALUES
    ('secret_set', 'name text, value text DEFAULT NULL::text, file text DEFAULT NULL::text', 'void', 'v'),
    ('secret_drop', 'name text', 'void', 'v'),
    ('key_create', 'alg text DEFAULT ''ES256''::text, purpose text DEFAULT ''access''::text, provider text DEFAULT ''local''::text, ref jsonb DEFAULT ''{}''::jsonb', 'text', 'v'),
    ('key_rotate', 'purpose text DEFAULT ''access''::text, force boolean DEFAULT false', 'text', 'v'),
    ('key_revoke', 'kid text, reason text', 'void', 'v'),
    ('jwks', 'purpose text DEFAULT NULL::text', 'jsonb', 's'),
    ('discovery', '', 'jsonb', 's'),
    ('jwt_mint', 'subject text, claims jsonb DEFAULT ''{}''::jsonb, audience text DEFAULT NULL::text, ttl interval DEFAULT NULL::interval, purpose text DEFAULT ''access''::text', 'text', 'v'),
    ('jwt_verify', 'token text, audience text DEFAULT NULL::text, issuer text DEFAULT NULL::text, purpose text DEFAULT ''access''::text', 'jsonb', 's'),
    ('jwt_inspect', 'token text, audience text DEFAULT NULL::text, issuer text DEFAULT NULL::text, purpose text DEFAULT ''access''::text', 'grownext.token_info', 's'),
    ('jws_sign', 'payload bytea, jwk jsonb, header jsonb DEFAULT ''{}''::jsonb', 'text', 'v'),
    ('jws_verify', 'token text, jwk jsonb', 'grownext.jws_result', 'i'),
    ('jwk_thumbprint', 'jwk jsonb', 'text', 'i'),
    ('authenticate', 'token text, audience text DEFAULT NULL::text', 'jsonb', 'v'),
    ('act_as', 'subject text, tenant_id uuid DEFAULT NULL::uuid, claims jsonb DEFAULT ''{}''::jsonb, reason text DEFAULT NULL::text', 'void', 'v'),
    ('user_create', 'email text, name text DEFAULT NULL::text, id uuid DEFAULT NULL::uuid, external_id text DEFAULT NULL::text, attributes jsonb DEFAULT ''{}''::jsonb', 'uuid', 'v'),
    ('user_update', 'id uuid, changes jsonb', 'void', 'v'),
    ('user_disable', 'id uuid', 'void', 'v'),
    ('user_enable', 'id uuid', 'void', 'v'),
    ('user_delete', 'id uuid', 'void', 'v'),
    ('session_create', 'user_id uuid, tenant_id uuid DEFAULT NULL::uuid, attributes jsonb DEFAULT ''{}''::jsonb', 'jsonb', 'v'),
    ('session_refresh', 'refresh_token text', 'jsonb', 'v'),
    ('session_revoke', 'id uuid, reason text DEFAULT NULL::text', 'boolean', 'v'),
    ('session_revoke_all', 'user_id uuid DEFAULT NULL::uuid, tenant_id uuid DEFAULT NULL::uuid, except_session uuid DEFAULT NULL::uuid, reason text DEFAULT NULL::text', 'integer', 'v');

SELECT is((SELECT array_agg(pg_get_function_arguments(p.oid)) FROM pg_proc AS p WHERE p.pronamespace = 'grownext'::regnamespace AND p.proname = promised.name),
          ARRAY[arguments], format('grownext.%s: its arguments, and no overload', name))
  FROM promised ORDER BY name;
SELECT is(pg_get_function_result(p.oid), result, format('grownext.%s: its result', name))
  FROM promised JOIN pg_proc AS p ON p.pronamespace = 'grownext'::regnamespace AND p.proname = promised.name ORDER BY name;
SELECT is(p.provolatile::text, volatility, format('grownext.%s: its volatility', name))
  FROM promised JOIN pg_proc AS p ON p.pronamespace = 'grownext'::regnamespace AND p.proname = promised.name ORDER BY name;
SELECT is(p.proparallel::text, 's', format('grownext.%s is parallel safe', p.proname))
  FROM pg_proc AS p WHERE p.pronamespace = 'grownext'::regnamespace AND p.proname IN ('jwt_verify', 'jwt_inspect', 'jws_verify', 'jwk_thumbprint') ORDER BY p.proname;

SELECT columns_are('grownext', 'secret', ARRAY['name', 'set_at', 'previous_until']);
SELECT columns_are('grownext', 'signing_key', ARRAY['kid', 'purpose', 'alg', 'state', 'provider', 'public_jwk', 'created_at', 'published_at', 'activated_at', 'retired_at', 'revoked_at', 'accepted_until']);
SELECT columns_are('grownext', 'user_account', ARRAY['id', 'email', 'name', 'external_id', 'attributes', 'created_at', 'updated_at', 'disabled_at']);
SELECT columns_are('grownext', 'session', ARRAY['id', 'user_id', 'tenant_id', 'client_id', 'scope', 'acr', 'amr', 'auth_time', 'ip', 'user_agent', 'attributes', 'created_at', 'last_refreshed_at', 'expires_at', 'revoked_at', 'revoke_reason', 'last_used_at', 'device']);

-- Rights: these roles and no others
CREATE TEMP TABLE allowed (what text, roles text);
INSERT INTO allowed VALUES
    ('secret_set', 'admin'), ('secret_drop', 'admin'),
    ('key_create', 'admin'), ('key_rotate', 'admin'), ('key_revoke', 'admin'),
    ('jwt_mint', 'admin service'), ('act_as', 'admin service'),
    ('jwt_verify', 'admin anon service user worker'), ('jwt_inspect', 'admin anon service user worker'),
    ('jws_sign', 'admin service'), ('jws_verify', 'admin anon service user worker'), ('jwk_thumbprint', 'admin anon service user worker'),
    ('authenticate', 'admin anon service user worker'),
    ('jwks', 'admin anon auditor monitor service user worker'), ('discovery', 'admin anon auditor monitor service user worker'),
    ('user_create', 'admin service'), ('user_update', 'admin service'), ('user_disable', 'admin service'), ('user_enable', 'admin service'), ('user_delete', 'admin service'),
    ('session_create', 'admin service'), ('session_refresh', 'anon service user'),
    ('session_revoke', 'admin service user'), ('session_revoke_all', 'admin service user');
SELECT is((SELECT string_agg(replace(r.rolname, 'grownext_', ''), ' ' ORDER BY r.rolname)
             FROM pg_roles AS r
            WHERE r.rolname LIKE 'grownext\_%' AND r.rolname <> 'grownext_owner' AND has_function_privilege(r.oid, p.oid, 'EXECUTE')),
          allowed.roles, format('grownext.%s: who may call it', allowed.what))
  FROM allowed JOIN pg_proc AS p ON p.pronamespace = 'grownext'::regnamespace AND p.proname = allowed.what ORDER BY allowed.what;
SELECT is((SELECT count(*) FROM allowed), (SELECT count(*) FROM promised), 'every promised function has its rights tested');
SELECT is((SELECT string_agg(replace(r.rolname, 'grownext_', ''), ' ' ORDER BY r.rolname)
             FROM pg_roles AS r
            WHERE r.rolname LIKE 'grownext\_%' AND r.rolname <> 'grownext_owner' AND has_table_privilege(r.oid, v.name, 'SELECT')),
          v.roles, v.name || ': who may read it')
  FROM (VALUES ('grownext.secret', 'admin service'), ('grownext.signing_key', 'admin auditor monitor service'),
               ('grownext.user_account', 'admin auditor service user'), ('grownext.session', 'admin auditor service user')) AS v (name, roles);

-- What is ciphertext, or nothing
SELECT is(data_type::text, 'bytea', format('%s.sealed is bytes', table_name))
  FROM information_schema.columns WHERE table_schema = '_grownext' AND column_name = 'sealed' ORDER BY table_name;
SELECT is_empty($$SELECT table_name, column_name FROM information_schema.columns
                   WHERE table_schema = '_grownext' AND table_name ~ '^(session|jwt|crypto)_' AND column_name ~ 'token|password|private|plain'$$,
    'no column for what must not be kept');

-- Rules live in constraints
INSERT INTO _grownext.jwt_key (kid, purpose, alg, state, provider, public_jwk, created_at, published_at, activated_at)
VALUES (repeat('A', 43), 'access', 'ES256', 'active', 'local', '{}', now(), now(), now());
SELECT throws_ok($$INSERT INTO _grownext.jwt_key (kid, purpose, alg, state, provider, public_jwk, created_at, published_at, activated_at)
                   VALUES (repeat('B', 43), 'access', 'ES256', 'active', 'local', '{}', now(), now(), now())$$,
    '23505', NULL, 'a purpose has one active key');
SELECT throws_ok($$UPDATE _grownext.jwt_key SET state = 'revoked', revoked_at = now(), revoke_reason = 'x', sealed = '\x00'$$,
    '23514', NULL, 'a revoked key keeps no private part');
SELECT throws_ok($$UPDATE _grownext.jwt_key SET state = 'retiring'$$, '23514', NULL, 'a retiring key has its end');

-- Refusals: without set-up every entry says so, with the call that mends it
SELECT throws_ok('SELECT ' || call, code, NULL, format('%s raises %s', call, code))
  FROM (VALUES ($$grownext.jwt_mint('ann')$$, 'NX003'), ($$grownext.jwt_verify('x')$$, 'NX003'), ($$grownext.jwt_inspect('x')$$, 'NX003'),
               ($$grownext.authenticate('x')$$, 'NX003'), ($$grownext.discovery()$$, 'NX003'),
               ($$grownext.authenticate(NULL)$$, 'NX011'), ($$grownext.act_as(NULL)$$, '22004'),
               ($$grownext.session_create(gen_random_uuid())$$, '42704'), ($$grownext.session_refresh('gnr_x') ->> 'no' || 1/0$$, '22012'),
               ($$grownext.user_disable(gen_random_uuid())$$, '42704'), ($$grownext.user_delete(NULL)$$, '42704')) AS c (call, code);
SELECT is(grownext.session_refresh('gnr_x') ->> 'error', 'invalid_grant', 'a bad refresh token is answered, not raised');

-- A service mints for whom it likes, but no role above its own; a user's file is never read
CREATE ROLE regress_token_admin IN ROLE grownext_admin;
SET LOCAL ROLE regress_token_admin;
SELECT throws_ok($$SELECT grownext.secret_set('a', file => '/etc/passwd')$$, '42501', NULL, 'only a superuser reads a secret from a file');
SELECT throws_ok($$SELECT * FROM _grownext.jwt_key$$, '42501', NULL, 'an admin reads no table');
SELECT throws_ok($$SELECT _grownext.jwt_issue('ann', '{"sid": "x"}', NULL, NULL, 'access')$$, '42501', NULL, 'nor calls what is the platform''s own');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
