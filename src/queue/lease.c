/*
 * src/queue/lease.c
 *	  Workers outside the database: they fetch jobs on a lease and settle them.
 *
 * The lease begins with the commit of the transaction that fetches; one that rolls back
 * has fetched nothing. It is a row, so a crash or a promotion withholds the job until
 * the lease ends. Then the attempt has failed: "lease expired".
 *
 * Every call names job and lease. A completion counts as long as the job was not handed
 * out again; in the transaction in which the worker writes its effects it makes them
 * happen exactly once. A stale one raises, so that the effects roll back.
 *
 * Whoever fetches acts on the outside world. So the jobs that it gets are on disk when
 * it gets them, and its commit waits for the disk whatever synchronous_commit says.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/worker.h"
#include "queue/claim.h"
#include "queue/definition.h"
#include "queue/executor.h"
#include "queue/flow.h"
#include "queue/invoke.h"
#include "queue/lease.h"
#include "queue/metrics.h"
#include "queue/running.h"
#include "queue/slot.h"
#include "queue/storage.h"
#include "queue/throttle.h"
#include "queue/wait.h"

GN_FUNCTION(gn_job_fetch);
GN_FUNCTION(gn_job_complete);
GN_FUNCTION(gn_job_complete_many);
GN_FUNCTION(gn_job_fail);
GN_FUNCTION(gn_job_snooze);
GN_FUNCTION(gn_queue_lapse);

#define MAX_DELAY (366 * USECS_PER_DAY)
#define MAX_WORKER 200 /* bytes of a worker's name */
#define LAPSE_AT_FETCH 100

/* ---- arguments ---- */

