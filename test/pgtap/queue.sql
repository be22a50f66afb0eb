-- Queues: who may do what, and what is refused, function by function. Nothing runs here:
-- the database is not set up.
BEGIN;
SELECT * FROM no_plan();

CREATE ROLE regress_admin LOGIN IN ROLE grownext_admin;
CREATE ROLE regress_service LOGIN IN ROLE grownext_service;
CREATE ROLE regress_monitor LOGIN IN ROLE grownext_monitor;
CREATE ROLE regress_producer LOGIN;
CREATE ROLE regress_worker LOGIN;
CREATE ROLE regress_member LOGIN IN ROLE regress_producer;
CREATE ROLE regress_stranger LOGIN IN ROLE grownext_user;
CREATE SCHEMA work AUTHORIZATION regress_worker;

\ir ../lib/as_role.psql

-- Administration is the administrator's ------------------------------------------

SELECT is(pg_temp.as_role('regress_admin', $$SELECT grownext.queue_define('mail')$$), '', 'an admin defines');
SELECT is(pg_temp.as_role('regress_admin', $$SELECT grownext.queue_define('mail')$$), '', 'and defines again');
SELECT is(pg_temp.as_role('regress_admin', $$SELECT grownext.queue_define('other')$$), '', 'and another one');
SELECT is(pg_temp.as_role(r, s), '42501', format('%s may not: %s', r, s))
  FROM unnest('{regress_service,regress_monitor,regress_producer,regress_stranger}'::name[]) AS r,
       unnest(ARRAY[$$SELECT grownext.queue_define('x')$$, $$SELECT grownext.queue_pause('mail')$$, $$SELECT grownext.queue_resume('mail')$$,
                    $$SELECT grownext.queue_purge('mail')$$, $$SELECT grownext.queue_drop('mail')$$,
                    $$SELECT grownext.queue_grant('mail', 'regress_stranger', 'enqueue')$$,
                    $$SELECT grownext.queue_revoke('mail', 'regress_stranger', 'enqueue')$$]) AS s;
SELECT is(pg_temp.as_role('regress_admin', s), '42501', 'internal queues are not to be named: ' || s)
  FROM unnest(ARRAY[$$SELECT grownext.queue_define('grownext.x')$$, $$SELECT grownext.queue_pause('grownext.x')$$,
                    $$SELECT grownext.queue_purge('grownext.x')$$, $$SELECT grownext.queue_drop('grownext.x')$$,
                    $$SELECT grownext.queue_grant('grownext.x', 'regress_stranger', 'enqueue')$$,
                    $$SELECT grownext.queue_handle('grownext.x', 'work.handle(jsonb)')$$,
                    $$SELECT grownext.enqueue('grownext.x')$$, $$SELECT grownext.enqueue_many('grownext.x', '{}')$$,
                    $$SELECT grownext.event_route('x', 'grownext.x')$$]) AS s;
SELECT is(pg_temp.as_role('postgres', $$SELECT grownext.enqueue('grownext.x')$$), '42501', 'not even by a superuser');
SELECT is(pg_temp.as_role('regress_admin', s), '42704', 'an unknown queue is an error: ' || s)
  FROM unnest(ARRAY[$$SELECT grownext.queue_pause('none')$$, $$SELECT grownext.queue_resume('none')$$, $$SELECT grownext.queue_purge('none')$$,
                    $$SELECT grownext.queue_drop('none')$$, $$SELECT grownext.queue_grant('none', 'regress_stranger', 'work')$$,
                    $$SELECT grownext.job_redrive('none')$$, $$SELECT grownext.enqueue('none')$$,
                    $$SELECT grownext.event_route('x', 'none')$$]) AS s;

-- Rights on a queue ----------------------------------------------------------------

