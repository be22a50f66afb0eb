-- src/jwt/discovery.sql: what the platform says of itself to verifiers and clients

-- A symmetric key is a secret: whoever could read it in a JWK Set could sign.
CREATE OR REPLACE FUNCTION grownext.jwks(purpose text DEFAULT NULL) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('keys', coalesce(jsonb_agg(k.public_jwk ORDER BY k.published_at, k.kid), '[]'))
      FROM _grownext.jwt_key AS k
     WHERE (jwks.purpose IS NULL OR k.purpose = jwks.purpose)
       AND k.public_jwk ->> 'kty' IN ('EC', 'RSA', 'OKP') AND NOT k.public_jwk ?| ARRAY['k', 'd', 'p', 'q', 'dp', 'dq', 'qi']
       AND (k.state IN ('standby', 'active') OR k.state = 'retiring' AND k.accepted_until > _grownext.core_now());
$$;
COMMENT ON FUNCTION grownext.jwks(text) IS 'The public keys as a JWK Set; may be cached for five minutes.';

-- An endpoint that exists: where a gateway serves it, and the names of its arguments. Of
-- two functions for one endpoint the one made for gateways counts.
CREATE OR REPLACE FUNCTION _grownext.jwt_endpoint(base text, api_name text, sql_name text, OUT uri text, OUT arguments text[]) RETURNS record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT base || '/' || p.proname, coalesce(p.proargnames, '{}')
      FROM pg_proc AS p
     WHERE p.pronamespace = 'grownext_api'::regnamespace AND p.proname = api_name
        OR p.pronamespace = 'grownext'::regnamespace AND p.proname = sql_name
     ORDER BY p.pronamespace = 'grownext_api'::regnamespace DESC
     LIMIT 1;
$$;
COMMENT ON FUNCTION _grownext.jwt_endpoint(text, text, text) IS 'Address and arguments of a function that gateways serve; NULL when there is none.';

-- How a client may say who it is, by what the function can be told.
CREATE OR REPLACE FUNCTION _grownext.jwt_auth_methods(arguments text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_remove(ARRAY[
        CASE WHEN 'client_secret' = ANY (arguments) THEN 'client_secret_post' END,
        CASE WHEN 'client_assertion' = ANY (arguments) THEN 'private_key_jwt' END,
        'none'], NULL);
$$;
COMMENT ON FUNCTION _grownext.jwt_auth_methods(text[]) IS 'Client authentication methods of an endpoint with these arguments.';

-- Nothing is said that is not in the catalogue: an endpoint without a function is left out, a
-- grant that the token endpoint takes no argument for is not listed.
CREATE OR REPLACE FUNCTION grownext.discovery() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    option CONSTANT jsonb := (SELECT coalesce(jsonb_object_agg(o.name, o.value), '{}') FROM _grownext.core_option AS o);
    issuer CONSTANT text := coalesce((SELECT p.issuer FROM _grownext.jwt_profile AS p WHERE p.purpose = 'access'), option ->> 'issuer');
    base CONSTANT text := rtrim(coalesce(option ->> 'endpoint_base', issuer), '/');
    token record;
    introspection record;
    revocation record;
    userinfo record;
    signing CONSTANT text[] := ARRAY(
        SELECT a FROM unnest(ARRAY['ES256', 'ES384', 'ES512', 'RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'EdDSA']) AS a
         WHERE _grownext.jwt_alg_supported(a));
BEGIN
    IF option ->> 'issuer' IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'NX003', MESSAGE = 'no issuer is set up in this database',
            HINT = 'SELECT * FROM grownext.setup(''https://auth.example.com'', ARRAY[''my-api'']);';
    END IF;
    SELECT * INTO token FROM _grownext.jwt_endpoint(base, 'token', 'token');
    SELECT * INTO introspection FROM _grownext.jwt_endpoint(base, 'introspect', 'token_introspect');
    SELECT * INTO revocation FROM _grownext.jwt_endpoint(base, 'revoke', 'token_revoke');
    SELECT * INTO userinfo FROM _grownext.jwt_endpoint(base, 'userinfo', 'userinfo');
    RETURN jsonb_build_object(
        'issuer', issuer,
        'jwks_uri', coalesce(option ->> 'jwks_uri', rtrim(issuer, '/') || '/.well-known/jwks.json'),
        -- there is no authorization endpoint: nobody logs in here through a redirect
        'response_types_supported', '[]'::jsonb,
        'grant_types_supported', to_jsonb(array_remove(ARRAY[
            CASE WHEN 'code' = ANY (token.arguments) THEN 'authorization_code' END,
            CASE WHEN token.arguments && ARRAY['client_secret', 'client_assertion'] THEN 'client_credentials' END,
            CASE WHEN 'refresh_token' = ANY (token.arguments) THEN 'refresh_token' END,
            CASE WHEN 'subject_token' = ANY (token.arguments) THEN 'urn:ietf:params:oauth:grant-type:token-exchange' END], NULL)),
        'subject_types_supported', jsonb_build_array('public'),
        'id_token_signing_alg_values_supported', (
            SELECT coalesce(jsonb_agg(DISTINCT j ->> 'alg'), '[]') FROM jsonb_array_elements(grownext.jwks() -> 'keys') AS j))
        || jsonb_strip_nulls(jsonb_build_object(
            'token_endpoint', token.uri,
            'token_endpoint_auth_methods_supported', to_jsonb(CASE WHEN token.uri IS NOT NULL THEN _grownext.jwt_auth_methods(token.arguments) END),
            'token_endpoint_auth_signing_alg_values_supported', to_jsonb(CASE WHEN 'client_assertion' = ANY (token.arguments) THEN signing END),
            'introspection_endpoint', introspection.uri,
            'introspection_endpoint_auth_methods_supported',
                to_jsonb(CASE WHEN introspection.uri IS NOT NULL THEN _grownext.jwt_auth_methods(introspection.arguments) END),
            'introspection_endpoint_auth_signing_alg_values_supported',
                to_jsonb(CASE WHEN 'client_assertion' = ANY (introspection.arguments) THEN signing END),
            'revocation_endpoint', revocation.uri,
            'revocation_endpoint_auth_methods_supported',
                to_jsonb(CASE WHEN revocation.uri IS NOT NULL THEN _grownext.jwt_auth_methods(revocation.arguments) END),
            'revocation_endpoint_auth_signing_alg_values_supported',
                to_jsonb(CASE WHEN 'client_assertion' = ANY (revocation.arguments) THEN signing END),
            'userinfo_endpoint', userinfo.uri,
            'scopes_supported', option -> 'scopes_supported'));
END
$$;
COMMENT ON FUNCTION grownext.discovery() IS 'Metadata of the issuer for RFC 8414 and OpenID Connect discovery.';

-- What setup() stores for the above.
CREATE OR REPLACE FUNCTION _grownext.jwt_check_discovery(options jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    option text;
BEGIN
    FOREACH option IN ARRAY ARRAY['endpoint_base', 'jwks_uri'] LOOP
        IF options ->> option !~ '^https?://[^[:space:]?#"<>\\]+$' THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('option "%s" must be an http or https address without query and fragment', option);
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM jsonb_array_elements(options -> 'scopes_supported') AS s
                WHERE jsonb_typeof(s) <> 'string' OR s #>> '{}' !~ '^[!#-\[\]-~]+$') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'option "scopes_supported" must be an array of scopes', DETAIL = 'A scope is printable ASCII without spaces, quotes and backslashes.';
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.jwt_check_discovery(jsonb) IS 'Raises on setup options that discovery() could not repeat.';
