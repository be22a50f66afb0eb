-- Reservations of metered and credit features: reserve, commit, release, expire.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS grownext;
CREATE ROLE regress_hold_service IN ROLE grownext_service;
RESET client_min_messages;
SET grownext.test_clock = '2030-01-31 23:58:00+00';
\set acme '''cb000000-0000-4000-8000-000000000001'''
\set counter 'SELECT f.feature, e.used, e.remaining FROM unnest(ARRAY[''rh.calls'', ''rh.tokens'']) AS f (feature), grownext.entitlement(f.feature, :acme) AS e ORDER BY 1'
-- ids of reservations are random: errors are told by their class
\set VERBOSITY sqlstate
SET ROLE regress_hold_service;
SELECT grownext.product_define('rh', 'Reservations');
SELECT grownext.feature_define('rh.calls', 'rh', 'metered');
SELECT grownext.feature_define('rh.tokens', 'rh', 'credit');
SELECT grownext.feature_define('rh.export', 'rh', 'boolean');
SELECT grownext.bundle_define('rh-plan', '{"rh.calls": 10, "rh.tokens": {"amount": 10, "rollover": 10}, "rh.export": true}');
SELECT grownext.tenant_create('rh-acme', 'Acme', id => :acme, bundle => 'rh-plan') = :acme AS made;

-- what is reserved counts as used
SELECT grownext.usage_reserve('rh.calls', 6, tenant_id => :acme) AS calls \gset
SELECT grownext.usage_reserve('rh.tokens', 6, tenant_id => :acme) AS tokens \gset
:counter;
SELECT feature, amount, state, committed, created_at, expires_at FROM grownext.reservation WHERE tenant_id = :acme ORDER BY feature;
SELECT allowed, used, remaining, reason FROM grownext.usage_consume('rh.calls', 5, tenant_id => :acme);
SELECT allowed, used, remaining, reason FROM grownext.usage_consume('rh.tokens', 5, tenant_id => :acme);

-- a reservation that does not fit is denied: NULL, and nothing stays
SELECT grownext.usage_reserve('rh.calls', 5, tenant_id => :acme) IS NULL AS denied, grownext.usage_reserve('rh.tokens', 5, tenant_id => :acme) IS NULL AS denied;
SELECT grownext.usage_reserve('rh.export', 1, tenant_id => :acme) IS NULL AS not_metered, grownext.usage_reserve('rh.nothing', 1, tenant_id => :acme) IS NULL AS unknown;
SELECT count(*) FROM grownext.reservation WHERE tenant_id = :acme;

-- what is reserved cannot be returned as if it were consumed
SELECT allowed, reason FROM grownext.usage_return('rh.tokens', 1, tenant_id => :acme);

-- commit: less gives the rest back, the same again is nothing new, another amount is refused
SELECT grownext.usage_commit(:'calls', 4);
SELECT grownext.usage_commit(:'tokens', 4);
:counter;
SELECT grownext.usage_commit(:'calls', 4);
SELECT grownext.usage_commit(:'tokens', 4);
SELECT grownext.usage_commit(:'tokens', 3);
SELECT grownext.usage_commit(:'calls');
:counter;
SELECT grownext.usage_release(:'tokens');
-- and now it can be returned
SELECT allowed, used FROM grownext.usage_return('rh.tokens', 1, tenant_id => :acme);
SELECT allowed, used FROM grownext.usage_return('rh.calls', 1, tenant_id => :acme);

-- commit: more consumes the rest, or raises and leaves the reservation as it was
SELECT grownext.usage_reserve('rh.calls', 2, tenant_id => :acme) AS calls \gset
SELECT grownext.usage_reserve('rh.tokens', 2, tenant_id => :acme) AS tokens \gset
SELECT grownext.usage_commit(:'calls', 8);
SELECT grownext.usage_commit(:'tokens', 8);
SELECT feature, state FROM grownext.reservation WHERE id IN (:'calls', :'tokens') ORDER BY feature;
SELECT grownext.usage_commit(:'calls', 5);
SELECT grownext.usage_commit(:'tokens', 5);
:counter;
SELECT feature, amount, state, committed FROM grownext.reservation WHERE id IN (:'calls', :'tokens') ORDER BY feature;

