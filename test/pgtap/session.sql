-- Sessions: shapes and rights of what came with clients and tokens, switching of tenants,
-- the last use, and what an end user may do to the own sessions. Not in one transaction:
-- what is remembered of a credential, and its last use, begin with a commit.
\ir ../lib/token_world.psql
SELECT * FROM no_plan();

CREATE ROLE regress_ps_service IN ROLE grownext_service;
CREATE ROLE regress_ps_user IN ROLE grownext_user;
\o /dev/null
SELECT grownext.member_add(:zeta, :ann, 'member');
\o

-- Shapes and rights ----------------------------------------------------------------

SELECT is(ARRAY(SELECT pg_get_function_arguments(p.oid) || ' -> ' || pg_get_function_result(p.oid) FROM pg_proc AS p
                 WHERE p.pronamespace = 'grownext'::regnamespace AND p.proname = f.name),
          ARRAY[f.shape], format('grownext.%s: its shape, and no overload', f.name))
  FROM (VALUES
    ('session_switch_tenant', 'session_id uuid, tenant_id uuid -> jsonb'),
    ('session_refresh', 'refresh_token text -> jsonb')) AS f (name, shape);
SELECT is((SELECT string_agg(replace(r.rolname, 'grownext_', ''), ' ' ORDER BY r.rolname) FROM pg_roles AS r
            WHERE r.rolname LIKE 'grownext\_%' AND r.rolname <> 'grownext_owner' AND has_function_privilege(r.oid, 'grownext.session_switch_tenant(uuid, uuid)', 'EXECUTE')),
          'admin service user', 'session_switch_tenant: who may call it');

-- Switching ------------------------------------------------------------------------

SET grownext.test_clock = '2026-01-01 00:00+00';
SELECT grownext.session_create(:ann, :acme, '{"scope": "read write", "device": "laptop", "user_agent": "curl", "ip": "192.0.2.7"}') AS s \gset
SELECT :'s'::jsonb ->> 'access_token' AS access, :'s'::jsonb ->> 'refresh_token' AS refresh, :'s'::jsonb ->> 'session_id' AS sid \gset
SELECT is(pg_temp.binds(:'access'), 'bound', 'a token of the first tenant binds');
SET ROLE regress_ps_service;
SELECT grownext.session_switch_tenant(:'sid', :zeta) AS s \gset
RESET ROLE;
SELECT :'s'::jsonb ->> 'access_token' AS access2 \gset
SELECT is(ARRAY(SELECT jsonb_object_keys(:'s'::jsonb) ORDER BY 1), '{access_token,expires_in,refresh_token,session_id,token_type}', 'a service gets a whole answer');
SELECT is(:'s'::jsonb ->> 'refresh_token', :'refresh', 'the refresh token at hand stays the current one');
SELECT is(pg_temp.binds(:'access2'), 'bound', 'a token of the second tenant binds');
SELECT is(grownext.jwt_verify(:'access2') ->> 'tenant_role', 'member', 'with the role there');
SELECT is(pg_temp.binds(:'access'), 'NX013', 'that of the first does not any more');
SELECT is((SELECT tenant_id FROM grownext.session WHERE id = :'sid'), :zeta, 'the list has the tenant');
SELECT grownext.session_refresh(:'refresh') AS s \gset
SELECT is(grownext.jwt_verify(:'s'::jsonb ->> 'access_token') ->> 'tenant_id', :zeta, 'a refresh goes on in the new tenant');
SELECT grownext.session_switch_tenant(:'sid', NULL) ->> 'access_token' AS access3 \gset
SELECT is(grownext.jwt_verify(:'access3') ? 'tenant_id', false, 'no tenant is one, too');
SELECT is(pg_temp.binds(:'access2'), 'NX013', 'the tenant''s tokens end');
SELECT is(pg_temp.binds(:'access3'), 'bound', 'the one without binds');
SELECT results_eq($$SELECT change -> 'before' ->> 'tenant_id', change -> 'after' ->> 'tenant_id' FROM grownext.audit_event WHERE action = 'session.switched' ORDER BY id$$,
    format($$VALUES (%L, %L), (%L, NULL)$$, :acme, :zeta, :zeta), 'switches are audited');

