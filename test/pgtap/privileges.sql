-- A hostile caller has LOGIN and CONNECT and nothing else: no function can be called, no
-- relation read or written, no setting set. Generated from the catalogue, object by object.
-- The same once more after somebody carelessly granted USAGE on the schemas: then every
-- object has to refuse on its own.
BEGIN;
SELECT * FROM no_plan();

CREATE ROLE regress_hostile LOGIN;
SELECT is(pg_has_role('regress_hostile', r.oid, 'MEMBER'), false, 'the hostile caller is no member of ' || r.rolname)
  FROM pg_roles AS r WHERE r.rolname LIKE 'grownext\_%' ORDER BY r.rolname;

-- SQLSTATE of a statement of the hostile caller, whatever it does is undone
CREATE FUNCTION pg_temp.attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL SESSION AUTHORIZATION regress_hostile;
    EXECUTE statement;
    RAISE EXCEPTION USING ERRCODE = 'TRIED'; -- undoes the statement and the user
EXCEPTION WHEN OTHERS THEN
    RETURN CASE SQLSTATE WHEN 'TRIED' THEN 'it went through' ELSE SQLSTATE END;
END
$$;

-- NULL comes from a subquery: of a STRICT function with a constant NULL nothing is left
-- to refuse after planning. CALL takes no subquery, and plans nothing.
CREATE TEMP TABLE target AS
SELECT 'function' AS kind, p.oid, p.oid::regprocedure::text AS name,
       CASE WHEN EXISTS (SELECT FROM unnest(p.proargtypes) AS a JOIN pg_type AS t ON t.oid = a WHERE t.typtype = 'p') THEN NULL
            ELSE format(CASE p.prokind WHEN 'p' THEN 'CALL %I.%I(%s)' ELSE 'SELECT %I.%I(%s)' END, n.nspname, p.proname,
                   (SELECT string_agg(format(CASE p.prokind WHEN 'p' THEN 'NULL::%s' ELSE '(SELECT NULL::%s)' END, format_type(a.type, NULL)), ', ' ORDER BY a.place)
                      FROM unnest(p.proargtypes) WITH ORDINALITY AS a (type, place))) END AS statement
  FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
 WHERE n.nspname IN ('grownext', '_grownext', 'grownext_api')
UNION ALL
SELECT 'relation', c.oid, c.oid::regclass::text, format('SELECT * FROM %I.%I', n.nspname, c.relname)
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname IN ('grownext', '_grownext', 'grownext_api') AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S');

SELECT cmp_ok((SELECT count(*) FROM target WHERE kind = 'function'), '>', 0::bigint, 'there are functions to try');
SELECT cmp_ok((SELECT count(*) FROM target WHERE kind = 'relation'), '>', 0::bigint, 'there are relations to try');

-- The attempt itself has to be able to succeed, or it proves nothing.
SELECT is(pg_temp.attempt('SELECT 1'), 'it went through', 'the hostile caller can run what everybody may');

SELECT is(pg_temp.attempt(statement), '42501', 'refused: ' || name)
  FROM target WHERE statement IS NOT NULL ORDER BY kind, name;

GRANT USAGE ON SCHEMA grownext, _grownext, grownext_api TO regress_hostile;

SELECT is(pg_temp.attempt(statement), '42501', 'refused with USAGE on its schema: ' || name)
  FROM target WHERE statement IS NOT NULL ORDER BY kind, name;
SELECT is(has_function_privilege('regress_hostile', oid, 'EXECUTE'), false, 'no EXECUTE: ' || name)
  FROM target WHERE kind = 'function' ORDER BY name;
SELECT is(has_table_privilege('regress_hostile', t.oid, p) OR has_any_column_privilege('regress_hostile', t.oid, 'SELECT, INSERT, UPDATE, REFERENCES'),
          false, format('no %s: %s', p, t.name))
  FROM target AS t JOIN pg_class AS c ON c.oid = t.oid
 CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS p
 WHERE t.kind = 'relation' AND c.relkind <> 'S' ORDER BY t.name, p;
SELECT is(has_sequence_privilege('regress_hostile', t.oid, 'USAGE, SELECT, UPDATE'), false, 'no sequence right: ' || t.name)
  FROM target AS t JOIN pg_class AS c ON c.oid = t.oid
 WHERE t.kind = 'relation' AND c.relkind = 'S' ORDER BY t.name;

-- Settings: none may be set by an ordinary user, nor a new one be invented.
LOAD 'grownext';
SELECT cmp_ok((SELECT count(*) FROM pg_settings WHERE name LIKE 'grownext.%'), '>', 0::bigint, 'there are settings to try');
-- 42501 needs a superuser, 55P02 cannot be changed in a session at all
SELECT ok(pg_temp.attempt(format('SET %s = %L', name, boot_val)) IN ('42501', '55P02'), 'cannot be set: ' || name)
  FROM pg_settings WHERE name LIKE 'grownext.%' ORDER BY name;
SELECT is(pg_temp.attempt('SET grownext.invented = 1'), '42602', 'cannot be invented: grownext.invented');

