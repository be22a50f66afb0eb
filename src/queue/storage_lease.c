/*
 * src/queue/storage_lease.c
 *	  The storage's part in leases: they are columns of the job's row.
 *
 * A lease is written by the transaction that fetches, so it is there, after a crash and
 * on a promoted standby, exactly if the worker can know of it. Whoever settles a job
 * locks its row first: until that transaction ends the lease can neither lapse nor be
 * given to somebody else.
 *
 * When a lease has lapsed its number stays in the row until the job is handed out
 * again, so a worker that comes late may still settle it.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/array.h"
#include "utils/memutils.h"

#include "core/core.h"
#include "queue/ready.h"
#include "queue/storage_row.h"

/* A number that is not from the sequence: after a recovery to an earlier time the
 * sequence comes by the same numbers again, and an old worker with them. */
#define RANDOM_BITS 20

int64
gn_storage_new_lease(void)
{
	static GnQuery query =
		GN_QUERY_NOARGS("SELECT _grownext.core_nextval('_grownext.queue_lease_id')");
	uint32 chance = pg_prng_uint32(&pg_global_prng_state);

	(void) gn_spi_execute(&query, NULL, NULL, false);
	return (gn_row_int(0, 1) << RANDOM_BITS) | (chance & ((1 << RANDOM_BITS) - 1));
}

/* ---- hand out ---- */

/* One that an executor holds is left alone: its failure may be still to be written. */
#define READY                                                                          \
	" FROM _grownext.queue_job AS j WHERE j.queue = $1 AND j.ready"                    \
	" AND NOT _grownext.queue_job_running(j.id)"
#define NAMED " AND j.id = ANY ($8)"
#define FIRST_OF_GROUP                                                                 \
	" AND (j.group_key IS NULL OR NOT EXISTS (SELECT FROM _grownext.queue_job AS e"    \
	" WHERE e.queue = j.queue AND e.group_key = j.group_key AND e.id < j.id))"
#define IN_ORDER " ORDER BY j.priority, j.id"

/* It may have been taken and dropped between the look at its lock and ours on its row,
 * so the look is repeated under the row's lock. */
#define LEASE(condition)                                                               \
	"WITH picked AS (SELECT j.id, j.xmin AS writer" READY condition IN_ORDER           \
	" LIMIT $2 FOR UPDATE SKIP LOCKED),"                                               \
	" numbered AS (SELECT id, writer, (row_number() OVER ())::pg_catalog.int4"         \
	" AS place FROM picked)"                                                           \
	" UPDATE _grownext.queue_job AS j SET ready = false, lease_id = $3, leased_at = "  \
	"$4,"                                                                              \
	" lease_until = $5, worker = $6, slot = nullif(($7)[n.place], 0), progress = NULL" \
	" FROM numbered AS n WHERE j.id = n.id AND NOT "                                   \
	"_grownext.queue_job_running(j.id)"                                                \
	" RETURNING " GN_ROW_COLUMNS ", " GN_ROW_CANCELLED ", j.slot, n.writer"
#define LEASE_ARGUMENTS                                                                \
	TEXTOID, INT4OID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, INT4ARRAYOID,  \
		INT8ARRAYOID

static Datum
slot_array(const int *slots, int count)
{
	Datum *values = palloc((count + 1) * sizeof(Datum));

	for (int i = 0; i < count; i++)
		values[i] = Int32GetDatum(slots[i]);
	return PointerGetDatum(
		construct_array(values, count, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}

static int
compare_jobs(const void *a, const void *b)
{
	const GnJob *left = a;
	const GnJob *right = b;

	if (left->priority != right->priority)
		return left->priority < right->priority ? -1 : 1;
	return left->id < right->id ? -1 : left->id > right->id;
}

/* A crash must not forget a job that the outside world has seen the effects of, though
 * its enqueuer did not wait for the disk. */
static void
flush_writers(int column)
{
	XLogRecPtr upto = InvalidXLogRecPtr;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;
		Datum writer = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
									 column, &isnull);

		upto = Max(upto, gn_commit_position(DatumGetTransactionId(writer)));
	}
	if (!XLogRecPtrIsInvalid(upto))
		XLogFlush(upto);
}

