-- src/tenant/role.sql: roles, their permissions, and who is above whom

-- What the platform itself asks for stands in docs/tenant.md; the rest is the application's.
CREATE OR REPLACE FUNCTION _grownext.tenant_builtin_permissions(role text) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE role
        WHEN 'owner' THEN '{*}'::pg_catalog.text[]
        WHEN 'admin' THEN '{tenant.update,members.*,roles.*,domains.*,usage.read,audit.read,api_keys.*}'
        WHEN 'member' THEN '{}' END;
$$;
COMMENT ON FUNCTION _grownext.tenant_builtin_permissions(text) IS 'Permissions of a role that needs no definition; NULL for any other.';

-- A tenant's own definition, else the one for all tenants, else the built-in one. NULL:
-- there is no such role. Inlined where it can be: no SET clause, all names qualified.
CREATE OR REPLACE FUNCTION _grownext.tenant_role_permissions(tenant_id uuid, role text) RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(
        (SELECT r.permissions FROM _grownext.tenant_role AS r
          WHERE r.role = tenant_role_permissions.role AND r.tenant_id = tenant_role_permissions.tenant_id),
        (SELECT r.permissions FROM _grownext.tenant_role AS r
          WHERE r.role = tenant_role_permissions.role AND r.tenant_id IS NULL),
        _grownext.tenant_builtin_permissions(role));
$$;
COMMENT ON FUNCTION _grownext.tenant_role_permissions(uuid, text) IS 'Permissions of a role in a tenant; NULL if there is no such role.';

