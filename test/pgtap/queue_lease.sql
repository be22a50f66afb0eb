-- Workers outside the database: what they may call, what is refused, and what becomes of a
-- lease, call by call. Races are test/isolation's, crashes test/t's.
BEGIN;
SELECT * FROM no_plan();

CREATE ROLE regress_admin LOGIN IN ROLE grownext_admin;
CREATE ROLE regress_service LOGIN IN ROLE grownext_service;
CREATE ROLE regress_worker LOGIN;
CREATE ROLE regress_producer LOGIN;
CREATE ROLE regress_stranger LOGIN IN ROLE grownext_user;

\ir ../lib/as_role.psql

SELECT grownext.queue_define(q, o::jsonb)
  FROM (VALUES ('mail', '{"backoff_base": "10 s", "backoff_cap": "1 h"}'), ('other', '{}'), ('narrow', '{"concurrency": 2}'),
               ('ordered', '{"ordered": true}'), ('expiring', '{"expire": true}'), ('short', '{"max_attempts": 1}')) AS v (q, o);

-- Nothing is fetched where nothing may act ----------------------------------------------

SELECT throws_ok($$SELECT grownext.job_fetch('mail')$$, 'NX003', NULL, 'a database that was not set up hands out nothing');
SELECT count(*) > 0 FROM grownext.setup('https://id.example', '{https://api.example}');
SELECT grownext.fence('test');
SELECT throws_ok($$SELECT grownext.job_fetch('mail')$$, 'NX002', NULL, 'nor does one that is fenced');
SELECT grownext.unfence('test');

-- Rights ---------------------------------------------------------------------------------

SELECT lives_ok($$SELECT grownext.queue_grant('mail', 'regress_worker', 'work')$$, 'a right to work');
SELECT lives_ok($$SELECT grownext.queue_grant('mail', 'regress_producer', 'enqueue')$$, 'a right to enqueue');
SELECT is(pg_temp.as_role('regress_worker', $$SELECT count(*) FROM grownext.job_fetch('mail')$$), '0', 'who may work a queue fetches');
SELECT is(pg_temp.as_role('regress_worker', $$SELECT count(*) FROM grownext.job_fetch('other')$$), '42501', 'from no other');
SELECT is(pg_temp.as_role(r, $$SELECT count(*) FROM grownext.job_fetch('mail')$$), '42501', r || ' does not')
  FROM unnest('{regress_producer,regress_stranger}'::name[]) AS r;
SELECT is(pg_temp.as_role('regress_service', $$SELECT count(*) FROM grownext.job_fetch('mail')$$), '0', 'a service does');
SELECT is(pg_temp.as_role('regress_service', $$SELECT count(*) FROM grownext.job_fetch('grownext.billing')$$), '42501', 'from no internal queue');
SELECT is(has_function_privilege(r.name, p.oid, 'EXECUTE'), r.may OR (r.name = 'regress_stranger' AND p.proname = 'job_progress'), format('%s: %s', r.name, p.proname))
  FROM pg_proc AS p, (VALUES ('regress_worker', true), ('regress_producer', false), ('regress_stranger', false)) AS r (name, may)
 WHERE p.pronamespace = 'grownext'::regnamespace
   AND p.proname IN ('job_fetch', 'job_wait', 'job_complete', 'job_complete_many', 'job_fail', 'job_extend', 'job_snooze', 'job_progress', 'job_bind');

-- Arguments ------------------------------------------------------------------------------

