-- Schedules: when they fire, and what is on record about every nominal time. All of it in
-- one transaction with a clock of its own, so that no scheduler takes part: the passes
-- are called by hand.
\set SHOW_CONTEXT never
\set ON_ERROR_ROLLBACK on
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS grownext;
RESET client_min_messages;
SET timezone = 'UTC';
SET datestyle = 'ISO';
\pset tuples_only on
\pset format unaligned
\pset fieldsep ' | '
BEGIN;

-- to an instant, and one pass there: what came of it, and when the next pass is due
CREATE FUNCTION pg_temp.at(clock timestamptz) RETURNS text LANGUAGE sql AS
    $$ SELECT set_config('grownext.test_clock', clock::text, true) $$;
CREATE TEMP TABLE reported (schedule text, nominal_at timestamptz, outcome text);
CREATE FUNCTION pg_temp.pass(clock timestamptz) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    next timestamptz;
BEGIN
    PERFORM pg_temp.at(clock);
    next := _grownext.schedule_tick(_grownext.core_now());
    RETURN QUERY
    SELECT format('%s %s %s%s%s', f.schedule, to_char(f.nominal_at, 'MM-DD HH24:MI:SS'), f.outcome, ', ' || f.late || ' late', ': ' || f.detail)
      FROM grownext.schedule_fire AS f
     WHERE NOT EXISTS (SELECT FROM reported AS r WHERE (r.schedule, r.nominal_at, r.outcome) = (f.schedule, f.nominal_at, f.outcome))
     ORDER BY f.schedule, f.nominal_at;
    INSERT INTO reported SELECT f.schedule, f.nominal_at, f.outcome FROM grownext.schedule_fire AS f;
    RETURN NEXT 'next pass in ' || (next - clock);
END $$;
-- ends every job that is there, as if it had run
CREATE FUNCTION pg_temp.end_jobs() RETURNS bigint LANGUAGE sql AS
    $$ SELECT count(*) FROM _grownext.queue_job AS j WHERE j.queue LIKE 'sched.%' AND grownext.job_cancel(j.id) $$;

SELECT grownext.queue_define('sched.a');
SELECT grownext.queue_define('sched.b');

-- a definition, and the first fires
SELECT pg_temp.at('2025-03-28 12:00Z');
SELECT grownext.schedule_define('nightly', '30 2 * * *', 'sched.a', '{"what": "report"}', 'Europe/Berlin', '{"priority": 7, "max_attempts": 3}');
SELECT name, cron, time_zone, queue, payload, overlap, catch_up, catch_up_window, jitter, priority, max_attempts, retention, next_nominal_at, next_at FROM grownext.schedule;
SELECT pg_temp.pass('2025-03-28 12:00Z');
SELECT pg_temp.pass('2025-03-29 01:29:59.9Z');
SELECT pg_temp.pass('2025-03-29 01:30:00.003Z');
SELECT queue, priority, max_attempts, payload, tenant_id, claims FROM _grownext.queue_job WHERE queue = 'sched.a';
SELECT next_nominal_at, last_nominal_at, last_fired_at, last_job_id = (SELECT max(id) FROM _grownext.queue_job) AS last_job FROM grownext.schedule;
SELECT pg_temp.pass('2025-03-29 01:30:00.003Z');
SELECT pg_temp.end_jobs();

-- the night with no 02:30
SELECT pg_temp.pass('2025-03-30 01:00:00.002Z');
SELECT pg_temp.end_jobs();
SELECT pg_temp.pass('2025-03-31 00:30Z');

-- the clock is set back: what has fired does not fire again, not even if it was defined anew
SELECT pg_temp.end_jobs();
SELECT pg_temp.pass('2025-03-31 00:00Z');
SELECT grownext.schedule_define('nightly', '30 2 * * *', 'sched.a', '{"what": "report"}', 'Europe/Berlin', '{"priority": 7, "jitter": "1 second"}');
SELECT grownext.schedule_define('nightly', '30 2 * * *', 'sched.a', '{"what": "report"}', 'Europe/Berlin', '{"priority": 7}');
SELECT next_nominal_at FROM grownext.schedule;
SELECT pg_temp.pass('2025-03-31 00:30Z');
SELECT grownext.schedule_drop('nightly');
SELECT pg_temp.at('2025-03-31 00:00Z');
SELECT grownext.schedule_define('nightly', '30 2 * * *', 'sched.a', '{}', 'Europe/Berlin');
SELECT pg_temp.pass('2025-03-31 00:30Z');
SELECT count(*) FROM _grownext.queue_job WHERE queue = 'sched.a';

