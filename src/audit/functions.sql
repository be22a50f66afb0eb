-- src/audit/functions.sql: append, read, protect

CREATE OR REPLACE FUNCTION _grownext.audit_refuse() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'gn_audit_refuse';
COMMENT ON FUNCTION _grownext.audit_refuse() IS 'Trigger: the audit log is append-only.';

-- Makes what the log lacks; called by C as the owner, in a schema that C made.
CREATE OR REPLACE FUNCTION _grownext.audit_log_make() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
BEGIN
    CREATE SEQUENCE IF NOT EXISTS grownext_audit.event_id_seq;
    CREATE TABLE IF NOT EXISTS grownext_audit.event (
        id           bigint      NOT NULL DEFAULT nextval('grownext_audit.event_id_seq'),
        txid         xid8        NOT NULL,
        recorded_at  timestamptz NOT NULL,
        occurred_at  timestamptz NOT NULL,
        tenant_id    uuid,
        actor        text        NOT NULL,
        on_behalf_of text,
        actor_source text        NOT NULL,
        session_role text        NOT NULL,
        action       text        NOT NULL,
        target       text,
        category     text,
        context      jsonb       NOT NULL DEFAULT '{}',
        change       jsonb,
        request_id   text,
        CONSTRAINT event_pkey PRIMARY KEY (id),
        CONSTRAINT event_context_chk CHECK (jsonb_typeof(context) = 'object')
    );
    CREATE INDEX IF NOT EXISTS event_tenant_idx ON grownext_audit.event (tenant_id, id);
    COMMENT ON SCHEMA grownext_audit IS 'The audit log of grownext. It outlives the extension.';
    COMMENT ON TABLE grownext_audit.event IS 'Audit events, append-only; read them through grownext.audit_event.';
    -- a row trigger, because logical replication fires no others
    CREATE OR REPLACE TRIGGER event_append_only BEFORE UPDATE OR DELETE ON grownext_audit.event
        FOR EACH ROW EXECUTE FUNCTION _grownext.audit_refuse();
    CREATE OR REPLACE TRIGGER event_no_truncate BEFORE TRUNCATE ON grownext_audit.event
        FOR EACH STATEMENT EXECUTE FUNCTION _grownext.audit_refuse();
    ALTER TABLE grownext_audit.event ENABLE ALWAYS TRIGGER event_append_only;
    ALTER TABLE grownext_audit.event ENABLE ALWAYS TRIGGER event_no_truncate;
END
$$;
COMMENT ON FUNCTION _grownext.audit_log_make() IS 'Makes the audit log, or what a restore or DROP EXTENSION took from it.';

-- For the other components: an administrative change, with the images around it.
CREATE OR REPLACE FUNCTION _grownext.audit_write(action text, target text, tenant_id uuid, before jsonb, after jsonb) RETURNS bigint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_audit_write';
COMMENT ON FUNCTION _grownext.audit_write(text, text, uuid, jsonb, jsonb) IS 'Appends an event of the platform itself; a NULL tenant means the global log.';

CREATE OR REPLACE FUNCTION _grownext.audit_write_for(action text, target text, tenant_id uuid, before jsonb, after jsonb, actor text, on_behalf_of text) RETURNS bigint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_audit_write_for';
COMMENT ON FUNCTION _grownext.audit_write_for(text, text, uuid, jsonb, jsonb, text, text) IS 'audit_write() with the actor, and for whom it acts, where no caller is bound.';

CREATE OR REPLACE FUNCTION grownext.audit_append(action text, target text DEFAULT NULL, context jsonb DEFAULT '{}', tenant_id uuid DEFAULT NULL, actor text DEFAULT NULL, occurred_at timestamptz DEFAULT NULL, category text DEFAULT NULL, idempotency_key text DEFAULT NULL, personal jsonb DEFAULT NULL, sealed boolean DEFAULT false) RETURNS bigint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_audit_append_sql';
COMMENT ON FUNCTION grownext.audit_append(text, text, jsonb, uuid, text, timestamptz, text, text, jsonb, boolean) IS 'Appends an event to the tenant''s audit log, or to the global one; returns its id.';

CREATE OR REPLACE FUNCTION grownext.audit_append_many(events jsonb) RETURNS bigint[]
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_audit_append_many';
COMMENT ON FUNCTION grownext.audit_append_many(jsonb) IS 'Appends an array of events, objects with the arguments of audit_append(); returns their ids in order.';

