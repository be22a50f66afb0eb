/* src/queue/lease.h -- workers outside the database; private to the queue */
#ifndef GN_QUEUE_LEASE_H
#define GN_QUEUE_LEASE_H

#include "postgres.h"

#include "queue/definition.h"

/* The queue that a worker names, which the caller may work; raises otherwise. */
extern const GnQueue *gn_lease_queue(const char *name);

#endif
