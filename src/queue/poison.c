/*
 * src/queue/poison.c
 *	  A job that crashes the server does it a few times, and not for ever.
 *
 * What an executor runs is written down before the handler starts (poison_file.c). An
 * executor that ends in order takes its entry back, and one that the postmaster tells
 * to quit because another process has crashed says so: what is left is what crashed.
 *
 * After the crash each executor first records what was left, in a transaction of its
 * own and before its first job: no job runs again before its crash is counted. Two that
 * record the same crash do it once, for the attempt's begin tells them apart. The jobs
 * are suspects from then on. A suspect shares its transaction with no other job and
 *runs while no other suspect does, so that the next crash has one cause; its row is
 *deleted by the transaction in which it succeeds. One with too many crashes fails for
 *good before its handler is called.
 *
 * Of a transaction of several jobs the last one to begin is charged, the others are
 * suspects without a crash.
 *
 * All processes of the server start anew after a crash, so what an executor has read
 * at its start is all there is.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "queue/lock.h"
#include "queue/poison.h"
#include "queue/poison_file.h"
#include "queue/storage_row.h"

static GnPoisonEntry *my_entry = NULL;

static int64 *suspects = NULL; /* of this database, ascending */
static int suspect_count = 0;
static bool suspects_known = false;

static int *recorded = NULL; /* places in the file */
static int recorded_count = 0;

void
gn_poison_shmem_init(void)
{
	gn_poison_file_init();
}

/* ---- what runs ---- */

/* In a signal handler: another process has crashed, and this one has to go. */
static void
told_to_quit(SIGNAL_ARGS)
{
	if (my_entry && my_entry->state == GN_POISON_RUNNING)
		my_entry->state = GN_POISON_ENDED;
	SignalHandlerForCrashExit(postgres_signal_arg);
}

/* For as long as it changes, an entry names nothing. */
static void
add_job(GnPoisonEntry *entry, int64 id)
{
	bool first = entry->state != GN_POISON_RUNNING;

	entry->state = GN_POISON_NONE;
	pg_write_barrier();
	if (first)
	{
		entry->timeline = GetWALInsertionTimeLine();
		entry->database = MyDatabaseId;
		entry->began_at = GetCurrentTimestamp();
		entry->count = 0;
	}
	entry->flags = gn_poison_suspect(id) ? GN_POISON_ALONE : 0;
	entry->count = Min(entry->count + 1, GN_POISON_JOBS);
	entry->jobs[entry->count - 1] = id;
	entry->check = gn_poison_check(entry);
	pg_write_barrier();
	entry->state = GN_POISON_RUNNING;
}

void
gn_poison_begin(int number, int64 id)
{
	static bool prepared = false;

	if (!prepared)
	{
		my_entry = gn_poison_file_entry(number);
		pqsignal(SIGQUIT, told_to_quit);
		prepared = true;
	}
	if (my_entry)
		add_job(my_entry, id);
}

void
gn_poison_end(void)
{
	if (my_entry)
		my_entry->state = GN_POISON_NONE;
}

/* ---- after a crash ---- */

bool
gn_poison_unread(void)
{
	return !suspects_known;
}

#define IS_LIVE(job)                                                                   \
	"EXISTS (SELECT FROM _grownext.queue_find(" job ") AS f"                           \
	" WHERE f.state NOT IN ('succeeded', 'dead', 'cancelled'))"

static void
record_job(int64 id, int crashes, TimestampTz began_at)
{
	static GnQuery query =
		GN_QUERY("INSERT INTO _grownext.queue_suspect AS s (job_id, crashes, began_at)"
				 " SELECT $1, $2, $3 WHERE " IS_LIVE(
					 "$1") " AND NOT EXISTS (SELECT FROM _grownext.queue_suspect AS o"
						   " WHERE o.job_id = $1 AND o.began_at = $3)"
						   " ON CONFLICT ON CONSTRAINT queue_suspect_pkey DO UPDATE"
						   " SET crashes = s.crashes + EXCLUDED.crashes, began_at = "
						   "EXCLUDED.began_at"
						   " WHERE s.began_at <> EXCLUDED.began_at RETURNING s.crashes",
				 INT8OID, INT4OID, TIMESTAMPTZOID);
	Datum values[3] = {Int64GetDatum(id), Int32GetDatum(crashes),
					   TimestampTzGetDatum(began_at)};

	if (gn_spi_execute(&query, values, NULL, false) > 0 && crashes > 0)
		ereport(LOG,
				(errmsg("the server crashed while job " INT64_FORMAT
						" ran, for the %d. time",
						id, (int) gn_row_int(0, 1)),
				 errdetail("After %d times it is a dead letter.", GN_POISON_CRASHES)));
}

