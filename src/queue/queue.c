/*
 * src/queue/queue.c
 *	  The component: what it tells the frame, and the small functions that SQL needs.
 */
#include "postgres.h"

#include "storage/lock.h"
#include "utils/builtins.h"

#include "core/core.h"
#include "core/worker.h"
#include "queue/claim.h"
#include "queue/definition.h"
#include "queue/executor.h"
#include "queue/lock.h"
#include "queue/metrics.h"
#include "queue/poison.h"
#include "queue/queue.h"
#include "queue/ready.h"
#include "queue/running.h"
#include "queue/storage.h"

GN_FUNCTION(gn_queue_tick_at_commit);
GN_FUNCTION(gn_queue_lock_name);
GN_FUNCTION(gn_queue_job_running);
GN_FUNCTION(gn_queue_user_may_sql);
GN_FUNCTION(gn_queue_preloaded);
GN_FUNCTION(gn_queue_running_progress);
GN_FUNCTION(gn_queue_running_since);
GN_FUNCTION(gn_queue_interrupt);

/* Platform events become jobs of the queues that they are routed into. */
static void
enqueue_event(const char *queue, Jsonb *event, const pg_uuid_t *tenant)
{
	GnEnqueue request = {.queue = queue, .payload = event, .tenant = tenant};

	(void) gn_queue_enqueue(&request);
}

static void
init_queue(void)
{
	gn_definition_init();
	gn_ready_init();
	gn_metrics_init();
	gn_event_set_sink(enqueue_event);
}

static Size
queue_shmem_size(void)
{
	return add_size(gn_ready_shmem_size(),
					add_size(gn_running_shmem_size(), gn_metrics_shmem_size()));
}

static void
queue_shmem_init(void)
{
	gn_ready_shmem_init();
	gn_running_shmem_init();
	gn_metrics_shmem_init();
	gn_poison_shmem_init();
}

const GnComponent gn_queue_component = {
	.name = "queue",
	.init = init_queue,
	.shmem_size = queue_shmem_size,
	.shmem_init = queue_shmem_init,
	.tick = "SELECT _grownext.queue_tick($1)",
	.executor_demand = gn_claim_demand,
	.executor_run = gn_executor_run,
};

/* SQL: _grownext.queue_tick_at_commit() */
Datum
gn_queue_tick_at_commit(PG_FUNCTION_ARGS)
{
	gn_worker_tick_at_commit();
	PG_RETURN_VOID();
}

/* SQL: _grownext.queue_lock_name(queue text): until the end of the transaction nobody
 * enqueues into it. */
Datum
gn_queue_lock_name(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));

	gn_queue_lock(GN_QUEUE_LOCK_QUEUE, gn_queue_lock_key(name, NULL), ExclusiveLock);
	PG_RETURN_VOID();
}

/* SQL: _grownext.queue_job_running(id bigint) */
Datum
gn_queue_job_running(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(gn_storage_running(PG_GETARG_INT64(0)));
}

/* SQL: _grownext.queue_caller_may(queue text, right_name text): as core_caller_has(),
 * for definer functions. */
Datum
gn_queue_user_may_sql(PG_FUNCTION_ARGS)
{
	char *queue = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *right = text_to_cstring(PG_GETARG_TEXT_PP(1));

	PG_RETURN_BOOL(gn_queue_user_may(GetOuterUserId(), queue, right));
}

/* SQL: _grownext.queue_preloaded() */
Datum
gn_queue_preloaded(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(gn_preloaded);
}

/* ---- handlers in this database ---- */

/* SQL: _grownext.queue_running_progress(id bigint) */
Datum
gn_queue_running_progress(PG_FUNCTION_ARGS)
{
	Jsonb *progress = gn_running_progress(PG_GETARG_INT64(0));

	if (progress == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(progress);
}

/* SQL: _grownext.queue_running_since(id bigint) */
Datum
gn_queue_running_since(PG_FUNCTION_ARGS)
{
	TimestampTz since = gn_running_since(PG_GETARG_INT64(0));

	if (since == 0)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(since);
}

/* SQL: _grownext.queue_interrupt(id bigint) */
Datum
gn_queue_interrupt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(gn_running_interrupt(PG_GETARG_INT64(0)));
}
