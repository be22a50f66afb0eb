-- Jobs that wait for others, and batches: what is refused, and what becomes of who waits.
-- Races are test/isolation's. The pass of the scheduler is called here.
BEGIN;
SELECT * FROM no_plan();

CREATE ROLE regress_service LOGIN IN ROLE grownext_service;
CREATE ROLE regress_producer LOGIN;
CREATE ROLE regress_stranger LOGIN IN ROLE grownext_user;

\ir ../lib/as_role.psql

SELECT grownext.queue_define(q, o::jsonb)
  FROM (VALUES ('load', '{"max_attempts": 1}'), ('next', '{}'), ('anyway', '{"parent_failed": "run"}'),
               ('patient', '{"parent_failed": "wait"}'), ('report', '{}')) AS v (q, o);
SELECT count(*) > 0 FROM grownext.setup('https://id.example', '{https://api.example}');
SELECT grownext.queue_grant('load', 'regress_producer', 'enqueue');
SELECT grownext.queue_grant('next', 'regress_producer', 'enqueue');

CREATE TABLE named (name text PRIMARY KEY, id bigint, lease_id bigint);
CREATE FUNCTION pg_temp.put(name text, queue text, parents text[] DEFAULT NULL, batch text DEFAULT NULL, run_at timestamptz DEFAULT NULL)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO named SELECT name, grownext.enqueue(queue, jsonb_build_object('name', name), run_at => run_at,
        depends_on => (SELECT array_agg(n.id) FROM named AS n WHERE n.name = ANY (parents)),
        batch_id => (SELECT n.id FROM named AS n WHERE n.name = batch))
$$;
CREATE FUNCTION pg_temp.id(who text) RETURNS bigint LANGUAGE sql AS $$ SELECT n.id FROM named AS n WHERE n.name = who $$;
CREATE FUNCTION pg_temp.state(who text) RETURNS text LANGUAGE sql AS $$ SELECT state FROM grownext.job_get(pg_temp.id(who)) $$;
CREATE FUNCTION pg_temp.fetch(queue text) RETURNS void LANGUAGE sql AS $$
    UPDATE named AS n SET lease_id = f.lease_id FROM grownext.job_fetch(queue, 1000) AS f WHERE n.id = f.id
$$;
CREATE FUNCTION pg_temp.complete(who text) RETURNS text LANGUAGE sql AS $$
    SELECT grownext.job_complete(n.id, n.lease_id) FROM named AS n WHERE n.name = who
$$;
CREATE FUNCTION pg_temp.die(who text) RETURNS text LANGUAGE sql AS $$
    SELECT grownext.job_fail(n.id, n.lease_id, 'no', discard => true) FROM named AS n WHERE n.name = who
$$;
CREATE FUNCTION pg_temp.pass() RETURNS void LANGUAGE sql AS $$ SELECT _grownext.queue_tick(_grownext.core_now()) $$;

-- A job waits for all of its parents ------------------------------------------------------

SELECT pg_temp.put('a', 'load'), pg_temp.put('b', 'load');
SELECT pg_temp.put('c', 'next', '{a,b}');
SELECT pg_temp.put('later', 'next', '{a}', run_at => _grownext.core_now() + interval '1 hour');
SELECT is(pg_temp.state('c'), 'waiting', 'a job that depends on others waits');
SELECT is((SELECT count(*) FROM grownext.job_fetch('next')), 0::bigint, 'nobody gets it');
SELECT pg_temp.pass();
SELECT is(pg_temp.state('c'), 'waiting', 'a pass finds its parents at work');
SELECT is((SELECT count(*) FROM _grownext.queue_check), 0::bigint, 'and has no need to look again');
SELECT is((SELECT (s.waiting, s.scheduled, s.ready) FROM grownext.queue_stats('next') AS s), (2::bigint, 0::bigint, 0::bigint), 'queue_stats counts it');
SELECT pg_temp.fetch('load');
SELECT is(pg_temp.complete('a'), 'succeeded', 'the first parent succeeds');
SELECT pg_temp.pass();
SELECT is(pg_temp.state('c'), 'waiting', 'one parent is not enough');
SELECT is(pg_temp.state('later'), 'scheduled', 'a job that waits no longer waits for its time');
SELECT is(pg_temp.complete('b'), 'succeeded', 'the second succeeds');
SELECT pg_temp.pass();
SELECT is(pg_temp.state('c'), 'ready', 'all parents are');
SELECT is((SELECT count(*) FROM _grownext.queue_dependency), 0::bigint, 'no dependency is left');
SELECT pg_temp.put('d', 'next', '{a,b}');
SELECT is(pg_temp.state('d'), 'ready', 'parents that have succeeded hold up nobody');
SELECT is((SELECT state FROM grownext.job_get(grownext.enqueue('next', depends_on => '{}'))), 'ready', 'an empty list neither');
SELECT is((SELECT state FROM grownext.job_get(grownext.enqueue('next', depends_on => ARRAY[pg_temp.id('d'), pg_temp.id('d')]))), 'waiting', 'a parent may be named twice');