/* A wait of 0 to 366 days. */
static int64
delay_argument(FunctionCallInfo fcinfo, int argument, const char *what)
{
	Interval *delay = PG_GETARG_INTERVAL_P(argument);
	int64 period = gn_interval_period(delay);

	if (delay->time == 0 && delay->day == 0 && delay->month == 0)
		return 0;
	if (period <= 0 || period > MAX_DELAY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be negative, nor more than 366 days", what)));
	return period;
}

static Datum
one_id(int64 id)
{
	Datum value = Int64GetDatum(id);

	return PointerGetDatum(construct_array(&value, 1, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* ---- what ends a lease ---- */

/* A lease that lapsed has begun at a time that is not known any more. */
static void
note_end(const GnJob *job, GnMeasure what, TimestampTz now)
{
	GnMeasurement end = gn_metrics_end(what, job, job->leased_at, now);

	gn_metrics_note_at_commit(job->queue, &end);
}

/* A place of a limited queue, or the turn of a group, is free again at commit. */
static void
give_place(const char *name)
{
	const GnQueue *queue = gn_queue_find(name);

	if (queue && (queue->concurrency > 0 || queue->ordered))
		gn_queue_call_at_commit(queue, 1);
}

/* The job failed with this error; what becomes of it. */
static GnFailure
fail_job(const GnJob *job, const char *error, int64 delay, bool discard,
		 TimestampTz now)
{
	const GnQueue *queue = gn_queue_find(job->queue);
	GnFailure failure = discard || job->failures + 1 >= job->max_attempts
							? GN_FAILURE_DEAD
							: GN_FAILURE_RETRY;

	if (queue == NULL)
		elog(ERROR, "queue \"%s\" of job " INT64_FORMAT " is gone", job->queue,
			 job->id);
	if (delay < 0)
		delay = (int64) (gn_queue_backoff(queue, job->failures) * USECS_PER_SEC);
	gn_storage_fail(job, failure, job->leased_at, now, now + delay, error);
	note_end(job, failure == GN_FAILURE_DEAD ? GN_MEASURE_DEAD : GN_MEASURE_FAILED,
			 now);
	if (failure == GN_FAILURE_RETRY)
		gn_worker_tick_at_commit();
	else
		gn_flow_over(job, 1, "dead");
	give_place(job->queue);
	return failure;
}

static void
cancel_job(const GnJob *job, const char *reason, TimestampTz now)
{
	gn_storage_cancel(job, now, reason);
	note_end(job, GN_MEASURE_CANCELLED, now);
	gn_flow_over(job, 1, "cancelled");
	give_place(job->queue);
}

/* Takes back the leases that are over; how many there were. */
static int
take_back_lapsed(const char *queue, int most)
{
	TimestampTz now = gn_now();
	GnJob *jobs;
	int count = gn_storage_lapsed(queue, now, most, &jobs);

	for (int i = 0; i < count; i++)
	{
		if (jobs[i].cancelled)
			cancel_job(&jobs[i], GN_CANCELLED, now);
		else
			(void) fail_job(&jobs[i], "lease expired", -1, false, now);
	}
	return count;
}

/* SQL: _grownext.queue_lapse(most int) */
Datum
gn_queue_lapse(PG_FUNCTION_ARGS)
{
	GnSpi spi;
	int count;

	gn_spi_begin(&spi);
	count = take_back_lapsed(NULL, PG_GETARG_INT32(0));
	gn_spi_end(&spi);
	PG_RETURN_INT32(count);
}

/* ---- fetch ---- */

/* Jobs that nobody should begin are cancelled; the others move to the front. */
static int
keep_wanted(const GnQueue *queue, GnJob *jobs, int count, TimestampTz now)
{
	int kept = 0;

	for (int i = 0; i < count; i++)
	{
		const char *reason = gn_job_unwanted(queue, &jobs[i], now);

		if (reason)
		{
			GnJob unbegun = jobs[i];

			unbegun.leased_at = 0;
			cancel_job(&unbegun, reason, now);
		}
		else
			jobs[kept++] = jobs[i];
	}
	for (int i = 0; i < kept; i++)
	{
		GnMeasurement start = gn_metrics_start(queue, &jobs[i], now);

		gn_metrics_note_at_commit(queue->name, &start);
	}
	return kept;
}

/* Slots that no job got, or whose job is cancelled already. */
static void
give_back_slots(const GnQueue *queue, const int *slots, int count, const GnJob *jobs,
				int leased)
{
	for (int i = 0; queue->concurrency > 0 && i < count; i++)
	{
		bool used = false;

		for (int j = 0; j < leased && !used; j++)
			used = jobs[j].slot == slots[i];
		if (!used)
			gn_slot_give_back(queue, slots[i]);
	}
}

static int
lease_some(const GnQueue *queue, const GnLease *lease, int count, MemoryContext memory,
		   GnJob *jobs)
{
	int *slots = palloc(count * sizeof(int));
	int kept = 0;

	for (;;)
	{
		int places = gn_slot_take(queue, count - kept, slots);
		int tokens = gn_throttle_enter(queue, places);
		int leased = 0;
		int wanted = 0;

		if (tokens > 0)
			leased = gn_storage_lease(queue->name, queue->ordered, lease, tokens, slots,
									  memory, jobs + kept);
		wanted = keep_wanted(queue, jobs + kept, leased, lease->from);
		if (tokens > 0)
			gn_throttle_leave(queue, wanted);
		give_back_slots(queue, slots, places, jobs + kept, wanted);
		kept += wanted;
		if (kept == count || wanted == leased)
			return kept; /* nothing was taken for nothing: there is no more */
	}
}

static int
fetch_jobs(const char *name, int count, int64 period, const char *worker, GnJob *jobs)
{
	MemoryContext memory = CurrentMemoryContext;
	GnQueue queue = *gn_lease_queue(name);
	GnLease lease = {.from = gn_now(), .worker = worker};
	int fetched;
	GnSpi spi;

	/* A copy that no query takes away. */
	queue.name = unconstify(char *, name);
	lease.until = lease.from + period;
	gn_spi_begin(&spi);
	(void) take_back_lapsed(name, LAPSE_AT_FETCH);
	lease.id = gn_storage_new_lease();
	fetched = lease_some(&queue, &lease, count, memory, jobs);
	gn_spi_end(&spi);
	return fetched;
}

/* SQL: grownext.job_fetch(queue text, count int, lease interval, worker text) */
Datum
gn_job_fetch(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"queue", "count", "lease"};
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	const char *worker = NULL;
	char *queue;
	GnJob *jobs;
	int64 lease;
	int count;

	gn_lease_require_arguments(fcinfo, lengthof(names), names);
	PreventCommandIfReadOnly("job_fetch()");
	gn_require_preload("job_fetch()");
	gn_database_require_armed("job_fetch()");
	queue = text_to_cstring(PG_GETARG_TEXT_PP(0));
	count = PG_GETARG_INT32(1);
	if (count < 1 || count > GN_LEASE_MAX_COUNT)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("count must be between 1 and %d", GN_LEASE_MAX_COUNT)));
	lease = gn_lease_argument(fcinfo, 2);
	if (!PG_ARGISNULL(3))
		worker = text_to_cstring(PG_GETARG_TEXT_PP(3));
	if (worker && (*worker == '\0' || strlen(worker) > MAX_WORKER))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("worker must have 1 to %d bytes", MAX_WORKER)));
	InitMaterializedSRF(fcinfo, 0);
	if (gn_lease_queue(queue)->paused)
		return (Datum) 0;
	gn_prepare_refuse("job_fetch()");
	jobs = palloc(count * sizeof(GnJob));
	count = fetch_jobs(queue, count, lease, worker, jobs);
	for (int i = 0; i < count; i++)
		tuplestore_puttuple(result->setResult, gn_job_tuple(&jobs[i], result->setDesc));
	if (count > 0)
		ForceSyncCommit();
	return (Datum) 0;
}

