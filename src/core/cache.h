/* src/core/cache.h -- per-backend caches that are never stale: marker relations */
#ifndef GN_CACHE_H
#define GN_CACHE_H

#include "postgres.h"

/*
 * A marker is a composite type in schema _grownext that stands for "something a
 * cache depends on". The trigger function _grownext.core_invalidate('marker')
 * sends a relation-cache message for it: transactional, seen by the next
 * statement of every other backend after commit, by our own at once, not at all
 * after rollback, and on hot standbys too.
 */
typedef struct GnMarker
{
	const char *name; /* the composite type */
	Oid relid;        /* InvalidOid: not known, every message counts */
	bool to_look_up;  /* one came */
	uint64 generation;
	struct GnMarker *next;
} GnMarker;

extern void gn_cache_init(void);
extern void gn_marker_register(GnMarker *marker);

/*
 * Takes pending messages and returns the marker's generation. A cache notes it
 * before it loads, and is good for as long as the number stays the same.
 */
extern uint64 gn_marker_generation(GnMarker *marker);

/*
 * For a cache that depends on many markers: takes pending messages once, then asks each
 * marker for its generation as of then.
 */
extern void gn_cache_catch_up(void);
extern uint64 gn_marker_look_up(GnMarker *marker);
static inline uint64
gn_marker_current(GnMarker *marker)
{
	return marker->to_look_up ? gn_marker_look_up(marker) : marker->generation;
}

/* Counts changes of relations that this backend was told of, its own included. */
extern uint64 gn_cache_changes;

/* Sends the message of a marker, as the trigger function does. */
extern void gn_marker_touch(const char *name);

#endif
