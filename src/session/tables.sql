-- src/session/tables.sql: sessions; refresh tokens have no rows

CREATE TABLE _grownext.session_session (
    id                uuid        NOT NULL,
    user_id           uuid        NOT NULL,
    tenant_id         uuid,
    client_id         text        NOT NULL DEFAULT 'first-party',
    scope             text        NOT NULL DEFAULT '',
    acr               text,
    amr               text[]      NOT NULL DEFAULT '{}',
    auth_time         timestamptz NOT NULL,
    ip                inet,
    user_agent        text,
    attributes        jsonb       NOT NULL DEFAULT '{}',
    generation        int         NOT NULL DEFAULT 1,
    counter           bigint      NOT NULL DEFAULT 0,
    created_at        timestamptz NOT NULL,
    last_refreshed_at timestamptz,
    expires_at        timestamptz NOT NULL,
    revoked_at        timestamptz,
    revoke_reason     text,
    CONSTRAINT session_session_pkey PRIMARY KEY (id),
    CONSTRAINT session_session_user_fkey FOREIGN KEY (user_id) REFERENCES _grownext.account_user (id) ON DELETE CASCADE,
    CONSTRAINT session_session_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id) ON DELETE CASCADE,
    CONSTRAINT session_session_counter_chk CHECK (generation > 0 AND counter >= 0),
    CONSTRAINT session_session_revoke_chk CHECK ((revoked_at IS NULL) = (revoke_reason IS NULL))
);
CREATE INDEX session_session_user_idx ON _grownext.session_session (user_id);
CREATE INDEX session_session_tenant_idx ON _grownext.session_session (tenant_id);
CREATE INDEX session_session_expires_idx ON _grownext.session_session (expires_at);
COMMENT ON TABLE _grownext.session_session IS 'Sessions; the counter says which refresh token is the current one.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.session_session', '');