/* ---- settle ---- */

/* Locks the jobs of leases that are still good; the caller must have the right to work
 * the queues of all of them. */
static int
pin_many(Oid caller, Datum ids, Datum lease_ids, GnJob **jobs)
{
	int count = gn_storage_pin(ids, lease_ids, jobs);

	for (int i = 0; i < count; i++)
	{
		if (i == 0 || strcmp((*jobs)[i].queue, (*jobs)[i - 1].queue) != 0)
			gn_lease_require_right(caller, (*jobs)[i].queue);
	}
	return count;
}

/* Locks the job of a lease, or raises NX031. */
static GnJob
pin_one(Oid caller, int64 id, int64 lease_id)
{
	GnJob *jobs;

	if (pin_many(caller, one_id(id), one_id(lease_id), &jobs) == 0)
		gn_lease_raise_stale(id);
	return jobs[0];
}

static void
check_result(Jsonb *result)
{
	if (VARSIZE(result) > GN_MAX_RESULT)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("result of a job exceeds %d bytes", GN_MAX_RESULT)));
}

/* Results by id: what a worker names is in any order, pinned jobs are in that of ids.
 */
typedef struct Outcome
{
	int64 id;
	Datum result;
	bool null;
} Outcome;

static int
compare_outcomes(const void *a, const void *b)
{
	const Outcome *left = a;
	const Outcome *right = b;

	return left->id < right->id ? -1 : left->id > right->id;
}

static Datum
results_of(const GnJob *jobs, int count, const Outcome *outcomes, int outcome_count)
{
	Datum *values = palloc0((count + 1) * sizeof(Datum));
	bool *nulls = palloc((count + 1) * sizeof(bool));
	int lower[1] = {1};

	for (int i = 0; i < count; i++)
	{
		Outcome key = {.id = jobs[i].id};
		const Outcome *outcome =
			bsearch(&key, outcomes, outcome_count, sizeof(Outcome), compare_outcomes);

		nulls[i] = outcome == NULL || outcome->null;
		if (!nulls[i])
			values[i] = outcome->result;
	}
	return PointerGetDatum(construct_md_array(values, nulls, 1, &count, lower, JSONBOID,
											  -1, false, TYPALIGN_INT));
}

/* Settles pinned jobs: those that somebody wants cancelled are, the others succeeded
 * and move to the front. */