SELECT throws_ok(format('SELECT grownext.session_switch_tenant(%L, %L)', :'sid', '00000000-0000-4000-8000-000000000000'), '42501', NULL, 'a tenant that does not exist is refused as one of others');
SELECT grownext.session_create(:bob) ->> 'session_id' AS bobs \gset
SELECT throws_ok(format('SELECT grownext.session_switch_tenant(%L, %L)', :'bobs', :acme), '42501', NULL, 'a tenant without the user is refused');
SELECT throws_ok($$SELECT grownext.session_switch_tenant('00000000-0000-4000-8000-000000000000', NULL)$$, 'NX013', 'session has ended', 'an unknown session is refused');
SELECT throws_ok('SELECT grownext.session_switch_tenant(NULL, NULL)', 'NX013', 'session has ended', 'so is none');
\o /dev/null
SELECT grownext.tenant_suspend(:zeta, 'unpaid');
\o
SELECT throws_ok(format('SELECT grownext.session_switch_tenant(%L, %L)', :'sid', :zeta), '42501', NULL, 'a suspended tenant is refused');
\o /dev/null
SELECT grownext.tenant_resume(:zeta);
SELECT grownext.session_revoke(:'bobs');
\o
SELECT throws_ok(format('SELECT grownext.session_switch_tenant(%L, %L)', :'bobs', :zeta), 'NX013', 'session has ended', 'a session that ended does not move');
SELECT is((SELECT tenant_id FROM grownext.session WHERE id = :'bobs'), NULL, 'nor does its row');
-- who leaves the tenant that the session is in now takes no token along
SELECT grownext.session_switch_tenant(:'sid', :zeta) ->> 'access_token' AS access4 \gset
SELECT is(pg_temp.binds(:'access4'), 'bound', 'back in the tenant');
\o /dev/null
SELECT grownext.member_remove(:zeta, :ann);
\o
SELECT is(pg_temp.binds(:'access4'), 'NX013', 'who leaves a tenant takes no session along');
\o /dev/null
SELECT grownext.member_add(:zeta, :ann, 'member');
\o

-- An end user switches with a token of the session, and gets no more than it had.
SELECT grownext.session_create(:ann, :acme, '{"scope": "read write"}') AS s, grownext.session_create(:ann, :acme) ->> 'session_id' AS other_session \gset
SELECT :'s'::jsonb ->> 'session_id' AS sid, grownext.token('refresh_token', :'s'::jsonb ->> 'refresh_token', scope => 'read') ->> 'access_token' AS narrow,
       grownext.token('urn:ietf:params:oauth:grant-type:token-exchange', subject_token => :'s'::jsonb ->> 'access_token', subject_token_type => 'urn:ietf:params:oauth:token-type:access_token', audience => 'other-api') ->> 'access_token' AS elsewhere \gset
BEGIN;
SET LOCAL ROLE regress_ps_user;
SELECT throws_ok(format('SELECT grownext.session_switch_tenant(%L, %L)', :'sid', :zeta), 'NX013', 'session has ended', 'nobody is bound: refused');
SAVEPOINT s;
SELECT is(grownext.authenticate(:'narrow') ->> 'scope', 'read', 'the caller has less than the session');
SELECT throws_ok(format('SELECT grownext.session_switch_tenant(%L, %L)', :'other_session', :zeta), 'NX013', 'session has ended', 'another session of the own is refused');
SELECT grownext.session_switch_tenant(:'sid', :zeta) AS switched \gset
SELECT is(ARRAY(SELECT jsonb_object_keys(:'switched'::jsonb) ORDER BY 1), '{access_token,expires_in,session_id,token_type}', 'an end user gets no refresh token');
SELECT is(grownext.jwt_verify(:'switched'::jsonb ->> 'access_token') ->> 'scope', 'read', 'nor more scope than the token had');
ROLLBACK TO s;
SELECT is(grownext.authenticate(:'elsewhere', 'other-api') ->> 'aud', 'other-api', 'the caller has a token for another audience');
SELECT is(grownext.jwt_verify(grownext.session_switch_tenant(:'sid', :zeta) ->> 'access_token', 'other-api') ->> 'aud', 'other-api', 'so is what comes of it');
COMMIT;

-- The list -------------------------------------------------------------------------

SELECT grownext.session_create(:ann, :acme, '{"device": "laptop", "user_agent": "curl", "ip": "192.0.2.7"}') AS s \gset
SELECT :'s'::jsonb ->> 'access_token' AS access, :'s'::jsonb ->> 'session_id' AS sid \gset
PREPARE used AS SELECT last_used_at FROM grownext.session WHERE id = $1;
SELECT results_eq(format($$SELECT device, user_agent, host(ip), created_at, last_used_at FROM grownext.session WHERE id = %L$$, :'sid'),
    $$VALUES ('laptop', 'curl', '192.0.2.7', timestamptz '2026-01-01', timestamptz '2026-01-01')$$, 'device, user agent, address, created, last use');
