-- Catalogue, subscriptions, grants, blocks, and metering.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS grownext;
CREATE ROLE regress_ent_service IN ROLE grownext_service;
CREATE ROLE regress_ent_app IN ROLE grownext_user;
RESET client_min_messages;
SET grownext.test_clock = '2030-01-15 12:00:00+00';
\set acme '''c0000000-0000-4000-8000-000000000001'''
\set beta '''c0000000-0000-4000-8000-000000000002'''
\set gone '''c0000000-0000-4000-8000-00000000000f'''
\set ann '''d0000000-0000-4000-8000-000000000001'''
\set bob '''d0000000-0000-4000-8000-000000000002'''
SET ROLE regress_ent_service;
SELECT grownext.user_create('ann@ent.example', id => :ann) = :ann AS made, grownext.user_create('bob@ent.example', id => :bob) = :bob AS made;

-- the catalogue: products, features of each kind
SELECT grownext.product_define('re-app', 'App');
SELECT grownext.product_define('re-app', 'The App');
SELECT grownext.product_define('Re App', 'X');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.feature_define('re.export', 're-app', 'boolean');
SELECT grownext.feature_define('re.projects', 're-app', 'limit');
SELECT grownext.feature_define('re.seats', 're-app', 'limit', '{"fold": "sum"}');
SELECT grownext.feature_define('re.theme', 're-app', 'config', '{"default": {"value": "plain"}}');
SELECT grownext.feature_define('re.calls', 're-app', 'metered', '{"description": "API calls"}');
SELECT grownext.feature_define('re.mails', 're-app', 'metered', '{"period": "day", "default": 2}');
SELECT grownext.feature_define('re.calls', 're-app', 'metered', '{"description": "API calls"}');
SELECT grownext.feature_define('re.x', 're-app', 'toggle');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.feature_define('re.x', 're-none', 'boolean');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.feature_define('Re X', 're-app', 'boolean');
SELECT grownext.feature_define('re.x', 're-app', 'boolean', '{"period": "month"}');
SELECT grownext.feature_define('re.x', 're-app', 'boolean', '{"fold": "sum"}');
SELECT grownext.feature_define('re.x', 're-app', 'boolean', '{"default": 3}');
SELECT grownext.feature_define('re.x', 're-app', 'metered', '{"period": "fortnight"}');
SELECT grownext.feature_define('re.x', 're-app', 'boolean', '{"colour": 1}');
SELECT grownext.feature_define('re.export', 're-app', 'limit');
SELECT feature, kind, fold, "default", period, description FROM grownext.feature WHERE product = 're-app' ORDER BY feature;

-- bundles: content that is the same keeps its version, unknown features are refused
SELECT grownext.bundle_define('re-pro', '{"re.export": true, "re.projects": 20, "re.seats": {"quota": 5}, "re.theme": {"value": {"dark": true}}, "re.calls": {"quota": 1000, "period": "month", "soft": false}}');
SELECT grownext.bundle_define('re-pro', '{"re.calls": {"quota": 1000, "period": "month", "soft": false}, "re.export": true, "re.projects": 20, "re.seats": {"quota": 5}, "re.theme": {"value": {"dark": true}}}');
SELECT grownext.bundle_define('re-max', '{"re.export": true, "re.projects": "unlimited", "re.calls": "unlimited"}', '{"name": "Max", "grace": "3 days"}');
SELECT grownext.bundle_define('re-more', '{"re.projects": 50, "re.seats": 10, "re.calls": 500}');
SELECT grownext.bundle_define('re-bad', '{"re.export": true, "re.nothing": true}');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.bundle_define('re-bad', '{"re.export": 1}');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.bundle_define('re-bad', '{"re.projects": -1}');
SELECT grownext.bundle_define('re-bad', '{"re.projects": 1.5}');
SELECT grownext.bundle_define('re-bad', '{"re.projects": 9223372036854775808}');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.bundle_define('re-bad', '{"re.projects": {"quota": 1, "period": "month"}}');
SELECT grownext.bundle_define('re-bad', '{"re.calls": {"quota": 1, "period": "fortnight"}}');
SELECT grownext.bundle_define('re-bad', '{"re.calls": {"period": "day"}}');
SELECT grownext.bundle_define('re-bad', '{"re.theme": "dark"}');
SELECT grownext.bundle_define('re-bad', '[]');
SELECT grownext.bundle_define('re-bad', '{}', '{"grace": "-1 day"}');
SELECT count(*) FROM grownext.bundle WHERE bundle = 're-bad';

