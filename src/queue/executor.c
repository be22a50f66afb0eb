/*
 * src/queue/executor.c
 *	  Runs one job: claim, handler and outcome in one transaction.
 *
 * The effects of a handler and its success commit together, so a job that an
 * executor runs takes effect exactly once, whatever is killed and when. A failure
 * rolls all of it back and is recorded in a second transaction; see storage.c for
 * what spans the two.
 *
 * The process is connected as the bootstrap superuser, and the code of others runs
 * in it. For the whole of the job's transaction, commit included (deferred triggers
 * run there), both the session's user and the current user are the handler's role,
 * and SECURITY_LOCAL_USERID_CHANGE makes the server refuse SET ROLE, SET SESSION
 * AUTHORIZATION and RESET of either. Afterwards nothing is left for the next job:
 *
 *	settings		live in a nest level of their own, which is rolled back
 *	deferred triggers	are fired inside that level, as the last code of the job
 *	portals			are closed, so that no WITH HOLD cursor runs at commit
 *	temporary tables	are dropped; the schema stays
 *	advisory locks, prepared statements, sequence caches: as DISCARD ALL does
 *
 * If the clean-up itself fails the process exits: a new one is clean.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "core/core.h"
#include "core/worker.h"
#include "queue/definition.h"
#include "queue/executor.h"
#include "queue/flow.h"
#include "queue/handler.h"
#include "queue/metrics.h"
#include "queue/poison.h"
#include "queue/running.h"
#include "queue/slot.h"
#include "queue/throttle.h"
#include "queue/wait.h"

GN_FUNCTION(gn_current_job);

#define TIMEOUT_REPEAT 1000 /* ms between cancels of a handler that catches them */
#define TIMEOUT_GRACE 10    /* so many, then the process ends */

/* What is being run, in memory of its own. */
typedef struct Run
{
	MemoryContext memory;
	GnQueue queue; /* a copy: the definition may change meanwhile */
	GnJob job;
	TimestampTz started_at;
	bool taken;
	bool used_temporary;
} Run;

static Run *current = NULL;

/* ---- time limit ---- */

static TimeoutId limit_timer;
static bool limit_registered = false;
static volatile sig_atomic_t limit_fired = 0;

/*
 * In a signal handler. statement_timeout is armed by a backend's main loop alone, so
 * a worker needs a timer of its own.
 */
static void
limit_reached(void)
{
	limit_fired++;
	InterruptPending = true;
	QueryCancelPending = true;
	if (limit_fired > TIMEOUT_GRACE)
		ProcDiePending = true;
	SetLatch(MyLatch);
}

static void
start_limit(int64 milliseconds)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), milliseconds);

	if (!limit_registered)
	{
		limit_timer = RegisterTimeout(USER_TIMEOUT, limit_reached);
		limit_registered = true;
	}
	limit_fired = 0;
	enable_timeout_every(limit_timer, end, TIMEOUT_REPEAT);
}

static void
stop_limit(void)
{
	if (limit_registered)
		disable_timeout(limit_timer, false);
}

/* ---- who the process is ---- */

static void
become(Oid role)
{
	if (GetAuthenticatedUserId() != BOOTSTRAP_SUPERUSERID)
		elog(ERROR, "an executor must be connected as the bootstrap superuser");
	SetSessionAuthorization(role, false);
	SetUserIdAndSecContext(role, SECURITY_LOCAL_USERID_CHANGE);
}

static void
become_myself(void)
{
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, 0);
	SetSessionAuthorization(BOOTSTRAP_SUPERUSERID, true);
}

