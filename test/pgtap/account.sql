-- Users and login links: what is accepted, refused, kept and shown
\ir ../lib/master_key.psql
BEGIN;
SELECT * FROM no_plan();
SET LOCAL grownext.test_clock = '2030-01-01 12:00:00+00';
SELECT count(*) AS steps FROM grownext.setup('https://auth.example.com', ARRAY['my-api']) \gset
\set ann '''a1111111-1111-4111-8111-111111111111''::uuid'
\set bob '''b1111111-1111-4111-8111-111111111111''::uuid'

-- Addresses: one account however it is spelt --------------------------------------

CREATE TEMP TABLE spelling (one text, other text, same boolean);
INSERT INTO spelling VALUES
    ('ann@example.com', 'ANN@Example.COM', true),
    ('müller@example.com', 'MÜLLER@example.com', true),
    ('müller@example.com', 'mu' || U&'\0308' || 'ller@example.com', true),
    ('ann@example.com', 'ＡＮＮ＠example.com', true),
    ('mike@example.com', U&'mi\212Ae@example.com', true),
    ('ΣΊΣΥΦΟΣ@example.com', 'σίσυφος@example.com', true),
    ('ЖАННА@пример.рф', 'жанна@ПРИМЕР.РФ', true),
    ('ann@example.com', 'anne@example.com', false),
    ('ann@example.com', 'ann@example.org', false),
    ('ann+news@example.com', 'ann@example.com', false),
    ('muller@example.com', 'müller@example.com', false);
SELECT is(_grownext.account_email_key(one) = _grownext.account_email_key(other), same,
          format('%s and %s are %s', one, other, CASE WHEN same THEN 'one account' ELSE 'two' END))
  FROM spelling;
SELECT is(_grownext.account_email_key(address), NULL, format('no address: %s', why))
  FROM (VALUES ('', 'nothing'), ('ann', 'no domain'), ('@example.com', 'nobody'), ('ann@', 'an empty domain'),
               ('ann@b@example.com', 'two @'), ('ann＠b@example.com', 'two @, one of them wide'),
               ('a n@example.com', 'a space'), (E'ann@exa\nmple.com', 'a line feed'), (U&'ann\200B@example.com', 'a space of no width'),
               (U&'ann\202E@example.com', 'a turn of direction'), (U&'a\00A0nn@example.com', 'a hard space'),
               ('ann,bob@example.com', 'a list'), ('Ann <ann@example.com>', 'a name with it'), ('"ann"@example.com', 'quotes'),
               ('ann@example..com', 'an empty label'), ('ann@.example.com', 'a leading dot'), ('ann@example.com.', 'a trailing dot'),
               (repeat('a', 320) || '@b', 'too long'), (repeat('ﷺ', 100) || '@b', 'too long once it is normal'),
               (repeat('a', 10000000), 'huge')) AS v (address, why);

-- Users -----------------------------------------------------------------------------

