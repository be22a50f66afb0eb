-- src/queue/functions.sql: queues, enqueue, and where jobs stand

-- Rights -----------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.queue_caller_may(queue text, right_name text) RETURNS boolean
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'gn_queue_user_may_sql';
COMMENT ON FUNCTION _grownext.queue_caller_may(text, text) IS 'Whether the role that is set may enqueue into or work a queue.';

-- Raises unless the queue exists and callers may name it.
CREATE OR REPLACE FUNCTION _grownext.queue_check_name(queue text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF queue IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'queue must not be null';
    ELSIF starts_with(queue, 'grownext.') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('queue "%s" is internal', queue),
            DETAIL = 'Queues named grownext.* belong to the platform.';
    ELSIF NOT EXISTS (SELECT FROM _grownext.queue_queue AS q WHERE q.queue = queue_check_name.queue) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('queue "%s" does not exist', queue),
            HINT = format('SELECT grownext.queue_define(%L);', queue);
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.queue_check_name(text) IS 'Raises unless a queue exists and SQL callers may name it.';

-- Small helpers in C -------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.queue_wake(queue text, jobs int) RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_queue_wake';
COMMENT ON FUNCTION _grownext.queue_wake(text, int) IS 'Wakes executors and waiting workers at commit, as many as there are jobs.';

CREATE OR REPLACE FUNCTION _grownext.queue_lock_name(queue text) RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_queue_lock_name';
COMMENT ON FUNCTION _grownext.queue_lock_name(text) IS 'Keeps everybody from enqueueing into a queue until the transaction ends.';

CREATE OR REPLACE FUNCTION _grownext.queue_job_running(id bigint) RETURNS boolean
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_queue_job_running';
COMMENT ON FUNCTION _grownext.queue_job_running(bigint) IS 'Whether an executor holds the job now.';

CREATE OR REPLACE FUNCTION _grownext.queue_tick_at_commit() RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_queue_tick_at_commit';
COMMENT ON FUNCTION _grownext.queue_tick_at_commit() IS 'Asks the scheduler for a pass at commit.';

CREATE OR REPLACE FUNCTION _grownext.queue_waiters(queue text) RETURNS int
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_queue_waiters';
COMMENT ON FUNCTION _grownext.queue_waiters(text) IS 'How many sessions wait in job_wait() for a queue.';

CREATE OR REPLACE FUNCTION _grownext.queue_running_progress(id bigint) RETURNS jsonb
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_queue_running_progress';
COMMENT ON FUNCTION _grownext.queue_running_progress(bigint) IS 'What the handler of a running job reported.';

CREATE OR REPLACE FUNCTION _grownext.queue_running_since(id bigint) RETURNS timestamptz
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_queue_running_since';
COMMENT ON FUNCTION _grownext.queue_running_since(bigint) IS 'Since when an executor has the job.';

CREATE OR REPLACE FUNCTION _grownext.queue_interrupt(id bigint) RETURNS boolean
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_queue_interrupt';
COMMENT ON FUNCTION _grownext.queue_interrupt(bigint) IS 'Interrupts the handler of a running job; false when no executor has it.';

CREATE OR REPLACE FUNCTION _grownext.queue_over(id bigint, batch_id bigint, state text) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_queue_over';
COMMENT ON FUNCTION _grownext.queue_over(bigint, bigint, text) IS 'Notes for the next pass that a job is over, if others wait for it.';

CREATE OR REPLACE FUNCTION _grownext.queue_throttled() RETURNS timestamptz
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_queue_throttled';
COMMENT ON FUNCTION _grownext.queue_throttled() IS 'Wakes whoever can begin jobs of queues with a rate limit; returns when the next may begin, NULL if none waits.';

CREATE OR REPLACE FUNCTION _grownext.queue_preloaded() RETURNS boolean
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'gn_queue_preloaded';
COMMENT ON FUNCTION _grownext.queue_preloaded() IS 'Whether the library came in through shared_preload_libraries.';

-- A handler's wish as seconds; NULL when it cannot be read as an interval.
CREATE OR REPLACE FUNCTION _grownext.queue_seconds(wish text) RETURNS double precision
LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN least(extract(epoch FROM wish::interval), 31536000);
EXCEPTION
    WHEN data_exception THEN
        RETURN NULL;
END
$$;
COMMENT ON FUNCTION _grownext.queue_seconds(text) IS 'An interval in seconds, at most a year; NULL for what is none.';

-- Storage ------------------------------------------------------------------------
-- With src/queue/storage.c, all that knows the job tables: scan, and what changes
-- many jobs at once.

-- Jobs that an executor holds now, from the locks that say so (GN_QUEUE_LOCK_JOB).
CREATE OR REPLACE VIEW _grownext.queue_running AS
    SELECT (l.classid::bigint << 32) | l.objid::bigint AS id
      FROM pg_catalog.pg_locks AS l
     WHERE l.locktype = 'advisory' AND l.objsubid = 19972 AND l.granted AND l.mode = 'ExclusiveLock'
       AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database());
COMMENT ON VIEW _grownext.queue_running IS 'Ids of the jobs that run now.';

-- Every job of a queue that has no outcome: ready, scheduled, waiting or running.
CREATE OR REPLACE VIEW _grownext.queue_live AS
    SELECT j.queue, j.id, j.tenant_id, j.priority, j.enqueued_at, j.run_at, j.failures,
           CASE WHEN r.id IS NOT NULL OR j.lease_until IS NOT NULL THEN 'running' WHEN j.ready THEN 'ready'
                WHEN j.waiting THEN 'waiting' ELSE 'scheduled' END AS state,
           j.deadline
      FROM _grownext.queue_job AS j
      LEFT JOIN _grownext.queue_running AS r ON r.id = j.id;
COMMENT ON VIEW _grownext.queue_live IS 'Jobs without an outcome and their state.';

