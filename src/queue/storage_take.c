/*
 * src/queue/storage_take.c
 *	  The storage's part in running jobs: which are next, and who has them.
 *
 * An executor takes the jobs that the memory names (ready.h), locks their rows and
 * settles them in the same transaction, so effect and outcome commit together, and a
 * claim ends with its holder, however that ends.
 *
 * A failed job's transaction is gone before its failure can be written. A session
 * lock on the job, taken at the claim, spans the gap: it survives the abort and
 * dies with the process, and whoever finds it held leaves the job alone. A handler
 * that frees it with pg_advisory_unlock_all() may see its own job retried without
 * a pause, no more: while the transaction lasts the row is locked as well.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/ipc.h"

#include "core/core.h"
#include "queue/lock.h"
#include "queue/ready.h"
#include "queue/storage_row.h"

/* ---- look ---- */

int
gn_storage_ready_queues(char ***queues)
{
	return gn_ready_names(queues);
}

int
gn_storage_count_waiting(const char *queue, bool ordered, int most)
{
	/* In the order of its index, or a backlog that was analyzed is read whole. Those
	 * that run are few. */
	static GnQuery query =
		GN_QUERY("SELECT FROM _grownext.queue_job AS j WHERE j.queue = $1 AND j.ready"
				 " AND NOT _grownext.queue_job_running(j.id)"
				 " ORDER BY j.priority, j.id LIMIT $2",
				 TEXTOID, INT4OID);
	Datum values[2] = {CStringGetTextDatum(queue), Int32GetDatum(most)};

	if (!ordered)
		return gn_ready_any(queue) ? gn_ready_count(queue, most) : 0;
	return (int) gn_spi_execute(&query, values, NULL, true);
}

/* ---- take ---- */

/* What this process holds, by session locks; of one queue. */
typedef struct Held
{
	int64 id;
	bool settled; /* by the transaction that is open, or that has committed */
	GnLane lane;
} Held;

static Held held[GN_MAX_CLAIM];
static int held_count = 0;
static char held_queue[128];
static bool names_in_hand = false; /* and not yet held */

/* Jobs whose failure another process is about to write: not to be claimed in this pass.
 */
static int64 skipped[64];
static int skip_count = 0;

static bool
holds(int64 id)
{
	for (int i = 0; i < held_count; i++)
	{
		if (held[i].id == id)
			return true;
	}
	return false;
}

#define TAKE_COLUMNS                                                                   \
	"SELECT " GN_ROW_COLUMNS ", " GN_ROW_CANCELLED                                     \
	" FROM _grownext.queue_job AS j WHERE j.queue = $1 AND j.ready"

static void
free_claims(const GnJob *jobs, int count)
{
	for (int i = 0; i < count; i++)
	{
		gn_queue_unlock(GN_QUEUE_LOCK_JOB, (uint64) jobs[i].id, ExclusiveLock, false);
		gn_queue_unlock(GN_QUEUE_LOCK_JOB, (uint64) jobs[i].id, ExclusiveLock, true);
	}
	held_count = 0;
}

static bool
claim(int64 id)
{
	if (!gn_queue_try_lock(GN_QUEUE_LOCK_JOB, (uint64) id, ExclusiveLock, true))
		return false;
	if (!gn_queue_try_lock(GN_QUEUE_LOCK_JOB, (uint64) id, ExclusiveLock, false))
		elog(ERROR, "could not lock job " INT64_FORMAT " twice", id);
	return true;
}

/* The rows of the next of an ordered queue's jobs that nobody has. */
static int
find_in_order(const char *queue, int most)
{
	/* The one that runs is still there for every snapshot but its own: it blocks its
	 * group. So does the first of several that are taken now. */
	static GnQuery query = GN_QUERY(
		TAKE_COLUMNS
		" AND j.id <> ALL ($2)"
		" AND (j.group_key IS NULL OR NOT EXISTS (SELECT FROM _grownext.queue_job AS e"
		" WHERE e.queue = j.queue AND e.group_key = j.group_key AND e.id < j.id))"
		" ORDER BY j.priority, j.id LIMIT $3 FOR UPDATE SKIP LOCKED",
		TEXTOID, INT8ARRAYOID, INT4OID);
	Datum values[3] = {CStringGetTextDatum(queue), gn_row_ids(skipped, skip_count),
					   Int32GetDatum(most)};

	return (int) gn_spi_execute(&query, values, NULL, false);
}

/* The rows of the next jobs that the memory names and nobody has, in its order. */
static int
find_ready(const char *queue, int most, int64 *ids)
{
	static GnQuery query =
		GN_QUERY(TAKE_COLUMNS " AND j.id = ANY ($2) FOR UPDATE SKIP LOCKED", TEXTOID,
				 INT8ARRAYOID);
	Datum values[2] = {CStringGetTextDatum(queue)};
	int count;

	while ((count = gn_ready_take(queue, most, ids)) > 0)
	{
		int found;

		values[1] = gn_row_ids(ids, count);
		ids[count] = 0;
		names_in_hand = true;
		found = (int) gn_spi_execute(&query, values, NULL, false);
		names_in_hand = false;
		if (found > 0)
			return found;
	}
	return 0;
}

