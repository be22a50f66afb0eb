-- Schedules: who may do what, and what is refused, function by function. Nothing fires
-- here by itself: the database is not set up. sql/schedule.sql has the behaviour.
BEGIN;
SELECT * FROM no_plan();

CREATE ROLE regress_admin LOGIN IN ROLE grownext_admin;
CREATE ROLE regress_service LOGIN IN ROLE grownext_service;
CREATE ROLE regress_worker LOGIN IN ROLE grownext_worker;
CREATE ROLE regress_auditor LOGIN IN ROLE grownext_auditor;
CREATE ROLE regress_monitor LOGIN IN ROLE grownext_monitor;
CREATE ROLE regress_user LOGIN IN ROLE grownext_user;
CREATE ROLE regress_anon LOGIN IN ROLE grownext_anon;
CREATE ROLE regress_producer LOGIN;
SELECT lives_ok($$SELECT grownext.queue_define('q')$$, 'a queue');
SELECT lives_ok($$SELECT grownext.queue_grant('q', 'regress_producer', 'enqueue')$$, 'and somebody who may enqueue');

\ir ../lib/as_role.psql

-- Cron is everybody's who is signed in --------------------------------------------

SELECT is(pg_temp.as_role(r, $$SELECT grownext.cron_next('@daily', '2025-01-01 12:00Z') = '2025-01-02 00:00Z'$$), 'true', r || ' asks for the next time')
  FROM unnest('{regress_admin,regress_service,regress_worker,regress_auditor,regress_monitor,regress_user}'::name[]) AS r;
SELECT is(pg_temp.as_role(r, $$SELECT grownext.cron_next('@daily', now())$$), '42501', r || ' does not')
  FROM unnest('{regress_anon,regress_producer}'::name[]) AS r;
SELECT is(format('%s%s', provolatile, proparallel), 'ss', 'cron_next() is stable and parallel safe') FROM pg_proc WHERE oid = 'grownext.cron_next'::regproc;

-- Schedules are the administrators' and services' -----------------------------------

SELECT is(pg_temp.as_role(r, s), '', format('%s may: %s', r, s))
  FROM unnest('{regress_admin,regress_service}'::name[]) AS r,
       unnest(ARRAY[$$SELECT grownext.schedule_define('s', '@hourly', 'q')$$, $$SELECT grownext.schedule_pause('s')$$, $$SELECT grownext.schedule_resume('s')$$]) AS s;
SELECT is(pg_temp.as_role('regress_service', $$SELECT grownext.schedule_run('s') > 0$$), 'true', 'a service runs one');
SELECT is(pg_temp.as_role('regress_service', $$SELECT grownext.schedule_backfill('s', now() - interval '150 minutes', now())$$), 
          (SELECT count(*)::text FROM grownext.cron_next('@hourly', now() - interval '150 minutes' - interval '1 microsecond', count => 3) AS n WHERE n < now()), 'and fills it back');
SELECT is(pg_temp.as_role(r, s), '42501', format('%s may not: %s', r, s))
  FROM unnest('{regress_worker,regress_auditor,regress_monitor,regress_user,regress_anon,regress_producer}'::name[]) AS r,
       unnest(ARRAY[$$SELECT grownext.schedule_define('x', '@hourly', 'q')$$, $$SELECT grownext.schedule_pause('s')$$, $$SELECT grownext.schedule_resume('s')$$,
                    $$SELECT grownext.schedule_drop('s')$$, $$SELECT grownext.schedule_run('s')$$, $$SELECT grownext.schedule_backfill('s', now() - interval '1 d', now())$$,
                    $$SELECT _grownext.schedule_tick(now())$$, $$SELECT _grownext.schedule_enqueue('q', '{}', 0, 1, NULL, '{}')$$]) AS s;

-- Views -------------------------------------------------------------------------------

SELECT is(pg_temp.as_role(r, $$SELECT payload FROM grownext.schedule WHERE name = 's'$$), p, r || ' reads the view, and the payload or not')
  FROM (VALUES ('regress_admin', '{}'), ('regress_service', '{}'), ('regress_monitor', NULL)) AS v (r, p);
SELECT is(pg_temp.as_role(r, $$SELECT name || (next_at > now()) FROM grownext.schedule WHERE name = 's'$$), 'strue', r || ' sees when it fires next')
  FROM unnest('{regress_admin,regress_service,regress_monitor}'::name[]) AS r;
SELECT is(pg_temp.as_role(r, $$SELECT outcome FROM grownext.schedule_fire WHERE schedule = 's' AND outcome = 'manual'$$), 'manual', r || ' reads the evidence')
  FROM unnest('{regress_admin,regress_service,regress_monitor}'::name[]) AS r;
SELECT is(pg_temp.as_role(r, v), '42501', format('%s may not: %s', r, v))
  FROM unnest('{regress_worker,regress_auditor,regress_user,regress_anon,regress_producer}'::name[]) AS r,
       unnest(ARRAY['SELECT count(*) FROM grownext.schedule', 'SELECT count(*) FROM grownext.schedule_fire']) AS v;

-- What is refused -----------------------------------------------------------------------

