-- The API of component entitlement: its signatures, who may call what, and that an end
-- user gets at no other tenant through any argument.
BEGIN;
SELECT * FROM no_plan();

CREATE ROLE ge_service LOGIN IN ROLE grownext_service;
CREATE ROLE ge_user LOGIN IN ROLE grownext_user;
CREATE ROLE ge_auditor LOGIN IN ROLE grownext_auditor;
CREATE ROLE ge_anon LOGIN IN ROLE grownext_anon;
CREATE ROLE ge_worker LOGIN IN ROLE grownext_worker;

-- Signatures are a promise -----------------------------------------------------

SELECT is(pg_get_function_identity_arguments(d.name::regproc) || ' -> ' || pg_get_function_result(d.name::regproc), d.signature, d.name)
  FROM (VALUES
    ('grownext.product_define', 'product text, name text -> void'),
    ('grownext.feature_define', 'feature text, product text, kind text, options jsonb -> void'),
    ('grownext.bundle_define', 'bundle text, features jsonb, options jsonb -> integer'),
    ('grownext.subscription_start', 'tenant_id uuid, bundle text, quantity integer, options jsonb -> uuid'),
    ('grownext.subscription_change', 'id uuid, bundle text, quantity integer, at text, options jsonb -> void'),
    ('grownext.subscription_end', 'id uuid, at text -> void'),
    ('grownext.entitlement_grant', 'tenant_id uuid, feature text, value jsonb, valid_from timestamp with time zone, valid_until timestamp with time zone, reason text, user_id uuid -> uuid'),
    ('grownext.entitlement_revoke', 'id uuid -> void'),
    ('grownext.entitlement_block', 'tenant_id uuid, feature text, reason text -> uuid'),
    ('grownext.entitled', 'feature text, tenant_id uuid -> boolean'),
    ('grownext.entitlement', 'feature text, tenant_id uuid, at timestamp with time zone, user_id uuid -> grownext.entitlement_state'),
    ('grownext.entitlement_require', 'feature text, tenant_id uuid -> void'),
    ('grownext.entitlements', 'tenant_id uuid, at timestamp with time zone -> SETOF grownext.entitlement_state'),
    ('grownext.usage_consume', 'feature text, amount bigint, idempotency_key text, tenant_id uuid -> grownext.usage_result'),
    ('grownext.usage_require', 'feature text, amount bigint, idempotency_key text, tenant_id uuid -> grownext.usage_result'),
    ('grownext.usage_return', 'feature text, amount bigint, idempotency_key text, tenant_id uuid -> grownext.usage_result')) AS d (name, signature);
SELECT is((SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'grownext.entitlement_state'::regclass),
          '{feature,kind,allowed,value,used,quota,remaining,resets_at,source,reason}', 'entitlement_state');
SELECT is((SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'grownext.usage_result'::regclass),
          '{allowed,used,quota,remaining,resets_at,reason}', 'usage_result');
SELECT is((SELECT provolatile::text || proparallel::text FROM pg_proc WHERE oid = n::regproc), 'ss', n || ' is stable and parallel safe')
  FROM unnest('{grownext.entitled,grownext.entitlement,grownext.entitlements,grownext.entitlement_require,grownext.has_permission}'::text[]) AS n;
SELECT is((SELECT provolatile::text || proparallel::text FROM pg_proc WHERE oid = n::regproc), 'vu', n || ' is volatile and parallel unsafe')
  FROM unnest('{grownext.usage_consume,grownext.usage_require,grownext.usage_return}'::text[]) AS n;

-- Who may call what -------------------------------------------------------------

SELECT is(
    ARRAY(SELECT r::text FROM unnest('{ge_service,ge_user,ge_auditor,ge_anon,ge_worker}'::text[]) AS r
           WHERE has_function_privilege(r, g.name::regproc, 'EXECUTE')),
    g.roles, g.name || ' is for ' || g.roles::text)
  FROM (VALUES
    ('grownext.product_define', '{ge_service}'::text[]),
    ('grownext.feature_define', '{ge_service}'),
    ('grownext.bundle_define', '{ge_service}'),
    ('grownext.subscription_start', '{ge_service}'),
    ('grownext.subscription_change', '{ge_service}'),
    ('grownext.subscription_end', '{ge_service}'),
    ('grownext.entitlement_grant', '{ge_service}'),
    ('grownext.entitlement_revoke', '{ge_service}'),
    ('grownext.entitlement_block', '{ge_service}'),
    ('grownext.usage_return', '{ge_service}'),
    ('grownext.entitled', '{ge_service,ge_user,ge_anon,ge_worker}'),
    ('grownext.entitlement', '{ge_service,ge_user}'),
    ('grownext.entitlement_require', '{ge_service,ge_user}'),
    ('grownext.entitlements', '{ge_service,ge_user}'),
    ('grownext.usage_consume', '{ge_service,ge_user}'),
    ('grownext.usage_require', '{ge_service,ge_user}')) AS g (name, roles);

-- Two tenants, one with a plan ----------------------------------------------------

