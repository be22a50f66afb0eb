-- Credits: grants, burn order, expiry, what subscriptions grant, rollover, refunds, the past.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS grownext;
CREATE ROLE regress_credit_service IN ROLE grownext_service;
RESET client_min_messages;
SET grownext.test_clock = '2030-01-10 12:00:00+00';
\set acme '''ca000000-0000-4000-8000-000000000001'''
\set beta '''ca000000-0000-4000-8000-000000000002'''
\set cara '''ca000000-0000-4000-8000-000000000003'''
\set dora '''ca000000-0000-4000-8000-000000000004'''
\set state 'allowed, used, quota, remaining, resets_at, source, reason'
\set grants 'origin, amount, burnt, remaining, priority, valid_from, expires_at, reason'
SET ROLE regress_credit_service;

-- the catalogue: a credit feature, and what may be said of it
SELECT grownext.product_define('rc', 'Credits');
SELECT grownext.feature_define('rc.tokens', 'rc', 'credit');
SELECT grownext.bundle_define('rc-plan', '{"rc.tokens": {"amount": 1000, "period": "month", "rollover": 200, "priority": 5}}');
SELECT grownext.bundle_define('rc-big', '{"rc.tokens": {"amount": 3000, "period": "month", "rollover": 200, "priority": 5}}');
SELECT grownext.bundle_define('rc-all', '{"rc.tokens": "unlimited"}');
SELECT grownext.bundle_define('rc-year', '{"rc.tokens": {"amount": 12000, "period": "year"}}');
SELECT grownext.bundle_define('rc-pack', '{"rc.tokens": {"amount": 500, "period": "never", "priority": 9}}');
SELECT grownext.bundle_define('rc-x', '{"rc.tokens": {"quota": 1}}');
SELECT grownext.bundle_define('rc-x', '{"rc.tokens": {"amount": 1.5}}');
SELECT grownext.bundle_define('rc-x', '{"rc.tokens": {"amount": -1}}');
SELECT grownext.bundle_define('rc-x', '{"rc.tokens": {"amount": 1, "rollover": -1}}');
SELECT grownext.bundle_define('rc-x', '{"rc.tokens": {"amount": 1, "rollover": "all"}}');
SELECT grownext.bundle_define('rc-x', '{"rc.tokens": {"amount": 1, "priority": 1e12}}');
SELECT grownext.bundle_define('rc-x', '{"rc.tokens": {"amount": 1, "period": "moon"}}');
SELECT grownext.bundle_define('rc-x', '{"rc.tokens": {"period": "month"}}');
SELECT grownext.bundle_define('rc-x', '{"rc.tokens": {"amount": 99999999999999999999}}');
\echo :LAST_ERROR_SQLSTATE

-- nothing granted: not included
SELECT grownext.tenant_create('rc-acme', 'Acme', id => :acme) = :acme AS made;
SELECT :state FROM grownext.entitlement('rc.tokens', :acme);
SELECT grownext.entitled('rc.tokens', :acme);
SELECT :state FROM grownext.entitlements(:acme) WHERE feature = 'rc.tokens';
SELECT allowed, used, reason FROM grownext.usage_consume('rc.tokens', 1, tenant_id => :acme);
SELECT FROM grownext.usage_require('rc.tokens', 1, tenant_id => :acme);
\echo :LAST_ERROR_SQLSTATE

