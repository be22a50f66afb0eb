/*
 * src/queue/wait.c
 *	  job_wait(): an outside worker sleeps until there are jobs.
 *
 * A function that sleeps keeps the snapshot of its statement, and vacuum waits for it.
 * So this is a procedure, which commits before it sleeps: what goes on then has no
 * snapshot, no transaction id and no lock. It cannot run in a transaction block.
 *
 * Each look is a transaction of its own. Now and then it looks although nobody called:
 * a worker that was called may have died before it could fetch. At the same time it
 * finds out whether its client is still there.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/sinval.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/worker.h"
#include "queue/lease.h"
#include "queue/lock.h"
#include "queue/ready.h"
#include "queue/slot.h"
#include "queue/storage.h"
#include "queue/throttle.h"
#include "queue/wait.h"

GN_FUNCTION(gn_job_wait);
GN_FUNCTION(gn_queue_wake);
GN_FUNCTION(gn_queue_waiters);

#define LOOK_AGAIN_MS 5000
#define MAX_TIMEOUT USECS_PER_DAY

static uint64
channel_of(const char *queue)
{
	return gn_queue_lock_key(queue, "job_wait");
}

void
gn_queue_call_outside_at_commit(const GnQueue *queue, int jobs)
{
	if (!queue->paused)
		gn_wait_call_at_commit(channel_of(queue->name), jobs);
}

void
gn_queue_call_at_commit(const GnQueue *queue, int jobs)
{
	if (queue->handler && !queue->paused)
		gn_worker_wake_at_commit(jobs);
	gn_queue_call_outside_at_commit(queue, jobs);
}

/* SQL: _grownext.queue_wake(queue text, jobs int) */
Datum
gn_queue_wake(PG_FUNCTION_ARGS)
{
	const GnQueue *queue = gn_queue_find(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	if (queue && PG_GETARG_INT32(1) > 0)
	{
		gn_ready_note_unknown(queue->name);
		gn_queue_call_at_commit(queue, PG_GETARG_INT32(1));
	}
	PG_RETURN_VOID();
}

/* SQL: _grownext.queue_waiters(queue text) */
Datum
gn_queue_waiters(PG_FUNCTION_ARGS)
{
	char *queue = text_to_cstring(PG_GETARG_TEXT_PP(0));

	PG_RETURN_INT32(gn_wait_count(channel_of(queue)));
}

/* Whether a fetch would get a job now; runs in a transaction. */
static bool
look(const char *name)
{
	GnQueue queue;
	bool ready = false;
	GnSpi spi;

	gn_database_require_armed("job_wait()");
	queue = *gn_lease_queue(name);
	queue.name = unconstify(char *, name);
	if (queue.paused)
		return false;
	gn_spi_begin(&spi);
	if (gn_slot_free(&queue, 1) > 0 && gn_throttle_free(&queue, 1) > 0)
		ready = gn_storage_fetchable(name, queue.ordered);
	gn_spi_end(&spi);
	return ready;
}

/* Ends the process if there is nobody any more who could fetch. */
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
sleep_until_called(long milliseconds)
{
	static uint32 event = 0;
	int events;

	if (event == 0)
		event = gn_wait_event("GrowNextJobWait");
	events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					   milliseconds, event);
	if (events & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
}

/* Looks, sleeps, looks again, until there is a job or the time is up. */
static bool
wait_for_job(const char *queue, TimestampTz until)
{
	for (;;)
	{
		long left;

		gn_wait_look();
		if (look(queue))
			break;
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
		if (left <= 0)
			return false;
		SPI_commit(); /* nothing of the look is left while we sleep */
		sleep_until_called(Min(left, LOOK_AGAIN_MS));
		require_client();
	}
	return true;
}

static int64
timeout_argument(FunctionCallInfo fcinfo)
{
	Interval *timeout = PG_GETARG_INTERVAL_P(1);
	int64 period = gn_interval_period(timeout);

	if (timeout->time == 0 && timeout->day == 0 && timeout->month == 0)
		return 0;
	if (period <= 0 || period > MAX_TIMEOUT)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("timeout must not be negative, nor more than a day")));
	return period;
}

static void
require_no_block(FunctionCallInfo fcinfo)
{
	if (fcinfo->context && IsA(fcinfo->context, CallContext) &&
		!castNode(CallContext, fcinfo->context)->atomic)
		return;
	ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
					errmsg("job_wait() cannot run inside a transaction block"),
					errdetail("It would hold the snapshot while it waits."),
					errhint("CALL it as a statement of its own.")));
}

/* SQL: grownext.job_wait(queue text, timeout interval, INOUT ready boolean) */
Datum
gn_job_wait(PG_FUNCTION_ARGS)
{
	MemoryContext memory = CurrentMemoryContext;
	TupleDesc desc;
	Datum value;
	bool null = false;
	volatile bool ready = false;
	TimestampTz until;
	char *queue;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("queue and timeout must not be null")));
	PreventCommandDuringRecovery("job_wait()");
	gn_require_preload("job_wait()");
	require_no_block(fcinfo);
	until = GetCurrentTimestamp() + timeout_argument(fcinfo);
	queue = text_to_cstring(PG_GETARG_TEXT_PP(0));
	(void) gn_lease_queue(queue);
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed");
	(void) gn_wait_enlist(channel_of(queue));
	PG_TRY();
	{
		ready = wait_for_job(queue, until);
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