CREATE TEMP TABLE world AS
SELECT 'c1000000-0000-4000-8000-000000000001'::uuid AS acme, 'c1000000-0000-4000-8000-000000000002'::uuid AS beta,
       'c1000000-0000-4000-8000-00000000000f'::uuid AS gone,
       'd1000000-0000-4000-8000-000000000001'::uuid AS ann, 'd1000000-0000-4000-8000-000000000002'::uuid AS bob;
GRANT SELECT ON world TO PUBLIC;
SELECT lives_ok($$ SELECT grownext.user_create('ann@ent.tap.example', id => ann), grownext.user_create('bob@ent.tap.example', id => bob) FROM world $$, 'users');
SELECT lives_ok($$ SELECT grownext.product_define('tap', 'Tap');
                   SELECT grownext.feature_define('tap.export', 'tap', 'boolean');
                   SELECT grownext.feature_define('tap.calls', 'tap', 'metered');
                   SELECT grownext.bundle_define('tap-pro', '{"tap.export": true, "tap.calls": 10}') $$, 'a catalogue');
SELECT lives_ok($$ SELECT grownext.tenant_create('tape-acme', 'Acme', ann, id => acme, bundle => 'tap-pro'),
                          grownext.tenant_create('tape-beta', 'Beta', bob, id => beta, bundle => 'tap-pro') FROM world $$, 'tenants with a bundle');

-- without a caller
SET LOCAL SESSION AUTHORIZATION ge_user;
SELECT is(grownext.entitled('tap.export'), false, 'no caller: not entitled');
SELECT is((SELECT grownext.entitled('tap.export', acme) FROM world), false, 'no caller: not entitled for a named tenant either');
SELECT throws_ok($$ SELECT grownext.entitlement('tap.export') $$, 'NX010', NULL, 'no caller: entitlement raises');
SELECT throws_ok($$ SELECT grownext.usage_consume('tap.calls') $$, 'NX010', NULL, 'no caller: usage_consume raises');
SELECT throws_ok($$ SELECT grownext.usage_consume('tap.calls', tenant_id => acme) FROM world $$, '42501', NULL, 'no caller: naming a tenant is refused');
SELECT is((SELECT count(*) FROM grownext.subscription), 0::bigint, 'no caller: no subscription is seen');
SELECT is((SELECT count(*) FROM grownext.product_entitlement), 0::bigint, 'no caller: no entitlement is seen');
RESET SESSION AUTHORIZATION;

-- a service names whom it likes
SET LOCAL SESSION AUTHORIZATION ge_service;
SELECT is((SELECT grownext.entitled('tap.export', beta) FROM world), true, 'a service may ask for every tenant');
SELECT is((SELECT (grownext.usage_consume('tap.calls', 4, NULL, beta)).used FROM world), 4::bigint, 'and consume for it');
SELECT is((SELECT (grownext.entitlement('tap.export', gone)).reason FROM world), 'unknown_tenant', 'an unknown tenant has a reason, not an error');
SELECT grownext.act_as(ann::text, acme) FROM world;
RESET SESSION AUTHORIZATION;

-- the same transaction, now as an end user of tenant acme: every function, every argument
SET LOCAL SESSION AUTHORIZATION ge_user;
SELECT is(grownext.entitled('tap.export'), true, 'own tenant by context');
SELECT is((SELECT grownext.entitled('tap.export', acme) FROM world), true, 'own tenant by name');
SELECT is((SELECT grownext.entitled('tap.export', beta) FROM world), false, 'another tenant is "no", without an error');
SELECT is((SELECT grownext.entitled('tap.export', gone) FROM world), false, 'so is an unknown one: they cannot be told apart');
SELECT throws_ok(format('SELECT %s FROM world', call), '42501', NULL, 'refused: ' || call)
  FROM unnest(ARRAY[
    'grownext.entitlement(''tap.export'', beta)',
    'grownext.entitlement(''tap.export'', gone)',
    'grownext.entitlement(''tap.export'', acme, NULL, bob)',
    'grownext.entitlement(''tap.export'', beta, NULL, ann)',
    'grownext.entitlements(beta)',
    'grownext.entitlements(beta, now())',
    'grownext.entitlement_require(''tap.export'', beta)',
    'grownext.usage_consume(''tap.calls'', 1, NULL, beta)',
    'grownext.usage_consume(''tap.calls'', 1, ''key'', beta)',
    'grownext.usage_consume(''tap.calls'', 1, NULL, gone)',
    'grownext.usage_require(''tap.calls'', 1, NULL, beta)',
    'grownext.usage_return(''tap.calls'', 1, NULL, acme)',
    'grownext.entitlement_grant(acme, ''tap.export'', ''true'')',
    'grownext.entitlement_block(beta, ''tap.export'', ''x'')',
    'grownext.subscription_start(acme, ''tap-pro'')',
    'grownext.bundle_define(''tap-pro'', ''{}'')']) AS call;