-- grants: burnt by priority, then expiry, none last, then age
SELECT grownext.credit_grant(:acme, 'rc.tokens', 100, reason => 'old, for ever') IS NOT NULL AS granted;
RESET ROLE;
SET grownext.test_clock = '2030-01-10 12:00:01+00';
SET ROLE regress_credit_service;
SELECT grownext.credit_grant(:acme, 'rc.tokens', 100, reason => 'young, for ever') IS NOT NULL AS granted;
SELECT grownext.credit_grant(:acme, 'rc.tokens', 100, '2030-01-20', reason => 'soon') IS NOT NULL AS granted;
SELECT grownext.credit_grant(:acme, 'rc.tokens', 100, '2030-01-15', reason => 'sooner') IS NOT NULL AS granted;
SELECT grownext.credit_grant(:acme, 'rc.tokens', 100, priority => -1, reason => 'first') IS NOT NULL AS granted;
SELECT grownext.credit_grant(:acme, 'rc.tokens', 100, priority => 1, reason => 'last') IS NOT NULL AS granted;
SELECT :state FROM grownext.entitlement('rc.tokens', :acme);
SELECT allowed, used, quota, remaining, resets_at, reason FROM grownext.usage_consume('rc.tokens', 150, tenant_id => :acme);
SELECT reason, burnt FROM grownext.credit WHERE tenant_id = :acme AND burnt > 0 ORDER BY burnt DESC;
SELECT allowed, used, remaining FROM grownext.usage_consume('rc.tokens', 250, tenant_id => :acme);
SELECT reason, burnt FROM grownext.credit WHERE tenant_id = :acme AND burnt > 0 ORDER BY burnt DESC, reason;
-- all or nothing
SELECT allowed, used, quota, remaining, reason FROM grownext.usage_consume('rc.tokens', 201, tenant_id => :acme);
SELECT FROM grownext.usage_require('rc.tokens', 201, tenant_id => :acme);
\echo :LAST_ERROR_SQLSTATE
SELECT used, remaining FROM grownext.usage_require('rc.tokens', 200, tenant_id => :acme);
SELECT grownext.entitled('rc.tokens', :acme);
SELECT :state FROM grownext.entitlement('rc.tokens', :acme);

-- a refund goes back to what was burnt last; what has expired since lapses
SELECT allowed, used, remaining FROM grownext.usage_return('rc.tokens', 250, tenant_id => :acme);
SELECT reason, remaining FROM grownext.credit WHERE tenant_id = :acme AND remaining > 0 ORDER BY reason;
RESET ROLE;
SET grownext.test_clock = '2030-01-15 00:00:00+00';
SET ROLE regress_credit_service;
SELECT allowed, used, quota, remaining FROM grownext.usage_return('rc.tokens', 250, tenant_id => :acme);
SELECT reason, burnt, remaining FROM grownext.credit WHERE tenant_id = :acme ORDER BY reason;
SELECT allowed, reason FROM grownext.usage_return('rc.tokens', 101, tenant_id => :acme);
SELECT allowed, used FROM grownext.usage_return('rc.tokens', 100, tenant_id => :acme);
SELECT allowed, reason FROM grownext.usage_return('rc.tokens', 1, tenant_id => :acme);

-- the past is what it was
SELECT at, used, quota, remaining
  FROM unnest('{2030-01-10 12:00:00+00,2030-01-10 12:00:01+00,2030-01-14 23:59:59+00,2030-01-15 00:00:00+00,2030-01-20 00:00:00+00}'::timestamptz[]) AS at
 CROSS JOIN LATERAL grownext.entitlement('rc.tokens', :acme, at) ORDER BY at;

-- receipts add up
RESET ROLE;
SELECT b.burnt, (SELECT sum(c.burnt) FROM _grownext.entitlement_credit AS c WHERE c.tenant_id = :acme) AS by_grant,
       (SELECT sum(l.amount) FROM _grownext.entitlement_burn AS l WHERE l.tenant_id = :acme) AS by_line
  FROM _grownext.entitlement_balance AS b WHERE b.tenant_id = :acme;
SET ROLE regress_credit_service;

-- what is left of a grant is voided: it still counts for times before
SELECT id AS first FROM grownext.credit WHERE tenant_id = :acme AND reason = 'first' \gset
SELECT allowed, used FROM grownext.usage_consume('rc.tokens', 30, tenant_id => :acme);
RESET ROLE;
SET grownext.test_clock = '2030-01-16 00:00:00+00';
SET ROLE regress_credit_service;
SELECT grownext.entitlement_revoke(:'first');
SELECT grownext.entitlement_revoke(:'first');
SELECT amount, burnt, remaining, voided_at FROM grownext.credit WHERE id = :'first';
SELECT used, quota, remaining FROM grownext.entitlement('rc.tokens', :acme);
SELECT used, quota, remaining FROM grownext.entitlement('rc.tokens', :acme, '2030-01-15 23:59:59+00');
SELECT action, change -> 'before' ->> 'voided_at' AS before, change -> 'after' ->> 'voided_at' AS after
  FROM grownext.audit_search('{"action": "credit.voided"}', tenant_id => :acme);
