-- src/session/functions.sql: sessions begin, go on and end
--
-- Here and in the files beside it: what holds a secret (a token, an assertion, an answer
-- with tokens in it) stands in plain expressions only, assignments and RETURN. In a
-- statement it would be a parameter, which auto_explain writes into the log.
--
-- Helpers on the way to a token are PL/pgSQL, whose plans a backend keeps; an SQL function
-- with a search_path of its own is planned anew in every transaction.

CREATE OR REPLACE FUNCTION _grownext.session_token_make(id uuid, generation int, counter bigint) RETURNS text
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_session_token_make';
COMMENT ON FUNCTION _grownext.session_token_make(uuid, int, bigint) IS 'The refresh token of a session at a counter.';

CREATE OR REPLACE FUNCTION _grownext.session_token_parse(token text, OUT id uuid, OUT generation int, OUT counter bigint) RETURNS record
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_session_token_parse';
COMMENT ON FUNCTION _grownext.session_token_parse(text) IS 'What a refresh token says; NULLs unless this platform made it.';

CREATE OR REPLACE FUNCTION _grownext.session_claims_live(claims jsonb) RETURNS boolean
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_session_claims_live';
COMMENT ON FUNCTION _grownext.session_claims_live(jsonb) IS 'Whether the session, the client and the subject that a verified token names are still there, and nobody revoked it.';

-- What a backend remembers of credentials that passed ends with these. ALWAYS: replicated
-- and restored rows count as well.
CREATE OR REPLACE TRIGGER session_session_changed AFTER UPDATE ON _grownext.session_session
    FOR EACH ROW WHEN (NEW.revoked_at IS DISTINCT FROM OLD.revoked_at OR NEW.tenant_id IS DISTINCT FROM OLD.tenant_id
                       OR NEW.expires_at <> OLD.expires_at OR NEW.user_id <> OLD.user_id)
    EXECUTE FUNCTION _grownext.core_invalidate('session_marker_credential');
ALTER TABLE _grownext.session_session ENABLE ALWAYS TRIGGER session_session_changed;
CREATE OR REPLACE TRIGGER session_session_gone AFTER DELETE OR TRUNCATE ON _grownext.session_session
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('session_marker_credential');
ALTER TABLE _grownext.session_session ENABLE ALWAYS TRIGGER session_session_gone;

-- An access token of a session, for less than the session's scope or for an audience if
-- they are named, and never for longer than the session has to live.
CREATE OR REPLACE FUNCTION _grownext.session_access_token(session _grownext.session_session, tenant_role text, scope text, audience text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    usual CONSTANT int := coalesce((SELECT p.ttl FROM _grownext.jwt_profile AS p WHERE p.purpose = 'access'), 15 * 60);
    seconds CONSTANT int := greatest(least(usual, floor(extract(epoch FROM session.expires_at - _grownext.core_now()))::int), 1);
BEGIN
    RETURN jsonb_build_object(
        'access_token', _grownext.jwt_issue(session.user_id::text,
            jsonb_strip_nulls(jsonb_build_object(
                'sid', session.id,
                'tenant_id', session.tenant_id,
                'tenant_role', tenant_role,
                'client_id', session.client_id,
                'scope', coalesce(session_access_token.scope, session.scope),
                'role', 'grownext_user',
                'acr', session.acr,
                'amr', CASE WHEN session.amr <> '{}' THEN to_jsonb(session.amr) END,
                'auth_time', floor(extract(epoch FROM session.auth_time))::bigint)),
            session_access_token.audience, make_interval(secs => seconds), 'access'),
        'token_type', 'Bearer',
        'expires_in', seconds,
        'session_id', session.id);
END
$$;
COMMENT ON FUNCTION _grownext.session_access_token(_grownext.session_session, text, text, text) IS 'An access token of a session, as an answer of RFC 6749.';

-- A user's role in a tenant, as tenant_role_of() has it, and it stays so until this
-- transaction ends: whoever removes the member waits, and then finds the session.
CREATE OR REPLACE FUNCTION _grownext.session_tenant_role(tenant_id uuid, user_id uuid) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT m.role
              FROM _grownext.tenant_member AS m
              JOIN _grownext.tenant_tenant AS t ON t.id = m.tenant_id AND t.state = 'active'
             WHERE m.tenant_id = session_tenant_role.tenant_id AND m.user_id = session_tenant_role.user_id
               FOR KEY SHARE OF m);
