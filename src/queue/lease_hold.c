/*
 * src/queue/lease_hold.c
 *	  What a worker does while it holds a lease: extend it, report progress, take on the
 *	  job's context.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/worker.h"
#include "queue/executor.h"
#include "queue/lease.h"
#include "queue/running.h"
#include "queue/storage.h"

GN_FUNCTION(gn_job_extend);
GN_FUNCTION(gn_job_progress);
GN_FUNCTION(gn_job_bind);

/* SQL: grownext.job_extend(ids bigint[], lease_ids bigint[], lease interval) */
Datum
gn_job_extend(PG_FUNCTION_ARGS)
{
	Oid caller = GetUserId();
	MemoryContext memory = CurrentMemoryContext;
	int count = -1;
	int64 lease;
	int64 *held;
	Datum ids;
	Datum lease_ids;
	Datum result;
	char **queues;
	GnSpi spi;

	PreventCommandIfReadOnly("job_extend()");
	ids = gn_lease_ids(fcinfo, 0, "ids", &count);
	lease_ids = gn_lease_ids(fcinfo, 1, "lease_ids", &count);
	lease = gn_lease_argument(fcinfo, 2);
	gn_prepare_refuse("job_extend()");
	gn_spi_begin(&spi);
	count = gn_storage_leased_queues(ids, lease_ids, &queues);
	for (int i = 0; i < count; i++)
		gn_lease_require_right(caller, queues[i]);
	count = gn_storage_extend(ids, lease_ids, gn_now() + lease, &held);
	MemoryContextSwitchTo(memory);
	result = gn_lease_id_array(held, count);
	gn_spi_end(&spi);
	PG_RETURN_DATUM(result);
}

static Jsonb *
progress_argument(FunctionCallInfo fcinfo, int argument)
{
	Jsonb *progress = PG_GETARG_JSONB_P(argument);

	if (VARSIZE(progress) > GN_MAX_PROGRESS)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("progress of a job exceeds %d bytes", GN_MAX_PROGRESS)));
	return progress;
}

/* SQL: grownext.job_progress(id bigint, progress jsonb) */
Datum
gn_job_progress(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"id", "progress"};
	Oid caller = GetUserId();
	int64 id;
	Jsonb *progress;
	bool running;
	GnJob job;
	GnSpi spi;

	gn_lease_require_arguments(fcinfo, lengthof(names), names);
	id = PG_GETARG_INT64(0);
	progress = progress_argument(fcinfo, 1);
	if (gn_executor_has(id))
	{
		gn_running_report(progress);
		PG_RETURN_VOID();
	}
	PreventCommandIfReadOnly("job_progress()");
	gn_spi_begin(&spi);
	running = gn_storage_look(id, 0, &job);
	if (running)
	{
		gn_lease_require_right(caller, job.queue);
		gn_storage_progress(id, progress);
	}
	gn_spi_end(&spi);
	if (!running)
		ereport(ERROR, (errcode(GN_ERRCODE_LEASE_STALE),
						errmsg("nobody has a lease of job " INT64_FORMAT, id),
						errdetail("Progress is reported for jobs that run.")));
	PG_RETURN_VOID();
}

/* SQL: grownext.job_bind(id bigint, lease_id bigint) */
Datum
gn_job_bind(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"id", "lease_id"};
	Oid caller = GetUserId();
	MemoryContext memory = CurrentMemoryContext;
	Jsonb *claims;
	GnJob job;
	GnSpi spi;

	gn_lease_require_arguments(fcinfo, lengthof(names), names);
	gn_spi_begin(&spi);
	/* No lock: the worker goes on to renew the lease, on another connection. */
	if (PG_GETARG_INT64(1) == 0 ||
		!gn_storage_look(PG_GETARG_INT64(0), PG_GETARG_INT64(1), &job))
		gn_lease_raise_stale(PG_GETARG_INT64(0));
	gn_lease_require_right(caller, job.queue);
	MemoryContextSwitchTo(memory);
	/* a job without a context is nobody's, not that of the job before it */
	claims = job.claims ? DatumGetJsonbPCopy(JsonbPGetDatum(job.claims))
						: gn_jsonb_from_text("{}");
	gn_spi_end(&spi);
	gn_context_bind(GN_CONTEXT_JOB, claims, NULL);
	gn_warn_outside_block("job_bind()");
	PG_RETURN_VOID();
}
