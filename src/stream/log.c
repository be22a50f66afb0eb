/*
 * src/stream/log.c
 *	  Entries in their segments.
 *
 * Every scan reads all segments, whatever their state: an appender that chose its
 * segment just before another one was opened still writes where readers look. The
 * primary keys are walked side by side and the least position comes next. No planner
 * is asked: its statistics of tables that grow from nothing and are truncated are
 * always wrong.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "stream/log.h"

enum EntryColumn
{
	ENTRY_STREAM = 1,
	ENTRY_POSITION,
	ENTRY_APPENDED_AT,
	ENTRY_TENANT,
	ENTRY_KEY,
	ENTRY_PAYLOAD,
	ENTRY_CLAIMS,
	ENTRY_COLUMNS = ENTRY_CLAIMS
};

Oid
gn_log_relation(int segment)
{
	char name[NAMEDATALEN];
	Oid relid;

	snprintf(name, sizeof(name), "stream_entry_%d", segment);
	relid = get_relname_relid(name, get_namespace_oid("_grownext", false));
	if (!OidIsValid(relid))
		elog(ERROR, "segment %d of streams is missing", segment);
	return relid;
}

/* ---- append ---- */

static HeapTuple
form_entry(TupleDesc desc, int64 stream, const GnEntry *entry)
{
	Datum values[ENTRY_COLUMNS];
	bool nulls[ENTRY_COLUMNS] = {0};

	values[ENTRY_STREAM - 1] = Int64GetDatum(stream);
	values[ENTRY_POSITION - 1] = Int64GetDatum(entry->position);
	values[ENTRY_APPENDED_AT - 1] = TimestampTzGetDatum(entry->appended_at);
	values[ENTRY_TENANT - 1] = UUIDPGetDatum(entry->tenant);
	nulls[ENTRY_TENANT - 1] = entry->tenant == NULL;
	values[ENTRY_KEY - 1] = entry->key ? CStringGetTextDatum(entry->key) : (Datum) 0;
	nulls[ENTRY_KEY - 1] = entry->key == NULL;
	values[ENTRY_PAYLOAD - 1] = JsonbPGetDatum(entry->payload);
	values[ENTRY_CLAIMS - 1] = JsonbPGetDatum(entry->claims);
	nulls[ENTRY_CLAIMS - 1] = entry->claims == NULL;
	return heap_form_tuple(desc, values, nulls);
}

void
gn_log_insert(int segment, int64 stream, const GnEntry *entries, int count)
{
	Relation heap = table_open(gn_log_relation(segment), RowExclusiveLock);
	CatalogIndexState indexes = CatalogOpenIndexes(heap);

	for (int i = 0; i < count; i++)
	{
		HeapTuple tuple = form_entry(RelationGetDescr(heap), stream, &entries[i]);

		CatalogTupleInsertWithInfo(heap, tuple, indexes);
		heap_freetuple(tuple);
		CHECK_FOR_INTERRUPTS();
	}
	CatalogCloseIndexes(indexes);
	table_close(heap, NoLock); /* not truncated before we end */
	CommandCounterIncrement();
}

/* ---- read ---- */

static void
advance(GnLogScan *scan, int i)
{
	HeapTuple tuple =
		systable_getnext_ordered(scan->segment[i].scan, ForwardScanDirection);
	bool isnull;

	scan->segment[i].tuple = tuple;
	if (HeapTupleIsValid(tuple))
		scan->segment[i].position = DatumGetInt64(
			heap_getattr(tuple, ENTRY_POSITION, RelationGetDescr(scan->segment[i].heap),
						 &isnull));
}

static void
begin_segment(GnLogScan *scan, int i, int64 stream, int64 after)
{
	Relation heap = table_open(gn_log_relation(i), AccessShareLock);
	Relation index = index_open(gn_primary_key_index(heap), AccessShareLock);
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], ENTRY_STREAM, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(stream));
	ScanKeyInit(&keys[1], ENTRY_POSITION, BTGreaterStrategyNumber, F_INT8GT,
				Int64GetDatum(after));
	scan->segment[i].heap = heap;
	scan->segment[i].index = index;
	scan->segment[i].scan =
		systable_beginscan_ordered(heap, index, scan->snapshot, 2, keys);
	advance(scan, i);
}

