/* src/queue/pace.h -- how many jobs of a queue an executor takes at once; private to
 * the queue */
#ifndef GN_QUEUE_PACE_H
#define GN_QUEUE_PACE_H

#include "postgres.h"

#include "queue/definition.h"

#define GN_PACE_TIME 5000 /* us that jobs of one transaction may run */

/* Puts queues that have ready jobs into the order of their turns. */
extern void gn_pace_order(char **queues, int count);

/* How many jobs this executor may take now, and that it took so many. */
extern int gn_pace_most(const GnQueue *queue);
extern void gn_pace_took(const GnQueue *queue, int jobs);

/* So many have run in one transaction, in so many us, the longest in so many; their
 * payloads had so many bytes. */
extern void
gn_pace_ran(const GnQueue *queue, int jobs, int64 total, int64 longest, int64 bytes);

/* One of several has failed. */
extern void gn_pace_failed(const GnQueue *queue);

#endif
