/* src/queue/executor.h -- what an executor does with one job; private to the queue */
#ifndef GN_QUEUE_EXECUTOR_H
#define GN_QUEUE_EXECUTOR_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"

#include "queue/storage.h"

extern bool gn_executor_run(void);   /* GnComponent.executor_run */
extern int gn_executor_demand(void); /* GnComponent.executor_demand */

/* Whether this process runs the job's handler. */
extern bool gn_executor_has(int64 id);

/* A row of type grownext.job. */
extern HeapTuple gn_job_tuple(const GnJob *job, TupleDesc desc);

#endif