-- a new tenant starts with its bundle, in the same transaction
SELECT grownext.tenant_create('re-acme', 'Acme', owner_id => :ann, id => :acme, bundle => 're-pro', time_zone => 'Europe/Berlin') = :acme AS made;
SELECT grownext.tenant_create('re-beta', 'Beta', owner_id => :bob, id => :beta) = :beta AS made;
SELECT bundle, version, quantity, status, addon, started_at FROM grownext.subscription WHERE tenant_id = :acme;
SELECT * FROM grownext.entitlements(:acme) WHERE feature LIKE 're.%' ORDER BY feature;
SELECT * FROM grownext.entitlements(:beta) WHERE feature LIKE 're.%' ORDER BY feature;
SELECT grownext.entitled('re.export', :acme) AS acme, grownext.entitled('re.export', :beta) AS beta;

-- whatever is unknown is "no", never an error, never NULL
SELECT grownext.entitled('re.nothing', :acme), grownext.entitled(NULL, :acme), grownext.entitled('re.export', :gone), grownext.entitled('re.export');
SELECT * FROM grownext.entitlement('re.nothing', :acme);
SELECT * FROM grownext.entitlement('re.export', :gone);
SELECT * FROM grownext.usage_consume('re.nothing', 1, 'k', :acme);
SELECT * FROM grownext.usage_consume('re.calls', 1, 'k', :gone);
SELECT * FROM grownext.usage_consume(NULL, 1, NULL, :acme);
SELECT * FROM grownext.entitlement('re.export');
\echo :LAST_ERROR_SQLSTATE

-- require raises, and says why
SELECT grownext.entitlement_require('re.export', :acme);
SELECT grownext.entitlement_require('re.export', :beta);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.usage_require('re.calls', 1, NULL, :beta);
\echo :LAST_ERROR_SQLSTATE

-- the order: a block beats a grant to the user, that a grant to the tenant, that the subscription, that the default
SELECT source, value, reason FROM grownext.entitlement('re.projects', :acme, user_id => :ann);
SELECT grownext.entitlement_grant(:acme, 're.projects', '30', reason => 'deal') AS tenant_grant \gset
SELECT source, value, reason FROM grownext.entitlement('re.projects', :acme, user_id => :ann);
SELECT grownext.entitlement_grant(:acme, 're.projects', '40', user_id => :ann) AS user_grant \gset
SELECT source, value, reason FROM grownext.entitlement('re.projects', :acme, user_id => :ann);
SELECT source, value, reason FROM grownext.entitlement('re.projects', :acme, user_id => :bob);
SELECT grownext.entitlement_block(:acme, 're.projects', 'abuse') AS block \gset
SELECT source, value, allowed, reason FROM grownext.entitlement('re.projects', :acme, user_id => :ann);
SELECT grownext.entitlement_revoke(:'block');
SELECT grownext.entitlement_revoke(:'user_grant');
SELECT grownext.entitlement_revoke(:'user_grant');
SELECT source, value, reason FROM grownext.entitlement('re.projects', :acme, user_id => :ann);
SELECT grownext.entitlement_revoke(:'tenant_grant');
SELECT source, value, reason FROM grownext.entitlement('re.projects', :acme, user_id => :ann);
SELECT grownext.tenant_suspend(:acme, 'unpaid');
SELECT allowed, source, reason FROM grownext.entitlement('re.projects', :acme);
SELECT * FROM grownext.usage_consume('re.calls', 1, NULL, :acme);
SELECT grownext.tenant_resume(:acme);
SELECT source, value FROM grownext.entitlement('re.theme', :acme);
SELECT source, value FROM grownext.entitlement('re.theme', :beta);