-- What is refused --------------------------------------------------------------------------

SELECT pg_temp.put('dying', 'load');
SELECT pg_temp.fetch('load');
SELECT is(pg_temp.die('dying'), 'dead', 'a job dies');
SELECT pg_temp.put('cancelled', 'load');
SELECT is(grownext.job_cancel(pg_temp.id('cancelled')), true, 'one is cancelled');
SELECT is(pg_temp.as_role('regress_service', s), c, c || ': ' || s)
  FROM (VALUES (format('SELECT grownext.enqueue(''next'', depends_on => ARRAY[%s])', pg_temp.id('dying')), '55000'),
               (format('SELECT grownext.enqueue(''next'', depends_on => ARRAY[%s])', pg_temp.id('cancelled')), '55000'),
               ('SELECT grownext.enqueue(''next'', depends_on => ARRAY[-1])', '42704'),
               ('SELECT grownext.enqueue(''next'', depends_on => ARRAY[9223372036854775807])', '42704'),
               ('SELECT grownext.enqueue(''next'', depends_on => ARRAY[NULL::bigint])', '22004'),
               ('SELECT grownext.enqueue(''next'', depends_on => ARRAY[ARRAY[1, 2], ARRAY[3, 4]])', '22023'),
               ('SELECT grownext.enqueue(''next'', depends_on => array_fill(1::bigint, ARRAY[1001]))', '54000'),
               ('SELECT grownext.enqueue(''next'', unique_key => ''r'', unique_mode => ''replace'', depends_on => ''{}'')', '22023'),
               ('SELECT grownext.enqueue(''next'', unique_key => ''r'', unique_mode => ''replace'', batch_id => 1)', '22023'),
               ('SELECT grownext.enqueue(''next'', batch_id => -1)', '42704'),
               ('SELECT grownext.batch_create(NULL)', '22004'), ('SELECT grownext.batch_create(''report'', NULL)', '22004'),
               ('SELECT grownext.batch_create(''report'', ''[]'')', '22023'), ('SELECT grownext.batch_create(''report'', ''1'')', '22023'),
               ('SELECT grownext.batch_create(''none'')', '42704'), ('SELECT grownext.batch_create(''grownext.billing'')', '42501')) AS v (s, c);
SELECT throws_ok($$SELECT grownext.queue_define('next', '{"parent_failed": "never"}')$$, '22023', NULL, 'parent_failed has three values');

-- Rights: who depends on a job must see it -------------------------------------------------

SELECT pg_temp.put('foreign', 'load');
SELECT is(pg_temp.as_role('regress_producer', format('SELECT grownext.enqueue(''next'', depends_on => ARRAY[%s])', pg_temp.id('foreign'))), '42704',
          'a producer without a tenant depends on nobody''s job');
SELECT is(pg_temp.as_role('regress_stranger', s), '42501', 'a stranger may not: ' || s)
  FROM unnest(ARRAY['SELECT grownext.batch_create(''report'')', 'SELECT grownext.enqueue(''next'')']) AS s;
SELECT is(pg_temp.as_role('regress_producer', 'SELECT grownext.batch_create(''report'')'), '42501', 'a batch needs the right to enqueue its callback');
SELECT is(pg_temp.as_role('regress_producer', 'SELECT grownext.batch_create(''load'') > 0'), 'true', 'and no more');
INSERT INTO named SELECT 'theirs', grownext.batch_create('report');
SELECT is(pg_temp.as_role('regress_producer', format('SELECT grownext.enqueue(''next'', batch_id => %s)', pg_temp.id('theirs'))), '42704',
          'a batch is for those who may enqueue its callback');
SELECT is(pg_temp.as_role('regress_producer', format('WITH b AS (SELECT grownext.batch_create(''load'') AS id OFFSET 0) SELECT grownext.enqueue(''next'', batch_id => b.id) > 0 FROM b')), 'true',
          'who may, adds to it');

-- A parent that fails for good --------------------------------------------------------------

