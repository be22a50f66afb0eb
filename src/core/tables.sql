-- src/core/tables.sql: identity, options, trust, capabilities, event routes

-- Markers for per-backend caches (core/cache.h): composite types have no storage.
CREATE TYPE _grownext.core_marker_option AS ();
CREATE TYPE _grownext.core_marker_trust AS ();
CREATE TYPE _grownext.core_marker_route AS ();
CREATE TYPE _grownext.core_marker_extension AS ();
CREATE TYPE _grownext.core_marker_identity AS ();

-- Which database this is, written by setup() and unfence(). No row, or a row that names
-- another cluster, database, extension, timeline or environment: nothing acts here
-- (src/core/identity.c says what each comparison catches).
CREATE TABLE _grownext.core_identity (
    only_row          boolean     NOT NULL DEFAULT true,
    system_identifier bigint      NOT NULL,
    database_oid      oid         NOT NULL,
    database_name     name        NOT NULL,
    extension_oid     oid         NOT NULL,
    timeline          int         NOT NULL,
    environment       text        NOT NULL DEFAULT '',
    armed_at          timestamptz NOT NULL,
    fenced_at         timestamptz,
    fence_reason      text,
    CONSTRAINT core_identity_pkey PRIMARY KEY (only_row),
    CONSTRAINT core_identity_only_row_chk CHECK (only_row),
    CONSTRAINT core_identity_fence_chk CHECK ((fenced_at IS NULL) = (fence_reason IS NULL))
);
COMMENT ON TABLE _grownext.core_identity IS 'Identity of the database that was set up; compared before anything acts.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.core_identity', '');

-- What a restore must bring back and setup() writes: issuer, audiences and the like.
CREATE TABLE _grownext.core_option (
    name  text  NOT NULL,
    value jsonb NOT NULL,
    CONSTRAINT core_option_pkey PRIMARY KEY (name)
);
COMMENT ON TABLE _grownext.core_option IS 'Options of the platform that belong to the data, not to the server.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.core_option', '');

-- Whose request.jwt.claims count in this database. Names, not OIDs: they survive a restore.
CREATE TABLE _grownext.core_gateway (
    role_name  name        NOT NULL,
    trusted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    trusted_by name        NOT NULL DEFAULT session_user,
    CONSTRAINT core_gateway_pkey PRIMARY KEY (role_name)
);
COMMENT ON TABLE _grownext.core_gateway IS 'Login roles of gateways trusted in this database.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.core_gateway', '');

-- Roles with the rights of a grownext_* role in this database only.
CREATE TABLE _grownext.core_capability (
    capability text NOT NULL,
    role_name  name NOT NULL,
    CONSTRAINT core_capability_pkey PRIMARY KEY (capability, role_name),
    CONSTRAINT core_capability_chk CHECK (capability IN ('admin', 'service', 'worker', 'auditor', 'monitor', 'user', 'anon'))
);
COMMENT ON TABLE _grownext.core_capability IS 'Roles that hold a grownext_* role''s rights in this database only.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.core_capability', '');

-- A privilege on an object, as GRANT spells it, and who gives it to a role.
CREATE TYPE _grownext.core_right_on AS (privilege text, kind text, object text);
CREATE TABLE _grownext.core_right (
    role_name name NOT NULL,
    privilege text NOT NULL,
    kind      text NOT NULL,
    object    text NOT NULL,
    giver     text NOT NULL,
    CONSTRAINT core_right_pkey PRIMARY KEY (role_name, privilege, kind, object, giver),
    CONSTRAINT core_right_kind_chk CHECK (kind IN ('FUNCTION', 'PROCEDURE', 'TABLE', 'SCHEMA', 'TYPE'))
);
COMMENT ON TABLE _grownext.core_right IS 'Which capability or right on a queue gives a role which privilege; giver "grant" had it from elsewhere before.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.core_right', '');

-- Which platform events go into which queue. The queue component checks the queue.
CREATE TABLE _grownext.core_event_route (
    event_type text  NOT NULL,
    queue      text  NOT NULL,
    options    jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT core_event_route_pkey PRIMARY KEY (event_type, queue),
    CONSTRAINT core_event_route_type_chk CHECK (event_type ~ '^[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?$' OR event_type = '*')
);
COMMENT ON TABLE _grownext.core_event_route IS 'Routes of platform events into queues.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.core_event_route', '');

-- Results of the platform's own functions.
CREATE TYPE grownext.setup_step AS (step text, state text, hint text);
CREATE TYPE grownext.status_item AS (component text, item text, state text, detail text, hint text, since timestamptz);
CREATE TYPE grownext.worker_info AS (database name, worker text, pid int, state text, last_tick_at timestamptz, restarts int, last_error text);

-- What a rate limit answers; src/core/rate.h says what each column means.
CREATE TYPE _grownext.core_rate_verdict AS (allowed boolean, burst bigint, remaining bigint, retry_at timestamptz, reset_at timestamptz);
