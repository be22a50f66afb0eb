-- Metering: the ledger, tiers, thresholds, what is recorded or set, and the report. In every
-- tier finished and running slots equal the counters, whatever was done.
BEGIN;
SELECT * FROM no_plan();

CREATE ROLE gm_service LOGIN IN ROLE grownext_service;
CREATE ROLE gm_user LOGIN IN ROLE grownext_user;
CREATE ROLE gm_auditor LOGIN IN ROLE grownext_auditor;
CREATE ROLE gm_worker LOGIN IN ROLE grownext_worker;

SELECT is(pg_get_function_identity_arguments(d.name::regproc) || ' -> ' || pg_get_function_result(d.name::regproc), d.signature, d.name)
  FROM (VALUES
    ('grownext.usage_record', 'feature text, amount bigint, idempotency_key text, at timestamp with time zone, tenant_id uuid -> grownext.usage_result'),
    ('grownext.usage_set', 'feature text, used bigint, tenant_id uuid -> grownext.usage_result'),
    ('grownext.usage_report', 'since timestamp with time zone, until timestamp with time zone, tenant_id uuid, feature text, bucket text -> SETOF grownext.usage_bucket')
  ) AS d (name, signature);
SELECT is(
    ARRAY(SELECT r::text FROM unnest('{gm_service,gm_user,gm_auditor,gm_worker}'::text[]) AS r
           WHERE has_function_privilege(r, g.name::regproc, 'EXECUTE')),
    g.roles, g.name || ' is for ' || g.roles::text)
  FROM (VALUES ('grownext.usage_record', '{gm_service}'::text[]), ('grownext.usage_set', '{gm_service}'),
               ('grownext.usage_report', '{gm_service,gm_user,gm_auditor}')) AS g (name, roles);

SET LOCAL grownext.test_clock = '2030-03-04 12:00:00+00';
CREATE TEMP TABLE world AS
SELECT 'c2000000-0000-4000-8000-000000000001'::uuid AS acme, 'c2000000-0000-4000-8000-000000000002'::uuid AS beta;
GRANT SELECT ON world TO PUBLIC;
CREATE FUNCTION pg_temp.acme() RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT 'c2000000-0000-4000-8000-000000000001'::uuid $$;
SELECT lives_ok($$ SELECT grownext.product_define('gm', 'Metering');
                   SELECT grownext.tenant_create('gm-acme', 'Acme', id => acme, time_zone => 'Asia/Kolkata') FROM world;
                   SELECT grownext.tenant_create('gm-beta', 'Beta', id => beta) FROM world $$, 'a product and two tenants');

-- Options ------------------------------------------------------------------------

SELECT throws_ok(format('SELECT grownext.feature_define(%L, %L, %L, %L)', 'gm.x', 'gm', c.kind, c.options), '22023', c.message, c.message)
  FROM (VALUES
    ('metered', '{"tier": "loose"}', 'tier "loose" of "gm.x" does not exist'),
    ('metered', '{"shards": 1}', 'a counter of "gm.x" cannot have 1 shards'),
    ('metered', '{"shards": 2.5}', 'a counter of "gm.x" cannot have 2.5 shards'),
    ('metered', '{"shards": 1e30}', 'a counter of "gm.x" cannot have 1000000000000000000000000000000 shards'),
    ('limit', '{"tier": "escrow"}', '"gm.x" is of kind limit and has no tier'),
    ('metered', '{"thresholds": [0]}', 'thresholds of "gm.x" are not valid'),
    ('metered', '{"thresholds": [80.5]}', 'thresholds of "gm.x" are not valid'),
    ('metered', '{"thresholds": ["80"]}', 'thresholds of "gm.x" are not valid'),
    ('metered', '{"thresholds": [1,2,3,4,5,6,7,8,9]}', 'thresholds of "gm.x" are not valid')) AS c (kind, options, message);
SELECT throws_ok($$ SELECT grownext.feature_define('gm.x', 'gm', 'metered', '{"thresholds": 80}') $$, '22023', NULL, 'thresholds are an array');
SELECT lives_ok($$ SELECT grownext.feature_define('gm.strict', 'gm', 'metered', '{"default": 10}');
                   SELECT grownext.feature_define('gm.escrow', 'gm', 'metered', '{"default": 10, "tier": "escrow", "shards": 4}');
                   SELECT grownext.feature_define('gm.soft', 'gm', 'metered', '{"default": 10, "tier": "soft"}');
                   SELECT grownext.feature_define('gm.plain', 'gm', 'boolean', '{"default": true}');
                   SELECT grownext.feature_define('gm.none', 'gm', 'metered') $$, 'a feature of each tier');

