-- src/audit/functions.sql: append, read, protect

CREATE OR REPLACE FUNCTION _grownext.audit_refuse() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'gn_audit_refuse';
COMMENT ON FUNCTION _grownext.audit_refuse() IS 'Trigger: the audit log is append-only.';

-- Makes what the log lacks; called by C as the owner, in a schema that C made.
CREATE OR REPLACE FUNCTION _grownext.audit_log_make() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
BEGIN
    CREATE SEQUENCE IF NOT EXISTS grownext_audit.event_id_seq;
    CREATE TABLE IF NOT EXISTS grownext_audit.event (
        id           bigint      NOT NULL DEFAULT nextval('grownext_audit.event_id_seq'),
        txid         xid8        NOT NULL,
        recorded_at  timestamptz NOT NULL,
        occurred_at  timestamptz NOT NULL,
        tenant_id    uuid,
        actor        text        NOT NULL,
        on_behalf_of text,
        actor_source text        NOT NULL,
        session_role text        NOT NULL,
        action       text        NOT NULL,
        target       text,
        category     text,
        context      jsonb       NOT NULL DEFAULT '{}',
        change       jsonb,
        request_id   text,
        CONSTRAINT event_pkey PRIMARY KEY (id),
        CONSTRAINT event_context_chk CHECK (jsonb_typeof(context) = 'object')
    );
    CREATE INDEX IF NOT EXISTS event_tenant_idx ON grownext_audit.event (tenant_id, id);
    COMMENT ON SCHEMA grownext_audit IS 'The audit log of grownext. It outlives the extension.';
    COMMENT ON TABLE grownext_audit.event IS 'Audit events, append-only; read them through grownext.audit_event.';
    -- a row trigger, because logical replication fires no others
    CREATE OR REPLACE TRIGGER event_append_only BEFORE UPDATE OR DELETE ON grownext_audit.event
        FOR EACH ROW EXECUTE FUNCTION _grownext.audit_refuse();
    CREATE OR REPLACE TRIGGER event_no_truncate BEFORE TRUNCATE ON grownext_audit.event
        FOR EACH STATEMENT EXECUTE FUNCTION _grownext.audit_refuse();
    ALTER TABLE grownext_audit.event ENABLE ALWAYS TRIGGER event_append_only;
    ALTER TABLE grownext_audit.event ENABLE ALWAYS TRIGGER event_no_truncate;
END
$$;
COMMENT ON FUNCTION _grownext.audit_log_make() IS 'Makes the audit log, or what a restore or DROP EXTENSION took from it.';

-- For the other components: an administrative change, with the images around it.
CREATE OR REPLACE FUNCTION _grownext.audit_write(action text, target text, tenant_id uuid, before jsonb, after jsonb) RETURNS bigint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_audit_write';
COMMENT ON FUNCTION _grownext.audit_write(text, text, uuid, jsonb, jsonb) IS 'Appends an event of the platform itself; a NULL tenant means the global log.';

CREATE OR REPLACE FUNCTION grownext.audit_append(action text, target text DEFAULT NULL, context jsonb DEFAULT '{}', tenant_id uuid DEFAULT NULL, actor text DEFAULT NULL, occurred_at timestamptz DEFAULT NULL, category text DEFAULT NULL, idempotency_key text DEFAULT NULL, personal jsonb DEFAULT NULL, sealed boolean DEFAULT false) RETURNS bigint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_audit_append_sql';
COMMENT ON FUNCTION grownext.audit_append(text, text, jsonb, uuid, text, timestamptz, text, text, jsonb, boolean) IS 'Appends an event to the tenant''s audit log, or to the global one; returns its id.';

CREATE OR REPLACE FUNCTION grownext.audit_append_many(events jsonb) RETURNS bigint[]
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_audit_append_many';
COMMENT ON FUNCTION grownext.audit_append_many(jsonb) IS 'Appends an array of events, objects with the arguments of audit_append(); returns their ids in order.';

-- Forgets idempotency keys older than a week.
CREATE OR REPLACE FUNCTION _grownext.audit_tick(now timestamptz) RETURNS timestamptz
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM _grownext.audit_idempotency AS k WHERE k.recorded_at < audit_tick.now - interval '7 days';
    SELECT audit_tick.now + interval '1 hour';
$$;
COMMENT ON FUNCTION _grownext.audit_tick(timestamptz) IS 'Background pass: forgets idempotency keys older than a week.';
