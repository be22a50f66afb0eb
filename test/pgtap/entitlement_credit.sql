-- The API of credits and reservations: signatures, who may call what, and that an end
-- user gets at no other tenant's.
BEGIN;
SELECT * FROM no_plan();

CREATE ROLE gc_service LOGIN IN ROLE grownext_service;
CREATE ROLE gc_user LOGIN IN ROLE grownext_user;
CREATE ROLE gc_auditor LOGIN IN ROLE grownext_auditor;
CREATE ROLE gc_anon LOGIN IN ROLE grownext_anon;
CREATE ROLE gc_worker LOGIN IN ROLE grownext_worker;

SELECT is(pg_get_function_identity_arguments(d.name::regproc) || ' -> ' || pg_get_function_result(d.name::regproc), d.signature, d.name)
  FROM (VALUES
    ('grownext.credit_grant', 'tenant_id uuid, feature text, amount bigint, expires_at timestamp with time zone, priority integer, reason text, idempotency_key text -> uuid'),
    ('grownext.usage_reserve', 'feature text, amount bigint, ttl interval, idempotency_key text, tenant_id uuid -> uuid'),
    ('grownext.usage_commit', 'reservation uuid, amount bigint -> void'),
    ('grownext.usage_release', 'reservation uuid -> void')) AS d (name, signature);
SELECT is((SELECT provolatile::text || proparallel::text FROM pg_proc WHERE oid = n::regproc), 'vu', n || ' is volatile and parallel unsafe')
  FROM unnest('{grownext.credit_grant,grownext.usage_reserve,grownext.usage_commit,grownext.usage_release}'::text[]) AS n;
SELECT is(
    ARRAY(SELECT r::text FROM unnest('{gc_service,gc_user,gc_auditor,gc_anon,gc_worker}'::text[]) AS r
           WHERE has_function_privilege(r, g.name::regproc, 'EXECUTE')),
    g.roles, g.name || ' is for ' || g.roles::text)
  FROM (VALUES
    ('grownext.credit_grant', '{gc_service}'::text[]),
    ('grownext.usage_reserve', '{gc_service,gc_user}'),
    ('grownext.usage_commit', '{gc_service,gc_user}'),
    ('grownext.usage_release', '{gc_service,gc_user}'),
    ('_grownext.entitlement_credit_refund', '{}'),
    ('_grownext.entitlement_credit_void', '{}'),
    ('_grownext.entitlement_reservation_expire', '{}')) AS g (name, roles);
SELECT is(
    ARRAY(SELECT r::text FROM unnest('{gc_service,gc_user,gc_auditor,gc_anon,gc_worker}'::text[]) AS r WHERE has_table_privilege(r, v, 'SELECT')),
    '{gc_service,gc_user,gc_auditor}', v || ' is for who may look')
  FROM unnest('{grownext.credit,grownext.reservation}'::text[]) AS v;
SELECT columns_are('grownext', 'credit',
    '{id,tenant_id,feature,origin,source_id,amount,burnt,remaining,priority,valid_from,expires_at,reason,created_at,created_by,voided_at}', 'columns of credit');
SELECT columns_are('grownext', 'reservation', '{id,tenant_id,feature,amount,state,committed,created_at,expires_at}', 'columns of reservation');

-- Two tenants with credit -----------------------------------------------------------

CREATE TEMP TABLE world AS
SELECT 'cc000000-0000-4000-8000-000000000001'::uuid AS acme, 'cc000000-0000-4000-8000-000000000002'::uuid AS beta,
       'dc000000-0000-4000-8000-000000000001'::uuid AS ann, NULL::uuid AS own, NULL::uuid AS other, NULL::uuid AS mine;
GRANT SELECT, UPDATE ON world TO PUBLIC;
SELECT lives_ok($$ SELECT grownext.user_create('ann@credit.tap.example', id => ann) FROM world $$, 'a user');
SELECT lives_ok($$ SELECT grownext.product_define('tapc', 'Tap');
                   SELECT grownext.feature_define('tapc.token', 'tapc', 'credit', '{"inherit": "parent"}');
                   SELECT grownext.feature_define('tapc.call', 'tapc', 'metered', '{"default": 10}') $$, 'a catalogue');
SELECT lives_ok($$ SELECT grownext.tenant_create('tapc-acme', 'Acme', ann, id => acme), grownext.tenant_create('tapc-beta', 'Beta', id => beta) FROM world $$, 'tenants');
SELECT throws_ok($$ SELECT grownext.feature_define('tapc.x', 'tapc', 'credit', '{"fold": "max"}') $$, '22023', NULL, 'credits are not folded');
SELECT throws_ok($$ SELECT grownext.feature_define('tapc.x', 'tapc', 'credit', '{"period": "moon"}') $$, '22023', NULL, 'a period that there is not');

