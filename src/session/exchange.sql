-- src/session/exchange.sql: one token for another (RFC 8693): less than it, or an
-- impersonation

-- Claims of an access token of this platform that is valid now, for whichever audience,
-- that nobody has revoked and whose tenant is active; NULL for anything else.
CREATE OR REPLACE FUNCTION _grownext.session_access_claims(token text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    audience text;
    info record;
    claims jsonb;
BEGIN
    FOREACH audience IN ARRAY _grownext.session_audiences() LOOP
        info := grownext.jwt_inspect(session_access_claims.token, audience);
        IF info.active THEN
            claims := info.claims;
            IF NOT _grownext.session_claims_live(claims)
               OR EXISTS (SELECT FROM _grownext.tenant_tenant AS t WHERE t.id = (claims ->> 'tenant_id')::uuid AND t.state <> 'active') THEN
                RETURN NULL;
            END IF;
            RETURN claims;
        END IF;
        EXIT WHEN info.error <> 'wrong_audience';
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _grownext.session_access_claims(text) IS 'Claims of a valid access token that nobody has revoked; NULL otherwise.';

-- The audience of a new token: audience and resource (RFC 8707) name the same thing here.
-- An error of RFC 6749 if it is none of those allowed, for all or for the client.
CREATE OR REPLACE FUNCTION _grownext.session_target(client _grownext.session_client, audience text, resource text, OUT chosen text, OUT error jsonb) RETURNS record
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    allowed text[] := _grownext.session_audiences();
BEGIN
    IF client.audiences <> '{}' THEN
        allowed := ARRAY(SELECT a FROM unnest(allowed) WITH ORDINALITY AS u (a, place) WHERE a = ANY (client.audiences) ORDER BY place);
    END IF;
    chosen := coalesce(session_target.audience, session_target.resource, allowed[1]);
    IF chosen IS NULL OR chosen <> ALL (allowed) OR coalesce(session_target.resource, chosen) <> chosen THEN
        chosen := NULL;
        error := _grownext.session_error('invalid_target', 'the audience or resource is not allowed');
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.session_target(_grownext.session_client, text, text) IS 'The audience of a new token, or an error of RFC 6749.';

-- The scope of a new token: what was asked for, if all of it may be given, else all that may.
CREATE OR REPLACE FUNCTION _grownext.session_grant_scope(scope text, allowed text[], OUT granted text, OUT error jsonb) RETURNS record
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    words CONSTANT text[] := _grownext.session_scope_words(session_grant_scope.scope);
BEGIN
    IF words = '{}' THEN
        granted := array_to_string(session_grant_scope.allowed, ' ');
    ELSIF words <@ session_grant_scope.allowed THEN
        granted := array_to_string(words, ' ');
    ELSE
        error := _grownext.session_error('invalid_scope', 'the scope is malformed or more than may be granted');
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.session_grant_scope(text, text[]) IS 'The scope of a new token, or an error of RFC 6749.';

CREATE OR REPLACE FUNCTION _grownext.session_exchange_answer(subject text, claims jsonb, audience text, ttl interval) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    longest CONSTANT int := (SELECT p.max_ttl FROM _grownext.jwt_profile AS p WHERE p.purpose = 'access');
    seconds CONSTANT int := least(floor(extract(epoch FROM ttl))::int, longest);
BEGIN
    IF seconds < 1 THEN
        RETURN _grownext.session_error('invalid_request', 'a token of the request is about to expire');
    END IF;
    RETURN jsonb_build_object(
        'access_token', _grownext.jwt_issue(session_exchange_answer.subject, session_exchange_answer.claims,
            session_exchange_answer.audience, make_interval(secs => seconds), 'access'),
        'issued_token_type', 'urn:ietf:params:oauth:token-type:access_token',
        'token_type', 'Bearer',
        'expires_in', seconds,
        'scope', session_exchange_answer.claims ->> 'scope');
END
$$;
COMMENT ON FUNCTION _grownext.session_exchange_answer(text, jsonb, text, interval) IS 'A token in exchange, as RFC 8693 answers; there is no refresh token.';

-- How long a token has to live.
CREATE OR REPLACE FUNCTION _grownext.session_remaining(claims jsonb) RETURNS interval
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN to_timestamp((claims ->> 'exp')::float8) - _grownext.core_now();
END
$$;
COMMENT ON FUNCTION _grownext.session_remaining(jsonb) IS 'The time until a token expires.';

-- Down-scoping: the same subject, session and impersonation, for less, for another
-- audience, for no longer than the token at hand.
CREATE OR REPLACE FUNCTION _grownext.session_downscope(client _grownext.session_client, subject_claims jsonb, scope text, audience text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    allowed text[] := coalesce(_grownext.session_scope_words(subject_claims ->> 'scope'), '{}');
    asked record;
    holder CONSTANT text := subject_claims ->> 'client_id';
BEGIN
    IF client.id IS NULL AND holder LIKE 'gnc\_%' THEN
        RETURN _grownext.session_error('invalid_client', 'client authentication failed');
    ELSIF client.tenant_id IS NOT NULL AND subject_claims ->> 'tenant_id' IS DISTINCT FROM client.tenant_id::text THEN
        RETURN _grownext.session_error('invalid_request', 'the subject_token is not valid');
    ELSIF client.id IS NOT NULL THEN
        allowed := ARRAY(SELECT w FROM unnest(allowed) WITH ORDINALITY AS u (w, place) WHERE w = ANY (client.scopes) ORDER BY place);
    END IF;
    asked := _grownext.session_grant_scope(session_downscope.scope, allowed);
    IF asked.error IS NOT NULL THEN
        RETURN asked.error;
    END IF;
    RETURN _grownext.session_exchange_answer(
        subject_claims ->> 'sub',
        (subject_claims - '{iss,sub,aud,exp,iat,nbf,jti}'::text[])
            || jsonb_build_object('scope', asked.granted, 'client_id', coalesce(client.id, holder)),
        session_downscope.audience,
        least(_grownext.session_remaining(subject_claims), interval '15 minutes', client.ttl));
END
$$;
COMMENT ON FUNCTION _grownext.session_downscope(_grownext.session_client, jsonb, text, text) IS 'A token for less than the one at hand.';

-- Why a token was asked for, in the words of whoever asked: one line.
CREATE OR REPLACE FUNCTION _grownext.session_explains(words text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(btrim(words) <> '' AND length(words) <= 500 AND words !~ '[[:cntrl:]]', false);
$$;
COMMENT ON FUNCTION _grownext.session_explains(text) IS 'Whether it is a line of up to 500 characters.';

-- Impersonation: the actor, whose token carries scope impersonate, gets a token that
-- speaks for a user and names the actor (act). It is given for a reason and a ticket, for
-- a quarter of an hour at most and for no longer than the actor's own; it has no refresh
-- token, no more scope than the actor has, and no impersonation begins from it. An actor
-- of a tenant stays in it.
CREATE OR REPLACE FUNCTION _grownext.session_impersonate(client _grownext.session_client, subject_token text, subject_token_type text, actor_token text, scope text, audience text, tenant_id text, reason text, ticket text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    uuid_form CONSTANT text := '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$';
    actor CONSTANT jsonb := _grownext.session_access_claims(actor_token);
    actor_scope CONSTANT text[] := array_remove(coalesce(_grownext.session_scope_words(actor ->> 'scope'), '{}'), 'impersonate');
    by_id CONSTANT boolean := subject_token_type = 'urn:grownext:token-type:user';
    subject_claims jsonb;
    subject uuid;
    tenant uuid;
    tenant_role text;
    asked record;
    ttl interval := least(_grownext.session_remaining(actor), interval '15 minutes');
    answer jsonb;
    issued jsonb;
BEGIN
    IF actor IS NULL OR client.tenant_id IS NOT NULL AND actor ->> 'tenant_id' IS DISTINCT FROM client.tenant_id::text THEN
        RETURN _grownext.session_error('invalid_request', 'the actor_token is not valid');
    ELSIF actor ? 'act' THEN
        RETURN _grownext.session_error('invalid_request', 'an impersonation may not begin from another one');
    ELSIF NOT coalesce('impersonate' = ANY (_grownext.session_scope_words(actor ->> 'scope')), false) THEN
        PERFORM _grownext.audit_write_for('user.impersonation_refused', NULL, (actor ->> 'tenant_id')::uuid, NULL,
            jsonb_build_object('client_id', actor ->> 'client_id'), actor ->> 'sub', NULL);
        RETURN _grownext.session_error('unauthorized_client', 'the actor''s token does not carry scope impersonate');
    ELSIF NOT _grownext.session_explains(reason) OR NOT _grownext.session_explains(ticket) THEN
        RETURN _grownext.session_error('invalid_request', 'an impersonation needs a reason and a ticket, each a line of at most 500 characters');
    ELSIF session_impersonate.tenant_id !~ uuid_form THEN
        RETURN _grownext.session_error('invalid_target', 'the tenant is not the actor''s to name');
    END IF;
    IF by_id THEN
        subject := CASE WHEN subject_token ~ uuid_form THEN subject_token::uuid END;
        tenant := coalesce(actor ->> 'tenant_id', session_impersonate.tenant_id)::uuid;
    ELSE
        subject_claims := _grownext.session_access_claims(subject_token);
        subject := CASE WHEN subject_claims ->> 'sub' ~ uuid_form AND NOT subject_claims ? 'act' THEN (subject_claims ->> 'sub')::uuid END;
        tenant := (subject_claims ->> 'tenant_id')::uuid;
        ttl := least(ttl, _grownext.session_remaining(subject_claims));
    END IF;
    IF coalesce(session_impersonate.tenant_id, tenant::text) IS DISTINCT FROM tenant::text
       OR actor ->> 'tenant_id' IS NOT NULL AND actor ->> 'tenant_id' IS DISTINCT FROM tenant::text THEN
        RETURN _grownext.session_error('invalid_target', 'the tenant is not the actor''s to name');
    END IF;
    tenant_role := _grownext.tenant_role_of(tenant, subject);
    -- whoever is not there, disabled or elsewhere is refused in the same words
    IF subject IS NULL OR subject::text = actor ->> 'sub' OR tenant IS NOT NULL AND tenant_role IS NULL
       OR NOT EXISTS (SELECT FROM _grownext.account_user AS u WHERE u.id = subject AND u.disabled_at IS NULL) THEN
        RETURN _grownext.session_error('invalid_request', 'the subject_token is not valid');
    END IF;
    asked := _grownext.session_grant_scope(session_impersonate.scope,
        CASE WHEN by_id THEN actor_scope
             ELSE ARRAY(SELECT w FROM unnest(actor_scope) AS w WHERE w = ANY (_grownext.session_scope_words(subject_claims ->> 'scope'))) END);
    IF asked.error IS NOT NULL THEN
        RETURN asked.error;
    END IF;
    answer := _grownext.session_exchange_answer(subject::text,
        jsonb_strip_nulls(jsonb_build_object(
            'sid', subject_claims ->> 'sid',
            'tenant_id', tenant,
            'tenant_role', tenant_role,
            'client_id', coalesce(client.id, actor ->> 'client_id'),
            'scope', asked.granted,
            'role', 'grownext_user',
            'act', jsonb_build_object('sub', actor ->> 'sub', 'client_id', actor ->> 'client_id', 'sid', actor ->> 'sid'))),
        session_impersonate.audience, ttl);
    IF answer ? 'error' THEN
        RETURN answer;
    END IF;
    issued := _grownext.session_assertion_claims(answer ->> 'access_token');
    PERFORM _grownext.audit_write_for('user.impersonated', 'user:' || subject, tenant, NULL,
        jsonb_build_object('reason', reason, 'ticket', ticket, 'scope', asked.granted, 'actor', actor ->> 'sub',
            'client_id', issued -> 'client_id', 'jti', issued -> 'jti', 'expires_at', to_timestamp((issued ->> 'exp')::float8)),
        actor ->> 'sub', subject::text);
    PERFORM _grownext.core_event_emit('user.impersonated', tenant,
        jsonb_build_object('user_id', subject, 'actor', actor ->> 'sub', 'reason', reason, 'ticket', ticket));
    RETURN answer;
END
$$;
COMMENT ON FUNCTION _grownext.session_impersonate(_grownext.session_client, text, text, text, text, text, text, text, text) IS 'A token that speaks for a user and names the actor.';

CREATE OR REPLACE FUNCTION _grownext.session_exchange(client _grownext.session_client, scope text, audience text, resource text, subject_token text, subject_token_type text, actor_token text, actor_token_type text, requested_token_type text, reason text, ticket text, tenant_id text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    token_types CONSTANT text[] := '{urn:ietf:params:oauth:token-type:access_token,urn:ietf:params:oauth:token-type:jwt}';
    target record;
    subject_claims jsonb;
BEGIN
    IF subject_token IS NULL OR subject_token_type IS NULL THEN
        RETURN _grownext.session_error('invalid_request', 'subject_token and subject_token_type are required');
    ELSIF (actor_token IS NULL) <> (actor_token_type IS NULL) THEN
        RETURN _grownext.session_error('invalid_request', 'actor_token and actor_token_type go together');
    ELSIF subject_token_type <> ALL (token_types) AND (actor_token IS NULL OR subject_token_type <> 'urn:grownext:token-type:user')
          OR actor_token_type <> ALL (token_types) THEN
        RETURN _grownext.session_error('invalid_request', 'that token type is not accepted');
    ELSIF requested_token_type <> ALL (token_types) THEN
        RETURN _grownext.session_error('invalid_request', 'that token type is not issued');
    END IF;
    target := _grownext.session_target(client, session_exchange.audience, session_exchange.resource);
    IF target.error IS NOT NULL THEN
        RETURN target.error;
    ELSIF actor_token IS NOT NULL THEN
        RETURN _grownext.session_impersonate(client, subject_token, subject_token_type, actor_token, session_exchange.scope,
            target.chosen, session_exchange.tenant_id, reason, ticket);
    END IF;
    subject_claims := _grownext.session_access_claims(subject_token);
    IF subject_claims IS NULL THEN
        RETURN _grownext.session_error('invalid_request', 'the subject_token is not valid');
    END IF;
    RETURN _grownext.session_downscope(client, subject_claims, session_exchange.scope, target.chosen);
END
$$;
COMMENT ON FUNCTION _grownext.session_exchange(_grownext.session_client, text, text, text, text, text, text, text, text, text, text, text) IS 'The token-exchange grant of RFC 8693.';
