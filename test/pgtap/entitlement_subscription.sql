-- Subscriptions through time: trials, grace, changes now and at the period's end, and what
-- is on record of them. Subscribers that are moved to another version, and previews.
BEGIN;
SELECT * FROM no_plan();

CREATE ROLE gs_service LOGIN IN ROLE grownext_service;
CREATE ROLE gs_user LOGIN IN ROLE grownext_user;
SET LOCAL grownext.test_clock = '2030-01-15 00:00:00+00';
SELECT grownext.product_define('gs-app', 'App');
SELECT grownext.feature_define('gs.export', 'gs-app', 'boolean');
SELECT grownext.feature_define('gs.spaces', 'gs-app', 'limit');
SELECT grownext.feature_define('gs.theme', 'gs-app', 'config');
SELECT grownext.feature_define('gs.calls', 'gs-app', 'metered');
SELECT grownext.bundle_define('gs-pro', '{"gs.export": true, "gs.spaces": 20, "gs.theme": {"value": "dark"}, "gs.calls": 1000}', '{"grace": "3 days"}');
SELECT grownext.bundle_define('gs-lite', '{"gs.spaces": 5, "gs.theme": {"value": "plain"}, "gs.calls": 100}');
SELECT grownext.bundle_define('gs-addon', '{"gs.calls": 50, "gs.theme": {"value": "gold"}}');
\set one '''00000000-0000-4000-8000-00000000f001'''
\set two '''00000000-0000-4000-8000-00000000f002'''
\set nobody '''00000000-0000-4000-8000-00000000f0ff'''
SELECT grownext.tenant_create('gs-one', 'One', id => :one);
SELECT grownext.tenant_create('gs-two', 'Two', id => :two);

-- what a subscription is now, and what is scheduled
CREATE FUNCTION gs_is(sub uuid) RETURNS text LANGUAGE sql AS $$
    SELECT format('%s %s x%s %s', s.bundle, s.version, s.quantity, s.status)
        || CASE WHEN s.next_at IS NULL THEN ''
                ELSE format(', %s %s x%s at %s', s.next_bundle, s.next_version, s.next_quantity, to_char(s.next_at, 'MM-DD HH24:MI')) END
      FROM grownext.subscription AS s WHERE s.id = sub $$;
-- its audit events, in short: action, and what changed
CREATE FUNCTION gs_events(sub uuid) RETURNS text[] LANGUAGE sql AS $$
    SELECT array_agg(substr(e.action, 14) || coalesce(' ' || (
               SELECT string_agg(k, ',' ORDER BY k) FROM jsonb_object_keys(coalesce(e.change -> 'before', '{}') || coalesce(e.change -> 'after', '{}')) AS k
                WHERE e.change -> 'before' -> k IS DISTINCT FROM e.change -> 'after' -> k AND e.change -> 'before' <> 'null'), '') ORDER BY e.id)
      FROM grownext.audit_event AS e WHERE e.target = 'subscription:' || sub $$;
