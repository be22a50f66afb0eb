-- src/core/functions.sql: the caller's context, trust, events, settings' helpers

-- Trigger: tells every backend that what the named markers stand for has changed.
CREATE OR REPLACE FUNCTION _grownext.core_invalidate() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'gn_core_invalidate';
COMMENT ON FUNCTION _grownext.core_invalidate() IS 'Trigger: invalidates per-backend caches that depend on the markers named as its arguments.';

CREATE OR REPLACE FUNCTION _grownext.core_touch(marker text) RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_core_touch';
COMMENT ON FUNCTION _grownext.core_touch(text) IS 'Invalidates per-backend caches that depend on a marker.';

-- The clock of the platform: the wall clock, unless a superuser's test replaced it.
CREATE OR REPLACE FUNCTION _grownext.core_now() RETURNS timestamptz
LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_core_now';
COMMENT ON FUNCTION _grownext.core_now() IS 'Wall clock, or grownext.test_clock.';

CREATE OR REPLACE FUNCTION grownext.extension_version() RETURNS text
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_extension_version';
COMMENT ON FUNCTION grownext.extension_version() IS 'Version of the loaded library.';

-- The registry of class NX, for documentation, tests and gateways.
CREATE OR REPLACE FUNCTION _grownext.core_errors(OUT code text, OUT name text, OUT http int, OUT meaning text) RETURNS SETOF record
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_core_errors';
COMMENT ON FUNCTION _grownext.core_errors() IS 'The SQLSTATE registry of class NX.';

-- The caller's context -------------------------------------------------------

CREATE OR REPLACE FUNCTION grownext.claims() RETURNS jsonb
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_claims';
COMMENT ON FUNCTION grownext.claims() IS 'Claims of the caller bound to this transaction; NULL without one.';

CREATE OR REPLACE FUNCTION grownext.claim(name text) RETURNS text
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_claim';
COMMENT ON FUNCTION grownext.claim(text) IS 'One claim of the caller as text, by name or dotted path; NULL when absent.';

CREATE OR REPLACE FUNCTION grownext.current_subject() RETURNS text
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_current_subject';
COMMENT ON FUNCTION grownext.current_subject() IS 'Subject of the caller; NULL without one.';

CREATE OR REPLACE FUNCTION grownext.current_user_id() RETURNS uuid
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_current_user_id';
COMMENT ON FUNCTION grownext.current_user_id() IS 'Subject of the caller as a uuid; NULL when it is none.';

CREATE OR REPLACE FUNCTION grownext.current_tenant() RETURNS uuid
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_current_tenant';
COMMENT ON FUNCTION grownext.current_tenant() IS 'Tenant of the caller; NULL without one.';

CREATE OR REPLACE FUNCTION grownext.current_session() RETURNS uuid
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_current_session';
COMMENT ON FUNCTION grownext.current_session() IS 'Session of the caller''s token; NULL without one.';

CREATE OR REPLACE FUNCTION grownext.current_actor() RETURNS text
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_current_actor';
COMMENT ON FUNCTION grownext.current_actor() IS 'Who is answerable: the acting party of an impersonation, else the subject; NULL without a caller.';

CREATE OR REPLACE FUNCTION grownext.has_scope(scope text) RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_has_scope';
COMMENT ON FUNCTION grownext.has_scope(text) IS 'Whether the caller''s credential carries the scope; NULL without a caller.';

CREATE OR REPLACE FUNCTION grownext.scope_require(scope text) RETURNS void
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_scope_require';
COMMENT ON FUNCTION grownext.scope_require(text) IS 'Raises NX014 unless the caller''s credential carries the scope.';

-- For definer functions: the tenant that a call concerns, judged by the role that is set.
CREATE OR REPLACE FUNCTION _grownext.core_caller_tenant(tenant_id uuid) RETURNS uuid
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_core_caller_tenant';
COMMENT ON FUNCTION _grownext.core_caller_tenant(uuid) IS 'The tenant that a call concerns; raises when the caller may not name it.';

CREATE OR REPLACE FUNCTION _grownext.core_caller_has(capability text) RETURNS boolean
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_core_caller_has';
COMMENT ON FUNCTION _grownext.core_caller_has(text) IS 'Whether the role that is set holds a capability.';

-- PostgREST's db-pre-request: checks and binds request.jwt.claims of a trusted gateway.
CREATE OR REPLACE FUNCTION grownext.pre_request() RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_pre_request';
COMMENT ON FUNCTION grownext.pre_request() IS 'Gate of every gateway request: checks and binds request.jwt.claims when the gateway is trusted in this database.';

