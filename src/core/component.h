/* src/core/component.h -- what a component tells the rest of the library about itself
 */
#ifndef GN_COMPONENT_H
#define GN_COMPONENT_H

#include "postgres.h"

typedef struct GnComponent
{
	const char *name; /* as in COMPONENTS of the Makefile */

	/* Runs once per process: defines settings, registers markers, checks and hooks. */
	void (*init)(void);

	/* Shared memory, asked for and made only under shared_preload_libraries. */
	Size (*shmem_size)(void);
	void (*shmem_init)(void); /* holds AddinShmemInitLock; uses ShmemInitStruct */

	/*
	 * One pass of background work, as SQL: "SELECT _grownext.x_tick($1)" with the
	 * time as its argument. The result, a timestamptz, says when the next pass is
	 * due; NULL leaves it to grownext.tick_interval. The scheduler runs it in a
	 * transaction of its own, as the extension's owner.
	 */
	const char *tick;

	/*
	 * How many units of work wait for an executor in this database now, those that
	 * run not counted; runs in a transaction.
	 */
	int (*executor_demand)(void);

	/*
	 * Runs one unit of work in transactions of its own; false when there is none. Says
	 * gn_worker_engage() when it has one.
	 */
	bool (*executor_run)(void);
} GnComponent;

/* The ordered, NULL-terminated table of all components; src/grownext.c owns it. */
extern const GnComponent *const *gn_components;

/* True when the library came in through shared_preload_libraries. */
extern bool gn_preloaded;

#endif
