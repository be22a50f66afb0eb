-- Identity and fence: what may act in this database. Workers themselves: test/t/01*.pl.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS grownext;
RESET client_min_messages;
CREATE VIEW pg_temp.identity AS
SELECT _grownext.core_identity_state() AS state, s.state AS status, s.detail, s.hint
  FROM grownext.status() AS s WHERE s.component = 'core' AND s.item = 'identity';

-- Everything happens in a transaction that is rolled back; an error undoes its statement.
\set ON_ERROR_ROLLBACK on
BEGIN;

-- never set up: nothing acts, and nothing can be fenced or let loose
DELETE FROM _grownext.core_identity;
DELETE FROM _grownext.core_option;
TABLE pg_temp.identity \gx
SELECT grownext.fence('no reason to');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.unfence('no reason to');
\echo :LAST_ERROR_SQLSTATE

-- setup wants an issuer and an audience, and no option that nobody knows
SELECT * FROM _grownext.core_setup(NULL, '{a}', '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM _grownext.core_setup('i', '{}', '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM _grownext.core_setup('i', '{a,NULL}', '{}');
SELECT * FROM _grownext.core_setup('i', '{a}', '{"colour": "red"}');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM _grownext.core_identity;

-- it arms, and is safe to repeat
SELECT * FROM _grownext.core_setup('https://id.example', '{https://a.example}', '{"require_pre_request": true}');
SELECT * FROM _grownext.core_setup('https://id.example', '{https://a.example}', '{"require_pre_request": false}');
TABLE pg_temp.identity;

-- a fence has a reason, is seen at once, and keeps its beginning
SELECT grownext.fence(' ');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.fence('first');
SELECT fenced_at AS began FROM _grownext.core_identity \gset
SELECT grownext.fence('second');
TABLE pg_temp.identity \gx
SELECT fenced_at = :'began' AS same_beginning FROM _grownext.core_identity;

-- setup() does not lift it
SELECT step, state FROM _grownext.core_setup('https://id.example', '{https://a.example}', '{}');

-- unfence() does, given a reason and a way that it knows
SELECT grownext.unfence(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.unfence('over', 'perhaps');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.unfence('over');
TABLE pg_temp.identity;

-- a savepoint that is rolled back takes its fence along
SAVEPOINT s;
SELECT grownext.fence('never mind');
SELECT _grownext.core_identity_state();
ROLLBACK TO s;
SELECT _grownext.core_identity_state();

-- a row from elsewhere: each comparison, and what status() makes of it
UPDATE _grownext.core_identity SET system_identifier = 1, database_name = 'prod';
TABLE pg_temp.identity;
UPDATE _grownext.core_identity SET system_identifier = s.system_identifier, database_oid = 1 FROM _grownext.core_server_identity() AS s;
TABLE pg_temp.identity;
UPDATE _grownext.core_identity SET database_oid = s.database_oid, extension_oid = 1 FROM _grownext.core_server_identity() AS s;
TABLE pg_temp.identity;
-- a timeline that is no ancestor of this one
UPDATE _grownext.core_identity SET extension_oid = s.extension_oid, timeline = 99 FROM _grownext.core_server_identity() AS s;
TABLE pg_temp.identity;
UPDATE _grownext.core_identity SET timeline = s.timeline, environment = 'production' FROM _grownext.core_server_identity() AS s;
TABLE pg_temp.identity;
SELECT grownext.unfence('taken over');
TABLE pg_temp.identity;
ROLLBACK;

-- status() names everything that core answers for, and never fails
SELECT item FROM grownext.status() WHERE component = 'core' ORDER BY item COLLATE "C";
SELECT count(*) FROM grownext.status() WHERE state NOT IN ('ok', 'degraded', 'failed', 'off') OR detail IS NULL;
BEGIN READ ONLY;
SELECT count(*) > 0 AS answers FROM grownext.status();
COMMIT;

-- the hint of a missing preload keeps what is preloaded already
SELECT _grownext.core_preload_hint('');
SELECT _grownext.core_preload_hint('pg_stat_statements, "auto_explain"');

-- who may call
CREATE ROLE regress_workers_monitor IN ROLE grownext_monitor;
CREATE ROLE regress_workers_service IN ROLE grownext_service;
SET ROLE regress_workers_monitor;
SELECT count(*) > 0 AS sees_status FROM grownext.status();
SELECT count(*) > 0 AS sees_workers FROM grownext.workers();
SELECT grownext.fence('mine');
\echo :LAST_ERROR_SQLSTATE
SET ROLE regress_workers_service;
SELECT grownext.unfence('mine');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM grownext.setup('i', '{a}');
\echo :LAST_ERROR_SQLSTATE
SELECT grownext.workers();
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
DROP ROLE regress_workers_monitor, regress_workers_service;
