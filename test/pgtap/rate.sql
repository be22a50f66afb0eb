-- Rate limits and failed attempts: exact to the microsecond, beside the transaction.
BEGIN;
SELECT * FROM no_plan();
SET LOCAL timezone = 'UTC';

CREATE FUNCTION clock(at text) RETURNS void LANGUAGE sql AS $$ SELECT set_config('grownext.test_clock', '2030-01-01 ' || at || '+00', true) $$;
CREATE FUNCTION take(key text, burst bigint, period interval, cost bigint DEFAULT 1) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' ', r.allowed, r.burst, r.remaining, r.retry_at::time, r.reset_at::time) FROM _grownext.core_rate_take('test', key, burst, period, cost) AS r;
$$;
CREATE FUNCTION peek(key text, burst bigint, period interval, cost bigint DEFAULT 1) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' ', r.allowed, r.burst, r.remaining, r.retry_at::time, r.reset_at::time) FROM _grownext.core_rate_peek('test', key, burst, period, cost) AS r;
$$;

-- A bucket ----------------------------------------------------------------------

SELECT clock('00:00:00');
SELECT is(peek('a', 3, '10 seconds'), 't 3 3 00:00:00 00:00:00', 'an untouched bucket is full');
SELECT is(take('a', 3, '10 seconds'), 't 3 2 00:00:00 00:00:03.333334', 'a unit comes back after a third of the period, rounded up to the microsecond');
SELECT is(take('a', 3, '10 seconds', 2), 't 3 0 00:00:00 00:00:10', 'several units at once; three make a whole period');
SELECT is(take('a', 3, '10 seconds'), 'f 3 0 00:00:03.333334 00:00:10', 'nothing is left, and it says when there will be');
SELECT is(take('a', 3, '10 seconds', 2), 'f 3 0 00:00:06.666667 00:00:10', 'two take longer');
SELECT is(take('a', 3, '10 seconds', 0), 't 3 0 00:00:00 00:00:10', 'a cost of nothing is always allowed');
SELECT clock('00:00:03.333333');
SELECT is(take('a', 3, '10 seconds'), 'f 3 0 00:00:03.333334 00:00:10', 'a microsecond before, it is refused');
SELECT clock('00:00:03.333334');
SELECT is(take('a', 3, '10 seconds'), 't 3 0 00:00:03.333334 00:00:13.333334', 'at the time that it named, it is allowed');
SELECT is(peek('a', 3, '10 seconds'), 'f 3 0 00:00:06.666667 00:00:13.333334', 'what was rounded is not lost: the next one is due where it would have been');
SELECT clock('00:10:00');
SELECT is(take('a', 3, '10 seconds'), 't 3 2 00:10:00 00:10:03.333334', 'a long rest fills the bucket, and no more than that');

SELECT is((_grownext.core_rate_take('test', 'a', 3, '10 seconds', 4)).retry_at, 'infinity', 'more than the burst will never be allowed');
SELECT is(peek('a', 3, '10 seconds'), 't 3 2 00:10:00 00:10:03.333334', 'and takes nothing');
SELECT is((SELECT count(*) FROM generate_series(1, 100) WHERE (_grownext.core_rate_take('test', 'b', 7, '1 hour')).allowed), 7::bigint, 'of a hundred calls exactly the burst');

-- one microsecond pays one unit of the largest burst that fits
SELECT is((SELECT concat_ws(' ', r.allowed, r.remaining) FROM _grownext.core_rate_take('test', 'c', 9223372036854775807, '1 microsecond', 9223372036854775807) AS r), 't 0', 'the largest burst');
SELECT is((SELECT concat_ws(' ', r.allowed, r.remaining) FROM _grownext.core_rate_take('test', 'd', 291671, '366 days') AS r), 't 291670', 'the longest period');

-- Keys and scopes ----------------------------------------------------------------

SELECT is((SELECT remaining FROM _grownext.core_rate_take('test', 'e', 2, '1 hour', 2)), 0::bigint, 'a bucket is emptied');
SELECT is((SELECT remaining FROM _grownext.core_rate_peek('test', 'E', 2, '1 hour')), 2::bigint, 'another key has its own');
SELECT is((SELECT remaining FROM _grownext.core_rate_peek('teste', '', 2, '1 hour')), 2::bigint, 'so has another scope, however it is cut');
SELECT is((SELECT remaining FROM _grownext.core_rate_peek('test', 'e', 2, '1 hour')), 0::bigint, 'while the first stays empty');
SELECT is((SELECT remaining FROM _grownext.core_rate_take('test', repeat('x', 100000), 2, '1 hour')), 1::bigint, 'a key may be long');
SELECT is((SELECT remaining FROM _grownext.core_rate_take('', '', 2, '1 hour')), 1::bigint, 'or empty');
SELECT ok(_grownext.core_rate_clear('test', 'e'), 'a bucket is filled up by hand');
SELECT ok(NOT _grownext.core_rate_clear('test', 'e'), 'and is gone then');
SELECT is((SELECT remaining FROM _grownext.core_rate_peek('test', 'e', 2, '1 hour')), 2::bigint, 'so that all is left');

-- Other terms keep what was taken ----------------------------------------------------

