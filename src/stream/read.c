/*
 * src/stream/read.c
 *	  Consumers read, acknowledge and replay.
 *
 * Two ways. In one transaction: read, do what there is to do, acknowledge; the lock on
 * the consumer keeps others out until it ends, and effects and cursor commit together.
 * Or with a lease, for effects outside the database: nobody else of the consumer gets
 * anything until the lease ends, and only its holder acknowledges.
 *
 * A cursor moves forward only; stream_seek() alone moves it back, and voids the lease.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "common/pg_prng.h"
#include "funcapi.h"
#include "miscadmin.h"
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

GN_FUNCTION(gn_stream_read);
GN_FUNCTION(gn_stream_ack);
GN_FUNCTION(gn_stream_extend);
GN_FUNCTION(gn_stream_seek);

#define MAX_COUNT 10000
#define MAX_BYTES (16 * 1024 * 1024) /* of payloads in one read, but for the first */
#define RANDOM_BITS 20

enum
{
	ENTRY_FIELDS = 9
};

/* After a recovery to an earlier time the sequence comes by the same numbers again, and
 * an old reader with them. */
static int64
new_lease(void)
{
	uint32 chance = pg_prng_uint32(&pg_global_prng_state);

	return (gn_nextval("stream_lease_id") << RANDOM_BITS) |
		   (chance & ((1 << RANDOM_BITS) - 1));
}

static void
put_entry(ReturnSetInfo *result, const GnEntry *entry, const GnCursor *lease)
{
	char *subject = entry->claims ? gn_claim_text(entry->claims, "sub") : NULL;
	Datum values[ENTRY_FIELDS] = {0};
	bool nulls[ENTRY_FIELDS] = {0};

	values[0] = Int64GetDatum(entry->position);
	nulls[1] = entry->key == NULL;
	if (entry->key)
		values[1] = CStringGetTextDatum(entry->key);
	values[2] = JsonbPGetDatum(entry->payload);
	values[3] = TimestampTzGetDatum(entry->appended_at);
	values[4] = UUIDPGetDatum(entry->tenant);
	nulls[4] = entry->tenant == NULL;
	nulls[5] = subject == NULL;
	if (subject)
		values[5] = CStringGetTextDatum(subject);
	values[6] = JsonbPGetDatum(entry->claims);
	nulls[6] = entry->claims == NULL;
	values[7] = Int64GetDatum(lease->lease_id);
	values[8] = TimestampTzGetDatum(lease->lease_until);
	nulls[7] = nulls[8] = lease->lease_id == 0;
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * The next entries of the cursor into the result; the position of the last one. They
 * are on disk when this returns: a crash must not forget what the outside world has
 * seen.
 */
static int64
deliver(const GnCursor *cursor, int count, const GnCursor *lease, ReturnSetInfo *result)
{
	MemoryContext memory =
		AllocSetContextCreate(CurrentMemoryContext, "grownext stream entry",
							  ALLOCSET_DEFAULT_SIZES);
	int64 horizon = gn_horizon(cursor->stream); /* before the snapshot */
	XLogRecPtr flush = InvalidXLogRecPtr;
	int64 last = 0;
	int64 bytes = 0;
	int64 position;
	GnLogScan scan;
	HeapTuple tuple;

	gn_log_begin(&scan, cursor->stream, gn_cursor_start(cursor));
	while (count-- > 0 && bytes < MAX_BYTES &&
		   (tuple = gn_log_next(&scan, &position)) != NULL && position <= horizon)
	{
		MemoryContext caller = MemoryContextSwitchTo(memory);
		XLogRecPtr written = gn_commit_position(HeapTupleHeaderGetXmin(tuple->t_data));
		GnEntry entry;

		flush = Max(flush, written);
		gn_log_entry(&scan, tuple, &entry);
		bytes += VARSIZE(entry.payload);
		put_entry(result, &entry, lease);
		last = position;
		MemoryContextSwitchTo(caller);
		MemoryContextReset(memory);
	}
	gn_log_end(&scan);
	MemoryContextDelete(memory);
	if (!XLogRecPtrIsInvalid(flush))
		XLogFlush(flush);
	return last;
}

/* SQL: grownext.stream_read(stream text, consumer text, count int, lease interval) */
Datum
gn_stream_read(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	TimestampTz now = gn_now();
	GnCursor lease = {0};
	GnCursor cursor;
	GnStream stream;
	char *consumer;
	int count;

	PreventCommandIfReadOnly("stream_read()");
	gn_database_require_armed("stream_read()");
	stream = gn_stream_of_caller(gn_stream_text(fcinfo, 0, "stream"), "read");
	consumer = gn_stream_consumer(fcinfo, 1);
	if (PG_ARGISNULL(2))
		gn_stream_refuse_null("count");
	count = PG_GETARG_INT32(2);
	if (count < 1 || count > MAX_COUNT)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("count must be between 1 and %d", MAX_COUNT)));
	if (!PG_ARGISNULL(3))
		lease.lease_until = now + gn_stream_lease(fcinfo, 3);
	InitMaterializedSRF(fcinfo, 0);
	if (!gn_cursor_try_lock(stream.id, consumer))
		return (Datum) 0; /* another one is reading */
	gn_cursor_read(stream.id, consumer, &cursor);
	if (gn_cursor_leased(&cursor, now))
		return (Datum) 0;
	if (lease.lease_until)
		lease.lease_id = new_lease();
	cursor.lease_upto = deliver(&cursor, count, &lease, result);
	if (lease.lease_id && cursor.lease_upto)
	{
		cursor.lease_id = lease.lease_id;
		cursor.lease_until = lease.lease_until;
		gn_cursor_write(&cursor);
	}
	return (Datum) 0;
}

