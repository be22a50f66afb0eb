-- The platform's own functions: shapes, who may call what, what is refused.
BEGIN;
SELECT * FROM no_plan();

SELECT is(pg_get_function_arguments(f::regprocedure) || ' -> ' || pg_get_function_result(f::regprocedure), shape, f)
  FROM (VALUES
    ('grownext.extension_version()', ' -> text'),
    ('grownext.setup(text,text[],jsonb)', 'issuer text, audiences text[], options jsonb DEFAULT ''{}''::jsonb -> SETOF grownext.setup_step'),
    ('grownext.status()', ' -> SETOF grownext.status_item'),
    ('grownext.workers()', ' -> SETOF grownext.worker_info'),
    ('grownext.fence(text)', 'reason text -> void'),
    ('grownext.unfence(text,text)', 'reason text, pending text DEFAULT ''keep''::text -> void')) AS v (f, shape);

SELECT is((SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
             FROM pg_attribute AS a WHERE a.attrelid = t::regclass AND a.attnum > 0 AND NOT a.attisdropped), columns, t)
  FROM (VALUES
    ('grownext.setup_step', 'step text, state text, hint text'),
    ('grownext.status_item', 'component text, item text, state text, detail text, hint text, since timestamp with time zone'),
    ('grownext.worker_info', 'database name, worker text, pid integer, state text, last_tick_at timestamp with time zone, restarts integer, last_error text')) AS v (t, columns);

SELECT is(has_function_privilege('grownext_' || r, f, 'EXECUTE'), r = ANY (may), format('%s: %s', f, r))
  FROM (VALUES
    ('grownext.setup(text,text[],jsonb)', ARRAY['owner', 'admin']),
    ('grownext.fence(text)', ARRAY['owner', 'admin']),
    ('grownext.unfence(text,text)', ARRAY['owner', 'admin']),
    ('grownext.status()', ARRAY['owner', 'admin', 'monitor']),
    ('grownext.workers()', ARRAY['owner', 'admin', 'monitor']),
    ('_grownext.core_identity_adopt()', ARRAY['owner']),
    ('_grownext.core_worker_facts()', ARRAY['owner']),
    ('_grownext.core_tick(timestamptz)', ARRAY['owner'])) AS v (f, may)
 CROSS JOIN unnest(ARRAY['owner', 'admin', 'service', 'worker', 'auditor', 'monitor', 'user', 'anon']) AS r;

-- An administrator sets up, fences and lets loose, and reads no table for it.
CREATE ROLE regress_boss IN ROLE grownext_admin;
SELECT is(has_table_privilege('regress_boss', '_grownext.core_identity', 'SELECT'), false, 'an administrator does not read the identity itself');
DELETE FROM _grownext.core_identity;
SELECT is(_grownext.core_identity_state(), 'not_set_up', 'no row: not set up');
SELECT lives_ok($$ SELECT _grownext.core_identity_adopt() $$, 'armed');
SELECT is(_grownext.core_identity_state(), 'armed', 'at once');
SET LOCAL ROLE regress_boss;
SELECT lives_ok($$ SELECT grownext.fence('test') $$, 'an administrator fences');
SELECT is((SELECT state FROM grownext.status() WHERE component = 'core' AND item = 'identity'), 'failed', 'and sees it');
SELECT throws_ok($$ SELECT grownext.unfence('test', 'discard') $$, '22023', NULL, 'unfence() knows keep and skip');
SELECT throws_ok($$ SELECT grownext.unfence('test', NULL) $$, '22023', NULL, 'and no NULL');
SELECT throws_ok($$ SELECT grownext.unfence('') $$, '22004', NULL, 'a reason is needed');
SELECT lives_ok($$ SELECT grownext.unfence('test', pending => 'skip') $$, 'an administrator lets it loose');
SELECT is((SELECT state FROM grownext.status() WHERE component = 'core' AND item = 'identity'), 'ok', 'armed again');
SELECT throws_ok($$ SELECT * FROM grownext.setup('', '{a}') $$, '22004', NULL, 'setup() wants an issuer');
SELECT throws_ok($$ SELECT * FROM grownext.setup('i', NULL) $$, '22023', NULL, 'and audiences');
SELECT throws_ok($$ SELECT * FROM grownext.setup('i', '{a}', '{"x": 1}') $$, '22023', NULL, 'and known options');
SELECT throws_ok($$ SELECT * FROM grownext.setup('i', '{a}', '{"require_pre_request": "yes"}') $$, '22023', NULL, 'of their type');
RESET ROLE;

-- Both are audited, with the reason.
SELECT results_eq(
    $$ SELECT action FROM grownext.audit_event WHERE action IN ('platform.fenced', 'platform.unfenced') ORDER BY id $$,
    $$ VALUES ('platform.fenced'), ('platform.unfenced') $$, 'fence() and unfence() are in the audit log');

-- A tick is a function like any other: a pass without a worker
SELECT is(_grownext.core_tick(now()), NULL, 'core_tick(): next in due course');
UPDATE _grownext.core_identity SET database_name = 'elsewhere';
SELECT is(_grownext.core_tick(now()), NULL, 'core_tick() after a rename');
SELECT is((SELECT database_name FROM _grownext.core_identity), current_database(), 'keeps the name true');

SELECT * FROM finish();
ROLLBACK;
