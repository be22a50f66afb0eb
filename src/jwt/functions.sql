-- src/jwt/functions.sql: tokens, and who a token speaks for; set-up and status

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
    PERFORM _grownext.jwt_check_discovery(options);
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
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    checked_at CONSTANT timestamptz := _grownext.core_now();
    key record;
    late record;
BEGIN
    SELECT k.* INTO key FROM _grownext.jwt_key AS k WHERE k.purpose = 'access' AND k.state = 'active';
    IF key.kid IS NULL AND NOT EXISTS (SELECT FROM _grownext.jwt_key) THEN
        RETURN NEXT ROW('jwt', 'signing key', 'off', 'no key signs access tokens',
            'SELECT * FROM grownext.setup(''https://auth.example.com'', ARRAY[''my-api'']);', NULL)::grownext.status_item;
        RETURN;
    ELSIF key.kid IS NULL THEN
        RETURN NEXT ROW('jwt', 'signing key', 'failed', 'no key signs access tokens',
            'SELECT grownext.key_rotate(''access'');', NULL)::grownext.status_item;
    ELSIF key.sealed IS NOT NULL AND NOT _grownext.crypto_opens(key.sealed) THEN
        RETURN NEXT ROW('jwt', 'signing key', 'failed',
            format('%s key %s cannot sign: master key "%s" is missing or another one', key.alg, key.kid, _grownext.crypto_sealed_under(key.sealed)),
            'The line on the master key says what to put back.', key.activated_at)::grownext.status_item;
    ELSE
        RETURN NEXT ROW('jwt', 'signing key', 'ok', format('%s key %s signs access tokens', key.alg, key.kid), NULL, key.activated_at)::grownext.status_item;
    END IF;

    SELECT min(r.rotate_at) AS at, string_agg(r.purpose, ', ' ORDER BY r.purpose) AS purposes INTO late
      FROM _grownext.jwt_rotation AS r
     WHERE CASE WHEN r.standby_kid IS NULL THEN r.publish_at ELSE r.rotate_at END < checked_at - interval '1 hour';
    IF late.purposes IS NOT NULL THEN
        RETURN NEXT ROW('jwt', 'key rotation', 'degraded', format('keys are late to rotate: %s', late.purposes),
            'Workers rotate them: see the lines on the scheduler and the master key.', late.at)::grownext.status_item;
    ELSIF key.activated_at < checked_at - interval '1 year' AND NOT EXISTS (SELECT FROM _grownext.jwt_rotation AS r WHERE r.purpose = 'access') THEN
        RETURN NEXT ROW('jwt', 'key rotation', 'degraded',
            format('the key of access tokens is %s days old and does not rotate by itself', extract(day FROM checked_at - key.activated_at)),
            'SELECT grownext.key_policy_define(''access'', ''{"rotate_after": "90 days"}'');', NULL)::grownext.status_item;
    ELSIF EXISTS (SELECT FROM _grownext.jwt_rotation) THEN
        RETURN QUERY SELECT 'jwt', 'key rotation', 'ok', format('next for purpose "%s" at %s', r.purpose, r.rotate_at), NULL::text, NULL::timestamptz
                       FROM _grownext.jwt_rotation AS r ORDER BY r.rotate_at, r.purpose LIMIT 1;
    ELSE
        RETURN NEXT ROW('jwt', 'key rotation', 'off', 'no key rotates by itself',
            'SELECT grownext.key_policy_define(''access'', ''{"rotate_after": "90 days"}'');', NULL)::grownext.status_item;
    END IF;

    -- as a mint would find it
    FOR late IN SELECT p.purpose, h.problem FROM _grownext.jwt_profile AS p, _grownext.jwt_hook_problem(p.hook_schema, p.hook_name, p.hook_owner) AS h (problem)
                 WHERE h.problem IS NOT NULL ORDER BY p.purpose LOOP
        RETURN NEXT ROW('jwt', 'claims hook of ' || late.purpose, 'failed', late.problem,
            'SELECT grownext.token_profile_define(...), with a hook that may run.', NULL)::grownext.status_item;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _grownext.jwt_status() IS 'Whether access tokens can be signed, and whether keys rotate in time.';
