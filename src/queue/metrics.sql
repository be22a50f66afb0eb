-- src/queue/metrics.sql: figures of queues, their history and their SLAs
--
-- src/queue/metrics.c counts in shared memory; the scheduler writes down what is there.
-- Counts of queue_stats() are those of the tables and exact. Times and the history are
-- what was counted: a crash loses at most what was not written down yet.

CREATE OR REPLACE FUNCTION _grownext.queue_histogram_add(bigint[], bigint[]) RETURNS bigint[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_queue_histogram_add';
COMMENT ON FUNCTION _grownext.queue_histogram_add(bigint[], bigint[]) IS 'Two histograms as one.';

CREATE OR REPLACE AGGREGATE _grownext.queue_histogram_sum(bigint[]) (
    SFUNC = _grownext.queue_histogram_add, STYPE = bigint[], PARALLEL = SAFE);
COMMENT ON AGGREGATE _grownext.queue_histogram_sum(bigint[]) IS 'All histograms as one; NULL for none.';

CREATE OR REPLACE FUNCTION _grownext.queue_percentile(histogram bigint[], share double precision) RETURNS double precision
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_queue_percentile';
COMMENT ON FUNCTION _grownext.queue_percentile(bigint[], double precision) IS 'The time in milliseconds that a share of a histogram does not exceed.';

CREATE OR REPLACE FUNCTION _grownext.queue_measured(now timestamptz DEFAULT NULL) RETURNS SETOF _grownext.queue_history
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_queue_measured';
COMMENT ON FUNCTION _grownext.queue_measured(timestamptz) IS 'What was counted and not written down yet; with a time, what is ready for that, and is forgotten at commit.';

CREATE OR REPLACE FUNCTION _grownext.queue_minute_begins(now timestamptz) RETURNS boolean
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_queue_minute_begins';
COMMENT ON FUNCTION _grownext.queue_minute_begins(timestamptz) IS 'Whether this process sees the minute for the first time.';

CREATE OR REPLACE FUNCTION _grownext.queue_forget(queue text) RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_queue_forget';
COMMENT ON FUNCTION _grownext.queue_forget(text) IS 'Forgets at commit what was counted of a queue.';

CREATE OR REPLACE FUNCTION _grownext.queue_uncounted() RETURNS bigint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_queue_uncounted';
COMMENT ON FUNCTION _grownext.queue_uncounted() IS 'How many times found no place to be counted, since the server started.';

CREATE OR REPLACE VIEW _grownext.queue_counted AS
    SELECT h.* FROM _grownext.queue_history AS h
    UNION ALL
    SELECT m.* FROM _grownext.queue_measured() AS m;
COMMENT ON VIEW _grownext.queue_counted IS 'What was counted, written down or not.';

-- SLA -----------------------------------------------------------------------------

-- Ready jobs that wait longer than the SLA allows and have not started: a queue that
-- starts nothing attains nothing. Of a long backlog the first ten thousand are looked at.
CREATE OR REPLACE FUNCTION _grownext.queue_overdue(queue text, now timestamptz) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*)
      FROM _grownext.queue_queue AS q, LATERAL (
        SELECT j.id, j.run_at, j.enqueued_at FROM _grownext.queue_job AS j
         WHERE j.queue = q.queue AND j.ready ORDER BY j.priority, j.id LIMIT 10000) AS r
     WHERE q.queue = queue_overdue.queue AND greatest(r.run_at, r.enqueued_at) < queue_overdue.now - q.sla_start_within
       AND NOT _grownext.queue_job_running(r.id)
$$;
COMMENT ON FUNCTION _grownext.queue_overdue(text, timestamptz) IS 'Ready jobs that wait longer than the SLA of their queue allows.';

-- The share of starts within the time, over the window; NULL without any, or without an
-- SLA. A pass that has just written down what was counted asks for what is written.
CREATE OR REPLACE FUNCTION _grownext.queue_sla_attained(queue text, now timestamptz, unwritten boolean) RETURNS double precision
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.within / nullif(c.within + c.late + _grownext.queue_overdue(q.queue, queue_sla_attained.now), 0)::double precision
      FROM _grownext.queue_queue AS q, LATERAL (
        SELECT coalesce(sum(h.within), 0) AS within, coalesce(sum(h.late), 0) AS late
          FROM (SELECT h.at, h.sla_start_within, h.within, h.late FROM _grownext.queue_history AS h WHERE h.queue = q.queue
                UNION ALL
                SELECT m.at, m.sla_start_within, m.within, m.late FROM _grownext.queue_measured() AS m
                 WHERE m.queue = q.queue AND unwritten) AS h
         WHERE h.sla_start_within = q.sla_start_within AND h.at > queue_sla_attained.now - q.sla_window
           AND h.at <= queue_sla_attained.now) AS c
     WHERE q.queue = queue_sla_attained.queue AND q.sla_target IS NOT NULL
