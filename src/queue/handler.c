/*
 * src/queue/handler.c
 *	  The function that works a queue, and whose rights it has.
 *
 * A handler runs as a role that owns it and is no superuser, so whoever can change
 * what the function does already is that role. Names are stored, not OIDs, and all
 * is checked again for every job: a function that was dropped and made anew by
 * somebody else, or a role that became superuser, does not run.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "core/core.h"
#include "queue/definition.h"
#include "queue/handler.h"
#include "queue/lock.h"

GN_FUNCTION(gn_queue_handle);

#define RESOLVE_HINT "Register a handler with grownext.queue_handle()."

Oid
gn_job_type(void)
{
	Oid type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("job"),
							   ObjectIdGetDatum(get_namespace_oid("grownext", false)));

	if (!OidIsValid(type))
		elog(ERROR, "type grownext.job is missing");
	return type;
}

static void
check_role(const char *queue, Oid role)
{
	const char *name = GetUserNameFromId(role, false);

	if (superuser_arg(role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the handler of queue \"%s\" cannot run as superuser \"%s\"",
						queue, name),
				 errhint("Name a role that owns the function: queue_handle(%s, ..., "
						 "run_as => 'app_role').",
						 quote_literal_cstr(queue))));
	if (!gn_queue_is_internal(queue) && role == gn_extension_owner())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("the handler of queue \"%s\" cannot run as \"%s\"",
							   queue, name),
						errhint("Name a role of the application.")));
}

static void
check_provenance(const char *queue, const char *name, Oid function)
{
	Oid extension = getExtensionOfObject(ProcedureRelationId, function);

	if (gn_queue_is_internal(queue) && extension == gn_extension_oid())
		return;
	if (function < FirstNormalObjectId || OidIsValid(extension))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("function %s belongs to the system or an extension", name),
				 errhint("Write a function of the application that calls it.")));
}

/* What a handler may look like, and who must own it. */
static void
check_function(const char *queue, const char *name, Oid role, GnHandler *handler)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(handler->function));
	Form_pg_proc proc;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("handler %s of queue \"%s\" does not exist", name, queue),
				 errhint(RESOLVE_HINT)));
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	if (proc->prokind != PROKIND_FUNCTION || proc->proretset || proc->pronargs != 1 ||
		(proc->proargtypes.values[0] != JSONBOID &&
		 proc->proargtypes.values[0] != gn_job_type()) ||
		(proc->prorettype != VOIDOID && proc->prorettype != JSONBOID))
		ereport(ERROR, (errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
						errmsg("function %s cannot handle jobs", name),
						errhint("A handler is a function of one argument, payload "
								"jsonb or job grownext.job, "
								"that returns void or jsonb.")));
	if (proc->proowner != role)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("handler %s of queue \"%s\" is not owned by role \"%s\"",
							   name, queue, GetUserNameFromId(role, false)),
						errhint("A handler runs as its owner: ALTER FUNCTION ... OWNER "
								"TO, or name another run_as.")));
	if (gn_proc_aclcheck(handler->function, role) != ACLCHECK_OK)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("role \"%s\" may not execute handler %s of queue \"%s\"",
							   GetUserNameFromId(role, false), name, queue),
						errhint("GRANT EXECUTE ON FUNCTION %s TO %s;", name,
								quote_identifier(GetUserNameFromId(role, false)))));
	handler->takes_job = proc->proargtypes.values[0] != JSONBOID;
	handler->returns_void = proc->prorettype == VOIDOID;
	handler->role = role;
	ReleaseSysCache(tuple);
	check_provenance(queue, name, handler->function);
}

void
gn_handler_resolve(const GnQueue *queue, GnHandler *handler)
{
	Oid argument = queue->handler_takes_job ? gn_job_type() : JSONBOID;
	Oid role = get_role_oid(queue->run_as, true);

	if (!OidIsValid(role))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("role \"%s\", which works queue \"%s\", does not exist",
							   queue->run_as, queue->name),
						errhint(RESOLVE_HINT)));
	check_role(queue->name, role);
	handler->function =
		LookupFuncName(textToQualifiedNameList(cstring_to_text(queue->handler)), 1,
					   &argument, true);
	check_function(queue->name, queue->handler, role, handler);
}

static char *
qualified_name(Oid function)
{
	return quote_qualified_identifier(get_namespace_name(get_func_namespace(function)),
									  get_func_name(function));
}

static void
store_handler(const char *queue, const GnHandler *handler)
{
	static GnQuery query = GN_QUERY("UPDATE _grownext.queue_queue SET handler = $2, "
									"handler_takes = $3, run_as = $4,"
									" handled_at = CASE WHEN $2 IS NULL THEN NULL ELSE "
									"_grownext.core_now() END WHERE queue = $1",
									TEXTOID, TEXTOID, TEXTOID, TEXTOID);
	Datum values[4] = {CStringGetTextDatum(queue)};
	char nulls[4] = {' ', 'n', 'n', 'n'};
	GnSpi spi;

	if (handler)
	{
		values[1] = CStringGetTextDatum(qualified_name(handler->function));
		values[2] = CStringGetTextDatum(handler->takes_job ? "job" : "payload");
		values[3] = CStringGetTextDatum(GetUserNameFromId(handler->role, false));
		memset(nulls, ' ', sizeof(nulls));
	}
	gn_spi_begin(&spi);
	(void) gn_spi_execute(&query, values, nulls, false);
	gn_spi_end(&spi);
}

/*
 * SQL: grownext.queue_handle(queue text, handler regprocedure, options jsonb, run_as
 * name)
 *
 * Runs as the invoker: what is checked are the invoker's own rights.
 */
Datum
gn_queue_handle(PG_FUNCTION_ARGS)
{
	const char *queue;
	GnHandler handler = {0};
	Oid role = GetUserId();

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("queue and options must not be null")));
	queue = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (!gn_queue_user_may(GetUserId(), queue, "work"))
		ereport(
			ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to register a handler of queue \"%s\"", queue),
			 errhint(
				 "An admin can let you: SELECT grownext.queue_grant(%s, %s, 'work');",
				 quote_literal_cstr(queue),
				 quote_literal_cstr(GetUserNameFromId(GetUserId(), false)))));
	if (gn_queue_is_internal(queue))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("queue \"%s\" is internal", queue),
						errdetail("Queues named grownext.* belong to the platform.")));
	if (JB_ROOT_COUNT(PG_GETARG_JSONB_P(2)) > 0 ||
		!JB_ROOT_IS_OBJECT(PG_GETARG_JSONB_P(2)))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("unknown options of a handler"),
						errhint("There are none; limits belong to queue_define().")));
	(void) gn_queue_open(queue);
	if (PG_ARGISNULL(1))
	{
		store_handler(queue, NULL);
		PG_RETURN_VOID();
	}
	gn_require_preload("a job handler"); /* it would be registered, and never run */
	if (!PG_ARGISNULL(3))
		role = get_role_oid(NameStr(*PG_GETARG_NAME(3)), false);
	if (!gn_can_set_role(GetUserId(), role))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied to let a handler run as role \"%s\"",
							   GetUserNameFromId(role, false)),
						errhint("Whoever registers a handler must be able to SET ROLE "
								"to its run_as.")));
	check_role(queue, role);
	handler.function = PG_GETARG_OID(1);
	LockDatabaseObject(ProcedureRelationId, handler.function, 0, AccessShareLock);
	if (!SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(handler.function)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", handler.function)));
	check_function(queue, format_procedure(handler.function), role, &handler);
	store_handler(queue, &handler);
	PG_RETURN_VOID();
}
