-- src/schedule/functions.sql: cron, and schedules from definition to drop

-- Cron -------------------------------------------------------------------------

-- STABLE: time zones have rules, and the rules change with the server's files.
CREATE OR REPLACE FUNCTION grownext.cron_next(cron text, after timestamptz, time_zone text DEFAULT 'UTC', count int DEFAULT 1) RETURNS SETOF timestamptz
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_cron_next_sql';
COMMENT ON FUNCTION grownext.cron_next(text, timestamptz, text, int) IS 'The next times of a cron expression after an instant, in a time zone.';

CREATE OR REPLACE FUNCTION _grownext.schedule_cron_last(cron text, after timestamptz, upto timestamptz, time_zone text) RETURNS timestamptz
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_cron_last_sql';
COMMENT ON FUNCTION _grownext.schedule_cron_last(text, timestamptz, timestamptz, text) IS 'The last time of a cron expression after one instant and not after another; NULL: none.';

-- Small helpers ------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.schedule_wake() RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_schedule_wake';
COMMENT ON FUNCTION _grownext.schedule_wake() IS 'Asks the scheduler at commit to look at the schedules.';

CREATE OR REPLACE FUNCTION _grownext.schedule_enqueue(queue text, payload jsonb, priority int, max_attempts int, tenant_id uuid, claims jsonb) RETURNS bigint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_schedule_enqueue';
COMMENT ON FUNCTION _grownext.schedule_enqueue(text, jsonb, int, int, uuid, jsonb) IS 'Enqueues a job with the schedule''s context in place of the caller''s.';

-- When a nominal time is due: later by a share of the jitter that name and time decide,
-- but before the next nominal time.
CREATE OR REPLACE FUNCTION _grownext.schedule_due_at(s _grownext.schedule_schedule, nominal_at timestamptz) RETURNS timestamptz
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    span bigint; -- milliseconds
BEGIN
    IF s.jitter = '0' THEN
        RETURN nominal_at;
    END IF;
    span := 1000 * extract(epoch FROM least(s.jitter, (
        SELECT n - nominal_at FROM grownext.cron_next(s.cron, nominal_at, s.time_zone) AS n)));
    RETURN nominal_at + interval '1 millisecond' * mod(
        hashtextextended(s.name, extract(epoch FROM nominal_at)::bigint) & 9223372036854775807, greatest(span, 1));
END
$$;
COMMENT ON FUNCTION _grownext.schedule_due_at(_grownext.schedule_schedule, timestamptz) IS 'When a nominal time is due, jitter included.';

-- The schedule with its next nominal time after an instant, within its bounds.
CREATE OR REPLACE FUNCTION _grownext.schedule_plan(s _grownext.schedule_schedule, after timestamptz) RETURNS _grownext.schedule_schedule
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    s.next_nominal_at := (
        SELECT n FROM grownext.cron_next(s.cron, greatest(after, s.start_at - interval '1 microsecond'), s.time_zone) AS n
         WHERE n < s.end_at OR s.end_at IS NULL);
    s.next_at := CASE WHEN s.next_nominal_at IS NOT NULL THEN _grownext.schedule_due_at(s, s.next_nominal_at) END;
    RETURN s;
END
$$;
COMMENT ON FUNCTION _grownext.schedule_plan(_grownext.schedule_schedule, timestamptz) IS 'A schedule with its next nominal time after an instant.';

-- Locks the schedule's row until the end of the transaction; raises if there is none.
CREATE OR REPLACE FUNCTION _grownext.schedule_lock(name text) RETURNS _grownext.schedule_schedule
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s _grownext.schedule_schedule;
BEGIN
    SELECT * INTO s FROM _grownext.schedule_schedule AS x WHERE x.name = schedule_lock.name FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('schedule "%s" does not exist', coalesce(left(name, 100), 'NULL')),
            HINT = 'SELECT name FROM grownext.schedule;';
    END IF;
    RETURN s;
END
$$;
COMMENT ON FUNCTION _grownext.schedule_lock(text) IS 'Locks and returns a schedule; raises if there is none.';

-- What the audit log and routed events say of a schedule: its definition.
CREATE OR REPLACE FUNCTION _grownext.schedule_json(s _grownext.schedule_schedule) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('name', s.name, 'cron', s.cron, 'time_zone', s.time_zone, 'queue', s.queue, 'payload', s.payload,
        'overlap', s.overlap, 'catch_up', s.catch_up, 'catch_up_window', s.catch_up_window, 'jitter', s.jitter,
        'start_at', s.start_at, 'end_at', s.end_at, 'priority', s.priority, 'max_attempts', s.max_attempts,
        'retention', s.retention, 'tenant_id', s.tenant_id, 'subject', s.claims -> 'sub', 'paused_at', s.paused_at)
