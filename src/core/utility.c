/*
 * src/core/utility.c
 *	  Commands that concern our workers: on databases, and on the extension.
 *
 * Postgres refuses DROP DATABASE, CREATE DATABASE ... TEMPLATE, ALTER DATABASE
 * RENAME and SET TABLESPACE while a session is in the database, and a worker is
 * one. Before such a command the workers of that database leave and stay away until
 * its transaction ends; then the launcher brings them back. Only for a caller who
 * passes the ownership check of the command: nobody else stops anything.
 *
 * Commands on the extension make its workers look again at commit, and so does COMMIT
 * PREPARED. They would notice anyway, at their next tick or by an error; this is sooner
 * and quieter.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"

#include "core/core.h"
#include "core/workers.h"

static ProcessUtility_hook_type previous_utility = NULL;

static bool
may_create_databases(void)
{
	HeapTuple tuple;
	bool may = superuser();

	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (HeapTupleIsValid(tuple))
	{
		may |= ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return may;
}

static const char *
string_option(List *options, const char *name)
{
	ListCell *cell;

	foreach (cell, options)
	{
		DefElem *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0 && option->arg)
			return defGetString(option);
	}
	return NULL;
}

/* The database that the command needs without sessions, or NULL. */
static const char *
database_to_clear(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			return castNode(DropdbStmt, statement)->dbname;
		case T_CreatedbStmt:
		{
			const char *name =
				string_option(castNode(CreatedbStmt, statement)->options, "template");

			return may_create_databases() ? (name ? name : "template1") : NULL;
		}
		case T_AlterDatabaseStmt:
		{
			AlterDatabaseStmt *alter = castNode(AlterDatabaseStmt, statement);

			return string_option(alter->options, "tablespace") ? alter->dbname : NULL;
		}
		case T_RenameStmt:
		{
			RenameStmt *rename = castNode(RenameStmt, statement);

			return rename->renameType == OBJECT_DATABASE && may_create_databases()
					   ? rename->subname
					   : NULL;
		}
		default:
			return NULL;
	}
}

static void
clear_database(Node *statement)
{
	const char *name = database_to_clear(statement);
	Oid database;

	if (name == NULL)
		return;
	database = get_database_oid(name, true);
	if (!OidIsValid(database) || !gn_is_database_owner(database, GetUserId()))
		return;
	/* Of these commands only a copy can be made from inside. */
	if (database == MyDatabaseId && !IsA(statement, CreatedbStmt))
		return;
	gn_database_block(database);
}

static bool
names_extension(List *objects)
{
	ListCell *cell;

	foreach (cell, objects)
	{
		if (IsA(lfirst(cell), String) && strcmp(strVal(lfirst(cell)), "grownext") == 0)
			return true;
	}
	return false;
}

/* What has to happen at the commit of the command. */
static void
plan_wakeups(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_CreatedbStmt:
		case T_RenameStmt:
		case T_AlterDatabaseStmt:
			if (!IsA(statement, RenameStmt) ||
				castNode(RenameStmt, statement)->renameType == OBJECT_DATABASE)
				gn_worker_scan_at_commit();
			break;
		case T_CreateExtensionStmt:
			if (strcmp(castNode(CreateExtensionStmt, statement)->extname, "grownext") ==
				0)
				gn_worker_recheck_at_commit();
			break;
		case T_AlterExtensionStmt:
			if (strcmp(castNode(AlterExtensionStmt, statement)->extname, "grownext") ==
				0)
				gn_worker_recheck_at_commit();
			break;
		case T_DropStmt:
		{
			DropStmt *drop = castNode(DropStmt, statement);

			if (drop->removeType == OBJECT_SCHEMA ||
				(drop->removeType == OBJECT_EXTENSION &&
				 names_extension(drop->objects)))
				gn_worker_recheck_at_commit();
			break;
		}
		case T_DropOwnedStmt:
			gn_worker_recheck_at_commit();
			break;
		case T_TransactionStmt:
			/* What was prepared may have enqueued, in a session that is long gone. */
			if (castNode(TransactionStmt, statement)->kind ==
				TRANS_STMT_COMMIT_PREPARED)
				gn_worker_prepared_at_commit();
			break;
		default:
			break;
	}
}

static void
watch_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
			  ProcessUtilityContext context, ParamListInfo params,
			  QueryEnvironment *environment, DestReceiver *dest,
			  QueryCompletion *completion)
{
	Node *statement = pstmt->utilityStmt;

	if (!RecoveryInProgress())
	{
		clear_database(statement);
		plan_wakeups(statement);
	}
	if (previous_utility)
		previous_utility(pstmt, query, read_only_tree, context, params, environment,
						 dest, completion);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params,
								environment, dest, completion);
}

void
gn_utility_init(void)
{
	if (!gn_preloaded || IsBinaryUpgrade)
		return;
	previous_utility = ProcessUtility_hook;
	ProcessUtility_hook = watch_utility;
}
