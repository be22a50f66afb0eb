-- src/account/totp.sql: second factors: one-time codes and recovery codes

CREATE OR REPLACE FUNCTION _grownext.account_totp_make(factor uuid, algorithm text, digits int, issuer text, label text, OUT sealed bytea, OUT answer jsonb) RETURNS record
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_account_totp_make';
COMMENT ON FUNCTION _grownext.account_totp_make(uuid, text, int, text, text) IS 'A new secret: sealed, and as its owner is shown it.';

CREATE OR REPLACE FUNCTION _grownext.account_totp_match(factor uuid, algorithm text, digits int, sealed bytea, last_step bigint, code text, at timestamptz) RETURNS bigint
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_account_totp_match';
COMMENT ON FUNCTION _grownext.account_totp_match(uuid, text, int, bytea, bigint, text, timestamptz) IS 'The step whose code this is; NULL if it is none that may be used now.';

CREATE OR REPLACE FUNCTION _grownext.account_recovery_make() RETURNS text
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_account_recovery_make';
COMMENT ON FUNCTION _grownext.account_recovery_make() IS 'A random recovery code.';

CREATE OR REPLACE FUNCTION _grownext.account_recovery_hash(factor uuid, code text) RETURNS bytea
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_account_recovery_hash';
COMMENT ON FUNCTION _grownext.account_recovery_hash(uuid, text) IS 'The keyed hash of a recovery code however it is typed; NULL for what cannot be one.';