static void
end_segment(GnLogScan *scan, int i)
{
	systable_endscan_ordered(scan->segment[i].scan);
	index_close(scan->segment[i].index, AccessShareLock);
	table_close(scan->segment[i].heap, AccessShareLock);
}

void
gn_log_begin(GnLogScan *scan, int64 stream, int64 after)
{
	scan->snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan->current = -1;
	for (int i = 0; i < GN_SEGMENTS; i++)
		begin_segment(scan, i, stream, after);
}

HeapTuple
gn_log_next(GnLogScan *scan, int64 *position)
{
	int least = -1;

	CHECK_FOR_INTERRUPTS();
	if (scan->current >= 0)
		advance(scan, scan->current);
	for (int i = 0; i < GN_SEGMENTS; i++)
	{
		if (HeapTupleIsValid(scan->segment[i].tuple) &&
			(least < 0 || scan->segment[i].position < scan->segment[least].position))
			least = i;
	}
	scan->current = least;
	if (least < 0)
		return NULL;
	*position = scan->segment[least].position;
	return scan->segment[least].tuple;
}

void
gn_log_end(GnLogScan *scan)
{
	for (int i = 0; i < GN_SEGMENTS; i++)
		end_segment(scan, i);
	UnregisterSnapshot(scan->snapshot);
}

static Datum
entry_value(const GnLogScan *scan, HeapTuple tuple, int column, bool *isnull)
{
	return heap_getattr(tuple, column,
						RelationGetDescr(scan->segment[scan->current].heap), isnull);
}

TimestampTz
gn_log_time(const GnLogScan *scan, HeapTuple tuple)
{
	bool isnull;

	return DatumGetTimestampTz(entry_value(scan, tuple, ENTRY_APPENDED_AT, &isnull));
}

int64
gn_log_size(const GnLogScan *scan, HeapTuple tuple)
{
	bool isnull;
	Datum payload = entry_value(scan, tuple, ENTRY_PAYLOAD, &isnull);
	int64 size = tuple->t_len;

	if (VARATT_IS_EXTERNAL(DatumGetPointer(payload)))
		size += (int64) toast_datum_size(payload);
	return size;
}

void
gn_log_entry(const GnLogScan *scan, HeapTuple tuple, GnEntry *entry)
{
	bool isnull;
	Datum value;

	*entry = (GnEntry){0};
	value = entry_value(scan, tuple, ENTRY_POSITION, &isnull);
	entry->position = DatumGetInt64(value);
	entry->appended_at = gn_log_time(scan, tuple);
	value = entry_value(scan, tuple, ENTRY_TENANT, &isnull);
	if (!isnull)
		entry->tenant = memcpy(palloc(UUID_LEN), DatumGetUUIDP(value), UUID_LEN);
	value = entry_value(scan, tuple, ENTRY_KEY, &isnull);
	if (!isnull)
		entry->key = TextDatumGetCString(value);
	value = entry_value(scan, tuple, ENTRY_PAYLOAD, &isnull);
	entry->payload = DatumGetJsonbPCopy(value);
	value = entry_value(scan, tuple, ENTRY_CLAIMS, &isnull);
	if (!isnull)
		entry->claims = DatumGetJsonbPCopy(value);
}

bool
gn_log_has(int segment, int64 stream, int64 after)
{
	GnLogScan scan = {.snapshot = RegisterSnapshot(GetLatestSnapshot())};
	bool has;

	begin_segment(&scan, segment, stream, after);
	has = HeapTupleIsValid(scan.segment[segment].tuple);
	end_segment(&scan, segment);
	UnregisterSnapshot(scan.snapshot);
	return has;
}