-- the same definition again changes nothing and is not on record; another payload keeps the next time
SELECT count(*) FROM grownext.audit_event WHERE target = 'schedule:nightly';
SELECT grownext.schedule_define('nightly', '30 2 * * *', 'sched.a', '{}', 'Europe/Berlin');
SELECT count(*) FROM grownext.audit_event WHERE target = 'schedule:nightly';
SELECT pg_temp.at('2025-04-01 01:00Z');
SELECT grownext.schedule_define('nightly', '30 2 * * *', 'sched.a', '{"what": "more"}', 'Europe/Berlin');
SELECT payload, next_nominal_at FROM grownext.schedule;
SELECT pg_temp.pass('2025-04-01 01:00Z');
SELECT grownext.schedule_drop('nightly');
SELECT pg_temp.end_jobs();

-- overlap
SELECT pg_temp.at('2025-05-01 00:00Z');
SELECT grownext.schedule_define('allows', '* * * * *', 'sched.a', options => '{"overlap": "allow"}');
SELECT grownext.schedule_define('buffers', '* * * * *', 'sched.a', options => '{"overlap": "buffer_one"}');
SELECT grownext.schedule_define('skips', '* * * * *', 'sched.a');
SELECT pg_temp.pass('2025-05-01 00:01Z');
SELECT pg_temp.pass('2025-05-01 00:02Z');
SELECT pg_temp.pass('2025-05-01 00:03Z');
SELECT pg_temp.pass('2025-05-01 00:03:30Z');
SELECT pg_temp.end_jobs();
SELECT pg_temp.pass('2025-05-01 00:03:40Z');
SELECT pg_temp.pass('2025-05-01 00:04Z');
SELECT pg_temp.pass('2025-05-01 00:05Z');
-- a pause and a drop give up what waits
SELECT name, buffered_at FROM grownext.schedule WHERE buffered_at IS NOT NULL;
SELECT grownext.schedule_pause('buffers');
SELECT pg_temp.pass('2025-05-01 00:05:01Z');
SELECT pg_temp.end_jobs();
SELECT grownext.schedule_drop(name) FROM grownext.schedule ORDER BY name;

-- after downtime: the last one, all of them, or none, as far as the window reaches
SELECT pg_temp.at('2025-06-01 00:00Z');
SELECT grownext.schedule_define('all', '0 * * * *', 'sched.a', options => '{"overlap": "allow", "catch_up": "all", "catch_up_window": "150 minutes"}');
SELECT grownext.schedule_define('last', '0 * * * *', 'sched.a', options => '{"overlap": "allow", "catch_up_window": "150 minutes"}');
SELECT grownext.schedule_define('too-late', '0 * * * *', 'sched.a', options => '{"overlap": "allow", "catch_up_window": "10 minutes"}');
SELECT grownext.schedule_define('skips', '0 * * * *', 'sched.a', options => '{"catch_up": "all"}');
SELECT pg_temp.pass('2025-06-01 04:20Z');
SELECT name, next_nominal_at FROM grownext.schedule ORDER BY name;
SELECT payload FROM _grownext.queue_job WHERE queue = 'sched.a' ORDER BY id;
SELECT pg_temp.end_jobs();
SELECT grownext.schedule_drop(name) FROM grownext.schedule ORDER BY name;

-- more than a thousand missed times: the row after the thousandth stands for the rest
SELECT pg_temp.at('2025-06-02 00:00Z');
SELECT grownext.schedule_define('often', '* * * * * *', 'sched.a', options => '{"overlap": "allow", "catch_up_window": "1 minute"}');
SELECT pg_temp.at('2025-06-02 10:00Z');
SELECT _grownext.schedule_tick('2025-06-02 10:00Z');
SELECT outcome, detail, count(*), min(nominal_at), max(nominal_at) FROM grownext.schedule_fire WHERE schedule = 'often' GROUP BY 1, 2 ORDER BY 4;
SELECT grownext.schedule_define('often', '* * * * * *', 'sched.a', options => '{"overlap": "allow", "catch_up": "all", "catch_up_window": "5 minutes"}');
SELECT pg_temp.at('2025-06-02 10:04:10Z');
SELECT _grownext.schedule_tick('2025-06-02 10:04:10Z');
SELECT outcome, count(*) FROM grownext.schedule_fire WHERE schedule = 'often' AND nominal_at > '2025-06-02 10:00Z' GROUP BY 1;
SELECT _grownext.schedule_tick('2025-06-02 10:04:10Z');
SELECT _grownext.schedule_tick('2025-06-02 10:04:10Z');
SELECT outcome, count(*), min(nominal_at), max(nominal_at) FROM grownext.schedule_fire WHERE schedule = 'often' AND nominal_at > '2025-06-02 10:00Z' GROUP BY 1 ORDER BY 1;
SELECT grownext.schedule_drop('often');
SELECT pg_temp.end_jobs();
INSERT INTO reported SELECT schedule, nominal_at, outcome FROM grownext.schedule_fire;

