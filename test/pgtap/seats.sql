-- Seats: members and pending invitations never exceed what a tenant has of each feature of
-- kind seats.
BEGIN;
SELECT * FROM no_plan();
CREATE TEMP TABLE world AS
SELECT 'a3000000-0000-4000-8000-000000000001'::uuid AS acme, 'a3000000-0000-4000-8000-000000000002'::uuid AS beta,
       ARRAY(SELECT ('b3000000-0000-4000-8000-00000000000' || n)::uuid FROM generate_series(1, 9) AS n) AS person;
GRANT SELECT ON world TO PUBLIC;
SET LOCAL grownext.test_clock = '2030-01-01 00:00+00';
SELECT grownext.user_create('person' || n || '@seats.example', id => person[n]) FROM world, generate_series(1, 9) AS n;

-- Without a seats feature nothing is limited ------------------------------------------

SELECT grownext.tenant_create('tap-seats-acme', 'Acme', person[1], id => acme) FROM world;
SELECT lives_ok($$ SELECT grownext.member_add(acme, person[2], 'member') FROM world $$, 'a catalogue without seats limits nobody');
SELECT grownext.member_remove(acme, person[2]) FROM world;

-- What a bundle, a default and a grant say ------------------------------------------------

SELECT grownext.product_define('tap', 'Tap');
SELECT throws_ok($$ SELECT grownext.feature_define('seats', 'tap', 'seats', '{"period": "month"}') $$, '22023', NULL, 'seats have no period');
SELECT throws_ok($$ SELECT grownext.feature_define('seats', 'tap', 'seats', '{"inherit": "pool"}') $$, '22023', NULL, 'and are not pooled');
SELECT throws_ok($$ SELECT grownext.feature_define('seats', 'tap', 'seats', '{"fold": "any"}') $$, '22023', NULL, 'they are added up, or the largest number counts');
SELECT throws_ok($$ SELECT grownext.feature_define('seats', 'tap', 'seats', '{"default": {"quota": 1, "soft": true}}') $$, '22023', NULL, 'no soft limit');
SELECT throws_ok($$ SELECT grownext.feature_define('seats', 'tap', 'seats', '{"default": -1}') $$, '22023', NULL, 'no negative number');
SELECT throws_ok($$ SELECT grownext.feature_define('seats', 'tap', 'seats', '{"default": true}') $$, '22023', NULL, 'a number, not a yes');
SELECT lives_ok($$ SELECT grownext.feature_define('seats', 'tap', 'seats') $$, 'a seats feature is defined');
SELECT is((SELECT fold FROM grownext.feature WHERE feature = 'seats'), 'sum', 'subscriptions add up');
SELECT grownext.bundle_define('tap-three', '{"seats": {"quota": 3}}'), grownext.bundle_define('tap-one', '{"seats": 1}'), grownext.bundle_define('tap-zero', '{"seats": 0}'),
       grownext.bundle_define('tap-open', '{"seats": "unlimited"}'), grownext.bundle_define('tap-nothing', '{}');

-- A tenant without seats has its first member, and no other
SELECT results_eq($$ SELECT kind, allowed, value, used, quota, remaining, reason FROM world, grownext.entitlement('seats', acme) $$,
                  $$ VALUES ('seats', false, NULL::jsonb, 1::bigint, NULL::bigint, NULL::bigint, 'not_included') $$, 'nothing gives seats');
SELECT throws_ok($$ SELECT grownext.member_add(acme, person[2], 'member') FROM world $$, 'NX022', 'no seat is left in tenant "a3000000-0000-4000-8000-000000000001"', 'so nobody joins');
SELECT is(grownext.entitled('seats', acme), false, 'entitled() says no') FROM world;
SELECT lives_ok($$ SELECT grownext.tenant_create('tap-seats-beta', 'Beta', person[5], id => beta, bundle => 'tap-zero') FROM world $$, 'a tenant with no seat is created with its owner');
SELECT results_eq($$ SELECT allowed, used, quota, remaining, reason FROM world, grownext.entitlement('seats', beta) $$,
                  $$ VALUES (false, 1::bigint, 0::bigint, 0::bigint, 'limit_is_zero') $$, 'who is one too many, and stays');

SELECT results_eq($$ SELECT action FROM grownext.audit_event, world WHERE tenant_id = beta ORDER BY id $$, '{tenant.created,subscription.started,member.added}'::text[],
                  'tenant, bundle and owner are made in one call, each on record');

