/* src/queue/slot.h -- how many jobs of a queue run at a time; private to the queue */
#ifndef GN_QUEUE_SLOT_H
#define GN_QUEUE_SLOT_H

#include "postgres.h"

#include "queue/definition.h"

/*
 * Takes up to so many of the queue's slots for this transaction; returns how many. A
 * queue without a limit has as many as are asked for, all of number 0. Run between
 * gn_spi_begin and gn_spi_end.
 */
extern int gn_slot_take(const GnQueue *queue, int wanted, int *slots);

/* Gives one back that this transaction has no use for. */
extern void gn_slot_give_back(const GnQueue *queue, int slot);

/* How many slots are free now, at most so many. */
extern int gn_slot_free(const GnQueue *queue, int most);

/* The slot in which this process runs a handler; 0: none any more. */
extern void gn_slot_occupy(const GnQueue *queue, int slot);

#endif
