/*
 * src/stream/horizon.c
 *	  Up to where a stream is decided: no cursor passes an entry that may still come.
 *
 * Positions are drawn before their transactions commit, so one that is lower may become
 * visible later. A reader therefore goes only as far as no appender is under way, and
 * asks in this order:
 *
 *	  1. the last position drawn (S), by anybody;
 *	  2. who holds lock STREAM of this stream, and what each could have drawn first:
 *		 its bound, the last position before its own first one;
 *	  3. only then a snapshot.
 *
 * An appender takes lock STREAM, publishes its bound, and only then draws. One that is
 * not found in step 2, or has no bound yet, draws later, which is beyond S; or it is
 * over, and since a transaction is visible before it gives up its locks, the snapshot
 * has it. One that is found bounds the horizon. So all up to the least bound, or S, is
 * decided. A transaction that never wrote to the stream does not count, however long it
 * lasts.
 *
 * Bounds are in shared memory, one of each backend, good for the transaction with that
 * number alone: nothing has to be cleared. PREPARE leaves the backend behind; what was
 * prepared has its bound in the lock table, as the key of a lock, which goes to the
 * prepared transaction as lock STREAM does, and comes back with it after a crash. The
 * same serves without shared memory, when the library was not preloaded.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/bufmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "core/core.h"
#include "core/worker.h"
#include "stream/horizon.h"
#include "stream/lock.h"

typedef struct Bound
{
	pg_atomic_uint32 transaction; /* local number; 0 while it changes */
	pg_atomic_uint64 position;
} Bound;

static Bound *bounds = NULL; /* one of each backend */

/* This transaction's own. */
static LocalTransactionId held_transaction = InvalidLocalTransactionId;
static int64 held_position;

/* Streams that it appended to, whatever was rolled back since. */
static uint64 *touched = NULL;
static int touched_count = 0;
static int touched_size = 0;

Size
gn_horizon_shmem_size(void)
{
	return MAXALIGN(mul_size(MaxBackends, sizeof(Bound)));
}

void
gn_horizon_shmem_init(void)
{
	bool found;

	bounds = ShmemInitStruct("grownext stream bounds", gn_horizon_shmem_size(), &found);
	for (int i = 0; !found && i < MaxBackends; i++)
	{
		pg_atomic_init_u32(&bounds[i].transaction, InvalidLocalTransactionId);
		pg_atomic_init_u64(&bounds[i].position, 0);
	}
}

uint64
gn_horizon_channel(int64 stream)
{
	return hash_bytes_extended((const unsigned char *) "stream_wait", 11,
							   (uint64) stream);
}

/* Visible or gone, and no longer under way: see GetLockConflicts(). */
static void
end_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_PREPARE && held_transaction == gn_local_transaction() &&
		touched_count > 0)
		gn_stream_lock(GN_STREAM_LOCK_BOUND, (uint64) held_position, ShareLock);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
	{
		for (int i = 0; i < touched_count; i++)
			gn_wait_call(MyDatabaseId, touched[i], PG_INT32_MAX);
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		touched_count = 0;
}

void
gn_horizon_init(void)
{
	RegisterXactCallback(end_transaction, NULL);
}

static void
touch(int64 stream)
{
	uint64 channel = gn_horizon_channel(stream);

	for (int i = 0; i < touched_count; i++)
	{
		if (touched[i] == channel)
			return;
	}
	if (touched_count == touched_size)
	{
		int size = Max(8, touched_size * 2);

		touched = touched ? repalloc(touched, size * sizeof(uint64))
						  : MemoryContextAlloc(TopMemoryContext, size * sizeof(uint64));
		touched_size = size;
	}
	touched[touched_count++] = channel;
}

static void
publish(int64 position)
{
	Bound *mine = &bounds[gn_my_backend()];

	pg_atomic_write_u32(&mine->transaction, InvalidLocalTransactionId);
	pg_write_barrier();
	pg_atomic_write_u64(&mine->position, (uint64) position);
	pg_write_barrier();
	pg_atomic_write_u32(&mine->transaction, gn_local_transaction());
	pg_memory_barrier(); /* before anything is drawn */
}

void
gn_horizon_hold(int64 stream)
{
	touch(stream);
	if (held_transaction != gn_local_transaction())
	{
		held_position = gn_horizon_last();
		if (bounds)
			publish(held_position);
		held_transaction = gn_local_transaction();
	}
	/* each time: one taken in a savepoint that was rolled back is gone */
	if (bounds == NULL)
		gn_stream_lock(GN_STREAM_LOCK_BOUND, (uint64) held_position, ShareLock);
}

/* What the backend has published for this very transaction. */
static bool
find_bound(VirtualTransactionId holder, int64 *position)
{
	int backend = gn_backend_of(holder);
	Bound *bound;

	if (bounds == NULL || backend < 0 || backend >= MaxBackends)
		return false;
	bound = &bounds[backend];
	if (pg_atomic_read_u32(&bound->transaction) != holder.localTransactionId)
		return false;
	pg_read_barrier();
	*position = (int64) pg_atomic_read_u64(&bound->position);
	pg_read_barrier();
	return pg_atomic_read_u32(&bound->transaction) == holder.localTransactionId;
}

/* The least bound in the lock table, whoever holds it. */
static int64
least_locked_bound(int64 horizon)
{
	LockData *locks = GetLockStatusData();

	for (int i = 0; i < locks->nelements; i++)
	{
		const LOCKTAG *tag = &locks->locks[i].locktag;
		int64 position =
			(int64) (((uint64) tag->locktag_field2 << 32) | tag->locktag_field3);

		if (tag->locktag_type == LOCKTAG_ADVISORY &&
			tag->locktag_field1 == MyDatabaseId &&
			tag->locktag_field4 == GN_STREAM_LOCK_BOUND)
			horizon = Min(horizon, position);
	}
	return horizon;
}

int64
gn_horizon(int64 stream)
{
	LOCKTAG tag = gn_stream_lock_tag(GN_STREAM_LOCK_STREAM, (uint64) stream);
	int64 horizon = gn_horizon_last();
	VirtualTransactionId *holders;
	bool unknown = false;
	int count;

	pg_memory_barrier(); /* first the position, then the holders */
	holders = GetLockConflicts(&tag, ExclusiveLock, &count);
	for (int i = 0; i < count; i++)
	{
		int64 position;

		if (find_bound(holders[i], &position))
			horizon = Min(horizon, position);
		else
			unknown = true;
	}
	pfree(holders);
	return unknown ? least_locked_bound(horizon) : horizon;
}

int64
gn_horizon_last(void)
{
	Oid relid =
		get_relname_relid("stream_position", get_namespace_oid("_grownext", false));
	Relation sequence = relation_open(relid, AccessShareLock);
	Buffer buffer = ReadBuffer(sequence, 0);
	Form_pg_sequence_data data;
	HeapTupleData tuple = {0};
	Page page;
	int64 last;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	tuple.t_data =
		(HeapTupleHeader) PageGetItem(page, PageGetItemId(page, FirstOffsetNumber));
	data = (Form_pg_sequence_data) GETSTRUCT(&tuple);
	last = data->is_called ? data->last_value : data->last_value - 1;
	UnlockReleaseBuffer(buffer);
	relation_close(sequence, NoLock);
	return last;
}
