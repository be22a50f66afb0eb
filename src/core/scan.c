/*
 * src/core/scan.c
 *	  Small tables of ours, read without a query and without an entry of the
 *	  relation cache.
 *
 * A fresh backend's first token waits for three tables. Planning queries costs it
 * milliseconds; opening the tables costs it half of one, because that reads their
 * constraints, defaults and triggers, and first the indexes of the catalogues that hold
 * those. Who only reads rows needs none of it: where the file is stands in pg_class,
 * what the columns are in pg_attribute. The pages are then read as CREATE DATABASE
 * reads those of its template's pg_class.
 *
 * No rights are asked for: what is read is the library's own, and none of it is handed
 * to the caller as a row. These tables have no row security. The lock is the one of a
 * query.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/smgr.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "core/core.h"
#include "core/scan.h"

/* What has to be known of a table to read its pages. */
typedef struct Table
{
	Oid relid;
	GnFileLocator file;
	bool by_pages; /* or only the relation cache knows how to read it */
	BlockNumber blocks;
	TupleDesc desc; /* NULL if there is nothing to be read */
} Table;

typedef struct Reading
{
	Snapshot snapshot;
	GnRowReader read;
	void *arg;
} Reading;

/* The row of pg_class of a table of ours, to be released. */
static HeapTuple
find_table(const char *name)
{
	Oid namespace = get_namespace_oid("_grownext", true);
	HeapTuple tuple =
		SearchSysCache2(RELNAMENSP, PointerGetDatum(name), ObjectIdGetDatum(namespace));

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(GN_ERRCODE_NOT_CONFIGURED),
				 errmsg("extension \"grownext\" is not installed in this database"),
				 errhint("CREATE EXTENSION grownext;")));
	return tuple;
}

/*
 * The lock comes before the look at where the file is, so that nobody moves or drops it
 * any more; between looking up the name and having the lock, the name may have got
 * another table.
 */
static HeapTuple
find_and_lock(const char *name)
{
	Oid locked = InvalidOid;

	for (;;)
	{
		HeapTuple tuple = find_table(name);
		Oid relid = ((Form_pg_class) GETSTRUCT(tuple))->oid;

		if (relid == locked)
			return tuple;
		ReleaseSysCache(tuple);
		if (OidIsValid(locked))
			UnlockRelationOid(locked, AccessShareLock);
		LockRelationOid(relid, AccessShareLock);
		locked = relid;
	}
}

