-- Clients, the token endpoint, introspection and revocation: shapes, rights, every grant
-- and every refusal. Not in one transaction: a refusal is returned, and what it leaves
-- behind has to be there afterwards.
\ir ../lib/token_world.psql
SELECT * FROM no_plan();

CREATE ROLE regress_po_admin IN ROLE grownext_admin;
CREATE ROLE regress_po_service IN ROLE grownext_service;
CREATE ROLE regress_po_anon IN ROLE grownext_anon;
CREATE ROLE regress_po_user IN ROLE grownext_user;
CREATE ROLE regress_po_super SUPERUSER;
\o /dev/null
\set exchange '''urn:ietf:params:oauth:grant-type:token-exchange'''
\set access_type '''urn:ietf:params:oauth:token-type:access_token'''
\set user_type '''urn:grownext:token-type:user'''
SELECT grownext.member_add(:acme, :bob, 'member');
-- the claims of an answer's token
CREATE FUNCTION pg_temp.claims(answer jsonb, audience text DEFAULT NULL) RETURNS jsonb LANGUAGE sql AS $$
    SELECT grownext.jwt_verify(answer ->> 'access_token', audience);
$$;
\o

-- Shapes and rights ----------------------------------------------------------------

SELECT is(ARRAY(SELECT pg_get_function_identity_arguments(p.oid) || ' -> ' || pg_get_function_result(p.oid) FROM pg_proc AS p
                 WHERE p.pronamespace = 'grownext'::regnamespace AND p.proname = f.name),
          ARRAY[f.shape], format('grownext.%s: its shape, and no overload', f.name))
  FROM (VALUES
    ('client_create', 'name text, scopes text[], options jsonb -> grownext.client_credentials'),
    ('client_update', 'client_id text, changes jsonb -> void'),
    ('client_disable', 'client_id text -> void'),
    ('client_enable', 'client_id text -> void'),
    ('client_delete', 'client_id text -> void'),
    ('client_rotate_secret', 'client_id text, overlap interval -> grownext.client_credentials'),
    ('token', 'grant_type text, refresh_token text, scope text, client_id text, client_secret text, client_assertion_type text, client_assertion text, audience text, resource text, subject_token text, subject_token_type text, actor_token text, actor_token_type text, requested_token_type text, reason text, ticket text, tenant_id text -> jsonb'),
    ('token_introspect', 'token text, token_type_hint text, client_id text, client_secret text, client_assertion_type text, client_assertion text -> jsonb'),
    ('token_revoke', 'token text, token_type_hint text -> void')) AS f (name, shape);
SELECT is((SELECT string_agg(replace(r.rolname, 'grownext_', ''), ' ' ORDER BY r.rolname) FROM pg_roles AS r
            WHERE r.rolname LIKE 'grownext\_%' AND r.rolname <> 'grownext_owner'
              AND has_function_privilege(r.oid, (SELECT p.oid FROM pg_proc AS p WHERE p.pronamespace = 'grownext'::regnamespace AND p.proname = f.name), 'EXECUTE')),
          f.roles, format('grownext.%s: who may call it', f.name))
  FROM (VALUES ('client_create', 'admin'), ('client_update', 'admin'), ('client_disable', 'admin'), ('client_enable', 'admin'), ('client_delete', 'admin'),
               ('client_rotate_secret', 'admin'), ('token', 'anon service user'), ('token_introspect', 'admin anon service user'), ('token_revoke', 'admin anon service user')) AS f (name, roles);
SELECT is((SELECT string_agg(replace(r.rolname, 'grownext_', ''), ' ' ORDER BY r.rolname) FROM pg_roles AS r
            WHERE r.rolname LIKE 'grownext\_%' AND r.rolname <> 'grownext_owner' AND has_table_privilege(r.oid, 'grownext.client', 'SELECT')),
          'admin auditor service', 'view client: who may read it');
SELECT columns_are('grownext', 'client', ARRAY['client_id', 'name', 'scopes', 'grants', 'audiences', 'ttl', 'auth_method', 'jwks', 'tenant_id', 'role', 'created_at',
    'updated_at', 'disabled_at', 'secret_created_at', 'previous_secret_until', 'failures', 'last_failure_at']);
SELECT is(grownext.token('client_credentials') ->> 'error', 'invalid_client', 'without an issuer''s clients nothing is granted');

-- Clients --------------------------------------------------------------------------

SET grownext.test_clock = '2026-01-01 00:00+00';
SET ROLE regress_po_admin;
SELECT client_id AS id, client_secret AS secret FROM grownext.client_create('reports', '{read,write,read}') \gset
SELECT matches(:'id'::text, '^gnc_[A-Za-z0-9_-]{22}$', 'a client''s id can be told');
SELECT matches(:'secret'::text, '^gns_[A-Za-z0-9_-]{43}$', 'so can its secret');
SELECT results_eq('SELECT name, scopes, grants, audiences, ttl, auth_method, jwks, tenant_id, role, disabled_at, secret_created_at, failures FROM grownext.client',
    $$VALUES ('reports', '{read,write}'::text[], '{client_credentials}'::text[], '{}'::text[], interval '15 minutes', 'client_secret_post', NULL::jsonb, NULL::uuid, 'grownext_user'::name, NULL::timestamptz, timestamptz '2026-01-01', 0::bigint)$$,
    'the view has it, without the secret');
