/* src/queue/attempt.h -- what becomes of an attempt that failed; private to the queue
 */
#ifndef GN_QUEUE_ATTEMPT_H
#define GN_QUEUE_ATTEMPT_H

#include "postgres.h"

#include "queue/definition.h"
#include "queue/metrics.h"
#include "queue/storage.h"

/*
 * Writes down, in the open transaction, that the attempt of an executor, begun at the
 * job's leased_at, has ended in this error, or that the job was cancelled instead.
 * Returns what that counts as, and in *text what is kept of the error, palloc'd.
 */
extern GnMeasure gn_attempt_fail(const GnQueue *queue, const GnJob *job,
								 const ErrorData *error, char **text);

#endif
