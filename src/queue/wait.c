/*
 * src/queue/wait.c
 *	  job_wait(): an outside worker sleeps until there are jobs.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/await.h"
#include "core/core.h"
#include "core/worker.h"
#include "queue/lease.h"
#include "queue/lock.h"
#include "queue/ready.h"
#include "queue/slot.h"
#include "queue/storage.h"
#include "queue/throttle.h"
#include "queue/wait.h"

GN_FUNCTION(gn_job_wait);
GN_FUNCTION(gn_queue_wake);
GN_FUNCTION(gn_queue_waiters);

static uint64
channel_of(const char *queue)
{
	return gn_queue_lock_key(queue, "job_wait");
}

void
gn_queue_call_outside_at_commit(const GnQueue *queue, int jobs)
{
	if (!queue->paused)
		gn_wait_call_at_commit(channel_of(queue->name), jobs);
}

void
gn_queue_call_at_commit(const GnQueue *queue, int jobs)
{
	if (queue->handler && !queue->paused)
		gn_worker_wake_at_commit(jobs);
	gn_queue_call_outside_at_commit(queue, jobs);
}

/* SQL: _grownext.queue_wake(queue text, jobs int) */
Datum
gn_queue_wake(PG_FUNCTION_ARGS)
{
	const GnQueue *queue = gn_queue_find(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	if (queue && PG_GETARG_INT32(1) > 0)
	{
		gn_ready_note_unknown(queue->name);
		gn_queue_call_at_commit(queue, PG_GETARG_INT32(1));
	}
	PG_RETURN_VOID();
}

/* SQL: _grownext.queue_waiters(queue text) */
Datum
gn_queue_waiters(PG_FUNCTION_ARGS)
{
	char *queue = text_to_cstring(PG_GETARG_TEXT_PP(0));

	PG_RETURN_INT32(gn_wait_count(channel_of(queue)));
}

/* Whether a fetch would get a job now; runs in a transaction. */
static bool
look(const GnAwait *await)
{
	const char *name = await->name;
	GnQueue queue;
	bool ready = false;
	GnSpi spi;

	gn_database_require_armed("job_wait()");
	queue = *gn_lease_queue(name);
	queue.name = unconstify(char *, name);
	if (queue.paused)
		return false;
	gn_spi_begin(&spi);
	if (gn_slot_free(&queue, 1) > 0 && gn_throttle_free(&queue, 1) > 0)
		ready = gn_storage_fetchable(name, queue.ordered);
	gn_spi_end(&spi);
	return ready;
}

/* SQL: grownext.job_wait(queue text, timeout interval, INOUT ready boolean) */
Datum
gn_job_wait(PG_FUNCTION_ARGS)
{
	static uint32 event = 0;
	GnAwait await = {.look = look};

	if (event == 0)
		event = gn_wait_event("GrowNextJobWait");
	await.event = event;
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("queue and timeout must not be null")));
	await.until = gn_await_begin(fcinfo, "job_wait()", PG_GETARG_INTERVAL_P(1));
	await.name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	(void) gn_lease_queue(await.name);
	await.channel = channel_of(await.name);
	return gn_await(fcinfo, &await);
}
