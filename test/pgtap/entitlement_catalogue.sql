-- The catalogue beyond its definitions in sql/entitlement.sql: the default bundle, what a
-- definition leaves in the audit log, and what is refused without a trace.
BEGIN;
SELECT * FROM no_plan();

SET LOCAL grownext.test_clock = '2030-01-01 00:00:00+00';
SELECT grownext.product_define('gt-app', 'App');
SELECT grownext.feature_define('gt.export', 'gt-app', 'boolean');
SELECT grownext.feature_define('gt.spaces', 'gt-app', 'limit', '{"default": 1}');
SELECT grownext.feature_define('gt.up', 'gt-app', 'limit', '{"inherit": "parent"}');
SELECT grownext.feature_define('gt.theme', 'gt-app', 'config');
SELECT grownext.feature_define('gt.calls', 'gt-app', 'metered');
SELECT grownext.feature_define('gt.pool', 'gt-app', 'metered', '{"inherit": "pool"}');
SELECT grownext.bundle_define('gt-pro', '{"gt.export": true, "gt.spaces": 20, "gt.up": 9}');
SELECT grownext.bundle_define('gt-none', '{}');
SELECT grownext.bundle_define('gt-extra', '{"gt.spaces": 5}');
\set one '''00000000-0000-4000-8000-00000000e001'''
\set two '''00000000-0000-4000-8000-00000000e002'''
SELECT grownext.tenant_create('gt-one', 'One', id => :one);
SELECT grownext.tenant_create('gt-two', 'Two', id => :two, parent_id => :one);

-- what a tenant has, in short
CREATE FUNCTION gt_has(tenant uuid, at timestamptz DEFAULT NULL) RETURNS text[] LANGUAGE sql AS $$
    SELECT array_agg(format('%s %s %s', substr(e.feature, 4), e.value, e.source) ORDER BY e.feature)
      FROM grownext.entitlements(tenant, at) AS e WHERE e.feature LIKE 'gt.%' AND (e.allowed OR e.used > 0) $$;
-- how many audit events there are of a bundle, and what the last one says
CREATE FUNCTION gt_events(bundle text) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM grownext.audit_event WHERE action = 'bundle.defined' AND target = 'bundle:' || bundle $$;
CREATE FUNCTION gt_event(bundle text) RETURNS jsonb LANGUAGE sql AS $$
    SELECT change FROM grownext.audit_event WHERE action = 'bundle.defined' AND target = 'bundle:' || bundle ORDER BY id DESC LIMIT 1 $$;

-- The default bundle -------------------------------------------------------------------

SELECT is(gt_has(:one), '{"spaces 1 default"}', 'before there is one: the feature''s default');
SET LOCAL grownext.test_clock = '2030-01-02 00:00:00+00';
SELECT is(grownext.bundle_define('gt-free', '{"gt.export": true, "gt.spaces": 3, "gt.theme": {"value": "grey"}, "gt.calls": {"quota": 10, "period": "billing"}}', '{"default": true}'),
          1, 'one is defined');
SELECT is(gt_has(:one), '{"calls 10 free_bundle","export true free_bundle","spaces 3 free_bundle","theme \"grey\" free_bundle"}',
          'and a tenant without a subscription has it at once');
SELECT is((SELECT array_agg(bundle || ' ' || version) FROM grownext.bundle WHERE "default"), '{gt-free 1}', 'the view shows it');
SELECT is(gt_has(:one, '2030-01-01 23:59:59.999999+00'), '{"spaces 1 default"}', 'it had not before');
SELECT is((SELECT array_agg(e.feature || ' ' || e.source ORDER BY e.feature) FROM grownext.product_entitlement AS e WHERE e.tenant_id = :one AND e.product = 'gt-app'),
          '{"gt.calls free_bundle","gt.export free_bundle","gt.spaces free_bundle","gt.theme free_bundle"}', 'product_entitlement shows it');