SELECT is(pg_temp.as_role('regress_service', $$SELECT grownext.enqueue('mail') > 0$$), 'true', 'a service enqueues');
SELECT is(pg_temp.as_role('regress_producer', $$SELECT grownext.enqueue('mail') > 0$$), '42501', 'a role without a right does not');
SELECT is(pg_temp.as_role('regress_admin', $$SELECT grownext.queue_grant('mail', 'regress_producer', 'enqueue')$$), '', 'an admin grants it');
SELECT is(pg_temp.as_role('regress_producer', $$SELECT grownext.enqueue('mail') > 0$$), 'true', 'then it does');
SELECT is(pg_temp.as_role('regress_producer', $$SELECT cardinality(grownext.enqueue_many('mail', ARRAY['1']::jsonb[]))$$), '1', 'and many');
SELECT is(pg_temp.as_role('regress_producer', $$SELECT grownext.enqueue('other') > 0$$), '42501', 'into this queue only');
SELECT is(pg_temp.as_role('regress_member', $$SELECT grownext.enqueue('mail') > 0$$), 'true', 'a member of the role does as well');
SELECT is(pg_temp.as_role('regress_stranger', $$SELECT grownext.enqueue('mail') > 0$$), '42501', 'nobody else');
SELECT is(pg_temp.as_role('regress_producer', $$SELECT grownext.enqueue('mail', tenant_id => '33333333-3333-4333-8333-333333333333')$$),
          '42501', 'for no tenant but the own');
SELECT is(pg_temp.as_role('regress_service', $$SELECT grownext.enqueue('mail', tenant_id => '33333333-3333-4333-8333-333333333333') > 0$$),
          'true', 'a service for any');

-- Handlers ---------------------------------------------------------------------------

SELECT is(pg_temp.as_role('regress_admin', $$SELECT grownext.queue_grant('mail', 'regress_worker', 'work')$$), '', 'an admin grants the right to work');
SELECT lives_ok('SET LOCAL SESSION AUTHORIZATION regress_worker; ' || d || '; RESET SESSION AUTHORIZATION', 'made: ' || d)
  FROM unnest(ARRAY[
    $$CREATE FUNCTION work.handle(payload jsonb) RETURNS void LANGUAGE sql AS ''$$,
    $$CREATE FUNCTION work.handle_job(job grownext.job) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb'$$,
    $$CREATE FUNCTION work.text(payload text) RETURNS void LANGUAGE sql AS ''$$,
    $$CREATE FUNCTION work.returns(payload jsonb) RETURNS text LANGUAGE sql AS 'SELECT NULL'$$,
    $$CREATE PROCEDURE work.procedure(payload jsonb) LANGUAGE sql AS ''$$,
    $$CREATE FUNCTION work.closed(payload jsonb) RETURNS void LANGUAGE sql AS ''$$,
    $$REVOKE EXECUTE ON FUNCTION work.closed(jsonb) FROM PUBLIC, regress_worker$$]) AS d;
