/* src/queue/lock.h -- the queue's own locks in the server's lock table; private to the
 * queue */
#ifndef GN_QUEUE_LOCK_H
#define GN_QUEUE_LOCK_H

#include "postgres.h"

#include "storage/lock.h"

/*
 * Advisory locks of classes that pg_advisory_lock() cannot name, so no SQL user
 * takes or frees one. Order: QUEUE, then GROUP, then UNIQUE, then RATE, then JOB; a
 * SLOT is only ever tried.
 */
typedef enum GnQueueLock
{
	GN_QUEUE_LOCK_QUEUE = 0x4E01, /* enqueue shares it, queue_drop excludes all */
	GN_QUEUE_LOCK_GROUP,          /* an ordered group: ids in the order of commits */
	GN_QUEUE_LOCK_UNIQUE,         /* one enqueuer of a unique key at a time */
	GN_QUEUE_LOCK_JOB,            /* an executor holds the job */
	GN_QUEUE_LOCK_SLOT,           /* one of a queue's concurrency slots */
	GN_QUEUE_LOCK_RATE,           /* one at a time counts a queue's tokens */
	GN_QUEUE_LOCK_METRICS,        /* writes down what happened; only ever tried */
	GN_QUEUE_LOCK_SUSPECT         /* runs a suspect, see poison.c; only ever tried */
} GnQueueLock;

/* A lock's key: a hash, or an id. Two that collide exclude each other, nothing worse.
 */
extern uint64 gn_queue_lock_key(const char *queue, const char *name);

extern void gn_queue_lock(GnQueueLock kind, uint64 key, LOCKMODE mode);
extern bool
gn_queue_try_lock(GnQueueLock kind, uint64 key, LOCKMODE mode, bool session);
extern void gn_queue_unlock(GnQueueLock kind, uint64 key, LOCKMODE mode, bool session);

/* Whether anybody else holds the lock exclusively. */
extern bool gn_queue_locked(GnQueueLock kind, uint64 key);

#endif
