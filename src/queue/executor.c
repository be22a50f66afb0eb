/*
 * src/queue/executor.c
 *	  Takes jobs of a queue and runs them: claim, handlers and outcomes in one
 *transaction.
 *
 * The effects of a handler and its success commit together, so a job that an executor
 * runs takes effect exactly once, whatever is killed and when. For that reason the
 *commit need not wait for the disk: what a crash loses it loses whole, and the jobs run
 *again.
 *
 * Short jobs share a transaction, one after the other: pace.c says how many. There are
 *no subtransactions, of which each would burn a transaction id. When a job fails, the
 *whole transaction is rolled back; its failure is recorded in a second one, and those
 *before it run again, each in a transaction of its own. Nothing of their first run is
 *counted. Those that were not begun are given back. See storage.c for what spans the
 * transactions.
 *
 * Nothing of a job is left for the next one: invoke.c and residue.c see to that. What
 * cannot be undone within the transaction ends it. If the clean-up after it fails the
 * process exits: a new one is clean.
 */
#include "postgres.h"

#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "core/core.h"
#include "core/worker.h"
#include "queue/attempt.h"
#include "queue/claim.h"
#include "queue/executor.h"
#include "queue/flow.h"
#include "queue/invoke.h"
#include "queue/metrics.h"
#include "queue/pace.h"
#include "queue/poison.h"
#include "queue/residue.h"
#include "queue/running.h"
#include "queue/slot.h"
#include "queue/time_limit.h"
#include "queue/wait.h"

GN_FUNCTION(gn_current_job);

/* Jobs that were taken together; one for the process. */
typedef struct Run
{
	GnClaim claim;            /* its memory is emptied after it */
	MemoryContext job_memory; /* of the job in hand, emptied after each */
	GnJob *job;               /* in hand, or NULL */

	/* of the transaction */
	int begun;       /* jobs that it has begun, or found unwanted */
	bool noted;      /* its start is counted: the only job */
	bool temporary;  /* it has used temporary tables */
	bool locks;      /* it has used advisory locks */
	int commit_mode; /* how safely it commits */
	TimestampTz started_at[GN_MAX_CLAIM];
	int outcome_count;
	GnOutcome outcomes[GN_MAX_CLAIM];
	int cancelled_count;
	int cancelled[GN_MAX_CLAIM];
} Run;

static Run *current = NULL;

/* ---- transactions ---- */

static int server_commit_mode; /* what synchronous_commit would be */

