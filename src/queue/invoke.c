/*
 * src/queue/invoke.c
 *	  Runs handlers in an open transaction, one job after the other.
 *
 * The process is connected as the bootstrap superuser, and the code of others runs in
 * it. From the first job to the end of the transaction, commit included, both the
 * session's user and the current user are the handler's role, and
 * SECURITY_LOCAL_USERID_CHANGE makes the server refuse SET ROLE, SET SESSION
 * AUTHORIZATION and RESET of either.
 *
 * Each job has its context and its settings in a nest level of their own, which is
 * rolled back after it. Deferred triggers are fired inside that level, as the last code
 * of the job, and portals are closed, so that no WITH HOLD cursor runs at commit; for
 *the rest see residue.c. statement_timestamp() is the job's own: what caches by the
 * statement asks again.
 *
 * The function is looked up once for the transaction, with what it keeps between calls;
 * once more when a relation was changed, for a function in SQL keeps plans that nobody
 * invalidates.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "commands/trigger.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "core/core.h"
#include "queue/invoke.h"
#include "queue/residue.h"
#include "queue/running.h"
#include "queue/time_limit.h"

/* ---- who the process is ---- */

static void
become(Oid role)
{
	if (GetAuthenticatedUserId() != BOOTSTRAP_SUPERUSERID)
		elog(ERROR, "an executor must be connected as the bootstrap superuser");
	SetSessionAuthorization(role, false);
	SetUserIdAndSecContext(role, SECURITY_LOCAL_USERID_CHANGE);
}

void
gn_invoke_end(void)
{
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, 0);
	SetSessionAuthorization(BOOTSTRAP_SUPERUSERID, true);
}

/* ---- the argument ---- */

enum JobColumn
{
	JOB_ID,
	JOB_QUEUE,
	JOB_PAYLOAD,
	JOB_ATTEMPT,
	JOB_MAX_ATTEMPTS,
	JOB_PRIORITY,
	JOB_GROUP_KEY,
	JOB_TENANT_ID,
	JOB_SUBJECT,
	JOB_CLAIMS,
	JOB_ENQUEUED_AT,
	JOB_RUN_AT,
	JOB_DEADLINE,
	JOB_LEASE_ID,
	JOB_LEASE_UNTIL,
	JOB_COLUMNS
};

HeapTuple
gn_job_tuple(const GnJob *job, TupleDesc desc)
{
	char *subject = job->claims ? gn_claim_text(job->claims, "sub") : NULL;
	Datum values[JOB_COLUMNS] = {0};
	bool nulls[JOB_COLUMNS] = {false};

	if (desc->natts != JOB_COLUMNS)
		elog(ERROR, "type grownext.job has %d columns", desc->natts);
	values[JOB_ID] = Int64GetDatum(job->id);
	values[JOB_QUEUE] = CStringGetTextDatum(job->queue);
	values[JOB_PAYLOAD] = JsonbPGetDatum(job->payload);
	values[JOB_ATTEMPT] = Int32GetDatum(job->failures + 1);
	values[JOB_MAX_ATTEMPTS] = Int32GetDatum(job->max_attempts);
	values[JOB_PRIORITY] = Int32GetDatum(job->priority);
	if (job->group_key)
		values[JOB_GROUP_KEY] = CStringGetTextDatum(job->group_key);
	values[JOB_TENANT_ID] = UUIDPGetDatum(job->tenant);
	if (subject)
		values[JOB_SUBJECT] = CStringGetTextDatum(subject);
	values[JOB_CLAIMS] = PointerGetDatum(job->claims);
	values[JOB_ENQUEUED_AT] = TimestampTzGetDatum(job->enqueued_at);
	values[JOB_RUN_AT] = TimestampTzGetDatum(job->run_at);
	values[JOB_DEADLINE] = TimestampTzGetDatum(job->deadline);
	nulls[JOB_GROUP_KEY] = job->group_key == NULL;
	nulls[JOB_TENANT_ID] = job->tenant == NULL;
	nulls[JOB_SUBJECT] = subject == NULL;
	nulls[JOB_CLAIMS] = job->claims == NULL;
	nulls[JOB_DEADLINE] = job->deadline == 0;
	/* A lease is for workers outside the database. */
	values[JOB_LEASE_ID] = Int64GetDatum(job->lease_id);
	values[JOB_LEASE_UNTIL] = TimestampTzGetDatum(job->lease_until);
	nulls[JOB_LEASE_ID] = nulls[JOB_LEASE_UNTIL] = job->lease_id == 0;
	return heap_form_tuple(desc, values, nulls);
}

/* ---- the call ---- */

static void
look_up_function(GnInvocation *call)
{
	call->changes = gn_cache_changes;
	fmgr_info_cxt(call->handler.function, &call->function, call->memory);
}

void
gn_invoke_begin(GnInvocation *call, const GnQueue *queue, MemoryContext memory)
{
	MemoryContext old = MemoryContextSwitchTo(memory);

	*call = (GnInvocation){.queue = queue, .memory = memory};
	gn_handler_resolve(queue, &call->handler);
	if (call->handler.takes_job)
		call->job_desc = lookup_rowtype_tupdesc_copy(gn_job_type(), -1);
	look_up_function(call);
	become(call->handler.role);
	MemoryContextSwitchTo(old);
}

static Datum
argument_of(const GnInvocation *call, const GnJob *job)
{
	if (!call->handler.takes_job)
		return JsonbPGetDatum(job->payload);
	return HeapTupleGetDatum(gn_job_tuple(job, call->job_desc));
}

static Jsonb *
copy_result(const GnInvocation *call, Datum value)
{
	MemoryContext old = MemoryContextSwitchTo(call->memory);
	Jsonb *result = DatumGetJsonbPCopy(value);

	MemoryContextSwitchTo(old);
	return result;
}

static Jsonb *
call_function(GnInvocation *call, const GnJob *job)
{
	LOCAL_FCINFO(fcinfo, 1);
	Jsonb *result = NULL;
	Datum value;

	if (call->changes != gn_cache_changes)
		look_up_function(call);
	PushActiveSnapshot(GetTransactionSnapshot());
	InitFunctionCallInfoData(*fcinfo, &call->function, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = argument_of(call, job);
	fcinfo->args[0].isnull = false;
	value = FunctionCallInvoke(fcinfo);
	if (!call->handler.returns_void && !fcinfo->isnull)
		result = copy_result(call, value);
	PopActiveSnapshot();
	AfterTriggerFireDeferred();
	PortalHashTableDeleteAll();
	if (result && VARSIZE(result) > GN_MAX_RESULT)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("result of a job exceeds %d bytes", GN_MAX_RESULT)));
	return result;
}

Jsonb *
gn_invoke(GnInvocation *call, const GnJob *job, int *residue)
{
	int level = NewGUCNestLevel();
	Jsonb *result;

	gn_residue_begin();
	SetCurrentStatementStartTimestamp();
	if (job->claims)
		gn_context_bind(GN_CONTEXT_JOB, job->claims, NULL);
	gn_time_limit_start(call->queue->timeout);
	result = call_function(call, job);
	gn_time_limit_stop();
	CHECK_FOR_INTERRUPTS();
	gn_running_finish();
	*residue = gn_residue_end();
	if (synchronous_commit > call->commit_mode)
		call->commit_mode = synchronous_commit;
	AtEOXact_GUC(false, level);
	return result;
}
