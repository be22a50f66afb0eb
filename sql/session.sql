-- Users, sessions, refresh tokens, and who is bound by a token. In a database of its
-- own, because the master key belongs to the whole server.
\set SHOW_CONTEXT never
\getenv builddir PG_ABS_BUILDDIR
\set key_file :builddir '/results/session_master.key'
\setenv KEY_FILE :key_file
\! (umask 077; echo "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=" > "$KEY_FILE")
ALTER SYSTEM SET grownext.master_key_file = :'key_file';
-- workers would go by their own clock
ALTER SYSTEM SET grownext.mode = 'off';
SELECT pg_reload_conf();
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_session;
CREATE DATABASE regress_session ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0;
\c regress_session
CREATE EXTENSION grownext;
SET timezone = 'UTC';
SET client_min_messages = warning;
SELECT count(*) > 0 AS set_up FROM grownext.setup('https://auth.example.com', ARRAY['my-api']);
\set ann '''a1111111-1111-4111-8111-111111111111'''
\set bob '''b1111111-1111-4111-8111-111111111111'''
\set acme '''ac111111-1111-4111-8111-111111111111'''

-- Users ------------------------------------------------------------------------

-- an id of the application's own is adopted; to say it again is no error
SELECT grownext.user_create('Ann@example.com', 'Ann', id => :ann) = :ann AS adopted;
SELECT grownext.user_create('ann@EXAMPLE.com', 'Ann', id => :ann) = :ann AS same;
SELECT grownext.user_create('bob@example.com', 'Bob', id => :bob, external_id => 'hr-17') = :bob AS adopted;
SELECT grownext.user_create('bob@elsewhere.example', external_id => 'hr-17') = :bob AS same;
SELECT grownext.user_create(NULL, external_id => 'robot-1') IS NOT NULL AS made;
SELECT count(*) FROM grownext.user_account;
-- somebody else's address, id or external id is refused
SELECT grownext.user_create('ANN@example.com');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.user_create('other@example.com', id => :ann);
SELECT grownext.user_create('other@example.com', id => :ann, external_id => 'hr-17');
SELECT grownext.user_create('ann@example.com', external_id => 'hr-18');
SELECT grownext.user_create(NULL);
SELECT grownext.user_create('no address');
\echo :LAST_ERROR_SQLSTATE
-- changes
SELECT grownext.user_update(:bob, '{"name": "Robert", "attributes": {"locale": "de"}}');
SELECT email, name, external_id, attributes FROM grownext.user_account WHERE id = :bob;
SELECT grownext.user_update(:bob, '{"email": "ann@example.com"}');
SELECT grownext.user_update(:bob, '{"email": "nowhere"}');
SELECT grownext.user_update(:bob, '{"nickname": "Bobby"}');
SELECT grownext.user_update(:bob, '{"name": 7}');
SELECT grownext.user_update('00000000-0000-4000-8000-000000000000', '{}');
\echo :LAST_ERROR_SQLSTATE
-- the log says which fields, not what was in them
SELECT action, change -> 'after' AS after FROM grownext.audit_event WHERE action = 'user.updated';

-- Sessions ---------------------------------------------------------------------

SELECT grownext.tenant_create('acme', 'Acme', owner_id => :ann, id => :acme) = :acme AS made;
SELECT grownext.session_create(:bob, :acme);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.session_create('00000000-0000-4000-8000-000000000000');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.session_create(:ann, :acme, '{"amr": "pwd"}');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.member_add(:acme, :bob, 'member');

