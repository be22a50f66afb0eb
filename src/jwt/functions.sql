-- src/jwt/functions.sql: signing keys, tokens, and who a token speaks for

CREATE OR REPLACE TRIGGER jwt_key_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.jwt_key
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('jwt_marker_key');
ALTER TABLE _grownext.jwt_key ENABLE ALWAYS TRIGGER jwt_key_invalidate;

-- Keys -------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.jwt_key_generate(alg text, bits integer, OUT kid text, OUT public_jwk jsonb, OUT sealed bytea) RETURNS record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_jwt_key_generate';
COMMENT ON FUNCTION _grownext.jwt_key_generate(text, integer) IS 'A fresh key: its thumbprint, public JWK and sealed private part.';

CREATE OR REPLACE FUNCTION grownext.key_create(alg text DEFAULT 'ES256', purpose text DEFAULT 'access', provider text DEFAULT 'local', ref jsonb DEFAULT '{}') RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fresh record;
    made_at CONSTANT timestamptz := _grownext.core_now();
BEGIN
    IF alg IS NULL OR purpose IS NULL OR purpose !~ '^[a-z][a-z0-9_]{0,31}$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'a key''s purpose must be up to 32 of a-z, 0-9 and "_", a letter first';
    END IF;
    IF provider IS DISTINCT FROM 'local' THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('key provider "%s" is not supported', coalesce(provider, 'NULL')),
            HINT = 'Use ''local'': the private key is sealed under the master key.';
    END IF;
    PERFORM _grownext.core_check_options(ref, '{"bits": "number"}');
    SELECT * INTO fresh FROM _grownext.jwt_key_generate(key_create.alg, (ref ->> 'bits')::int);
    INSERT INTO _grownext.jwt_key (kid, purpose, alg, state, provider, ref, public_jwk, sealed, created_at, published_at)
    VALUES (fresh.kid, key_create.purpose, key_create.alg, 'standby', key_create.provider, key_create.ref,
            fresh.public_jwk, fresh.sealed, made_at, made_at);
    PERFORM _grownext.audit_write('key.created', 'key:' || fresh.kid, NULL, NULL,
        jsonb_build_object('purpose', key_create.purpose, 'alg', key_create.alg, 'provider', key_create.provider));
    PERFORM _grownext.core_event_emit('key.created', NULL,
        jsonb_build_object('kid', fresh.kid, 'purpose', key_create.purpose, 'alg', key_create.alg));
    RETURN fresh.kid;
END
$$;
COMMENT ON FUNCTION grownext.key_create(text, text, text, jsonb) IS 'Makes a signing key on standby and publishes it; returns its kid.';

-- A verifier may hold a copy of the JWKS for five minutes (that is what jwks() is to be
-- served with), so a key signs only after it was published for longer.
CREATE OR REPLACE FUNCTION grownext.key_rotate(purpose text DEFAULT 'access', force boolean DEFAULT false) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rotated_at CONSTANT timestamptz := _grownext.core_now();
    publication CONSTANT interval := '6 minutes';
    -- the longest ttl of a token, and an hour for a statement that was minting when we came
    acceptance CONSTANT interval := '25 hours';
    old_kid text;
    next record;
BEGIN
    -- one change of keys at a time; readers and signers go on
    LOCK TABLE _grownext.jwt_key IN SHARE ROW EXCLUSIVE MODE;
    SELECT k.kid INTO old_kid FROM _grownext.jwt_key AS k WHERE k.purpose = key_rotate.purpose AND k.state = 'active';
    SELECT k.kid, k.published_at INTO next FROM _grownext.jwt_key AS k
     WHERE k.purpose = key_rotate.purpose AND k.state = 'standby' ORDER BY k.published_at, k.kid LIMIT 1;

    IF next.kid IS NULL THEN
        IF old_kid IS NOT NULL AND force IS NOT TRUE THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = format('there is no standby key for purpose "%s"', purpose),
                HINT = format('SELECT grownext.key_create(purpose => %L); then rotate after %s minutes, or at once with force => true.',
                              purpose, extract(minute FROM publication)::int);
        END IF;
        next.kid := grownext.key_create(purpose => key_rotate.purpose);
    ELSIF old_kid IS NOT NULL AND force IS NOT TRUE AND next.published_at + publication > rotated_at THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('standby key "%s" was published too short a time ago', next.kid),
            DETAIL = format('Verifiers that cached the JWKS before %s do not know it yet.', next.published_at),
            HINT = format('Rotate after %s, or at once with force => true.', next.published_at + publication);
    END IF;

    UPDATE _grownext.jwt_key AS k
       SET state = 'retiring', retired_at = rotated_at, accepted_until = rotated_at + acceptance
     WHERE k.kid = old_kid;
    UPDATE _grownext.jwt_key AS k SET state = 'active', activated_at = rotated_at WHERE k.kid = next.kid;
    PERFORM _grownext.audit_write('key.rotated', 'key:' || next.kid, NULL,
        CASE WHEN old_kid IS NOT NULL THEN jsonb_build_object('active', old_kid) END,
        jsonb_build_object('active', next.kid, 'purpose', key_rotate.purpose, 'force', coalesce(force, false)));
    PERFORM _grownext.core_event_emit('key.rotated', NULL,
        jsonb_build_object('kid', next.kid, 'previous_kid', old_kid, 'purpose', key_rotate.purpose));
    RETURN next.kid;