-- jitter: the same every time, within its bound, and over before the next nominal time
SELECT pg_temp.at('2025-07-01 00:00Z');
SELECT grownext.schedule_define('jitters', '0 * * * *', 'sched.a', options => '{"jitter": "10 minutes", "overlap": "allow"}');
SELECT grownext.schedule_define('jitters-more', '* * * * *', 'sched.a', options => '{"jitter": "1 day", "overlap": "allow"}');
SELECT count(DISTINCT d), bool_and(d >= n AND d < n + interval '10 minutes')
  FROM _grownext.schedule_schedule AS s, grownext.cron_next('0 * * * *', '2025-07-01 00:00Z', count => 100) AS n, _grownext.schedule_due_at(s, n) AS d WHERE s.name = 'jitters';
SELECT count(DISTINCT d - n) > 90, bool_and(d >= n AND d < n + interval '1 minute')
  FROM _grownext.schedule_schedule AS s, grownext.cron_next('* * * * *', '2025-07-01 00:00Z', count => 100) AS n, _grownext.schedule_due_at(s, n) AS d WHERE s.name = 'jitters-more';
SELECT name, next_nominal_at, next_at FROM grownext.schedule ORDER BY name;
SELECT grownext.schedule_drop('jitters-more');
SELECT pg_temp.pass('2025-07-01 01:00Z');
SELECT pg_temp.pass((SELECT next_at FROM grownext.schedule));
SELECT pg_temp.pass('2025-07-01 03:00Z');
SELECT grownext.schedule_drop('jitters');
-- the window counts from when a time is due
SELECT pg_temp.at('2025-07-01 00:00Z');
SELECT grownext.schedule_define('jitters', '0 * * * *', 'sched.a', options => '{"jitter": "10 minutes", "catch_up_window": "10 seconds", "catch_up": "all", "overlap": "allow"}');
SELECT pg_temp.pass('2025-07-01 03:08:00Z');
SELECT pg_temp.pass((SELECT next_at + interval '9 seconds' FROM grownext.schedule));
SELECT pg_temp.pass((SELECT next_at + interval '11 seconds' FROM grownext.schedule));
SELECT grownext.schedule_drop('jitters');
SELECT pg_temp.end_jobs();

-- from, and up to
SELECT pg_temp.at('2025-08-01 00:00Z');
SELECT grownext.schedule_define('bounded', '0 * * * *', 'sched.a', options => '{"overlap": "allow", "start_at": "2025-08-02 12:00Z", "end_at": "2025-08-02 14:00Z"}');
SELECT next_nominal_at FROM grownext.schedule;
SELECT pg_temp.pass('2025-08-02 12:00Z');
SELECT pg_temp.pass('2025-08-02 13:00Z');
SELECT next_nominal_at IS NULL, next_at IS NULL FROM grownext.schedule;
SELECT pg_temp.pass('2025-08-02 14:00Z');
SELECT grownext.schedule_drop('bounded');
SELECT pg_temp.end_jobs();