SELECT count(*) FROM grownext.audit_search('{"action": "credit.granted"}', tenant_id => :acme);
SELECT grownext.entitlement_revoke('ca000000-0000-4000-8000-0000000000ff');

-- a key: the same grant once
SELECT grownext.credit_grant(:acme, 'rc.tokens', 5, '2030-01-17', idempotency_key => 'order-1') AS once \gset
SELECT grownext.credit_grant(:acme, 'rc.tokens', 5, '2030-01-17', idempotency_key => 'order-1') = :'once' AS same;
SELECT grownext.credit_grant(:acme, 'rc.tokens', 6, '2030-01-17', idempotency_key => 'order-1');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
SET grownext.test_clock = '2030-01-18 00:00:00+00';
SET ROLE regress_credit_service;
SELECT grownext.credit_grant(:acme, 'rc.tokens', 5, '2030-01-17', idempotency_key => 'order-1') = :'once' AS same_after_expiry;
SELECT allowed, used FROM grownext.usage_consume('rc.tokens', 7, 'job-1', :acme);
SELECT allowed, used FROM grownext.usage_consume('rc.tokens', 7, 'job-1', :acme);
SELECT sum(burnt) FROM grownext.credit WHERE tenant_id = :acme;

-- what is not valid
SELECT grownext.credit_grant(:acme, 'rc.tokens', 0);
SELECT grownext.credit_grant(:acme, 'rc.tokens', NULL);
SELECT grownext.credit_grant(:acme, 'rc.tokens', 1, priority => NULL);
SELECT grownext.credit_grant(:acme, 'rc.tokens', 1, '2030-01-18 00:00:00+00');
SELECT grownext.credit_grant(:acme, 'rc.tokens', 1, '-infinity');
SELECT grownext.credit_grant(:acme, 'rc.tokens', 1, idempotency_key => '');
SELECT grownext.credit_grant(:acme, 'rc.nothing', 1);
SELECT grownext.credit_grant(NULL, 'rc.tokens', 1);
SELECT grownext.feature_define('rc.other', 'rc', 'metered');
SELECT grownext.credit_grant(:acme, 'rc.other', 1);
SELECT grownext.entitlement_grant(:acme, 'rc.tokens', '{"add": 5}');
SELECT grownext.entitlement_grant(:acme, 'rc.tokens', '5', user_id => gen_random_uuid());
\echo :LAST_ERROR_SQLSTATE

-- a block, and taking away, deny whatever the balance is
SELECT grownext.entitlement_block(:acme, 'rc.tokens', 'abuse') AS block \gset
SELECT allowed, used, remaining, reason FROM grownext.usage_consume('rc.tokens', 1, tenant_id => :acme);
SELECT grownext.entitled('rc.tokens', :acme);
SELECT grownext.entitlement_revoke(:'block');
SELECT grownext.entitlement_grant(:acme, 'rc.tokens', 'false') AS nothing \gset
SELECT :state FROM grownext.entitlement('rc.tokens', :acme);
SELECT grownext.entitlement_revoke(:'nothing');