-- What every tier does alike ---------------------------------------------------------

-- counters against their slots; events are in neither
CREATE TEMP VIEW unequal AS
SELECT coalesce(c.tenant_id, h.tenant_id) AS tenant_id, coalesce(c.feature_id, h.feature_id) AS feature_id, c.used, h.amount
  FROM (SELECT u.tenant_id, u.feature_id, u.period, u.period_start, sum(u.used) AS used FROM _grownext.entitlement_usage AS u GROUP BY 1, 2, 3, 4) AS c
  FULL JOIN (SELECT l.tenant_id, l.feature_id, l.period, l.period_start, sum(l.amount) AS amount
               FROM (SELECT tenant_id, feature_id, period, period_start, slot_used AS amount FROM _grownext.entitlement_usage
                     UNION ALL SELECT tenant_id, feature_id, period, period_start, amount FROM _grownext.entitlement_usage_slot) AS l GROUP BY 1, 2, 3, 4) AS h
    USING (tenant_id, feature_id, period, period_start)
 WHERE coalesce(c.used, 0) <> coalesce(h.amount, 0);
CREATE FUNCTION pg_temp.said(result grownext.usage_result) RETURNS text LANGUAGE sql AS
$$ SELECT format('%s %s of %s, %s left%s', CASE WHEN result.allowed THEN 'yes' ELSE 'no' END, result.used, result.quota, result.remaining, ' ' || result.reason) $$;

-- a column of thresholds that were told, with used and quota
CREATE TEMP VIEW told AS
SELECT e.tenant_id, e.target, e.id, (e.change -> 'after' ->> 'percent')::int AS percent, e.change -> 'after' AS event
  FROM grownext.audit_event AS e WHERE e.action = 'usage.threshold_reached';

SELECT is(pg_temp.said(grownext.usage_consume(f, 7, tenant_id => pg_temp.acme())), 'yes 7 of 10, 3 left', f || ': seven of ten')
  FROM unnest('{gm.strict,gm.escrow,gm.soft}'::text[]) AS f;
SELECT is((SELECT count(*) FROM told), 0::bigint, 'seven of ten reach no threshold');
SELECT is(pg_temp.said(grownext.usage_consume(f, 4, tenant_id => pg_temp.acme())), 'no 7 of 10, 3 left quota_exceeded', f || ': four more are too many')
  FROM unnest('{gm.strict,gm.escrow,gm.soft}'::text[]) AS f;
SELECT is(pg_temp.said(grownext.usage_consume(f, 1, tenant_id => pg_temp.acme())), 'yes 8 of 10, 2 left', f || ': eight')
  FROM unnest('{gm.strict,gm.escrow,gm.soft}'::text[]) AS f;
SELECT results_eq($$ SELECT target, percent, event ->> 'used', event ->> 'quota', event ->> 'period' FROM told ORDER BY 1 $$,
    $$ VALUES ('feature:gm.escrow', 80, '8', '10', 'month'), ('feature:gm.soft', 80, '8', '10', 'month'), ('feature:gm.strict', 80, '8', '10', 'month') $$,
    'eight of ten reach 80 %, in the same transaction');
SELECT is(pg_temp.said(grownext.usage_return(f, 5, tenant_id => pg_temp.acme())), 'yes 3 of 10, 7 left', f || ': five come back')
  FROM unnest('{gm.strict,gm.escrow,gm.soft}'::text[]) AS f;
SELECT is(pg_temp.said(grownext.usage_return(f, 4, tenant_id => pg_temp.acme())), 'no  of ,  left nothing_to_return', f || ': four of three do not')
  FROM unnest('{gm.strict,gm.escrow,gm.soft}'::text[]) AS f;
SELECT is(pg_temp.said(grownext.usage_consume(f, 7, tenant_id => pg_temp.acme())), 'yes 10 of 10, 0 left', f || ': all ten')
  FROM unnest('{gm.strict,gm.escrow,gm.soft}'::text[]) AS f;
SELECT results_eq($$ SELECT target, array_agg(percent ORDER BY id) FROM told GROUP BY 1 ORDER BY 1 $$,
    $$ VALUES ('feature:gm.escrow', '{80,100}'::int[]), ('feature:gm.soft', '{80,100}'), ('feature:gm.strict', '{80,100}') $$,
    'a threshold that is crossed twice is told once');
