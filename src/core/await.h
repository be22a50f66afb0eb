/* src/core/await.h -- procedures that sleep until there is something to act upon */
#ifndef GN_AWAIT_H
#define GN_AWAIT_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"

typedef struct GnAwait
{
	bool (*look)(const struct GnAwait *await); /* in a transaction: is it there? */
	const char *name;     /* for the look: of the queue or stream, */
	const char *consumer; /* and who reads that, or NULL */
	uint64 channel;
	TimestampTz until;
	uint32 event; /* of pg_stat_activity */
} GnAwait;

/* What must hold before it can wait; when the time will be up. Raises otherwise. */
extern TimestampTz
gn_await_begin(FunctionCallInfo fcinfo, const char *what, const Interval *timeout);

/* Waits; the result of a procedure whose one output is whether it was there. */
extern Datum gn_await(FunctionCallInfo fcinfo, const GnAwait *await);

#endif