-- release: once is enough
SELECT grownext.usage_reserve('rh.calls', 2, tenant_id => :acme) AS calls \gset
SELECT grownext.usage_reserve('rh.tokens', 2, tenant_id => :acme) AS tokens \gset
:counter;
SELECT grownext.usage_release(:'calls'), grownext.usage_release(:'tokens');
SELECT grownext.usage_release(:'calls'), grownext.usage_release(:'tokens');
:counter;
SELECT grownext.usage_commit(:'calls');

-- the same key is the same reservation
SELECT grownext.usage_reserve('rh.tokens', 1, '1 hour', 'run-1', :acme) AS keyed \gset
SELECT grownext.usage_reserve('rh.tokens', 1, '1 hour', 'run-1', :acme) = :'keyed' AS same;
SELECT grownext.usage_reserve('rh.tokens', 2, '1 hour', 'run-1', :acme);
SELECT grownext.usage_reserve('rh.calls', 1, '1 hour', 'run-1', :acme);
SELECT grownext.usage_reserve('rh.tokens', 1, '2 hours', 'run-1', :acme);
:counter;
-- a denial is not remembered
SELECT grownext.usage_reserve('rh.tokens', 2, '1 hour', 'run-2', :acme) IS NULL AS denied;
SELECT grownext.usage_release(:'keyed');
SELECT grownext.usage_reserve('rh.tokens', 2, '1 hour', 'run-2', :acme) AS second \gset
SELECT grownext.usage_release(:'second');

-- what is not valid
\set VERBOSITY default
SELECT grownext.usage_reserve('rh.tokens', 0, tenant_id => :acme);
SELECT grownext.usage_reserve('rh.tokens', NULL, tenant_id => :acme);
SELECT grownext.usage_reserve('rh.tokens', 1, '0 seconds', tenant_id => :acme);
SELECT grownext.usage_reserve('rh.tokens', 1, '8 days', tenant_id => :acme);
SELECT grownext.usage_reserve('rh.tokens', 1, '-178000000 years', tenant_id => :acme);
SELECT grownext.usage_reserve('rh.tokens', 1, NULL, tenant_id => :acme);
SELECT grownext.usage_reserve('rh.tokens', 1, '1 hour', '', :acme);
SELECT grownext.usage_reserve('rh.tokens', 1);
SELECT grownext.usage_reserve(NULL, 1, tenant_id => :acme) IS NULL AS denied;
SELECT grownext.usage_commit(NULL);
SELECT grownext.usage_release(NULL);
SELECT grownext.usage_commit('cb000000-0000-4000-8000-0000000000ff');
SELECT grownext.usage_release('cb000000-0000-4000-8000-0000000000ff');
SELECT grownext.usage_commit(:'second', 0);
\set VERBOSITY sqlstate

-- expiry: whoever would be denied gets the units of expired reservations first
SELECT grownext.usage_reserve('rh.calls', 2, '1 minute', tenant_id => :acme) AS calls \gset
SELECT grownext.usage_reserve('rh.tokens', 2, '1 minute', tenant_id => :acme) AS tokens \gset
:counter;
RESET ROLE;
SET grownext.test_clock = '2030-01-31 23:59:00+00';
SET ROLE regress_hold_service;
SELECT feature, state FROM grownext.reservation WHERE id IN (:'calls', :'tokens') ORDER BY feature;
SELECT grownext.usage_commit(:'calls');
SELECT allowed, used FROM grownext.usage_consume('rh.calls', 2, tenant_id => :acme);
SELECT allowed, used FROM grownext.usage_consume('rh.tokens', 2, tenant_id => :acme);
SELECT grownext.usage_commit(:'tokens', 5);
SELECT grownext.usage_release(:'tokens');
:counter;

