-- src/queue/tables.sql: queues, their rights, and jobs from enqueue to outcome
--
-- Everything refers to a queue by its name: ids would differ between a fresh install
-- and the dump that is restored into it. The job tables have no foreign key to the
-- queue, for a row lock on one row per enqueue would be the bottleneck of the whole
-- product; queue_drop() and enqueue() exclude each other by a lock on the name.

CREATE TYPE _grownext.queue_marker_queue AS ();

CREATE TABLE _grownext.queue_queue (
    queue          text COLLATE "C" NOT NULL,
    concurrency    int,
    rate_count     int,
    rate_period    interval,
    max_attempts   int         NOT NULL,
    backoff_base   interval    NOT NULL,
    backoff_cap    interval    NOT NULL,
    timeout        interval    NOT NULL,
    retention      interval    NOT NULL,
    dead_retention interval    NOT NULL,
    ordered        boolean     NOT NULL,
    expire         boolean     NOT NULL,
    parent_failed  text        NOT NULL,
    handler        text, -- qualified and quoted; its argument follows from handler_takes
    handler_takes  text,
    run_as         name,
    handled_at     timestamptz,
    sla_start_within interval, -- NULL: none
    sla_target     double precision,
    sla_window     interval,
    paused_at      timestamptz,
    created_at     timestamptz NOT NULL,
    weight         int         NOT NULL,
    CONSTRAINT queue_queue_pkey PRIMARY KEY (queue),
    CONSTRAINT queue_queue_name_chk CHECK (queue ~ '^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}$'),
    CONSTRAINT queue_queue_weight_chk CHECK (weight BETWEEN 1 AND 100),
    CONSTRAINT queue_queue_concurrency_chk CHECK (concurrency BETWEEN 1 AND 1000),
    CONSTRAINT queue_queue_rate_chk CHECK (
        (rate_count IS NULL) = (rate_period IS NULL)
        AND rate_count BETWEEN 1 AND 1000000 AND rate_period BETWEEN '1 millisecond' AND '1 day'),
    CONSTRAINT queue_queue_max_attempts_chk CHECK (max_attempts BETWEEN 1 AND 1000),
    CONSTRAINT queue_queue_backoff_chk CHECK (backoff_base > '0' AND backoff_cap >= backoff_base AND backoff_cap <= '30 days'),
    CONSTRAINT queue_queue_timeout_chk CHECK (timeout >= '1 millisecond' AND timeout <= '7 days'),
    CONSTRAINT queue_queue_retention_chk CHECK (retention >= '0' AND dead_retention >= '0'),
    CONSTRAINT queue_queue_sla_chk CHECK (
        (sla_start_within IS NULL) = (sla_target IS NULL) AND (sla_start_within IS NULL) = (sla_window IS NULL)
        AND sla_start_within >= '1 millisecond' AND sla_start_within <= '7 days'
        AND sla_target > 0 AND sla_target <= 1 AND sla_window >= '1 minute' AND sla_window <= '90 days'),
    CONSTRAINT queue_queue_parent_failed_chk CHECK (parent_failed IN ('cancel', 'run', 'wait')),
    CONSTRAINT queue_queue_handler_chk CHECK (
        (handler IS NULL) = (handler_takes IS NULL) AND (handler IS NULL) = (run_as IS NULL)
        AND (handler IS NULL) = (handled_at IS NULL) AND handler_takes IN ('payload', 'job'))
);
COMMENT ON TABLE _grownext.queue_queue IS 'Queues: limits, retry rules and the handler that executors run.';
-- Internal queues are made by CREATE EXTENSION itself.
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_queue', 'WHERE queue !~ ''^grownext\.''');

CREATE TABLE _grownext.queue_grant (
    queue      text COLLATE "C" NOT NULL,
    role_name  name        NOT NULL,
    right_name text        NOT NULL,
    CONSTRAINT queue_grant_pkey PRIMARY KEY (queue, role_name, right_name),
    CONSTRAINT queue_grant_queue_fkey FOREIGN KEY (queue) REFERENCES _grownext.queue_queue (queue) ON DELETE CASCADE,
    CONSTRAINT queue_grant_right_chk CHECK (right_name IN ('enqueue', 'work'))
);
COMMENT ON TABLE _grownext.queue_grant IS 'Rights of roles on queues, beside service and admin.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_grant', '');

-- Jobs that have no outcome yet. A row that an executor runs is locked, not marked:
-- the lock ends with the executor's transaction, however that ends. A worker outside
-- has a lease, which is written down and ends at its time.
CREATE SEQUENCE _grownext.queue_job_id AS bigint CACHE 1;
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_job_id', '');

CREATE TABLE _grownext.queue_job (
    id           bigint      NOT NULL, -- from _grownext.core_nextval()
    enqueued_at  timestamptz NOT NULL,
    run_at       timestamptz NOT NULL,
    deadline     timestamptz,
    priority     int         NOT NULL,
    max_attempts int         NOT NULL,
    failures     int         NOT NULL DEFAULT 0,
    ready        boolean     NOT NULL,
    waiting      boolean     NOT NULL DEFAULT false, -- for other jobs
    queue        text COLLATE "C" NOT NULL,
    unique_key   text COLLATE "C",
    group_key    text COLLATE "C",
    tenant_id    uuid,
    claims       jsonb,
    payload      jsonb       NOT NULL,
    last_error   text,
    attempts     jsonb       NOT NULL DEFAULT '[]',
    lease_id     bigint,      -- the last one; kept when it lapsed, until the job is handed out again
    lease_until  timestamptz, -- NULL: no outside worker has the job
    leased_at    timestamptz,
    slot         int,         -- of a queue with a concurrency
    worker       text,
    progress     jsonb,
    batch_id     bigint,      -- whose callback waits for the job
    CONSTRAINT queue_job_pkey PRIMARY KEY (id),
    CONSTRAINT queue_job_waiting_chk CHECK (NOT waiting OR (NOT ready AND lease_until IS NULL)),
    CONSTRAINT queue_job_lease_chk CHECK (
        (lease_until IS NULL) = (leased_at IS NULL)
        AND (lease_until IS NULL OR (lease_id IS NOT NULL AND NOT ready))
        AND (lease_until IS NOT NULL OR (slot IS NULL AND worker IS NULL AND progress IS NULL)))
);
CREATE INDEX queue_job_ready_idx ON _grownext.queue_job (queue, priority, id) WHERE ready;
CREATE INDEX queue_job_ready_group_idx ON _grownext.queue_job (queue, priority, group_key, id) WHERE ready AND group_key IS NOT NULL;
CREATE INDEX queue_job_due_idx ON _grownext.queue_job (run_at) WHERE NOT ready AND NOT waiting AND lease_until IS NULL;
CREATE INDEX queue_job_lease_idx ON _grownext.queue_job (queue, lease_until) WHERE lease_until IS NOT NULL;
CREATE UNIQUE INDEX queue_job_unique_key_idx ON _grownext.queue_job (queue, unique_key) WHERE unique_key IS NOT NULL;
CREATE INDEX queue_job_group_idx ON _grownext.queue_job (queue, group_key, id) WHERE group_key IS NOT NULL;
CREATE INDEX queue_job_batch_idx ON _grownext.queue_job (batch_id) WHERE batch_id IS NOT NULL;
COMMENT ON TABLE _grownext.queue_job IS 'Jobs without an outcome: ready, scheduled, waiting, running.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_job', '');

-- Numbers of leases; src/queue/storage_lease.c adds what makes them unique for ever.
CREATE SEQUENCE _grownext.queue_lease_id AS bigint CACHE 1;
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_lease_id', '');

-- Running jobs that somebody wants to end. Whoever has the job finds the mark; no
-- foreign key, for its row is locked while it runs.
CREATE TABLE _grownext.queue_cancel (
    job_id       bigint      NOT NULL,
    requested_at timestamptz NOT NULL,
    CONSTRAINT queue_cancel_pkey PRIMARY KEY (job_id)
);
COMMENT ON TABLE _grownext.queue_cancel IS 'Jobs that were cancelled while they ran and have not ended yet.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_cancel', '');

-- Jobs that had begun when the server crashed; see poison.c. No foreign key, for the row
-- of a job is locked while it runs.
CREATE TABLE _grownext.queue_suspect (
    job_id   bigint      NOT NULL,
    crashes  int         NOT NULL, -- that are charged to the job
    began_at timestamptz NOT NULL, -- the attempt that the last crash ended
    CONSTRAINT queue_suspect_pkey PRIMARY KEY (job_id),
    CONSTRAINT queue_suspect_crashes_chk CHECK (crashes >= 0)
);
COMMENT ON TABLE _grownext.queue_suspect IS 'Jobs that ran when the server crashed and have not succeeded since.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_suspect', '');

CREATE TABLE _grownext.queue_done (
    id           bigint      NOT NULL,
    enqueued_at  timestamptz NOT NULL,
    run_at       timestamptz NOT NULL,
    deadline     timestamptz,
    started_at   timestamptz, -- of the last attempt; NULL: cancelled before any
    finished_at  timestamptz NOT NULL,
    priority     int         NOT NULL,
    max_attempts int         NOT NULL,
    failures     int         NOT NULL,
    state        text        NOT NULL,
    queue        text COLLATE "C" NOT NULL,
    unique_key   text COLLATE "C",
    group_key    text COLLATE "C",
    tenant_id    uuid,
    result       jsonb,
    last_error   text,
    attempts     jsonb       NOT NULL,
    worker       text, -- of the last attempt, by its own name; NULL: an executor, or it has none
    CONSTRAINT queue_done_pkey PRIMARY KEY (id),
    CONSTRAINT queue_done_state_chk CHECK (state IN ('succeeded', 'cancelled'))
);
CREATE INDEX queue_done_finished_idx ON _grownext.queue_done (queue, finished_at);
COMMENT ON TABLE _grownext.queue_done IS 'Outcomes of jobs that succeeded or were cancelled, for the retention of their queue.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_done', '');

CREATE TABLE _grownext.queue_dead (
    id           bigint      NOT NULL,
    enqueued_at  timestamptz NOT NULL,
    run_at       timestamptz NOT NULL,
    deadline     timestamptz,
    started_at   timestamptz NOT NULL,
    died_at      timestamptz NOT NULL,
    priority     int         NOT NULL,
    max_attempts int         NOT NULL,
    failures     int         NOT NULL,
    queue        text COLLATE "C" NOT NULL,
    unique_key   text COLLATE "C",
    group_key    text COLLATE "C",
    tenant_id    uuid,
    claims       jsonb,
    payload      jsonb       NOT NULL,
    last_error   text        NOT NULL,
    attempts     jsonb       NOT NULL,
    CONSTRAINT queue_dead_pkey PRIMARY KEY (id)
);
CREATE INDEX queue_dead_queue_idx ON _grownext.queue_dead (queue, died_at);
COMMENT ON TABLE _grownext.queue_dead IS 'Jobs that failed for good: all they need to run again.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_dead', '');

-- What jobs wait for. A dependency is deleted when its parent succeeded; see flow.sql.
CREATE TABLE _grownext.queue_dependency (
    child_id  bigint      NOT NULL,
    parent_id bigint      NOT NULL,
    CONSTRAINT queue_dependency_pkey PRIMARY KEY (child_id, parent_id)
);
CREATE INDEX queue_dependency_parent_idx ON _grownext.queue_dependency (parent_id);
COMMENT ON TABLE _grownext.queue_dependency IS 'Jobs that wait for other jobs.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_dependency', '');

CREATE SEQUENCE _grownext.queue_check_id AS bigint CACHE 1;
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_check_id', '');

CREATE TABLE _grownext.queue_check (
    id        bigint      NOT NULL, -- from _grownext.core_nextval()
    parent_id bigint      NOT NULL,
    due_at    timestamptz NOT NULL,
    CONSTRAINT queue_check_pkey PRIMARY KEY (id)
);
CREATE INDEX queue_check_due_idx ON _grownext.queue_check (due_at);
CREATE INDEX queue_check_parent_idx ON _grownext.queue_check (parent_id);
COMMENT ON TABLE _grownext.queue_check IS 'Jobs that others wait for and that may be over: the next pass looks.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_check', '');

-- A batch has the id of its callback, a job that waits until the batch is over. Jobs name
-- their batch; what became of them is appended, so that no row is hot, and counted here
-- by the next pass.
CREATE TABLE _grownext.queue_batch (
    id        bigint      NOT NULL,
    queue     text COLLATE "C" NOT NULL, -- the callback's
    tenant_id uuid,
    fresh     boolean     NOT NULL DEFAULT true, -- no pass has seen it yet
    succeeded bigint      NOT NULL DEFAULT 0,
    dead      bigint      NOT NULL DEFAULT 0,
    cancelled bigint      NOT NULL DEFAULT 0,
    CONSTRAINT queue_batch_pkey PRIMARY KEY (id)
);
CREATE INDEX queue_batch_fresh_idx ON _grownext.queue_batch (id) WHERE fresh;
COMMENT ON TABLE _grownext.queue_batch IS 'Batches that are not over.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_batch', '');

CREATE TABLE _grownext.queue_batch_outcome (
    batch_id bigint NOT NULL,
    job_id   bigint NOT NULL,
    state    text   NOT NULL,
    CONSTRAINT queue_batch_outcome_pkey PRIMARY KEY (batch_id, job_id),
    CONSTRAINT queue_batch_outcome_state_chk CHECK (state IN ('succeeded', 'dead', 'cancelled'))
);
COMMENT ON TABLE _grownext.queue_batch_outcome IS 'Outcomes of jobs of batches that are not counted yet.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_batch_outcome', '');

-- Keys that stay taken after their job ended (enqueue's unique_for).
CREATE TABLE _grownext.queue_window (
    queue      text COLLATE "C" NOT NULL,
    unique_key text COLLATE "C" NOT NULL,
    job_id     bigint      NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT queue_window_pkey PRIMARY KEY (queue, unique_key)
);
CREATE INDEX queue_window_expires_idx ON _grownext.queue_window (expires_at);
COMMENT ON TABLE _grownext.queue_window IS 'De-duplication windows: unique keys that outlive their job.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_window', '');

-- What retention, purge and redrive took out of the tables above, so that totals never fall.
CREATE TABLE _grownext.queue_total (
    queue     text COLLATE "C" NOT NULL,
    enqueued  bigint NOT NULL DEFAULT 0,
    succeeded bigint NOT NULL DEFAULT 0,
    failed    bigint NOT NULL DEFAULT 0,
    missed    bigint NOT NULL DEFAULT 0,
    CONSTRAINT queue_total_pkey PRIMARY KEY (queue)
);
COMMENT ON TABLE _grownext.queue_total IS 'Per queue, what the totals counted and the tables no longer hold.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_total', '');

-- What happened in each queue: by the minute, and after two days by the hour. Rows of
-- different terms of an SLA do not mix. Histograms are those of src/queue/histogram.h.
CREATE TABLE _grownext.queue_history (
    queue            text COLLATE "C" NOT NULL,
    at               timestamptz NOT NULL, -- begin of the minute or hour
    seconds          int      NOT NULL,
    sla_start_within interval NOT NULL, -- what within and late are about; 0: no SLA
    enqueued         bigint   NOT NULL,
    started          bigint   NOT NULL, -- attempts
    succeeded        bigint   NOT NULL,
    failed           bigint   NOT NULL, -- attempts
    dead             bigint   NOT NULL,
    deadlines_missed bigint   NOT NULL, -- of jobs that were over then
    within           bigint   NOT NULL,
    late             bigint   NOT NULL,
    wait             bigint[],
    run              bigint[],
    CONSTRAINT queue_history_pkey PRIMARY KEY (queue, at, seconds, sla_start_within),
    CONSTRAINT queue_history_seconds_chk CHECK (seconds IN (60, 3600))
);
CREATE INDEX queue_history_at_idx ON _grownext.queue_history (seconds, at);
COMMENT ON TABLE _grownext.queue_history IS 'Counts and times per queue, by the minute for two days and by the hour for ninety.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_history', '');

-- Queues that miss their SLA now.
CREATE TABLE _grownext.queue_sla_miss (
    queue     text COLLATE "C" NOT NULL,
    missed_at timestamptz NOT NULL,
    CONSTRAINT queue_sla_miss_pkey PRIMARY KEY (queue)
);
COMMENT ON TABLE _grownext.queue_sla_miss IS 'Queues that miss their SLA, and since when: an event was sent.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.queue_sla_miss', '');

-- A route needs its queue. Core stands left of this component, so the constraint is
-- ours; being a foreign key it also puts queues before routes when a dump is restored.
ALTER TABLE _grownext.core_event_route ADD CONSTRAINT core_event_route_queue_fkey
    FOREIGN KEY (queue) REFERENCES _grownext.queue_queue (queue);

CREATE TYPE grownext.job AS (
    id           bigint,
    queue        text,
    payload      jsonb,
    attempt      int,
    max_attempts int,
    priority     int,
    group_key    text,
    tenant_id    uuid,
    subject      text,
    claims       jsonb,
    enqueued_at  timestamptz,
    run_at       timestamptz,
    deadline     timestamptz,
    lease_id     bigint,
    lease_until  timestamptz
);
COMMENT ON TYPE grownext.job IS 'A job as its handler sees it.';

CREATE TYPE grownext.job_state AS (
    id           bigint,
    queue        text,
    state        text,
    attempt      int,
    progress     jsonb,
    result       jsonb,
    last_error   text,
    attempts     jsonb,
    max_attempts int,
    priority     int,
    unique_key   text,
    group_key    text,
    tenant_id    uuid,
    enqueued_at  timestamptz,
    run_at       timestamptz,
    started_at   timestamptz,
    finished_at  timestamptz,
    deadline     timestamptz,
    deadline_missed boolean,
    worker       text,
    lease_until  timestamptz
);
COMMENT ON TYPE grownext.job_state IS 'Where a job stands: scheduled, waiting, ready, running, succeeded, dead or cancelled.';

CREATE TYPE grownext.queue_state AS (
    queue            text,
    ready            bigint,
    running          bigint,
    scheduled        bigint,
    dead             bigint,
    oldest_ready_age interval,
    enqueued_total   bigint,
    succeeded_total  bigint,
    failed_total     bigint,
    wait_p50_ms      double precision,
    wait_p99_ms      double precision,
    run_p50_ms       double precision,
    run_p99_ms       double precision,
    sla_target       double precision,
    sla_attained     double precision,
    paused           boolean,
    deadlines_missed bigint,
    waiting          bigint
);
COMMENT ON TYPE grownext.queue_state IS 'Figures of one queue.';

CREATE TYPE grownext.queue_period AS (
    queue            text,
    at               timestamptz,
    enqueued         bigint,
    started          bigint,
    succeeded        bigint,
    failed           bigint,
    dead             bigint,
    deadlines_missed bigint,
    wait_p50_ms      double precision,
    wait_p99_ms      double precision,
    run_p50_ms       double precision,
    run_p99_ms       double precision,
    sla_within       bigint,
    sla_late         bigint,
    sla_attained     double precision
);
COMMENT ON TYPE grownext.queue_period IS 'What happened in a queue in a span of time.';
