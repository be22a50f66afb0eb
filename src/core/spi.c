/*
 * src/core/spi.c
 *	  Prepared, qualified queries, run as the extension's owner.
 *
 * Every table of ours is read and written through here or through a definer
 * function. The user and search_path are switched for the query alone: a plan is
 * analysed again under whatever path is in force when it is revalidated, so the
 * caller's path must never be.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "commands/extension.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "core/core.h"

GN_FUNCTION(gn_extension_version);

/* ALTER EXTENSION UPDATE ends with a message for this marker. */
static GnMarker extension_marker = {.name = "core_marker_extension"};
static uint64 checked_generation = 0;

/* Compares versions part by part as numbers: -1, 0, 1. A missing part is 0. */
static int
compare_versions(const char *a, const char *b)
{
	while (*a || *b)
	{
		long left = strtol(a, (char **) &a, 10);
		long right = strtol(b, (char **) &b, 10);

		if (left != right)
			return left < right ? -1 : 1;
		if (*a == '.')
			a++;
		else if (*a)
			break; /* a suffix such as -dev does not count */
		if (*b == '.')
			b++;
		else if (*b)
			break;
	}
	return 0;
}

/* The version of the SQL objects in this database, palloc'd, or NULL. */
static char *
sql_version(void)
{
	Relation catalog = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	char *version = NULL;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("grownext"));
	/* a handful of rows, and the index would have to be opened first */
	scan = systable_beginscan(catalog, InvalidOid, false, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool isnull;
		Datum datum = heap_getattr(tuple, Anum_pg_extension_extversion,
								   RelationGetDescr(catalog), &isnull);

		if (!isnull)
			version = TextDatumGetCString(datum);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return version;
}

Oid
gn_extension_oid(void)
{
	return get_extension_oid("grownext", true);
}

/* The library runs with the SQL of earlier versions, so that an upgrade of many
 * databases can take its time. */
void
gn_require_sql_version(void)
{
	uint64 generation;
	char *version;

	if (creating_extension)
		return; /* the script's own statements */
	generation = gn_marker_generation(&extension_marker);
	if (generation == checked_generation)
		return;
	version = sql_version();
	if (version == NULL)
		ereport(ERROR,
				(errcode(GN_ERRCODE_NOT_CONFIGURED),
				 errmsg("extension \"grownext\" is not installed in this database"),
				 errhint("CREATE EXTENSION grownext;")));
	if (compare_versions(version, GN_VERSION) > 0)
		ereport(ERROR,
				(errcode(GN_ERRCODE_SQL_VERSION),
				 errmsg("grownext's SQL objects are of version %s, newer than the "
						"loaded library %s",
						version, GN_VERSION),
				 errhint("Install the library of version %s and restart the server.",
						 version)));
	pfree(version);
	checked_generation = gn_marker_generation(&extension_marker);
}

Oid
gn_extension_owner(void)
{
	Oid namespace;
	HeapTuple tuple;
	Oid owner;

	gn_require_sql_version();
	namespace = get_namespace_oid("_grownext", true);
	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(namespace));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(GN_ERRCODE_NOT_CONFIGURED),
				 errmsg("extension \"grownext\" is not installed in this database"),
				 errhint("CREATE EXTENSION grownext;")));
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

void
gn_spi_begin(GnSpi *spi)
{
	Oid owner = gn_extension_owner();

	GetUserIdAndSecContext(&spi->user, &spi->sec_context);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	spi->guc_level = NewGUCNestLevel();
	SetUserIdAndSecContext(owner, spi->sec_context | SECURITY_LOCAL_USERID_CHANGE);
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

void
gn_spi_end(GnSpi *spi)
{
	AtEOXact_GUC(true, spi->guc_level);
	SetUserIdAndSecContext(spi->user, spi->sec_context);
	SPI_finish();
}

uint64
gn_spi_execute(GnQuery *query, const Datum *values, const char *nulls, bool read_only)
{
	int result;

	if (query->plan == NULL)
	{
		SPIPlanPtr plan = SPI_prepare(query->sql, query->nargs, query->argtypes);

		if (plan == NULL)
			elog(ERROR, "could not prepare \"%s\": %s", query->sql,
				 SPI_result_code_string(SPI_result));
		if (SPI_keepplan(plan) != 0)
			elog(ERROR, "could not keep the plan of \"%s\"", query->sql);
		query->plan = plan;
	}
	result =
		SPI_execute_plan(query->plan, unconstify(Datum *, values), nulls, read_only, 0);
	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s", query->sql,
			 SPI_result_code_string(result));
	return SPI_processed;
}

/* SQL: grownext.extension_version() */
Datum
gn_extension_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(GN_VERSION));
}

void
gn_spi_init(void)
{
	gn_marker_register(&extension_marker);
}
