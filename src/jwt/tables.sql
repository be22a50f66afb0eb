-- src/jwt/tables.sql: signing keys

CREATE TYPE _grownext.jwt_marker_key AS ();

-- Private parts are sealed under the master key and bound to kid and alg.
CREATE TABLE _grownext.jwt_key (
    kid            text        NOT NULL,
    purpose        text        NOT NULL,
    alg            text        NOT NULL,
    state          text        NOT NULL,
    provider       text        NOT NULL,
    ref            jsonb       NOT NULL DEFAULT '{}',
    public_jwk     jsonb       NOT NULL,
    sealed         bytea,
    created_at     timestamptz NOT NULL,
    published_at   timestamptz NOT NULL,
    activated_at   timestamptz,
    retired_at     timestamptz,
    accepted_until timestamptz,
    revoked_at     timestamptz,
    revoke_reason  text,
    CONSTRAINT jwt_key_pkey PRIMARY KEY (kid),
    CONSTRAINT jwt_key_kid_chk CHECK (kid ~ '^[A-Za-z0-9_-]{43}$'),
    CONSTRAINT jwt_key_purpose_chk CHECK (purpose ~ '^[a-z][a-z0-9_]{0,31}$'),
    CONSTRAINT jwt_key_state_chk CHECK (
        CASE state
            WHEN 'standby' THEN activated_at IS NULL AND retired_at IS NULL AND revoked_at IS NULL
            WHEN 'active' THEN activated_at IS NOT NULL AND retired_at IS NULL AND revoked_at IS NULL
            WHEN 'retiring' THEN retired_at IS NOT NULL AND accepted_until IS NOT NULL AND revoked_at IS NULL
            WHEN 'revoked' THEN revoked_at IS NOT NULL AND revoke_reason IS NOT NULL AND sealed IS NULL
            ELSE false
        END)
);
CREATE UNIQUE INDEX jwt_key_active_idx ON _grownext.jwt_key (purpose) WHERE state = 'active';
COMMENT ON TABLE _grownext.jwt_key IS 'Signing keys; private parts are ciphertext.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.jwt_key', '');

CREATE TYPE grownext.token_info AS (active boolean, error text, kid text, header jsonb, claims jsonb);
CREATE TYPE grownext.jws_result AS (valid boolean, error text, header jsonb, payload bytea);