SELECT is(pg_temp.said(grownext.usage_consume(f, 1, tenant_id => pg_temp.acme())), 'no 10 of 10, 0 left quota_exceeded', f || ': used up')
  FROM unnest('{gm.strict,gm.escrow,gm.soft}'::text[]) AS f;
SELECT is(e.used || ' ' || e.allowed, '10 false', f || ': entitlement() says so') FROM unnest('{gm.strict,gm.escrow,gm.soft}'::text[]) AS f
 CROSS JOIN LATERAL grownext.entitlement(f, pg_temp.acme()) AS e;
SELECT results_eq($$ SELECT feature COLLATE "default", used FROM grownext.usage_period WHERE tenant_id = pg_temp.acme() ORDER BY 1 $$,
    $$ VALUES ('gm.escrow', 10::bigint), ('gm.soft', 10), ('gm.strict', 10) $$, 'usage_period shows every tier');
SELECT results_eq($$ SELECT feature, used FROM grownext.entitlements(pg_temp.acme()) WHERE feature IN ('gm.escrow', 'gm.soft', 'gm.strict') ORDER BY 1 $$,
    $$ VALUES ('gm.escrow', 10::bigint), ('gm.soft', 10), ('gm.strict', 10) $$, 'and entitlements()');

-- more quota: room again, and the thresholds of this period stay told
SELECT isnt(grownext.entitlement_grant(pg_temp.acme(), f, '100'), NULL, f || ': a larger quota') FROM unnest('{gm.strict,gm.escrow,gm.soft}'::text[]) AS f;
SELECT is(pg_temp.said(grownext.usage_consume(f, 85, tenant_id => pg_temp.acme())), 'yes 95 of 100, 5 left', f || ': 85 more')
  FROM unnest('{gm.strict,gm.escrow,gm.soft}'::text[]) AS f;
SELECT is((SELECT count(*) FROM told), 6::bigint, 'a raised quota tells nothing again in this period');
SELECT is_empty('SELECT * FROM unequal', 'ledger and counters are equal');
SELECT lives_ok($$ SELECT _grownext.entitlement_tick('2030-03-04 12:00:00+00') $$, 'a pass of the worker');
SELECT is_empty('SELECT * FROM _grownext.entitlement_usage_event', 'folds all of it');
SELECT is_empty('SELECT * FROM unequal', 'ledger and counters are equal after the fold');
SELECT is(pg_temp.said(grownext.usage_consume(f, 6, tenant_id => pg_temp.acme())), 'no 95 of 100, 5 left quota_exceeded', f || ': the fold changes no answer')
  FROM unnest('{gm.strict,gm.escrow,gm.soft}'::text[]) AS f;

-- what rolls back was not used, and told nothing
SAVEPOINT undone;
SELECT is(pg_temp.said(grownext.usage_consume('gm.escrow', 5, tenant_id => pg_temp.acme())), 'yes 100 of 100, 0 left', 'five more');
ROLLBACK TO undone;
SELECT is(e.used, 95::bigint, 'are gone with the savepoint') FROM grownext.entitlement('gm.escrow', pg_temp.acme()) AS e;

-- the escrow rows hold what they promise
SELECT is((SELECT sum(u.allowance) FROM _grownext.entitlement_usage AS u JOIN _grownext.entitlement_feature AS f ON f.id = u.feature_id
            WHERE f.feature = 'gm.escrow' AND u.shard > 0), 100::numeric, 'allowances sum to the quota');
SELECT is((SELECT bool_and(u.used BETWEEN 0 AND u.allowance) FROM _grownext.entitlement_usage AS u JOIN _grownext.entitlement_feature AS f ON f.id = u.feature_id
            WHERE f.feature = 'gm.escrow' AND u.shard > 0), true, 'and no shard is used beyond its own');
SELECT is(pg_temp.said(grownext.usage_consume('gm.escrow', 5, tenant_id => pg_temp.acme())), 'yes 100 of 100, 0 left',
    'five are there, although no shard holds five');

-- Another tier keeps the units --------------------------------------------------------

SELECT lives_ok(format('SELECT grownext.feature_define(%L, %L, %L, %L)', 'gm.' || f, 'gm', 'metered', '{"default": 10, "tier": "' || t || '"}'), f || ' becomes ' || t)
  FROM (VALUES ('strict', 'soft'), ('escrow', 'strict'), ('soft', 'escrow')) AS c (f, t);
