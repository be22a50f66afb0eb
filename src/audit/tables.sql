-- src/audit/tables.sql: what surrounds the log; the log itself is no member (src/audit/log.c)

-- Which event an idempotency key stands for. Remembered for a week.
CREATE TABLE _grownext.audit_idempotency (
    tenant_id   uuid,
    key         text        NOT NULL,
    fingerprint bytea       NOT NULL,
    event_id    bigint      NOT NULL,
    recorded_at timestamptz NOT NULL,
    CONSTRAINT audit_idempotency_key UNIQUE NULLS NOT DISTINCT (tenant_id, key)
);
CREATE INDEX audit_idempotency_recorded_at_idx ON _grownext.audit_idempotency (recorded_at);
COMMENT ON TABLE _grownext.audit_idempotency IS 'Idempotency keys of audit_append() and the event each stands for.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.audit_idempotency', '');
