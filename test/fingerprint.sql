-- One line per member object of the extension, in a form that is the same after a
-- fresh install and after an upgrade: no OIDs, no column positions, ACLs sorted.
SET search_path = '';
WITH member AS (
    SELECT d.classid, d.objid, d.classid::pg_catalog.regclass::text AS class,
           pg_catalog.pg_describe_object(d.classid, d.objid, 0) AS name
      FROM pg_catalog.pg_depend AS d
      JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'grownext'
     WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'),
relation AS (
    SELECT c.* FROM member AS m JOIN pg_catalog.pg_class AS c ON c.oid = m.objid AND m.class = 'pg_class'
    UNION ALL -- composite types are members by their type
    SELECT c.* FROM member AS m JOIN pg_catalog.pg_type AS t ON t.oid = m.objid AND m.class = 'pg_type'
      JOIN pg_catalog.pg_class AS c ON c.oid = t.typrelid AND c.relkind = 'c')
SELECT kind, name, pg_catalog.replace(definition, E'\n', ' ') AS definition FROM (
SELECT 'member' AS kind, name, coalesce(pg_catalog.obj_description(objid, class::pg_catalog.name), '') AS definition FROM member
UNION ALL
SELECT 'function', m.name, pg_catalog.concat_ws(' ', CASE WHEN p.prokind <> 'a' THEN pg_catalog.pg_get_functiondef(p.oid) END,
       (SELECT pg_catalog.concat_ws(' ', a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggtranstype::pg_catalog.regtype, a.agginitval) FROM pg_catalog.pg_aggregate AS a WHERE a.aggfnoid = p.oid), 'owner', pg_catalog.pg_get_userbyid(p.proowner), p.prosrc, p.probin,
       (SELECT pg_catalog.string_agg(a::text, ' ' ORDER BY a::text) FROM pg_catalog.unnest(p.proacl) AS a))
  FROM member AS m JOIN pg_catalog.pg_proc AS p ON p.oid = m.objid AND m.class = 'pg_proc'
UNION ALL
SELECT 'relation', c.oid::pg_catalog.regclass::text, pg_catalog.concat_ws(' ', c.relkind, 'owner', pg_catalog.pg_get_userbyid(c.relowner), c.relpersistence, c.relrowsecurity, c.relforcerowsecurity, c.reloptions,
       (SELECT pg_catalog.string_agg(a::text, ' ' ORDER BY a::text) FROM pg_catalog.unnest(c.relacl) AS a),
       CASE WHEN c.relkind = 'v' THEN pg_catalog.pg_get_viewdef(c.oid) END)
  FROM relation AS c
UNION ALL
SELECT 'column', c.oid::pg_catalog.regclass || '.' || a.attname, pg_catalog.concat_ws(' ', pg_catalog.format_type(a.atttypid, a.atttypmod), 'null', NOT a.attnotnull, 'default', pg_catalog.pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated, a.attstorage, a.attacl,
       pg_catalog.col_description(c.oid, a.attnum))
  FROM relation AS c JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
UNION ALL
SELECT 'constraint', c.oid::pg_catalog.regclass || '.' || k.conname, pg_catalog.pg_get_constraintdef(k.oid)
  FROM relation AS c JOIN pg_catalog.pg_constraint AS k ON k.conrelid = c.oid
UNION ALL
SELECT 'index', i.indexrelid::pg_catalog.regclass::text, pg_catalog.pg_get_indexdef(i.indexrelid)
  FROM relation AS c JOIN pg_catalog.pg_index AS i ON i.indrelid = c.oid
UNION ALL
SELECT 'trigger', c.oid::pg_catalog.regclass || '.' || t.tgname, pg_catalog.pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text
  FROM relation AS c JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = c.oid AND NOT t.tgisinternal
UNION ALL
SELECT 'policy', c.oid::pg_catalog.regclass || '.' || p.polname, pg_catalog.concat_ws(' ', p.polcmd, p.polpermissive, pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
  FROM relation AS c JOIN pg_catalog.pg_policy AS p ON p.polrelid = c.oid
UNION ALL
SELECT 'schema', n.nspname, pg_catalog.concat_ws(' ', pg_catalog.pg_get_userbyid(n.nspowner),
       (SELECT pg_catalog.string_agg(a::text, ' ' ORDER BY a::text) FROM pg_catalog.unnest(n.nspacl) AS a))
  FROM member AS m JOIN pg_catalog.pg_namespace AS n ON n.oid = m.objid AND m.class = 'pg_namespace'
UNION ALL
SELECT 'type', m.name, pg_catalog.concat_ws(' ', pg_catalog.pg_get_userbyid(t.typowner), t.typtype,
       (SELECT pg_catalog.string_agg(a::text, ' ' ORDER BY a::text) FROM pg_catalog.unnest(t.typacl) AS a))
  FROM member AS m JOIN pg_catalog.pg_type AS t ON t.oid = m.objid AND m.class = 'pg_type'
UNION ALL
SELECT 'dumped', c.oid::pg_catalog.regclass::text, e.extcondition[n.n]
  FROM pg_catalog.pg_extension AS e, pg_catalog.generate_subscripts(e.extconfig, 1) AS n (n), pg_catalog.pg_class AS c
 WHERE e.extname = 'grownext' AND c.oid = e.extconfig[n.n]
UNION ALL
SELECT 'trigger', t.evtname, pg_catalog.concat_ws(' ', t.evtevent, t.evtenabled, t.evtfoid::pg_catalog.regprocedure, t.evttags)
  FROM member AS m JOIN pg_catalog.pg_event_trigger AS t ON t.oid = m.objid AND m.class = 'pg_event_trigger'
) AS object
ORDER BY 1, 2, 3;
