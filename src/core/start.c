/*
 * src/core/start.c
 *	  Starting workers: reserve a slot, ask the postmaster, watch until it attached.
 *
 * The launcher starts schedulers, a scheduler starts executors. A start is three
 * steps, and the starter may die between any two of them:
 * - reserved, never asked for: the slot stays in state STARTING; the launcher takes
 *   it back after ORPHAN_AFTER_MS;
 * - asked for, and the worker cannot come up (no fork, no database): the postmaster
 *   tells the starter, whose handle says "stopped", and the starter frees the slot;
 *   without its starter it is an orphan as above;
 * - a worker that comes up after its slot was taken back finds another generation.
 *
 * A shortage of slots or processes is logged once an hour at most, and shown by
 * status() for as long as it lasts.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/workers.h"

#define ORPHAN_AFTER_MS 60000
#define LOG_AGAIN_AFTER_MS 3600000

typedef struct PendingStart
{
	BackgroundWorkerHandle *handle; /* NULL: none */
	uint32 generation;
} PendingStart;

static PendingStart *pending = NULL; /* one per slot, of this process */

/* Lock held. True when the log should hear of it. */
static bool
note_shortage(GnShortage *shortage)
{
	TimestampTz now = GetCurrentTimestamp();

	if (shortage->since == 0 ||
		TimestampDifferenceExceeds(shortage->failed_at, now, GN_SHORTAGE_LASTS_MS))
		shortage->since = now;
	shortage->failed_at = now;
	if (shortage->logged_at != 0 &&
		!TimestampDifferenceExceeds(shortage->logged_at, now, LOG_AGAIN_AFTER_MS))
		return false;
	shortage->logged_at = now;
	return true;
}

/* Lock held. */
static int
find_free_slot(void)
{
	for (int i = 0; i < gn_workers->slot_count; i++)
	{
		if (pg_atomic_read_u32(&gn_workers->slot[i].state) == GN_SLOT_FREE)
			return i;
	}
	return -1;
}

/* Lock held. */
static int
choose_slot(GnWorkerKind kind, Oid database)
{
	return kind == GN_WORKER_EXECUTOR && !gn_share_allows(database) ? -1
																	: find_free_slot();
}

static GnStart
reserve_slot(GnWorkerKind kind, Oid database, int *index)
{
	GnStart result = GN_START_OK;
	bool log_it = false;

	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	*index = -1;
	if (gn_worker_blocked(database) ||
		(kind == GN_WORKER_SCHEDULER && gn_worker_scheduler(database)))
		result = GN_START_REFUSED;
	else if ((*index = choose_slot(kind, database)) < 0)
	{
		result = GN_START_NO_SLOT;
		log_it = note_shortage(&gn_workers->slots);
	}
	else
	{
		GnWorkerSlot *slot = &gn_workers->slot[*index];

		gn_workers->slots.since = 0;
		slot->generation++;
		slot->kind = kind;
		slot->database = database;
		slot->pid = 0;
		slot->latch = NULL;
		slot->started_at = GetCurrentTimestamp();
		slot->last_tick_at = 0;
		slot->error[0] = '\0';
		pg_atomic_write_u32(&slot->stop, 0);
		pg_atomic_write_u32(&slot->state, GN_SLOT_STARTING);
	}
	if (kind == GN_WORKER_EXECUTOR && result != GN_START_REFUSED)
		gn_share_hunger(database, result == GN_START_NO_SLOT);
	LWLockRelease(&gn_workers->lock);
	if (kind == GN_WORKER_EXECUTOR && result == GN_START_NO_SLOT)
		gn_worker_nudge_executors();
	if (log_it)
		ereport(LOG, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					  errmsg("grownext has no worker slot left"),
					  errhint("Raise grownext.max_workers (now %d) and "
							  "max_worker_processes with it.",
							  gn_max_workers)));
	return result;
}

/* Frees a slot that its worker never took, if it still is the one that was reserved. */
static void
take_back(int index, uint32 generation, const char *error)
{
	GnWorkerSlot *slot = &gn_workers->slot[index];

	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	if (slot->generation == generation &&
		pg_atomic_read_u32(&slot->state) == GN_SLOT_STARTING)
	{
		GnDatabase *d = gn_worker_database(slot->database);

		if (d && error)
			gn_worker_backoff(slot->kind == GN_WORKER_SCHEDULER ? &d->scheduler
																: &d->executor,
							  slot->started_at, error);
		slot->generation++;
		pg_atomic_write_u32(&slot->state, GN_SLOT_FREE);
	}
	LWLockRelease(&gn_workers->lock);
}