DELETE FROM named;
SELECT pg_temp.put('p', 'load');
SELECT pg_temp.put('cancel', 'next', '{p}'), pg_temp.put('run', 'anyway', '{p}'), pg_temp.put('wait', 'patient', '{p}');
SELECT pg_temp.put('grandchild', 'next', '{cancel}');
SELECT pg_temp.fetch('load');
SELECT is(pg_temp.die('p'), 'dead', 'a parent dies');
SELECT pg_temp.pass(), pg_temp.pass();
SELECT is(pg_temp.state('cancel'), 'cancelled', 'what depends on it is cancelled');
SELECT is((SELECT last_error FROM grownext.job_get(pg_temp.id('cancel'))), format('job %s, which it depends on, is dead', pg_temp.id('p')), 'the reason says why');
SELECT is(pg_temp.state('grandchild'), 'cancelled', 'and what depends on that');
SELECT is(pg_temp.state('run'), 'ready', 'parent_failed run: it runs');
SELECT is(pg_temp.state('wait'), 'waiting', 'parent_failed wait: it waits');
SELECT is(grownext.job_redrive('load', ARRAY[pg_temp.id('p')]), 1::bigint, 'for the parent to be redriven');
SELECT pg_temp.fetch('load');
SELECT is(pg_temp.complete('p'), 'succeeded', 'and to succeed');
SELECT pg_temp.pass();
SELECT is(pg_temp.state('wait'), 'ready', 'then it runs');
SELECT is(pg_temp.state('cancel'), 'cancelled', 'what was cancelled stays so');

SELECT pg_temp.put('p2', 'load');
SELECT pg_temp.put('wait 2', 'patient', '{p2}'), pg_temp.put('purged''s', 'next', '{p2}');
SELECT pg_temp.fetch('load');
SELECT pg_temp.die('p2');
SELECT pg_temp.pass();
SELECT is(pg_temp.state('wait 2'), 'waiting', 'one waits for a dead letter');
UPDATE _grownext.queue_dead SET died_at = died_at - interval '1 year' WHERE id = pg_temp.id('p2');
SELECT pg_temp.pass(), pg_temp.pass();
SELECT is(pg_temp.state('wait 2'), 'cancelled', 'until its retention is over');
SELECT is((SELECT last_error FROM grownext.job_get(pg_temp.id('wait 2'))), format('job %s, which it depends on, was deleted', pg_temp.id('p2')), 'and says so');

SELECT pg_temp.put('p3', 'load');
SELECT pg_temp.put('child 3', 'next', '{p3}'), pg_temp.put('own 3', 'next', '{p3}');
SELECT is(grownext.job_cancel(pg_temp.id('own 3')), true, 'a job that waits can be cancelled');
SELECT is((SELECT count(*) FROM _grownext.queue_dependency WHERE child_id = pg_temp.id('own 3')), 0::bigint, 'and waits for nothing more');
SELECT is(grownext.queue_purge('load') > 0, true, 'a purge deletes a parent');
SELECT pg_temp.pass();
SELECT is(pg_temp.state('child 3'), 'cancelled', 'what depends on it is cancelled');

-- A unique job that waits --------------------------------------------------------------------

SELECT pg_temp.put('p4', 'load');
INSERT INTO named SELECT 'unique', grownext.enqueue('next', '{"x": 1}', unique_key => 'u', depends_on => ARRAY[pg_temp.id('p4')]);
SELECT is(grownext.enqueue('next', '{"x": 2}', unique_key => 'u'), pg_temp.id('unique'), 'a unique job that waits is kept');
SELECT is(grownext.enqueue('next', '{"x": 3}', unique_key => 'u', unique_mode => 'replace'), pg_temp.id('unique'), 'or replaced');
SELECT is(pg_temp.state('unique'), 'waiting', 'and waits on');
SELECT pg_temp.fetch('load');
SELECT pg_temp.complete('p4');
SELECT pg_temp.pass();
SELECT is((SELECT payload FROM grownext.job_fetch('next', 1000) WHERE id = pg_temp.id('unique')), '{"x": 3}', 'then its new content runs');

-- Batches --------------------------------------------------------------------------------------

INSERT INTO named SELECT 'batch', grownext.batch_create('report', '{"for": "ada"}');
SELECT is(pg_temp.state('batch'), 'waiting', 'the callback waits');
SELECT is(pg_temp.as_role('regress_service', format('SELECT grownext.enqueue(''next'', depends_on => ARRAY[%s])', pg_temp.id('batch'))), '55000',
          'nobody depends on it, or two jobs could wait for each other');
