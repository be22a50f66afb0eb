/*
 * src/core/executor.c
 *	  Runs units of work of the components until there is none, waits a while, leaves.
 *
 * No wake-up is lost: an executor announces itself idle, looks for work once more,
 * and only then waits. A commit before that look is seen by it; a later one finds
 * the announcement and sets the latch. Whoever takes an idle executor (IDLE to LOOKING,
 * or IDLE to LEAVING by itself) does so by compare-and-swap: nobody counts on one
 * that leaves. If the last look finds a job, the executor may have been counted on
 * for another one, and passes the call on. An executor that leaves its slot to another
 * database asks its own scheduler, as each that ends does, who else may do the work.
 *
 * An error that escapes a component ends the process: what comes next starts with
 * clean memory, after a wait that doubles. SIGTERM aborts the job in hand; the
 * component that owns it hands it out again.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/workers.h"

extern PGDLLEXPORT void gn_executor_main(Datum main_arg);

static MemoryContext
	job_context; /* in force outside transactions, reset after each unit */

static bool announced_idle = false; /* before the look that is under way */

static bool
run_one(void)
{
	bool ran = false;

	pgstat_report_activity(STATE_RUNNING, "jobs");
	for (const GnComponent *const *c = gn_components; *c && !ran; c++)
	{
		ran = (*c)->executor_run && (*c)->executor_run();
		MemoryContextSwitchTo(job_context);
	}
	MemoryContextReset(job_context);
	if (ran)
		gn_worker_beat(true);
	return ran;
}

/* Somebody who comes before us has no slot: ours is on its way to him from here on. */
static bool
slot_is_needed(bool idle)
{
	bool needed;

	LWLockAcquire(&gn_workers->lock, LW_SHARED);
	needed = gn_share_wanted();
	LWLockRelease(&gn_workers->lock);
	if (!needed)
		return false;
	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	needed = gn_share_yields(gn_my_slot, idle);
	if (needed)
		pg_atomic_write_u32(&gn_my_slot->state, GN_SLOT_LEAVING);
	LWLockRelease(&gn_workers->lock);
	return needed;
}

/* Leaves unless this database is still ours to act in and nobody wants us gone. */
static void
leave_if_unwanted(bool idle)
{
	if (gn_worker_must_leave() || slot_is_needed(idle))
		gn_worker_leave(GN_VERDICT_UNKNOWN);
	if (gn_worker_changed() && gn_worker_judge() != GN_VERDICT_ARMED)
		gn_worker_leave(GN_VERDICT_UNKNOWN);
}

void
gn_worker_engage(void)
{
	uint32 before;

	if (gn_my_slot == NULL || gn_my_slot->kind != GN_WORKER_EXECUTOR)
		return;
	before = pg_atomic_exchange_u32(&gn_my_slot->state, GN_SLOT_BUSY);
	/* Somebody counted on us while we looked for the last time, and this may be
	 * another job than his. */
	if (announced_idle && before == GN_SLOT_LOOKING)
		gn_worker_wake(MyDatabaseId, 1, false);
}

/* Waits until it is woken or wanted for something; leaves after grownext.executor_idle.
 */
static void
wait_for_work(uint32 event)
{
	TimestampTz leave_at =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									gn_executor_idle * INT64CONST(1000));

	for (;;)
	{
		long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), leave_at);
		uint32 state = GN_SLOT_IDLE;

		/* First, because looking for work may have reset the latch. */
		leave_if_unwanted(true);
		if (pg_atomic_read_u32(&gn_my_slot->state) != GN_SLOT_IDLE)
			return;
		if (left == 0)
		{
			if (pg_atomic_compare_exchange_u32(&gn_my_slot->state, &state,
											   GN_SLOT_LEAVING))
				gn_worker_leave(GN_VERDICT_UNKNOWN);
			return;
		}
		(void) gn_worker_wait(left, event);
	}
}

/* Sets the slot's state; whoever took us to another meanwhile finds us looking. */
static void
announce(GnSlotState state)
{
	announced_idle = state == GN_SLOT_IDLE;
	(void) pg_atomic_exchange_u32(&gn_my_slot->state, state);
}

void
gn_executor_main(Datum main_arg)
{
	uint32 event = gn_wait_event("GrowNextExecutor");

	gn_worker_attach(GN_WORKER_EXECUTOR, main_arg);
	if (gn_worker_judge() != GN_VERDICT_ARMED)
		gn_worker_leave(GN_VERDICT_UNKNOWN);
	job_context =
		AllocSetContextCreate(TopMemoryContext, "grownext job", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(job_context);
	for (;;)
	{
		do
		{
			announce(GN_SLOT_LOOKING);
			leave_if_unwanted(false);
		} while (run_one());
		announce(GN_SLOT_IDLE);
		if (!run_one())
			wait_for_work(event);
	}
}
