/*
 * src/jwt/key.c
 *	  How keys and profiles are cached without ever being stale.
 *
 * Markers tell a backend that the tables changed; it then reads them under the
 * latest snapshot, not the statement's: a long statement or a repeatable-read
 * transaction must not load a key that was revoked after it began and keep it beyond
 * its end. In parallel mode no new snapshot may be taken, so what is loaded there is
 * loaded again afterwards.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "jwt/key.h"

#define UNIX_EPOCH_OFFSET                                                              \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * USECS_PER_SEC)

static uint64 epoch = 1;

int64
gn_jwt_unix_now(void)
{
	return gn_now() + UNIX_EPOCH_OFFSET;
}

uint64
gn_jwt_cache_epoch(void)
{
	return epoch;
}

bool
gn_jwt_cache_begin(GnJwtCache *cache, uint64 *generation)
{
	*generation = gn_marker_generation(cache->marker);
	if (cache->generation == *generation &&
		(!cache->old_snapshot || IsInParallelMode()))
		return false;
	cache->generation = 0;
	epoch++;
	cache->forget();
	if (cache->memory)
		MemoryContextReset(cache->memory);
	else
		cache->memory = AllocSetContextCreate(TopMemoryContext, "grownext jwt",
											  ALLOCSET_SMALL_SIZES);
	return true;
}

void
gn_jwt_cache_read(GnJwtCache *cache, const char *table, GnRowReader read)
{
	cache->old_snapshot = IsInParallelMode();
	gn_table_scan(table,
				  cache->old_snapshot ? GetActiveSnapshot() : GetLatestSnapshot(), read,
				  NULL);
}