SELECT is((grownext.usage_consume('tap.calls', 3)).used, 3::bigint, 'an end user consumes from the own quota');
SELECT is((SELECT grownext.usage_consume('tap.calls', 3, NULL, acme) FROM world)::text LIKE '(t,6,10,4,%', true, 'also by name');
SELECT results_eq('SELECT DISTINCT tenant_id FROM grownext.subscription', 'SELECT acme FROM world', 'subscription: the own tenant');
SELECT results_eq('SELECT DISTINCT tenant_id FROM grownext.usage_period', 'SELECT acme FROM world', 'usage_period: the own tenant');
SELECT results_eq('SELECT DISTINCT tenant_id FROM grownext.product_entitlement', 'SELECT acme FROM world', 'product_entitlement: the own tenant');
SELECT is_empty('SELECT * FROM grownext.entitlement_override', 'entitlement_override: the own tenant has none');
SELECT throws_ok('SELECT * FROM _grownext.entitlement_usage', '42501', NULL, 'the tables are out of reach');
SELECT throws_ok('UPDATE grownext.product SET name = name', '42501', NULL, 'so are the views, for writing');
RESET SESSION AUTHORIZATION;

-- the tenant of one key is not the tenant of another: keys of tenants do not meet
SET LOCAL SESSION AUTHORIZATION ge_service;
SELECT is((SELECT (grownext.usage_consume('tap.calls', 1, 'same', acme)).used FROM world), 7::bigint, 'a key of one tenant');
SELECT is((SELECT (grownext.usage_consume('tap.calls', 2, 'same', beta)).used FROM world), 6::bigint, 'is another tenant''s own');
SELECT is((SELECT (grownext.usage_consume('tap.calls', 1, 'same', acme)).used FROM world), 7::bigint, 'and still the first one''s');
RESET SESSION AUTHORIZATION;

-- every administrative change is on record, consumption is not --------------------------

SELECT is((SELECT count(*) FROM grownext.audit_event AS e JOIN world AS w ON e.tenant_id = w.acme WHERE e.action = 'subscription.started'), 1::bigint, 'a subscription is audited');
SELECT is((SELECT count(*) FROM grownext.audit_event WHERE action LIKE 'usage%'), 0::bigint, 'consumption is not');
SELECT is(
    (SELECT array_agg(DISTINCT action ORDER BY action) FROM grownext.audit_event WHERE target IN ('product:tap', 'feature:tap.export', 'bundle:tap-pro')),
    '{bundle.defined,feature.defined,product.defined}', 'so is the catalogue');

-- events are routed in the same transaction ------------------------------------------------

SELECT lives_ok($$ SELECT grownext.queue_define('tap-events');
                   SELECT grownext.event_route('entitlement.*', 'tap-events');
                   SELECT grownext.event_route('subscription.*', 'tap-events') $$, 'a route');
SELECT lives_ok($$ SELECT grownext.entitlement_block(acme, 'tap.export', 'abuse') FROM world $$, 'a block');
SELECT lives_ok($$ SELECT grownext.subscription_end(s.id, 'now') FROM grownext.subscription AS s JOIN world AS w ON s.tenant_id = w.acme $$, 'an end');
SELECT lives_ok($$ SELECT grownext.usage_consume('tap.calls', tenant_id => beta) FROM world $$, 'a consume');
SELECT results_eq($$ SELECT j.payload ->> 'type', (j.payload ->> 'tenant_id')::uuid FROM _grownext.queue_job AS j WHERE j.queue = 'tap-events' ORDER BY j.id $$,
                  $$ SELECT t, acme FROM world, unnest('{entitlement.blocked,subscription.ended}'::text[]) AS t $$, 'two events, none for the consume');

-- a scan in parallel workers gives the same answers -----------------------------------------

CREATE TABLE ge_scan AS SELECT g AS id, CASE WHEN g % 2 = 0 THEN w.acme ELSE w.beta END AS tenant_id FROM generate_series(1, 4000) AS g, world AS w;
ANALYZE ge_scan;
SET LOCAL parallel_setup_cost = 0;
SET LOCAL parallel_tuple_cost = 0;
SET LOCAL min_parallel_table_scan_size = 0;
SET LOCAL max_parallel_workers_per_gather = 2;
SELECT is((SELECT count(*) FROM ge_scan WHERE grownext.entitled('tap.calls', tenant_id)), 2000::bigint, 'entitled() in a parallel scan');

-- many features -----------------------------------------------------------------------------

SELECT lives_ok($$ SELECT grownext.feature_define('tap.many.f' || g, 'tap', 'boolean') FROM generate_series(1, 300) AS g $$, '300 features');
SELECT lives_ok($$ SELECT grownext.bundle_define('tap-many', jsonb_object_agg('tap.many.f' || g, true)) FROM generate_series(1, 300) AS g $$, 'in one bundle');
SELECT lives_ok($$ SELECT grownext.subscription_start(beta, 'tap-many') FROM world $$, 'subscribed');
SELECT is((SELECT count(*) FROM world, grownext.entitlements(beta) AS e WHERE e.feature LIKE 'tap.many.%' AND e.allowed), 300::bigint, 'entitlements() names them all');
SELECT is((SELECT array_agg(id ORDER BY id) FROM _grownext.entitlement_feature), (SELECT array_agg(g) FROM generate_series(0, 301) AS g), 'their ids are dense');

SELECT * FROM finish();
ROLLBACK;
