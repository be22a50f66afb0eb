-- src/jwt/key.sql: the life of signing keys: standby, active, retiring, gone; or revoked
--
-- One change of keys at a time: who moves a key from one state to another holds the table
-- against other changers. Readers, signers and verifiers go on.

CREATE OR REPLACE TRIGGER jwt_key_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.jwt_key
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('jwt_marker_key');
ALTER TABLE _grownext.jwt_key ENABLE ALWAYS TRIGGER jwt_key_invalidate;

SELECT _grownext.crypto_sealed_register('_grownext.jwt_key', 'sealed', '''jwt_key '' || kid || '' '' || alg');

CREATE OR REPLACE FUNCTION _grownext.jwt_check_purpose(purpose text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF purpose IS NULL OR purpose !~ '^[a-z][a-z0-9_]{0,31}$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'a key''s purpose must be up to 32 of a-z, 0-9 and "_", a letter first';
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.jwt_check_purpose(text) IS 'Raises unless the text may name a purpose of keys and tokens.';

-- An interval of an options object; NULL when it is not there.
CREATE OR REPLACE FUNCTION _grownext.jwt_interval_option(options jsonb, option text) RETURNS interval
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (options ->> option)::interval;
EXCEPTION WHEN invalid_datetime_format OR datetime_field_overflow OR interval_field_overflow THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
        MESSAGE = format('option "%s" must be an interval', option), HINT = 'Write it as ''90 days'' or ''15 minutes''.';
END
$$;
COMMENT ON FUNCTION _grownext.jwt_interval_option(jsonb, text) IS 'An option as an interval; raises 22023 when it is none.';

-- Making ------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.jwt_key_generate(alg text, bits integer, OUT kid text, OUT public_jwk jsonb, OUT sealed bytea) RETURNS record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_jwt_key_generate';
COMMENT ON FUNCTION _grownext.jwt_key_generate(text, integer) IS 'A fresh key: its thumbprint, public JWK and sealed private part.';

-- A key that nobody chose: of the profile's algorithm, else like the one before it.
CREATE OR REPLACE FUNCTION _grownext.jwt_key_like(purpose text, OUT alg text, OUT ref jsonb) RETURNS record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(p.alg, k.alg, 'ES256'),
           CASE WHEN k.provider = 'local' AND k.alg = coalesce(p.alg, k.alg) THEN k.ref ELSE '{}' END
      FROM (SELECT) AS one
      LEFT JOIN _grownext.jwt_profile AS p ON p.purpose = jwt_key_like.purpose
      LEFT JOIN LATERAL (
           SELECT o.* FROM _grownext.jwt_key AS o WHERE o.purpose = jwt_key_like.purpose AND o.activated_at IS NOT NULL
            ORDER BY o.activated_at DESC LIMIT 1) AS k ON true;
$$;
COMMENT ON FUNCTION _grownext.jwt_key_like(text) IS 'Algorithm and options of the next key of a purpose.';

-- Puts a key on standby, however it was come by. A kid is a hash of the public part: a key
-- that was revoked once never comes back.
CREATE OR REPLACE FUNCTION _grownext.jwt_key_add(kid text, purpose text, alg text, provider text, ref jsonb, public_jwk jsonb, sealed bytea, made_at timestamptz, details jsonb) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    expected CONSTANT text := (SELECT p.alg FROM _grownext.jwt_profile AS p WHERE p.purpose = jwt_key_add.purpose);
    held record;
BEGIN
    PERFORM _grownext.jwt_check_purpose(purpose);
    IF expected <> alg THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('keys of purpose "%s" must be of algorithm %s, not %s', purpose, expected, alg),
            DETAIL = 'The profile of the purpose says so.',
            HINT = format('SELECT grownext.key_create(%L, %L);', expected, purpose);
    END IF;
    INSERT INTO _grownext.jwt_key AS k (kid, purpose, alg, state, provider, ref, public_jwk, sealed, created_at, published_at)
    VALUES (jwt_key_add.kid, jwt_key_add.purpose, jwt_key_add.alg, 'standby', jwt_key_add.provider, jwt_key_add.ref,
            jwt_key_add.public_jwk, jwt_key_add.sealed, made_at, made_at)
    ON CONFLICT ON CONSTRAINT jwt_key_pkey DO NOTHING;
    IF NOT FOUND THEN
        SELECT k.purpose, k.state INTO held FROM _grownext.jwt_key AS k WHERE k.kid = jwt_key_add.kid;
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
            MESSAGE = format('signing key "%s" exists already', kid),
            DETAIL = format('It is %s, for purpose "%s".', held.state, held.purpose);
    END IF;
    PERFORM _grownext.audit_write('key.created', 'key:' || kid, NULL, NULL,
        jsonb_build_object('purpose', purpose, 'alg', alg, 'provider', provider) || details);
    PERFORM _grownext.core_event_emit('key.created', NULL,
        jsonb_build_object('kid', kid, 'purpose', purpose, 'alg', alg) || details);
    RETURN kid;
END
$$;
COMMENT ON FUNCTION _grownext.jwt_key_add(text, text, text, text, jsonb, jsonb, bytea, timestamptz, jsonb) IS 'Puts a key on standby and publishes it; returns its kid.';

CREATE OR REPLACE FUNCTION _grownext.jwt_key_make(alg text, purpose text, ref jsonb, made_at timestamptz, details jsonb) RETURNS text
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT _grownext.jwt_key_add(g.kid, purpose, alg, 'local', ref, g.public_jwk, g.sealed, made_at, details)
      FROM _grownext.jwt_key_generate(alg, (ref ->> 'bits')::int) AS g;
$$;
COMMENT ON FUNCTION _grownext.jwt_key_make(text, text, jsonb, timestamptz, jsonb) IS 'Makes a local key on standby; returns its kid.';

CREATE OR REPLACE FUNCTION grownext.key_create(alg text DEFAULT 'ES256', purpose text DEFAULT 'access', provider text DEFAULT 'local', ref jsonb DEFAULT '{}') RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.jwt_check_purpose(purpose);
    IF alg IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'a key needs an algorithm';
    END IF;
    IF provider IS DISTINCT FROM 'local' THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = format('key provider "%s" is not supported', coalesce(provider, 'NULL')),
            HINT = 'Use ''local'': the private key is sealed under the master key.';
    END IF;
    PERFORM _grownext.core_check_options(ref, '{"bits": "number"}');
    RETURN _grownext.jwt_key_make(alg, purpose, ref, _grownext.core_now(), '{}');
END
$$;
COMMENT ON FUNCTION grownext.key_create(text, text, text, jsonb) IS 'Makes a signing key on standby and publishes it; returns its kid.';

CREATE OR REPLACE FUNCTION grownext.key_import(file text, purpose text DEFAULT 'access') RETURNS text
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_jwt_key_import';
COMMENT ON FUNCTION grownext.key_import(text, text) IS 'Takes a private key from a file below grownext.key_directory, seals it and puts it on standby; for superusers.';

-- Rotating ----------------------------------------------------------------------

-- A verifier may hold a copy of the JWKS for five minutes (that is what jwks() is to be
-- served with), so a key signs only after it was published for longer.
CREATE OR REPLACE FUNCTION _grownext.jwt_publication(purpose text) RETURNS interval
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT p.publish_before FROM _grownext.jwt_key_policy AS p WHERE p.purpose = jwt_publication.purpose),
                    interval '6 minutes');
$$;
COMMENT ON FUNCTION _grownext.jwt_publication(text) IS 'How long a key of a purpose is published before it signs.';

-- Behind the lock of the caller. The tokens of the key that retires count until the longest
-- of them has expired, with an hour for a statement that was minting when we came.
CREATE OR REPLACE FUNCTION _grownext.jwt_key_activate(kid text, purpose text, rotated_at timestamptz, details jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old_kid text;
BEGIN
    UPDATE _grownext.jwt_key AS k
       SET state = 'retiring', retired_at = rotated_at,
           accepted_until = rotated_at + make_interval(secs => k.longest_ttl) + interval '1 hour'
     WHERE k.purpose = jwt_key_activate.purpose AND k.state = 'active'
    RETURNING k.kid INTO old_kid;
    UPDATE _grownext.jwt_key AS k
       SET state = 'active', activated_at = rotated_at,
           longest_ttl = coalesce((SELECT p.max_ttl FROM _grownext.jwt_profile AS p WHERE p.purpose = jwt_key_activate.purpose), 86400)
     WHERE k.kid = jwt_key_activate.kid;
    PERFORM _grownext.audit_write('key.rotated', 'key:' || kid, NULL,
        CASE WHEN old_kid IS NOT NULL THEN jsonb_build_object('active', old_kid) END,
        jsonb_build_object('active', kid, 'purpose', purpose) || details);
    PERFORM _grownext.core_event_emit('key.rotated', NULL,
        jsonb_build_object('kid', kid, 'previous_kid', old_kid, 'purpose', purpose));
END
$$;
COMMENT ON FUNCTION _grownext.jwt_key_activate(text, text, timestamptz, jsonb) IS 'Makes a standby key active and retires the one that was.';

CREATE OR REPLACE FUNCTION grownext.key_rotate(purpose text DEFAULT 'access', force boolean DEFAULT false) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rotated_at CONSTANT timestamptz := _grownext.core_now();
    publication interval;
    old_kid text;
    next record;
    fresh record;
BEGIN
    PERFORM _grownext.jwt_check_purpose(purpose);
    LOCK TABLE _grownext.jwt_key IN SHARE ROW EXCLUSIVE MODE;
    publication := _grownext.jwt_publication(purpose);
    SELECT * INTO fresh FROM _grownext.jwt_key_like(purpose);
    SELECT k.kid INTO old_kid FROM _grownext.jwt_key AS k WHERE k.purpose = key_rotate.purpose AND k.state = 'active';
    SELECT k.kid, k.published_at INTO next FROM _grownext.jwt_key AS k
     WHERE k.purpose = key_rotate.purpose AND k.state = 'standby' ORDER BY k.published_at, k.kid LIMIT 1;

    IF next.kid IS NULL THEN
        IF old_kid IS NOT NULL AND force IS NOT TRUE THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = format('there is no standby key for purpose "%s"', purpose),
                HINT = format('SELECT grownext.key_create(%L, %L); then rotate after %s minutes, or at once with force => true.',
                              fresh.alg, purpose, extract(epoch FROM publication)::int / 60);
        END IF;
        next.kid := _grownext.jwt_key_make(fresh.alg, purpose, fresh.ref, rotated_at, '{}');
    ELSIF old_kid IS NOT NULL AND force IS NOT TRUE AND next.published_at + publication > rotated_at THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('standby key "%s" was published too short a time ago', next.kid),
            DETAIL = format('Verifiers that cached the JWKS before %s do not know it yet.', next.published_at),
            HINT = format('Rotate after %s, or at once with force => true.', next.published_at + publication);
    END IF;
    PERFORM _grownext.jwt_key_activate(next.kid, purpose, rotated_at, jsonb_build_object('force', coalesce(force, false)));
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

-- Everything that is sealed, keys and secrets alike, whichever component it belongs to.
CREATE OR REPLACE FUNCTION grownext.key_rewrap(max_count int DEFAULT NULL) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    done int;
BEGIN
    IF max_count < 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'max_count must be positive';
    END IF;
    done := _grownext.crypto_rewrap(max_count);
    IF done > 0 THEN
        PERFORM _grownext.audit_write('master_key.rewrapped', 'database:' || current_database(), NULL, NULL, jsonb_build_object('values', done));
        PERFORM _grownext.core_event_emit('master_key.rewrapped', NULL, jsonb_build_object('values', done));
    END IF;
    RETURN done;
END
$$;
COMMENT ON FUNCTION grownext.key_rewrap(int) IS 'Seals everything that is under an older master key again under the current one; returns how many values.';

CREATE OR REPLACE VIEW grownext.signing_key WITH (security_barrier) AS
SELECT kid, purpose, alg, state, provider, public_jwk, created_at, published_at, activated_at, retired_at, revoked_at, accepted_until
  FROM _grownext.jwt_key;
COMMENT ON VIEW grownext.signing_key IS 'Signing keys and their states; private parts never leave the library.';
