-- src/stream/functions.sql: streams, their rights, and what goes in and out

-- Small helpers in C -------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.stream_caller_may(stream text, right_name text) RETURNS boolean
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'gn_stream_caller_may';
COMMENT ON FUNCTION _grownext.stream_caller_may(text, text) IS 'Whether the role that is set may append to or read a stream.';

CREATE OR REPLACE FUNCTION _grownext.stream_lock_id(stream_id bigint) RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_stream_lock_id';
COMMENT ON FUNCTION _grownext.stream_lock_id(bigint) IS 'Keeps everybody from appending to a stream and from reading it until the transaction ends.';

CREATE OR REPLACE FUNCTION _grownext.stream_horizon(stream_id bigint) RETURNS bigint
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_stream_horizon';
COMMENT ON FUNCTION _grownext.stream_horizon(bigint) IS 'Up to where a stream is decided: no appender is under way that could write there.';

CREATE OR REPLACE FUNCTION _grownext.stream_walk(stream_id bigint, after bigint, until timestamptz, enough bigint, most bigint,
    OUT "position" bigint, OUT entries bigint, OUT bytes bigint, OUT first_at timestamptz)
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_stream_walk';
COMMENT ON FUNCTION _grownext.stream_walk(bigint, bigint, timestamptz, bigint, bigint) IS 'Counts entries after a position, up to a time, enough bytes or a number of them; where it ended, and the time of the first.';

CREATE OR REPLACE FUNCTION _grownext.stream_trim(stream_id bigint, upto bigint) RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_stream_trim';
COMMENT ON FUNCTION _grownext.stream_trim(bigint, bigint) IS 'Takes the entries of a stream up to a position from its readers.';

CREATE OR REPLACE FUNCTION _grownext.stream_segment_live(segment int) RETURNS boolean
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_stream_segment_live';
COMMENT ON FUNCTION _grownext.stream_segment_live(int) IS 'Whether a segment holds an entry that its stream still has.';

CREATE OR REPLACE FUNCTION _grownext.stream_lock_segment(segment int) RETURNS boolean
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_stream_lock_segment';
COMMENT ON FUNCTION _grownext.stream_lock_segment(int) IS 'Locks a segment for its truncation; false while anybody uses it.';

CREATE OR REPLACE FUNCTION _grownext.stream_past_snapshots(writer xid) RETURNS boolean
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_stream_past_snapshots';
COMMENT ON FUNCTION _grownext.stream_past_snapshots(xid) IS 'Whether no snapshot is left that was taken before a transaction was over.';

CREATE OR REPLACE FUNCTION _grownext.stream_trimmed(stream_id bigint) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT c.position FROM _grownext.stream_cursor AS c
                      WHERE c.stream_id = stream_trimmed.stream_id AND c.consumer = ''
                      ORDER BY c.generation DESC LIMIT 1), 0);
$$;
COMMENT ON FUNCTION _grownext.stream_trimmed(bigint) IS 'Up to where the entries of a stream are gone.';

-- Raises unless the stream exists and callers may name it; its id.
CREATE OR REPLACE FUNCTION _grownext.stream_check_name(stream text) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_id CONSTANT bigint := (SELECT s.id FROM _grownext.stream_stream AS s WHERE s.stream = stream_check_name.stream);
BEGIN
    IF stream IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'stream must not be null';
    ELSIF starts_with(stream, 'grownext.') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('stream "%s" is internal', stream),
            DETAIL = 'Streams named grownext.* belong to the platform.';
    ELSIF found_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('stream "%s" does not exist', stream),
            HINT = format('SELECT grownext.stream_define(%L);', stream);
    END IF;
    RETURN found_id;
END
$$;
COMMENT ON FUNCTION _grownext.stream_check_name(text) IS 'Raises unless a stream exists and SQL callers may name it; returns its id.';

-- Administration ------------------------------------------------------------------

