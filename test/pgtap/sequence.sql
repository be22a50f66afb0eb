-- Ids come from core_nextval(), which a crash does not make repeat itself (src/core/sequence.c)
BEGIN;
SELECT plan(4);

SELECT is_empty($$
    SELECT a.attrelid::regclass, a.attname
      FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
      LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE c.relnamespace = '_grownext'::regnamespace
       AND (a.attidentity <> '' OR pg_get_expr(d.adbin, d.adrelid) ~ 'nextval')
$$, 'no column of ours takes an id by itself');
SELECT is_empty($$
    SELECT p.oid::regprocedure FROM pg_proc AS p
     WHERE p.pronamespace IN ('_grownext'::regnamespace, 'grownext'::regnamespace)
       AND p.prolang <> (SELECT l.oid FROM pg_language AS l WHERE l.lanname = 'c')
       AND p.prosrc ~* '(^|[^_])nextval\s*\(' AND p.proname <> 'audit_log_make'
$$, 'no function of ours calls nextval()');
SELECT is(_grownext.core_nextval('_grownext.queue_job_id') + 1, _grownext.core_nextval('_grownext.queue_job_id'), 'core_nextval() counts');
SELECT throws_ok($$ SELECT _grownext.core_nextval('_grownext.queue_job') $$, '42809', NULL, 'and counts nothing but sequences');

SELECT * FROM finish();
ROLLBACK;
