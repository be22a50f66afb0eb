/* src/core/worker.h -- background workers as the other components see them */
#ifndef GN_WORKER_H
#define GN_WORKER_H

#include "postgres.h"

#include "datatype/timestamp.h"

/*
 * Asks for so many executors of this database at the commit of the current
 * transaction: idle ones get their latch set, the scheduler starts the rest.
 * Without preload it does nothing. Jobs of a rolled-back savepoint do not count.
 */
extern void gn_worker_wake_at_commit(int jobs);

/* Asks the scheduler for a pass at the commit of the current transaction. */
extern void gn_worker_tick_at_commit(void);

/*
 * Whoever wakes executors when a transaction has committed calls this first: what they
 * are to find is put where they look. It throws nothing. COMMIT PREPARED knows only
 * that there may be something.
 */
extern void (*gn_before_wake)(bool prepared);

/* For executor_run: a unit of work is taken; nobody counts on us until it is done. */
extern void gn_worker_engage(void);

/* Other executors of this database that have nothing to do, or look for it. */
extern int gn_worker_others(void);

/* Calls for so many at once, for what no commit makes visible. */
extern void gn_worker_call(int jobs);

/*
 * Sessions that wait for something with a name, such as the jobs of a queue. Whoever
 * waits enlists, looks whether it is there already, and only then waits on its latch;
 * who commits it calls as many as are needed, those that have waited longest first. A
 * call that its receiver has no use for is passed on when he leaves.
 */
extern bool gn_wait_enlist(uint64 channel); /* false: no place; look now and then */
extern void gn_wait_look(void);             /* what we were called for is looked for */
extern void gn_wait_leave(bool served);
extern int gn_wait_count(uint64 channel); /* who waits now, in this database */
extern void gn_wait_call_at_commit(uint64 channel, int count);
/* At once; throws nothing, so that a callback at the end of a transaction may. */
extern void gn_wait_call(Oid database, uint64 channel, int count);

/* PREPARE TRANSACTION will refuse: what this transaction called needs its own session.
 */
extern void gn_prepare_refuse(const char *what);

/*
 * May anything act in this database now? False without an identity row, with a
 * foreign one (restore, clone, point-in-time restore) and while fenced. Runs in
 * a transaction; reads a table.
 */
extern bool gn_database_armed(void);

/* Raises NX003 or NX002, naming what would act, unless it may. */
extern void gn_database_require_armed(const char *what);

#endif