SET LOCAL SESSION AUTHORIZATION gc_service;
SELECT lives_ok($$ SELECT grownext.credit_grant(acme, 'tapc.token', 10), grownext.credit_grant(beta, 'tapc.token', 10) FROM world $$, 'a service grants');
SELECT isnt((SELECT grownext.usage_reserve('tapc.token', 2, tenant_id => acme) FROM world), NULL, 'and reserves for whom it likes');
UPDATE world SET own = grownext.usage_reserve('tapc.token', 1, tenant_id => acme), other = grownext.usage_reserve('tapc.token', 1, tenant_id => beta);
SELECT grownext.act_as(ann::text, acme) FROM world;
RESET SESSION AUTHORIZATION;

-- As an end user of Acme ---------------------------------------------------------------

SET LOCAL SESSION AUTHORIZATION gc_user;
SELECT throws_ok(format('SELECT %s FROM world', call), '42501', NULL, 'refused: ' || call)
  FROM unnest(ARRAY[
    'grownext.credit_grant(acme, ''tapc.token'', 1)',
    'grownext.usage_reserve(''tapc.token'', 1, tenant_id => beta)',
    'grownext.usage_return(''tapc.token'', 1, tenant_id => acme)',
    '_grownext.entitlement_credit_refund(acme, 1, 1, NULL, now())']) AS call;
SELECT throws_ok(format('SELECT %s FROM world', call), '42704', NULL, 'another''s is not there: ' || call)
  FROM unnest(ARRAY['grownext.usage_commit(other)', 'grownext.usage_commit(other, 1)', 'grownext.usage_release(other)',
                    'grownext.usage_commit(gen_random_uuid())']) AS call;
SELECT is((SELECT used FROM grownext.entitlement('tapc.token')), 3::bigint, 'what is reserved counts as used');
SELECT is(grownext.entitled('tapc.token'), true, 'there is a balance');
UPDATE world SET mine = grownext.usage_reserve('tapc.token', 7);
SELECT is(grownext.entitled('tapc.token'), false, 'reserved away, there is none');
SELECT throws_ok($$ SELECT grownext.usage_require('tapc.token') $$, 'NX021', NULL, 'quota_exceeded');
SELECT is(grownext.usage_reserve('tapc.token', 1), NULL, 'a denied reservation is NULL');
SELECT lives_ok($$ SELECT grownext.usage_release(mine) FROM world $$, 'the own can be released');
SELECT lives_ok($$ SELECT grownext.usage_commit(own) FROM world $$, 'so can one that a service made for the own tenant be committed');
SELECT is((grownext.usage_consume('tapc.token', 4)).remaining, 3::bigint, 'an end user burns');
SELECT results_eq('SELECT DISTINCT tenant_id FROM grownext.credit', 'SELECT acme FROM world', 'credit: the own tenant');
SELECT results_eq('SELECT DISTINCT tenant_id FROM grownext.reservation', 'SELECT acme FROM world', 'reservation: the own tenant');
SELECT throws_ok(format('SELECT * FROM _grownext.%I', t), '42501', NULL, t || ' is out of reach')
  FROM unnest('{entitlement_credit,entitlement_burn,entitlement_balance,entitlement_reservation}'::text[]) AS t;
SELECT ok(NOT has_table_privilege(v, 'INSERT, UPDATE, DELETE'), v || ' is to be read only') FROM unnest('{grownext.credit,grownext.reservation}'::text[]) AS v;
RESET SESSION AUTHORIZATION;

SET LOCAL SESSION AUTHORIZATION gc_service;
SELECT lives_ok($$ SELECT grownext.usage_commit(other) FROM world $$, 'a service commits for whomever');
RESET SESSION AUTHORIZATION;

-- without a caller
SELECT grownext.act_as('nobody');
SET LOCAL SESSION AUTHORIZATION gc_user;
SELECT throws_ok($$ SELECT grownext.usage_commit(own) FROM world $$, 'NX010', NULL, 'no tenant, no reservation');
SELECT throws_ok($$ SELECT grownext.usage_reserve('tapc.token', 1) $$, 'NX010', NULL, 'no tenant to reserve for');
RESET SESSION AUTHORIZATION;

-- The tables themselves refuse what must not be -------------------------------------------