static void
begin_transaction(void)
{
	StartTransactionCommand();
	/* Whatever the database's defaults are: SKIP LOCKED needs new snapshots. */
	XactIsoLevel = XACT_READ_COMMITTED;
	XactReadOnly = false;
	gn_stop_transaction_timeout(); /* a job has its own limit, and dies of no other */
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
commit_transaction(void)
{
	if (ActiveSnapshotSet())
		PopActiveSnapshot();
	CommitTransactionCommand();
}

/* ---- claim ---- */

static char last_queue[128] = ""; /* served last: the next look begins behind it */

static GnTake
take_from(const char *name, Run *run)
{
	const GnQueue *queue = gn_queue_find(name);
	MemoryContext old;
	int slot;
	GnTake take = GN_TAKE_NONE;

	if (queue == NULL || queue->handler == NULL || queue->paused)
		return GN_TAKE_NONE;
	old = MemoryContextSwitchTo(run->memory);
	run->queue = *queue;
	run->queue.name = pstrdup(queue->name);
	run->queue.handler = pstrdup(queue->handler);
	run->queue.run_as = pstrdup(queue->run_as);
	MemoryContextSwitchTo(old);
	if (gn_slot_take(&run->queue, 1, &slot) == 0)
		return GN_TAKE_NONE;
	if (gn_throttle_enter(&run->queue, 1) > 0)
	{
		take = gn_storage_take(name, run->queue.ordered, run->memory, &run->job);
		gn_throttle_leave(&run->queue, take == GN_TAKE_DONE);
	}
	if (take == GN_TAKE_NONE)
		gn_slot_give_back(&run->queue, slot);
	else if (take == GN_TAKE_DONE)
		gn_slot_occupy(&run->queue, slot);
	return take;
}

static GnTake
take_job(Run *run)
{
	GnTake take = GN_TAKE_NONE;
	char **queues;
	int count;
	GnSpi spi;

	if (!gn_database_armed())
		return GN_TAKE_NONE;
	gn_spi_begin(&spi);
	count = gn_storage_ready_queues(last_queue, &queues);
	for (int i = 0; i < count && take == GN_TAKE_NONE; i++)
	{
		take = take_from(queues[i], run);
		if (take == GN_TAKE_DONE)
			strlcpy(last_queue, queues[i], sizeof(last_queue));
	}
	gn_spi_end(&spi);
	run->taken = take == GN_TAKE_DONE;
	return take;
}

/* Jobs that executors could run now and nobody runs, at most so many of each queue. */
int
gn_executor_demand(void)
{
	int most = Max(gn_executors, 1);
	int demand = 0;
	char **queues;
	int count;
	GnSpi spi;

	gn_spi_begin(&spi);
	count = gn_storage_ready_queues("", &queues);
	for (int i = 0; i < count; i++)
	{
		const GnQueue *queue = gn_queue_find(queues[i]);
		GnQueue copy;
		int places;

		if (queue == NULL)
			continue;
		copy = *queue;
		copy.name = queues[i];
		places = gn_throttle_free(&copy, gn_slot_free(&copy, most));
		if (places > 0)
			demand += gn_storage_count_waiting(queues[i], places);
	}
	gn_spi_end(&spi);
	return demand;
}

/* ---- run ---- */

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

static Datum
job_datum(const GnJob *job)
{
	TupleDesc desc = lookup_rowtype_tupdesc_copy(gn_job_type(), -1);

	return HeapTupleGetDatum(gn_job_tuple(job, desc));
}

bool
gn_executor_has(int64 id)
{
	return current && current->taken && current->job.id == id;
}

int64
gn_executor_batch(void)
{
	return current && current->taken ? current->job.batch_id : 0;
}

/* SQL: grownext.current_job() */
Datum
gn_current_job(PG_FUNCTION_ARGS)
{
	if (current == NULL || !current->taken)
		PG_RETURN_NULL();
	return job_datum(&current->job);
}

/* Calls the handler and lets everything that it left to the commit happen now. Returns
 * the result, or NULL. */
static Jsonb *
call_handler(Run *run, const GnHandler *handler)
{
	FmgrInfo function;
	LOCAL_FCINFO(call, 1);
	Jsonb *result = NULL;
	Datum value;

	PushActiveSnapshot(GetTransactionSnapshot());
	fmgr_info(handler->function, &function);
	InitFunctionCallInfoData(*call, &function, 1, InvalidOid, NULL, NULL);
	call->args[0].value =
		handler->takes_job ? job_datum(&run->job) : JsonbPGetDatum(run->job.payload);
	call->args[0].isnull = false;
	value = FunctionCallInvoke(call);
	if (!handler->returns_void && !call->isnull)
		result = DatumGetJsonbPCopy(value);
	PopActiveSnapshot();
	AfterTriggerFireDeferred();
	PortalHashTableDeleteAll();
	if (result && VARSIZE(result) > GN_MAX_RESULT)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("result of a job exceeds %d bytes", GN_MAX_RESULT)));
	return result;
}

static void
note_start(Run *run)
{
	GnMeasurement start = gn_metrics_start(&run->queue, &run->job, run->started_at);

	run->job.leased_at = run->started_at;
	gn_metrics_note(run->queue.name, &start);
}

static void
note_end(const Run *run, GnMeasure what)
{
	GnMeasurement end = gn_metrics_end(what, &run->job, run->job.leased_at, gn_now());

	gn_metrics_note(run->queue.name, &end);
}

/* Whoever waits outside for the place or the turn that is free now. */
static void
call_next(const Run *run)
{
	if (run->queue.concurrency > 0 || run->queue.ordered)
		gn_queue_call_outside_at_commit(&run->queue, 1);
}

