/* src/jwt/cache.h -- tables of this database held in memory, never stale; private to
 * jwt
 */
#ifndef GN_JWT_CACHE_H
#define GN_JWT_CACHE_H

#include "postgres.h"

#include "core/core.h"

typedef struct GnTableCache
{
	GnMarker *marker;
	void (*forget)(void); /* gives back what memory does not own */
	void (*load)(void);   /* within gn_spi_begin; keeps what it reads in memory */
	MemoryContext memory;
	uint64 generation; /* of the marker; 0: nothing usable */
	bool old_snapshot; /* loaded in parallel mode */
} GnTableCache;

/* Forgets and loads again if something changed. */
extern void gn_table_cache_refresh(GnTableCache *cache);

/* A column of a row that SPI just returned. */
extern char *gn_row_text(uint64 row, int column); /* NULL for NULL */
extern Jsonb *gn_row_jsonb(uint64 row, int column);

#endif