-- a grant may take away, add, and be valid for a time
SELECT grownext.entitlement_grant(:acme, 're.export', 'false') AS taken \gset
SELECT allowed, source, reason FROM grownext.entitlement('re.export', :acme);
SELECT grownext.entitlement_revoke(:'taken');
SELECT grownext.entitlement_grant(:acme, 're.calls', '{"add": 200}', valid_from => '2030-02-01', valid_until => '2030-03-01') IS NOT NULL AS granted;
SELECT at, (grownext.entitlement('re.calls', :acme, at)).quota
  FROM unnest(ARRAY['2030-01-31 23:59:59+00', '2030-02-01 00:00:00+00', '2030-02-28 23:59:59+00', '2030-03-01 00:00:00+00']::timestamptz[]) AS at;
SELECT grownext.entitlement_grant(:beta, 're.calls', '{"add": 7}') IS NOT NULL AS granted;
SELECT allowed, quota, source FROM grownext.entitlement('re.calls', :beta);
SELECT effect, value, valid_from, valid_until, reason, created_by, revoked_at FROM grownext.entitlement_override WHERE tenant_id = :acme ORDER BY valid_from, created_at, effect, value::text;

-- grants that make no sense
SELECT grownext.entitlement_grant(:acme, 're.nothing', 'true');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.entitlement_grant(:gone, 're.export', 'true');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.entitlement_grant(:acme, 're.export', '5');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.entitlement_grant(:acme, 're.export', NULL);
SELECT grownext.entitlement_grant(:acme, 're.export', '{"add": 1}');
SELECT grownext.entitlement_grant(:acme, 're.calls', '{"add": -1}');
SELECT grownext.entitlement_grant(:acme, 're.calls', '{"add": 1, "period": "day"}');
SELECT grownext.entitlement_grant(:acme, 're.export', 'true', '2030-02-01', '2030-02-01');
SELECT grownext.entitlement_grant(:acme, 're.export', 'true', user_id => 'd0000000-0000-4000-8000-00000000000f');
SELECT grownext.entitlement_grant(:acme, 're.calls', '5', user_id => :ann);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.entitlement_block(:acme, 're.export', '');
SELECT grownext.entitlement_revoke(:gone);
\echo :LAST_ERROR_SQLSTATE

-- several subscriptions: any, the larger, the sum, the last; unlimited wins
SELECT grownext.subscription_start(:acme, 're-more', 2, '{"addon": true, "external_id": "re-more-1"}') AS more \gset
SELECT grownext.subscription_start(:acme, 're-more', 2, '{"addon": true, "external_id": "re-more-1"}') = :'more' AS same;
SELECT grownext.subscription_start(:beta, 're-more', 2, '{"external_id": "re-more-1"}');
\echo :LAST_ERROR_SQLSTATE
SELECT feature, value FROM grownext.entitlements(:acme) WHERE feature LIKE 're.%' ORDER BY feature;
SELECT grownext.subscription_start(:acme, 're-max') AS max \gset
SELECT feature, value FROM grownext.entitlements(:acme) WHERE feature IN ('re.calls', 're.projects') ORDER BY feature;
SELECT grownext.subscription_end(:'max', 'now');
SELECT grownext.subscription_end(:'more', 'now');
SELECT grownext.subscription_end(:'more', 'now');
SELECT feature, value FROM grownext.entitlements(:acme) WHERE feature IN ('re.calls', 're.projects') ORDER BY feature;

-- a number that does not fit is the largest there is
SELECT grownext.bundle_define('re-huge', '{"re.seats": 9223372036854775807}');
SELECT grownext.subscription_start(:beta, 're-huge', 1000) AS huge \gset
SELECT value FROM grownext.entitlement('re.seats', :beta);
SELECT grownext.subscription_end(:'huge', 'now');

-- subscribers keep their version until they are moved
SELECT grownext.bundle_define('re-pro', '{"re.export": true, "re.projects": 25, "re.calls": 2000}');
SELECT value FROM grownext.entitlement('re.projects', :acme);
SELECT id AS pro FROM grownext.subscription WHERE tenant_id = :acme AND bundle = 're-pro' \gset
SELECT grownext.subscription_change(:'pro', quantity => 2);
SELECT version, quantity, (grownext.entitlement('re.projects', :acme)).value FROM grownext.subscription WHERE id = :'pro';
SELECT grownext.subscription_change(:'pro', 're-pro', 1);
SELECT version, quantity, (grownext.entitlement('re.projects', :acme)).value FROM grownext.subscription WHERE id = :'pro';