SET grownext.test_clock = '2026-01-01 00:00+00';
SELECT grownext.session_create(:ann, :acme, '{"scope": "reports.read", "acr": "urn:example:mfa", "amr": ["pwd", "otp"], "auth_time": 1767225000, "ip": "192.0.2.7", "user_agent": "curl", "device": "laptop"}') AS s \gset
SELECT array_agg(k ORDER BY k) AS members FROM jsonb_object_keys(:'s') AS k;
SELECT :'s'::jsonb ->> 'token_type' AS token_type, :'s'::jsonb -> 'expires_in' AS expires_in;
SELECT :'s'::jsonb ->> 'access_token' AS access, :'s'::jsonb ->> 'refresh_token' AS refresh, :'s'::jsonb ->> 'session_id' AS sid \gset
SELECT grownext.jwt_verify(:'access') - '{jti,sid}'::text[] AS claims, grownext.jwt_verify(:'access') ->> 'sid' = :'sid' AS sid;
SELECT user_id = :ann AS ann, tenant_id = :acme AS acme, client_id, scope, acr, amr, auth_time, ip, user_agent, attributes, created_at, expires_at, revoked_at FROM grownext.session;

-- the token binds its caller to the transaction, and no longer
BEGIN;
SELECT grownext.authenticate(:'access') = grownext.claims() AS bound;
SELECT grownext.current_user_id() = :ann AS subject, grownext.current_tenant() = :acme AS tenant, grownext.current_session() = :'sid' AS session,
       grownext.current_actor() = :ann AS actor, grownext.has_scope('reports.read') AS scope, grownext.claim('tenant_role') AS role;
COMMIT;
SELECT grownext.current_user_id();
RESET client_min_messages;
SELECT grownext.authenticate(:'access') IS NOT NULL AS forgotten_at_once;
DO $$ BEGIN PERFORM grownext.authenticate(grownext.jwt_mint('ann')); RAISE NOTICE 'bound inside a function: %', grownext.current_subject(); END $$;
SET client_min_messages = warning;
BEGIN;
SAVEPOINT s;
SELECT grownext.authenticate(:'access') IS NOT NULL AS bound;
ROLLBACK TO s;
SELECT grownext.current_user_id() AS undone;
SELECT grownext.authenticate('nonsense');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- Refresh ----------------------------------------------------------------------

-- a new pair, and the old refresh token still gets it within the grace
SET grownext.test_clock = '2026-01-01 00:10+00';
SELECT grownext.session_refresh(:'refresh') AS s \gset
SELECT :'s'::jsonb ->> 'refresh_token' AS refresh2, :'s'::jsonb ->> 'session_id' = :'sid' AS same_session, :'s'::jsonb ->> 'refresh_token' <> :'refresh' AS rotated \gset
SELECT :'same_session' AS same_session, :'rotated' AS rotated, (grownext.jwt_verify(:'s'::jsonb ->> 'access_token') ->> 'exp')::int - 1767226200 AS expires_in;
SET grownext.test_clock = '2026-01-01 00:10:59+00';
SELECT grownext.session_refresh(:'refresh') ->> 'refresh_token' = :'refresh2' AS same_token;
SELECT grownext.session_refresh(:'refresh') ->> 'refresh_token' = :'refresh2' AS same_token;
SELECT grownext.session_refresh(:'refresh2') ->> 'refresh_token' AS refresh3 \gset
SELECT counter FROM _grownext.session_session;
-- the grandparent is nobody's second tab: the session is revoked, and that is returned, not raised
BEGIN;
SELECT grownext.session_refresh(:'refresh');
COMMIT;
SELECT revoked_at, revoke_reason FROM grownext.session;
SELECT grownext.session_refresh(:'refresh3');
BEGIN;
SELECT grownext.authenticate(:'access');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
SELECT action, change -> 'after' ->> 'reason' AS reason FROM grownext.audit_event WHERE action LIKE 'session.%' ORDER BY id;

-- the parent after the grace is reuse, too
SELECT grownext.session_create(:ann) ->> 'refresh_token' AS refresh \gset
SELECT grownext.session_refresh(:'refresh') ->> 'refresh_token' AS refresh2 \gset
SET grownext.test_clock = '2026-01-01 00:11:59+00';
SELECT grownext.session_refresh(:'refresh') ->> 'error' AS error;
SELECT grownext.session_refresh(:'refresh2') ->> 'error_description' AS description;