/* Leases the first jobs there are, or those of the ids given; slots are for so many. */
static int
lease_rows(const char *queue, const int64 *ids, const GnLease *lease, int count,
		   const int *slots, MemoryContext memory, GnJob *jobs)
{
	static GnQuery named = GN_QUERY(LEASE(NAMED), LEASE_ARGUMENTS);
	static GnQuery first_of_group =
		GN_QUERY(LEASE(" AND $8 IS NULL" FIRST_OF_GROUP), LEASE_ARGUMENTS);
	char nulls[8] = {' ', ' ', ' ', ' ', ' ', ' ', ' ', ids ? ' ' : 'n'};
	Datum values[8] = {CStringGetTextDatum(queue),
					   Int32GetDatum(count),
					   Int64GetDatum(lease->id),
					   TimestampTzGetDatum(lease->from),
					   TimestampTzGetDatum(lease->until),
					   text_or_null(lease->worker, &nulls[5]),
					   slot_array(slots, count),
					   ids ? gn_row_ids(ids, count) : (Datum) 0};
	int leased =
		(int) gn_spi_execute(ids ? &named : &first_of_group, values, nulls, false);

	for (int i = 0; i < leased; i++)
	{
		gn_row_job(i, queue, memory, &jobs[i]);
		jobs[i].cancelled = gn_row_int(i, GN_ROW_COLUMN_COUNT + 1) != 0;
		jobs[i].slot = (int) gn_row_int(i, GN_ROW_COLUMN_COUNT + 2);
		jobs[i].lease_id = lease->id;
		jobs[i].lease_until = lease->until;
		jobs[i].leased_at = lease->from;
	}
	flush_writers(GN_ROW_COLUMN_COUNT + 3);
	return leased;
}

/* The slots that no job has, after the first. */
static void
drop_used(int *slots, int count, const GnJob *jobs, int leased)
{
	int left = 0;

	for (int i = 0; i < count; i++)
	{
		bool used = false;

		for (int j = 0; j < leased && !used; j++)
			used = jobs[j].slot == slots[i];
		if (slots[i] == 0 || !used)
			slots[left++] = slots[i];
	}
}

/* Those that the memory names, until there are enough. */
static int
lease_ready(const char *queue, const GnLease *lease, int count, const int *slots,
			MemoryContext memory, GnJob *jobs)
{
	int64 *ids = palloc(count * sizeof(int64));
	int *left = memcpy(palloc(count * sizeof(int)), slots, count * sizeof(int));
	int leased = 0;

	gn_ready_note_taken(queue);
	/* what a snapshot of the whole transaction does not show is there for others */
	if (IsolationUsesXactSnapshot())
		gn_ready_note_unknown(queue);
	while (leased < count)
	{
		int named = gn_ready_take(queue, count - leased, ids);
		int got;

		if (named == 0)
			break;
		got = lease_rows(queue, ids, lease, named, left, memory, jobs + leased);
		drop_used(left, count - leased, jobs + leased, got);
		leased += got;
	}
	return leased;
}

int
gn_storage_lease(const char *queue, bool ordered, const GnLease *lease, int count,
				 const int *slots, MemoryContext memory, GnJob *jobs)
{
	int leased = ordered ? lease_rows(queue, NULL, lease, count, slots, memory, jobs)
						 : lease_ready(queue, lease, count, slots, memory, jobs);

	qsort(jobs, leased, sizeof(GnJob), compare_jobs);
	return leased;
}

bool
gn_storage_fetchable(const char *queue, bool ordered)
{
	/* Rows that others are about to fetch are locked, and no reason to try. */
	static GnQuery first_of_group = GN_QUERY("SELECT" READY FIRST_OF_GROUP IN_ORDER
											 " LIMIT 1 FOR UPDATE SKIP LOCKED",
											 TEXTOID);
	Datum values[1] = {CStringGetTextDatum(queue)};

	if (!ordered)
		return gn_ready_any(queue);
	return gn_spi_execute(&first_of_group, values, NULL, false) > 0;
}

int
gn_storage_leased_slots(const char *queue, int limit, bool *leased)
{
	static GnQuery query = GN_QUERY("SELECT coalesce(slot, 0) FROM _grownext.queue_job"
									" WHERE queue = $1 AND lease_until IS NOT NULL",
									TEXTOID);
	Datum values[1] = {CStringGetTextDatum(queue)};
	int others = 0;
	uint64 count;

	count = gn_row_read_latest(&query, values); /* what this one has fetched counts */
	for (uint64 i = 0; i < count; i++)
	{
		int slot = (int) gn_row_int(i, 1);

		if (slot >= 1 && slot <= limit)
			leased[slot] = true;
		else
			others++;
	}
	return others;
}

/* ---- settle ---- */

/* Which of the jobs somebody wants cancelled, under the latest snapshot: newer than the
 * locks on their rows. */
