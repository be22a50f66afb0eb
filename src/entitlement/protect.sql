-- src/entitlement/protect.sql: tables that only the entitled see, and what policies get wrong

CREATE OR REPLACE FUNCTION grownext.entitlement_protect(relation regclass, feature text, tenant_column name DEFAULT 'tenant_id') RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    policy name;
    part record;
BEGIN
    IF relation IS NULL OR feature IS NULL OR tenant_column IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'relation, feature and tenant_column must not be null';
    ELSIF NOT EXISTS (SELECT FROM grownext.feature AS f WHERE f.feature = entitlement_protect.feature) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('feature "%s" does not exist', feature),
            HINT = format('SELECT grownext.feature_define(%L, product, kind);', feature);
    END IF;
    -- checks the caller's right, takes the lock, and sees to row security itself
    PERFORM grownext.tenant_isolate(relation, tenant_column);
    policy := CASE WHEN length(feature) <= 45 THEN 'grownext_entitled.' || feature ELSE 'grownext_entitled.' || md5(feature) END;
    FOR part IN
        WITH RECURSIVE tree AS (
            SELECT relation::oid AS oid
            UNION
            SELECT i.inhrelid FROM tree AS t JOIN pg_inherits AS i ON i.inhparent = t.oid)
        SELECT t.oid::regclass AS relation FROM tree AS t
    LOOP
        EXECUTE format('DROP POLICY IF EXISTS %I ON %s', policy, part.relation);
        -- the key of a tenant that is not entitled is NULL: an index finds nothing to read
        EXECUTE format('CREATE POLICY %I ON %s AS RESTRICTIVE USING (%I = (SELECT grownext.entitled_tenant(%L))) WITH CHECK (%I = (SELECT grownext.entitled_tenant(%L)))',
                       policy, part.relation, tenant_column, feature, tenant_column, feature);
        EXECUTE format('COMMENT ON POLICY %I ON %s IS %L', policy, part.relation, 'grownext: rows of tenants that are entitled to ' || feature);
    END LOOP;
END
$$;
COMMENT ON FUNCTION grownext.entitlement_protect(regclass, text, name) IS 'Isolates a table by tenant, and shows and accepts rows only while the tenant is entitled to the feature. For the table''s owner.';

CREATE OR REPLACE FUNCTION grownext.entitlement_unprotect(relation regclass, feature text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    policy name;
    part record;
BEGIN
    IF relation IS NULL OR feature IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'relation and feature must not be null';
    ELSIF NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = relation AND c.relkind IN ('r', 'p')) THEN
        RAISE EXCEPTION USING ERRCODE = 'wrong_object_type', MESSAGE = format('"%s" is not a table', relation);
    END IF;
    policy := CASE WHEN length(feature) <= 45 THEN 'grownext_entitled.' || feature ELSE 'grownext_entitled.' || md5(feature) END;
    FOR part IN
        WITH RECURSIVE tree AS (
            SELECT relation::oid AS oid
            UNION
            SELECT i.inhrelid FROM tree AS t JOIN pg_inherits AS i ON i.inhparent = t.oid)
        SELECT c.oid::regclass AS relation FROM tree AS t JOIN pg_class AS c ON c.oid = t.oid WHERE c.relkind IN ('r', 'p')
    LOOP
        -- checks the ownership and takes the lock
        EXECUTE format('DROP POLICY IF EXISTS %I ON %s', policy, part.relation);
    END LOOP;
END
$$;
COMMENT ON FUNCTION grownext.entitlement_unprotect(regclass, text) IS 'Takes entitlement_protect() back; the table stays isolated by tenant. For the table''s owner.';

-- Policies of the application -------------------------------------------------------

