-- src/schedule/tables.sql: schedules, and one row of evidence per nominal time
--
-- A schedule names its queue without a foreign key, as jobs do: a queue may be dropped,
-- and then the fires fail on record. Evidence names its schedule likewise: it outlives
-- the schedule, and its key keeps a schedule that was dropped and defined anew from
-- firing twice for one nominal time.

CREATE TABLE _grownext.schedule_schedule (
    name            text COLLATE "C" NOT NULL,
    cron            text        NOT NULL,
    time_zone       text        NOT NULL,
    queue           text COLLATE "C" NOT NULL,
    payload         jsonb       NOT NULL,
    overlap         text        NOT NULL,
    catch_up        text        NOT NULL,
    catch_up_window interval    NOT NULL,
    jitter          interval    NOT NULL,
    start_at        timestamptz,
    end_at          timestamptz, -- no nominal time at or after it
    priority        int         NOT NULL,
    max_attempts    int,         -- NULL: the queue's
    retention       interval    NOT NULL,
    tenant_id       uuid,
    claims          jsonb       NOT NULL, -- what the jobs carry, as those of an enqueue()
    created_at      timestamptz NOT NULL,
    paused_at       timestamptz,
    next_nominal_at timestamptz, -- NULL: paused, or over
    next_at         timestamptz, -- when that one is due: with jitter
    buffered_at     timestamptz, -- nominal time that waits for the end of a job
    open_jobs       bigint[]    NOT NULL DEFAULT '{}', -- those that may still be running, unless overlap is allowed
    last_nominal_at timestamptz,
    last_fired_at   timestamptz,
    last_job_id     bigint,
    last_error      text,        -- of the last fire, if that failed
    last_error_at   timestamptz,
    CONSTRAINT schedule_schedule_pkey PRIMARY KEY (name),
    CONSTRAINT schedule_schedule_name_chk CHECK (name ~ '^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}$'),
    CONSTRAINT schedule_schedule_payload_chk CHECK (jsonb_typeof(payload) = 'object' AND NOT payload ? '_schedule'),
    CONSTRAINT schedule_schedule_overlap_chk CHECK (overlap IN ('skip', 'buffer_one', 'allow')),
    CONSTRAINT schedule_schedule_catch_up_chk CHECK (catch_up IN ('last', 'all')),
    CONSTRAINT schedule_schedule_window_chk CHECK (catch_up_window BETWEEN '10 seconds' AND '366 days'),
    CONSTRAINT schedule_schedule_jitter_chk CHECK (jitter BETWEEN '0' AND '1 day'),
    CONSTRAINT schedule_schedule_bounds_chk CHECK (isfinite(start_at) AND isfinite(end_at) AND start_at < end_at),
    CONSTRAINT schedule_schedule_max_attempts_chk CHECK (max_attempts BETWEEN 1 AND 1000),
    CONSTRAINT schedule_schedule_retention_chk CHECK (retention BETWEEN '1 day' AND '10 years'),
    CONSTRAINT schedule_schedule_next_chk CHECK ((next_nominal_at IS NULL) = (next_at IS NULL))
);
CREATE INDEX schedule_schedule_next_idx ON _grownext.schedule_schedule (next_at);
CREATE INDEX schedule_schedule_buffered_idx ON _grownext.schedule_schedule (buffered_at) WHERE buffered_at IS NOT NULL;
COMMENT ON TABLE _grownext.schedule_schedule IS 'Schedules: when they fire, what they enqueue, and where they stand.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.schedule_schedule', '');

CREATE TABLE _grownext.schedule_fire (
    schedule    text COLLATE "C" NOT NULL,
    nominal_at  timestamptz NOT NULL,
    outcome     text        NOT NULL,
    due_at      timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    fired_at    timestamptz,
    job_id      bigint,
    detail      text,
    expires_at  timestamptz NOT NULL,
    CONSTRAINT schedule_fire_pkey PRIMARY KEY (schedule, nominal_at),
    CONSTRAINT schedule_fire_outcome_chk CHECK (
        outcome IN ('fired', 'caught_up', 'manual', 'backfill', 'buffered', 'skipped', 'missed', 'failed')),
    CONSTRAINT schedule_fire_job_chk CHECK (
        (job_id IS NOT NULL) = (outcome IN ('fired', 'caught_up', 'manual', 'backfill'))
        AND (job_id IS NULL) = (fired_at IS NULL))
);
CREATE INDEX schedule_fire_expires_idx ON _grownext.schedule_fire (expires_at);
COMMENT ON TABLE _grownext.schedule_fire IS 'What became of each nominal time of a schedule; the key makes a second fire impossible.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.schedule_fire', '');
