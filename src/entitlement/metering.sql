-- src/entitlement/metering.sql: what counts, what was counted, and the work behind it

-- Counting ------------------------------------------------------------------

CREATE OR REPLACE FUNCTION grownext.usage_consume(feature text, amount bigint DEFAULT 1, idempotency_key text DEFAULT NULL, tenant_id uuid DEFAULT NULL) RETURNS grownext.usage_result
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_usage_consume';
COMMENT ON FUNCTION grownext.usage_consume(text, bigint, text, uuid) IS 'Consumes units of a metered feature, all or nothing, in the caller''s transaction.';

CREATE OR REPLACE FUNCTION grownext.usage_require(feature text, amount bigint DEFAULT 1, idempotency_key text DEFAULT NULL, tenant_id uuid DEFAULT NULL) RETURNS grownext.usage_result
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_usage_require';
COMMENT ON FUNCTION grownext.usage_require(text, bigint, text, uuid) IS 'Consumes, and raises NX021 when the quota is used up, NX020 when there is none.';

CREATE OR REPLACE FUNCTION grownext.usage_return(feature text, amount bigint DEFAULT 1, idempotency_key text DEFAULT NULL, tenant_id uuid DEFAULT NULL) RETURNS grownext.usage_result
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_usage_return';
COMMENT ON FUNCTION grownext.usage_return(text, bigint, text, uuid) IS 'Gives consumed units back to the running period.';

CREATE OR REPLACE FUNCTION grownext.usage_record(feature text, amount bigint, idempotency_key text, at timestamptz DEFAULT NULL, tenant_id uuid DEFAULT NULL) RETURNS grownext.usage_result
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_usage_record';
COMMENT ON FUNCTION grownext.usage_record(text, bigint, text, timestamptz, uuid) IS 'Writes down what was used, without a limit, in the period of that instant.';

CREATE OR REPLACE FUNCTION grownext.usage_set(feature text, used bigint, tenant_id uuid DEFAULT NULL) RETURNS grownext.usage_result
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_usage_set';
COMMENT ON FUNCTION grownext.usage_set(text, bigint, uuid) IS 'Sets what is used of a metered feature in the running period, for what is counted elsewhere.';