SELECT throws_ok(format('SELECT grownext.client_create(%s)', arguments), code, NULL, 'client_create(' || left(arguments, 80) || ')')
  FROM (VALUES
    ($$'reports', '{}'$$, '42710'), ($$NULL, '{}'$$, '22023'), ($$'  ', '{}'$$, '22023'), ($$repeat('x', 201), '{}'$$, '22023'),
    ($$'x', NULL$$, '22023'), ($$'x', '{a b}'$$, '22023'), ($$'x', '{NULL}'$$, '22023'), ($$'x', '{ü}'$$, '22023'), ($$'x', '{"\""}'$$, '22023'),
    ($$'x', ARRAY[repeat('x', 5000)]$$, '22023'), ($$'x', '{}', NULL$$, '22023'), ($$'x', '{}', '[]'$$, '22023'), ($$'x', '{}', '{"secret": "x"}'$$, '22023'),
    ($$'x', '{}', '{"ttl": "25 hours"}'$$, '22023'), ($$'x', '{}', '{"ttl": "0"}'$$, '22023'), ($$'x', '{}', '{"ttl": "soon"}'$$, '22007'), ($$'x', '{}', '{"ttl": 5}'$$, '22023'),
    ($$'x', '{}', '{"grants": ["password"]}'$$, '22023'), ($$'x', '{}', '{"grants": [1]}'$$, '22023'), ($$'x', '{}', '{"audiences": ["evil"]}'$$, '22023'),
    ($$'x', '{}', '{"tenant_id": "00000000-0000-4000-8000-000000000000"}'$$, '42704'), ($$'x', '{}', '{"tenant_id": "acme"}'$$, '22P02'),
    ($$'x', '{}', '{"role": "nobody at all"}'$$, '42704'), ($$'x', '{}', '{"role": "regress_po_super"}'$$, '42501'), ($$'x', '{}', '{"role": "pg_monitor"}'$$, '42501'),
    ($$'x', '{}', '{"role": "grownext_owner"}'$$, '42501'), ($$'x', '{}', '{"role": "grownext_service"}'$$, '42501'),
    ($$'x', '{}', '{"jwks": {}}'$$, '22023'), ($$'x', '{}', '{"jwks": {"keys": [{"kty": "oct", "k": "AAAA", "alg": "HS256"}]}}'$$, '22023'),
    ($$'x', '{}', '{"jwks": {"kty": "EC", "crv": "P-256", "alg": "ES256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0", "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}}'$$, '22023')) AS c (arguments, code);
SELECT is((grownext.client_create('own role', '{}', '{"role": "grownext_admin"}')).client_id IS NOT NULL, true, 'a role of the caller''s own may be given');
RESET ROLE;
SELECT throws_ok(format('SELECT grownext.%s', call), '42704', NULL, call || ' of no client')
  FROM (VALUES ($$client_update('gnc_x', '{}')$$), ($$client_disable(NULL)$$), ($$client_enable('')$$), ($$client_rotate_secret(repeat('x', 100000))$$), ($$client_delete('gnc_x')$$)) AS c (call);
SELECT throws_ok(format('SELECT grownext.client_update(%L, %s)', :'id', changes), code, NULL, 'client_update ' || changes)
  FROM (VALUES ('NULL', '22023'), ($$'{"secret": "x"}'$$, '22023'), ($$'{"name": ""}'$$, '22023'), ($$'{"scopes": ["a b"]}'$$, '22023'), ($$'{"scopes": "a"}'$$, '22023'),
               ($$'{"tenant_id": "x"}'$$, '22023'), ($$'{"name": "own role"}'$$, '42710'),
               ($$'{"jwks": {"kty": "EC", "crv": "P-256", "alg": "ES256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}}'$$, '55000')) AS c (changes, code);
SELECT throws_ok(format('SELECT grownext.client_rotate_secret(%L, %L)', :'id', overlap), '22023', NULL, 'an overlap of ' || coalesce(overlap, 'NULL'))
  FROM (VALUES ('-1 second'), ('31 days'), (NULL)) AS o (overlap);

-- client_credentials ----------------------------------------------------------------

SET ROLE regress_po_anon;
SELECT grownext.token('client_credentials', client_id => :'id', client_secret => :'secret') AS a \gset
RESET ROLE;
SELECT is(:'a'::jsonb - 'access_token', '{"scope": "read write", "expires_in": 900, "token_type": "Bearer"}', 'a token, and no refresh token');
SELECT :'a'::jsonb ->> 'access_token' AS access \gset
SELECT is(pg_temp.claims(:'a') - 'jti', jsonb_build_object('iss', 'https://auth.example.com', 'sub', :'id', 'aud', 'my-api', 'client_id', :'id', 'scope', 'read write',
    'role', 'grownext_user', 'iat', 1767225600, 'exp', 1767226500), 'it speaks for the client');
SELECT is(pg_temp.binds(:'access'), 'bound', 'and binds');
SELECT is(grownext.token('client_credentials', client_id => :'id', client_secret => :'secret', scope => 'write') ->> 'scope', 'write', 'less than all scopes');
SELECT is(pg_temp.claims(grownext.token('client_credentials', client_id => :'id', client_secret => :'secret', audience => 'other-api'), 'other-api') ->> 'aud', 'other-api', 'another audience');
SELECT is(pg_temp.claims(grownext.token('client_credentials', client_id => :'id', client_secret => :'secret', resource => 'other-api'), 'other-api') ->> 'aud', 'other-api', 'a resource is one');
SELECT is(grownext.token(grant_type, client_id => :'id', client_secret => :'secret', scope => scope, audience => audience, resource => resource, client_assertion => assertion, refresh_token => refresh) ->> 'error', error, claim)
  FROM (VALUES
    ('client_credentials', 'admin', NULL, NULL, NULL, NULL, 'invalid_scope', 'a scope that the client does not have'),
    ('client_credentials', 'read  write', NULL, NULL, NULL, NULL, 'invalid_scope', 'a malformed scope'),
    ('client_credentials', repeat('x ', 9000), NULL, NULL, NULL, NULL, 'invalid_scope', 'a very long scope'),
    ('client_credentials', NULL, 'evil', NULL, NULL, NULL, 'invalid_target', 'an unknown audience'),
    ('client_credentials', NULL, 'my-api', 'other-api', NULL, NULL, 'invalid_target', 'an audience and another resource'),
    ('client_credentials', NULL, NULL, NULL, 'x.y.z', NULL, 'invalid_request', 'two methods of authentication'),
    ('refresh_token', NULL, NULL, NULL, NULL, 'x', 'unauthorized_client', 'a grant that the client may not use'),
    ('urn:ietf:params:oauth:grant-type:token-exchange', NULL, NULL, NULL, NULL, NULL, 'unauthorized_client', 'another such grant'),
    ('password', NULL, NULL, NULL, NULL, NULL, 'unsupported_grant_type', 'a grant that nobody may use'),
    (repeat('x', 60000), NULL, NULL, NULL, NULL, NULL, 'unsupported_grant_type', 'a very long grant'),
    ('', NULL, NULL, NULL, NULL, NULL, 'invalid_request', 'an empty grant'),
    (NULL, NULL, NULL, NULL, NULL, NULL, 'invalid_request', 'no grant'),
    ('client_credentials', repeat('x', 70000), NULL, NULL, NULL, NULL, 'invalid_request', 'a huge request')) AS c (grant_type, scope, audience, resource, assertion, refresh, error, claim);