-- The whole definition: an option that is not named takes its default.
CREATE OR REPLACE FUNCTION _grownext.stream_store_definition(stream text, options jsonb) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keep_for CONSTANT text := CASE WHEN options ? 'retention' THEN options ->> 'retention' ELSE '7 days' END;
BEGIN
    INSERT INTO _grownext.stream_stream AS s (id, stream, retention, max_bytes, created_at)
    VALUES (_grownext.core_nextval('_grownext.stream_id'), stream_store_definition.stream, keep_for::interval,
            (options ->> 'max_bytes')::bigint, _grownext.core_now())
    ON CONFLICT ON CONSTRAINT stream_stream_pkey DO UPDATE
        SET retention = EXCLUDED.retention, max_bytes = EXCLUDED.max_bytes
        WHERE (s.retention, s.max_bytes) IS DISTINCT FROM (EXCLUDED.retention, EXCLUDED.max_bytes);
    RETURN FOUND;
EXCEPTION
    WHEN check_violation OR data_exception THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('invalid definition of stream "%s"', stream),
            DETAIL = 'A name has 1 to 100 letters, digits and _ . : -, retention is an interval of 1 second to 100 years or null, max_bytes is a whole number, at least 1, and needs a retention.';
END
$$;
COMMENT ON FUNCTION _grownext.stream_store_definition(text, jsonb) IS 'Creates or updates a stream; whether anything changed.';

