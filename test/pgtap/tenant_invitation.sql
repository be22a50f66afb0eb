-- Invitations and domains: who may invite whom, what a token is worth and for how long.
-- Tokens are derived under the master key, so this server gets one.
\ir ../lib/master_key.psql
BEGIN;
SELECT * FROM no_plan();
SELECT isnt(current_setting('grownext.master_key_file'), '', 'there is a master key');
SET LOCAL grownext.test_clock = '2030-01-01 00:00+00';
\ir ../lib/members.psql
ALTER TABLE world ADD COLUMN bob uuid DEFAULT 'b1000000-0000-4000-8000-000000000005';
SELECT grownext.user_create('Bob@Guest.example', id => bob) FROM world;
SELECT grownext.queue_define('tap-mail'), grownext.event_route('invitation.*', 'tap-mail');

CREATE TEMP TABLE sent (name text PRIMARY KEY, id uuid, token text);
GRANT ALL ON sent TO PUBLIC;
-- invites as a member, and notes what came back under a name
CREATE FUNCTION pg_temp.invite(name text, who uuid, email text, role text) RETURNS text LANGUAGE sql AS $$
    SELECT pg_temp.as_user(who, 'a1000000-0000-4000-8000-000000000001', format(
        'INSERT INTO sent SELECT %L, i.id, i.token FROM grownext.invitation_create(''a1000000-0000-4000-8000-000000000001'', %L, %L) AS i', name, email, role));
$$;
CREATE FUNCTION pg_temp.token(name text) RETURNS text LANGUAGE sql AS $$ SELECT token FROM sent WHERE sent.name = $1 $$;
CREATE FUNCTION pg_temp.id(name text) RETURNS uuid LANGUAGE sql AS $$ SELECT id FROM sent WHERE sent.name = $1 $$;
CREATE FUNCTION pg_temp.state(name text) RETURNS text LANGUAGE sql AS $$ SELECT i.state FROM grownext.invitation AS i JOIN sent AS s USING (id) WHERE s.name = $1 $$;

-- Who invites whom --------------------------------------------------------------------

SELECT is(pg_temp.invite('x', member, 'bob@guest.example', 'member'), '42501', 'a mere member invites nobody') FROM world;
SELECT is(pg_temp.invite('x', stranger, 'bob@guest.example', 'member'), '42501', 'a stranger neither') FROM world;
SELECT is(pg_temp.invite('x', admin, 'bob@guest.example', 'owner'), '42501', 'an admin nobody above admins') FROM world;
SELECT is(pg_temp.invite('x', admin, 'bob@guest.example', 'no-such-role'), '42704', 'to a role that there is not') FROM world;
SELECT is(pg_temp.invite('x', admin, 'member@TAP.example', 'member'), '42710', 'a member needs no invitation') FROM world;
SELECT is(pg_temp.invite('x', admin, e, 'member'), '22023', format('"%s" is no address', left(e, 40)))
  FROM world, unnest(ARRAY['', 'bob', '@', 'a b@c.example', 'a@b@c', '@gmail.com', '@nodot', '@a.example, b.example', '@a.example,', repeat('x', 320) || '@a.example', repeat('x', 1000000)]) AS e;
SELECT throws_ok($$ SELECT grownext.invitation_create(acme, NULL) FROM world $$, '22004', NULL, 'nobody');
SELECT throws_ok($$ SELECT grownext.invitation_create(NULL, 'a@b.example') FROM world $$, '42704', NULL, 'nowhere');
SELECT throws_ok($$ SELECT grownext.invitation_create(acme, 'a@b.example', NULL) FROM world $$, '42704', NULL, 'to nothing');
SELECT throws_ok(format('SELECT grownext.invitation_create(acme, ''a@b.example'', ttl => %L) FROM world', t), '22023', NULL, 'for ' || coalesce(t, 'NULL')) FROM unnest(ARRAY[NULL, '0', '-1 day', '366 days']) AS t;
SELECT throws_ok($$ SELECT grownext.act_as(member::text, acme), grownext.invitation_create(acme, 'a@b.example') FROM world $$, '42501', NULL, 'a service that acts for a member invites as the member');
SELECT is(pg_temp.invite('bob', admin, 'bob@guest.example', 'admin'), '00000', 'an admin invites an admin') FROM world;
SELECT is(pg_temp.invite('x', owner, 'BOB@guest.example', 'member'), '42710', 'an address is invited once') FROM world;

