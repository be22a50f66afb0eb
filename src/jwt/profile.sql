-- src/jwt/profile.sql: what tokens of a purpose say

-- Profiles are read together with the platform's issuer and audiences; keys prepare the
-- header that a profile's type makes.
CREATE OR REPLACE TRIGGER jwt_profile_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.jwt_profile
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('core_marker_option', 'jwt_marker_key');
ALTER TABLE _grownext.jwt_profile ENABLE ALWAYS TRIGGER jwt_profile_invalidate;

CREATE OR REPLACE FUNCTION _grownext.jwt_profile_texts(options jsonb, option text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT options ? option THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM jsonb_array_elements(options -> option) AS e WHERE jsonb_typeof(e) <> 'string' OR btrim(e #>> '{}') = '')
       OR jsonb_array_length(options -> option) > 64 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "%s" must be an array of up to 64 strings, none of them empty', option);
    END IF;
    RETURN ARRAY(SELECT jsonb_array_elements_text(options -> option));
END
$$;
COMMENT ON FUNCTION _grownext.jwt_profile_texts(jsonb, text) IS 'An option as an array of texts; NULL when it is not there.';

-- The hook was looked up, and the caller's right to it, by src/jwt/hook.c.
CREATE OR REPLACE FUNCTION _grownext.jwt_profile_store(purpose text, options jsonb, hook_schema name, hook_name name, hook_owner name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted _grownext.jwt_profile;
    seconds numeric;
BEGIN
    PERFORM _grownext.jwt_check_purpose(purpose);
    PERFORM _grownext.core_check_options(options,
        '{"issuer": "string", "audiences": "array", "ttl": "string", "max_ttl": "string", "claims": "array", "typ": "string", "alg": "string", "claims_hook": "string", "entitlements": "boolean"}');
    wanted.purpose := purpose;
    wanted.issuer := options ->> 'issuer';
    wanted.audiences := _grownext.jwt_profile_texts(options, 'audiences');
    wanted.claims := _grownext.jwt_profile_texts(options, 'claims');
    wanted.typ := coalesce(options ->> 'typ', CASE purpose WHEN 'access' THEN 'at+jwt' ELSE 'JWT' END);
    wanted.alg := options ->> 'alg';
    wanted.hook_schema := hook_schema;
    wanted.hook_name := hook_name;
    wanted.hook_owner := hook_owner;
    wanted.entitlements := coalesce((options ->> 'entitlements')::boolean, false);

    seconds := coalesce(extract(epoch FROM _grownext.jwt_interval_option(options, 'max_ttl')), 86400);
    IF seconds < 1 OR seconds > 31536000 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'option "max_ttl" must be between 1 second and 365 days';
    END IF;
    wanted.max_ttl := seconds;
    seconds := coalesce(extract(epoch FROM _grownext.jwt_interval_option(options, 'ttl')), least(900, wanted.max_ttl));
    IF seconds < 1 OR seconds > wanted.max_ttl THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('option "ttl" must be between 1 second and max_ttl, which is %s', make_interval(secs => wanted.max_ttl));
    END IF;
    wanted.ttl := seconds;

    IF btrim(wanted.issuer) = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'option "issuer" must not be empty';
    ELSIF cardinality(wanted.audiences) = 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'option "audiences" must name at least one',
            HINT = 'Leave it out for the audiences of the platform.';
    ELSIF wanted.typ !~ '^[A-Za-z0-9][A-Za-z0-9.+_-]{0,31}$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'option "typ" must be a media type without "application/"',
            HINT = 'Such as ''JWT'' or ''secevent+jwt'', at most 32 characters.';
    ELSIF lower(wanted.typ) = 'at+jwt' AND purpose <> 'access' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'tokens of type "at+jwt" are access tokens',
            DETAIL = 'Who verifies by type alone would take them for such.';
    ELSIF wanted.alg IS NOT NULL AND NOT _grownext.jwt_alg_supported(wanted.alg) THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = format('algorithm "%s" is not supported', wanted.alg);
    END IF;

    -- behind the lock that rotations take: a key must be accepted for as long as the
    -- longest token that it signs, from whatever profile
    LOCK TABLE _grownext.jwt_key IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO _grownext.jwt_profile VALUES (wanted.*)
    ON CONFLICT ON CONSTRAINT jwt_profile_pkey DO UPDATE
       SET issuer = EXCLUDED.issuer, audiences = EXCLUDED.audiences, ttl = EXCLUDED.ttl, max_ttl = EXCLUDED.max_ttl,
           claims = EXCLUDED.claims, typ = EXCLUDED.typ, alg = EXCLUDED.alg,
           hook_schema = EXCLUDED.hook_schema, hook_name = EXCLUDED.hook_name, hook_owner = EXCLUDED.hook_owner,
           entitlements = EXCLUDED.entitlements;
    UPDATE _grownext.jwt_key AS k SET longest_ttl = wanted.max_ttl
     WHERE k.purpose = wanted.purpose AND k.state = 'active' AND k.longest_ttl < wanted.max_ttl;
    PERFORM _grownext.audit_write('token_profile.defined', 'token_profile:' || purpose, NULL, NULL, options);
END
$$;
COMMENT ON FUNCTION _grownext.jwt_profile_store(text, jsonb, name, name, name) IS 'token_profile_define() after the caller and the hook were judged.';

CREATE OR REPLACE FUNCTION _grownext.jwt_alg_supported(alg text) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT AS 'MODULE_PATHNAME', 'gn_jwt_alg_supported';
COMMENT ON FUNCTION _grownext.jwt_alg_supported(text) IS 'Whether the library signs with an algorithm.';

CREATE OR REPLACE FUNCTION _grownext.jwt_hook_problem(schema name, name name, owner name) RETURNS text
LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'gn_jwt_hook_problem';
COMMENT ON FUNCTION _grownext.jwt_hook_problem(name, name, name) IS 'Why a claims hook may not run; NULL when it may.';

CREATE OR REPLACE FUNCTION grownext.token_profile_define(purpose text, options jsonb) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_token_profile_define';
COMMENT ON FUNCTION grownext.token_profile_define(text, jsonb) IS 'Says what tokens of a purpose carry, how long they live and who adds claims; replaces what was said before.';

CREATE OR REPLACE VIEW grownext.token_profile WITH (security_barrier) AS
SELECT u.purpose,
       coalesce(p.issuer, (SELECT o.value #>> '{}' FROM _grownext.core_option AS o WHERE o.name = 'issuer')) AS issuer,
       coalesce(p.audiences, (SELECT array_agg(a.name ORDER BY a.place) FROM _grownext.core_option AS o
                                CROSS JOIN LATERAL jsonb_array_elements_text(o.value) WITH ORDINALITY AS a (name, place)
                               WHERE o.name = 'audiences')) AS audiences,
       make_interval(secs => coalesce(p.ttl, 900)) AS ttl,
       make_interval(secs => coalesce(p.max_ttl, 86400)) AS max_ttl,
       p.claims,
       coalesce(p.typ, CASE u.purpose WHEN 'access' THEN 'at+jwt' ELSE 'JWT' END) AS typ,
       p.alg,
       CASE WHEN p.hook_name IS NOT NULL THEN format('%I.%I(text,jsonb)', p.hook_schema, p.hook_name) END AS claims_hook,
       p.hook_owner,
       p.purpose IS NOT NULL AS defined,
       coalesce(p.entitlements, false) AS entitlements
  FROM (SELECT 'access' AS purpose
        UNION SELECT purpose FROM _grownext.jwt_key
        UNION SELECT purpose FROM _grownext.jwt_profile) AS u
  LEFT JOIN _grownext.jwt_profile AS p ON p.purpose = u.purpose;
COMMENT ON VIEW grownext.token_profile IS 'What tokens of each purpose say, with what holds where nothing was defined.';