SET grownext.test_clock = '2026-01-01 00:03+00';
SELECT is(pg_temp.binds(:'access'), 'bound', 'used three minutes later');
EXECUTE used(:'sid') \gset
SELECT is(:'last_used_at'::text, '2026-01-01 00:00:00+00', 'which is not written: the last use is kept to five minutes');
SET grownext.test_clock = '2026-01-01 00:06+00';
BEGIN READ ONLY;
SELECT is(pg_temp.binds(:'access'), 'bound', 'in a read-only transaction it binds');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT is(pg_temp.binds(:'access'), 'bound', 'in a repeatable-read one, too');
COMMIT;
EXECUTE used(:'sid') \gset
SELECT is(:'last_used_at'::text, '2026-01-01 00:00:00+00', 'neither writes');
SELECT is(pg_temp.binds(:'access'), 'bound', 'used in a transaction that may write');
EXECUTE used(:'sid') \gset
SELECT is(:'last_used_at'::text, '2026-01-01 00:06:00+00', 'the last use is kept');
SET grownext.test_clock = '2026-01-01 00:10:59+00';
SELECT is(pg_temp.binds(:'access'), 'bound', 'used again within five minutes');
EXECUTE used(:'sid') \gset
SELECT is(:'last_used_at'::text, '2026-01-01 00:06:00+00', 'is not written again');
SET grownext.test_clock = '2026-01-01 00:11:01+00';
SELECT is(pg_temp.binds(:'access'), 'bound', 'used again later');
EXECUTE used(:'sid') \gset
SELECT is(:'last_used_at'::text, '2026-01-01 00:11:01+00', 'is');
SET grownext.test_clock = '2026-01-01 00:14+00';
SELECT grownext.session_refresh(:'s'::jsonb ->> 'refresh_token') IS NOT NULL AS refreshed \gset
EXECUTE used(:'sid') \gset
SELECT is(:'last_used_at'::text, '2026-01-01 00:14:00+00', 'a refresh is a use');

-- What an end user may do to sessions: see, end and leave the own ones
SELECT grownext.session_create(:bob) AS one, grownext.session_create(:bob) ->> 'session_id' AS two, grownext.session_create(:bob) ->> 'session_id' AS three \gset
SELECT :'one'::jsonb ->> 'session_id' AS one_id \gset
BEGIN;
SET LOCAL ROLE regress_ps_user;
SELECT is(grownext.authenticate(:'one'::jsonb ->> 'access_token') ->> 'sub', :bob, 'bob signs in');
SELECT is((SELECT count(*) FROM grownext.session WHERE revoked_at IS NULL), 3::bigint, 'he sees his sessions');
SELECT is((SELECT count(*) FROM grownext.session WHERE user_id <> :bob), 0::bigint, 'and no others');
SELECT is(grownext.session_revoke(:'sid'), false, 'another''s is as if it did not exist');
SELECT is(grownext.session_revoke(:'two', 'lost the phone'), true, 'he ends one');
SELECT is(grownext.session_revoke_all(except_session => :'one_id'), 1, 'and all others');
SELECT is(ARRAY(SELECT id::text FROM grownext.session WHERE revoked_at IS NULL), ARRAY[:'one_id'], 'but for the one he is in');
SELECT throws_ok(format('SELECT grownext.session_revoke_all(user_id => %L)', :ann), '42501', NULL, 'nobody else''s');
SELECT throws_ok('SELECT * FROM grownext.client', '42501', NULL, 'clients are none of his business');
COMMIT;

-- What is forgotten, and when
SELECT is(_grownext.session_tick('2026-01-01 01:00+00'), '2026-01-01 02:00+00', 'nothing is to be forgotten yet');
SELECT is((SELECT count(*) > 0 FROM grownext.session), true, 'sessions stay');
SELECT is(_grownext.session_tick('2026-03-15'), '2026-03-15 01:00+00', 'a month after they expired');
SELECT is((SELECT count(*) FROM grownext.session), 0::bigint, 'sessions are forgotten');
SELECT is((SELECT count(*) FROM _grownext.session_use), 0::bigint, 'with when they were used');

-- Bad input
SELECT throws_ok(format('SELECT grownext.session_create(%L, attributes => %L)', :ann, attributes), code, NULL, 'attributes ' || left(attributes, 60))
  FROM (VALUES ('{"client_id": "gnc_AAAAAAAAAAAAAAAAAAAAAA"}', '42704'), ('{"scope": "a  b"}', '22023'), ('{"scope": "a\tb"}', '22023'),
               ('{"scope": "ü"}', '22023'), (format('{"scope": "%s"}', repeat('x', 5000)), '22023'), ('{"ip": "nowhere"}', '22P02')) AS bad (attributes, code);
SELECT is(grownext.session_refresh(repeat('x', 10000000)) ->> 'error', 'invalid_grant', 'ten megabytes are no refresh token');

SELECT * FROM finish();
\o /dev/null
DROP OWNED BY regress_ps_service, regress_ps_user;
DROP ROLE regress_ps_service, regress_ps_user;
\ir ../lib/token_world_end.psql