-- bad tokens are refused without a word about why, whatever they are
SELECT grownext.session_create(:ann) ->> 'refresh_token' AS refresh \gset
SELECT DISTINCT grownext.session_refresh(t)
  FROM unnest(ARRAY['', 'gnr_', 'nonsense', left(:'refresh', -1), :'refresh' || 'A', :'refresh' || '=', upper(:'refresh'), overlay(:'refresh' placing '+' from 20 for 1), NULL]) AS t;
SELECT count(*) AS mutations, count(*) FILTER (WHERE grownext.session_refresh(overlay(:'refresh' placing CASE substr(:'refresh', i, 1) WHEN 'A' THEN 'B' ELSE 'A' END from i for 1)) ? 'access_token') AS accepted
  FROM generate_series(1, length(:'refresh')) AS i;
SELECT grownext.session_refresh(:'refresh') ? 'access_token' AS still_good;
-- of a future that a restore undid: refused, nothing revoked
SELECT grownext.session_refresh(_grownext.session_token_make(id, generation, counter + 7)) ->> 'error_description' AS description,
       grownext.session_refresh(_grownext.session_token_make(id, generation + 1, counter)) ->> 'error_description' AS description
  FROM _grownext.session_session WHERE revoked_at IS NULL;
SELECT grownext.session_refresh(_grownext.session_token_make('00000000-0000-4000-8000-000000000000', 1, 0)) ->> 'error_description' AS description;
SELECT count(*) AS live FROM grownext.session WHERE revoked_at IS NULL;

-- idle for a fortnight, or a month old: over
SELECT grownext.session_create(:ann) AS s \gset
SELECT :'s'::jsonb ->> 'refresh_token' AS refresh \gset
SET grownext.test_clock = '2026-01-15 00:11:59+00';
SELECT grownext.session_refresh(:'refresh') ->> 'error_description' AS idle;
SET grownext.test_clock = '2026-01-15 00:11:58+00';
SELECT grownext.session_refresh(:'refresh') ->> 'refresh_token' AS refresh \gset
SET grownext.test_clock = '2026-01-29 00:11:00+00';
SELECT grownext.session_refresh(:'refresh') ->> 'refresh_token' AS refresh \gset
SET grownext.test_clock = '2026-01-31 00:11:00+00';
SELECT grownext.session_refresh(:'refresh') AS s \gset
SELECT :'s'::jsonb -> 'expires_in' AS not_beyond_the_session, :'s'::jsonb ->> 'refresh_token' AS refresh \gset
SELECT :'not_beyond_the_session' AS not_beyond_the_session;
SET grownext.test_clock = '2026-01-31 00:12:00+00';
SELECT grownext.session_refresh(:'refresh') ->> 'error_description' AS too_old;
-- and a month later it is forgotten
SELECT count(*) AS sessions FROM grownext.session;
SELECT _grownext.session_tick('2026-03-03');
SELECT count(*) AS sessions FROM grownext.session;
SET grownext.test_clock = '2026-02-01 00:00+00';

-- Revocation -------------------------------------------------------------------

