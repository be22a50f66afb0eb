-- src/account/tables.sql: users, login links, second factors

CREATE TABLE _grownext.account_user (
    id          uuid        NOT NULL,
    email       text,
    email_key   text COLLATE "C", -- what tells addresses apart: account_email_key(email), by a trigger
    name        text,
    external_id text COLLATE "C",
    attributes  jsonb       NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    disabled_at timestamptz,
    CONSTRAINT account_user_pkey PRIMARY KEY (id),
    CONSTRAINT account_user_external_id_key UNIQUE (external_id),
    -- one account per address, however it is spelt
    CONSTRAINT account_user_email_key_key UNIQUE (email_key),
    CONSTRAINT account_user_email_chk CHECK ((email IS NULL) = (email_key IS NULL) AND length(email) <= 320),
    CONSTRAINT account_user_name_chk CHECK (length(name) <= 200),
    CONSTRAINT account_user_external_id_chk CHECK (length(external_id) BETWEEN 1 AND 255),
    CONSTRAINT account_user_attributes_chk CHECK (jsonb_typeof(attributes) = 'object' AND octet_length(attributes::text) <= 65536)
);
COMMENT ON TABLE _grownext.account_user IS 'Users of the platform.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.account_user', '');

-- The token itself is nowhere: it is derived from the id under a sealed key when it is
-- sent. A row without a user stands for an address that nobody here has: asking for a
-- link does the same work, and shows the same, whether there is an account or not.
CREATE TABLE _grownext.account_login_link (
    id         uuid        NOT NULL,
    user_id    uuid,
    token_hash bytea       NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT account_login_link_pkey PRIMARY KEY (id),
    CONSTRAINT account_login_link_token_hash_key UNIQUE (token_hash),
    CONSTRAINT account_login_link_user_id_fkey FOREIGN KEY (user_id) REFERENCES _grownext.account_user (id) ON DELETE CASCADE,
    CONSTRAINT account_login_link_token_hash_chk CHECK (octet_length(token_hash) = 32),
    CONSTRAINT account_login_link_expires_at_chk CHECK (expires_at > created_at)
);
CREATE INDEX account_login_link_user_id_idx ON _grownext.account_login_link (user_id, created_at);
CREATE INDEX account_login_link_expires_at_idx ON _grownext.account_login_link (expires_at);
COMMENT ON TABLE _grownext.account_login_link IS 'Login links that were asked for and not used yet.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.account_login_link', '');

-- A user has one factor that counts and, while it is being replaced, one that waits for
-- its first right code. last_step is the latest step whose code was used: none counts twice.
CREATE TABLE _grownext.account_totp (
    id           uuid        NOT NULL,
    user_id      uuid        NOT NULL,
    algorithm    text        NOT NULL,
    digits       int         NOT NULL,
    sealed       bytea       NOT NULL,
    last_step    bigint      NOT NULL DEFAULT -1,
    created_at   timestamptz NOT NULL,
    activated_at timestamptz,
    last_used_at timestamptz,
    CONSTRAINT account_totp_pkey PRIMARY KEY (id),
    CONSTRAINT account_totp_user_id_fkey FOREIGN KEY (user_id) REFERENCES _grownext.account_user (id) ON DELETE CASCADE,
    CONSTRAINT account_totp_algorithm_chk CHECK (algorithm IN ('SHA1', 'SHA256', 'SHA512')),
    CONSTRAINT account_totp_digits_chk CHECK (digits IN (6, 8)),
    CONSTRAINT account_totp_used_chk CHECK ((activated_at IS NULL) = (last_step < 0))
);
CREATE UNIQUE INDEX account_totp_user_id_idx ON _grownext.account_totp (user_id, (activated_at IS NOT NULL));
CREATE INDEX account_totp_pending_idx ON _grownext.account_totp (created_at) WHERE activated_at IS NULL;
COMMENT ON TABLE _grownext.account_totp IS 'Second factors; their secrets are sealed under the master key.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.account_totp', '');

-- Codes are short, so their hashes are keyed: a dump alone does not tell them.
CREATE TABLE _grownext.account_recovery_code (
    factor_id uuid  NOT NULL,
    code_hash bytea NOT NULL,
    CONSTRAINT account_recovery_code_pkey PRIMARY KEY (factor_id, code_hash),
    CONSTRAINT account_recovery_code_factor_id_fkey FOREIGN KEY (factor_id) REFERENCES _grownext.account_totp (id) ON DELETE CASCADE,
    CONSTRAINT account_recovery_code_code_hash_chk CHECK (octet_length(code_hash) = 32)
);
COMMENT ON TABLE _grownext.account_recovery_code IS 'Recovery codes that were not used yet, as keyed hashes.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.account_recovery_code', '');

-- What the handler of a login_link.created event sends.
CREATE TYPE grownext.login_link_message AS (user_id uuid, email text, name text, token text, expires_at timestamptz);
COMMENT ON TYPE grownext.login_link_message IS 'What goes into the message with a login link.';