-- Forgets idempotency keys older than a week.
CREATE OR REPLACE FUNCTION _grownext.audit_tick(now timestamptz) RETURNS timestamptz
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM _grownext.audit_idempotency AS k WHERE k.recorded_at < audit_tick.now - interval '7 days';
    SELECT audit_tick.now + interval '1 hour';
$$;
COMMENT ON FUNCTION _grownext.audit_tick(timestamptz) IS 'Background pass: forgets idempotency keys older than a week.';

-- Read -------------------------------------------------------------------------

-- Looks in the catalogue: to_regclass() would ask for a right on the schema.
CREATE OR REPLACE FUNCTION _grownext.audit_log(OUT log oid, OUT owner name) RETURNS record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.oid, pg_get_userbyid(c.relowner) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = 'grownext_audit' AND c.relname = 'event';
$$;
COMMENT ON FUNCTION _grownext.audit_log() IS 'The log''s table and its owner; NULL before its first use.';

CREATE OR REPLACE FUNCTION _grownext.audit_log_exists() RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_log record;
BEGIN
    SELECT * INTO found_log FROM _grownext.audit_log();
    IF found_log.owner <> 'grownext_owner' THEN
        RAISE EXCEPTION USING ERRCODE = 'NX003',
            MESSAGE = format('the audit log belongs to role "%s"', found_log.owner),
            DETAIL = 'It was restored without its owner.',
            HINT = 'SELECT grownext.audit_append(''audit.adopted'');';
    END IF;
    RETURN found_log.log IS NOT NULL;
END
$$;
COMMENT ON FUNCTION _grownext.audit_log_exists() IS 'Whether there is a log; raises NX003 when it was restored and not adopted yet.';

