/*
 * src/entitlement/counter_row.c
 *	  Rows of counters, and events of the soft tier, read and written without SPI.
 *
 * Counting is the hot path of metering: an index look-up and one heap-only update.
 * Going through the heap directly saves the executor, and it tells what an
 * UPDATE hides: whether somebody else held the row when we came.
 *
 * A row is read as of the latest snapshot and written only if that version is still the
 * newest and free; otherwise it is locked, which waits and follows the row to its
 * newest version, as READ COMMITTED does. Under REPEATABLE READ and above a version
 * that the snapshot does not know raises 40001. The table has one index, the primary
 * key, and no column of it ever changes.
 *
 * Heap-only updates leave a row where the index found it once, so a backend remembers
 * the places of rows 0. A visible row with the key of a counter is its row, wherever it
 * was looked for: what is remembered may be wrong, and then the index is asked.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "entitlement/counter_row.h"

/* Columns of _grownext.entitlement_usage, as tables.sql has them. */
enum UsageColumn
{
	USAGE_TENANT,
	USAGE_FEATURE,
	USAGE_PERIOD,
	USAGE_PERIOD_START,
	USAGE_PERIOD_END,
	USAGE_SHARD,
	USAGE_USED,
	USAGE_SLOT_USED,
	USAGE_SLOT_START,
	USAGE_QUOTA,
	USAGE_ALLOWANCE,
	USAGE_FIRED,
	USAGE_SHARDS,
	USAGE_HAS_EVENTS,
	USAGE_WAITS,
	USAGE_WAITS_SINCE,
	USAGE_COLUMNS
};

#define EVENT_COLUMNS 6 /* of _grownext.entitlement_usage_event */

/* A relation of ours; its lock is kept until the transaction ends. */
static Oid
relation_id(const char *name)
{
	return get_relname_relid(name, get_namespace_oid("_grownext", false));
}

void
gn_counter_open(GnCounterTable *table)
{
	PreventCommandIfReadOnly("metering");
	PreventCommandIfParallelMode("metering");
	table->heap = table_open(relation_id("entitlement_usage"), RowExclusiveLock);
	table->index = NULL;
	table->slot = NULL;
}

static Relation
index_of(GnCounterTable *table)
{
	if (table->index == NULL)
		table->index =
			index_open(relation_id("entitlement_usage_pkey"), RowExclusiveLock);
	return table->index;
}

static TupleTableSlot *
slot_of(GnCounterTable *table)
{
	if (table->slot == NULL)
		table->slot = table_slot_create(table->heap, NULL);
	return table->slot;
}

void
gn_counter_close(GnCounterTable *table)
{
	if (table->slot)
		ExecDropSingleTupleTableSlot(table->slot);
	if (table->index)
		index_close(table->index, NoLock);
	table_close(table->heap, NoLock);
}

/* Places ------------------------------------------------------------------- */

/* Where the index has row 0 of a counter. */
typedef struct Place
{
	GnCounter counter;
	ItemPointerData root; /* not valid: of none */
} Place;

#define PLACES 4096 /* in pairs: a counter has one of its pair's */

static Place *places = NULL;

static Place *
pair_of(const GnCounter *counter)
{
	uint32 hash = hash_bytes((const unsigned char *) counter, sizeof(*counter));

	if (places == NULL)
		places = MemoryContextAllocZero(TopMemoryContext, PLACES * sizeof(Place));
	return &places[hash % PLACES & ~1];
}

static bool
is_place_of(const Place *place, const GnCounter *counter)
{
	return ItemPointerIsValid(&place->root) &&
		   memcmp(&place->counter, counter, sizeof(*counter)) == 0;
}

/* Or NULL. */
static const Place *
place_of(const GnCounter *counter)
{
	const Place *pair = pair_of(counter);

	for (int i = 0; i < 2; i++)
	{
		if (is_place_of(&pair[i], counter))
			return &pair[i];
	}
	return NULL;
}

/* The older one of the pair makes room. */
static void
remember_place(const GnCounter *counter, const ItemPointerData *root)
{
	Place *pair = pair_of(counter);

	if (!is_place_of(&pair[0], counter))
		pair[1] = pair[0];
	pair[0] = (Place){*counter, *root};
}

/* Reading ------------------------------------------------------------------ */