$$;
COMMENT ON FUNCTION _grownext.queue_sla_attained(text, timestamptz, boolean) IS 'The share of jobs of a queue that started within the time of its SLA.';

CREATE OR REPLACE FUNCTION _grownext.queue_judge_slas(now timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    judged record;
BEGIN
    DELETE FROM _grownext.queue_sla_miss AS m
     WHERE NOT EXISTS (SELECT FROM _grownext.queue_queue AS q WHERE q.queue = m.queue AND q.sla_target IS NOT NULL);
    FOR judged IN
        SELECT q.queue, q.sla_start_within, q.sla_target, q.sla_window, a.attained,
               coalesce(a.attained < q.sla_target, false) AS missed, m.missed_at
          FROM _grownext.queue_queue AS q
         CROSS JOIN LATERAL _grownext.queue_sla_attained(q.queue, queue_judge_slas.now, false) AS a (attained)
          LEFT JOIN _grownext.queue_sla_miss AS m ON m.queue = q.queue
         WHERE q.sla_target IS NOT NULL
         ORDER BY q.queue
    LOOP
        CONTINUE WHEN judged.missed = (judged.missed_at IS NOT NULL);
        IF judged.missed THEN
            INSERT INTO _grownext.queue_sla_miss (queue, missed_at) VALUES (judged.queue, queue_judge_slas.now);
        ELSE
            DELETE FROM _grownext.queue_sla_miss AS m WHERE m.queue = judged.queue;
        END IF;
        PERFORM _grownext.core_event_emit(CASE WHEN judged.missed THEN 'queue.sla_missed' ELSE 'queue.sla_met' END, NULL,
            jsonb_build_object('queue', judged.queue, 'attained', judged.attained, 'target', judged.sla_target,
                'start_within', judged.sla_start_within, 'window', judged.sla_window, 'missed_at', judged.missed_at));
    END LOOP;
END
$$;
COMMENT ON FUNCTION _grownext.queue_judge_slas(timestamptz) IS 'Sends an event for each queue that begins or ceases to miss its SLA.';

-- History -------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.queue_put_history(rows _grownext.queue_history[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO _grownext.queue_history AS h
    SELECT r.queue, r.at, r.seconds, r.sla_start_within, sum(r.enqueued), sum(r.started), sum(r.succeeded), sum(r.failed),
           sum(r.dead), sum(r.deadlines_missed), sum(r.within), sum(r.late),
           _grownext.queue_histogram_sum(r.wait), _grownext.queue_histogram_sum(r.run)
      FROM unnest(rows) AS r
     WHERE EXISTS (SELECT FROM _grownext.queue_queue AS q WHERE q.queue = r.queue)
     GROUP BY r.queue, r.at, r.seconds, r.sla_start_within
    ON CONFLICT ON CONSTRAINT queue_history_pkey DO UPDATE
        SET enqueued = h.enqueued + EXCLUDED.enqueued, started = h.started + EXCLUDED.started,
            succeeded = h.succeeded + EXCLUDED.succeeded, failed = h.failed + EXCLUDED.failed, dead = h.dead + EXCLUDED.dead,
            deadlines_missed = h.deadlines_missed + EXCLUDED.deadlines_missed,
            within = h.within + EXCLUDED.within, late = h.late + EXCLUDED.late,
            wait = coalesce(_grownext.queue_histogram_add(h.wait, EXCLUDED.wait), h.wait, EXCLUDED.wait),
            run = coalesce(_grownext.queue_histogram_add(h.run, EXCLUDED.run), h.run, EXCLUDED.run)
$$;
COMMENT ON FUNCTION _grownext.queue_put_history(_grownext.queue_history[]) IS 'Writes down what happened, with what is there of the same span.';

-- Once a minute: what was counted before it is written down, minutes older than two days
-- become hours, hours older than ninety days go.
CREATE OR REPLACE FUNCTION _grownext.queue_keep_figures(now timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    epoch CONSTANT timestamptz := '2000-01-01 00:00 UTC';
    minutes_until CONSTANT timestamptz := date_bin('1 hour', queue_keep_figures.now - interval '2 days', epoch);
    old _grownext.queue_history[];
BEGIN
    IF NOT _grownext.queue_minute_begins(queue_keep_figures.now) THEN
        RETURN;
    END IF;
    PERFORM _grownext.queue_put_history(
        (SELECT array_agg(m) FROM _grownext.queue_measured(queue_keep_figures.now) AS m));
    WITH gone AS (
        DELETE FROM _grownext.queue_history AS h WHERE h.seconds = 60 AND h.at < minutes_until RETURNING h.*)
    SELECT array_agg(ROW(g.queue, date_bin('1 hour', g.at, epoch), 3600, g.sla_start_within, g.enqueued, g.started, g.succeeded,
                         g.failed, g.dead, g.deadlines_missed, g.within, g.late, g.wait, g.run)::_grownext.queue_history)
      INTO old FROM gone AS g;
    PERFORM _grownext.queue_put_history(old);
    DELETE FROM _grownext.queue_history AS h
     WHERE h.seconds = 3600 AND h.at < queue_keep_figures.now - interval '90 days';
    PERFORM _grownext.queue_judge_slas(queue_keep_figures.now);
END
$$;
COMMENT ON FUNCTION _grownext.queue_keep_figures(timestamptz) IS 'Writes figures down, thins out old ones and judges SLAs, once a minute.';

CREATE OR REPLACE FUNCTION grownext.queue_history(
    queue text, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, bucket interval DEFAULT '1 minute')
RETURNS SETOF grownext.queue_period
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    upto CONSTANT timestamptz := coalesce(until, _grownext.core_now());
    origin CONSTANT timestamptz := date_bin('1 minute', coalesce(since, upto - interval '1 hour'), '2000-01-01 00:00 UTC');
    terms interval;
BEGIN
    IF queue IS NULL OR bucket IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'queue and bucket must not be null';
    ELSIF NOT EXISTS (SELECT FROM _grownext.queue_queue AS q WHERE q.queue = queue_history.queue) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('queue "%s" does not exist', queue);
    ELSIF bucket < interval '1 minute' OR bucket > interval '90 days' OR extract(year FROM bucket) <> 0
       OR extract(month FROM bucket) <> 0 OR extract(epoch FROM bucket) % 60 <> 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'bucket must be whole minutes, from 1 minute to 90 days';
    ELSIF NOT isfinite(upto) OR NOT isfinite(origin) OR upto < origin THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'since must be before until, and both finite';
    ELSIF extract(epoch FROM upto - origin) / extract(epoch FROM bucket) > 10000 THEN
        RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded',
            MESSAGE = 'more than 10000 buckets', HINT = 'Choose a longer bucket, or a later since.';
    END IF;
    SELECT q.sla_start_within INTO terms FROM _grownext.queue_queue AS q WHERE q.queue = queue_history.queue;
    RETURN QUERY
    WITH counted AS (
        SELECT date_bin(bucket, greatest(c.at, origin), origin) AS begins, c.*
          FROM _grownext.queue_counted AS c
         WHERE c.queue = queue_history.queue AND c.at >= origin AND c.at < upto)
    SELECT queue_history.queue, p.begins,
           coalesce(sum(c.enqueued), 0)::bigint, coalesce(sum(c.started), 0)::bigint, coalesce(sum(c.succeeded), 0)::bigint,
           coalesce(sum(c.failed), 0)::bigint, coalesce(sum(c.dead), 0)::bigint, coalesce(sum(c.deadlines_missed), 0)::bigint,
           _grownext.queue_percentile(_grownext.queue_histogram_sum(c.wait), 0.5),
           _grownext.queue_percentile(_grownext.queue_histogram_sum(c.wait), 0.99),
           _grownext.queue_percentile(_grownext.queue_histogram_sum(c.run), 0.5),
           _grownext.queue_percentile(_grownext.queue_histogram_sum(c.run), 0.99),
           (sum(c.within) FILTER (WHERE c.sla_start_within = terms))::bigint,
           (sum(c.late) FILTER (WHERE c.sla_start_within = terms))::bigint,
           (sum(c.within) FILTER (WHERE c.sla_start_within = terms)
            / nullif(sum(c.within + c.late) FILTER (WHERE c.sla_start_within = terms), 0))::double precision
      FROM generate_series(origin, upto, bucket) AS p (begins)
      LEFT JOIN counted AS c ON c.begins = p.begins
     WHERE p.begins < upto
     GROUP BY p.begins ORDER BY p.begins;
END
$$;
COMMENT ON FUNCTION grownext.queue_history(text, timestamptz, timestamptz, interval) IS 'Counts, times and SLA of a queue over time, a row per bucket; by default the last hour by the minute.';

-- Figures -------------------------------------------------------------------------

-- Percentiles of wait and run time of the last hour. Without preload nothing is counted,
-- and the outcomes that are kept must do.
CREATE OR REPLACE FUNCTION _grownext.queue_times(queue text, OUT wait double precision[], OUT run double precision[]) RETURNS record
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    since CONSTANT timestamptz := _grownext.core_now() - interval '1 hour';
BEGIN
    IF _grownext.queue_preloaded() THEN
        SELECT ARRAY[_grownext.queue_percentile(c.waits, 0.5), _grownext.queue_percentile(c.waits, 0.99)],
               ARRAY[_grownext.queue_percentile(c.runs, 0.5), _grownext.queue_percentile(c.runs, 0.99)]
          INTO wait, run
          FROM (SELECT _grownext.queue_histogram_sum(h.wait) AS waits, _grownext.queue_histogram_sum(h.run) AS runs
                  FROM _grownext.queue_counted AS h WHERE h.queue = queue_times.queue AND h.at > since) AS c;
    ELSE
        SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY 1000 * extract(epoch FROM r.started_at - greatest(r.run_at, r.enqueued_at))::float8),
               percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY 1000 * extract(epoch FROM r.finished_at - r.started_at)::float8)
          INTO wait, run
          FROM (SELECT d.* FROM _grownext.queue_done AS d
                 WHERE d.queue = queue_times.queue AND d.state = 'succeeded' AND d.finished_at > since
                 ORDER BY d.finished_at DESC LIMIT 10000) AS r;
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.queue_times(text) IS 'Median and 99th percentile of wait and run of the last hour, in milliseconds.';

CREATE OR REPLACE FUNCTION grownext.queue_stats(queue text DEFAULT NULL) RETURNS SETOF grownext.queue_state
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH live AS (
        SELECT l.queue, count(*) AS enqueued, coalesce(sum(l.failures), 0) AS failed,
               count(*) FILTER (WHERE l.state = 'ready') AS ready,
               count(*) FILTER (WHERE l.state = 'running') AS running,
               count(*) FILTER (WHERE l.state = 'scheduled') AS scheduled,
               min(l.run_at) FILTER (WHERE l.state = 'ready') AS oldest,
               count(*) FILTER (WHERE l.deadline < _grownext.core_now()) AS missed
          FROM _grownext.queue_live AS l
         WHERE l.queue = queue_stats.queue OR queue_stats.queue IS NULL GROUP BY l.queue),
    done AS (
        SELECT d.queue, count(*) AS enqueued, coalesce(sum(d.failures), 0) AS failed,
               count(*) FILTER (WHERE d.state = 'succeeded') AS succeeded,
               count(*) FILTER (WHERE d.deadline < d.finished_at) AS missed
          FROM _grownext.queue_done AS d
         WHERE d.queue = queue_stats.queue OR queue_stats.queue IS NULL GROUP BY d.queue),
    dead AS (
        SELECT d.queue, count(*) AS enqueued, coalesce(sum(d.failures), 0) AS failed,
               count(*) FILTER (WHERE d.deadline < d.died_at) AS missed
          FROM _grownext.queue_dead AS d
         WHERE d.queue = queue_stats.queue OR queue_stats.queue IS NULL GROUP BY d.queue)
    SELECT q.queue, coalesce(l.ready, 0), coalesce(l.running, 0), coalesce(l.scheduled, 0), coalesce(x.enqueued, 0),
           greatest(_grownext.core_now() - l.oldest, '0'),
           (coalesce(l.enqueued, 0) + coalesce(d.enqueued, 0) + coalesce(x.enqueued, 0) + coalesce(t.enqueued, 0))::bigint,
           (coalesce(d.succeeded, 0) + coalesce(t.succeeded, 0))::bigint,
           (coalesce(l.failed, 0) + coalesce(d.failed, 0) + coalesce(x.failed, 0) + coalesce(t.failed, 0))::bigint,
           p.wait[1], p.wait[2], p.run[1], p.run[2],
           q.sla_target, _grownext.queue_sla_attained(q.queue, _grownext.core_now(), true),
           q.paused_at IS NOT NULL,
           (coalesce(l.missed, 0) + coalesce(d.missed, 0) + coalesce(x.missed, 0) + coalesce(t.missed, 0))::bigint
      FROM _grownext.queue_queue AS q
      LEFT JOIN live AS l ON l.queue = q.queue
      LEFT JOIN done AS d ON d.queue = q.queue
      LEFT JOIN dead AS x ON x.queue = q.queue
      LEFT JOIN _grownext.queue_total AS t ON t.queue = q.queue
      CROSS JOIN LATERAL _grownext.queue_times(q.queue) AS p
     WHERE q.queue = queue_stats.queue OR queue_stats.queue IS NULL
     ORDER BY q.queue
$$;
COMMENT ON FUNCTION grownext.queue_stats(text) IS 'Counts, totals, age of the oldest ready job and times of the last hour, per queue.';

