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
	Jsonb *claims;  /* the enqueuer's, with tenant_id set to tenant; NULL: no context */
	bool cancelled; /* somebody has asked to cancel it */
	int64 lease_id; /* 0: none */
	TimestampTz lease_until; /* 0: none, or it lapsed and was taken back */
	TimestampTz leased_at;   /* when the attempt began; 0: none did */
	int slot;                /* of the queue's, that the lease holds; 0: none */
	bool waiting;   /* until queue_release(), whatever run_at says; never ready */
	int64 batch_id; /* 0: none */
} GnJob;

/* How a job that succeeded went. */
typedef struct GnOutcome
{
	const GnJob *job;
	TimestampTz started_at;
	TimestampTz finished_at;
	Jsonb *result; /* or NULL */
} GnOutcome;

/* Why a job was cancelled. */
#define GN_CANCELLED "cancelled by job_cancel()"
#define GN_DEADLINE_PASSED "the deadline passed before the job could run"

#define GN_MAX_ERROR 1000   /* bytes of a stored error */
#define GN_MAX_RESULT 65536 /* bytes of a stored result */
#define GN_MAX_CLAIM 128    /* jobs that an executor takes at once */

/* put: stores a new job and returns its id. */
extern int64 gn_storage_put(const GnJob *job, bool ready);

/* put many of one kind, at once: payloads and group keys (or NULL) decide; ids in
 * order. */
extern void gn_storage_put_many(const GnJob *job, bool ready, int count, Datum payloads,
								Datum group_keys, int64 *ids);

/* The live job, or the job whose window still holds the key, under the latest snapshot;
 * 0: none. */
extern int64
gn_storage_find_unique(const char *queue, const char *key, TimestampTz now);

/* Keeps the key taken until then, whatever becomes of the job. */
extern void
gn_storage_hold_unique(const char *queue, const char *key, int64 id, TimestampTz until);

/* Gives a live job that nobody runs new content; false: it runs, or it is over. */
extern bool gn_storage_replace(int64 id, const GnJob *job, bool ready);

/* The names of unpaused queues with a handler and ready jobs, palloc'd. */
extern int gn_storage_ready_queues(char ***queues);

/* How many ready jobs of a queue nobody runs, at most so many. */
extern int gn_storage_count_waiting(const char *queue, bool ordered, int most);

/*
 * take: claims the first ready jobs of a queue, at most so many, in the order of
 * priority and id, and of an ordered queue one of each group; they are made in the
 * given memory. They are this transaction's, and settled in it. If it is rolled back,
 * no other executor gets them until gn_storage_release, which needs no transaction and
 * frees whatever advisory locks the session has.
 */
typedef enum GnTake
{
	GN_TAKE_NONE,
	GN_TAKE_DONE,
	GN_TAKE_AGAIN /* end this transaction, which blocks another executor, and try again
				   */
} GnTake;
extern GnTake gn_storage_take(const char *queue, bool ordered, int most,
							  MemoryContext memory, GnJob *jobs, int *count);
extern void gn_storage_release(void);

/* Makes a job that was taken in a transaction that was rolled back this one's; false:
 * it is somebody else's now, or over, or another than it was. */
extern bool gn_storage_resume(const GnJob *job);

/* Whether an executor holds the job now. */
extern bool gn_storage_running(int64 id);

/* settle: the outcomes of jobs that this transaction took ... */
extern void gn_storage_succeed(const GnOutcome *outcomes, int count);
extern void
gn_storage_cancel(const GnJob *job, TimestampTz finished_at, const char *reason);

/* ... or of the one that this process took in a transaction that was rolled back. */
typedef enum GnFailure
{
	GN_FAILURE_RETRY,
	GN_FAILURE_SNOOZE, /* a retry that costs no attempt */
	GN_FAILURE_DEAD
} GnFailure;

/* The job's lease_id is kept for those that may still settle it; 0: nobody may. */
extern void
gn_storage_fail(const GnJob *job, GnFailure failure, TimestampTz started_at,
				TimestampTz finished_at, TimestampTz run_at, const char *error);

/* Whether somebody has asked to cancel the job, under the latest snapshot. */
extern bool gn_storage_cancelled(int64 id);

/*
 * lease: hands the first ready jobs of a queue to an outside worker, until the time
 * given and in the order of their priority; they are made in the given memory. Their
 * enqueuers' commits are on disk when it returns.
 */
typedef struct GnLease
{
	int64 id;
	TimestampTz from;
	TimestampTz until;
	const char *worker; /* or NULL */
} GnLease;
extern int64 gn_storage_new_lease(void); /* a number that never comes again */
extern int
gn_storage_lease(const char *queue, bool ordered, const GnLease *lease, int count,
				 const int *slots, MemoryContext memory, GnJob *jobs);

/* Whether a fetch would find a job now. */
extern bool gn_storage_fetchable(const char *queue, bool ordered);

/* Marks those slots of 1 to limit that leases of the queue hold; how many leases hold
 * none of them. */
extern int gn_storage_leased_slots(const char *queue, int limit, bool *leased);

/*
 * pin: the jobs that still belong to these leases, in the order of their ids, locked
 * until the transaction ends; palloc'd by SPI_palloc, without payload.
 */
extern int gn_storage_pin(Datum ids, Datum lease_ids, GnJob **jobs);

/* settle: the outcome of many pinned jobs; results as jsonb[]. */
extern void gn_storage_succeed_many(Datum ids, Datum results, TimestampTz finished_at);

/* Lets leases last until then; which of them are held, those included that are being
 * settled now. */
extern int
gn_storage_extend(Datum ids, Datum lease_ids, TimestampTz until, int64 **held);

/* The queues of the jobs of leases; by SPI_palloc. */
extern int gn_storage_leased_queues(Datum ids, Datum lease_ids, char ***queues);

/* A leased job, without a lock and without payload; lease 0: whatever lease it is. */
extern bool gn_storage_look(int64 id, int64 lease_id, GnJob *job);

/* How far a leased job is; one that is being settled needs none. */
extern void gn_storage_progress(int64 id, const Jsonb *progress);

/* Jobs whose lease is over and that nobody settles now, locked; queue NULL: of all. */
extern int
gn_storage_lapsed(const char *queue, TimestampTz now, int most, GnJob **jobs);

#endif