-- one that fails is on record, and the others fire
SELECT pg_temp.at('2025-09-01 00:00Z');
SELECT grownext.schedule_define('broken', '0 * * * *', 'sched.b');
SELECT grownext.schedule_define('sound', '0 * * * *', 'sched.a');
SELECT grownext.queue_drop('sched.b');
SELECT pg_temp.pass('2025-09-01 01:00Z');
SELECT name, last_error, last_error_at, next_at FROM grownext.schedule ORDER BY name;
SELECT item, state, detail, hint FROM grownext.status() WHERE component = 'schedule' ORDER BY item;
-- a rule that no longer holds: the time zone went away
UPDATE _grownext.schedule_schedule SET time_zone = 'Gone/Away' WHERE name = 'broken';
SELECT pg_temp.end_jobs();
SELECT pg_temp.pass('2025-09-01 02:00Z');
SELECT name, last_error, next_at FROM grownext.schedule ORDER BY name;
SELECT grownext.queue_define('sched.b');
SELECT grownext.schedule_define('broken', '0 * * * *', 'sched.b', options => '{"catch_up": "all"}');
SELECT pg_temp.end_jobs();
SELECT pg_temp.pass('2025-09-01 03:00Z');
SELECT item, state, detail FROM grownext.status() WHERE component = 'schedule' ORDER BY item;
SELECT pg_temp.at('2025-09-01 04:10Z');
SELECT item, state, detail FROM grownext.status() WHERE component = 'schedule' ORDER BY item;
SELECT grownext.schedule_drop(name) FROM grownext.schedule ORDER BY name;
SELECT pg_temp.end_jobs();
-- the server is short of something: the time stays due
SELECT pg_temp.at('2025-09-02 00:00Z');
SELECT grownext.schedule_define('short', '0 * * * *', 'sched.b');
SELECT grownext.schedule_define('sound', '0 * * * *', 'sched.a');
CREATE FUNCTION pg_temp.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full', MESSAGE = 'no space'; END $$;
CREATE TRIGGER "full" BEFORE INSERT ON _grownext.schedule_fire FOR EACH ROW WHEN (NEW.schedule = 'short') EXECUTE FUNCTION pg_temp.full();
SELECT pg_temp.pass('2025-09-02 01:00Z');
SELECT name, last_error, next_nominal_at, next_at FROM grownext.schedule ORDER BY name;
DROP TRIGGER "full" ON _grownext.schedule_fire;
SELECT pg_temp.end_jobs();
SELECT pg_temp.pass('2025-09-02 01:01Z');
SELECT name, last_error, next_at FROM grownext.schedule ORDER BY name;
SELECT grownext.schedule_drop(name) FROM grownext.schedule ORDER BY name;
SELECT pg_temp.end_jobs();

-- by hand: at once, though it is paused or its job runs; the overlap of the next fire counts it
SELECT pg_temp.at('2025-10-01 00:00Z');
SELECT grownext.schedule_define('manual', '0 * * * *', 'sched.a', '{"n": 1}');
SELECT grownext.schedule_run('manual') AS first \gset
SELECT grownext.schedule_run('manual') > :first;
SELECT last_job_id > :first FROM grownext.schedule;
SELECT payload FROM _grownext.queue_job WHERE queue = 'sched.a' ORDER BY id;
SELECT pg_temp.pass('2025-10-01 01:00Z');
SELECT grownext.schedule_pause('manual');
SELECT grownext.schedule_run('manual') > 0;
SELECT pg_temp.end_jobs();

-- backfill: what has had no job, once
SELECT grownext.schedule_backfill('manual', '2025-09-30 22:00Z', '2025-10-01 01:00Z');
SELECT pg_temp.end_jobs();
SELECT grownext.schedule_backfill('manual', '2025-09-30 22:00Z', '2025-10-01 01:00Z');
SELECT pg_temp.at('2025-10-01 02:30Z');
SELECT grownext.schedule_backfill('manual', '2025-10-01 01:00Z', '2025-10-01 02:30Z');
SELECT nominal_at, outcome, detail FROM grownext.schedule_fire WHERE schedule = 'manual' ORDER BY 1;
SELECT payload FROM _grownext.queue_job WHERE queue = 'sched.a' ORDER BY id;
SELECT grownext.schedule_backfill('manual', '2025-10-01 02:00Z', '2025-10-01 02:00Z');
SELECT grownext.schedule_backfill('manual', '2025-10-01 02:00Z', '2025-10-01 03:00Z');
SELECT grownext.schedule_backfill('manual', NULL, '2025-10-01 02:00Z');
SELECT grownext.schedule_backfill('manual', '-infinity', '2025-10-01 02:00Z');
SELECT grownext.schedule_backfill('manual', '2020-10-01 02:00Z', '2025-10-01 02:00Z');
\echo :LAST_ERROR_SQLSTATE

-- resumed: what passed in between is not caught up
SELECT grownext.schedule_resume('manual');
SELECT paused_at, next_nominal_at FROM grownext.schedule;
SELECT pg_temp.end_jobs();
INSERT INTO reported SELECT schedule, nominal_at, outcome FROM grownext.schedule_fire;
SELECT pg_temp.pass('2025-10-01 03:00Z');
-- a backfill that comes before the pass leaves it nothing to do
SELECT pg_temp.end_jobs();
SELECT pg_temp.at('2025-10-01 04:00:01Z');
SELECT grownext.schedule_backfill('manual', '2025-10-01 04:00Z', '2025-10-01 04:00:01Z');
SELECT pg_temp.pass('2025-10-01 04:00:02Z');
SELECT grownext.schedule_drop('manual');
SELECT pg_temp.end_jobs();