static void
run_handler(Run *run)
{
	GnHandler handler;
	Jsonb *result;
	int settings;
	GnSpi spi;

	gn_poison_admit(&run->job);
	gn_handler_resolve(&run->queue, &handler);
	if (run->job.claims)
		gn_context_bind(GN_CONTEXT_JOB, run->job.claims, NULL);
	become(handler.role);
	settings = NewGUCNestLevel();
	start_limit(run->queue.timeout);
	result = call_handler(run, &handler);
	stop_limit();
	AtEOXact_GUC(false, settings);
	run->used_temporary = (MyXactFlags & XACT_FLAGS_ACCESSEDTEMPNAMESPACE) != 0;
	gn_spi_begin(&spi);
	gn_storage_succeed(&run->job, run->started_at, gn_now(), result);
	gn_flow_over(&run->job, 1, "succeeded");
	gn_spi_end(&spi);
	call_next(run);
}

const char *
gn_job_unwanted(const GnQueue *queue, const GnJob *job, TimestampTz now)
{
	if (job->cancelled)
		return GN_CANCELLED;
	if (queue->expire && job->deadline && job->deadline < now)
		return GN_DEADLINE_PASSED;
	return NULL;
}

static void
cancel_unwanted(Run *run, const char *reason)
{
	GnSpi spi;

	gn_spi_begin(&spi);
	gn_storage_cancel(&run->job, run->started_at, reason);
	gn_flow_over(&run->job, 1, "cancelled");
	gn_spi_end(&spi);
	call_next(run);
}

/* ---- failure ---- */

/* Error message for last_error: code and primary message, nothing of detail, hint or
 * query. */
