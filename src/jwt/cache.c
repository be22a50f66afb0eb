/*
 * src/jwt/cache.c
 *	  Tables of this database held in memory, and never stale.
 *
 * A marker tells a backend that a table changed; it is then read under the latest
 * snapshot, not the statement's: a long statement or a repeatable-read transaction
 * must not load a key that was revoked after it began and keep it beyond its end. In
 * parallel mode no new snapshot may be taken, so what is loaded there is loaded again
 * afterwards.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "jwt/cache.h"

/* True if the cache must be filled; it has been emptied then. */
static bool
begin_load(GnTableCache *cache, uint64 *generation)
{
	*generation = gn_marker_generation(cache->marker);
	if (cache->generation == *generation &&
		(!cache->old_snapshot || IsInParallelMode()))
		return false;
	cache->generation = 0;
	cache->forget();
	if (cache->memory)
		MemoryContextReset(cache->memory);
	else
		cache->memory = AllocSetContextCreate(TopMemoryContext, "grownext jwt",
											  ALLOCSET_SMALL_SIZES);
	return true;
}

void
gn_table_cache_refresh(GnTableCache *cache)
{
	uint64 generation;
	GnSpi spi;

	if (!begin_load(cache, &generation))
		return;
	cache->old_snapshot = IsInParallelMode();
	PushActiveSnapshot(cache->old_snapshot ? GetActiveSnapshot() : GetLatestSnapshot());
	gn_spi_begin(&spi);
	cache->load();
	gn_spi_end(&spi);
	PopActiveSnapshot();
	cache->generation = generation;
}

char *
gn_row_text(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

Jsonb *
gn_row_jsonb(uint64 row, int column)
{
	bool isnull;

	return DatumGetJsonbP(
		SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull));
}