CREATE FUNCTION work.of_superuser(payload jsonb) RETURNS void LANGUAGE sql AS '';
SELECT is(pg_temp.as_role('regress_worker', $$SELECT grownext.queue_handle('mail', 'work.handle(jsonb)')$$), '', 'a payload handler');
SELECT is(pg_temp.as_role('regress_worker', $$SELECT grownext.queue_handle('mail', 'work.handle_job(grownext.job)')$$), '', 'a job handler');
SELECT is(pg_temp.as_role('regress_worker', $$SELECT grownext.queue_handle('mail', $$ || quote_literal(f) || ')'), c, 'refused: ' || f)
  FROM (VALUES ('work.text(text)', '42P13'), ('work.returns(jsonb)', '42P13'), ('work.procedure(jsonb)', '42P13'),
               ('work.closed(jsonb)', '42501'), ('work.of_superuser(jsonb)', '42501'), ('pg_catalog.jsonb_typeof(jsonb)', '42P13'),
               ('pg_catalog.jsonb_strip_nulls(jsonb)', '42501')) AS v (f, c)
 WHERE to_regprocedure(f) IS NOT NULL;
SELECT is(pg_temp.as_role('regress_worker', $$SELECT grownext.queue_handle('other', 'work.handle(jsonb)')$$), '42501', 'the right is one queue''s');
SELECT is(pg_temp.as_role('regress_worker', $$SELECT grownext.queue_handle('mail', 'work.handle(jsonb)', run_as => 'regress_admin')$$), '42501', 'as no other role');
SELECT is(pg_temp.as_role('regress_worker', $$SELECT grownext.queue_handle('mail', 'work.handle(jsonb)', run_as => 'nobody_at_all')$$), '42704', 'nor one that is not there');
SELECT is(pg_temp.as_role('postgres', $$SELECT grownext.queue_handle('mail', 'work.of_superuser(jsonb)')$$), '42501', 'no superuser');
SELECT is(pg_temp.as_role('postgres', $$SELECT grownext.queue_handle('mail', 'work.handle(jsonb)', run_as => 'regress_worker')$$), '', 'who may SET ROLE may register for the role');
SELECT is(pg_temp.as_role('regress_worker', $$SELECT grownext.queue_handle('mail', 'work.handle(jsonb)', '{"x": 1}')$$), '22023', 'no unknown options');
SELECT is(pg_temp.as_role('regress_worker', $$SELECT grownext.queue_handle('mail', NULL)$$), '', 'a handler is taken back');
SELECT is((SELECT handler FROM grownext.queue WHERE queue = 'mail'), NULL, 'and gone');

-- Jobs ---------------------------------------------------------------------------------

CREATE TEMP TABLE job AS
SELECT grownext.enqueue('mail', '{"a": 1}', tenant_id => '33333333-3333-4333-8333-333333333333') AS own,
       grownext.enqueue('mail', '{"a": 2}', tenant_id => '44444444-4444-4444-8444-444444444444') AS foreign_one,
       grownext.enqueue('mail', '{"a": 3}') AS plain;
GRANT SELECT ON job TO PUBLIC;
-- a producer in the context of a tenant
CREATE FUNCTION pg_temp.in_tenant(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM grownext.act_as('ann', '33333333-3333-4333-8333-333333333333');
    RETURN pg_temp.as_role('regress_producer', statement);
END $$;
SELECT is(pg_temp.as_role('regress_service', 'SELECT (grownext.job_get(own)).state FROM job'), 'ready', 'a service sees a job');
SELECT is(pg_temp.as_role('regress_worker', 'SELECT (grownext.job_get(own)).state FROM job'), 'ready', 'so does who works the queue');
SELECT is(pg_temp.as_role('regress_producer', 'SELECT (grownext.job_get(own)).state FROM job'), NULL, 'a producer without the tenant does not');
SELECT is(pg_temp.as_role('regress_producer', 'SELECT grownext.job_cancel(own) FROM job'), 'false', 'nor cancels it');
SELECT is(pg_temp.as_role('regress_stranger', 'SELECT (grownext.job_get(own)).state FROM job'), '42501', 'a stranger asks nothing');
SELECT is(pg_temp.as_role('regress_service', 'SELECT (grownext.job_get(0)).state'), NULL, 'an unknown job is NULL');
SELECT is(pg_temp.in_tenant('SELECT (grownext.job_get(own)).state FROM job'), 'ready', 'in the tenant it does');
SELECT is(pg_temp.in_tenant('SELECT (grownext.job_get(foreign_one)).state FROM job'), NULL, 'but not another tenant''s');
SELECT is(pg_temp.in_tenant('SELECT (grownext.job_get(plain)).state FROM job'), NULL, 'and not one without tenant');
SELECT is(pg_temp.in_tenant('SELECT grownext.job_cancel(foreign_one) FROM job'), 'false', 'nor cancels one');
SELECT is(pg_temp.in_tenant('SELECT grownext.job_cancel(own) FROM job'), 'true', 'its own it cancels');
SELECT is(pg_temp.in_tenant($$SELECT (grownext.enqueue('mail') > 0)$$), 'true', 'a job takes its enqueuer''s context along');
SELECT is((SELECT claims ->> 'sub' || ' ' || tenant_id FROM _grownext.queue_job ORDER BY id DESC LIMIT 1), 'ann 33333333-3333-4333-8333-333333333333', 'its subject and tenant');
SELECT is(pg_temp.as_role('regress_producer', $$SELECT grownext.job_redrive('mail')$$), '42501', 'a producer redrives nothing');
SELECT is(pg_temp.as_role('regress_service', $$SELECT grownext.job_redrive('mail')$$), '0', 'a service does');
SELECT is(pg_temp.as_role('regress_producer', 'SELECT count(*) FROM grownext.dead_letter'), '42501', 'a producer reads no dead letters');
SELECT is(pg_temp.as_role('regress_monitor', 'SELECT count(*) FROM grownext.dead_letter'), '42501', 'nor does a monitor: they hold payloads');
SELECT is(pg_temp.as_role('regress_monitor', $$SELECT ready > 0 FROM grownext.queue_stats('mail')$$), 'true', 'a monitor reads figures');
SELECT is(pg_temp.as_role('regress_monitor', $$SELECT count(*) FROM grownext.queue WHERE queue IN ('mail', 'other')$$), '2', 'and definitions');
SELECT is(pg_temp.as_role('regress_monitor', $$SELECT count(*) FROM grownext.queue_history('mail')$$), '61', 'and the history, an hour by the minute')
 WHERE extract(second FROM now()) <> 0;
SELECT is(pg_temp.as_role('regress_producer', $$SELECT count(*) FROM grownext.queue_history('mail')$$), '42501', 'a producer does not');
SELECT throws_ok($$SELECT grownext.queue_history('none')$$, '42704', 'queue "none" does not exist', 'of a queue that there is');
SELECT throws_ok($$SELECT grownext.queue_history(NULL)$$, '22004', NULL, 'which is named');
SELECT throws_ok(format($$SELECT grownext.queue_history('mail', bucket => %L)$$, b), '22023', 'bucket must be whole minutes, from 1 minute to 90 days', 'not by ' || b)
  FROM unnest('{0,-1 minute,90 seconds,1 month,91 days,1000000 years}'::text[]) AS b;
SELECT throws_ok($$SELECT grownext.queue_history('mail', bucket => NULL)$$, '22004', NULL, 'nor by nothing');
SELECT throws_ok($$SELECT grownext.queue_history('mail', 'infinity')$$, '22023', NULL, 'not since infinity');
SELECT throws_ok($$SELECT grownext.queue_history('mail', '-infinity')$$, '22023', NULL, 'nor since for ever');
SELECT throws_ok($$SELECT grownext.queue_history('mail', now(), now() - interval '1 day')$$, '22023', NULL, 'nor backwards');
SELECT throws_ok($$SELECT grownext.queue_history('mail', now() - interval '10 days')$$, '54000', NULL, 'at most ten thousand buckets');
SELECT is((SELECT count(*) FROM grownext.queue_history('mail', now() - interval '10 days', bucket => '1 day')) IN (10, 11), true, 'ten days by the day');
SELECT lives_ok($$SELECT _grownext.queue_store_definition('sla', '{"sla": {"start_within": "5 seconds", "target": 0.99}}')$$, 'a queue with an SLA');
SELECT is((SELECT (sla_start_within, sla_target, sla_window)::text FROM grownext.queue WHERE queue = 'sla'), '(00:00:05,0.99,"1 day")', 'has its terms');
SELECT is((SELECT (sla_target, sla_attained)::text FROM grownext.queue_stats('sla')), '(0.99,)', 'and has attained nothing yet');
SELECT throws_ok(format($$SELECT grownext.queue_define('sla', jsonb_build_object('sla', %L::jsonb))$$, o), c, NULL, 'no SLA: ' || o)
  FROM (VALUES ('{}', '22023'), ('{"target": 0.9}', '22023'), ('{"start_within": "5 s", "target": 0.9, "within": "5 s"}', '22023'),
               ('{"start_within": "5 s", "target": 0}', '22023'), ('{"start_within": "5 s", "target": 1.1}', '22023'),
               ('{"start_within": "8 days", "target": 0.9}', '22023'), ('{"start_within": "0", "target": 0.9}', '22023'),
               ('{"start_within": "5 s", "target": "0.9"}', '22023'), ('{"start_within": "5 s", "target": 0.9, "window": "91 days"}', '22023'),
               ('{"start_within": "soon", "target": 0.9}', '22007'), ('"99 %"', '22023'), ('null', '22023')) AS v (o, c);

-- Histograms ---------------------------------------------------------------------------

SELECT is(_grownext.queue_histogram_add('[2:3]={1,2}', '[5:6]={3,4}'), '[2:6]={1,2,0,3,4}', 'histograms add up by bucket');
SELECT is((SELECT _grownext.queue_histogram_sum(h) FROM (VALUES ('[2:2]={1}'::bigint[]), (NULL), ('[2:2]={4}')) AS v (h)), '[2:2]={5}', 'any number of them');
SELECT is(_grownext.queue_percentile('[0:0]={10}', 0.5), 0.032::float8, 'a percentile is in milliseconds');
SELECT is(_grownext.queue_percentile('[0:1]={1,99}', 0.0)::numeric, 0::numeric, 'the least');
SELECT is(_grownext.queue_percentile('[1:1]={4}', 1), 0.072::float8, 'the most');
SELECT is(_grownext.queue_percentile('[1:2]={0,0}', 0.5), NULL, 'of nothing there is none');
SELECT throws_ok(format('SELECT _grownext.queue_percentile(%L, 0.5)', h), '22023', 'malformed histogram', 'refused: ' || h)
  FROM unnest(ARRAY['{}', '{NULL}', '{{1}}', '[-1:0]={1,1}', '[280:282]={1,1,1}']) AS h;

SELECT is(grownext.current_job(), NULL, 'there is no current job outside of one');

-- Revoked ------------------------------------------------------------------------------

SELECT is(pg_temp.as_role('regress_admin', $$SELECT grownext.queue_revoke('mail', 'regress_producer', 'enqueue')$$), '', 'an admin revokes');
SELECT is(pg_temp.as_role('regress_producer', $$SELECT grownext.enqueue('mail') > 0$$), '42501', 'the right is gone');
SELECT is(has_function_privilege('regress_producer', p.oid, 'EXECUTE'), false, 'so is EXECUTE on ' || p.proname)
  FROM pg_proc AS p WHERE p.pronamespace = 'grownext'::regnamespace AND p.proname IN ('enqueue', 'enqueue_many', 'job_get', 'job_cancel', 'queue_handle');
SELECT is(pg_temp.as_role('regress_admin', $$SELECT grownext.queue_grant('mail', 'grownext_service', 'work')$$), '', 'a right of grownext_service');
SELECT is(pg_temp.as_role('regress_admin', $$SELECT grownext.queue_revoke('mail', 'grownext_service', 'work')$$), '', 'can be revoked');
SELECT is(pg_temp.as_role('regress_service', $$SELECT grownext.enqueue('mail') > 0$$), 'true', 'without taking what it has anyway');

-- Time and retention ---------------------------------------------------------------------

SELECT is(pg_temp.as_role('regress_admin', $$SELECT grownext.queue_purge('mail') > 0$$), 'true', 'a queue is purged');
SELECT is((SELECT count(*) FROM _grownext.queue_job WHERE queue = 'mail'), 0::bigint, 'of all that waits');
SELECT is((SELECT state FROM grownext.job_get((SELECT own FROM job))), 'cancelled', 'outcomes stay');
SELECT lives_ok($$SELECT _grownext.queue_tick(now() + interval '23 h')$$, 'a pass before the retention is over');
SELECT is((SELECT state FROM grownext.job_get((SELECT own FROM job))), 'cancelled', 'keeps them');
SELECT lives_ok($$SELECT _grownext.queue_tick(now() + interval '25 h')$$, 'a pass after it');
SELECT is((SELECT state FROM grownext.job_get((SELECT own FROM job))), NULL, 'deletes them');
SELECT ok((SELECT enqueued_total > 5 FROM grownext.queue_stats('mail')), 'and totals still count them');
SELECT is(_grownext.queue_seconds('1 h'), 3600::float8, 'an interval in seconds');
SELECT is(_grownext.queue_seconds('soon'), NULL, 'nonsense is none');

-- Internal queues ----------------------------------------------------------------------

SELECT lives_ok($$SELECT _grownext.queue_define_internal('grownext.test', '_grownext.test', '{"max_attempts": 3}')$$, 'a component makes an internal queue');
SELECT throws_ok($$SELECT _grownext.queue_define_internal('mine', '_grownext.test')$$, '22023', NULL, 'under that name only');
SELECT ok(_grownext.queue_put_internal('grownext.test', '{"x": 1}', unique_key => 'x') > 0, 'and enqueues into it');
SELECT throws_ok($$SELECT _grownext.queue_put_internal('grownext.none', '{}')$$, '42704', NULL, 'an unknown one is an error');
SELECT is(pg_temp.as_role('regress_admin', $$SELECT grownext.job_cancel(max(id)) FROM generate_series(1, 1000) AS id$$), 'false', 'no caller cancels its jobs');
SELECT is(_grownext.queue_skip_pending(), 1::bigint, 'unfence can skip what waits');

SELECT * FROM finish();
ROLLBACK;