-- One job, wherever it is; no row for an unknown id.
CREATE OR REPLACE FUNCTION _grownext.queue_find(job_id bigint) RETURNS SETOF grownext.job_state
LANGUAGE sql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT j.id, j.queue,
           CASE WHEN h.held THEN 'running' WHEN j.ready THEN 'ready' WHEN j.waiting THEN 'waiting' ELSE 'scheduled' END,
           j.failures + h.held::int, coalesce(j.progress, _grownext.queue_running_progress(j.id)), NULL::jsonb, j.last_error,
           j.attempts, j.max_attempts, j.priority, j.unique_key, j.group_key, j.tenant_id, j.enqueued_at, j.run_at,
           coalesce(j.leased_at, _grownext.queue_running_since(j.id)), NULL::timestamptz, j.deadline,
           coalesce(j.deadline < _grownext.core_now(), false),
           CASE WHEN h.held AND j.leased_at IS NULL THEN 'executor' ELSE j.worker END, j.lease_until
      FROM _grownext.queue_job AS j,
           LATERAL (SELECT j.lease_until IS NOT NULL OR _grownext.queue_job_running(j.id) AS held) AS h
     WHERE j.id = job_id
    UNION ALL
    SELECT d.id, d.queue, d.state, d.failures + (d.state = 'succeeded')::int, NULL, d.result, d.last_error,
           d.attempts || CASE
               WHEN d.state = 'succeeded' THEN jsonb_build_object('attempt', d.failures + 1, 'started_at', d.started_at,
                   'succeeded_at', d.finished_at, 'worker', d.worker)
               WHEN d.started_at IS NULL THEN jsonb_build_object('cancelled_at', d.finished_at, 'error', d.last_error)
               ELSE jsonb_build_object('attempt', d.failures + 1, 'started_at', d.started_at,
                   'cancelled_at', d.finished_at, 'error', d.last_error, 'worker', d.worker) END,
           d.max_attempts, d.priority, d.unique_key, d.group_key, d.tenant_id, d.enqueued_at, d.run_at, d.started_at,
           d.finished_at, d.deadline, coalesce(d.deadline < d.finished_at, false),
           CASE WHEN d.started_at IS NOT NULL THEN d.worker END, NULL
      FROM _grownext.queue_done AS d WHERE d.id = job_id
    UNION ALL
    SELECT d.id, d.queue, 'dead', d.failures, NULL, NULL, d.last_error, d.attempts, d.max_attempts, d.priority, d.unique_key,
           d.group_key, d.tenant_id, d.enqueued_at, d.run_at, d.started_at, d.died_at, d.deadline,
           coalesce(d.deadline < d.died_at, false), NULL, NULL
      FROM _grownext.queue_dead AS d WHERE d.id = job_id
$$;
COMMENT ON FUNCTION _grownext.queue_find(bigint) IS 'Where a job stands.';

-- Cancels jobs that nobody holds: all of a queue's, or one, or all there are.
CREATE OR REPLACE FUNCTION _grownext.queue_cancel_where(queue text, job_id bigint, reason text) RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    WITH free AS (
        SELECT j.id FROM _grownext.queue_job AS j
         WHERE (j.queue = queue_cancel_where.queue OR queue_cancel_where.queue IS NULL)
           AND (j.id = job_id OR job_id IS NULL) AND j.lease_until IS NULL
           FOR UPDATE SKIP LOCKED),
    gone AS (
        DELETE FROM _grownext.queue_job AS j USING free
         WHERE j.id = free.id AND NOT _grownext.queue_job_running(j.id) RETURNING j.*),
    kept AS (
        INSERT INTO _grownext.queue_done (id, queue, enqueued_at, run_at, deadline, finished_at, priority, max_attempts,
                                          failures, state, unique_key, group_key, tenant_id, last_error, attempts)
        SELECT g.id, g.queue, g.enqueued_at, g.run_at, g.deadline, _grownext.core_now(), g.priority, g.max_attempts,
               g.failures, 'cancelled', g.unique_key, g.group_key, g.tenant_id, coalesce(reason, g.last_error), g.attempts
          FROM gone AS g),
    alone AS (
        DELETE FROM _grownext.queue_dependency AS d USING gone AS g WHERE g.waiting AND d.child_id = g.id)
    SELECT count(*) FROM (SELECT _grownext.queue_over(g.id, g.batch_id, 'cancelled') FROM gone AS g OFFSET 0) AS told
$$;
COMMENT ON FUNCTION _grownext.queue_cancel_where(text, bigint, text) IS 'Cancels jobs that do not run.';

-- Deletes jobs that nobody holds; totals keep counting them.
CREATE OR REPLACE FUNCTION _grownext.queue_delete_waiting(queue text) RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    WITH free AS (
        SELECT j.id FROM _grownext.queue_job AS j WHERE j.queue = queue_delete_waiting.queue AND j.lease_until IS NULL
           FOR UPDATE SKIP LOCKED),
    gone AS (
        DELETE FROM _grownext.queue_job AS j USING free
         WHERE j.id = free.id AND NOT _grownext.queue_job_running(j.id) RETURNING j.id, j.batch_id, j.waiting, j.failures, j.deadline),
    alone AS (
        DELETE FROM _grownext.queue_dependency AS d USING gone AS g WHERE g.waiting AND d.child_id = g.id),
    counted AS (
        INSERT INTO _grownext.queue_total AS t (queue, enqueued, failed, missed)
        SELECT queue_delete_waiting.queue, count(*), sum(g.failures), count(*) FILTER (WHERE g.deadline < _grownext.core_now())
          FROM gone AS g HAVING count(*) > 0
        ON CONFLICT ON CONSTRAINT queue_total_pkey
        DO UPDATE SET enqueued = t.enqueued + EXCLUDED.enqueued, failed = t.failed + EXCLUDED.failed,
                      missed = t.missed + EXCLUDED.missed)
    SELECT count(*) FROM (SELECT _grownext.queue_over(g.id, g.batch_id, 'cancelled') FROM gone AS g OFFSET 0) AS told
$$;
COMMENT ON FUNCTION _grownext.queue_delete_waiting(text) IS 'Deletes jobs that do not run.';

