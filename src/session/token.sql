-- src/session/token.sql: the token endpoint (RFC 6749), introspection (RFC 7662) and
-- revocation (RFC 7009), as functions
--
-- A refusal is returned as {error, error_description}, never raised: what a failure has
-- to leave behind (a revoked family, a failed authentication) must not be rolled back.
-- What is raised is the platform's own trouble: no set-up, no key.

CREATE OR REPLACE FUNCTION _grownext.session_client_token(client _grownext.session_client, scope text, audience text, resource text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    longest CONSTANT int := (SELECT p.max_ttl FROM _grownext.jwt_profile AS p WHERE p.purpose = 'access');
    seconds CONSTANT int := least(floor(extract(epoch FROM client.ttl))::int, longest);
    target record;
    asked record;
BEGIN
    IF client.tenant_id IS NOT NULL
       AND NOT EXISTS (SELECT FROM _grownext.tenant_tenant AS t WHERE t.id = client.tenant_id AND t.state = 'active') THEN
        RETURN _grownext.session_error('unauthorized_client', 'the client''s tenant is not active');
    ELSIF NOT _grownext.session_role_allowed(client.role) THEN
        RETURN _grownext.session_error('unauthorized_client', 'the client''s role is gone, or a privileged one now');
    END IF;
    target := _grownext.session_target(client, session_client_token.audience, session_client_token.resource);
    asked := _grownext.session_grant_scope(session_client_token.scope, client.scopes);
    IF coalesce(target.error, asked.error) IS NOT NULL THEN
        RETURN coalesce(target.error, asked.error);
    END IF;
    RETURN jsonb_build_object(
        'access_token', _grownext.jwt_issue(client.id,
            jsonb_strip_nulls(jsonb_build_object('client_id', client.id, 'scope', asked.granted, 'tenant_id', client.tenant_id, 'role', client.role)),
            target.chosen, make_interval(secs => seconds), 'access'),
        'token_type', 'Bearer',
        'expires_in', seconds,
        'scope', asked.granted);
END
$$;
COMMENT ON FUNCTION _grownext.session_client_token(_grownext.session_client, text, text, text) IS 'The client_credentials grant.';

CREATE OR REPLACE FUNCTION grownext.token(grant_type text, refresh_token text DEFAULT NULL, scope text DEFAULT NULL, client_id text DEFAULT NULL, client_secret text DEFAULT NULL, client_assertion_type text DEFAULT NULL, client_assertion text DEFAULT NULL, audience text DEFAULT NULL, resource text DEFAULT NULL, subject_token text DEFAULT NULL, subject_token_type text DEFAULT NULL, actor_token text DEFAULT NULL, actor_token_type text DEFAULT NULL, requested_token_type text DEFAULT NULL, reason text DEFAULT NULL, ticket text DEFAULT NULL, tenant_id text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    exchange CONSTANT text := 'urn:ietf:params:oauth:grant-type:token-exchange';
    caller record;
    client _grownext.session_client;
BEGIN
    IF octet_length(concat(grant_type, refresh_token, scope, client_id, client_secret, client_assertion_type, client_assertion, audience, resource,
                           subject_token, subject_token_type, actor_token, actor_token_type, requested_token_type, reason, ticket, tenant_id)) > 65536 THEN
        RETURN _grownext.session_error('invalid_request', 'the request is too large');
    ELSIF coalesce(grant_type, '') = '' THEN
        RETURN _grownext.session_error('invalid_request', 'grant_type is required');
    ELSIF grant_type NOT IN ('refresh_token', 'client_credentials', exchange) THEN
        RETURN _grownext.session_error('unsupported_grant_type', 'grant_type must be refresh_token, client_credentials or ' || exchange);
    END IF;
    -- a parameter without a value is no parameter (RFC 6749, section 3.2)
    IF grant_type = 'client_credentials'
       OR coalesce(nullif(token.client_id, ''), nullif(client_secret, ''), nullif(client_assertion, ''), nullif(client_assertion_type, '')) IS NOT NULL THEN
        caller := _grownext.session_client_authenticate(nullif(token.client_id, ''), nullif(client_secret, ''),
                                                        nullif(client_assertion_type, ''), nullif(client_assertion, ''));
        IF caller.error IS NOT NULL THEN
            RETURN caller.error;
        END IF;
        client := caller.client;
        IF grant_type <> ALL (client.grants) THEN
            RETURN _grownext.session_error('unauthorized_client', 'the client may not use this grant');
        END IF;
    END IF;

    IF grant_type = 'client_credentials' THEN
        RETURN _grownext.session_client_token(client, nullif(scope, ''), nullif(audience, ''), nullif(resource, ''));
    ELSIF grant_type = 'refresh_token' THEN
        IF coalesce(token.refresh_token, '') = '' THEN
            RETURN _grownext.session_error('invalid_request', 'refresh_token is required');
        END IF;
        RETURN _grownext.session_rotate(token.refresh_token, client.id, nullif(scope, ''));
    END IF;
    RETURN _grownext.session_exchange(client, nullif(scope, ''), nullif(audience, ''), nullif(resource, ''),
        nullif(subject_token, ''), nullif(subject_token_type, ''), nullif(actor_token, ''), nullif(actor_token_type, ''),
        nullif(requested_token_type, ''), nullif(reason, ''), nullif(ticket, ''), nullif(token.tenant_id, ''));
END
$$;
COMMENT ON FUNCTION grownext.token(text, text, text, text, text, text, text, text, text, text, text, text, text, text, text, text, text) IS 'The token endpoint of RFC 6749 with RFC 7523 and RFC 8693: tokens, or {error, error_description}.';

-- Whether a refresh token would be taken now, and for what; it is not used.
CREATE OR REPLACE FUNCTION _grownext.session_refresh_claims(token text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asked_at CONSTANT timestamptz := _grownext.core_now();
    idle CONSTANT interval := current_setting('grownext.session_idle_timeout')::interval;
    grace CONSTANT interval := current_setting('grownext.session_refresh_grace')::interval;
    given record;
    found _grownext.session_session;
    ends_at timestamptz;
BEGIN
    given := _grownext.session_token_parse(session_refresh_claims.token);
    SELECT s.* INTO found FROM _grownext.session_session AS s
     WHERE s.id = given.id AND s.generation = given.generation AND s.revoked_at IS NULL
       AND (s.counter = given.counter OR s.counter - 1 = given.counter AND s.last_refreshed_at + grace > asked_at);
    ends_at := least(found.expires_at, coalesce(found.last_refreshed_at, found.created_at) + idle);
    IF found.id IS NULL OR ends_at <= asked_at THEN
        RETURN NULL;
    END IF;
    RETURN jsonb_strip_nulls(jsonb_build_object(
        'iss', grownext.discovery() ->> 'issuer',
        'sub', found.user_id, 'sid', found.id, 'client_id', found.client_id, 'tenant_id', found.tenant_id, 'scope', found.scope,
        'iat', floor(extract(epoch FROM coalesce(found.last_refreshed_at, found.created_at)))::bigint,
        'exp', floor(extract(epoch FROM ends_at))::bigint));
END
$$;
COMMENT ON FUNCTION _grownext.session_refresh_claims(text) IS 'What a usable refresh token stands for; NULL otherwise.';

-- Services and admins may ask about any token, a client that has authenticated about those
-- that were made for it or that it is to accept.
CREATE OR REPLACE FUNCTION grownext.token_introspect(token text, token_type_hint text DEFAULT NULL, client_id text DEFAULT NULL, client_secret text DEFAULT NULL, client_assertion_type text DEFAULT NULL, client_assertion text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    inactive CONSTANT jsonb := '{"active": false}';
    refresh CONSTANT boolean := coalesce(token LIKE 'gnr\_%', false);
    caller record;
    client _grownext.session_client;
    claims jsonb;
BEGIN
    IF octet_length(concat(token_introspect.client_id, client_secret, client_assertion_type, client_assertion)) > 65536 THEN
        RETURN _grownext.session_error('invalid_request', 'the request is too large');
    ELSIF coalesce(nullif(token_introspect.client_id, ''), nullif(client_secret, ''), nullif(client_assertion, ''), nullif(client_assertion_type, '')) IS NOT NULL
       OR NOT (_grownext.core_caller_has('service') OR _grownext.core_caller_has('admin')) THEN
        caller := _grownext.session_client_authenticate(nullif(token_introspect.client_id, ''), nullif(client_secret, ''),
                                                        nullif(client_assertion_type, ''), nullif(client_assertion, ''));
        IF caller.error IS NOT NULL THEN
            RETURN caller.error;
        END IF;
        client := caller.client;
    END IF;
    IF token IS NULL THEN
        RETURN inactive;
    ELSIF refresh THEN
        claims := _grownext.session_refresh_claims(token);
    ELSE
        claims := _grownext.session_access_claims(token);
    END IF;
    IF claims IS NULL
       OR client.id IS NOT NULL AND claims ->> 'client_id' IS DISTINCT FROM client.id
          AND (refresh OR client.audiences <> '{}' AND NOT coalesce(claims ->> 'aud' = ANY (client.audiences), false))
       OR client.tenant_id IS NOT NULL AND claims ->> 'tenant_id' IS DISTINCT FROM client.tenant_id::text THEN
        RETURN inactive;
    END IF;
    RETURN claims || CASE WHEN refresh THEN '{"active": true, "token_use": "refresh_token"}'::jsonb
                          ELSE '{"active": true, "token_use": "access_token", "token_type": "Bearer"}' END;
END
$$;
COMMENT ON FUNCTION grownext.token_introspect(text, text, text, text, text, text) IS 'What a token stands for (RFC 7662): {active: false} for anything that does not count, or {error, error_description} for a caller who may not ask.';

-- Whoever holds a token may end it: that is less than he could do with it.
CREATE OR REPLACE FUNCTION grownext.token_revoke(token text, token_type_hint text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given record;
    claims jsonb;
BEGIN
    IF token LIKE 'gnr\_%' THEN
        -- any token of the family, the current one or not
        given := _grownext.session_token_parse(token_revoke.token);
        PERFORM _grownext.session_end(
            ARRAY(SELECT s.id FROM _grownext.session_session AS s WHERE s.id = given.id AND s.generation = given.generation),
            'refresh token revoked', 'session.revoked');
        RETURN;
    END IF;
    claims := _grownext.session_access_claims(token);
    IF claims ->> 'jti' IS NULL THEN
        RETURN;
    END IF;
    INSERT INTO _grownext.session_revoked_token (jti, revoked_at, expires_at)
    -- tokens are taken for half a minute beyond their time
    VALUES (claims ->> 'jti', _grownext.core_now(), to_timestamp((claims ->> 'exp')::float8) + interval '1 minute')
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM _grownext.audit_write('token.revoked', 'token:' || (claims ->> 'jti'), (claims ->> 'tenant_id')::uuid, NULL,
            jsonb_build_object('sub', claims ->> 'sub', 'client_id', claims ->> 'client_id'));
        PERFORM _grownext.core_event_emit('token.revoked', (claims ->> 'tenant_id')::uuid,
            jsonb_build_object('jti', claims ->> 'jti', 'sub', claims ->> 'sub', 'client_id', claims ->> 'client_id'));
    END IF;
END
$$;
COMMENT ON FUNCTION grownext.token_revoke(text, text) IS 'Ends a token at once (RFC 7009): a refresh token with its session, an access token alone; nothing happens for what is none.';

CREATE OR REPLACE TRIGGER session_revoked_token_added AFTER INSERT OR TRUNCATE ON _grownext.session_revoked_token
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('session_marker_credential');
ALTER TABLE _grownext.session_revoked_token ENABLE ALWAYS TRIGGER session_revoked_token_added;
