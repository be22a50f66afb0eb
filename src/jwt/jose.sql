-- src/jwt/jose.sql: generic JOSE for keys that the caller brings

CREATE OR REPLACE FUNCTION grownext.jws_sign(payload bytea, jwk jsonb, header jsonb DEFAULT '{}') RETURNS text
LANGUAGE c VOLATILE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_jws_sign';
COMMENT ON FUNCTION grownext.jws_sign(bytea, jsonb, jsonb) IS 'Signs a payload as a compact JWS with a private or symmetric JWK of the caller''s; the platform''s own tokens come from jwt_mint().';

CREATE OR REPLACE FUNCTION grownext.jws_verify(token text, jwk jsonb) RETURNS grownext.jws_result
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_jws_verify';
COMMENT ON FUNCTION grownext.jws_verify(text, jsonb) IS 'Verifies any compact JWS with a JWK or JWK Set, public or symmetric; a bad token never raises, a bad key does.';

CREATE OR REPLACE FUNCTION grownext.jwk_thumbprint(jwk jsonb) RETURNS text
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_jwk_thumbprint_sql';
COMMENT ON FUNCTION grownext.jwk_thumbprint(jsonb) IS 'RFC 7638 thumbprint (SHA-256) of a JWK.';