-- a change at the period's end needs no job: time does it; and it can be withdrawn
SELECT grownext.subscription_change(:'pro', options => '{"paid_through": "2030-02-15 12:00:00+00"}');
SELECT grownext.subscription_change(:'pro', 're-max', at => 'period_end');
SELECT bundle, next_bundle, next_at FROM grownext.subscription WHERE id = :'pro';
SELECT at, (grownext.entitlement('re.projects', :acme, at)).value
  FROM unnest(ARRAY['2030-01-15 12:00:00+00', '2030-02-15 11:59:59+00', '2030-02-15 12:00:00+00', '2030-02-18 11:59:59+00', '2030-02-18 12:00:00+00']::timestamptz[]) AS at;
SELECT grownext.subscription_change(:'pro', 're-pro');
SELECT bundle, next_bundle, next_at FROM grownext.subscription WHERE id = :'pro';
SELECT grownext.subscription_change(:'pro', at => 'tomorrow');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.subscription_change(:'pro', quantity => 0);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.subscription_change(:'pro', 're-none');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.subscription_change(:gone);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.subscription_start(:gone, 're-pro');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.subscription_start(:acme, 're-pro', -1);
SELECT grownext.subscription_start(:acme, 're-pro', 1, '{"until": "2030-02-01"}');

-- the end at the period's end, withdrawn, and now; ended is final, and the past is known
SELECT grownext.subscription_end(:'pro');
SELECT status, ended_at FROM grownext.subscription WHERE id = :'pro';
\set VERBOSITY sqlstate
SELECT grownext.subscription_change(:'pro', 're-max', at => 'period_end');
\set VERBOSITY default
SELECT grownext.subscription_change(:'pro', options => '{"resume": true}');
SELECT status, ended_at FROM grownext.subscription WHERE id = :'pro';
SELECT grownext.subscription_end(:'pro', 'never');
\echo :LAST_ERROR_SQLSTATE
SET ROLE NONE;
SET grownext.test_clock = '2030-01-20 12:00:00+00';
SET ROLE regress_ent_service;
SELECT grownext.subscription_end(:'pro', 'now');
SELECT grownext.entitled('re.export', :acme), (grownext.entitlement('re.export', :acme, '2030-01-20 11:59:59+00')).allowed AS before;
\set VERBOSITY sqlstate
SELECT grownext.subscription_change(:'pro', quantity => 2);
\set VERBOSITY default

-- trial, payment, grace: live until the later of the trial's end and paid through plus grace
SELECT grownext.subscription_start(:acme, 're-max', options => '{"trial_until": "2030-02-03 12:00:00+00"}') AS trial \gset
SELECT status FROM grownext.subscription WHERE id = :'trial';
SELECT at, (grownext.entitlement('re.export', :acme, at)).allowed FROM unnest(ARRAY['2030-02-03 11:59:59+00', '2030-02-03 12:00:00+00']::timestamptz[]) AS at;
SELECT grownext.subscription_change(:'trial', options => '{"paid_through": "2030-03-03 12:00:00+00"}');
SELECT at, (grownext.entitlement('re.export', :acme, at)).allowed FROM unnest(ARRAY['2030-03-06 11:59:59+00', '2030-03-06 12:00:00+00']::timestamptz[]) AS at;
SELECT grownext.subscription_end(:'trial', 'now');