SELECT is(grownext.user_create('Ann@example.com', 'Ann', id => :ann), :ann, 'an id of the application is adopted');
SELECT is(grownext.user_create('ANN@EXAMPLE.com', 'Other', id => :ann), :ann, 'the same id with the same address is the same user');
SELECT is((SELECT array[email, name] FROM grownext.user_account WHERE id = :ann), ARRAY['Ann@example.com', 'Ann'], 'and nothing of it changes');
SELECT is(grownext.user_create('bob@example.com', external_id => 'hr-17', id => :bob), :bob, 'with an external id');
SELECT is(grownext.user_create('robert@example.com', external_id => 'hr-17'), :bob, 'the same external id is the same user');
SELECT throws_ok(format('SELECT grownext.user_create(%s)', arguments), code, NULL, format('user_create(%s): %s', left(arguments, 60), code))
  FROM (VALUES ('NULL', '22004'), ('''ann@example.com''', '42710'), ('''new@example.com'', external_id => ''''', '22023'),
               ('''no address''', '22023'), ('''new@example.com'', external_id => repeat(''x'', 256)', '22023'),
               ('''new@example.com'', repeat(''x'', 201)', '22023'),
               ('''new@example.com'', attributes => ''[]''', '22023'), ('''new@example.com'', attributes => ''"x"''', '22023'),
               ('''new@example.com'', attributes => jsonb_build_object(''x'', repeat(''x'', 65536))', '22023'),
               (format('''ann@example.com'', external_id => ''hr-17'', id => %L', :ann), '42710'),
               (format('''other@example.com'', id => %L', :ann), '42710')) AS v (arguments, code);
SELECT lives_ok($$SELECT grownext.user_create('big@example.com', attributes => jsonb_build_object('x', repeat('x', 60000)))$$, 'attributes may be large');
SELECT throws_ok($$SELECT grownext.user_update('a1111111-1111-4111-8111-111111111111', $_${"email": "BOB@example.com"}$_$)$$, '42710', NULL,
    'an address of somebody else, in capitals');
SELECT throws_ok($$SELECT grownext.user_update('a1111111-1111-4111-8111-111111111111', $_${"external_id": "hr-17"}$_$)$$, '42710', NULL, 'an external id of somebody else');
SELECT throws_ok(format('SELECT grownext.user_update(%L, %s)', :ann, changes), '22023', NULL, format('user_update: %s', left(changes, 40)))
  FROM (VALUES ('''{"email": 1}'''), ('''{"id": "x"}'''), ('''[]'''), ('NULL'), ('''{"attributes": []}'''), ('''{"email": "x y"}'''),
               ('''{"external_id": ""}'''), ('jsonb_build_object(''name'', repeat(''x'', 201))'),
               ('jsonb_build_object(''attributes'', jsonb_build_object(''x'', repeat(''x'', 65536)))')) AS v (changes);
SELECT throws_ok('SELECT grownext.' || call, '42704', NULL, call)
  FROM (VALUES ('user_update(NULL, ''{}'')'), ('user_disable(gen_random_uuid())'), ('user_enable(NULL)'), ('user_delete(gen_random_uuid())')) AS v (call);
SELECT is_empty($$SELECT * FROM grownext.audit_event WHERE change::text ~* 'example\.com' AND action LIKE 'user.%'$$, 'the log has no address');

-- Login links ------------------------------------------------------------------------

SELECT grownext.login_link_create('ANN@example.com', ip => '192.0.2.1') AS token \gset
SELECT matches(:'token'::text, '^gnl_[A-Za-z0-9_-]{43}$', 'a token that scanners recognise');
SELECT results_eq($$SELECT user_id, expires_at, token_hash = sha256(convert_to($$ || quote_literal(:'token') || $$, 'UTF8')) FROM _grownext.account_login_link$$,
    format($$VALUES (%L::uuid, '2030-01-01 12:15:00+00'::timestamptz, true)$$, :ann), 'what is stored is its SHA-256');
SELECT is_empty($$SELECT * FROM grownext.audit_event WHERE (change::text || context::text || target) LIKE '%gnl\_%'$$, 'the log has no token');
SELECT id AS link FROM _grownext.account_login_link \gset
SELECT results_eq(format('SELECT user_id, email, name, token, expires_at FROM grownext.login_link_deliver(%L)', :'link'),
    format($$VALUES (%L::uuid, 'Ann@example.com', 'Ann', %L, '2030-01-01 12:15:00+00'::timestamptz)$$, :ann, :'token'),
    'whoever delivers it gets the token, and the address that the account has');

SELECT grownext.login_link_redeem(:'token', '{"ip": "192.0.2.1", "user_agent": "Firefox", "device": "laptop"}') AS answer \gset
SELECT is(ARRAY(SELECT jsonb_object_keys(:'answer') ORDER BY 1), ARRAY['access_token', 'expires_in', 'refresh_token', 'session_id', 'token_type'],
    'redeemed, it answers as session_create() does');
SELECT results_eq($$SELECT user_id, acr, amr, auth_time, host(ip), user_agent, attributes ->> 'device' FROM grownext.session$$,
    format($$VALUES (%L::uuid, 'aal1', ARRAY['email'], '2030-01-01 12:00:00+00'::timestamptz, '192.0.2.1', 'Firefox', 'laptop')$$, :ann),
    'the session says how and when its user signed in');
SELECT is(c ->> 'acr' || (c -> 'amr')::text, 'aal1["email"]', 'so does its token')
  FROM grownext.jwt_verify(:'answer'::jsonb ->> 'access_token') AS c;
SELECT is(grownext.login_link_redeem(:'token'), '{"error": "invalid_grant", "error_description": "the login link is not valid"}', 'a second time it is refused');
SELECT is((SELECT count(*) FROM grownext.session), 1::bigint, 'and makes no session');
SELECT is_empty(format('SELECT * FROM grownext.login_link_deliver(%L)', :'link'), 'nothing is left to deliver');
SELECT is(grownext.login_link_redeem(bad) ->> 'error', 'invalid_grant', format('refused: %s', why))
  FROM (VALUES (NULL, 'NULL'), ('', 'nothing'), ('gnl_', 'the prefix alone'), (upper(:'token'), 'in capitals'), (:'token' || ' ', 'with a space'),
               ('gnl_' || repeat('A', 43), 'a forged one'), (repeat('x', 10000000), 'a huge one'), ('gnr_' || right(:'token', 43), 'another prefix')) AS v (bad, why);

-- Nobody learns who has an account
SELECT grownext.login_link_create('nobody@example.com') AS decoy \gset
SELECT matches(:'decoy'::text, '^gnl_[A-Za-z0-9_-]{43}$', 'an address of nobody gets the same answer');
SELECT is(grownext.login_link_redeem(:'decoy'), grownext.login_link_redeem('gnl_' || repeat('A', 43)), 'which opens nothing, and says as much as a forged one');
SELECT grownext.user_disable(:bob);
SELECT grownext.login_link_create('bob@example.com') AS disabled \gset
SELECT is(grownext.login_link_redeem(:'disabled') ->> 'error_description', 'the login link is not valid', 'so does that of a disabled user');
SELECT grownext.user_enable(:bob);
SELECT is(grownext.login_link_redeem(:'disabled') ->> 'error', 'invalid_grant', 'who gets no use of it later either');
SELECT is((SELECT array_agg(DISTINCT action || coalesce(change #>> '{after,user_id}', '')) FROM grownext.audit_event WHERE action = 'login_link.created' AND change #>> '{after,user_id}' IS NULL),
    ARRAY['login_link.created'], 'the log keeps that somebody asked');

-- What ends a link
SELECT grownext.login_link_create('bob@example.com') AS before_disable \gset
SELECT grownext.user_disable(:bob);
SELECT grownext.user_enable(:bob);
SELECT is(grownext.login_link_redeem(:'before_disable') ->> 'error', 'invalid_grant', 'disabling its user');
SELECT grownext.login_link_create('bob@example.com') AS before_change \gset
SELECT grownext.user_update(:bob, '{"email": "bob@example.net"}');
SELECT is(grownext.login_link_redeem(:'before_change') ->> 'error', 'invalid_grant', 'another address of its user');
SELECT grownext.login_link_create('bob@example.net', '1 minute') AS short \gset
SET LOCAL grownext.test_clock = '2030-01-01 12:01:00+00';
SELECT is(grownext.login_link_redeem(:'short') ->> 'error', 'invalid_grant', 'its time');
SELECT grownext.login_link_create('bob@example.net') AS first \gset
SET LOCAL grownext.test_clock = '2030-01-01 12:01:01+00';
SELECT grownext.login_link_create('bob@example.net') AS second \gset
SELECT is(grownext.login_link_redeem(:'first') ->> 'token_type', 'Bearer', 'an earlier link of several still signs in');
SELECT is(grownext.login_link_redeem(:'second') ->> 'error', 'invalid_grant', 'and ends the others');
SELECT set_config('grownext.test_clock', '2030-01-01 13:00:00+00', true) AS at \gset
SELECT grownext.login_link_create('bob@example.net') AS oldest \gset
SELECT set_config('grownext.test_clock', format('2030-01-01 13:00:0%s+00', i), true), grownext.login_link_create('bob@example.net') FROM generate_series(1, 3) AS i \g /dev/null
SELECT is((SELECT count(*) FROM _grownext.account_login_link WHERE user_id = :bob), 3::bigint, 'a user has at most three');
SELECT is(grownext.login_link_redeem(:'oldest') ->> 'error', 'invalid_grant', 'the oldest gives way');

-- Bad arguments
SELECT throws_ok('SELECT grownext.login_link_create(' || arguments || ')', '22023', NULL, 'login_link_create(' || arguments || ')')
  FROM (VALUES ('NULL'), ('''nobody'''), ('''carol@example.com'', ''59 seconds'''), ('''carol@example.com'', ''-1 hour'''),
               ('''carol@example.com'', ''25 hours'''), ('''carol@example.com'', ''1000 years''')) AS v (arguments);
SELECT lives_ok($$SELECT grownext.login_link_create('carol@example.com', NULL)$$, 'a NULL ttl is the default');
SELECT throws_ok(format('SELECT grownext.login_link_redeem(%L, %L)', 'gnl_' || repeat('A', 43), attributes), code, NULL, format('login_link_redeem(..., %s): %s', attributes, code))
  FROM (VALUES ('[]', '22023'), ('{"ip": 1}', '22023'), ('{"ip": "here"}', '22P02'), ('{"acr": "aal3"}', '22023'), ('{"amr": ["pwd"]}', '22023'),
               ('{"auth_time": 1}', '22023')) AS v (attributes, code);

-- Limits, counted beside the transaction
SELECT set_config('grownext.test_clock', '2030-01-02 12:00:00+00', true) AS at \gset
SELECT lives_ok($$SELECT grownext.login_link_create('dave@example.com')$$, format('link %s of an address', i)) FROM generate_series(1, 5) AS i;
SELECT throws_ok($$SELECT grownext.login_link_create('DAVE@example.com')$$, 'NX041', 'too many login links for this email address', 'the sixth in an hour is refused, whether there is such a user or not');
SAVEPOINT undone;
SELECT throws_ok($$SELECT grownext.login_link_create('dave@example.com')$$, 'NX041', NULL, 'in a savepoint, too');
ROLLBACK TO undone;
SELECT throws_ok($$SELECT grownext.login_link_create('dave@example.com')$$, 'NX041', NULL, 'what is rolled back stays counted');
SELECT lives_ok($$SELECT grownext.login_link_create('erin@example.com')$$, 'another address is not concerned');
SELECT set_config('grownext.test_clock', '2030-01-02 12:12:01+00', true) AS at \gset
SELECT lives_ok($$SELECT grownext.login_link_create('dave@example.com')$$, 'one comes back after a fifth of the hour');
SELECT is((SELECT count(*) FROM generate_series(1, 60) AS i WHERE grownext.login_link_create(format('user%s@example.com', i), ip => '2001:db8::1') IS NOT NULL), 60::bigint, 'sixty of an IP address');
SELECT throws_ok($$SELECT grownext.login_link_create('user61@example.com', ip => '2001:db8::ffff')$$, 'NX041', 'too many login links for this IP address', 'the next is refused, from a neighbour too');
SELECT lives_ok($$SELECT grownext.login_link_create('user61@example.com', ip => '2001:db8:0:1::1')$$, 'not from another network');
SELECT is(_grownext.account_ip_key(ip), key, format('%s counts as %s', ip, key))
  FROM (VALUES ('192.0.2.7'::inet, '192.0.2.7'), ('2001:db8::1:2', '2001:db8::/64'), ('::ffff:192.0.2.7', '::ffff:192.0.2.7'), ('192.0.2.7/24', '192.0.2.7')) AS v (ip, key);
SELECT grownext.login_link_create('ann@example.com') AS good \gset
SELECT is((SELECT count(*) FROM generate_series(1, 10) WHERE grownext.login_link_redeem('gnl_' || repeat('B', 43), '{"ip": "198.51.100.1"}') ->> 'error' = 'invalid_grant'),
    10::bigint, 'ten guesses of an IP address');
SELECT is(grownext.login_link_redeem('gnl_' || repeat('B', 43), '{"ip": "198.51.100.1"}') - 'retry_after', '{"error": "rate_limited", "error_description": "too many failed attempts"}',
    'the next is told to wait');
SELECT is((grownext.login_link_redeem('gnl_' || repeat('B', 43), '{"ip": "198.51.100.1"}') ->> 'retry_after')::int BETWEEN 1 AND 90, true, 'and how long');
SELECT is(grownext.login_link_redeem('gnl_' || repeat('B', 43), '{"ip": "198.51.100.2"}') ->> 'error', 'invalid_grant', 'another address is not concerned');
SELECT grownext.login_link_redeem(:'good', '{"ip": "198.51.100.1"}') AS answer \gset
SELECT is(:'answer'::jsonb ->> 'token_type', 'Bearer', 'nor is a good link: nobody suffers for a neighbour''s guesses');

-- Time takes away what nobody used
SELECT cmp_ok((SELECT count(*) FROM _grownext.account_login_link), '>', 0::bigint, 'there are links');
SELECT is(_grownext.account_tick('2030-01-03 12:30:00+00'), '2030-01-03 12:35:00+00'::timestamptz, 'a pass says when it is due again');
SELECT is((SELECT count(*) FROM _grownext.account_login_link), 0::bigint, 'and forgets those past their time');

-- Deleting a user takes everything but the log
SELECT grownext.login_link_create('ann@example.com') AS left_over \gset
SELECT grownext.totp_enroll(:ann) ->> 'factor_id' AS factor \gset
SELECT grownext.user_delete(:ann);
SELECT is(grownext.login_link_redeem(:'left_over') ->> 'error', 'invalid_grant', 'its links are gone');
SELECT is((SELECT count(*) FROM grownext.session WHERE user_id = :ann), 0::bigint, 'its sessions are gone');
SELECT is((SELECT count(*) FROM _grownext.account_totp WHERE user_id = :ann) + (SELECT count(*) FROM _grownext.account_recovery_code), 0::bigint, 'its factors are gone');
SELECT throws_ok(format('SELECT grownext.authenticate(%L)', :'answer'::jsonb ->> 'access_token'), 'NX013', NULL, 'its access tokens are refused');
SELECT cmp_ok((SELECT count(*) FROM grownext.audit_event WHERE target = 'user:' || :ann), '>=', 2::bigint, 'the log stays');
SELECT grownext.tenant_create('last', 'Last', owner_id => :bob) AS tenant \gset
SELECT throws_ok(format('SELECT grownext.user_delete(%L)', :bob), 'NX024', NULL, 'the last owner of a tenant cannot be deleted');

-- Who may
CREATE ROLE regress_account_app IN ROLE grownext_user;
CREATE ROLE regress_account_anon IN ROLE grownext_anon;
SET LOCAL ROLE regress_account_app;
SELECT throws_ok('SELECT ' || call, '42501', NULL, 'an end user cannot ' || call)
  FROM (VALUES ('grownext.login_link_create(''x@example.com'')'), ('grownext.login_link_deliver(gen_random_uuid())'),
               ('grownext.user_create(''x@example.com'')'), ('grownext.user_delete(gen_random_uuid())'), ('_grownext.account_login_token(gen_random_uuid())'),
               ('* FROM _grownext.account_login_link')) AS v (call);
SELECT is((SELECT count(*) FROM grownext.user_account), 0::bigint, 'without a caller nobody is seen');
RESET ROLE;
SELECT grownext.login_link_create('bob@example.net') AS token \gset
SET LOCAL ROLE regress_account_anon;
SELECT throws_ok(format('SELECT grownext.login_link_redeem(%L, %L)', :'token', attributes), '42501', NULL, 'who is not trusted cannot choose ' || attributes)
  FROM (VALUES ('{"scope": "admin"}'), ('{"ip": "192.0.2.1"}'), ('{"client_id": "x"}')) AS v (attributes);
SELECT is(grownext.login_link_redeem(:'token', '{"device": "phone"}') ->> 'token_type', 'Bearer', 'anybody may redeem a link');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
