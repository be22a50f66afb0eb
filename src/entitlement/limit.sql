-- src/entitlement/limit.sql: tables whose rows are the units of a limit
--
-- The triggers that limit_protect() makes are the only record of which tables count:
-- they are renamed, dumped, restored and dropped with the table. See limit.c.

CREATE OR REPLACE FUNCTION grownext.limit_count() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'gn_limit_count';
COMMENT ON FUNCTION grownext.limit_count() IS 'Statement trigger: counts rows that come and go as units of a limit. limit_protect() makes the triggers.';

-- One row per trigger; event as in pg_trigger.tgtype: 4 insert, 8 delete, 16 update, 32 truncate.
CREATE OR REPLACE VIEW _grownext.entitlement_limit_trigger AS
    SELECT t.tgrelid AS relation,
           pg_catalog.convert_from(pg_catalog.substring(t.tgargs, 1, a.separator - 1), 'UTF8') AS feature,
           pg_catalog.convert_from(pg_catalog.substring(t.tgargs, a.separator + 1, pg_catalog.length(t.tgargs) - a.separator - 1), 'UTF8') AS tenant_column,
           t.tgtype & 60 AS event, t.tgenabled IN ('O', 'A') AS enabled
      FROM pg_catalog.pg_trigger AS t
     CROSS JOIN LATERAL (SELECT pg_catalog.position(t.tgargs, '\x00'::bytea)) AS a (separator)
     WHERE t.tgfoid = 'grownext.limit_count()'::pg_catalog.regprocedure AND t.tgnargs = 2;
COMMENT ON VIEW _grownext.entitlement_limit_trigger IS 'Triggers that count rows: of which table, for which limit, by which column.';