-- a provider's view: applied as a whole, twice is once, ended is final
RESET ROLE;
SELECT _grownext.entitlement_subscription_apply(:acme, 're-sub-1', 're-pro', 'active', 1, '2030-02-20 12:00:00+00') AS sub \gset
SELECT _grownext.entitlement_subscription_apply(:acme, 're-sub-1', 're-pro', 'active', 1, '2030-02-20 12:00:00+00') = :'sub' AS same;
SELECT grownext.entitled('re.export', :acme);
SET grownext.test_clock = '2030-01-21 12:00:00+00';
SELECT _grownext.entitlement_subscription_apply(:acme, 're-sub-1', 're-pro', 'unpaid', 1, '2030-02-20 12:00:00+00') = :'sub' AS same;
SELECT grownext.entitled('re.export', :acme), (grownext.entitlement('re.export', :acme, '2030-01-21 11:00:00+00')).allowed AS before;
SET grownext.test_clock = '2030-01-22 12:00:00+00';
SELECT _grownext.entitlement_subscription_apply(:acme, 're-sub-1', 're-max', 'active', 2, '2030-02-20 12:00:00+00') = :'sub' AS same;
SELECT status, bundle, quantity, paid_through FROM grownext.subscription WHERE id = :'sub';
SELECT grownext.entitled('re.export', :acme), (grownext.entitlement('re.export', :acme, '2030-01-21 13:00:00+00')).allowed AS when_unpaid;
SELECT _grownext.entitlement_subscription_apply(:beta, 're-sub-1', 're-max', 'active');
\echo :LAST_ERROR_SQLSTATE
SELECT _grownext.entitlement_subscription_apply(:acme, 're-sub-1', 're-max', 'sleeping');
\echo :LAST_ERROR_SQLSTATE
SELECT _grownext.entitlement_subscription_apply(:acme, 're-sub-1', 're-max', 'canceled') = :'sub' AS same;
SELECT _grownext.entitlement_subscription_apply(:acme, 're-sub-1', 're-max', 'active') = :'sub' AS same;
SELECT status, ended_at, grownext.entitled('re.export', :acme) FROM grownext.subscription WHERE id = :'sub';
SELECT _grownext.entitlement_subscription_apply(:acme, 're-sub-2', 're-max', 'canceled');
SELECT action, count(*) FROM grownext.audit_event WHERE tenant_id = :acme AND target = 'subscription:' || :'sub' GROUP BY action ORDER BY action;

-- metering: the quota counts down, a denial says why and what is left
SET grownext.test_clock = '2030-01-31 22:30:00+00';
SET ROLE regress_ent_service;
SELECT grownext.subscription_start(:acme, 're-pro', options => '{"anchor": "2030-01-31 10:00:00+00"}') AS pro \gset
SELECT * FROM grownext.usage_consume('re.calls', 1990, tenant_id => :acme);
SELECT * FROM grownext.usage_consume('re.calls', 11, tenant_id => :acme);
SELECT * FROM grownext.usage_consume('re.calls', 10, tenant_id => :acme);
SELECT * FROM grownext.usage_consume('re.calls', tenant_id => :acme);
SELECT grownext.entitled('re.calls', :acme);
SELECT * FROM grownext.entitlement('re.calls', :acme);
SELECT grownext.usage_require('re.calls', tenant_id => :acme);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM grownext.usage_consume('re.export', tenant_id => :acme);

-- the next period begins at midnight of the tenant's time zone, by itself
RESET ROLE;
SET grownext.test_clock = '2030-01-31 23:00:00+00';
SET ROLE regress_ent_service;
SELECT * FROM grownext.usage_consume('re.calls', tenant_id => :acme);
SELECT period, period_start, period_end, used, quota, remaining FROM grownext.usage_period WHERE tenant_id = :acme ORDER BY period_start;

-- amounts
SELECT grownext.usage_consume('re.calls', 0, tenant_id => :acme);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.usage_consume('re.calls', -5, tenant_id => :acme);
SELECT grownext.usage_consume('re.calls', NULL, tenant_id => :acme);
SELECT * FROM grownext.usage_consume('re.calls', 9223372036854775807, tenant_id => :acme);
SELECT grownext.usage_return('re.calls', 0, tenant_id => :acme);

