/*
 * src/queue/claim.c
 *	  Which jobs an executor takes: of which queue, and how many.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/worker.h"
#include "queue/claim.h"
#include "queue/pace.h"
#include "queue/ready.h"
#include "queue/slot.h"
#include "queue/throttle.h"

#define LOOK_AGAIN (5 * USECS_PER_MINUTE)

static void
copy_queue(GnClaim *claim, const GnQueue *queue)
{
	MemoryContext old = MemoryContextSwitchTo(claim->memory);

	claim->queue = *queue;
	claim->queue.name = pstrdup(queue->name);
	claim->queue.handler = pstrdup(queue->handler);
	claim->queue.run_as = pstrdup(queue->run_as);
	MemoryContextSwitchTo(old);
}

static bool
is_worked(const GnQueue *queue)
{
	return queue && queue->handler && !queue->paused;
}

static GnTake
take_from(const char *name, GnClaim *claim)
{
	const GnQueue *queue = gn_queue_find(name);
	int slot;
	GnTake take = GN_TAKE_NONE;

	if (!is_worked(queue))
		return GN_TAKE_NONE;
	copy_queue(claim, queue);
	if (gn_slot_take(&claim->queue, 1, &slot) == 0)
		return GN_TAKE_NONE;
	if (gn_throttle_enter(&claim->queue, 1) > 0)
	{
		take = gn_storage_take(name, claim->queue.ordered, gn_pace_most(&claim->queue),
							   claim->memory, claim->jobs, &claim->count);
		gn_throttle_leave(&claim->queue, take == GN_TAKE_DONE);
	}
	if (take == GN_TAKE_NONE)
		gn_slot_give_back(&claim->queue, slot);
	else if (take == GN_TAKE_DONE)
		gn_slot_occupy(&claim->queue, slot);
	return take;
}

GnTake
gn_claim_take(GnClaim *claim)
{
	GnTake take = GN_TAKE_NONE;
	char **queues;
	int count;
	GnSpi spi;

	if (!gn_database_armed())
		return GN_TAKE_NONE;
	gn_spi_begin(&spi);
	count = gn_storage_ready_queues(&queues);
	gn_pace_order(queues, count);
	for (int i = 0; i < count && take == GN_TAKE_NONE; i++)
		take = take_from(queues[i], claim);
	if (take == GN_TAKE_DONE)
		gn_pace_took(&claim->queue, claim->count);
	gn_spi_end(&spi);
	return take;
}

bool
gn_claim_again(GnClaim *claim, GnJob *job)
{
	const GnQueue *queue = gn_queue_find(claim->queue.name);
	bool taken = false;
	int slot;
	GnSpi spi;

	if (!is_worked(queue))
		return false;
	copy_queue(claim, queue);
	gn_spi_begin(&spi);
	if (gn_slot_take(&claim->queue, 1, &slot) > 0)
	{
		gn_slot_occupy(&claim->queue, slot);
		taken = gn_storage_resume(job);
		job->cancelled = gn_storage_cancelled(job->id);
		job->leased_at = 0;
	}
	gn_spi_end(&spi);
	return taken;
}

/* Should ever a ready job be in the table and nowhere else, it does not lie long. */
static void
look_again_now_and_then(void)
{
	static TimestampTz looked_at = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (looked_at == 0 || now - looked_at > LOOK_AGAIN)
	{
		gn_ready_unknown(MyDatabaseId, NULL);
		looked_at = now;
	}
}

/* Jobs that executors could run now and nobody runs, at most so many of each queue. */
int
gn_claim_demand(void)
{
	int most = Max(gn_executors, 1);
	int demand = 0;
	char **queues;
	int count;
	GnSpi spi;

	look_again_now_and_then();
	gn_spi_begin(&spi);
	count = gn_storage_ready_queues(&queues);
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
			demand += gn_storage_count_waiting(queues[i], copy.ordered, places);
	}
	gn_spi_end(&spi);
	return demand;
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
