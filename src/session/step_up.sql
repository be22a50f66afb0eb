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