static void
set_commit_mode(const char *mode)
{
	(void) set_config_option("synchronous_commit", mode, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

static void
begin_transaction(void)
{
	StartTransactionCommand();
	/* Whatever the database's defaults are: SKIP LOCKED needs new snapshots. */
	XactIsoLevel = XACT_READ_COMMITTED;
	XactReadOnly = false;
	gn_stop_transaction_timeout(); /* a job has its own limit, and dies of no other */
	server_commit_mode = synchronous_commit;
	set_commit_mode("off");
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
commit_transaction(void)
{
	if (ActiveSnapshotSet())
		PopActiveSnapshot();
	CommitTransactionCommand();
}

/* A job may want more, and whoever gets a notification acts upon it. */
static void
commit_jobs(const Run *run)
{
	static const char *const names[] = {
		[SYNCHRONOUS_COMMIT_LOCAL_FLUSH] = "local",
		[SYNCHRONOUS_COMMIT_REMOTE_WRITE] = "remote_write",
		[SYNCHRONOUS_COMMIT_REMOTE_FLUSH] = "on",
		[SYNCHRONOUS_COMMIT_REMOTE_APPLY] = "remote_apply",
	};

	if (run->commit_mode > SYNCHRONOUS_COMMIT_OFF)
		set_commit_mode(names[run->commit_mode]);
	commit_transaction();
}

/* ---- the job in hand ---- */

bool
gn_executor_has(int64 id)
{
	return current && current->job && current->job->id == id;
}

int64
gn_executor_batch(void)
{
	return current && current->job ? current->job->batch_id : 0;
}

/* SQL: grownext.current_job() */
Datum
gn_current_job(PG_FUNCTION_ARGS)
{
	TupleDesc desc;

	if (current == NULL || current->job == NULL)
		PG_RETURN_NULL();
	desc = lookup_rowtype_tupdesc_copy(gn_job_type(), -1);
	return HeapTupleGetDatum(gn_job_tuple(current->job, desc));
}

static void
report_activity(const Run *run)
{
	char text[256];

	snprintf(text, sizeof(text), "grownext job " INT64_FORMAT " of queue %s: %s",
			 run->job->id, run->claim.queue.name, run->claim.queue.handler);
	pgstat_report_activity(STATE_RUNNING, text);
}

static void
begin_job(Run *run, GnJob *job, TimestampTz now)
{
	run->started_at[job - run->claim.jobs] = now;
	run->begun++;
	run->job = job;
	QueryCancelPending = false; /* meant for an earlier job */
	gn_time_limit_clear();
	gn_running_begin(job->id, now);
	report_activity(run);
}

/* Marks that came since the jobs were taken. */
static void
look_for_marks(Run *run, int first, int last)
{
	GnSpi spi;

	if (!gn_running_asked())
		return;
	gn_spi_begin(&spi);
	for (int i = first; i < last; i++)
		run->claim.jobs[i].cancelled = gn_storage_cancelled(run->claim.jobs[i].id);
	gn_spi_end(&spi);
}

static void
cancel_unwanted(Run *run, const char *reason, TimestampTz now)
{
	GnSpi spi;

	gn_spi_begin(&spi);
	gn_storage_cancel(run->job, now, reason);
	gn_flow_over(run->job, 1, "cancelled");
	gn_spi_end(&spi);
	run->cancelled[run->cancelled_count++] = (int) (run->job - run->claim.jobs);
}

/* ---- figures ---- */

/* A lone job is seen to have started at once. */
static void
note_start(Run *run)
{
	GnMeasurement start =
		gn_metrics_start(&run->claim.queue, run->job, run->job->leased_at);

	gn_metrics_note(run->claim.queue.name, &start, 1);
	run->noted = true;
}

static void
note_end(Run *run, GnMeasure what)
{
	GnMeasurement end = gn_metrics_end(what, run->job, run->job->leased_at, gn_now());

	gn_metrics_note(run->claim.queue.name, &end, 1);
}

static void
note_outcomes(const Run *run)
{
	GnMeasurement notes[2 * GN_MAX_CLAIM];
	int count = 0;

	for (int i = 0; i < run->outcome_count; i++)
	{
		const GnOutcome *o = &run->outcomes[i];

		if (!run->noted)
			notes[count++] = gn_metrics_start(&run->claim.queue, o->job, o->started_at);
		notes[count++] =
			gn_metrics_end(GN_MEASURE_SUCCEEDED, o->job, o->started_at, o->finished_at);
	}
	gn_metrics_note(run->claim.queue.name, notes, count);
	count = 0;
	for (int i = 0; i < run->cancelled_count; i++)
	{
		int job = run->cancelled[i];

		notes[count++] = gn_metrics_end(GN_MEASURE_CANCELLED, &run->claim.jobs[job], 0,
										run->started_at[job]);
	}
	gn_metrics_note(run->claim.queue.name, notes, count);
}

/* ---- one transaction ---- */

/* Whoever waits outside for the place or the turns that are free now. */
static void
call_next(const Run *run, int turns)
{
	if (run->claim.queue.concurrency > 0 || run->claim.queue.ordered)
		gn_queue_call_outside_at_commit(&run->claim.queue, turns);
}

static void
settle_jobs(Run *run, const GnJob *first)
{
	GnSpi spi;

	call_next(run, run->begun);
	if (run->outcome_count == 0)
		return;
	gn_spi_begin(&spi);
	gn_storage_succeed(run->outcomes, run->outcome_count);
	if (run->cancelled_count == 0)
		gn_flow_over(first, run->outcome_count, "succeeded");
	else
	{
		for (int i = 0; i < run->outcome_count; i++)
			gn_flow_over(run->outcomes[i].job, 1, "succeeded");
	}
	gn_spi_end(&spi);
}

static void
keep_residue(Run *run, const GnInvocation *call, int residue)
{
	run->commit_mode = Max(run->commit_mode, call->commit_mode);
	if (residue & GN_RESIDUE_NOTICES)
		run->commit_mode = Max(run->commit_mode, server_commit_mode);
	run->temporary |= (residue & GN_RESIDUE_TEMPORARY) != 0;
}

/* Runs the job in hand; what is left of it then. */
static int
run_job(Run *run, GnInvocation *call, bool lone)
{
	GnOutcome *outcome = &run->outcomes[run->outcome_count];
	MemoryContext old = MemoryContextSwitchTo(run->job_memory);
	int residue;

	run->job->leased_at = run->started_at[run->job - run->claim.jobs];
	if (lone)
		note_start(run);
	gn_poison_admit(run->job);
	if (call->queue == NULL)
		gn_invoke_begin(call, &run->claim.queue, run->claim.memory);
	outcome->job = run->job;
	outcome->started_at = run->job->leased_at;
	outcome->result = gn_invoke(call, run->job, &residue);
	outcome->finished_at = gn_now();
	run->outcome_count++;
	keep_residue(run, call, residue);
	MemoryContextSwitchTo(old);
	MemoryContextReset(run->job_memory);
	return residue;
}

/* Runs jobs until the time is up, or one leaves what ends the transaction. */
static void
run_jobs(Run *run, int first, int last)
{
	TimestampTz began = gn_now();
	TimestampTz now = began;
	TimestampTz longest = 0;
	GnInvocation call = {0};
	bool lone = last - first == 1;
	bool suspect = false;
	int64 bytes = 0;
	int residue = 0;

	for (int i = first;
		 i < last && residue == 0 && !suspect && now - began < GN_PACE_TIME; i++)
	{
		const char *reason;
		TimestampTz begun = now;

		suspect = gn_poison_suspect(run->claim.jobs[i].id);
		if (suspect && i > first)
			break;
		if (!lone)
			run->job = NULL; /* what fails between two jobs is no job's fault */
		look_for_marks(run, i, last);
		begin_job(run, &run->claim.jobs[i], now);
		reason = gn_job_unwanted(&run->claim.queue, run->job, now);
		if (reason)
			cancel_unwanted(run, reason, now);
		else
		{
			residue = run_job(run, &call, lone);
			bytes += VARSIZE(run->job->payload);
		}
		now = gn_now();
		longest = Max(longest, now - begun);
	}
	if (!lone)
		run->job = NULL;
	settle_jobs(run, &run->claim.jobs[first]);
	commit_jobs(run);
	gn_pace_ran(&run->claim.queue, run->begun, now - began, longest, bytes);
}

static ErrorData *
roll_back(Run *run)
{
	ErrorData *error;

	gn_time_limit_stop();
	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(run->claim.memory);
	error = CopyErrorData();
	FlushErrorState();
	run->locks = gn_residue_has_locks();
	AbortCurrentTransaction();
	gn_invoke_end();
	gn_running_finish();
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(run->claim.memory);
	return error;
}

/* Runs jobs in the open transaction and ends it; an error is returned. */
static ErrorData *
run_transaction(Run *run, int first, int last)
{
	ErrorData *volatile error = NULL;

	run->begun = run->outcome_count = run->cancelled_count = 0;
	run->noted = run->temporary = run->locks = false;
	run->commit_mode = SYNCHRONOUS_COMMIT_OFF;
	PG_TRY();
	{
		run_jobs(run, first, last);
		gn_invoke_end();
		note_outcomes(run);
	}
	PG_CATCH();
	{
		error = roll_back(run);
	}
	PG_END_TRY();
	return error;
}

/* ---- failure ---- */

static void
record_failure(Run *run, const ErrorData *error)
{
	GnMeasure measure;
	char *text;

	MemoryContextSwitchTo(run->claim.memory);
	if (run->job->leased_at == 0) /* it was not to be run, and could not be cancelled */
		run->job->leased_at = run->started_at[run->job - run->claim.jobs];
	else if (!run->noted)
		note_start(run);
	begin_transaction();
	MemoryContextSwitchTo(run->claim.memory);
	measure = gn_attempt_fail(&run->claim.queue, run->job, error, &text);
	call_next(run, 1);
	commit_transaction();
	note_end(run, measure);
	if (measure != GN_MEASURE_CANCELLED && measure != GN_MEASURE_SNOOZED)
		ereport(LOG, (errmsg("job " INT64_FORMAT " of queue \"%s\" failed%s: %s",
							 run->job->id, run->claim.queue.name,
							 measure == GN_MEASURE_DEAD ? " for good" : "", text)));
}

/*
 * A handler that caught every cancel of its time limit, or set a limit that ends the
 * process, must be charged, or the job would do it for ever.
 */
static void
charge_at_exit(int code, Datum arg)
{
	ErrorData error = {.sqlerrcode = ERRCODE_QUERY_CANCELED};

	if (current == NULL || current->job == NULL)
		return;
	if (!gn_time_limit_ends_process() && !gn_transaction_timed_out())
		return;
	gn_time_limit_blame();
	gn_time_limit_stop();
	AbortOutOfAnyTransaction();
	gn_invoke_end();
	record_failure(current, &error);
}

/* Errors that a job may owe to those that have run before it in its transaction: it
 * holds what they have locked. */
static bool
may_be_others_fault(const ErrorData *error)
{
	int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	return category == ERRCODE_TO_CATEGORY(ERRCODE_T_R_DEADLOCK_DETECTED) ||
		   category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
		   error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
}

/* ---- one pass ---- */

/* Leaves nothing of jobs' session state behind; a process that cannot be cleaned ends.
 */
static void
clean_session(bool temporary)
{
	PG_TRY();
	{
		gn_residue_clear_session(temporary);
	}
	PG_CATCH();
	{
		EmitErrorReport();
		ereport(FATAL, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("executor could not be cleaned after a job")));
	}
	PG_END_TRY();
}

static void
give_back(void)
{
	gn_running_end();
	gn_storage_release();
	gn_slot_occupy(NULL, 0);
}

/* Runs a job again, in a transaction of its own. */
static bool
run_alone(Run *run, int i)
{
	ErrorData *error;

	CHECK_FOR_INTERRUPTS();
	clean_session(false);
	begin_transaction();
	if (!gn_claim_again(&run->claim, &run->claim.jobs[i]))
	{
		commit_transaction();
		return false;
	}
	error = run_transaction(run, i, i + 1);
	if (error)
		record_failure(run, error);
	else
		clean_session(run->temporary);
	return !run->locks;
}

/* After one of several was rolled back: it is charged, the others run again, unless the
 * session holds what only giving all jobs back frees. */
static void
run_apart(Run *run, const ErrorData *error)
{
	int begun = run->begun;
	int culprit = run->job ? (int) (run->job - run->claim.jobs) : -1;
	bool locks = run->locks;

	gn_pace_failed(&run->claim.queue);
	if (culprit > 0 && may_be_others_fault(error))
		culprit = -1;
	if (culprit >= 0)
		record_failure(run, error);
	for (int i = 0; i < begun && !locks; i++)
	{
		run->claim.jobs[i].leased_at = 0;
		if (i != culprit && !run_alone(run, i))
			break;
	}
}

/* Runs the jobs that the open transaction took. */
static void
run_taken_jobs(Run *run)
{
	int begun;
	ErrorData *error;

	gn_running_take(run->claim.jobs, run->claim.count);
	error = run_transaction(run, 0, run->claim.count);
	begun = run->begun;
	if (error == NULL)
		clean_session(run->temporary);
	else if (run->claim.count == 1)
		record_failure(run, error);
	else
		run_apart(run, error);
	run->job = NULL;
	clean_session(false);
	give_back();
	gn_worker_call(run->claim.count - begun);
	pgstat_report_activity(STATE_IDLE, NULL);
	pgstat_report_stat(false);
}

static GnTake
try_once(Run *run)
{
	GnTake take;

	begin_transaction();
	take = gn_claim_take(&run->claim);
	if (take == GN_TAKE_DONE)
	{
		gn_worker_engage();
		run_taken_jobs(run);
	}
	else
		commit_transaction();
	return take;
}

static Run *
make_run(void)
{
	Run *run = MemoryContextAllocZero(TopMemoryContext, sizeof(Run));

	run->claim.memory = AllocSetContextCreate(TopMemoryContext, "grownext jobs",
											  ALLOCSET_DEFAULT_SIZES);
	run->job_memory =
		AllocSetContextCreate(TopMemoryContext, "grownext job", ALLOCSET_DEFAULT_SIZES);
	before_shmem_exit(charge_at_exit, (Datum) 0);
	return run;
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
	static Run *run = NULL;
	MemoryContext old = CurrentMemoryContext;
	GnTake take;

	if (run == NULL)
		run = make_run();
	if (current) /* the last pass ended in an error of the queue's own */
	{
		gn_invoke_end();
		clean_session(true);
		give_back();
	}
	if (gn_poison_unread())
		read_suspects();
	gn_storage_release(); /* what the last pass skipped may be free now */
	run->job = NULL;
	current = run;
	do
	{
		CHECK_FOR_INTERRUPTS();
		take = try_once(run);
	} while (take == GN_TAKE_AGAIN);
	current = NULL;
	MemoryContextSwitchTo(old);
	MemoryContextReset(run->job_memory);
	MemoryContextReset(run->claim.memory);
	return take == GN_TAKE_DONE;
}
