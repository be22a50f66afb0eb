-- src/jwt/tables.sql: signing keys, how they rotate, and profiles of tokens

CREATE TYPE _grownext.jwt_marker_key AS ();

-- Private parts are sealed under the master key and bound to kid and alg. longest_ttl: what
-- a token that it signed may have at most, in seconds.
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
    longest_ttl    int         NOT NULL DEFAULT 86400,
    retired_at     timestamptz,
    accepted_until timestamptz,
    revoked_at     timestamptz,
    revoke_reason  text,
    CONSTRAINT jwt_key_pkey PRIMARY KEY (kid),
    CONSTRAINT jwt_key_kid_chk CHECK (kid ~ '^[A-Za-z0-9_-]{43}$'),
    CONSTRAINT jwt_key_purpose_chk CHECK (purpose ~ '^[a-z][a-z0-9_]{0,31}$'),
    CONSTRAINT jwt_key_longest_ttl_chk CHECK (longest_ttl > 0),
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

-- When keys of a purpose rotate by themselves; without a row, or without rotate_after, never.
CREATE TABLE _grownext.jwt_key_policy (
    purpose        text     NOT NULL,
    rotate_after   interval,
    publish_before interval NOT NULL,
    rotate_at      time,
    keep_retired   interval NOT NULL,
    CONSTRAINT jwt_key_policy_pkey PRIMARY KEY (purpose),
    CONSTRAINT jwt_key_policy_purpose_chk CHECK (purpose ~ '^[a-z][a-z0-9_]{0,31}$'),
    CONSTRAINT jwt_key_policy_publish_before_chk CHECK (publish_before >= '6 minutes'),
    CONSTRAINT jwt_key_policy_rotate_after_chk CHECK (rotate_after > publish_before),
    CONSTRAINT jwt_key_policy_keep_retired_chk CHECK (keep_retired >= '0')
);
COMMENT ON TABLE _grownext.jwt_key_policy IS 'When the signing keys of a purpose rotate by themselves.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.jwt_key_policy', '');

-- What tokens of a purpose say. NULL: the platform's issuer and audiences, any claim, an
-- algorithm of the caller's choice, no hook. Times in seconds. The hook is stored by names.
CREATE TABLE _grownext.jwt_profile (
    purpose     text NOT NULL,
    issuer      text,
    audiences   text[],
    ttl         int  NOT NULL,
    max_ttl     int  NOT NULL,
    claims      text[],
    typ         text NOT NULL,
    alg         text,
    hook_schema name,
    hook_name   name,
    hook_owner  name,
    entitlements boolean NOT NULL DEFAULT false,
    CONSTRAINT jwt_profile_pkey PRIMARY KEY (purpose),
    CONSTRAINT jwt_profile_purpose_chk CHECK (purpose ~ '^[a-z][a-z0-9_]{0,31}$'),
    CONSTRAINT jwt_profile_issuer_chk CHECK (issuer <> ''),
    CONSTRAINT jwt_profile_audiences_chk CHECK (cardinality(audiences) > 0),
    CONSTRAINT jwt_profile_ttl_chk CHECK (ttl BETWEEN 1 AND max_ttl AND max_ttl <= 31536000),
    CONSTRAINT jwt_profile_typ_chk CHECK (typ ~ '^[A-Za-z0-9][A-Za-z0-9.+_-]{0,31}$'),
    CONSTRAINT jwt_profile_hook_chk CHECK (num_nulls(hook_schema, hook_name, hook_owner) IN (0, 3))
);
COMMENT ON TABLE _grownext.jwt_profile IS 'Profiles: what tokens of a purpose say and how long they live.';
SELECT pg_catalog.pg_extension_config_dump('_grownext.jwt_profile', '');

CREATE TYPE grownext.token_info AS (active boolean, error text, kid text, header jsonb, claims jsonb);
CREATE TYPE grownext.jws_result AS (valid boolean, error text, header jsonb, payload bytea);
