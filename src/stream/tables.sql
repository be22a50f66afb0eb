-- src/stream/tables.sql: streams, their rights, entries in segments, cursors
--
-- Nothing that readers or writers do updates or deletes a row. Entries are inserted
-- into the open segment of a ring of tables that all streams share; a segment comes
-- free by TRUNCATE when retention has passed everything in it. Cursors are a ledger:
-- the row with the highest generation of a consumer counts.

CREATE TYPE _grownext.stream_marker_stream AS ();

CREATE SEQUENCE _grownext.stream_id AS bigint CACHE 1;
SELECT pg_catalog.pg_extension_config_dump('_grownext.stream_id', '');

CREATE TABLE _grownext.stream_stream (
    id         bigint      NOT NULL, -- from _grownext.core_nextval()
    stream     text COLLATE "C" NOT NULL,
    retention  interval,             -- NULL: keeps everything, in segment 0
    max_bytes  bigint,
    created_at timestamptz NOT NULL,
    CONSTRAINT stream_stream_pkey PRIMARY KEY (stream),
    CONSTRAINT stream_stream_id_key UNIQUE (id),
    CONSTRAINT stream_stream_name_chk CHECK (stream ~ '^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}$'),
    CONSTRAINT stream_stream_retention_chk CHECK (retention BETWEEN '1 second' AND '100 years'),
    CONSTRAINT stream_stream_max_bytes_chk CHECK (max_bytes IS NULL OR (max_bytes >= 1 AND retention IS NOT NULL))
);
COMMENT ON TABLE _grownext.stream_stream IS 'Streams, and how long they keep their entries.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.stream_stream', '');

CREATE TABLE _grownext.stream_grant (
    stream     text COLLATE "C" NOT NULL,
    role_name  name        NOT NULL,
    right_name text        NOT NULL,
    CONSTRAINT stream_grant_pkey PRIMARY KEY (stream, role_name, right_name),
    CONSTRAINT stream_grant_stream_fkey FOREIGN KEY (stream) REFERENCES _grownext.stream_stream (stream) ON DELETE CASCADE,
    CONSTRAINT stream_grant_right_chk CHECK (right_name IN ('append', 'read'))
);
COMMENT ON TABLE _grownext.stream_grant IS 'Rights of roles on streams, beside service and admin.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.stream_grant', '');

-- One for all streams: what is beyond a position was drawn after it, in every stream.
CREATE SEQUENCE _grownext.stream_position AS bigint CACHE 1;
SELECT pg_catalog.pg_extension_config_dump('_grownext.stream_position', '');

-- The segments. Number 0 has the streams that keep everything; of the others, one is
-- open at a time. A dump restores each into the one of the same number, and the ring
-- starts anew: every segment is read, whatever its state.
DO $$
BEGIN
    FOR segment IN 0 .. 4 LOOP
        -- the number of the segment is part of its name
        EXECUTE pg_catalog.format('CREATE TABLE _grownext.stream_entry_%1$s (
            stream_id   bigint      NOT NULL,
            position    bigint      NOT NULL, -- from _grownext.core_nextval()
            appended_at timestamptz NOT NULL,
            tenant_id   uuid,
            key         text COLLATE "C",
            payload     jsonb       NOT NULL,
            claims      jsonb,
            CONSTRAINT stream_entry_%1$s_pkey PRIMARY KEY (stream_id, position))', segment);
        EXECUTE pg_catalog.format('COMMENT ON TABLE _grownext.stream_entry_%s IS %L', segment,
            pg_catalog.format('Entries of streams, segment %s.', segment));
        PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.format('_grownext.stream_entry_%s', segment)::pg_catalog.regclass, '');
        IF segment > 0 THEN -- nothing is ever dead in them but what was rolled back
            EXECUTE pg_catalog.format('ALTER TABLE _grownext.stream_entry_%s SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)', segment);
        END IF;
    END LOOP;
END
$$;

-- Where appenders write. A hint: wherever an entry is, it is found.
CREATE TABLE _grownext.stream_segment (
    segment    int         NOT NULL,
    state      text        NOT NULL,
    changed_at timestamptz NOT NULL,
    CONSTRAINT stream_segment_pkey PRIMARY KEY (segment),
    CONSTRAINT stream_segment_state_chk CHECK (state IN ('free', 'open', 'closed', 'settled'))
);
CREATE UNIQUE INDEX stream_segment_open_idx ON _grownext.stream_segment (state) WHERE state = 'open';
COMMENT ON TABLE _grownext.stream_segment IS 'The ring: which segment is open, which are full, which wait for their truncation.';
-- Not dumped: CREATE EXTENSION makes the rows, and their transaction ids mean something.
INSERT INTO _grownext.stream_segment (segment, state, changed_at)
SELECT s, CASE s WHEN 1 THEN 'open' ELSE 'free' END, pg_catalog.now() FROM pg_catalog.generate_series(1, 4) AS s;

CREATE SEQUENCE _grownext.stream_lease_id AS bigint CACHE 1;
SELECT pg_catalog.pg_extension_config_dump('_grownext.stream_lease_id', '');

-- Consumer '' is the stream itself: what is up to its position is gone.
CREATE TABLE _grownext.stream_cursor (
    stream_id   bigint      NOT NULL,
    consumer    text COLLATE "C" NOT NULL,
    generation  bigint      NOT NULL,
    position    bigint      NOT NULL,
    lease_id    bigint,      -- the last one, if nothing has made it void
    lease_upto  bigint,
    lease_until timestamptz,
    written_at  timestamptz NOT NULL,
    CONSTRAINT stream_cursor_pkey PRIMARY KEY (stream_id, consumer, generation),
    CONSTRAINT stream_cursor_lease_chk CHECK (
        (lease_id IS NULL) = (lease_upto IS NULL) AND (lease_id IS NULL) = (lease_until IS NULL))
);
COMMENT ON TABLE _grownext.stream_cursor IS 'How far consumers are: the highest generation counts, older ones are swept.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.stream_cursor', '');

-- What streams with max_bytes hold, from their first entry to counted_upto.
CREATE TABLE _grownext.stream_extent (
    stream_id    bigint NOT NULL,
    counted_upto bigint NOT NULL,
    bytes        bigint NOT NULL,
    CONSTRAINT stream_extent_pkey PRIMARY KEY (stream_id)
);
COMMENT ON TABLE _grownext.stream_extent IS 'Size of streams that have a limit of size, kept by the background pass.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.stream_extent', '');

CREATE TYPE grownext.stream_entry AS (
    position    bigint,
    key         text,
    payload     jsonb,
    appended_at timestamptz,
    tenant_id   uuid,
    subject     text,
    claims      jsonb,
    lease_id    bigint,
    lease_until timestamptz
);
COMMENT ON TYPE grownext.stream_entry IS 'An entry of a stream as its consumer gets it.';

CREATE TYPE grownext.stream_state AS (
    stream         text,
    consumer       text,
    position       bigint,
    end_position   bigint,
    lag            bigint,
    lag_age        interval,
    overtaken      boolean,
    lease_until    timestamptz,
    moved_at       timestamptz
);
COMMENT ON TYPE grownext.stream_state IS 'Where one consumer of a stream stands.';
