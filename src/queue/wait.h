/* src/queue/wait.h -- who is called when there are jobs; private to the queue */
#ifndef GN_QUEUE_WAIT_H
#define GN_QUEUE_WAIT_H

#include "postgres.h"

#include "queue/definition.h"

/* Calls for jobs of a queue at commit: executors if it has a handler, and those outside
 * workers that wait in job_wait(). */
extern void gn_queue_call_at_commit(const GnQueue *queue, int jobs);

/* Calls those that wait in job_wait() alone: an executor that has just run a job looks
 * for the next one itself. */
extern void gn_queue_call_outside_at_commit(const GnQueue *queue, int jobs);

#endif