/* False if a column has a value that rows older than itself do not hold. */
static bool
describe(Table *table, int columns)
{
	Relation catalog = table_open(AttributeRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;
	bool missing = false;

	ScanKeyInit(&keys[0], Anum_pg_attribute_attrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(table->relid));
	ScanKeyInit(&keys[1], Anum_pg_attribute_attnum, BTGreaterStrategyNumber, F_INT2GT,
				Int16GetDatum(0));
	table->desc = CreateTemplateTupleDesc(columns);
	scan = systable_beginscan(catalog, AttributeRelidNumIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_attribute attribute = (Form_pg_attribute) GETSTRUCT(tuple);

		memcpy(TupleDescAttr(table->desc, attribute->attnum - 1), attribute,
			   ATTRIBUTE_FIXED_PART_SIZE);
		gn_attribute_filled(table->desc, attribute->attnum - 1);
		missing |= attribute->atthasmissing;
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return !missing;
}

static Table
open_table(const char *name)
{
	HeapTuple tuple = find_and_lock(name);
	Form_pg_class class = (Form_pg_class) GETSTRUCT(tuple);
	Table table = {
		.relid = class->oid,
		.file = gn_file_locator(class->reltablespace ? class->reltablespace
													 : MyDatabaseTableSpace,
								MyDatabaseId, class->relfilenode),
	};

	table.by_pages = class->relam == HEAP_TABLE_AM_OID &&
					 class->relpersistence == RELPERSISTENCE_PERMANENT;
	if (table.by_pages)
		table.blocks = smgrnblocks(smgropen(table.file, GN_NO_BACKEND), MAIN_FORKNUM);
	if (table.blocks > 0)
		table.by_pages = describe(&table, class->relnatts);
	ReleaseSysCache(tuple);
	return table;
}

static void
read_tuple(TupleDesc desc, const Reading *reading, HeapTuple tuple)
{
	Datum *values = palloc(desc->natts * sizeof(Datum));
	bool *nulls = palloc(desc->natts * sizeof(bool));
	GnRow row = {desc, values, nulls};

	heap_deform_tuple(tuple, desc, values, nulls);
	reading->read(&row, reading->arg);
	pfree(values);
	pfree(nulls);
}

/* Copies of a page's visible rows, so that nobody waits for the page while they are
 * read. */
static List *
copy_page(const Table *table, BlockNumber block, Snapshot snapshot)
{
	Buffer buffer = ReadBufferWithoutRelcache(table->file, MAIN_FORKNUM, block,
											  RBM_NORMAL, NULL, true);
	Page page = BufferGetPage(buffer);
	OffsetNumber last;
	List *copies = NIL;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	last = PageIsNew(page) ? InvalidOffsetNumber : PageGetMaxOffsetNumber(page);
	for (OffsetNumber i = FirstOffsetNumber; i <= last; i++)
	{
		ItemId item = PageGetItemId(page, i);
		HeapTupleData tuple = {.t_tableOid = table->relid};

		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		ItemPointerSet(&tuple.t_self, block, i);
		if (HeapTupleSatisfiesVisibility(&tuple, snapshot, buffer))
			copies = lappend(copies, heap_copytuple(&tuple));
	}
	UnlockReleaseBuffer(buffer);
	return copies;
}

static void
scan_pages(const Table *table, const Reading *reading)
{
	for (BlockNumber block = 0; block < table->blocks; block++)
	{
		List *rows;
		ListCell *cell;

		CHECK_FOR_INTERRUPTS();
		rows = copy_page(table, block, reading->snapshot);
		foreach (cell, rows)
			read_tuple(table->desc, reading, lfirst(cell));
		list_free_deep(rows);
	}
}

static void
scan_relation(const Table *table, const Reading *reading)
{
	Relation relation = table_open(table->relid, NoLock);
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	TableScanDesc scan = table_beginscan(relation, reading->snapshot, 0, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		GnRow row = {slot->tts_tupleDescriptor, slot->tts_values, slot->tts_isnull};

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		reading->read(&row, reading->arg);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(relation, NoLock);
}

void
gn_table_scan(const char *name, Snapshot snapshot, GnRowReader read, void *arg)
{
	Reading reading = {RegisterSnapshot(snapshot), read, arg};
	Table table;

	gn_require_sql_version();
	table = open_table(name);
	if (table.by_pages)
		scan_pages(&table, &reading);
	else
		scan_relation(&table, &reading);
	UnlockRelationOid(table.relid, AccessShareLock);
	UnregisterSnapshot(reading.snapshot);
}

void
gn_key_scan(const char *name, const char *index_name, const char *column,
			const pg_uuid_t *key, Snapshot snapshot, GnRowReader read, void *arg)
{
	Reading reading = {snapshot, read, arg};
	Oid namespace = get_namespace_oid("_grownext", false);
	Relation heap = table_open(get_relname_relid(name, namespace), AccessShareLock);
	Relation index =
		index_open(get_relname_relid(index_name, namespace), AccessShareLock);
	SysScanDesc scan;
	ScanKeyData wanted;
	HeapTuple tuple;

	ScanKeyInit(&wanted, get_attnum(RelationGetRelid(heap), column),
				BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(key));
	scan = systable_beginscan_ordered(heap, index, snapshot, 1, &wanted);
	while ((tuple = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
		read_tuple(RelationGetDescr(heap), &reading, tuple);
	systable_endscan_ordered(scan);
	index_close(index, NoLock);
	table_close(heap, NoLock);
}

Datum
gn_row_value(const GnRow *row, const char *column, bool *isnull)
{
	for (int i = 0; i < row->desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(row->desc, i);

		if (!attribute->attisdropped &&
			strcmp(NameStr(attribute->attname), column) == 0)
		{
			*isnull = row->nulls[i];
			return row->values[i];
		}
	}
	*isnull = true;
	return (Datum) 0;
}