-- The token ------------------------------------------------------------------------------

SELECT matches(pg_temp.token('bob'), '^gni_[A-Za-z0-9_-]{43}$', 'a token has 256 bits');
SELECT is(token_hash, sha256(convert_to(pg_temp.token('bob'), 'UTF8')), 'of which the hash is stored') FROM _grownext.tenant_invitation;
SELECT ok(strpos(i::text, pg_temp.token('bob')) = 0, 'and nothing else') FROM _grownext.tenant_invitation AS i;
SELECT is((SELECT count(*) FROM grownext.audit_event AS e WHERE strpos(e::text, pg_temp.token('bob')) > 0 OR e::text ~* 'bob@guest'), 0::bigint, 'neither token nor address is in the log');
SELECT results_eq($$ SELECT payload ->> 'type', payload -> 'data' ->> 'email', strpos(payload::text, pg_temp.token('bob')) FROM _grownext.queue_job WHERE queue = 'tap-mail' $$,
                  $$ VALUES ('invitation.created', 'bob@guest.example', 0) $$, 'the event has the address, not the token');
SELECT results_eq($$ SELECT (m).email, (m).token, (m).tenant_name, (m).role, (m).invited_by FROM (SELECT grownext.invitation_message(pg_temp.id('bob')) AS m) AS q $$,
                  $$ SELECT 'bob@guest.example', pg_temp.token('bob'), 'Acme', 'admin', admin FROM world $$, 'whoever sends the message asks for it');
SELECT throws_ok($$ SELECT grownext.invitation_message(NULL) $$, '42704', NULL, 'no invitation');
SELECT is(_grownext.tenant_seats(acme), 4::bigint, 'a pending invitation holds a seat') FROM world;

-- Who sees it
SELECT is(pg_temp.as_user(admin, acme, 'INSERT INTO sent SELECT ''seen'', id FROM grownext.invitation'), '00000', 'members who may invite see invitations') FROM world;
SELECT is(pg_temp.id('seen'), pg_temp.id('bob'), 'of their tenant');
SELECT is(pg_temp.as_user(member, acme, 'DO $d$ BEGIN IF EXISTS (SELECT FROM grownext.invitation) THEN RAISE division_by_zero; END IF; END $d$'), '00000', 'others do not') FROM world;
SELECT is(pg_temp.as_user(stranger, beta, 'DO $d$ BEGIN IF EXISTS (SELECT FROM grownext.invitation) THEN RAISE division_by_zero; END IF; END $d$'), '00000', 'nor do other tenants') FROM world;
SET LOCAL SESSION AUTHORIZATION gt_auditor;
SELECT is((SELECT count(*) FROM grownext.invitation), 1::bigint, 'auditors do');
RESET SESSION AUTHORIZATION;
SELECT hasnt_column('grownext', 'invitation', c, 'the view has no ' || c) FROM unnest(ARRAY['token_hash', 'nonce', 'token']) AS c;

-- Redeemed once, by the right one ---------------------------------------------------------

SELECT throws_ok(format('SELECT grownext.invitation_accept(%L, bob) FROM world', t), 'NX011', 'the invitation is not valid', 'not by ' || left(t, 20))
  FROM unnest(ARRAY['', 'gni_', 'gni_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA', repeat('x', 1000000), pg_temp.token('bob') || 'x', upper(pg_temp.token('bob'))]) AS t;