static void
mark_cancelled(GnJob *jobs, int count)
{
	static GnQuery query =
		GN_QUERY("SELECT job_id FROM _grownext.queue_cancel WHERE job_id = ANY ($1)",
				 INT8ARRAYOID);
	int64 *ids = palloc((count + 1) * sizeof(int64));
	Datum values[1];
	uint64 found;

	for (int i = 0; i < count; i++)
		ids[i] = jobs[i].id;
	values[0] = gn_row_ids(ids, count);
	found = count > 0 ? gn_row_read_latest(&query, values) : 0;
	for (uint64 row = 0; row < found; row++)
	{
		for (int i = 0; i < count; i++)
			jobs[i].cancelled |= jobs[i].id == gn_row_int(row, 1);
	}
}

bool
gn_storage_cancelled(int64 id)
{
	GnJob job = {.id = id};

	mark_cancelled(&job, 1);
	return job.cancelled;
}

/* Reads rows of (id, queue, failures, max_attempts, lease_id, lease_until, leased_at,
 * claims, deadline, batch_id). */
#define LEASED_COLUMNS                                                                 \
	"SELECT j.id, j.queue, j.failures, j.max_attempts, j.lease_id, j.lease_until, "    \
	"j.leased_at, j.claims, j.deadline, j.batch_id"

static int
read_leased(uint64 count, GnJob **jobs)
{
	MemoryContext memory =
		GetMemoryChunkContext(*jobs = SPI_palloc((count + 1) * sizeof(GnJob)));
	int read = 0;

	for (uint64 i = 0; i < count; i++)
	{
		GnJob job = {
			.id = gn_row_int(i, 1),
			.failures = (int) gn_row_int(i, 3),
			.max_attempts = (int) gn_row_int(i, 4),
			.lease_id = gn_row_int(i, 5),
			.lease_until = gn_row_int(i, 6),
			.leased_at = gn_row_int(i, 7),
			.deadline = gn_row_int(i, 9),
			.batch_id = gn_row_int(i, 10),
		};

		if (read > 0 && (*jobs)[read - 1].id == job.id)
			continue; /* named twice */
		job.queue = gn_row_copy(i, 2, TEXTOID, memory);
		job.claims = gn_row_copy(i, 8, JSONBOID, memory);
		(*jobs)[read++] = job;
	}
	return read;
}

int
gn_storage_pin(Datum ids, Datum lease_ids, GnJob **jobs)
{
	/* One that an executor runs was handed out again; nobody waits for it. */
	static GnQuery query =
		GN_QUERY(LEASED_COLUMNS " FROM unnest($1, $2) AS p (id, lease_id)"
								" JOIN _grownext.queue_job AS j"
								" ON j.id = p.id AND j.lease_id = p.lease_id"
								" WHERE NOT _grownext.queue_job_running(j.id)"
								" ORDER BY j.id FOR UPDATE OF j",
				 INT8ARRAYOID, INT8ARRAYOID);
	Datum values[2] = {ids, lease_ids};
	int count = read_leased(gn_spi_execute(&query, values, NULL, false), jobs);

	mark_cancelled(*jobs, count);
	return count;
}

void
gn_storage_succeed_many(Datum ids, Datum results, TimestampTz finished_at)
{
	static GnQuery query = GN_QUERY(
		"WITH gone AS (DELETE FROM _grownext.queue_job AS j"
		" USING unnest($1, $2) AS p (id, outcome) WHERE j.id = p.id"
		" RETURNING j.*, p.outcome)"
		" INSERT INTO _grownext.queue_done (id, queue, enqueued_at, run_at, deadline, "
		"started_at, finished_at, priority, max_attempts, failures, state, unique_key, "
		"group_key, tenant_id, result, last_error, attempts, worker)"
		" SELECT id, queue, enqueued_at, run_at, deadline, coalesce(leased_at, $3), "
		"$3, "
		"priority, max_attempts, failures, 'succeeded', unique_key, group_key, "
		"tenant_id, outcome, last_error, attempts, worker FROM gone",
		INT8ARRAYOID, JSONBARRAYOID, TIMESTAMPTZOID);
	Datum values[3] = {ids, results, TimestampTzGetDatum(finished_at)};

	(void) gn_spi_execute(&query, values, NULL, false);
}

/* ---- what happens to a lease meanwhile ---- */

