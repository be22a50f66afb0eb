/*
 * src/stream/lock.c
 *	  The streams' own locks in the server's lock table.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"

#include "stream/lock.h"

LOCKTAG
gn_stream_lock_tag(GnStreamLock kind, uint64 key)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (key >> 32), (uint32) key,
						 (uint16) kind);
	return tag;
}

void
gn_stream_lock(GnStreamLock kind, uint64 key, LOCKMODE mode)
{
	LOCKTAG tag = gn_stream_lock_tag(kind, key);

	(void) LockAcquire(&tag, mode, false, false);
}

bool
gn_stream_try_lock(GnStreamLock kind, uint64 key, LOCKMODE mode)
{
	LOCKTAG tag = gn_stream_lock_tag(kind, key);

	return LockAcquire(&tag, mode, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

uint64
gn_stream_consumer_key(int64 stream, const char *consumer)
{
	return hash_bytes_extended((const unsigned char *) consumer, strlen(consumer),
							   (uint64) stream);
}
