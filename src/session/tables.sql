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

-- API keys --------------------------------------------------------------------

CREATE TYPE _grownext.session_marker_api_key AS ();

CREATE TABLE _grownext.session_api_key (
    id            uuid        NOT NULL,
    family_id     uuid        NOT NULL,
    tenant_id     uuid        NOT NULL,
    user_id       uuid,
    name          text        NOT NULL,
    environment   text        NOT NULL,
    digest        bytea       NOT NULL,
    prefix        text        NOT NULL,
    last_four     text        NOT NULL,
    scopes        text[]      NOT NULL DEFAULT '{}',
    subject       text,
    role          name,
    addresses     cidr[]      NOT NULL DEFAULT '{}',
    rate_limit    bigint,
    rate_period   interval,
    metadata      jsonb       NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL,
    created_by    text        NOT NULL,
    expires_at    timestamptz,
    replaced_by   uuid,
    revoked_at    timestamptz,
    revoke_reason text,
    CONSTRAINT session_api_key_pkey PRIMARY KEY (id),
    CONSTRAINT session_api_key_digest_key UNIQUE (digest),
    CONSTRAINT session_api_key_tenant_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id) ON DELETE CASCADE,
    CONSTRAINT session_api_key_user_fkey FOREIGN KEY (user_id) REFERENCES _grownext.account_user (id) ON DELETE CASCADE,
    CONSTRAINT session_api_key_digest_chk CHECK (octet_length(digest) = 32),
    CONSTRAINT session_api_key_rate_chk CHECK ((rate_limit IS NULL) = (rate_period IS NULL) AND rate_limit > 0),
    CONSTRAINT session_api_key_metadata_chk CHECK (jsonb_typeof(metadata) = 'object'),
    CONSTRAINT session_api_key_revoke_chk CHECK ((revoked_at IS NULL) = (revoke_reason IS NULL))
);
-- a name is free again once its key was revoked; one that is being replaced yields it
CREATE UNIQUE INDEX session_api_key_name_idx ON _grownext.session_api_key (tenant_id, name) WHERE revoked_at IS NULL AND replaced_by IS NULL;
CREATE INDEX session_api_key_user_idx ON _grownext.session_api_key (user_id);
CREATE INDEX session_api_key_end_idx ON _grownext.session_api_key (least(revoked_at, expires_at));
COMMENT ON TABLE _grownext.session_api_key IS 'API keys: their SHA-256, what they may do, and when they end.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.session_api_key', '');

-- Apart from the key, so that writing it invalidates nothing.
CREATE TABLE _grownext.session_api_key_use (
    key_id       uuid NOT NULL,
    last_used_at timestamptz,
    CONSTRAINT session_api_key_use_pkey PRIMARY KEY (key_id),
    CONSTRAINT session_api_key_use_key_fkey FOREIGN KEY (key_id) REFERENCES _grownext.session_api_key (id) ON DELETE CASCADE
) WITH (fillfactor = 50);
COMMENT ON TABLE _grownext.session_api_key_use IS 'When an API key was last used, to the minute.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.session_api_key_use', '');

-- The text of a key is in this result and nowhere else.
CREATE TYPE grownext.api_key_secret AS (id uuid, api_key text);