-- what is due when a fence is lifted can be skipped, like the jobs that wait
SELECT pg_temp.at('2025-11-01 00:00Z');
SELECT grownext.schedule_define('fenced', '0 * * * *', 'sched.a', options => '{"overlap": "buffer_one"}');
SELECT pg_temp.pass('2025-11-01 01:00Z');
SELECT pg_temp.pass('2025-11-01 02:00Z');
SELECT pg_temp.at('2025-11-01 04:30Z');
SELECT _grownext.schedule_skip_pending();
SELECT pg_temp.pass('2025-11-01 04:30Z');
SELECT next_nominal_at, buffered_at FROM grownext.schedule;
SELECT grownext.schedule_drop('fenced');
SELECT pg_temp.end_jobs();

-- the jobs act for the tenant named and answer to who defined the schedule, whoever makes them
\set tenant '''33333333-3333-4333-8333-333333333333'''
\set other '''44444444-4444-4444-8444-444444444444'''
SAVEPOINT in_tenant;
SELECT grownext.act_as('ann', :tenant, '{"plan": "gold"}');
SELECT grownext.schedule_define('own', '0 * * * *', 'sched.a');
SELECT grownext.schedule_define('foreign', '0 * * * *', 'sched.a', options => '{"tenant_id": "44444444-4444-4444-8444-444444444444"}');
SELECT s.name, s.tenant_id, s.claims - 'act' FROM _grownext.schedule_schedule AS s ORDER BY 1;
SELECT grownext.act_as('bob', :other);
SELECT grownext.schedule_run('own') > 0, grownext.schedule_run('foreign') > 0;
SELECT tenant_id, claims ->> 'sub' AS subject, claims ->> 'plan' AS plan, claims ->> 'tenant_id' = tenant_id::text AS same FROM _grownext.queue_job WHERE queue = 'sched.a' ORDER BY id;
SELECT action, tenant_id, actor, on_behalf_of IS NOT NULL AS for_somebody FROM grownext.audit_event WHERE target IN ('schedule:own', 'schedule:foreign') ORDER BY id;
ROLLBACK TO in_tenant;

-- every change is on record and sent to whoever routed it
SELECT grownext.event_route('schedule.*', 'sched.b');
SELECT pg_temp.at('2025-12-01 00:00Z');
SELECT grownext.schedule_define('seen', '0 * * * *', 'sched.a');
SELECT grownext.schedule_define('seen', '1 * * * *', 'sched.a');
SELECT grownext.schedule_pause('seen');
SELECT grownext.schedule_pause('seen');
SELECT grownext.schedule_resume('seen');
SELECT grownext.schedule_resume('seen');
SELECT grownext.schedule_run('seen') > 0;
SELECT grownext.schedule_backfill('seen', '2025-11-30 00:00Z', '2025-12-01 00:00Z');
SELECT grownext.schedule_drop('seen');
SELECT action, change IS NOT NULL AS has_change FROM grownext.audit_event WHERE target = 'schedule:seen' ORDER BY id;
SELECT payload ->> 'type', payload -> 'data' ->> 'cron' FROM _grownext.queue_job WHERE queue = 'sched.b' ORDER BY id;
SELECT pg_temp.end_jobs();

-- the purge of a tenant takes its schedules along
SELECT pg_temp.at('2025-12-10 00:00Z');
SELECT grownext.tenant_create('sched-tenant', 'Scheduled', id => '5c4ed000-0000-4000-8000-000000000001');
SELECT grownext.schedule_define('of-tenant', '0 * * * *', 'sched.a', options => '{"tenant_id": "5c4ed000-0000-4000-8000-000000000001"}');
SELECT grownext.schedule_define('of-nobody', '0 * * * *', 'sched.a');
SELECT grownext.tenant_delete('5c4ed000-0000-4000-8000-000000000001', '1 hour');
SELECT _grownext.tenant_purge(tenant_id => '5c4ed000-0000-4000-8000-000000000001');
SELECT name FROM grownext.schedule;
SELECT grownext.schedule_drop('of-nobody');

-- evidence goes with its retention, also that of a schedule that is gone
SELECT pg_temp.at('2026-01-01 00:00Z');
SELECT grownext.schedule_define('brief', '0 0 * * *', 'sched.a', options => '{"retention": "2 days", "overlap": "allow"}');
SELECT _grownext.schedule_tick(t) > t FROM generate_series('2026-01-02 00:00Z'::timestamptz, '2026-01-06 00:00Z', '1 day') AS t;
SELECT nominal_at FROM grownext.schedule_fire WHERE schedule = 'brief' ORDER BY 1;
SELECT grownext.schedule_drop('brief');
SELECT _grownext.schedule_tick('2027-01-01 00:00Z') > now();
SELECT count(*) FROM grownext.schedule_fire;

ROLLBACK;