SELECT is(pg_temp.said(grownext.usage_consume('gm.strict', 5, tenant_id => pg_temp.acme())), 'yes 100 of 100, 0 left', 'strict, now soft');
SELECT is(pg_temp.said(grownext.usage_consume('gm.escrow', 1, tenant_id => pg_temp.acme())), 'no 100 of 100, 0 left quota_exceeded', 'escrow, now strict');
SELECT is(pg_temp.said(grownext.usage_return('gm.escrow', 60, tenant_id => pg_temp.acme())), 'yes 40 of 100, 60 left', 'gives back from all shards');
SELECT is(pg_temp.said(grownext.usage_consume('gm.soft', 5, tenant_id => pg_temp.acme())), 'yes 100 of 100, 0 left', 'soft, now escrow');
SELECT is(pg_temp.said(grownext.usage_consume('gm.soft', 1, tenant_id => pg_temp.acme())), 'no 100 of 100, 0 left quota_exceeded', 'and no more');
SELECT lives_ok($$ SELECT grownext.feature_define('gm.strict', 'gm', 'metered', '{"default": 10}') $$, 'soft becomes strict with an event that is not folded');
SELECT is(pg_temp.said(grownext.usage_consume('gm.strict', 1, tenant_id => pg_temp.acme())), 'no 100 of 100, 0 left quota_exceeded', 'which counts');
SELECT is_empty('SELECT * FROM unequal', 'ledger and counters are equal after all that');
SELECT lives_ok($$ SELECT grownext.feature_define('gm.soft', 'gm', 'metered', '{"default": 10, "tier": "escrow", "shards": 32}') $$, 'more shards');
SELECT is(pg_temp.said(grownext.usage_return('gm.soft', 100, tenant_id => pg_temp.acme())), 'yes 0 of 100, 100 left', 'all come back');
SELECT is(pg_temp.said(grownext.usage_consume('gm.soft', 100, tenant_id => pg_temp.acme())), 'yes 100 of 100, 0 left', 'and go again');
SELECT lives_ok($$ SELECT grownext.feature_define('gm.soft', 'gm', 'metered', '{"default": 10, "tier": "escrow", "shards": 2}') $$, 'fewer shards');
SELECT is(pg_temp.said(grownext.usage_return('gm.soft', 1, tenant_id => pg_temp.acme())), 'yes 99 of 100, 1 left', 'one comes back');
SELECT is_empty('SELECT * FROM unequal', 'and still equal');

-- A quota that is taken down: what was used stays, nothing more is granted
SET LOCAL grownext.test_clock = '2030-03-04 12:00:01+00';
SELECT isnt(grownext.entitlement_grant(pg_temp.acme(), 'gm.soft', '50'), NULL, 'half the quota');
SELECT is(pg_temp.said(grownext.usage_consume('gm.soft', 1, tenant_id => pg_temp.acme())), 'no 99 of 50, 0 left quota_exceeded', 'denies');
SELECT is(pg_temp.said(grownext.usage_return('gm.soft', 60, tenant_id => pg_temp.acme())), 'yes 39 of 50, 11 left', 'until enough came back');
SELECT is(pg_temp.said(grownext.usage_consume('gm.soft', 11, tenant_id => pg_temp.acme())), 'yes 50 of 50, 0 left', 'exactly');
SELECT is(pg_temp.said(grownext.usage_consume('gm.soft', 1, tenant_id => pg_temp.acme())), 'no 50 of 50, 0 left quota_exceeded', 'no more');

-- Slots -----------------------------------------------------------------------------------

CREATE TEMP VIEW slot AS
SELECT f.feature COLLATE "default" AS feature, h.slot_start, sum(h.amount)::bigint AS amount
  FROM _grownext.entitlement_usage_history AS h JOIN _grownext.entitlement_feature AS f ON f.id = h.feature_id
 WHERE h.tenant_id = pg_temp.acme() AND f.feature LIKE 'gm.slot.%' GROUP BY 1, 2 HAVING sum(h.amount) <> 0;
SELECT lives_ok(format('SELECT grownext.feature_define(%L, %L, %L, %L)', 'gm.slot.' || t, 'gm', 'metered', '{"default": 1000000, "period": "never", "tier": "' || t || '"}'), 'slots, ' || t)
  FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SET LOCAL grownext.test_clock = '2030-03-04 12:14:59.999999+00';
