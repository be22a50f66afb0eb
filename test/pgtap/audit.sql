-- The API of component audit: its signatures, who may call what, and what the log refuses.
BEGIN;
SELECT * FROM no_plan();

CREATE ROLE gt_admin LOGIN IN ROLE grownext_admin;
CREATE ROLE gt_service LOGIN IN ROLE grownext_service;
CREATE ROLE gt_user LOGIN IN ROLE grownext_user;
CREATE ROLE gt_auditor LOGIN IN ROLE grownext_auditor;
CREATE ROLE gt_anon LOGIN IN ROLE grownext_anon;
CREATE ROLE gt_worker LOGIN IN ROLE grownext_worker;
CREATE ROLE gt_monitor LOGIN IN ROLE grownext_monitor;

-- Signatures are a promise -------------------------------------------------------

SELECT is(pg_get_function_arguments(d.name::regproc), d.arguments, d.name) FROM (VALUES
    ('grownext.audit_append', 'action text, target text DEFAULT NULL::text, context jsonb DEFAULT ''{}''::jsonb, tenant_id uuid DEFAULT NULL::uuid, actor text DEFAULT NULL::text, occurred_at timestamp with time zone DEFAULT NULL::timestamp with time zone, category text DEFAULT NULL::text, idempotency_key text DEFAULT NULL::text, personal jsonb DEFAULT NULL::jsonb, sealed boolean DEFAULT false'),
    ('grownext.audit_append_many', 'events jsonb'),
    ('grownext.audit_search', 'filter jsonb DEFAULT ''{}''::jsonb, since timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT NULL::timestamp with time zone, after text DEFAULT NULL::text, count integer DEFAULT 100, tenant_id uuid DEFAULT NULL::uuid'),
    ('_grownext.audit_write', 'action text, target text, tenant_id uuid, before jsonb, after jsonb')) AS d (name, arguments);
SELECT is(pg_get_function_result(d.name::regproc), d.result, d.name || ' returns ' || d.result) FROM (VALUES
    ('grownext.audit_append', 'bigint'),
    ('grownext.audit_append_many', 'bigint[]'),
    ('grownext.audit_search', 'SETOF grownext.audit_event'),
    ('_grownext.audit_write', 'bigint')) AS d (name, result);
SELECT columns_are('grownext', 'audit_event', '{id,occurred_at,recorded_at,tenant_id,actor,on_behalf_of,session_role,action,target,category,context,change,request_id,txid,actor_source}'::name[]);
SELECT is(reloptions, '{security_barrier=true}', 'audit_event is a security barrier') FROM pg_class WHERE oid = 'grownext.audit_event'::regclass;
SELECT is(proparallel, 'u', proname || ' is parallel unsafe: it writes') FROM pg_proc WHERE proname IN ('audit_append', 'audit_append_many', 'audit_write') ORDER BY proname;

-- Who may call what --------------------------------------------------------------

SELECT is(
    ARRAY(SELECT r::text FROM unnest('{gt_admin,gt_service,gt_user,gt_auditor,gt_anon,gt_worker,gt_monitor}'::text[]) AS r
           WHERE has_function_privilege(r, g.name::regproc, 'EXECUTE')),
    g.roles, g.name || ' is for ' || g.roles::text)
  FROM (VALUES
    ('grownext.audit_append', '{gt_admin,gt_service,gt_user,gt_auditor,gt_worker}'::text[]),
    ('grownext.audit_append_many', '{gt_admin,gt_service,gt_user,gt_auditor,gt_worker}'),
    ('grownext.audit_search', '{gt_admin,gt_service,gt_user,gt_auditor}'),
    ('_grownext.audit_write', '{}'),
    ('_grownext.audit_log_make', '{}'),
    ('_grownext.audit_tick', '{}')) AS g (name, roles);
SELECT is(ARRAY(SELECT r::text FROM unnest('{gt_admin,gt_service,gt_user,gt_auditor,gt_anon,gt_worker,gt_monitor}'::text[]) AS r
                 WHERE has_table_privilege(r, 'grownext.audit_event', 'SELECT')),
          '{gt_admin,gt_service,gt_user,gt_auditor}', 'audit_event is read by these');
