-- docs/footprint.sql -- what operations write: WAL bytes per operation, each in a
-- transaction of its own, averaged over many. Prints one line per operation, as in README.md.
--
--     psql -X -q -At -d acme -U acme_service -f docs/footprint.sql
--
-- Run it after docs/quickstart.sql, on a server that does nothing else, with
-- full_page_writes off: pages that are written whole after a checkpoint would be
-- counted with whichever operation touches them first. The figure is the difference of
-- pg_current_wal_insert_lsn(); pg_waldump shows the records behind it.
\set ON_ERROR_STOP on
\connect - acme_admin
SELECT grownext.feature_define('projects.calls', 'projects', 'metered') \g /dev/null
SELECT grownext.bundle_define('footprint', '{"projects.calls": {"quota": 1000000000, "period": "month"}}') \g /dev/null
SELECT grownext.queue_define('footprint') \g /dev/null
SELECT grownext.queue_grant('footprint', 'acme_owner', 'work') \g /dev/null
SELECT grownext.queue_grant('footprint', 'acme_service', 'enqueue') \g /dev/null

\connect - acme_owner
CREATE FUNCTION app.nothing(payload jsonb) RETURNS void LANGUAGE sql RETURN NULL;
SELECT grownext.queue_handle('footprint', 'app.nothing(jsonb)') \g /dev/null
CREATE TABLE app.plain (id bigint PRIMARY KEY, word text NOT NULL);
GRANT INSERT ON app.plain TO acme_service;

\connect - acme_service
SELECT grownext.user_create('f@acme.example', 'F', id => '5a1f0d0e-0000-4000-8000-0000000000f0') \g /dev/null
SELECT grownext.tenant_create('footprint', 'Footprint', id => '7d6f3f0e-0000-4000-8000-0000000000f0', bundle => 'footprint') \g /dev/null
CREATE TEMP TABLE footprint (position int, what text, call text, bytes numeric);
INSERT INTO footprint VALUES
    (1, 'a plain `INSERT` of one narrow row with a primary key, for comparison', $$INSERT INTO app.plain VALUES (%s, 'word')$$),
    (2, '`entitled`, `act_as`, `authenticate`, `jwt_mint`, `jwt_verify`', $$SELECT grownext.entitled('projects.calls', '7d6f3f0e-0000-4000-8000-0000000000f0'), grownext.act_as('f'), grownext.jwt_verify(grownext.jwt_mint('f')), grownext.authenticate(grownext.jwt_mint('f'))$$),
    (3, '`usage_consume`', $$SELECT grownext.usage_consume('projects.calls', 1, tenant_id => '7d6f3f0e-0000-4000-8000-0000000000f0')$$),
    (4, '`usage_consume` with an idempotency key', $$SELECT grownext.usage_consume('projects.calls', 1, 'key-%s', tenant_id => '7d6f3f0e-0000-4000-8000-0000000000f0')$$),
    (5, '`audit_append`', $$SELECT grownext.audit_append('footprint.measured', 'thing:%s', tenant_id => '7d6f3f0e-0000-4000-8000-0000000000f0')$$),
    (6, '`session_create`, its audit event included', $$SELECT grownext.session_create('5a1f0d0e-0000-4000-8000-0000000000f0')$$),
    (7, '`enqueue`, and the executor''s run of the job', $$SELECT grownext.enqueue('footprint')$$);

SET client_min_messages = error; -- authenticate() warns where a DO block is no transaction block
DO $$
DECLARE
    rounds CONSTANT int := 500;
    deadline CONSTANT timestamptz := clock_timestamp() + interval '2 minutes';
    operation record;
    before pg_lsn;
BEGIN
    FOR operation IN SELECT * FROM footprint ORDER BY position LOOP
        -- once unmeasured, for the caches
        EXECUTE format(operation.call, 0);
        COMMIT;
        before := pg_current_wal_insert_lsn();
        FOR i IN 1 .. rounds LOOP
            EXECUTE format(operation.call, i);
            COMMIT;
        END LOOP;
        WHILE operation.position = 7 AND (SELECT ready + running FROM grownext.queue_stats('footprint')) > 0 LOOP
            IF clock_timestamp() > deadline THEN
                RAISE EXCEPTION 'the jobs did not run';
            END IF;
            COMMIT;
            PERFORM pg_sleep(0.05);
        END LOOP;
        UPDATE footprint SET bytes = (pg_current_wal_insert_lsn() - before) / rounds WHERE position = operation.position;
        COMMIT;
    END LOOP;
END
$$;
SELECT format('| %s | %s |', what, round(bytes)) FROM footprint ORDER BY position;
