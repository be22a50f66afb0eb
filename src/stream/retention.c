/*
 * src/stream/retention.c
 *	  What the background pass asks and does: walk, trim, lock a segment.
 *
 * To trim is to move the stream's own cursor: what is up to it is gone for every
 * reader. The space comes back later, when a segment holds nothing else and no snapshot
 * is left that was taken before: pg_dump copies these tables without locking them, and
 * truncating is not undone for an older snapshot.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "funcapi.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "core/worker.h"
#include "stream/cursor.h"
#include "stream/horizon.h"
#include "stream/lock.h"
#include "stream/log.h"

GN_FUNCTION(gn_stream_walk);
GN_FUNCTION(gn_stream_trim);
GN_FUNCTION(gn_stream_horizon);
GN_FUNCTION(gn_stream_segment_live);
GN_FUNCTION(gn_stream_lock_segment);
GN_FUNCTION(gn_stream_lock_id);
GN_FUNCTION(gn_stream_lock_consumer);
GN_FUNCTION(gn_stream_tick_at_commit);
GN_FUNCTION(gn_stream_past_snapshots);

/* Where a walk ends: each of them, unless it is NULL. */
typedef struct Walk
{
	TimestampTz until; /* the first entry of that time or later stays */
	int64 bytes;       /* enough */
	int64 most;        /* entries */

	int64 position;
	int64 count;
	int64 size;
	TimestampTz first_at; /* of the first entry, 0: there is none */
} Walk;

static void
walk(int64 stream, Walk *walk)
{
	int64 horizon = gn_horizon(stream);
	int64 position;
	GnLogScan scan;
	HeapTuple tuple;

	gn_log_begin(&scan, stream, walk->position);
	while (walk->count < walk->most && walk->size < walk->bytes &&
		   (tuple = gn_log_next(&scan, &position)) != NULL && position <= horizon)
	{
		TimestampTz at = gn_log_time(&scan, tuple);

		if (walk->count == 0)
			walk->first_at = at;
		if (at >= walk->until)
			break;
		walk->position = position;
		walk->count++;
		walk->size += gn_log_size(&scan, tuple);
	}
	gn_log_end(&scan);
}

/* SQL: _grownext.stream_walk(stream_id bigint, after bigint, until timestamptz, enough
 * bigint, most bigint, OUT position, OUT entries, OUT bytes, OUT first_at) */
Datum
gn_stream_walk(PG_FUNCTION_ARGS)
{
	Walk result = {
		.position = PG_GETARG_INT64(1),
		.until = PG_ARGISNULL(2) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(2),
		.bytes = PG_ARGISNULL(3) ? PG_INT64_MAX : PG_GETARG_INT64(3),
		.most = PG_ARGISNULL(4) ? PG_INT64_MAX : PG_GETARG_INT64(4),
	};
	Datum values[4];
	bool nulls[4] = {0};
	TupleDesc desc;

	walk(PG_GETARG_INT64(0), &result);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int64GetDatum(result.position);
	values[1] = Int64GetDatum(result.count);
	values[2] = Int64GetDatum(result.size);
	values[3] = TimestampTzGetDatum(result.first_at);
	nulls[3] = result.first_at == 0;
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/* SQL: _grownext.stream_trim(stream_id bigint, upto bigint) */
Datum
gn_stream_trim(PG_FUNCTION_ARGS)
{
	GnCursor cursor;

	gn_cursor_lock(PG_GETARG_INT64(0), "");
	gn_cursor_read(PG_GETARG_INT64(0), "", &cursor);
	if (PG_GETARG_INT64(1) <= cursor.position)
		PG_RETURN_VOID();
	cursor.position = PG_GETARG_INT64(1);
	gn_cursor_write(&cursor);
	PG_RETURN_VOID();
}

/* SQL: _grownext.stream_horizon(stream_id bigint): on a standby nobody is under way,
 * and what is not replayed yet is not seen. */
Datum
gn_stream_horizon(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(gn_horizon(PG_GETARG_INT64(0)));
}

/* As of now, also in a transaction with an old snapshot: a stream that is younger must
 * not lose what is its own. */
static int
all_streams(int64 **ids)
{
	static GnQuery query = GN_QUERY_NOARGS("SELECT id FROM _grownext.stream_stream");
	MemoryContext memory = CurrentMemoryContext;
	bool isnull;
	int count;
	GnSpi spi;

	gn_spi_begin(&spi);
	PushActiveSnapshot(GetLatestSnapshot());
	count = (int) gn_spi_execute(&query, NULL, NULL, true);
	*ids = MemoryContextAlloc(memory, (count + 1) * sizeof(int64));
	for (int i = 0; i < count; i++)
		(*ids)[i] = DatumGetInt64(
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	PopActiveSnapshot();
	gn_spi_end(&spi);
	return count;
}

/* SQL: _grownext.stream_segment_live(segment int) */
Datum
gn_stream_segment_live(PG_FUNCTION_ARGS)
{
	int64 *ids;
	int count = all_streams(&ids);
	bool live = false;

	for (int i = 0; i < count && !live; i++)
	{
		GnCursor trimmed;

		gn_cursor_read(ids[i], "", &trimmed);
		live = gn_log_has(PG_GETARG_INT32(0), ids[i], trimmed.position);
	}
	PG_RETURN_BOOL(live);
}

/* SQL: _grownext.stream_lock_segment(segment int): false while anybody reads or
 * writes it. */
Datum
gn_stream_lock_segment(PG_FUNCTION_ARGS)
{
	Oid relid = gn_log_relation(PG_GETARG_INT32(0));

	PG_RETURN_BOOL(ConditionalLockRelationOid(relid, AccessExclusiveLock));
}

/* SQL: _grownext.stream_lock_id(stream_id bigint): until the transaction ends nobody
 * appends to the stream or reads it. */
Datum
gn_stream_lock_id(PG_FUNCTION_ARGS)
{
	uint64 id = (uint64) PG_GETARG_INT64(0);

	gn_stream_lock(GN_STREAM_LOCK_STREAM, id, ExclusiveLock);
	gn_stream_lock(GN_STREAM_LOCK_READ, id, ExclusiveLock);
	PG_RETURN_VOID();
}

/* SQL: _grownext.stream_lock_consumer(stream_id bigint, consumer text) */
Datum
gn_stream_lock_consumer(PG_FUNCTION_ARGS)
{
	gn_cursor_lock(PG_GETARG_INT64(0), text_to_cstring(PG_GETARG_TEXT_PP(1)));
	PG_RETURN_VOID();
}

/* SQL: _grownext.stream_tick_at_commit() */
Datum
gn_stream_tick_at_commit(PG_FUNCTION_ARGS)
{
	gn_worker_tick_at_commit();
	PG_RETURN_VOID();
}

/* SQL: _grownext.stream_past_snapshots(writer xid): no snapshot is left for which it is
 * still running. */
Datum
gn_stream_past_snapshots(PG_FUNCTION_ARGS)
{
	TransactionId writer = PG_GETARG_TRANSACTIONID(0);
	Relation log = table_open(gn_log_relation(1), AccessShareLock);
	TransactionId oldest = GetOldestNonRemovableTransactionId(log);

	table_close(log, AccessShareLock);
	PG_RETURN_BOOL(!TransactionIdIsNormal(writer) ||
				   TransactionIdPrecedes(writer, oldest));
}