CREATE OR REPLACE FUNCTION grownext.stream_define(stream text, options jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before CONSTANT jsonb := (SELECT to_jsonb(s) FROM _grownext.stream_stream AS s WHERE s.stream = stream_define.stream);
BEGIN
    IF stream IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'stream must not be null';
    ELSIF starts_with(stream, 'grownext.') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('stream "%s" is internal', stream),
            DETAIL = 'Streams named grownext.* belong to the platform.';
    END IF;
    PERFORM _grownext.core_check_options(options, '{"retention": "any", "max_bytes": "number"}');
    IF options ? 'retention' AND jsonb_typeof(options -> 'retention') NOT IN ('string', 'null') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'option "retention" must be of type string, or null';
    END IF;
    IF _grownext.stream_store_definition(stream, options) THEN
        PERFORM _grownext.audit_write('stream.defined', 'stream:' || stream, NULL, before,
            (SELECT to_jsonb(s) FROM _grownext.stream_stream AS s WHERE s.stream = stream_define.stream));
        PERFORM _grownext.stream_tick_at_commit();
    END IF;
END
$$;
COMMENT ON FUNCTION grownext.stream_define(text, jsonb) IS 'Creates a stream or replaces its definition; entries, consumers and grants stay.';

CREATE OR REPLACE FUNCTION grownext.stream_drop(stream text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dropped bigint := _grownext.stream_check_name(stream);
    granted_to name[];
    before jsonb;
BEGIN
    PERFORM _grownext.stream_lock_id(dropped);
    dropped := _grownext.stream_check_name(stream); -- somebody may have dropped it while we waited
    WITH granted AS (
        DELETE FROM _grownext.stream_grant AS g WHERE g.stream = stream_drop.stream RETURNING g.role_name)
    SELECT array_agg(DISTINCT g.role_name) INTO granted_to FROM granted AS g;
    PERFORM _grownext.stream_apply_grants(r.rolname) FROM pg_roles AS r WHERE r.rolname = ANY (granted_to);
    -- what is in the ring is nobody's from now on, and goes with its segment
    DELETE FROM _grownext.stream_entry_0 AS e WHERE e.stream_id = dropped;
    DELETE FROM _grownext.stream_cursor AS c WHERE c.stream_id = dropped;
    DELETE FROM _grownext.stream_extent AS x WHERE x.stream_id = dropped;
    DELETE FROM _grownext.stream_stream AS s WHERE s.id = dropped RETURNING to_jsonb(s) INTO before;
    PERFORM _grownext.audit_write('stream.dropped', 'stream:' || stream, NULL, before, NULL);
END
$$;
COMMENT ON FUNCTION grownext.stream_drop(text) IS 'Drops a stream with its entries and consumers.';

CREATE OR REPLACE FUNCTION grownext.stream_consumer_drop(stream text, consumer text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_id CONSTANT bigint := _grownext.stream_check_name(stream);
BEGIN
    IF NOT _grownext.stream_caller_may(stream, 'read') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('permission denied to read stream "%s"', stream),
            HINT = format('An administrator grants it: SELECT grownext.stream_grant(%L, current_user, ''read'');', stream);
    END IF;
    IF consumer IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'consumer must not be null';
    END IF;
    PERFORM _grownext.stream_lock_consumer(found_id, consumer);
    DELETE FROM _grownext.stream_cursor AS c
     WHERE c.stream_id = found_id AND c.consumer = stream_consumer_drop.consumer AND c.consumer <> '';
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION grownext.stream_consumer_drop(text, text) IS 'Forgets where a consumer of a stream stands; false when it never moved.';

CREATE OR REPLACE FUNCTION _grownext.stream_lock_consumer(stream_id bigint, consumer text) RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_stream_lock_consumer';
COMMENT ON FUNCTION _grownext.stream_lock_consumer(bigint, text) IS 'Keeps a consumer''s readers out until the transaction ends.';

CREATE OR REPLACE FUNCTION _grownext.stream_tick_at_commit() RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_stream_tick_at_commit';
COMMENT ON FUNCTION _grownext.stream_tick_at_commit() IS 'Asks the scheduler for a pass at commit.';

CREATE OR REPLACE FUNCTION _grownext.stream_check_right(right_name text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF right_name IS NULL OR right_name NOT IN ('append', 'read') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('unknown right "%s"', coalesce(right_name, 'NULL')),
            HINT = 'Rights on a stream: append, read.';
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.stream_check_right(text) IS 'Raises unless the text names a right on a stream.';

-- What a role with rights on any stream must be able to call; which stream it may name
-- is for these functions to judge.
CREATE OR REPLACE FUNCTION _grownext.stream_apply_grants(role_name name) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH held AS (
        SELECT array_agg(DISTINCT g.right_name) AS names FROM _grownext.stream_grant AS g
         WHERE g.role_name = stream_apply_grants.role_name),
    needed (privilege, kind, object, needs) AS (
        VALUES ('USAGE', 'SCHEMA', 'grownext', ARRAY['append', 'read']),
               ('USAGE', 'TYPE', 'grownext.stream_entry', ARRAY['read'])
        UNION ALL
        SELECT 'EXECUTE', CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, p.oid::regprocedure::text, n.needs
          FROM (VALUES ('stream_append', ARRAY['append']), ('stream_append_many', ARRAY['append']),
                       ('stream_read', ARRAY['read']), ('stream_ack', ARRAY['read']), ('stream_extend', ARRAY['read']),
                       ('stream_seek', ARRAY['read']), ('stream_wait', ARRAY['read']),
                       ('stream_consumer_drop', ARRAY['read'])) AS n (name, needs)
          JOIN pg_proc AS p ON p.proname = n.name AND p.pronamespace = 'grownext'::regnamespace)
    SELECT _grownext.core_rights_declare('stream', stream_apply_grants.role_name,
        coalesce((SELECT array_agg((n.privilege, n.kind, n.object)::_grownext.core_right_on)
                    FROM needed AS n, held AS h WHERE n.needs && h.names), '{}'));
$$;
COMMENT ON FUNCTION _grownext.stream_apply_grants(name) IS 'Gives a role what its rights on streams need, and takes the rest back.';

CREATE OR REPLACE FUNCTION grownext.stream_grant(stream text, to_role name, "right" text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.stream_check_name(stream);
    PERFORM _grownext.stream_check_right("right");
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = to_role) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('role "%s" does not exist', coalesce(to_role, 'NULL'));
    END IF;
    INSERT INTO _grownext.stream_grant (stream, role_name, right_name)
    VALUES (stream_grant.stream, stream_grant.to_role, stream_grant."right") ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM _grownext.stream_apply_grants(to_role);
        PERFORM _grownext.audit_write('stream.granted', 'stream:' || stream, NULL, NULL,
            jsonb_build_object('role', to_role, 'right', "right"));
    END IF;
END
$$;
COMMENT ON FUNCTION grownext.stream_grant(text, name, text) IS 'Lets a role append to a stream, or read it.';

CREATE OR REPLACE FUNCTION grownext.stream_revoke(stream text, from_role name, "right" text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.stream_check_name(stream);
    PERFORM _grownext.stream_check_right("right");
    DELETE FROM _grownext.stream_grant AS g
     WHERE g.stream = stream_revoke.stream AND g.role_name = from_role AND g.right_name = stream_revoke."right";
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = from_role) THEN
        PERFORM _grownext.stream_apply_grants(from_role);
    END IF;
    PERFORM _grownext.audit_write('stream.revoked', 'stream:' || stream, NULL,
        jsonb_build_object('role', from_role, 'right', "right"), NULL);
END
$$;
COMMENT ON FUNCTION grownext.stream_revoke(text, name, text) IS 'Takes stream_grant() back.';

-- Entries -------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION grownext.stream_append(stream text, payload jsonb, key text DEFAULT NULL) RETURNS bigint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_stream_append';
COMMENT ON FUNCTION grownext.stream_append(text, jsonb, text) IS 'Appends an entry in this transaction, with the caller''s context; returns its position.';

CREATE OR REPLACE FUNCTION grownext.stream_append_many(stream text, payloads jsonb[], keys text[] DEFAULT NULL) RETURNS bigint[]
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_stream_append_many';
COMMENT ON FUNCTION grownext.stream_append_many(text, jsonb[], text[]) IS 'Appends an entry per payload; returns the positions in the order of the payloads.';

CREATE OR REPLACE FUNCTION grownext.stream_read(stream text, consumer text, count int DEFAULT 100, lease interval DEFAULT NULL) RETURNS SETOF grownext.stream_entry
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_stream_read';
COMMENT ON FUNCTION grownext.stream_read(text, text, int, interval) IS 'The next entries of a consumer, in order; none while another reader of it is at work.';

CREATE OR REPLACE FUNCTION grownext.stream_ack(stream text, consumer text, upto bigint, lease_id bigint DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_stream_ack';
COMMENT ON FUNCTION grownext.stream_ack(text, text, bigint, bigint) IS 'Moves a consumer forward: it will not get entries up to that position again.';

CREATE OR REPLACE FUNCTION grownext.stream_extend(stream text, consumer text, lease_id bigint, lease interval) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_stream_extend';
COMMENT ON FUNCTION grownext.stream_extend(text, text, bigint, interval) IS 'Lets a lease of stream_read() last that long from now.';

CREATE OR REPLACE FUNCTION grownext.stream_seek(stream text, consumer text, "position" bigint DEFAULT NULL, at timestamptz DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_stream_seek';
COMMENT ON FUNCTION grownext.stream_seek(text, text, bigint, timestamptz) IS 'Moves a consumer to a position or a time, back or forward; a lease on it is void.';

CREATE OR REPLACE PROCEDURE grownext.stream_wait(stream text, consumer text, timeout interval, INOUT ready boolean DEFAULT NULL)
LANGUAGE c AS 'MODULE_PATHNAME', 'gn_stream_wait';
COMMENT ON PROCEDURE grownext.stream_wait(text, text, interval, boolean) IS 'Waits until there are entries to read, without a snapshot, at most so long.';

-- Figures ---------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION grownext.stream_stats(stream text DEFAULT NULL) RETURNS SETOF grownext.stream_state
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH standing AS (
        SELECT DISTINCT ON (c.stream_id, c.consumer) c.* FROM _grownext.stream_cursor AS c
         WHERE c.consumer <> '' ORDER BY c.stream_id, c.consumer, c.generation DESC)
    SELECT s.stream, c.consumer, c.position, h.horizon, w.entries, _grownext.core_now() - w.first_at,
           c.position < t.trimmed, CASE WHEN c.lease_until > _grownext.core_now() THEN c.lease_until END, c.written_at
      FROM _grownext.stream_stream AS s
      LEFT JOIN standing AS c ON c.stream_id = s.id
     CROSS JOIN LATERAL (SELECT _grownext.stream_horizon(s.id) AS horizon) AS h
     CROSS JOIN LATERAL (SELECT _grownext.stream_trimmed(s.id) AS trimmed) AS t
     CROSS JOIN LATERAL _grownext.stream_walk(s.id, greatest(c.position, t.trimmed), NULL, NULL, 100000) AS w
     WHERE (stream_stats.stream IS NULL OR s.stream = stream_stats.stream) AND NOT starts_with(s.stream, 'grownext.')
     ORDER BY s.stream, c.consumer;
$$;
COMMENT ON FUNCTION grownext.stream_stats(text) IS 'Where the consumers of streams stand, and how far behind they are.';

CREATE OR REPLACE VIEW grownext.stream WITH (security_barrier) AS
    SELECT s.stream, s.retention, s.max_bytes, s.created_at FROM _grownext.stream_stream AS s;
COMMENT ON VIEW grownext.stream IS 'Streams, and how long they keep their entries.';
