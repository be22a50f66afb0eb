-- src/queue/flow.sql: jobs that wait for others, and batches
--
-- Nobody who ends a job looks further than whether somebody waits for it, and notes
-- that. The scheduler's pass does the rest, after the commit, so that two parents that
-- end at once cannot miss each other, and a crash leaves nothing half done: what is to
-- be looked at is in a table, and a look that finds nothing to do does nothing.
--
-- A job may end while another is being enqueued that depends on it: neither sees the
-- other. So whoever enqueues notes the parent, too. The look after his commit finds it
-- over, or locks its row for a moment: whoever ends it later sees the dependency. A row
-- that it cannot lock may be ending, and is looked at again.
--
-- There are no cycles: a job depends on jobs that exist already, and on no callback of
-- a batch that is not over.

CREATE OR REPLACE FUNCTION grownext.batch_create(callback_queue text, callback_payload jsonb DEFAULT '{}') RETURNS bigint
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'gn_batch_create';
COMMENT ON FUNCTION grownext.batch_create(text, jsonb) IS 'Creates a batch and returns its id, which is that of its callback: a job that waits until all jobs of the batch are over.';

-- Storage --------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION _grownext.queue_fate(job_id bigint) RETURNS text
LANGUAGE sql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'live' FROM _grownext.queue_job AS j WHERE j.id = job_id
    UNION ALL SELECT d.state FROM _grownext.queue_done AS d WHERE d.id = job_id
    UNION ALL SELECT 'dead' FROM _grownext.queue_dead AS d WHERE d.id = job_id
$$;
COMMENT ON FUNCTION _grownext.queue_fate(bigint) IS 'live, succeeded, cancelled or dead; NULL when nothing is known of the job.';

-- A job that waits no longer. Its wait for an executor begins now.
CREATE OR REPLACE FUNCTION _grownext.queue_release(job_id bigint, now timestamptz, addition jsonb DEFAULT '{}') RETURNS void
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    WITH released AS (
        UPDATE _grownext.queue_job AS j
           SET waiting = false, ready = j.run_at <= queue_release.now, run_at = greatest(j.run_at, queue_release.now),
               payload = CASE WHEN addition = '{}' THEN j.payload ELSE j.payload || addition END
         WHERE j.id = job_id AND j.waiting RETURNING j.queue, j.ready)
    SELECT _grownext.queue_wake(r.queue, 1) FROM released AS r WHERE r.ready
$$;
COMMENT ON FUNCTION _grownext.queue_release(bigint, timestamptz, jsonb) IS 'Makes a waiting job ready, or scheduled if its time has not come.';

-- Dependencies ---------------------------------------------------------------------

-- Looks at one parent; at most so many of those that wait for it are settled. False:
-- look again.
CREATE OR REPLACE FUNCTION _grownext.queue_look_at_parent(parent bigint, now timestamptz, most int) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fate CONSTANT text := coalesce(_grownext.queue_fate(parent), 'gone');
    held_of text;
    child record;
BEGIN
    IF fate = 'live' THEN
        SELECT j.queue INTO held_of FROM _grownext.queue_job AS j WHERE j.id = parent FOR KEY SHARE SKIP LOCKED;
        PERFORM _grownext.queue_wake(held_of, 1); -- for an executor that passed by the locked row
        RETURN held_of IS NOT NULL;
    END IF;
    -- The child's row is locked before its other dependencies are looked at: of two
    -- passes that settle its last two, one comes after the other.
    FOR child IN
        SELECT j.id, j.queue, q.parent_failed
          FROM _grownext.queue_dependency AS d
          JOIN _grownext.queue_job AS j ON j.id = d.child_id
          JOIN _grownext.queue_queue AS q ON q.queue = j.queue
         WHERE d.parent_id = parent AND NOT (fate = 'dead' AND q.parent_failed = 'wait')
         ORDER BY d.child_id LIMIT most FOR UPDATE OF j SKIP LOCKED
    LOOP
        IF fate = 'succeeded' OR child.parent_failed = 'run' THEN
            DELETE FROM _grownext.queue_dependency AS d WHERE d.child_id = child.id AND d.parent_id = parent;
            IF NOT EXISTS (SELECT FROM _grownext.queue_dependency AS d WHERE d.child_id = child.id) THEN
                PERFORM _grownext.queue_release(child.id, queue_look_at_parent.now);
            END IF;
        ELSE
            PERFORM _grownext.queue_cancel_where(child.queue, child.id,
                format('job %s, which it depends on, %s', parent,
                       CASE fate WHEN 'dead' THEN 'is dead' WHEN 'gone' THEN 'was deleted' ELSE 'was cancelled' END));
        END IF;
    END LOOP;
    RETURN NOT EXISTS (
        SELECT FROM _grownext.queue_dependency AS d
          JOIN _grownext.queue_job AS j ON j.id = d.child_id
          JOIN _grownext.queue_queue AS q ON q.queue = j.queue
         WHERE d.parent_id = parent AND NOT (fate = 'dead' AND q.parent_failed = 'wait'));