-- an idempotency key returns the first grant; denials are not remembered; other arguments are an error
SELECT * FROM grownext.usage_consume('re.calls', 5, 'order-1', :acme);
SELECT * FROM grownext.usage_consume('re.calls', 5, 'order-1', :acme);
SELECT * FROM grownext.usage_consume('re.calls', 6, 'order-1', :acme);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM grownext.usage_consume('re.mails', 5, 'order-1', :acme);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM grownext.usage_consume('re.calls', 5000, 'order-2', :acme);
SELECT * FROM grownext.usage_consume('re.calls', 1, 'order-2', :acme);
SELECT * FROM grownext.usage_consume('re.calls', 1, '', :acme);
\echo :LAST_ERROR_SQLSTATE
SELECT used FROM grownext.entitlement('re.calls', :acme);

-- what was consumed can be given back, once, and not more than it was
SELECT * FROM grownext.usage_return('re.calls', 5, 'undo-1', :acme);
SELECT * FROM grownext.usage_return('re.calls', 5, 'undo-1', :acme);
SELECT * FROM grownext.usage_return('re.calls', 3, tenant_id => :acme);
SELECT * FROM grownext.usage_return('re.calls', 2, tenant_id => :acme);
SELECT * FROM grownext.usage_return('re.nothing', 1, 'undo-2', :acme);

-- it is part of the caller's transaction
BEGIN;
SELECT used FROM grownext.usage_consume('re.calls', 100, 'order-3', :acme);
SAVEPOINT s;
SELECT used FROM grownext.usage_consume('re.calls', 100, tenant_id => :acme);
ROLLBACK TO s;
SELECT used FROM grownext.usage_consume('re.calls', 1, tenant_id => :acme);
ROLLBACK;
SELECT used FROM grownext.entitlement('re.calls', :acme);
SELECT used FROM grownext.usage_consume('re.calls', 1, 'order-3', :acme);

-- a soft quota counts on, an unlimited one just counts
SELECT grownext.entitlement_grant(:acme, 're.calls', '{"quota": 3, "soft": true}') AS soft \gset
SELECT * FROM grownext.usage_consume('re.calls', 7, tenant_id => :acme);
SELECT allowed, used, quota, remaining, reason FROM grownext.entitlement('re.calls', :acme);
SELECT grownext.entitlement_revoke(:'soft');
SELECT grownext.entitlement_grant(:acme, 're.calls', '{"quota": "unlimited", "period": "never"}') AS unlimited \gset
SELECT * FROM grownext.usage_consume('re.calls', 9223372036854775807, tenant_id => :acme);
SELECT * FROM grownext.usage_consume('re.calls', 1, tenant_id => :acme);
SELECT grownext.entitlement_revoke(:'unlimited');

-- billing periods count from the subscription's anchor; months end right, years leap right
SELECT grownext.bundle_define('re-billed', '{"re.calls": {"quota": 5, "period": "billing"}}');
SELECT grownext.subscription_start(:beta, 're-billed', options => '{"anchor": "2030-01-31 10:00:00+00"}') AS billed \gset
SELECT at, (grownext.entitlement('re.calls', :beta, at)).resets_at
  FROM unnest(ARRAY['2030-02-01 00:00+00', '2030-02-28 10:00+00', '2030-03-31 10:00+00']::timestamptz[]) AS at;
SELECT quota, resets_at FROM grownext.entitlement('re.calls', :beta);
SELECT * FROM grownext.usage_consume('re.calls', 12, tenant_id => :beta);
RESET ROLE;
SELECT at, (_grownext.entitlement_period('month', '2030-01-31 10:00+00', 'UTC', at))[1] AS "from"
  FROM unnest(ARRAY['2030-02-28 09:59+00', '2030-02-28 10:00+00', '2030-03-30 10:00+00', '2030-03-31 10:00+00', '2030-04-30 10:00+00', '2032-02-29 10:00+00', '2029-12-31 10:00+00']::timestamptz[]) AS at;
SELECT at, (_grownext.entitlement_period('year', '2028-02-29 00:00+00', 'UTC', at))[1] AS "from"
  FROM unnest(ARRAY['2029-02-27 23:59+00', '2029-02-28 00:00+00', '2032-02-28 23:59+00', '2032-02-29 00:00+00']::timestamptz[]) AS at;