SELECT lives_ok(format('SELECT grownext.usage_consume(%L, 7, tenant_id => %L)', 'gm.slot.' || t, pg_temp.acme()), t || ': in one quarter of an hour') FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SET LOCAL grownext.test_clock = '2030-03-04 12:15:00+00';
SELECT lives_ok(format('SELECT grownext.usage_consume(%L, 5, tenant_id => %L)', 'gm.slot.' || t, pg_temp.acme()), t || ': and in the next') FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SELECT lives_ok(format('SELECT grownext.usage_return(%L, 9, tenant_id => %L)', 'gm.slot.' || t, pg_temp.acme()), t || ': more comes back than was used in it') FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SELECT lives_ok(format('SELECT grownext.usage_record(%L, 2, %L, %L, %L)', 'gm.slot.' || t, 'slot-' || t, '2030-03-04 12:01Z', pg_temp.acme()), t || ': a late record') FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SAVEPOINT undone;
SET LOCAL grownext.test_clock = '2030-03-04 12:30:00+00';
SELECT lives_ok(format('SELECT grownext.usage_consume(%L, 100, tenant_id => %L)', 'gm.slot.' || t, pg_temp.acme()), t || ': what rolls back') FROM unnest('{strict,escrow,soft}'::text[]) AS t;
ROLLBACK TO undone;
SELECT results_eq('SELECT feature, slot_start, amount FROM slot ORDER BY 1, 2',
    $$ SELECT 'gm.slot.' || t, s.start::timestamptz, s.amount FROM unnest('{escrow,soft,strict}'::text[]) AS t,
         (VALUES ('2030-03-04 12:00Z', 9::bigint), ('2030-03-04 12:15Z', -4)) AS s (start, amount) $$, 'each to its quarter, and what rolled back to none');
SELECT is((SELECT used FROM grownext.usage_consume('gm.slot.soft', 1, tenant_id => pg_temp.acme())), 6::bigint, 'nor does the session remember it');
SELECT is((SELECT used FROM grownext.usage_return('gm.slot.soft', 1, tenant_id => pg_temp.acme())), 5::bigint, 'what came back is known');
SELECT is((SELECT used FROM grownext.usage_consume('gm.slot.soft', 1, tenant_id => pg_temp.acme())), 6::bigint, 'at once');
SELECT is(grownext.entitlement_explain('gm.slot.soft', pg_temp.acme()) -> 'approximate', 'true', 'explain says that a soft counter is approximate');
SELECT is(grownext.entitlement_explain('gm.slot.' || t, pg_temp.acme()) -> 'approximate', NULL, t || ': and no other one') FROM unnest('{strict,escrow}'::text[]) AS t;
SELECT lives_ok($$ SELECT grownext.usage_return('gm.slot.soft', 1, tenant_id => pg_temp.acme()) $$, 'one back');
SELECT is_empty('SELECT * FROM unequal', 'slots and counters are equal');
-- a reservation that expired comes back in the background, in every tier
SELECT isnt(grownext.usage_reserve('gm.slot.' || t, 50, '1 minute', NULL, pg_temp.acme()), NULL, t || ': reserved') FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SET LOCAL grownext.test_clock = '2030-03-04 12:20:00+00';
SELECT lives_ok($$ SELECT _grownext.entitlement_tick('2030-03-04 12:20:00+00') $$, 'a pass of the worker');
SELECT is((grownext.entitlement('gm.slot.' || t, pg_temp.acme())).used, 5::bigint, t || ': is there again') FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SELECT is_empty('SELECT * FROM unequal', 'slots and counters are equal');
SET LOCAL grownext.test_clock = '2030-03-04 12:00:01+00';

-- Soft quotas ---------------------------------------------------------------------------

SELECT lives_ok(format('SELECT grownext.feature_define(%L, %L, %L, %L)', 'gm.over.' || t, 'gm', 'metered',
    '{"default": {"quota": 10, "soft": true, "period": "day"}, "thresholds": [100, 150, 100], "tier": "' || t || '"}'), 'a soft quota, ' || t)
  FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SELECT is(pg_temp.said(grownext.usage_consume('gm.over.' || t, 14, tenant_id => pg_temp.acme())), 'yes 14 of 10, 0 left', t || ': passes a soft quota')
  FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SELECT is(pg_temp.said(grownext.usage_consume('gm.over.' || t, 3, tenant_id => pg_temp.acme())), 'yes 17 of 10, 0 left', t || ': again')
  FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SELECT results_eq($$ SELECT target, array_agg(percent ORDER BY id) FROM told WHERE target LIKE '%over%' GROUP BY 1 ORDER BY 1 $$,
    $$ VALUES ('feature:gm.over.escrow', '{100,150}'::int[]), ('feature:gm.over.soft', '{100,150}'), ('feature:gm.over.strict', '{100,150}') $$,
    'thresholds above the quota, each once');

-- usage_record and usage_set ---------------------------------------------------------------

