-- src/core/functions.sql: the caller's context, trust, events, settings' helpers

-- Trigger: tells every backend that what the named markers stand for has changed.
CREATE OR REPLACE FUNCTION _grownext.core_invalidate() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'gn_core_invalidate';
COMMENT ON FUNCTION _grownext.core_invalidate() IS 'Trigger: invalidates per-backend caches that depend on the markers named as its arguments.';

CREATE OR REPLACE FUNCTION _grownext.core_load() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'gn_core_load';
COMMENT ON FUNCTION _grownext.core_load() IS 'Trigger: lets pg_restore load rows in any order, without checks and side effects.';

CREATE OR REPLACE FUNCTION _grownext.core_touch(marker text) RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_core_touch';
COMMENT ON FUNCTION _grownext.core_touch(text) IS 'Invalidates per-backend caches that depend on a marker.';

-- The clock of the platform: the wall clock, unless a superuser's test replaced it.
CREATE OR REPLACE FUNCTION _grownext.core_now() RETURNS timestamptz
LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_core_now';
COMMENT ON FUNCTION _grownext.core_now() IS 'Wall clock, or grownext.test_clock.';

-- Every id of ours that a sequence gives comes from here: see src/core/sequence.c.
CREATE OR REPLACE FUNCTION _grownext.core_nextval(sequence regclass) RETURNS bigint
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_core_nextval';
COMMENT ON FUNCTION _grownext.core_nextval(regclass) IS 'As nextval(), and safe in the transaction that made the sequence, with wal_level = minimal too.';

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

-- Identity, fence, workers -----------------------------------------------------

-- What identifies this database now, to be compared with core_identity.
CREATE OR REPLACE FUNCTION _grownext.core_server_identity(OUT system_identifier bigint, OUT database_oid oid, OUT extension_oid oid, OUT timeline int, OUT environment text) RETURNS record
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'gn_core_server_identity';
COMMENT ON FUNCTION _grownext.core_server_identity() IS 'What identifies this database now; the timeline is NULL on a standby.';

CREATE OR REPLACE FUNCTION _grownext.core_identity_state() RETURNS text
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'gn_core_identity_state';
COMMENT ON FUNCTION _grownext.core_identity_state() IS 'armed, not_set_up, fenced, or what makes the identity row foreign: other_cluster, other_database, reinstalled, rewound, other_environment.';

-- Trigger: the workers of this database, or the launcher, look again at commit.
CREATE OR REPLACE FUNCTION _grownext.core_recheck() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'gn_core_recheck';
COMMENT ON FUNCTION _grownext.core_recheck() IS 'Trigger: workers look at identity and fence again at commit.';

-- Writes the identity of this database over whatever was there, and lifts a fence.
CREATE OR REPLACE FUNCTION _grownext.core_identity_adopt() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO _grownext.core_identity (system_identifier, database_oid, database_name, extension_oid, timeline, environment, armed_at)
    SELECT s.system_identifier, s.database_oid, current_database(), s.extension_oid, s.timeline, s.environment, _grownext.core_now()
      FROM _grownext.core_server_identity() AS s
    ON CONFLICT ON CONSTRAINT core_identity_pkey DO UPDATE SET
        system_identifier = EXCLUDED.system_identifier,
        database_oid = EXCLUDED.database_oid,
        database_name = EXCLUDED.database_name,
        extension_oid = EXCLUDED.extension_oid,
        timeline = EXCLUDED.timeline,
        environment = EXCLUDED.environment,
        armed_at = EXCLUDED.armed_at,
        fenced_at = NULL,
        fence_reason = NULL;
$$;
COMMENT ON FUNCTION _grownext.core_identity_adopt() IS 'Arms this database: writes its identity and lifts a fence.';