CREATE OR REPLACE FUNCTION grownext.gateway_trust(role name) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolname = gateway_trust.role) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('role "%s" does not exist', coalesce(gateway_trust.role, 'NULL')),
            HINT = 'Name the login role of the gateway, such as PostgREST''s authenticator.';
    END IF;
    INSERT INTO _grownext.core_gateway (role_name) VALUES (gateway_trust.role) ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION grownext.gateway_trust(name) IS 'Trusts request.jwt.claims of sessions that this role opened, in this database.';

CREATE OR REPLACE FUNCTION grownext.gateway_distrust(role name) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM _grownext.core_gateway WHERE role_name = gateway_distrust.role;
$$;
COMMENT ON FUNCTION grownext.gateway_distrust(name) IS 'Takes the trust of gateway_trust() back.';

-- Event routing --------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.core_event_emit(event_type text, tenant_id uuid, data jsonb) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_core_event_emit';
COMMENT ON FUNCTION _grownext.core_event_emit(text, uuid, jsonb) IS 'Sends a platform event into the queues routed for its type.';

CREATE OR REPLACE FUNCTION grownext.event_route(event_type text, queue text, options jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM _grownext.core_check_options(options, '{}');
    IF event_type IS NULL OR event_type !~ '^([a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?|\*)$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('invalid event type "%s"', coalesce(event_type, 'NULL')),
            HINT = 'Write a dotted type, "tenant.created", a prefix, "tenant.*", or "*".';
    END IF;
    INSERT INTO _grownext.core_event_route (event_type, queue, options)
    VALUES (event_route.event_type, event_route.queue, event_route.options)
    ON CONFLICT ON CONSTRAINT core_event_route_pkey DO UPDATE SET options = EXCLUDED.options;
END
$$;
COMMENT ON FUNCTION grownext.event_route(text, text, jsonb) IS 'Routes platform events of a type ("tenant.created", "tenant.*", "*") into a queue.';

CREATE OR REPLACE FUNCTION grownext.event_unroute(event_type text, queue text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM _grownext.core_event_route AS r
     WHERE r.event_type = event_unroute.event_type AND r.queue = event_unroute.queue;
$$;
COMMENT ON FUNCTION grownext.event_unroute(text, text) IS 'Takes a route of event_route() back.';

-- Refuses unknown keys and wrong types of an options object, for every *_define.
-- allowed: {"key": "boolean" | "number" | "string" | "object" | "array" | "any"}
CREATE OR REPLACE FUNCTION _grownext.core_check_options(options jsonb, allowed jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    option record;
BEGIN
    IF options IS NULL OR jsonb_typeof(options) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'options must be a JSON object';
    END IF;
    FOR option IN SELECT key, value, allowed ->> key AS type FROM jsonb_each(options) LOOP
        IF option.type IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('unknown option "%s"', option.key),
                HINT = CASE WHEN allowed = '{}' THEN 'There are none.'
                            ELSE format('Known options: %s.', (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(allowed) AS k)) END;
        ELSIF option.type <> 'any' AND jsonb_typeof(option.value) <> option.type THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = format('option "%s" must be of type %s', option.key, option.type);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _grownext.core_check_options(jsonb, jsonb) IS 'Raises on unknown option keys and wrong types.';

-- Capabilities -----------------------------------------------------------------

-- Gives a role what the epilogue gave grownext_<capability>, or takes it back: for
-- clusters whose databases must not share the cluster-wide roles' members.
CREATE OR REPLACE FUNCTION _grownext.core_capability_apply(capability text, role_name name, give boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    model CONSTANT oid := (SELECT oid FROM pg_roles WHERE rolname = 'grownext_' || core_capability_apply.capability);
    object record;
BEGIN
    FOR object IN
        WITH member AS (
            SELECT d.classid, d.objid FROM pg_depend AS d
              JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'grownext'
             WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')
        SELECT a.privilege_type AS privilege, 'FUNCTION' AS kind, p.oid::regprocedure::text AS name
          FROM member AS m JOIN pg_proc AS p ON p.oid = m.objid AND m.classid = 'pg_proc'::regclass, aclexplode(p.proacl) AS a
         WHERE a.grantee = model AND p.prokind = 'f'
        UNION ALL
        SELECT a.privilege_type, 'PROCEDURE', p.oid::regprocedure::text
          FROM member AS m JOIN pg_proc AS p ON p.oid = m.objid AND m.classid = 'pg_proc'::regclass, aclexplode(p.proacl) AS a
         WHERE a.grantee = model AND p.prokind = 'p'
        UNION ALL
        SELECT a.privilege_type, 'TABLE', c.oid::regclass::text
          FROM member AS m JOIN pg_class AS c ON c.oid = m.objid AND m.classid = 'pg_class'::regclass, aclexplode(c.relacl) AS a
         WHERE a.grantee = model AND c.relkind IN ('r', 'v')
        UNION ALL
        SELECT a.privilege_type, 'SCHEMA', n.nspname::text
          FROM member AS m JOIN pg_namespace AS n ON n.oid = m.objid AND m.classid = 'pg_namespace'::regclass, aclexplode(n.nspacl) AS a
         WHERE a.grantee = model
        UNION ALL
        SELECT a.privilege_type, 'TYPE', format_type(t.oid, NULL)
          FROM member AS m JOIN pg_type AS t ON t.oid = m.objid AND m.classid = 'pg_type'::regclass, aclexplode(t.typacl) AS a
         WHERE a.grantee = model
    LOOP
        -- kinds are literals of ours, names are quoted by the catalogue's own output functions
        EXECUTE CASE WHEN give THEN format('GRANT %s ON %s %s TO %I', object.privilege, object.kind, object.name, role_name)
                     ELSE format('REVOKE %s ON %s %s FROM %I', object.privilege, object.kind, object.name, role_name) END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _grownext.core_capability_apply(text, name, boolean) IS 'Copies the grants of a grownext_* role to another role, or revokes them.';

CREATE OR REPLACE FUNCTION grownext.capability_grant(capability text, to_role name) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF capability IS NULL OR capability NOT IN ('admin', 'service', 'worker', 'auditor', 'monitor', 'user', 'anon') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('unknown capability "%s"', coalesce(capability, 'NULL')),
            HINT = 'Capabilities: admin, service, worker, auditor, monitor, user, anon.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = to_role) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object',
            MESSAGE = format('role "%s" does not exist', coalesce(to_role, 'NULL'));
    END IF;
    INSERT INTO _grownext.core_capability (capability, role_name)
    VALUES (capability_grant.capability, capability_grant.to_role) ON CONFLICT DO NOTHING;
    PERFORM _grownext.core_capability_apply(capability_grant.capability, capability_grant.to_role, true);
END
$$;
COMMENT ON FUNCTION grownext.capability_grant(text, name) IS 'Gives a role the rights of a grownext_* role in this database only.';

CREATE OR REPLACE FUNCTION grownext.capability_revoke(capability text, from_role name) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    other record;
BEGIN
    DELETE FROM _grownext.core_capability AS c
     WHERE c.capability = capability_revoke.capability AND c.role_name = capability_revoke.from_role;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = from_role) THEN
        PERFORM _grownext.core_capability_apply(capability_revoke.capability, from_role, false);
        -- capabilities overlap: what another one still gives is given again
        FOR other IN SELECT c.capability FROM _grownext.core_capability AS c WHERE c.role_name = from_role LOOP
            PERFORM _grownext.core_capability_apply(other.capability, from_role, true);
        END LOOP;
    END IF;
END
$$;
COMMENT ON FUNCTION grownext.capability_revoke(text, name) IS 'Takes back what capability_grant() gave.';

-- Cache invalidation. ALWAYS: replicated and restored rows count as well.
CREATE OR REPLACE TRIGGER core_option_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.core_option
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('core_marker_option');
ALTER TABLE _grownext.core_option ENABLE ALWAYS TRIGGER core_option_invalidate;
CREATE OR REPLACE TRIGGER core_gateway_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.core_gateway
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('core_marker_trust');
ALTER TABLE _grownext.core_gateway ENABLE ALWAYS TRIGGER core_gateway_invalidate;
CREATE OR REPLACE TRIGGER core_capability_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.core_capability
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('core_marker_trust');
ALTER TABLE _grownext.core_capability ENABLE ALWAYS TRIGGER core_capability_invalidate;
CREATE OR REPLACE TRIGGER core_event_route_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.core_event_route
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('core_marker_route');
ALTER TABLE _grownext.core_event_route ENABLE ALWAYS TRIGGER core_event_route_invalidate;
