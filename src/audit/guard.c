/*
 * src/audit/guard.c
 *	  Refuses what the log's triggers cannot: a superuser's DDL, and changes made
 *	  after somebody has got at the triggers in the catalogue.
 *
 * Triggers that fire ALWAYS refuse UPDATE, DELETE and TRUNCATE for everybody, also
 * under session_replication_role = replica and without preload. What is left is to
 * take the triggers, the table or its name away. The hooks here refuse that in
 * every session of a preloaded server, superusers included. They are no wall
 * against whoever may write the server's files or load another library: against
 * those the promise is evidence. What maintenance and pg_restore do passes: COPY,
 * VACUUM, REINDEX, CREATE INDEX, our own triggers, ownership, TRUNCATE of an empty
 * table. DROP EXTENSION ... CASCADE drops the triggers and leaves the rows.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "commands/extension.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parse_func.h"
#include "storage/bufmgr.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"

#include "audit/log.h"
#include "core/core.h"

static bool enforce = true;
static bool hooked = false;
static bool dropping_extension = false;

static ProcessUtility_hook_type next_utility = NULL;
static object_access_hook_type previous_access = NULL;
static ExecutorCheckPerms_hook_type previous_check_perms = NULL;

bool
gn_audit_guarded(void)
{
	return hooked && enforce;
}

/* Is the guard on duty in this place? Binary upgrade rebuilds the catalogue as it was.
 */
static bool
on_duty(void)
{
	return enforce && !gn_audit_log_making && !IsBinaryUpgrade &&
		   OidIsValid(MyDatabaseId);
}

static void
refuse(const char *what)
{
	ereport(ERROR,
			(errcode(GN_ERRCODE_AUDIT_APPEND_ONLY),
			 errmsg("the audit log cannot be changed"), errdetail("Refused: %s.", what),
			 errhint("For development only: start the server with "
					 "grownext.audit_enforce = off.")));
}

static bool
names_log(const RangeVar *relation)
{
	return relation && gn_audit_log_owns(RangeVarGetRelid(relation, NoLock, true));
}

/* What pg_restore and maintenance need; everything else changes what the log is. */
static bool
alteration_is_harmless(const AlterTableCmd *command)
{
	switch (command->subtype)
	{
		case AT_AddConstraint:
		case AT_AddIndex:
		case AT_ClusterOn:
		case AT_ColumnDefault:
		case AT_DropCluster:
		case AT_DropInherit:
		case AT_EnableAlwaysTrig:
		case AT_ReplicaIdentity:
		case AT_ResetRelOptions:
		case AT_SetOptions:
		case AT_SetRelOptions:
		case AT_SetStatistics:
		case AT_SetStorage:
		case AT_SetTableSpace:
		case AT_ValidateConstraint:
			return true;
		case AT_ChangeOwner:
			return get_rolespec_oid(command->newowner, true) ==
				   get_role_oid("grownext_owner", true);
		default:
			return false;
	}
}

/* A parent's rows include its children's: neither may the log be somebody's child,
 * nor events be in a table that anybody can change. */
static bool
alteration_adopts_log(const AlterTableCmd *command)
{
	switch (command->subtype)
	{
		case AT_AddInherit:
			return names_log(castNode(RangeVar, command->def));
		case AT_AttachPartition:
			return names_log(castNode(PartitionCmd, command->def)->name);
		default:
			return false;
	}
}

static void
check_alter_table(const AlterTableStmt *statement)
{
	bool log = names_log(statement->relation);
	ListCell *cell;

	foreach (cell, statement->cmds)
	{
		if (log && !alteration_is_harmless(lfirst(cell)))
			refuse("ALTER TABLE of the log");
		if (alteration_adopts_log(lfirst(cell)))
			refuse("ALTER TABLE ... INHERIT or ATTACH PARTITION with the log");
	}
}

static void
check_create_table(const CreateStmt *statement)
{
	ListCell *cell;

	foreach (cell, statement->inhRelations)
	{
		if (names_log(lfirst_node(RangeVar, cell)))
			refuse("CREATE TABLE ... INHERITS the log");
	}
}

static bool
log_exists(void)
{
	return gn_audit_log_owns(gn_audit_log_oid());
}

