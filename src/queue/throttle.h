/* src/queue/throttle.h -- how many jobs of a queue begin in a time; private to the
 * queue */
#ifndef GN_QUEUE_THROTTLE_H
#define GN_QUEUE_THROTTLE_H

#include "postgres.h"

#include "queue/definition.h"

/*
 * Up to so many jobs of the queue may begin now; returns how many. Until leave, which
 * says how many did begin, nobody else begins one; after 0 there is nothing to leave.
 * Nothing in between may wait for others.
 */
extern int gn_throttle_enter(const GnQueue *queue, int wanted);
extern void gn_throttle_leave(const GnQueue *queue, int begun);

/* How many may begin now, at most so many, without a promise. */
extern int gn_throttle_free(const GnQueue *queue, int most);

#endif
