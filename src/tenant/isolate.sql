-- src/tenant/isolate.sql: which rows of the application a tenant sees

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
    on_purge text;
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
        IF option.key NOT IN ('force', 'set_default', 'index', 'on_purge') THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('unknown option "%s"', option.key),
                HINT = 'Known options: force, index, on_purge, set_default.';
        ELSIF option.key = 'on_purge' THEN
            IF option.value NOT IN ('"keep"', '"delete"', '"detach"') THEN
                RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'option "on_purge" must be "keep", "delete" or "detach"';
            END IF;
        ELSIF jsonb_typeof(option.value) <> 'boolean' THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('option "%s" must be of type boolean', option.key);
        END IF;
    END LOOP;
    wants_force := coalesce((options ->> 'force')::boolean, true);
    wants_default := coalesce((options ->> 'set_default')::boolean, true);
    wants_index := coalesce((options ->> 'index')::boolean, false);
    -- repeated without it, for a new partition, it stays what it was
    on_purge := coalesce(options ->> 'on_purge',
        (SELECT substring(obj_description(p.oid, 'pg_policy') FROM 'on purge: (delete|detach)$')
           FROM pg_policy AS p WHERE p.polrelid = relation AND p.polname = 'grownext_tenant'),
        'keep');

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
    IF on_purge = 'detach' AND attribute.attnotnull THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('column "%s" of "%s" cannot be null, so its rows cannot be detached', tenant_column, relation),
            HINT = 'Use {"on_purge": "delete"} or "keep".';
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
        EXECUTE format('COMMENT ON POLICY grownext_tenant ON %s IS %L', part.relation,
                       'grownext: rows of the current tenant only' || CASE on_purge WHEN 'keep' THEN '' ELSE '; on purge: ' || on_purge END);
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
