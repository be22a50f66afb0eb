-- What holds for every object of the extension, read from the catalogue: nothing here
-- names a component, so a new object is checked from the day it exists.
-- An exception is a row of "excuse", with its reason; one that no longer applies fails too.
BEGIN;
SELECT * FROM no_plan();

CREATE TEMP TABLE excuse (rule text, object text, reason text NOT NULL, PRIMARY KEY (rule, object));
INSERT INTO excuse (rule, object, reason) VALUES
    ('language', '_grownext.queue_histogram_sum(bigint[])', 'an aggregate, whose functions are C'),
    ('dump', '_grownext.crypto_sealed', 'which columns hold sealed values is code: functions.sql fills it'),
    ('dump', '_grownext.stream_segment', 'tables.sql fills it; a restored ring starts anew'),
    ('dump', '_grownext.tenant_reactor', 'which function of a component reacts is code: functions.sql fills it');

-- offence(rule, object): what breaks a rule
CREATE TEMP TABLE offence (rule text, object text);

CREATE FUNCTION pg_temp.holds(rule text, claim text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT is_empty(
        format('SELECT object FROM offence WHERE rule = %1$L
                EXCEPT SELECT object FROM excuse WHERE rule = %1$L ORDER BY 1', $1), $2)
    UNION ALL
    SELECT is_empty(
        format('SELECT object FROM excuse WHERE rule = %1$L
                EXCEPT SELECT object FROM offence WHERE rule = %1$L ORDER BY 1', $1),
        $2 || ': no excuse is out of date');
$$;

CREATE TEMP VIEW member AS
SELECT d.classid, d.objid
  FROM pg_depend AS d
  JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'grownext'
 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e';

CREATE TEMP VIEW relation AS
SELECT c.oid::regclass::text AS name, c.*
  FROM pg_class AS c JOIN member AS m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid;

CREATE TEMP VIEW routine AS
SELECT p.oid::regprocedure::text AS name, n.nspname, p.*
  FROM pg_proc AS p
  JOIN member AS m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
  JOIN pg_namespace AS n ON n.oid = p.pronamespace;

SELECT cmp_ok((SELECT count(*) FROM relation), '>', 0::bigint, 'the extension has tables to look at');
SELECT cmp_ok((SELECT count(*) FROM routine), '>', 0::bigint, 'the extension has functions to look at');

-- Where things live ----------------------------------------------------------

INSERT INTO offence
SELECT 'schema', pg_describe_object(m.classid, m.objid, 0)
  FROM member AS m CROSS JOIN LATERAL pg_identify_object(m.classid, m.objid, 0) AS o
 WHERE o.schema IS NOT NULL AND o.schema NOT IN ('grownext', '_grownext', 'grownext_api');
SELECT pg_temp.holds('schema', 'every member is in one of the three schemas');

INSERT INTO offence
SELECT 'schema member', n FROM unnest(ARRAY['grownext', '_grownext', 'grownext_api']) AS n
 WHERE NOT EXISTS (SELECT FROM member AS m WHERE m.classid = 'pg_namespace'::regclass AND m.objid = to_regnamespace(n));
SELECT pg_temp.holds('schema member', 'the three schemas are members, so DROP EXTENSION takes them along');

INSERT INTO offence
SELECT 'table in API schema', name FROM relation
 WHERE relkind IN ('r', 'p', 'm', 'S', 'f') AND relnamespace <> '_grownext'::regnamespace;
SELECT pg_temp.holds('table in API schema', 'tables and sequences are in _grownext only');

-- What a restore brings back -------------------------------------------------

INSERT INTO offence
SELECT 'dump', name FROM relation
 WHERE relkind IN ('r', 'p', 'S')
   AND oid <> ALL (SELECT unnest(extconfig) FROM pg_extension WHERE extname = 'grownext' AND extconfig IS NOT NULL);
SELECT pg_temp.holds('dump', 'every table and sequence is marked with pg_extension_config_dump');

INSERT INTO offence
SELECT 'logged', name FROM relation WHERE relkind IN ('r', 'p', 'S') AND relpersistence <> 'p';
SELECT pg_temp.holds('logged', 'every table is logged: a crash forgets nothing');

INSERT INTO offence
SELECT 'key', name FROM relation AS r
 WHERE relkind IN ('r', 'p')
   AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conrelid = r.oid AND c.contype IN ('p', 'u'))
   -- lines that nobody names, folded in bulk; their whole row identifies them for replication
   AND NOT (r.relname = 'entitlement_usage_event'
            AND (SELECT k.relreplident FROM pg_class AS k WHERE k.oid = r.oid) = 'f');
SELECT pg_temp.holds('key', 'every table has a key');

-- Names that upgrade scripts can rely on --------------------------------------

INSERT INTO offence
SELECT 'constraint name', format('%s.%s', r.name, c.conname)
  FROM relation AS r JOIN pg_constraint AS c ON c.conrelid = r.oid
 WHERE c.contype IN ('p', 'u', 'f', 'c', 'x')
   AND (NOT starts_with(c.conname, r.relname || '_')
        OR c.conname !~ CASE c.contype WHEN 'p' THEN '_pkey$' WHEN 'u' THEN '_key$' WHEN 'f' THEN '_fkey$'
                                       WHEN 'c' THEN '_chk$' ELSE '_excl$' END);
SELECT pg_temp.holds('constraint name', 'constraints are named table_..._pkey, _key, _fkey, _chk, _excl');

INSERT INTO offence
SELECT 'index name', format('%s.%s', r.name, i.relname)
  FROM relation AS r
  JOIN pg_index AS x ON x.indrelid = r.oid
  JOIN pg_class AS i ON i.oid = x.indexrelid
 WHERE NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.oid)
   AND (NOT starts_with(i.relname, r.relname || '_') OR i.relname !~ '_(idx|key)$');
SELECT pg_temp.holds('index name', 'indexes are named table_..._idx, or _key if unique');

-- Functions ------------------------------------------------------------------

INSERT INTO offence
SELECT 'overload', format('%s.%s', nspname, proname) FROM routine
 WHERE nspname IN ('grownext', 'grownext_api') GROUP BY nspname, proname HAVING count(*) > 1;
SELECT pg_temp.holds('overload', 'no public function is overloaded: drivers send untyped parameters');

INSERT INTO offence
SELECT 'search_path', name FROM routine
 WHERE prosecdef AND NOT coalesce(proconfig @> ARRAY['search_path=pg_catalog, pg_temp'], false);
SELECT pg_temp.holds('search_path', 'every SECURITY DEFINER function has search_path = pg_catalog, pg_temp');

INSERT INTO offence
SELECT 'definer language', name FROM routine AS r JOIN pg_language AS l ON l.oid = r.prolang
 WHERE prosecdef AND l.lanname = 'c';
SELECT pg_temp.holds('definer language', 'no C function is SECURITY DEFINER: C switches the user itself');

INSERT INTO offence
SELECT 'symbol', name FROM routine AS r JOIN pg_language AS l ON l.oid = r.prolang
 WHERE l.lanname = 'c' AND prosrc NOT LIKE 'gn\_%';
SELECT pg_temp.holds('symbol', 'every C function names its symbol, and it begins with gn_');

INSERT INTO offence
SELECT 'language', name FROM routine AS r JOIN pg_language AS l ON l.oid = r.prolang
 WHERE l.lanname NOT IN ('c', 'sql', 'plpgsql');
SELECT pg_temp.holds('language', 'functions are written in C, SQL or PL/pgSQL');

-- Comments -------------------------------------------------------------------

INSERT INTO offence SELECT 'function comment', name FROM routine WHERE obj_description(oid, 'pg_proc') IS NULL;
SELECT pg_temp.holds('function comment', 'every function has a comment');

INSERT INTO offence
SELECT 'relation comment', name FROM relation
 WHERE relkind IN ('r', 'p', 'v', 'm') AND obj_description(oid, 'pg_class') IS NULL;
SELECT pg_temp.holds('relation comment', 'every table and view has a comment');

-- Ownership and rights --------------------------------------------------------

INSERT INTO offence
SELECT 'owner', pg_describe_object(m.classid, m.objid, 0)
  FROM member AS m
  LEFT JOIN pg_class AS c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
  LEFT JOIN pg_proc AS p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
  LEFT JOIN pg_type AS t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
  LEFT JOIN pg_namespace AS n ON m.classid = 'pg_namespace'::regclass AND n.oid = m.objid
 WHERE coalesce(c.relowner, p.proowner, t.typowner, n.nspowner) <> 'grownext_owner'::regrole;
SELECT pg_temp.holds('owner', 'everything belongs to grownext_owner');

SELECT is_empty(
    $$SELECT rolname FROM pg_roles
       WHERE rolname LIKE 'grownext\_%' AND (rolsuper OR rolcanlogin OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)
       ORDER BY 1$$,
    'no grownext role is a superuser, can log in, or has any other attribute');

SELECT is_empty(
    $$SELECT pg_get_userbyid(roleid), pg_get_userbyid(member) FROM pg_auth_members
       WHERE pg_get_userbyid(roleid) = 'grownext_owner'$$,
    'nobody is a member of grownext_owner');

-- A null ACL is the default, which for functions, types and (USAGE) languages includes PUBLIC.
CREATE TEMP VIEW granted AS
SELECT 'relation' AS kind, r.name, a.grantee, a.privilege_type, a.is_grantable, r.relowner AS owner
  FROM relation AS r CROSS JOIN aclexplode(coalesce(r.relacl, acldefault('r', r.relowner))) AS a
 UNION ALL
SELECT 'relation', format('%s.%s', r.name, c.attname), a.grantee, a.privilege_type, a.is_grantable, r.relowner
  FROM relation AS r JOIN pg_attribute AS c ON c.attrelid = r.oid CROSS JOIN aclexplode(c.attacl) AS a
 UNION ALL
SELECT 'function', r.name, a.grantee, a.privilege_type, a.is_grantable, r.proowner
  FROM routine AS r CROSS JOIN aclexplode(coalesce(r.proacl, acldefault('f', r.proowner))) AS a
 UNION ALL
SELECT 'schema', n.nspname, a.grantee, a.privilege_type, a.is_grantable, n.nspowner
  FROM pg_namespace AS n JOIN member AS m ON m.classid = 'pg_namespace'::regclass AND m.objid = n.oid
 CROSS JOIN aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a;

INSERT INTO offence
SELECT DISTINCT 'public grant', format('%s on %s %s', privilege_type, kind, name) FROM granted WHERE grantee = 0;
SELECT pg_temp.holds('public grant', 'nothing is granted to PUBLIC');

INSERT INTO offence
SELECT DISTINCT 'foreign grant', format('%s on %s %s to %s', privilege_type, kind, name, pg_get_userbyid(grantee))
  FROM granted WHERE grantee NOT IN (0, owner) AND pg_get_userbyid(grantee) NOT LIKE 'grownext\_%';
SELECT pg_temp.holds('foreign grant', 'the script grants to grownext roles only');

INSERT INTO offence
SELECT DISTINCT 'grant option', format('%s on %s %s to %s', privilege_type, kind, name, pg_get_userbyid(grantee))
  FROM granted WHERE grantee <> owner AND is_grantable;
SELECT pg_temp.holds('grant option', 'nobody may pass a right on');

INSERT INTO offence
SELECT DISTINCT 'internal schema', format('%s to %s', privilege_type, pg_get_userbyid(grantee))
  FROM granted WHERE kind = 'schema' AND name = '_grownext' AND grantee <> owner;
SELECT pg_temp.holds('internal schema', 'nobody but the owner has a right in schema _grownext');

INSERT INTO offence
SELECT DISTINCT 'create', format('CREATE on schema %s to %s', name, pg_get_userbyid(grantee))
  FROM granted WHERE kind = 'schema' AND privilege_type = 'CREATE' AND grantee <> owner;
SELECT pg_temp.holds('create', 'nobody but the owner may create in the schemas');

INSERT INTO offence
SELECT 'security barrier', name FROM relation
 WHERE relkind = 'v' AND name NOT LIKE '\_grownext.%' -- only its owner looks into that schema
   AND NOT coalesce(reloptions && ARRAY['security_barrier=true', 'security_barrier=on', 'security_barrier'], false);
SELECT pg_temp.holds('security barrier', 'every view that somebody may read is a security barrier');

SELECT * FROM finish();
ROLLBACK;
