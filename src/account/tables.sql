-- src/account/tables.sql: users

CREATE TABLE _grownext.account_user (
    id          uuid        NOT NULL,
    email       text,
    name        text,
    external_id text,
    attributes  jsonb       NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    disabled_at timestamptz,
    CONSTRAINT account_user_pkey PRIMARY KEY (id),
    CONSTRAINT account_user_external_id_key UNIQUE (external_id),
    CONSTRAINT account_user_email_chk CHECK (email ~ '^[^@[:space:]]+@[^@[:space:]]+$' AND length(email) <= 320),
    CONSTRAINT account_user_attributes_chk CHECK (jsonb_typeof(attributes) = 'object')
);
-- one account per address, however it is spelt
CREATE UNIQUE INDEX account_user_email_idx ON _grownext.account_user (lower(email));
COMMENT ON TABLE _grownext.account_user IS 'Users of the platform.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.account_user', '');