-- a day has 23 or 25 hours where the clock changes
SELECT p[1] AS "from", p[2] AS "until", p[2] - p[1] AS length
  FROM unnest(ARRAY['2030-03-31 12:00+00', '2030-10-27 12:00+00']::timestamptz[]) AS at, _grownext.entitlement_period('day', NULL, 'Europe/Berlin', at) AS p;
SELECT period, (_grownext.entitlement_period(period, NULL, 'America/New_York', '2030-05-15 12:34+00'))[1] AS "from"
  FROM unnest('{hour,day,week,month,year,never}'::text[]) AS period;
SELECT _grownext.entitlement_period('fortnight', NULL, 'UTC', now());
\echo :LAST_ERROR_SQLSTATE
-- no instant is in two periods or in none, in zones whose clock changes at midnight too
SELECT period, zone, count(*) FILTER (WHERE p[1] > at OR p[2] <= at) AS outside, count(*) FILTER (WHERE p[2] <> q[1]) AS gaps
  FROM unnest('{hour,day,week,month,year}'::text[]) AS period,
       unnest('{UTC,Europe/Berlin,America/Havana,Australia/Lord_Howe,Asia/Kathmandu,Pacific/Apia}'::text[]) AS zone,
       generate_series('2011-01-01'::timestamptz, '2012-12-31', interval '37 hours') AS at,
       _grownext.entitlement_period(period, NULL, zone, at) AS p,
       _grownext.entitlement_period(period, NULL, zone, p[2]) AS q
 GROUP BY 1, 2 HAVING count(*) FILTER (WHERE p[1] > at OR p[2] <= at OR p[2] <> q[1]) > 0;

-- an end user asks and consumes for the own tenant, and names no other
GRANT regress_ent_app TO regress_ent_service;
SET ROLE regress_ent_service;
BEGIN;
SELECT grownext.act_as(:ann, :acme);
SET LOCAL ROLE regress_ent_app;
SELECT grownext.entitled('re.export') AS own, grownext.entitled('re.export', :acme) AS named, grownext.entitled('re.theme', :beta) AS other;
SELECT allowed, used FROM grownext.usage_consume('re.calls');
SELECT count(*) > 0 AS some, bool_and(tenant_id = :acme) AS own FROM grownext.subscription;
SELECT count(*) > 0 AS some, bool_and(tenant_id = :acme) AS own FROM grownext.usage_period;
SELECT count(*) > 0 AS some, bool_and(tenant_id = :acme) AS own FROM grownext.entitlement_override;
SELECT product, feature, kind, value, source FROM grownext.product_entitlement WHERE product = 're-app' ORDER BY feature;
SAVEPOINT s;
SELECT grownext.usage_consume('re.calls', tenant_id => :beta);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT grownext.entitlement('re.export', user_id => :bob);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- grants to a user count where that user calls
SELECT grownext.entitlement_grant(:beta, 're.export', 'true', user_id => :bob) IS NOT NULL AS granted;
BEGIN;
SELECT grownext.act_as(:bob, :beta);
SELECT grownext.entitled('re.export');
ROLLBACK;
BEGIN;
SELECT grownext.act_as(:ann, :beta);
SELECT grownext.entitled('re.export');
ROLLBACK;

-- the clock alone forgets idempotency keys after 30 days
RESET ROLE;
SELECT _grownext.entitlement_tick('2030-03-02 22:59:59+00') AS next;
SELECT operation, idempotency_key, amount, (result).used FROM _grownext.entitlement_usage_key WHERE tenant_id = :acme ORDER BY 1, 2;
SELECT _grownext.entitlement_tick('2030-03-02 23:00:01+00') AS next;
SELECT count(*) FROM _grownext.entitlement_usage_key WHERE tenant_id = :acme;

-- status names a policy that asks for a feature that there is not
SELECT item, state FROM _grownext.entitlement_status();
CREATE TABLE regress_ent_report (id int);
CREATE POLICY gate ON regress_ent_report USING ((SELECT grownext.entitled('re.exprot')));
SELECT item, state, detail, hint FROM _grownext.entitlement_status() WHERE state <> 'ok';
DROP TABLE regress_ent_report;

DROP OWNED BY regress_ent_service, regress_ent_app;
DROP ROLE regress_ent_service, regress_ent_app;