CREATE OR REPLACE FUNCTION _grownext.core_fence(reason text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF nullif(btrim(reason), '') IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'a fence needs a reason';
    END IF;
    UPDATE _grownext.core_identity
       SET fenced_at = coalesce(fenced_at, _grownext.core_now()), fence_reason = core_fence.reason;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'NX003', MESSAGE = 'this database was never set up, so nothing acts in it',
            HINT = 'SELECT * FROM grownext.setup(issuer, audiences);';
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.core_fence(text) IS 'Core''s part of fence().';

CREATE OR REPLACE FUNCTION _grownext.core_unfence(reason text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF nullif(btrim(reason), '') IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'lifting a fence needs a reason';
    END IF;
    IF NOT EXISTS (SELECT FROM _grownext.core_identity) THEN
        RAISE EXCEPTION USING ERRCODE = 'NX003', MESSAGE = 'this database was never set up',
            HINT = 'SELECT * FROM grownext.setup(issuer, audiences);';
    END IF;
    PERFORM _grownext.core_identity_adopt();
END
$$;
COMMENT ON FUNCTION _grownext.core_unfence(text) IS 'Core''s part of unfence(): this database becomes what it says it is.';

CREATE OR REPLACE FUNCTION _grownext.core_option_set(option text, new_value jsonb, OUT state text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old_value CONSTANT jsonb := (SELECT o.value FROM _grownext.core_option AS o WHERE o.name = option);
BEGIN
    state := CASE WHEN old_value IS NULL THEN 'created' WHEN old_value = new_value THEN 'unchanged' ELSE 'changed' END;
    IF state <> 'unchanged' THEN
        INSERT INTO _grownext.core_option (name, value) VALUES (option, new_value)
        ON CONFLICT ON CONSTRAINT core_option_pkey DO UPDATE SET value = EXCLUDED.value;
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.core_option_set(text, jsonb) IS 'Writes one option; says created, changed or unchanged.';

-- Core's part of setup(): identity, issuer, audiences, and the options that are core's.
-- A row that is foreign or fenced stays so: arming it is a decision, and unfence()'s.
CREATE OR REPLACE FUNCTION _grownext.core_setup(issuer text, audiences text[], options jsonb) RETURNS SETOF grownext.setup_step
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    identity text;
    facts record;
    option record;
BEGIN
    IF nullif(btrim(issuer), '') IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'an issuer is needed',
            HINT = 'Name the issuer of your tokens, such as https://auth.example.com.';
    END IF;
    IF coalesce(cardinality(audiences), 0) = 0
       OR EXISTS (SELECT FROM unnest(audiences) AS a WHERE nullif(btrim(a), '') IS NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'at least one audience is needed, and none may be empty',
            HINT = 'Name who accepts your tokens, such as ARRAY[''https://api.example.com'']; the first is the default.';
    END IF;
    PERFORM _grownext.core_check_options(options, '{"require_pre_request": "boolean", "endpoint_base": "string", "jwks_uri": "string", "scopes_supported": "array"}');

    identity := _grownext.core_identity_state();
    IF identity = 'not_set_up' THEN
        PERFORM _grownext.core_identity_adopt();
        RETURN NEXT ROW('identity', 'created', NULL)::grownext.setup_step;
    ELSIF identity = 'armed' THEN
        RETURN NEXT ROW('identity', 'unchanged', NULL)::grownext.setup_step;
    ELSE
        RETURN NEXT ROW('identity', identity, 'SELECT grownext.unfence(''why it may act again'', pending => ''keep'');')::grownext.setup_step;
    END IF;

    RETURN NEXT ROW('issuer', _grownext.core_option_set('issuer', to_jsonb(core_setup.issuer)), NULL)::grownext.setup_step;
    RETURN NEXT ROW('audiences', _grownext.core_option_set('audiences', to_jsonb(core_setup.audiences)), NULL)::grownext.setup_step;
    FOR option IN SELECT key, value FROM jsonb_each(options) LOOP
        RETURN NEXT ROW(option.key, _grownext.core_option_set(option.key, option.value), NULL)::grownext.setup_step;
    END LOOP;

    SELECT * INTO facts FROM _grownext.core_worker_facts();
    RETURN NEXT CASE
        WHEN NOT facts.preloaded THEN ROW('workers', 'off', _grownext.core_preload_hint(facts.preload_libraries))::grownext.setup_step
        WHEN facts.mode <> 'on' THEN ROW('workers', 'off', 'ALTER SYSTEM SET grownext.mode = ''on''; SELECT pg_reload_conf();')::grownext.setup_step
        WHEN NOT facts.listed THEN ROW('workers', 'off', 'Add this database to grownext.databases and reload.')::grownext.setup_step
        WHEN identity IN ('not_set_up', 'armed') THEN ROW('workers', 'on', NULL)::grownext.setup_step
        ELSE ROW('workers', 'off', 'They start after unfence().')::grownext.setup_step END;
END
$$;
COMMENT ON FUNCTION _grownext.core_setup(text, text[], jsonb) IS 'Core''s part of setup().';

-- Keeps the identity row true after a rename and a promotion. Runs only while armed.
CREATE OR REPLACE FUNCTION _grownext.core_tick(at timestamptz) RETURNS timestamptz
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- looks first: statement triggers fire for no rows too, and this one calls for another pass
    IF EXISTS (SELECT FROM _grownext.core_identity AS i, _grownext.core_server_identity() AS s
                WHERE i.timeline <> s.timeline OR i.database_name <> current_database()) THEN
        UPDATE _grownext.core_identity AS i SET timeline = s.timeline, database_name = current_database()
          FROM _grownext.core_server_identity() AS s;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _grownext.core_tick(timestamptz) IS 'Core''s pass: adopts a promotion and a new name into the identity row.';

CREATE OR REPLACE FUNCTION grownext.workers() RETURNS SETOF grownext.worker_info
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_worker_list';
COMMENT ON FUNCTION grownext.workers() IS 'Background workers of the cluster, and databases whose scheduler is missing for a reason.';

-- The facts behind core_status(); NULL where there is no shared memory or nothing to say.
CREATE OR REPLACE FUNCTION _grownext.core_worker_facts(
    OUT preloaded boolean, OUT preload_libraries text, OUT library_version text, OUT mode text, OUT listed boolean, OUT executors int,
    OUT launcher_pid int, OUT launcher_pass_at timestamptz,
    OUT scheduler_pid int, OUT scheduler_state text, OUT scheduler_tick_at timestamptz, OUT scheduler_error text, OUT verdict_since timestamptz,
    OUT executor_failures int, OUT executor_error text,
    OUT slots int, OUT slots_used int, OUT slots_short_since timestamptz, OUT processes_short_since timestamptz, OUT armed_databases int,
    OUT max_worker_processes int, OUT primary_max_worker_processes int) RETURNS record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_core_worker_facts';
COMMENT ON FUNCTION _grownext.core_worker_facts() IS 'Facts about library, launcher and workers of this database, for status().';

CREATE OR REPLACE FUNCTION _grownext.core_preload_hint(preload_libraries text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('ALTER SYSTEM SET shared_preload_libraries = %s; then restart the server.',
               string_agg(quote_literal(btrim(l, ' "')), ', ' ORDER BY n))
      FROM unnest(string_to_array(nullif(btrim(preload_libraries), ''), ',') || 'grownext'::text) WITH ORDINALITY AS u (l, n);
$$;
COMMENT ON FUNCTION _grownext.core_preload_hint(text) IS 'The call that adds grownext to shared_preload_libraries.';

-- What works, what is degraded and how to mend it; see docs/workers.md for every line.
CREATE OR REPLACE FUNCTION _grownext.core_status() RETURNS SETOF grownext.status_item
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    facts record;
    item grownext.status_item;
    standby CONSTANT boolean := pg_is_in_recovery();
    sql_version CONSTANT text := (SELECT e.extversion FROM pg_extension AS e WHERE e.extname = 'grownext');
    row_found record;
    identity text;
    needed int;
BEGIN
    SELECT * INTO facts FROM _grownext.core_worker_facts();
    item.component := 'core';

    item.item := 'preload';
    IF facts.preloaded THEN
        item.state := 'ok'; item.detail := 'the library is preloaded'; item.hint := NULL;
    ELSE
        item.state := 'off'; item.detail := 'the library is not preloaded: no workers, no shared memory';
        item.hint := _grownext.core_preload_hint(facts.preload_libraries);
    END IF;
    RETURN NEXT item;

    item.item := 'version';
    BEGIN
        identity := _grownext.core_identity_state();
        item.state := CASE WHEN facts.library_version = sql_version THEN 'ok' ELSE 'degraded' END;
        item.detail := format('library %s, SQL %s', facts.library_version, sql_version);
        item.hint := CASE WHEN facts.library_version <> sql_version THEN 'ALTER EXTENSION grownext UPDATE;' END;
    EXCEPTION WHEN OTHERS THEN
        item.state := 'failed'; item.detail := SQLERRM;
        item.hint := format('Install the library of version %s and restart the server.', sql_version);
    END;
    RETURN NEXT item;

    item.item := 'recovery';
    item.state := 'ok'; item.hint := NULL;
    item.detail := CASE WHEN standby THEN 'standby: workers start at promotion' ELSE 'primary' END;
    IF standby AND pg_get_wal_replay_pause_state() <> 'not paused' THEN
        item.state := 'degraded'; item.detail := 'standby: replay is paused'; item.hint := 'SELECT pg_wal_replay_resume();';
    END IF;
    RETURN NEXT item;

    item.item := 'identity';
    IF identity IS NOT NULL THEN
        SELECT * INTO row_found FROM _grownext.core_identity;
        item.since := coalesce(row_found.fenced_at, row_found.armed_at);
        item.state := CASE identity WHEN 'armed' THEN 'ok' WHEN 'not_set_up' THEN 'off' ELSE 'failed' END;
        item.detail := CASE identity
            WHEN 'armed' THEN 'armed' || CASE row_found.environment WHEN '' THEN '' ELSE format(' for environment "%s"', row_found.environment) END
            WHEN 'not_set_up' THEN 'this database was never set up: nothing acts in it'
            WHEN 'fenced' THEN 'fenced: ' || row_found.fence_reason
            WHEN 'other_cluster' THEN format('fenced: set up in another cluster, as "%s" (restore, copy or pg_upgrade)', row_found.database_name)
            WHEN 'other_database' THEN format('fenced: a copy or restore of database "%s"', row_found.database_name)
            WHEN 'reinstalled' THEN 'fenced: the extension was created anew since setup(), as a restore in place does'
            WHEN 'rewound' THEN 'fenced: point-in-time recovery since setup()'
            ELSE format('fenced: set up for environment "%s", grownext.environment is "%s"', row_found.environment, current_setting('grownext.environment')) END;
        item.hint := CASE identity WHEN 'armed' THEN NULL
            WHEN 'not_set_up' THEN 'SELECT * FROM grownext.setup(''https://auth.example.com'', ARRAY[''https://api.example.com'']);'
            ELSE 'SELECT grownext.unfence(''why it may act again'', pending => ''keep'');' END;
        IF standby AND item.hint IS NOT NULL THEN
            item.hint := item.hint || ' on the primary, or here after promotion';
        END IF;
        RETURN NEXT item;
        item.since := NULL;
    END IF;

    item.item := 'mode';
    item.state := CASE facts.mode WHEN 'on' THEN 'ok' ELSE 'degraded' END;
    item.detail := CASE facts.mode WHEN 'on' THEN 'workers may run' WHEN 'drain' THEN 'running jobs end, none starts' ELSE 'workers are switched off' END;
    item.hint := CASE facts.mode WHEN 'on' THEN NULL ELSE 'ALTER SYSTEM SET grownext.mode = ''on''; SELECT pg_reload_conf();' END;
    IF facts.mode = 'on' AND NOT facts.listed THEN
        item.state := 'off'; item.detail := 'grownext.databases does not list this database';
        item.hint := 'Add it to grownext.databases and reload.';
    END IF;
    RETURN NEXT item;

    IF facts.preloaded THEN
        item.item := 'launcher';
        item.hint := NULL;
        IF standby THEN
            item.state := 'off'; item.detail := 'starts at promotion';
        ELSIF facts.launcher_pid IS NULL THEN
            item.state := 'failed'; item.detail := 'not running; the postmaster starts it again within 5 seconds';
            item.hint := 'See the server log if this stays.';
        ELSE
            item.state := 'ok'; item.detail := format('process %s', facts.launcher_pid);
        END IF;
        RETURN NEXT item;

        item.item := 'scheduler';
        item.hint := NULL;
        IF standby OR identity IS DISTINCT FROM 'armed' OR facts.mode <> 'on' OR NOT facts.listed THEN
            item.state := 'off'; item.detail := 'not wanted here now';
        ELSIF facts.scheduler_pid IS NULL AND facts.scheduler_error IS NULL AND facts.slots_short_since IS NULL AND facts.processes_short_since IS NULL
              AND greatest(row_found.armed_at, facts.verdict_since, pg_postmaster_start_time()) > clock_timestamp() - interval '30 seconds' THEN
            item.state := 'degraded'; item.detail := 'starting'; item.hint := 'Ask again in a few seconds.';
        ELSIF facts.scheduler_pid IS NULL THEN
            item.state := 'failed';
            item.detail := format('no scheduler: %s%s', coalesce(facts.scheduler_state, 'none was started'), coalesce(': ' || facts.scheduler_error, ''));
            item.hint := 'It is tried again by itself; see the lines on worker slots and the server log.';
        ELSIF facts.scheduler_error IS NOT NULL THEN
            item.state := 'degraded'; item.detail := format('a pass fails: %s', facts.scheduler_error);
            item.hint := 'It is tried again by itself; see the server log.';
        ELSIF facts.scheduler_tick_at < clock_timestamp() - interval '2 minutes' THEN
            item.state := 'degraded'; item.detail := format('process %s has not finished a pass since %s', facts.scheduler_pid, facts.scheduler_tick_at);
            item.hint := format('SELECT * FROM pg_stat_activity WHERE pid = %s;', facts.scheduler_pid);
        ELSE
            item.state := 'ok'; item.detail := format('process %s, last pass %s', facts.scheduler_pid, coalesce(facts.scheduler_tick_at::text, 'under way'));
        END IF;
        RETURN NEXT item;

        item.item := 'executors';
        item.state := 'ok'; item.hint := NULL;
        item.detail := format('up to %s, started on demand', facts.executors);
        IF facts.executors = 0 THEN
            item.state := 'degraded'; item.detail := 'grownext.executors is 0: no job runs';
            item.hint := 'ALTER SYSTEM SET grownext.executors = 2; SELECT pg_reload_conf();';
        ELSIF facts.executor_failures > 0 THEN
            item.state := 'degraded'; item.detail := format('the last %s ended with an error: %s', facts.executor_failures, facts.executor_error);
            item.hint := 'They are started again by themselves; see the server log.';
        END IF;
        RETURN NEXT item;

        item.item := 'worker slots';
        item.state := 'ok'; item.hint := NULL; item.since := NULL;
        item.detail := format('%s of %s in use, %s databases armed', facts.slots_used, facts.slots, facts.armed_databases);
        IF facts.slots_short_since IS NOT NULL THEN
            item.state := 'degraded'; item.since := facts.slots_short_since;
            item.detail := format('a worker could not start: grownext.max_workers is %s', facts.slots);
            item.hint := format('ALTER SYSTEM SET grownext.max_workers = %s; then restart the server.', facts.slots * 2);
        END IF;
        RETURN NEXT item;
        item.since := NULL;
    END IF;

    SELECT * INTO row_found FROM _grownext.core_rate_facts();
    item.item := 'rate limits';
    item.state := 'ok'; item.hint := NULL; item.since := NULL;
    item.detail := format('%s of %s buckets in use', row_found.used, row_found.buckets);
    IF NOT row_found.shared THEN
        item.state := 'degraded'; item.detail := 'limits and failed attempts are counted per session, for want of shared memory';
        item.hint := _grownext.core_preload_hint(facts.preload_libraries);
    ELSIF row_found.evicted_at > _grownext.core_now() - interval '1 hour' THEN
        item.state := 'degraded';
        item.detail := format('%s buckets gave way while they still counted, the last one at %s', row_found.evicted, row_found.evicted_at);
        item.hint := format('ALTER SYSTEM SET grownext.rate_limit_memory = ''%skB''; then restart the server.', pg_size_bytes(current_setting('grownext.rate_limit_memory')) / 512);
    END IF;
    RETURN NEXT item;

    -- A launcher, and a scheduler with its executors per armed database.
    needed := 1 + least(coalesce(facts.slots, 1 + facts.executors), greatest(coalesce(facts.armed_databases, 0), 1) * (1 + facts.executors));
    item.item := 'max_worker_processes';
    item.state := 'ok'; item.hint := NULL;
    item.detail := format('%s, grownext takes up to %s', facts.max_worker_processes, needed);
    IF facts.processes_short_since IS NOT NULL THEN
        item.state := 'degraded'; item.since := facts.processes_short_since;
        item.detail := format('a worker could not start: max_worker_processes is %s', facts.max_worker_processes);
    ELSIF facts.max_worker_processes < facts.primary_max_worker_processes THEN
        item.state := 'failed';
        item.detail := format('%s, less than the primary''s %s: replay pauses', facts.max_worker_processes, facts.primary_max_worker_processes);
        needed := facts.primary_max_worker_processes;
    ELSIF facts.max_worker_processes < needed THEN
        item.state := 'degraded';
    END IF;
    IF item.state <> 'ok' THEN
        item.hint := format('ALTER SYSTEM SET max_worker_processes = %s; then restart the server.', greatest(needed, facts.max_worker_processes + 8));
    END IF;
    RETURN NEXT item;
END
$$;
COMMENT ON FUNCTION _grownext.core_status() IS 'Core''s part of status().';

CREATE OR REPLACE TRIGGER core_identity_invalidate AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.core_identity
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('core_marker_identity');
ALTER TABLE _grownext.core_identity ENABLE ALWAYS TRIGGER core_identity_invalidate;
CREATE OR REPLACE TRIGGER core_identity_recheck AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _grownext.core_identity
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_recheck();
ALTER TABLE _grownext.core_identity ENABLE ALWAYS TRIGGER core_identity_recheck;
