-- Rate limits: jobs of a queue that begin in a time. The clock is replaced.
BEGIN;
SELECT * FROM no_plan();

SELECT count(*) > 0 FROM grownext.setup('https://id.example', '{https://api.example}');

SELECT throws_ok(format('SELECT grownext.queue_define(%L, jsonb_build_object(%L, %L))', 'q', 'rate_limit', r), '22023', NULL, 'no rate: ' || r)
  FROM unnest(ARRAY['', '/', '10', '10/', '/second', 'x/second', '10/x', '0/second', '-1/second', '1.5/second', '1000001/second',
                    '99999999999999999999/second', '1/0 seconds', '1/0.0001 s', '1/2 days', '1/-1 second', '1/infinity', '1/second/second']) AS r;
SELECT throws_ok($$SELECT grownext.queue_define('q', '{"rate_limit": 100}')$$, '22023', NULL, 'a number is no rate');
SELECT lives_ok(format('SELECT grownext.queue_define(%L, jsonb_build_object(%L, %L))', 'q', 'rate_limit', r), 'a rate: ' || r)
  FROM unnest(ARRAY['1/second', '1000000/1 day', ' 10 / 5 minutes ', '5/0.5 s', '1/ms', '1/hour']) AS r;
SELECT grownext.queue_define('q', '{"rate_limit": "3/minute"}');
SELECT is((SELECT (q.rate_count, q.rate_period) FROM grownext.queue AS q WHERE q.queue = 'q'), (3, interval '1 minute'), 'the view shows the limit');

-- weights
SELECT throws_ok(format('SELECT grownext.queue_define(%L, jsonb_build_object(%L, %s))', 'w', 'weight', w), '22023', NULL, 'no weight: ' || w)
  FROM unnest(ARRAY['0', '-1', '101', quote_literal('5')]) AS w;
SELECT grownext.queue_define('w');
SELECT is((SELECT q.weight FROM grownext.queue AS q WHERE q.queue = 'w'), 1, 'a weight of 1, unless one is given');
SELECT grownext.queue_define('w', '{"weight": 100}');
SELECT is((SELECT q.weight FROM grownext.queue AS q WHERE q.queue = 'w'), 100, 'the view shows the weight');

SET LOCAL grownext.test_clock = '2030-01-01 00:00:00+00';
SELECT cardinality(grownext.enqueue_many('q', array_fill('{}'::jsonb, ARRAY[20])));
SELECT is(_grownext.queue_throttled(), NULL, 'who may begin is woken: he will ask for the next pass');
SELECT is((SELECT count(*) FROM grownext.job_fetch('q', 2)), 2::bigint, 'two begin');
SELECT is((SELECT count(*) FROM grownext.job_fetch('q', 10)), 1::bigint, 'then one, whatever is asked for');
SELECT is((SELECT count(*) FROM grownext.job_fetch('q', 10)), 0::bigint, 'then none');
SELECT is(_grownext.queue_throttled(), '2030-01-01 00:00:20+00'::timestamptz, 'the pass knows when the next may');
SET LOCAL grownext.test_clock = '2030-01-01 00:00:19.9+00';
SELECT is((SELECT count(*) FROM grownext.job_fetch('q', 10)), 0::bigint, 'not before');
SET LOCAL grownext.test_clock = '2030-01-01 00:00:20+00';
SAVEPOINT before;
SELECT count(*) FROM grownext.job_fetch('q', 10);
ROLLBACK TO before;
SELECT is((SELECT count(*) FROM grownext.job_fetch('q', 10)), 0::bigint, 'a fetch that rolls back has begun its job');
SET LOCAL grownext.test_clock = '2030-01-01 01:00:00+00';
SELECT is((SELECT count(*) FROM grownext.job_fetch('q', 10)), 3::bigint, 'a quiet hour saves up no more than the limit');
SELECT grownext.queue_define('empty', '{"rate_limit": "2/minute"}');
SELECT is((SELECT count(*) FROM grownext.job_fetch('empty', 10)), 0::bigint, 'a fetch that finds nothing') FROM generate_series(1, 3);
SELECT count(grownext.enqueue('empty')) FROM generate_series(1, 3);
SELECT is((SELECT count(*) FROM grownext.job_fetch('empty', 10)), 2::bigint, 'costs nothing');
SELECT grownext.queue_define('empty');
SELECT is((SELECT count(*) FROM grownext.job_fetch('empty', 10)), 1::bigint, 'a limit that is taken back holds up nobody');
SELECT grownext.queue_purge('q') > 0;
SELECT is(_grownext.queue_throttled(), NULL, 'nobody waits for a token in an empty queue');

SELECT * FROM finish();
ROLLBACK;
