/* src/queue/executor.h -- what an executor does with one job; private to the queue */
#ifndef GN_QUEUE_EXECUTOR_H
#define GN_QUEUE_EXECUTOR_H

#include "postgres.h"

#include "queue/storage.h"

extern bool gn_executor_run(void);   /* GnComponent.executor_run */
extern int gn_executor_demand(void); /* GnComponent.executor_demand */

/* A value of type grownext.job. */
extern Datum gn_job_datum(const GnJob *job);

#endif
