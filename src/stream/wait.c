/*
 * src/stream/wait.c
 *	  stream_wait(): a reader sleeps until there are entries.
 *
 * A function that sleeps keeps the snapshot of its statement, and vacuum waits for it.
 * So this is a procedure, which commits before it sleeps: what goes on then has no
 * snapshot, no transaction id and no lock. It cannot run in a transaction block.
 *
 * Every transaction that appended calls all who wait for the stream at its end, also if
 * it rolled back: what was committed after it may have waited for it.
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
#include "stream/argument.h"
#include "stream/cursor.h"
#include "stream/definition.h"
#include "stream/horizon.h"
#include "stream/log.h"

GN_FUNCTION(gn_stream_wait);

#define LOOK_AGAIN_MS 5000
#define MAX_TIMEOUT USECS_PER_DAY

/* Whether a read would get an entry now; runs in a transaction. */
static bool
look(const char *name, const char *consumer)
{
	GnStream stream;
	GnCursor cursor;
	GnLogScan scan;
	int64 horizon;
	int64 position;
	bool ready;

	gn_database_require_armed("stream_wait()");
	stream = gn_stream_of_caller(name, "read");
	gn_cursor_read(stream.id, consumer, &cursor);
	if (gn_cursor_leased(&cursor, gn_now()))
		return false;
	horizon = gn_horizon(stream.id);
	gn_log_begin(&scan, stream.id, gn_cursor_start(&cursor));
	ready = gn_log_next(&scan, &position) != NULL && position <= horizon;
	gn_log_end(&scan);
	return ready;
}

/* Ends the process if there is nobody any more who could read. */
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
		event = gn_wait_event("GrowNextStreamWait");
	events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					   milliseconds, event);
	if (events & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
}

/* Looks, sleeps, looks again, until there is an entry or the time is up. */
static bool
wait_for_entry(const char *stream, const char *consumer, TimestampTz until)
{
	for (;;)
	{
		long left;

		gn_wait_look();
		if (look(stream, consumer))
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
	Interval *timeout = PG_GETARG_INTERVAL_P(2);
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
					errmsg("stream_wait() cannot run inside a transaction block"),
					errdetail("It would hold the snapshot while it waits."),
					errhint("CALL it as a statement of its own.")));
}

/* SQL: grownext.stream_wait(stream text, consumer text, timeout interval, INOUT ready
 * boolean) */
Datum
gn_stream_wait(PG_FUNCTION_ARGS)
{
	MemoryContext memory = CurrentMemoryContext;
	TupleDesc desc;
	Datum value;
	bool null = false;
	volatile bool ready = false;
	TimestampTz until;
	char *stream;
	char *consumer;
	int64 id;

	if (PG_ARGISNULL(2))
		gn_stream_refuse_null("timeout");
	PreventCommandDuringRecovery("stream_wait()");
	gn_require_preload("stream_wait()");
	require_no_block(fcinfo);
	until = GetCurrentTimestamp() + timeout_argument(fcinfo);
	stream = gn_stream_text(fcinfo, 0, "stream");
	consumer = gn_stream_consumer(fcinfo, 1);
	id = gn_stream_of_caller(stream, "read").id;
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed");
	(void) gn_wait_enlist(gn_horizon_channel(id));
	PG_TRY();
	{
		ready = wait_for_entry(stream, consumer, until);
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