SELECT is(pg_temp.as_role('regress_service', s), c, c || ': ' || s)
  FROM (VALUES ($$SELECT grownext.job_fetch(NULL)$$, '22004'), ($$SELECT grownext.job_fetch('none')$$, '42704'),
               ($$SELECT grownext.job_fetch('mail', NULL)$$, '22004'), ($$SELECT grownext.job_fetch('mail', 0)$$, '22023'),
               ($$SELECT grownext.job_fetch('mail', -1)$$, '22023'), ($$SELECT grownext.job_fetch('mail', 10001)$$, '22023'),
               ($$SELECT grownext.job_fetch('mail', 1, NULL)$$, '22004'), ($$SELECT grownext.job_fetch('mail', 1, '0')$$, '22023'),
               ($$SELECT grownext.job_fetch('mail', 1, '-1 s')$$, '22023'), ($$SELECT grownext.job_fetch('mail', 1, '8 days')$$, '22023'),
               ($$SELECT grownext.job_fetch('mail', 1, '100000 years')$$, '22023'),
               ($$SELECT grownext.job_fetch('mail', 1, '1 s', '')$$, '22023'), ($$SELECT grownext.job_fetch('mail', 1, '1 s', repeat('w', 201))$$, '22023'),
               ($$SELECT grownext.job_complete(NULL, 1)$$, '22004'), ($$SELECT grownext.job_complete(1, NULL)$$, '22004'),
               ($$SELECT grownext.job_complete(1, 1, to_jsonb(repeat('x', 70000)))$$, '54000'),
               ($$SELECT grownext.job_complete_many(NULL, '{}')$$, '22004'), ($$SELECT grownext.job_complete_many('{1}', '{}')$$, '22023'),
               ($$SELECT grownext.job_complete_many('{1}', '{NULL}')$$, '22004'), ($$SELECT grownext.job_complete_many('{{1},{2}}', '{1,2}')$$, '22023'),
               ($$SELECT grownext.job_complete_many('{1}', '{1}', '{}')$$, '22023'),
               ($$SELECT grownext.job_fail(1, 1, NULL)$$, '22004'), ($$SELECT grownext.job_fail(1, 1, 'x', '-1 s')$$, '22023'),
               ($$SELECT grownext.job_fail(1, 1, 'x', '2 years')$$, '22023'),
               ($$SELECT grownext.job_extend('{1}', '{1}', '0')$$, '22023'), ($$SELECT grownext.job_extend('{1}', '{1,2}', '1 s')$$, '22023'),
               ($$SELECT grownext.job_extend('{1}', '{1}', NULL)$$, '22004'),
               ($$SELECT grownext.job_snooze(1, 1, NULL)$$, '22004'), ($$SELECT grownext.job_snooze(1, 1, '-1 s')$$, '22023'),
               ($$SELECT grownext.job_snooze(1, 1, '1 s')$$, 'NX031'),
               ($$SELECT grownext.job_progress(1, NULL)$$, '22004'), ($$SELECT grownext.job_progress(1, '1')$$, 'NX031'),
               ($$SELECT grownext.job_progress(1, to_jsonb(repeat('x', 2000)))$$, '54000'),
               ($$SELECT grownext.job_bind(NULL, 1)$$, '22004'), ($$SELECT grownext.job_bind(1, 1)$$, 'NX031'),
               ($$SELECT grownext.job_complete(1, 1)$$, 'NX031'), ($$SELECT grownext.job_fail(1, 1, 'x')$$, 'stale'),
               ($$SELECT grownext.job_complete_many('{1}', '{1}')$$, '{}'), ($$SELECT grownext.job_complete_many('{}', '{}')$$, '{}'),
               ($$SELECT grownext.job_extend('{1,1}', '{1,-1}', '1 s')$$, '{}')) AS v (s, c);

-- Fetch ----------------------------------------------------------------------------------

-- what a worker has in hand
CREATE TEMP TABLE mine (n int, id bigint, lease bigint, row grownext.job);
CREATE FUNCTION pg_temp.fetch(queue text, count int DEFAULT 1, lease interval DEFAULT '30 s') RETURNS text LANGUAGE sql AS $$
    WITH f AS (SELECT j AS job, row_number() OVER () AS place FROM grownext.job_fetch(queue, count, lease, 'w1') AS j),
    kept AS (INSERT INTO mine SELECT ((f.job).payload ->> 'n')::int, (f.job).id, (f.job).lease_id, f.job FROM f RETURNING 1)
    SELECT string_agg((f.job).payload ->> 'n', ' ' ORDER BY f.place) FROM f
$$;
CREATE FUNCTION pg_temp.put(queue text, n int, priority int DEFAULT 0, group_key text DEFAULT NULL, max_attempts int DEFAULT NULL,
                            deadline timestamptz DEFAULT NULL) RETURNS bigint LANGUAGE sql AS $$
    SELECT grownext.enqueue(queue, jsonb_build_object('n', n), priority => priority, group_key => group_key, max_attempts => max_attempts,
                            deadline => deadline, tenant_id => '33333333-3333-4333-8333-333333333333')