-- Dead letters back among the ready, with their attempts renewed. One whose unique
-- key a live job holds stays dead: that job does its work.
CREATE OR REPLACE FUNCTION _grownext.queue_revive(queue text, ids bigint[]) RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    WITH chosen AS (
        SELECT d.* FROM _grownext.queue_dead AS d
         WHERE d.queue = queue_revive.queue AND (ids IS NULL OR d.id = ANY (ids)) ORDER BY d.id FOR UPDATE),
    back AS (
        INSERT INTO _grownext.queue_job (id, queue, enqueued_at, run_at, deadline, priority, max_attempts, ready, unique_key,
                                         group_key, tenant_id, claims, payload, last_error, attempts)
        SELECT c.id, c.queue, c.enqueued_at, _grownext.core_now(), c.deadline, c.priority, c.max_attempts, true, c.unique_key,
               c.group_key, c.tenant_id, c.claims, c.payload, c.last_error, c.attempts
          FROM chosen AS c ORDER BY c.id
        ON CONFLICT DO NOTHING
        RETURNING id),
    gone AS (
        DELETE FROM _grownext.queue_dead AS d USING back AS b WHERE d.id = b.id RETURNING d.failures),
    counted AS (
        INSERT INTO _grownext.queue_total AS t (queue, failed)
        SELECT queue_revive.queue, sum(g.failures) FROM gone AS g HAVING count(*) > 0
        ON CONFLICT ON CONSTRAINT queue_total_pkey DO UPDATE SET failed = t.failed + EXCLUDED.failed)
    SELECT count(*) FROM gone
$$;
COMMENT ON FUNCTION _grownext.queue_revive(text, bigint[]) IS 'Makes dead letters ready again.';

-- What became due is made ready, at most so many, and whoever may run it is woken;
-- returns how many.
CREATE OR REPLACE FUNCTION _grownext.queue_promote(now timestamptz, most int) RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    WITH due AS (
        SELECT j.id FROM _grownext.queue_job AS j
         WHERE NOT j.ready AND NOT j.waiting AND j.lease_until IS NULL AND j.run_at <= queue_promote.now
         ORDER BY j.run_at LIMIT most FOR UPDATE SKIP LOCKED),
    moved AS (
        UPDATE _grownext.queue_job AS j SET ready = true FROM due WHERE j.id = due.id RETURNING j.queue),
    woken AS (
        SELECT m.jobs, _grownext.queue_wake(m.queue, m.jobs)
          FROM (SELECT p.queue, count(*)::int AS jobs FROM moved AS p GROUP BY p.queue) AS m)
    SELECT coalesce(sum(w.jobs), 0)::bigint FROM (SELECT * FROM woken OFFSET 0) AS w
$$;
COMMENT ON FUNCTION _grownext.queue_promote(timestamptz, int) IS 'Makes jobs ready whose time has come.';

CREATE OR REPLACE FUNCTION _grownext.queue_next_due() RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT least((SELECT min(j.run_at) FROM _grownext.queue_job AS j WHERE NOT j.ready AND NOT j.waiting AND j.lease_until IS NULL),
                 (SELECT min(j.lease_until) FROM _grownext.queue_job AS j WHERE j.lease_until IS NOT NULL),
                 (SELECT min(c.due_at) FROM _grownext.queue_check AS c))
$$;
COMMENT ON FUNCTION _grownext.queue_next_due() IS 'When the next scheduled job or check is due, or a lease ends.';

-- Deletes outcomes and dead letters past their queue's retention, at most so many of each queue.
CREATE OR REPLACE FUNCTION _grownext.queue_expire(now timestamptz, most int) RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    WITH old_done AS (
        SELECT o.id FROM _grownext.queue_queue AS q, LATERAL (
            SELECT d.id FROM _grownext.queue_done AS d
             WHERE d.queue = q.queue AND d.finished_at < queue_expire.now - q.retention
             ORDER BY d.finished_at LIMIT most) AS o),
    done AS (
        DELETE FROM _grownext.queue_done AS d USING old_done AS o WHERE d.id = o.id
        RETURNING d.queue, (d.state = 'succeeded')::int AS succeeded, d.failures, d.deadline < d.finished_at AS missed),
    old_dead AS (
        SELECT o.id FROM _grownext.queue_queue AS q, LATERAL (
            SELECT d.id FROM _grownext.queue_dead AS d
             WHERE d.queue = q.queue AND d.died_at < queue_expire.now - q.dead_retention
             ORDER BY d.died_at LIMIT most) AS o),
    dead AS (
        DELETE FROM _grownext.queue_dead AS d USING old_dead AS o WHERE d.id = o.id
        RETURNING d.id, d.queue, 0 AS succeeded, d.failures, d.deadline < d.died_at AS missed),
    told AS (
        INSERT INTO _grownext.queue_check (id, parent_id, due_at)
        SELECT _grownext.core_nextval('_grownext.queue_check_id'), g.id, '-infinity' FROM dead AS g
         WHERE EXISTS (SELECT FROM _grownext.queue_dependency AS d WHERE d.parent_id = g.id)),
    counted AS (
        INSERT INTO _grownext.queue_total AS t (queue, enqueued, succeeded, failed, missed)
        SELECT g.queue, count(*), sum(g.succeeded), sum(g.failures), count(*) FILTER (WHERE g.missed)
          FROM (SELECT * FROM done UNION ALL SELECT d.queue, d.succeeded, d.failures, d.missed FROM dead AS d) AS g GROUP BY g.queue
        ON CONFLICT ON CONSTRAINT queue_total_pkey
        DO UPDATE SET enqueued = t.enqueued + EXCLUDED.enqueued, succeeded = t.succeeded + EXCLUDED.succeeded,
                      failed = t.failed + EXCLUDED.failed, missed = t.missed + EXCLUDED.missed),
    windows AS (
        DELETE FROM _grownext.queue_window AS w WHERE w.expires_at <= queue_expire.now)
    SELECT greatest((SELECT count(*) FROM done), (SELECT count(*) FROM dead))
$$;
COMMENT ON FUNCTION _grownext.queue_expire(timestamptz, int) IS 'Deletes outcomes past their retention.';

-- Administration ------------------------------------------------------------------