-- "*" permits all, "reports.*" whatever begins with "reports.", else the permission itself.
CREATE OR REPLACE FUNCTION _grownext.tenant_permits(permissions text[], permission text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT EXISTS (
        SELECT FROM pg_catalog.unnest(permissions) AS p
         WHERE p = permission OR p = '*'
            OR (pg_catalog.right(p, 2) = '.*' AND pg_catalog.starts_with(permission, pg_catalog.left(p, -1))));
$$;
COMMENT ON FUNCTION _grownext.tenant_permits(text[], text) IS 'Whether a list of permissions covers one.';

CREATE OR REPLACE FUNCTION grownext.has_permission(permission text) RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_has_permission';
COMMENT ON FUNCTION grownext.has_permission(text) IS 'Whether the caller''s role in the current tenant has a permission, as of now; NULL without a caller.';

CREATE OR REPLACE FUNCTION _grownext.tenant_check_role(tenant_id uuid, role text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF role IS NULL OR _grownext.tenant_role_permissions(tenant_id, role) IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('role "%s" does not exist', coalesce(left(role, 80), 'NULL')),
            HINT = 'Use owner, admin or member, or define it: SELECT grownext.role_define(role, permissions, tenant_id);';
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_check_role(uuid, text) IS 'Raises if a tenant has no such role.';

CREATE OR REPLACE FUNCTION _grownext.tenant_covers(permissions text[], other text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT NOT EXISTS (SELECT FROM pg_catalog.unnest(other) AS o WHERE _grownext.tenant_permits(permissions, o) IS NOT TRUE);
$$;
COMMENT ON FUNCTION _grownext.tenant_covers(text[], text[]) IS 'Whether permissions cover each of some others.';

CREATE OR REPLACE FUNCTION _grownext.tenant_above_caller(role text, caller_role text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
        MESSAGE = format('permission denied: role "%s" is above the caller''s role "%s"', role, caller_role);
END
$$;
COMMENT ON FUNCTION _grownext.tenant_above_caller(text, text) IS 'Raises that a role is above the caller''s.';

-- A role is not above another if each of its permissions is covered; owner is above all,
-- also above a role of the tenant's own with permission "*".
CREATE OR REPLACE FUNCTION _grownext.tenant_check_grade(tenant_id uuid, caller_role text, role text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF caller_role IS NULL OR caller_role = 'owner' THEN
        RETURN;
    ELSIF role = 'owner' OR NOT _grownext.tenant_covers(_grownext.tenant_role_permissions(tenant_id, caller_role),
                                                        _grownext.tenant_role_permissions(tenant_id, role)) THEN
        PERFORM _grownext.tenant_above_caller(role, caller_role);
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_check_grade(uuid, text, text) IS 'Raises if a role is above the caller''s; a NULL caller_role is limited by nothing.';

CREATE OR REPLACE FUNCTION _grownext.tenant_check_permissions(permissions text[]) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pattern CONSTANT text := '^(\*|[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?)$';
    checked text[];
    bad text;
BEGIN
    IF permissions IS NULL OR array_position(permissions, NULL) IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'role and permissions must not be null';
    END IF;
    SELECT coalesce(array_agg(DISTINCT p ORDER BY p), '{}') INTO checked FROM unnest(permissions) AS p;
    SELECT p INTO bad FROM unnest(checked) AS p WHERE p !~ pattern OR length(p) > 128 LIMIT 1;
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('permission "%s" is not valid', left(bad, 80)),
            HINT = 'Write a dotted path of up to 128 characters such as "reports.read", "reports.*" or "*".';
    ELSIF cardinality(checked) > 200 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a role has at most 200 permissions',
            HINT = 'Group them: "reports.*" covers all that begins with "reports.".';
    END IF;
    RETURN checked;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_check_permissions(text[]) IS 'Permissions sorted, each once; raises on those that no role may have.';

-- The tenant that a role belongs to: the named one, else the caller's. NULL is all
-- tenants, which only services and admins define for.
CREATE OR REPLACE FUNCTION _grownext.tenant_role_owner(tenant_id uuid) RETURNS uuid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF _grownext.tenant_serves_all() THEN
        RETURN coalesce(tenant_id, grownext.current_tenant());
    END IF;
    RETURN _grownext.core_caller_tenant(tenant_id);
END
$$;
COMMENT ON FUNCTION _grownext.tenant_role_owner(uuid) IS 'The tenant that a role is defined for; NULL for all.';

CREATE OR REPLACE FUNCTION grownext.role_define(role text, permissions text[], tenant_id uuid DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    concerned CONSTANT uuid := _grownext.tenant_role_owner(role_define.tenant_id);
    new_permissions text[];
    caller_role text;
    before jsonb;
    after jsonb;
BEGIN
    IF role IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'role and permissions must not be null';
    ELSIF role = 'owner' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'role "owner" cannot be redefined', HINT = 'Owners have every permission.';
    ELSIF role !~ '^[a-z][a-z0-9_-]{0,62}$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('role name "%s" is not valid', left(role, 80)),
            HINT = 'A role name has up to 63 characters of a-z, 0-9, "_" and "-", and begins with a letter.';
    END IF;
    new_permissions := _grownext.tenant_check_permissions(permissions);
    IF concerned IS NOT NULL THEN
        caller_role := _grownext.tenant_enter(concerned, 'roles.define');
        -- neither what it was nor what it becomes, which may be the caller's own role
        PERFORM _grownext.tenant_check_grade(concerned, caller_role, role_define.role);
        IF caller_role IS NOT NULL AND NOT _grownext.tenant_covers(_grownext.tenant_role_permissions(concerned, caller_role), new_permissions) THEN
            PERFORM _grownext.tenant_above_caller(role_define.role, caller_role);
        END IF;
        IF (SELECT count(*) FROM _grownext.tenant_role AS r WHERE r.tenant_id = concerned AND r.role <> role_define.role) >= 100 THEN
            RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded', MESSAGE = 'a tenant has at most 100 roles of its own',
                HINT = 'SELECT grownext.role_drop(role, tenant_id);';
        END IF;
    END IF;

    SELECT jsonb_build_object('role', r.role, 'permissions', r.permissions) INTO before
      FROM _grownext.tenant_role AS r WHERE r.role = role_define.role AND r.tenant_id IS NOT DISTINCT FROM concerned;
    INSERT INTO _grownext.tenant_role (tenant_id, role, permissions, updated_at)
    VALUES (concerned, role_define.role, new_permissions, _grownext.core_now())
    ON CONFLICT ON CONSTRAINT tenant_role_key DO UPDATE SET permissions = EXCLUDED.permissions, updated_at = EXCLUDED.updated_at;
    after := jsonb_build_object('role', role_define.role, 'permissions', new_permissions);
    IF after IS DISTINCT FROM before THEN
        PERFORM _grownext.tenant_record('role.defined', 'role:' || role_define.role, concerned, before, after);
    END IF;
END
$$;
COMMENT ON FUNCTION grownext.role_define(text, text[], uuid) IS 'Defines a role of the named or current tenant, or, where there is neither, of all tenants.';

CREATE OR REPLACE FUNCTION grownext.role_drop(role text, tenant_id uuid DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    concerned CONSTANT uuid := _grownext.tenant_role_owner(role_drop.tenant_id);
    caller_role text;
    own text[];
    before jsonb;
BEGIN
    IF concerned IS NOT NULL THEN
        caller_role := _grownext.tenant_enter(concerned, 'roles.define');
        PERFORM _grownext.tenant_check_grade(concerned, caller_role, role_drop.role);
        own := _grownext.tenant_role_permissions(concerned, caller_role);
    ELSE
        -- nobody gives the role away meanwhile
        LOCK TABLE _grownext.tenant_member, _grownext.tenant_invitation, _grownext.tenant_domain IN SHARE MODE;
    END IF;
    DELETE FROM _grownext.tenant_role AS r WHERE r.role = role_drop.role AND r.tenant_id IS NOT DISTINCT FROM concerned
    RETURNING jsonb_build_object('role', r.role, 'permissions', r.permissions) INTO before;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('role "%s" is not defined', coalesce(left(role, 80), 'NULL'));
    ELSIF EXISTS (
        SELECT FROM (SELECT m.tenant_id FROM _grownext.tenant_member AS m WHERE m.role = role_drop.role
                     UNION ALL
                     SELECT i.tenant_id FROM _grownext.tenant_invitation AS i WHERE i.role = role_drop.role AND i.state = 'pending'
                     UNION ALL
                     SELECT d.tenant_id FROM _grownext.tenant_domain AS d WHERE d.role = role_drop.role) AS u (tenant_id)
         WHERE (concerned IS NULL OR u.tenant_id = concerned) AND _grownext.tenant_role_permissions(u.tenant_id, role_drop.role) IS NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'dependent_objects_still_exist', MESSAGE = format('role "%s" is in use', role),
            HINT = 'Give its members, pending invitations and domains another role first.';
    END IF;
    -- nor what it is again: the definition for all tenants, or the built-in one
    IF caller_role IS NOT NULL AND NOT _grownext.tenant_covers(own, _grownext.tenant_role_permissions(concerned, role_drop.role)) THEN
        PERFORM _grownext.tenant_above_caller(role_drop.role, caller_role);
    END IF;
    PERFORM _grownext.tenant_record('role.dropped', 'role:' || role, concerned, before, NULL);
END
$$;
COMMENT ON FUNCTION grownext.role_drop(text, uuid) IS 'Forgets the definition of a role that nobody has; a built-in role is again what it was.';

CREATE OR REPLACE VIEW grownext.role WITH (security_barrier) AS
    SELECT r.tenant_id, r.role, r.permissions, false AS builtin
      FROM _grownext.tenant_role AS r
     WHERE r.tenant_id IS NULL OR r.tenant_id = grownext.current_tenant() OR (SELECT _grownext.tenant_sees_all())
    UNION ALL
    SELECT NULL, b.role, _grownext.tenant_builtin_permissions(b.role), true
      FROM (VALUES ('owner'), ('admin'), ('member')) AS b (role)
     WHERE NOT EXISTS (SELECT FROM _grownext.tenant_role AS r WHERE r.tenant_id IS NULL AND r.role = b.role);
COMMENT ON VIEW grownext.role IS 'Roles: built in, for all tenants (tenant_id null) and of single tenants, the own one''s without the rights of a service.';

-- Invalidation ------------------------------------------------------------------

-- ALWAYS: replicated and restored rows count as well.
CREATE OR REPLACE TRIGGER tenant_role_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.tenant_role
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('tenant_marker_access');
ALTER TABLE _grownext.tenant_role ENABLE ALWAYS TRIGGER tenant_role_invalidate;
CREATE OR REPLACE TRIGGER tenant_member_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.tenant_member
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('tenant_marker_access');
ALTER TABLE _grownext.tenant_member ENABLE ALWAYS TRIGGER tenant_member_invalidate;
CREATE OR REPLACE TRIGGER tenant_tenant_invalidate AFTER UPDATE OF state OR DELETE OR TRUNCATE ON _grownext.tenant_tenant
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('tenant_marker_access');
ALTER TABLE _grownext.tenant_tenant ENABLE ALWAYS TRIGGER tenant_tenant_invalidate;
CREATE OR REPLACE TRIGGER tenant_user_invalidate AFTER UPDATE OF disabled_at OR DELETE OR TRUNCATE ON _grownext.account_user
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('tenant_marker_access');
ALTER TABLE _grownext.account_user ENABLE ALWAYS TRIGGER tenant_user_invalidate;
