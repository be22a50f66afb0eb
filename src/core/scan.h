/* src/core/scan.h -- small tables of ours, read without a query */
#ifndef GN_SCAN_H
#define GN_SCAN_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "utils/snapshot.h"

/* Memory of a row's values is good until the reader returns. */
typedef void (*GnRowReader)(TupleTableSlot *row, void *arg);

/* Every visible row of _grownext.<table>. For what fits into a few pages. */
extern void
gn_table_scan(const char *table, Snapshot snapshot, GnRowReader read, void *arg);

/* A column by name. One that the SQL of an earlier version has not got is NULL. */
extern Datum gn_row_value(TupleTableSlot *row, const char *column, bool *isnull);

#endif
