/*
 * src/entitlement/recount.c
 *	  Counts the rows of protected tables anew.
 *
 * Rows come and go without triggers, too: when a table is protected that has some, when
 * a partition is attached or a table dropped, when somebody disabled a trigger. A
 * recount locks every table that counts for the feature against writers, and makes the
 * counters say what is there.
 *
 * The tables are not ours. They are read as their owner, in a security-restricted
 * operation, as the server's own maintenance does; the owner's row security stands
 * aside, because a row that a policy hides is a row all the same.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "entitlement/limit.h"

GN_FUNCTION(gn_limit_recount);

/* The names come quoted from the catalogue. */
static void
read_units(Relation relation, const char *column, bool only, int64 change, HTAB *units)
{
	const char *name = quote_identifier(column);
	char *sql =
		psprintf("SELECT %s, count(*) FROM %s%s WHERE %s IS NOT NULL GROUP BY 1", name,
				 only ? "ONLY " : "",
				 quote_qualified_identifier(get_namespace_name(
												RelationGetNamespace(relation)),
											RelationGetRelationName(relation)),
				 name);

	if (SPI_execute(sql, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not count the rows of \"%s\"",
			 RelationGetRelationName(relation));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool isnull;
		Datum tenant =
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);
		Datum rows =
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull);

		gn_units_add(units, DatumGetUUIDP(tenant), change * DatumGetInt64(rows));
	}
}

void
gn_limit_read(Relation relation, const char *column, bool only, int64 change,
			  HTAB *units)
{
	int guc_level = NewGUCNestLevel();
	Oid user;
	int sec_context;

	(void) gn_limit_column(relation, column);
	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(relation->rd_rel->relowner,
						   sec_context | SECURITY_RESTRICTED_OPERATION |
							   SECURITY_NOFORCE_RLS);
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetLatestSnapshot());
	read_units(relation, column, only, change, units);
	PopActiveSnapshot();
	SPI_finish();
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(user, sec_context);
}

typedef struct Source
{
	Oid relation;
	char *column;
} Source;

/* The tables that count for a feature, those below another one left out. */
static Source *
find_sources(int feature, MemoryContext memory, int *count)
{
	static GnQuery query =
		GN_QUERY("SELECT r.relation, r.tenant_column"
				 " FROM _grownext.entitlement_limit_root($1) AS r ORDER BY r.relation",
				 INT4OID);
	Datum values[1] = {Int32GetDatum(feature)};
	Source *sources;

	*count = (int) gn_spi_execute(&query, values, NULL, false);
	sources = MemoryContextAlloc(memory, (*count + 1) * sizeof(Source));
	for (int i = 0; i < *count; i++)
	{
		bool isnull;

		sources[i].relation = DatumGetObjectId(
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
		sources[i].column =
			MemoryContextStrdup(memory, SPI_getvalue(SPI_tuptable->vals[i],
													 SPI_tuptable->tupdesc, 2));
	}
	return sources;
}

/* Makes the counters of a feature say so; how many did not. */
static int64
write_counters(int feature, HTAB *units)
{
	static GnQuery query =
		GN_QUERY("SELECT _grownext.entitlement_gauge_put($1, $2, $3)", INT4OID,
				 UUIDARRAYOID, INT8ARRAYOID);
	int count;
	GnUnits *sorted = gn_units_sorted(units, &count);
	Datum *tenants = palloc((count + 1) * sizeof(Datum));
	Datum *used = palloc((count + 1) * sizeof(Datum));
	Datum values[3];
	bool isnull;

	for (int i = 0; i < count; i++)
	{
		tenants[i] = UUIDPGetDatum(&sorted[i].tenant);
		used[i] = Int64GetDatum(sorted[i].change);
	}
	values[0] = Int32GetDatum(feature);
	values[1] = PointerGetDatum(
		construct_array(tenants, count, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	values[2] = PointerGetDatum(
		construct_array(used, count, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	if (gn_spi_execute(&query, values, NULL, false) != 1)
		elog(ERROR, "the counters of feature %d could not be written", feature);
	return DatumGetInt64(
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* SQL: _grownext.entitlement_gauge_recount(feature_id int) */
Datum
gn_limit_recount(PG_FUNCTION_ARGS)
{
	int feature = PG_GETARG_INT32(0);
	HTAB *units = gn_units_create();
	MemoryContext memory = CurrentMemoryContext;
	Source *sources;
	int64 changed;
	int count;
	GnSpi spi;

	gn_spi_begin(&spi);
	sources = find_sources(feature, memory, &count);
	for (int i = 0; i < count; i++)
	{
		/* writers wait, and those before us are done */
		Relation relation = try_table_open(sources[i].relation, ShareRowExclusiveLock);

		if (relation == NULL)
			continue; /* dropped meanwhile */
		gn_limit_read(relation, sources[i].column, false, 1, units);
		table_close(relation, NoLock);
	}
	changed = write_counters(feature, units);
	gn_spi_end(&spi);
	hash_destroy(units);
	PG_RETURN_INT64(changed);
}