/* ---- acknowledge ---- */

static void
raise_stale(const char *consumer)
{
	ereport(ERROR,
			(errcode(GN_ERRCODE_LEASE_STALE),
			 errmsg("the lease of consumer \"%s\" is not valid any more", consumer),
			 errdetail("Its entries were handed out again or acknowledged, or the "
					   "cursor was moved, or the lease never was this one."),
			 errhint("Roll back, and read again.")));
}

static void
refuse_leased(const char *consumer)
{
	ereport(ERROR, (errcode(GN_ERRCODE_LEASE_STALE),
					errmsg("another reader of consumer \"%s\" has a lease", consumer),
					errhint("Pass the lease_id that stream_read() returned.")));
}

static void
refuse_beyond(int64 upto, const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("position " INT64_FORMAT " is beyond %s", upto, what),
					errhint("Acknowledge the position of the last entry that you have "
							"done.")));
}

/* What follows is done with the lock on the consumer, and the cursor as it is. */
static GnCursor
hold_cursor(FunctionCallInfo fcinfo, const char *what)
{
	GnStream stream;
	GnCursor cursor;
	char *consumer;

	PreventCommandIfReadOnly(what);
	stream = gn_stream_of_caller(gn_stream_text(fcinfo, 0, "stream"), "read");
	consumer = gn_stream_consumer(fcinfo, 1);
	gn_cursor_lock(stream.id, consumer);
	gn_cursor_read(stream.id, consumer, &cursor);
	return cursor;
}

static void
void_lease(GnCursor *cursor)
{
	cursor->lease_id = 0;
	/* those who waited for its end */
	gn_wait_call_at_commit(gn_horizon_channel(cursor->stream), PG_INT32_MAX);
}

static void
ack_leased(GnCursor *cursor, int64 upto, int64 lease)
{
	if (lease != cursor->lease_id)
		raise_stale(cursor->consumer);
	if (upto > cursor->lease_upto)
		refuse_beyond(upto, "what was read with this lease");
	if (upto <= cursor->position)
		return;
	cursor->position = upto;
	if (upto == cursor->lease_upto)
		void_lease(cursor);
	gn_cursor_write(cursor);
}

static void
ack_unleased(GnCursor *cursor, int64 upto)
{
	if (gn_cursor_leased(cursor, gn_now()))
		refuse_leased(cursor->consumer);
	if (upto <= cursor->position)
		return;
	if (upto > gn_horizon(cursor->stream))
		refuse_beyond(upto, "what can be read");
	cursor->position = upto;
	void_lease(cursor);
	gn_cursor_write(cursor);
}

/* SQL: grownext.stream_ack(stream text, consumer text, upto bigint, lease_id bigint) */
Datum
gn_stream_ack(PG_FUNCTION_ARGS)
{
	int64 upto = gn_stream_position(fcinfo, 2, "upto");
	GnCursor cursor = hold_cursor(fcinfo, "stream_ack()");

	if (PG_ARGISNULL(3))
		ack_unleased(&cursor, upto);
	else
		ack_leased(&cursor, upto, PG_GETARG_INT64(3));
	PG_RETURN_VOID();
}