-- The log is made at first use, so no view can name it: this function stands
-- between. It is a definer function although internal, because a view's functions
-- run as whoever reads the view.
CREATE OR REPLACE FUNCTION _grownext.audit_visible()
RETURNS TABLE (id bigint, occurred_at timestamptz, recorded_at timestamptz, tenant_id uuid, actor text, on_behalf_of text, session_role text, action text, target text, category text, context jsonb, change jsonb, request_id text, txid xid8, actor_source text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    own CONSTANT uuid := grownext.current_tenant();
    everything CONSTANT boolean := _grownext.core_caller_has('auditor') OR _grownext.core_caller_has('admin')
                                   OR _grownext.core_caller_has('service');
BEGIN
    IF NOT _grownext.audit_log_exists() THEN
        RETURN;
    ELSIF everything THEN
        RETURN QUERY
        SELECT e.id, e.occurred_at, e.recorded_at, e.tenant_id, e.actor, e.on_behalf_of, e.session_role, e.action,
               e.target, e.category, e.context, e.change, e.request_id, e.txid, e.actor_source
          FROM grownext_audit.event AS e;
    ELSE
        RETURN QUERY
        SELECT e.id, e.occurred_at, e.recorded_at, e.tenant_id, e.actor, e.on_behalf_of, e.session_role, e.action,
               e.target, e.category, e.context, e.change, e.request_id, e.txid, e.actor_source
          FROM grownext_audit.event AS e WHERE e.tenant_id = own;
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.audit_visible() IS 'Events that the caller may see.';

CREATE OR REPLACE VIEW grownext.audit_event WITH (security_barrier) AS
SELECT e.id, e.occurred_at, e.recorded_at, e.tenant_id, e.actor, e.on_behalf_of, e.session_role, e.action,
       e.target, e.category, e.context, e.change, e.request_id, e.txid, e.actor_source
  FROM _grownext.audit_visible() AS e;
COMMENT ON VIEW grownext.audit_event IS 'The audit log: all of it for auditor, admin and service, the own tenant''s for everybody else.';

-- Newest first, a page at a time: the last id of a page is the next page's "after".
CREATE OR REPLACE FUNCTION grownext.audit_search(filter jsonb DEFAULT '{}', since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, after text DEFAULT NULL, count int DEFAULT 100, tenant_id uuid DEFAULT NULL) RETURNS SETOF grownext.audit_event
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    filters CONSTANT jsonb := coalesce(filter, '{}');
    before_id bigint;
    scope uuid;
BEGIN
    PERFORM _grownext.core_check_options(filters, '{"action": "string", "actor": "string", "on_behalf_of": "string", "session_role": "string", "target": "string", "category": "string", "request_id": "string"}');
    IF audit_search.count IS NULL OR audit_search.count NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'count must be between 1 and 1000';
    END IF;
    IF after !~ '^[0-9]{1,18}$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'after must be the id of an event';
    END IF;
    before_id := after::bigint;
    -- only without any tenant does a privileged caller search every log
    IF audit_search.tenant_id IS NOT NULL AND _grownext.core_caller_has('auditor') THEN
        scope := audit_search.tenant_id;
    ELSIF audit_search.tenant_id IS NOT NULL OR grownext.current_tenant() IS NOT NULL
          OR NOT (_grownext.core_caller_has('auditor') OR _grownext.core_caller_has('admin') OR _grownext.core_caller_has('service')) THEN
        scope := _grownext.core_caller_tenant(audit_search.tenant_id);
    END IF;
    IF NOT _grownext.audit_log_exists() THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT e.id, e.occurred_at, e.recorded_at, e.tenant_id, e.actor, e.on_behalf_of, e.session_role, e.action,
           e.target, e.category, e.context, e.change, e.request_id, e.txid, e.actor_source
      FROM grownext_audit.event AS e
     WHERE (scope IS NULL OR e.tenant_id = scope)
       AND (before_id IS NULL OR e.id < before_id)
       AND (since IS NULL OR e.occurred_at >= since)
       AND (until IS NULL OR e.occurred_at < until)
       AND (filters ->> 'action' IS NULL OR e.action = filters ->> 'action')
       AND (filters ->> 'actor' IS NULL OR e.actor = filters ->> 'actor')
       AND (filters ->> 'on_behalf_of' IS NULL OR e.on_behalf_of = filters ->> 'on_behalf_of')
       AND (filters ->> 'session_role' IS NULL OR e.session_role = filters ->> 'session_role')
       AND (filters ->> 'target' IS NULL OR e.target = filters ->> 'target')
       AND (filters ->> 'category' IS NULL OR e.category = filters ->> 'category')
       AND (filters ->> 'request_id' IS NULL OR e.request_id = filters ->> 'request_id')
     ORDER BY e.id DESC
     LIMIT audit_search.count;
END
$$;
COMMENT ON FUNCTION grownext.audit_search(jsonb, timestamptz, timestamptz, text, int, uuid) IS 'A page of the audit log, newest first; since and until bound occurred_at, after is the last id of the page before.';

-- Status -----------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.audit_guarded() RETURNS boolean
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'gn_audit_guarded_sql';
COMMENT ON FUNCTION _grownext.audit_guarded() IS 'Whether hooks refuse changes of the log to superusers too.';

CREATE OR REPLACE FUNCTION _grownext.audit_status() RETURNS SETOF grownext.status_item
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    log oid;
    owner name;
    firing int;
BEGIN
    SELECT l.log, l.owner INTO log, owner FROM _grownext.audit_log() AS l;
    IF log IS NULL THEN
        RETURN NEXT ('audit', 'log', 'off', 'no event was written yet', NULL, NULL)::grownext.status_item;
    ELSE
        SELECT count(*) INTO firing FROM pg_trigger AS t
         WHERE t.tgrelid = log AND t.tgname IN ('event_append_only', 'event_no_truncate') AND t.tgenabled = 'A';
        IF firing < 2 OR owner <> 'grownext_owner' THEN
            RETURN NEXT ('audit', 'log', 'degraded', format('owned by %s, %s of 2 append-only triggers', owner, firing),
                'SELECT grownext.audit_append(''audit.adopted'');  -- the next event puts them back', NULL)::grownext.status_item;
        ELSE
            RETURN NEXT ('audit', 'log', 'ok', 'append-only', NULL, NULL)::grownext.status_item;
        END IF;
    END IF;
    IF _grownext.audit_guarded() THEN
        RETURN NEXT ('audit', 'guard', 'ok', 'changes are refused to superusers too', NULL, NULL)::grownext.status_item;
    ELSE
        RETURN NEXT ('audit', 'guard', 'degraded', 'triggers alone protect the log: a superuser can drop them',
            CASE WHEN current_setting('grownext.audit_enforce', true) = 'off' THEN 'ALTER SYSTEM RESET grownext.audit_enforce;  -- then restart'
                 ELSE 'Add grownext to shared_preload_libraries and restart the server.' END, NULL)::grownext.status_item;
    END IF;
END
$$;
COMMENT ON FUNCTION _grownext.audit_status() IS 'State of the audit log.';