END
$$;
COMMENT ON FUNCTION _grownext.session_tenant_role(uuid, uuid) IS 'A user''s role in an active tenant, locked; NULL for no member.';

CREATE OR REPLACE FUNCTION _grownext.session_require_member(tenant_id uuid, user_id uuid) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    role CONSTANT text := _grownext.session_tenant_role(session_require_member.tenant_id, session_require_member.user_id);
BEGIN
    IF role IS NULL AND session_require_member.tenant_id IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('user "%s" is no member of tenant "%s", or the tenant is not active', session_require_member.user_id, session_require_member.tenant_id),
            HINT = format('SELECT grownext.member_add(%L, %L, ''member'');', session_require_member.tenant_id, session_require_member.user_id);
    END IF;
    RETURN role;
END
$$;
COMMENT ON FUNCTION _grownext.session_require_member(uuid, uuid) IS 'The role of a member of an active tenant; raises for anybody else, NULL for no tenant.';

CREATE OR REPLACE FUNCTION grownext.session_create(user_id uuid, tenant_id uuid DEFAULT NULL, attributes jsonb DEFAULT '{}') RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made_at CONSTANT timestamptz := _grownext.core_now();
    given CONSTANT jsonb := coalesce(session_create.attributes, '{}');
    disabled boolean;
    tenant_role text;
    made _grownext.session_session;
