/*
 * src/core/block.c
 *	  Getting out of the way of a command that needs a database without sessions.
 *
 * A block keeps workers of the database from starting, and from connecting if they
 * are on their way. It ends with the transaction that made it, however that ends:
 * by callback at commit and abort, and a dying backend aborts its transaction first.
 * So no block outlives its backend; a crash takes the memory along. A transaction that
 * is prepared ends here, too: from then on its locks keep workers waiting, which come
 * through when it is over.
 *
 * Lock order: the block comes before any lock of the command, so a worker that waits
 * for a lock on its database cannot deadlock with us: it holds none that we need.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/workers.h"

#define LET_FINISH_MS 1000
#define GIVE_UP_MS 10000
#define LOOK_AGAIN_MS 100

static bool blocking = false;

static void
remove_blocks(void)
{
	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	for (int i = 0; i < GN_WORKER_BLOCKS; i++)
	{
		if (gn_workers->blocks[i].pid == MyProcPid)
			memset(&gn_workers->blocks[i], 0, sizeof(GnBlock));
	}
	if (gn_workers->launcher_latch)
		SetLatch(gn_workers->launcher_latch);
	LWLockRelease(&gn_workers->lock);
	blocking = false;
}

static void
end_transaction(XactEvent event, void *arg)
{
	if (blocking && (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
					 event == XACT_EVENT_PREPARE))
		remove_blocks();
}

/* False when all places are taken: then the command finds out by itself. */
static bool
add_block(Oid database)
{
	bool added = false;

	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	for (int i = 0; i < GN_WORKER_BLOCKS && !added; i++)
	{
		GnBlock *block = &gn_workers->blocks[i];

		if (OidIsValid(block->database))
			continue;
		block->database = database;
		block->pid = MyProcPid;
		block->latch = MyLatch;
		added = true;
	}
	LWLockRelease(&gn_workers->lock);
	return added;
}

/*
 * Stops the workers of a database and keeps them away until the current transaction
 * ends. Jobs get a moment to finish, then they are aborted and run again later. If a
 * worker will not go, the command reports whom it found in the database.
 */
void
gn_database_block(Oid database)
{
	static uint32 event = 0;
	static bool registered = false;
	TimestampTz started_at = GetCurrentTimestamp();

	if (gn_workers == NULL)
		return;
	if (!registered)
	{
		RegisterXactCallback(end_transaction, NULL);
		event = gn_wait_event("GrowNextBlock");
		registered = true;
	}
	blocking = true; /* before the entry: the callback then finds it or nothing */
	if (!add_block(database))
		return;
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		bool terminate = TimestampDifferenceExceeds(started_at, now, LET_FINISH_MS);

		if (gn_worker_stop(database, terminate) == 0 ||
			TimestampDifferenceExceeds(started_at, now, GIVE_UP_MS))
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LOOK_AGAIN_MS, event);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}