SELECT pg_temp.put(n, 'load', NULL, 'batch') FROM unnest('{one,two,three,four}'::text[]) AS n;
SELECT pg_temp.pass();
SELECT pg_temp.fetch('load');
SELECT is(pg_temp.complete('one'), 'succeeded', 'a job of the batch succeeds');
SELECT is(pg_temp.die('two'), 'dead', 'one dies');
SELECT pg_temp.pass();
SELECT is(pg_temp.complete('three'), 'succeeded', 'one succeeds after a pass');
SELECT pg_temp.put('five', 'next', '{four}', 'batch');
SELECT is(grownext.job_cancel(pg_temp.id('four')), true, 'the last is to be cancelled');
SELECT is(pg_temp.complete('four'), 'cancelled', 'and is');
SELECT pg_temp.pass();
SELECT is(pg_temp.state('batch'), 'ready', 'when all are over, the callback runs');
SELECT is((SELECT payload FROM grownext.job_fetch('report', 1000) WHERE id = pg_temp.id('batch')),
          jsonb_build_object('for', 'ada', 'batch', jsonb_build_object('id', pg_temp.id('batch'), 'succeeded', 2, 'dead', 1, 'cancelled', 2)),
          'its payload has the counts');
SELECT is(pg_temp.as_role('regress_service', format('SELECT grownext.enqueue(''next'', batch_id => %s)', pg_temp.id('batch'))), '42704', 'the batch is closed');
SELECT is(grownext.job_redrive('load', ARRAY[pg_temp.id('two')]), 1::bigint, 'a dead job of a batch that is over can be redriven');
SELECT pg_temp.fetch('load');
SELECT is(pg_temp.complete('two'), 'succeeded', 'and tells nobody');
INSERT INTO named SELECT 'empty', grownext.batch_create('report');
SELECT pg_temp.pass();
SELECT is(pg_temp.state('empty'), 'ready', 'a batch without jobs is over at once');
INSERT INTO named SELECT 'given up', grownext.batch_create('report');
SELECT pg_temp.put('six', 'load', NULL, 'given up');
SELECT is(grownext.job_cancel(pg_temp.id('given up')), true, 'a callback can be cancelled');
SELECT pg_temp.fetch('load');
SELECT is(pg_temp.complete('six'), 'succeeded', 'the jobs go on');
SELECT pg_temp.pass();
SELECT is(pg_temp.state('given up'), 'cancelled', 'and nobody is called');
SELECT grownext.queue_purge(q) >= 0 FROM unnest('{load,next,report,anyway,patient}'::text[]) AS q;
SELECT pg_temp.pass(), pg_temp.pass();
SELECT is((SELECT count(*) FROM _grownext.queue_batch AS b WHERE NOT EXISTS (SELECT FROM _grownext.queue_job AS j WHERE j.batch_id = b.id)), 0::bigint, 'no batch is left without a job');
SELECT is((SELECT count(*) FROM _grownext.queue_batch_outcome), 0::bigint, 'no outcome that was not counted');
SELECT is((SELECT count(*) FROM _grownext.queue_dependency), 0::bigint, 'no dependency');
SELECT is((SELECT count(*) FROM _grownext.queue_check), 0::bigint, 'and nothing to look at');

-- The context stays until the transaction ends, so tenants come last -------------------------

INSERT INTO named SELECT 'tenant''s', grownext.batch_create('load') FROM (SELECT grownext.act_as('5a1f0d0e-0000-4000-8000-00000000ada0', '7d6f3f0e-6b0a-4c6e-9a57-0d6c3a5f1a11') OFFSET 0) AS x;
INSERT INTO named SELECT 'tenant''s job', grownext.enqueue('load');
SELECT is(pg_temp.as_role('regress_producer', format('SELECT grownext.enqueue(''next'', depends_on => ARRAY[%s]) > 0', pg_temp.id('tenant''s job'))), 'true',
          'a tenant''s job may be depended on by that tenant');
SELECT grownext.act_as('5a1f0d0e-0000-4000-8000-00000000ada0', '11111111-6b0a-4c6e-9a57-0d6c3a5f1a11');
SELECT is(pg_temp.as_role('regress_producer', format('SELECT grownext.enqueue(''next'', depends_on => ARRAY[%s]) > 0', pg_temp.id('tenant''s job'))), '42704',
          'by no other');
SELECT is(pg_temp.as_role('regress_producer', format('SELECT grownext.enqueue(''next'', batch_id => %s)', pg_temp.id('tenant''s'))), '42704',
          'a tenant''s batch is for no other either');

SELECT * FROM finish();
ROLLBACK;