SELECT lives_ok(format('SELECT grownext.feature_define(%L, %L, %L, %L)', 'gm.rec.' || t, 'gm', 'metered',
    '{"default": {"quota": 10, "period": "day"}, "tier": "' || t || '"}'), 'by day, ' || t)
  FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SELECT is(pg_temp.said(grownext.usage_record('gm.rec.' || t, 25, 'e-' || t, tenant_id => pg_temp.acme())), 'yes 25 of 10, 0 left', t || ': a record knows no limit')
  FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SELECT is(pg_temp.said(grownext.usage_record('gm.rec.' || t, 25, 'e-' || t, tenant_id => pg_temp.acme())), 'yes 25 of 10, 0 left', t || ': the same event once')
  FROM unnest('{strict}'::text[]) AS t;
SELECT is(pg_temp.said(grownext.usage_consume('gm.rec.' || t, 1, tenant_id => pg_temp.acme())), 'no 25 of 10, 0 left quota_exceeded', t || ': a consume does')
  FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SELECT is(pg_temp.said(grownext.usage_record('gm.rec.' || t, 4, 'late-' || t, '2030-03-02 20:00Z', pg_temp.acme())), 'yes 4 of 10, 6 left', t || ': a late event goes to its day')
  FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SELECT results_eq($$ SELECT feature COLLATE "default", period_start, used FROM grownext.usage_period WHERE feature LIKE 'gm.rec.%' ORDER BY 1, 2 $$,
    $$ SELECT 'gm.rec.' || t, p.start::timestamptz, p.used FROM unnest('{escrow,soft,strict}'::text[]) AS t,
         (VALUES ('2030-03-03 00:00+05:30', 4::bigint), ('2030-03-04 00:00+05:30', 25)) AS p (start, used) $$, 'in the tenant''s time zone');
SELECT is(pg_temp.said(grownext.usage_set('gm.rec.' || t, 6, pg_temp.acme())), 'yes 6 of 10, 4 left', t || ': set') FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SELECT is(pg_temp.said(grownext.usage_consume('gm.rec.' || t, 4, tenant_id => pg_temp.acme())), 'yes 10 of 10, 0 left', t || ': and what is left is left')
  FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SELECT is(pg_temp.said(grownext.usage_set('gm.rec.' || t, 0, pg_temp.acme())), 'yes 0 of 10, 10 left', t || ': set to nothing') FROM unnest('{strict,escrow,soft}'::text[]) AS t;
SELECT is(pg_temp.said(grownext.usage_set('gm.rec.strict', 5, beta)), 'yes 5 of 10, 5 left', 'set before anything was used') FROM world;
SELECT is_empty('SELECT * FROM unequal', 'ledger and counters are equal');

SELECT throws_ok($$ SELECT grownext.usage_record('gm.rec.strict', 26, 'e-strict', tenant_id => pg_temp.acme()) $$, 'NX040', NULL, 'another amount under the same key');
SELECT throws_ok($$ SELECT grownext.usage_record('gm.rec.strict', 1, NULL, tenant_id => pg_temp.acme()) $$, '22023', 'usage is recorded under an idempotency key', 'no key');
SELECT throws_ok($$ SELECT grownext.usage_record('gm.rec.strict', 0, 'k', tenant_id => pg_temp.acme()) $$, '22023', NULL, 'no amount');
SELECT throws_ok($$ SELECT grownext.usage_record('gm.rec.strict', NULL, 'k', tenant_id => pg_temp.acme()) $$, '22023', NULL, 'NULL amount');
SELECT throws_ok($$ SELECT grownext.usage_record('gm.rec.strict', 1, 'k', '2030-03-05', pg_temp.acme()) $$, '22023', 'usage cannot be recorded ahead of time', 'ahead of time');
SELECT throws_ok($$ SELECT grownext.usage_record('gm.rec.strict', 1, 'k', '-infinity', pg_temp.acme()) $$, '22008', NULL, 'no instant');
SELECT throws_ok($$ SELECT grownext.usage_set('gm.rec.strict', -1, pg_temp.acme()) $$, '22023', 'used must not be negative', 'below zero');
SELECT throws_ok($$ SELECT grownext.usage_set('gm.rec.strict', NULL, pg_temp.acme()) $$, '22023', 'used must not be negative', 'NULL');
SELECT throws_ok($$ SELECT grownext.usage_consume('gm.over.soft', 9000000000000000000, tenant_id => pg_temp.acme()) $$, '22003', NULL, 'an event has a size');
SELECT lives_ok($$ SELECT grownext.usage_record('gm.over.strict', 9223372036854775807 - 17, 'huge', tenant_id => pg_temp.acme()) $$, 'up to the end of bigint');
SELECT throws_ok($$ SELECT grownext.usage_record('gm.over.strict', 1, 'more', tenant_id => pg_temp.acme()) $$, '22003', 'usage of "gm.over.strict" is out of range', 'and not further');
SELECT is(r.reason, c.reason, c.reason || ' is not recorded')
  FROM (VALUES ('gm.plain', 'not_metered'), ('gm.none', 'not_included'), ('gm.unknown', 'unknown_feature'), (NULL, 'unknown_feature')) AS c (feature, reason)
 CROSS JOIN LATERAL grownext.usage_record(c.feature, 1, 'k', tenant_id => pg_temp.acme()) AS r;
