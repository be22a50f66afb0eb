/*
 * src/queue/throttle.c
 *	  How many jobs of a queue begin in a time: a bucket of tokens in shared memory.
 *
 * A token is taken when a job begins and never comes back, whatever becomes of the job
 * or of the transaction that began it. It is not known before the look whether there is
 * a job, and a look without one must not cost a token. So whoever looks has a lock for
 * as long: what he counted is still there when he takes it.
 *
 * Nobody sleeps for a token. Who finds none asks the scheduler for a pass, and the pass
 * knows when the next one comes: then it wakes as many executors and workers as there
 * are tokens.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "core/core.h"
#include "core/worker.h"
#include "queue/lock.h"
#include "queue/storage.h"
#include "queue/throttle.h"
#include "queue/wait.h"

GN_FUNCTION(gn_queue_throttled);

#define SCOPE "queue"

static GnRateVerdict
peek(const GnQueue *queue, int64 cost)
{
	return gn_rate_peek(SCOPE, queue->name, strlen(queue->name), queue->rate_count,
						queue->rate_period, cost);
}

int
gn_throttle_free(const GnQueue *queue, int most)
{
	if (queue->rate_count == 0)
		return most;
	return (int) Min(peek(queue, 0).remaining, most);
}

int
gn_throttle_enter(const GnQueue *queue, int wanted)
{
	uint64 key;
	int free;

	if (queue->rate_count == 0 || wanted == 0)
		return wanted;
	key = gn_queue_lock_key(queue->name, NULL);
	gn_queue_lock(GN_QUEUE_LOCK_RATE, key, ExclusiveLock);
	free = gn_throttle_free(queue, wanted);
	if (free < wanted)
		gn_worker_tick_at_commit();
	if (free == 0)
		gn_queue_unlock(GN_QUEUE_LOCK_RATE, key, ExclusiveLock, false);
	return free;
}

void
gn_throttle_leave(const GnQueue *queue, int begun)
{
	if (queue->rate_count == 0)
		return;
	if (begun > 0 && !gn_rate_take(SCOPE, queue->name, strlen(queue->name),
								   queue->rate_count, queue->rate_period, begun)
						  .allowed)
		elog(ERROR, "tokens of queue \"%s\" went elsewhere", queue->name);
	gn_queue_unlock(GN_QUEUE_LOCK_RATE, gn_queue_lock_key(queue->name, NULL),
					ExclusiveLock, false);
}

/* Wakes whoever can begin a job of the queue; when the next token comes that somebody
 * waits for, DT_NOEND if nobody does. */
static TimestampTz
serve(const GnQueue *queue)
{
	int free = gn_throttle_free(queue, queue->rate_count);
	int waiting = gn_storage_count_waiting(queue->name, queue->ordered, free + 1);

	if (free > 0 && waiting > 0)
		gn_queue_call_at_commit(queue, Min(free, waiting));
	if (waiting <= free)
		return DT_NOEND;
	return peek(queue, (int64) free + 1).retry_at;
}

/* SQL: _grownext.queue_throttled() */
Datum
gn_queue_throttled(PG_FUNCTION_ARGS)
{
	TimestampTz next = DT_NOEND;
	const char **names;
	int count;
	GnSpi spi;

	gn_spi_begin(&spi);
	count = gn_queue_limited(&names);
	for (int i = 0; i < count; i++)
	{
		const GnQueue *queue = gn_queue_find(names[i]);
		GnQueue copy;
		TimestampTz at;

		if (queue == NULL || queue->paused)
			continue;
		copy = *queue;
		copy.name = pstrdup(names[i]);
		at = serve(&copy);
		next = Min(next, at);
	}
	gn_spi_end(&spi);
	if (next == DT_NOEND)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(next);
}