-- What a recount reads: a partition is counted with its parent.
CREATE OR REPLACE FUNCTION _grownext.entitlement_limit_root(feature_id int) RETURNS TABLE (relation oid, tenant_column text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE protected AS (
        SELECT DISTINCT ON (l.relation) l.relation, l.tenant_column
          FROM _grownext.entitlement_limit_trigger AS l
          JOIN _grownext.entitlement_feature AS f ON f.feature = l.feature
         WHERE f.id = entitlement_limit_root.feature_id
         ORDER BY l.relation, l.tenant_column
    ), above AS (
        SELECT p.relation, i.inhparent FROM protected AS p JOIN pg_inherits AS i ON i.inhrelid = p.relation
        UNION
        SELECT a.relation, i.inhparent FROM above AS a JOIN pg_inherits AS i ON i.inhrelid = a.inhparent)
    SELECT p.relation, p.tenant_column FROM protected AS p
     WHERE NOT EXISTS (SELECT FROM above AS a JOIN protected AS q ON q.relation = a.inhparent WHERE a.relation = p.relation);
$$;
COMMENT ON FUNCTION _grownext.entitlement_limit_root(int) IS 'Tables that count for a limit and are not part of another one that does.';

-- Without a table there is no gauge: the counters go.
CREATE OR REPLACE FUNCTION _grownext.entitlement_gauge_put(feature_id int, tenants uuid[], used bigint[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed bigint;
BEGIN
    INSERT INTO _grownext.entitlement_gauge AS g (feature_id, counted_at) VALUES (entitlement_gauge_put.feature_id, _grownext.core_now())
        ON CONFLICT ON CONSTRAINT entitlement_gauge_pkey DO UPDATE SET counted_at = EXCLUDED.counted_at;
    IF NOT EXISTS (SELECT FROM _grownext.entitlement_limit_root(entitlement_gauge_put.feature_id)) THEN
        RETURN _grownext.entitlement_gauge_drop(feature_id);
    END IF;
    -- the slots, too, say what the counters say
    WITH change AS MATERIALIZED (
        SELECT coalesce(u.tenant_id, c.tenant_id) AS tenant_id, coalesce(c.used, 0) AS used, coalesce(u.used, 0) AS before
          FROM (SELECT o.tenant_id, o.used FROM _grownext.entitlement_usage AS o
                 WHERE o.feature_id = entitlement_gauge_put.feature_id AND o.period = 'never' AND o.shard = 0) AS u
          FULL JOIN (SELECT t.id AS tenant_id, n.used FROM unnest(entitlement_gauge_put.tenants, entitlement_gauge_put.used) AS n (tenant_id, used)
                       JOIN _grownext.tenant_tenant AS t ON t.id = n.tenant_id) AS c ON c.tenant_id = u.tenant_id
         WHERE coalesce(c.used, 0) IS DISTINCT FROM u.used
    ), counter AS (
        INSERT INTO _grownext.entitlement_usage AS u (tenant_id, feature_id, period, period_start, period_end, used)
        SELECT c.tenant_id, entitlement_gauge_put.feature_id, 'never', '-infinity', 'infinity', c.used FROM change AS c ORDER BY c.tenant_id
        ON CONFLICT ON CONSTRAINT entitlement_usage_pkey DO UPDATE SET used = EXCLUDED.used
    ), slot AS (
        INSERT INTO _grownext.entitlement_usage_slot AS s (tenant_id, feature_id, period, period_start, slot_start, amount)
        SELECT c.tenant_id, entitlement_gauge_put.feature_id, 'never', '-infinity', date_bin('15 minutes', _grownext.core_now(), '2000-01-01 00:00Z'), c.used - c.before
          FROM change AS c WHERE c.used <> c.before ORDER BY c.tenant_id
        ON CONFLICT ON CONSTRAINT entitlement_usage_slot_pkey DO UPDATE SET amount = s.amount + EXCLUDED.amount
    )
    SELECT count(*) INTO changed FROM change;
    RETURN changed;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_gauge_put(int, uuid[], bigint[]) IS 'Makes the counters of a limit say what was counted; how many said something else.';

CREATE OR REPLACE FUNCTION _grownext.entitlement_gauge_drop(feature_id int) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed bigint;
BEGIN
    DELETE FROM _grownext.entitlement_usage_slot AS s WHERE s.feature_id = entitlement_gauge_drop.feature_id AND s.period = 'never';
    DELETE FROM _grownext.entitlement_usage AS u WHERE u.feature_id = entitlement_gauge_drop.feature_id AND u.period = 'never';
    GET DIAGNOSTICS changed = ROW_COUNT;
    DELETE FROM _grownext.entitlement_gauge AS g WHERE g.feature_id = entitlement_gauge_drop.feature_id;
    RETURN changed;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_gauge_drop(int) IS 'Forgets the counters of a limit that no table counts for; how many.';

-- Gauges whose last table was dropped. Whoever is about to count has the gauge locked, or
-- will make it anew.
CREATE OR REPLACE FUNCTION _grownext.entitlement_gauge_forget() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    concerned int;
BEGIN
    FOR concerned IN SELECT g.feature_id FROM _grownext.entitlement_gauge AS g ORDER BY g.feature_id FOR UPDATE SKIP LOCKED LOOP
        IF NOT EXISTS (SELECT FROM _grownext.entitlement_limit_root(concerned)) THEN
            PERFORM _grownext.entitlement_gauge_drop(concerned);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_gauge_forget() IS 'Forgets the counters of limits whose tables were dropped.';

CREATE OR REPLACE FUNCTION _grownext.entitlement_gauge_recount(feature_id int) RETURNS bigint
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_limit_recount';
COMMENT ON FUNCTION _grownext.entitlement_gauge_recount(int) IS 'Counts the rows of all tables of a limit, as their owners; how many counters said something else.';

-- A limit that exists.
CREATE OR REPLACE FUNCTION _grownext.entitlement_limit_get(feature text) RETURNS int
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    definition CONSTANT _grownext.entitlement_feature := _grownext.entitlement_feature_get(feature);
BEGIN
    IF definition.kind <> 'limit' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" is of kind %s, and tables count for limits', feature, definition.kind),
            HINT = 'Define a feature of kind limit.';
    END IF;
    RETURN definition.id;
END
$$;
COMMENT ON FUNCTION _grownext.entitlement_limit_get(text) IS 'The id of a feature of kind limit; raises if there is none of that name.';

CREATE OR REPLACE FUNCTION grownext.limit_recount(feature text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN _grownext.entitlement_gauge_recount(_grownext.entitlement_limit_get(feature));
END
$$;
COMMENT ON FUNCTION grownext.limit_recount(text) IS 'Counts the rows of the tables of a limit anew; returns how many tenants'' counters were wrong.';

-- The next two run with the rights of the caller, who must own the table, so no name of
-- schema _grownext stands in them. Who may protect a table could also give units back, so
-- end users may not.

CREATE OR REPLACE FUNCTION grownext.limit_protect(relation regclass, feature text, tenant_column name DEFAULT 'tenant_id') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    target record;
    part record;
    kind text;
    suffix text;
BEGIN
    IF relation IS NULL OR feature IS NULL OR tenant_column IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'relation, feature and tenant_column must not be null';
    END IF;
    SELECT f.kind INTO kind FROM grownext.feature AS f WHERE f.feature = limit_protect.feature;
    IF kind IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('feature "%s" does not exist', feature),
            HINT = format('SELECT grownext.feature_define(%L, product, ''limit'');', feature);
    ELSIF kind <> 'limit' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" is of kind %s, and tables count for limits', feature, kind),
            HINT = 'Define a feature of kind limit.';
    END IF;
    SELECT c.oid, c.relkind, c.relname, c.relpersistence, n.nspname, c.relowner INTO target
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = relation;
    IF target.relkind IS NULL OR target.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type', MESSAGE = format('"%s" is not a table', relation);
    ELSIF target.nspname IN ('pg_catalog', 'information_schema', 'pg_toast')
       OR EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = target.oid AND d.deptype = 'e') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = format('"%s" belongs to the system or to an extension', relation);
    ELSIF NOT pg_has_role(current_user, target.relowner, 'USAGE') THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = format('must be owner of table %s', relation);
    ELSIF target.relpersistence <> 'p' THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type', MESSAGE = format('"%s" is temporary or unlogged: its rows vanish uncounted', relation);
    END IF;
    -- a name cannot be a parameter of LOCK; it is the catalogue's own, fully qualified
    EXECUTE format('LOCK TABLE %I.%I IN SHARE ROW EXCLUSIVE MODE', target.nspname, target.relname);
    IF NOT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                    WHERE c.oid = target.oid AND c.relname = target.relname AND n.nspname = target.nspname AND c.relowner = target.relowner) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_in_use', MESSAGE = format('table "%s" was changed by somebody else', target.relname), HINT = 'Try again.';
    ELSIF NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = target.oid AND a.attname = tenant_column AND NOT a.attisdropped AND a.attnum > 0) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_column', MESSAGE = format('table "%s" has no column "%s"', relation, tenant_column);
    ELSIF NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = target.oid AND a.attname = tenant_column AND a.atttypid = 'uuid'::regtype) THEN
        RAISE EXCEPTION USING ERRCODE = 'datatype_mismatch', MESSAGE = format('column "%s" of "%s" is not of type uuid', tenant_column, relation);
    END IF;
    suffix := CASE WHEN length(feature) <= 39 THEN feature ELSE md5(feature) END;
    -- what is named directly fires its own triggers alone: each part needs them
    FOR part IN
        WITH RECURSIVE tree AS (
            SELECT target.oid AS oid
            UNION
            SELECT i.inhrelid FROM tree AS t JOIN pg_inherits AS i ON i.inhparent = t.oid)
        SELECT c.oid::regclass AS relation, c.relkind FROM tree AS t JOIN pg_class AS c ON c.oid = t.oid
    LOOP
        IF part.relkind NOT IN ('r', 'p') THEN
            RAISE EXCEPTION USING ERRCODE = 'wrong_object_type', MESSAGE = format('"%s" below "%s" is not a table', part.relation, relation),
                DETAIL = 'Rows of a foreign table come and go unseen.';
        END IF;
        EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION grownext.limit_count(%L, %L)',
                       'grownext_limit_insert.' || suffix, part.relation, feature, tenant_column);
        EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER DELETE ON %s REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION grownext.limit_count(%L, %L)',
                       'grownext_limit_delete.' || suffix, part.relation, feature, tenant_column);
        EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER UPDATE ON %s REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION grownext.limit_count(%L, %L)',
                       'grownext_limit_update.' || suffix, part.relation, feature, tenant_column);
        EXECUTE format('CREATE OR REPLACE TRIGGER %I BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION grownext.limit_count(%L, %L)',
                       'grownext_limit_truncate.' || suffix, part.relation, feature, tenant_column);
    END LOOP;
    PERFORM grownext.limit_recount(feature);
