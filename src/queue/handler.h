/* src/queue/handler.h -- the function that works a queue, and whose rights it has;
 * private to the queue */
#ifndef GN_QUEUE_HANDLER_H
#define GN_QUEUE_HANDLER_H

#include "postgres.h"

#include "queue/definition.h"

typedef struct GnHandler
{
	Oid function;
	Oid role; /* owns the function, is no superuser */
	bool takes_job;
	bool returns_void;
} GnHandler;

/* Looks the queue's handler up by name and checks again all that queue_handle()
 * checked; raises. */
extern void gn_handler_resolve(const GnQueue *queue, GnHandler *handler);

/* The type grownext.job. */
extern Oid gn_job_type(void);

#endif
