-- src/tenant/lifecycle.sql: a tenant is suspended and resumed, deleted and restored, purged
--
--   active <-> suspended        tenant_suspend, tenant_resume
--   either  -> closing          tenant_delete; tenant_restore goes back within the grace
--   closing -> purging -> gone  tenant_tick, after the grace
--
-- A purge deletes the application's rows first, some thousand a pass, then lets the other
-- components delete theirs, and the tenant last. It can be killed at any line: the next
-- pass goes on with what is left.

CREATE OR REPLACE FUNCTION grownext.tenant_suspend(tenant_id uuid, reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant _grownext.tenant_tenant;
    before jsonb;
BEGIN
    IF coalesce(reason, '') = '' OR length(reason) > 1000 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a suspension needs a reason of up to 1000 characters';
    END IF;
    tenant := _grownext.tenant_lock(tenant_id);
    IF tenant.state = 'suspended' THEN
        RETURN;
    END IF;
    PERFORM _grownext.tenant_require_active(tenant);
    before := _grownext.tenant_json(tenant_id);
    UPDATE _grownext.tenant_tenant AS t
       SET state = 'suspended', suspended_at = _grownext.core_now(), suspend_reason = reason, updated_at = _grownext.core_now()
     WHERE t.id = tenant_suspend.tenant_id;
    PERFORM _grownext.tenant_record('tenant.suspended', 'tenant:' || tenant_id, tenant_id, before, _grownext.tenant_json(tenant_id));
    PERFORM _grownext.tenant_react('tenant.suspended', tenant_id);
END
$$;
COMMENT ON FUNCTION grownext.tenant_suspend(uuid, text) IS 'Suspends a tenant: nothing is entitled, no member may act. Its data stays.';

CREATE OR REPLACE FUNCTION grownext.tenant_resume(tenant_id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant CONSTANT _grownext.tenant_tenant := _grownext.tenant_lock(tenant_id);
    before CONSTANT jsonb := _grownext.tenant_json(tenant_id);
BEGIN
    IF tenant.state = 'active' THEN
        RETURN;
    ELSIF tenant.state <> 'suspended' THEN
        PERFORM _grownext.tenant_require_active(tenant);
    END IF;
    UPDATE _grownext.tenant_tenant AS t SET state = 'active', suspended_at = NULL, suspend_reason = NULL, updated_at = _grownext.core_now()
     WHERE t.id = tenant_resume.tenant_id;
    PERFORM _grownext.tenant_record('tenant.resumed', 'tenant:' || tenant_id, tenant_id, before, _grownext.tenant_json(tenant_id));
    PERFORM _grownext.tenant_react('tenant.resumed', tenant_id);
END
$$;
COMMENT ON FUNCTION grownext.tenant_resume(uuid) IS 'Ends a suspension.';

CREATE OR REPLACE FUNCTION grownext.tenant_delete(tenant_id uuid, grace interval DEFAULT '30 days') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller_role text;
    tenant _grownext.tenant_tenant;
    due_at timestamptz;
    before jsonb;
BEGIN
    IF grace IS NULL OR grace < interval '0' OR grace > interval '10 years' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'grace must be between nothing and ten years';
    END IF;
    -- a statement of its own: in a condition it might be skipped
    caller_role := _grownext.tenant_enter(tenant_id, 'tenant.delete');
    IF caller_role IS NOT NULL AND grace < interval '30 days' THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'permission denied: members leave a grace of 30 days at least';
    END IF;
    tenant := _grownext.tenant_lock(tenant_id);
    IF tenant.state = 'purging' THEN
        RETURN;
    ELSIF EXISTS (SELECT FROM _grownext.tenant_parent AS p JOIN _grownext.tenant_tenant AS t ON t.id = p.tenant_id
                   WHERE p.parent_id = tenant_delete.tenant_id AND t.state NOT IN ('closing', 'purging')) THEN
        RAISE EXCEPTION USING ERRCODE = 'dependent_objects_still_exist', MESSAGE = format('tenant "%s" has tenants below it', tenant_id),
            HINT = 'Delete them first, or hang them elsewhere: SELECT grownext.tenant_update(tenant_id, ''{"parent_id": null}'');';
    END IF;
    before := _grownext.tenant_json(tenant_id);
    due_at := _grownext.core_now() + grace;
    UPDATE _grownext.tenant_tenant AS t
       SET state = 'closing', purge_at = due_at, purge_retry_at = NULL, purge_error = NULL, updated_at = _grownext.core_now()
     WHERE t.id = tenant_delete.tenant_id;
    PERFORM _grownext.tenant_record('tenant.deleted', 'tenant:' || tenant_id, tenant_id, before, _grownext.tenant_json(tenant_id));
    IF tenant.state <> 'closing' THEN
        PERFORM _grownext.tenant_react('tenant.deleted', tenant_id);
    END IF;
END
$$;
COMMENT ON FUNCTION grownext.tenant_delete(uuid, interval) IS 'Closes a tenant at once and purges it after the grace; again, it changes when.';

CREATE OR REPLACE FUNCTION grownext.tenant_restore(tenant_id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant CONSTANT _grownext.tenant_tenant := _grownext.tenant_lock(tenant_id);
    before CONSTANT jsonb := _grownext.tenant_json(tenant_id);
BEGIN
    IF tenant.state = 'purging' THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('tenant "%s" is being purged', tenant_id);
    ELSIF tenant.state <> 'closing' THEN
        RETURN;
    ELSIF EXISTS (SELECT FROM _grownext.tenant_parent AS p JOIN _grownext.tenant_tenant AS t ON t.id = p.parent_id
                   WHERE p.tenant_id = tenant_restore.tenant_id AND t.state IN ('closing', 'purging')) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('the tenant above "%s" is closing', tenant_id),
            HINT = 'Restore that one first.';
    END IF;
    UPDATE _grownext.tenant_tenant AS t
       SET state = CASE WHEN t.suspended_at IS NULL THEN 'active' ELSE 'suspended' END, purge_at = NULL, purge_retry_at = NULL, purge_error = NULL,
           updated_at = _grownext.core_now()
     WHERE t.id = tenant_restore.tenant_id;
    PERFORM _grownext.tenant_record('tenant.restored', 'tenant:' || tenant_id, tenant_id, before, _grownext.tenant_json(tenant_id));
    PERFORM _grownext.tenant_react('tenant.restored', tenant_id);
END
$$;
COMMENT ON FUNCTION grownext.tenant_restore(uuid) IS 'Takes tenant_delete() back within the grace; what was suspended is suspended.';

-- Purge -------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.tenant_purge_rows(relation oid, column_name name, tenant_id uuid, action text, most int) RETURNS bigint
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_tenant_purge_rows';
COMMENT ON FUNCTION _grownext.tenant_purge_rows(oid, name, uuid, text, int) IS 'Deletes or detaches rows of a tenant from one table of the application, as the table''s owner; how many.';

-- Which tables a purge concerns, and how: tenant_isolate() wrote it beside its policy,
-- where it is renamed, dumped and dropped with the table. Partitions count that came since.
CREATE OR REPLACE FUNCTION _grownext.tenant_purge_targets(OUT relation oid, OUT column_name name, OUT action text) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE tree AS (
        SELECT p.polrelid AS relid, min(a.attname::text) AS attname, substring(obj_description(p.oid, 'pg_policy') FROM 'on purge: (delete|detach)$') AS action
          FROM pg_policy AS p
          JOIN pg_depend AS d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.polrelid
          JOIN pg_attribute AS a ON a.attrelid = p.polrelid AND a.attnum = d.refobjsubid AND a.atttypid = 'uuid'::regtype
         WHERE p.polname = 'grownext_tenant'
         GROUP BY p.oid, p.polrelid HAVING count(DISTINCT a.attname) = 1
        UNION
        SELECT i.inhrelid, t.attname, t.action FROM tree AS t JOIN pg_inherits AS i ON i.inhparent = t.relid)
    SELECT DISTINCT t.relid, t.attname::name, t.action FROM tree AS t JOIN pg_class AS c ON c.oid = t.relid
     WHERE t.action IS NOT NULL AND c.relkind = 'r' ORDER BY 1;
$$;
COMMENT ON FUNCTION _grownext.tenant_purge_targets() IS 'Tables of the application whose rows go with their tenant.';

-- True once the application has no row left. A row that others point to goes after them,
-- whatever the order of the tables: what is in the way is tried again as long as
-- anything moves.
CREATE OR REPLACE FUNCTION _grownext.tenant_purge_application(tenant_id uuid) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    most CONSTANT int := 10000;
    target record;
    moved bigint;
    gone bigint := 0;
    blocked text;
    progress boolean := true;
BEGIN
    WHILE progress AND gone < most LOOP
        progress := false;
        blocked := NULL;
        FOR target IN SELECT * FROM _grownext.tenant_purge_targets() LOOP
            BEGIN
                moved := _grownext.tenant_purge_rows(target.relation, target.column_name, tenant_id, target.action, (most - gone)::int);
                gone := gone + moved;
                progress := progress OR moved > 0;
            EXCEPTION WHEN foreign_key_violation OR restrict_violation THEN
                blocked := SQLERRM;
            END;
            EXIT WHEN gone >= most;
        END LOOP;
    END LOOP;
    IF gone = 0 AND blocked IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'foreign_key_violation', MESSAGE = blocked;
    END IF;
    RETURN gone = 0;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_purge_application(uuid) IS 'Deletes or detaches some of the application''s rows of a tenant; true if there are none left.';

CREATE OR REPLACE FUNCTION _grownext.tenant_purge(tenant_id uuid) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before CONSTANT jsonb := _grownext.tenant_json(tenant_id);
BEGIN
    IF before ->> 'state' = 'closing' THEN
        UPDATE _grownext.tenant_tenant AS t SET state = 'purging', updated_at = _grownext.core_now() WHERE t.id = tenant_purge.tenant_id;
        PERFORM _grownext.tenant_record('tenant.purge_started', 'tenant:' || tenant_id, tenant_id, before, _grownext.tenant_json(tenant_id));
    END IF;
    PERFORM _grownext.schedule_drop_tenant(tenant_id); -- what they enqueue would go on about it
    IF NOT _grownext.tenant_purge_application(tenant_id) THEN
        RETURN false;
    END IF;
    PERFORM _grownext.tenant_react('tenant.purged', tenant_id);
    DELETE FROM _grownext.tenant_invitation AS i WHERE i.tenant_id = tenant_purge.tenant_id;
    DELETE FROM _grownext.tenant_member AS m WHERE m.tenant_id = tenant_purge.tenant_id;
    DELETE FROM _grownext.tenant_tenant AS t WHERE t.id = tenant_purge.tenant_id;
    PERFORM _grownext.tenant_record('tenant.purged', 'tenant:' || tenant_id, tenant_id, before, NULL);
    RETURN true;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_purge(uuid) IS 'One pass of a purge, the tenant being locked; true if the tenant is gone.';

-- Background pass -----------------------------------------------------------------

-- One tenant a pass, so that one that cannot be purged holds nobody up: why is noted, and
-- it is tried again later. Null: none is due.
CREATE OR REPLACE FUNCTION _grownext.tenant_purge_next(now timestamptz) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    retry CONSTANT interval := interval '10 minutes';
    due uuid;
    problem text;
BEGIN
    SELECT t.id INTO due FROM _grownext.tenant_tenant AS t
     WHERE t.purge_at <= tenant_purge_next.now AND coalesce(t.purge_retry_at <= tenant_purge_next.now, true)
     ORDER BY t.purge_at LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    BEGIN
        -- what would wait for the commit would then run as somebody else than the table's owner
        SET CONSTRAINTS ALL IMMEDIATE;
        RETURN _grownext.tenant_purge(due);
    EXCEPTION WHEN query_canceled OR OTHERS THEN
        problem := format('%s (%s)', SQLERRM, SQLSTATE);
    END;
    UPDATE _grownext.tenant_tenant AS t SET purge_retry_at = tenant_purge_next.now + retry, purge_error = left(problem, 1000) WHERE t.id = due;
    RETURN true;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_purge_next(timestamptz) IS 'Purges some of the tenant that is due first; false if there is more of it, NULL if none is due.';

-- Whoever holds a tenant is left alone until the next pass.
CREATE OR REPLACE FUNCTION _grownext.tenant_expire(now timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    concerned uuid;
BEGIN
    FOR concerned IN
        SELECT DISTINCT i.tenant_id FROM _grownext.tenant_invitation AS i WHERE i.state = 'pending' AND i.expires_at <= tenant_expire.now ORDER BY 1 LIMIT 100
    LOOP
        PERFORM FROM _grownext.tenant_tenant AS t WHERE t.id = concerned FOR NO KEY UPDATE SKIP LOCKED;
        IF FOUND THEN
            PERFORM _grownext.tenant_invitation_expire(concerned);
        END IF;
    END LOOP;
    DELETE FROM _grownext.tenant_ownership_offer AS o
     WHERE o.id IN (SELECT e.id FROM _grownext.tenant_ownership_offer AS e WHERE e.expires_at <= tenant_expire.now LIMIT 1000 FOR UPDATE SKIP LOCKED);
    DELETE FROM _grownext.tenant_invitation AS i
     WHERE i.id IN (SELECT e.id FROM _grownext.tenant_invitation AS e
                     WHERE e.settled_at <= tenant_expire.now - interval '90 days' LIMIT 1000 FOR UPDATE SKIP LOCKED);
END
$$;
COMMENT ON FUNCTION _grownext.tenant_expire(timestamptz) IS 'Settles what has expired and forgets invitations that were settled ninety days ago.';

CREATE OR REPLACE FUNCTION _grownext.tenant_tick(now timestamptz) RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.tenant_expire(tenant_tick.now);
    RETURN CASE WHEN _grownext.tenant_purge_next(tenant_tick.now) IS NOT NULL THEN tenant_tick.now ELSE tenant_tick.now + interval '15 seconds' END;
END
$$;
COMMENT ON FUNCTION _grownext.tenant_tick(timestamptz) IS 'Purges tenants whose grace is over, settles invitations whose time is.';