-- Unknown client, wrong secret, no secret, disabled client: one answer, and it is remembered
SELECT is(grownext.token('client_credentials', client_id => id, client_secret => secret), '{"error": "invalid_client", "error_description": "client authentication failed"}', claim)
  FROM (VALUES (:'id', 'gns_wrong', 'a wrong secret'), (:'id', NULL, 'no secret'), (:'id', '', 'an empty secret'), (:'id', repeat('x', 60000), 'a huge secret'),
               ('gnc_AAAAAAAAAAAAAAAAAAAAAA', :'secret', 'an unknown client'), ('%s'';--', :'secret', 'a hostile client'), (NULL, :'secret', 'no client'), ('', '', 'nothing')) AS c (id, secret, claim);
SELECT is((SELECT failures FROM grownext.client WHERE client_id = :'id'), 4::bigint, 'failures are remembered');
SELECT is((SELECT array_agg(target ORDER BY id) FROM grownext.audit_event WHERE action = 'client.authentication_failed'), ARRAY['client:unknown', 'client:' || :'id'], 'and audited once a minute for a client');
SET grownext.test_clock = '2026-01-01 00:01:01+00';
SELECT is(grownext.token('client_credentials', client_id => :'id', client_secret => 'x') ->> 'error', 'invalid_client', 'another one, a minute later');
SELECT is((SELECT count(*) FROM grownext.audit_event WHERE action = 'client.authentication_failed'), 3::bigint, 'is audited again');

-- Rotation: two live secrets at most, one at the end of the overlap
SELECT client_secret AS secret2 FROM grownext.client_rotate_secret(:'id', '1 hour') \gset
CREATE FUNCTION pg_temp.lets_in(id text, secret text) RETURNS boolean LANGUAGE sql AS $$ SELECT grownext.token('client_credentials', client_id => id, client_secret => secret) ? 'access_token' $$;
SELECT is(pg_temp.lets_in(:'id', :'secret') AND pg_temp.lets_in(:'id', :'secret2'), true, 'both secrets let in during the overlap');
SELECT is((SELECT previous_secret_until FROM grownext.client WHERE client_id = :'id'), timestamptz '2026-01-01 01:01:01+00', 'which the view shows');
SET grownext.test_clock = '2026-01-01 01:01:01+00';
SELECT is(pg_temp.lets_in(:'id', :'secret'), false, 'then the old one does not');
SELECT is(pg_temp.lets_in(:'id', :'secret2'), true, 'and the new one does');
SELECT client_secret AS secret3 FROM grownext.client_rotate_secret(:'id') \gset
SELECT client_secret AS secret4 FROM grownext.client_rotate_secret(:'id') \gset
SELECT is(pg_temp.lets_in(:'id', :'secret2') OR NOT pg_temp.lets_in(:'id', :'secret3') OR NOT pg_temp.lets_in(:'id', :'secret4'), false, 'of three the oldest is gone at once');
SELECT client_secret AS secret5 FROM grownext.client_rotate_secret(:'id', '0') \gset
SELECT is(pg_temp.lets_in(:'id', :'secret4') OR NOT pg_temp.lets_in(:'id', :'secret5'), false, 'without an overlap the old one ends at once');
\set secret :secret5

-- Disabled, enabled, changed, deleted
SELECT grownext.token('client_credentials', client_id => :'id', client_secret => :'secret') ->> 'access_token' AS access \gset
SELECT is(pg_temp.binds(:'access'), 'bound', 'the client is in');
\o /dev/null
SELECT grownext.client_disable(:'id');
SELECT grownext.client_disable(:'id');
\o
SELECT is(pg_temp.binds(:'access'), 'NX013', 'disabled, its tokens are refused');
SELECT is(grownext.token_introspect(:'access'), '{"active": false}', 'and inactive');
SELECT is(pg_temp.lets_in(:'id', :'secret'), false, 'and it gets no other');
SET grownext.test_clock = '2026-01-01 01:02+00';
\o /dev/null
SELECT grownext.client_enable(:'id');
\o
SELECT is(pg_temp.binds(:'access'), 'NX013', 'enabled, the old tokens stay revoked');
SET grownext.test_clock = '2026-01-01 01:02:02+00';
SELECT grownext.token('client_credentials', client_id => :'id', client_secret => :'secret') ->> 'access_token' AS access \gset
SELECT is(pg_temp.binds(:'access'), 'bound', 'and new ones count');
\o /dev/null
SELECT grownext.client_update(:'id', '{"name": "reporting", "scopes": ["read"], "audiences": ["other-api"], "ttl": "5 minutes", "grants": ["client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"]}');
\o
SELECT is(grownext.token('client_credentials', client_id => :'id', client_secret => :'secret') - 'access_token', '{"scope": "read", "expires_in": 300, "token_type": "Bearer"}', 'changed, it gets what it may have now');
SELECT is(pg_temp.claims(grownext.token('client_credentials', client_id => :'id', client_secret => :'secret'), 'other-api') ->> 'aud', 'other-api', 'for its own audience');
SELECT is(grownext.token('client_credentials', client_id => :'id', client_secret => :'secret', audience => 'my-api') ->> 'error', 'invalid_target', 'and for no other');
SELECT grownext.session_create(:ann, attributes => jsonb_build_object('client_id', :'id', 'scope', 'read')) AS s \gset
SELECT is(pg_temp.binds(:'s'::jsonb ->> 'access_token'), 'bound', 'a session of the client');
SELECT client_id AS gone, client_secret AS gone_secret FROM grownext.client_create('short-lived', '{read}') \gset
SELECT grownext.token('client_credentials', client_id => :'gone', client_secret => :'gone_secret') ->> 'access_token' AS gone_access \gset
SELECT is(pg_temp.binds(:'gone_access'), 'bound', 'another client is in');
\o /dev/null
SELECT grownext.client_delete(:'gone');
\o
SELECT is(pg_temp.binds(:'gone_access'), 'NX013', 'deleted, its tokens end');
SELECT results_eq($$SELECT action, count(*) FROM grownext.audit_event WHERE action ~ '^client\.' GROUP BY action ORDER BY action COLLATE "C"$$,
    $$VALUES ('client.authentication_failed', 4::bigint), ('client.created', 3), ('client.deleted', 1), ('client.disabled', 1), ('client.enabled', 1), ('client.secret_rotated', 4), ('client.updated', 1)$$,
    'all of it is audited');