-- a subscription grants by the month: reckoned until the first consume writes it, once
SELECT grownext.tenant_create('rc-beta', 'Beta', id => :beta, bundle => 'rc-plan') = :beta AS made;
SELECT id AS sub FROM grownext.subscription WHERE tenant_id = :beta \gset
SELECT :state FROM grownext.entitlement('rc.tokens', :beta);
SELECT count(*) FROM grownext.credit WHERE tenant_id = :beta;
SELECT allowed, used, quota, remaining, resets_at FROM grownext.usage_consume('rc.tokens', 300, tenant_id => :beta);
SELECT :state FROM grownext.entitlement('rc.tokens', :beta);
SELECT :grants FROM grownext.credit WHERE tenant_id = :beta;
-- what was bought has the lower priority number: it goes first
SELECT grownext.credit_grant(:beta, 'rc.tokens', 50, reason => 'bought') IS NOT NULL AS granted;
SELECT allowed, used, quota FROM grownext.usage_consume('rc.tokens', 60, tenant_id => :beta);
SELECT origin, burnt FROM grownext.credit WHERE tenant_id = :beta ORDER BY origin;
-- a larger quantity adds the difference, a smaller one takes nothing back
SELECT grownext.subscription_change(:'sub', quantity => 2);
SELECT used, quota, remaining FROM grownext.entitlement('rc.tokens', :beta);
SELECT allowed, used, quota FROM grownext.usage_consume('rc.tokens', 1, tenant_id => :beta);
SELECT grownext.subscription_change(:'sub', quantity => 1);
SELECT grownext.subscription_change(:'sub', 'rc-big');
SELECT used, quota FROM grownext.entitlement('rc.tokens', :beta);
SELECT allowed, used, quota FROM grownext.usage_consume('rc.tokens', 1, tenant_id => :beta);
SELECT grownext.subscription_change(:'sub', 'rc-plan');
SELECT used, quota FROM grownext.entitlement('rc.tokens', :beta);
SELECT origin, amount, burnt, valid_from, expires_at FROM grownext.credit WHERE tenant_id = :beta ORDER BY origin, valid_from, amount;

-- the next month: at most 200 of the rest come along, the other 2438 expire
RESET ROLE;
SET grownext.test_clock = '2030-02-01 00:00:00+00';
SET ROLE regress_credit_service;
SELECT used, quota, remaining, resets_at FROM grownext.entitlement('rc.tokens', :beta);
SELECT used, quota, remaining FROM grownext.usage_consume('rc.tokens', 1, tenant_id => :beta);
SELECT :grants FROM grownext.credit WHERE tenant_id = :beta AND valid_from >= '2030-02-01' ORDER BY origin;
-- 1 and 1180 more are burnt: 20 are left, and come along
SELECT used, quota FROM grownext.usage_consume('rc.tokens', 1179, tenant_id => :beta);
RESET ROLE;
SET grownext.test_clock = '2030-03-01 00:00:00+00';
SET ROLE regress_credit_service;
SELECT used, quota, remaining FROM grownext.entitlement('rc.tokens', :beta);
-- refunds of a month that is over lapse, whenever the next is touched
SELECT allowed, used, quota, remaining FROM grownext.usage_return('rc.tokens', 100, tenant_id => :beta);
-- months that nobody touched count as if somebody had
RESET ROLE;
SET grownext.test_clock = '2030-06-10 00:00:00+00';
SET ROLE regress_credit_service;
SELECT used, quota, remaining FROM grownext.entitlement('rc.tokens', :beta);
SELECT used, quota, remaining FROM grownext.usage_consume('rc.tokens', 1, tenant_id => :beta);
SELECT count(*) FROM grownext.credit WHERE tenant_id = :beta AND valid_from BETWEEN '2030-03-02' AND '2030-05-31';
-- a future month: what there will be if nothing is burnt
SELECT used, quota, remaining, resets_at FROM grownext.entitlement('rc.tokens', :beta, '2030-07-15');
-- a month gone by
SELECT used, quota, remaining, resets_at FROM grownext.entitlement('rc.tokens', :beta, '2030-02-15');

-- changing to and fro grants no period twice
SELECT grownext.subscription_change(:'sub', 'rc-year');
SELECT used, quota, resets_at FROM grownext.usage_consume('rc.tokens', 1, tenant_id => :beta);
SELECT grownext.subscription_change(:'sub', 'rc-plan');
SELECT used, quota, resets_at FROM grownext.usage_consume('rc.tokens', 1, tenant_id => :beta);
SELECT grownext.subscription_change(:'sub', 'rc-year');
SELECT used, quota, resets_at FROM grownext.usage_consume('rc.tokens', 1, tenant_id => :beta);
-- neither does moving to another time zone
SELECT grownext.tenant_update(:beta, '{"time_zone": "America/New_York"}');
SELECT grownext.subscription_change(:'sub', 'rc-plan');
SELECT quota FROM grownext.entitlement('rc.tokens', :beta);

-- what a subscription granted goes with it; what was bought stays
SELECT grownext.subscription_end(:'sub', 'now');
SELECT :state FROM grownext.entitlement('rc.tokens', :beta);
SELECT allowed, used, quota, remaining, reason FROM grownext.usage_consume('rc.tokens', 1, tenant_id => :beta);

