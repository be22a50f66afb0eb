-- src/tenant/invitation.sql: how people come into a tenant
--
-- An invitation is redeemed once: every step locks the tenant, and the row itself is
-- guarded for transactions with an old snapshot. The token is derived under a sealed key
-- from a random nonce when it is sent, and stored as a hash (src/tenant/invitation.c). A
-- pending invitation holds the seat that its acceptance takes.

CREATE OR REPLACE FUNCTION _grownext.tenant_nonce() RETURNS bytea
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_tenant_nonce';
COMMENT ON FUNCTION _grownext.tenant_nonce() IS '256 random bits.';

CREATE OR REPLACE FUNCTION _grownext.tenant_invitation_token(nonce bytea) RETURNS text
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_tenant_invitation_token';
COMMENT ON FUNCTION _grownext.tenant_invitation_token(bytea) IS 'The token of an invitation.';

CREATE OR REPLACE FUNCTION _grownext.tenant_token_hash(token text) RETURNS bytea
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_tenant_token_hash';
COMMENT ON FUNCTION _grownext.tenant_token_hash(text) IS 'What is stored of a token.';

-- The log outlives a person's right to be forgotten, so the address is in the event
-- alone, whose handler sends the message.
CREATE OR REPLACE FUNCTION _grownext.tenant_invitation_record(action text, invitation _grownext.tenant_invitation, old_state text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    after CONSTANT jsonb := jsonb_build_object('invitation_id', invitation.id, 'role', invitation.role, 'domains', invitation.domains, 'state', invitation.state,
        'invited_by', invitation.invited_by, 'accepted_by', invitation.accepted_by, 'expires_at', invitation.expires_at);
BEGIN
    PERFORM _grownext.audit_write(action, 'invitation:' || invitation.id, invitation.tenant_id,
        CASE WHEN old_state IS NOT NULL THEN jsonb_build_object('state', old_state) END, after);
    PERFORM _grownext.core_event_emit(action, invitation.tenant_id, after || jsonb_build_object('email', invitation.email));
END
$$;
COMMENT ON FUNCTION _grownext.tenant_invitation_record(text, _grownext.tenant_invitation, text) IS 'Records what became of an invitation.';

CREATE OR REPLACE FUNCTION _grownext.tenant_invitation_holds_seat(invitation _grownext.tenant_invitation) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT invitation.state = 'pending' AND invitation.expires_at > _grownext.core_now();
$$;
COMMENT ON FUNCTION _grownext.tenant_invitation_holds_seat(_grownext.tenant_invitation) IS 'Whether an invitation can be accepted and so holds a seat.';

-- The tenant is locked.
CREATE OR REPLACE FUNCTION _grownext.tenant_invitation_expire(tenant_id uuid) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    invitation _grownext.tenant_invitation;
    expired int := 0;
BEGIN
    FOR invitation IN
        UPDATE _grownext.tenant_invitation AS i SET state = 'expired', settled_at = _grownext.core_now()
         WHERE i.tenant_id = tenant_invitation_expire.tenant_id AND i.state = 'pending' AND i.expires_at <= _grownext.core_now() RETURNING i.*
    LOOP
        PERFORM _grownext.tenant_invitation_record('invitation.expired', invitation, 'pending');
        PERFORM _grownext.tenant_react('seats.shrink', tenant_id, jsonb_build_object('invitation_id', invitation.id));
        expired := expired + 1;
    END LOOP;
    RETURN expired;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_invitation_expire(uuid) IS 'Settles the invitations of a tenant whose time is over; returns how many.';

-- With what right somebody invites: the caller's own, or, where a service acts for a
-- member, the member's. Nobody: an invitation of the platform itself.
CREATE OR REPLACE FUNCTION _grownext.tenant_inviter(tenant_id uuid, role text) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    inviter CONSTANT uuid := grownext.current_user_id();
    inviter_role CONSTANT text := _grownext.tenant_role_of(tenant_id, inviter);
BEGIN
    IF inviter_role IS NULL THEN
        RETURN NULL;
    ELSIF NOT _grownext.tenant_permits(_grownext.tenant_role_permissions(tenant_id, inviter_role), 'members.invite') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'permission denied: the caller''s role lacks "members.invite"';
    END IF;
    PERFORM _grownext.tenant_check_grade(tenant_id, inviter_role, role);
    RETURN inviter;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_inviter(uuid, text) IS 'The member who invites to a role, if the member may; NULL for the platform itself.';

-- "ann@a.example" is one person, "@a.example, @b.example" whoever has an address there.
CREATE OR REPLACE FUNCTION _grownext.tenant_invitation_domains(email text) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part text;
    domains text[] := '{}';
BEGIN
    IF email IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'email must not be null';
    ELSIF length(email) > 2600 OR NOT starts_with(email, '@') AND _grownext.account_email_key(email) IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'that is not an email address',
            HINT = 'Pass an address, or domains such as "@example.com, @example.net".';
    ELSIF NOT starts_with(email, '@') THEN
        RETURN NULL;
    END IF;
    FOREACH part IN ARRAY string_to_array(email, ',') LOOP
        IF btrim(part) !~ '^@' THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a list of domains must have "@" before each';
        END IF;
        domains := domains || _grownext.tenant_domain_name(substr(btrim(part), 2));
    END LOOP;
    IF cardinality(domains) > 10 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'an invitation names at most 10 domains';
    END IF;
    RETURN domains;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_invitation_domains(text) IS 'The domains that an invitation is bound to; NULL if it is bound to an address.';

-- Raises if an address is a member's or has been invited already; the tenant is locked.
CREATE OR REPLACE FUNCTION _grownext.tenant_invitation_check(tenant_id uuid, email_key text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pending CONSTANT uuid := (SELECT i.id FROM _grownext.tenant_invitation AS i
                               WHERE i.tenant_id = tenant_invitation_check.tenant_id AND i.email_key = tenant_invitation_check.email_key
                                 AND i.state = 'pending');
BEGIN
    IF pending IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object', MESSAGE = 'that address has been invited already',
            HINT = format('SELECT * FROM grownext.invitation_resend(%L);', pending);
    ELSIF EXISTS (SELECT FROM _grownext.tenant_member AS m JOIN _grownext.account_user AS u ON u.id = m.user_id
                   WHERE m.tenant_id = tenant_invitation_check.tenant_id AND u.email_key = tenant_invitation_check.email_key) THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object', MESSAGE = 'that address belongs to a member';
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_invitation_check(uuid, text) IS 'Raises if an address needs no invitation.';

CREATE OR REPLACE FUNCTION grownext.invitation_create(tenant_id uuid, email text, role text DEFAULT 'member', ttl interval DEFAULT '7 days') RETURNS grownext.invitation_secret
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    domains CONSTANT text[] := _grownext.tenant_invitation_domains(email);
    email_key CONSTANT text := CASE WHEN domains IS NULL THEN _grownext.account_email_key(email) END;
    now CONSTANT timestamptz := _grownext.core_now();
    nonce CONSTANT bytea := _grownext.tenant_nonce();
    token text;
    hash bytea;
    invitation _grownext.tenant_invitation;
BEGIN
    IF ttl IS NULL OR ttl <= interval '0' OR ttl > interval '365 days' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'ttl must be greater than zero and at most 365 days';
    END IF;
    PERFORM _grownext.tenant_enter(tenant_id, 'members.invite');
    PERFORM _grownext.tenant_require_active(_grownext.tenant_lock(tenant_id));
    PERFORM _grownext.tenant_check_role(tenant_id, role);
    invitation.invited_by := _grownext.tenant_inviter(tenant_id, role);
    PERFORM _grownext.tenant_invitation_expire(tenant_id);
    PERFORM _grownext.tenant_invitation_check(tenant_id, email_key);
    token := _grownext.tenant_invitation_token(nonce);
    hash := _grownext.tenant_token_hash(token);
    INSERT INTO _grownext.tenant_invitation AS i (tenant_id, email, email_key, domains, role, nonce, token_hash, ttl, invited_by, created_at, sent_at, expires_at)
    VALUES (invitation_create.tenant_id, CASE WHEN domains IS NULL THEN invitation_create.email END, email_key, domains, invitation_create.role, nonce,
            hash, invitation_create.ttl, invitation.invited_by, now, now, now + invitation_create.ttl)
    RETURNING i.* INTO invitation;
    PERFORM _grownext.tenant_seat_taken(tenant_id, jsonb_build_object('invitation_id', invitation.id));
    PERFORM _grownext.tenant_invitation_record('invitation.created', invitation, NULL);
    RETURN ROW(invitation.id, token)::grownext.invitation_secret;
END
$$;
COMMENT ON FUNCTION grownext.invitation_create(uuid, text, text, interval) IS 'Invites an address, or whoever has one in a domain, into a tenant; the token is shown once.';

-- The invitation with its tenant locked, for a caller who may invite there. Invitations of
-- other tenants are as if they did not exist.
CREATE OR REPLACE FUNCTION _grownext.tenant_invitation_enter(id uuid) RETURNS _grownext.tenant_invitation
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    concerned CONSTANT uuid := (SELECT i.tenant_id FROM _grownext.tenant_invitation AS i WHERE i.id = tenant_invitation_enter.id);
    invitation _grownext.tenant_invitation;
BEGIN
    IF concerned IS NOT NULL AND (_grownext.tenant_serves_all() OR concerned = grownext.current_tenant()) THEN
        PERFORM _grownext.tenant_enter(concerned, 'members.invite');
        SELECT * INTO invitation FROM _grownext.tenant_invitation AS i WHERE i.id = tenant_invitation_enter.id FOR UPDATE;
    END IF;
    IF invitation.id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('invitation "%s" does not exist', coalesce(id::text, 'NULL'));
    END IF;
    RETURN invitation;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_invitation_enter(uuid) IS 'Locks and returns an invitation that the caller may change; raises if there is none.';

CREATE OR REPLACE FUNCTION grownext.invitation_resend(id uuid) RETURNS grownext.invitation_secret
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    invitation _grownext.tenant_invitation := _grownext.tenant_invitation_enter(id);
    old_state CONSTANT text := invitation.state;
    has_seat CONSTANT boolean := _grownext.tenant_invitation_holds_seat(invitation);
    now CONSTANT timestamptz := _grownext.core_now();
    new_nonce CONSTANT bytea := _grownext.tenant_nonce();
    token text;
    hash bytea;
BEGIN
    IF invitation.state IN ('accepted', 'revoked') THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('invitation "%s" was %s', id, invitation.state);
    END IF;
    PERFORM _grownext.tenant_require_active(_grownext.tenant_lock(invitation.tenant_id));
    PERFORM _grownext.tenant_check_role(invitation.tenant_id, invitation.role);
    invitation.invited_by := _grownext.tenant_inviter(invitation.tenant_id, invitation.role);
    IF invitation.state = 'expired' THEN
        PERFORM _grownext.tenant_invitation_check(invitation.tenant_id, invitation.email);
    END IF;
    token := _grownext.tenant_invitation_token(new_nonce);
    hash := _grownext.tenant_token_hash(token);
    UPDATE _grownext.tenant_invitation AS i
       SET state = 'pending', settled_at = NULL, nonce = new_nonce, token_hash = hash,
           invited_by = invitation.invited_by, sent_at = now, expires_at = now + i.ttl
     WHERE i.id = invitation.id RETURNING i.* INTO invitation;
    IF NOT has_seat THEN
        PERFORM _grownext.tenant_seat_taken(invitation.tenant_id, jsonb_build_object('invitation_id', invitation.id));
    END IF;
    PERFORM _grownext.tenant_invitation_record('invitation.resent', invitation, old_state);
    RETURN ROW(invitation.id, token)::grownext.invitation_secret;
END
$$;
COMMENT ON FUNCTION grownext.invitation_resend(uuid) IS 'Gives an invitation a new token and its time again; the token before is worth nothing.';

CREATE OR REPLACE FUNCTION grownext.invitation_revoke(id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    invitation _grownext.tenant_invitation := _grownext.tenant_invitation_enter(id);
BEGIN
    IF invitation.state = 'accepted' THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('invitation "%s" was accepted', id),
            HINT = format('SELECT grownext.member_remove(%L, %L);', invitation.tenant_id, invitation.accepted_by);
    ELSIF invitation.state <> 'pending' THEN
        RETURN;
    END IF;
    UPDATE _grownext.tenant_invitation AS i SET state = 'revoked', settled_at = _grownext.core_now()
     WHERE i.id = invitation.id RETURNING i.* INTO invitation;
    PERFORM _grownext.tenant_invitation_record('invitation.revoked', invitation, 'pending');
    PERFORM _grownext.tenant_react('seats.shrink', invitation.tenant_id, jsonb_build_object('invitation_id', invitation.id));
END
$$;
COMMENT ON FUNCTION grownext.invitation_revoke(uuid) IS 'Takes a pending invitation back; its seat is free.';

-- For whoever delivers: the handler of invitation.created and invitation.resent.
CREATE OR REPLACE FUNCTION grownext.invitation_message(id uuid) RETURNS grownext.invitation_message
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    invitation _grownext.tenant_invitation;
BEGIN
    SELECT * INTO invitation FROM _grownext.tenant_invitation AS i WHERE i.id = invitation_message.id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('invitation "%s" does not exist', coalesce(id::text, 'NULL'));
    ELSIF NOT _grownext.tenant_invitation_holds_seat(invitation) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('invitation "%s" cannot be accepted any more', id);
    END IF;
    RETURN ROW(invitation.email, _grownext.tenant_invitation_token(invitation.nonce), invitation.tenant_id,
               (SELECT t.name FROM _grownext.tenant_tenant AS t WHERE t.id = invitation.tenant_id),
               invitation.role, invitation.invited_by, invitation.expires_at)::grownext.invitation_message;
END
$$;
COMMENT ON FUNCTION grownext.invitation_message(uuid) IS 'What the message with an invitation says; only for a pending one.';

CREATE OR REPLACE FUNCTION _grownext.tenant_invitation_refuse(why text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'NX011', MESSAGE = 'the invitation is not valid', DETAIL = why, HINT = 'Ask for a new one.';
END
$$;
COMMENT ON FUNCTION _grownext.tenant_invitation_refuse(text) IS 'Raises that an invitation cannot be accepted.';

-- What was true when it was written must be true still: the inviter is a member who may
-- invite, and to that role.
CREATE OR REPLACE FUNCTION _grownext.tenant_invitation_check_inviter(invitation _grownext.tenant_invitation) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    inviter_role CONSTANT text := _grownext.tenant_role_of(invitation.tenant_id, invitation.invited_by);
    own CONSTANT text[] := _grownext.tenant_role_permissions(invitation.tenant_id, inviter_role);
BEGIN
    IF invitation.invited_by IS NULL OR inviter_role = 'owner' THEN
        RETURN;
    ELSIF inviter_role IS NULL OR NOT _grownext.tenant_permits(own, 'members.invite') OR invitation.role = 'owner'
       OR NOT _grownext.tenant_covers(own, _grownext.tenant_role_permissions(invitation.tenant_id, invitation.role)) THEN
        PERFORM _grownext.tenant_invitation_refuse('Whoever sent it may not invite to this role any more.');
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_invitation_check_inviter(_grownext.tenant_invitation) IS 'Raises if the inviter could not send the invitation today.';

CREATE OR REPLACE FUNCTION grownext.invitation_accept(token text, user_id uuid) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hash CONSTANT bytea := _grownext.tenant_token_hash(left(token, 200));
    invitation _grownext.tenant_invitation;
    address text;
BEGIN
    IF token IS NULL OR user_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'token and user_id must not be null';
    ELSIF NOT _grownext.tenant_serves_all() AND user_id IS DISTINCT FROM grownext.current_user_id() THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'permission denied to accept for another user';
    END IF;
    SELECT * INTO invitation FROM _grownext.tenant_invitation AS i WHERE i.token_hash = hash;
    IF FOUND THEN
        PERFORM _grownext.tenant_lock(invitation.tenant_id);
        SELECT * INTO invitation FROM _grownext.tenant_invitation AS i WHERE i.token_hash = hash FOR UPDATE;
    END IF;
    IF NOT FOUND THEN
        PERFORM _grownext.tenant_invitation_refuse('Its token is unknown, or was replaced by a newer one.');
    ELSIF invitation.state IN ('accepted', 'revoked') THEN
        PERFORM _grownext.tenant_invitation_refuse(format('It was %s already.', invitation.state));
    ELSIF NOT _grownext.tenant_invitation_holds_seat(invitation) THEN
        RAISE EXCEPTION USING ERRCODE = 'NX012', MESSAGE = 'the invitation has expired', HINT = 'Ask for a new one.';
    END IF;
    PERFORM _grownext.tenant_require_active(_grownext.tenant_lock(invitation.tenant_id));
    PERFORM _grownext.tenant_invitation_check_inviter(invitation);
    PERFORM _grownext.tenant_check_role(invitation.tenant_id, invitation.role);
    PERFORM _grownext.tenant_check_user(user_id);
    SELECT u.email_key INTO address FROM _grownext.account_user AS u WHERE u.id = invitation_accept.user_id;
    -- a user without an address is invited by none
    IF NOT coalesce(address = invitation.email_key OR substring(address FROM '[^@]+$') = ANY (invitation.domains), false) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'the invitation is for another email address';
    END IF;
    UPDATE _grownext.tenant_invitation AS i SET state = 'accepted', accepted_by = invitation_accept.user_id, settled_at = _grownext.core_now()
     WHERE i.id = invitation.id AND i.state = 'pending' RETURNING i.* INTO invitation;
    PERFORM _grownext.tenant_member_put(invitation.tenant_id, user_id, invitation.role, true);
    PERFORM _grownext.tenant_invitation_record('invitation.accepted', invitation, 'pending');
    RETURN invitation.tenant_id;
END
$$;
COMMENT ON FUNCTION grownext.invitation_accept(text, uuid) IS 'Makes a user a member by the token of an invitation, once; returns the tenant.';

-- An invitation goes with the user who sent it: a pending one was thereby taken back.
CREATE OR REPLACE FUNCTION _grownext.tenant_invitation_gone() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM _grownext.tenant_tenant AS t WHERE t.id = OLD.tenant_id AND t.state <> 'purging' FOR NO KEY UPDATE;
    IF FOUND THEN
        OLD.state := 'revoked';
        PERFORM _grownext.tenant_invitation_record('invitation.revoked', OLD, 'pending');
        PERFORM _grownext.tenant_react('seats.shrink', OLD.tenant_id, jsonb_build_object('invitation_id', OLD.id));
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_invitation_gone() IS 'Trigger: records that a pending invitation went with its inviter.';
CREATE OR REPLACE TRIGGER tenant_invitation_gone AFTER DELETE ON _grownext.tenant_invitation
    FOR EACH ROW WHEN (OLD.state = 'pending') EXECUTE FUNCTION _grownext.tenant_invitation_gone();

CREATE OR REPLACE VIEW grownext.invitation WITH (security_barrier) AS
    SELECT i.id, i.tenant_id, i.email, i.domains, i.role,
           CASE WHEN i.state = 'pending' AND i.expires_at <= _grownext.core_now() THEN 'expired' ELSE i.state END AS state,
           i.invited_by, i.accepted_by, i.created_at, i.sent_at, i.expires_at, i.settled_at
      FROM _grownext.tenant_invitation AS i
     WHERE (SELECT _grownext.tenant_sees_all())
        OR i.tenant_id = grownext.current_tenant() AND (SELECT _grownext.tenant_caller_may('members.invite'));
COMMENT ON VIEW grownext.invitation IS 'Invitations, without their tokens; without the rights of a service, the own tenant''s, for members who may invite.';