END
$$;
COMMENT ON FUNCTION _grownext.queue_look_at_parent(bigint, timestamptz, int) IS 'Settles what depends on a job, if that is over.';

CREATE OR REPLACE FUNCTION _grownext.queue_resolve(now timestamptz, most int) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parent bigint;
    notes bigint[];
    looked bigint := 0;
BEGIN
    FOR parent IN
        SELECT DISTINCT n.parent_id
          FROM (SELECT c.parent_id FROM _grownext.queue_check AS c
                 WHERE c.due_at <= queue_resolve.now ORDER BY c.due_at LIMIT most) AS n
         ORDER BY n.parent_id
    LOOP
        -- only notes that are older than the look are done with it
        SELECT array_agg(n.id) INTO notes
          FROM (SELECT c.id FROM _grownext.queue_check AS c WHERE c.parent_id = parent ORDER BY c.id FOR UPDATE SKIP LOCKED) AS n;
        CONTINUE WHEN notes IS NULL; -- another pass has them
        looked := looked + 1;
        IF _grownext.queue_look_at_parent(parent, queue_resolve.now, most) THEN
            DELETE FROM _grownext.queue_check AS c WHERE c.id = ANY (notes);
        ELSE
            UPDATE _grownext.queue_check AS c SET due_at = queue_resolve.now + interval '1 second' WHERE c.id = ANY (notes[1:1]);
            DELETE FROM _grownext.queue_check AS c WHERE c.id = ANY (notes[2:]);
        END IF;
    END LOOP;
    RETURN looked;
END
$$;
COMMENT ON FUNCTION _grownext.queue_resolve(timestamptz, int) IS 'Looks at noted parents, at most so many; returns how many.';

-- Batches --------------------------------------------------------------------------

-- A batch is over when no job of it is left. Who adds a job holds the batch's row, so
-- that it is not found to be over meanwhile. Whether a job is left is asked before
-- outcomes are counted: then none is missed. True: some batch has to be looked at again.
CREATE OR REPLACE FUNCTION _grownext.queue_count_batches(now timestamptz) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    batch bigint;
    unfinished boolean;
    total _grownext.queue_batch;
    busy boolean := false;
BEGIN
    FOR batch IN
        SELECT b.id FROM _grownext.queue_batch AS b WHERE b.fresh
        UNION SELECT o.batch_id FROM _grownext.queue_batch_outcome AS o ORDER BY 1
    LOOP
        PERFORM FROM _grownext.queue_batch AS b WHERE b.id = batch FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            busy := true;
            CONTINUE;
        END IF;
        unfinished := EXISTS (SELECT FROM _grownext.queue_job AS j WHERE j.batch_id = batch);
        WITH counted AS (
            DELETE FROM _grownext.queue_batch_outcome AS o WHERE o.batch_id = batch RETURNING o.state)
        UPDATE _grownext.queue_batch AS b
           SET fresh = false, succeeded = b.succeeded + n.succeeded, dead = b.dead + n.dead, cancelled = b.cancelled + n.cancelled
          FROM (SELECT count(*) FILTER (WHERE c.state = 'succeeded') AS succeeded,
                       count(*) FILTER (WHERE c.state = 'dead') AS dead,
                       count(*) FILTER (WHERE c.state = 'cancelled') AS cancelled FROM counted AS c) AS n
         WHERE b.id = batch RETURNING b.* INTO total;
        CONTINUE WHEN unfinished;
        PERFORM _grownext.queue_release(batch, queue_count_batches.now, jsonb_build_object('batch', jsonb_build_object(
            'id', batch, 'succeeded', total.succeeded, 'dead', total.dead, 'cancelled', total.cancelled)));
        DELETE FROM _grownext.queue_batch AS b WHERE b.id = batch;
    END LOOP;
    RETURN busy;
END
$$;
COMMENT ON FUNCTION _grownext.queue_count_batches(timestamptz) IS 'Counts outcomes of batches and releases the callbacks of those that are over.';
