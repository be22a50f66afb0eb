/* src/queue/poison.h -- jobs that crash the server; private to the queue */
#ifndef GN_QUEUE_POISON_H
#define GN_QUEUE_POISON_H

#include "postgres.h"

#include "queue/storage.h"

/* A job that has crashed the server so often does not run again. */
#define GN_POISON_CRASHES 3

extern void gn_poison_shmem_init(void);

/* The executor of that number begins a job, beside those that it has begun in this
 * transaction; it has none in hand any more. */
extern void gn_poison_begin(int number, int64 id);
extern void gn_poison_end(void);

/*
 * Before an executor's first job: record, in a transaction of its own, what the last
 * crash left, and learn who is a suspect; recorded once that has committed.
 */
extern bool gn_poison_unread(void);
extern void gn_poison_record(void);
extern void gn_poison_recorded(void);

/* Whether the job had begun when the server crashed: it shares its transaction with no
 * other. */
extern bool gn_poison_suspect(int64 id);

/* In the transaction of a suspect, before its handler: raises what ends or postpones
 * the job. Others pass. */
extern void gn_poison_admit(const GnJob *job);

#endif
