/*
 * src/tenant/purge.c
 *	  Takes a tenant's rows out of a table of the application.
 *
 * The table is not ours, and neither are its triggers: what runs here runs as the
 * table's owner, in a security-restricted operation, as the server's own maintenance
 * does. The platform's owner would lend its rights to whoever can put a trigger on a
 * table. The owner's row security stands aside, because a row that a policy hides is
 * left over all the same. Whatever would run at commit is refused by the server; the
 * caller has set all constraints immediate.
 *
 * A trigger that never ends would stop all that the scheduler does, so there is a time
 * limit.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timeout.h"

#include "core/core.h"

GN_FUNCTION(gn_tenant_purge_rows);

#define TIME_LIMIT_MS 60000

static uint64
run(const char *sql, int nargs, Datum *values, int expected)
{
	Oid types[] = {UUIDOID, INT4OID};
	int result = SPI_execute_with_args(sql, nargs, types, values, NULL, false, 0);

	if (result != expected)
		elog(ERROR, "could not purge: %s", SPI_result_code_string(result));
	return SPI_processed;
}

/* As the owner; the names come quoted from the catalogue. */
static uint64
purge(const char *table, const char *column, Datum tenant, bool delete, int32 most)
{
	Datum values[2] = {tenant, Int32GetDatum(most)};
	char *rows = psprintf("ctid = ANY (ARRAY(SELECT ctid FROM ONLY %s WHERE %s = $1 "
						  "LIMIT $2))",
						  table, column);
	uint64 gone;

	if (delete)
		gone = run(psprintf("DELETE FROM ONLY %s WHERE %s", table, rows), 2, values,
				   SPI_OK_DELETE);
	else
		gone =
			run(psprintf("UPDATE ONLY %s SET %s = NULL WHERE %s", table, column, rows),
				2, values, SPI_OK_UPDATE);
	if (gone == 0 &&
		run(psprintf("SELECT FROM ONLY %s WHERE %s = $1 LIMIT 1", table, column), 1,
			values, SPI_OK_SELECT) > 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("rows of %s stay although they were deleted", table),
						errdetail("A trigger prevents it, or somebody changes them at "
								  "the same time.")));
	return gone;
}

static void
purge_as_owner(Relation relation, const char *column, Datum tenant, bool delete,
			   int32 most, uint64 *gone)
{
	const char *table =
		quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
								   RelationGetRelationName(relation));
	int guc_level = NewGUCNestLevel();
	Oid user;
	int sec_context;
	bool limited = !get_timeout_active(STATEMENT_TIMEOUT);

	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(relation->rd_rel->relowner,
						   sec_context | SECURITY_RESTRICTED_OPERATION |
							   SECURITY_NOFORCE_RLS);
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	if (limited)
		enable_timeout_after(STATEMENT_TIMEOUT, TIME_LIMIT_MS);
	PG_TRY();
	{
		*gone = purge(table, quote_identifier(column), tenant, delete, most);
	}
	PG_FINALLY();
	{
		if (limited)
			disable_timeout(STATEMENT_TIMEOUT, false);
	}
	PG_END_TRY();
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(user, sec_context);
}

/*
 * SQL: _grownext.tenant_purge_rows(relation oid, column_name name, tenant_id uuid,
 * action text, most int)
 */
Datum
gn_tenant_purge_rows(PG_FUNCTION_ARGS)
{
	Relation relation = try_table_open(PG_GETARG_OID(0), RowExclusiveLock);
	char *column = NameStr(*PG_GETARG_NAME(1));
	bool delete = strcmp(text_to_cstring(PG_GETARG_TEXT_PP(3)), "delete") == 0;
	uint64 gone = 0;

	if (relation == NULL)
		PG_RETURN_INT64(0); /* dropped meanwhile */
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	purge_as_owner(relation, column, PG_GETARG_DATUM(2), delete, PG_GETARG_INT32(4),
				   &gone);
	SPI_finish();
	table_close(relation, NoLock);
	PG_RETURN_INT64((int64) gone);
}
