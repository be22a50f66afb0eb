/*
 * src/stream/cursor.c
 *	  How far consumers are: a ledger, in which the highest generation counts.
 *
 * A row that is updated with every acknowledgement leaves a dead version each time,
 * and while a snapshot is held open nobody can clear them away: who looks for the live
 * one walks past all others. Here each movement is a row of its own. The last one is at
 * the end of the index, where it is found at once, however many are before it; those
 * are swept now and then, and dead ones at the front are in nobody's way.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "stream/cursor.h"
#include "stream/lock.h"

enum CursorColumn
{
	CURSOR_STREAM = 1,
	CURSOR_CONSUMER,
	CURSOR_GENERATION,
	CURSOR_POSITION,
	CURSOR_LEASE_ID,
	CURSOR_LEASE_UPTO,
	CURSOR_LEASE_UNTIL,
	CURSOR_WRITTEN_AT,
	CURSOR_COLUMNS = CURSOR_WRITTEN_AT
};

#define SWEEP_EVERY 128
#define SWEEP_REACH 1024 /* so that a sweep that was rolled back is made up for */

static Relation
open_ledger(LOCKMODE mode)
{
	return table_open(get_relname_relid("stream_cursor",
										get_namespace_oid("_grownext", false)),
					  mode);
}

static void
unpack(HeapTuple tuple, TupleDesc desc, GnCursor *cursor)
{
	Datum values[CURSOR_COLUMNS];
	bool nulls[CURSOR_COLUMNS];

	heap_deform_tuple(tuple, desc, values, nulls);
	cursor->generation = DatumGetInt64(values[CURSOR_GENERATION - 1]);
	cursor->position = DatumGetInt64(values[CURSOR_POSITION - 1]);
	if (nulls[CURSOR_LEASE_ID - 1])
		return;
	cursor->lease_id = DatumGetInt64(values[CURSOR_LEASE_ID - 1]);
	cursor->lease_upto = DatumGetInt64(values[CURSOR_LEASE_UPTO - 1]);
	cursor->lease_until = DatumGetTimestampTz(values[CURSOR_LEASE_UNTIL - 1]);
}

void
gn_cursor_read(int64 stream, const char *consumer, GnCursor *cursor)
{
	Relation ledger = open_ledger(AccessShareLock);
	Relation index = index_open(gn_primary_key_index(ledger), AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;

	*cursor = (GnCursor){.stream = stream, .consumer = consumer};
	ScanKeyInit(&keys[0], CURSOR_STREAM, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(stream));
	ScanKeyEntryInitialize(&keys[1], 0, CURSOR_CONSUMER, BTEqualStrategyNumber,
						   InvalidOid, C_COLLATION_OID, F_TEXTEQ,
						   CStringGetTextDatum(consumer));
	scan = systable_beginscan_ordered(ledger, index, snapshot, 2, keys);
	tuple = systable_getnext_ordered(scan, BackwardScanDirection);
	if (HeapTupleIsValid(tuple))
		unpack(tuple, RelationGetDescr(ledger), cursor);
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
	table_close(ledger, AccessShareLock);
}

void
gn_cursor_lock(int64 stream, const char *consumer)
{
	gn_stream_lock(GN_STREAM_LOCK_CONSUMER, gn_stream_consumer_key(stream, consumer),
				   ExclusiveLock);
}

bool
gn_cursor_try_lock(int64 stream, const char *consumer)
{
	return gn_stream_try_lock(GN_STREAM_LOCK_CONSUMER,
							  gn_stream_consumer_key(stream, consumer), ExclusiveLock);
}

static void
sweep(const GnCursor *cursor)
{
	static GnQuery query =
		GN_QUERY("DELETE FROM _grownext.stream_cursor WHERE stream_id = $1"
				 " AND consumer = $2 AND generation >= $3 AND generation < $4",
				 INT8OID, TEXTOID, INT8OID, INT8OID);
	Datum values[4] = {Int64GetDatum(cursor->stream),
					   CStringGetTextDatum(cursor->consumer),
					   Int64GetDatum(cursor->generation - SWEEP_REACH),
					   Int64GetDatum(cursor->generation)};
	GnSpi spi;

	gn_spi_begin(&spi);
	(void) gn_spi_execute(&query, values, NULL, false);
	gn_spi_end(&spi);
}

void
gn_cursor_write(GnCursor *cursor)
{
	Relation ledger = open_ledger(RowExclusiveLock);
	bool free = cursor->lease_id == 0;
	bool nulls[CURSOR_COLUMNS] = {0};
	Datum values[CURSOR_COLUMNS];

	cursor->generation++;
	values[CURSOR_STREAM - 1] = Int64GetDatum(cursor->stream);
	values[CURSOR_CONSUMER - 1] = CStringGetTextDatum(cursor->consumer);
	values[CURSOR_GENERATION - 1] = Int64GetDatum(cursor->generation);
	values[CURSOR_POSITION - 1] = Int64GetDatum(cursor->position);
	values[CURSOR_LEASE_ID - 1] = Int64GetDatum(cursor->lease_id);
	values[CURSOR_LEASE_UPTO - 1] = Int64GetDatum(cursor->lease_upto);
	values[CURSOR_LEASE_UNTIL - 1] = TimestampTzGetDatum(cursor->lease_until);
	values[CURSOR_WRITTEN_AT - 1] = TimestampTzGetDatum(gn_now());
	nulls[CURSOR_LEASE_ID - 1] = free;
	nulls[CURSOR_LEASE_UPTO - 1] = free;
	nulls[CURSOR_LEASE_UNTIL - 1] = free;
	CatalogTupleInsert(ledger,
					   heap_form_tuple(RelationGetDescr(ledger), values, nulls));
	table_close(ledger, NoLock);
	CommandCounterIncrement();
	if (cursor->generation % SWEEP_EVERY == 0)
		sweep(cursor);
}

int64
gn_cursor_start(const GnCursor *cursor)
{
	GnCursor stream;

	gn_cursor_read(cursor->stream, "", &stream);
	return Max(cursor->position, stream.position);
}