SELECT throws_ok($$ SELECT grownext.invitation_accept(NULL, bob) FROM world $$, '22004', NULL, 'no token');
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('bob'), NULL) $$, '22004', NULL, 'no user');
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('bob'), acme) FROM world $$, '42704', NULL, 'no such user');
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('bob'), stranger) FROM world $$, '42501', 'the invitation is for another email address', 'another address');
SELECT is(pg_temp.as_user(stranger, beta, format('SELECT grownext.invitation_accept(%L, bob) FROM world', pg_temp.token('bob'))), '42501', 'nobody accepts for another user') FROM world;
SELECT is(pg_temp.as_user(bob, NULL, format('SELECT grownext.invitation_accept(%L, bob) FROM world', pg_temp.token('bob'))), '00000', 'the invited user accepts, from a session without a tenant') FROM world;
SELECT is((SELECT role FROM grownext.member, world WHERE tenant_id = acme AND user_id = bob), 'admin', 'and is a member');
SELECT is(_grownext.tenant_seats(acme), 4::bigint, 'on the seat that was held') FROM world;
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('bob'), bob) FROM world $$, 'NX011', NULL, 'once');
SELECT throws_ok($$ SELECT grownext.invitation_resend(pg_temp.id('bob')) $$, '55000', NULL, 'what was accepted is not sent again');
SELECT throws_ok($$ SELECT grownext.invitation_revoke(pg_temp.id('bob')) $$, '55000', NULL, 'nor revoked');
SELECT throws_ok($$ SELECT grownext.invitation_message(pg_temp.id('bob')) $$, '55000', NULL, 'nor written');
SELECT is(pg_temp.state('bob'), 'accepted', 'it is settled');
SELECT grownext.member_remove(acme, bob) FROM world;

-- What changes between sending and accepting counts ------------------------------------------

SELECT is(pg_temp.invite('again', admin, 'bob@guest.example', 'admin'), '00000', 'invited again') FROM world;
SAVEPOINT pending;
SELECT grownext.member_set_role(acme, admin, 'member') FROM world;
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('again'), bob) FROM world $$, 'NX011', NULL, 'of an inviter who may not invite any more');
ROLLBACK TO pending;
SELECT grownext.role_define('inviter', '{members.invite}', acme), grownext.member_set_role(acme, admin, 'inviter') FROM world;
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('again'), bob) FROM world $$, 'NX011', NULL, 'or not to that role');
ROLLBACK TO pending;
SELECT grownext.member_remove(acme, admin) FROM world;
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('again'), bob) FROM world $$, 'NX011', NULL, 'or who has left');
SELECT lives_ok($$ UPDATE sent SET token = (SELECT r.token FROM grownext.invitation_resend(pg_temp.id('again')) AS r) WHERE name = 'again' $$, 'sent again by the platform');
SELECT lives_ok($$ SELECT grownext.invitation_accept(pg_temp.token('again'), bob) FROM world $$, 'it is good');
ROLLBACK TO pending;
SELECT grownext.user_delete(admin) FROM world;
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('again'), bob) FROM world $$, 'NX011', NULL, 'a deleted user''s invitations go along');
SELECT is((SELECT count(*) FROM grownext.audit_event WHERE action = 'invitation.revoked' AND target = 'invitation:' || pg_temp.id('again')), 1::bigint, 'which is recorded');
ROLLBACK TO pending;
SELECT grownext.tenant_suspend(acme, 'unpaid') FROM world;
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('again'), bob) FROM world $$, 'NX023', NULL, 'nobody joins a suspended tenant');
SELECT throws_ok($$ SELECT grownext.invitation_create(acme, 'x@y.example') FROM world $$, 'NX023', NULL, 'nor is invited to it');
SELECT throws_ok($$ SELECT grownext.invitation_resend(pg_temp.id('again')) FROM world $$, 'NX023', NULL, 'nor again');
ROLLBACK TO pending;
SELECT grownext.user_disable(bob) FROM world;
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('again'), bob) FROM world $$, '55000', NULL, 'a disabled user joins nothing');
ROLLBACK TO pending;
SELECT grownext.member_add(acme, bob, 'member') FROM world;
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('again'), bob) FROM world $$, '42710', NULL, 'a member joins no second time');
SELECT is(pg_temp.state('again'), 'pending', 'and the invitation is not spent');
ROLLBACK TO pending;