CREATE OR REPLACE FUNCTION _grownext.entitlement_threshold_tell(tenant_id uuid, feature text, percent int, used bigint, quota bigint,
    period text, period_start timestamptz, period_end timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT _grownext.tenant_record('usage.threshold_reached', 'feature:' || feature, tenant_id, NULL,
        jsonb_build_object('feature', feature, 'percent', percent, 'used', used, 'quota', quota, 'period', period,
                           'period_start', nullif(period_start, '-infinity'), 'period_end', nullif(period_end, 'infinity')));
$$;
COMMENT ON FUNCTION _grownext.entitlement_threshold_tell(uuid, text, int, bigint, bigint, text, timestamptz, timestamptz) IS 'Tells that a counter reached a percentage of its quota: audit event and platform event.';

-- Reporting -----------------------------------------------------------------

-- A row for each counter of any tier, with what it says now.
CREATE OR REPLACE VIEW _grownext.entitlement_counter AS
    SELECT u.tenant_id, u.feature_id, u.period, u.period_start, u.period_end, u.quota,
           ((SELECT coalesce(sum(r.used), 0) FROM _grownext.entitlement_usage AS r
              WHERE r.tenant_id = u.tenant_id AND r.feature_id = u.feature_id AND r.period_start = u.period_start AND r.period = u.period)
          + (SELECT coalesce(sum(e.amount), 0) FROM _grownext.entitlement_usage_event AS e
              WHERE e.tenant_id = u.tenant_id AND e.feature_id = u.feature_id AND e.period_start = u.period_start AND e.period = u.period))::bigint AS used
      FROM _grownext.entitlement_usage AS u
     WHERE u.shard = 0;
COMMENT ON VIEW _grownext.entitlement_counter IS 'Counters: their rows, and events of the soft tier that no row holds yet, added up.';

-- A sum of units as bigint; what does not fit is the largest number there is.
CREATE OR REPLACE FUNCTION _grownext.entitlement_units(units numeric) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT greatest(least(units, 9223372036854775807), -9223372036854775808)::bigint;
$$;
COMMENT ON FUNCTION _grownext.entitlement_units(numeric) IS 'A sum of units, as far as it fits.';

-- All that was used, by quarter of an hour: finished slots, those that run, what was burnt,
-- and what is not counted yet.
CREATE OR REPLACE VIEW _grownext.entitlement_usage_history AS
    SELECT s.tenant_id, s.feature_id, s.period, s.period_start, s.slot_start, s.amount FROM _grownext.entitlement_usage_slot AS s
    UNION ALL
    SELECT u.tenant_id, u.feature_id, u.period, u.period_start, u.slot_start, u.slot_used FROM _grownext.entitlement_usage AS u WHERE u.slot_used <> 0
    UNION ALL
    SELECT b.tenant_id, b.feature_id, 'never', '-infinity'::timestamptz, pg_catalog.date_bin('15 minutes', b.at, '2000-01-01 00:00Z'), b.amount FROM _grownext.entitlement_burn AS b
    UNION ALL
    SELECT e.tenant_id, e.feature_id, e.period, e.period_start, pg_catalog.date_bin('15 minutes', e.at, '2000-01-01 00:00Z'), e.amount FROM _grownext.entitlement_usage_event AS e;
COMMENT ON VIEW _grownext.entitlement_usage_history IS 'What of each counter was used in which quarter of an hour.';

-- Overage is what a bucket added to the usage beyond its period's quota: the running sum of
-- the period at the end of the bucket, less that at its begin, each above the quota. Sums
-- of buckets are therefore exact, whatever their width.
CREATE OR REPLACE FUNCTION grownext.usage_report(since timestamptz, until timestamptz, tenant_id uuid DEFAULT NULL, feature text DEFAULT NULL, bucket text DEFAULT 'day') RETURNS SETOF grownext.usage_bucket
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    named CONSTANT text := usage_report.feature;
    width CONSTANT text := usage_report.bucket;
    sees_all CONSTANT boolean := _grownext.tenant_sees_all();
    scope uuid := coalesce(usage_report.tenant_id, grownext.current_tenant());  -- NULL: all
BEGIN
    IF since IS NULL OR until IS NULL OR NOT isfinite(since) OR NOT isfinite(until) OR since >= until THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'since must lie before until, and both be finite';
    ELSIF width IS NULL OR width <> ALL ('{hour,day,month}') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('bucket "%s" does not exist', coalesce(width, 'NULL')),
            HINT = 'Use hour, day or month.';
    END IF;
    IF NOT sees_all THEN
        scope := _grownext.core_caller_tenant(usage_report.tenant_id);
    END IF;
    RETURN QUERY
    WITH counter AS (
        SELECT u.tenant_id, u.feature_id, f.feature, u.period, u.period_start, u.quota, t.time_zone
          FROM _grownext.entitlement_usage AS u
          JOIN _grownext.entitlement_feature AS f ON f.id = u.feature_id
          JOIN _grownext.tenant_tenant AS t ON t.id = u.tenant_id
         WHERE u.shard = 0 AND u.period_start < until AND u.period_end > since
           AND (scope IS NULL OR u.tenant_id = scope)
           AND (named IS NULL OR f.feature = named)
         UNION ALL
        -- what is burnt of a balance has no period and no one quota
        SELECT b.tenant_id, b.feature_id, f.feature, 'never', '-infinity', NULL, t.time_zone
          FROM _grownext.entitlement_balance AS b
          JOIN _grownext.entitlement_feature AS f ON f.id = b.feature_id
          JOIN _grownext.tenant_tenant AS t ON t.id = b.tenant_id
         WHERE (scope IS NULL OR b.tenant_id = scope)
           AND (named IS NULL OR f.feature = named)
    ), slot AS (
        -- from the first unit of the period on: the running sum needs them
        SELECT c.*, h.slot_start, sum(h.amount) AS amount
          FROM counter AS c
          JOIN _grownext.entitlement_usage_history AS h
            ON h.tenant_id = c.tenant_id AND h.feature_id = c.feature_id AND h.period_start = c.period_start AND h.period = c.period
         WHERE h.slot_start < until
         GROUP BY c.tenant_id, c.feature_id, c.feature, c.period, c.period_start, c.quota, c.time_zone, h.slot_start
    ), running AS (
        SELECT s.*, sum(s.amount) OVER (PARTITION BY s.tenant_id, s.feature_id, s.period, s.period_start ORDER BY s.slot_start) AS total
          FROM slot AS s
    ), placed AS (
        SELECT r.tenant_id, r.feature, r.period, r.period_start, r.quota, date_trunc(width, r.slot_start, r.time_zone) AS bucket_start, r.amount,
               coalesce(greatest(r.total - r.quota, 0) - greatest(r.total - r.amount - r.quota, 0), 0) AS beyond
          FROM running AS r
         WHERE r.slot_start >= since
    ), by_period AS (
        SELECT p.tenant_id, p.feature, p.bucket_start, p.quota, sum(p.amount) AS used, sum(p.beyond) AS beyond
          FROM placed AS p
         GROUP BY p.tenant_id, p.feature, p.bucket_start, p.period, p.period_start, p.quota
    )
    SELECT b.tenant_id, b.feature, b.bucket_start, _grownext.entitlement_units(sum(b.used)),
           CASE WHEN bool_and(b.quota IS NOT NULL) THEN _grownext.entitlement_units(sum(b.quota)) END, _grownext.entitlement_units(sum(b.beyond))
      FROM by_period AS b
     GROUP BY b.tenant_id, b.feature, b.bucket_start
     ORDER BY b.tenant_id, b.feature, b.bucket_start;
END
$$;
COMMENT ON FUNCTION grownext.usage_report(timestamptz, timestamptz, uuid, text, text) IS 'What was used by hour, day or month of the tenant''s time zone; users see their own tenant''s.';

-- Background ----------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.entitlement_usage_fold(tenant_id uuid, feature_id int, period_start timestamptz, period text) RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_entitlement_usage_fold';
COMMENT ON FUNCTION _grownext.entitlement_usage_fold(uuid, int, timestamptz, text) IS 'Counts the events of the soft tier in a counter, and tells of thresholds that they reach.';

-- Counts what the soft tier wrote, expires reservations, and forgets
-- answers to idempotency keys after 30 days and limits whose tables were dropped.
CREATE OR REPLACE FUNCTION _grownext.entitlement_tick(now timestamptz) RETURNS timestamptz
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    batch CONSTANT int := 10000;
    counter record;
    events boolean := false;
    removed bigint;
BEGIN
    FOR counter IN
        SELECT DISTINCT e.tenant_id, e.feature_id, e.period_start, e.period FROM _grownext.entitlement_usage_event AS e ORDER BY 1, 2, 3, 4
    LOOP
        PERFORM _grownext.entitlement_usage_fold(counter.tenant_id, counter.feature_id, counter.period_start, counter.period);
        events := true;
    END LOOP;
    DELETE FROM _grownext.entitlement_usage_key AS k
     WHERE (k.tenant_id, k.operation, k.idempotency_key) IN (
        SELECT o.tenant_id, o.operation, o.idempotency_key FROM _grownext.entitlement_usage_key AS o
         WHERE o.created_at < now - interval '30 days' ORDER BY o.created_at LIMIT batch FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS removed = ROW_COUNT;
    PERFORM _grownext.entitlement_gauge_forget();
    RETURN least(_grownext.entitlement_reservation_tick(now),
                 now + CASE WHEN events OR removed = batch THEN interval '1 second' ELSE interval '10 seconds' END);
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_tick(timestamptz) IS 'One pass of background work; returns when the next is due.';
