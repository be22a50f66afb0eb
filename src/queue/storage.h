/* src/queue/storage.h -- where jobs are kept: put, take, settle, scan; private to the
 * queue */
#ifndef GN_QUEUE_STORAGE_H
#define GN_QUEUE_STORAGE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

/*
 * The rest of the queue knows jobs through these functions alone, and the SQL
 * functions through the section "storage" of functions.sql: another storage
 * replaces storage.c, that section and the job tables.
 *
 * All run between gn_spi_begin and gn_spi_end, in the caller's transaction.
 */
typedef struct GnJob
{
	int64 id;
	const char *queue;
	Jsonb *payload;
	int priority;
	int max_attempts;
	int failures; /* attempts that were charged */
	TimestampTz enqueued_at;
	TimestampTz run_at;
	TimestampTz deadline; /* 0: none */
	const char *unique_key;
	const char *group_key;
	const pg_uuid_t *tenant;
	Jsonb *claims; /* the enqueuer's, with tenant_id set to tenant; NULL: no context */
} GnJob;

/* put: stores a new job and returns its id. */
extern int64 gn_storage_put(const GnJob *job, bool ready);

/* put many of one kind, at once: payloads and group keys (or NULL) decide; ids in
 * order. */
extern void gn_storage_put_many(const GnJob *model, bool ready, int count,
								Datum payloads, Datum group_keys, int64 *ids);

/* The live job, or the job whose window still holds the key, under the latest snapshot;
 * 0: none. */
extern int64
gn_storage_find_unique(const char *queue, const char *key, TimestampTz now);

/* Keeps the key taken until then, whatever becomes of the job. */
extern void
gn_storage_hold_unique(const char *queue, const char *key, int64 id, TimestampTz until);

/* Gives a live job that nobody runs new content; false: it runs, or it is over. */
extern bool gn_storage_replace(int64 id, const GnJob *job, bool ready);

/* The names of unpaused queues with a handler and ready jobs, palloc'd; those after the
 * named one first. */
extern int gn_storage_ready_queues(const char *after, char ***queues);

/* How many ready jobs of a queue nobody runs, at most so many. */
extern int gn_storage_count_waiting(const char *queue, int most);

/*
 * take: claims the first ready job of a queue for this transaction and makes it in
 * the given memory. The claim ends with the transaction; until gn_storage_release,
 * which needs none, no other executor gets the job even if the transaction aborts.
 */
typedef enum GnTake
{
	GN_TAKE_NONE,
	GN_TAKE_DONE,
	GN_TAKE_AGAIN /* end this transaction, which blocks another executor, and try again
				   */
} GnTake;
extern GnTake
gn_storage_take(const char *queue, bool ordered, MemoryContext memory, GnJob *job);
extern void gn_storage_release(void);

/* Whether an executor holds the job now. */
extern bool gn_storage_running(int64 id);

/* settle: the outcome of the job that this transaction took ... */
extern void gn_storage_succeed(const GnJob *job, TimestampTz started_at,
							   TimestampTz finished_at, Jsonb *result);
extern void
gn_storage_cancel(const GnJob *job, TimestampTz finished_at, const char *reason);

/* ... or of the one that this process took in a transaction that was rolled back. */
typedef enum GnFailure
{
	GN_FAILURE_RETRY,
	GN_FAILURE_SNOOZE, /* a retry that costs no attempt */
	GN_FAILURE_DEAD
} GnFailure;
extern void
gn_storage_fail(const GnJob *job, GnFailure failure, TimestampTz started_at,
				TimestampTz finished_at, TimestampTz run_at, const char *error);

#endif
