/* src/entitlement/limit.h -- rows of tables as units of a limit; private to entitlement
 */
#ifndef GN_LIMIT_H
#define GN_LIMIT_H

#include "postgres.h"

#include "access/attnum.h"
#include "utils/hsearch.h"
#include "utils/relcache.h"
#include "utils/uuid.h"

/* How many units of a tenant come (or, below zero, go). */
typedef struct GnUnits
{
	pg_uuid_t tenant; /* first: the key of a hash table of units */
	int64 change;
} GnUnits;

/* A hash table by tenant, in the current memory context. */
extern HTAB *gn_units_create(void);
extern void gn_units_add(HTAB *units, const pg_uuid_t *tenant, int64 change);
extern GnUnits *gn_units_sorted(HTAB *units, int *count);

/* The tenant column of a relation; raises if there is none of that name and type. */
extern AttrNumber gn_limit_column(Relation relation, const char *name);

/*
 * Adds what a locked table holds of each tenant, times change: the latest rows,
 * whatever snapshot the transaction has, and all of them, whatever row security says.
 * only: what is in the table itself.
 */
extern void gn_limit_read(Relation relation, const char *column, bool only,
						  int64 change, HTAB *units);

#endif