CREATE FUNCTION binds(token text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM grownext.authenticate(token);
    RETURN 'bound';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;
SELECT grownext.session_create(:ann) AS one, grownext.session_create(:ann) AS two, grownext.session_create(:ann, :acme) AS three, grownext.session_create(:bob, :acme) AS four \gset
SELECT binds(:'one'::jsonb ->> 'access_token') AS one, binds(:'two'::jsonb ->> 'access_token') AS two;
SELECT grownext.session_revoke((:'one'::jsonb ->> 'session_id')::uuid, 'logged out') AS ended;
SELECT grownext.session_revoke((:'one'::jsonb ->> 'session_id')::uuid) AS ended_again;
SELECT grownext.session_revoke(NULL) AS nothing;
SELECT binds(:'one'::jsonb ->> 'access_token') AS one, binds(:'two'::jsonb ->> 'access_token') AS two;
-- the token itself is as good as ever: only who binds it asks for the session
SELECT (grownext.jwt_inspect(:'one'::jsonb ->> 'access_token')).active;
-- undone with its savepoint, the revocation is undone
BEGIN;
SAVEPOINT s;
SELECT grownext.session_revoke((:'two'::jsonb ->> 'session_id')::uuid) AS ended;
SELECT binds(:'two'::jsonb ->> 'access_token') AS two;
ROLLBACK TO s;
SELECT binds(:'two'::jsonb ->> 'access_token') AS two;
COMMIT;
-- all others of a user, all of a tenant; all of everybody is not to be had
SELECT grownext.session_revoke_all(user_id => :ann, except_session => (:'two'::jsonb ->> 'session_id')::uuid) AS ended;
SELECT binds(:'two'::jsonb ->> 'access_token') AS two, binds(:'three'::jsonb ->> 'access_token') AS three, binds(:'four'::jsonb ->> 'access_token') AS four;
SELECT grownext.session_revoke_all(tenant_id => :acme) AS ended;
SELECT binds(:'two'::jsonb ->> 'access_token') AS two, binds(:'four'::jsonb ->> 'access_token') AS four;
SELECT grownext.session_revoke_all();
\echo :LAST_ERROR_SQLSTATE

-- a token that names a session of somebody else, or none, binds nobody
SELECT binds(_grownext.jwt_issue(:bob, jsonb_build_object('sid', :'two'::jsonb ->> 'session_id'), NULL, NULL, 'access')) AS stolen,
       binds(_grownext.jwt_issue(:ann, '{"sid": "00000000-0000-4000-8000-000000000000"}', NULL, NULL, 'access')) AS unknown,
       binds(grownext.jwt_mint(:ann)) AS without;

-- a suspended tenant: refused while it lasts, with the same token afterwards
SELECT grownext.session_create(:bob, :acme) AS s \gset
SELECT grownext.tenant_suspend(:acme, 'unpaid');
SELECT grownext.session_refresh(:'s'::jsonb ->> 'refresh_token') ->> 'error_description' AS description;
SELECT grownext.session_create(:bob, :acme);
SELECT grownext.tenant_resume(:acme);
SELECT grownext.session_refresh(:'s'::jsonb ->> 'refresh_token') ->> 'token_type' AS token_type;
-- who leaves the tenant takes no session along
SELECT grownext.member_remove(:acme, :bob);
SELECT binds(:'s'::jsonb ->> 'access_token') AS after_leaving, grownext.session_refresh(:'s'::jsonb ->> 'refresh_token') ->> 'error_description' AS description;
-- a disabled user is out at once, and in again when enabled
SELECT grownext.session_create(:bob) AS s \gset
SELECT grownext.user_disable(:bob);
SELECT grownext.user_disable(:bob);
SELECT binds(:'s'::jsonb ->> 'access_token') AS disabled, grownext.session_refresh(:'s'::jsonb ->> 'refresh_token') ->> 'error_description' AS description;
SELECT grownext.session_create(:bob);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.user_enable(:bob);
SELECT grownext.session_create(:bob) AS s \gset
SELECT binds(:'s'::jsonb ->> 'access_token') AS enabled;
-- a deleted one leaves no session
SELECT grownext.user_delete(:bob);
SELECT binds(:'s'::jsonb ->> 'access_token') AS deleted;
SELECT count(*) AS sessions FROM grownext.session WHERE user_id = :bob;
SELECT action, count(*) FROM grownext.audit_event WHERE action ~ '^(user|session)\.' GROUP BY action ORDER BY action;

-- Rights -----------------------------------------------------------------------

CREATE ROLE regress_session_service IN ROLE grownext_service;
CREATE ROLE regress_session_user IN ROLE grownext_user;
GRANT EXECUTE ON FUNCTION binds(text) TO PUBLIC;
SELECT grownext.user_create('cid@example.com', id => 'c1111111-1111-4111-8111-111111111111') IS NOT NULL AS made;
SELECT grownext.session_create('c1111111-1111-4111-8111-111111111111') AS hers, grownext.session_create(:ann) AS anns \gset
-- an end user sees and ends the own sessions, nobody else's
BEGIN;
SET LOCAL ROLE regress_session_user;
SELECT count(*) AS before FROM grownext.session;
SELECT grownext.authenticate(:'hers'::jsonb ->> 'access_token') IS NOT NULL AS bound;
SELECT count(*) AS sessions, count(*) FILTER (WHERE user_id <> grownext.current_user_id()) AS others FROM grownext.session;
SELECT email FROM grownext.user_account;
SELECT grownext.session_revoke((:'anns'::jsonb ->> 'session_id')::uuid) AS another_s;
SAVEPOINT s;
SELECT grownext.session_revoke_all(user_id => :ann);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT grownext.session_revoke_all() AS own;
COMMIT;
SELECT binds(:'anns'::jsonb ->> 'access_token') AS anns, binds(:'hers'::jsonb ->> 'access_token') AS hers;
-- and mints, creates, impersonates nothing
SET ROLE regress_session_user;
SELECT grownext.jwt_mint('root');
SELECT grownext.session_create(:ann);
SELECT grownext.act_as('root');
SELECT grownext.user_create('x@example.com');
SELECT grownext.secret_set('a', 'b');
SELECT grownext.key_rotate();
SELECT * FROM grownext.signing_key;
RESET ROLE;

-- act_as: a service speaks for somebody; with a reason it is an impersonation, and audited
SET ROLE regress_session_service;
BEGIN;
SELECT grownext.act_as(:ann, :acme, '{"scope": "reports.read"}');
SELECT grownext.claims(), grownext.current_actor() = :ann AS actor;
SELECT grownext.act_as('root', reason => 'ticket 7');
SELECT grownext.current_subject(), grownext.current_actor() = :ann AS actor, grownext.claims() -> 'act' ->> 'sub' = :ann AS act;
ROLLBACK;
BEGIN;
SELECT grownext.act_as(:ann, :acme, reason => 'ticket 8');
SELECT grownext.claims() -> 'act' AS act, grownext.current_actor();
COMMIT;
SELECT grownext.act_as(NULL);
SELECT grownext.act_as('ann', claims => '{"act": {"sub": "nobody"}}');
SELECT grownext.act_as('ann', claims => '{"sub": "bob"}');
SELECT grownext.act_as('ann', claims => '[]');
SELECT grownext.act_as('ann', reason => '');
-- nobody mints a role that is not theirs
SELECT grownext.jwt_mint('ann', '{"role": "grownext_admin"}');
SELECT grownext.jwt_mint('ann', '{"role": "grownext_service"}') IS NOT NULL AS own;
RESET ROLE;
SELECT action, target, tenant_id = :acme AS acme, actor, on_behalf_of = :ann AS on_behalf_of, change -> 'after' AS after FROM grownext.audit_event WHERE action = 'user.impersonated';

-- A gateway's claims pass the same check; a foreign issuer's sid is none of ours.
SELECT grownext.gateway_trust(session_user);
BEGIN;
SELECT set_config('request.jwt.claims', grownext.jwt_verify(:'hers'::jsonb ->> 'access_token')::text, true) IS NOT NULL AS set;
SELECT grownext.pre_request();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN;
SELECT set_config('request.jwt.claims', '{"iss": "https://elsewhere.example", "sub": "x", "sid": "00000000-0000-4000-8000-000000000000"}', true) IS NOT NULL AS set;
SELECT grownext.pre_request();
SELECT grownext.current_subject();
ROLLBACK;

ALTER SYSTEM RESET grownext.master_key_file;
ALTER SYSTEM RESET grownext.mode;
SELECT pg_reload_conf();
\! rm -f "$KEY_FILE"
\c contrib_regression
DROP DATABASE regress_session WITH (FORCE);
DROP ROLE regress_session_service, regress_session_user;