-- what was burnt is reported, refunds when they were made
SELECT bucket_start, used, quota, overage FROM grownext.usage_report('2030-01-01', '2030-07-01', :beta, 'rc.tokens', 'month');

-- unlimited goes first, and costs nobody anything; it ends with the plan
SELECT grownext.tenant_create('rc-cara', 'Cara', id => :cara, bundle => 'rc-all') = :cara AS made;
SELECT grownext.credit_grant(:cara, 'rc.tokens', 10, priority => -5) IS NOT NULL AS granted;
SELECT :state, value FROM grownext.entitlement('rc.tokens', :cara);
SELECT allowed, used, quota, remaining FROM grownext.usage_consume('rc.tokens', 1000000, tenant_id => :cara);
SELECT origin, amount, burnt, remaining FROM grownext.credit WHERE tenant_id = :cara ORDER BY origin;
SELECT grownext.subscription_change(id, 'rc-plan') FROM grownext.subscription WHERE tenant_id = :cara;
SELECT used, quota, remaining FROM grownext.entitlement('rc.tokens', :cara);
SELECT used, quota, remaining FROM grownext.usage_consume('rc.tokens', 5, tenant_id => :cara);
-- an add-on adds a pack for ever
SELECT grownext.subscription_start(:cara, 'rc-pack', 2, '{"addon": true}') IS NOT NULL AS added;
SELECT used, quota, remaining FROM grownext.usage_consume('rc.tokens', 1, tenant_id => :cara);
SELECT origin, amount, burnt, priority, valid_from, expires_at FROM grownext.credit WHERE tenant_id = :cara ORDER BY priority, amount;
-- explained
SELECT e - 'steps' - 'tenant_id' AS explained, e -> 'steps' -> -1 -> 'candidates' -> 0 -> 'says' AS says
  FROM grownext.entitlement_explain('rc.tokens', :cara) AS e;

-- a pool: granted to and burnt at the topmost tenant
SELECT grownext.feature_define('rc.pool', 'rc', 'credit', '{"inherit": "pool"}');
SELECT grownext.tenant_create('rc-dora', 'Dora', id => :dora, parent_id => :cara) = :dora AS made;
SELECT grownext.credit_grant(:dora, 'rc.pool', 10);
SELECT grownext.credit_grant(:cara, 'rc.pool', 10) IS NOT NULL AS granted;
SELECT allowed, used, remaining FROM grownext.usage_consume('rc.pool', 4, tenant_id => :dora);
SELECT used, remaining FROM grownext.entitlement('rc.pool', :cara);

-- amounts as large as can be
SELECT grownext.credit_grant(:dora, 'rc.tokens', 9223372036854775807) IS NOT NULL AS granted;
SELECT grownext.credit_grant(:dora, 'rc.tokens', 9223372036854775807) IS NOT NULL AS granted;
SELECT used, quota, remaining FROM grownext.entitlement('rc.tokens', :dora);
SELECT allowed, used, remaining FROM grownext.usage_consume('rc.tokens', 9223372036854775807, tenant_id => :dora);
SELECT allowed, used, remaining, reason FROM grownext.usage_consume('rc.tokens', 1, tenant_id => :dora);

-- a default grants, too
SELECT grownext.feature_define('rc.free', 'rc', 'credit', '{"default": {"amount": 3, "period": "day"}}');
SELECT allowed, used, quota, resets_at FROM grownext.usage_consume('rc.free', 2, tenant_id => :dora);
SELECT :state FROM grownext.entitlement('rc.free', :dora);

RESET ROLE;
SELECT count(*) FILTER (WHERE b.burnt <> (SELECT sum(c.burnt) FROM _grownext.entitlement_credit AS c WHERE (c.tenant_id, c.feature_id) = (b.tenant_id, b.feature_id))
                          OR b.burnt <> (SELECT sum(l.amount) FROM _grownext.entitlement_burn AS l WHERE (l.tenant_id, l.feature_id) = (b.tenant_id, b.feature_id))) AS wrong
  FROM _grownext.entitlement_balance AS b;

DROP OWNED BY regress_credit_service;
DROP ROLE regress_credit_service;
