-- src/tenant/functions.sql: tenants, members, roles, row isolation

-- Every administrative change: one audit event with before and after, one platform event.
CREATE OR REPLACE FUNCTION _grownext.tenant_record(action text, target text, tenant_id uuid, before jsonb, after jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.audit_write(action, target, tenant_id, before, after);
    PERFORM _grownext.core_event_emit(action, tenant_id, coalesce(after, before));
END
$$;
COMMENT ON FUNCTION _grownext.tenant_record(text, text, uuid, jsonb, jsonb) IS 'Writes the audit event of an administrative change and sends it to whoever routed it.';

-- Names that a browser, a mail server or our own URLs already use. A tenant's slug is
-- often its subdomain.
CREATE OR REPLACE FUNCTION _grownext.tenant_slug_reserved(slug text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT slug = ANY ('{about,abuse,account,accounts,admin,administrator,api,app,apps,assets,auth,billing,blog,cdn,console,
        dashboard,demo,dev,developer,developers,docs,download,downloads,email,example,files,ftp,git,grownext,health,help,
        hostmaster,http,https,imap,internal,invite,localhost,login,logout,mail,media,mobile,mta-sts,mx,news,oauth,ops,
        pop,postmaster,pricing,private,public,register,root,sales,security,settings,signin,signup,smtp,sso,static,
        status,support,system,team,test,token,undefined,null,webhook,webhooks,webmaster,webmail,wpad,www}'::pg_catalog.text[]);
$$;
COMMENT ON FUNCTION _grownext.tenant_slug_reserved(text) IS 'Whether no tenant may have this slug.';

CREATE OR REPLACE FUNCTION _grownext.tenant_time_zone(name text) RETURNS text
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_tenant_time_zone';
COMMENT ON FUNCTION _grownext.tenant_time_zone(text) IS 'A time zone''s name as the time zone database spells it; NULL if there is none.';

-- What tenant_create and tenant_update both refuse, before anything is written. NULL: not given.
CREATE OR REPLACE FUNCTION _grownext.tenant_check(slug text, name text, external_id text, attributes jsonb, time_zone text, region text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    problem text;
    hint text;
BEGIN
    IF slug !~ '^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$' OR slug ~ '^xn--' THEN
        problem := format('slug "%s" is not valid', slug);
        hint := 'A slug has 3 to 63 characters of a-z, 0-9 and "-", and neither begins nor ends with "-".';
    ELSIF _grownext.tenant_slug_reserved(slug) THEN
        problem := format('slug "%s" is reserved', slug);
        hint := 'Choose another: it collides with a host name in common use.';
    ELSIF name = '' THEN
        problem := 'name must not be empty';
        hint := 'Pass the name that people read.';
    ELSIF external_id = '' THEN
        problem := 'external_id must not be empty';
        hint := 'Pass the id that another system has for the tenant, or NULL.';
    ELSIF jsonb_typeof(attributes) <> 'object' THEN
        problem := 'attributes must be a JSON object';
        hint := 'Such as {"tier": "gold"}.';
    ELSIF region !~ '^[a-z0-9][a-z0-9-]{0,62}$' THEN
        problem := format('region "%s" is not valid', region);
        hint := 'A region has up to 63 characters of a-z, 0-9 and "-", such as "eu-central".';
    ELSIF time_zone IS NOT NULL AND _grownext.tenant_time_zone(time_zone) IS NULL THEN
        problem := format('time zone "%s" does not exist', time_zone);
        hint := 'SELECT name FROM pg_timezone_names;';
    ELSE
        RETURN;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = problem, HINT = hint;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_check(text, text, text, jsonb, text, text) IS 'Raises on properties that no tenant may have.';

-- A tenant as events and audit show it.
CREATE OR REPLACE FUNCTION _grownext.tenant_json(tenant_id uuid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT to_jsonb(t) - 'owner_version' - 'updated_at' || jsonb_build_object('parent_id', p.parent_id)
      FROM _grownext.tenant_tenant AS t
      LEFT JOIN _grownext.tenant_parent AS p ON p.tenant_id = t.id
     WHERE t.id = tenant_json.tenant_id;
$$;
COMMENT ON FUNCTION _grownext.tenant_json(uuid) IS 'A tenant as jsonb, for events and audit.';

-- Locks the tenant's row until the end of the transaction; raises if there is none.
CREATE OR REPLACE FUNCTION _grownext.tenant_lock(tenant_id uuid) RETURNS _grownext.tenant_tenant
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant _grownext.tenant_tenant;
BEGIN
    SELECT * INTO tenant FROM _grownext.tenant_tenant AS t WHERE t.id = tenant_lock.tenant_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('tenant "%s" does not exist', coalesce(tenant_lock.tenant_id::text, 'NULL'));
    END IF;
    RETURN tenant;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_lock(uuid) IS 'Locks and returns a tenant; raises if there is none.';

-- Hangs a tenant below a parent. The chain of ancestors is locked one by one, so two
-- moves that would close a circle together meet, and one of them fails.
CREATE OR REPLACE FUNCTION _grownext.tenant_set_parent(tenant_id uuid, parent_id uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    max_depth CONSTANT int := 8;
    ancestor uuid := tenant_set_parent.parent_id;
    depth int;
BEGIN
    IF ancestor IS NULL THEN
        DELETE FROM _grownext.tenant_parent AS p WHERE p.tenant_id = tenant_set_parent.tenant_id;
        RETURN;
    END IF;
    WITH RECURSIVE below AS (
        SELECT tenant_set_parent.tenant_id AS id, 1 AS level
        UNION ALL
        SELECT p.tenant_id, b.level + 1 FROM below AS b JOIN _grownext.tenant_parent AS p ON p.parent_id = b.id WHERE b.level <= max_depth)
    SELECT max(level) INTO depth FROM below;
    WHILE ancestor IS NOT NULL LOOP
        depth := depth + 1;
        IF ancestor = tenant_set_parent.tenant_id THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('tenant "%s" cannot be below itself', tenant_set_parent.tenant_id);
        ELSIF depth > max_depth THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('tenants nest at most %s levels deep', max_depth);
        END IF;
        PERFORM _grownext.tenant_lock(ancestor);
        ancestor := (SELECT p.parent_id FROM _grownext.tenant_parent AS p WHERE p.tenant_id = ancestor);
    END LOOP;
    INSERT INTO _grownext.tenant_parent (tenant_id, parent_id) VALUES (tenant_set_parent.tenant_id, tenant_set_parent.parent_id)
        ON CONFLICT ON CONSTRAINT tenant_parent_pkey DO UPDATE SET parent_id = EXCLUDED.parent_id;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_set_parent(uuid, uuid) IS 'Sets or clears a tenant''s parent; refuses circles and more than eight levels.';

CREATE OR REPLACE FUNCTION grownext.tenant_create(slug text, name text, owner_id uuid DEFAULT NULL, attributes jsonb DEFAULT '{}', id uuid DEFAULT NULL,
    external_id text DEFAULT NULL, parent_id uuid DEFAULT NULL, bundle text DEFAULT NULL, time_zone text DEFAULT 'UTC', region text DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_id uuid;
    reactor record;
BEGIN
    IF slug IS NULL OR name IS NULL OR attributes IS NULL OR time_zone IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'slug, name, attributes and time_zone must not be null';
    END IF;
    IF external_id IS NOT NULL THEN
        SELECT t.id INTO new_id FROM _grownext.tenant_tenant AS t WHERE t.external_id = tenant_create.external_id;
        IF FOUND THEN
            RETURN new_id;
        END IF;
    END IF;
    PERFORM _grownext.tenant_check(slug, name, external_id, attributes, time_zone, region);

    INSERT INTO _grownext.tenant_tenant (id, slug, name, external_id, time_zone, region, attributes, created_at, updated_at)
    VALUES (coalesce(tenant_create.id, gen_random_uuid()), slug, name, external_id, _grownext.tenant_time_zone(time_zone), region, attributes,
            _grownext.core_now(), _grownext.core_now())
    ON CONFLICT DO NOTHING RETURNING tenant_tenant.id INTO new_id;
    IF new_id IS NULL THEN
        -- somebody else was faster: the same tenant if it is the same external id
        SELECT t.id INTO new_id FROM _grownext.tenant_tenant AS t WHERE t.external_id = tenant_create.external_id;
        IF FOUND THEN
            RETURN new_id;
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
            MESSAGE = CASE WHEN EXISTS (SELECT FROM _grownext.tenant_tenant AS t WHERE t.slug = tenant_create.slug)
                           THEN format('slug "%s" is taken', slug)
                           ELSE format('tenant "%s" already exists', tenant_create.id) END;
    END IF;

    IF parent_id IS NOT NULL THEN
        PERFORM _grownext.tenant_set_parent(new_id, parent_id);
    END IF;
    PERFORM _grownext.tenant_record('tenant.created', 'tenant:' || new_id, new_id, NULL, _grownext.tenant_json(new_id));
    IF owner_id IS NOT NULL THEN
        PERFORM grownext.member_add(new_id, owner_id, 'owner');
    END IF;
    FOR reactor IN SELECT r.reaction FROM _grownext.tenant_reactor AS r ORDER BY r.component LOOP
        -- the name is a row of our own, the same in every database of this version
        EXECUTE format('SELECT _grownext.%I($1, $2, $3)', reactor.reaction)
            USING 'tenant.created', new_id, jsonb_build_object('bundle', bundle);
    END LOOP;
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION grownext.tenant_create(text, text, uuid, jsonb, uuid, text, uuid, text, text, text) IS 'Creates a tenant with its owner and first subscription; the same external_id gives the same tenant.';

CREATE OR REPLACE FUNCTION grownext.tenant_update(tenant_id uuid, changes jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before jsonb;
    after jsonb;
    key text;
    failed_constraint text;
BEGIN
    PERFORM _grownext.core_check_options(changes,
        '{"slug":"string","name":"string","attributes":"object","time_zone":"string","region":"any","external_id":"any","parent_id":"any"}');
    FOREACH key IN ARRAY '{region,external_id,parent_id}'::text[] LOOP
        IF jsonb_typeof(changes -> key) NOT IN ('string', 'null') THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" must be a string or null', key);
        END IF;
    END LOOP;
    PERFORM _grownext.tenant_check(changes ->> 'slug', changes ->> 'name', changes ->> 'external_id', changes -> 'attributes',
                                   changes ->> 'time_zone', changes ->> 'region');
    PERFORM _grownext.tenant_lock(tenant_id);
    before := _grownext.tenant_json(tenant_id);
    BEGIN
        UPDATE _grownext.tenant_tenant AS t SET
            slug = CASE WHEN changes ? 'slug' THEN changes ->> 'slug' ELSE t.slug END,
            name = CASE WHEN changes ? 'name' THEN changes ->> 'name' ELSE t.name END,
            attributes = CASE WHEN changes ? 'attributes' THEN changes -> 'attributes' ELSE t.attributes END,
            time_zone = CASE WHEN changes ? 'time_zone' THEN _grownext.tenant_time_zone(changes ->> 'time_zone') ELSE t.time_zone END,
            region = CASE WHEN changes ? 'region' THEN changes ->> 'region' ELSE t.region END,
            external_id = CASE WHEN changes ? 'external_id' THEN changes ->> 'external_id' ELSE t.external_id END,
            updated_at = _grownext.core_now()
         WHERE t.id = tenant_update.tenant_id;
    EXCEPTION WHEN unique_violation THEN
        GET STACKED DIAGNOSTICS failed_constraint = CONSTRAINT_NAME;
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
            MESSAGE = CASE failed_constraint WHEN 'tenant_tenant_slug_key' THEN format('slug "%s" is taken', changes ->> 'slug')
                                             ELSE format('external id "%s" is taken', changes ->> 'external_id') END;
    END;
    IF changes ? 'parent_id' THEN
        PERFORM _grownext.tenant_set_parent(tenant_id, (changes ->> 'parent_id')::uuid);
    END IF;
    after := _grownext.tenant_json(tenant_id);
    IF after <> before THEN
        PERFORM _grownext.tenant_record('tenant.updated', 'tenant:' || tenant_id, tenant_id, before, after);
    END IF;
END
$$;
COMMENT ON FUNCTION grownext.tenant_update(uuid, jsonb) IS 'Changes slug, name, attributes, time_zone, region, external_id or parent_id of a tenant.';

CREATE OR REPLACE FUNCTION _grownext.tenant_set_state(tenant_id uuid, new_state text, reason text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before jsonb;
BEGIN
    IF (_grownext.tenant_lock(tenant_id)).state = new_state THEN
        RETURN;
    END IF;
    before := _grownext.tenant_json(tenant_id);
    UPDATE _grownext.tenant_tenant AS t
       SET state = new_state,
           suspended_at = CASE new_state WHEN 'suspended' THEN _grownext.core_now() END,
           suspend_reason = CASE new_state WHEN 'suspended' THEN reason END,
           updated_at = _grownext.core_now()
     WHERE t.id = tenant_set_state.tenant_id;
    PERFORM _grownext.tenant_record(CASE new_state WHEN 'suspended' THEN 'tenant.suspended' ELSE 'tenant.resumed' END,
                                    'tenant:' || tenant_id, tenant_id, before, _grownext.tenant_json(tenant_id));
END
$$;
COMMENT ON FUNCTION _grownext.tenant_set_state(uuid, text, text) IS 'Suspends or resumes a tenant; nothing happens if it is so already.';

CREATE OR REPLACE FUNCTION grownext.tenant_suspend(tenant_id uuid, reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(reason, '') = '' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a suspension needs a reason';
    END IF;
    PERFORM _grownext.tenant_set_state(tenant_id, 'suspended', reason);
END
$$;
COMMENT ON FUNCTION grownext.tenant_suspend(uuid, text) IS 'Suspends a tenant: nothing is entitled, no member may act. Its data stays.';

CREATE OR REPLACE FUNCTION grownext.tenant_resume(tenant_id uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT _grownext.tenant_set_state(tenant_id, 'active', NULL);
$$;
COMMENT ON FUNCTION grownext.tenant_resume(uuid) IS 'Ends a suspension.';

-- Roles ----------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.tenant_builtin_permissions(role text) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE role
        WHEN 'owner' THEN '{*}'::pg_catalog.text[]
        WHEN 'admin' THEN '{tenant.update,members.*,usage.read,audit.read,api_keys.*}'
        WHEN 'member' THEN '{}' END;
$$;
COMMENT ON FUNCTION _grownext.tenant_builtin_permissions(text) IS 'Permissions of a role that needs no definition; NULL for any other.';

-- A tenant's own definition, else the one for all tenants, else the built-in one. NULL:
-- there is no such role. Inlined into has_permission(): no SET clause, all names qualified.
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

CREATE OR REPLACE FUNCTION grownext.role_define(role text, permissions text[], tenant_id uuid DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    concerned uuid := coalesce(role_define.tenant_id, grownext.current_tenant());
    new_permissions text[];
    before jsonb;
    after jsonb;
BEGIN
    IF role IS NULL OR permissions IS NULL OR array_position(permissions, NULL) IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'role and permissions must not be null';
    ELSIF role = 'owner' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'role "owner" cannot be redefined', HINT = 'Owners have every permission.';
    ELSIF role !~ '^[a-z][a-z0-9_-]{0,62}$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('role name "%s" is not valid', role),
            HINT = 'A role name has up to 63 characters of a-z, 0-9, "_" and "-", and begins with a letter.';
    END IF;
    SELECT coalesce(array_agg(DISTINCT p ORDER BY p), '{}') INTO new_permissions FROM unnest(permissions) AS p;
    IF EXISTS (SELECT FROM unnest(new_permissions) AS p WHERE p !~ '^(\*|[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?)$') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('permission "%s" is not valid', (SELECT p FROM unnest(new_permissions) AS p WHERE p !~ '^(\*|[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?)$' LIMIT 1)),
            HINT = 'Write a dotted path such as "reports.read", "reports.*" or "*".';
    END IF;
    IF concerned IS NOT NULL THEN
        PERFORM _grownext.tenant_lock(_grownext.core_caller_tenant(concerned));
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

-- Members --------------------------------------------------------------------

-- Whoever takes the last owner's role away fails: also a cascade from a deleted user.
-- Raising owner_version makes two who leave at once wait for each other, and makes a
-- REPEATABLE READ transaction that waited fail with 40001 instead of judging by an old
-- snapshot. A tenant that goes takes its members along.
CREATE OR REPLACE FUNCTION _grownext.tenant_owner_guard() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE _grownext.tenant_tenant AS t SET owner_version = t.owner_version + 1 WHERE t.id = OLD.tenant_id;
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

CREATE OR REPLACE TRIGGER tenant_state_invalidate AFTER UPDATE OF state OR DELETE OR TRUNCATE ON _grownext.tenant_tenant
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('tenant_marker_state');
ALTER TABLE _grownext.tenant_tenant ENABLE ALWAYS TRIGGER tenant_state_invalidate;
CREATE OR REPLACE TRIGGER tenant_member_owner_delete BEFORE DELETE ON _grownext.tenant_member
    FOR EACH ROW WHEN (OLD.role = 'owner') EXECUTE FUNCTION _grownext.tenant_owner_guard();
CREATE OR REPLACE TRIGGER tenant_member_owner_update BEFORE UPDATE ON _grownext.tenant_member
    FOR EACH ROW WHEN (OLD.role = 'owner' AND NEW.role <> 'owner') EXECUTE FUNCTION _grownext.tenant_owner_guard();

CREATE OR REPLACE FUNCTION _grownext.tenant_check_role(tenant_id uuid, role text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF role IS NULL OR _grownext.tenant_role_permissions(tenant_id, role) IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('role "%s" does not exist', coalesce(role, 'NULL')),
            HINT = 'Use owner, admin or member, or define it: SELECT grownext.role_define(role, permissions, tenant_id);';
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_check_role(uuid, text) IS 'Raises if a tenant has no such role.';

CREATE OR REPLACE FUNCTION grownext.member_add(tenant_id uuid, user_id uuid, role text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.tenant_lock(tenant_id);
    PERFORM _grownext.tenant_check_role(tenant_id, role);
    IF NOT EXISTS (SELECT FROM _grownext.account_user AS u WHERE u.id = member_add.user_id) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('user "%s" does not exist', coalesce(user_id::text, 'NULL'));
    END IF;
    INSERT INTO _grownext.tenant_member (tenant_id, user_id, role, created_at, updated_at)
    VALUES (member_add.tenant_id, member_add.user_id, member_add.role, _grownext.core_now(), _grownext.core_now())
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object',
            MESSAGE = format('user "%s" is a member of tenant "%s" already', user_id, tenant_id),
            HINT = 'SELECT grownext.member_set_role(tenant_id, user_id, role);';
    END IF;
    PERFORM _grownext.tenant_record('member.added', 'user:' || user_id, tenant_id, NULL, jsonb_build_object('user_id', user_id, 'role', role));
END
$$;
COMMENT ON FUNCTION grownext.member_add(uuid, uuid, text) IS 'Makes a user a member of a tenant.';

CREATE OR REPLACE FUNCTION grownext.member_set_role(tenant_id uuid, user_id uuid, role text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old_role text;
BEGIN
    PERFORM _grownext.tenant_lock(tenant_id);
    PERFORM _grownext.tenant_check_role(tenant_id, role);
    SELECT m.role INTO old_role FROM _grownext.tenant_member AS m
     WHERE m.tenant_id = member_set_role.tenant_id AND m.user_id = member_set_role.user_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('user "%s" is not a member of tenant "%s"', coalesce(user_id::text, 'NULL'), tenant_id);
    ELSIF old_role = role THEN
        RETURN;
    END IF;
    UPDATE _grownext.tenant_member AS m SET role = member_set_role.role, updated_at = _grownext.core_now()
     WHERE m.tenant_id = member_set_role.tenant_id AND m.user_id = member_set_role.user_id;
    PERFORM _grownext.tenant_record('member.role_changed', 'user:' || user_id, tenant_id,
        jsonb_build_object('user_id', user_id, 'role', old_role), jsonb_build_object('user_id', user_id, 'role', role));
END
$$;
COMMENT ON FUNCTION grownext.member_set_role(uuid, uuid, text) IS 'Changes a member''s role; the last owner keeps his.';

CREATE OR REPLACE FUNCTION grownext.member_remove(tenant_id uuid, user_id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old_role text;
BEGIN
    PERFORM _grownext.tenant_lock(tenant_id);
    DELETE FROM _grownext.tenant_member AS m
     WHERE m.tenant_id = member_remove.tenant_id AND m.user_id = member_remove.user_id
     RETURNING m.role INTO old_role;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('user "%s" is not a member of tenant "%s"', coalesce(user_id::text, 'NULL'), tenant_id);
    END IF;
    PERFORM _grownext.tenant_record('member.removed', 'user:' || user_id, tenant_id, jsonb_build_object('user_id', user_id, 'role', old_role), NULL);
END
$$;
COMMENT ON FUNCTION grownext.member_remove(uuid, uuid) IS 'Ends a membership; the last owner stays.';

CREATE OR REPLACE FUNCTION _grownext.tenant_role_of(tenant_id uuid, user_id uuid) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT m.role
      FROM _grownext.tenant_member AS m
      JOIN _grownext.tenant_tenant AS t ON t.id = m.tenant_id AND t.state = 'active'
     WHERE m.tenant_id = tenant_role_of.tenant_id AND m.user_id = tenant_role_of.user_id;
$$;
COMMENT ON FUNCTION _grownext.tenant_role_of(uuid, uuid) IS 'A user''s role in a tenant; NULL for no member and for a tenant that is not active.';

-- Views: administrators, services and auditors see all, everybody else the own tenant.
-- The functions in a view run with the caller's rights, so the views ask a function
-- that the epilogue grants together with them.
CREATE OR REPLACE FUNCTION _grownext.tenant_serves_all() RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT _grownext.core_caller_has('service') OR _grownext.core_caller_has('admin');
$$;
COMMENT ON FUNCTION _grownext.tenant_serves_all() IS 'Whether the caller may act for every tenant.';

CREATE OR REPLACE FUNCTION _grownext.tenant_sees_all() RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT _grownext.tenant_serves_all() OR _grownext.core_caller_has('auditor');
$$;
COMMENT ON FUNCTION _grownext.tenant_sees_all() IS 'Whether the caller may see the rows of every tenant.';

CREATE OR REPLACE VIEW grownext.tenant WITH (security_barrier) AS
    SELECT t.id, t.slug, t.name, t.external_id, p.parent_id, t.state, t.suspended_at, t.suspend_reason,
           t.time_zone, t.region, t.attributes, t.created_at, t.updated_at
      FROM _grownext.tenant_tenant AS t
      LEFT JOIN _grownext.tenant_parent AS p ON p.tenant_id = t.id
     WHERE t.id = grownext.current_tenant() OR (SELECT _grownext.tenant_sees_all());
COMMENT ON VIEW grownext.tenant IS 'Tenants; without the rights of a service, only the own one.';

CREATE OR REPLACE VIEW grownext.member WITH (security_barrier) AS
    SELECT m.tenant_id, m.user_id, m.role, m.created_at, m.updated_at
      FROM _grownext.tenant_member AS m
     WHERE m.tenant_id = grownext.current_tenant() OR (SELECT _grownext.tenant_sees_all());
COMMENT ON VIEW grownext.member IS 'Members of tenants; without the rights of a service, only of the own one.';

CREATE OR REPLACE VIEW grownext.role WITH (security_barrier) AS
    SELECT r.tenant_id, r.role, r.permissions, false AS builtin
      FROM _grownext.tenant_role AS r
     WHERE r.tenant_id IS NULL OR r.tenant_id = grownext.current_tenant() OR (SELECT _grownext.tenant_sees_all())
    UNION ALL
    SELECT NULL, b.role, _grownext.tenant_builtin_permissions(b.role), true
      FROM (VALUES ('owner'), ('admin'), ('member')) AS b (role)
     WHERE NOT EXISTS (SELECT FROM _grownext.tenant_role AS r WHERE r.tenant_id IS NULL AND r.role = b.role);
COMMENT ON VIEW grownext.role IS 'Roles: built in, for all tenants (tenant_id null) and of single tenants, the own one''s without the rights of a service.';

-- Row isolation --------------------------------------------------------------

-- The next two run as the caller, who must own the table, and touch nothing of ours.
-- They are no definer functions, so no name of schema _grownext stands in them.

-- One restrictive policy, so that no policy of the application can widen what is seen;
-- one permissive "true", without which a restrictive policy alone shows nothing.
CREATE OR REPLACE FUNCTION grownext.tenant_isolate(relation regclass, tenant_column name DEFAULT 'tenant_id', options jsonb DEFAULT '{}') RETURNS SETOF grownext.isolation_finding
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    wants_force boolean;
    wants_default boolean;
    wants_index boolean;
    target record;
    part record;
    option record;
    attribute record;
    role record;
BEGIN
    IF relation IS NULL OR tenant_column IS NULL OR coalesce(jsonb_typeof(options), 'null') <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'relation, tenant_column and options must not be null';
    END IF;
    FOR option IN SELECT key, value FROM jsonb_each(options) LOOP
        IF option.key NOT IN ('force', 'set_default', 'index') THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('unknown option "%s"', option.key),
                HINT = 'Known options: force, index, set_default.';
        ELSIF jsonb_typeof(option.value) <> 'boolean' THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('option "%s" must be of type boolean', option.key);
        END IF;
    END LOOP;
    wants_force := coalesce((options ->> 'force')::boolean, true);
    wants_default := coalesce((options ->> 'set_default')::boolean, true);
    wants_index := coalesce((options ->> 'index')::boolean, false);

    SELECT c.oid, c.relkind, c.relname, n.nspname, c.relowner INTO target
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relation;
    IF target.relkind IS NULL OR target.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type', MESSAGE = format('"%s" is not a table', relation);
    ELSIF target.nspname IN ('pg_catalog', 'information_schema', 'pg_toast')
       OR EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = target.oid AND d.deptype = 'e') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = format('"%s" belongs to the system or to an extension', relation);
    ELSIF NOT pg_has_role(current_user, target.relowner, 'USAGE') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = format('must be owner of table %s', relation);
    END IF;
    -- a name cannot be a parameter of LOCK; it is the catalogue's own, fully qualified
    EXECUTE format('LOCK TABLE %I.%I IN ACCESS EXCLUSIVE MODE', target.nspname, target.relname);
    IF NOT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                    WHERE c.oid = target.oid AND c.relname = target.relname AND n.nspname = target.nspname AND c.relowner = target.relowner) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_in_use', MESSAGE = format('table "%s" was changed by somebody else', target.relname), HINT = 'Try again.';
    END IF;

    SELECT a.attnum, a.attnotnull, a.atttypid, a.atthasdef INTO attribute
      FROM pg_attribute AS a WHERE a.attrelid = target.oid AND a.attname = tenant_column AND NOT a.attisdropped AND a.attnum > 0;
    IF attribute.attnum IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_column', MESSAGE = format('table "%s" has no column "%s"', relation, tenant_column);
    ELSIF attribute.atttypid <> 'uuid'::regtype THEN
        RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch', MESSAGE = format('column "%s" of "%s" is not of type uuid', tenant_column, relation);
    END IF;
    IF wants_default AND NOT attribute.atthasdef THEN
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT grownext.current_tenant()', relation, tenant_column);
    END IF;

    -- a partition that is named directly answers with its own policies
    FOR part IN
        WITH RECURSIVE tree AS (
            SELECT target.oid AS oid
            UNION
            SELECT i.inhrelid FROM tree AS t JOIN pg_inherits AS i ON i.inhparent = t.oid)
        SELECT c.oid::regclass AS relation, c.relkind, c.relname FROM tree AS t JOIN pg_class AS c ON c.oid = t.oid
    LOOP
        IF part.relkind NOT IN ('r', 'p') THEN
            RAISE EXCEPTION USING ERRCODE = 'wrong_object_type', MESSAGE = format('"%s" below "%s" is not a table', part.relation, relation),
                DETAIL = 'Row security does not exist for foreign tables.';
        END IF;
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, %s ROW LEVEL SECURITY', part.relation, CASE WHEN wants_force THEN 'FORCE' ELSE 'NO FORCE' END);
        EXECUTE format('DROP POLICY IF EXISTS grownext_tenant ON %s', part.relation);
        EXECUTE format('CREATE POLICY grownext_tenant ON %s AS RESTRICTIVE USING (%I = grownext.current_tenant()) WITH CHECK (%I = grownext.current_tenant())',
                       part.relation, tenant_column, tenant_column);
        EXECUTE format('COMMENT ON POLICY grownext_tenant ON %s IS %L', part.relation, 'grownext: rows of the current tenant only');
        EXECUTE format('DROP POLICY IF EXISTS grownext_tenant_permit ON %s', part.relation);
        IF NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = part.relation AND p.polpermissive) THEN
            EXECUTE format('CREATE POLICY grownext_tenant_permit ON %s USING (true) WITH CHECK (true)', part.relation);
            EXECUTE format('COMMENT ON POLICY grownext_tenant_permit ON %s IS %L', part.relation, 'grownext: permits what grownext_tenant leaves over');
        END IF;
    END LOOP;

    IF NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = target.oid AND i.indkey[0] = attribute.attnum AND i.indpred IS NULL AND i.indisvalid) THEN
        IF wants_index THEN
            EXECUTE format('CREATE INDEX ON %s (%I)', relation, tenant_column);
        ELSE
            RETURN NEXT ROW(relation::text, 'no index leads with the tenant column',
                            format('CREATE INDEX%s ON %s (%I);', CASE target.relkind WHEN 'r' THEN ' CONCURRENTLY' ELSE '' END, relation, tenant_column))::grownext.isolation_finding;
        END IF;
    END IF;
    IF NOT attribute.attnotnull THEN
        RETURN NEXT ROW(relation::text, 'the tenant column may be null, and rows without a tenant are seen by nobody',
                        format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL;', relation, tenant_column))::grownext.isolation_finding;
    END IF;
    FOR role IN
        SELECT r.rolname FROM pg_roles AS r
         WHERE NOT r.rolsuper AND NOT r.rolbypassrls AND r.rolname !~ '^pg_'
           AND (has_table_privilege(r.oid, target.oid, 'SELECT, INSERT, UPDATE, DELETE')
             OR has_any_column_privilege(r.oid, target.oid, 'SELECT, INSERT, UPDATE'))
           AND NOT has_function_privilege(r.oid, 'grownext.current_tenant()', 'EXECUTE')
         ORDER BY r.rolname
    LOOP
        RETURN NEXT ROW(role.rolname::text, format('can reach %s but may not call grownext.current_tenant(): every statement fails', relation),
                        format('GRANT grownext_user TO %I;', role.rolname))::grownext.isolation_finding;
    END LOOP;
END
$$;
COMMENT ON FUNCTION grownext.tenant_isolate(regclass, name, jsonb) IS 'Shows and accepts rows of the current tenant only, for all commands; returns what is still wanting. For the table''s owner.';

CREATE OR REPLACE FUNCTION grownext.tenant_unisolate(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    part record;
    owned_default record;
BEGIN
    IF relation IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'relation must not be null';
    ELSIF NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = relation AND c.relkind IN ('r', 'p')) THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type', MESSAGE = format('"%s" is not a table', relation);
    END IF;
    FOR part IN
        WITH RECURSIVE tree AS (
            SELECT relation::oid AS oid
            UNION
            SELECT i.inhrelid FROM tree AS t JOIN pg_inherits AS i ON i.inhparent = t.oid)
        SELECT c.oid::regclass AS relation FROM tree AS t JOIN pg_class AS c ON c.oid = t.oid WHERE c.relkind IN ('r', 'p')
    LOOP
        -- DROP POLICY and ALTER TABLE check the ownership and take the lock
        EXECUTE format('DROP POLICY IF EXISTS grownext_tenant ON %s', part.relation);
        EXECUTE format('DROP POLICY IF EXISTS grownext_tenant_permit ON %s', part.relation);
        IF NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = part.relation) THEN
            EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', part.relation);
        END IF;
        FOR owned_default IN
            SELECT a.attname FROM pg_attrdef AS d JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
             WHERE d.adrelid = part.relation AND pg_get_expr(d.adbin, d.adrelid) = 'grownext.current_tenant()'
        LOOP
            EXECUTE format('ALTER TABLE %s ALTER COLUMN %I DROP DEFAULT', part.relation, owned_default.attname);
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON FUNCTION grownext.tenant_unisolate(regclass) IS 'Takes tenant_isolate() back; policies of the application stay. For the table''s owner.';

-- Status ---------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.tenant_status() RETURNS SETOF grownext.status_item
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    isolated int;
    open_part record;
BEGIN
    SELECT count(*) INTO isolated FROM pg_policy AS p WHERE p.polname = 'grownext_tenant';
    SELECT i.inhparent::regclass AS parent, i.inhrelid::regclass AS part INTO open_part
      FROM pg_policy AS p JOIN pg_inherits AS i ON i.inhparent = p.polrelid
     WHERE p.polname = 'grownext_tenant'
       AND NOT EXISTS (SELECT FROM pg_policy AS q WHERE q.polrelid = i.inhrelid AND q.polname = 'grownext_tenant')
     ORDER BY 1, 2 LIMIT 1;
    IF open_part.part IS NOT NULL THEN
        RETURN NEXT ROW('tenant', 'isolation', 'degraded', format('partition "%s" of "%s" is not isolated when it is named directly', open_part.part, open_part.parent),
                     format('SELECT * FROM grownext.tenant_isolate(%L);', open_part.parent), NULL)::grownext.status_item;
    ELSIF isolated = 0 THEN
        RETURN NEXT ROW('tenant', 'isolation', 'off', 'no table is isolated by tenant', 'SELECT * FROM grownext.tenant_isolate(''your_table'');', NULL)::grownext.status_item;
    ELSE
        RETURN NEXT ROW('tenant', 'isolation', 'ok', format('%s tables are isolated by tenant', isolated), NULL, NULL)::grownext.status_item;
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_status() IS 'Items of grownext.status().';
