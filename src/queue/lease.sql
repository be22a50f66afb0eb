-- src/queue/lease.sql: workers outside the database, and the end of what was cancelled

CREATE OR REPLACE FUNCTION grownext.job_fetch(queue text, count int DEFAULT 1, lease interval DEFAULT '30 seconds', worker text DEFAULT NULL)
RETURNS SETOF grownext.job
LANGUAGE c VOLATILE ROWS 10 AS 'MODULE_PATHNAME', 'gn_job_fetch';
COMMENT ON FUNCTION grownext.job_fetch(text, int, interval, text) IS 'Takes ready jobs of a queue for a worker outside the database, on a lease that begins with the commit.';

CREATE OR REPLACE PROCEDURE grownext.job_wait(queue text, timeout interval, INOUT ready boolean)
LANGUAGE c AS 'MODULE_PATHNAME', 'gn_job_wait';
COMMENT ON PROCEDURE grownext.job_wait(text, interval, boolean) IS 'Waits until a queue has a job to fetch or the time is up, without a snapshot or a transaction.';

CREATE OR REPLACE FUNCTION grownext.job_complete(id bigint, lease_id bigint, result jsonb DEFAULT NULL) RETURNS text
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_job_complete';
COMMENT ON FUNCTION grownext.job_complete(bigint, bigint, jsonb) IS 'Settles a job in this transaction: succeeded, or cancelled if somebody wanted that; NX031 when it was handed out again.';

CREATE OR REPLACE FUNCTION grownext.job_complete_many(ids bigint[], lease_ids bigint[], results jsonb[] DEFAULT NULL) RETURNS bigint[]
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_job_complete_many';
COMMENT ON FUNCTION grownext.job_complete_many(bigint[], bigint[], jsonb[]) IS 'Settles many jobs in this transaction; the ids of those that succeeded.';

CREATE OR REPLACE FUNCTION grownext.job_fail(id bigint, lease_id bigint, error text, retry_in interval DEFAULT NULL, discard boolean DEFAULT false) RETURNS text
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_job_fail';
COMMENT ON FUNCTION grownext.job_fail(bigint, bigint, text, interval, boolean) IS 'Ends an attempt that failed: retry, dead or cancelled; stale when the lease is not good any more.';

CREATE OR REPLACE FUNCTION grownext.job_extend(ids bigint[], lease_ids bigint[], lease interval) RETURNS bigint[]
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_job_extend';
COMMENT ON FUNCTION grownext.job_extend(bigint[], bigint[], interval) IS 'Lets leases last so long from now; the ids that are still held and not cancelled.';

CREATE OR REPLACE FUNCTION grownext.job_snooze(id bigint, lease_id bigint, delay interval) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_job_snooze';
COMMENT ON FUNCTION grownext.job_snooze(bigint, bigint, interval) IS 'Gives a job back until later, without charging an attempt.';

CREATE OR REPLACE FUNCTION grownext.job_progress(id bigint, progress jsonb) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_job_progress';
COMMENT ON FUNCTION grownext.job_progress(bigint, jsonb) IS 'Says how far a running job is; a handler does it for its own, seen at once.';

CREATE OR REPLACE FUNCTION grownext.job_bind(id bigint, lease_id bigint) RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_job_bind';
COMMENT ON FUNCTION grownext.job_bind(bigint, bigint) IS 'Takes on the tenant, subject and claims of a leased job for this transaction.';

CREATE OR REPLACE FUNCTION _grownext.queue_lapse(most int) RETURNS int
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'gn_queue_lapse';
COMMENT ON FUNCTION _grownext.queue_lapse(int) IS 'Takes back leases that are over, at most so many; returns how many.';

-- What was cancelled while it ran: interrupted if an executor has it, ended if nobody
-- has it any more. A leased one ends with its lease. Returns how many executors were asked.
CREATE OR REPLACE FUNCTION _grownext.queue_end_cancelled() RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mark record;
    asked bigint := 0;
BEGIN
    FOR mark IN SELECT c.job_id FROM _grownext.queue_cancel AS c ORDER BY c.job_id LOOP
        IF _grownext.queue_interrupt(mark.job_id) THEN
            asked := asked + 1;
        ELSE
            PERFORM _grownext.queue_cancel_where(j.queue, j.id, 'cancelled by job_cancel()')
               FROM _grownext.queue_job AS j WHERE j.id = mark.job_id;
        END IF;
    END LOOP;
    DELETE FROM _grownext.queue_cancel AS c
     WHERE NOT EXISTS (SELECT FROM _grownext.queue_job AS j WHERE j.id = c.job_id);
    RETURN asked;
END
$$;
COMMENT ON FUNCTION _grownext.queue_end_cancelled() IS 'Ends jobs that were cancelled while they ran.';
