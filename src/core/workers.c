/*
 * src/core/workers.c
 *	  Shared memory of the worker framework: slots, databases, blocks.
 *
 * Invariants:
 * - One lock guards all of it but the atomics. Nothing throws, allocates or waits
 *   while it is held, so an error cannot leave it half changed, and it may be taken
 *   in a commit callback.
 * - A slot is freed by its worker's exit callback, or by its starter if the worker
 *   never attached. Both change the generation; a worker that comes up late finds
 *   another generation than the one it was started for, and leaves.
 * - pid and latch of a slot are those of a live process for as long as the lock is
 *   held: the owner needs the lock exclusively to take them out, before it dies. So
 *   a signal never hits a process that inherited the number.
 * - A database has at most one slot of kind scheduler, reserved under the lock.
 * - A slot that is attached means a session in its database; a freed one means
 *   that the session is out of the process array (see attach in worker.c).
 * - A SIGKILL of any process makes the postmaster create all this anew, empty.
 *
 * Sizes follow grownext.max_workers. Databases that were found not to be set up
 * give their place to others when it gets tight; that costs a probe, nothing else.
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/workers.h"

#define LONGEST_BACKOFF_S 300
#define HEALTHY_AFTER_MS 60000

GnWorkers *gn_workers = NULL;

static int
count_databases(void)
{
	return Max(256, 4 * gn_max_workers);
}

Size
gn_worker_shmem_size(void)
{
	Size size = MAXALIGN(sizeof(GnWorkers));

	size = add_size(size, MAXALIGN(mul_size(gn_max_workers, sizeof(GnWorkerSlot))));
	return add_size(size, MAXALIGN(mul_size(count_databases(), sizeof(GnDatabase))));
}

void
gn_worker_shmem_init(void)
{
	bool found;
	char *memory = ShmemInitStruct("grownext workers", gn_worker_shmem_size(), &found);

	gn_workers = (GnWorkers *) memory;
	if (!found)
	{
		memset(memory, 0, gn_worker_shmem_size());
		gn_workers->tranche = LWLockNewTrancheId();
		LWLockInitialize(&gn_workers->lock, gn_workers->tranche);
		gn_workers->slot_count = gn_max_workers;
		gn_workers->database_count = count_databases();
		gn_workers->slot = (GnWorkerSlot *) (memory + MAXALIGN(sizeof(GnWorkers)));
		gn_workers->database =
			(GnDatabase *) ((char *) gn_workers->slot +
							MAXALIGN(gn_workers->slot_count * sizeof(GnWorkerSlot)));
		for (int i = 0; i < gn_workers->slot_count; i++)
		{
			pg_atomic_init_u32(&gn_workers->slot[i].state, GN_SLOT_FREE);
			pg_atomic_init_u32(&gn_workers->slot[i].stop, 0);
		}
		for (int i = 0; i < gn_workers->database_count; i++)
		{
			pg_atomic_init_u32(&gn_workers->database[i].generation, 0);
			pg_atomic_init_u32(&gn_workers->database[i].asked, 0);
		}
	}
	LWLockRegisterTranche(gn_workers->tranche, "grownext_workers");
}

static bool
slot_serves(const GnWorkerSlot *slot, Oid database)
{
	return pg_atomic_read_u32(unconstify(pg_atomic_uint32 *, &slot->state)) !=
			   GN_SLOT_FREE &&
		   (slot->database == database || !OidIsValid(database));
}

GnDatabase *
gn_worker_database(Oid database)
{
	for (int i = 0; i < gn_workers->database_count; i++)
	{
		if (gn_workers->database[i].database == database)
			return &gn_workers->database[i];
	}
	return NULL;
}

bool
gn_worker_database_in_use(Oid database)
{
	for (int i = 0; i < gn_workers->slot_count; i++)
	{
		if (slot_serves(&gn_workers->slot[i], database))
			return true;
	}
	return false;
}

/* A place for one more database: a free one, or, with evict, one of a database that is
 * not set up. */
static GnDatabase *
find_place(bool evict)
{
	GnDatabase *place = gn_worker_database(InvalidOid);

	if (place || !evict)
		return place;
	for (int i = 0; i < gn_workers->database_count; i++)
	{
		GnDatabase *d = &gn_workers->database[i];

		if (d->verdict == GN_VERDICT_NOT_SET_UP &&
			(place == NULL || d->since < place->since) &&
			!gn_worker_database_in_use(d->database))
			place = d;
	}
	return place;
}

