/* src/stream/lock.h -- the streams' own locks in the server's lock table; private to
 * the component */
#ifndef GN_STREAM_LOCK_H
#define GN_STREAM_LOCK_H

#include "postgres.h"

#include "storage/lock.h"

/*
 * Advisory locks of classes that pg_advisory_lock() cannot name, as those of the queue
 * are, and always of the transaction: PREPARE keeps them, a crash frees them. Order:
 * STREAM, then READ, then CONSUMER.
 */
typedef enum GnStreamLock
{
	GN_STREAM_LOCK_STREAM = 0x4E40, /* its id; appenders share it until they end */
	GN_STREAM_LOCK_READ,            /* its id; readers share it */
	GN_STREAM_LOCK_CONSUMER,        /* a hash; one at a time moves a cursor */
	GN_STREAM_LOCK_BOUND            /* a position; see horizon.c */
} GnStreamLock;

extern LOCKTAG gn_stream_lock_tag(GnStreamLock kind, uint64 key);
extern void gn_stream_lock(GnStreamLock kind, uint64 key, LOCKMODE mode);
extern bool gn_stream_try_lock(GnStreamLock kind, uint64 key, LOCKMODE mode);

/* Two consumers whose keys collide exclude each other, nothing worse. */
extern uint64 gn_stream_consumer_key(int64 stream, const char *consumer);

#endif