SELECT _grownext.crypto_sealed_register('_grownext.account_totp', 'sealed', '''account_totp '' || id');

-- An end user acts for the own account, and nobody on his behalf: who impersonates a
-- user must not take the account over. To change a factor that counts, it has to be used.
CREATE OR REPLACE FUNCTION _grownext.account_check_own(user_id uuid, changes boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF user_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'user_id must not be null';
    ELSIF _grownext.core_caller_has('service') OR _grownext.core_caller_has('admin') THEN
        RETURN;
    ELSIF user_id IS DISTINCT FROM grownext.current_user_id() OR grownext.claims() ? 'act' THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = 'permission denied for the second factor of another user';
    ELSIF changes AND EXISTS (SELECT FROM _grownext.account_totp AS f
                               WHERE f.user_id = account_check_own.user_id AND f.activated_at IS NOT NULL) THEN
        PERFORM grownext.require_step_up('aal2', interval '15 minutes');
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.account_check_own(uuid, boolean) IS 'Raises unless the caller may use, or change, the second factor of this user.';

-- New recovery codes in place of the old ones. The hashes are what statements see.
CREATE OR REPLACE FUNCTION _grownext.account_recovery_renew(factor uuid) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    codes text[] := '{}';
    hashes bytea[] := '{}';
    code text;
BEGIN
    FOR i IN 1..10 LOOP
        code := _grownext.account_recovery_make();
        codes := codes || code;
        hashes := hashes || _grownext.account_recovery_hash(factor, code);
    END LOOP;
    DELETE FROM _grownext.account_recovery_code AS c WHERE c.factor_id = factor;
    INSERT INTO _grownext.account_recovery_code (factor_id, code_hash) SELECT factor, h FROM unnest(hashes) AS h;
    RETURN codes;
END
$$;
COMMENT ON FUNCTION _grownext.account_recovery_renew(uuid) IS 'Ten new recovery codes of a factor; the old ones are gone.';

CREATE OR REPLACE FUNCTION grownext.totp_enroll(user_id uuid, options jsonb DEFAULT '{}') RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given CONSTANT jsonb := coalesce(totp_enroll.options, '{}');
    algorithm CONSTANT text := coalesce(given ->> 'algorithm', 'SHA1');
    issuer text := given ->> 'issuer';
    factor CONSTANT uuid := gen_random_uuid();
    person record;
    made record;
    codes text[];
BEGIN
    PERFORM _grownext.account_check_own(totp_enroll.user_id, true);
    PERFORM _grownext.core_check_options(given, '{"algorithm": "string", "digits": "number", "issuer": "string", "label": "string"}');
    IF algorithm NOT IN ('SHA1', 'SHA256', 'SHA512') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'option "algorithm" must be SHA1, SHA256 or SHA512';
    ELSIF given ->> 'digits' NOT IN ('6', '8') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'option "digits" must be 6 or 8';
    ELSIF length(issuer) NOT BETWEEN 1 AND 100 OR length(given ->> 'label') NOT BETWEEN 1 AND 320 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'option "issuer" must have 1 to 100 characters, "label" 1 to 320';
    END IF;
    SELECT u.email, u.name, u.disabled_at IS NOT NULL AS disabled INTO person
      FROM _grownext.account_user AS u WHERE u.id = totp_enroll.user_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM _grownext.account_user_missing(totp_enroll.user_id);
    ELSIF person.disabled THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('user "%s" is disabled', totp_enroll.user_id),
            HINT = format('SELECT grownext.user_enable(%L);', totp_enroll.user_id);
    END IF;
    -- who the user sees in the list of the authenticator: the host of the platform's issuer
    issuer := coalesce(issuer,
        (SELECT coalesce(substring(o.value #>> '{}' FROM '^https?://([^/:]+)'), o.value #>> '{}') FROM _grownext.core_option AS o WHERE o.name = 'issuer'),
        current_database());

    made := _grownext.account_totp_make(factor, algorithm, coalesce((given ->> 'digits')::int, 6), issuer,
        coalesce(given ->> 'label', person.email, person.name, totp_enroll.user_id::text));
    DELETE FROM _grownext.account_totp AS f WHERE f.user_id = totp_enroll.user_id AND f.activated_at IS NULL;
    INSERT INTO _grownext.account_totp (id, user_id, algorithm, digits, sealed, created_at)
    VALUES (factor, totp_enroll.user_id, algorithm, coalesce((given ->> 'digits')::int, 6), made.sealed, _grownext.core_now());
    codes := _grownext.account_recovery_renew(factor);
    PERFORM _grownext.account_record('totp.enrolled', 'user:' || totp_enroll.user_id, NULL, jsonb_build_object('factor_id', factor),
        jsonb_build_object('user_id', totp_enroll.user_id, 'factor_id', factor));
    RETURN made.answer || jsonb_build_object('factor_id', factor, 'algorithm', algorithm,
        'digits', coalesce((given ->> 'digits')::int, 6), 'period', 30, 'recovery_codes', to_jsonb(codes));
END
$$;
COMMENT ON FUNCTION grownext.totp_enroll(uuid, jsonb) IS 'Makes a second factor: secret, otpauth URI and recovery codes, shown once; it counts from its first right code on.';

-- Every attempt is counted before it is judged, beside the transaction: neither a rollback
-- nor attempts side by side buy more of them. A right code takes the count back.
CREATE OR REPLACE FUNCTION _grownext.account_totp_try(user_id uuid, code text, OUT verified boolean, OUT retry_at timestamptz) RETURNS record
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tried_at CONSTANT timestamptz := _grownext.core_now();
    short _grownext.core_rate_verdict;
    long _grownext.core_rate_verdict;
    factor record;
    step bigint;
    hash bytea;
    used boolean := false;
BEGIN
    verified := false;
    -- nothing to guess, nothing to count
    IF NOT EXISTS (SELECT FROM _grownext.account_totp AS f WHERE f.user_id = account_totp_try.user_id) THEN
        RETURN;
    END IF;
    short := _grownext.core_failure_note('totp', user_id::text);
    long := _grownext.core_rate_take('totp_day', user_id::text, current_setting('grownext.account_totp_limit')::bigint, interval '1 day',
        CASE WHEN short.allowed THEN 1 ELSE 0 END);
    IF NOT (short.allowed AND long.allowed) THEN
        retry_at := greatest(CASE WHEN NOT short.allowed THEN short.retry_at END, CASE WHEN NOT long.allowed THEN long.retry_at END);
        RETURN;
    END IF;

    -- Of two with the same code at once the second waits here, and then sees the step used.
    FOR factor IN
        SELECT f.* FROM _grownext.account_totp AS f JOIN _grownext.account_user AS u ON u.id = f.user_id AND u.disabled_at IS NULL
         WHERE f.user_id = account_totp_try.user_id ORDER BY f.activated_at IS NULL FOR UPDATE OF f
    LOOP
        step := _grownext.account_totp_match(factor.id, factor.algorithm, factor.digits, factor.sealed, factor.last_step, code, tried_at);
        EXIT WHEN step IS NOT NULL;
        CONTINUE WHEN factor.activated_at IS NULL;
        hash := _grownext.account_recovery_hash(factor.id, code);
        DELETE FROM _grownext.account_recovery_code AS c WHERE c.factor_id = factor.id AND c.code_hash = hash;
        used := FOUND;
        EXIT WHEN used;
    END LOOP;

    IF step IS NULL AND NOT used THEN
        PERFORM _grownext.audit_write('totp.refused', 'user:' || user_id, NULL, NULL, NULL);
        IF short.remaining = 0 OR long.remaining = 0 THEN
            PERFORM _grownext.account_record('totp.locked', 'user:' || user_id, NULL, NULL, jsonb_build_object('user_id', user_id));
        END IF;
        RETURN;
    END IF;
    verified := true;
    PERFORM _grownext.core_failure_clear('totp', user_id::text);
    PERFORM _grownext.core_rate_clear('totp_day', user_id::text);
    IF used THEN
        PERFORM _grownext.account_record('totp.recovery_code_used', 'user:' || user_id, NULL, jsonb_build_object('factor_id', factor.id),
            jsonb_build_object('user_id', user_id, 'factor_id', factor.id,
                'remaining', (SELECT count(*) FROM _grownext.account_recovery_code AS c WHERE c.factor_id = factor.id)));
        UPDATE _grownext.account_totp AS f SET last_used_at = tried_at WHERE f.id = factor.id;
        RETURN;
    END IF;
    IF factor.activated_at IS NULL THEN
        -- the new one takes the old one's place
        DELETE FROM _grownext.account_totp AS f WHERE f.user_id = account_totp_try.user_id AND f.activated_at IS NOT NULL;
        PERFORM _grownext.account_record('totp.activated', 'user:' || user_id, NULL, jsonb_build_object('factor_id', factor.id),
            jsonb_build_object('user_id', user_id, 'factor_id', factor.id));
    ELSE
        PERFORM _grownext.audit_write('totp.verified', 'user:' || user_id, NULL, NULL, jsonb_build_object('factor_id', factor.id));
    END IF;
    UPDATE _grownext.account_totp AS f
       SET last_step = step, last_used_at = tried_at, activated_at = coalesce(f.activated_at, tried_at)
     WHERE f.id = factor.id;
END
$$;
COMMENT ON FUNCTION _grownext.account_totp_try(uuid, text) IS 'Judges a one-time or recovery code; says when to try again if that has to wait.';

CREATE OR REPLACE FUNCTION grownext.totp_verify(user_id uuid, code text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    outcome record;
BEGIN
    PERFORM _grownext.account_check_own(totp_verify.user_id, false);
    -- an assignment, for the parameters of statements reach logs (auto_explain)
    outcome := _grownext.account_totp_try(totp_verify.user_id, totp_verify.code);
    RETURN outcome.verified;
END
$$;
COMMENT ON FUNCTION grownext.totp_verify(uuid, text) IS 'Whether it is a right code of the user''s second factor, or one of the recovery codes; each counts once.';

CREATE OR REPLACE FUNCTION grownext.totp_recovery_codes(user_id uuid) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    factor uuid;
    codes text[];
BEGIN
    PERFORM _grownext.account_check_own(totp_recovery_codes.user_id, true);
    SELECT f.id INTO factor FROM _grownext.account_totp AS f
     WHERE f.user_id = totp_recovery_codes.user_id AND f.activated_at IS NOT NULL FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('user "%s" has no second factor', totp_recovery_codes.user_id),
            HINT = format('SELECT grownext.totp_enroll(%L); and then grownext.totp_verify() with the first code.', totp_recovery_codes.user_id);
    END IF;
    codes := _grownext.account_recovery_renew(factor);
    PERFORM _grownext.account_record('totp.recovery_codes_created', 'user:' || totp_recovery_codes.user_id, NULL,
        jsonb_build_object('factor_id', factor), jsonb_build_object('user_id', totp_recovery_codes.user_id, 'factor_id', factor));
    RETURN codes;
END
$$;
COMMENT ON FUNCTION grownext.totp_recovery_codes(uuid) IS 'Ten new recovery codes, shown once; the old ones no longer count.';

CREATE OR REPLACE FUNCTION grownext.totp_disable(user_id uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    factors uuid[];
BEGIN
    PERFORM _grownext.account_check_own(totp_disable.user_id, true);
    WITH gone AS (
        DELETE FROM _grownext.account_totp AS f WHERE f.user_id = totp_disable.user_id RETURNING f.id)
    SELECT array_agg(g.id) INTO factors FROM gone AS g;
    IF factors IS NULL THEN
        RETURN false;
    END IF;
    PERFORM _grownext.account_record('totp.disabled', 'user:' || totp_disable.user_id, jsonb_build_object('factor_ids', to_jsonb(factors)), NULL,
        jsonb_build_object('user_id', totp_disable.user_id));
    RETURN true;
END
$$;
COMMENT ON FUNCTION grownext.totp_disable(uuid) IS 'Takes a user''s second factor away, with its recovery codes; true if there was one.';

CREATE OR REPLACE VIEW grownext.totp_factor WITH (security_barrier) AS
SELECT f.id, f.user_id, CASE WHEN f.activated_at IS NULL THEN 'pending' ELSE 'active' END AS state,
       f.algorithm, f.digits, f.created_at, f.activated_at, f.last_used_at,
       (SELECT count(*) FROM _grownext.account_recovery_code AS c WHERE c.factor_id = f.id)::int AS recovery_codes
  FROM _grownext.account_totp AS f
 WHERE (SELECT _grownext.core_caller_has('service') OR _grownext.core_caller_has('admin') OR _grownext.core_caller_has('auditor'))
    OR f.user_id = (SELECT grownext.current_user_id());
COMMENT ON VIEW grownext.totp_factor IS 'Second factors, without their secrets; an end user sees only the own ones.';