END
$$;
COMMENT ON FUNCTION grownext.key_rotate(text, boolean) IS 'Makes the oldest standby key of a purpose active and retires the active one; returns the kid now active.';

CREATE OR REPLACE FUNCTION grownext.key_revoke(kid text, reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old record;
BEGIN
    IF reason IS NULL OR reason = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'revoking a key needs a reason';
    END IF;
    LOCK TABLE _grownext.jwt_key IN SHARE ROW EXCLUSIVE MODE;
    SELECT k.purpose, k.state INTO old FROM _grownext.jwt_key AS k WHERE k.kid = key_revoke.kid;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('signing key "%s" does not exist', coalesce(key_revoke.kid, 'NULL'));
    ELSIF old.state = 'revoked' THEN
        RETURN;
    END IF;
    -- it will never sign again: what nobody needs, nobody can steal
    UPDATE _grownext.jwt_key AS k
       SET state = 'revoked', revoked_at = _grownext.core_now(), revoke_reason = key_revoke.reason, sealed = NULL
     WHERE k.kid = key_revoke.kid;
    PERFORM _grownext.audit_write('key.revoked', 'key:' || key_revoke.kid, NULL,
        jsonb_build_object('state', old.state), jsonb_build_object('state', 'revoked', 'purpose', old.purpose, 'reason', reason));
    PERFORM _grownext.core_event_emit('key.revoked', NULL,
        jsonb_build_object('kid', key_revoke.kid, 'purpose', old.purpose, 'reason', reason));
    IF old.state = 'active' THEN
        RAISE NOTICE USING MESSAGE = format('purpose "%s" has no active key now', old.purpose),
            HINT = format('SELECT grownext.key_rotate(%L);', old.purpose);
    END IF;
END
$$;
COMMENT ON FUNCTION grownext.key_revoke(text, text) IS 'Ends a key at once: it leaves the JWKS and nothing it signed counts any more.';

CREATE OR REPLACE VIEW grownext.signing_key WITH (security_barrier) AS
SELECT kid, purpose, alg, state, provider, public_jwk, created_at, published_at, activated_at, retired_at, revoked_at
  FROM _grownext.jwt_key;
COMMENT ON VIEW grownext.signing_key IS 'Signing keys and their states; private parts never leave the library.';

CREATE OR REPLACE FUNCTION grownext.jwks(purpose text DEFAULT NULL) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('keys', coalesce(jsonb_agg(k.public_jwk ORDER BY k.published_at, k.kid), '[]'))
      FROM _grownext.jwt_key AS k
     WHERE k.public_jwk ->> 'kty' <> 'oct' AND (jwks.purpose IS NULL OR k.purpose = jwks.purpose)
       AND (k.state IN ('standby', 'active') OR k.state = 'retiring' AND k.accepted_until > _grownext.core_now());
$$;
COMMENT ON FUNCTION grownext.jwks(text) IS 'The public keys as a JWK Set; may be cached for five minutes.';

CREATE OR REPLACE FUNCTION grownext.discovery() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    issuer CONSTANT text := (SELECT o.value #>> '{}' FROM _grownext.core_option AS o WHERE o.name = 'issuer');
BEGIN
    IF issuer IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'NX003', MESSAGE = 'no issuer is set up in this database',
            HINT = 'SELECT * FROM grownext.setup(''https://auth.example.com'', ARRAY[''my-api'']);';
    END IF;
    RETURN jsonb_build_object(
        'issuer', issuer,
        'jwks_uri', rtrim(issuer, '/') || '/.well-known/jwks.json',
        'response_types_supported', '[]'::jsonb,
        'subject_types_supported', jsonb_build_array('public'),
        'id_token_signing_alg_values_supported',
            (SELECT coalesce(jsonb_agg(DISTINCT k.alg), '[]') FROM _grownext.jwt_key AS k WHERE k.state <> 'revoked' AND k.public_jwk ->> 'kty' <> 'oct'));
END
$$;
COMMENT ON FUNCTION grownext.discovery() IS 'Metadata of the issuer for RFC 8414 and OpenID Connect discovery.';

-- Tokens -----------------------------------------------------------------------

CREATE OR REPLACE FUNCTION grownext.jwt_mint(subject text, claims jsonb DEFAULT '{}', audience text DEFAULT NULL, ttl interval DEFAULT NULL, purpose text DEFAULT 'access') RETURNS text
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_jwt_mint';
COMMENT ON FUNCTION grownext.jwt_mint(text, jsonb, text, interval, text) IS 'Signs a token with the active key of a purpose.';

CREATE OR REPLACE FUNCTION _grownext.jwt_issue(subject text, claims jsonb, audience text, ttl interval, purpose text) RETURNS text
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_jwt_issue';
COMMENT ON FUNCTION _grownext.jwt_issue(text, jsonb, text, interval, text) IS 'jwt_mint() for the platform itself, which may say sid, act and role.';

CREATE OR REPLACE FUNCTION grownext.jwt_verify(token text, audience text DEFAULT NULL, issuer text DEFAULT NULL, purpose text DEFAULT 'access') RETURNS jsonb
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_jwt_verify';
COMMENT ON FUNCTION grownext.jwt_verify(text, text, text, text) IS 'Claims of a token of this platform; raises NX011 or NX012 unless it is valid.';

CREATE OR REPLACE FUNCTION grownext.jwt_inspect(token text, audience text DEFAULT NULL, issuer text DEFAULT NULL, purpose text DEFAULT 'access') RETURNS grownext.token_info
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_jwt_inspect';
COMMENT ON FUNCTION grownext.jwt_inspect(text, text, text, text) IS 'What jwt_verify() would say of a token, as a row; never raises on a bad token.';

-- The caller's context ---------------------------------------------------------

CREATE OR REPLACE FUNCTION grownext.authenticate(token text, audience text DEFAULT NULL) RETURNS jsonb
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_authenticate';
COMMENT ON FUNCTION grownext.authenticate(text, text) IS 'Verifies an access token and binds its claims to this transaction; raises NX011, NX012 or NX013.';

CREATE OR REPLACE FUNCTION grownext.act_as(subject text, tenant_id uuid DEFAULT NULL, claims jsonb DEFAULT '{}', reason text DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_act_as';
COMMENT ON FUNCTION grownext.act_as(text, uuid, jsonb, text) IS 'Binds a subject named by a service or an admin to this transaction; with a reason it is an audited impersonation.';

-- Set-up and status ------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.jwt_setup(issuer text, audiences text[], options jsonb) RETURNS SETOF grownext.setup_step
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM _grownext.jwt_key AS k WHERE k.purpose = 'access' AND k.state = 'active') THEN
        RETURN NEXT ROW('signing key', 'unchanged', NULL)::grownext.setup_step;
    ELSIF (SELECT m.problem IS NOT NULL FROM _grownext.crypto_master_keys() AS m) THEN
        RETURN NEXT ROW('signing key', 'failed: it cannot be sealed without a master key',
            'Give the server a master key, then run setup() again.')::grownext.setup_step;
    ELSE
        PERFORM grownext.key_rotate('access');
        RETURN NEXT ROW('signing key', 'created', NULL)::grownext.setup_step;
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.jwt_setup(text, text[], jsonb) IS 'Makes the first signing key.';

CREATE OR REPLACE FUNCTION _grownext.jwt_status() RETURNS SETOF grownext.status_item
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'jwt', 'signing key',
           CASE WHEN k.kid IS NOT NULL THEN 'ok' WHEN EXISTS (SELECT FROM _grownext.jwt_key) THEN 'failed' ELSE 'off' END,
           CASE WHEN k.kid IS NOT NULL THEN format('%s key %s signs access tokens', k.alg, k.kid)
                ELSE 'no key signs access tokens' END,
           CASE WHEN k.kid IS NOT NULL THEN NULL
                WHEN EXISTS (SELECT FROM _grownext.jwt_key) THEN 'SELECT grownext.key_rotate(''access'');'
                ELSE 'SELECT * FROM grownext.setup(''https://auth.example.com'', ARRAY[''my-api'']);' END,
           k.activated_at
      FROM (SELECT) AS one
      LEFT JOIN _grownext.jwt_key AS k ON k.purpose = 'access' AND k.state = 'active';
$$;
COMMENT ON FUNCTION _grownext.jwt_status() IS 'Whether access tokens can be signed.';
