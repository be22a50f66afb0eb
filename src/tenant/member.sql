-- src/tenant/member.sql: who belongs to a tenant, and the owner that it always has

CREATE OR REPLACE FUNCTION _grownext.tenant_role_of(tenant_id uuid, user_id uuid) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT m.role
      FROM _grownext.tenant_member AS m
      JOIN _grownext.tenant_tenant AS t ON t.id = m.tenant_id AND t.state = 'active'
     WHERE m.tenant_id = tenant_role_of.tenant_id AND m.user_id = tenant_role_of.user_id;
$$;
COMMENT ON FUNCTION _grownext.tenant_role_of(uuid, uuid) IS 'A user''s role in a tenant; NULL for no member and for a tenant that is not active.';

-- Whoever takes the last owner's role away fails: also a cascade from a deleted user.
-- Raising member_version makes two who leave at once wait for each other, and makes a
-- REPEATABLE READ transaction that waited fail with 40001 instead of judging by an old
-- snapshot. A tenant that goes takes its members along.
CREATE OR REPLACE FUNCTION _grownext.tenant_owner_guard() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE _grownext.tenant_tenant AS t SET member_version = t.member_version + 1 WHERE t.id = OLD.tenant_id AND t.state <> 'purging';
    IF FOUND AND NOT EXISTS (
        SELECT FROM _grownext.tenant_member AS m
         WHERE m.tenant_id = OLD.tenant_id AND m.role = 'owner' AND m.user_id <> OLD.user_id) THEN
        RAISE EXCEPTION USING ERRCODE = 'NX024',
            MESSAGE = format('user "%s" is the last owner of tenant "%s"', OLD.user_id, OLD.tenant_id),
            HINT = 'Make somebody else an owner first: SELECT grownext.member_set_role(tenant_id, user_id, ''owner'');';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_owner_guard() IS 'Trigger: a tenant keeps at least one owner.';

CREATE OR REPLACE TRIGGER tenant_member_owner_delete BEFORE DELETE ON _grownext.tenant_member
    FOR EACH ROW WHEN (OLD.role = 'owner') EXECUTE FUNCTION _grownext.tenant_owner_guard();
CREATE OR REPLACE TRIGGER tenant_member_owner_update BEFORE UPDATE ON _grownext.tenant_member
    FOR EACH ROW WHEN (OLD.role = 'owner' AND NEW.role <> 'owner') EXECUTE FUNCTION _grownext.tenant_owner_guard();

-- However a membership ends, by member_remove() or because the user is deleted, it is
-- recorded and the seat is free. Not so when the tenant itself goes.
CREATE OR REPLACE FUNCTION _grownext.tenant_member_gone() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM _grownext.tenant_tenant AS t WHERE t.id = OLD.tenant_id AND t.state <> 'purging' FOR NO KEY UPDATE;
    IF FOUND THEN
        PERFORM _grownext.tenant_record('member.removed', 'user:' || OLD.user_id, OLD.tenant_id,
                                        jsonb_build_object('user_id', OLD.user_id, 'role', OLD.role), NULL);
        PERFORM _grownext.tenant_react('seats.shrink', OLD.tenant_id, jsonb_build_object('user_id', OLD.user_id));
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_member_gone() IS 'Trigger: records the end of a membership and gives its seat back.';
CREATE OR REPLACE TRIGGER tenant_member_gone AFTER DELETE ON _grownext.tenant_member
    FOR EACH ROW EXECUTE FUNCTION _grownext.tenant_member_gone();