-- What a policy says, and what it calls: a call that stands in a subquery of its own
-- ("( SELECT f(...)") is asked once per statement, any other for each row.
CREATE OR REPLACE VIEW _grownext.entitlement_policy_call AS
    SELECT p.oid AS policy_id, p.polrelid AS relation_id, f.oid AS function_id, f.proname, l.lanname, f.provolatile,
           -- as many calls as there are calls in subqueries?
           (SELECT count(*) FROM regexp_matches(t.expression, '\m' || f.proname || '\(', 'g'))
         > (SELECT count(*) FROM regexp_matches(t.expression, '\( SELECT ([a-z0-9_"]+\.)?' || f.proname || '\(', 'g')) AS for_each_row
      FROM pg_catalog.pg_policy AS p
     CROSS JOIN LATERAL (SELECT pg_catalog.concat_ws(' ', pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))) AS t (expression)
      JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND d.objid = p.oid
       AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
      JOIN pg_catalog.pg_proc AS f ON f.oid = d.refobjid
      JOIN pg_catalog.pg_language AS l ON l.oid = f.prolang;
COMMENT ON VIEW _grownext.entitlement_policy_call IS 'Functions that policies call, and whether for each row.';

-- A policy depends on columns of its own table and on what its subqueries read, which
-- tells every table but its own: whether it reads that one, too, its text says.
CREATE OR REPLACE VIEW _grownext.entitlement_policy_read AS
    SELECT DISTINCT p.oid AS policy_id, c.oid AS relation_id
      FROM pg_catalog.pg_policy AS p
      JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND d.objid = p.oid
       AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'n'
      JOIN pg_catalog.pg_class AS c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p')
     WHERE c.oid <> p.polrelid
        OR pg_catalog.concat_ws(' ', pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
           ~ ('\m(FROM|JOIN)\M[( ]+([a-z0-9_"]+\.)?' || pg_catalog.quote_ident(c.relname) || '\M');
COMMENT ON VIEW _grownext.entitlement_policy_read IS 'Tables that policies read in subqueries.';

-- Tables with row security, as far as they concern tenants: a column named or used so.
CREATE OR REPLACE FUNCTION grownext.policy_lint() RETURNS SETOF grownext.policy_problem
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE secured AS (
        SELECT c.oid, c.oid::regclass::text AS relation, c.relrowsecurity, c.relforcerowsecurity, c.relkind,
               EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid) AS has_policy
          FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', '_grownext', 'grownext_audit') AND n.nspname !~ '^pg_'
    ), policy AS (
        SELECT p.oid, p.polname::text AS name, p.polpermissive, p.polroles, p.polrelid, s.relation,
               pg_get_expr(p.polqual, p.polrelid) AS qual, pg_get_expr(p.polwithcheck, p.polrelid) AS with_check,
               concat_ws(' ', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) AS expression
          FROM pg_policy AS p JOIN secured AS s ON s.oid = p.polrelid
    ), leads (from_id, to_id) AS (
        -- whose rows are needed to judge whose, at however many removes
        SELECT s.oid, s.oid FROM secured AS s
        UNION
        SELECT l.from_id, r.relation_id
          FROM leads AS l JOIN policy AS p ON p.polrelid = l.to_id JOIN _grownext.entitlement_policy_read AS r ON r.policy_id = p.oid
    )
    SELECT (s.relation, NULL, 'policies have no effect: row security is off', format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY;', s.relation))::grownext.policy_problem
      FROM secured AS s WHERE s.has_policy AND NOT s.relrowsecurity
    UNION ALL
    SELECT (s.relation, NULL, 'row security is not forced: the owner sees every row', format('ALTER TABLE %s FORCE ROW LEVEL SECURITY;', s.relation))::grownext.policy_problem
      FROM secured AS s WHERE s.has_policy AND s.relrowsecurity AND NOT s.relforcerowsecurity
    UNION ALL
    SELECT (p.relation, p.name, format('calls %s() for each row', c.proname), format('Write (SELECT %s(...)), which is asked once per statement.', c.proname))::grownext.policy_problem
      FROM policy AS p JOIN _grownext.entitlement_policy_call AS c ON c.policy_id = p.oid
     WHERE c.for_each_row AND c.lanname NOT IN ('c', 'internal')
    UNION ALL
    SELECT (p.relation, p.name, 'calls current_setting() for each row', 'Ask grownext.current_tenant(), or write (SELECT current_setting(...)).')::grownext.policy_problem
      FROM policy AS p
     WHERE (SELECT count(*) FROM regexp_matches(p.expression, '\mcurrent_setting\(', 'g'))
         > (SELECT count(*) FROM regexp_matches(p.expression, '\( SELECT \(*current_setting\(', 'g'))
    UNION ALL
    SELECT (p.relation, p.name, format('calls %s(), which is volatile', c.proname), format('Declare %s() STABLE if its answer holds for a statement.', c.proname))::grownext.policy_problem
      FROM policy AS p JOIN _grownext.entitlement_policy_call AS c ON c.policy_id = p.oid WHERE c.provolatile = 'v'
    UNION ALL
    SELECT (p.relation, p.name, CASE WHEN r.relation_id = p.polrelid THEN 'reads its own table, which recurses'
                                     ELSE format('reads %s, whose policies lead back here, which recurses', r.relation_id::regclass) END,
            'Read it in a SECURITY DEFINER function whose owner bypasses the policy.')::grownext.policy_problem
      FROM policy AS p JOIN _grownext.entitlement_policy_read AS r ON r.policy_id = p.oid
     WHERE EXISTS (SELECT FROM leads AS l WHERE l.from_id = r.relation_id AND l.to_id = p.polrelid)
    UNION ALL
    SELECT (p.relation, p.name, 'is for PUBLIC: for every role, also those that will be made',
            format('ALTER POLICY %I ON %s TO grownext_user;', p.name, p.relation))::grownext.policy_problem
      FROM policy AS p WHERE p.polpermissive AND p.polroles = '{0}' AND p.name !~ '^grownext_'
    UNION ALL
    SELECT (p.relation, p.name, format('asks for feature "%s", which does not exist', m.match[1]),
            format('SELECT grownext.feature_define(%L, product, kind);', m.match[1]))::grownext.policy_problem
      FROM policy AS p
     CROSS JOIN LATERAL regexp_matches(p.expression, 'grownext\.entitled(?:_tenant)?\(''((?:[^'']|'''')+)''', 'g') AS m (match)
     WHERE NOT EXISTS (SELECT FROM _grownext.entitlement_feature AS f WHERE f.feature = m.match[1])
    UNION ALL
    SELECT (p.relation, p.name, 'lets everybody at rows of every tenant', format('SELECT * FROM grownext.tenant_isolate(%L);', p.relation))::grownext.policy_problem
      FROM policy AS p
     WHERE p.polpermissive AND (p.qual = 'true' OR p.with_check = 'true')
       AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = p.polrelid AND a.attname = 'tenant_id' AND NOT a.attisdropped)
       AND NOT EXISTS (SELECT FROM pg_policy AS r WHERE r.polrelid = p.polrelid AND NOT r.polpermissive)
    UNION ALL
    SELECT DISTINCT ON (s.oid, a.attname) (s.relation, NULL, format('no index leads with "%s", by which policies choose rows', a.attname),
            format('CREATE INDEX%s ON %s (%I);', CASE s.relkind WHEN 'r' THEN ' CONCURRENTLY' ELSE '' END, s.relation, a.attname))::grownext.policy_problem
      FROM secured AS s
      JOIN policy AS p ON p.polrelid = s.oid
      JOIN pg_attribute AS a ON a.attrelid = s.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE s.relrowsecurity
       AND (p.expression ~ ('\m' || a.attname || '\M = (\( SELECT )?grownext\.(current_tenant|entitled_tenant)\(')
            OR a.attname = 'tenant_id' AND p.expression ~ '\mtenant_id\M')
       AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = s.oid AND i.indkey[0] = a.attnum AND i.indpred IS NULL AND i.indisvalid);
$$;
COMMENT ON FUNCTION grownext.policy_lint() IS 'Row policies of the application that are slow, open or without effect, each with what mends it.';
