/* src/queue/queue.h -- the public face of the queue: jobs that are enqueued with the
 * data they are about */
#ifndef GN_QUEUE_H
#define GN_QUEUE_H

#include "postgres.h"

#include "core/core.h"

extern const GnComponent gn_queue_component;

typedef enum GnUniqueMode
{
	GN_UNIQUE_KEEP,    /* the live job stays, its id is returned */
	GN_UNIQUE_REPLACE, /* a live job that no executor runs takes the new content */
	GN_UNIQUE_REJECT   /* an error */
} GnUniqueMode;

/* What enqueue() takes; zero and NULL are the defaults. */
typedef struct GnEnqueue
{
	const char *queue;
	Jsonb *payload;
	TimestampTz run_at; /* 0: now */
	int priority;
	const char *unique_key;
	GnUniqueMode unique_mode;
	const Interval *unique_for;
	const char *group_key;
	int max_attempts;        /* 0: the queue's */
	TimestampTz deadline;    /* 0: none */
	const pg_uuid_t *tenant; /* NULL: the context's, if any */
	Jsonb *claims;           /* carried in place of the context's; NULL: those */
	int64 batch_id;          /* 0: none; else one that gn_flow_join has locked */
	const int64 *parents;    /* jobs that it waits for */
	int parent_count;
	bool waiting; /* until something releases it */
} GnEnqueue;

/*
 * Enqueues for another component, into internal queues ("grownext.*") as well; the
 * caller of this function answers for the rights. Returns the job's id.
 */
extern int64 gn_queue_enqueue(const GnEnqueue *request);

/* Claims of the context with tenant_id set to tenant, palloc'd; NULL when there is
 * nothing to carry. */
extern Jsonb *
gn_queue_carried_claims(const GnContext *context, const pg_uuid_t *tenant);

#endif