SELECT is(pg_temp.as_role('regress_admin', format('SELECT grownext.schedule_define(%s)', a)), c, format('schedule_define(%s) is %s', left(a, 120), c))
  FROM (VALUES
    ($$NULL, '@hourly', 'q'$$, '22004'), ($$'n', NULL, 'q'$$, '22004'), ($$'n', '@hourly', NULL$$, '22004'), ($$'n', '@hourly', 'q', NULL$$, '22004'),
    ($$'n', '@hourly', 'q', '{}', NULL$$, '22004'), ($$'n', '@hourly', 'q', options => NULL$$, '22023'),
    ($$'', '@hourly', 'q'$$, '22023'), ($$'with space', '@hourly', 'q'$$, '22023'), ($$repeat('n', 101), '@hourly', 'q'$$, '22023'),
    ($$'grownext.mine', '@hourly', 'q'$$, '42501'), ($$'n', '@hourly', 'grownext.mine'$$, '42501'), ($$'n', '@hourly', 'none'$$, '42704'),
    ($$'n', 'never', 'q'$$, '22023'), ($$'n', '0 0 30 2 *', 'q'$$, '22023'), ($$'n', '@hourly', 'q', '{}', 'Nowhere'$$, '22023'),
    ($$'n', '@hourly', 'q', '[]'$$, '22023'), ($$'n', '@hourly', 'q', '1'$$, '22023'), ($$'n', '@hourly', 'q', 'null'$$, '22023'),
    ($$'n', '@hourly', 'q', '{"_schedule": 1}'$$, '22023'), ($$'n', '@hourly', 'q', jsonb_build_object('x', repeat('x', 1000000))$$, '54000'),
    ($$'n', '@hourly', 'q', options => '{"overlaps": "skip"}'$$, '22023'), ($$'n', '@hourly', 'q', options => '{"overlap": "never"}'$$, '22023'),
    ($$'n', '@hourly', 'q', options => '{"overlap": 1}'$$, '22023'), ($$'n', '@hourly', 'q', options => '{"catch_up": "some"}'$$, '22023'),
    ($$'n', '@hourly', 'q', options => '{"catch_up_window": "9 seconds"}'$$, '22023'), ($$'n', '@hourly', 'q', options => '{"catch_up_window": "2 years"}'$$, '22023'),
    ($$'n', '@hourly', 'q', options => '{"catch_up_window": "soon"}'$$, '22007'), ($$'n', '@hourly', 'q', options => '{"jitter": "-1 second"}'$$, '22023'),
    ($$'n', '@hourly', 'q', options => '{"jitter": "25 hours"}'$$, '22023'), ($$'n', '@hourly', 'q', options => '{"retention": "1 hour"}'$$, '22023'),
    ($$'n', '@hourly', 'q', options => '{"start_at": "yesterday or so"}'$$, '22007'), ($$'n', '@hourly', 'q', options => '{"end_at": "infinity"}'$$, '22023'),
    ($$'n', '@hourly', 'q', options => '{"start_at": "2030-01-02Z", "end_at": "2030-01-01Z"}'$$, '22023'),
    ($$'n', '@hourly', 'q', options => '{"max_attempts": 0}'$$, '22023'), ($$'n', '@hourly', 'q', options => '{"max_attempts": 1001}'$$, '22023'),
    ($$'n', '@hourly', 'q', options => '{"priority": 1e12}'$$, '22003'), ($$'n', '@hourly', 'q', options => '{"priority": 1.5}'$$, '22P02'),
    ($$'n', '@hourly', 'q', options => '{"tenant_id": "acme"}'$$, '22P02')) AS v (a, c);
SELECT is((SELECT count(*) FROM grownext.schedule), 1::bigint, 'and nothing came of it');
SELECT is(pg_temp.as_role('regress_admin', s), '42704', 'an unknown schedule is an error: ' || s)
  FROM unnest(ARRAY[$$SELECT grownext.schedule_pause('none')$$, $$SELECT grownext.schedule_resume('none')$$, $$SELECT grownext.schedule_drop('none')$$,
                    $$SELECT grownext.schedule_run('none')$$, $$SELECT grownext.schedule_backfill('none', now() - interval '1 d', now())$$,
                    $$SELECT grownext.schedule_run(NULL)$$, $$SELECT grownext.schedule_drop(NULL)$$]) AS s;

-- A run that cannot be enqueued says so, and is not on record
SELECT lives_ok($$SELECT grownext.queue_define('gone')$$, 'a queue');
SELECT is(pg_temp.as_role('regress_admin', $$SELECT grownext.schedule_define('orphan', '@hourly', 'gone')$$), '', 'a schedule for it');
SELECT lives_ok($$SELECT grownext.queue_drop('gone')$$, 'the queue is dropped');
SELECT is(pg_temp.as_role('regress_admin', $$SELECT grownext.schedule_run('orphan')$$), '42704', 'a run is refused');
SELECT is(pg_temp.as_role('regress_admin', $$SELECT grownext.schedule_backfill('orphan', now() - interval '2 h', now())$$), '42704', 'so is a backfill');
SELECT is((SELECT count(*) FROM grownext.schedule_fire WHERE schedule = 'orphan'), 0::bigint, 'nothing is on record');
SELECT is(pg_temp.as_role('regress_admin', $$SELECT grownext.schedule_drop('orphan')$$), '', 'the schedule is dropped');

-- The evidence's key ---------------------------------------------------------------------

SELECT throws_ok($$INSERT INTO _grownext.schedule_fire (schedule, nominal_at, outcome, due_at, recorded_at, expires_at)
                   SELECT schedule, nominal_at, 'skipped', now(), now(), now() FROM _grownext.schedule_fire LIMIT 1$$, '23505', NULL, 'a nominal time has one row');

SELECT * FROM finish();
ROLLBACK;