static void
unpack(const Datum *values, const bool *nulls, GnCounterRow *row)
{
	row->shard = DatumGetInt16(values[USAGE_SHARD]);
	row->used = DatumGetInt64(values[USAGE_USED]);
	row->slot_used = DatumGetInt64(values[USAGE_SLOT_USED]);
	row->slot_start = DatumGetTimestampTz(values[USAGE_SLOT_START]);
	row->allowance = DatumGetInt64(values[USAGE_ALLOWANCE]);
	row->unlimited = nulls[USAGE_QUOTA];
	row->quota = nulls[USAGE_QUOTA] ? 0 : DatumGetInt64(values[USAGE_QUOTA]);
	row->end = DatumGetTimestampTz(values[USAGE_PERIOD_END]);
	row->fired = DatumGetInt16(values[USAGE_FIRED]);
	row->shards = DatumGetInt16(values[USAGE_SHARDS]);
	row->has_events = DatumGetBool(values[USAGE_HAS_EVENTS]);
	row->waits = DatumGetInt32(values[USAGE_WAITS]);
	row->waits_since =
		nulls[USAGE_WAITS_SINCE] ? 0 : DatumGetTimestampTz(values[USAGE_WAITS_SINCE]);
}

/* By column of the index. */
static void
make_keys(const GnCounter *counter, int shard, ScanKeyData *keys)
{
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_UUID_EQ,
				UUIDPGetDatum(&counter->tenant));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(counter->feature));
	ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_TIMESTAMPTZ_EQ,
				TimestampTzGetDatum(counter->start));
	ScanKeyEntryInitialize(&keys[3], 0, 4, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ,
						   CStringGetTextDatum(gn_period_name(counter->period)));
	ScanKeyInit(&keys[4], 5, BTEqualStrategyNumber, F_INT2EQ, Int16GetDatum(shard));
}

static Snapshot
current_snapshot(void)
{
	return RegisterSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot()
														: GetLatestSnapshot());
}

/*
 * The rows that the first nkeys keys of a counter name, at most max of them; root is
 * where the index has the last of them.
 */
static int
scan_rows(GnCounterTable *table, Snapshot snapshot, ScanKeyData *keys, int nkeys,
		  GnCounterRow *rows, int max, ItemPointerData *root)
{
	TupleTableSlot *slot = slot_of(table);
	IndexScanDesc scan =
		gn_index_beginscan(table->heap, index_of(table), snapshot, nkeys);
	int count = 0;
	ItemPointer tid;

	index_rescan(scan, keys, nkeys, NULL, 0);
	while (count < max && (tid = index_getnext_tid(scan, ForwardScanDirection)) != NULL)
	{
		*root = *tid;
		if (!index_fetch_heap(scan, slot))
			continue;
		slot_getallattrs(slot);
		rows[count] = (GnCounterRow){.tid = slot->tts_tid};
		unpack(slot->tts_values, slot->tts_isnull, &rows[count++]);
	}
	ExecClearTuple(slot);
	index_endscan(scan);
	return count;
}

static bool
scan_row(GnCounterTable *table, Snapshot snapshot, const GnCounter *counter, int shard,
		 GnCounterRow *row)
{
	ScanKeyData keys[5];
	ItemPointerData root;

	make_keys(counter, shard, keys);
	if (scan_rows(table, snapshot, keys, 5, row, 1, &root) == 0)
		return false;
	if (shard == 0)
		remember_place(counter, &root);
	return true;
}

static bool
is_row_0_of(const GnCounter *counter, const Datum *values)
{
	const text *period = DatumGetTextPP(values[USAGE_PERIOD]);
	const char *name = gn_period_name(counter->period);
	size_t length = strlen(name);

	return DatumGetInt16(values[USAGE_SHARD]) == 0 &&
		   DatumGetInt32(values[USAGE_FEATURE]) == counter->feature &&
		   DatumGetTimestampTz(values[USAGE_PERIOD_START]) == counter->start &&
		   memcmp(DatumGetUUIDP(values[USAGE_TENANT]), &counter->tenant, UUID_LEN) ==
			   0 &&
		   VARSIZE_ANY_EXHDR(period) == length &&
		   memcmp(VARDATA_ANY(period), name, length) == 0;
}

