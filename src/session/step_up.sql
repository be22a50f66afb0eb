-- src/session/step_up.sql: sessions that rise to a higher level of assurance

-- From now on the session is of this level, and a token of it says so. Never lower it
-- than it was: the levels are ordered by name.
CREATE OR REPLACE FUNCTION _grownext.session_raise(id uuid, acr text, amr text[]) RETURNS _grownext.session_session
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    raised_at CONSTANT timestamptz := _grownext.core_now();
    before jsonb;
    raised _grownext.session_session;
BEGIN
    SELECT jsonb_build_object('acr', s.acr, 'amr', to_jsonb(s.amr)) INTO before
      FROM _grownext.session_session AS s WHERE s.id = session_raise.id FOR UPDATE;
    UPDATE _grownext.session_session AS s
       SET acr = CASE WHEN s.acr ~ '^aal[123]$' AND session_raise.acr ~ '^aal[123]$'
                      THEN greatest(s.acr COLLATE "C", session_raise.acr COLLATE "C") ELSE session_raise.acr END,
           amr = s.amr || ARRAY(SELECT a.method FROM unnest(session_raise.amr) WITH ORDINALITY AS a (method, place)
                                 WHERE a.method <> ALL (s.amr) ORDER BY a.place),
           auth_time = raised_at
     WHERE s.id = session_raise.id AND s.revoked_at IS NULL AND s.expires_at > raised_at
    RETURNING s.* INTO raised;
    IF FOUND THEN
        PERFORM _grownext.audit_write('session.stepped_up', 'session:' || raised.id, raised.tenant_id, before,
            jsonb_build_object('acr', raised.acr, 'amr', to_jsonb(raised.amr), 'user_id', raised.user_id));
        PERFORM _grownext.core_event_emit('session.stepped_up', raised.tenant_id,
            jsonb_build_object('session_id', raised.id, 'user_id', raised.user_id, 'acr', raised.acr));
    END IF;
    RETURN raised;
END
$$;
COMMENT ON FUNCTION _grownext.session_raise(uuid, text, text[]) IS 'Raises the level of a session that lives.';

-- The session that a caller steps up: a trusted back end names any, an end user has the
-- one of the bound token, and nobody raises the session of a user by impersonating him.
CREATE OR REPLACE FUNCTION _grownext.session_to_raise(session_id uuid) RETURNS _grownext.session_session
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trusted CONSTANT boolean := _grownext.core_caller_has('service') OR _grownext.core_caller_has('admin');
    wanted CONSTANT uuid := coalesce(session_to_raise.session_id, grownext.current_session());
    found _grownext.session_session;
BEGIN
    IF wanted IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'NX010', MESSAGE = 'no session is named and the caller has none',
            HINT = 'Pass session_id, or bind a caller first with grownext.authenticate(token).';
    ELSIF NOT trusted AND (wanted IS DISTINCT FROM grownext.current_session() OR grownext.claims() ? 'act') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'permission denied to step up another session';
    END IF;
    SELECT s.* INTO found FROM _grownext.session_session AS s
     WHERE s.id = wanted AND s.revoked_at IS NULL AND s.expires_at > _grownext.core_now()
       AND (trusted OR s.user_id = grownext.current_user_id() AND s.client_id = grownext.claim('client_id'));
    RETURN found;
END
$$;
COMMENT ON FUNCTION _grownext.session_to_raise(uuid) IS 'The session that the caller may step up, NULLs if it has ended.';

-- An end user gets a token with the scope and the audience of the one at hand, and no
-- refresh token, as in session_switch_tenant().
CREATE OR REPLACE FUNCTION _grownext.session_raised(target _grownext.session_session, acr text, amr text[]) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trusted CONSTANT boolean := _grownext.core_caller_has('service') OR _grownext.core_caller_has('admin');
    caller CONSTANT jsonb := grownext.claims();
    tenant_role text;
    raised _grownext.session_session;
BEGIN
    -- the member first, then the session, as member_remove() has it
    tenant_role := _grownext.session_tenant_role(target.tenant_id, target.user_id);
    IF target.tenant_id IS NOT NULL AND tenant_role IS NULL THEN
        RETURN _grownext.session_refusal('the user is no member of the tenant, or the tenant is not active');
    END IF;
    raised := _grownext.session_raise(target.id, acr, amr);
    IF raised.id IS NULL OR raised.tenant_id IS DISTINCT FROM target.tenant_id THEN
        PERFORM _grownext.session_ended();
    END IF;
    RETURN _grownext.session_access_token(raised, tenant_role,
        CASE WHEN NOT trusted THEN coalesce(caller ->> 'scope', '') END,
        CASE WHEN NOT trusted THEN caller ->> 'aud' END);
END
$$;
COMMENT ON FUNCTION _grownext.session_raised(_grownext.session_session, text, text[]) IS 'Raises a session and returns an access token of it, or a refusal.';

-- The refresh token at hand goes on being good, and its next access tokens say the same.
CREATE OR REPLACE FUNCTION grownext.session_step_up(code text, session_id uuid DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target _grownext.session_session;
    outcome record;
BEGIN
    target := _grownext.session_to_raise(session_step_up.session_id);
    IF target.id IS NULL THEN
        RETURN _grownext.session_refusal('the session has ended');
    END IF;
    -- an assignment, for the parameters of statements reach logs (auto_explain)
    outcome := _grownext.account_totp_try(target.user_id, session_step_up.code);
    IF outcome.retry_at IS NOT NULL THEN
        RETURN _grownext.session_retry(outcome.retry_at);
    ELSIF NOT outcome.verified THEN
        RETURN _grownext.session_refusal('the code is not valid');
    END IF;
    RETURN _grownext.session_raised(target, 'aal2', ARRAY['otp', 'mfa']);
END
$$;
COMMENT ON FUNCTION grownext.session_step_up(text, uuid) IS 'Raises a session to level aal2 by a code of the second factor; returns a new access token or {error, error_description}.';

CREATE OR REPLACE FUNCTION grownext.session_elevate(session_id uuid, acr text, amr text[] DEFAULT '{}') RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target _grownext.session_session;
BEGIN
    IF session_elevate.session_id IS NULL OR session_elevate.acr IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'session_id and acr must not be null';
    ELSIF session_elevate.acr !~ '^[!-~]{1,64}$'
          OR EXISTS (SELECT FROM unnest(session_elevate.amr) AS m WHERE m IS NULL OR m !~ '^[!-~]{1,64}$') OR cardinality(session_elevate.amr) > 16 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'acr and each of at most 16 amr must be 1 to 64 visible ASCII characters';
    END IF;
    target := _grownext.session_to_raise(session_elevate.session_id);
    IF target.id IS NULL THEN
        RETURN _grownext.session_refusal('the session has ended');
    END IF;
    RETURN _grownext.session_raised(target, session_elevate.acr, coalesce(session_elevate.amr, '{}'));
END
$$;
COMMENT ON FUNCTION grownext.session_elevate(uuid, text, text[]) IS 'Raises a session to the level that a trusted back end has verified by means of its own; returns a new access token or {error, error_description}.';