-- The user's row locked against deletion; raises for one that is missing or disabled.
CREATE OR REPLACE FUNCTION _grownext.tenant_check_user(user_id uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    disabled boolean;
BEGIN
    SELECT u.disabled_at IS NOT NULL INTO disabled FROM _grownext.account_user AS u WHERE u.id = tenant_check_user.user_id FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('user "%s" does not exist', coalesce(user_id::text, 'NULL'));
    ELSIF disabled THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('user "%s" is disabled', user_id),
            HINT = format('SELECT grownext.user_enable(%L);', user_id);
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_check_user(uuid) IS 'Raises if a user does not exist or is disabled.';

-- A new member, the tenant being locked. Whoever comes by an invitation brings the seat along.
CREATE OR REPLACE FUNCTION _grownext.tenant_member_put(tenant_id uuid, user_id uuid, role text, has_seat boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.tenant_check_user(user_id);
    INSERT INTO _grownext.tenant_member (tenant_id, user_id, role, created_at, updated_at)
    VALUES (tenant_member_put.tenant_id, tenant_member_put.user_id, tenant_member_put.role, _grownext.core_now(), _grownext.core_now())
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
            MESSAGE = format('user "%s" is a member of tenant "%s" already', user_id, tenant_id),
            HINT = 'SELECT grownext.member_set_role(tenant_id, user_id, role);';
    END IF;
    IF NOT has_seat THEN
        PERFORM _grownext.tenant_seat_taken(tenant_id, jsonb_build_object('user_id', user_id));
    END IF;
    PERFORM _grownext.tenant_record('member.added', 'user:' || user_id, tenant_id, NULL, jsonb_build_object('user_id', user_id, 'role', role));
END
$$;
COMMENT ON FUNCTION _grownext.tenant_member_put(uuid, uuid, text, boolean) IS 'Makes a user a member and takes a seat, unless there is one already.';

CREATE OR REPLACE FUNCTION grownext.member_add(tenant_id uuid, user_id uuid, role text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.tenant_require_active(_grownext.tenant_lock(tenant_id));
    PERFORM _grownext.tenant_check_role(tenant_id, role);
    PERFORM _grownext.tenant_member_put(tenant_id, user_id, role);
END
$$;
COMMENT ON FUNCTION grownext.member_add(uuid, uuid, text) IS 'Makes a user a member of a tenant.';

CREATE OR REPLACE FUNCTION _grownext.tenant_no_member(tenant_id uuid, user_id uuid) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'undefined_object',
        MESSAGE = format('user "%s" is not a member of tenant "%s"', coalesce(user_id::text, 'NULL'), tenant_id);
END
$$;
COMMENT ON FUNCTION _grownext.tenant_no_member(uuid, uuid) IS 'Raises that a user is no member.';

-- The tenant is locked.
CREATE OR REPLACE FUNCTION _grownext.tenant_member_role(tenant_id uuid, user_id uuid) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    role text;
BEGIN
    SELECT m.role INTO role FROM _grownext.tenant_member AS m
     WHERE m.tenant_id = tenant_member_role.tenant_id AND m.user_id = tenant_member_role.user_id;
    IF NOT FOUND THEN
        PERFORM _grownext.tenant_no_member(tenant_id, user_id);
    END IF;
    RETURN role;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_member_role(uuid, uuid) IS 'A member''s role; raises if the user is none.';

CREATE OR REPLACE FUNCTION _grownext.tenant_member_put_role(tenant_id uuid, user_id uuid, role text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old_role CONSTANT text := _grownext.tenant_member_role(tenant_id, user_id);
BEGIN
    IF old_role = role THEN
        RETURN;
    END IF;
    UPDATE _grownext.tenant_member AS m SET role = tenant_member_put_role.role, updated_at = _grownext.core_now()
     WHERE m.tenant_id = tenant_member_put_role.tenant_id AND m.user_id = tenant_member_put_role.user_id;
    PERFORM _grownext.tenant_record('member.role_changed', 'user:' || user_id, tenant_id,
        jsonb_build_object('user_id', user_id, 'role', old_role), jsonb_build_object('user_id', user_id, 'role', role));
END
$$;
COMMENT ON FUNCTION _grownext.tenant_member_put_role(uuid, uuid, text) IS 'Changes and records a member''s role.';

CREATE OR REPLACE FUNCTION grownext.member_set_role(tenant_id uuid, user_id uuid, role text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller_role CONSTANT text := _grownext.tenant_enter(tenant_id, 'members.manage');
BEGIN
    PERFORM _grownext.tenant_check_role(tenant_id, role);
    -- neither what the member was nor what the member becomes
    PERFORM _grownext.tenant_check_grade(tenant_id, caller_role, _grownext.tenant_member_role(tenant_id, user_id));
    PERFORM _grownext.tenant_check_grade(tenant_id, caller_role, role);
    PERFORM _grownext.tenant_member_put_role(tenant_id, user_id, role);
END
$$;
COMMENT ON FUNCTION grownext.member_set_role(uuid, uuid, text) IS 'Changes a member''s role; the last owner keeps his.';

CREATE OR REPLACE FUNCTION grownext.member_remove(tenant_id uuid, user_id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- everybody may leave
    IF NOT _grownext.tenant_serves_all() AND user_id = grownext.current_user_id() THEN
        PERFORM _grownext.tenant_lock(_grownext.core_caller_tenant(tenant_id));
    ELSE
        PERFORM _grownext.tenant_check_grade(tenant_id, _grownext.tenant_enter(tenant_id, 'members.manage'),
                                             _grownext.tenant_member_role(tenant_id, user_id));
    END IF;
    DELETE FROM _grownext.tenant_member AS m
     WHERE m.tenant_id = member_remove.tenant_id AND m.user_id = member_remove.user_id;
    IF NOT FOUND THEN
        PERFORM _grownext.tenant_no_member(tenant_id, user_id);
    END IF;
END
$$;
COMMENT ON FUNCTION grownext.member_remove(uuid, uuid) IS 'Ends a membership; the last owner stays.';

CREATE OR REPLACE VIEW grownext.member WITH (security_barrier) AS
    SELECT m.tenant_id, m.user_id, m.role, m.created_at, m.updated_at
      FROM _grownext.tenant_member AS m
     WHERE m.tenant_id = grownext.current_tenant() OR (SELECT _grownext.tenant_sees_all());
COMMENT ON VIEW grownext.member IS 'Members of tenants; without the rights of a service, only of the own one.';