$$;
COMMENT ON FUNCTION _grownext.schedule_json(_grownext.schedule_schedule) IS 'A schedule''s definition as an object.';

-- Every administrative change: one audit event, in the log of the schedule's tenant if it
-- has one, and one platform event.
CREATE OR REPLACE FUNCTION _grownext.schedule_record(action text, s _grownext.schedule_schedule, before jsonb, after jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.audit_write(action, 'schedule:' || s.name, s.tenant_id, before, after);
    PERFORM _grownext.core_event_emit(action, s.tenant_id, coalesce(after, before));
END
$$;
COMMENT ON FUNCTION _grownext.schedule_record(text, _grownext.schedule_schedule, jsonb, jsonb) IS 'Writes the audit event of a change to a schedule and sends it to whoever routed it.';

-- Definition ---------------------------------------------------------------------

-- The row that a definition asks for, checked but for its constraints. The jobs carry the
-- definer's claims, without those of the token and session that brought them: a schedule
-- outlives both.
CREATE OR REPLACE FUNCTION _grownext.schedule_row(name text, cron text, queue text, payload jsonb, time_zone text, options jsonb) RETURNS _grownext.schedule_schedule
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s _grownext.schedule_schedule;
BEGIN
    PERFORM _grownext.core_check_options(options, '{"overlap": "string", "catch_up": "string", "catch_up_window": "string",
        "jitter": "string", "start_at": "string", "end_at": "string", "priority": "number", "max_attempts": "number",
        "retention": "string", "tenant_id": "string"}');
    IF name IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'name must not be null';
    ELSIF starts_with(name, 'grownext.') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = format('schedule "%s" is internal', left(name, 100)),
            DETAIL = 'Schedules named grownext.* belong to the platform.';
    ELSIF payload IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'payload must not be null';
    ELSIF octet_length(payload::text) > 1000000 THEN
        RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded', MESSAGE = 'payload of a schedule exceeds 1,000,000 bytes',
            HINT = 'Store what is large in a table and put its key into the payload.';
    END IF;
    PERFORM _grownext.queue_check_name(queue);
    PERFORM grownext.cron_next(cron, _grownext.core_now(), time_zone);
    s.name := name;
    s.cron := cron;
    s.time_zone := time_zone;
    s.queue := queue;
    s.payload := payload;
    s.overlap := coalesce(options ->> 'overlap', 'skip');
    s.catch_up := coalesce(options ->> 'catch_up', 'last');
    s.catch_up_window := coalesce((options ->> 'catch_up_window')::interval, '1 day');
    s.jitter := coalesce((options ->> 'jitter')::interval, '0');
    s.start_at := (options ->> 'start_at')::timestamptz;
    s.end_at := (options ->> 'end_at')::timestamptz;
    s.priority := coalesce((options ->> 'priority')::int, 0);
    s.max_attempts := (options ->> 'max_attempts')::int;
    s.retention := coalesce((options ->> 'retention')::interval, '90 days');
    s.tenant_id := CASE WHEN options ? 'tenant_id' THEN _grownext.core_caller_tenant((options ->> 'tenant_id')::uuid)
                        ELSE grownext.current_tenant() END;
    s.claims := coalesce(grownext.claims(), '{}') - '{iss,aud,exp,iat,nbf,jti,sid,auth_time,tenant_id}'::text[]
                || CASE WHEN s.tenant_id IS NULL THEN '{}' ELSE jsonb_build_object('tenant_id', s.tenant_id) END;
    s.created_at := _grownext.core_now();
    s.open_jobs := '{}';
    RETURN s;
END
$$;
COMMENT ON FUNCTION _grownext.schedule_row(text, text, text, jsonb, text, jsonb) IS 'The row of a definition; raises on what cannot be one.';

-- What two definitions differ in; the second list also moves the next fire.
CREATE OR REPLACE FUNCTION _grownext.schedule_differs(a _grownext.schedule_schedule, b _grownext.schedule_schedule, OUT definition boolean, OUT timing boolean) RETURNS record
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT timing OR (a.queue, a.payload, a.overlap, a.catch_up, a.catch_up_window, a.priority, a.max_attempts, a.retention, a.tenant_id, a.claims)
               IS DISTINCT FROM
              (b.queue, b.payload, b.overlap, b.catch_up, b.catch_up_window, b.priority, b.max_attempts, b.retention, b.tenant_id, b.claims),
           timing
      FROM (SELECT (a.cron, a.time_zone, a.jitter, a.start_at, a.end_at) IS DISTINCT FROM (b.cron, b.time_zone, b.jitter, b.start_at, b.end_at)) AS t (timing)
$$;
COMMENT ON FUNCTION _grownext.schedule_differs(_grownext.schedule_schedule, _grownext.schedule_schedule) IS 'Whether two definitions differ, and whether in their times.';

CREATE OR REPLACE FUNCTION grownext.schedule_define(name text, cron text, queue text, payload jsonb DEFAULT '{}', time_zone text DEFAULT 'UTC', options jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted _grownext.schedule_schedule := _grownext.schedule_row(name, cron, queue, payload, time_zone, options);
    found_one _grownext.schedule_schedule;
    differs record;
BEGIN
    wanted := _grownext.schedule_plan(wanted, _grownext.core_now());
    LOOP
        INSERT INTO _grownext.schedule_schedule VALUES (wanted.*) ON CONFLICT ON CONSTRAINT schedule_schedule_pkey DO NOTHING;
        IF FOUND THEN
            PERFORM _grownext.schedule_record('schedule.defined', wanted, NULL, _grownext.schedule_json(wanted));
            EXIT;
        END IF;
        SELECT * INTO found_one FROM _grownext.schedule_schedule AS s WHERE s.name = wanted.name FOR UPDATE;
        CONTINUE WHEN NOT FOUND; -- it was dropped between the two statements
        SELECT * INTO differs FROM _grownext.schedule_differs(found_one, wanted);
        IF NOT differs.definition THEN
            RETURN;
        END IF;
        wanted.paused_at := found_one.paused_at;
        IF wanted.paused_at IS NOT NULL THEN
            wanted.next_nominal_at := NULL;
            wanted.next_at := NULL;
        ELSIF NOT differs.timing THEN
            wanted.next_nominal_at := found_one.next_nominal_at;
            wanted.next_at := found_one.next_at;
        END IF;
        UPDATE _grownext.schedule_schedule AS s
           SET cron = wanted.cron, time_zone = wanted.time_zone, queue = wanted.queue, payload = wanted.payload,
               overlap = wanted.overlap, catch_up = wanted.catch_up, catch_up_window = wanted.catch_up_window,
               jitter = wanted.jitter, start_at = wanted.start_at, end_at = wanted.end_at, priority = wanted.priority,
               max_attempts = wanted.max_attempts, retention = wanted.retention, tenant_id = wanted.tenant_id,
               claims = wanted.claims, next_nominal_at = wanted.next_nominal_at, next_at = wanted.next_at,
               last_error = NULL, last_error_at = NULL
         WHERE s.name = wanted.name;
        PERFORM _grownext.schedule_record('schedule.defined', wanted, _grownext.schedule_json(found_one), _grownext.schedule_json(wanted));
        EXIT;
    END LOOP;
    PERFORM _grownext.schedule_wake();
EXCEPTION
    WHEN check_violation THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('invalid definition of schedule "%s"', left(name, 100)),
            DETAIL = 'A name has 1 to 100 letters, digits and _ . : -, payload is an object without the key _schedule, overlap is skip, buffer_one or allow, catch_up is last or all, catch_up_window is 10 seconds to 366 days, jitter is at most a day, start_at is before end_at, max_attempts is 1 to 1000, retention is a day to 10 years.';
END
$$;
COMMENT ON FUNCTION grownext.schedule_define(text, text, text, jsonb, text, jsonb) IS 'Creates a schedule or replaces its definition; the same definition again changes nothing.';

CREATE OR REPLACE FUNCTION grownext.schedule_pause(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s _grownext.schedule_schedule := _grownext.schedule_lock(name);
    before CONSTANT jsonb := _grownext.schedule_json(s);
BEGIN
    IF s.paused_at IS NOT NULL THEN
        RETURN;
    END IF;
    UPDATE _grownext.schedule_fire AS f SET outcome = 'skipped', detail = 'paused while it waited for a job'
     WHERE f.schedule = s.name AND f.nominal_at = s.buffered_at;
    UPDATE _grownext.schedule_schedule AS x
       SET paused_at = _grownext.core_now(), next_nominal_at = NULL, next_at = NULL, buffered_at = NULL
     WHERE x.name = s.name RETURNING x.* INTO s;
    PERFORM _grownext.schedule_record('schedule.paused', s, before, _grownext.schedule_json(s));
END
$$;
COMMENT ON FUNCTION grownext.schedule_pause(text) IS 'Keeps a schedule from firing until schedule_resume().';

CREATE OR REPLACE FUNCTION grownext.schedule_resume(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s _grownext.schedule_schedule := _grownext.schedule_lock(name);
    before CONSTANT jsonb := _grownext.schedule_json(s);
BEGIN
    IF s.paused_at IS NULL THEN
        RETURN;
    END IF;
    s := _grownext.schedule_plan(s, _grownext.core_now());
    UPDATE _grownext.schedule_schedule AS x
       SET paused_at = NULL, next_nominal_at = s.next_nominal_at, next_at = s.next_at
     WHERE x.name = s.name RETURNING x.* INTO s;
    PERFORM _grownext.schedule_record('schedule.resumed', s, before, _grownext.schedule_json(s));
    PERFORM _grownext.schedule_wake();
END
$$;
COMMENT ON FUNCTION grownext.schedule_resume(text) IS 'Takes schedule_pause() back; times that passed in between are not caught up.';

CREATE OR REPLACE FUNCTION grownext.schedule_drop(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s CONSTANT _grownext.schedule_schedule := _grownext.schedule_lock(name);
BEGIN
    UPDATE _grownext.schedule_fire AS f SET outcome = 'skipped', detail = 'dropped while it waited for a job'
     WHERE f.schedule = s.name AND f.nominal_at = s.buffered_at;
    DELETE FROM _grownext.schedule_schedule AS x WHERE x.name = s.name;
    PERFORM _grownext.schedule_record('schedule.dropped', s, _grownext.schedule_json(s), NULL);
END
$$;
COMMENT ON FUNCTION grownext.schedule_drop(text) IS 'Drops a schedule; its jobs and its evidence stay.';

-- For the purge of a tenant.
CREATE OR REPLACE FUNCTION _grownext.schedule_drop_tenant(tenant_id uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own text;
BEGIN
    FOR own IN SELECT s.name FROM _grownext.schedule_schedule AS s WHERE s.tenant_id = schedule_drop_tenant.tenant_id ORDER BY s.name LOOP
        PERFORM grownext.schedule_drop(own);
    END LOOP;
END
$$;
COMMENT ON FUNCTION _grownext.schedule_drop_tenant(uuid) IS 'Drops the schedules whose jobs act for a tenant.';

-- What is there ------------------------------------------------------------------

-- Payloads are for those who may enqueue them: a monitor sees the rest.
CREATE OR REPLACE VIEW grownext.schedule WITH (security_barrier) AS
    SELECT s.name, s.cron, s.time_zone, s.queue,
           CASE WHEN _grownext.core_caller_has('service') OR _grownext.core_caller_has('admin') THEN s.payload END AS payload,
           s.overlap, s.catch_up, s.catch_up_window, s.jitter, s.start_at, s.end_at, s.priority, s.max_attempts, s.retention,
           s.tenant_id, s.paused_at, s.next_nominal_at, s.next_at, s.buffered_at, s.last_nominal_at, s.last_fired_at,
           s.last_job_id, s.last_error, s.last_error_at, s.created_at
      FROM _grownext.schedule_schedule AS s;
COMMENT ON VIEW grownext.schedule IS 'Schedules, when they fired and when they fire next.';

CREATE OR REPLACE VIEW grownext.schedule_fire WITH (security_barrier) AS
    SELECT f.schedule, f.nominal_at, f.outcome, f.due_at, f.fired_at, f.fired_at - f.due_at AS late, f.job_id, f.detail, f.recorded_at
      FROM _grownext.schedule_fire AS f;
COMMENT ON VIEW grownext.schedule_fire IS 'What became of each nominal time of a schedule.';

CREATE OR REPLACE FUNCTION _grownext.schedule_status() RETURNS SETOF grownext.status_item
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'schedule', 'schedules', 'ok',
           format('%s schedules, %s paused%s', count(*), count(s.paused_at), ', next fire ' || min(s.next_at)), NULL::text, NULL::timestamptz
      FROM _grownext.schedule_schedule AS s
    UNION ALL
    SELECT 'schedule', s.name, 'degraded', format('the last fire failed: %s', s.last_error),
           format('Mend the cause; then SELECT grownext.schedule_run(%L); makes up for it.', s.name), s.last_error_at
      FROM _grownext.schedule_schedule AS s WHERE s.last_error IS NOT NULL
    UNION ALL
    SELECT 'schedule', s.name, 'degraded', format('due since %s', s.next_at),
           'Nothing fires unless the scheduler runs: see the items of component core.', s.next_at
      FROM _grownext.schedule_schedule AS s WHERE s.last_error IS NULL AND s.next_at < _grownext.core_now() - interval '1 minute'
$$;
COMMENT ON FUNCTION _grownext.schedule_status() IS 'What a DBA should know about schedules.';