-- Members and invitations --------------------------------------------------------------------

SELECT grownext.subscription_start(acme, 'tap-three') AS subscription FROM world \gset
SELECT results_eq($$ SELECT allowed, value, used, quota, remaining, source FROM world, grownext.entitlement('seats', acme) $$,
                  $$ VALUES (true, '3'::jsonb, 1::bigint, 3::bigint, 2::bigint, 'subscription') $$, 'entitlement() tells used and remaining');
SELECT is((SELECT used FROM grownext.entitlements(acme) WHERE feature = 'seats'), 1::bigint, 'entitlements() too') FROM world;
SELECT is((SELECT used FROM grownext.entitlement('seats', acme, '2030-01-02')), NULL, 'not of another instant') FROM world;
SELECT is((SELECT used FROM grownext.product_entitlement WHERE tenant_id = acme AND feature = 'seats'), 1::bigint, 'product_entitlement too') FROM world;
-- the token is a MAC under the master key, which this server has not: an invitation as it is stored
CREATE FUNCTION pg_temp.invite(tenant uuid, name text, ttl interval DEFAULT '7 days') RETURNS void LANGUAGE sql AS $$
    INSERT INTO _grownext.tenant_invitation (tenant_id, domains, role, nonce, token_hash, ttl, created_at, sent_at, expires_at)
    VALUES (tenant, ARRAY['seats.example'], 'member', sha256('n'), sha256(name::bytea), ttl, _grownext.core_now(), _grownext.core_now(), _grownext.core_now() + ttl);
    SELECT _grownext.tenant_seat_taken(tenant, '{}') $$;
