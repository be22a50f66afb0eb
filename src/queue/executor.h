/* src/queue/executor.h -- what an executor does with one job; private to the queue */
#ifndef GN_QUEUE_EXECUTOR_H
#define GN_QUEUE_EXECUTOR_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"

#include "queue/definition.h"
#include "queue/storage.h"

extern bool gn_executor_run(void);   /* GnComponent.executor_run */
extern int gn_executor_demand(void); /* GnComponent.executor_demand */

/* Whether this process runs the job's handler. */
extern bool gn_executor_has(int64 id);

/* The batch of that job; 0: none. */
extern int64 gn_executor_batch(void);

/*
 * Why a job is not to be begun: somebody has cancelled it, or its deadline has passed
 * in a queue that does without such jobs. NULL: nothing is against it.
 */
extern const char *
gn_job_unwanted(const GnQueue *queue, const GnJob *job, TimestampTz now);

/* A row of type grownext.job. */
extern HeapTuple gn_job_tuple(const GnJob *job, TupleDesc desc);

#endif