#define HELD                                                                           \
	" FROM unnest($1, $2) AS p (id, lease_id)"                                         \
	" JOIN _grownext.queue_job AS j ON j.id = p.id AND j.lease_id = p.lease_id"        \
	" WHERE j.lease_until IS NOT NULL AND NOT " GN_ROW_CANCELLED

int
gn_storage_extend(Datum ids, Datum lease_ids, TimestampTz until, int64 **held)
{
	/* A row that is locked is being settled, in a transaction that the same worker has
	 * open: its lease cannot lapse, and nobody should wait for that. */
	static GnQuery query =
		GN_QUERY("WITH free AS (SELECT j.id" HELD " FOR UPDATE OF j SKIP LOCKED),"
				 " extended AS (UPDATE _grownext.queue_job AS j SET lease_until = $3"
				 " FROM free AS f WHERE j.id = f.id)"
				 " SELECT DISTINCT j.id" HELD " ORDER BY j.id",
				 INT8ARRAYOID, INT8ARRAYOID, TIMESTAMPTZOID);
	Datum values[3] = {ids, lease_ids, TimestampTzGetDatum(until)};
	int count = (int) gn_spi_execute(&query, values, NULL, false);

	*held = SPI_palloc((count + 1) * sizeof(int64));
	for (int i = 0; i < count; i++)
		(*held)[i] = gn_row_int(i, 1);
	return count;
}

int
gn_storage_leased_queues(Datum ids, Datum lease_ids, char ***queues)
{
	static GnQuery query =
		GN_QUERY("SELECT DISTINCT j.queue" HELD, INT8ARRAYOID, INT8ARRAYOID);
	Datum values[2] = {ids, lease_ids};
	int count = (int) gn_spi_execute(&query, values, NULL, false);

	*queues = SPI_palloc((count + 1) * sizeof(char *));
	for (int i = 0; i < count; i++)
		(*queues)[i] = gn_row_copy(i, 1, TEXTOID, GetMemoryChunkContext(*queues));
	return count;
}

bool
gn_storage_look(int64 id, int64 lease_id, GnJob *job)
{
	static GnQuery query =
		GN_QUERY(LEASED_COLUMNS " FROM _grownext.queue_job AS j WHERE j.id = $1"
								" AND coalesce(j.lease_id = nullif($2, 0), true)"
								" AND j.lease_until IS NOT NULL",
				 INT8OID, INT8OID);
	Datum values[2] = {Int64GetDatum(id), Int64GetDatum(lease_id)};
	GnJob *jobs;

	if (read_leased(gn_spi_execute(&query, values, NULL, false), &jobs) == 0)
		return false;
	*job = jobs[0];
	return true;
}

void
gn_storage_progress(int64 id, const Jsonb *progress)
{
	/* The worker's own transaction that settles the job may be open: who waited for it
	 * would wait for himself. */
	static GnQuery query = GN_QUERY(
		"WITH free AS (SELECT j.id FROM _grownext.queue_job AS j WHERE j.id = $1"
		" AND j.lease_until IS NOT NULL FOR UPDATE SKIP LOCKED)"
		" UPDATE _grownext.queue_job AS j SET progress = $2"
		" FROM free AS f WHERE j.id = f.id",
		INT8OID, JSONBOID);
	Datum values[2] = {Int64GetDatum(id), PointerGetDatum(progress)};

	(void) gn_spi_execute(&query, values, NULL, false);
}

#define OLDEST_FIRST " ORDER BY j.lease_until, j.id LIMIT $3 FOR UPDATE SKIP LOCKED"

int
gn_storage_lapsed(const char *queue, TimestampTz now, int most, GnJob **jobs)
{
	static GnQuery any =
		GN_QUERY(LEASED_COLUMNS " FROM _grownext.queue_job AS j"
								" WHERE j.lease_until <= $2" OLDEST_FIRST,
				 TEXTOID, TIMESTAMPTZOID, INT4OID);
	static GnQuery of_queue =
		GN_QUERY(LEASED_COLUMNS
				 " FROM _grownext.queue_job AS j"
				 " WHERE j.queue = $1 AND j.lease_until <= $2" OLDEST_FIRST,
				 TEXTOID, TIMESTAMPTZOID, INT4OID);
	char nulls[3] = {' ', ' ', ' '};
	Datum values[3] = {text_or_null(queue, &nulls[0]), TimestampTzGetDatum(now),
					   Int32GetDatum(most)};
	int count =
		read_leased(gn_spi_execute(queue ? &of_queue : &any, values, nulls, false),
					jobs);

	mark_cancelled(*jobs, count);
	return count;
}
