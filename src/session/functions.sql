-- src/session/functions.sql: sessions begin, go on and end

CREATE OR REPLACE FUNCTION _grownext.session_token_make(id uuid, generation int, counter bigint) RETURNS text
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_session_token_make';
COMMENT ON FUNCTION _grownext.session_token_make(uuid, int, bigint) IS 'The refresh token of a session at a counter.';

CREATE OR REPLACE FUNCTION _grownext.session_token_parse(token text, OUT id uuid, OUT generation int, OUT counter bigint) RETURNS record
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_session_token_parse';
COMMENT ON FUNCTION _grownext.session_token_parse(text) IS 'What a refresh token says; NULLs unless this platform made it.';

-- The answer of session_create and session_refresh: tokens for the session as it is now.
CREATE OR REPLACE FUNCTION _grownext.session_answer(session _grownext.session_session, tenant_role text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ttl CONSTANT interval := least(interval '15 minutes', session.expires_at - _grownext.core_now());
    seconds CONSTANT int := greatest(floor(extract(epoch FROM ttl))::int, 1);
BEGIN
    RETURN jsonb_build_object(
        'access_token', _grownext.jwt_issue(session.user_id::text,
            jsonb_strip_nulls(jsonb_build_object(
                'sid', session.id,
                'tenant_id', session.tenant_id,
                'tenant_role', tenant_role,
                'client_id', session.client_id,
                'scope', session.scope,
                'role', 'grownext_user',
                'acr', session.acr,
                'amr', CASE WHEN session.amr <> '{}' THEN to_jsonb(session.amr) END,
                'auth_time', floor(extract(epoch FROM session.auth_time))::bigint)),
            NULL, make_interval(secs => seconds), 'access'),
        'refresh_token', _grownext.session_token_make(session.id, session.generation, session.counter),
        'token_type', 'Bearer',
        'expires_in', seconds,
        'session_id', session.id);
END
$$;
COMMENT ON FUNCTION _grownext.session_answer(_grownext.session_session, text) IS 'Access and refresh token of a session.';

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
    IF session_create.tenant_id IS NOT NULL THEN
        tenant_role := _grownext.tenant_role_of(session_create.tenant_id, session_create.user_id);
        IF tenant_role IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
                MESSAGE = format('user "%s" is no member of tenant "%s", or the tenant is not active', session_create.user_id, session_create.tenant_id),
                HINT = format('SELECT grownext.member_add(%L, %L, ''member'');', session_create.tenant_id, session_create.user_id);
        END IF;
    END IF;

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
    PERFORM _grownext.audit_write('session.created', 'session:' || made.id, made.tenant_id, NULL,
        jsonb_build_object('user_id', made.user_id, 'client_id', made.client_id));
    PERFORM _grownext.core_event_emit('session.created', made.tenant_id,
        jsonb_build_object('session_id', made.id, 'user_id', made.user_id));
    RETURN _grownext.session_answer(made, tenant_role);
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

CREATE OR REPLACE FUNCTION _grownext.session_refusal(description text) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('error', 'invalid_grant', 'error_description', description);
$$;
COMMENT ON FUNCTION _grownext.session_refusal(text) IS 'A refusal in the words of RFC 6749.';

-- A refusal is returned, not raised: a raise would undo the revocation that reuse causes.
CREATE OR REPLACE FUNCTION grownext.session_refresh(refresh_token text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asked_at CONSTANT timestamptz := _grownext.core_now();
    idle CONSTANT interval := current_setting('grownext.session_idle_timeout')::interval;
    grace CONSTANT interval := current_setting('grownext.session_refresh_grace')::interval;
    given record;
    found _grownext.session_session;
    tenant_role text;
BEGIN
    given := _grownext.session_token_parse(coalesce(session_refresh.refresh_token, ''));
    IF given.id IS NULL THEN
        RETURN _grownext.session_refusal('the refresh token is not valid');
    END IF;
    -- Before anything moves: a suspended tenant's users come back with the token they have.
    SELECT s.* INTO found FROM _grownext.session_session AS s WHERE s.id = given.id;
    IF found.tenant_id IS NOT NULL THEN
        tenant_role := _grownext.tenant_role_of(found.tenant_id, found.user_id);
        IF tenant_role IS NULL AND found.revoked_at IS NULL THEN
            RETURN _grownext.session_refusal('the user is no member of the tenant, or the tenant is not active');
        END IF;
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

    RETURN _grownext.session_answer(found, tenant_role);
END
$$;
COMMENT ON FUNCTION grownext.session_refresh(text) IS 'New tokens for a refresh token, or {error, error_description}; reuse revokes the session.';

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

CREATE OR REPLACE VIEW grownext.session WITH (security_barrier) AS
SELECT s.id, s.user_id, s.tenant_id, s.client_id, s.scope, s.acr, s.amr, s.auth_time, s.ip, s.user_agent, s.attributes,
       s.created_at, s.last_refreshed_at, s.expires_at, s.revoked_at, s.revoke_reason
  FROM _grownext.session_session AS s
 WHERE (SELECT _grownext.core_caller_has('service') OR _grownext.core_caller_has('admin') OR _grownext.core_caller_has('auditor'))
    OR s.user_id = (SELECT grownext.current_user_id());
COMMENT ON VIEW grownext.session IS 'Sessions; an end user sees only the own ones.';

-- Forgets sessions that ended a month ago, a thousand at a pass.
CREATE OR REPLACE FUNCTION _grownext.session_tick(now timestamptz) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    forgotten int;
BEGIN
    DELETE FROM _grownext.session_session AS s
     WHERE s.id IN (SELECT e.id FROM _grownext.session_session AS e
                     WHERE e.expires_at < session_tick.now - interval '30 days' LIMIT 1000 FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    RETURN session_tick.now + CASE WHEN forgotten = 1000 THEN interval '1 second' ELSE interval '1 hour' END;
END
$$;
COMMENT ON FUNCTION _grownext.session_tick(timestamptz) IS 'Forgets sessions that expired a month ago.';
