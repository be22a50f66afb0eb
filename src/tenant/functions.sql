-- src/tenant/functions.sql: what all of tenant needs, and tenants themselves

-- Every administrative change: one audit event with before and after, one platform event.
CREATE OR REPLACE FUNCTION _grownext.tenant_record(action text, target text, tenant_id uuid, before jsonb, after jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.audit_write(action, target, tenant_id, before, after);
    PERFORM _grownext.core_event_emit(action, tenant_id, coalesce(after, before));
END
$$;
COMMENT ON FUNCTION _grownext.tenant_record(text, text, uuid, jsonb, jsonb) IS 'Writes the audit event of an administrative change and sends it to whoever routed it.';

CREATE OR REPLACE FUNCTION _grownext.tenant_react(event text, tenant_id uuid, options jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reactor record;
BEGIN
    FOR reactor IN SELECT r.reaction FROM _grownext.tenant_reactor AS r ORDER BY r.component LOOP
        -- the name is a row of our own, the same in every database of this version
        EXECUTE format('SELECT _grownext.%I($1, $2, $3)', reactor.reaction) USING event, tenant_id, options;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_react(text, uuid, jsonb) IS 'Lets the other components take part in what happens to a tenant; they refuse it by raising.';

-- Seats: whoever limits them is told after a change, with the tenant's row locked, and
-- counts with tenant_seats(). A pending invitation holds the seat that its acceptance takes.
CREATE OR REPLACE FUNCTION _grownext.tenant_seats(tenant_id uuid) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (SELECT count(*) FROM _grownext.tenant_member AS m WHERE m.tenant_id = tenant_seats.tenant_id)
         + (SELECT count(*) FROM _grownext.tenant_invitation AS i
             WHERE i.tenant_id = tenant_seats.tenant_id AND i.state = 'pending' AND i.expires_at > _grownext.core_now());
$$;
COMMENT ON FUNCTION _grownext.tenant_seats(uuid) IS 'Seats in use: members, and invitations that can still be accepted.';

-- Under REPEATABLE READ a transaction that waited counts by an old snapshot. Raising
-- member_version makes it fail with 40001 instead.
CREATE OR REPLACE FUNCTION _grownext.tenant_seat_taken(tenant_id uuid, options jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE _grownext.tenant_tenant AS t SET member_version = t.member_version + 1 WHERE t.id = tenant_seat_taken.tenant_id;
    PERFORM _grownext.tenant_react('seats.grow', tenant_id, options);
END
$$;
COMMENT ON FUNCTION _grownext.tenant_seat_taken(uuid, jsonb) IS 'After a member or an invitation has come, the tenant being locked: lets whoever limits seats refuse it.';

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

CREATE OR REPLACE FUNCTION _grownext.tenant_require_active(tenant _grownext.tenant_tenant) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tenant.state <> 'active' THEN
        RAISE EXCEPTION USING ERRCODE = 'NX023',
            MESSAGE = format('tenant "%s" is %s', tenant.id, tenant.state),
            HINT = CASE tenant.state WHEN 'suspended' THEN format('SELECT grownext.tenant_resume(%L);', tenant.id)
                                     WHEN 'closing' THEN format('SELECT grownext.tenant_restore(%L);', tenant.id) END;
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_require_active(_grownext.tenant_tenant) IS 'Raises NX023 for a tenant that is suspended or closing.';

-- Who may call what -----------------------------------------------------------

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

CREATE OR REPLACE FUNCTION _grownext.tenant_caller_may(permission text) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(grownext.has_permission(permission), false);
$$;
COMMENT ON FUNCTION _grownext.tenant_caller_may(text) IS 'has_permission() for views, whose readers need no right on it.';

-- Every function that an end user may call begins here. Another tenant is refused before
-- anything is locked; the permission is judged afterwards, when nobody can change the
-- caller's role any more. The result is what tenant_check_grade() wants to know: NULL
-- for services and admins, whom no role limits.
CREATE OR REPLACE FUNCTION _grownext.tenant_enter(tenant_id uuid, permission text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller_role text;
    tenant _grownext.tenant_tenant;
BEGIN
    IF _grownext.tenant_serves_all() THEN
        PERFORM _grownext.tenant_lock(tenant_id);
        RETURN NULL;
    ELSIF tenant_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = 'tenant "NULL" does not exist';
    END IF;
    tenant := _grownext.tenant_lock(_grownext.core_caller_tenant(tenant_id));
    PERFORM _grownext.tenant_require_active(tenant);
    caller_role := _grownext.tenant_role_of(tenant_id, grownext.current_user_id());
    IF NOT coalesce(_grownext.tenant_permits(_grownext.tenant_role_permissions(tenant_id, caller_role), permission), false) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('permission denied: the caller''s role lacks "%s"', permission);
    END IF;
    RETURN caller_role;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_enter(uuid, text) IS 'Locks a tenant for a caller who is a service or has the permission there; the caller''s role, NULL for a service.';

-- Slugs and other properties ----------------------------------------------------

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

-- What tenant_create and tenant_update both refuse, before anything is written. NULL: not
-- given. What is too long is not repeated.
CREATE OR REPLACE FUNCTION _grownext.tenant_check(slug text, name text, external_id text, attributes jsonb, time_zone text, region text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    problem text;
    hint text;
BEGIN
    IF slug !~ '^[a-z0-9]+(-[a-z0-9]+)*$' OR length(slug) NOT BETWEEN 3 AND 63 THEN
        problem := format('slug "%s" is not valid', left(slug, 80));
        hint := 'A slug has 3 to 63 characters: words of a-z and 0-9, with one "-" between them.';
    ELSIF _grownext.tenant_slug_reserved(slug) THEN
        problem := format('slug "%s" is reserved', slug);
        hint := 'Choose another: it collides with a host name in common use.';
    ELSIF name = '' THEN
        problem := 'name must not be empty';
        hint := 'Pass the name that people read.';
    ELSIF length(name) > 200 THEN
        problem := 'name is too long';
        hint := 'A name has up to 200 characters.';
    ELSIF external_id = '' THEN
        problem := 'external_id must not be empty';
        hint := 'Pass the id that another system has for the tenant, or NULL.';
    ELSIF length(external_id) > 255 THEN
        problem := 'external_id is too long';
        hint := 'An external id has up to 255 characters.';
    ELSIF jsonb_typeof(attributes) <> 'object' THEN
        problem := 'attributes must be a JSON object';
        hint := 'Such as {"tier": "gold"}.';
    ELSIF octet_length(attributes::text) > 16384 THEN
        problem := 'attributes are too large';
        hint := 'They have up to 16 kB as text; keep larger things in a table of yours.';
    ELSIF region !~ '^[a-z0-9][a-z0-9-]{0,62}$' THEN
        problem := format('region "%s" is not valid', left(region, 80));
        hint := 'A region has up to 63 characters of a-z, 0-9 and "-", such as "eu-central".';
    ELSIF time_zone IS NOT NULL AND _grownext.tenant_time_zone(time_zone) IS NULL THEN
        problem := format('time zone "%s" does not exist', left(time_zone, 80));
        hint := 'SELECT name FROM pg_timezone_names;';
    ELSE
        RETURN;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = problem, HINT = hint;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_check(text, text, text, jsonb, text, text) IS 'Raises on properties that no tenant may have.';

-- Gives a tenant a slug, its own former one too, and keeps the last ten that it had. The
-- primary key decides between two who want the same.
CREATE OR REPLACE FUNCTION _grownext.tenant_take_slug(tenant_id uuid, slug text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept CONSTANT int := 10;
BEGIN
    UPDATE _grownext.tenant_slug AS s SET retired_at = _grownext.core_now()
     WHERE s.tenant_id = tenant_take_slug.tenant_id AND s.retired_at IS NULL;
    INSERT INTO _grownext.tenant_slug AS s (slug, tenant_id) VALUES (tenant_take_slug.slug, tenant_take_slug.tenant_id)
        ON CONFLICT ON CONSTRAINT tenant_slug_pkey DO UPDATE SET retired_at = NULL WHERE s.tenant_id = EXCLUDED.tenant_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object', MESSAGE = format('slug "%s" is taken', slug);
    END IF;
    DELETE FROM _grownext.tenant_slug AS s
     WHERE s.slug IN (SELECT o.slug FROM _grownext.tenant_slug AS o
                       WHERE o.tenant_id = tenant_take_slug.tenant_id AND o.retired_at IS NOT NULL
                       ORDER BY o.retired_at DESC, o.slug OFFSET kept);
END
$$;
COMMENT ON FUNCTION _grownext.tenant_take_slug(uuid, text) IS 'Makes a slug the current one of a tenant and remembers the one before.';

CREATE OR REPLACE FUNCTION grownext.slug_resolve(slug text) RETURNS grownext.slug_target
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT ROW(t.id, t.slug, s.retired_at IS NOT NULL)::grownext.slug_target
      FROM _grownext.tenant_slug AS s JOIN _grownext.tenant_tenant AS t ON t.id = s.tenant_id
     WHERE s.slug = slug_resolve.slug;
$$;
COMMENT ON FUNCTION grownext.slug_resolve(text) IS 'Whose a slug is or was, with the current one to redirect to; NULL for nobody''s.';

-- A tenant as events and audit show it.
CREATE OR REPLACE FUNCTION _grownext.tenant_json(tenant_id uuid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT to_jsonb(t) - '{member_version,updated_at,purge_retry_at,purge_error}'::text[] || jsonb_build_object('parent_id', p.parent_id)
      FROM _grownext.tenant_tenant AS t
      LEFT JOIN _grownext.tenant_parent AS p ON p.tenant_id = t.id
     WHERE t.id = tenant_json.tenant_id;
$$;
COMMENT ON FUNCTION _grownext.tenant_json(uuid) IS 'A tenant as jsonb, for events and audit.';

-- Hangs a tenant below a parent. The chain of ancestors is locked one by one, so two
-- moves that would close a circle together meet, and one of them fails.
CREATE OR REPLACE FUNCTION _grownext.tenant_set_parent(tenant_id uuid, parent_id uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    max_depth CONSTANT int := 8;
    ancestor uuid := tenant_set_parent.parent_id;
    locked _grownext.tenant_tenant;
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
        locked := _grownext.tenant_lock(ancestor);
        IF locked.state IN ('closing', 'purging') THEN
            PERFORM _grownext.tenant_require_active(locked);
        END IF;
        ancestor := (SELECT p.parent_id FROM _grownext.tenant_parent AS p WHERE p.tenant_id = ancestor);
    END LOOP;
    INSERT INTO _grownext.tenant_parent (tenant_id, parent_id) VALUES (tenant_set_parent.tenant_id, tenant_set_parent.parent_id)
        ON CONFLICT ON CONSTRAINT tenant_parent_pkey DO UPDATE SET parent_id = EXCLUDED.parent_id;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_set_parent(uuid, uuid) IS 'Sets or clears a tenant''s parent; refuses circles, closing parents and more than eight levels.';

-- Tenants -----------------------------------------------------------------------

CREATE OR REPLACE FUNCTION grownext.tenant_create(slug text, name text, owner_id uuid DEFAULT NULL, attributes jsonb DEFAULT '{}', id uuid DEFAULT NULL,
    external_id text DEFAULT NULL, parent_id uuid DEFAULT NULL, bundle text DEFAULT NULL, time_zone text DEFAULT 'UTC', region text DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_id uuid;
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
    PERFORM _grownext.tenant_take_slug(new_id, slug);

    IF parent_id IS NOT NULL THEN
        PERFORM _grownext.tenant_set_parent(new_id, parent_id);
    END IF;
    PERFORM _grownext.tenant_record('tenant.created', 'tenant:' || new_id, new_id, NULL, _grownext.tenant_json(new_id));
    -- the bundle first: it may bring the seat that the owner takes
    PERFORM _grownext.tenant_react('tenant.created', new_id, jsonb_build_object('bundle', bundle));
    IF owner_id IS NOT NULL THEN
        PERFORM _grownext.tenant_member_put(new_id, owner_id, 'owner');
    END IF;
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION grownext.tenant_create(text, text, uuid, jsonb, uuid, text, uuid, text, text, text) IS 'Creates a tenant with its owner and first subscription; the same external_id gives the same tenant.';

CREATE OR REPLACE FUNCTION grownext.tenant_update(tenant_id uuid, changes jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller_role text;
    before jsonb;
    after jsonb;
    key text;
    tenant _grownext.tenant_tenant;
BEGIN
    PERFORM _grownext.core_check_options(changes,
        '{"slug":"string","name":"string","attributes":"object","time_zone":"string","region":"any","external_id":"any","parent_id":"any"}');
    FOREACH key IN ARRAY '{region,external_id,parent_id}'::text[] LOOP
        IF jsonb_typeof(changes -> key) NOT IN ('string', 'null') THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" must be a string or null', key);
        END IF;
    END LOOP;
    IF changes ->> 'parent_id' !~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = '"parent_id" must be a uuid or null';
    END IF;
    PERFORM _grownext.tenant_check(changes ->> 'slug', changes ->> 'name', changes ->> 'external_id', changes -> 'attributes',
                                   changes ->> 'time_zone', changes ->> 'region');
    -- a statement of its own: in a condition it might be skipped
    caller_role := _grownext.tenant_enter(tenant_id, 'tenant.update');
    IF caller_role IS NOT NULL AND changes ?| '{attributes,region,external_id,parent_id}' THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = 'permission denied: members change slug, name and time_zone only',
            HINT = 'The back end changes attributes, region, external_id and parent_id.';
    END IF;
    tenant := _grownext.tenant_lock(tenant_id);
    before := _grownext.tenant_json(tenant_id);
    IF changes ->> 'slug' <> tenant.slug THEN
        PERFORM _grownext.tenant_take_slug(tenant_id, changes ->> 'slug');
    END IF;
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
        RAISE EXCEPTION USING ERRCODE = 'duplicate_object', MESSAGE = format('external id "%s" is taken', changes ->> 'external_id');
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

-- Whoever was found active is asked about again; see check_tenant() in tenant.c.
CREATE OR REPLACE TRIGGER tenant_state_invalidate AFTER UPDATE OF state OR DELETE OR TRUNCATE ON _grownext.tenant_tenant
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('tenant_marker_state');
ALTER TABLE _grownext.tenant_tenant ENABLE ALWAYS TRIGGER tenant_state_invalidate;

-- Administrators, services and auditors see all, everybody else the own tenant. The
-- functions in a view run with the caller's rights: the epilogue grants them with it.
CREATE OR REPLACE VIEW grownext.tenant WITH (security_barrier) AS
    SELECT t.id, t.slug, t.name, t.external_id, p.parent_id, t.state, t.suspended_at, t.suspend_reason,
           t.time_zone, t.region, t.attributes, t.created_at, t.updated_at, t.purge_at
      FROM _grownext.tenant_tenant AS t
      LEFT JOIN _grownext.tenant_parent AS p ON p.tenant_id = t.id
     WHERE t.id = grownext.current_tenant() OR (SELECT _grownext.tenant_sees_all());
COMMENT ON VIEW grownext.tenant IS 'Tenants; without the rights of a service, only the own one.';