SELECT is((SELECT count(*) FROM grownext.audit_event AS e WHERE e::text ~ 'gns_|gnr_|eyJ'), 0::bigint, 'without any secret');

-- a client of a tenant
SELECT client_id AS ours, client_secret AS our_secret FROM grownext.client_create('sync', '{read}', jsonb_build_object('tenant_id', :acme)) \gset
SELECT is(pg_temp.claims(grownext.token('client_credentials', client_id => :'ours', client_secret => :'our_secret')) ->> 'tenant_id', :acme, 'a tenant''s client is in the tenant');
\o /dev/null
SELECT grownext.tenant_suspend(:acme, 'unpaid');
\o
SELECT is(grownext.token('client_credentials', client_id => :'ours', client_secret => :'our_secret') ->> 'error', 'unauthorized_client', 'and gets nothing while it is suspended');
\o /dev/null
SELECT grownext.tenant_resume(:acme);
SELECT (grownext.client_create('sync', '{read}', jsonb_build_object('tenant_id', :zeta))).client_id;
\o
SELECT is((SELECT count(*) FROM grownext.client WHERE name = 'sync'), 2::bigint, 'two tenants may use the same name');

-- refresh_token ----------------------------------------------------------------------

SELECT is(grownext.token('refresh_token') ->> 'error', 'invalid_request', 'a refresh without a token');
SELECT is(grownext.token('refresh_token', refresh_token => t) ->> 'error', 'invalid_grant', 'a bad refresh token: ' || left(t, 30))
  FROM unnest(ARRAY['x', 'gnr_', repeat('x', 60000), 'gnr_AAAA''; DROP TABLE x;--']) AS t;
SELECT grownext.session_create(:ann, :acme, '{"scope": "read write"}') AS s \gset
SELECT :'s'::jsonb ->> 'refresh_token' AS refresh \gset
SET ROLE regress_po_anon;
SELECT grownext.token('refresh_token', refresh_token => :'refresh', scope => 'read') AS s \gset
RESET ROLE;
SELECT is(pg_temp.claims(:'s') ->> 'scope', 'read', 'less scope for this access token');
SELECT is(pg_temp.claims(grownext.token('refresh_token', refresh_token => :'s'::jsonb ->> 'refresh_token')) ->> 'scope', 'read write', 'and all of it for the next');
SELECT is(grownext.token('refresh_token', refresh_token => :'refresh', scope => 'admin') ->> 'error', 'invalid_scope', 'more than the session has is refused, and nothing moves');
SELECT is((SELECT revoked_at FROM grownext.session WHERE id = (:'s'::jsonb ->> 'session_id')::uuid), NULL, 'nor ends');
SELECT is(grownext.token('refresh_token', refresh_token => :'refresh') ->> 'error', 'invalid_grant', 'reuse is answered');
SELECT is((SELECT revoke_reason FROM grownext.session WHERE id = (:'s'::jsonb ->> 'session_id')::uuid), 'refresh token reuse', 'and the revocation stays');
-- a registered client's refresh token is good in its own hands alone
\o /dev/null
SELECT grownext.client_update(:'id', '{"grants": ["client_credentials", "refresh_token", "urn:ietf:params:oauth:grant-type:token-exchange"]}');
SELECT grownext.client_update(:'ours', '{"grants": ["client_credentials", "refresh_token"]}');
\o
SELECT grownext.session_create(:ann, attributes => jsonb_build_object('client_id', :'id', 'scope', 'read')) ->> 'refresh_token' AS refresh,
       grownext.session_create(:ann) ->> 'refresh_token' AS nobodys \gset
SET ROLE regress_po_anon;
SELECT is(grownext.token('refresh_token', refresh_token => :'refresh') ->> 'error', 'invalid_grant', 'without the client it is refused');
SELECT is(grownext.session_refresh(:'refresh') ->> 'error', 'invalid_grant', 'by session_refresh(), too');
SELECT is(grownext.token('refresh_token', refresh_token => :'refresh', client_id => :'id', client_secret => 'x') ->> 'error', 'invalid_client', 'with a wrong secret as well');
SELECT is(grownext.token('refresh_token', refresh_token => :'refresh', client_id => :'ours', client_secret => :'our_secret') ->> 'error', 'invalid_grant', 'by another client as well');
SELECT is(grownext.token('refresh_token', refresh_token => :'nobodys', client_id => :'id', client_secret => :'secret') ->> 'error', 'invalid_grant', 'nor may a client use one that is not its own');
SELECT is(grownext.token('refresh_token', refresh_token => :'refresh', client_id => :'id', client_secret => :'secret') ? 'access_token', true, 'its own it may');
RESET ROLE;
\o /dev/null
SELECT grownext.client_disable(:'ours');
\o
SELECT throws_ok(format('SELECT grownext.session_create(%L, attributes => %L)', :ann, jsonb_build_object('client_id', :'ours')), '42704', NULL, 'a disabled client begins no session');
\o /dev/null
SELECT grownext.client_enable(:'ours');
\o

-- token exchange: down-scoping --------------------------------------------------------

