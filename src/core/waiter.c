/*
 * src/core/waiter.c
 *	  Sessions that wait for something with a name, and who calls them.
 *
 * No call is lost, by the order of things on both sides: a session enlists, looks, and
 * only then waits; a transaction is visible before its commit callback looks who is
 * enlisted. A session that was called is not called again until it has looked. If it
 * leaves instead, because it was cancelled or its time is up, the next one is called.
 *
 * There is a place for each backend. An entry is taken out by its owner, at the latest
 * by an exit callback that comes before the process gives up its latch. Nothing throws
 * while the lock is held, so a commit callback may take it.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "core/core.h"
#include "core/workers.h"

typedef struct Waiter
{
	Latch *latch; /* NULL: free */
	Oid database;
	bool called;
	uint64 channel;
	uint64 ticket; /* rises with each that comes */
} Waiter;

typedef struct Waiters
{
	LWLock lock; /* guards all but the atomic */
	int tranche;
	int size;
	pg_atomic_uint32 count; /* who commits need not take the lock for nobody */
	uint64 next_ticket;
	Waiter waiter[FLEXIBLE_ARRAY_MEMBER];
} Waiters;

static Waiters *waiters = NULL;
static Waiter *mine = NULL;

Size
gn_wait_shmem_size(void)
{
	return MAXALIGN(
		add_size(offsetof(Waiters, waiter), mul_size(MaxBackends, sizeof(Waiter))));
}

void
gn_wait_shmem_init(void)
{
	bool found;

	waiters = ShmemInitStruct("grownext waiters", gn_wait_shmem_size(), &found);
	if (!found)
	{
		memset(waiters, 0, gn_wait_shmem_size());
		waiters->tranche = LWLockNewTrancheId();
		LWLockInitialize(&waiters->lock, waiters->tranche);
		waiters->size = MaxBackends;
		pg_atomic_init_u32(&waiters->count, 0);
	}
	LWLockRegisterTranche(waiters->tranche, "grownext_waiters");
}

static bool
waits_for(const Waiter *waiter, Oid database, uint64 channel)
{
	return waiter->latch && waiter->database == database && waiter->channel == channel;
}

/* Lock held. Who has waited longest and was not called yet, or NULL. */
static Waiter *
first_in_line(Oid database, uint64 channel)
{
	Waiter *first = NULL;

	for (int i = 0; i < waiters->size; i++)
	{
		Waiter *waiter = &waiters->waiter[i];

		if (waits_for(waiter, database, channel) && !waiter->called &&
			(first == NULL || waiter->ticket < first->ticket))
			first = waiter;
	}
	return first;
}

/* Lock held. */
static void
call_some(Oid database, uint64 channel, int count)
{
	Waiter *waiter;

	while (count-- > 0 && (waiter = first_in_line(database, channel)) != NULL)
	{
		waiter->called = true;
		SetLatch(waiter->latch);
	}
}

void
gn_wait_call(Oid database, uint64 channel, int count)
{
	pg_memory_barrier(); /* after the commit became visible */
	if (waiters == NULL || pg_atomic_read_u32(&waiters->count) == 0)
		return;
	LWLockAcquire(&waiters->lock, LW_EXCLUSIVE);
	call_some(database, channel, count);
	LWLockRelease(&waiters->lock);
}

static void
leave_at_exit(int code, Datum arg)
{
	gn_wait_leave(false);
}

bool
gn_wait_enlist(uint64 channel)
{
	static bool exit_registered = false;

	if (waiters == NULL || mine)
		return false;
	if (!exit_registered)
	{
		before_shmem_exit(leave_at_exit, (Datum) 0);
		exit_registered = true;
	}
	LWLockAcquire(&waiters->lock, LW_EXCLUSIVE);
	for (int i = 0; i < waiters->size && mine == NULL; i++)
	{
		if (waiters->waiter[i].latch == NULL)
			mine = &waiters->waiter[i];
	}
	if (mine)
	{
		*mine = (Waiter){.latch = MyLatch,
						 .database = MyDatabaseId,
						 .channel = channel,
						 .ticket = waiters->next_ticket++};
		(void) pg_atomic_fetch_add_u32(&waiters->count, 1); /* a barrier, too */
	}
	LWLockRelease(&waiters->lock);
	return mine != NULL;
}

void
gn_wait_look(void)
{
	if (mine == NULL)
		return;
	LWLockAcquire(&waiters->lock, LW_EXCLUSIVE);
	mine->called = false;
	LWLockRelease(&waiters->lock);
}

void
gn_wait_leave(bool served)
{
	Waiter left;

	if (mine == NULL)
		return;
	LWLockAcquire(&waiters->lock, LW_EXCLUSIVE);
	left = *mine;
	mine->latch = NULL;
	mine = NULL;
	(void) pg_atomic_fetch_sub_u32(&waiters->count, 1);
	if (left.called && !served)
		call_some(left.database, left.channel, 1);
	LWLockRelease(&waiters->lock);
}

int
gn_wait_count(uint64 channel)
{
	int count = 0;

	if (waiters == NULL)
		return 0;
	LWLockAcquire(&waiters->lock, LW_SHARED);
	for (int i = 0; i < waiters->size; i++)
		count += waits_for(&waiters->waiter[i], MyDatabaseId, channel);
	LWLockRelease(&waiters->lock);
	return count;
}
