/* src/queue/lease.h -- workers outside the database; private to the queue */
#ifndef GN_QUEUE_LEASE_H
#define GN_QUEUE_LEASE_H

#include "postgres.h"

#include "fmgr.h"

#include "core/compat.h"
#include "queue/definition.h"

#define GN_LEASE_MAX_COUNT 10000 /* jobs of one call */

/* Arguments; what is not valid raises. */
extern void pg_attribute_noreturn() gn_lease_refuse_null(const char *what);
extern void gn_lease_require_arguments(FunctionCallInfo fcinfo, int count,
									   const char *const *names);
extern int64 gn_lease_argument(FunctionCallInfo fcinfo, int argument);

/* An array of bigint without nulls, as long as *count unless that is negative. */
extern Datum
gn_lease_ids(FunctionCallInfo fcinfo, int argument, const char *what, int *count);
extern Datum gn_lease_id_array(const int64 *ids, int count);

/* Raises unless the role may work the queue. */
extern void gn_lease_require_right(Oid caller, const char *queue);

/* Raises NX031. */
extern void pg_attribute_noreturn() gn_lease_raise_stale(int64 id);

/* The queue that a worker names, which the caller may work; raises otherwise. */
extern const GnQueue *gn_lease_queue(const char *name);

#endif
