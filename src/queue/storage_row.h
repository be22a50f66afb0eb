/* src/queue/storage_row.h -- jobs as rows: arguments and results of the storage's
 * queries; private to storage*.c */
#ifndef GN_QUEUE_STORAGE_ROW_H
#define GN_QUEUE_STORAGE_ROW_H

#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "queue/storage.h"

static inline Datum
text_or_null(const char *value, char *null)
{
	*null = value ? ' ' : 'n';
	return value ? CStringGetTextDatum(value) : (Datum) 0;
}

static inline Datum
time_or_null(TimestampTz value, char *null)
{
	*null = value ? ' ' : 'n';
	return TimestampTzGetDatum(value);
}

static inline Datum
pointer_or_null(const void *value, char *null)
{
	*null = value ? ' ' : 'n';
	return PointerGetDatum(value);
}

/* The first columns of every query that returns jobs of table "j". */
#define GN_ROW_COLUMNS                                                                 \
	"j.id, j.payload, j.priority, j.max_attempts, j.failures, j.enqueued_at, "         \
	"j.run_at, j.deadline, j.unique_key, j.group_key, j.tenant_id, j.claims, "         \
	"j.batch_id"
#define GN_ROW_COLUMN_COUNT 13

/* Whether somebody has asked to cancel job "j". */
#define GN_ROW_CANCELLED                                                               \
	"EXISTS (SELECT FROM _grownext.queue_cancel AS c WHERE c.job_id = j.id)"

/* Of a row of SPI_tuptable: an integer, time or boolean, 0 for null; a copy in the
 * given memory, or NULL; those first columns. */
extern int64 gn_row_int(uint64 row, int column);
extern void *gn_row_copy(uint64 row, int column, Oid type, MemoryContext memory);
extern void gn_row_job(uint64 row, const char *queue, MemoryContext memory, GnJob *job);

/* Runs a query that reads, under the latest snapshot, with what this transaction has
 * done. */
extern uint64 gn_row_read_latest(GnQuery *query, const Datum *values);

/* Until gn_spi_end, plans are made by the indexes. */
extern void gn_row_plan_by_index(void);

/* Of storage_take.c: the job has its outcome, or another time. */
extern void gn_storage_note_settled(int64 id);

/* An int8[] of ids. */
extern Datum gn_row_ids(const int64 *ids, int count);

#endif