SELECT lives_ok($$ SELECT pg_temp.invite(acme, 'gni_one') FROM world $$, 'an invitation takes a seat');
SELECT lives_ok($$ SELECT grownext.member_add(acme, person[2], 'member') FROM world $$, 'a member takes the last');
SELECT throws_ok($$ SELECT pg_temp.invite(acme, 'gni_two') FROM world $$, 'NX022', NULL, 'no further invitation');
SELECT throws_ok($$ SELECT grownext.member_add(acme, person[3], 'member') FROM world $$, 'NX022', NULL, 'no further member');
SELECT is(grownext.entitled('seats', acme), true, 'entitled() does not mind how many are taken') FROM world;
CREATE FUNCTION pg_temp.detail(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    EXECUTE statement;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN detail;
END
$$;
SELECT is(pg_temp.detail($$ SELECT grownext.member_add(acme, person[3], 'member') FROM world $$), '3 of 3 seats of "seats" are in use.', 'the detail says how many');
SELECT lives_ok($$ SELECT grownext.invitation_accept('gni_one', person[3]) FROM world $$, 'a pending invitation is accepted at the limit');
SELECT is(used, 3::bigint, 'on the seat that it held') FROM world, grownext.entitlement('seats', acme);
SELECT throws_ok($$ SELECT grownext.member_add(acme, person[4], 'member') FROM world $$, 'NX022', NULL, 'still none is left');
SELECT lives_ok($$ SELECT grownext.member_set_role(acme, person[3], 'owner') FROM world $$, 'another role takes no seat');
SELECT grownext.ownership_offer(acme, person[2]) AS offer FROM (SELECT grownext.act_as(person[1]::text, acme), acme, person FROM world) AS w \gset
SELECT grownext.act_as('tap');
SELECT lives_ok(format('SELECT grownext.ownership_accept(%L)', :'offer'), 'ownership that changes hands takes none');
SELECT is(used, 3::bigint, 'and counts once') FROM world, grownext.entitlement('seats', acme);

-- An invitation that expired holds no seat, before anybody notices
SELECT grownext.member_remove(acme, person[1]) FROM world;
SELECT pg_temp.invite(acme, 'gni_three', '1 day') FROM world;
SELECT throws_ok($$ SELECT grownext.member_add(acme, person[1], 'member') FROM world $$, 'NX022', NULL, 'a pending one does');
SET LOCAL grownext.test_clock = '2030-01-02 00:00+00';
SELECT lives_ok($$ SELECT grownext.member_add(acme, person[1], 'member') FROM world $$, 'an expired one does not');
SELECT throws_ok($$ SELECT grownext.invitation_accept('gni_three', person[4]) FROM world $$, 'NX012', NULL, 'nor is it accepted');

-- Whom a domain brings in takes a seat like anybody
INSERT INTO _grownext.tenant_domain (tenant_id, domain, token, capture, created_at, verified_at) SELECT acme, 'seats.example', 't', 'automatic_invitation', now(), now() FROM world;
SELECT throws_ok($$ SELECT grownext.domain_join(acme, person[4]) FROM world $$, 'NX022', NULL, 'whom a domain invites, needs a seat');
SELECT is((SELECT count(*) FROM grownext.member WHERE tenant_id = acme), 3::bigint, 'nothing is half written') FROM world;

-- More and fewer seats -----------------------------------------------------------------------

SELECT grownext.subscription_change(:'subscription', quantity => 2);
SELECT lives_ok($$ SELECT grownext.domain_join(acme, person[4]) FROM world $$, 'quantity multiplies seats');
SELECT grownext.subscription_start(acme, 'tap-one', options => '{"addon": true}') FROM world;
SELECT is(quota, 7::bigint, 'an add-on adds') FROM world, grownext.entitlement('seats', acme);
SELECT grownext.entitlement_grant(acme, 'seats', '{"add": 2}') FROM world;
SELECT is(quota, 9::bigint, 'a grant adds') FROM world, grownext.entitlement('seats', acme);
SELECT grownext.entitlement_grant(acme, 'seats', '2') AS grant FROM world \gset
SELECT results_eq($$ SELECT allowed, used, quota, remaining FROM world, grownext.entitlement('seats', acme) $$, $$ VALUES (true, 4::bigint, 2::bigint, 0::bigint) $$, 'who has more members than seats, is told');
SELECT throws_ok($$ SELECT grownext.member_add(acme, person[6], 'member') FROM world $$, 'NX022', NULL, 'grows no further');
SELECT is((SELECT count(*) FROM grownext.member WHERE tenant_id = acme), 4::bigint, 'and loses nobody') FROM world;
SELECT lives_ok($$ SELECT grownext.member_remove(acme, person[4]) FROM world $$, 'members may leave');
SELECT throws_ok($$ SELECT grownext.member_add(acme, person[4], 'member') FROM world $$, 'NX022', NULL, 'but not come back');
SELECT grownext.entitlement_revoke(:'grant');
SELECT grownext.entitlement_block(acme, 'seats', 'tap') AS block FROM world \gset
SELECT is(pg_temp.detail($$ SELECT grownext.member_add(acme, person[4], 'member') FROM world $$), '3 of 0 seats of "seats" are in use; reason: blocked.', 'a block closes the door');
SELECT grownext.entitlement_revoke(:'block');
SELECT throws_ok($$ SELECT grownext.entitlement_grant(acme, 'seats', '2', user_id => person[2]) FROM world $$, '0A000', NULL, 'seats are no one person''s');
SELECT is((SELECT reason FROM grownext.usage_consume('seats', tenant_id => acme)), 'not_metered', 'usage_consume() does not take seats') FROM world;

-- Seats of several products ------------------------------------------------------------------

SELECT grownext.feature_define('crm.seats', 'tap', 'seats');
SELECT lives_ok($$ SELECT grownext.member_add(acme, person[4], 'member') FROM world $$, 'a product that the tenant has not, has no say');
SELECT grownext.entitlement_grant(acme, 'crm.seats', '5') FROM world;
SELECT lives_ok($$ SELECT grownext.member_add(acme, person[6], 'member') FROM world $$, 'a member takes a seat of each');
SELECT is(pg_temp.detail($$ SELECT grownext.member_add(acme, person[7], 'member') FROM world $$), '5 of 5 seats of "crm.seats" are in use.', 'the smaller number counts');
SET LOCAL grownext.test_clock = '2030-01-03 00:00+00';
SELECT grownext.entitlement_grant(acme, 'crm.seats', 'false') FROM world;
SELECT throws_ok($$ SELECT grownext.member_add(acme, person[7], 'member') FROM world $$, 'NX022', NULL, 'what was taken away is not what was never there');
SET LOCAL grownext.test_clock = '2030-01-04 00:00+00';
SELECT grownext.entitlement_grant(acme, 'crm.seats', '"unlimited"') FROM world;
SELECT lives_ok($$ SELECT grownext.member_add(acme, person[7], 'member') FROM world $$, 'unlimited is no limit');
SELECT grownext.tenant_suspend(acme, 'tap') FROM world;
SELECT throws_ok($$ SELECT grownext.member_add(acme, person[8], 'member') FROM world $$, 'NX023', NULL, 'a suspended tenant grows not at all');
SELECT * FROM finish();
ROLLBACK;