/* The log is known by its owner: whoever takes it from him would blind us. */
static bool
is_owner(const RoleSpec *role)
{
	Oid owner = get_role_oid("grownext_owner", true);

	return OidIsValid(owner) && get_rolespec_oid(role, true) == owner;
}

static void
check_reassign(const ReassignOwnedStmt *statement)
{
	ListCell *cell;

	foreach (cell, statement->roles)
	{
		if (is_owner(lfirst_node(RoleSpec, cell)) && !is_owner(statement->newrole) &&
			log_exists())
			refuse("REASSIGN OWNED BY the log's owner");
	}
}

static void
check_owner(const AlterOwnerStmt *statement)
{
	if (statement->objectType == OBJECT_SCHEMA && !is_owner(statement->newowner) &&
		strcmp(strVal(statement->object), GN_AUDIT_SCHEMA) == 0 && log_exists())
		refuse("ALTER SCHEMA " GN_AUDIT_SCHEMA " OWNER");
}

/* A dump leaves out what members hold. */
static void
check_membership(const AlterExtensionContentsStmt *statement)
{
	bool log = false;

	if (statement->objtype == OBJECT_SCHEMA)
		log = strcmp(strVal(statement->object), GN_AUDIT_SCHEMA) == 0 && log_exists();
	else if (statement->objtype == OBJECT_TABLE ||
			 statement->objtype == OBJECT_SEQUENCE)
		log = names_log(makeRangeVarFromNameList(castNode(List, statement->object)));
	if (log)
		refuse("ALTER EXTENSION ... ADD or DROP of the log");
}

/* The triggers' function is replaced by CREATE and ALTER EXTENSION alone. */
static void
check_create_function(const CreateFunctionStmt *statement)
{
	Oid namespace;
	char *name;

	if (!statement->replace || creating_extension || !log_exists())
		return;
	namespace = QualifiedNameGetCreationNamespace(statement->funcname, &name);
	if (strcmp(name, "audit_refuse") == 0 &&
		namespace == get_namespace_oid("_grownext", true))
		refuse("CREATE OR REPLACE of the function of the log's triggers");
}

/* Our own triggers come back from a dump; any other could swallow events. */
static void
check_create_trigger(const CreateTrigStmt *statement)
{
	Oid function;

	if (!names_log(statement->relation))
		return;
	function = LookupFuncName(statement->funcname, 0, NULL, true);
	if (OidIsValid(function) &&
		function == LookupFuncName(list_make2(makeString("_grownext"),
											  makeString("audit_refuse")),
								   0, NULL, true) &&
		(strcmp(statement->trigname, GN_AUDIT_ROW_TRIGGER) == 0 ||
		 strcmp(statement->trigname, GN_AUDIT_TRUNCATE_TRIGGER) == 0))
		return;
	refuse("CREATE TRIGGER on the log");
}

static void
check_rename(const RenameStmt *statement)
{
	if (statement->renameType == OBJECT_SCHEMA)
	{
		if (strcmp(statement->subname, GN_AUDIT_SCHEMA) == 0 && log_exists())
			refuse("ALTER SCHEMA " GN_AUDIT_SCHEMA " RENAME");
	}
	else if (statement->renameType == OBJECT_ROLE)
	{
		/* in whichever database the log is */
		if (strcmp(statement->subname, "grownext_owner") == 0)
			refuse("RENAME of the log's owner");
	}
	else if (names_log(statement->relation))
		refuse("ALTER ... RENAME of the log");
}

static void
check_utility(const Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_AlterTableStmt:
			check_alter_table((const AlterTableStmt *) statement);
			break;
		case T_AlterSeqStmt:
			if (names_log(((const AlterSeqStmt *) statement)->sequence))
				refuse("ALTER SEQUENCE of the log");
			break;
		case T_CreateStmt:
		case T_CreateForeignTableStmt: /* begins with a CreateStmt */
			check_create_table((const CreateStmt *) statement);
			break;
		case T_ReassignOwnedStmt:
			check_reassign((const ReassignOwnedStmt *) statement);
			break;
		case T_AlterOwnerStmt:
			check_owner((const AlterOwnerStmt *) statement);
			break;
		case T_AlterExtensionContentsStmt:
			check_membership((const AlterExtensionContentsStmt *) statement);
			break;
		case T_CreateFunctionStmt:
			check_create_function((const CreateFunctionStmt *) statement);
			break;
		case T_CreateTrigStmt:
			check_create_trigger((const CreateTrigStmt *) statement);
			break;
		case T_RenameStmt:
			check_rename((const RenameStmt *) statement);
			break;
		case T_AlterObjectSchemaStmt:
			if (names_log(((const AlterObjectSchemaStmt *) statement)->relation))
				refuse("ALTER ... SET SCHEMA of the log");
			break;
		case T_RuleStmt:
			if (names_log(((const RuleStmt *) statement)->relation))
				refuse("CREATE RULE on the log");
			break;
		default:
			break;
	}
}

