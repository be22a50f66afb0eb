/*
 * src/core/await.c
 *	  Procedures that sleep until there is something: job_wait(), stream_wait().
 *
 * A function that sleeps keeps the snapshot of its statement, and vacuum waits for it.
 * So these are procedures, which commit before they sleep: what goes on then has no
 * snapshot, no transaction id and no lock. They cannot run in a transaction block.
 *
 * Each look is a transaction of its own. Now and then it looks although nobody called:
 * a session that was called may have died before it could act. At the same time it
 * finds out whether its client is still there.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/sinval.h"
#include "tcop/utility.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/await.h"
#include "core/core.h"
#include "core/worker.h"

#define LOOK_AGAIN_MS 5000
#define MAX_TIMEOUT USECS_PER_DAY

/* Ends the process if there is nobody any more who could act. */
static void
require_client(void)
{
	if (MyProcPort == NULL || pq_check_connection())
		return;
	ClientConnectionLost = true;
	InterruptPending = true;
	CHECK_FOR_INTERRUPTS();
}

static void
sleep_until_called(long milliseconds, uint32 event)
{
	int events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						   milliseconds, event);

	if (events & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
}

/* Looks, sleeps, looks again, until there is something or the time is up. */
static bool
look_until(const GnAwait *await)
{
	for (;;)
	{
		long left;

		gn_wait_look();
		if (await->look(await))
			break;
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), await->until);
		if (left <= 0)
			return false;
		SPI_commit(); /* nothing of the look is left while we sleep */
		sleep_until_called(Min(left, LOOK_AGAIN_MS), await->event);
		require_client();
	}
	return true;
}

static int64
timeout_period(const Interval *timeout)
{
	int64 period = gn_interval_period(timeout);

	if (timeout->time == 0 && timeout->day == 0 && timeout->month == 0)
		return 0;
	if (period <= 0 || period > MAX_TIMEOUT)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("timeout must not be negative, nor more than a day")));
	return period;
}

static void
require_no_block(FunctionCallInfo fcinfo, const char *what)
{
	if (fcinfo->context && IsA(fcinfo->context, CallContext) &&
		!castNode(CallContext, fcinfo->context)->atomic)
		return;
	ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
					errmsg("%s cannot run inside a transaction block", what),
					errdetail("It would hold the snapshot while it waits."),
					errhint("CALL it as a statement of its own.")));
}

TimestampTz
gn_await_begin(FunctionCallInfo fcinfo, const char *what, const Interval *timeout)
{
	PreventCommandDuringRecovery(what);
	gn_require_preload(what);
	require_no_block(fcinfo, what);
	return GetCurrentTimestamp() + timeout_period(timeout);
}

Datum
gn_await(FunctionCallInfo fcinfo, const GnAwait *await)
{
	MemoryContext memory = CurrentMemoryContext;
	TupleDesc desc;
	Datum value;
	bool null = false;
	volatile bool ready = false;

	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed");
	(void) gn_wait_enlist(await->channel);
	PG_TRY();
	{
		ready = look_until(await);
	}
	PG_FINALLY();
	{
		gn_wait_leave(ready);
	}
	PG_END_TRY();
	SPI_finish();
	MemoryContextSwitchTo(memory);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	value = BoolGetDatum(ready);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), &value, &null));
}