SELECT is(r.reason, c.reason, c.reason || ' is not set')
  FROM (VALUES ('gm.plain', 'not_metered'), ('gm.none', 'not_included'), ('gm.unknown', 'unknown_feature'), (NULL, 'unknown_feature')) AS c (feature, reason)
 CROSS JOIN LATERAL grownext.usage_set(c.feature, 1, pg_temp.acme()) AS r;
SELECT is_empty($$ SELECT * FROM _grownext.entitlement_usage_key WHERE idempotency_key = 'k' $$, 'what was not recorded keeps no key');

-- A pool gives back where it was counted
SELECT lives_ok($$ SELECT grownext.feature_define('gm.pool', 'gm', 'metered', '{"default": 10, "inherit": "pool"}');
                   SELECT grownext.tenant_create('gm-child', 'Child', id => 'c2000000-0000-4000-8000-000000000003', parent_id => pg_temp.acme()) $$, 'a pool');
SELECT is(pg_temp.said(grownext.usage_consume('gm.pool', 3, tenant_id => 'c2000000-0000-4000-8000-000000000003')), 'yes 3 of 10, 7 left', 'the child consumes');
SELECT is(pg_temp.said(grownext.usage_return('gm.pool', 2, tenant_id => 'c2000000-0000-4000-8000-000000000003')), 'yes 1 of 10, 9 left', 'and gives back');
SELECT is((SELECT p.used FROM grownext.usage_period AS p WHERE p.feature = 'gm.pool' AND p.tenant_id = pg_temp.acme()), 1::bigint, 'at the parent');

-- The report ------------------------------------------------------------------------------

SELECT lives_ok($$ SELECT grownext.feature_define('gm.rep', 'gm', 'metered', '{"default": {"quota": 100, "soft": true, "period": "month"}}') $$, 'a feature to report of');
-- midnight in Kolkata is 18:30 UTC
SET LOCAL grownext.test_clock = '2030-03-03 18:29:00+00';
SELECT is((grownext.usage_consume('gm.rep', 60, tenant_id => pg_temp.acme())).allowed, true, '60 before midnight');
SET LOCAL grownext.test_clock = '2030-03-03 18:31:00+00';
SELECT is((grownext.usage_consume('gm.rep', 70, tenant_id => pg_temp.acme())).allowed, true, '70 after midnight');
SET LOCAL grownext.test_clock = '2030-03-04 19:00:00+00';
SELECT is((grownext.usage_consume('gm.rep', 20, tenant_id => pg_temp.acme())).allowed, true, '20 a day later');
SET LOCAL grownext.test_clock = '2030-03-04 20:00:00+00';
SELECT is((grownext.usage_return('gm.rep', 60, tenant_id => pg_temp.acme())).allowed, true, '60 come back');
CREATE FUNCTION pg_temp.report(bucket text) RETURNS TABLE (bucket_start timestamptz, used bigint, quota bigint, overage bigint) LANGUAGE sql AS
$$ SELECT r.bucket_start, r.used, r.quota, r.overage FROM grownext.usage_report('2030-01-01', '2031-01-01', pg_temp.acme(), 'gm.rep', bucket) AS r $$;
CREATE TEMP TABLE wanted (bucket text, bucket_start timestamptz, used bigint, quota bigint, overage bigint);
INSERT INTO wanted VALUES
    ('day', '2030-03-03 00:00+05:30', 60, 100, 0), ('day', '2030-03-04 00:00+05:30', 70, 100, 30), ('day', '2030-03-05 00:00+05:30', -40, 100, -30),
    ('hour', '2030-03-03 23:00+05:30', 60, 100, 0), ('hour', '2030-03-04 00:00+05:30', 70, 100, 30), ('hour', '2030-03-05 00:00+05:30', 20, 100, 20),
    ('hour', '2030-03-05 01:00+05:30', -60, 100, -50), ('month', '2030-03-01 00:00+05:30', 90, 100, 0);