/* What this process has and did not settle is there for others. */
static void
give_back(void)
{
	for (int i = 0; i < held_count; i++)
	{
		if (!held[i].settled)
			(void) gn_ready_put(MyDatabaseId, held_queue, &held[i].lane, &held[i].id, 1,
								0);
	}
	held_count = 0;
}

static void
give_back_at_exit(int code, Datum arg)
{
	if (names_in_hand)
		gn_ready_unknown(MyDatabaseId, held_queue);
	give_back();
}

static void
end_transaction(XactEvent event, void *arg)
{
	for (int i = 0; i < held_count && event == XACT_EVENT_ABORT; i++)
		held[i].settled = false;
}

static void
register_once(void)
{
	static bool registered = false;

	if (!registered)
	{
		before_shmem_exit(give_back_at_exit, (Datum) 0);
		RegisterXactCallback(end_transaction, NULL);
	}
	registered = true;
}

static void
hold(const GnJob *job, bool ordered)
{
	Held *place = &held[held_count++];

	/* jobs of an ordered queue are not looked for in memory */
	*place = (Held){.id = job->id,
					.settled = ordered,
					.lane = gn_ready_lane(job->priority, job->group_key)};
}

void
gn_storage_note_settled(int64 id)
{
	for (int i = 0; i < held_count; i++)
		held[i].settled |= held[i].id == id;
}

static void
read_row(int row, const char *queue, MemoryContext memory, GnJob *job)
{
	gn_row_job(row, queue, memory, job);
	job->cancelled = gn_row_int(row, GN_ROW_COLUMN_COUNT + 1) != 0;
}

static GnTake
take_in_order(const char *queue, int most, MemoryContext memory, GnJob *jobs,
			  int *count)
{
	int found = find_in_order(queue, most);

	for (int i = 0; i < found; i++)
	{
		read_row(i, queue, memory, &jobs[i]);
		if (claim(jobs[i].id))
		{
			hold(&jobs[i], true);
			continue;
		}
		free_claims(jobs, i);
		if (skip_count == lengthof(skipped))
			skip_count = 0;
		skipped[skip_count++] = jobs[i].id;
		return GN_TAKE_AGAIN;
	}
	*count = found;
	return found > 0 ? GN_TAKE_DONE : GN_TAKE_NONE;
}

/* Rows come in the order of their ids. One whose failure is about to be written by
 * another process is left to that. */
static GnTake
take_ready(const char *queue, int most, MemoryContext memory, GnJob *jobs, int *count)
{
	int64 ids[GN_MAX_CLAIM + 1]; /* a 0 ends them */
	int found = find_ready(queue, most, ids);

	*count = 0;
	for (int i = 0; found > 0 && ids[i] != 0; i++)
	{
		for (int row = 0; row < found; row++)
		{
			if (gn_row_int(row, 1) != ids[i] || !claim(ids[i]))
				continue;
			read_row(row, queue, memory, &jobs[*count]);
			hold(&jobs[(*count)++], false);
			break;
		}
	}
	if (*count > 0)
		return GN_TAKE_DONE;
	return found > 0 ? GN_TAKE_AGAIN : GN_TAKE_NONE;
}

GnTake
gn_storage_take(const char *queue, bool ordered, int most, MemoryContext memory,
				GnJob *jobs, int *count)
{
	register_once();
	gn_row_plan_by_index();
	strlcpy(held_queue, queue, sizeof(held_queue));
	if (ordered)
		return take_in_order(queue, most, memory, jobs, count);
	return take_ready(queue, most, memory, jobs, count);
}

bool
gn_storage_resume(const GnJob *job)
{
	/* Its handler may have freed our lock: then others have run it, or replaced it. */
	static GnQuery query = GN_QUERY("SELECT FROM _grownext.queue_job WHERE id = $1"
									" AND ready AND failures = $2 AND enqueued_at = $3"
									" FOR UPDATE SKIP LOCKED",
									INT8OID, INT4OID, TIMESTAMPTZOID);
	Datum values[3] = {Int64GetDatum(job->id), Int32GetDatum(job->failures),
					   TimestampTzGetDatum(job->enqueued_at)};

	return gn_spi_execute(&query, values, NULL, false) == 1 && claim(job->id);
}

void
gn_storage_release(void)
{
	LockReleaseAll(USER_LOCKMETHOD, true);
	give_back();
	skip_count = 0;
}

bool
gn_storage_running(int64 id)
{
	/* Whoever asks has locked the row, and those who were to run the job pass by. */
	gn_ready_note_taken("");
	return holds(id) || gn_queue_locked(GN_QUEUE_LOCK_JOB, (uint64) id);
}
