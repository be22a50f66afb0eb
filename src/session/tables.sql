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

-- What a backend remembers of a credential that it let in ends with these: a session that
-- was revoked or moved, a revoked token, a changed client (src/session/check.c).
CREATE TYPE _grownext.session_marker_credential AS ();

-- When an access token of the session was last bound, to within minutes. Apart from the
-- session, so that a long request never keeps a refresh or a revocation waiting.
CREATE TABLE _grownext.session_use (
    session_id uuid        NOT NULL,
    used_at    timestamptz NOT NULL,
    CONSTRAINT session_use_pkey PRIMARY KEY (session_id),
    CONSTRAINT session_use_session_id_fkey FOREIGN KEY (session_id) REFERENCES _grownext.session_session (id) ON DELETE CASCADE
) WITH (fillfactor = 70);
COMMENT ON TABLE _grownext.session_use IS 'When sessions were last used, to within minutes.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.session_use', '');

-- Access tokens that were revoked before their time. Only a valid token gets in, and it
-- leaves when it would have expired, so there are never more than live tokens.
CREATE TABLE _grownext.session_revoked_token (
    jti        text        NOT NULL,
    revoked_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT session_revoked_token_pkey PRIMARY KEY (jti),
    CONSTRAINT session_revoked_token_jti_chk CHECK (length(jti) BETWEEN 1 AND 256)
);
CREATE INDEX session_revoked_token_expires_idx ON _grownext.session_revoked_token (expires_at);
COMMENT ON TABLE _grownext.session_revoked_token IS 'Ids of access tokens that were revoked, until they would have expired.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.session_revoked_token', '');

-- OAuth clients: programs with an identity of their own. valid_from is the earliest issue
-- time of a token that counts; disabling moves it.
CREATE TABLE _grownext.session_client (
    id          text        NOT NULL COLLATE "C",
    name        text        NOT NULL,
    scopes      text[]      NOT NULL,
    grants      text[]      NOT NULL,
    audiences   text[]      NOT NULL,
    ttl         interval    NOT NULL,
    jwks        jsonb,
    tenant_id   uuid,
    role        name        NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    valid_from  timestamptz NOT NULL,
    disabled_at timestamptz,
    CONSTRAINT session_client_pkey PRIMARY KEY (id),
    CONSTRAINT session_client_name_key UNIQUE NULLS NOT DISTINCT (tenant_id, name),
    CONSTRAINT session_client_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES _grownext.tenant_tenant (id) ON DELETE CASCADE,
    CONSTRAINT session_client_id_chk CHECK (id ~ '^gnc_[A-Za-z0-9_-]{22}$'),
    CONSTRAINT session_client_name_chk CHECK (name <> '' AND length(name) <= 200),
    CONSTRAINT session_client_grants_chk CHECK (grants <@ ARRAY['client_credentials', 'refresh_token', 'urn:ietf:params:oauth:grant-type:token-exchange']),
    CONSTRAINT session_client_ttl_chk CHECK (ttl BETWEEN '1 second' AND '24 hours')
);
COMMENT ON TABLE _grownext.session_client IS 'OAuth clients.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.session_client', '');

-- Secrets are 256 random bits; their digests suffice. Two live while one replaces another.
CREATE TABLE _grownext.session_client_secret (
    client_id  text        NOT NULL COLLATE "C",
    digest     bytea       NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    CONSTRAINT session_client_secret_pkey PRIMARY KEY (client_id, digest),
    CONSTRAINT session_client_secret_client_id_fkey FOREIGN KEY (client_id) REFERENCES _grownext.session_client (id) ON DELETE CASCADE,
    CONSTRAINT session_client_secret_digest_chk CHECK (octet_length(digest) = 32)
);
-- one that stays
CREATE UNIQUE INDEX session_client_secret_current_idx ON _grownext.session_client_secret (client_id) WHERE expires_at IS NULL;
COMMENT ON TABLE _grownext.session_client_secret IS 'SHA-256 of the secrets of clients.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.session_client_secret', '');

-- Failed authentications, a row per client and one, named '', for all clients that do not
-- exist. No foreign key: a failure is written in the same way for both.
CREATE TABLE _grownext.session_client_failure (
    client_id        text        NOT NULL COLLATE "C",
    failures         bigint      NOT NULL,
    last_at          timestamptz NOT NULL,
    audited_at       timestamptz NOT NULL,
    audited_failures bigint      NOT NULL,
    CONSTRAINT session_client_failure_pkey PRIMARY KEY (client_id)
);
COMMENT ON TABLE _grownext.session_client_failure IS 'How often clients failed to authenticate.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.session_client_failure', '');

-- Assertions (private_key_jwt) that were used, until they expire: each counts once.
CREATE TABLE _grownext.session_assertion (
    client_id  text        NOT NULL COLLATE "C",
    digest     bytea       NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT session_assertion_pkey PRIMARY KEY (client_id, digest),
    CONSTRAINT session_assertion_client_id_fkey FOREIGN KEY (client_id) REFERENCES _grownext.session_client (id) ON DELETE CASCADE
);
CREATE INDEX session_assertion_expires_idx ON _grownext.session_assertion (expires_at);
COMMENT ON TABLE _grownext.session_assertion IS 'SHA-256 of the ids of assertions that clients have used.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.session_assertion', '');

CREATE TYPE grownext.client_credentials AS (client_id text, client_secret text);

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
