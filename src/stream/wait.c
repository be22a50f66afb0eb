/*
 * src/stream/wait.c
 *	  stream_wait(): a reader sleeps until there are entries.
 *
 * Every transaction that appended calls all who wait for the stream at its end, also if
 * it rolled back: what was committed after it may have waited for it.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/await.h"
#include "core/core.h"
#include "core/worker.h"
#include "stream/argument.h"
#include "stream/cursor.h"
#include "stream/definition.h"
#include "stream/horizon.h"
#include "stream/log.h"

GN_FUNCTION(gn_stream_wait);

/* Whether a read would get an entry now; runs in a transaction. */
static bool
look(const GnAwait *await)
{
	GnStream stream;
	GnCursor cursor;
	GnLogScan scan;
	int64 horizon;
	int64 position;
	bool ready;

	gn_database_require_armed("stream_wait()");
	stream = gn_stream_of_caller(await->name, "read");
	gn_cursor_read(stream.id, await->consumer, &cursor);
	if (gn_cursor_leased(&cursor, gn_now()))
		return false;
	horizon = gn_horizon(stream.id);
	gn_log_begin(&scan, stream.id, gn_cursor_start(&cursor));
	ready = gn_log_next(&scan, &position) != NULL && position <= horizon;
	gn_log_end(&scan);
	return ready;
}

/* SQL: grownext.stream_wait(stream text, consumer text, timeout interval, INOUT ready
 * boolean) */
Datum
gn_stream_wait(PG_FUNCTION_ARGS)
{
	static uint32 event = 0;
	GnAwait await = {.look = look};

	if (event == 0)
		event = gn_wait_event("GrowNextStreamWait");
	await.event = event;
	if (PG_ARGISNULL(2))
		gn_stream_refuse_null("timeout");
	await.until = gn_await_begin(fcinfo, "stream_wait()", PG_GETARG_INTERVAL_P(2));
	await.name = gn_stream_text(fcinfo, 0, "stream");
	await.consumer = gn_stream_consumer(fcinfo, 1);
	await.channel = gn_horizon_channel(gn_stream_of_caller(await.name, "read").id);
	return gn_await(fcinfo, &await);
}
