-- src/stream/retention.sql: what is past its time goes, and its space comes back

-- Keeps count of what a stream with a limit of size holds; how much is too much.
CREATE OR REPLACE FUNCTION _grownext.stream_excess(stream_id bigint, max_bytes bigint, trimmed bigint, most int) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    extent _grownext.stream_extent;
    walked record;
BEGIN
    INSERT INTO _grownext.stream_extent AS x (stream_id, counted_upto, bytes) VALUES (stream_excess.stream_id, trimmed, 0)
    ON CONFLICT ON CONSTRAINT stream_extent_pkey DO NOTHING;
    SELECT x.* INTO extent FROM _grownext.stream_extent AS x WHERE x.stream_id = stream_excess.stream_id FOR UPDATE;
    SELECT w.* INTO walked FROM _grownext.stream_walk(stream_excess.stream_id, extent.counted_upto, NULL, NULL, most) AS w;
    IF walked.entries > 0 THEN
        UPDATE _grownext.stream_extent AS x SET counted_upto = walked.position, bytes = x.bytes + walked.bytes
         WHERE x.stream_id = stream_excess.stream_id;
    END IF;
    RETURN greatest(extent.bytes + walked.bytes - max_bytes, 0);
END
$$;
COMMENT ON FUNCTION _grownext.stream_excess(bigint, bigint, bigint, int) IS 'Counts new entries of a stream with a limit of size, at most so many; returns by how much it is over it.';

-- Moves the beginning of a stream past what a walk has found too old or too much.
CREATE OR REPLACE FUNCTION _grownext.stream_take(stream_id bigint, upto bigint, taken bigint) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT _grownext.stream_trim(stream_take.stream_id, upto);
    -- what was never counted is not taken off, but is behind from now on
    UPDATE _grownext.stream_extent AS x
       SET bytes = CASE WHEN x.counted_upto < upto THEN 0 ELSE x.bytes - taken END, counted_upto = greatest(x.counted_upto, upto)
     WHERE x.stream_id = stream_take.stream_id;
$$;
COMMENT ON FUNCTION _grownext.stream_take(bigint, bigint, bigint) IS 'Trims a stream, and its count of bytes.';

-- At most so many entries of each stream; whether there may be more.
CREATE OR REPLACE FUNCTION _grownext.stream_trim_due(now timestamptz, most int) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    due record;
    walked record;
    trimmed bigint;
    excess bigint;
    more boolean := false;
BEGIN
    FOR due IN SELECT s.id, s.retention, s.max_bytes FROM _grownext.stream_stream AS s WHERE s.retention IS NOT NULL LOOP
        trimmed := _grownext.stream_trimmed(due.id);
        SELECT w.* INTO walked FROM _grownext.stream_walk(due.id, trimmed, stream_trim_due.now - due.retention, NULL, most) AS w;
        IF walked.entries > 0 THEN
            PERFORM _grownext.stream_take(due.id, walked.position, walked.bytes);
            more := more OR walked.entries = most;
        END IF;
        CONTINUE WHEN due.max_bytes IS NULL;
        excess := _grownext.stream_excess(due.id, due.max_bytes, walked.position, most);
        CONTINUE WHEN excess = 0;
        SELECT w.* INTO walked FROM _grownext.stream_walk(due.id, walked.position, NULL, excess, most) AS w;
        PERFORM _grownext.stream_take(due.id, walked.position, walked.bytes);
        more := true;
    END LOOP;
    DELETE FROM _grownext.stream_extent AS x
     WHERE NOT EXISTS (SELECT FROM _grownext.stream_stream AS s WHERE s.id = x.stream_id AND s.max_bytes IS NOT NULL);
    RETURN more;
END
$$;
COMMENT ON FUNCTION _grownext.stream_trim_due(timestamptz, int) IS 'Takes from readers what retention has passed; whether there may be more.';