-- Who has what, function by function: a public function serves somebody and PUBLIC is
-- nobody. An internal one serves nobody, unless a view, a policy or a default calls it: that
-- happens with the rights of whoever queries. Without USAGE on _grownext he cannot call it
-- himself.
SELECT CASE
        WHEN 'PUBLIC' = ANY (g.grantees) THEN fail('granted to PUBLIC: ' || p.oid::regprocedure)
        WHEN n.nspname <> '_grownext' THEN ok(cardinality(g.grantees) > 0, 'granted to somebody: ' || p.oid::regprocedure)
        WHEN EXISTS (SELECT FROM pg_depend AS d
                      WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid
                        AND d.classid IN ('pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_attrdef'::regclass))
        THEN pass('internal, called by a view, a policy or a default: ' || p.oid::regprocedure)
        ELSE is(g.grantees, NULL, 'internal, granted to nobody: ' || p.oid::regprocedure)
       END
  FROM pg_proc AS p
  JOIN pg_namespace AS n ON n.oid = p.pronamespace
 CROSS JOIN LATERAL (
        SELECT array_agg(DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END) AS grantees
          FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
         WHERE a.grantee <> p.proowner) AS g
 WHERE n.nspname IN ('grownext', '_grownext', 'grownext_api')
 ORDER BY n.nspname, p.oid::regprocedure::text;

-- Schemas: the audit log's, which is made at its first event, is one of them.
SELECT isnt(grownext.audit_append('test.made'), NULL, 'the audit log is there');
REVOKE USAGE ON SCHEMA grownext, _grownext, grownext_api FROM regress_hostile;
SELECT is((SELECT count(*) FROM pg_namespace WHERE nspname LIKE '%grownext%'), 4::bigint, 'there are four schemas to try');
SELECT is(has_schema_privilege('regress_hostile', n.oid, 'USAGE, CREATE'), false, 'neither USAGE nor CREATE: ' || n.nspname)
  FROM pg_namespace AS n WHERE n.nspname LIKE '%grownext%' ORDER BY n.nspname;
SELECT is(has_schema_privilege(r.rolname, n.oid, 'CREATE'), false, format('no CREATE in %s for %s', n.nspname, r.rolname))
  FROM pg_namespace AS n CROSS JOIN pg_roles AS r
 WHERE n.nspname LIKE '%grownext%' AND r.rolname LIKE 'grownext\_%' AND r.rolname <> 'grownext_owner' ORDER BY n.nspname, r.rolname;
SELECT is(CASE c.relkind WHEN 'S' THEN has_sequence_privilege('regress_hostile', c.oid, 'USAGE, SELECT, UPDATE')
               ELSE has_table_privilege('regress_hostile', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') END,
          false, 'nothing of the audit log: ' || c.relname)
  FROM pg_class AS c WHERE c.relnamespace = 'grownext_audit'::regnamespace AND c.relkind IN ('r', 'v', 'S') ORDER BY c.relname;

-- What he makes himself changes nobody's answer: a definer function looks nowhere that he
-- can write, and in our schemas he can make nothing.
SELECT is(p.proconfig && ARRAY['search_path=pg_catalog, pg_temp'], true, 'a definer function with a path of its own: ' || p.oid::regprocedure)
  FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
 WHERE n.nspname IN ('grownext', '_grownext', 'grownext_api') AND p.prosecdef ORDER BY p.oid::regprocedure::text;
SELECT is(pg_temp.attempt(format('CREATE %s', o)), '42501', 'cannot be made in our schemas: ' || o)
  FROM unnest(ARRAY['TABLE grownext.t ()', 'TABLE _grownext.t ()', 'TABLE grownext_audit.t ()',
                    'FUNCTION grownext.f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$',
                    'FUNCTION grownext_api.f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$']) AS o;
-- Settings that he keeps for his next session are no way around.
SELECT ok(pg_temp.attempt(format('ALTER ROLE regress_hostile SET %s = %L', name, boot_val)) IN ('42501', '55P02'), 'cannot be kept for his role: ' || name)
  FROM pg_settings WHERE name LIKE 'grownext.%' ORDER BY name;
-- Claims that he sets are nobody's, even when he is let in as a user.
GRANT grownext_user TO regress_hostile;
SELECT is(pg_temp.attempt($x$DO $do$ BEGIN
    PERFORM set_config('request.jwt.claims', '{"sub": "root", "tenant_id": "11111111-1111-4111-8111-111111111111"}', true);
    IF num_nonnulls(grownext.current_subject(), grownext.current_tenant(), grownext.claims(), grownext.has_scope('x'), grownext.current_actor()) > 0 THEN
        RAISE EXCEPTION 'somebody';
    END IF;
END $do$ $x$), 'it went through', 'claims that a session set itself are nobody''s');
SELECT is(pg_temp.attempt('SELECT grownext.pre_request()'), 'NX003', 'and no gate lets them in');
SELECT is(pg_temp.attempt($$SELECT grownext.act_as('root')$$), '42501', 'nor may he speak for somebody');
SELECT is(pg_temp.attempt($$SELECT grownext.gateway_trust('regress_hostile')$$), '42501', 'or make himself a gateway');

SELECT * FROM finish();
ROLLBACK;