/* SQL: grownext.stream_extend(stream text, consumer text, lease_id bigint, lease
 * interval) */
Datum
gn_stream_extend(PG_FUNCTION_ARGS)
{
	int64 lease = gn_stream_position(fcinfo, 2, "lease_id");
	GnCursor cursor;

	if (PG_ARGISNULL(3))
		gn_stream_refuse_null("lease");
	cursor = hold_cursor(fcinfo, "stream_extend()");
	if (lease == 0 || lease != cursor.lease_id)
		raise_stale(cursor.consumer);
	cursor.lease_until = gn_now() + gn_stream_lease(fcinfo, 3);
	gn_cursor_write(&cursor);
	PG_RETURN_VOID();
}

/* ---- replay ---- */

/* The first entry after a position: its time. False if there is none up to the
 * horizon. */
static bool
first_after(int64 stream, int64 after, int64 horizon, int64 *position,
			TimestampTz *appended_at)
{
	GnLogScan scan;
	HeapTuple tuple;
	bool found;

	gn_log_begin(&scan, stream, after);
	tuple = gn_log_next(&scan, position);
	found = HeapTupleIsValid(tuple) && *position <= horizon;
	if (found)
		*appended_at = gn_log_time(&scan, tuple);
	gn_log_end(&scan);
	return found;
}

/* Entries that were appended side by side have times and positions that differ in
 * order, by as much as a process may be held up between taking one and the other. */
#define TIME_SLACK (10 * USECS_PER_SEC)

/* A position before every entry of that time and later, by halving. */
static int64
before_time(int64 stream, int64 first, int64 horizon, TimestampTz at)
{
	int64 low = first; /* what is up to here was earlier */
	int64 high = horizon;

	while (low < high)
	{
		int64 middle = low + (high - low) / 2;
		TimestampTz appended_at;
		int64 position;

		if (first_after(stream, middle, horizon, &position, &appended_at) &&
			appended_at < at)
			low = position;
		else
			high = middle;
	}
	return low;
}

static int64
seek_time(const GnCursor *cursor, int64 horizon, TimestampTz at)
{
	GnCursor trimmed;
	int64 reached;
	int64 position;
	GnLogScan scan;
	HeapTuple tuple;

	gn_cursor_read(cursor->stream, "", &trimmed);
	if (TIMESTAMP_NOT_FINITE(at))
		return TIMESTAMP_IS_NOBEGIN(at) ? trimmed.position : horizon;
	if (at < MIN_TIMESTAMP + TIME_SLACK)
		return trimmed.position;
	reached = before_time(cursor->stream, trimmed.position, horizon, at - TIME_SLACK);
	gn_log_begin(&scan, cursor->stream, reached);
	while ((tuple = gn_log_next(&scan, &position)) != NULL && position <= horizon &&
		   gn_log_time(&scan, tuple) < at)
		reached = position;
	if (tuple == NULL || position > horizon)
		reached = horizon;
	gn_log_end(&scan);
	return reached;
}

/* SQL: grownext.stream_seek(stream text, consumer text, position bigint, at
 * timestamptz) */
Datum
gn_stream_seek(PG_FUNCTION_ARGS)
{
	GnCursor cursor;
	int64 horizon;

	if (PG_ARGISNULL(2) == PG_ARGISNULL(3))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("stream_seek() needs a position or a time"),
						errhint("Position 0 is the beginning; a time \"infinity\" is "
								"the end.")));
	if (!PG_ARGISNULL(2))
		(void) gn_stream_position(fcinfo, 2, "position");
	cursor = hold_cursor(fcinfo, "stream_seek()");
	horizon = gn_horizon(cursor.stream); /* nothing under way is passed */
	if (PG_ARGISNULL(2))
		cursor.position = seek_time(&cursor, horizon, PG_GETARG_TIMESTAMPTZ(3));
	else
	{
		cursor.position = 0;
		cursor.position =
			Max(Min(PG_GETARG_INT64(2), horizon), gn_cursor_start(&cursor));
	}
	void_lease(&cursor);
	gn_cursor_write(&cursor);
	PG_RETURN_VOID();
}