SET grownext.test_clock = '2026-01-01 02:00+00';
SELECT grownext.session_create(:ann, :acme, '{"scope": "read write", "acr": "mfa"}') AS s \gset
SELECT :'s'::jsonb ->> 'access_token' AS access, :'s'::jsonb ->> 'session_id' AS sid \gset
SET grownext.test_clock = '2026-01-01 02:05+00';
SET ROLE regress_po_user;
SELECT grownext.token(:exchange, subject_token => :'access', subject_token_type => :access_type, scope => 'read', audience => 'other-api') AS a \gset
RESET ROLE;
SELECT is(:'a'::jsonb - 'access_token', '{"scope": "read", "expires_in": 600, "token_type": "Bearer", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}', 'less scope, no more time, no refresh token');
SELECT is(pg_temp.claims(:'a', 'other-api') - '{jti,auth_time,iat,exp}'::text[], jsonb_build_object('iss', 'https://auth.example.com', 'sub', :ann, 'sid', :'sid', 'aud', 'other-api',
    'scope', 'read', 'acr', 'mfa', 'tenant_id', :acme, 'tenant_role', 'owner', 'role', 'grownext_user', 'client_id', 'first-party'), 'the same subject, session, tenant');
SELECT is(pg_temp.binds(:'a'::jsonb ->> 'access_token', 'other-api'), 'bound', 'it binds where it is for');
SELECT is(pg_temp.claims(grownext.token(:exchange, subject_token => :'a'::jsonb ->> 'access_token', subject_token_type => :access_type)) ->> 'scope', 'read', 'from less comes no more');
SELECT is(grownext.token(:exchange, subject_token => t.subject, subject_token_type => t.type, scope => t.scope, audience => t.audience, actor_token_type => t.actor_type, requested_token_type => t.requested) ->> 'error', t.error, t.claim)
  FROM (VALUES
    (NULL, :access_type, NULL, NULL, NULL, NULL, 'invalid_request', 'no subject_token'),
    (:'access', NULL, NULL, NULL, NULL, NULL, 'invalid_request', 'no subject_token_type'),
    (:'access', 'urn:ietf:params:oauth:token-type:saml2', NULL, NULL, NULL, NULL, 'invalid_request', 'a type that is not accepted'),
    (:ann, :user_type, NULL, NULL, NULL, NULL, 'invalid_request', 'a user without an actor'),
    ('x.y.z', :access_type, NULL, NULL, NULL, NULL, 'invalid_request', 'a malformed token'),
    (repeat('x', 60000), :access_type, NULL, NULL, NULL, NULL, 'invalid_request', 'a huge one'),
    (:'s'::jsonb ->> 'refresh_token', :access_type, NULL, NULL, NULL, NULL, 'invalid_request', 'a refresh token'),
    (:'access', :access_type, 'admin', NULL, NULL, NULL, 'invalid_scope', 'more scope than there is'),
    (:'access', :access_type, 'read "', NULL, NULL, NULL, 'invalid_scope', 'a malformed scope'),
    (:'access', :access_type, NULL, 'evil', NULL, NULL, 'invalid_target', 'an unknown audience'),
    (:'access', :access_type, NULL, NULL, :access_type, NULL, 'invalid_request', 'an actor_token_type without actor_token'),
    (:'access', :access_type, NULL, NULL, NULL, 'urn:ietf:params:oauth:token-type:refresh_token', 'invalid_request', 'a refresh token is asked for')) AS t (subject, type, scope, audience, actor_type, requested, error, claim);
-- a client exchanges within its own scopes; its token needs it
SELECT grownext.token(:exchange, client_id => :'id', client_secret => :'secret', subject_token => :'access', subject_token_type => :access_type) AS a \gset
SELECT is(pg_temp.claims(:'a', 'other-api') ->> 'scope', 'read', 'a client gets what both have');
SELECT is(pg_temp.claims(:'a', 'other-api') ->> 'client_id', :'id', 'in its own name');
SELECT is(grownext.token(:exchange, subject_token => :'a'::jsonb ->> 'access_token', subject_token_type => :access_type) ->> 'error', 'invalid_client', 'a client''s token is exchanged by a client');
SELECT is(grownext.token(:exchange, client_id => :'id', client_secret => :'secret', subject_token => :'access', subject_token_type => :access_type, scope => 'write') ->> 'error', 'invalid_scope', 'what the client does not have is refused');
\o /dev/null
SELECT grownext.client_update(:'ours', '{"grants": ["urn:ietf:params:oauth:grant-type:token-exchange"]}');
SELECT grownext.session_revoke(:'sid');
\o
SELECT is(pg_temp.binds(:'a'::jsonb ->> 'access_token', 'other-api'), 'NX013', 'the session''s end is that of what came of it');
SELECT is(grownext.token(:exchange, subject_token => :'access', subject_token_type => :access_type) ->> 'error', 'invalid_request', 'and nothing more comes of it');
SELECT grownext.session_create(:bob, :zeta, '{"scope": "read"}') ->> 'access_token' AS foreign_access \gset
SELECT is(grownext.token(:exchange, client_id => :'ours', client_secret => :'our_secret', subject_token => :'foreign_access', subject_token_type => :access_type) ->> 'error', 'invalid_request', 'a tenant''s client exchanges no token of another tenant');

-- token exchange: impersonation --------------------------------------------------------

SELECT grownext.user_create('staff@example.com', id => 'c1111111-1111-4111-8111-111111111111') AS staff \gset
SELECT grownext.session_create(:'staff', attributes => '{"scope": "impersonate read"}') AS staff_session, grownext.session_create(:'staff', attributes => '{"scope": "read"}') ->> 'access_token' AS powerless \gset
SELECT :'staff_session'::jsonb ->> 'access_token' AS actor, :'staff_session'::jsonb ->> 'session_id' AS actor_session \gset
SET ROLE regress_po_user;
SELECT grownext.token(:exchange, subject_token => :bob, subject_token_type => :user_type, actor_token => :'actor', actor_token_type => :access_type, tenant_id => :acme, reason => 'cannot see the report', ticket => 'T-17') AS a \gset
RESET ROLE;
SELECT :'a'::jsonb ->> 'access_token' AS access \gset
SELECT is(:'a'::jsonb - 'access_token', '{"scope": "read", "expires_in": 900, "token_type": "Bearer", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}', 'a quarter of an hour, no refresh token, no scope impersonate');
SELECT is(grownext.jwt_verify(:'access') - '{jti,iat,exp}'::text[], jsonb_build_object('iss', 'https://auth.example.com', 'sub', :bob, 'aud', 'my-api', 'scope', 'read', 'tenant_id', :acme, 'tenant_role', 'member',
    'role', 'grownext_user', 'client_id', 'first-party', 'act', jsonb_build_object('sub', :'staff', 'sid', :'actor_session', 'client_id', 'first-party')), 'it speaks for the user and names the actor');
