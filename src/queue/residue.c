/*
 * src/queue/residue.c
 *	  What the code of a job leaves in its transaction and session.
 *
 * The next job may be another tenant's, and in the same transaction. Whatever it could
 * see of the one before is undone between the two, or ends the transaction:
 *
 *	deferred triggers	have fired; SET CONSTRAINTS is forgotten
 *	large objects		are closed
 *	prepared statements, sequence caches, the seed of random(): as DISCARD ALL does
 *	temporary objects	end the transaction, and are dropped after it
 *	advisory locks		end the transaction, and the session's are freed after it
 *	NOTIFY			ends the transaction: two that are alike would become one
 *
 * Settings, context, cursors and the time limit are undone where the job is run.
 *
 * The server tells nobody which advisory locks or notifications a transaction has, so
 * we look at what the job calls. Every expression of SQL and of the procedural
 *languages passes the hook when it is made ready in a transaction; functions that are
 *called without an expression are those of index and type support, which are none of
 *these.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_proc.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "common/pg_prng.h"
#include "libpq/be-fsstubs.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "queue/residue.h"

static int noticed = 0; /* since the job began */
static object_access_hook_type previous_access = NULL;
static ProcessUtility_hook_type previous_utility = NULL;

static void
watch_function(ObjectAccessType access, Oid class_id, Oid object, int sub_id, void *arg)
{
	if (access == OAT_FUNCTION_EXECUTE && class_id == ProcedureRelationId)
	{
		if (object == F_PG_NOTIFY)
			noticed |= GN_RESIDUE_NOTICES;
		else if ((object >= F_PG_ADVISORY_LOCK_INT8 &&
				  object <= F_PG_ADVISORY_UNLOCK_ALL) ||
				 (object >= F_PG_ADVISORY_XACT_LOCK_INT8 &&
				  object <= F_PG_TRY_ADVISORY_XACT_LOCK_SHARED_INT4_INT4))
			noticed |= GN_RESIDUE_LOCKS;
	}
	if (previous_access)
		previous_access(access, class_id, object, sub_id, arg);
}

static void
watch_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
			  ProcessUtilityContext context, ParamListInfo params,
			  QueryEnvironment *environment, DestReceiver *dest,
			  QueryCompletion *completion)
{
	if (IsA(pstmt->utilityStmt, NotifyStmt))
		noticed |= GN_RESIDUE_NOTICES;
	if (previous_utility)
		previous_utility(pstmt, query, read_only_tree, context, params, environment,
						 dest, completion);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params,
								environment, dest, completion);
}

/* Only executors need the hooks, and they keep them. */
static void
set_hooks(void)
{
	static bool set = false;

	if (set)
		return;
	previous_access = object_access_hook;
	object_access_hook = watch_function;
	previous_utility = ProcessUtility_hook;
	ProcessUtility_hook = watch_utility;
	set = true;
}

void
gn_residue_begin(void)
{
	set_hooks();
	noticed = 0;
}

bool
gn_residue_has_locks(void)
{
	return (noticed & GN_RESIDUE_LOCKS) != 0;
}

static void
forget_session_state(void)
{
	double seed = 2 * pg_prng_double(&pg_global_prng_state) - 1;

	DropAllPreparedStatements();
	ResetSequenceCaches();
	DirectFunctionCall1(setseed, Float8GetDatum(seed));
}

int
gn_residue_end(void)
{
	/* As a commit does, which has fired them by then. */
	AfterTriggerEndXact(true);
	AfterTriggerBeginXact();
	AtEOXact_LargeObject(true);
	forget_session_state();
	if (MyXactFlags & XACT_FLAGS_ACCESSEDTEMPNAMESPACE)
		noticed |= GN_RESIDUE_TEMPORARY;
	return noticed;
}

void
gn_residue_clear_session(bool temporary)
{
	forget_session_state();
	if (!temporary)
		return;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	ResetTempTableNamespace();
	PopActiveSnapshot();
	CommitTransactionCommand();
}