SELECT throws_ok($$ UPDATE _grownext.entitlement_credit SET burnt = amount + 1 WHERE tenant_id = (SELECT acme FROM world) $$, '23514', NULL, 'more than granted');
SELECT throws_ok($$ UPDATE _grownext.entitlement_credit SET burnt = -1 WHERE tenant_id = (SELECT acme FROM world) $$, '23514', NULL, 'less than nothing');
SELECT throws_ok($$ UPDATE _grownext.entitlement_burn SET returned = amount + 1 WHERE tenant_id = (SELECT acme FROM world) AND amount > 0 $$, '23514', NULL, 'more back than was burnt');

-- Every grant is on record, consumption is not --------------------------------------------

SELECT results_eq($$ SELECT action, count(*) FROM grownext.audit_event WHERE tenant_id = (SELECT acme FROM world) AND action ~ '^(credit|usage)' GROUP BY 1 ORDER BY 1 $$,
                  $$ VALUES ('credit.granted', 1::bigint) $$, 'audited');

-- A purge takes all of it
SELECT lives_ok($$ SELECT _grownext.entitlement_tenant_reaction('tenant.purged', acme, '{}') FROM world $$, 'purged');
SELECT is((SELECT count(*) FROM (
    SELECT tenant_id FROM _grownext.entitlement_credit UNION ALL SELECT tenant_id FROM _grownext.entitlement_burn
    UNION ALL SELECT tenant_id FROM _grownext.entitlement_balance UNION ALL SELECT tenant_id FROM _grownext.entitlement_reservation) AS t
    WHERE t.tenant_id = (SELECT acme FROM world)), 0::bigint, 'nothing is left');

-- Nothing but unlimited credit leaves nothing; the past is as it was told then -------------

SELECT set_config('grownext.test_clock', '2031-01-10', true);
SELECT grownext.bundle_define('tapc-past', '{"tapc.token": "unlimited"}');
SELECT grownext.tenant_create('tapc-past', 'T', id => '00000000-0000-4000-8000-00000000c0de');
SELECT grownext.subscription_start('00000000-0000-4000-8000-00000000c0de', 'tapc-past') AS past \gset
SELECT grownext.usage_consume('tapc.token', 5, NULL, '00000000-0000-4000-8000-00000000c0de');
SELECT set_config('grownext.test_clock', '2031-02-05', true);
SELECT grownext.bundle_define('tapc-past', '{"tapc.token": {"amount": 10, "rollover": 50}}');
SELECT grownext.subscription_change(:'past', 'tapc-past');
SELECT is((grownext.entitlement('tapc.token', '00000000-0000-4000-8000-00000000c0de')).quota, 10::bigint, 'unlimited credit is not rolled over');
SELECT set_config('grownext.test_clock', '2031-02-07', true);
SELECT grownext.bundle_define('tapc-past', '{"tapc.token": {"amount": 30}}');
SELECT grownext.subscription_change(:'past', 'tapc-past');
SELECT grownext.usage_consume('tapc.token', 5, NULL, '00000000-0000-4000-8000-00000000c0de');
SELECT is((grownext.entitlement('tapc.token', '00000000-0000-4000-8000-00000000c0de', '2031-02-06')).quota, 10::bigint, 'what is granted later does not change a past balance');

-- What is alike, given at one instant too, is burnt in the order in which it was given -------

SELECT grownext.tenant_create('tapc-order', 'T', id => '00000000-0000-4000-8000-00000000c0df');
SELECT grownext.credit_grant('00000000-0000-4000-8000-00000000c0df', 'tapc.token', 1, reason => 'grant ' || g) FROM generate_series(1, 12) AS g;
SELECT grownext.usage_consume('tapc.token', 3, NULL, '00000000-0000-4000-8000-00000000c0df') FROM generate_series(1, 2);
SELECT is(ARRAY(SELECT c.reason FROM grownext.credit AS c WHERE c.tenant_id = '00000000-0000-4000-8000-00000000c0df' AND c.burnt = 1 ORDER BY 1),
          '{grant 1,grant 2,grant 3,grant 4,grant 5,grant 6}', 'in the order of the grants');
SELECT grownext.usage_return('tapc.token', 2, NULL, '00000000-0000-4000-8000-00000000c0df');
SELECT is(ARRAY(SELECT c.reason FROM grownext.credit AS c WHERE c.tenant_id = '00000000-0000-4000-8000-00000000c0df' AND c.burnt = 1 ORDER BY 1),
          '{grant 1,grant 2,grant 3,grant 4}', 'and refunded the other way');
SELECT set_config('grownext.test_clock', '', true);

SELECT * FROM finish();
ROLLBACK;