BEGIN;
SELECT is(grownext.authenticate(:'access') ->> 'sub', :bob, 'it binds');
SELECT is(ARRAY[grownext.current_subject(), grownext.current_actor()], ARRAY[:bob, :'staff'], 'the subject, and who is answerable');
SELECT throws_ok('SELECT grownext.session_switch_tenant(grownext.current_session(), NULL)', 'NX013', NULL, 'no session is switched with it');
ROLLBACK;
SELECT results_eq($$SELECT target, tenant_id, actor, on_behalf_of, (change -> 'after') - '{jti,expires_at}'::text[] FROM grownext.audit_event WHERE action = 'user.impersonated'$$,
    format($$VALUES (%L, %L::uuid, %L, %L, %L::jsonb)$$, 'user:' || :bob, :acme, :'staff', :bob, jsonb_build_object('reason', 'cannot see the report', 'ticket', 'T-17', 'scope', 'read', 'actor', :'staff', 'client_id', 'first-party')),
    'it is audited, with reason and ticket, on behalf of the user');
SELECT is((SELECT change -> 'after' ->> 'jti' FROM grownext.audit_event WHERE action = 'user.impersonated'), grownext.jwt_verify(:'access') ->> 'jti', 'and with the token''s id');

SELECT is(grownext.token(:exchange, subject_token => t.subject, subject_token_type => t.type, actor_token => t.actor, actor_token_type => :access_type, scope => t.scope, tenant_id => t.tenant, reason => t.reason, ticket => t.ticket) ->> 'error', t.error, t.claim)
  FROM (VALUES
    (:bob, :user_type, :'actor', NULL, :acme, NULL, 'T-1', 'invalid_request', 'no reason'),
    (:bob, :user_type, :'actor', NULL, :acme, 'x', NULL, 'invalid_request', 'no ticket'),
    (:bob, :user_type, :'actor', NULL, :acme, '   ', 'T-1', 'invalid_request', 'an empty reason'),
    (:bob, :user_type, :'actor', NULL, :acme, E'two\nlines', 'T-1', 'invalid_request', 'a reason of two lines'),
    (:bob, :user_type, :'actor', NULL, :acme, repeat('x', 501), 'T-1', 'invalid_request', 'a reason that is too long'),
    (:bob, :user_type, :'powerless', NULL, :acme, 'x', 'T-1', 'unauthorized_client', 'an actor without the scope'),
    (:bob, :user_type, :'access', NULL, :acme, 'x', 'T-1', 'invalid_request', 'an impersonation from another one'),
    (:ann, :user_type, 'x.y.z', NULL, :acme, 'x', 'T-1', 'invalid_request', 'a malformed actor_token'),
    (:'staff', :user_type, :'actor', NULL, NULL, 'x', 'T-1', 'invalid_request', 'the actor as its own subject'),
    ('00000000-0000-4000-8000-000000000000', :user_type, :'actor', NULL, NULL, 'x', 'T-1', 'invalid_request', 'an unknown user'),
    ('bob', :user_type, :'actor', NULL, NULL, 'x', 'T-1', 'invalid_request', 'a user id that is none'),
    (:ann, :user_type, :'actor', NULL, :zeta, 'x', 'T-1', 'invalid_request', 'a user of another tenant'),
    (:bob, :user_type, :'actor', NULL, 'acme', 'x', 'T-1', 'invalid_target', 'a tenant that is none'),
    (:bob, :user_type, :'actor', 'impersonate', :acme, 'x', 'T-1', 'invalid_scope', 'scope impersonate is not handed on'),
    (:bob, :user_type, :'actor', 'write', :acme, 'x', 'T-1', 'invalid_scope', 'nor what the actor does not have'),
    (:'access', :access_type, :'actor', NULL, NULL, 'x', 'T-1', 'invalid_request', 'the token of an impersonation is no subject')) AS t (subject, type, actor, scope, tenant, reason, ticket, error, claim);