static void
describe_worker(BackgroundWorker *worker, GnWorkerKind kind, Oid database, int index)
{
	const char *noun = kind == GN_WORKER_SCHEDULER ? "scheduler" : "executor";

	memset(worker, 0, sizeof(*worker));
	snprintf(worker->bgw_name, BGW_MAXLEN, "grownext %s for database %u", noun,
			 database);
	snprintf(worker->bgw_type, BGW_MAXLEN, "grownext %s", noun);
	snprintf(worker->bgw_library_name, sizeof(worker->bgw_library_name), "grownext");
	snprintf(worker->bgw_function_name, sizeof(worker->bgw_function_name), "gn_%s_main",
			 noun);
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	worker->bgw_main_arg = Int32GetDatum(index);
	memcpy(worker->bgw_extra, &gn_workers->slot[index].generation, sizeof(uint32));
	worker->bgw_notify_pid = MyProcPid;
}

GnStart
gn_worker_start(GnWorkerKind kind, Oid database)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;
	MemoryContext caller;
	int index;
	GnStart result = reserve_slot(kind, database, &index);
	bool log_it = false;
	bool started;

	if (result != GN_START_OK)
		return result;
	if (pending == NULL)
		pending = MemoryContextAllocZero(TopMemoryContext,
										 gn_workers->slot_count * sizeof(PendingStart));
	describe_worker(&worker, kind, database, index);
	caller = MemoryContextSwitchTo(TopMemoryContext);
	started = RegisterDynamicBackgroundWorker(&worker, &handle);
	MemoryContextSwitchTo(caller);
	if (started)
	{
		if (pending[index].handle)
			pfree(pending[index].handle);
		pending[index].handle = handle;
		memcpy(&pending[index].generation, worker.bgw_extra, sizeof(uint32));
	}
	else
	{
		uint32 generation;

		memcpy(&generation, worker.bgw_extra, sizeof(uint32));
		take_back(index, generation, NULL);
	}
	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	if (started)
		gn_workers->processes.since = 0;
	else
		log_it = note_shortage(&gn_workers->processes);
	LWLockRelease(&gn_workers->lock);
	if (log_it)
		ereport(
			LOG,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("grownext could not start a worker: no background process is left"),
			 errhint("Raise max_worker_processes (now %d).", max_worker_processes)));
	return started ? GN_START_OK : GN_START_NO_PROCESS;
}

/* Lock not held. The generation of a slot whose worker has not attached, or false. */
static bool
still_starting(int index, uint32 *generation, TimestampTz *since)
{
	GnWorkerSlot *slot = &gn_workers->slot[index];
	bool starting;

	LWLockAcquire(&gn_workers->lock, LW_SHARED);
	starting = pg_atomic_read_u32(&slot->state) == GN_SLOT_STARTING;
	*generation = slot->generation;
	*since = slot->started_at;
	LWLockRelease(&gn_workers->lock);
	return starting;
}

void
gn_worker_reap(void)
{
	for (int i = 0; i < gn_workers->slot_count; i++)
	{
		PendingStart *mine = pending && pending[i].handle ? &pending[i] : NULL;
		uint32 generation;
		TimestampTz since;
		pid_t pid;
		bool starting = still_starting(i, &generation, &since);

		if (mine && starting && generation == mine->generation)
		{
			if (GetBackgroundWorkerPid(mine->handle, &pid) != BGWH_STOPPED)
				continue;
			take_back(i, generation, "the worker did not come up; see the server log");
		}
		else if (starting && MyBackendType == B_BG_WORKER &&
				 gn_workers->launcher_pid == MyProcPid &&
				 TimestampDifferenceExceeds(since, GetCurrentTimestamp(),
											ORPHAN_AFTER_MS))
			take_back(i, generation, "the worker did not come up in time");
		if (mine)
		{
			pfree(mine->handle);
			mine->handle = NULL;
		}
	}
}