-- Resend, revoke, expire -----------------------------------------------------------------

SELECT is(pg_temp.as_user(stranger, beta, format('SELECT grownext.invitation_resend(%L)', pg_temp.id('again'))), '42704', 'another tenant''s invitation does not exist') FROM world;
SELECT is(pg_temp.as_user(stranger, beta, format('SELECT grownext.invitation_revoke(%L)', pg_temp.id('again'))), '42704', 'for nothing') FROM world;
SELECT is(pg_temp.as_user(member, acme, format('SELECT grownext.invitation_revoke(%L)', pg_temp.id('again'))), '42501', 'a mere member revokes nothing') FROM world;
SET LOCAL grownext.test_clock = '2030-01-05 00:00+00';
SELECT is(pg_temp.as_user(owner, acme, format('INSERT INTO sent SELECT ''resent'', r.id, r.token FROM grownext.invitation_resend(%L) AS r', pg_temp.id('again'))), '00000', 'sent again') FROM world;
SELECT is(pg_temp.id('resent'), pg_temp.id('again'), 'it is the same invitation');
SELECT isnt(pg_temp.token('resent'), pg_temp.token('again'), 'with another token');
SELECT is(_grownext.tenant_seats(acme), 4::bigint, 'on the same seat') FROM world;
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('again'), bob) FROM world $$, 'NX011', NULL, 'the old token is worth nothing');
SELECT is((SELECT expires_at FROM grownext.invitation WHERE id = pg_temp.id('resent')), '2030-01-12 00:00+00', 'its time begins anew');
SET LOCAL grownext.test_clock = '2030-01-12 00:00+00';
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('resent'), bob) FROM world $$, 'NX012', NULL, 'and ends');
SELECT is(pg_temp.state('resent'), 'expired', 'which the view says at once');
SELECT is(_grownext.tenant_seats(acme), 3::bigint, 'as do the seats') FROM world;
SELECT _grownext.tenant_tick('2030-01-12 00:00+00');
SELECT is((SELECT state FROM _grownext.tenant_invitation WHERE id = pg_temp.id('resent')), 'expired', 'and the next pass settles');
SELECT is((SELECT count(*) FROM grownext.audit_event WHERE action = 'invitation.expired'), 1::bigint, 'and records');
SELECT lives_ok($$ UPDATE sent SET token = (SELECT r.token FROM grownext.invitation_resend(pg_temp.id('resent')) AS r) WHERE name = 'resent' $$, 'an expired one can be sent again');
SELECT is(_grownext.tenant_seats(acme), 4::bigint, 'and takes a seat') FROM world;
SELECT lives_ok($$ SELECT grownext.invitation_revoke(pg_temp.id('resent')) $$, 'revoked');
SELECT is(_grownext.tenant_seats(acme), 3::bigint, 'it gives it back') FROM world;
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('resent'), bob) FROM world $$, 'NX011', NULL, 'and opens nothing');
SELECT lives_ok($$ SELECT grownext.invitation_revoke(pg_temp.id('resent')) $$, 'twice is once');
SELECT throws_ok($$ SELECT grownext.invitation_resend(pg_temp.id('resent')) $$, '55000', NULL, 'and is not sent again');
SELECT throws_ok(format('SELECT grownext.%s(NULL)', f), '42704', NULL, f || ' of none') FROM unnest('{invitation_resend,invitation_revoke}'::text[]) AS f;
SELECT _grownext.tenant_tick('2030-04-30 00:00+00');
SELECT is((SELECT count(*) FROM grownext.invitation), 0::bigint, 'settled ones are forgotten after ninety days');

-- By domain ---------------------------------------------------------------------------------

SELECT is(pg_temp.invite('domain', admin, '@guest.example, @Other.example.', 'member'), '00000', 'whoever has an address in a domain') FROM world;
SELECT is((SELECT domains FROM grownext.invitation), '{guest.example,other.example}', 'of a list');
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('domain'), owner) FROM world $$, '42501', NULL, 'not of another');
SELECT is(grownext.invitation_accept(pg_temp.token('domain'), bob), acme, 'comes in') FROM world;
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('domain'), stranger) FROM world $$, 'NX011', NULL, 'the first alone');
SELECT grownext.member_remove(acme, bob) FROM world;

