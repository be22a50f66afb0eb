/* src/queue/invoke.h -- runs handlers in an open transaction, one job after the other;
 * private to the queue */
#ifndef GN_QUEUE_INVOKE_H
#define GN_QUEUE_INVOKE_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "fmgr.h"

#include "queue/handler.h"
#include "queue/storage.h"

/* The handler of a queue, in one transaction. */
typedef struct GnInvocation
{
	const GnQueue *queue;
	GnHandler handler;
	MemoryContext memory; /* what the function keeps between jobs, and results */
	FmgrInfo function;
	uint64 changes; /* of relations, when it was looked up */
	TupleDesc job_desc;
	int commit_mode; /* how safely jobs want to commit */
} GnInvocation;

/* Looks the handler up and becomes its role until gn_invoke_end; raises. */
extern void
gn_invoke_begin(GnInvocation *call, const GnQueue *queue, MemoryContext memory);

/*
 * Calls the handler and lets everything that it left to the commit happen. What is left
 * of the job then is told by the GN_RESIDUE_* bits of *residue. Returns the result, in
 * the memory of the invocation, or NULL.
 */
extern Jsonb *gn_invoke(GnInvocation *call, const GnJob *job, int *residue);

/* Outside of a transaction, after an error too. */
extern void gn_invoke_end(void);

/* A row of type grownext.job. */
extern HeapTuple gn_job_tuple(const GnJob *job, TupleDesc desc);

#endif