-- As in 100/second, 5/10 minutes.
CREATE OR REPLACE FUNCTION _grownext.queue_parse_rate(rate text, OUT rate_count int, OUT rate_period interval)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part CONSTANT text[] := regexp_match(rate, '^ *([0-9]{1,7}) */ *([0-9.]* *[a-z]+) *$');
BEGIN
    IF rate IS NULL THEN
        RETURN;
    END IF;
    rate_count := part[1];
    rate_period := CASE WHEN part[2] ~ '^[a-z]' THEN '1 ' ELSE '' END || part[2];
    IF rate_count IS NULL OR rate_count NOT BETWEEN 1 AND 1000000 OR rate_period NOT BETWEEN '1 millisecond' AND '1 day' THEN
        RAISE invalid_datetime_format;
    END IF;
EXCEPTION
    WHEN data_exception THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('invalid rate_limit "%s"', rate),
            HINT = 'A number of jobs, 1 to 1000000, and a time, 1 ms to 1 day: 100/second, 5/10 minutes.';
END
$$;
COMMENT ON FUNCTION _grownext.queue_parse_rate(text) IS 'A rate limit as a number of jobs and a time.';

-- The whole definition: an option that is not named takes its default.
CREATE OR REPLACE FUNCTION _grownext.queue_store_definition(queue text, options jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rate record;
    sla CONSTANT jsonb := options -> 'sla';
BEGIN
    PERFORM _grownext.core_check_options(options, '{"concurrency": "number", "max_attempts": "number",
        "backoff_base": "string", "backoff_cap": "string", "timeout": "string", "retention": "string",
        "dead_retention": "string", "ordered": "boolean", "expire": "boolean", "sla": "object",
        "parent_failed": "string", "rate_limit": "string", "weight": "number"}');
    IF options ? 'sla' THEN
        PERFORM _grownext.core_check_options(sla, '{"start_within": "string", "target": "number", "window": "string"}');
        IF NOT sla ?& ARRAY['start_within', 'target'] THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = 'option "sla" must say start_within and target',
                HINT = 'Such as {"start_within": "5 seconds", "target": 0.99, "window": "1 day"}.';
        END IF;
    END IF;
    SELECT r.* INTO rate FROM _grownext.queue_parse_rate(options ->> 'rate_limit') AS r;
    INSERT INTO _grownext.queue_queue AS q (queue, concurrency, max_attempts, backoff_base, backoff_cap, timeout,
                                            retention, dead_retention, ordered, expire, sla_start_within,
                                            sla_target, sla_window, parent_failed, rate_count, rate_period, created_at, weight)
    VALUES (queue_store_definition.queue,
            (options ->> 'concurrency')::int,
            coalesce((options ->> 'max_attempts')::int, 25),
            coalesce((options ->> 'backoff_base')::interval, '5 seconds'),
            coalesce((options ->> 'backoff_cap')::interval, greatest((options ->> 'backoff_base')::interval, '1 hour')),
            coalesce((options ->> 'timeout')::interval, '5 minutes'),
            coalesce((options ->> 'retention')::interval, '1 day'),
            coalesce((options ->> 'dead_retention')::interval, '90 days'),
            coalesce((options ->> 'ordered')::boolean, false),
            coalesce((options ->> 'expire')::boolean, false),
            (sla ->> 'start_within')::interval,
            (sla ->> 'target')::double precision,
            CASE WHEN sla IS NOT NULL THEN coalesce((sla ->> 'window')::interval, '1 day') END,
            coalesce(options ->> 'parent_failed', 'cancel'),
            rate.rate_count,
            rate.rate_period,
            _grownext.core_now(),
            coalesce((options ->> 'weight')::int, 1))
    ON CONFLICT ON CONSTRAINT queue_queue_pkey DO UPDATE
        SET concurrency = EXCLUDED.concurrency, max_attempts = EXCLUDED.max_attempts,
            backoff_base = EXCLUDED.backoff_base, backoff_cap = EXCLUDED.backoff_cap, timeout = EXCLUDED.timeout,
            retention = EXCLUDED.retention, dead_retention = EXCLUDED.dead_retention,
            ordered = EXCLUDED.ordered, expire = EXCLUDED.expire, sla_start_within = EXCLUDED.sla_start_within,
            sla_target = EXCLUDED.sla_target, sla_window = EXCLUDED.sla_window,
            parent_failed = EXCLUDED.parent_failed, rate_count = EXCLUDED.rate_count, rate_period = EXCLUDED.rate_period,
            weight = EXCLUDED.weight
        WHERE (q.concurrency, q.max_attempts, q.backoff_base, q.backoff_cap, q.timeout, q.retention, q.dead_retention,
               q.ordered, q.expire, q.sla_start_within, q.sla_target, q.sla_window,
               q.parent_failed, q.rate_count, q.rate_period, q.weight)
              IS DISTINCT FROM
              (EXCLUDED.concurrency, EXCLUDED.max_attempts, EXCLUDED.backoff_base, EXCLUDED.backoff_cap, EXCLUDED.timeout,
               EXCLUDED.retention, EXCLUDED.dead_retention, EXCLUDED.ordered, EXCLUDED.expire,
               EXCLUDED.sla_start_within, EXCLUDED.sla_target, EXCLUDED.sla_window,
               EXCLUDED.parent_failed, EXCLUDED.rate_count, EXCLUDED.rate_period, EXCLUDED.weight);
EXCEPTION
    WHEN check_violation THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('invalid definition of queue "%s"', queue),
            DETAIL = 'A name has 1 to 100 letters, digits and _ . : -, concurrency and max_attempts are 1 to 1000, weight is 1 to 100, backoff_base is positive and at most backoff_cap, timeout is 1 ms to 7 days, retentions are not negative, start_within of an sla is 1 ms to 7 days, its target more than 0 and at most 1, its window 1 minute to 90 days, parent_failed is cancel, run or wait.';
END
$$;
COMMENT ON FUNCTION _grownext.queue_store_definition(text, jsonb) IS 'Creates or updates a queue, internal ones too.';

CREATE OR REPLACE FUNCTION grownext.queue_define(queue text, options jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF queue IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'queue must not be null';
    ELSIF starts_with(queue, 'grownext.') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('queue "%s" is internal', queue),
            DETAIL = 'Queues named grownext.* belong to the platform.';
    END IF;
    PERFORM _grownext.queue_store_definition(queue, options);
END
$$;
COMMENT ON FUNCTION grownext.queue_define(text, jsonb) IS 'Creates a queue or replaces its definition; jobs, handler, grants and pause stay.';

-- For components: an internal queue and the function of ours that works it.
CREATE OR REPLACE FUNCTION _grownext.queue_define_internal(queue text, handler text, options jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT starts_with(queue, 'grownext.') OR NOT starts_with(handler, '_grownext.') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'an internal queue is named grownext.* and handled by a function _grownext.*(payload jsonb)';
    END IF;
    PERFORM _grownext.queue_store_definition(queue, options);
    UPDATE _grownext.queue_queue AS q
       SET handler = queue_define_internal.handler, handler_takes = 'payload', run_as = 'grownext_owner',
           handled_at = _grownext.core_now()
     WHERE q.queue = queue_define_internal.queue AND q.handler IS DISTINCT FROM queue_define_internal.handler;
END
$$;
COMMENT ON FUNCTION _grownext.queue_define_internal(text, text, jsonb) IS 'Creates an internal queue with its handler, a function of one jsonb in _grownext.';

CREATE OR REPLACE FUNCTION grownext.queue_handle(queue text, handler regprocedure, options jsonb DEFAULT '{}', run_as name DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_queue_handle';
COMMENT ON FUNCTION grownext.queue_handle(text, regprocedure, jsonb, name) IS 'Lets executors work a queue with a function, as the role that owns it; a NULL handler ends that.';

CREATE OR REPLACE FUNCTION grownext.queue_pause(queue text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.queue_check_name(queue);
    UPDATE _grownext.queue_queue AS q SET paused_at = _grownext.core_now()
     WHERE q.queue = queue_pause.queue AND q.paused_at IS NULL;
END
$$;
COMMENT ON FUNCTION grownext.queue_pause(text) IS 'Starts no more jobs of a queue; those that run go on, new ones wait.';

CREATE OR REPLACE FUNCTION grownext.queue_resume(queue text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.queue_check_name(queue);
    UPDATE _grownext.queue_queue AS q SET paused_at = NULL
     WHERE q.queue = queue_resume.queue AND q.paused_at IS NOT NULL;
END
$$;
COMMENT ON FUNCTION grownext.queue_resume(text) IS 'Takes queue_pause() back.';

CREATE OR REPLACE FUNCTION grownext.queue_purge(queue text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.queue_check_name(queue);
    RETURN _grownext.queue_delete_waiting(queue);
END
$$;
COMMENT ON FUNCTION grownext.queue_purge(text) IS 'Deletes the jobs of a queue that wait (ready and scheduled) and says how many; dead letters stay.';

CREATE OR REPLACE FUNCTION grownext.queue_drop(queue text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    waiting bigint;
    routed text;
    granted_to name[];
BEGIN
    PERFORM _grownext.queue_check_name(queue);
    PERFORM _grownext.queue_lock_name(queue);
    SELECT count(*) INTO waiting FROM _grownext.queue_job AS j WHERE j.queue = queue_drop.queue;
    IF waiting > 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'dependent_objects_still_exist',
            MESSAGE = format('queue "%s" still has %s jobs', queue, waiting),
            HINT = format('Let them run, or delete them: SELECT grownext.queue_purge(%L);', queue);
    END IF;
    SELECT r.event_type INTO routed FROM _grownext.core_event_route AS r WHERE r.queue = queue_drop.queue LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'dependent_objects_still_exist',
            MESSAGE = format('events are routed into queue "%s"', queue),
            HINT = format('SELECT grownext.event_unroute(%L, %L);', routed, queue);
    END IF;
    DELETE FROM _grownext.queue_done AS d WHERE d.queue = queue_drop.queue;
    DELETE FROM _grownext.queue_dead AS d WHERE d.queue = queue_drop.queue;
    DELETE FROM _grownext.queue_window AS w WHERE w.queue = queue_drop.queue;
    DELETE FROM _grownext.queue_total AS t WHERE t.queue = queue_drop.queue;
    DELETE FROM _grownext.queue_history AS h WHERE h.queue = queue_drop.queue;
    DELETE FROM _grownext.queue_sla_miss AS m WHERE m.queue = queue_drop.queue;
    PERFORM _grownext.queue_forget(queue);
    WITH granted AS (
        DELETE FROM _grownext.queue_grant AS g WHERE g.queue = queue_drop.queue RETURNING g.role_name)
    SELECT array_agg(DISTINCT g.role_name) INTO granted_to FROM granted AS g;
    PERFORM _grownext.queue_apply_grants(r.rolname)
       FROM pg_roles AS r WHERE r.rolname = ANY (granted_to);
    DELETE FROM _grownext.queue_queue AS q WHERE q.queue = queue_drop.queue;
END
$$;
COMMENT ON FUNCTION grownext.queue_drop(text) IS 'Drops a queue without live jobs, with its outcomes and dead letters.';

CREATE OR REPLACE FUNCTION _grownext.queue_check_right(right_name text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF right_name IS NULL OR right_name NOT IN ('enqueue', 'work') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('unknown right "%s"', coalesce(right_name, 'NULL')),
            HINT = 'Rights on a queue: enqueue, work.';
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.queue_check_right(text) IS 'Raises unless the text names a right on a queue.';

-- What a role with rights on any queue must be able to call; which queue it may name
-- is for these functions to judge.
CREATE OR REPLACE FUNCTION _grownext.queue_apply_grants(role_name name) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH held AS (
        SELECT array_agg(DISTINCT g.right_name) AS names FROM _grownext.queue_grant AS g
         WHERE g.role_name = queue_apply_grants.role_name),
    needed (privilege, kind, object, needs) AS (
        VALUES ('USAGE', 'SCHEMA', 'grownext', ARRAY['enqueue', 'work']),
               ('USAGE', 'TYPE', 'grownext.job', ARRAY['work'])
        UNION ALL
        SELECT 'EXECUTE', CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, p.oid::regprocedure::text, n.needs
          FROM (VALUES ('enqueue', ARRAY['enqueue']), ('enqueue_many', ARRAY['enqueue']), ('batch_create', ARRAY['enqueue']), ('queue_handle', ARRAY['work']),
                       ('current_job', ARRAY['work']), ('job_fetch', ARRAY['work']), ('job_wait', ARRAY['work']),
                       ('job_complete', ARRAY['work']), ('job_complete_many', ARRAY['work']), ('job_fail', ARRAY['work']),
                       ('job_extend', ARRAY['work']), ('job_snooze', ARRAY['work']), ('job_progress', ARRAY['work']),
                       ('job_bind', ARRAY['work']),
                       ('job_get', ARRAY['enqueue', 'work']), ('job_cancel', ARRAY['enqueue', 'work'])) AS n (name, needs)
          JOIN pg_proc AS p ON p.proname = n.name AND p.pronamespace = 'grownext'::regnamespace)
    SELECT _grownext.core_rights_declare('queue', queue_apply_grants.role_name,
        coalesce((SELECT array_agg((n.privilege, n.kind, n.object)::_grownext.core_right_on)
                    FROM needed AS n, held AS h WHERE n.needs && h.names), '{}'));
$$;
COMMENT ON FUNCTION _grownext.queue_apply_grants(name) IS 'Gives a role what its rights on queues need, and takes the rest back.';

CREATE OR REPLACE FUNCTION grownext.queue_grant(queue text, to_role name, "right" text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.queue_check_name(queue);
    PERFORM _grownext.queue_check_right("right");
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = to_role) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('role "%s" does not exist', coalesce(to_role, 'NULL'));
    END IF;
    INSERT INTO _grownext.queue_grant (queue, role_name, right_name)
    VALUES (queue_grant.queue, queue_grant.to_role, queue_grant."right") ON CONFLICT DO NOTHING;
    PERFORM _grownext.queue_apply_grants(to_role);
END
$$;
COMMENT ON FUNCTION grownext.queue_grant(text, name, text) IS 'Lets a role enqueue into a queue, or work it.';

CREATE OR REPLACE FUNCTION grownext.queue_revoke(queue text, from_role name, "right" text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.queue_check_name(queue);
    PERFORM _grownext.queue_check_right("right");
    DELETE FROM _grownext.queue_grant AS g
     WHERE g.queue = queue_revoke.queue AND g.role_name = from_role AND g.right_name = queue_revoke."right";
    IF FOUND AND EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = from_role) THEN
        PERFORM _grownext.queue_apply_grants(from_role);
    END IF;
END
$$;
COMMENT ON FUNCTION grownext.queue_revoke(text, name, text) IS 'Takes queue_grant() back.';

-- Enqueue -------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION grownext.enqueue(
    queue text, payload jsonb DEFAULT '{}', run_at timestamptz DEFAULT NULL, priority int DEFAULT 0,
    unique_key text DEFAULT NULL, group_key text DEFAULT NULL, max_attempts int DEFAULT NULL,
    deadline timestamptz DEFAULT NULL, unique_mode text DEFAULT 'keep', unique_for interval DEFAULT NULL,
    depends_on bigint[] DEFAULT NULL, batch_id bigint DEFAULT NULL, tenant_id uuid DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_enqueue';
COMMENT ON FUNCTION grownext.enqueue(text, jsonb, timestamptz, int, text, text, int, timestamptz, text, interval, bigint[], bigint, uuid)
    IS 'Enqueues a job in this transaction, with the caller''s context; returns its id.';

CREATE OR REPLACE FUNCTION grownext.enqueue_many(
    queue text, payloads jsonb[], run_at timestamptz DEFAULT NULL, priority int DEFAULT 0,
    group_keys text[] DEFAULT NULL, unique_keys text[] DEFAULT NULL) RETURNS bigint[]
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_enqueue_many';
COMMENT ON FUNCTION grownext.enqueue_many(text, jsonb[], timestamptz, int, text[], text[]) IS 'Enqueues a job per payload; returns the ids in the order of the payloads.';

CREATE OR REPLACE FUNCTION _grownext.queue_put_internal(
    queue text, payload jsonb, run_at timestamptz DEFAULT NULL, priority int DEFAULT 0,
    unique_key text DEFAULT NULL, group_key text DEFAULT NULL, max_attempts int DEFAULT NULL,
    tenant_id uuid DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_queue_put_internal';
COMMENT ON FUNCTION _grownext.queue_put_internal(text, jsonb, timestamptz, int, text, text, int, uuid) IS 'Enqueues for another component, into internal queues too; asks nobody''s rights.';

CREATE OR REPLACE FUNCTION grownext.current_job() RETURNS grownext.job
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'gn_current_job';
COMMENT ON FUNCTION grownext.current_job() IS 'The job whose handler is running; NULL outside of one.';

-- Jobs ----------------------------------------------------------------------------

-- A service or admin sees every job, whoever works a queue sees its jobs, whoever may
-- enqueue sees those of the own tenant.
CREATE OR REPLACE FUNCTION _grownext.queue_caller_sees(queue text, tenant_id uuid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT _grownext.core_caller_has('service') OR _grownext.core_caller_has('admin')
        OR (NOT starts_with(queue, 'grownext.')
            AND (_grownext.queue_caller_may(queue, 'work')
                 OR (tenant_id = grownext.current_tenant() AND _grownext.queue_caller_may(queue, 'enqueue'))))
$$;
COMMENT ON FUNCTION _grownext.queue_caller_sees(text, uuid) IS 'Whether the caller may see a job.';

CREATE OR REPLACE FUNCTION grownext.job_get(id bigint) RETURNS grownext.job_state
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT f FROM _grownext.queue_find(job_get.id) AS f WHERE _grownext.queue_caller_sees(f.queue, f.tenant_id)
$$;
COMMENT ON FUNCTION grownext.job_get(bigint) IS 'Where a job stands; NULL when there is none that the caller may see.';

-- One that runs is marked: whoever has it finds the mark, the scheduler's next pass
-- interrupts an executor.
CREATE OR REPLACE FUNCTION grownext.job_cancel(id bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    job grownext.job_state;
BEGIN
    SELECT f.* INTO job FROM _grownext.queue_find(job_cancel.id) AS f
     WHERE f.state IN ('ready', 'scheduled', 'waiting', 'running') AND NOT starts_with(f.queue, 'grownext.')
       AND _grownext.queue_caller_sees(f.queue, f.tenant_id);
    IF NOT FOUND THEN
        RETURN false;
    ELSIF job.state <> 'running' AND _grownext.queue_cancel_where(job.queue, job.id, 'cancelled by job_cancel()') = 1 THEN
        RETURN true;
    END IF;
    -- it runs, or somebody is about to take it
    INSERT INTO _grownext.queue_cancel (job_id, requested_at)
    VALUES (job.id, _grownext.core_now()) ON CONFLICT DO NOTHING;
    PERFORM _grownext.queue_tick_at_commit();
    RETURN true;
END
$$;
COMMENT ON FUNCTION grownext.job_cancel(bigint) IS 'Cancels a job, one that runs as soon as this transaction commits; false when it is over or not the caller''s.';

CREATE OR REPLACE FUNCTION grownext.job_redrive(queue text, ids bigint[] DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    revived bigint;
BEGIN
    IF queue IS NULL OR NOT EXISTS (SELECT FROM _grownext.queue_queue AS q WHERE q.queue = job_redrive.queue) THEN
        PERFORM _grownext.queue_check_name(queue);
    END IF;
    -- with all attempts before them, and no crash behind them
    DELETE FROM _grownext.queue_suspect AS s USING grownext.dead_letter AS d
     WHERE d.queue = job_redrive.queue AND d.id = s.job_id AND (ids IS NULL OR d.id = ANY (ids));
    revived := _grownext.queue_revive(queue, ids);
    PERFORM _grownext.queue_wake(queue, least(revived, 1000)::int);
    RETURN revived;
END
$$;
COMMENT ON FUNCTION grownext.job_redrive(text, bigint[]) IS 'Makes dead letters of a queue (all, or those named) ready again and says how many.';

-- Views ----------------------------------------------------------------------------

CREATE OR REPLACE VIEW grownext.queue WITH (security_barrier) AS
    SELECT q.queue, q.concurrency, q.max_attempts, q.backoff_base, q.backoff_cap, q.timeout, q.retention, q.dead_retention,
           q.ordered, q.expire, q.handler, q.handler_takes, q.run_as, q.paused_at, q.created_at,
           q.sla_start_within, q.sla_target, q.sla_window, q.parent_failed, q.rate_count, q.rate_period,
           q.weight
      FROM _grownext.queue_queue AS q;
COMMENT ON VIEW grownext.queue IS 'Queues, their limits and handlers.';

CREATE OR REPLACE VIEW grownext.dead_letter WITH (security_barrier) AS
    SELECT d.id, d.queue, d.payload, d.failures AS attempt, d.max_attempts, d.priority, d.unique_key, d.group_key, d.tenant_id,
           d.claims ->> 'sub' AS subject, d.enqueued_at, d.started_at, d.died_at, d.last_error, d.attempts
      FROM _grownext.queue_dead AS d;
COMMENT ON VIEW grownext.dead_letter IS 'Jobs that failed for good; job_redrive() runs them again.';

-- Background work -------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.queue_tick(now timestamptz) RETURNS timestamptz
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    batch CONSTANT int := 1000;
    stubborn bigint := _grownext.queue_end_cancelled();
    lapsed int := _grownext.queue_lapse(batch);
    promoted bigint := _grownext.queue_promote(queue_tick.now, batch);
    resolved bigint := _grownext.queue_resolve(queue_tick.now, batch);
    busy boolean := _grownext.queue_count_batches(queue_tick.now);
    expired bigint := _grownext.queue_expire(queue_tick.now, batch);
BEGIN
    PERFORM _grownext.queue_keep_figures(queue_tick.now);
    IF lapsed = batch OR promoted = batch OR resolved >= batch OR expired = batch THEN
        RETURN queue_tick.now; -- there is more
    END IF;
    RETURN least(_grownext.queue_next_due(), _grownext.queue_throttled(),
                 CASE WHEN stubborn > 0 OR busy THEN queue_tick.now + interval '1 second' END);
END
$$;
COMMENT ON FUNCTION _grownext.queue_tick(timestamptz) IS 'One pass: interrupts what was cancelled, takes back leases, makes due jobs and those that waited for others ready, deletes outcomes past their retention, writes figures down; returns when the next is due.';

-- For unfence(pending => 'skip'). Leases in a copy are those of the original's workers:
-- their jobs end with them.
CREATE OR REPLACE FUNCTION _grownext.queue_skip_pending() RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH leased AS (
        INSERT INTO _grownext.queue_cancel (job_id, requested_at)
        SELECT j.id, _grownext.core_now() FROM _grownext.queue_job AS j WHERE j.lease_until IS NOT NULL
        ON CONFLICT DO NOTHING RETURNING 1)
    SELECT _grownext.queue_cancel_where(NULL, NULL, 'skipped by unfence()') + (SELECT count(*) FROM leased)
$$;
COMMENT ON FUNCTION _grownext.queue_skip_pending() IS 'Cancels every job that waits or has a lease, in every queue; returns how many.';

-- metrics.sql, which follows, has the functions it calls: a plpgsql body is read when it runs.
CREATE OR REPLACE FUNCTION _grownext.queue_metrics_status() RETURNS SETOF grownext.status_item
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    uncounted CONSTANT bigint := _grownext.queue_uncounted();
BEGIN
    RETURN QUERY
    SELECT 'queue', q.queue, 'degraded',
           format('SLA missed: %s %% of jobs started within %s, over %s; the target is %s %%', floor(a.attained * 10000) / 100,
                  q.sla_start_within, q.sla_window, (q.sla_target * 100)::numeric),
           format('SELECT * FROM grownext.queue_history(%L);', q.queue),
           (SELECT m.missed_at FROM _grownext.queue_sla_miss AS m WHERE m.queue = q.queue)
      FROM _grownext.queue_queue AS q
     CROSS JOIN LATERAL _grownext.queue_sla_attained(q.queue, _grownext.core_now(), true) AS a (attained)
     WHERE q.sla_target IS NOT NULL AND a.attained < q.sla_target;
    IF uncounted > 0 THEN
        RETURN QUERY
        SELECT 'queue', 'metrics', 'degraded', format('%s times were not counted: more queues are in use than fit', uncounted),
               'Set grownext.queue_metrics higher in postgresql.conf and restart the server.', NULL::timestamptz;
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.queue_metrics_status() IS 'SLAs that are missed, and figures that are incomplete.';

-- Counts stop at a thousand: status() is never slow.
CREATE OR REPLACE FUNCTION _grownext.queue_status() RETURNS SETOF grownext.status_item
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH figure AS (
        SELECT q.queue, q.handler, q.paused_at,
               (SELECT count(*) FROM (SELECT FROM _grownext.queue_dead AS d WHERE d.queue = q.queue LIMIT 1000) AS x) AS dead,
               (SELECT count(*) FROM (SELECT FROM _grownext.queue_job AS j WHERE j.queue = q.queue AND j.ready LIMIT 1000) AS x) AS ready,
               (SELECT min(x.run_at) FROM (SELECT j.run_at FROM _grownext.queue_job AS j
                 WHERE j.queue = q.queue AND j.ready ORDER BY j.priority, j.id LIMIT 100) AS x) AS oldest,
               (SELECT count(*) FROM (SELECT FROM _grownext.queue_job AS j
                 WHERE j.queue = q.queue AND j.lease_until IS NOT NULL LIMIT 1000) AS x) AS leased,
               (SELECT min(j.lease_until) FROM _grownext.queue_job AS j
                 WHERE j.queue = q.queue AND j.lease_until IS NOT NULL) AS first_end,
               _grownext.queue_waiters(q.queue) AS waiting
          FROM _grownext.queue_queue AS q)
    SELECT 'queue', 'executors',
           CASE WHEN _grownext.queue_preloaded() THEN 'ok' ELSE 'degraded' END,
           CASE WHEN _grownext.queue_preloaded() THEN format('%s queues', (SELECT count(*) FROM figure))
                ELSE 'enqueue works and rows wait; no handler runs' END,
           CASE WHEN _grownext.queue_preloaded() THEN NULL
                ELSE 'Add grownext to shared_preload_libraries in postgresql.conf and restart the server.' END,
           NULL::timestamptz
    UNION ALL
    SELECT 'queue', f.queue, 'degraded', 'paused', format('SELECT grownext.queue_resume(%L);', f.queue), f.paused_at
      FROM figure AS f WHERE f.paused_at IS NOT NULL
    UNION ALL
    SELECT 'queue', f.queue, 'degraded', format('%s%s dead letters', f.dead, CASE WHEN f.dead = 1000 THEN ' or more' END),
           format('SELECT * FROM grownext.dead_letter WHERE queue = %L; SELECT grownext.job_redrive(%L);', f.queue, f.queue), NULL
      FROM figure AS f WHERE f.dead > 0
    UNION ALL
    SELECT 'queue', f.queue, 'degraded', format('%s%s jobs are ready and no handler is registered', f.ready, CASE WHEN f.ready = 1000 THEN ' or more' END),
           format('SELECT grownext.queue_handle(%L, ''schema.function(jsonb)'');', f.queue), f.oldest
      FROM figure AS f WHERE f.handler IS NULL AND f.ready > 0 AND f.leased = 0 AND f.waiting = 0
    UNION ALL
    SELECT 'queue', f.queue, 'ok', format('outside workers hold %s%s jobs, %s wait for one', f.leased, CASE WHEN f.leased = 1000 THEN ' or more' END, f.waiting),
           NULL, NULL
      FROM figure AS f WHERE f.leased > 0 OR f.waiting > 0
    UNION ALL
    SELECT 'queue', f.queue, 'degraded', format('leases are over since %s and were not taken back', f.first_end),
           'The scheduler does it, and each job_fetch(); see grownext.workers().', f.first_end
      FROM figure AS f WHERE f.first_end < _grownext.core_now() - interval '1 minute'
    UNION ALL
    SELECT 'queue', f.queue, 'degraded', format('the oldest ready job waits since %s', f.oldest),
           CASE WHEN f.handler IS NULL THEN 'Start more workers.' ELSE 'See grownext.workers(); raise grownext.executors if they are all busy.' END, f.oldest
      FROM figure AS f
     WHERE (f.handler IS NOT NULL OR f.leased > 0 OR f.waiting > 0) AND f.paused_at IS NULL AND f.oldest < _grownext.core_now() - interval '5 minutes'
    UNION ALL
    SELECT * FROM _grownext.queue_metrics_status()
$$;
COMMENT ON FUNCTION _grownext.queue_status() IS 'What a DBA should know about queues.';

-- Triggers --------------------------------------------------------------------------

CREATE OR REPLACE TRIGGER queue_queue_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.queue_queue
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('queue_marker_queue');
ALTER TABLE _grownext.queue_queue ENABLE ALWAYS TRIGGER queue_queue_invalidate;
CREATE OR REPLACE TRIGGER queue_grant_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.queue_grant
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('queue_marker_queue');
ALTER TABLE _grownext.queue_grant ENABLE ALWAYS TRIGGER queue_grant_invalidate;

-- Jobs that wait for a handler, a resume or a larger limit start when it comes.
CREATE OR REPLACE FUNCTION _grownext.queue_wake_waiting() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.queue_wake(NEW.queue, (SELECT count(*) FROM (
        SELECT FROM _grownext.queue_job AS j WHERE j.queue = NEW.queue AND j.ready LIMIT 100) AS x)::int);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _grownext.queue_wake_waiting() IS 'Trigger: wakes executors and workers for jobs that could not run before.';
CREATE OR REPLACE TRIGGER queue_queue_wake AFTER UPDATE ON _grownext.queue_queue
    FOR EACH ROW WHEN (NEW.paused_at IS NULL)
    EXECUTE FUNCTION _grownext.queue_wake_waiting();

-- A route that core_event_route's foreign key would refuse, refused in clear words;
-- and none into the platform's own queues.
CREATE OR REPLACE FUNCTION _grownext.queue_check_route() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.queue_check_name(NEW.queue);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION _grownext.queue_check_route() IS 'Trigger: a route of events needs a queue that callers may name.';
CREATE OR REPLACE TRIGGER queue_check_route BEFORE INSERT OR UPDATE ON _grownext.core_event_route
    FOR EACH ROW EXECUTE FUNCTION _grownext.queue_check_route();