-- Domains -------------------------------------------------------------------------------------

SELECT throws_ok(format('SELECT grownext.domain_claim(acme, %L) FROM world', d), '22023', NULL, format('domain "%s" is refused', left(d, 40)))
  FROM unnest(ARRAY['', 'x', 'gmail.com', 'GMAIL.com.', 'a..example', '-a.example', '127.0.0.1', 'a_b.example', 'ä.example', 'a.example' || chr(10), repeat('a.', 130) || 'example', repeat('x', 1000000)]) AS d;
SELECT throws_ok($$ SELECT grownext.domain_claim(acme, NULL) FROM world $$, '22004', NULL, 'none');
SELECT is(pg_temp.as_user(member, acme, 'SELECT grownext.domain_claim(acme, ''guest.example'') FROM world'), '42501', 'a mere member claims nothing') FROM world;
SELECT is(pg_temp.as_user(admin, acme, 'INSERT INTO sent SELECT ''txt'', NULL, grownext.domain_claim(acme, ''Guest.example'') FROM world'), '00000', 'an admin claims a domain') FROM world;
SELECT matches(pg_temp.token('txt'), '^grownext-domain-verification=[0-9a-f]{64}$', 'and gets what the TXT record must say');
SELECT is(grownext.domain_claim(acme, 'guest.example'), pg_temp.token('txt'), 'the same again') FROM world;
SELECT isnt(grownext.domain_claim(beta, 'guest.example'), pg_temp.token('txt'), 'another tenant another') FROM world;
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.domain_verify(acme, ''guest.example'') FROM world'), '42501', 'no member verifies') FROM world;
SELECT throws_ok($$ SELECT grownext.domain_verify(acme, 'unclaimed.example') FROM world $$, '42704', NULL, 'nor is anything verified that was not claimed');
SELECT lives_ok($$ SELECT grownext.domain_verify(acme, 'guest.example') FROM world $$, 'verified');
SELECT lives_ok($$ SELECT grownext.domain_verify(acme, 'guest.example') FROM world $$, 'twice is once');
SELECT throws_ok($$ SELECT grownext.domain_verify(beta, 'guest.example') FROM world $$, '42710', NULL, 'for one tenant');
SELECT is((SELECT count(*) FROM grownext.domain_match((SELECT bob FROM world))), 0::bigint, 'and captures nobody');
SELECT throws_ok(format('SELECT grownext.domain_update(acme, ''guest.example'', %L) FROM world', c), '22023', NULL, 'refused: ' || c)
  FROM unnest(ARRAY['{"capture": "all"}', '{"capture": 1}', '{"role": "owner"}', '{"x": 1}', '[]']) AS c;