SELECT is(ARRAY(SELECT format('%s %s', r, p) FROM unnest('{gt_admin,gt_service,gt_user,gt_auditor,gt_anon,gt_worker,gt_monitor}'::text[]) AS r,
                       unnest('{INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS p
                 WHERE has_table_privilege(r, 'grownext.audit_event', p)),
          '{}', 'and written by nobody');

-- Refusals -----------------------------------------------------------------------

SET SESSION AUTHORIZATION gt_user;
SELECT throws_ok($$ SELECT grownext.audit_append('a.b') $$, 'NX010', NULL, 'an end user without a caller has no log');
SELECT throws_ok($$ SELECT grownext.audit_append('a.b', tenant_id => '11111111-1111-4111-8111-111111111111') $$, '42501', NULL, 'and not another tenant''s');
SELECT throws_ok($$ SELECT grownext.audit_append_many('[{"action": "a.b", "tenant_id": "11111111-1111-4111-8111-111111111111"}]') $$, '42501', NULL, 'not in a batch either');
SELECT is_empty($$ SELECT * FROM grownext.audit_event $$, 'and sees nothing');
SET SESSION AUTHORIZATION gt_auditor;
SELECT throws_ok($$ SELECT grownext.audit_append('a.b', tenant_id => '11111111-1111-4111-8111-111111111111') $$, '42501', NULL, 'an auditor writes no tenant''s log');
SELECT throws_ok($$ SELECT grownext.audit_append('a.b', actor => 'x') $$, '42501', NULL, 'and names no actor');
SELECT lives_ok($$ SELECT grownext.audit_append('auditor.noted') $$, 'but the global one');
SET SESSION AUTHORIZATION gt_service;
SELECT throws_ok($$ SELECT grownext.audit_append('A') $$, '22023', NULL, 'an action is lower case');
SELECT throws_ok($$ SELECT grownext.audit_append(NULL) $$, '22004', NULL, 'an action is not null');
SELECT throws_ok($$ SELECT grownext.audit_append('a', personal => '{}') $$, '0A000', NULL, 'personal fields are refused');
SELECT throws_ok($$ SELECT grownext.audit_append('a', sealed => true) $$, '0A000', NULL, 'sealing is refused');
SELECT lives_ok($$ SELECT grownext.audit_append('a', sealed => NULL) $$, 'NULL is no wish to seal');
SELECT isnt(grownext.audit_append('a.b', idempotency_key => 'k'), NULL, 'a key is taken');
SELECT throws_ok($$ SELECT grownext.audit_append('a.c', idempotency_key => 'k') $$, 'NX040', NULL, 'and not given twice');
SELECT is((SELECT array_agg(DISTINCT session_role) FROM grownext.audit_event WHERE action = 'a.b'), '{gt_service}', 'the session role is the server''s to say');
RESET SESSION AUTHORIZATION;

-- The log is read only through the view
SELECT is(ARRAY(SELECT r::text FROM unnest('{gt_admin,gt_service,gt_user,gt_auditor,gt_anon,gt_worker,gt_monitor,public}'::text[]) AS r
                 WHERE has_schema_privilege(r, 'grownext_audit', 'USAGE, CREATE') OR has_table_privilege(r, 'grownext_audit.event', 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')),
          '{}', 'nobody has a right on the log itself');
SELECT throws_ok('UPDATE grownext_audit.event SET actor = NULL', 'NX050', NULL, 'a superuser updates nothing');
SELECT throws_ok('DELETE FROM grownext_audit.event', 'NX050', NULL, 'deletes nothing');
SELECT throws_ok('TRUNCATE grownext_audit.event', 'NX050', NULL, 'truncates nothing');
SELECT throws_ok('DROP TABLE grownext_audit.event', 'NX050', NULL, 'and drops nothing');
SELECT throws_ok('DROP TRIGGER event_append_only ON grownext_audit.event', 'NX050', NULL, 'not the trigger');
SELECT throws_ok('ALTER TABLE grownext_audit.event DISABLE TRIGGER ALL', 'NX050', NULL, 'nor disables it');

SELECT is((SELECT count(*) FROM grownext.audit_event), (SELECT count(*) FROM grownext_audit.event), 'the view shows a superuser everything');

SELECT * FROM finish();
ROLLBACK;
