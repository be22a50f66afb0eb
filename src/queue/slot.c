/*
 * src/queue/slot.c
 *	  How many jobs of a queue run at a time: numbered slots, without a counter.
 *
 * An executor holds its slot as a lock for the job's transaction, so it cannot leak.
 * A lease outlives transactions: its job's row names the slot. Who looks for one takes
 * the lock first and then reads which slots leases hold, under a snapshot that is
 * newer than the lock: whoever fetched with this slot held the lock until its rows
 * were there to be seen, and whoever settled one has freed it when its row is gone.
 *
 * Leases that came about under a larger limit, or none, count as well.
 */
#include "postgres.h"

#include "access/xact.h"

#include "core/core.h"
#include "queue/lock.h"
#include "queue/slot.h"
#include "queue/storage.h"

static uint64 occupied = 0; /* by the handler that this process runs */

static uint64
slot_key(const GnQueue *queue, int slot)
{
	return (gn_queue_lock_key(queue->name, NULL) << 16) | (uint64) slot;
}

void
gn_slot_occupy(const GnQueue *queue, int slot)
{
	occupied = slot ? slot_key(queue, slot) : 0;
}

void
gn_slot_give_back(const GnQueue *queue, int slot)
{
	if (slot)
		gn_queue_unlock(GN_QUEUE_LOCK_SLOT, slot_key(queue, slot), ExclusiveLock,
						false);
}

/* Nobody else's, and no handler runs in it here. */
static bool
is_free(const GnQueue *queue, const bool *leased, int slot)
{
	uint64 key = slot_key(queue, slot);

	return !leased[slot] && key != occupied &&
		   !gn_queue_locked(GN_QUEUE_LOCK_SLOT, key);
}

/* Locks free slots until there are so many; their new count. */
static int
lock_slots(const GnQueue *queue, const bool *leased, int wanted, int *slots, int count)
{
	int first = count > 0 ? slots[count - 1] + 1 : 1;

	for (int i = first; i <= queue->concurrency && count < wanted; i++)
	{
		uint64 key = slot_key(queue, i);

		if (!leased[i] && key != occupied &&
			gn_queue_try_lock(GN_QUEUE_LOCK_SLOT, key, ExclusiveLock, false))
			slots[count++] = i;
	}
	return count;
}

/* Keeps the slots that no lease holds; their new count. */
static int
drop_leased(const GnQueue *queue, const bool *leased, int *slots, int count)
{
	int kept = 0;

	for (int i = 0; i < count; i++)
	{
		if (leased[slots[i]])
			gn_slot_give_back(queue, slots[i]);
		else
			slots[kept++] = slots[i];
	}
	return kept;
}

int
gn_slot_take(const GnQueue *queue, int wanted, int *slots)
{
	bool *leased;
	int count = 0;
	int surplus = 0; /* leases that have no slot of the queue's */

	if (queue->concurrency == 0)
	{
		memset(slots, 0, wanted * sizeof(int));
		return wanted;
	}
	wanted = Min(wanted, queue->concurrency);
	leased = palloc0((queue->concurrency + 1) * sizeof(bool));
	for (;;)
	{
		int locked = lock_slots(queue, leased, wanted, slots, count);

		surplus = gn_storage_leased_slots(queue->name, queue->concurrency, leased);
		count = drop_leased(queue, leased, slots, locked);
		if (count == locked)
			break;
	}
	/* Nobody adds to a surplus. As many free slots as it has stay empty. */
	for (int i = count > 0 ? slots[count - 1] + 1 : 1;
		 i <= queue->concurrency && surplus > 0; i++)
		surplus -= is_free(queue, leased, i);
	while (count > 0 && surplus-- > 0)
		gn_slot_give_back(queue, slots[--count]);
	pfree(leased);
	return count;
}

int
gn_slot_free(const GnQueue *queue, int most)
{
	bool *leased;
	int places;

	if (queue->concurrency == 0)
		return most;
	leased = palloc0((queue->concurrency + 1) * sizeof(bool));
	places = -gn_storage_leased_slots(queue->name, queue->concurrency, leased);
	for (int i = 1; i <= queue->concurrency && places < most; i++)
		places += is_free(queue, leased, i);
	pfree(leased);
	return Max(places, 0);
}