END
$$;
COMMENT ON FUNCTION grownext.limit_protect(regclass, text, name) IS 'Makes the rows of a table the units of a limit: an insert consumes, a delete returns. For the table''s owner, who is service or admin.';

CREATE OR REPLACE FUNCTION grownext.limit_unprotect(relation regclass, feature text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    suffix text;
    part record;
BEGIN
    IF relation IS NULL OR feature IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'relation and feature must not be null';
    ELSIF NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = relation AND c.relkind IN ('r', 'p')) THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type', MESSAGE = format('"%s" is not a table', relation);
    END IF;
    suffix := CASE WHEN length(feature) <= 39 THEN feature ELSE md5(feature) END;
    FOR part IN
        WITH RECURSIVE tree AS (
            SELECT relation::oid AS oid
            UNION
            SELECT i.inhrelid FROM tree AS t JOIN pg_inherits AS i ON i.inhparent = t.oid)
        SELECT c.oid::regclass AS relation FROM tree AS t JOIN pg_class AS c ON c.oid = t.oid WHERE c.relkind IN ('r', 'p')
    LOOP
        -- checks the ownership and takes the lock
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', 'grownext_limit_insert.' || suffix, part.relation);
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', 'grownext_limit_delete.' || suffix, part.relation);
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', 'grownext_limit_update.' || suffix, part.relation);
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', 'grownext_limit_truncate.' || suffix, part.relation);
    END LOOP;
    PERFORM grownext.limit_recount(feature);