static char *
describe_error(const ErrorData *error, const GnQueue *queue)
{
	const char *code = unpack_sql_state(error->sqlerrcode);
	char *text;
	int length;

	if (limit_fired && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		text =
			psprintf("%s: timed out after " INT64_FORMAT " ms", code, queue->timeout);
	else
		text = psprintf("%s: %s", code, error->message ? error->message : "no message");
	length = (int) strlen(text);
	if (length > GN_MAX_ERROR)
		text[pg_mbcliplen(text, length, GN_MAX_ERROR)] = '\0';
	return text;
}

/* How long a handler that raised job_snooze wants to wait: its DETAIL is an interval.
 */
static double
snooze_seconds(const ErrorData *error, const GnQueue *queue)
{
	static GnQuery query = GN_QUERY("SELECT _grownext.queue_seconds($1)", TEXTOID);
	Datum values[1];
	bool isnull;
	double seconds;

	if (error->detail == NULL)
		return queue->backoff_base;
	values[0] = CStringGetTextDatum(error->detail);
	(void) gn_spi_execute(&query, values, NULL, false);
	seconds = DatumGetFloat8(
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	return isnull ? queue->backoff_base : Max(seconds, 1.0);
}

static GnFailure
judge_failure(const Run *run, const ErrorData *error)
{
	if (error->sqlerrcode == GN_ERRCODE_JOB_SNOOZE)
		return GN_FAILURE_SNOOZE;
	if (error->sqlerrcode == GN_ERRCODE_JOB_DISCARD ||
		run->job.failures + 1 >= run->job.max_attempts)
		return GN_FAILURE_DEAD;
	return GN_FAILURE_RETRY;
}

static GnMeasure
measure_of(GnFailure failure)
{
	switch (failure)
	{
		case GN_FAILURE_SNOOZE:
			return GN_MEASURE_SNOOZED;
		case GN_FAILURE_DEAD:
			return GN_MEASURE_DEAD;
		default:
			return GN_MEASURE_FAILED;
	}
}

static void
record_failure(Run *run, const ErrorData *error)
{
	GnFailure failure = judge_failure(run, error);
	TimestampTz now;
	double delay = 0;
	bool cancelled;
	char *text;
	GnSpi spi;

	MemoryContextSwitchTo(run->memory);
	text = describe_error(error, &run->queue);
	begin_transaction();
	now = gn_now();
	gn_spi_begin(&spi);
	cancelled = gn_storage_cancelled(run->job.id);
	if (failure == GN_FAILURE_SNOOZE)
		delay = snooze_seconds(error, &run->queue);
	else if (failure == GN_FAILURE_RETRY)
		delay = gn_queue_backoff(&run->queue, run->job.failures);
	if (cancelled)
		gn_storage_cancel(&run->job, now, GN_CANCELLED);
	else
		gn_storage_fail(&run->job, failure, run->started_at, now,
						now + (TimestampTz) (delay * USECS_PER_SEC), text);
	if (cancelled || failure == GN_FAILURE_DEAD)
		gn_flow_over(&run->job, 1, cancelled ? "cancelled" : "dead");
	gn_spi_end(&spi);
	if (failure != GN_FAILURE_DEAD)
		gn_worker_tick_at_commit();
	call_next(run);
	commit_transaction();
	note_end(run, cancelled ? GN_MEASURE_CANCELLED : measure_of(failure));
	if (cancelled)
		return;
	if (failure != GN_FAILURE_SNOOZE)
		ereport(LOG, (errmsg("job " INT64_FORMAT " of queue \"%s\" failed%s: %s",
							 run->job.id, run->queue.name,
							 failure == GN_FAILURE_DEAD ? " for good" : "", text)));
}

/*
 * A handler that caught every cancel of its time limit, or set a limit that ends the
 * process, must be charged, or the job would do it for ever.
 */
static void
charge_at_exit(int code, Datum arg)
{
	ErrorData error = {.sqlerrcode = ERRCODE_QUERY_CANCELED};

	if (current == NULL || !current->taken)
		return;
	if (limit_fired <= TIMEOUT_GRACE && !gn_transaction_timed_out())
		return;
	limit_fired = Max(limit_fired, 1);
	stop_limit();
	AbortOutOfAnyTransaction();
	become_myself();
	record_failure(current, &error);
}

/* ---- one pass ---- */

/* Leaves nothing of a job's session state behind; a process that cannot be cleaned
 * ends. */
static void
clean_session(bool used_temporary)
{
	PG_TRY();
	{
		DropAllPreparedStatements();
		ResetSequenceCaches();
		if (used_temporary)
		{
			begin_transaction();
			ResetTempTableNamespace();
			commit_transaction();
		}
		gn_storage_release();
		gn_slot_occupy(NULL, 0);
	}
	PG_CATCH();
	{
		EmitErrorReport();
		ereport(FATAL, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("executor could not be cleaned after a job")));
	}
	PG_END_TRY();
}

static ErrorData *
roll_back(Run *run)
{
	ErrorData *error;

	stop_limit();
	HOLD_INTERRUPTS();
	gn_running_end();
	MemoryContextSwitchTo(run->memory);
	error = CopyErrorData();
	FlushErrorState();
	AbortCurrentTransaction();
	become_myself();
	QueryCancelPending = false;
	RESUME_INTERRUPTS();
	return error;
}

static void
report_activity(const Run *run)
{
	char text[256];

	snprintf(text, sizeof(text), "grownext job " INT64_FORMAT " of queue %s: %s",
			 run->job.id, run->queue.name, run->queue.handler);
	pgstat_report_activity(STATE_RUNNING, text);
}

/* Runs the job that the open transaction took. */
static void
run_taken_job(Run *run)
{
	ErrorData *volatile error = NULL;
	const char *reason;

	run->started_at = gn_now();
	limit_fired = 0;
	QueryCancelPending = false; /* meant for an earlier job */
	gn_running_begin(run->job.id, run->started_at);
	report_activity(run);
	reason = gn_job_unwanted(&run->queue, &run->job, run->started_at);
	if (reason == NULL)
		note_start(run);
	PG_TRY();
	{
		if (reason)
			cancel_unwanted(run, reason);
		else
			run_handler(run);
		commit_transaction();
		gn_running_end();
		become_myself();
		note_end(run, reason ? GN_MEASURE_CANCELLED : GN_MEASURE_SUCCEEDED);
	}
	PG_CATCH();
	{
		error = roll_back(run);
	}
	PG_END_TRY();
	if (error)
		record_failure(run, error);
	clean_session(run->used_temporary);
	pgstat_report_activity(STATE_IDLE, NULL);
	pgstat_report_stat(false);
}

static GnTake
try_one(Run *run)
{
	GnTake take;

	begin_transaction();
	take = take_job(run);
	if (take == GN_TAKE_DONE)
	{
		gn_worker_engage();
		run_taken_job(run);
	}
	else
		commit_transaction();
	return take;
}

/* Before the first job of this process: what the last crash left is counted. */
static void
read_suspects(void)
{
	begin_transaction();
	gn_poison_record();
	commit_transaction();
	gn_poison_recorded();
}

bool
gn_executor_run(void)
{
	static bool exit_registered = false;
	MemoryContext old = CurrentMemoryContext;
	Run *run;
	GnTake take;
	MemoryContext memory =
		AllocSetContextCreate(TopMemoryContext, "grownext job", ALLOCSET_DEFAULT_SIZES);

	if (!exit_registered)
	{
		before_shmem_exit(charge_at_exit, (Datum) 0);
		exit_registered = true;
	}
	if (current) /* the last pass ended in an error of the queue's own */
	{
		become_myself();
		clean_session(true);
		MemoryContextDelete(current->memory);
	}
	if (gn_poison_unread())
		read_suspects();
	gn_storage_release(); /* what the last pass skipped may be free now */
	run = MemoryContextAllocZero(memory, sizeof(Run));
	run->memory = memory;
	current = run;
	do
	{
		CHECK_FOR_INTERRUPTS();
		take = try_one(run);
	} while (take == GN_TAKE_AGAIN);
	current = NULL;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(memory);
	return take == GN_TAKE_DONE;
}