/* Row 0 from where it was last; false: the index has to be asked. */
static bool
read_place(GnCounterTable *table, Snapshot snapshot, const GnCounter *counter,
		   GnCounterRow *row)
{
	const Place *place = place_of(counter);
	ItemPointerData tid;
	HeapTupleData tuple;
	Buffer buffer;
	bool found;

	if (place == NULL || ItemPointerGetBlockNumber(&place->root) >=
							 RelationGetNumberOfBlocks(table->heap))
		return false;
	tid = place->root;
	buffer = ReadBuffer(table->heap, ItemPointerGetBlockNumber(&tid));
	heap_page_prune_opt(table->heap, buffer); /* as an index scan does */
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	found =
		heap_hot_search_buffer(&tid, table->heap, buffer, snapshot, &tuple, NULL, true);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	if (found)
	{
		Datum values[USAGE_COLUMNS];
		bool nulls[USAGE_COLUMNS];

		heap_deform_tuple(&tuple, RelationGetDescr(table->heap), values, nulls);
		found = is_row_0_of(counter, values);
		*row = (GnCounterRow){.tid = tid};
		unpack(values, nulls, row);
	}
	ReleaseBuffer(buffer);
	return found;
}

bool
gn_counter_row_read(GnCounterTable *table, const GnCounter *counter, int shard,
					GnCounterRow *row)
{
	Snapshot snapshot = current_snapshot();
	bool found = (shard == 0 && read_place(table, snapshot, counter, row)) ||
				 scan_row(table, snapshot, counter, shard, row);

	UnregisterSnapshot(snapshot);
	return found;
}

int
gn_counter_rows_read(GnCounterTable *table, const GnCounter *counter,
					 GnCounterRow **rows)
{
	ScanKeyData keys[5];
	Snapshot snapshot = current_snapshot();
	ItemPointerData root;
	int count;

	make_keys(counter, 0, keys);
	*rows = palloc((GN_SHARDS_MAX + 1) * sizeof(GnCounterRow));
	count = scan_rows(table, snapshot, keys, 4, *rows, GN_SHARDS_MAX + 1, &root);
	UnregisterSnapshot(snapshot);
	return count;
}

/* Writing ------------------------------------------------------------------ */

void
gn_counter_row_make(const GnCounter *counter, int shard, TimestampTz end,
					bool unlimited, int64 quota)
{
	static GnQuery query = GN_QUERY(
		"INSERT INTO _grownext.entitlement_usage"
		" (tenant_id, feature_id, period_start, period, shard, period_end, quota, used)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, 0) ON CONFLICT DO NOTHING",
		UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID, INT2OID, TIMESTAMPTZOID, INT8OID);
	Datum values[7] = {UUIDPGetDatum(&counter->tenant),
					   Int32GetDatum(counter->feature),
					   TimestampTzGetDatum(counter->start),
					   CStringGetTextDatum(gn_period_name(counter->period)),
					   Int16GetDatum(shard),
					   TimestampTzGetDatum(end),
					   Int64GetDatum(quota)};

	GnSpi spi;

	gn_spi_begin(&spi);
	gn_spi_execute(&query, values, unlimited ? "      n" : NULL, false);
	gn_spi_end(&spi);
}

static void
pg_attribute_noreturn() refuse_to_serialize(void)
{
	ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					errmsg("could not serialize access due to concurrent update")));
}

static TM_Result
lock_version(GnCounterTable *table, Snapshot snapshot, ItemPointer tid,
			 LockWaitPolicy policy)
{
	TM_FailureData failure;
	uint8 flags = IsolationUsesXactSnapshot() ? 0 : TUPLE_LOCK_FLAG_FIND_LAST_VERSION;

	return table_tuple_lock(table->heap, tid, snapshot, slot_of(table),
							GetCurrentCommandId(true), LockTupleNoKeyExclusive, policy,
							flags, &failure);
}

bool
gn_counter_row_lock(GnCounterTable *table, const GnCounter *counter, int shard,
					GnCounterRow *row)
{
	Snapshot snapshot = current_snapshot();
	TM_Result result = TM_Deleted;

	if (scan_row(table, snapshot, counter, shard, row))
	{
		ItemPointerData tid = row->tid;

		result = lock_version(table, snapshot, &row->tid, LockWaitSkip);
		row->waited = result == TM_WouldBlock;
		if (row->waited)
			result = lock_version(table, snapshot, &tid, LockWaitBlock);
	}
	UnregisterSnapshot(snapshot);
	if (result == TM_Ok)
	{
		slot_getallattrs(table->slot);
		unpack(table->slot->tts_values, table->slot->tts_isnull, row);
		row->tid = table->slot->tts_tid;
		row->locked = true;
		ExecClearTuple(table->slot);
		return true;
	}
	if (IsolationUsesXactSnapshot() && (result == TM_Updated || row->waited))
		refuse_to_serialize();
	if (result == TM_Deleted)
		return false;
	elog(ERROR, "unexpected result %d of locking a counter", (int) result);
}