$$;
CREATE FUNCTION pg_temp.state(n int) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' ', g.state, g.attempt, g.last_error) FROM mine AS m, grownext.job_get(m.id) AS g WHERE m.n = state.n ORDER BY m.lease DESC LIMIT 1
$$;
CREATE FUNCTION pg_temp.complete(n int, result jsonb DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
    SELECT grownext.job_complete(m.id, m.lease, result) FROM mine AS m WHERE m.n = complete.n
$$;
SET LOCAL grownext.test_clock = '2026-05-01 12:00:00+00';

SELECT count(pg_temp.put('mail', n, 5 - n)) FROM generate_series(1, 4) AS n;
SELECT is(pg_temp.fetch('mail', 3), '4 3 2', 'jobs come in the order of their priority');
SELECT is(count(DISTINCT lease), 1::bigint, 'under one lease') FROM mine;
SELECT is((row).lease_until, '2026-05-01 12:00:30+00'::timestamptz, 'until its end') FROM mine WHERE n = 4;
SELECT is(((row).attempt, (row).max_attempts, (row).tenant_id, (row).lease_id)::text, format('(1,25,33333333-3333-4333-8333-333333333333,%s)', lease), 'with all that a worker needs') FROM mine WHERE n = 4;
SELECT is((g.state, g.attempt, g.worker, g.lease_until, g.started_at)::text, '(running,1,w1,"2026-05-01 12:00:30+00","2026-05-01 12:00:00+00")', 'job_get tells who has it')
  FROM mine AS m, grownext.job_get(m.id) AS g WHERE m.n = 4;
SELECT is((ready, running, scheduled)::text, '(1,3,0)', 'figures count it as running') FROM grownext.queue_stats('mail');
SELECT is(pg_temp.fetch('mail', 3), '1', 'nobody gets what another has');
SELECT is(pg_temp.fetch('mail', 3), NULL, 'an empty queue gives nothing');
SELECT is(grownext.queue_purge('mail'), 0::bigint, 'what runs is not purged');
SELECT throws_ok($$SELECT grownext.queue_drop('mail')$$, '2BP01', NULL, 'nor is its queue dropped');

-- Settle ---------------------------------------------------------------------------------

SELECT is(pg_temp.as_role('regress_stranger', format('SELECT grownext.job_complete(%s, %s)', id, lease)), '42501', 'a stranger settles nothing') FROM mine WHERE n = 4;
SELECT throws_ok(format('SELECT grownext.job_complete(%s, %s)', id, lease + 1), 'NX031', NULL, 'nor does another lease') FROM mine WHERE n = 4;
SELECT is(pg_temp.complete(4, '{"ok": true}'), 'succeeded', 'who has the lease does');
SELECT is((state, attempt, result, finished_at - started_at)::text, '(succeeded,1,"{""ok"": true}",00:00:00)', 'the outcome is kept') FROM mine AS m, grownext.job_get(m.id) WHERE m.n = 4;
SELECT throws_ok('SELECT pg_temp.complete(4)', 'NX031', NULL, 'once');
SELECT is(grownext.job_complete_many(array_agg(id ORDER BY id DESC), array_agg(lease ORDER BY id DESC), array_agg(to_jsonb(n) ORDER BY id DESC)), array_agg(id ORDER BY id) FILTER (WHERE n <> 4),
          'many at once: those that count are returned') FROM mine;
SELECT is(string_agg(g.result::text, ' ' ORDER BY m.n), '1 2 3', 'each with its own result') FROM mine AS m, grownext.job_get(m.id) AS g WHERE m.n < 4;
SELECT is(grownext.job_extend(array_agg(id), array_agg(lease), '1 h'), '{}', 'what is over is not extended') FROM mine;

-- Failure --------------------------------------------------------------------------------

SELECT pg_temp.put('mail', 10), pg_temp.put('mail', 11), pg_temp.put('mail', 12, max_attempts => 1), pg_temp.put('mail', 13), pg_temp.put('mail', 14);
SELECT is(pg_temp.fetch('mail', 5), '10 11 12 13 14', 'five more');
SELECT is(grownext.job_fail(id, lease, repeat('x', 2000)), 'retry', 'a failed attempt is tried again') FROM mine WHERE n = 10;
SELECT is((state, attempt, length(last_error), jsonb_array_length(attempts))::text, '(scheduled,1,1000,1)', 'with its error, cut') FROM mine AS m, grownext.job_get(m.id) WHERE m.n = 10;
SELECT ok(run_at BETWEEN '2026-05-01 12:00:07.5+00' AND '2026-05-01 12:00:10+00', 'after the queue''s wait') FROM mine AS m, grownext.job_get(m.id) WHERE m.n = 10;
SELECT is(grownext.job_fail(id, lease, 'again'), 'stale', 'it is charged once') FROM mine WHERE n = 10;
SELECT throws_ok('SELECT pg_temp.complete(10)', 'NX031', NULL, 'and is not completed any more');
SELECT is(grownext.job_fail(id, lease, 'later', '2 h'), 'retry', 'a worker says when') FROM mine WHERE n = 11;
SELECT is(run_at, '2026-05-01 14:00:00+00'::timestamptz, 'and that counts') FROM mine AS m, grownext.job_get(m.id) WHERE m.n = 11;
SELECT is(grownext.job_fail(id, lease, 'last'), 'dead', 'the last attempt was that') FROM mine WHERE n = 12;
SELECT is(grownext.job_fail(id, lease, 'never', '1 s', true), 'dead', 'a worker gives a job up') FROM mine WHERE n = 13;
SELECT is(string_agg(last_error, ' ' ORDER BY id), 'last never', 'both are dead letters') FROM grownext.dead_letter WHERE queue = 'mail';
SELECT lives_ok(format('SELECT grownext.job_snooze(%s, %s, %L)', id, lease, '1 min'), 'a worker gives a job back') FROM mine WHERE n = 14;
SELECT is((state, attempt, run_at)::text, '(scheduled,0,"2026-05-01 12:01:00+00")', 'until later, uncharged') FROM mine AS m, grownext.job_get(m.id) WHERE m.n = 14;
SELECT grownext.queue_purge('mail');

-- Leases end -----------------------------------------------------------------------------

TRUNCATE mine;
SELECT pg_temp.put('mail', 20), pg_temp.put('mail', 21), pg_temp.put('mail', 22), pg_temp.put('mail', 23), pg_temp.put('short', 24);
SELECT is(pg_temp.fetch('mail', 4), '20 21 22 23', 'four, for 30 seconds');
SELECT is(pg_temp.fetch('short'), '24', 'and one that has no second attempt');
SET LOCAL grownext.test_clock = '2026-05-01 12:00:20+00';
SELECT is(grownext.job_extend(array_agg(id), array_agg(lease), '1 min'), array_agg(id), 'one is extended') FROM mine WHERE n = 20;
SET LOCAL grownext.test_clock = '2026-05-01 12:00:31+00';
SELECT is(pg_temp.complete(21), 'succeeded', 'a late completion counts as long as nobody took the lease back');
SELECT is(_grownext.queue_lapse(100), 3, 'the scheduler takes back those that are over');
SELECT is(pg_temp.state(20), 'running 1', 'not the extended one');
SELECT is(pg_temp.state(22), 'scheduled 1 lease expired', 'an attempt whose worker is lost has failed');
SELECT is(pg_temp.state(24), 'dead 1 lease expired', 'and may have been the last');
SELECT is(grownext.job_fail(id, lease, 'x'), 'stale', 'which is not charged twice') FROM mine WHERE n = 22;
SELECT is(grownext.job_extend(array_agg(id), array_agg(lease), '1 min'), '{}', 'nor can it be extended') FROM mine WHERE n = 22;
SELECT is(pg_temp.complete(22), 'succeeded', 'a late completion counts until the job is handed out again');
SELECT is(pg_temp.state(22), 'succeeded 2 lease expired', 'the lost attempt stays on record');
SELECT throws_ok('SELECT pg_temp.complete(24)', 'NX031', NULL, 'not of a dead letter');
SET LOCAL grownext.test_clock = '2026-05-01 12:01:00+00';
SELECT is(_grownext.queue_promote('2026-05-01 12:01:00+00', 100), 1::bigint, 'the other one is due');
SELECT is(pg_temp.fetch('mail'), '23', 'and handed out again');
SELECT throws_ok(format('SELECT grownext.job_complete(%s, %s)', id, lease), 'NX031', NULL, 'then the first worker is too late') FROM mine WHERE n = 23 ORDER BY lease LIMIT 1;
SELECT is(grownext.job_complete(id, lease), 'succeeded', 'the second one is not') FROM mine WHERE n = 23 ORDER BY lease DESC LIMIT 1;
SELECT is(count(DISTINCT lease), 3::bigint, 'no two fetches have one lease') FROM mine;
SET LOCAL grownext.test_clock = '2026-05-01 12:02:00+00';
SELECT is(pg_temp.fetch('mail'), NULL, 'a fetch takes lapsed leases of its queue back, too');
SELECT is(pg_temp.state(20), 'scheduled 1 lease expired', 'without a scheduler');

-- Cancel ---------------------------------------------------------------------------------

TRUNCATE mine;
SELECT grownext.queue_purge('mail');
SELECT count(pg_temp.put('mail', n)) FROM generate_series(30, 34) AS n;
SELECT is(pg_temp.fetch('mail', 5), '30 31 32 33 34', 'five');
SELECT is(bool_and(grownext.job_cancel(id)), true, 'what runs outside is cancelled') FROM mine;
SELECT is(pg_temp.state(30), 'running 1', 'as soon as its worker hears of it');
SELECT is(grownext.job_extend(array_agg(id), array_agg(lease), '1 min'), '{}', 'from an extension') FROM mine;
SELECT is(pg_temp.complete(30), 'cancelled', 'from a completion');
SELECT is(pg_temp.state(30), 'cancelled 0 cancelled by job_cancel()', 'which is none');
SELECT is(grownext.job_complete_many(ARRAY[id], ARRAY[lease]), '{}', 'among many as well') FROM mine WHERE n = 31;
SELECT is(grownext.job_fail(id, lease, 'x'), 'cancelled', 'from a failure') FROM mine WHERE n = 32;
SELECT lives_ok(format('SELECT grownext.job_snooze(%s, %s, %L)', id, lease, '1 s'), 'or a snooze') FROM mine WHERE n = 33;
SET LOCAL grownext.test_clock = '2026-05-01 12:05:00+00';
SELECT is(_grownext.queue_lapse(100), 1, 'or never, if it is lost');
SELECT is(string_agg(pg_temp.state(n), ',' ORDER BY n), string_agg('cancelled 0 cancelled by job_cancel()', ','), 'all are cancelled, and none is charged') FROM mine;
SELECT is(_grownext.queue_end_cancelled(), 0::bigint, 'a pass');
SELECT is((SELECT count(*) FROM _grownext.queue_cancel), 0::bigint, 'forgets the marks');
SELECT is(grownext.job_cancel(id), false, 'what is over is not cancelled') FROM mine WHERE n = 30;

-- Limits, groups, deadlines, pauses ----------------------------------------------------------

TRUNCATE mine;
SELECT count(pg_temp.put('narrow', n)) FROM generate_series(40, 43) AS n;
SELECT is(pg_temp.fetch('narrow', 10), '40 41', 'a queue with concurrency 2 hands out two');
SELECT is(pg_temp.fetch('narrow', 10), NULL, 'and no more');
SELECT is(pg_temp.complete(40), 'succeeded', 'until one is settled');
SELECT is(pg_temp.fetch('narrow', 10), '42', 'then the next one');
SELECT grownext.queue_define('narrow', '{"concurrency": 1}');
SELECT is(pg_temp.complete(41), 'succeeded', 'under a smaller limit');
SELECT is(pg_temp.fetch('narrow', 10), NULL, 'the one that runs counts');
SELECT is(pg_temp.complete(42), 'succeeded', 'until it is settled');
SELECT is(pg_temp.fetch('narrow', 10), '43', 'whatever place it had');

SELECT count(pg_temp.put('ordered', n, group_key => (n % 2)::text)) FROM generate_series(50, 55) AS n;
SELECT is(pg_temp.fetch('ordered', 10), '50 51', 'of an ordered queue the first of each group');
SELECT is(pg_temp.fetch('ordered', 10), NULL, 'nothing behind it');
SELECT is(pg_temp.complete(50), 'succeeded', 'until it is settled');
SELECT is(pg_temp.fetch('ordered', 10), '52', 'then the next of its group');
SELECT is(grownext.job_fail(id, lease, 'x'), 'retry', 'a failure') FROM mine WHERE n = 52;
SELECT is(pg_temp.fetch('ordered', 10), NULL, 'holds its group up');

SELECT pg_temp.put('expiring', 60, deadline => '2026-05-01 12:00+00'), pg_temp.put('expiring', 61, deadline => '2026-05-01 13:00+00');
SELECT is(pg_temp.fetch('expiring'), '61', 'a job past its deadline is not begun');
SELECT is((state, deadline_missed)::text, '(cancelled,t)', 'but cancelled, and says why') FROM grownext.job_get((SELECT id - 1 FROM mine WHERE n = 61));
SELECT is((state, deadline_missed)::text, '(running,f)', 'the other one has time') FROM grownext.job_get((SELECT id FROM mine WHERE n = 61));
SET LOCAL grownext.test_clock = '2026-05-01 13:01+00';
SELECT is(pg_temp.complete(61), 'succeeded', 'if it succeeds after its deadline');
SELECT is((state, deadline_missed)::text, '(succeeded,t)', 'that is on record') FROM grownext.job_get((SELECT id FROM mine WHERE n = 61));
SELECT is(deadlines_missed, 2::bigint, 'and counted') FROM grownext.queue_stats('expiring');
SELECT lives_ok($$SELECT _grownext.queue_expire('2026-05-03', 100)$$, 'retention');
SELECT is((enqueued_total, deadlines_missed)::text, '(2,2)', 'forgets no count') FROM grownext.queue_stats('expiring');

SELECT pg_temp.put('expiring', 62);
SELECT grownext.queue_pause('expiring');
SELECT is(pg_temp.fetch('expiring'), NULL, 'a paused queue hands out nothing');
SELECT grownext.queue_resume('expiring');
SELECT is(pg_temp.fetch('expiring'), '62', 'a resumed one does');
SELECT grownext.queue_pause('expiring');
SELECT is(pg_temp.complete(62), 'succeeded', 'what runs in a paused queue goes on');

-- Progress and context ---------------------------------------------------------------------

SELECT grownext.enqueue('mail', '{"n": 68}'), pg_temp.put('mail', 69);
SELECT is(pg_temp.fetch('mail', 2), '68 69', 'two jobs, one of a tenant');
SELECT is(pg_temp.as_role('regress_worker', format('SELECT grownext.job_bind(%s, %s)', id, lease)), '', 'a worker takes on the context of a job') FROM mine WHERE n = 69;
SELECT is(grownext.current_tenant(), '33333333-3333-4333-8333-333333333333', 'its tenant');
SELECT is(pg_temp.as_role('regress_stranger', format('SELECT grownext.job_bind(%s, %s)', id, lease)), '42501', 'a stranger does not') FROM mine WHERE n = 69;
SELECT is(pg_temp.as_role('regress_worker', format('SELECT grownext.job_bind(%s, %s)', id, lease + 1)), 'NX031', 'nor who has another lease') FROM mine WHERE n = 69;
SELECT is(pg_temp.as_role('regress_worker', format('SELECT grownext.job_bind(%s, %s)', id, lease)), '', 'then that of another') FROM mine WHERE n = 68;
SELECT is(grownext.current_tenant(), NULL, 'which has none');
SELECT grownext.act_as('ann', '33333333-3333-4333-8333-333333333333');
SELECT pg_temp.put('mail', 70);
SELECT is(pg_temp.fetch('mail'), '70', 'a job of ann''s');
SELECT is(pg_temp.as_role('regress_worker', format('SELECT grownext.job_progress(%s, %L)', id, '{"done": 3}')), '', 'its worker says how far it is') FROM mine WHERE n = 70;
SELECT is(pg_temp.as_role('regress_stranger', format('SELECT grownext.job_progress(%s, %L)', id, '{"done": 4}')), '42501', 'nobody else') FROM mine WHERE n = 70;
SELECT is(progress, '{"done": 3}', 'job_get tells') FROM mine AS m, grownext.job_get(m.id) WHERE n = 70;
SELECT is((row).subject, 'ann', 'the enqueuer is known') FROM mine WHERE n = 70;

-- One live job per key: a leased one runs --------------------------------------------------

SELECT grownext.enqueue('other', '{"n": 80}', unique_key => 'k') AS keyed \gset
SELECT is(pg_temp.fetch('other'), '80', 'a job with a key');
SELECT is(grownext.enqueue('other', '{"n": 81}', unique_key => 'k', unique_mode => 'replace'), :keyed::bigint, 'is not replaced while it runs');
SELECT is((row).payload, '{"n": 80}', 'as it is') FROM mine WHERE n = 80;
SELECT is((SELECT payload FROM _grownext.queue_job WHERE id = :keyed), '{"n": 80}', 'and stays');
SET LOCAL grownext.test_clock = '2026-05-01 14:00+00';
SELECT is(_grownext.queue_lapse(100) > 0, true, 'its lease ends');
SELECT is(grownext.enqueue('other', '{"n": 81}', unique_key => 'k', unique_mode => 'replace'), :keyed::bigint, 'then it is replaced');
SELECT throws_ok('SELECT pg_temp.complete(80)', 'NX031', NULL, 'and its old worker does not settle the new content');

-- Skipped after a restore ------------------------------------------------------------------

SELECT is(pg_temp.fetch('other'), '81', 'a lease that a dump brings along');
SELECT ok(_grownext.queue_skip_pending() > 0, 'is skipped with what waits');
SELECT is(pg_temp.complete(81), 'cancelled', 'its job is cancelled');

SELECT * FROM finish();
ROLLBACK;
