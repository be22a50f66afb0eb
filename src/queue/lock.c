/*
 * src/queue/lock.c
 *	  The queue's own locks in the server's lock table.
 *
 * A lock lives as long as its transaction or its process, so whatever is derived
 * from one (who runs a job, how many slots are taken) cannot leak when a worker is
 * killed. pg_advisory_unlock_all() frees session locks of every class: whoever
 * needs a lock to hold against the code of others holds it for the transaction too.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"

#include "queue/lock.h"

static LOCKTAG
make_tag(GnQueueLock kind, uint64 key)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (key >> 32), (uint32) key,
						 (uint16) kind);
	return tag;
}

uint64
gn_queue_lock_key(const char *queue, const char *name)
{
	uint64 seed = hash_bytes_extended((const unsigned char *) queue, strlen(queue), 0);

	if (name == NULL)
		return seed;
	return hash_bytes_extended((const unsigned char *) name, strlen(name), seed);
}

void
gn_queue_lock(GnQueueLock kind, uint64 key, LOCKMODE mode)
{
	LOCKTAG tag = make_tag(kind, key);

	(void) LockAcquire(&tag, mode, false, false);
}

bool
gn_queue_try_lock(GnQueueLock kind, uint64 key, LOCKMODE mode, bool session)
{
	LOCKTAG tag = make_tag(kind, key);

	return LockAcquire(&tag, mode, session, true) != LOCKACQUIRE_NOT_AVAIL;
}

void
gn_queue_unlock(GnQueueLock kind, uint64 key, LOCKMODE mode, bool session)
{
	LOCKTAG tag = make_tag(kind, key);

	(void) LockRelease(&tag, mode, session);
}

bool
gn_queue_locked(GnQueueLock kind, uint64 key)
{
	LOCKTAG tag = make_tag(kind, key);
	int count;

	(void) GetLockConflicts(&tag, ShareLock, &count);
	return count > 0;
}