static void
record_entry(const GnPoisonEntry *entry)
{
	if (entry->timeline != GetWALInsertionTimeLine())
	{
		ereport(LOG, (errmsg("jobs that ran when a server on timeline %u crashed are "
							 "ignored on timeline %u",
							 entry->timeline, GetWALInsertionTimeLine())));
		return;
	}
	for (uint32 i = 0; i < entry->count; i++)
	{
		bool last = i == entry->count - 1;

		record_job(entry->jobs[i], last && (entry->flags & GN_POISON_CHARGED) ? 1 : 0,
				   entry->began_at);
	}
}

/* Jobs that are over are no suspects; what is left is remembered. */
static void
learn_suspects(void)
{
	static GnQuery forget = GN_QUERY_NOARGS("DELETE FROM _grownext.queue_suspect AS s"
											" WHERE NOT " IS_LIVE("s.job_id"));
	static GnQuery all = GN_QUERY_NOARGS(
		"SELECT s.job_id FROM _grownext.queue_suspect AS s ORDER BY s.job_id");
	int count;

	(void) gn_spi_execute(&forget, NULL, NULL, false);
	count = (int) gn_spi_execute(&all, NULL, NULL, false);
	if (suspects)
		pfree(suspects);
	suspects = MemoryContextAlloc(TopMemoryContext, (count + 1) * sizeof(int64));
	for (int i = 0; i < count; i++)
		suspects[i] = gn_row_int(i, 1);
	suspect_count = count;
}

void
gn_poison_record(void)
{
	GnPoisonEntry entry;
	int place = 0;
	GnSpi spi;

	if (recorded == NULL)
		recorded = MemoryContextAlloc(TopMemoryContext, 64 * sizeof(int));
	recorded_count = 0;
	gn_spi_begin(&spi);
	while (gn_poison_file_next(&place, &entry))
	{
		record_entry(&entry);
		if (recorded_count < 64)
			recorded[recorded_count++] = place - 1;
	}
	learn_suspects();
	gn_spi_end(&spi);
}

void
gn_poison_recorded(void)
{
	for (int i = 0; i < recorded_count; i++)
		gn_poison_file_forget(recorded[i]);
	recorded_count = 0;
	suspects_known = true;
}

/* ---- suspects ---- */

bool
gn_poison_suspect(int64 id)
{
	int low = 0;
	int high = suspect_count;

	while (low < high)
	{
		int middle = low + (high - low) / 2;

		if (suspects[middle] == id)
			return true;
		if (suspects[middle] < id)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

/* The crashes of a suspect, whose row goes if this transaction commits; -1: it is none
 * any more. */
static int
take_row(int64 id)
{
	static GnQuery query = GN_QUERY(
		"DELETE FROM _grownext.queue_suspect WHERE job_id = $1 RETURNING crashes",
		INT8OID);
	Datum values[1] = {Int64GetDatum(id)};
	int crashes = -1;
	GnSpi spi;

	gn_spi_begin(&spi);
	if (gn_spi_execute(&query, values, NULL, false) > 0)
		crashes = (int) gn_row_int(0, 1);
	gn_spi_end(&spi);
	return crashes;
}

void
gn_poison_admit(const GnJob *job)
{
	int crashes;

	if (!gn_poison_suspect(job->id))
		return;
	crashes = take_row(job->id);
	if (crashes >= GN_POISON_CRASHES)
		ereport(ERROR,
				(errcode(GN_ERRCODE_JOB_DISCARD),
				 errmsg("the server crashed %d times while the job ran", crashes)));
	if (crashes >= 0 &&
		!gn_queue_try_lock(GN_QUEUE_LOCK_SUSPECT, 0, ExclusiveLock, false))
		ereport(ERROR, (errcode(GN_ERRCODE_JOB_SNOOZE),
						errmsg("another job that ran when the server crashed is "
							   "running"),
						errdetail("1 second")));
}
