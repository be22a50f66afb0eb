-- Queues: jobs that are enqueued with the data they are about and run exactly once.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS grownext;
SELECT count(*) > 0 AS set_up FROM grownext.setup('https://id.example', '{https://api.example}');
CREATE ROLE regress_queue_admin IN ROLE grownext_admin;
CREATE ROLE regress_queue_service IN ROLE grownext_service;
CREATE ROLE regress_queue_app IN ROLE grownext_user;
CREATE ROLE regress_queue_other;
CREATE SCHEMA regress_queue AUTHORIZATION regress_queue_app;
RESET client_min_messages;
\set tenant '''33333333-3333-4333-8333-333333333333'''

-- waits until a job is in the wanted state, and says in which it is
CREATE FUNCTION regress_queue.wait(job bigint, wanted text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    until CONSTANT timestamptz := clock_timestamp() + interval '30 s';
    state text;
BEGIN
    LOOP
        state := (grownext.job_get(job)).state;
        EXIT WHEN state IN (wanted, 'succeeded', 'dead', 'cancelled') OR clock_timestamp() > until;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN state;
END $$;
GRANT EXECUTE ON FUNCTION regress_queue.wait(bigint, text) TO regress_queue_service;
GRANT USAGE ON SCHEMA regress_queue TO regress_queue_service;

-- a definition: created, changed, refused
SET ROLE regress_queue_admin;
SELECT grownext.queue_define('regress.mail', '{"concurrency": 2, "max_attempts": 3, "backoff_base": "10 ms"}');
SELECT grownext.queue_define('regress.mail', '{"max_attempts": 2, "backoff_base": "10 ms", "backoff_cap": "20 ms", "timeout": "5 s"}');
SELECT queue, concurrency, max_attempts, backoff_base, backoff_cap, timeout, retention, dead_retention, ordered, expire
  FROM grownext.queue WHERE queue = 'regress.mail';
SELECT grownext.queue_define('regress.mail', '{"attempts": 2}');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.queue_define('regress.mail', '{"max_attempts": "two"}');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.queue_define('regress.mail', '{"max_attempts": 0}');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.queue_define('not a name');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.queue_define(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.queue_define('grownext.mine');
\echo :LAST_ERROR_SQLSTATE

-- a handler runs as a role that owns it and is no superuser
SET ROLE regress_queue_app;
CREATE TABLE regress_queue.sent (job bigint, attempt int, payload jsonb, tenant_id uuid, actor text, role name, session_role name);
GRANT SELECT ON regress_queue.sent TO regress_queue_service;
CREATE FUNCTION regress_queue.send(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO regress_queue.sent
    SELECT j.id, j.attempt, send.payload, grownext.current_tenant(), grownext.current_actor(), current_user, session_user
      FROM grownext.current_job() AS j;
    IF payload ? 'fail_until' AND (grownext.current_job()).attempt < (payload ->> 'fail_until')::int THEN
        RAISE EXCEPTION 'mail server down';
    ELSIF payload ? 'raise' THEN
        RAISE EXCEPTION USING ERRCODE = payload ->> 'raise', MESSAGE = 'as ordered', DETAIL = '1 hour';
    ELSIF payload ? 'sleep' THEN
        PERFORM pg_sleep(60);
    END IF;
    RETURN jsonb_build_object('sent', true);
END $$;
CREATE FUNCTION regress_queue.two(payload jsonb, more int) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION regress_queue.rows(payload jsonb) RETURNS SETOF jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
SELECT grownext.queue_handle('regress.mail', 'regress_queue.send(jsonb)');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
SELECT grownext.queue_handle('regress.mail', 'regress_queue.send(jsonb)');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.queue_handle('regress.mail', 'regress_queue.send(jsonb)', run_as => 'grownext_owner');
\echo :LAST_ERROR_SQLSTATE
SET ROLE regress_queue_admin;
SELECT grownext.queue_handle('regress.mail', 'regress_queue.send(jsonb)', run_as => 'regress_queue_app');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.queue_grant('regress.mail', 'regress_queue_app', 'work');
SELECT grownext.queue_grant('regress.mail', 'regress_queue_app', 'read');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.queue_grant('regress.mail', 'regress_queue_nobody', 'work');
\echo :LAST_ERROR_SQLSTATE
SET ROLE regress_queue_app;
SELECT grownext.queue_handle('regress.mail', 'regress_queue.two(jsonb,int)');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.queue_handle('regress.mail', 'regress_queue.rows(jsonb)');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.queue_handle('regress.mail', 'regress_queue.wait(bigint,text)');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.queue_handle('regress.mail', 'regress_queue.send(jsonb)', '{"lease": 1}');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.queue_handle('regress.mail', 'regress_queue.send(jsonb)');
SET ROLE regress_queue_admin;
SELECT handler, handler_takes, run_as FROM grownext.queue WHERE queue = 'regress.mail';

-- it does so in the enqueuer's context, and effect and success are one
SET ROLE regress_queue_service;
BEGIN;
SELECT grownext.act_as('ada', :tenant);
SELECT grownext.enqueue('regress.mail', '{"to": "bob"}') AS job \gset
COMMIT;
SELECT regress_queue.wait(:job, 'succeeded');
SELECT job = :job AS job, attempt, payload, tenant_id, actor, role, session_role FROM regress_queue.sent WHERE job = :job;
SELECT state, attempt, result, last_error, jsonb_array_length(attempts) AS attempts, attempts -> 0 ->> 'worker' AS worker, tenant_id, finished_at >= started_at AS timed FROM grownext.job_get(:job);

-- what is rolled back never runs, to the end or to a savepoint
BEGIN;
SELECT grownext.enqueue('regress.mail', '{"to": "nobody"}') AS job \gset
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT grownext.enqueue('regress.mail', '{"to": "nobody"}') AS undone \gset
ROLLBACK TO s;
SELECT grownext.enqueue('regress.mail', '{"to": "carol"}') AS kept \gset
COMMIT;
SELECT regress_queue.wait(:kept, 'succeeded');
SELECT grownext.job_get(:job) IS NULL AND grownext.job_get(:undone) IS NULL AS never_were;
SELECT payload FROM regress_queue.sent WHERE payload ->> 'to' IN ('nobody', 'carol');

-- a failure rolls back what the handler did, is kept, and is tried again
SELECT grownext.enqueue('regress.mail', '{"fail_until": 2}') AS job \gset
SELECT regress_queue.wait(:job, 'succeeded');
SELECT attempt, payload FROM regress_queue.sent WHERE job = :job;
SELECT state, attempt, max_attempts, last_error, jsonb_path_query_array(attempts, '$[*].error') AS errors FROM grownext.job_get(:job);

-- until there are no attempts left: a dead letter, which can be redriven
SELECT grownext.enqueue('regress.mail', '{"fail_until": 9}') AS job \gset
SELECT regress_queue.wait(:job, 'dead');
SELECT id = :job AS job, queue, payload, attempt, max_attempts, last_error, subject, tenant_id FROM grownext.dead_letter WHERE queue = 'regress.mail';
SELECT grownext.job_redrive('regress.mail', ARRAY[-1]::bigint[]);
SELECT grownext.job_redrive('regress.mail');
SELECT regress_queue.wait(:job, 'dead');
SELECT jsonb_array_length(attempts) AS attempts FROM grownext.job_get(:job);
SELECT grownext.job_redrive('regress.none');
\echo :LAST_ERROR_SQLSTATE

-- a handler can give up, or ask for another time at no charge
SELECT grownext.enqueue('regress.mail', '{"raise": "NX032"}') AS job \gset
SELECT regress_queue.wait(:job, 'dead');
SELECT attempt, last_error FROM grownext.job_get(:job);
SELECT grownext.enqueue('regress.mail', '{"raise": "NX033"}') AS job \gset
SELECT regress_queue.wait(:job, 'scheduled');
SELECT attempt, last_error, run_at > now() + interval '50 min' AS in_an_hour FROM grownext.job_get(:job);
SELECT grownext.job_cancel(:job);

-- what fails at its commit failed
SET ROLE regress_queue_app;
CREATE TABLE regress_queue.later (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE OR REPLACE FUNCTION regress_queue.twice(payload jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO regress_queue.later VALUES (1), (1)';
SELECT grownext.queue_handle('regress.mail', 'regress_queue.twice(jsonb)');
SET ROLE regress_queue_service;
SELECT grownext.enqueue('regress.mail', max_attempts => 1) AS job \gset
SELECT regress_queue.wait(:job, 'dead');
SELECT last_error FROM grownext.job_get(:job);
SET ROLE regress_queue_app;
SELECT grownext.queue_handle('regress.mail', 'regress_queue.send(jsonb)');

-- a time limit fires
SET ROLE regress_queue_admin;
SELECT grownext.queue_define('regress.mail', '{"max_attempts": 2, "backoff_base": "10 ms", "backoff_cap": "20 ms", "timeout": "50 ms"}');
SET ROLE regress_queue_service;
SELECT grownext.enqueue('regress.mail', '{"sleep": true}', max_attempts => 1) AS job \gset
SELECT regress_queue.wait(:job, 'dead');
SELECT last_error FROM grownext.job_get(:job);

-- a handler that is gone costs the attempt, not the executor
RESET ROLE;
ALTER FUNCTION regress_queue.send(jsonb) OWNER TO regress_queue_other;
SET ROLE regress_queue_service;
SELECT grownext.enqueue('regress.mail', max_attempts => 1) AS job \gset
SELECT regress_queue.wait(:job, 'dead');
SELECT last_error FROM grownext.job_get(:job);
RESET ROLE;
ALTER FUNCTION regress_queue.send(jsonb) OWNER TO regress_queue_app;
ALTER FUNCTION regress_queue.send(jsonb) RENAME TO send_away;
SET ROLE regress_queue_service;
SELECT grownext.enqueue('regress.mail', max_attempts => 1) AS job \gset
SELECT regress_queue.wait(:job, 'dead');
SELECT last_error FROM grownext.job_get(:job);
RESET ROLE;
ALTER FUNCTION regress_queue.send_away(jsonb) RENAME TO send;
ALTER ROLE regress_queue_app SUPERUSER;
SET ROLE regress_queue_service;
SELECT grownext.enqueue('regress.mail', max_attempts => 1) AS job \gset
SELECT regress_queue.wait(:job, 'dead');
SELECT last_error FROM grownext.job_get(:job);
RESET ROLE;
ALTER ROLE regress_queue_app NOSUPERUSER;

-- who may enqueue: service, admin, and whom a grant lets
SET ROLE regress_queue_other;
SELECT grownext.enqueue('regress.mail');
\echo :LAST_ERROR_SQLSTATE
SET ROLE regress_queue_admin;
SELECT grownext.queue_define('regress.other');
SELECT grownext.queue_pause('regress.mail');
SELECT grownext.queue_grant('regress.mail', 'regress_queue_other', 'enqueue');
SET ROLE regress_queue_other;
SELECT grownext.enqueue('regress.mail') AS job \gset
SELECT grownext.enqueue('regress.other');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.enqueue('regress.mail', tenant_id => :tenant);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.job_get(:job) IS NULL AS hidden, grownext.job_cancel(:job) AS cancelled;
SET ROLE regress_queue_admin;
SELECT grownext.queue_revoke('regress.mail', 'regress_queue_other', 'enqueue');
SET ROLE regress_queue_other;
SELECT grownext.enqueue('regress.mail');
\echo :LAST_ERROR_SQLSTATE

-- what enqueue refuses
SET ROLE regress_queue_service;
SELECT grownext.enqueue('regress.none');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.enqueue(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.enqueue('regress.mail', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.enqueue('grownext.billing');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.enqueue('regress.mail', to_jsonb(repeat('x', 1024 * 1024)));
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.enqueue('regress.mail', max_attempts => 0);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.enqueue('regress.mail', run_at => 'infinity');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.enqueue('regress.mail', unique_key => '');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.enqueue('regress.mail', unique_key => 'x', unique_mode => 'first');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.enqueue('regress.mail', unique_for => '1 h');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.enqueue('regress.mail', depends_on => '{1}');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.enqueue('regress.mail', batch_id => 1);
\echo :LAST_ERROR_SQLSTATE

-- the largest payload that is taken
SELECT grownext.enqueue('regress.mail', to_jsonb(repeat('x', 1024 * 1024 - 2))) AS job \gset
SELECT grownext.job_cancel(:job), (grownext.job_get(:job)).state, grownext.job_cancel(:job) AS again;

-- a paused queue takes jobs and starts none; resumed, it runs by priority
SELECT grownext.enqueue('regress.mail', '{"n": 1}', priority => 5) AS one \gset
SELECT grownext.enqueue('regress.mail', '{"n": 2}') AS two \gset
SELECT (grownext.job_get(:one)).state, ready, paused FROM grownext.queue_stats('regress.mail');
SET ROLE regress_queue_admin;
SELECT grownext.queue_resume('regress.mail');
SET ROLE regress_queue_service;
SELECT regress_queue.wait(:one, 'succeeded'), regress_queue.wait(:two, 'succeeded');

-- unique_key: one live job per key; it stays, takes the new content, or is an error
SELECT grownext.enqueue('regress.mail', '{"v": 1}', unique_key => 'k', run_at => now() + interval '1 h') AS job \gset
SELECT grownext.enqueue('regress.mail', '{"v": 2}', unique_key => 'k') = :job AS kept;
SELECT grownext.enqueue('regress.mail', '{"v": 3}', unique_key => 'k', unique_mode => 'replace') = :job AS replaced;
SELECT regress_queue.wait(:job, 'succeeded');
SELECT payload FROM regress_queue.sent WHERE job = :job;
SELECT grownext.enqueue('regress.mail', '{"v": 4}', unique_key => 'k', run_at => now() + interval '1 h') AS next \gset
SELECT :next > :job AS a_new_one;
DO $$
BEGIN
    PERFORM grownext.enqueue('regress.mail', unique_key => 'k', unique_mode => 'reject');
EXCEPTION WHEN unique_violation THEN
    RAISE NOTICE 'refused: %', SQLERRM;
END $$;
SELECT grownext.job_cancel(:next);
-- unique_for: the key stays taken after the job
SELECT grownext.enqueue('regress.mail', unique_key => 'w', unique_for => '1 h') AS job \gset
SELECT regress_queue.wait(:job, 'succeeded');
SELECT grownext.enqueue('regress.mail', unique_key => 'w') = :job AS kept;

-- many at once, in order
SELECT grownext.enqueue_many('regress.mail', ARRAY['{"m": 1}', '{"m": 2}', '{"m": 3}']::jsonb[]) AS jobs \gset
SELECT regress_queue.wait(j, 'succeeded') FROM unnest(:'jobs'::bigint[]) AS j;
SELECT array_agg(payload ->> 'm' ORDER BY job) AS payloads FROM regress_queue.sent WHERE payload ? 'm';
SELECT cardinality(grownext.enqueue_many('regress.mail', '{}')) AS none;
SELECT grownext.enqueue_many('regress.mail', ARRAY['{}', '{}']::jsonb[], unique_keys => '{z,z}') AS jobs \gset
SELECT count(DISTINCT j) AS same_key_same_job, min(regress_queue.wait(j, 'succeeded')) FROM unnest(:'jobs'::bigint[]) AS j;
SELECT grownext.enqueue_many('regress.mail', ARRAY['1', NULL]::jsonb[]);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.enqueue_many('regress.mail', ARRAY['1', '2']::jsonb[], group_keys => '{a}');
\echo :LAST_ERROR_SQLSTATE

-- scheduled: a pass makes ready what is due; a deadline that has passed cancels where asked
SET ROLE regress_queue_admin;
SELECT grownext.queue_define('regress.other', '{"expire": true, "ordered": true, "concurrency": 1}');
SELECT grownext.queue_grant('regress.other', 'regress_queue_app', 'work');
SET ROLE regress_queue_app;
CREATE FUNCTION regress_queue.take(job grownext.job) RETURNS void LANGUAGE sql AS $$
    INSERT INTO regress_queue.sent (job, attempt, payload, tenant_id) VALUES ((job).id, (job).attempt, (job).payload, (job).tenant_id)
$$;
SELECT grownext.queue_handle('regress.other', 'regress_queue.take(grownext.job)');
SET ROLE regress_queue_service;
SELECT grownext.enqueue('regress.other', '{"s": 1}', run_at => now() + interval '1 h', tenant_id => :tenant) AS job \gset
SELECT grownext.enqueue('regress.other', '{"s": 2}', run_at => now() + interval '1 h', deadline => now() - interval '1 s') AS late \gset
SELECT (grownext.job_get(:job)).state;
RESET ROLE;
SELECT _grownext.queue_tick(now() + interval '10 min') > now() AS next_due;
SELECT _grownext.queue_tick(now() + interval '61 min') IS NULL AS none_due;
SELECT regress_queue.wait(:job, 'succeeded'), regress_queue.wait(:late, 'cancelled');
SELECT payload, tenant_id FROM regress_queue.sent WHERE job IN (:job, :late);
SELECT state, last_error FROM grownext.job_get(:late);

-- an ordered queue runs a group one by one, in order, over a failure
SET ROLE regress_queue_admin;
SELECT grownext.queue_pause('regress.other');
SET ROLE regress_queue_service;
SELECT grownext.enqueue_many('regress.other', ARRAY['{"o": 1}', '{"o": 2}', '{"o": 3}']::jsonb[], group_keys => '{g,g,g}') AS jobs \gset
RESET ROLE;
UPDATE _grownext.queue_job SET ready = false, run_at = now() + interval '1 h' WHERE payload = '{"o": 1}';
SET ROLE regress_queue_admin;
SELECT grownext.queue_resume('regress.other');
SET ROLE regress_queue_service;
SELECT grownext.enqueue('regress.other', '{"o": 4}') AS four \gset
SELECT regress_queue.wait(:four, 'succeeded');
SELECT (grownext.job_get(j)).state FROM unnest(:'jobs'::bigint[]) AS j;
RESET ROLE;
SELECT _grownext.queue_tick(now() + interval '61 min') IS NULL AS none_due;
SELECT regress_queue.wait(j, 'succeeded') FROM unnest(:'jobs'::bigint[]) AS j;
SELECT array_agg(payload ->> 'o' ORDER BY ctid) AS ran_in_order FROM regress_queue.sent WHERE payload ? 'o' AND payload <> '{"o": 4}';

-- platform events are routed into queues that exist and are not internal
SET ROLE regress_queue_admin;
SELECT grownext.event_route('regress.happened', 'regress.none');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.event_route('regress.happened', 'grownext.billing');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.event_route('regress.happened', 'regress.other');
RESET ROLE;
SELECT _grownext.core_event_emit('regress.happened', :tenant, '{"x": 1}');
SELECT max(id) AS job FROM (SELECT id FROM _grownext.queue_job UNION ALL SELECT id FROM _grownext.queue_done) AS j \gset
SELECT regress_queue.wait(:job, 'succeeded');
SELECT payload ->> 'type' AS type, payload -> 'data' AS data, tenant_id FROM regress_queue.sent WHERE job = :job;

-- figures
SELECT enqueued_total, succeeded_total, failed_total, ready, running, scheduled, dead, paused, run_p50_ms IS NOT NULL AS timed
  FROM grownext.queue_stats('regress.other');
SELECT item, state, regexp_replace(detail, '\d+', 'N') AS detail, hint FROM _grownext.queue_status() WHERE item LIKE 'regress.%' ORDER BY item;

-- a queue goes when nothing waits in it and nothing is routed into it
SET ROLE regress_queue_admin;
SELECT grownext.queue_drop('regress.other');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.event_unroute('regress.happened', 'regress.other');
SELECT grownext.queue_pause('regress.other');
SET ROLE regress_queue_service;
SELECT count(*) FROM (SELECT grownext.enqueue('regress.other') FROM generate_series(1, 3)) AS e;
SET ROLE regress_queue_admin;
SELECT grownext.queue_drop('regress.other');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.queue_purge('regress.other');
SELECT enqueued_total, ready FROM grownext.queue_stats('regress.other');
SELECT grownext.queue_drop('regress.other');
SELECT grownext.queue_drop('regress.mail');
SELECT grownext.queue_drop('regress.mail');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA regress_queue CASCADE;
DROP OWNED BY regress_queue_admin, regress_queue_service, regress_queue_app, regress_queue_other;
DROP ROLE regress_queue_admin, regress_queue_service, regress_queue_app, regress_queue_other;
