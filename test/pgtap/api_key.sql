-- API keys: their shape, every verdict, who may make and end them, and that no number of
-- failures of others refuses a good one.
BEGIN;
SELECT * FROM no_plan();
SET LOCAL timezone = 'UTC';
SET LOCAL grownext.test_clock = '2030-01-01 00:00:00+00';

CREATE FUNCTION clock(at text) RETURNS void LANGUAGE sql AS $$ SELECT set_config('grownext.test_clock', at || '+00', true) $$;
-- SQLSTATE of a statement run as a role; whatever it did is undone
CREATE FUNCTION state_as(role name, statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', role);
    EXECUTE statement;
    RAISE EXCEPTION USING ERRCODE = 'TRIED';
EXCEPTION WHEN OTHERS THEN
    RETURN CASE SQLSTATE WHEN 'TRIED' THEN 'done' ELSE SQLSTATE END;
END
$$;
CREATE ROLE ak_service LOGIN IN ROLE grownext_service;
CREATE ROLE ak_user LOGIN IN ROLE grownext_user;
CREATE ROLE ak_auditor LOGIN IN ROLE grownext_auditor;

\set ann 'a1111111-1111-4111-8111-111111111111'
\set bob 'b1111111-1111-4111-8111-111111111111'
\set acme 'ac111111-1111-4111-8111-111111111111'
\set evil 'ee111111-1111-4111-8111-111111111111'
SELECT grownext.user_create('ann@example.com', id => :'ann');
SELECT grownext.user_create('bob@example.com', id => :'bob');
SELECT grownext.tenant_create('acme', 'Acme', :'ann', id => :'acme');
SELECT grownext.tenant_create('evil-corp', 'Evil', :'bob', id => :'evil');
SELECT grownext.member_add(:'acme', :'bob', 'member');
CREATE FUNCTION make(name text, options jsonb DEFAULT '{}', scopes text[] DEFAULT '{}') RETURNS grownext.api_key_secret LANGUAGE sql AS $$
    SELECT grownext.api_key_create(name, scopes, options => options, tenant_id => 'ac111111-1111-4111-8111-111111111111');
$$;
CREATE FUNCTION code(key text, scope text DEFAULT NULL, address inet DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
    SELECT grownext.api_key_verify(key, scope, address) ->> 'code';
$$;

-- Shape --------------------------------------------------------------------------

SELECT is(pg_get_function_arguments(d.name::regproc) || ' -> ' || pg_get_function_result(d.name::regproc), d.signature, d.name)
  FROM (VALUES
    ('grownext.api_key_create', 'name text, scopes text[] DEFAULT ''{}''::text[], expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, environment text DEFAULT ''live''::text, options jsonb DEFAULT ''{}''::jsonb, tenant_id uuid DEFAULT NULL::uuid -> grownext.api_key_secret'),
    ('grownext.api_key_verify', 'api_key text, scope text DEFAULT NULL::text, address inet DEFAULT NULL::inet -> jsonb'),
    ('grownext.authenticate_api_key', 'api_key text, scope text DEFAULT NULL::text, address inet DEFAULT NULL::inet -> jsonb'),
    ('grownext.api_key_reroll', 'id uuid, grace interval DEFAULT ''1 day''::interval -> grownext.api_key_secret'),
    ('grownext.api_key_revoke', 'id uuid -> boolean')) AS d (name, signature);
SELECT is((SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'grownext.api_key_secret'::regclass), '{id,api_key}', 'api_key_secret');
SELECT columns_are('grownext', 'api_key', ARRAY['id', 'tenant_id', 'user_id', 'name', 'environment', 'prefix', 'last_four', 'state', 'scopes', 'subject', 'role', 'addresses',
    'rate_limit', 'rate_period', 'metadata', 'created_at', 'created_by', 'expires_at', 'last_used_at', 'replaced_by', 'revoked_at', 'revoke_reason']);

-- before anybody is bound
SELECT throws_ok('SELECT grownext.api_key_create(''n'')', 'NX010', NULL, 'a key has a tenant');

-- The text -----------------------------------------------------------------------

SELECT id AS k, api_key AS key FROM make('shape') \gset
SELECT matches(:'key'::text, '^gx_live_[0-9A-Za-z]{36}$', 'a key says what it is, and its environment');
SELECT is((SELECT digest FROM _grownext.session_api_key WHERE id = :'k'), sha256(convert_to(:'key', 'UTF8')), 'its SHA-256 is what is kept');
SELECT is((SELECT prefix || '...' || last_four FROM grownext.api_key WHERE id = :'k'), left(:'key', 12) || '...' || right(:'key', 4), 'and what people recognise it by');
SELECT is((SELECT count(*) FROM _grownext.session_api_key AS t WHERE t::text LIKE '%' || substr(:'key', 13, 20) || '%'), 0::bigint, 'nothing else of it');
SELECT is(length(api_key), 36 + 1 + 3 + 16, 'the longest environment') FROM grownext.api_key_create('long', environment => 'abcdefghij012345', tenant_id => :'acme');
-- 30 of 62 characters, 400 times: each is expected 193 times; six sigma are 84
SELECT cmp_ok(max(n) - min(n), '<', 168::bigint, 'all 62 characters are equally likely') FROM (
    SELECT count(*) AS n FROM generate_series(1, 400) AS i, LATERAL _grownext.session_api_key_make(CASE WHEN i > 0 THEN 'live' END) AS m, LATERAL regexp_split_to_table(substr(m.api_key, 9, 30), '') AS c GROUP BY c) AS s;
SELECT is(count(DISTINCT c), 62::bigint, 'and all occur') FROM generate_series(1, 400) AS i, LATERAL _grownext.session_api_key_make(CASE WHEN i > 0 THEN 'live' END) AS m, LATERAL regexp_split_to_table(substr(m.api_key, 9, 30), '') AS c;

-- Verdicts --------------------------------------------------------------------------

SELECT is(grownext.api_key_verify(:'key'), jsonb_build_object('valid', true, 'code', 'VALID', 'id', :'k', 'name', 'shape', 'environment', 'live', 'tenant_id', :'acme',
    'subject', 'api_key:' || :'k', 'role', 'grownext_user', 'scopes', '[]'::jsonb, 'metadata', '{}'::jsonb), 'VALID: all that is known of it');
SELECT is(grownext.api_key_verify(bad), '{"valid": false, "code": "NOT_FOUND"}', 'NOT_FOUND: ' || what)
  FROM (VALUES (NULL, 'NULL'), ('', 'empty'), ('gx_', 'a beginning'), (left(:'key', -1), 'cut'), (:'key' || 'x', 'longer'), (' ' || :'key', 'a space before'),
               (overlay(:'key' PLACING CASE substr(:'key', 20, 1) WHEN 'x' THEN 'y' ELSE 'x' END FROM 20), 'mistyped'), (repeat('x', 1000000), 'huge')) AS v (bad, what);
SELECT _grownext.core_failure_clear('api_key.address', '');
SELECT is(grownext.api_key_verify(bad) ->> 'code', 'NOT_FOUND', 'NOT_FOUND: ' || what)
  FROM (VALUES ((SELECT api_key FROM _grownext.session_api_key_make('live')), 'well-formed, unknown'), (upper(:'key'), 'in capitals'),
               (replace(:'key', 'gx_live', 'gx_test'), 'of another environment'), ('ghp_' || repeat('a', 36), 'somebody else''s'), (E'gx_live_\u00e9' || substr(:'key', 10), 'not ASCII')) AS v (bad, what);
SELECT _grownext.core_failure_clear('api_key.address', '');

SELECT id AS s, api_key AS skey FROM make('scoped', '{"metadata": {"team": "core", "none": null}}', '{reports:read,reports:write,reports:read}') \gset
SELECT is((SELECT scopes FROM grownext.api_key WHERE id = :'s'), '{reports:read,reports:write}', 'a scope counts once');
SELECT is(grownext.api_key_verify(:'skey') -> 'metadata', '{"team": "core", "none": null}', 'metadata comes back as it was');
SELECT is(code(:'skey', wanted), expected, format('scope "%s"', wanted)) FROM (VALUES
    (NULL, 'VALID'), ('', 'VALID'), ('reports:read', 'VALID'), ('reports:read reports:write', 'VALID'), ('reports:write  reports:read ', 'VALID'),
    ('reports', 'INSUFFICIENT_PERMISSIONS'), ('reports:reads', 'INSUFFICIENT_PERMISSIONS'), ('reports:read admin', 'INSUFFICIENT_PERMISSIONS'), ('*', 'INSUFFICIENT_PERMISSIONS')) AS v (wanted, expected);

SELECT id AS x, api_key AS xkey FROM grownext.api_key_create('expiring', expires_at => '2030-01-02 00:00:00+00', tenant_id => :'acme') \gset
SELECT clock('2030-01-01 23:59:59.999999');
SELECT is(code(:'xkey'), 'VALID', 'valid to the last microsecond');
SELECT clock('2030-01-02 00:00:00');
SELECT is(code(:'xkey'), 'EXPIRED', 'EXPIRED at the instant');
SELECT throws_ok(format('SELECT grownext.authenticate_api_key(%L)', :'xkey'), 'NX011', 'API key is not valid', 'and refused');
SELECT is((SELECT state FROM grownext.api_key WHERE id = :'x'), 'expired', 'the list says so');
SELECT clock('2030-01-01 00:00:00');

SELECT id AS a, api_key AS akey FROM make('office', '{"addresses": ["203.0.113.0/24", "2001:db8::/32", "198.51.100.7"]}') \gset
SELECT is(code(:'akey', NULL, address::inet), expected, 'from ' || coalesce(address, 'a socket')) FROM (VALUES
    ('203.0.113.9', 'VALID'), ('2001:db8:1::1', 'VALID'), ('198.51.100.7', 'VALID'), ('203.0.114.1', 'FORBIDDEN'), ('198.51.100.8', 'FORBIDDEN'),
    ('2001:db9::1', 'FORBIDDEN'), (NULL, 'FORBIDDEN')) AS v (address, expected);
SELECT throws_ok(format('SELECT grownext.authenticate_api_key(%L)', :'akey'), '42501', 'API key may not be used from this address', 'refused from elsewhere');
SELECT is(state_as('ak_user', format('SELECT grownext.api_key_verify(%L, address => ''203.0.113.9'')', :'akey')), '42501', 'an end user cannot claim an address');
SELECT is(state_as('ak_service', format('SELECT grownext.api_key_verify(%L, address => ''203.0.113.9'')', :'akey')), 'done', 'a service can');

SELECT grownext.tenant_suspend(:'acme', 'unpaid');
SELECT is(code(:'key'), 'TENANT_NOT_ACTIVE', 'TENANT_NOT_ACTIVE in the same transaction');
SELECT throws_ok(format('SELECT grownext.authenticate_api_key(%L)', :'key'), 'NX023', NULL, 'refused');
SELECT grownext.tenant_resume(:'acme');
SELECT is(code(:'key'), 'VALID', 'and good again');

SAVEPOINT revoked;
SELECT ok(grownext.api_key_revoke(:'k'), 'revoked');
SELECT ok(NOT grownext.api_key_revoke(:'k'), 'once');
SELECT is(code(:'key'), 'DISABLED', 'DISABLED by the next statement');
SELECT throws_ok(format('SELECT grownext.authenticate_api_key(%L)', :'key'), 'NX011', 'API key is not valid', 'refused');
ROLLBACK TO revoked;
SELECT is(code(:'key'), 'VALID', 'a revocation that is rolled back never was');
SELECT ok(NOT grownext.api_key_revoke(gen_random_uuid()), 'an unknown key is no error');
SELECT ok(NOT coalesce(grownext.api_key_revoke(NULL), false), 'nor NULL');

-- A limit per key ------------------------------------------------------------------

SELECT id AS r, api_key AS rkey FROM make('limited', '{"rate_limit": {"limit": 3, "period": "1 minute"}}', '{x}') \gset
SELECT is(code(:'rkey', 'y'), 'INSUFFICIENT_PERMISSIONS', 'what is refused costs nothing');
SELECT is(grownext.api_key_verify(:'rkey') -> 'rate_limit', '{"limit": 3, "remaining": 2, "reset_at": "2030-01-01T00:00:20+00:00"}', 'what is left, and when all is back');
SELECT is(code(:'rkey'), 'VALID', 'the second');
SELECT lives_ok(format('SELECT grownext.authenticate_api_key(%L)', :'rkey'), 'the third, from the same limit');
SELECT is(grownext.api_key_verify(:'rkey'), jsonb_build_object('valid', false, 'code', 'RATE_LIMITED', 'id', :'r', 'tenant_id', :'acme',
    'rate_limit', '{"limit": 3, "remaining": 0, "retry_at": "2030-01-01T00:00:20+00:00", "reset_at": "2030-01-01T00:01:00+00:00"}'::jsonb), 'RATE_LIMITED: when to come back');
SELECT throws_ok(format('SELECT grownext.authenticate_api_key(%L)', :'rkey'), 'NX041', 'too many calls with this API key', 'refused');
SELECT id AS r2, api_key AS rkey2 FROM grownext.api_key_reroll(:'r') \gset
SELECT is(code(:'rkey2'), 'RATE_LIMITED', 'a reroll brings no new limit');
SELECT clock('2030-01-01 00:00:20');
SELECT is(code(:'rkey2'), 'VALID', 'then one more');
SELECT is(code(:'rkey'), 'RATE_LIMITED', 'for both of them');
SELECT clock('2030-01-01 00:00:00');

-- Guessing -----------------------------------------------------------------------------

SELECT is((SELECT string_agg(DISTINCT code('guess' || i, NULL, '192.0.2.1'), ' ') FROM generate_series(1, 10) AS i), 'NOT_FOUND', 'ten guesses of one address');
SELECT is(code('guess', NULL, '192.0.2.1'), 'RATE_LIMITED', 'the next one is refused unseen');
SELECT is(grownext.api_key_verify('guess', NULL, '192.0.2.1') #>> '{rate_limit,retry_at}', '2030-01-01T00:01:30+00:00', 'with the time of the next one');
SELECT throws_ok($$SELECT grownext.authenticate_api_key('guess', NULL, '192.0.2.1')$$, 'NX041', 'too many failed attempts', 'authenticate_api_key() as well');
SELECT is(code(:'key', NULL, '192.0.2.1'), 'VALID', 'a good key passes from that very address');
SELECT is(code('guess', NULL, '192.0.2.1'), 'RATE_LIMITED', 'and buys no more guesses');
SELECT is(code('guess', NULL, '192.0.2.2'), 'NOT_FOUND', 'another address is not concerned');
SELECT is((SELECT count(*) FROM generate_series(1, 20) AS i WHERE code('guess', NULL, ('2001:db8::' || i)::inet) = 'NOT_FOUND'), 10::bigint, 'an IPv6 client is its network of 64 bits');
SELECT api_key AS ghost FROM _grownext.session_api_key_make('live') \gset
SELECT is((SELECT count(*) FROM generate_series(1, 30) AS i WHERE code(:'ghost', NULL, ('192.0.3.' || i)::inet) = 'NOT_FOUND'), 10::bigint, 'one unknown key from everywhere is one matter');
SELECT is((SELECT count(*) FROM generate_series(1, 30) AS i WHERE code(:'xkey', NULL, ('192.0.4.' || i)::inet) = 'VALID'), 30::bigint, 'a good key may be used from everywhere');

-- Options ------------------------------------------------------------------------------

SELECT throws_ok(format('SELECT make(''bad'', %L)', options), sqlstate, NULL, 'refused: ' || options) FROM (VALUES
    ('{"ratelimit": {}}', '22023'), ('[]', '22023'), ('{"rate_limit": 5}', '22023'), ('{"rate_limit": {}}', '22023'), ('{"rate_limit": {"limit": 5}}', '22023'),
    ('{"rate_limit": {"limit": 0, "period": "1 minute"}}', '22023'), ('{"rate_limit": {"limit": 5, "period": "never"}}', '22023'),
    ('{"rate_limit": {"limit": 5, "period": "0"}}', '22023'), ('{"rate_limit": {"limit": 1e30, "period": "1 minute"}}', '22023'), ('{"rate_limit": {"limit": 2.5, "period": "1 minute"}}', '22023'),
    ('{"rate_limit": {"limit": 5, "period": "1 minute", "burst": 2}}', '22023'), ('{"addresses": "10.0.0.0/8"}', '22023'), ('{"addresses": ["10.0.0.1/8"]}', '22023'),
    ('{"addresses": [7]}', '22023'), ('{"addresses": ["localhost"]}', '22023'), ('{"user_id": "ann"}', '42501'), ('{"user_id": "ffffffff-1111-4111-8111-111111111111"}', '42501'),
    ('{"subject": ""}', '22023'), ('{"subject": "a", "user_id": "a1111111-1111-4111-8111-111111111111"}', '22023'), ('{"metadata": []}', '22023'),
    ('{"role": "nobody_at_all"}', '42704'), ('{"role": "postgres"}', '42501'), ('{"role": "grownext_service"}', '42501'), ('{"role": "ak_service"}', '42501'),
    ('{"role": "pg_monitor"}', '42501')) AS v (options, sqlstate);
SELECT throws_ok(format('SELECT make(''bad'', jsonb_build_object(''metadata'', jsonb_build_object(''x'', repeat(''x'', 5000))))'), '22023', NULL, 'metadata have an end');
SELECT throws_ok(format('SELECT grownext.api_key_create(%s, tenant_id => %L)', arguments, :'acme'), sqlstate, NULL, 'refused: ' || arguments) FROM (VALUES
    ('NULL', '22004'), ('''''', '22023'), ('''  ''', '22023'), ('repeat(''x'', 101)', '22023'), ('''n'', NULL', '22004'), ('''n'', ''{NULL}''', '22004'), ('''n'', ''{"a b"}''', '22023'),
    ('''n'', ''{""}''', '22023'), (E'''n'', ''{\u00e9}''', '22023'), ('''n'', expires_at => ''2029-12-31''', '22023'), ('''n'', expires_at => ''infinity''', '22023'),
    ('''n'', environment => NULL', '22004'), ('''n'', environment => ''''', '22023'), ('''n'', environment => ''Live''', '22023'), ('''n'', environment => ''my_env''', '22023'),
    ('''n'', environment => ''abcdefghij0123456''', '22023'), ('''shape''', '42710')) AS v (arguments, sqlstate);
SELECT throws_ok('SELECT grownext.api_key_create(''n'', tenant_id => gen_random_uuid())', '42704', NULL, 'one that exists');

-- Binding -------------------------------------------------------------------------------

SELECT id AS u, api_key AS ukey FROM make('ann''s', format('{"user_id": "%s"}', :'ann')::jsonb, '{reports:read}') \gset
SELECT is(grownext.authenticate_api_key(:'ukey'), jsonb_build_object('sub', :'ann', 'tenant_id', :'acme', 'tenant_role', 'owner', 'scope', 'reports:read', 'role', 'grownext_user', 'api_key_id', :'u'), 'the claims of a key that acts for a user');
SELECT is(grownext.current_user_id(), :'ann', 'the user is bound');
SELECT is(grownext.current_tenant(), :'acme', 'so is the tenant');
SELECT ok(grownext.has_scope('reports:read') AND NOT grownext.has_scope('reports:write'), 'with the scopes of the key');
SELECT ok(grownext.has_permission('members.add'), 'and the permissions of the user');
SELECT throws_ok(format('SELECT grownext.authenticate_api_key(%L, ''admin'')', :'ukey'), 'NX014', 'API key lacks scope "admin"', 'a scope that it lacks');
SELECT grownext.member_add(:'acme', '5a1f0d0e-0000-4000-8000-0000000000b2', 'member') FROM grownext.user_create('cid@example.com', id => '5a1f0d0e-0000-4000-8000-0000000000b2');
SELECT id AS c, api_key AS ckey FROM make('cid''s', '{"user_id": "5a1f0d0e-0000-4000-8000-0000000000b2"}') \gset
SELECT is(grownext.api_key_verify(:'ckey') ->> 'tenant_role', 'member', 'the role in the tenant');
SELECT grownext.member_set_role(:'acme', '5a1f0d0e-0000-4000-8000-0000000000b2', 'admin');
SELECT is(grownext.api_key_verify(:'ckey') ->> 'tenant_role', 'admin', 'is the one of now');
SELECT grownext.user_disable('5a1f0d0e-0000-4000-8000-0000000000b2');
SELECT is(code(:'ckey'), 'DISABLED', 'a disabled user''s key is disabled');
SELECT grownext.user_enable('5a1f0d0e-0000-4000-8000-0000000000b2');
SELECT is(code(:'ckey'), 'VALID', 'as long as the user is');
SELECT grownext.member_remove(:'acme', '5a1f0d0e-0000-4000-8000-0000000000b2');
SELECT is(code(:'ckey') || ' ' || (SELECT revoke_reason FROM grownext.api_key WHERE id = :'c'), 'DISABLED membership ended', 'a member who leaves takes the key along');
SELECT id AS m, api_key AS bkey FROM make('machine', '{"subject": "svc:billing", "role": "ak_user"}') \gset
SELECT is(grownext.authenticate_api_key(:'bkey') - 'api_key_id' - 'tenant_id', '{"sub": "svc:billing", "scope": "", "role": "ak_user"}', 'a key may speak for a subject of the application, in a role of it');

-- Reroll ----------------------------------------------------------------------------------

SELECT id AS o, api_key AS okey FROM grownext.api_key_create('rolling', '{a}', '2030-01-11', 'test', '{"addresses": ["10.0.0.0/8"], "metadata": {"m": 1}}', :'acme') \gset
SELECT clock('2030-01-03 00:00:00');
SELECT id AS n, api_key AS nkey FROM grownext.api_key_reroll(:'o', '1 hour') \gset
SELECT isnt(:'nkey'::text, :'okey', 'another text');
SELECT matches(:'nkey'::text, '^gx_test_', 'of the same environment');
SELECT is((SELECT (name, scopes, addresses, metadata)::text FROM grownext.api_key WHERE id = :'n'), (SELECT (name, scopes, addresses, metadata)::text FROM grownext.api_key WHERE id = :'o'), 'with the same rights');
SELECT is((SELECT expires_at FROM grownext.api_key WHERE id = :'n'), '2030-01-13 00:00:00+00'::timestamptz, 'and the same lifetime, counted anew');
SELECT is((SELECT concat_ws(' ', state, expires_at, replaced_by) FROM grownext.api_key WHERE id = :'o'), 'retiring 2030-01-03 01:00:00+00 ' || :'n', 'the old one retires');
SELECT is(code(:'okey', NULL, '10.1.1.1') || ' ' || code(:'nkey', NULL, '10.1.1.1'), 'VALID VALID', 'both are good in the grace');
SELECT clock('2030-01-03 01:00:00');
SELECT is(code(:'okey', NULL, '10.1.1.1') || ' ' || code(:'nkey', NULL, '10.1.1.1'), 'EXPIRED VALID', 'then one');
SELECT throws_ok(format('SELECT grownext.api_key_reroll(%L)', :'o'), '55000', NULL, 'what is replaced is not rerolled again');
SELECT id AS z, api_key AS zkey FROM grownext.api_key_reroll(:'n', '0') \gset
SELECT is(code(:'nkey', NULL, '10.1.1.1') || ' ' || code(:'zkey', NULL, '10.1.1.1'), 'DISABLED VALID', 'without grace it ends at once');
SELECT throws_ok(format('SELECT grownext.api_key_reroll(%L, %s)', :'z', grace), '22023', NULL, 'grace ' || grace) FROM unnest('{NULL::interval,''-1 second'',''91 days''}'::text[]) AS grace;
SELECT throws_ok('SELECT grownext.api_key_reroll(gen_random_uuid())', '42704', NULL, 'an unknown key');
SELECT throws_ok('SELECT grownext.api_key_reroll(NULL)', '42704', NULL, 'no key');
SELECT grownext.api_key_revoke(:'z');
SELECT throws_ok(format('SELECT grownext.api_key_reroll(%L)', :'z'), '55000', NULL, 'a revoked one');
SELECT lives_ok(format('SELECT make(''rolling'')'), 'its name is free again');
SELECT clock('2030-01-01 00:00:00');

-- End users ----------------------------------------------------------------------------------

SELECT api_key AS bobkey, id AS bobid FROM make('bob''s', format('{"user_id": "%s"}', :'bob')::jsonb) \gset
SAVEPOINT users;
-- the bound caller is a service's word; the role that is set is an end user's
SELECT grownext.act_as(:'ann', :'acme', '{"scope": "reports:read"}');
SELECT is(state_as('ak_user', 'SELECT grownext.api_key_create(''mine'', ''{reports:read}'')'), 'done', 'an owner makes a key of the own tenant');
SELECT is(state_as('ak_user', 'SELECT grownext.api_key_create(''mine'', ''{reports:write}'')'), 'NX014', 'with no more scopes than the own ones');
SELECT is(state_as('ak_user', format('SELECT grownext.api_key_create(''mine'', tenant_id => %L)', :'evil')), '42501', 'in no other tenant');
SELECT is(state_as('ak_user', format('SELECT grownext.api_key_create(''mine'', options => ''{"%s": "x"}'')', o)), '42501', 'without a say in ' || o) FROM unnest('{user_id,subject,role}'::text[]) AS o;
SELECT is(state_as('ak_user', 'SELECT grownext.api_key_create(''mine'', options => ''{"user_id": "a1111111-1111-4111-8111-111111111111"}'')'), '42501', 'not even for himself');
SELECT is(state_as('ak_user', format('SELECT grownext.api_key_reroll(%L)', :'k')), 'done', 'rerolls one');
SELECT is(state_as('ak_user', format('SELECT grownext.api_key_reroll(%L)', :'u')), 'done', 'and the own one');
SELECT is(state_as('ak_user', format('SELECT grownext.api_key_reroll(%L)', :'s')), 'NX014', 'but gets no text with scopes that the own credential lacks');
SELECT is(state_as('ak_user', format('SELECT grownext.api_key_reroll(%L)', :'m')), '42501', 'nor one that speaks for another subject');
SELECT is(state_as('ak_user', format('SELECT grownext.api_key_reroll(%L)', :'bobid')), '42501', 'nor one that acts for another user');
SET LOCAL ROLE ak_user;
SELECT cmp_ok((SELECT count(*) FROM grownext.api_key), '>', 5::bigint, 'sees them');
SELECT ok(grownext.api_key_revoke(:'s'), 'ends one');
RESET ROLE;
SELECT grownext.act_as(:'bob', :'acme');
SELECT is(state_as('ak_user', 'SELECT grownext.api_key_create(''his'')'), '42501', 'a member without the permission makes none');
SELECT is(state_as('ak_user', format('SELECT grownext.api_key_reroll(%L)', :'k')), '42704', 'rerolls none, as if there were none');
SET LOCAL ROLE ak_user;
SELECT ok(NOT grownext.api_key_revoke(:'k'), 'ends none');
SELECT is((SELECT array_agg(name) FROM grownext.api_key), '{bob''s}', 'and sees the own ones alone');
RESET ROLE;
SELECT grownext.act_as(:'bob', :'evil');
SET LOCAL ROLE ak_user;
SELECT ok(NOT grownext.api_key_revoke(:'k'), 'another tenant''s owner ends none');
SELECT is((SELECT array_agg(name) FROM grownext.api_key), '{bob''s}', 'and sees none but the own ones');
RESET ROLE;
ROLLBACK TO users;
SAVEPOINT users;
SELECT grownext.act_as(:'bob', :'acme');
SET LOCAL ROLE ak_user;
SELECT is((SELECT array_agg(name) FROM grownext.api_key), '{bob''s}', 'everybody sees the own keys');
SELECT ok(grownext.api_key_revoke(:'bobid'), 'and may end them');
RESET ROLE;
ROLLBACK TO users;
SELECT grownext.authenticate_api_key(:'ukey') ->> 'sub';
SELECT is(state_as('ak_user', 'SELECT grownext.api_key_create(''child'')'), '42501', 'a key makes no keys, whoever it acts for');
SELECT is(state_as('ak_user', format('SELECT grownext.api_key_reroll(%L)', :'u')), '42704', 'nor rerolls itself');
SET LOCAL ROLE ak_user;
SELECT ok(NOT grownext.api_key_revoke(:'k'), 'nor ends others');
RESET ROLE;
SET LOCAL ROLE ak_auditor;
SELECT cmp_ok((SELECT count(*) FROM grownext.api_key), '>', 5::bigint, 'an auditor sees all');
RESET ROLE;

-- What is told -------------------------------------------------------------------------------

SELECT is((SELECT array_agg(action ORDER BY id) FROM grownext.audit_event WHERE target = 'api_key:' || :'n'), '{api_key.rerolled}', 'a reroll is an event of the key that it replaces');
SELECT is((SELECT array_agg(action ORDER BY id) FROM grownext.audit_event WHERE target = 'api_key:' || :'o'), '{api_key.created,api_key.rerolled}', 'creation is one, verification is none');
SELECT is((SELECT change #>> '{after,reason}' FROM grownext.audit_event WHERE target = 'api_key:' || :'c' AND action = 'api_key.revoked'), 'membership ended', 'a revocation says why');
SELECT is((SELECT count(*) FROM grownext.audit_event AS e WHERE e::text ~ 'gx_[a-z]+_[0-9A-Za-z]{36}'), 0::bigint, 'and none holds a key');

-- The scheduler's pass -------------------------------------------------------------------------

SELECT clock('2030-01-20 12:00:00');
SELECT is(code(:'key'), 'VALID', 'used once more');
SELECT is(_grownext.session_api_key_tick('2030-01-20 12:00:30+00'), '2030-01-20 12:01:30+00', 'a pass a minute');
SELECT is((SELECT last_used_at FROM grownext.api_key WHERE id = :'k'), '2030-01-20 12:00:00+00'::timestamptz, 'writes the last use');
SELECT is((SELECT count(*) FROM grownext.api_key WHERE id IN (:'z', :'x')), 2::bigint, 'what ended is kept for a while');
SELECT _grownext.session_api_key_tick('2030-02-03 00:00:00+00');
SELECT is((SELECT count(*) FROM grownext.api_key WHERE id IN (:'z', :'x', :'o')), 0::bigint, 'and forgotten after a month');
SELECT is((SELECT count(*) FROM grownext.api_key WHERE id = :'k'), 1::bigint, 'what lives stays');
SELECT is((SELECT count(*) FROM grownext.audit_event WHERE target = 'api_key:' || :'x' AND action = 'api_key.revoked'), 0::bigint, 'forgetting is no revocation');

-- Ends with what it stands on -------------------------------------------------------------------

SELECT id AS b2, api_key AS b2key FROM make('bob''s other', format('{"user_id": "%s"}', :'bob')::jsonb) \gset
SELECT grownext.member_add(:'evil', :'ann', 'owner');
SELECT grownext.user_delete(:'bob');
SELECT is(code(:'b2key'), 'NOT_FOUND', 'a deleted user''s key is gone');
SELECT is((SELECT array_agg(action ORDER BY id) FROM grownext.audit_event WHERE target = 'api_key:' || :'b2'), '{api_key.created,api_key.revoked}', 'which is told');
DELETE FROM _grownext.tenant_tenant WHERE id = :'acme';
SELECT is(code(:'key'), 'NOT_FOUND', 'a deleted tenant''s keys are gone');
SELECT is((SELECT change #>> '{after,reason}' FROM grownext.audit_event WHERE target = 'api_key:' || :'k' AND action = 'api_key.revoked'), 'deleted with its user or tenant', 'which is told');

SELECT * FROM finish();
ROLLBACK;
