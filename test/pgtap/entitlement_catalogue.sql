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

SELECT * FROM finish();
ROLLBACK;