-- Segment 0 is never truncated: what a stream had there before it got a retention.
CREATE OR REPLACE FUNCTION _grownext.stream_clear_kept(most int) RETURNS boolean
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH past AS (
        SELECT e.stream_id, e.position FROM _grownext.stream_stream AS s,
               LATERAL (SELECT k.stream_id, k.position FROM _grownext.stream_entry_0 AS k
                         WHERE k.stream_id = s.id AND k.position <= _grownext.stream_trimmed(s.id)
                         ORDER BY k.position LIMIT most) AS e
         WHERE s.retention IS NOT NULL),
    gone AS (
        DELETE FROM _grownext.stream_entry_0 AS e USING past AS p
         WHERE (e.stream_id, e.position) = (p.stream_id, p.position) RETURNING 1)
    SELECT count(*) >= most FROM gone;
$$;
COMMENT ON FUNCTION _grownext.stream_clear_kept(int) IS 'Deletes trimmed entries from the segment that is not of the ring; whether there may be more.';

-- The next segment, when the open one is large beside all of them, or old beside what
-- is kept, and one is free.
CREATE OR REPLACE FUNCTION _grownext.stream_rotate(now timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    least_bytes CONSTANT bigint := 64 * 1024 * 1024;
    open_one _grownext.stream_segment;
    next_one CONSTANT int := (SELECT min(g.segment) FROM _grownext.stream_segment AS g WHERE g.state = 'free');
    bytes bigint;
    longest interval;
BEGIN
    SELECT g.* INTO open_one FROM _grownext.stream_segment AS g WHERE g.state = 'open';
    bytes := pg_total_relation_size(format('_grownext.stream_entry_%s', open_one.segment)::regclass);
    IF next_one IS NULL OR pg_relation_size(format('_grownext.stream_entry_%s', open_one.segment)::regclass) = 0 THEN
        RETURN;
    END IF;
    SELECT max(s.retention) INTO longest FROM _grownext.stream_stream AS s;
    IF bytes < greatest(least_bytes, (SELECT sum(pg_total_relation_size(format('_grownext.stream_entry_%s', g.segment)::regclass)) / 4
                                        FROM _grownext.stream_segment AS g))
       AND open_one.changed_at > stream_rotate.now - greatest(longest / 2, interval '1 hour') THEN
        RETURN;
    END IF;
    UPDATE _grownext.stream_segment AS g SET state = 'closed', changed_at = stream_rotate.now WHERE g.segment = open_one.segment;
    UPDATE _grownext.stream_segment AS g SET state = 'open', changed_at = stream_rotate.now WHERE g.segment = next_one;
END
$$;
COMMENT ON FUNCTION _grownext.stream_rotate(timestamptz) IS 'Opens the next segment if it is time.';

-- A closed segment without a live entry is settled by a transaction that every snapshot
-- must have seen, before it is truncated: whoever dumps from an earlier one still has
-- the stream as it was. Segments are locked one a pass, last, and only if at once.
CREATE OR REPLACE FUNCTION _grownext.stream_reclaim(now timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ripe int;
BEGIN
    FOR ripe IN SELECT g.segment FROM _grownext.stream_segment AS g
                 WHERE g.state = 'closed' AND NOT _grownext.stream_segment_live(g.segment) LOOP
        UPDATE _grownext.stream_segment AS g SET state = 'settled', changed_at = stream_reclaim.now WHERE g.segment = ripe;
    END LOOP;
    ripe := (SELECT min(g.segment) FROM _grownext.stream_segment AS g
              WHERE g.state = 'settled' AND _grownext.stream_past_snapshots(g.xmin));
    IF ripe IS NULL OR NOT _grownext.stream_lock_segment(ripe) THEN
        RETURN;
    END IF;
    -- an appender may have come late: nobody comes any more
    IF _grownext.stream_segment_live(ripe) THEN
        UPDATE _grownext.stream_segment AS g SET state = 'closed', changed_at = stream_reclaim.now WHERE g.segment = ripe;
        RETURN;
    END IF;
    -- the number of the segment is part of its name
    EXECUTE format('TRUNCATE _grownext.stream_entry_%s', ripe);
    UPDATE _grownext.stream_segment AS g SET state = 'free', changed_at = stream_reclaim.now WHERE g.segment = ripe;
END
$$;
COMMENT ON FUNCTION _grownext.stream_reclaim(timestamptz) IS 'Settles segments that nothing is left in, and truncates one that every snapshot knows to be so.';

CREATE OR REPLACE FUNCTION _grownext.stream_tick(now timestamptz) RETURNS timestamptz
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    batch CONSTANT int := 10000;
    more boolean;
BEGIN
    more := _grownext.stream_trim_due(stream_tick.now, batch);
    more := _grownext.stream_clear_kept(batch) OR more;
    PERFORM _grownext.stream_rotate(stream_tick.now);
    PERFORM _grownext.stream_reclaim(stream_tick.now);
    RETURN CASE
        WHEN more THEN stream_tick.now
        WHEN EXISTS (SELECT FROM _grownext.stream_segment AS g WHERE g.state IN ('closed', 'settled'))
             OR EXISTS (SELECT FROM _grownext.stream_stream AS s WHERE s.retention IS NOT NULL)
            THEN stream_tick.now + interval '5 seconds'
    END;
END
$$;
COMMENT ON FUNCTION _grownext.stream_tick(timestamptz) IS 'One pass: trims streams, opens and truncates segments; returns when the next is due.';

CREATE OR REPLACE FUNCTION _grownext.stream_status() RETURNS SETOF grownext.status_item
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    WITH standing AS (
        SELECT DISTINCT ON (c.stream_id, c.consumer) c.* FROM _grownext.stream_cursor AS c
         WHERE c.consumer <> '' ORDER BY c.stream_id, c.consumer, c.generation DESC)
    SELECT 'stream', 'streams', 'ok', format('%s streams', (SELECT count(*) FROM _grownext.stream_stream)), NULL, NULL::timestamptz
    UNION ALL
    SELECT 'stream', s.stream, 'degraded', format('retention has overtaken consumer "%s": entries that it had not acknowledged are gone', c.consumer),
           format('Keep entries longer, or let it read faster; if it is not used any more: SELECT grownext.stream_consumer_drop(%L, %L);', s.stream, c.consumer),
           c.written_at
      FROM _grownext.stream_stream AS s JOIN standing AS c ON c.stream_id = s.id
     WHERE c.position < _grownext.stream_trimmed(s.id)
    UNION ALL
    SELECT 'stream', format('segment %s', g.segment), 'degraded', 'its space does not come back: a snapshot is held that was taken before',
           'Look for old transactions in pg_stat_activity and pg_prepared_xacts, and for slots in pg_replication_slots.', g.changed_at
      FROM _grownext.stream_segment AS g
     WHERE g.state = 'settled' AND g.changed_at < _grownext.core_now() - interval '1 hour';
$$;
COMMENT ON FUNCTION _grownext.stream_status() IS 'Items of grownext.status().';

-- Triggers --------------------------------------------------------------------------

CREATE OR REPLACE TRIGGER stream_stream_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.stream_stream
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('stream_marker_stream');
ALTER TABLE _grownext.stream_stream ENABLE ALWAYS TRIGGER stream_stream_invalidate;
CREATE OR REPLACE TRIGGER stream_grant_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.stream_grant
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('stream_marker_stream');
ALTER TABLE _grownext.stream_grant ENABLE ALWAYS TRIGGER stream_grant_invalidate;
CREATE OR REPLACE TRIGGER stream_segment_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.stream_segment
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('stream_marker_stream');
ALTER TABLE _grownext.stream_segment ENABLE ALWAYS TRIGGER stream_segment_invalidate;