static int
settle(GnJob *jobs, int count, const Outcome *outcomes, int outcome_count)
{
	TimestampTz now = gn_now();
	int64 *done = palloc((count + 1) * sizeof(int64));
	int succeeded = 0;

	for (int i = 0; i < count; i++)
	{
		if (jobs[i].cancelled)
			cancel_job(&jobs[i], GN_CANCELLED, now);
		else
			jobs[succeeded++] = jobs[i];
	}
	if (succeeded == 0)
		return 0;
	for (int i = 0; i < succeeded; i++)
		done[i] = jobs[i].id;
	gn_storage_succeed_many(gn_lease_id_array(done, succeeded),
							results_of(jobs, succeeded, outcomes, outcome_count), now);
	gn_flow_over(jobs, succeeded, "succeeded");
	for (int i = 0; i < succeeded; i++)
	{
		note_end(&jobs[i], GN_MEASURE_SUCCEEDED, now);
		give_place(jobs[i].queue);
	}
	return succeeded;
}

static const char *const lease_names[] = {"id", "lease_id"};

/* SQL: grownext.job_complete(id bigint, lease_id bigint, result jsonb) */
Datum
gn_job_complete(PG_FUNCTION_ARGS)
{
	Outcome outcome = {.null = PG_ARGISNULL(2)};
	Oid caller = GetUserId();
	bool succeeded;
	GnJob job;
	GnSpi spi;

	gn_lease_require_arguments(fcinfo, lengthof(lease_names), lease_names);
	PreventCommandIfReadOnly("job_complete()");
	outcome.id = PG_GETARG_INT64(0);
	if (!outcome.null)
	{
		outcome.result = JsonbPGetDatum(PG_GETARG_JSONB_P(2));
		check_result(DatumGetJsonbP(outcome.result));
	}
	gn_prepare_refuse("job_complete()");
	gn_spi_begin(&spi);
	job = pin_one(caller, outcome.id, PG_GETARG_INT64(1));
	succeeded = settle(&job, 1, &outcome, 1) > 0;
	gn_spi_end(&spi);
	PG_RETURN_TEXT_P(cstring_to_text(succeeded ? "succeeded" : "cancelled"));
}

/* The outcomes of many, sorted by id. */
static Outcome *
outcomes_argument(FunctionCallInfo fcinfo, int argument, Datum ids, int count)
{
	Outcome *outcomes = palloc((count + 1) * sizeof(Outcome));
	const int64 *id = (const int64 *) ARR_DATA_PTR(DatumGetArrayTypeP(ids));
	Datum *results = NULL;
	bool *nulls = NULL;
	int result_count;

	if (!PG_ARGISNULL(argument))
	{
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(argument), JSONBOID, -1, false,
						  TYPALIGN_INT, &results, &nulls, &result_count);
		if (result_count != count)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("results must have one element per id")));
	}
	for (int i = 0; i < count; i++)
	{
		outcomes[i] = (Outcome){.id = id[i], .null = results == NULL || nulls[i]};
		if (outcomes[i].null)
			continue;
		outcomes[i].result = JsonbPGetDatum(DatumGetJsonbP(results[i]));
		check_result(DatumGetJsonbP(outcomes[i].result));
	}
	qsort(outcomes, count, sizeof(Outcome), compare_outcomes);
	return outcomes;
}

/* SQL: grownext.job_complete_many(ids bigint[], lease_ids bigint[], results jsonb[]) */
Datum
gn_job_complete_many(PG_FUNCTION_ARGS)
{
	Oid caller = GetUserId();
	int count = -1;
	Outcome *outcomes;
	Datum ids;
	Datum lease_ids;
	int64 *settled;
	int settled_count;
	GnJob *jobs;
	GnSpi spi;

	PreventCommandIfReadOnly("job_complete_many()");
	ids = gn_lease_ids(fcinfo, 0, "ids", &count);
	lease_ids = gn_lease_ids(fcinfo, 1, "lease_ids", &count);
	outcomes = outcomes_argument(fcinfo, 2, ids, count);
	settled = palloc((count + 1) * sizeof(int64));
	gn_prepare_refuse("job_complete_many()");
	gn_spi_begin(&spi);
	settled_count = pin_many(caller, ids, lease_ids, &jobs);
	settled_count = settle(jobs, settled_count, outcomes, count);
	for (int i = 0; i < settled_count; i++)
		settled[i] = jobs[i].id;
	gn_spi_end(&spi);
	PG_RETURN_DATUM(gn_lease_id_array(settled, settled_count));
}

