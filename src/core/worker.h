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

/* For executor_run: a unit of work is taken; nobody counts on us until it is done. */
extern void gn_worker_engage(void);

/*
 * May anything act in this database now? False without an identity row, with a
 * foreign one (restore, clone, point-in-time restore) and while fenced. Runs in
 * a transaction; reads a table.
 */
extern bool gn_database_armed(void);

#endif
