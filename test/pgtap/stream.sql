-- Streams: what may be called by whom, what is refused, order, positions, replay, retention
-- and figures. Races are test/isolation's, crashes and copies test/t's.
BEGIN;
SELECT * FROM no_plan();

CREATE ROLE regress_admin LOGIN IN ROLE grownext_admin;
CREATE ROLE regress_service LOGIN IN ROLE grownext_service;
CREATE ROLE regress_monitor LOGIN IN ROLE grownext_monitor;
CREATE ROLE regress_writer LOGIN;
CREATE ROLE regress_reader LOGIN;
CREATE ROLE regress_stranger LOGIN IN ROLE grownext_user;

\ir ../lib/as_role.psql

-- what a consumer gets: payloads in the order of their positions
CREATE FUNCTION pg_temp.entries(stream text, consumer text, count int DEFAULT 100) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(r.payload #>> '{}', ' ' ORDER BY r.ordinality)
      FROM ROWS FROM (grownext.stream_read(entries.stream, entries.consumer, entries.count)) WITH ORDINALITY AS r
$$;
-- acknowledges what was read
CREATE FUNCTION pg_temp.take(stream text, consumer text, count int DEFAULT 100) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    got text;
    last bigint;
BEGIN
    SELECT string_agg(r.payload #>> '{}', ' ' ORDER BY r.position), max(r.position) INTO got, last
      FROM grownext.stream_read(take.stream, take.consumer, take.count) AS r;
    IF last IS NOT NULL THEN
        PERFORM grownext.stream_ack(take.stream, take.consumer, last);
    END IF;
    RETURN got;
END $$;

-- the SQLSTATE of a statement in a transaction that is read-only
CREATE FUNCTION pg_temp.read_only(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('transaction_read_only', 'on', true);
    EXECUTE statement;
    RETURN 'it went through';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;

-- Definitions ----------------------------------------------------------------------------

SELECT is(pg_temp.as_role('regress_admin', $$SELECT grownext.stream_define('orders')$$), '', 'an admin defines a stream');
SELECT is(pg_temp.as_role('regress_admin', $$SELECT grownext.stream_define('orders')$$), '', 'once more');
SELECT is(pg_temp.as_role(r, $$SELECT grownext.stream_define('orders')$$), '42501', r || ' does not')
  FROM unnest('{regress_service,regress_monitor,regress_writer,regress_stranger}'::name[]) AS r;
SELECT is((SELECT concat_ws(' ', retention, max_bytes) FROM grownext.stream WHERE stream = 'orders'), '7 days', 'with the defaults');
SELECT lives_ok($$SELECT grownext.stream_define('orders', '{"retention": "1 hour", "max_bytes": 100000}')$$, 'with others');
SELECT is((SELECT concat_ws(' ', retention, max_bytes) FROM grownext.stream WHERE stream = 'orders'), '01:00:00 100000', 'they are kept');
SELECT lives_ok($$SELECT grownext.stream_define('kept', '{"retention": null}')$$, 'one that keeps everything');
SELECT is(pg_temp.as_role('regress_admin', s), c, c || ': ' || s)
  FROM (VALUES ($$SELECT grownext.stream_define(NULL)$$, '22004'), ($$SELECT grownext.stream_define('')$$, '22023'),
               ($$SELECT grownext.stream_define(' x')$$, '22023'), ($$SELECT grownext.stream_define(repeat('x', 101))$$, '22023'),
               ($$SELECT grownext.stream_define('grownext.x')$$, '42501'), ($$SELECT grownext.stream_define('x', NULL)$$, '22023'),
               ($$SELECT grownext.stream_define('x', '[]')$$, '22023'), ($$SELECT grownext.stream_define('x', '{"partitions": 4}')$$, '22023'),
               ($$SELECT grownext.stream_define('x', '{"retention": 7}')$$, '22023'), ($$SELECT grownext.stream_define('x', '{"retention": "soon"}')$$, '22023'),
               ($$SELECT grownext.stream_define('x', '{"retention": "0"}')$$, '22023'), ($$SELECT grownext.stream_define('x', '{"retention": "-1 day"}')$$, '22023'),
               ($$SELECT grownext.stream_define('x', '{"retention": "200 years"}')$$, '22023'),
               ($$SELECT grownext.stream_define('x', '{"max_bytes": 0}')$$, '22023'), ($$SELECT grownext.stream_define('x', '{"max_bytes": 1.5}')$$, '22023'),
               ($$SELECT grownext.stream_define('x', '{"max_bytes": 1e30}')$$, '22023'), ($$SELECT grownext.stream_define('x', '{"max_bytes": "1"}')$$, '22023'),
               ($$SELECT grownext.stream_define('x', '{"max_bytes": 1000, "retention": null}')$$, '22023'),
               ($$SELECT grownext.stream_drop(NULL)$$, '22004'), ($$SELECT grownext.stream_drop('none')$$, '42704'), ($$SELECT grownext.stream_drop('grownext.x')$$, '42501'),
               ($$SELECT grownext.stream_grant('orders', 'regress_writer', 'write')$$, '22023'), ($$SELECT grownext.stream_grant('orders', 'regress_writer', NULL)$$, '22023'),
               ($$SELECT grownext.stream_grant('orders', 'regress_none', 'read')$$, '42704'), ($$SELECT grownext.stream_grant('orders', NULL, 'read')$$, '42704'),
               ($$SELECT grownext.stream_grant('none', 'regress_writer', 'read')$$, '42704'), ($$SELECT grownext.stream_revoke('none', 'regress_writer', 'read')$$, '42704')) AS v (s, c);

-- Nothing is read where nothing may act ---------------------------------------------------

SELECT throws_ok($$SELECT grownext.stream_read('orders', 'mail')$$, 'NX003', NULL, 'a database that was not set up hands out nothing');
SELECT count(*) > 0 FROM grownext.setup('https://id.example', '{https://api.example}');
SELECT grownext.fence('test');
SELECT throws_ok($$SELECT grownext.stream_read('orders', 'mail')$$, 'NX002', NULL, 'nor does one that is fenced');
SELECT grownext.unfence('test');

-- Rights ---------------------------------------------------------------------------------

SELECT lives_ok($$SELECT grownext.stream_grant('orders', 'regress_writer', 'append')$$, 'a right to append');
SELECT lives_ok($$SELECT grownext.stream_grant('orders', 'regress_reader', 'read'), grownext.stream_grant('orders', 'regress_reader', 'read')$$, 'a right to read, twice');
SELECT is(pg_temp.as_role(r, s), c, format('%s: %s', r, s))
  FROM (VALUES ('regress_writer', $$SELECT grownext.stream_append('orders', '1') > 0$$, 'true'), ('regress_writer', $$SELECT count(*) FROM grownext.stream_read('orders', 'mail')$$, '42501'),
               ('regress_writer', $$SELECT grownext.stream_append('kept', '1')$$, '42501'), ('regress_writer', $$SELECT cardinality(grownext.stream_append_many('orders', '{2,3}'))$$, '2'),
               ('regress_reader', $$SELECT count(*) FROM grownext.stream_read('orders', 'mail')$$, '3'), ('regress_reader', $$SELECT grownext.stream_append('orders', '1')$$, '42501'),
               ('regress_reader', $$SELECT count(*) FROM grownext.stream_read('kept', 'mail')$$, '42501'), ('regress_reader', $$SELECT grownext.stream_ack('kept', 'mail', 1)$$, '42501'),
               ('regress_reader', $$SELECT grownext.stream_seek('kept', 'mail', 1)$$, '42501'), ('regress_reader', $$SELECT grownext.stream_consumer_drop('kept', 'mail')$$, '42501'),
               ('regress_reader', $$SELECT grownext.stream_consumer_drop('orders', 'mail')$$, 'false'), ('regress_reader', $$SELECT count(*) FROM grownext.stream_stats()$$, '42501'),
               ('regress_reader', $$SELECT count(*) FROM _grownext.stream_entry_1$$, '42501'), ('regress_reader', $$SELECT count(*) FROM grownext.stream$$, '42501'),
               ('regress_stranger', $$SELECT grownext.stream_append('orders', '1')$$, '42501'), ('regress_stranger', $$SELECT grownext.stream_read('orders', 'mail')$$, '42501'),
               ('regress_service', $$SELECT count(*) FROM grownext.stream_read('orders', 'mail')$$, '3'), ('regress_service', $$SELECT grownext.stream_append('kept', '1') > 0$$, 'true'),
               ('regress_service', $$SELECT grownext.stream_append('grownext.x', '1')$$, '42501'), ('regress_service', $$SELECT grownext.stream_read('grownext.x', 'a')$$, '42501'),
               ('regress_monitor', $$SELECT count(*) > 0 FROM grownext.stream_stats()$$, 'true'), ('regress_monitor', $$SELECT count(*) > 0 FROM grownext.stream$$, 'true')) AS v (r, s, c);
SELECT is(has_function_privilege('regress_reader', p.oid, 'EXECUTE'), p.proname NOT IN ('stream_append', 'stream_append_many'), 'reader: ' || p.proname)
  FROM pg_proc AS p WHERE p.pronamespace = 'grownext'::regnamespace
   AND p.proname IN ('stream_append', 'stream_append_many', 'stream_read', 'stream_ack', 'stream_extend', 'stream_seek', 'stream_wait', 'stream_consumer_drop');
SELECT grownext.stream_revoke('orders', 'regress_reader', 'read');
SELECT is(pg_temp.as_role('regress_reader', $$SELECT count(*) FROM grownext.stream_read('orders', 'mail')$$), '42501', 'a right that was revoked is gone');
SELECT lives_ok($$SELECT grownext.stream_revoke('orders', 'regress_reader', 'read')$$, 'and may be revoked once more');
SELECT bag_eq($$SELECT DISTINCT action, target FROM grownext.audit_event WHERE action LIKE 'stream.%'$$,
              $$VALUES ('stream.defined', 'stream:orders'), ('stream.defined', 'stream:kept'), ('stream.granted', 'stream:orders'), ('stream.revoked', 'stream:orders')$$,
              'the audit log has what administrators did');

-- Arguments ------------------------------------------------------------------------------

SELECT is(pg_temp.as_role('regress_service', s), c, c || ': ' || left(s, 90))
  FROM (VALUES ($$SELECT grownext.stream_append(NULL, '1')$$, '22004'), ($$SELECT grownext.stream_append('orders', NULL)$$, '22004'), ($$SELECT grownext.stream_append('none', '1')$$, '42704'),
               ($$SELECT grownext.stream_append('orders', '1', '')$$, '22023'), ($$SELECT grownext.stream_append('orders', '1', repeat('k', 513))$$, '22023'),
               ($$SELECT grownext.stream_append('orders', '1', repeat('k', 512)) > 0$$, 'true'),
               ($$SELECT grownext.stream_append('orders', to_jsonb(repeat('x', 1024 * 1024 - 2))) > 0$$, 'true'), ($$SELECT grownext.stream_append('orders', to_jsonb(repeat('x', 1024 * 1024 + 1)))$$, '54000'),
               ($$SELECT grownext.stream_append_many('orders', NULL)$$, '22004'), ($$SELECT grownext.stream_append_many('orders', '{NULL}')$$, '22004'), ($$SELECT grownext.stream_append_many('orders', '{}')$$, '{}'),
               ($$SELECT grownext.stream_append_many('orders', '{1,2}', '{a}')$$, '22023'), ($$SELECT grownext.stream_append_many('orders', '{1}', ARRAY[''])$$, '22023'),
               ($$SELECT grownext.stream_append_many('orders', array_fill('1'::jsonb, ARRAY[100001]))$$, '54000'),
               ($$SELECT grownext.stream_read(NULL, 'a')$$, '22004'), ($$SELECT grownext.stream_read('orders', NULL)$$, '22004'), ($$SELECT grownext.stream_read('orders', '')$$, '22023'),
               ($$SELECT grownext.stream_read('orders', 'a b')$$, '22023'), ($$SELECT grownext.stream_read('orders', '.a')$$, '22023'), ($$SELECT grownext.stream_read('orders', repeat('a', 101))$$, '22023'),
               ($$SELECT grownext.stream_read('none', 'a')$$, '42704'), ($$SELECT grownext.stream_read('orders', 'a', NULL)$$, '22004'), ($$SELECT grownext.stream_read('orders', 'a', 0)$$, '22023'),
               ($$SELECT grownext.stream_read('orders', 'a', 10001)$$, '22023'), ($$SELECT grownext.stream_read('orders', 'a', 1, '0')$$, '22023'), ($$SELECT grownext.stream_read('orders', 'a', 1, '-1 s')$$, '22023'),
               ($$SELECT grownext.stream_read('orders', 'a', 1, '8 days')$$, '22023'), ($$SELECT grownext.stream_read('orders', 'a', 1, '100000 years')$$, '22023'),
               ($$SELECT grownext.stream_ack('orders', 'a', NULL)$$, '22004'), ($$SELECT grownext.stream_ack('orders', 'a', -1)$$, '22023'), ($$SELECT grownext.stream_ack('orders', 'a', 9223372036854775807)$$, '22023'),
               ($$SELECT grownext.stream_ack('orders', 'a', 1, 1)$$, 'NX031'), ($$SELECT grownext.stream_ack('none', 'a', 1)$$, '42704'), ($$SELECT grownext.stream_ack('orders', 'a', 0)$$, ''),
               ($$SELECT grownext.stream_extend('orders', 'a', 1, '1 s')$$, 'NX031'), ($$SELECT grownext.stream_extend('orders', 'a', 0, '1 s')$$, 'NX031'), ($$SELECT grownext.stream_extend('orders', 'a', NULL, '1 s')$$, '22004'),
               ($$SELECT grownext.stream_extend('orders', 'a', 1, NULL)$$, '22004'),
               ($$SELECT grownext.stream_seek('orders', 'a')$$, '22023'), ($$SELECT grownext.stream_seek('orders', 'a', 1, now())$$, '22023'), ($$SELECT grownext.stream_seek('orders', 'a', -1)$$, '22023'),
               ($$SELECT grownext.stream_consumer_drop('orders', NULL)$$, '22004'), ($$SELECT grownext.stream_consumer_drop('orders', '')$$, 'false'),
               ($$CALL grownext.stream_wait('orders', 'a', NULL)$$, '22004')) AS v (s, c);
SELECT throws_ok($$CALL grownext.stream_wait('orders', 'a', '1 s')$$, '25001', NULL, 'nobody waits in a transaction block');
SELECT is((SELECT count(*) FROM grownext.stream_read('orders', 'big')), 5::bigint, 'what was refused is not there, what was not is');
SELECT is(pg_temp.read_only(s), '25006', 'not in a read-only transaction: ' || s)
  FROM unnest(ARRAY[$$SELECT grownext.stream_append('orders', '1')$$, $$SELECT grownext.stream_append_many('orders', '{1}')$$, $$SELECT grownext.stream_read('orders', 'a')$$,
                    $$SELECT grownext.stream_ack('orders', 'a', 1)$$, $$SELECT grownext.stream_extend('orders', 'a', 1, '1 s')$$, $$SELECT grownext.stream_seek('orders', 'a', 1)$$]) AS s;

-- Order, consumers, positions --------------------------------------------------------------

SELECT grownext.stream_define('letters');
SELECT cardinality(grownext.stream_append_many('letters', '{"\"a\"","\"b\"","\"c\"","\"d\""}', '{k1,NULL,k1,k2}'));
SELECT is(pg_temp.entries('letters', 'one'), 'a b c d', 'entries come in their order');
SELECT is(pg_temp.entries('letters', 'one', 2), 'a b', 'as many as are asked for');
SELECT is(pg_temp.entries('letters', 'one', 2), 'a b', 'and again, until they are acknowledged');
SELECT is(pg_temp.take('letters', 'one', 3), 'a b c', 'some are');
SELECT is(pg_temp.entries('letters', 'one'), 'd', 'the rest comes next');
SELECT is(pg_temp.entries('letters', 'two'), 'a b c d', 'another consumer gets all of them');
SELECT is((SELECT string_agg(coalesce(r.key, '-'), ' ' ORDER BY r.position) FROM grownext.stream_read('letters', 'two') AS r), 'k1 - k1 k2', 'with their keys');
SELECT is((SELECT array_agg(r.position ORDER BY r.position) FROM grownext.stream_read('letters', 'two') AS r WHERE r.payload IN ('"a"', '"b"')),
          (SELECT array_agg(p ORDER BY p) FROM (SELECT e.position AS p FROM _grownext.stream_entry_1 AS e WHERE e.payload IN ('"a"', '"b"') UNION ALL
                                                SELECT e.position FROM _grownext.stream_entry_2 AS e WHERE e.payload IN ('"a"', '"b"')) AS x), 'positions are those that were returned');
SAVEPOINT s;
SELECT grownext.stream_append('letters', '"lost"');
ROLLBACK TO s;
SELECT is(pg_temp.take('letters', 'one'), 'd', 'what was rolled back never was');
SELECT is(pg_temp.take('letters', 'one'), NULL, 'at the end there is nothing');
SELECT lives_ok($$SELECT grownext.stream_append('letters', '"e"'), grownext.stream_append('letters', '"f"')$$, 'two in one statement');
SELECT is(pg_temp.take('letters', 'one'), 'e f', 'go on from there');
SELECT lives_ok($$SELECT grownext.stream_ack('letters', 'one', 0)$$, 'an old acknowledgement is no error');
SELECT is(pg_temp.entries('letters', 'one'), NULL, 'and moves nothing back');

-- Who it is about -------------------------------------------------------------------------

SELECT grownext.act_as('7b0e2a52-7a4e-4b5c-9d0e-2f2a4c7d9e10', '6c1d3b41-4a38-4a44-9a31-54c7a6c7b0f1') IS NOT NULL;
SELECT grownext.stream_append('letters', '"g"');
SELECT is((SELECT concat_ws(' ', r.tenant_id, r.subject, r.claims ->> 'tenant_id') FROM grownext.stream_read('letters', 'one') AS r),
          '6c1d3b41-4a38-4a44-9a31-54c7a6c7b0f1 7b0e2a52-7a4e-4b5c-9d0e-2f2a4c7d9e10 6c1d3b41-4a38-4a44-9a31-54c7a6c7b0f1', 'an entry carries tenant, subject and claims of who appended it');
SELECT is((SELECT count(*) FROM grownext.stream_read('letters', 'two') AS r WHERE r.tenant_id IS NULL AND r.claims IS NULL), 6::bigint, 'others carry none');

-- Leases -----------------------------------------------------------------------------------

CREATE TEMP TABLE lease AS SELECT * FROM grownext.stream_read('letters', 'two', 3, '1 minute');
SELECT is((SELECT count(DISTINCT lease_id) FROM lease), 1::bigint, 'a read with a lease has one');
SELECT is(pg_temp.entries('letters', 'two'), NULL, 'nobody else of the consumer gets anything');
SELECT is((SELECT s.lease_until FROM grownext.stream_stats('letters') AS s WHERE s.consumer = 'two'), (SELECT max(lease_until) FROM lease), 'figures tell until when');
SELECT throws_ok($$SELECT grownext.stream_ack('letters', 'two', max(position)) FROM lease$$, 'NX031', NULL, 'without its number nothing is acknowledged');
SELECT throws_ok($$SELECT grownext.stream_ack('letters', 'two', max(position), max(lease_id) + 1) FROM lease$$, 'NX031', NULL, 'nor with another');
SELECT throws_ok($$SELECT grownext.stream_ack('letters', 'two', max(position) + 1, max(lease_id)) FROM lease$$, '22023', NULL, 'nor what was not read');
SELECT lives_ok($$SELECT grownext.stream_ack('letters', 'two', min(position), max(lease_id)) FROM lease$$, 'a part is');
SELECT is(pg_temp.entries('letters', 'two'), NULL, 'the lease goes on');
SELECT lives_ok($$SELECT grownext.stream_extend('letters', 'two', max(lease_id), '1 hour') FROM lease$$, 'and is extended');
SELECT ok((SELECT s.lease_until > (SELECT max(lease_until) FROM lease) + interval '50 minutes' FROM grownext.stream_stats('letters') AS s WHERE s.consumer = 'two'), 'from now');
SELECT lives_ok($$SELECT grownext.stream_ack('letters', 'two', max(position), max(lease_id)) FROM lease$$, 'the rest is acknowledged');
SELECT throws_ok($$SELECT grownext.stream_extend('letters', 'two', max(lease_id), '1 hour') FROM lease$$, 'NX031', NULL, 'which ends the lease');
SELECT is(pg_temp.entries('letters', 'two'), 'd e f g', 'the next read goes on from there');

-- Replay -----------------------------------------------------------------------------------

SELECT grownext.stream_define('times');
SELECT set_config('grownext.test_clock', to_char(timestamptz '2030-01-01' + n * interval '1 minute', 'YYYY-MM-DD HH24:MI:SSOF'), true),
       grownext.stream_append('times', to_jsonb(n)) > 0 FROM generate_series(0, 59) AS n;
SET LOCAL grownext.test_clock = '2030-01-01 01:00';
SELECT is(pg_temp.take('times', 'a') ~ '^0 1 2 .* 58 59$', true, 'an hour of entries');
SELECT grownext.stream_seek('times', 'a', 0);
SELECT is(pg_temp.entries('times', 'a', 3), '0 1 2', 'from the beginning');
SELECT grownext.stream_seek('times', 'a', (SELECT r.position FROM grownext.stream_read('times', 'b') AS r WHERE r.payload = '41'));
SELECT is(pg_temp.entries('times', 'a', 2), '42 43', 'from after a position');
SELECT is((SELECT string_agg(coalesce(e, '-'), ' ' ORDER BY n) FROM (
    SELECT n, pg_temp.entries('times', 'a', 1) AS e, s FROM (VALUES (1, timestamptz '2029-01-01'), (2, '2030-01-01 00:17'), (3, '2030-01-01 00:17:00.000001'),
        (4, '2030-01-01 00:59'), (5, '2031-01-01'), (6, '-infinity'), (7, 'infinity'), (8, '4713-01-01 BC')) AS v (n, at),
        LATERAL (SELECT grownext.stream_seek('times', 'a', at => v.at)::text AS s) AS x) AS y), '0 17 18 59 - 0 - 0', 'from a time');
SELECT grownext.stream_seek('times', 'a', 9223372036854775807);
SELECT is(pg_temp.entries('times', 'a'), NULL, 'beyond the end is the end');
SELECT grownext.stream_append('times', '60');
SELECT is(pg_temp.entries('times', 'a'), '60', 'where what is new begins');
SELECT is(grownext.stream_consumer_drop('times', 'a'), true, 'a consumer is dropped');
SELECT is(pg_temp.entries('times', 'a', 2), '0 1', 'and begins anew');

-- Retention ----------------------------------------------------------------------------------

SELECT is(pg_temp.take('times', 'slow', 10), '0 1 2 3 4 5 6 7 8 9', 'a consumer that is slow');
SELECT grownext.stream_define('times', '{"retention": "30 minutes"}');
SELECT _grownext.stream_trim_due('2030-01-01 01:00', 10);
SELECT is(pg_temp.entries('times', 'a', 2), '10 11', 'a pass takes a batch');
SELECT is(_grownext.stream_trim_due('2030-01-01 01:00', 1000), false, 'the next one the rest');
SELECT is(pg_temp.entries('times', 'a', 2), '30 31', 'what is older than the retention is gone');
SELECT is((SELECT s.overtaken FROM grownext.stream_stats('times') AS s WHERE s.consumer = 'slow'), true, 'figures tell whom it has overtaken');
SELECT ok((SELECT s.detail ~ 'overtaken consumer "slow"' FROM grownext.status() AS s WHERE s.component = 'stream' AND s.item = 'times'), 'so does status()');
SELECT grownext.stream_seek('times', 'slow', 0);
SELECT is((SELECT s.overtaken FROM grownext.stream_stats('times') AS s WHERE s.consumer = 'slow'), false, 'the beginning is where it begins now');
SELECT is((SELECT concat_ws(' ', s.lag, s.lag_age) FROM grownext.stream_stats('times') AS s WHERE s.consumer = 'slow'), '31 00:30:00', 'a consumer''s lag, in entries and in time');

SELECT grownext.stream_define('sized', '{"max_bytes": 20000}');
SELECT cardinality(grownext.stream_append_many('sized', (SELECT array_agg(jsonb_build_object('n', n, 'pad', repeat('x', 900))) FROM generate_series(1, 100) AS n)));
SELECT _grownext.stream_trim_due(_grownext.core_now(), 1000);
SELECT _grownext.stream_trim_due(_grownext.core_now(), 1000);
SELECT is((SELECT concat_ws(' ', min((r.payload ->> 'n')::int), max((r.payload ->> 'n')::int), count(*)) FROM grownext.stream_read('sized', 'a') AS r), '83 100 18', 'of a stream with a limit of size the newest entries stay');
SELECT ok((SELECT x.bytes BETWEEN 18500 AND 20000 FROM _grownext.stream_extent AS x JOIN _grownext.stream_stream AS s ON s.id = x.stream_id WHERE s.stream = 'sized'), 'and the count is right');
SELECT grownext.stream_define('sized', '{"retention": "1 second"}');
SET LOCAL grownext.test_clock = '2031-01-01';
SELECT _grownext.stream_trim_due('2031-01-01', 1000);
SELECT is(pg_temp.entries('sized', 'a'), NULL, 'nothing is left');
SELECT is((SELECT string_agg(s.stream, ' ') FROM _grownext.stream_extent AS x JOIN _grownext.stream_stream AS s ON s.id = x.stream_id), 'orders', 'and nothing counted where there is no limit any more');

-- Segments ------------------------------------------------------------------------------------

SELECT is((SELECT count(*) FROM _grownext.stream_entry_0), 1::bigint, 'a stream that keeps everything does not use the ring');
SELECT grownext.stream_append('letters', '"here"');
CREATE TEMP TABLE was_open AS SELECT segment FROM _grownext.stream_segment WHERE state = 'open';
SELECT _grownext.stream_rotate('2040-01-01');
SELECT isnt((SELECT segment FROM _grownext.stream_segment WHERE state = 'open'), (SELECT segment FROM was_open), 'another segment opens');
SELECT grownext.stream_append('letters', '"there"');
SELECT is(pg_temp.entries('letters', 'two'), 'here there', 'readers do not notice');
SELECT grownext.stream_define('kept');
SELECT is((SELECT count(*) FROM grownext.stream_read('kept', 'a')), 1::bigint, 'a stream that gets a retention keeps its entries');
SELECT grownext.stream_append('kept', '"new"');
SELECT is((SELECT count(*) FROM grownext.stream_read('kept', 'a')), 2::bigint, 'and goes on in the ring');
SELECT _grownext.stream_trim_due('2050-01-01', 1000);
SELECT is(_grownext.stream_clear_kept(1000), false, 'past its retention');
SELECT is((SELECT count(*) FROM _grownext.stream_entry_0), 0::bigint, 'they are deleted');

-- The ledger is swept ----------------------------------------------------------------------

SELECT grownext.stream_define('many');
SELECT cardinality(grownext.stream_append_many('many', array_fill('1'::jsonb, ARRAY[1000])));
SELECT count(pg_temp.take('many', 'a', 1)) FROM generate_series(1, 1000);
SELECT is(pg_temp.entries('many', 'a'), NULL, 'a thousand acknowledgements');
SELECT cmp_ok((SELECT count(*) FROM _grownext.stream_cursor AS c WHERE c.consumer = 'a'), '<', 140::bigint, 'leave less than two hundred rows');

-- Drop --------------------------------------------------------------------------------------

SELECT grownext.stream_grant('letters', 'regress_reader', 'read');
SELECT lives_ok($$SELECT grownext.stream_drop('letters')$$, 'a stream is dropped');
SELECT throws_ok($$SELECT grownext.stream_append('letters', '1')$$, '42704', NULL, 'it is gone');
SELECT is(has_function_privilege('regress_reader', 'grownext.stream_read(text, text, int, interval)', 'EXECUTE'), false, 'with the rights on it');
SELECT grownext.stream_define('letters');
SELECT is(pg_temp.entries('letters', 'two'), NULL, 'one of the same name has none of its entries');
SELECT is((SELECT count(*) FROM grownext.audit_event WHERE action = 'stream.dropped'), 1::bigint, 'the audit log has it');

SELECT * FROM finish();
ROLLBACK;