/* What is stored of a worker's error. */
static char *
error_argument(FunctionCallInfo fcinfo, int argument)
{
	char *error;
	int length;

	if (PG_ARGISNULL(argument))
		gn_lease_refuse_null("error");
	error = text_to_cstring(PG_GETARG_TEXT_PP(argument));
	length = (int) strlen(error);
	if (length > GN_MAX_ERROR)
		error[pg_mbcliplen(error, length, GN_MAX_ERROR)] = '\0';
	return error;
}

/* Of the lease of a job that nobody has taken back; such a failure is counted already.
 */
static const char *
fail_leased(const GnJob *found, const char *error, int64 delay, bool discard)
{
	GnJob job = *found;
	TimestampTz now = gn_now();

	if (job.lease_until == 0)
		return "stale";
	job.lease_id = 0;
	if (job.cancelled)
	{
		cancel_job(&job, GN_CANCELLED, now);
		return "cancelled";
	}
	return fail_job(&job, error, delay, discard, now) == GN_FAILURE_DEAD ? "dead"
																		 : "retry";
}

/* SQL: grownext.job_fail(id bigint, lease_id bigint, error text, retry_in interval,
 * discard boolean) */
Datum
gn_job_fail(PG_FUNCTION_ARGS)
{
	Oid caller = GetUserId();
	const char *became = "stale";
	int64 delay = -1;
	char *error;
	GnJob *jobs;
	GnSpi spi;

	gn_lease_require_arguments(fcinfo, lengthof(lease_names), lease_names);
	PreventCommandIfReadOnly("job_fail()");
	error = error_argument(fcinfo, 2);
	if (!PG_ARGISNULL(3))
		delay = delay_argument(fcinfo, 3, "retry_in");
	gn_prepare_refuse("job_fail()");
	gn_spi_begin(&spi);
	if (pin_many(caller, one_id(PG_GETARG_INT64(0)), one_id(PG_GETARG_INT64(1)),
				 &jobs) > 0)
		became =
			fail_leased(&jobs[0], error, delay, !PG_ARGISNULL(4) && PG_GETARG_BOOL(4));
	gn_spi_end(&spi);
	PG_RETURN_TEXT_P(cstring_to_text(became));
}

/* SQL: grownext.job_snooze(id bigint, lease_id bigint, delay interval) */
Datum
gn_job_snooze(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"id", "lease_id", "delay"};
	Oid caller = GetUserId();
	TimestampTz now = gn_now();
	int64 delay;
	GnJob job;
	GnSpi spi;

	gn_lease_require_arguments(fcinfo, lengthof(names), names);
	PreventCommandIfReadOnly("job_snooze()");
	delay = delay_argument(fcinfo, 2, "delay");
	gn_prepare_refuse("job_snooze()");
	gn_spi_begin(&spi);
	job = pin_one(caller, PG_GETARG_INT64(0), PG_GETARG_INT64(1));
	if (job.lease_until == 0)
		gn_lease_raise_stale(job.id); /* it waits for its next attempt */
	job.lease_id = 0;
	if (job.cancelled)
		cancel_job(&job, GN_CANCELLED, now);
	else
	{
		gn_storage_fail(&job, GN_FAILURE_SNOOZE, job.leased_at, now, now + delay, "");
		note_end(&job, GN_MEASURE_SNOOZED, now);
		gn_worker_tick_at_commit();
		give_place(job.queue);
	}
	gn_spi_end(&spi);
	PG_RETURN_VOID();
}
