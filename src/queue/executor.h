/* src/queue/executor.h -- what an executor does; private to the queue */
#ifndef GN_QUEUE_EXECUTOR_H
#define GN_QUEUE_EXECUTOR_H

#include "postgres.h"

extern bool gn_executor_run(void); /* GnComponent.executor_run */

/* Whether this process runs the job's handler now. */
extern bool gn_executor_has(int64 id);

/* The batch of that job; 0: none. */
extern int64 gn_executor_batch(void);

#endif