-- to the period that they came from, even if it is over; and in the background
SELECT allowed, used FROM grownext.usage_return('rh.calls', 5, tenant_id => :acme);
SELECT allowed, used FROM grownext.usage_return('rh.tokens', 5, tenant_id => :acme);
SELECT grownext.usage_reserve('rh.calls', 2, '10 minutes', tenant_id => :acme) AS calls \gset
SELECT grownext.usage_reserve('rh.tokens', 2, '10 minutes', tenant_id => :acme) AS tokens \gset
SELECT grownext.usage_reserve('rh.calls', 1, '10 minutes', tenant_id => :acme) AS other_calls \gset
SELECT grownext.usage_reserve('rh.tokens', 1, '10 minutes', tenant_id => :acme) AS other_tokens \gset
RESET ROLE;
SET grownext.test_clock = '2030-02-01 00:05:00+00';
SET ROLE regress_hold_service;
-- three of ten were reserved at the end of January: what is left for February is the rest without them
SELECT used, quota, remaining FROM grownext.entitlement('rh.tokens', :acme);
SELECT used, quota, remaining FROM grownext.usage_consume('rh.tokens', 1, tenant_id => :acme);
SELECT grownext.usage_release(:'other_calls'), grownext.usage_release(:'other_tokens');
SELECT used, quota, remaining FROM grownext.entitlement('rh.tokens', :acme);
SELECT period_start, used FROM grownext.usage_period WHERE tenant_id = :acme ORDER BY 1;
RESET ROLE;
SELECT _grownext.entitlement_reservation_tick('2030-02-01 00:10:00+00') AS next;
SELECT period_start, used FROM grownext.usage_period WHERE tenant_id = :acme ORDER BY 1;
SELECT origin, valid_from, amount, burnt FROM grownext.credit WHERE tenant_id = :acme ORDER BY valid_from, origin;
SELECT state, count(*) FROM grownext.reservation WHERE tenant_id = :acme GROUP BY state ORDER BY state;

-- more than was reserved comes from the period of the commit
SET ROLE regress_hold_service;
SELECT grownext.usage_reserve('rh.calls', 10, tenant_id => :acme) AS calls \gset
RESET ROLE;
SET grownext.test_clock = '2030-02-28 23:59:00+00';
SET ROLE regress_hold_service;
SELECT grownext.usage_reserve('rh.calls', 10, tenant_id => :acme) AS calls \gset
RESET ROLE;
SET grownext.test_clock = '2030-03-01 00:01:00+00';
SET ROLE regress_hold_service;
SELECT grownext.usage_commit(:'calls', 13);
SELECT period_start, used FROM grownext.usage_period WHERE tenant_id = :acme ORDER BY 1;

-- in the other tiers too
SELECT grownext.feature_define('rh.escrow', 'rh', 'metered', '{"tier": "escrow", "default": 100}');
SELECT grownext.feature_define('rh.soft', 'rh', 'metered', '{"tier": "soft", "default": 100}');
SELECT grownext.usage_reserve('rh.escrow', 50, tenant_id => :acme) AS escrow, grownext.usage_reserve('rh.soft', 50, tenant_id => :acme) AS soft \gset
SELECT grownext.usage_commit(:'escrow', 30), grownext.usage_commit(:'soft', 30);
SELECT grownext.usage_reserve('rh.escrow', 70, tenant_id => :acme) AS escrow, grownext.usage_reserve('rh.soft', 70, tenant_id => :acme) AS soft \gset
SELECT grownext.usage_reserve('rh.escrow', 1, tenant_id => :acme) IS NULL AS denied, grownext.usage_reserve('rh.soft', 1, tenant_id => :acme) IS NULL AS denied;
RESET ROLE;
SET grownext.test_clock = '2030-03-01 00:06:00+00';
SET ROLE regress_hold_service;
SELECT grownext.usage_reserve('rh.escrow', 70, tenant_id => :acme) AS escrow, grownext.usage_reserve('rh.soft', 70, tenant_id => :acme) AS soft \gset
SELECT grownext.usage_release(:'escrow'), grownext.usage_release(:'soft');
SELECT feature, used, remaining FROM grownext.entitlements(:acme) WHERE feature IN ('rh.escrow', 'rh.soft') ORDER BY 1;

-- rolled back, a reservation never was
BEGIN;
SELECT grownext.usage_reserve('rh.calls', 1, tenant_id => :acme) AS calls \gset
ROLLBACK;
SELECT grownext.usage_commit(:'calls');
-- closed ones are forgotten after 30 days
RESET ROLE;
SELECT _grownext.entitlement_reservation_tick('2030-04-15') AS next;
SELECT count(*) FROM _grownext.entitlement_reservation WHERE tenant_id = :acme;
SELECT count(*) FILTER (WHERE b.burnt <> (SELECT sum(c.burnt) FROM _grownext.entitlement_credit AS c WHERE (c.tenant_id, c.feature_id) = (b.tenant_id, b.feature_id))
                          OR b.burnt <> (SELECT sum(l.amount) FROM _grownext.entitlement_burn AS l WHERE (l.tenant_id, l.feature_id) = (b.tenant_id, b.feature_id))) AS wrong
  FROM _grownext.entitlement_balance AS b WHERE b.tenant_id = :acme;

DROP OWNED BY regress_hold_service;
DROP ROLE regress_hold_service;