SELECT results_eq(format('SELECT * FROM pg_temp.report(%L)', b), format('SELECT bucket_start, used, quota, overage FROM wanted WHERE bucket = %L ORDER BY 1', b),
    'by ' || b || ', with what went beyond the quota') FROM unnest('{hour,day,month}'::text[]) AS b;
SELECT lives_ok($$ SELECT _grownext.entitlement_tick('2030-03-04 20:00:00+00') $$, 'a pass of the worker');
SELECT results_eq(format('SELECT * FROM pg_temp.report(%L)', b), format('SELECT bucket_start, used, quota, overage FROM wanted WHERE bucket = %L ORDER BY 1', b),
    'by ' || b || ', the same when it is folded') FROM unnest('{hour,day,month}'::text[]) AS b;
SELECT results_eq($$ SELECT r.bucket_start, r.used, r.overage FROM grownext.usage_report('2030-03-03 18:30+00', '2030-03-04 18:30+00', pg_temp.acme(), 'gm.rep') AS r $$,
    $$ VALUES ('2030-03-04 00:00+05:30'::timestamptz, 70::bigint, 30::bigint) $$, 'one day: what came before counts towards the quota');
SELECT results_eq($$ SELECT r.bucket_start, r.used, r.quota, r.overage FROM grownext.usage_report('2030-03-01', '2030-04-01', pg_temp.acme(), 'gm.over.escrow', 'month') AS r $$,
    $$ VALUES ('2030-03-01 00:00+05:30'::timestamptz, 17::bigint, 10::bigint, 7::bigint) $$, 'a month of days: their overage, added up');
SELECT is_empty($$ SELECT * FROM grownext.usage_report('2030-05-01', '2031-01-01', pg_temp.acme()) WHERE feature <> 'gm.nothing' AND bucket_start < '2030-05-01' $$, 'nothing else');
SELECT throws_ok(format('SELECT * FROM grownext.usage_report(%L, %L, pg_temp.acme(), NULL, %L)', c.since, c.until, c.bucket), '22023', NULL, c.what)
  FROM (VALUES ('2030-01-02', '2030-01-01', 'day', 'an end before the begin'), (NULL, '2030-01-01', 'day', 'no begin'), ('2030-01-01', 'infinity', 'day', 'no end'),
               ('2030-01-01', '2030-02-01', 'week', 'no such bucket'), ('2030-01-01', '2030-02-01', NULL, 'no bucket')) AS c (since, until, bucket, what);

-- who sees what
SELECT isnt((SELECT count(DISTINCT r.tenant_id) FROM grownext.usage_report('2030-01-01', '2031-01-01') AS r), 1::bigint, 'without a context: all tenants');
SELECT lives_ok($$ SELECT grownext.act_as('ann', beta) FROM world $$, 'as a user of beta');
SET LOCAL ROLE gm_user;
SELECT results_eq($$ SELECT DISTINCT r.tenant_id, r.feature FROM grownext.usage_report('2030-01-01', '2031-01-01') AS r $$, $$ SELECT beta, 'gm.rec.strict'::text FROM world $$, 'the own tenant''s');
SELECT throws_ok($$ SELECT * FROM grownext.usage_report('2030-01-01', '2031-01-01', pg_temp.acme()) $$, '42501', NULL, 'another''s is refused');
RESET ROLE;

-- status() ----------------------------------------------------------------------------------

SELECT is_empty($$ SELECT * FROM grownext.status() WHERE item = 'hot counter' $$, 'nobody waited');
INSERT INTO _grownext.entitlement_usage_hot SELECT pg_temp.acme(), f.id, '2030-03-04 19:30Z' FROM _grownext.entitlement_feature AS f WHERE f.feature IN ('gm.strict', 'gm.rec.escrow');
SELECT is((SELECT s.state || ' ' || (s.hint LIKE '%"tier": "escrow"%')::text FROM grownext.status() AS s WHERE s.item = 'hot counter'), 'degraded true',
    'a hot strict counter is reported with its remedy, an escrow one is not');
SET LOCAL grownext.test_clock = '2030-03-04 20:31:00+00';
SELECT is_empty($$ SELECT * FROM grownext.status() WHERE item = 'hot counter' $$, 'an hour later it is forgotten');

SELECT * FROM finish();
ROLLBACK;
