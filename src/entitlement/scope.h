/* src/entitlement/scope.h -- for whom what was read is good; private to entitlement */
#ifndef GN_SCOPE_H
#define GN_SCOPE_H

#include "postgres.h"

#include "access/xact.h"
#include "storage/lock.h"
#include "utils/uuid.h"

/*
 * What a backend reads under the latest snapshot is good for everybody until a marker
 * says otherwise. In REPEATABLE READ and above, and in parallel mode, nothing may be
 * read but by the snapshot that is there, which may be older than a message that was
 * taken already: what is read then is good for that snapshot alone.
 */
typedef struct GnScope
{
	LocalTransactionId transaction; /* 0: everybody */
	uint64 completions;             /* tells the snapshots of a transaction apart */
} GnScope;

extern GnScope gn_scope_now(void);

/* May what was read in that scope answer now? */
extern bool gn_scope_is_current(const GnScope *scope);
static inline bool
gn_scope_holds(const GnScope *scope)
{
	return scope->transaction == 0 ? !IsolationUsesXactSnapshot()
								   : gn_scope_is_current(scope);
}

/* Makes the snapshot of the current scope the active one; pop it afterwards. */
extern void gn_scope_push_snapshot(void);

#define GN_TENANT_DEPTH                                                                \
	8 /* levels of the hierarchy; tenant_set_parent() sees to it                       \
	   */

/*
 * What was current when something was read: the generations of the catalogue and, added
 * up, of the markers of the tenant and of those above it.
 */
typedef struct GnStamp
{
	uint64 catalogue;
	uint64 tenants;
	int depth; /* tenants above */
	uint8 buckets[GN_TENANT_DEPTH];
} GnStamp;

extern void gn_stamp_init(void);

/* Did anything of it move since? Messages must have been taken. */
extern bool gn_stamp_moved(const GnStamp *stamp);

/* The bucket of a tenant's marker, and how often that moved. */
extern uint8 gn_stamp_bucket(const pg_uuid_t *tenant);
extern uint64 gn_stamp_generation(uint8 bucket);

#endif
