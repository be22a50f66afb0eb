/*
 * src/core/scan.c
 *	  Small tables of ours, read without a query.
 *
 * Planning two queries costs a fresh backend milliseconds, and its first token waits
 * for them. A cache that holds a whole small table reads it as the catalogues are
 * read: no plan, no rights to ask for (what is read is the library's own, and none
 * of it is handed to the caller as a row), no row security, which these tables have
 * not got.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "core/scan.h"

static Oid
table_oid(const char *table)
{
	Oid namespace = get_namespace_oid("_grownext", true);
	Oid relid =
		OidIsValid(namespace) ? get_relname_relid(table, namespace) : InvalidOid;

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(GN_ERRCODE_NOT_CONFIGURED),
				 errmsg("extension \"grownext\" is not installed in this database"),
				 errhint("CREATE EXTENSION grownext;")));
	return relid;
}

void
gn_table_scan(const char *table, Snapshot snapshot, GnRowReader read, void *arg)
{
	Relation relation;
	TupleTableSlot *slot;
	TableScanDesc scan;

	gn_require_sql_version();
	relation = table_open(table_oid(table), AccessShareLock);
	snapshot = RegisterSnapshot(snapshot);
	slot = table_slot_create(relation, NULL);
	scan = table_beginscan(relation, snapshot, 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		read(slot, arg);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);
}

Datum
gn_row_value(TupleTableSlot *row, const char *column, bool *isnull)
{
	TupleDesc desc = row->tts_tupleDescriptor;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (!attribute->attisdropped &&
			strcmp(NameStr(attribute->attname), column) == 0)
			return slot_getattr(row, i + 1, isnull);
	}
	*isnull = true;
	return (Datum) 0;
}