SELECT is((SELECT array_agg(format('%s %s %s', s ->> 'rule', s ->> 'decided', s #>> '{candidates,0,bundle}') ORDER BY n)
             FROM jsonb_array_elements(grownext.entitlement_explain('gt.spaces', :one) -> 'steps') WITH ORDINALITY AS x (s, n)),
          '{"feature false ","tenant false ","block false ","user_grant false ","tenant_grant false ","subscription false ","free_bundle true gt-free"}', 'explain shows it');
SELECT is(grownext.entitlement_explain('gt.spaces', :one) #> '{steps,6,candidates,0}',
          '{"source": "free_bundle", "bundle": "gt-free", "version": 1, "says": {"quota": 3}, "valid_from": "2030-01-02T00:00:00+00:00", "valid_until": null}', 'whose, which version and since when');
SELECT is((grownext.usage_consume('gt.calls', 10, tenant_id => :one)).remaining, 0::bigint, 'its quota can be consumed');
SELECT is((grownext.usage_consume('gt.calls', 1, tenant_id => :one)).reason, 'quota_exceeded', 'and no more');
SELECT is((grownext.entitlement('gt.calls', :one)).resets_at, '2030-02-01 00:00:00+00', 'its billing month is the calendar''s: nobody is billed');

-- a subscription takes its place, whatever it holds; an add-on does not
SELECT grownext.subscription_start(:one, 'gt-extra', 1, '{"addon": true}') AS extra \gset
SELECT is(gt_has(:one), '{"calls 10 free_bundle","export true free_bundle","spaces 5 subscription","theme \"grey\" free_bundle"}',
          'with an add-on: what it names it decides, the rest is free');
SELECT grownext.entitlement_grant(:one, 'gt.calls', '{"add": 50}') AS added \gset
SELECT is((SELECT quota || ' ' || source || ' ' || resets_at::date FROM grownext.entitlement('gt.calls', :one)), '60 tenant_grant 2030-02-01', 'what is added is added to what is free, in its period');
SELECT is((SELECT string_agg((c ->> 'source') || ' ' || (c #>> '{says,quota}'), ', ' ORDER BY c ->> 'source') FROM jsonb_array_elements(grownext.entitlement_explain('gt.calls', :one) -> 'steps') AS s,
                  jsonb_array_elements(s -> 'candidates') AS c WHERE s ->> 'rule' = 'subscription' AND (s ->> 'decided')::boolean), 'free_bundle 10, tenant_grant 50', 'explain names both');
SELECT is((grownext.usage_consume('gt.calls', 50, tenant_id => :one)).remaining, 0::bigint, 'and can be consumed');
SELECT grownext.entitlement_revoke(:'added');
SELECT grownext.subscription_end(:'extra', 'now');
SELECT grownext.subscription_start(:one, 'gt-none', 1, '{"trial_until": "2030-01-10 00:00:00+00"}') AS trial \gset
SELECT is(gt_has(:one), '{"spaces 1 default"}', 'with a subscription, to a bundle that is empty even: nothing is free');
SELECT is((SELECT s -> 'candidates' FROM jsonb_array_elements(grownext.entitlement_explain('gt.spaces', :one) -> 'steps') AS s WHERE s ->> 'rule' = 'free_bundle'),
          NULL, 'explain names no candidate then');
SET LOCAL grownext.test_clock = '2030-01-09 23:59:59.999999+00';
SELECT is(gt_has(:one), '{"spaces 1 default"}', 'to the last microsecond of the trial');
SELECT is(gt_has(:one, '2030-01-10 00:00:00+00'), '{"calls 10 free_bundle","export true free_bundle","spaces 3 free_bundle","theme \"grey\" free_bundle"}', 'asked about the next one');
SET LOCAL grownext.test_clock = '2030-01-10 00:00:00+00';
SELECT is(gt_has(:one), '{"calls 10 free_bundle","export true free_bundle","spaces 3 free_bundle","theme \"grey\" free_bundle"}', 'and then it is free again');
SELECT is(_grownext.entitlement_subscription_apply(:one, 'gt-paused', 'gt-pro', 'paused') IS NOT NULL, true, 'a subscription that does not entitle');
SELECT is(gt_has(:one), '{"calls 10 free_bundle","export true free_bundle","spaces 3 free_bundle","theme \"grey\" free_bundle"}', 'takes nobody''s place');
SELECT is(_grownext.entitlement_subscription_apply(:one, 'gt-paused', 'gt-pro', 'active') IS NOT NULL, true, 'until it does');
SELECT is(gt_has(:one), '{"export true subscription","spaces 20 subscription","up 9 subscription"}', 'feature by feature');

-- it comes after the parent and after what is granted
SELECT grownext.bundle_define('gt-free', '{"gt.up": 2, "gt.pool": 7, "gt.spaces": false}');
SELECT is(gt_has(:two), '{"spaces 1 default","up 9 parent"}', 'the parent first; a pool is the parent''s; false decides nothing');
SELECT is((SELECT count(*) FROM grownext.bundle WHERE bundle = 'gt-free' AND version = 2 AND "default"), 1::bigint, 'a new version of the default bundle is the free one');
SELECT is(gt_has(:two, '2030-01-09 00:00:00+00'), '{"calls 10 free_bundle","export true free_bundle","spaces 3 free_bundle","theme \"grey\" free_bundle"}', 'and the former one was');
SELECT grownext.entitlement_grant(:two, 'gt.spaces', '4');
SELECT is((grownext.entitlement('gt.spaces', :two)).source, 'tenant_grant', 'a grant is before it');
SELECT grownext.tenant_suspend(:two, 'test');
SELECT is(gt_has(:two), NULL, 'a tenant that is suspended has nothing');
SELECT grownext.tenant_resume(:two);
SELECT grownext.subscription_end(id, 'now') FROM grownext.subscription WHERE tenant_id = :one AND status = 'active';
SELECT is(gt_has(:one), '{"pool 7 free_bundle","spaces 1 default","up 2 free_bundle"}', 'the topmost tenant has the pool free');
SELECT is(gt_has(:two), '{"pool 7 parent","spaces 4 tenant_grant","up 2 parent"}', 'and those below share it');

-- one at a time, moved and given up; each with one event for each bundle that it concerns
SET LOCAL grownext.test_clock = '2030-01-11 00:00:00+00';
SELECT is(gt_events('gt-free'), 2::bigint, 'so far the bundle was defined twice');
SELECT is(grownext.bundle_define('gt-free', '{"gt.up": 2, "gt.pool": 7, "gt.spaces": false}', '{"default": true}'), 2, 'once more, unchanged');
SELECT is(gt_events('gt-free'), 2::bigint, 'writes nothing');
SELECT is(grownext.bundle_define('gt-lite', '{"gt.export": true}', '{"default": true}'), 1, 'another default');
SELECT is((SELECT array_agg(bundle || ' ' || version) FROM grownext.bundle WHERE "default"), '{gt-lite 1}', 'replaces the one');
SELECT is(gt_has(:one), '{"export true free_bundle","spaces 1 default"}', 'for everybody');
SELECT is(gt_event('gt-free') -> 'before' ->> 'default' || '>' || (gt_event('gt-free') -> 'after' ->> 'default'), 'true>false', 'an event for the old one');
SELECT is(gt_event('gt-lite') -> 'after' ->> 'default', 'true', 'and for the new one');
SELECT is(grownext.bundle_define('gt-lite', '{"gt.export": true}', '{"default": false}'), 1, 'given up');
SELECT is(gt_has(:one), '{"spaces 1 default"}', 'nothing is free any more');
SELECT is((SELECT count(*) FROM grownext.bundle WHERE "default"), 0::bigint, 'and the view says so');
SELECT is(gt_has(:one, '2030-01-10 12:00:00+00'), '{"pool 7 free_bundle","spaces 1 default","up 2 free_bundle"}', 'what was free is told of the past');
SELECT is(grownext.bundle_define('gt-lite', '{"gt.export": true}', '{"default": false}') || ' ' || gt_events('gt-lite'), '1 2', 'giving up twice writes nothing');
SAVEPOINT s;
SELECT grownext.bundle_define('gt-lite', '{"gt.export": true}', '{"default": true}');
SELECT is(grownext.entitled('gt.export', :one), true, 'free within a savepoint');
ROLLBACK TO s;
SELECT is(grownext.entitled('gt.export', :one), false, 'and not, once it is rolled back');

-- What changes nothing is not on record --------------------------------------------------------

CREATE FUNCTION gt_count() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM grownext.audit_event';
CREATE FUNCTION gt_emitted() RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM _grownext.queue_job WHERE queue = 'gt-events' $$;
SELECT grownext.queue_define('gt-events');
SELECT grownext.event_route('*', 'gt-events');
SELECT grownext.entitlement_grant(:one, 'gt.calls', '5') AS grant_id \gset
SELECT grownext.entitlement_revoke(:'grant_id');
CREATE TEMP TABLE gt_calls (n int, call text, events int);
INSERT INTO gt_calls VALUES
    (1, $$grownext.product_define('gt-app', 'The App')$$, 1),
    (2, $$grownext.product_define('gt-app', 'The App')$$, 0),
    (3, $$grownext.feature_define('gt.new', 'gt-app', 'metered', '{"period": "day", "default": 3}')$$, 1),
    (4, $$grownext.feature_define('gt.new', 'gt-app', 'metered', '{"default": 3, "period": "day"}')$$, 0),
    (5, $$grownext.feature_define('gt.new', 'gt-app', 'metered', '{"default": 4}')$$, 1),
    (6, $$grownext.bundle_define('gt-new', '{"gt.new": 1}', '{"name": "New"}')$$, 1),
    (7, $$grownext.bundle_define('gt-new', '{"gt.new": 1}')$$, 0),
    (8, $$grownext.bundle_define('gt-new', '{"gt.new": 1}', '{"name": "Newer"}')$$, 1),
    (9, $$grownext.bundle_define('gt-new', '{"gt.new": 1}', '{"grace": "1 day"}')$$, 1),
    (10, $$grownext.subscription_start('00000000-0000-4000-8000-00000000e001', 'gt-new', 1, '{"external_id": "gt"}')$$, 1),
    (11, $$grownext.subscription_start('00000000-0000-4000-8000-00000000e001', 'gt-new', 1, '{"external_id": "gt"}')$$, 0),
    (12, $$grownext.subscription_change((SELECT id FROM grownext.subscription WHERE external_id = 'gt'), 'gt-new', 1)$$, 0),
    (13, $$grownext.bundle_migrate('gt-new', 2)$$, 0),
    (14, $$grownext.bundle_migrate('gt-new', 1, at => 'now')$$, 1),
    (15, $$_grownext.entitlement_subscription_apply('00000000-0000-4000-8000-00000000e001', 'gt', 'gt-new', 'active', 2)$$, 1),
    (16, $$_grownext.entitlement_subscription_apply('00000000-0000-4000-8000-00000000e001', 'gt', 'gt-new', 'active', 2)$$, 0),
    (17, $$_grownext.entitlement_subscription_apply('00000000-0000-4000-8000-00000000e001', 'gt', 'gt-new', 'canceled')$$, 1),
    (18, $$_grownext.entitlement_subscription_apply('00000000-0000-4000-8000-00000000e001', 'gt', 'gt-new', 'active')$$, 0),
    (19, format('grownext.entitlement_revoke(%L)', :'grant_id'), 0),
    (20, $$grownext.entitlement_block('00000000-0000-4000-8000-00000000e001', 'gt.new', 'test')$$, 1);
CREATE FUNCTION gt_calls() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE c record; audited bigint; emitted bigint;
BEGIN
    FOR c IN SELECT * FROM gt_calls ORDER BY n LOOP
        audited := gt_count(); emitted := gt_emitted();
        EXECUTE 'SELECT ' || c.call;
        RETURN NEXT is((gt_count() - audited) || ' ' || (gt_emitted() - emitted), c.events || ' ' || c.events, c.events || ' of ' || c.call);
    END LOOP;
END $$;
SELECT * FROM gt_calls();
SELECT is(gt_event('gt-new') #>> '{before,grace}' || ' ' || (gt_event('gt-new') #>> '{after,grace}') || ' ' || (gt_event('gt-new') #>> '{before,name}'), '00:00:00 1 day Newer', 'events tell before and after');

-- What is refused leaves nothing -----------------------------------------------------------------

CREATE FUNCTION gt_rows() RETURNS bigint LANGUAGE sql AS $$
    SELECT (SELECT count(*) FROM _grownext.entitlement_product) + (SELECT count(*) FROM _grownext.entitlement_feature) + (SELECT count(*) FROM _grownext.entitlement_bundle)
         + (SELECT count(*) FROM _grownext.entitlement_bundle_version) + (SELECT count(*) FROM _grownext.entitlement_bundle_feature) + (SELECT count(*) FROM _grownext.entitlement_free_bundle)
         + (SELECT count(*) FROM _grownext.entitlement_subscription) + (SELECT count(*) FROM _grownext.entitlement_phase) + (SELECT count(*) FROM _grownext.entitlement_override)
         + gt_count() + gt_emitted() $$;
SELECT gt_rows() AS rows \gset
SELECT throws_ok('SELECT ' || call, code, NULL, 'refused: ' || left(call, 120))
  FROM (VALUES
    ($$grownext.product_define(NULL, 'x')$$, '22023'),
    ($$grownext.product_define('gt-x', NULL)$$, '22023'),
    ($$grownext.feature_define(NULL, 'gt-app', 'limit')$$, '22023'),
    ($$grownext.feature_define('gt.x', NULL, 'limit')$$, '42704'),
    ($$grownext.feature_define('gt.x', 'gt-app', NULL)$$, '22023'),
    ($$grownext.feature_define('gt.x', 'gt-app', 'limit', NULL)$$, '22023'),
    ($$grownext.feature_define('gt.x', 'gt-app', 'limit', '{"default": null}')$$, '22023'),
    ($$grownext.feature_define('gt.x', 'gt-app', 'limit', '{"description": 5}')$$, '22023'),
    ($$grownext.feature_define('gt.x', 'gt-app', 'limit', '{"inherit": "pool"}')$$, '22023'),
    ($$grownext.bundle_define(NULL, '{}')$$, '22023'),
    ($$grownext.bundle_define('gt-x', NULL)$$, '22023'),
    ($$grownext.bundle_define('gt-x', '{}', NULL)$$, '22023'),
    ($$grownext.bundle_define('gt-x', '{"gt.export": true, "gt.nothing": true, "gt.spaces": 1}')$$, '42704'),
    ($$grownext.bundle_define('gt-x', '{"gt.export": true, "": true}')$$, '42704'),
    ($$grownext.bundle_define('gt-x', '{"gt.export": true, "gt.spaces": true}')$$, '22023'),
    ($$grownext.bundle_define('gt-x', '{"gt.export": null}')$$, '22023'),
    ($$grownext.bundle_define('gt-x', '{"gt.spaces": 1e1000}')$$, '22003'),
    ($$grownext.bundle_define('gt-x', '{"gt.nothing": true}', '{"default": true}')$$, '42704'),
    ($$grownext.bundle_define('gt-x', '{}', '{"default": "yes"}')$$, '22023'),
    ($$grownext.bundle_define('gt-x', '{}', '{"default": null}')$$, '22023'),
    ($$grownext.bundle_define('gt-x', '{}', '{"name": ""}')$$, '22023'),
    ($$grownext.bundle_define('gt-x', '{}', '{"grace": 3}')$$, '22023'),
    ($$grownext.bundle_define('gt-x', '{}', '{"grace": "soon"}')$$, '22023'),
    ($$grownext.bundle_define('gt-x', '{}', '{"grace": "1000000000 years"}')$$, '22023'),
    ($$grownext.bundle_define('gt-x', '{}', '{"grace": "101 years"}')$$, '22023'),
    ($$grownext.bundle_define('gt-x', jsonb_build_object('gt.theme', jsonb_build_object('value', repeat('x', 500000))))$$, '54000'),
    ($$grownext.subscription_start(NULL, 'gt-pro')$$, '42704'),
    ($$grownext.subscription_start('00000000-0000-4000-8000-00000000e0ff', 'gt-pro')$$, '42704'),
    ($$grownext.subscription_start('00000000-0000-4000-8000-00000000e001', NULL)$$, '42704'),
    ($$grownext.subscription_start('00000000-0000-4000-8000-00000000e001', 'gt-pro', NULL)$$, '22023'),
    ($$grownext.subscription_start('00000000-0000-4000-8000-00000000e001', 'gt-pro', 1, NULL)$$, '22023'),
    ($$grownext.subscription_start('00000000-0000-4000-8000-00000000e001', 'gt-pro', 1, '{"trial_until": 5}')$$, '22023'),
    ($$grownext.subscription_start('00000000-0000-4000-8000-00000000e001', 'gt-pro', 1, '{"trial_until": "soon"}')$$, '22023'),
    ($$grownext.subscription_start('00000000-0000-4000-8000-00000000e001', 'gt-pro', 1, '{"trial_until": "2030-13-01"}')$$, '22023'),
    ($$grownext.subscription_start('00000000-0000-4000-8000-00000000e001', 'gt-pro', 1, '{"trial_until": "2030-01-01 00:00 Nowhere/None"}')$$, '22023'),
    ($$grownext.subscription_start('00000000-0000-4000-8000-00000000e001', 'gt-pro', 1, '{"paid_through": "infinity"}')$$, '22023'),
    ($$grownext.subscription_start('00000000-0000-4000-8000-00000000e001', 'gt-pro', 1, '{"paid_through": "-infinity"}')$$, '22023'),
    ($$grownext.subscription_start('00000000-0000-4000-8000-00000000e001', 'gt-pro', 1, '{"anchor": "10000-01-01 00:00+00"}')$$, '22023'),
    ($$grownext.subscription_start('00000000-0000-4000-8000-00000000e001', 'gt-pro', 1, '{"external_id": ""}')$$, '22023'),
    ($$grownext.subscription_start('00000000-0000-4000-8000-00000000e001', 'gt-pro', 1, jsonb_build_object('external_id', repeat('x', 256)))$$, '22023'),
    ($$grownext.subscription_start('00000000-0000-4000-8000-00000000e001', 'gt-pro', 1, '{"addon": "yes"}')$$, '22023'),
    ($$grownext.subscription_change(NULL)$$, '42704'),
    ($$grownext.subscription_change((SELECT id FROM grownext.subscription WHERE external_id = 'gt-paused'), 'gt-nothing')$$, '42704'),
    ($$grownext.subscription_change((SELECT id FROM grownext.subscription WHERE external_id = 'gt-paused'), options => '{"anchor": "2030-01-01"}')$$, '22023'),
    ($$grownext.subscription_end(NULL)$$, '42704'),
    ($$grownext.entitlement_grant(NULL, 'gt.export', 'true')$$, '42704'),
    ($$grownext.entitlement_grant('00000000-0000-4000-8000-00000000e001', NULL, 'true')$$, '42704'),
    ($$grownext.entitlement_grant('00000000-0000-4000-8000-00000000e001', 'gt.export', 'true', 'infinity')$$, '22023'),
    ($$grownext.entitlement_block(NULL, 'gt.export', 'x')$$, '42704'),
    ($$grownext.entitlement_block('00000000-0000-4000-8000-00000000e001', 'gt.export', NULL)$$, '22023'),
    ($$grownext.entitlement_revoke(NULL)$$, '42704')) AS r (call, code);
SELECT is(gt_rows(), :rows::bigint, 'none of them left a row');

-- The largest numbers, and many features ------------------------------------------------------------

SELECT grownext.tenant_create('gt-big', 'Big', id => '00000000-0000-4000-8000-00000000e0b1');
\set big '''00000000-0000-4000-8000-00000000e0b1'''
SELECT grownext.bundle_define('gt-big', '{"gt.spaces": 9223372036854775807, "gt.calls": 9223372036854775807}');
SELECT grownext.subscription_start(:big, 'gt-big', 2147483647);
SELECT grownext.entitlement_grant(:big, 'gt.calls', '{"add": 9223372036854775807}');
SELECT is((SELECT array_agg(quota) FROM grownext.entitlements(:big) WHERE feature IN ('gt.spaces', 'gt.calls')), '{9223372036854775807,9223372036854775807}', 'what does not fit is the largest number');
SELECT lives_ok($$ SELECT grownext.feature_define('gt.many.f' || g, 'gt-app', CASE g % 4 WHEN 0 THEN 'metered' WHEN 1 THEN 'limit' WHEN 2 THEN 'config' ELSE 'boolean' END)
                     FROM generate_series(1, 10000) AS g $$, '10,000 features');
SELECT lives_ok($$ SELECT grownext.bundle_define('gt-many', (SELECT jsonb_object_agg(feature, CASE kind WHEN 'boolean' THEN 'true' WHEN 'config' THEN '{"value": 1}' ELSE '100' END::jsonb)
                                                               FROM grownext.feature WHERE feature LIKE 'gt.many.%')) $$, 'in one bundle');
SELECT grownext.subscription_start(:big, 'gt-many', 2);
SELECT is((SELECT count(*) FROM grownext.entitlements(:big) WHERE feature LIKE 'gt.many.%' AND allowed), 10000::bigint, 'entitlements() names them all');
SET LOCAL grownext.entitlement_cache_size = '64kB';
SELECT is((SELECT count(*) FROM generate_series(1, 100) AS g WHERE grownext.entitled('gt.many.f' || g, CASE g % 2 WHEN 0 THEN :big ELSE :one END::uuid)), 50::bigint,
          'a memory that is too small for one tenant answers all the same');

SELECT * FROM finish();
ROLLBACK;