CREATE FUNCTION gs_spaces(tenant uuid, at timestamptz DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
    SELECT format('%s %s', e.quota, e.reason) FROM grownext.entitlement('gs.spaces', tenant, at) AS e $$;

-- Trials ---------------------------------------------------------------------------------

SELECT grownext.subscription_start(:one, 'gs-pro', 1, '{"trial_until": "2030-01-29 00:00:00+00"}') AS trial \gset
SELECT is(gs_is(:'trial'), 'gs-pro 1 x1 trialing', 'a trial');
SELECT is(gs_spaces(:one), '20 ', 'entitles');
SELECT is(gs_spaces(:one, '2030-01-28 23:59:59.999999+00') || gs_spaces(:one, '2030-01-29 00:00:00+00'), '20  not_included', 'to its end, asked ahead');
SELECT grownext.subscription_change(:'trial', options => '{"paid_through": "2030-02-28 00:00:00+00"}');
SET LOCAL grownext.test_clock = '2030-01-28 23:59:59.999999+00';
SELECT is(gs_is(:'trial'), 'gs-pro 1 x1 trialing', 'paid for, it is a trial to its end');
SET LOCAL grownext.test_clock = '2030-01-29 00:00:00+00';
SELECT is(gs_is(:'trial'), 'gs-pro 1 x1 active', 'and active from then on');
SELECT is(gs_spaces(:one, '2030-02-28 00:00:00+00') || gs_spaces(:one, '2030-03-02 23:59:59.999999+00') || gs_spaces(:one, '2030-03-03 00:00:00+00'),
          '20 20  not_included', 'paid for, it goes on until paid_through and the grace are over');
SET LOCAL grownext.test_clock = '2030-03-02 23:59:59.999999+00';
SELECT is(grownext.entitled('gs.export', :one), true, 'to the last microsecond');
SET LOCAL grownext.test_clock = '2030-03-03 00:00:00+00';
SELECT is(grownext.entitled('gs.export', :one), false, 'and not one longer');
SELECT grownext.subscription_change(:'trial', options => '{"paid_through": "2030-04-01 00:00:00+00"}');
SELECT is(grownext.entitled('gs.export', :one), true, 'paid late, it is back');
SELECT is((grownext.entitlement('gs.export', :one, '2030-01-20')).allowed, true, 'the past stays');

-- Changes --------------------------------------------------------------------------------

SELECT grownext.subscription_change(:'trial', 'gs-lite', at => 'period_end');
SELECT is(gs_is(:'trial'), 'gs-pro 1 x1 active, gs-lite 1 x1 at 04-01 00:00', 'a downgrade waits for the end of what is paid');
SELECT grownext.subscription_change(:'trial', options => '{"paid_through": "2030-06-01 00:00:00+00"}');
SELECT is(gs_spaces(:one, '2030-03-31 23:59:59.999999+00') || gs_spaces(:one, '2030-04-01 00:00:00+00'), '20 5 ', 'it happens then, to the microsecond');
SELECT grownext.subscription_change(:'trial', quantity => 3, at => 'period_end');
SELECT is(gs_is(:'trial'), 'gs-pro 1 x1 active, gs-pro 1 x3 at 06-01 00:00', 'scheduled twice: the later one replaces the former');
SELECT grownext.subscription_change(:'trial', 'gs-pro');
SELECT is(gs_is(:'trial'), 'gs-pro 1 x1 active', 'back to what is in force: nothing is scheduled any more');
SELECT grownext.subscription_change(:'trial', quantity => 2);
SELECT is(gs_spaces(:one) || gs_spaces(:one, '2030-03-02'), '40 20 ', 'a quantity changes now');
SELECT grownext.subscription_end(:'trial');
SELECT is((SELECT ended_at FROM grownext.subscription WHERE id = :'trial'), '2030-06-01 00:00:00+00', 'it ends with what is paid');
SELECT throws_ok(format('SELECT grownext.subscription_change(%L, %L, at => %L)', :'trial', 'gs-lite', 'period_end'), '55000', NULL, 'nothing changes after its end');
SELECT grownext.subscription_change(:'trial', 'gs-lite', at => 'period_end', options => '{"resume": true}');
SELECT is(gs_is(:'trial'), 'gs-pro 1 x2 active, gs-lite 1 x2 at 06-01 00:00', 'unless it is resumed');
SELECT is(gs_events(:'trial'),
          '{started,"changed paid_through","changed paid_through","changed next_at,next_bundle,next_quantity,next_version","changed paid_through","changed next_at,next_bundle,next_quantity","changed next_at,next_bundle,next_quantity,next_version","changed quantity","end_scheduled ended_at","changed ended_at,next_at,next_bundle,next_quantity,next_version"}',
          'each change is on record once');

-- what changes nothing is not on record
SELECT lives_ok(format('SELECT grownext.subscription_change(%L)', :'trial'), 'no change at all');
SELECT lives_ok(format('SELECT grownext.subscription_change(%L, options => %L)', :'trial', '{"paid_through": "2030-06-01 00:00:00+00"}'), 'the same payment once more');
SELECT is(cardinality(gs_events(:'trial')), 10, 'leave no event');
SET LOCAL grownext.test_clock = '2030-03-04 00:00:00+00';
SELECT grownext.subscription_end(:'trial', 'now');
SELECT grownext.subscription_end(:'trial', 'now');
SELECT grownext.subscription_end(:'trial');
SELECT is(cardinality(gs_events(:'trial')), 11, 'ending twice leaves one');
SELECT is(gs_is(:'trial'), 'gs-pro 1 x2 ended', 'what was scheduled is gone with it');

-- Moving subscribers -----------------------------------------------------------------------

SET LOCAL grownext.test_clock = '2030-05-01 00:00:00+00';
SELECT grownext.subscription_start(:one, 'gs-lite', 2, '{"paid_through": "2030-06-01 00:00:00+00"}') AS a \gset
SELECT grownext.subscription_start(:two, 'gs-lite', 1, '{"trial_until": "2030-05-08 00:00:00+00"}') AS b \gset
SELECT grownext.subscription_start(:two, 'gs-pro') AS c \gset
SELECT is(grownext.bundle_define('gs-lite', '{"gs.spaces": 7, "gs.calls": 200}', '{"grace": "1 day"}'), 2, 'a new version');
SELECT is(gs_is(:'a') || ';' || gs_is(:'b'), 'gs-lite 1 x2 active;gs-lite 1 x1 trialing', 'subscribers keep theirs');
SET LOCAL grownext.test_clock = '2030-05-02 00:00:00+00';
SELECT is(grownext.bundle_migrate('gs-lite', 2, :two), 1, 'one tenant''s are moved');
SELECT is(gs_is(:'a') || ';' || gs_is(:'b'), 'gs-lite 1 x2 active;gs-lite 1 x1 trialing, gs-lite 2 x1 at 05-08 00:00', 'at the end of its period');
SELECT is(grownext.bundle_migrate('gs-lite', 2), 1, 'then all: who is scheduled already is not moved twice');
SELECT is(gs_is(:'a'), 'gs-lite 1 x2 active, gs-lite 2 x2 at 06-01 00:00', 'with the quantity that they have');
SELECT is(grownext.bundle_migrate('gs-lite', 2), 0, 'once more: nobody');
SELECT is(gs_spaces(:one, '2030-05-31 23:59:59.999999+00') || gs_spaces(:one, '2030-06-01 00:00:00+00') || gs_spaces(:one, '2030-06-02 00:00:00+00'),
          '10 14  not_included', 'to the microsecond; from then on the new version''s grace holds');
SELECT is(grownext.bundle_migrate('gs-lite', 2, at => 'now'), 2, 'now');
SELECT is(gs_is(:'a') || ';' || gs_is(:'b'), 'gs-lite 2 x2 active;gs-lite 2 x1 trialing', 'and nothing else is scheduled');
SELECT is(gs_spaces(:one), '14 ', 'it is in force');
SELECT is(gs_spaces(:one, '2030-05-01 12:00:00+00'), '10 ', 'what was before is told of the past');
SELECT is(gs_events(:'a'), '{started,"changed next_at,next_bundle,next_quantity,next_version","changed next_at,next_bundle,next_quantity,next_version,version"}', 'one event each time that it moved');
SELECT is(cardinality(gs_events(:'c')), 1, 'none for another bundle''s');
SELECT grownext.subscription_change(:'a', 'gs-pro', at => 'period_end');
SELECT is(grownext.bundle_migrate('gs-lite', 1, :one, 'now'), 1, 'back to the first version');
SELECT is(gs_is(:'a'), 'gs-lite 1 x2 active, gs-pro 1 x2 at 06-01 00:00', 'a change of bundle that is scheduled stays');
SELECT is(grownext.bundle_migrate('gs-lite', 2, :one), 0, 'who leaves at the period''s end is not moved then');
SELECT grownext.subscription_end(:'b');
SELECT is(grownext.bundle_migrate('gs-lite', 1, :two), 0, 'nor is who ends');
SET LOCAL grownext.test_clock = '2030-05-03 00:00:00+00';
SELECT is(grownext.bundle_migrate('gs-lite', 1, :two, 'now') || ' ' || gs_is(:'b'), '1 gs-lite 1 x1 trialing', 'but now');
SELECT is((SELECT ended_at FROM grownext.subscription WHERE id = :'b'), '2030-05-08 00:00:00+00', 'and ends as it was to');
SELECT is(gs_spaces(:two, '2030-05-08 00:00:00+00'), '20 ', 'to the microsecond: the other subscription is left');
SELECT is(_grownext.entitlement_subscription_apply(:one, 'gs-paused', 'gs-lite', 'paused') IS NOT NULL, true, 'a paused one is at the latest version');
SELECT is(grownext.bundle_migrate('gs-lite', 1, at => 'now'), 1, 'and is moved, too');
SELECT is((SELECT version || status FROM grownext.subscription WHERE external_id = 'gs-paused'), '1paused', 'still paused');
SELECT throws_ok(format('SELECT grownext.bundle_migrate(%s)', args), code, message, 'refused: ' || args)
  FROM (VALUES
    ($$'gs-none', 1$$, '42704', 'bundle "gs-none" does not exist'),
    ($$NULL, 1$$, '42704', 'bundle "NULL" does not exist'),
    ($$'gs-lite', 3$$, '42704', 'bundle "gs-lite" has no version 3'),
    ($$'gs-lite', 0$$, '42704', 'bundle "gs-lite" has no version 0'),
    ($$'gs-lite', NULL$$, '42704', 'bundle "gs-lite" has no version NULL'),
    ($$'gs-lite', 1, '00000000-0000-4000-8000-00000000f0ff'$$, '42704', 'tenant "00000000-0000-4000-8000-00000000f0ff" does not exist'),
    ($$'gs-lite', 1, NULL, 'tomorrow'$$, '22023', '"at" cannot be "tomorrow"'),
    ($$'gs-lite', 1, NULL, NULL$$, '22023', '"at" cannot be "NULL"')) AS r (args, code, message);

-- many at once
SELECT grownext.bundle_define('gs-many', '{"gs.spaces": 1}');
SELECT count(grownext.tenant_create('gs-many-' || g, 'Many', bundle => 'gs-many')) FROM generate_series(1, 1000) AS g;
SELECT grownext.bundle_define('gs-many', '{"gs.spaces": 2}');
SELECT is(grownext.bundle_migrate('gs-many', 2, at => 'now'), 1000, 'a thousand are moved in one call');
SELECT is((SELECT count(*) FROM grownext.subscription WHERE bundle = 'gs-many' AND version = 2), 1000::bigint, 'all of them');
SELECT is((SELECT count(*) FROM grownext.audit_event AS e JOIN grownext.subscription AS s ON e.target = 'subscription:' || s.id AND e.tenant_id = s.tenant_id
            WHERE s.bundle = 'gs-many' AND e.action = 'subscription.changed'
              AND e.change #> '{before,version}' = '1' AND e.change #> '{after,version}' = '2'), 1000::bigint, 'each with its event, before and after');

-- Previews ---------------------------------------------------------------------------------

CREATE FUNCTION gs_preview(sub uuid, bundle text, quantity int DEFAULT NULL) RETURNS text[] LANGUAGE sql AS $$
    SELECT coalesce(array_agg(format('%s: %s > %s%s', substr(p.feature, 4), p.before, p.after, CASE WHEN p.over_limit THEN ' over' END)), '{}')
      FROM grownext.subscription_preview(sub, bundle, quantity) AS p $$;
\set pre '''00000000-0000-4000-8000-00000000f003'''
SELECT grownext.tenant_create('gs-pre', 'Preview', id => :pre);
SELECT grownext.subscription_start(:pre, 'gs-pro') AS p \gset
SELECT grownext.usage_consume('gs.calls', 300, tenant_id => :pre);
SELECT is(gs_preview(:'p', 'gs-lite'), ARRAY[
          'calls: {"soft": false, "quota": 1000, "period": "month"} > {"soft": false, "quota": 200, "period": "month"} over',
          'export: true > false', 'spaces: {"quota": 20} > {"quota": 7}', 'theme: {"value": "dark"} > false'],
          'what a downgrade would change, and what is over its limit');
SELECT is((SELECT array_agg(over_limit) FROM grownext.subscription_preview(:'p', 'gs-lite', 2)), '{f,f,f,f}', 'twice as much is enough');
SELECT is(gs_preview(:'p', 'gs-pro', 3), ARRAY[
          'calls: {"soft": false, "quota": 1000, "period": "month"} > {"soft": false, "quota": 3000, "period": "month"}',
          'spaces: {"quota": 20} > {"quota": 60}'], 'only a quantity');
SELECT is(gs_preview(:'p', NULL, 3), gs_preview(:'p', 'gs-pro', 3), 'NULL keeps the bundle');
SELECT is(gs_preview(:'p', 'gs-pro') || gs_preview(:'p', NULL) || gs_preview(:'p', 'gs-pro', 1), '{}', 'no change has no effect');
SELECT grownext.subscription_start(:pre, 'gs-addon', 1, '{"addon": true}');
SELECT is((SELECT array_agg(feature) FROM grownext.subscription_preview(:'p', 'gs-lite')), '{gs.calls,gs.export,gs.spaces}', 'what an add-on decides stays: its theme');
SELECT is((SELECT after ->> 'quota' FROM grownext.subscription_preview(:'p', 'gs-lite') WHERE feature = 'gs.calls'), '250', 'and what it adds is added');
SELECT grownext.entitlement_grant(:pre, 'gs.export', 'true') AS grant_id \gset
SELECT is((SELECT count(*) FROM grownext.subscription_preview(:'p', 'gs-lite') WHERE feature = 'gs.export'), 0::bigint, 'what a grant decides stays');
SELECT grownext.bundle_define('gs-none', '{}');
SELECT is((SELECT after::text || ' ' || over_limit FROM grownext.subscription_preview(:'p', 'gs-none') WHERE feature = 'gs.calls'), '{"soft": false, "quota": 50, "period": "month"} true', 'the add-on''s is left');
SELECT grownext.subscription_end(id, 'now') FROM grownext.subscription WHERE tenant_id = :pre AND addon;
SELECT is((SELECT after::text || ' ' || over_limit FROM grownext.subscription_preview(:'p', 'gs-none') WHERE feature = 'gs.calls'), 'false true', 'nothing is left, and something is used');
SELECT grownext.tenant_suspend(:pre, 'test');
SELECT is(gs_preview(:'p', 'gs-lite'), '{}', 'a tenant that is suspended has nothing to lose');
SELECT grownext.tenant_resume(:pre);
-- the change itself does what was announced
SELECT grownext.entitlement_revoke(:'grant_id');
SELECT is(cardinality(gs_events(:'p')), 1, 'a preview is not on record');
CREATE TEMP TABLE gs_announced AS SELECT p.feature, p.after FROM grownext.subscription_preview(:'p', 'gs-lite', 4) AS p;
CREATE TEMP TABLE gs_before AS SELECT e.* FROM grownext.entitlements(:pre) AS e;
SELECT grownext.subscription_change(:'p', 'gs-lite', 4);
SELECT results_eq(
    $$ SELECT a.feature, coalesce(a.after -> 'quota', a.after -> 'value', a.after) FROM gs_announced AS a ORDER BY 1 $$,
    $$ SELECT e.feature, coalesce(e.value, 'false') FROM grownext.entitlements('00000000-0000-4000-8000-00000000f003') AS e
         JOIN gs_before AS b ON b.feature = e.feature WHERE b.value IS DISTINCT FROM e.value ORDER BY 1 $$, 'the change does what was announced');
SELECT grownext.bundle_define('gs-free', '{"gs.spaces": 1}', '{"default": true}');
SELECT is((SELECT after::text FROM grownext.subscription_preview(:'p', 'gs-none') WHERE feature = 'gs.spaces'), 'false', 'the default bundle does not stand in for a subscription');
SELECT is((SELECT after ->> 'quota' FROM grownext.subscription_preview(:'p', 'gs-pro', 2147483647) WHERE feature = 'gs.calls'), '2147483647000', 'the largest quantity');
SELECT is((SELECT provolatile::text FROM pg_proc WHERE oid = 'grownext.subscription_preview'::regproc), 's', 'it is stable');
SELECT throws_ok(format('SELECT * FROM grownext.subscription_preview(%s)', args), code, NULL, 'refused: ' || args)
  FROM (VALUES
    (format('%L, %L', :'p', 'gs-nothing'), '42704'),
    ($$'00000000-0000-4000-8000-00000000f0ff', 'gs-pro'$$, '42704'),
    ($$NULL, 'gs-pro'$$, '42704'),
    (format('%L, %L, 0', :'p', 'gs-pro'), '22023'),
    (format('%L, %L, -1', :'p', 'gs-pro'), '22023'),
    (format('%L, %L', :'trial', 'gs-pro'), '55000')) AS r (args, code);

-- Who may -----------------------------------------------------------------------------------

SELECT is(ARRAY(SELECT r FROM unnest('{gs_service,gs_user}'::text[]) AS r WHERE has_function_privilege(r, f::regproc, 'EXECUTE')), '{gs_service}', f || ' is for services')
  FROM unnest('{grownext.bundle_migrate,grownext.subscription_preview}'::text[]) AS f;
SELECT is(pg_get_function_identity_arguments(d.name::regproc) || ' -> ' || pg_get_function_result(d.name::regproc), d.signature, d.name)
  FROM (VALUES
    ('grownext.bundle_migrate', 'bundle text, to_version integer, tenant_id uuid, at text -> integer'),
    ('grownext.subscription_preview', 'id uuid, bundle text, quantity integer -> SETOF grownext.subscription_effect')) AS d (name, signature);
SET LOCAL SESSION AUTHORIZATION gs_service;
SELECT is((SELECT count(*) FROM grownext.subscription_preview(:'p', 'gs-pro', 4)), 4::bigint, 'a service previews');
SELECT is(grownext.bundle_migrate('gs-pro', 1), 0, 'and moves');
RESET SESSION AUTHORIZATION;
SET LOCAL SESSION AUTHORIZATION gs_user;
SELECT throws_ok(format('SELECT * FROM grownext.subscription_preview(%L, %L)', :'p', 'gs-pro'), '42501', NULL, 'a user does not preview');
SELECT throws_ok('SELECT grownext.bundle_migrate(''gs-pro'', 1)', '42501', NULL, 'nor move');
SELECT is((SELECT array_agg(bundle) FROM grownext.bundle WHERE "default"), '{gs-free}', 'but may see which bundle is free');
RESET SESSION AUTHORIZATION;

SELECT * FROM finish();
ROLLBACK;