END
$$;
COMMENT ON FUNCTION grownext.limit_unprotect(regclass, text) IS 'Takes limit_protect() back: the table''s rows are no units any more. For the table''s owner, who is service or admin.';

-- Tables and parts of tables that do not count all that happens to them.
CREATE OR REPLACE FUNCTION _grownext.entitlement_limit_status() RETURNS SETOF grownext.status_item
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE tree AS (
        SELECT l.feature, l.tenant_column, l.relation AS root, l.relation AS part FROM _grownext.entitlement_limit_trigger AS l
        UNION
        SELECT t.feature, t.tenant_column, t.root, i.inhrelid FROM tree AS t JOIN pg_inherits AS i ON i.inhparent = t.part)
    SELECT ('entitlement', 'limit', 'degraded',
            format('"%s" does not count all its rows for "%s": a trigger is missing or disabled', t.part::regclass, t.feature),
            format('SELECT grownext.limit_protect(%L, %L, %L);', t.root::regclass, t.feature, t.tenant_column),
            NULL)::grownext.status_item
      FROM (SELECT t.* FROM tree AS t
             WHERE coalesce((SELECT bit_or(l.event) FROM _grownext.entitlement_limit_trigger AS l
                              WHERE l.relation = t.part AND l.feature = t.feature AND l.enabled), 0) <> 60
             ORDER BY t.feature, t.root, t.part LIMIT 1) AS t;
$$;
COMMENT ON FUNCTION _grownext.entitlement_limit_status() IS 'What status() says about tables that count for limits: one that does not count all.';

CREATE OR REPLACE TRIGGER entitlement_gauge_invalidate AFTER INSERT OR DELETE OR TRUNCATE ON _grownext.entitlement_gauge
    FOR EACH STATEMENT EXECUTE FUNCTION _grownext.core_invalidate('entitlement_marker_catalogue');
ALTER TABLE _grownext.entitlement_gauge ENABLE ALWAYS TRIGGER entitlement_gauge_invalidate;