SELECT is((SELECT remaining FROM _grownext.core_rate_take('test', 'f', 10, '1 minute', 10)), 0::bigint, 'ten of ten are taken');
SELECT is((SELECT remaining FROM _grownext.core_rate_peek('test', 'f', 100, '1 hour')), 90::bigint, 'of a hundred an hour ten are taken then');
SELECT is((SELECT remaining FROM _grownext.core_rate_take('test', 'f', 100, '1 hour', 0)), 90::bigint, 'asking changes nothing');
SELECT is((SELECT remaining FROM _grownext.core_rate_take('test', 'f', 5, '1 hour', 0)), 0::bigint, 'a smaller bucket is empty, not overdrawn');

-- A clock that is set back -------------------------------------------------------------

SELECT clock('02:00:00');
SELECT is(take('g', 2, '1 hour', 2), 't 2 0 02:00:00 03:00:00', 'taken at two');
SELECT clock('01:00:00');
SELECT is(take('g', 2, '1 hour'), 'f 2 0 01:30:00 02:00:00', 'an hour earlier the debt is the same, and is paid off from there');
SELECT is((SELECT allowed FROM _grownext.core_rate_peek('test', 'g', 2, '1 hour', 2)), false, 'nobody gains by it');

-- Rollback ---------------------------------------------------------------------------

SAVEPOINT s;
SELECT is((SELECT remaining FROM _grownext.core_rate_take('test', 'h', 5, '1 hour')), 4::bigint, 'taken in a savepoint');
ROLLBACK TO s;
SELECT is((SELECT remaining FROM _grownext.core_rate_peek('test', 'h', 5, '1 hour')), 4::bigint, 'and after it rolled back');
DO $$
BEGIN
    PERFORM _grownext.core_failure_note('test', 'ann');
    RAISE EXCEPTION 'no';
EXCEPTION WHEN raise_exception THEN NULL;
END
$$;
SELECT is((SELECT remaining FROM _grownext.core_failure_check('test', 'ann')), 9::bigint, 'a failed attempt stays counted when the function raises');

-- Failed attempts ------------------------------------------------------------------------

SELECT clock('05:00:00');
SELECT is((SELECT count(*) FROM generate_series(1, 20) WHERE (_grownext.core_failure_note('test', 'bob')).allowed), 10::bigint, 'ten failures are within the limit');
SELECT is((SELECT concat_ws(' ', r.allowed, r.retry_at::time) FROM _grownext.core_failure_check('test', 'bob') AS r), 'f 05:01:30', 'the next attempt waits for a tenth of the period');
SELECT ok((_grownext.core_failure_check('test', 'cid')).allowed, 'nobody else does');
SELECT clock('05:01:30');
SELECT ok((_grownext.core_failure_check('test', 'bob')).allowed, 'then there is one');
SELECT _grownext.core_failure_clear('test', 'bob');
SELECT is((SELECT remaining FROM _grownext.core_failure_check('test', 'bob')), 10::bigint, 'a success forgets them all');

-- Refusals -------------------------------------------------------------------------------

SELECT throws_ok(format('SELECT _grownext.core_rate_take(%s)', arguments), '22023', 'invalid terms of a rate limit', arguments)
  FROM unnest(ARRAY[
    $$'test', 'x', 0, '1 second'$$, $$'test', 'x', -1, '1 second'$$, $$'test', 'x', 1, '0 seconds'$$, $$'test', 'x', 1, '-1 second'$$,
    $$'test', 'x', 1, '1 second', -1$$, $$'test', 'x', 1, '367 days'$$, $$'test', 'x', 1, '178000000 years'$$,
    $$'test', 'x', 9223372036854775807, '2 microseconds'$$, $$'test', 'x', 1, '1 day -25 hours'$$]) AS arguments;
SELECT throws_ok(format('SELECT _grownext.core_rate_take(%s)', arguments), '22004', 'no argument of a rate limit may be null', arguments)
  FROM unnest(ARRAY[
    $$NULL, 'x', 1, '1 second'$$, $$'test', NULL, 1, '1 second'$$, $$'test', 'x', NULL, '1 second'$$, $$'test', 'x', 1, NULL$$,
    $$'test', 'x', 1, '1 second', NULL$$]) AS arguments;
SELECT throws_ok('SELECT _grownext.core_failure_note(NULL, ''x'')', '22004', NULL, 'no scope');
SELECT throws_ok('SELECT _grownext.core_failure_check(''x'', NULL)', '22004', NULL, 'no key');

-- Nobody outside may spend or clear ---------------------------------------------------------

SELECT is_empty($$
    SELECT p.proname, r.rolname FROM pg_proc AS p, pg_roles AS r
     WHERE p.pronamespace = '_grownext'::regnamespace AND p.proname ~ '^core_(rate|failure)_'
       AND r.rolname ~ '^grownext_' AND r.rolname <> 'grownext_owner' AND has_function_privilege(r.oid, p.oid, 'EXECUTE')$$,
    'no role may call any of it');
SELECT is((SELECT state FROM grownext.status() WHERE component = 'core' AND item = 'rate limits'), 'ok', 'status is content');

SELECT * FROM finish();
ROLLBACK;