/* The entry of a database, made if there is room; NULL otherwise. */
GnDatabase *
gn_worker_database_make(Oid database, bool evict)
{
	GnDatabase *d = gn_worker_database(database);

	if (d)
		return d;
	d = find_place(evict);
	if (d == NULL)
		return NULL;
	d->database = database;
	d->verdict = GN_VERDICT_UNKNOWN;
	d->since = GetCurrentTimestamp();
	memset(&d->scheduler, 0, sizeof(d->scheduler));
	memset(&d->executor, 0, sizeof(d->executor));
	d->hungry_at = 0;
	pg_atomic_write_u32(&d->asked, 0);
	return d;
}

GnWorkerSlot *
gn_worker_scheduler(Oid database)
{
	for (int i = 0; i < gn_workers->slot_count; i++)
	{
		GnWorkerSlot *slot = &gn_workers->slot[i];

		if (slot->kind == GN_WORKER_SCHEDULER && slot_serves(slot, database))
			return slot;
	}
	return NULL;
}

bool
gn_worker_blocked(Oid database)
{
	for (int i = 0; i < GN_WORKER_BLOCKS; i++)
	{
		if (gn_workers->blocks[i].database == database)
			return true;
	}
	return false;
}

/* Notes a failed start or an unwanted end: the wait doubles unless the worker had done
 * well for a while. */
void
gn_worker_backoff(GnBackoff *backoff, TimestampTz started_at, const char *error)
{
	TimestampTz now = GetCurrentTimestamp();
	int wait;

	if (TimestampDifferenceExceeds(started_at, now, HEALTHY_AFTER_MS))
		backoff->failures = 0;
	wait = backoff->failures < 9 ? 1 << backoff->failures : LONGEST_BACKOFF_S;
	backoff->failures++;
	backoff->restarts++;
	backoff->not_before =
		TimestampTzPlusMilliseconds(now,
									Min(wait, LONGEST_BACKOFF_S) * INT64CONST(1000));
	strlcpy(backoff->error, error, sizeof(backoff->error));
}

static void
wake_launcher(void)
{
	if (gn_workers->launcher_latch)
		SetLatch(gn_workers->launcher_latch);
}

void
gn_worker_wake_launcher(void)
{
	if (gn_workers == NULL)
		return;
	LWLockAcquire(&gn_workers->lock, LW_SHARED);
	wake_launcher();
	LWLockRelease(&gn_workers->lock);
}

/* Its workers look again before they do anything else, and a missing scheduler is tried
 * at once. */
void
gn_worker_recheck(Oid database)
{
	GnDatabase *d;

	if (gn_workers == NULL)
		return;
	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	d = gn_worker_database_make(database, true);
	if (d)
	{
		pg_atomic_fetch_add_u32(&d->generation, 1);
		if (d->verdict != GN_VERDICT_ARMED)
			d->verdict = GN_VERDICT_UNKNOWN;
		d->scheduler.failures = 0;
		d->scheduler.not_before = 0;
	}
	for (int i = 0; i < gn_workers->slot_count; i++)
	{
		GnWorkerSlot *slot = &gn_workers->slot[i];

		if (slot_serves(slot, database) && slot->latch)
			SetLatch(slot->latch);
	}
	wake_launcher();
	LWLockRelease(&gn_workers->lock);
}

/* Of the database, with the lock held. Its latch may be reset by whatever it waits for
 * meanwhile, so what is wanted is written down first. */
void
gn_worker_ask_scheduler(Oid database, uint32 what)
{
	GnWorkerSlot *scheduler = gn_worker_scheduler(database);
	GnDatabase *d = gn_worker_database(database);

	if (d)
		(void) pg_atomic_fetch_or_u32(&d->asked, what);
	if (scheduler && scheduler->latch)
		SetLatch(scheduler->latch);
}

/* Lock held. Wakes up to so many idle executors, each once. */
static int
wake_idle(Oid database, int jobs)
{
	int coming = 0;

	for (int i = 0; i < gn_workers->slot_count && coming < jobs; i++)
	{
		GnWorkerSlot *slot = &gn_workers->slot[i];
		uint32 state = GN_SLOT_IDLE;

		if (slot->kind == GN_WORKER_EXECUTOR && slot_serves(slot, database) &&
			slot->latch &&
			pg_atomic_compare_exchange_u32(&slot->state, &state, GN_SLOT_LOOKING))
		{
			SetLatch(slot->latch);
			coming++;
		}
	}
	return coming;
}

