-- Who may call and read what. A new function shows up here, and so does every right that
-- comes or goes: look at the difference before you accept it. That nothing else is
-- granted, to PUBLIC least of all, is for test/pgtap to prove.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS grownext;
RESET client_min_messages;
\pset format unaligned
\pset tuples_only on
\pset fieldsep ': '

SELECT p.oid::regprocedure, string_agg(replace(a.grantee::regrole::text, 'grownext_', ''), ' ' ORDER BY a.grantee::regrole::text)
  FROM pg_proc AS p CROSS JOIN LATERAL aclexplode(p.proacl) AS a
 WHERE p.pronamespace IN ('grownext'::regnamespace, 'grownext_api'::regnamespace)
   AND a.grantee NOT IN (0, p.proowner)
 GROUP BY p.oid ORDER BY p.oid::regprocedure::text COLLATE "C";

SELECT c.oid::regclass, string_agg(lower(a.privilege_type) || ' ' || replace(a.grantee::regrole::text, 'grownext_', ''), ', ' ORDER BY a.privilege_type, a.grantee::regrole::text)
  FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS a
 WHERE c.relnamespace IN ('grownext'::regnamespace, 'grownext_api'::regnamespace)
   AND c.relkind = 'v' AND a.grantee NOT IN (0, c.relowner)
 GROUP BY c.oid ORDER BY c.oid::regclass::text COLLATE "C";