SELECT is((SELECT count(*) FROM grownext.audit_event WHERE action = 'user.impersonated'), 1::bigint, 'none of that is an impersonation');
SELECT is((SELECT actor FROM grownext.audit_event WHERE action = 'user.impersonation_refused'), :'staff', 'the attempt without the scope is audited');
-- it may be narrowed, and stays what it is
SELECT is(pg_temp.claims(grownext.token(:exchange, subject_token => :'access', subject_token_type => :access_type, audience => 'other-api'), 'other-api') #>> '{act,sub}', :'staff', 'narrowed, it still names the actor');
-- an actor of a tenant stays in it
\o /dev/null
SELECT grownext.member_add(:acme, :'staff', 'member');
\o
SELECT grownext.session_create(:'staff', :acme, '{"scope": "impersonate read"}') ->> 'access_token' AS inside \gset
SELECT is(pg_temp.claims(grownext.token(:exchange, subject_token => :bob, subject_token_type => :user_type, actor_token => :'inside', actor_token_type => :access_type, reason => 'x', ticket => 'T-2')) ->> 'tenant_id', :acme, 'the actor''s tenant is the tenant');
SELECT is(grownext.token(:exchange, subject_token => :bob, subject_token_type => :user_type, actor_token => :'inside', actor_token_type => :access_type, reason => 'x', ticket => 'T-2', tenant_id => :zeta) ->> 'error', 'invalid_target', 'no other is to be had');
-- the subject's own token may be the subject
SELECT grownext.session_create(:bob, :acme, '{"scope": "read"}') AS s \gset
SELECT grownext.token(:exchange, subject_token => :'s'::jsonb ->> 'access_token', subject_token_type => :access_type, actor_token => :'inside', actor_token_type => :access_type, reason => 'x', ticket => 'T-3') AS a \gset
SELECT is(pg_temp.claims(:'a') ->> 'sid', :'s'::jsonb ->> 'session_id', 'a token of the user keeps its session');
SELECT is(pg_temp.binds(:'a'::jsonb ->> 'access_token'), 'bound', 'it binds');
\o /dev/null
SELECT grownext.session_revoke((:'s'::jsonb ->> 'session_id')::uuid);
\o
SELECT is(pg_temp.binds(:'a'::jsonb ->> 'access_token'), 'NX013', 'until that session ends');
-- what ends it otherwise: the user leaves or is disabled, the actor's session ends
SELECT is(pg_temp.binds(:'access'), 'bound', 'the first impersonation goes on');
BEGIN;
SELECT grownext.user_disable(:bob) IS NULL AS done \gset
SELECT is(pg_temp.binds(:'access'), 'NX013', 'not when the user is disabled');
ROLLBACK;
BEGIN;
SELECT grownext.member_remove(:acme, :bob) IS NULL AS done \gset
SELECT is(pg_temp.binds(:'access'), 'NX013', 'nor when the user leaves the tenant');
ROLLBACK;
SELECT is(pg_temp.binds(:'access'), 'bound', 'both undone, it does');
\o /dev/null
SELECT grownext.session_revoke(:'actor_session');
\o
SELECT is(pg_temp.binds(:'access'), 'NX013', 'nor when the actor signs out');
-- a program may be the actor
SELECT client_id AS support, client_secret AS support_secret FROM grownext.client_create('support', '{impersonate,read}') \gset
SELECT grownext.token('client_credentials', client_id => :'support', client_secret => :'support_secret') ->> 'access_token' AS actor \gset
SELECT grownext.token(:exchange, subject_token => :bob, subject_token_type => :user_type, actor_token => :'actor', actor_token_type => :access_type, reason => 'x', ticket => 'T-4') ->> 'access_token' AS access \gset
SELECT is(grownext.jwt_verify(:'access') #>> '{act,sub}', :'support', 'a client impersonates');
SELECT is(pg_temp.binds(:'access'), 'bound', 'which binds');
\o /dev/null
SELECT grownext.client_disable(:'support');
\o
SELECT is(pg_temp.binds(:'access'), 'NX013', 'until the client is disabled');

-- Introspection --------------------------------------------------------------------

SET grownext.test_clock = '2026-01-01 03:00+00';
SELECT grownext.session_create(:ann, :acme, '{"scope": "read"}') AS s \gset
SELECT :'s'::jsonb ->> 'access_token' AS access, :'s'::jsonb ->> 'refresh_token' AS refresh, :'s'::jsonb ->> 'session_id' AS sid \gset
SET ROLE regress_po_service;
SELECT is(grownext.token_introspect(:'access'), grownext.jwt_verify(:'access') || '{"active": true, "token_use": "access_token", "token_type": "Bearer"}', 'a service learns what an access token says');
SELECT is(grownext.token_introspect(:'refresh', 'refresh_token'), jsonb_build_object('active', true, 'token_use', 'refresh_token', 'iss', 'https://auth.example.com', 'sub', :ann, 'sid', :'sid',
    'client_id', 'first-party', 'tenant_id', :acme, 'scope', 'read', 'iat', 1767236400, 'exp', 1767236400 + 14 * 86400), 'and what a refresh token stands for');
SELECT is(grownext.token_introspect(t), '{"active": false}', 'inactive: ' || coalesce(left(t, 30), 'NULL'))
  FROM unnest(ARRAY[NULL, '', 'x', 'a.b.c', 'gnr_x', :'refresh' || 'x', :'access' || 'x', repeat('x', 10000000), 'gns_x', left(:'access', -3)]) AS t;
SELECT is(grownext.token_introspect(:'access', client_id => :'id', client_secret => 'x') ->> 'error', 'invalid_client', 'a service that names a client must be it');
SELECT grownext.tenant_suspend(:acme, 'unpaid') IS NULL AS done \gset
SELECT is(grownext.token_introspect(:'access'), '{"active": false}', 'a token of a suspended tenant is inactive');
SELECT grownext.tenant_resume(:acme) IS NULL AS done \gset
SELECT is(grownext.token_introspect(:'access') ->> 'active', 'true', 'and active again afterwards');
RESET ROLE;
SELECT grownext.session_refresh(:'refresh') ->> 'refresh_token' AS refresh2 \gset
SELECT is(grownext.token_introspect(:'refresh') ->> 'active', 'true', 'the one before is active within the grace');
SET grownext.test_clock = '2026-01-01 03:01+00';
SELECT is(grownext.token_introspect(:'refresh'), '{"active": false}', 'and inactive after it');
SELECT is((SELECT revoked_at FROM grownext.session WHERE id = :'sid'), NULL, 'to ask is no reuse');
SELECT is(grownext.token_introspect(:'refresh2') ->> 'active', 'true', 'the current one is active');
SET ROLE regress_po_anon;
SELECT is(grownext.token_introspect(:'access') ->> 'error', 'invalid_client', 'nobody may ask nothing');
SELECT is(grownext.token_introspect(:'access', client_id => :'id', client_secret => 'x') ->> 'error', 'invalid_client', 'a wrong secret does not help');
SELECT is(grownext.token_introspect(:'access', client_id => :'id', client_secret => repeat('x', 70000)) ->> 'error', 'invalid_request', 'nor a huge one');
SELECT is(grownext.token_introspect(:'access', client_id => :'id', client_secret => :'secret'), '{"active": false}', 'a client learns nothing of a token that it is not to accept');
SELECT is(grownext.token_introspect(:'refresh2', client_id => :'id', client_secret => :'secret'), '{"active": false}', 'nor of a refresh token that is not its own');
SELECT is(grownext.token_introspect(:'access', client_id => :'ours', client_secret => :'our_secret') ->> 'active', 'true', 'a client of the tenant does');
RESET ROLE;
SELECT is(grownext.token_introspect(:'foreign_access', client_id => :'ours', client_secret => :'our_secret'), '{"active": false}', 'of its own tenant''s alone');

-- Revocation -----------------------------------------------------------------------

SELECT grownext.token('client_credentials', client_id => :'id', client_secret => :'secret') ->> 'access_token' AS one, grownext.token('client_credentials', client_id => :'id', client_secret => :'secret') ->> 'access_token' AS two \gset
SELECT is(pg_temp.binds(:'one', 'other-api') || pg_temp.binds(:'two', 'other-api'), 'boundbound', 'two tokens of a client');
SET ROLE regress_po_anon;
SELECT lives_ok(format('SELECT grownext.token_revoke(%L)', t), 'nothing happens: ' || coalesce(left(t, 30), 'NULL'))
  FROM unnest(ARRAY[NULL, '', 'x', 'gnr_', 'a.b.c', :'one' || 'x', repeat('x', 10000000)]) AS t;
SELECT lives_ok(format('SELECT grownext.token_revoke(%L, %L)', :'one', 'access_token'), 'whoever holds a token may end it');
SELECT lives_ok(format('SELECT grownext.token_revoke(%L)', :'one'), 'twice as well');
RESET ROLE;
SELECT is(pg_temp.binds(:'one', 'other-api'), 'NX013', 'it does not bind any more');
SELECT is(grownext.token_introspect(:'one'), '{"active": false}', 'and is inactive');
SELECT is(pg_temp.binds(:'two', 'other-api'), 'bound', 'the other one does');
SELECT is((SELECT count(*) FROM _grownext.session_revoked_token), 1::bigint, 'what is revoked is kept');
SELECT is(_grownext.session_tick('2026-01-01 03:08+00') IS NOT NULL, true, 'until it would have expired');
SELECT is((SELECT count(*) FROM _grownext.session_revoked_token), 0::bigint, 'and no longer');
SELECT is(grownext.token_revoke(:'refresh')::text, '', 'any refresh token of a session');
SELECT is((SELECT revoke_reason FROM grownext.session WHERE id = :'sid'), 'refresh token revoked', 'ends the session');
SELECT is(pg_temp.binds(:'access'), 'NX013', 'with its access tokens');
SELECT is((SELECT count(*) FROM grownext.audit_event WHERE action = 'token.revoked'), 1::bigint, 'a revocation is audited');
SELECT is((SELECT count(*) FROM grownext.audit_event AS e WHERE e::text ~ 'gns_|gnr_|eyJ'), 0::bigint, 'still no secret in the log');
SELECT is((SELECT count(*) FROM grownext.client AS c WHERE c::text ~ 'gns_'), 0::bigint, 'nor in the view');

-- What the profile of access tokens says holds here, too
SELECT grownext.session_create(:ann, :acme) AS older \gset
SELECT grownext.token_profile_define('access', '{"issuer": "https://login.example.com", "audiences": ["third-api", "other-api"], "ttl": "2 minutes", "max_ttl": "4 minutes"}') IS NULL AS done \gset
SELECT grownext.token('client_credentials', client_id => :'ours', client_secret => :'our_secret') ->> 'error' AS not_its_grant \gset
SELECT is(:'not_its_grant'::text, 'unauthorized_client', 'grants are as they were');
SELECT grownext.client_update(:'ours', '{"grants": ["client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"]}') IS NULL AS done \gset
SELECT grownext.token('client_credentials', client_id => :'ours', client_secret => :'our_secret') AS a, grownext.session_create(:ann, :acme, '{"scope": "read"}') AS s \gset
SELECT is(pg_temp.claims(:'a') -> 'aud', '"third-api"', 'the profile''s audience');
SELECT is(ARRAY[:'a'::jsonb -> 'expires_in', :'s'::jsonb -> 'expires_in'], ARRAY['240'::jsonb, '120'], 'no longer than it allows, and a session''s as long as it says');
SELECT is(grownext.token(:exchange, subject_token => :'s'::jsonb ->> 'access_token', subject_token_type => :access_type, audience => 'other-api') -> 'expires_in', '120', 'an exchange within that');
SELECT is(grownext.token('client_credentials', client_id => :'ours', client_secret => :'our_secret', audience => 'my-api') ->> 'error', 'invalid_target', 'no audience that it does not name');
SELECT is(grownext.token_introspect(:'s'::jsonb ->> 'access_token') ->> 'iss', 'https://login.example.com', 'introspection knows its tokens');
SELECT is(grownext.token_introspect(:'s'::jsonb ->> 'refresh_token') ->> 'iss', 'https://login.example.com', 'and its issuer');
\o /dev/null
SELECT grownext.token_revoke(:'a'::jsonb ->> 'access_token');
SELECT grownext.session_revoke((:'s'::jsonb ->> 'session_id')::uuid);
\o
SELECT is(pg_temp.binds(:'a'::jsonb ->> 'access_token') || pg_temp.binds(:'s'::jsonb ->> 'access_token'), 'NX013NX013', 'revocation as well');
SELECT grownext.token_profile_define('access', '{}') IS NULL AS done \gset

-- a session of a deleted client ends
SELECT is(pg_temp.binds(grownext.session_create(:ann, attributes => jsonb_build_object('client_id', :'id')) ->> 'access_token'), 'bound', 'a session of a client');
\o /dev/null
SELECT grownext.client_delete(:'id');
\o
SELECT is((SELECT count(*) FROM grownext.session WHERE client_id = :'id' AND revoked_at IS NULL), 0::bigint, 'ends with the client');

SELECT * FROM finish();
\o /dev/null
DROP OWNED BY regress_po_admin, regress_po_service, regress_po_anon, regress_po_user;
DROP ROLE regress_po_admin, regress_po_service, regress_po_anon, regress_po_user, regress_po_super;
\ir ../lib/token_world_end.psql