static bool
drops_our_extension(const Node *statement)
{
	ListCell *cell;

	if (!IsA(statement, DropStmt) ||
		((const DropStmt *) statement)->removeType != OBJECT_EXTENSION)
		return false;
	foreach (cell, ((const DropStmt *) statement)->objects)
	{
		if (strcmp(strVal(lfirst(cell)), "grownext") == 0)
			return true;
	}
	return false;
}

static void
guard_utility(PlannedStmt *plan, const char *source, bool read_only_tree,
			  ProcessUtilityContext context, ParamListInfo params,
			  QueryEnvironment *environment, DestReceiver *dest,
			  QueryCompletion *completion)
{
	bool outer = dropping_extension;

	if (!on_duty() || !IsTransactionState())
	{
		next_utility(plan, source, read_only_tree, context, params, environment, dest,
					 completion);
		return;
	}
	check_utility(plan->utilityStmt);
	if (!drops_our_extension(plan->utilityStmt))
	{
		next_utility(plan, source, read_only_tree, context, params, environment, dest,
					 completion);
		return;
	}
	dropping_extension = true;
	PG_TRY();
	{
		next_utility(plan, source, read_only_tree, context, params, environment, dest,
					 completion);
	}
	PG_FINALLY();
	{
		dropping_extension = outer;
	}
	PG_END_TRY();
}

static Oid
trigger_relation(Oid trigger)
{
	Relation catalog = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	Oid relid = InvalidOid;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(trigger));
	scan = systable_beginscan(catalog, TriggerOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		relid = ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid;
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return relid;
}

static bool
relation_is_empty(Oid relid)
{
	Relation relation = table_open(relid, NoLock); /* TRUNCATE holds its lock */
	bool empty = RelationGetNumberOfBlocks(relation) == 0;

	table_close(relation, NoLock);
	return empty;
}

static void
guard_access(ObjectAccessType access, Oid class, Oid object, int sub, void *arg)
{
	if (previous_access)
		previous_access(access, class, object, sub, arg);
	if ((access != OAT_DROP && access != OAT_TRUNCATE) || !on_duty())
		return;
	if (class == RelationRelationId && gn_audit_log_owns(object))
	{
		if (access == OAT_DROP)
			refuse("DROP of the log");
		if (!relation_is_empty(object))
			refuse("TRUNCATE of the log");
	}
	else if (class == TriggerRelationId && access == OAT_DROP && !dropping_extension &&
			 gn_audit_log_owns(trigger_relation(object)))
		refuse("DROP TRIGGER on the log");
}

static bool
guard_check_perms(GN_CHECK_PERMS_PARAMETERS)
{
	ListCell *cell;

	foreach (cell, GN_CHECK_PERMS_LIST)
	{
		const GnPermissionInfo *info = lfirst(cell);

		if ((info->requiredPerms & (ACL_UPDATE | ACL_DELETE)) && on_duty() &&
			info->relid == gn_audit_log_oid() && gn_audit_log_owns(info->relid))
			refuse("UPDATE or DELETE of events");
	}
	return previous_check_perms == NULL ||
		   previous_check_perms(GN_CHECK_PERMS_ARGUMENTS);
}

void
gn_audit_guard_init(void)
{
	if (!gn_preloaded)
		return;
	DefineCustomBoolVariable("grownext.audit_enforce",
							 "Refuses changes of the audit log to superusers too.",
							 "Off is for development: triggers remain, hooks do not.",
							 &enforce, true, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	next_utility = ProcessUtility_hook ? ProcessUtility_hook : standard_ProcessUtility;
	ProcessUtility_hook = guard_utility;
	previous_access = object_access_hook;
	object_access_hook = guard_access;
	previous_check_perms = ExecutorCheckPerms_hook;
	ExecutorCheckPerms_hook = guard_check_perms;
	hooked = true;
}