BEGIN
    IF jsonb_typeof(given) <> 'object'
       OR EXISTS (SELECT FROM jsonb_each(given) AS a
                   WHERE a.key IN ('scope', 'acr', 'client_id', 'ip', 'user_agent') AND jsonb_typeof(a.value) <> 'string'
                      OR a.key = 'amr' AND (jsonb_typeof(a.value) <> 'array' OR a.value @? '$[*] ? (@.type() != "string")')
                      OR a.key = 'auth_time' AND jsonb_typeof(a.value) <> 'number') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'a session''s attributes must be an object; scope, acr, client_id, ip and user_agent strings, amr an array of strings, auth_time a number of seconds';
    END IF;
    -- waits for a user_disable() in flight, and makes the next one wait for this
    SELECT u.disabled_at IS NOT NULL INTO disabled FROM _grownext.account_user AS u WHERE u.id = session_create.user_id FOR SHARE;
    IF NOT FOUND THEN
        PERFORM _grownext.account_user_missing(session_create.user_id);
    ELSIF disabled THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('user "%s" is disabled', session_create.user_id),
            HINT = format('SELECT grownext.user_enable(%L);', session_create.user_id);
    END IF;
    IF given ->> 'client_id' LIKE 'gnc\_%'
       AND NOT EXISTS (SELECT FROM _grownext.session_client AS c WHERE c.id = given ->> 'client_id' AND c.disabled_at IS NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('client "%s" does not exist or is disabled', given ->> 'client_id');
    ELSIF _grownext.session_scope_words(given ->> 'scope') IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'a session''s scope must be words of visible ASCII characters with single spaces between them';
    END IF;
    tenant_role := _grownext.session_require_member(session_create.tenant_id, session_create.user_id);

    INSERT INTO _grownext.session_session AS s
           (id, user_id, tenant_id, client_id, scope, acr, amr, auth_time, ip, user_agent, attributes, created_at, expires_at)
    VALUES (gen_random_uuid(), session_create.user_id, session_create.tenant_id,
            coalesce(given ->> 'client_id', 'first-party'), coalesce(given ->> 'scope', ''), given ->> 'acr',
            ARRAY(SELECT jsonb_array_elements_text(given -> 'amr')),
            coalesce(to_timestamp((given ->> 'auth_time')::float8), made_at),
            (given ->> 'ip')::inet, given ->> 'user_agent',
            given - '{client_id,scope,acr,amr,auth_time,ip,user_agent}'::text[], made_at,
            made_at + current_setting('grownext.session_lifetime')::interval)
    RETURNING s.* INTO made;
    INSERT INTO _grownext.session_use (session_id, used_at) VALUES (made.id, made_at);
    PERFORM _grownext.audit_write('session.created', 'session:' || made.id, made.tenant_id, NULL,
        jsonb_build_object('user_id', made.user_id, 'client_id', made.client_id));
    PERFORM _grownext.core_event_emit('session.created', made.tenant_id,
        jsonb_build_object('session_id', made.id, 'user_id', made.user_id));
    RETURN _grownext.session_access_token(made, tenant_role, NULL, NULL)
        || jsonb_build_object('refresh_token', _grownext.session_token_make(made.id, made.generation, made.counter));
END
$$;
COMMENT ON FUNCTION grownext.session_create(uuid, uuid, jsonb) IS 'Begins a session of a user, in a tenant if one is named; returns access and refresh token.';

-- Ends sessions and tells who listens. The caller has checked the right to do so.
CREATE OR REPLACE FUNCTION _grownext.session_end(ids uuid[], reason text, action text) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ended record;
    count int := 0;
BEGIN
    FOR ended IN
        UPDATE _grownext.session_session AS s SET revoked_at = _grownext.core_now(), revoke_reason = session_end.reason
         WHERE s.id = ANY (session_end.ids) AND s.revoked_at IS NULL RETURNING s.id, s.user_id, s.tenant_id
    LOOP
        PERFORM _grownext.audit_write(session_end.action, 'session:' || ended.id, ended.tenant_id, NULL,
            jsonb_build_object('user_id', ended.user_id, 'reason', session_end.reason));
        PERFORM _grownext.core_event_emit(session_end.action, ended.tenant_id,
            jsonb_build_object('session_id', ended.id, 'user_id', ended.user_id, 'reason', session_end.reason));
        count := count + 1;
    END LOOP;
    RETURN count;
END
$$;
COMMENT ON FUNCTION _grownext.session_end(uuid[], text, text) IS 'Revokes sessions that still live; returns how many.';

CREATE OR REPLACE FUNCTION _grownext.session_error(error text, description text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN jsonb_build_object('error', error, 'error_description', description);
END
$$;
COMMENT ON FUNCTION _grownext.session_error(text, text) IS 'A refusal in the words of RFC 6749.';

CREATE OR REPLACE FUNCTION _grownext.session_refusal(description text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN _grownext.session_error('invalid_grant', description);
END
$$;
COMMENT ON FUNCTION _grownext.session_refusal(text) IS 'The refusal of a grant that is no good.';

-- The words of a scope, each once, in their order. NULL for what is none (RFC 6749,
-- section 3.3); no scope has no words.
CREATE OR REPLACE FUNCTION _grownext.session_scope_words(scope text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(scope, '') = '' THEN
        RETURN '{}';
    ELSIF length(scope) > 4096 OR scope !~ '^[\u0021\u0023-\u005B\u005D-\u007E]+( [\u0021\u0023-\u005B\u005D-\u007E]+)*$' THEN
        RETURN NULL;
    END IF;
    RETURN ARRAY(SELECT u.word FROM unnest(string_to_array(scope, ' ')) WITH ORDINALITY AS u (word, place)
                  GROUP BY u.word ORDER BY min(u.place));
END
$$;
COMMENT ON FUNCTION _grownext.session_scope_words(text) IS 'The words of a scope; NULL for a malformed one.';

-- A refresh, for a client that has authenticated, or for none. A refusal is returned, not
-- raised: a raise would undo the revocation that reuse causes. The access token is signed
-- before the row is locked, so that a slow signer keeps nobody waiting.
CREATE OR REPLACE FUNCTION _grownext.session_rotate(refresh_token text, client_id text, scope text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asked_at CONSTANT timestamptz := _grownext.core_now();
    idle CONSTANT interval := current_setting('grownext.session_idle_timeout')::interval;
    grace CONSTANT interval := current_setting('grownext.session_refresh_grace')::interval;
    words CONSTANT text[] := _grownext.session_scope_words(session_rotate.scope);
    given record;
    seen _grownext.session_session;
    found _grownext.session_session;
    tenant_role text;
    answer jsonb;
BEGIN
    given := _grownext.session_token_parse(coalesce(session_rotate.refresh_token, ''));
    IF given.id IS NULL THEN
        RETURN _grownext.session_refusal('the refresh token is not valid');
    END IF;
    SELECT s.* INTO seen FROM _grownext.session_session AS s WHERE s.id = given.id;
    -- A registered client's refresh token is good in its own hands alone, or in those of
    -- a trusted back end.
    IF seen.client_id IS DISTINCT FROM session_rotate.client_id
       AND (session_rotate.client_id IS NOT NULL OR seen.client_id LIKE 'gnc\_%' AND NOT _grownext.core_caller_has('service')) THEN
        RETURN _grownext.session_refusal('the refresh token is not valid');
    ELSIF seen.client_id LIKE 'gnc\_%'
          AND NOT EXISTS (SELECT FROM _grownext.session_client AS c WHERE c.id = seen.client_id AND c.disabled_at IS NULL) THEN
        RETURN _grownext.session_refusal('the session''s client is disabled');
    ELSIF words IS NULL OR words <> '{}' AND NOT words <@ coalesce(_grownext.session_scope_words(seen.scope), '{}') THEN
        RETURN _grownext.session_error('invalid_scope', 'the scope is malformed or more than the session has');
    END IF;
    -- Before anything moves: a suspended tenant's users come back with the token they have.
    IF seen.tenant_id IS NOT NULL AND seen.revoked_at IS NULL THEN
        tenant_role := _grownext.tenant_role_of(seen.tenant_id, seen.user_id);
        IF tenant_role IS NULL THEN
            RETURN _grownext.session_refusal('the user is no member of the tenant, or the tenant is not active');
        END IF;
    END IF;
    IF seen.revoked_at IS NULL AND seen.expires_at > asked_at
       AND given.generation = seen.generation AND given.counter IN (seen.counter, seen.counter - 1) THEN
        answer := _grownext.session_access_token(seen, tenant_role, nullif(array_to_string(words, ' '), ''), NULL);
    END IF;

    -- the current token, once: of several at once, one moves the counter and the rest wait here
    UPDATE _grownext.session_session AS s SET counter = s.counter + 1, last_refreshed_at = asked_at
     WHERE s.id = given.id AND s.generation = given.generation AND s.counter = given.counter
       AND s.revoked_at IS NULL AND s.expires_at > asked_at AND coalesce(s.last_refreshed_at, s.created_at) + idle > asked_at
    RETURNING s.* INTO found;

    IF found.id IS NULL THEN
        SELECT s.* INTO found FROM _grownext.session_session AS s WHERE s.id = given.id FOR UPDATE;
        IF found.id IS NULL OR found.revoked_at IS NOT NULL THEN
            RETURN _grownext.session_refusal('the session has ended');
        ELSIF found.expires_at <= asked_at OR coalesce(found.last_refreshed_at, found.created_at) + idle <= asked_at THEN
            RETURN _grownext.session_refusal('the session has expired');
        ELSIF found.generation <> given.generation OR given.counter > found.counter THEN
            -- of a future that a restore undid
            RETURN _grownext.session_refusal('the refresh token is not valid');
        ELSIF given.counter < found.counter - 1 OR found.last_refreshed_at + grace <= asked_at THEN
            -- two hold a token that only one was given: nobody can tell who is the thief
            PERFORM _grownext.session_end(ARRAY[found.id], 'refresh token reuse', 'session.reuse_detected');
            RETURN _grownext.session_refusal('the refresh token was used before; the session has been revoked');
        END IF;
        -- the immediate parent, within the grace: the answer was lost, or another tab was first
    END IF;

    IF answer IS NULL OR found.tenant_id IS DISTINCT FROM seen.tenant_id THEN
        -- the session has moved to another tenant meanwhile
        tenant_role := _grownext.tenant_role_of(found.tenant_id, found.user_id);
        IF tenant_role IS NULL AND found.tenant_id IS NOT NULL THEN
            RETURN _grownext.session_refusal('the user is no member of the tenant, or the tenant is not active');
        END IF;
        answer := _grownext.session_access_token(found, tenant_role, nullif(array_to_string(words, ' '), ''), NULL);
    END IF;
    RETURN answer || jsonb_build_object('refresh_token', _grownext.session_token_make(found.id, found.generation, found.counter));
END
$$;
COMMENT ON FUNCTION _grownext.session_rotate(text, text, text) IS 'New tokens for a refresh token, or {error, error_description}; reuse revokes the session.';

CREATE OR REPLACE FUNCTION grownext.session_refresh(refresh_token text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN _grownext.session_rotate(session_refresh.refresh_token, NULL, NULL);
END
$$;
COMMENT ON FUNCTION grownext.session_refresh(text) IS 'New tokens for a refresh token, or {error, error_description}; reuse revokes the session.';

-- An end user switches with a token of the very session, and gets no more than it had:
-- its scope, its audience, and no refresh token, for the one at hand goes on being good.
-- Whoever stole an access token must not be able to turn it into a lasting one.
CREATE OR REPLACE FUNCTION grownext.session_switch_tenant(session_id uuid, tenant_id uuid) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    switched_at CONSTANT timestamptz := _grownext.core_now();
    trusted CONSTANT boolean := _grownext.core_caller_has('service') OR _grownext.core_caller_has('admin');
    caller CONSTANT jsonb := grownext.claims();
    target _grownext.session_session;
    old_tenant uuid;
    tenant_role text;
    answer jsonb;
BEGIN
    SELECT s.* INTO target FROM _grownext.session_session AS s WHERE s.id = session_switch_tenant.session_id;
    IF target.id IS NULL OR NOT trusted AND (
           target.id IS DISTINCT FROM grownext.current_session() OR target.user_id IS DISTINCT FROM grownext.current_user_id()
           OR caller ? 'act' OR caller ->> 'client_id' IS DISTINCT FROM target.client_id) THEN
        PERFORM _grownext.session_ended();
    END IF;
    -- the member first, then the session, as member_remove() has it
    tenant_role := _grownext.session_require_member(session_switch_tenant.tenant_id, target.user_id);
    old_tenant := target.tenant_id;
    target.tenant_id := session_switch_tenant.tenant_id;
    answer := _grownext.session_access_token(target, tenant_role,
        CASE WHEN NOT trusted THEN coalesce(caller ->> 'scope', '') END,
        CASE WHEN NOT trusted THEN caller ->> 'aud' END);
    UPDATE _grownext.session_session AS s SET tenant_id = session_switch_tenant.tenant_id
     WHERE s.id = target.id AND s.revoked_at IS NULL AND s.expires_at > switched_at
    RETURNING s.* INTO target;
    IF NOT FOUND THEN
        PERFORM _grownext.session_ended();
    END IF;
    PERFORM _grownext.audit_write('session.switched', 'session:' || target.id, target.tenant_id,
        jsonb_build_object('tenant_id', old_tenant), jsonb_build_object('tenant_id', target.tenant_id, 'user_id', target.user_id));
    PERFORM _grownext.core_event_emit('session.switched', target.tenant_id,
        jsonb_build_object('session_id', target.id, 'user_id', target.user_id, 'previous_tenant_id', old_tenant));
    RETURN answer || CASE WHEN trusted THEN
        jsonb_build_object('refresh_token', _grownext.session_token_make(target.id, target.generation, target.counter)) ELSE '{}' END;
END
$$;
COMMENT ON FUNCTION grownext.session_switch_tenant(uuid, uuid) IS 'Moves a session to another tenant of its user, or to none; tokens of the old tenant end at once.';

CREATE OR REPLACE FUNCTION _grownext.session_ended() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'NX013', MESSAGE = 'session has ended',
        DETAIL = 'It was revoked, it expired, or it does not exist here.';
END
$$;
COMMENT ON FUNCTION _grownext.session_ended() IS 'Raises that a session has ended.';

CREATE OR REPLACE FUNCTION grownext.session_revoke(id uuid, reason text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- an end user ends the own sessions only; others' are as if they did not exist
    IF NOT (_grownext.core_caller_has('service') OR _grownext.core_caller_has('admin'))
       AND NOT EXISTS (SELECT FROM _grownext.session_session AS s
                        WHERE s.id = session_revoke.id AND s.user_id = grownext.current_user_id()) THEN
        RETURN false;
    END IF;
    RETURN _grownext.session_end(ARRAY[session_revoke.id], coalesce(session_revoke.reason, 'revoked'), 'session.revoked') = 1;
END
$$;
COMMENT ON FUNCTION grownext.session_revoke(uuid, text) IS 'Ends a session at once; true if it lived.';

CREATE OR REPLACE FUNCTION grownext.session_revoke_all(user_id uuid DEFAULT NULL, tenant_id uuid DEFAULT NULL, except_session uuid DEFAULT NULL, reason text DEFAULT NULL) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    whose uuid := session_revoke_all.user_id;
BEGIN
    IF NOT (_grownext.core_caller_has('service') OR _grownext.core_caller_has('admin')) THEN
        whose := coalesce(whose, grownext.current_user_id());
        IF whose IS NULL OR whose IS DISTINCT FROM grownext.current_user_id() THEN
            RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
                MESSAGE = 'permission denied to revoke the sessions of another user';
        END IF;
    ELSIF whose IS NULL AND session_revoke_all.tenant_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'a user or a tenant must be named';
    END IF;
    RETURN _grownext.session_end(
        ARRAY(SELECT s.id FROM _grownext.session_session AS s
               WHERE s.revoked_at IS NULL
                 AND (whose IS NULL OR s.user_id = whose)
                 AND (session_revoke_all.tenant_id IS NULL OR s.tenant_id = session_revoke_all.tenant_id)
                 AND s.id IS DISTINCT FROM session_revoke_all.except_session),
        coalesce(session_revoke_all.reason, 'revoked'), 'session.revoked');
END
$$;
COMMENT ON FUNCTION grownext.session_revoke_all(uuid, uuid, uuid, text) IS 'Ends every session of a user, of a tenant, or of a user in a tenant; returns how many.';

-- A disabled user's sessions end in the same transaction.
CREATE OR REPLACE FUNCTION _grownext.session_user_disabled() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.session_end(
        ARRAY(SELECT s.id FROM _grownext.session_session AS s WHERE s.user_id = NEW.id AND s.revoked_at IS NULL),
        'user disabled', 'session.revoked');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _grownext.session_user_disabled() IS 'Trigger: ends the sessions of a user who is disabled.';
CREATE OR REPLACE TRIGGER session_user_disabled AFTER UPDATE ON _grownext.account_user
    FOR EACH ROW WHEN (OLD.disabled_at IS NULL AND NEW.disabled_at IS NOT NULL)
    EXECUTE FUNCTION _grownext.session_user_disabled();

-- A member who leaves takes no session along.
CREATE OR REPLACE FUNCTION _grownext.session_member_removed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.session_end(
        ARRAY(SELECT s.id FROM _grownext.session_session AS s
               WHERE s.user_id = OLD.user_id AND s.tenant_id = OLD.tenant_id AND s.revoked_at IS NULL),
        'membership ended', 'session.revoked');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _grownext.session_member_removed() IS 'Trigger: ends the sessions of a member who leaves the tenant.';
CREATE OR REPLACE TRIGGER session_member_removed AFTER DELETE ON _grownext.tenant_member
    FOR EACH ROW EXECUTE FUNCTION _grownext.session_member_removed();

-- Tokens of an impersonation name no session of their subject.
CREATE OR REPLACE TRIGGER session_user_out AFTER UPDATE ON _grownext.account_user
    FOR EACH ROW WHEN (OLD.disabled_at IS NULL AND NEW.disabled_at IS NOT NULL)
    EXECUTE FUNCTION _grownext.core_invalidate('session_marker_credential');
ALTER TABLE _grownext.account_user ENABLE ALWAYS TRIGGER session_user_out;
CREATE OR REPLACE TRIGGER session_user_gone AFTER DELETE OR TRUNCATE ON _grownext.account_user
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('session_marker_credential');
ALTER TABLE _grownext.account_user ENABLE ALWAYS TRIGGER session_user_gone;
CREATE OR REPLACE TRIGGER session_member_gone AFTER DELETE OR TRUNCATE ON _grownext.tenant_member
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('session_marker_credential');
ALTER TABLE _grownext.tenant_member ENABLE ALWAYS TRIGGER session_member_gone;

CREATE OR REPLACE VIEW grownext.session WITH (security_barrier) AS
SELECT s.id, s.user_id, s.tenant_id, s.client_id, s.scope, s.acr, s.amr, s.auth_time, s.ip, s.user_agent, s.attributes,
       s.created_at, s.last_refreshed_at, s.expires_at, s.revoked_at, s.revoke_reason,
       greatest(s.created_at, s.last_refreshed_at, u.used_at) AS last_used_at, s.attributes ->> 'device' AS device
  FROM _grownext.session_session AS s
  LEFT JOIN _grownext.session_use AS u ON u.session_id = s.id
 WHERE (SELECT _grownext.core_caller_has('service') OR _grownext.core_caller_has('admin') OR _grownext.core_caller_has('auditor'))
    OR s.user_id = (SELECT grownext.current_user_id());
COMMENT ON VIEW grownext.session IS 'Sessions; an end user sees only the own ones.';

-- Forgets, a thousand of a kind at a pass: sessions that expired a month ago, and what
-- revoked or used tokens, assertions and secrets have expired.
CREATE OR REPLACE FUNCTION _grownext.session_tick(now timestamptz) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    forgotten int;
    most int;
BEGIN
    DELETE FROM _grownext.session_session AS s
     WHERE s.id IN (SELECT e.id FROM _grownext.session_session AS e
                     WHERE e.expires_at < session_tick.now - interval '30 days' LIMIT 1000 FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS most = ROW_COUNT;
    DELETE FROM _grownext.session_revoked_token AS r
     WHERE r.jti IN (SELECT e.jti FROM _grownext.session_revoked_token AS e
                      WHERE e.expires_at < session_tick.now LIMIT 1000 FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    most := greatest(most, forgotten);
    DELETE FROM _grownext.session_assertion AS a
     WHERE (a.client_id, a.digest) IN (SELECT e.client_id, e.digest FROM _grownext.session_assertion AS e
                      WHERE e.expires_at < session_tick.now LIMIT 1000 FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    most := greatest(most, forgotten);
    DELETE FROM _grownext.session_client_secret AS x WHERE x.expires_at < session_tick.now;
    DELETE FROM _grownext.session_client_failure AS f WHERE f.last_at < session_tick.now - interval '90 days';
    RETURN session_tick.now + CASE WHEN most = 1000 THEN interval '1 second' ELSE interval '1 hour' END;
END
$$;
COMMENT ON FUNCTION _grownext.session_tick(timestamptz) IS 'Forgets sessions that expired a month ago, and expired tokens, assertions and secrets.';
