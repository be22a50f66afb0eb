/* src/queue/claim.h -- which jobs an executor takes; private to the queue */
#ifndef GN_QUEUE_CLAIM_H
#define GN_QUEUE_CLAIM_H

#include "postgres.h"

#include "queue/definition.h"
#include "queue/storage.h"

/* Jobs of one queue that are taken together. */
typedef struct GnClaim
{
	MemoryContext memory; /* of what follows */
	GnQueue queue;        /* a copy: the definition may change meanwhile */
	int count;
	GnJob jobs[GN_MAX_CLAIM];
} GnClaim;

/* Takes jobs in the open transaction, and a place among those that the queue may run at
 * a time; see gn_storage_take. */
extern GnTake gn_claim_take(GnClaim *claim);

/* The same for a job that was taken in a transaction that is gone; false: it is not to
 * be run now. */
extern bool gn_claim_again(GnClaim *claim, GnJob *job);

/* Jobs that executors could run now and nobody runs, at most so many of each queue. */
extern int gn_claim_demand(void);

/*
 * Why a job is not to be begun: somebody has cancelled it, or its deadline has passed
 * in a queue that does without such jobs. NULL: nothing is against it.
 */
extern const char *
gn_job_unwanted(const GnQueue *queue, const GnJob *job, TimestampTz now);

#endif
