-- src/schedule/fire.sql: what happens when a nominal time comes
--
-- The job and its row of evidence are written in one transaction, and the evidence's key
-- is (schedule, nominal time). So whatever is killed, restored or promoted, and whatever
-- the clock does, a nominal time fires at most once; and since the next nominal time
-- moves on in the same transaction, none is forgotten. Whoever writes about a schedule
-- holds the lock on its row.

-- Enqueues the job of a nominal time. The handler finds out which one it is from the
-- payload's key _schedule.
CREATE OR REPLACE FUNCTION _grownext.schedule_put(s _grownext.schedule_schedule, nominal_at timestamptz, outcome text) RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT _grownext.schedule_enqueue(s.queue, s.payload || jsonb_build_object('_schedule', jsonb_build_object(
               'name', s.name, 'outcome', outcome,
               'nominal_at', to_char(nominal_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS') || 'Z')),
               s.priority, s.max_attempts, s.tenant_id, s.claims)
$$;
COMMENT ON FUNCTION _grownext.schedule_put(_grownext.schedule_schedule, timestamptz, text) IS 'Enqueues the job of a nominal time.';

CREATE OR REPLACE FUNCTION _grownext.schedule_note(s _grownext.schedule_schedule, nominal_at timestamptz, outcome text, now timestamptz, job_id bigint, detail text) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO _grownext.schedule_fire (schedule, nominal_at, outcome, due_at, recorded_at, fired_at, job_id, detail, expires_at)
    VALUES (s.name, schedule_note.nominal_at, schedule_note.outcome,
            CASE schedule_note.outcome WHEN 'manual' THEN schedule_note.now ELSE _grownext.schedule_due_at(s, schedule_note.nominal_at) END,
            schedule_note.now, CASE WHEN schedule_note.job_id IS NOT NULL THEN schedule_note.now END, schedule_note.job_id,
            schedule_note.detail, schedule_note.now + s.retention)
$$;
COMMENT ON FUNCTION _grownext.schedule_note(_grownext.schedule_schedule, timestamptz, text, timestamptz, bigint, text) IS 'Writes the evidence of one nominal time.';

-- Nominal times from one on and before another that do not fire. A thousand have rows of
-- their own; if there are more, the next row stands for the rest.
CREATE OR REPLACE FUNCTION _grownext.schedule_miss(s _grownext.schedule_schedule, since timestamptz, before timestamptz, now timestamptz, detail text) RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO _grownext.schedule_fire (schedule, nominal_at, outcome, due_at, recorded_at, detail, expires_at)
    SELECT s.name, m.n, 'missed', _grownext.schedule_due_at(s, m.n), schedule_miss.now,
           schedule_miss.detail || CASE WHEN m.place > 1000 THEN format('; so did the times until %s', before) ELSE '' END,
           schedule_miss.now + s.retention
      FROM grownext.cron_next(s.cron, since - interval '1 microsecond', s.time_zone, 1001) WITH ORDINALITY AS m (n, place)
     WHERE m.n < before
    ON CONFLICT ON CONSTRAINT schedule_fire_pkey DO NOTHING
$$;
COMMENT ON FUNCTION _grownext.schedule_miss(_grownext.schedule_schedule, timestamptz, timestamptz, timestamptz, text) IS 'Writes the evidence of nominal times that were missed.';

-- Of these jobs, the ones without an outcome.
CREATE OR REPLACE FUNCTION _grownext.schedule_open_jobs(ids bigint[]) RETURNS bigint[]
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(i.id), '{}') FROM unnest(ids) AS i (id)
     WHERE EXISTS (SELECT FROM _grownext.queue_find(i.id) AS f WHERE f.state NOT IN ('succeeded', 'dead', 'cancelled'))
$$;
COMMENT ON FUNCTION _grownext.schedule_open_jobs(bigint[]) IS 'Which of some jobs have no outcome yet.';

-- One nominal time that is due: fires it, or says why not. One that waited for a job is
-- late on purpose, not caught up. Returns the schedule as it is afterwards, for the caller
-- to store.
CREATE OR REPLACE FUNCTION _grownext.schedule_fire_at(s _grownext.schedule_schedule, nominal_at timestamptz, now timestamptz, waited boolean) RETURNS _grownext.schedule_schedule
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    late CONSTANT interval := now - _grownext.schedule_due_at(s, nominal_at);
    kind CONSTANT text := CASE WHEN late > interval '1 minute' AND NOT waited THEN 'caught_up' ELSE 'fired' END;
BEGIN
    IF EXISTS (SELECT FROM _grownext.schedule_fire AS f WHERE f.schedule = s.name AND f.nominal_at = schedule_fire_at.nominal_at) THEN
        RETURN s; -- the clock was set back, or a backfill came first
    END IF;
    s.last_nominal_at := nominal_at;
    s.open_jobs := CASE s.overlap WHEN 'allow' THEN '{}' ELSE _grownext.schedule_open_jobs(s.open_jobs) END;
    IF s.open_jobs <> '{}' OR s.buffered_at IS NOT NULL THEN
        IF s.overlap = 'buffer_one' AND s.buffered_at IS NULL THEN
            s.buffered_at := nominal_at;
            PERFORM _grownext.schedule_note(s, nominal_at, 'buffered', now, NULL, 'waits for the end of the job before it');
        ELSE
            PERFORM _grownext.schedule_note(s, nominal_at, 'skipped', now, NULL, 'the job before it has no outcome yet');
        END IF;
        RETURN s;
    END IF;
    BEGIN
        s.last_job_id := _grownext.schedule_put(s, nominal_at, kind);
        PERFORM _grownext.schedule_note(s, nominal_at, kind, now, s.last_job_id, NULL);
        s.open_jobs := CASE s.overlap WHEN 'allow' THEN '{}' ELSE s.open_jobs || s.last_job_id END;
        s.last_fired_at := now;
        s.last_error := NULL;
        s.last_error_at := NULL;
    EXCEPTION WHEN OTHERS THEN
        IF SQLSTATE ~ '^(40|53|55|57|58)' THEN
            RAISE; -- the server's trouble, not the schedule's: the time stays due
        END IF;
        s.last_error := left(SQLSTATE || ': ' || SQLERRM, 1000);
        s.last_error_at := now;
        PERFORM _grownext.schedule_note(s, nominal_at, 'failed', now, NULL, s.last_error);
    END;
    RETURN s;
END
$$;
COMMENT ON FUNCTION _grownext.schedule_fire_at(_grownext.schedule_schedule, timestamptz, timestamptz, boolean) IS 'Fires one nominal time or writes why not.';

-- The last nominal time of a due schedule that is due itself.
CREATE OR REPLACE FUNCTION _grownext.schedule_last_due(s _grownext.schedule_schedule, now timestamptz) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first CONSTANT timestamptz := s.next_nominal_at - interval '1 microsecond';
    last timestamptz := _grownext.schedule_cron_last(s.cron, first, least(now, s.end_at - interval '1 microsecond'), s.time_zone);
BEGIN
    IF last > s.next_nominal_at AND _grownext.schedule_due_at(s, last) > now THEN
        -- jitter ends before the next nominal time: the one before is due
        last := _grownext.schedule_cron_last(s.cron, first, last - interval '1 microsecond', s.time_zone);
    END IF;
    RETURN greatest(last, s.next_nominal_at);
END
$$;
COMMENT ON FUNCTION _grownext.schedule_last_due(_grownext.schedule_schedule, timestamptz) IS 'The last nominal time that is due.';

-- All that is due of one schedule, whose row is locked; true if there is more of it.
CREATE OR REPLACE FUNCTION _grownext.schedule_catch_up(s _grownext.schedule_schedule, now timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    window_start CONSTANT timestamptz := now - s.catch_up_window;
    last_due CONSTANT timestamptz := _grownext.schedule_last_due(s, now);
    nominal timestamptz := s.next_nominal_at;
    inside timestamptz; -- the first nominal time that was due within the window
    most int := 100; -- of one schedule in one pass
BEGIN
    IF _grownext.schedule_due_at(s, nominal) < window_start THEN
        inside := _grownext.schedule_cron_last(s.cron, nominal - interval '1 microsecond', window_start, s.time_zone);
        IF _grownext.schedule_due_at(s, inside) < window_start THEN
            inside := (SELECT n FROM grownext.cron_next(s.cron, inside, s.time_zone) AS n);
        END IF;
        PERFORM _grownext.schedule_miss(s, nominal, least(inside, last_due + interval '1 microsecond'), now, 'outside the catch-up window');
        nominal := inside;
    END IF;
    IF s.catch_up = 'last' AND nominal < last_due THEN
        PERFORM _grownext.schedule_miss(s, nominal, last_due, now, 'a later time was due as well');
        nominal := last_due;
    END IF;
    WHILE nominal <= last_due AND most > 0 LOOP
        s := _grownext.schedule_fire_at(s, nominal, now, false);
        nominal := (SELECT n FROM grownext.cron_next(s.cron, nominal, s.time_zone) AS n);
        most := most - 1;
    END LOOP;
    s := _grownext.schedule_plan(s, CASE WHEN nominal <= last_due THEN nominal - interval '1 microsecond' ELSE last_due END);
    UPDATE _grownext.schedule_schedule AS x
       SET next_nominal_at = s.next_nominal_at, next_at = s.next_at, buffered_at = s.buffered_at, open_jobs = s.open_jobs,
           last_nominal_at = s.last_nominal_at, last_fired_at = s.last_fired_at, last_job_id = s.last_job_id,
           last_error = s.last_error, last_error_at = s.last_error_at
     WHERE x.name = s.name;
    RETURN coalesce(s.next_at <= now, false);
END
$$;
COMMENT ON FUNCTION _grownext.schedule_catch_up(_grownext.schedule_schedule, timestamptz) IS 'Deals with all nominal times of a schedule that are due.';

-- A nominal time that waited for a job fires once the job is over.
CREATE OR REPLACE FUNCTION _grownext.schedule_fire_buffered(s _grownext.schedule_schedule, now timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    nominal CONSTANT timestamptz := s.buffered_at;
BEGIN
    s.open_jobs := _grownext.schedule_open_jobs(s.open_jobs);
    IF s.open_jobs <> '{}' AND s.overlap <> 'allow' THEN
        RETURN;
    END IF;
    DELETE FROM _grownext.schedule_fire AS f WHERE f.schedule = s.name AND f.nominal_at = nominal;
    s.buffered_at := NULL;
    s := _grownext.schedule_fire_at(s, nominal, now, true);
    UPDATE _grownext.schedule_schedule AS x
       SET buffered_at = s.buffered_at, open_jobs = s.open_jobs, last_fired_at = s.last_fired_at, last_job_id = s.last_job_id,
           last_error = s.last_error, last_error_at = s.last_error_at
     WHERE x.name = s.name;
END
$$;
COMMENT ON FUNCTION _grownext.schedule_fire_buffered(_grownext.schedule_schedule, timestamptz) IS 'Fires the nominal time that waits, if it need not wait any more.';

-- One pass. Rows that another transaction has locked are left to the next pass. What goes
-- wrong with one schedule is on record there, and is tried again in a minute; the others
-- go on.
CREATE OR REPLACE FUNCTION _grownext.schedule_tick(now timestamptz) RETURNS timestamptz
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    batch CONSTANT int := 200; -- the first jobs of a crowd start while the last are still to be enqueued
    s _grownext.schedule_schedule;
    seen int := 0;
    expired int;
    more boolean := false;
BEGIN
    FOR s IN SELECT * FROM _grownext.schedule_schedule AS x WHERE x.buffered_at IS NOT NULL ORDER BY x.buffered_at LIMIT batch FOR UPDATE SKIP LOCKED LOOP
        BEGIN
            PERFORM _grownext.schedule_fire_buffered(s, schedule_tick.now);
        EXCEPTION WHEN OTHERS THEN
            UPDATE _grownext.schedule_schedule AS x
               SET last_error = left(SQLSTATE || ': ' || SQLERRM, 1000), last_error_at = schedule_tick.now WHERE x.name = s.name;
        END;
    END LOOP;
    FOR s IN SELECT * FROM _grownext.schedule_schedule AS x WHERE x.next_at <= schedule_tick.now ORDER BY x.next_at LIMIT batch FOR UPDATE SKIP LOCKED LOOP
        seen := seen + 1;
        BEGIN
            more := _grownext.schedule_catch_up(s, schedule_tick.now) OR more;
        EXCEPTION WHEN OTHERS THEN
            UPDATE _grownext.schedule_schedule AS x
               SET next_at = schedule_tick.now + interval '1 minute', last_error = left(SQLSTATE || ': ' || SQLERRM, 1000), last_error_at = schedule_tick.now
             WHERE x.name = s.name;
        END;
    END LOOP;
    WITH old AS (
        SELECT f.schedule, f.nominal_at FROM _grownext.schedule_fire AS f WHERE f.expires_at <= schedule_tick.now ORDER BY f.expires_at LIMIT 5 * batch)
    DELETE FROM _grownext.schedule_fire AS f USING old AS o WHERE f.schedule = o.schedule AND f.nominal_at = o.nominal_at;
    GET DIAGNOSTICS expired = ROW_COUNT;
    IF more OR seen = batch OR expired = 5 * batch THEN
        RETURN schedule_tick.now; -- there is more
    END IF;
    RETURN least(schedule_tick.now + interval '1 hour',
        (SELECT min(x.next_at) FROM _grownext.schedule_schedule AS x WHERE x.next_at > schedule_tick.now),
        -- locked ones, and those that wait for a job, are looked at again soon
        (SELECT schedule_tick.now + interval '1 second' FROM _grownext.schedule_schedule AS x
          WHERE x.next_at <= schedule_tick.now OR x.buffered_at IS NOT NULL LIMIT 1));
END
$$;
COMMENT ON FUNCTION _grownext.schedule_tick(timestamptz) IS 'One pass: fires what is due, deletes old evidence; returns when the next schedule is due.';

-- By hand --------------------------------------------------------------------------

-- Nominal times are whole seconds; those of manual runs never are, so they take no
-- nominal time its fire.
CREATE OR REPLACE FUNCTION grownext.schedule_run(name text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s CONSTANT _grownext.schedule_schedule := _grownext.schedule_lock(name);
    now CONSTANT timestamptz := _grownext.core_now();
    nominal timestamptz := now;
    job bigint;
BEGIN
    WHILE nominal = date_trunc('second', nominal)
          OR EXISTS (SELECT FROM _grownext.schedule_fire AS f WHERE f.schedule = s.name AND f.nominal_at = nominal) LOOP
        nominal := nominal + interval '1 microsecond';
    END LOOP;
    job := _grownext.schedule_put(s, nominal, 'manual');
    PERFORM _grownext.schedule_note(s, nominal, 'manual', now, job, NULL);
    UPDATE _grownext.schedule_schedule AS x
       SET last_fired_at = now, last_job_id = job, last_error = NULL, last_error_at = NULL,
           open_jobs = CASE x.overlap WHEN 'allow' THEN '{}' ELSE _grownext.schedule_open_jobs(x.open_jobs) || job END
     WHERE x.name = s.name;
    PERFORM _grownext.schedule_record('schedule.run', s, NULL, jsonb_build_object('name', s.name, 'job_id', job));
    RETURN job;
END
$$;
COMMENT ON FUNCTION grownext.schedule_run(text) IS 'Enqueues a schedule''s job now, whatever else is running; returns the job''s id.';

CREATE OR REPLACE FUNCTION grownext.schedule_backfill(name text, since timestamptz, until timestamptz) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    most CONSTANT int := 10000;
    s CONSTANT _grownext.schedule_schedule := _grownext.schedule_lock(name);
    now CONSTANT timestamptz := _grownext.core_now();
    nominal timestamptz;
    passed int := 0;
    filled int := 0;
    job bigint;
BEGIN
    IF since IS NULL OR until IS NULL OR since >= until OR until > now THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'a backfill needs a time since and a later one until, which has passed';
    END IF;
    FOR nominal IN SELECT n FROM grownext.cron_next(s.cron, since - interval '1 microsecond', s.time_zone, most) AS n WHERE n < until LOOP
        passed := passed + 1;
        IF passed = most THEN
            RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded', MESSAGE = format('a backfill takes fewer than %s nominal times', most),
                HINT = format('Begin with those until %s.', nominal);
        END IF;
        CONTINUE WHEN EXISTS (
            SELECT FROM _grownext.schedule_fire AS f
             WHERE f.schedule = s.name AND f.nominal_at = nominal AND (f.job_id IS NOT NULL OR f.outcome = 'buffered'));
        DELETE FROM _grownext.schedule_fire AS f WHERE f.schedule = s.name AND f.nominal_at = nominal;
        job := _grownext.schedule_put(s, nominal, 'backfill');
        PERFORM _grownext.schedule_note(s, nominal, 'backfill', now, job, NULL);
        filled := filled + 1;
    END LOOP;
    IF filled > 0 THEN
        PERFORM _grownext.schedule_record('schedule.backfilled', s, NULL,
            jsonb_build_object('name', s.name, 'since', since, 'until', until, 'jobs', filled));
    END IF;
    RETURN filled;
END
$$;
COMMENT ON FUNCTION grownext.schedule_backfill(text, timestamptz, timestamptz) IS 'Enqueues a job for every nominal time of the past that has had none; returns how many.';

-- For unfence(pending => 'skip').
CREATE OR REPLACE FUNCTION _grownext.schedule_skip_pending() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now CONSTANT timestamptz := _grownext.core_now();
    s _grownext.schedule_schedule;
BEGIN
    FOR s IN SELECT * FROM _grownext.schedule_schedule AS x WHERE x.next_at <= now OR x.buffered_at IS NOT NULL ORDER BY x.name FOR UPDATE LOOP
        UPDATE _grownext.schedule_fire AS f SET outcome = 'skipped', detail = 'skipped by unfence()'
         WHERE f.schedule = s.name AND f.nominal_at = s.buffered_at;
        IF s.next_at <= now THEN
            PERFORM _grownext.schedule_miss(s, s.next_nominal_at, now, now, 'skipped by unfence()');
            s := _grownext.schedule_plan(s, now);
        END IF;
        UPDATE _grownext.schedule_schedule AS x SET next_nominal_at = s.next_nominal_at, next_at = s.next_at, buffered_at = NULL
         WHERE x.name = s.name;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _grownext.schedule_skip_pending() IS 'Gives up what is due of every schedule.';
