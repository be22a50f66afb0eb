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
} GnEnqueue;

/*
 * Enqueues for another component, into internal queues ("grownext.*") as well; the
 * caller of this function answers for the rights. Returns the job's id.
 */
extern int64 gn_queue_enqueue(const GnEnqueue *request);

#endif