/*
 * For a scheduler that has counted the jobs that wait: how many of them nobody will
 * take, after idle executors were woken for the rest.
 */
int
gn_worker_cover(Oid database, int jobs)
{
	LWLockAcquire(&gn_workers->lock, LW_SHARED);
	for (int i = 0; i < gn_workers->slot_count; i++)
	{
		GnWorkerSlot *slot = &gn_workers->slot[i];
		uint32 state = pg_atomic_read_u32(&slot->state);

		if (slot->kind == GN_WORKER_EXECUTOR && slot->database == database &&
			(state == GN_SLOT_STARTING || state == GN_SLOT_LOOKING))
			jobs--;
	}
	if (jobs > 0)
		jobs -= wake_idle(database, jobs);
	LWLockRelease(&gn_workers->lock);
	return Max(jobs, 0);
}

int
gn_worker_others(void)
{
	int others = 0;

	if (gn_workers == NULL)
		return 0;
	LWLockAcquire(&gn_workers->lock, LW_SHARED);
	for (int i = 0; i < gn_workers->slot_count; i++)
	{
		GnWorkerSlot *slot = &gn_workers->slot[i];
		uint32 state = pg_atomic_read_u32(&slot->state);

		others += slot != gn_my_slot && slot->kind == GN_WORKER_EXECUTOR &&
				  slot->database == MyDatabaseId &&
				  (state == GN_SLOT_IDLE || state == GN_SLOT_LOOKING);
	}
	LWLockRelease(&gn_workers->lock);
	return others;
}

void
gn_worker_call(int jobs)
{
	gn_worker_wake(MyDatabaseId, jobs, false);
}

static int
count_executors(Oid database)
{
	int executors = 0;

	for (int i = 0; i < gn_workers->slot_count; i++)
		executors += gn_workers->slot[i].kind == GN_WORKER_EXECUTOR &&
					 slot_serves(&gn_workers->slot[i], database);
	return executors;
}

/*
 * After a commit: as many idle executors as there are jobs; the scheduler if that is
 * not enough and it may start more. A busy executor needs no call: it announces
 * itself idle before it looks for the last time, and our commit is visible already.
 */
void
gn_worker_wake(Oid database, int jobs, bool tick)
{
	uint32 what = tick ? GN_ASKED_TICK : 0;

	if (gn_workers == NULL)
		return;
	LWLockAcquire(&gn_workers->lock, LW_SHARED);
	if (jobs > 0 && wake_idle(database, jobs) < jobs &&
		count_executors(database) < gn_executors)
		what |= GN_ASKED_DEMAND;
	if (what)
		gn_worker_ask_scheduler(database, what);
	LWLockRelease(&gn_workers->lock);
}

/* Asks the workers of a database, or of all, to leave; with terminate aborts what they
 * do. */
int
gn_worker_stop(Oid database, bool terminate)
{
	int attached = 0;

	LWLockAcquire(&gn_workers->lock, LW_SHARED);
	for (int i = 0; i < gn_workers->slot_count; i++)
	{
		GnWorkerSlot *slot = &gn_workers->slot[i];

		if (!slot_serves(slot, database))
			continue;
		pg_atomic_write_u32(&slot->stop, 1);
		if (slot->latch == NULL)
			continue;
		attached++;
		SetLatch(slot->latch);
		if (terminate)
			(void) kill(slot->pid, SIGTERM);
	}
	LWLockRelease(&gn_workers->lock);
	return attached;
}

void
gn_worker_nudge_executors(void)
{
	LWLockAcquire(&gn_workers->lock, LW_SHARED);
	for (int i = 0; i < gn_workers->slot_count; i++)
	{
		GnWorkerSlot *slot = &gn_workers->slot[i];

		if (slot->kind == GN_WORKER_EXECUTOR && slot->latch &&
			pg_atomic_read_u32(&slot->state) == GN_SLOT_IDLE)
			SetLatch(slot->latch);
	}
	LWLockRelease(&gn_workers->lock);
}
