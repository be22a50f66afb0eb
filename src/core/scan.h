/* src/core/scan.h -- small tables of ours, read without a query */
#ifndef GN_SCAN_H
#define GN_SCAN_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "utils/snapshot.h"
#include "utils/uuid.h"

/* A row as it is read; its values are good until the reader returns. */
typedef struct GnRow
{
	TupleDesc desc;
	const Datum *values;
	const bool *nulls;
} GnRow;

typedef void (*GnRowReader)(const GnRow *row, void *arg);

/* Every visible row of _grownext.<name>. For what fits into a few pages. */
extern void
gn_table_scan(const char *name, Snapshot snapshot, GnRowReader read, void *arg);

/*
 * Every visible row of _grownext.<name> whose column is key, by an index that begins
 * with it. For hot paths: starting a plan costs ten times as much.
 */
extern void
gn_key_scan(const char *name, const char *index, const char *column,
			const pg_uuid_t *key, Snapshot snapshot, GnRowReader read, void *arg);

/* A column by name. One that the SQL of an earlier version has not got is NULL. */
extern Datum gn_row_value(const GnRow *row, const char *column, bool *isnull);

#endif