SELECT throws_ok($$ SELECT grownext.domain_update(acme, 'guest.example', '{"role": "no-such-role"}') FROM world $$, '42704', NULL, 'no such role');
SELECT grownext.role_define('super', '{*}', acme) FROM world;
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.domain_update(acme, ''guest.example'', ''{"role": "super"}'') FROM world'), '42501', 'no role above the own') FROM world;
SELECT is(pg_temp.as_user(admin, acme, 'SELECT grownext.domain_update(acme, ''guest.example'', ''{"capture": "automatic_suggestion"}'') FROM world'), '00000', 'suggested') FROM world;
SELECT results_eq($$ SELECT m.tenant_id, m.capture, m.role FROM grownext.domain_match((SELECT bob FROM world)) AS m $$, $$ SELECT acme, 'automatic_suggestion', 'member' FROM world $$, 'to whoever has an address there');
SELECT throws_ok($$ SELECT grownext.domain_join(acme, bob) FROM world $$, '42501', NULL, 'who cannot join by that alone');
SELECT lives_ok($$ SELECT grownext.domain_update(acme, 'guest.example', '{"capture": "automatic_invitation"}') FROM world $$, 'invited');
SELECT throws_ok($$ SELECT grownext.domain_join(acme, stranger) FROM world $$, '42501', NULL, 'others are not');
SELECT throws_ok($$ SELECT grownext.domain_join(acme, NULL) FROM world $$, '42501', NULL, 'nobody is not');
SELECT lives_ok($$ SELECT grownext.domain_join(acme, bob) FROM world $$, 'who joins');
SELECT is((SELECT role FROM grownext.member, world WHERE tenant_id = acme AND user_id = bob), 'member', 'and is a member');
SELECT is((SELECT count(*) FROM grownext.domain_match((SELECT bob FROM world))), 0::bigint, 'and invited no more');
SELECT throws_ok($$ SELECT grownext.domain_release(acme, 'unclaimed.example') FROM world $$, '42704', NULL, 'what was not claimed is not released');
SELECT lives_ok($$ SELECT grownext.domain_release(acme, 'guest.example') FROM world $$, 'released');
SELECT lives_ok($$ SELECT grownext.domain_verify(beta, 'guest.example') FROM world $$, 'it can be another tenant''s');
SELECT is(pg_temp.as_user(member, acme, 'DO $d$ BEGIN IF EXISTS (SELECT FROM grownext.domain) THEN RAISE division_by_zero; END IF; END $d$'), '00000', 'a mere member sees no domains') FROM world;
SELECT lives_ok($$ SELECT grownext.domain_claim(acme, 'd' || g || '.example') FROM world, generate_series(1, 100) AS g $$, 'a hundred domains');
SELECT throws_ok($$ SELECT grownext.domain_claim(acme, 'd101.example') FROM world $$, '54000', NULL, 'and no more');
SELECT set_eq($$ SELECT DISTINCT action FROM grownext.audit_event WHERE action ~ '^(domain|invitation)' $$,
    '{domain.claimed,domain.verified,domain.updated,domain.released,invitation.created,invitation.accepted,invitation.resent,invitation.revoked,invitation.expired}'::text[], 'every change is recorded');

-- Spellings that are one account are one address here, too -----------------------------------

SELECT grownext.user_create(U&'Zo\00EB.K\00FChn@guest.example', id => 'b1000000-0000-4000-8000-00000000000a');
SELECT is(pg_temp.invite('zoe', owner, U&'ZOE\0308.\212AU\0308HN@Guest.EXAMPLE', 'member'), '00000', 'an address in another spelling: combining, in capitals, with a compatibility letter') FROM world;
SELECT is(pg_temp.invite('x', owner, U&'zoe\0308.k\00FChn@guest.example', 'member'), '42710', 'is one address') FROM world;
SELECT is((SELECT email FROM grownext.invitation WHERE id = pg_temp.id('zoe')), U&'ZOE\0308.\212AU\0308HN@Guest.EXAMPLE', 'which is written to as it was given');
SELECT lives_ok($$ SELECT grownext.invitation_accept(pg_temp.token('zoe'), 'b1000000-0000-4000-8000-00000000000a') $$, 'whose account accepts');
SELECT is(pg_temp.invite('x', owner, U&'ZOE\0308.K\00DCHN@guest.example', 'member'), '42710', 'and is a member then') FROM world;
SELECT is(pg_temp.invite('x', owner, U&'bob\200B@guest.example', 'member'), '22023', 'what is no address of an account is none to invite') FROM world;

-- A user without an address
SELECT grownext.user_create(NULL, id => 'b1000000-0000-4000-8000-00000000000b');
SELECT is(pg_temp.invite('anyone', owner, '@nobody.example', 'member'), '00000', 'a domain is invited') FROM world;
SELECT throws_ok($$ SELECT grownext.invitation_accept(pg_temp.token('anyone'), 'b1000000-0000-4000-8000-00000000000b') $$, '42501', 'the invitation is for another email address', 'is in no domain');

SELECT * FROM finish();
ROLLBACK;
ALTER SYSTEM RESET grownext.master_key_file;
SELECT pg_reload_conf();