static HeapTuple
pack(GnCounterTable *table, const GnCounter *counter, const GnCounterRow *row)
{
	Datum values[USAGE_COLUMNS] = {
		[USAGE_TENANT] = UUIDPGetDatum(&counter->tenant),
		[USAGE_FEATURE] = Int32GetDatum(counter->feature),
		[USAGE_PERIOD] = CStringGetTextDatum(gn_period_name(counter->period)),
		[USAGE_PERIOD_START] = TimestampTzGetDatum(counter->start),
		[USAGE_PERIOD_END] = TimestampTzGetDatum(row->end),
		[USAGE_SHARD] = Int16GetDatum(row->shard),
		[USAGE_USED] = Int64GetDatum(row->used),
		[USAGE_SLOT_USED] = Int64GetDatum(row->slot_used),
		[USAGE_SLOT_START] = TimestampTzGetDatum(row->slot_start),
		[USAGE_QUOTA] = Int64GetDatum(row->quota),
		[USAGE_ALLOWANCE] = Int64GetDatum(row->allowance),
		[USAGE_FIRED] = Int16GetDatum(row->fired),
		[USAGE_SHARDS] = Int16GetDatum(row->shards),
		[USAGE_HAS_EVENTS] = BoolGetDatum(row->has_events),
		[USAGE_WAITS] = Int32GetDatum(row->waits),
		[USAGE_WAITS_SINCE] = TimestampTzGetDatum(row->waits_since),
	};
	bool nulls[USAGE_COLUMNS] = {
		[USAGE_QUOTA] = row->unlimited,
		[USAGE_WAITS_SINCE] = row->waits_since == 0,
	};

	return heap_form_tuple(RelationGetDescr(table->heap), values, nulls);
}

static void
index_row(Relation heap, Relation index, HeapTuple tuple, IndexUniqueCheck unique)
{
	IndexInfo *info = BuildIndexInfo(index);
	Datum values[INDEX_MAX_KEYS];
	bool nulls[INDEX_MAX_KEYS];

	for (int i = 0; i < info->ii_NumIndexAttrs; i++)
		values[i] = heap_getattr(tuple, info->ii_IndexAttrNumbers[i],
								 RelationGetDescr(heap), &nulls[i]);
	index_insert(index, values, nulls, &tuple->t_self, heap, unique, false, info);
}

bool
gn_counter_row_write(GnCounterTable *table, const GnCounter *counter, GnCounterRow *row)
{
	HeapTuple tuple = pack(table, counter, row);
	TM_FailureData failure;
	TM_Result result =
		gn_heap_update(table->heap, &row->tid, tuple, row->locked, &failure);

	if (result == TM_Ok)
	{
		/* the new version is on another page than the one that the index knows */
		if (!HeapTupleIsHeapOnly(tuple))
		{
			index_row(table->heap, index_of(table), tuple, UNIQUE_CHECK_YES);
			if (row->shard == 0)
				remember_place(counter, &tuple->t_self);
		}
		row->tid = tuple->t_self;
		CommandCounterIncrement(); /* what we wrote counts from now on */
	}
	else if (row->locked)
		elog(ERROR, "a counter changed although it was locked");
	heap_freetuple(tuple);
	return result == TM_Ok;
}

void
gn_counter_event_append(const GnCounter *counter, int64 amount, TimestampTz at)
{
	Relation heap =
		table_open(relation_id("entitlement_usage_event"), RowExclusiveLock);
	Relation index =
		index_open(relation_id("entitlement_usage_event_idx"), RowExclusiveLock);
	Datum values[EVENT_COLUMNS] = {
		UUIDPGetDatum(&counter->tenant),
		Int32GetDatum(counter->feature),
		CStringGetTextDatum(gn_period_name(counter->period)),
		TimestampTzGetDatum(counter->start),
		TimestampTzGetDatum(at),
		Int64GetDatum(amount),
	};
	bool nulls[EVENT_COLUMNS] = {0};
	HeapTuple tuple = heap_form_tuple(RelationGetDescr(heap), values, nulls);

	simple_heap_insert(heap, tuple);
	index_row(heap, index, tuple, UNIQUE_CHECK_NO);
	heap_freetuple(tuple);
	index_close(index, NoLock);
	table_close(heap, NoLock);
	CommandCounterIncrement();
}
