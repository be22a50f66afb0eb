-- src/crypto/tables.sql: known master keys, stored secrets, root keys; ciphertext only

-- Which master keys sealed something here, and how to tell a right one from a wrong one.
CREATE TABLE _grownext.crypto_master_key (
    id          text        NOT NULL,
    check_value bytea       NOT NULL,
    adopted_at  timestamptz NOT NULL,
    CONSTRAINT crypto_master_key_pkey PRIMARY KEY (id),
    CONSTRAINT crypto_master_key_check_value_chk CHECK (octet_length(check_value) = 16)
);
COMMENT ON TABLE _grownext.crypto_master_key IS 'Master keys known to this database: their check values, never themselves.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.crypto_master_key', '');

-- Newest version first; an older one lives on until retires_at while both ends change.
CREATE TABLE _grownext.crypto_secret (
    name       text        NOT NULL,
    version    int         NOT NULL,
    sealed     bytea       NOT NULL,
    created_at timestamptz NOT NULL,
    retires_at timestamptz,
    CONSTRAINT crypto_secret_pkey PRIMARY KEY (name, version),
    CONSTRAINT crypto_secret_version_chk CHECK (version > 0)
);
CREATE UNIQUE INDEX crypto_secret_current_idx ON _grownext.crypto_secret (name) WHERE retires_at IS NULL;
COMMENT ON TABLE _grownext.crypto_secret IS 'Stored secrets, sealed under the master key.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.crypto_secret', '');

-- Random keys from which others are derived, one per use.
CREATE TABLE _grownext.crypto_root (
    name       text        NOT NULL,
    sealed     bytea       NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT crypto_root_pkey PRIMARY KEY (name)
);
COMMENT ON TABLE _grownext.crypto_root IS 'Root keys of this database, sealed under the master key.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.crypto_root', '');

-- Where sealed values are, so that status() and key_rewrap() find all of them: whoever has
-- such a column registers it. Not dumped: the functions' script writes it.
CREATE TABLE _grownext.crypto_sealed (
    relation    text NOT NULL,
    column_name text NOT NULL,
    purpose     text NOT NULL,
    CONSTRAINT crypto_sealed_pkey PRIMARY KEY (relation, column_name)
);
COMMENT ON TABLE _grownext.crypto_sealed IS 'Columns that hold sealed values, with the expression that gives a row''s purpose.';
