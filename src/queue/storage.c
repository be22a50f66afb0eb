/*
 * src/queue/storage.c
 *	  Jobs come in and are settled: one row per job.
 *
 * A job without an outcome is a row of queue_job; an outcome is one of queue_done or
 * queue_dead, written by the transaction that deletes the job's.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "queue/lock.h"
#include "queue/storage_row.h"

static int64
returned_id(int row)
{
	bool isnull;

	return DatumGetInt64(
		SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &isnull));
}

/* ---- put ---- */

enum PutArgument
{
	PUT_QUEUE,
	PUT_PRIORITY,
	PUT_MAX_ATTEMPTS,
	PUT_READY,
	PUT_RUN_AT,
	PUT_ENQUEUED_AT,
	PUT_DEADLINE,
	PUT_TENANT,
	PUT_CLAIMS,
	PUT_PAYLOAD,
	PUT_GROUP_KEY,
	PUT_UNIQUE_KEY,
	PUT_WAITING,
	PUT_BATCH_ID,
	PUT_ARGUMENTS
};

static void
put_arguments(const GnJob *job, bool ready, Datum *values, char *nulls)
{
	memset(nulls, ' ', PUT_ARGUMENTS);
	values[PUT_QUEUE] = CStringGetTextDatum(job->queue);
	values[PUT_PRIORITY] = Int32GetDatum(job->priority);
	values[PUT_MAX_ATTEMPTS] = Int32GetDatum(job->max_attempts);
	values[PUT_READY] = BoolGetDatum(ready);
	values[PUT_RUN_AT] = TimestampTzGetDatum(job->run_at);
	values[PUT_ENQUEUED_AT] = TimestampTzGetDatum(job->enqueued_at);
	values[PUT_DEADLINE] = time_or_null(job->deadline, &nulls[PUT_DEADLINE]);
	values[PUT_TENANT] = pointer_or_null(job->tenant, &nulls[PUT_TENANT]);
	values[PUT_CLAIMS] = pointer_or_null(job->claims, &nulls[PUT_CLAIMS]);
	values[PUT_PAYLOAD] = pointer_or_null(job->payload, &nulls[PUT_PAYLOAD]);
	values[PUT_GROUP_KEY] = text_or_null(job->group_key, &nulls[PUT_GROUP_KEY]);
	values[PUT_UNIQUE_KEY] = text_or_null(job->unique_key, &nulls[PUT_UNIQUE_KEY]);
	values[PUT_WAITING] = BoolGetDatum(job->waiting);
	values[PUT_BATCH_ID] = Int64GetDatum(job->batch_id);
	nulls[PUT_BATCH_ID] = job->batch_id ? ' ' : 'n';
}

#define NEXT_ID "_grownext.core_nextval('_grownext.queue_job_id')"

int64
gn_storage_put(const GnJob *job, bool ready)
{
	static GnQuery query = GN_QUERY(
		"INSERT INTO _grownext.queue_job (id, queue, priority, max_attempts, ready, "
		"run_at, enqueued_at,"
		" deadline, tenant_id, claims, payload, group_key, unique_key, waiting, "
		"batch_id)"
		" VALUES (" NEXT_ID
		", $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING id",
		TEXTOID, INT4OID, INT4OID, BOOLOID, TIMESTAMPTZOID, TIMESTAMPTZOID,
		TIMESTAMPTZOID, UUIDOID, JSONBOID, JSONBOID, TEXTOID, TEXTOID, BOOLOID,
		INT8OID);
	Datum values[PUT_ARGUMENTS];
	char nulls[PUT_ARGUMENTS];

	put_arguments(job, ready, values, nulls);
	(void) gn_spi_execute(&query, values, nulls, false);
	return returned_id(0);
}

/* ---- unique keys ---- */

int64
gn_storage_find_unique(const char *queue, const char *key, TimestampTz now)
{
	static GnQuery query = GN_QUERY(
		"SELECT id FROM _grownext.queue_job WHERE queue = $1 AND unique_key = $2"
		" UNION ALL SELECT job_id FROM _grownext.queue_window"
		" WHERE queue = $1 AND unique_key = $2 AND expires_at > $3 LIMIT 1",
		TEXTOID, TEXTOID, TIMESTAMPTZOID);
	Datum values[3] = {CStringGetTextDatum(queue), CStringGetTextDatum(key),
					   TimestampTzGetDatum(now)};
	int64 id = 0;

	/* A transaction's own snapshot may be older than the lock on the key. */
	PushActiveSnapshot(GetLatestSnapshot());
	if (gn_spi_execute(&query, values, NULL, true) > 0)
		id = returned_id(0);
	PopActiveSnapshot();
	return id;
}

void
gn_storage_hold_unique(const char *queue, const char *key, int64 id, TimestampTz until)
{
	static GnQuery query = GN_QUERY(
		"INSERT INTO _grownext.queue_window (queue, unique_key, job_id, expires_at)"
		" VALUES ($1, $2, $3, $4) ON CONFLICT ON CONSTRAINT queue_window_pkey"
		" DO UPDATE SET job_id = EXCLUDED.job_id, expires_at = EXCLUDED.expires_at",
		TEXTOID, TEXTOID, INT8OID, TIMESTAMPTZOID);
	Datum values[4] = {CStringGetTextDatum(queue), CStringGetTextDatum(key),
					   Int64GetDatum(id), TimestampTzGetDatum(until)};

	(void) gn_spi_execute(&query, values, NULL, false);
}

/* Whether the job has no outcome and no lease, whatever this transaction's snapshot
 * shows. */
static bool
is_waiting(int64 id)
{
	static GnQuery query = GN_QUERY(
		"SELECT FROM _grownext.queue_job WHERE id = $1 AND lease_until IS NULL",
		INT8OID);
	Datum values[1] = {Int64GetDatum(id)};
	bool live;

	PushActiveSnapshot(GetLatestSnapshot());
	live = gn_spi_execute(&query, values, NULL, true) > 0;
	PopActiveSnapshot();
	return live;
}

bool
gn_storage_replace(int64 id, const GnJob *job, bool ready)
{
	static GnQuery query =
		GN_QUERY("WITH free AS (SELECT j.id FROM _grownext.queue_job AS j WHERE j.id = "
				 "$12 AND j.lease_until IS NULL FOR UPDATE SKIP LOCKED)"
				 " UPDATE _grownext.queue_job AS j SET priority = $2, max_attempts = "
				 "$3, ready = $4 AND NOT j.waiting, run_at = $5,"
				 " enqueued_at = $6, deadline = $7, tenant_id = $8, claims = $9, "
				 "payload = $10, group_key = $11,"
				 " failures = 0, last_error = NULL, attempts = '[]', lease_id = NULL"
				 " FROM free WHERE j.id = free.id AND j.queue = $1",
				 TEXTOID, INT4OID, INT4OID, BOOLOID, TIMESTAMPTZOID, TIMESTAMPTZOID,
				 TIMESTAMPTZOID, UUIDOID, JSONBOID, JSONBOID, TEXTOID, INT8OID);
	Datum values[PUT_ARGUMENTS];
	char nulls[PUT_ARGUMENTS];

	if (gn_storage_running(id))
		return false; /* its transaction may be over and its failure not yet written */
	put_arguments(job, ready, values, nulls);
	values[PUT_UNIQUE_KEY] = Int64GetDatum(id);
	nulls[PUT_UNIQUE_KEY] = ' ';
	if (gn_spi_execute(&query, values, nulls, false) == 1)
		return true;
	if (IsolationUsesXactSnapshot() && is_waiting(id) && !gn_storage_running(id))
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("the job to be replaced is newer than the transaction's "
							   "snapshot"),
						errhint("Try the transaction again.")));
	return false;
}

/* ---- settle ---- */

/* The columns of an outcome, and what they are in the job's row. */
#define DONE_COLUMNS                                                                   \
	"INSERT INTO _grownext.queue_done (id, queue, enqueued_at, run_at, deadline, "     \
	"priority, max_attempts, failures, unique_key, group_key, tenant_id, attempts, "   \
	"worker, started_at, finished_at, state, result, last_error)"                      \
	" SELECT id, queue, enqueued_at, run_at, deadline, priority, max_attempts, "       \
	"failures, unique_key, group_key, tenant_id, attempts, "                           \
	"CASE WHEN leased_at IS NULL THEN 'executor' ELSE worker END, "

static void
expect_settled(const GnJob *job, int count, uint64 rows)
{
	if (rows != (uint64) count)
		elog(ERROR, "job " INT64_FORMAT " is not there to be settled", job->id);
}

static Datum
array_of(Datum *values, bool *nulls, int count, Oid type)
{
	int dimension = count;
	int lower = 1;
	int16 length;
	bool by_value;
	char align;

	get_typlenbyvalalign(type, &length, &by_value, &align);
	return PointerGetDatum(construct_md_array(values, nulls, 1, &dimension, &lower,
											  type, length, by_value, align));
}

void
gn_storage_succeed(const GnOutcome *outcomes, int count)
{
	static GnQuery query = GN_QUERY(
		"WITH gone AS (DELETE FROM _grownext.queue_job AS j"
		" USING unnest($1, $2, $3, $4) AS o (id, begun, over, outcome)"
		" WHERE j.id = o.id RETURNING j.*, o.begun, o.over, o.outcome) " DONE_COLUMNS
		"begun, over, 'succeeded', outcome, last_error FROM gone",
		INT8ARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, JSONBARRAYOID);
	Datum *column = palloc(4 * count * sizeof(Datum));
	bool *no_result = palloc(count * sizeof(bool));
	Datum values[4];

	for (int i = 0; i < count; i++)
	{
		column[i] = Int64GetDatum(outcomes[i].job->id);
		column[count + i] = TimestampTzGetDatum(outcomes[i].started_at);
		column[2 * count + i] = TimestampTzGetDatum(outcomes[i].finished_at);
		column[3 * count + i] = PointerGetDatum(outcomes[i].result);
		no_result[i] = outcomes[i].result == NULL;
	}
	values[0] = array_of(column, NULL, count, INT8OID);
	values[1] = array_of(column + count, NULL, count, TIMESTAMPTZOID);
	values[2] = array_of(column + 2 * count, NULL, count, TIMESTAMPTZOID);
	values[3] = array_of(column + 3 * count, no_result, count, JSONBOID);
	gn_row_plan_by_index();
	expect_settled(outcomes[0].job, count, gn_spi_execute(&query, values, NULL, false));
	for (int i = 0; i < count; i++)
		gn_storage_note_settled(outcomes[i].job->id);
}

void
gn_storage_cancel(const GnJob *job, TimestampTz finished_at, const char *reason)
{
	static GnQuery query =
		GN_QUERY("WITH gone AS (DELETE FROM _grownext.queue_job WHERE id = $1 "
				 "RETURNING *) " DONE_COLUMNS
				 "$2, $3, 'cancelled', NULL, coalesce($4, last_error) FROM gone",
				 INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID);
	char nulls[4] = {' ', ' ', ' ', ' '};
	Datum values[4] = {Int64GetDatum(job->id), time_or_null(job->leased_at, &nulls[1]),
					   TimestampTzGetDatum(finished_at),
					   text_or_null(reason, &nulls[3])};

	expect_settled(job, 1, gn_spi_execute(&query, values, nulls, false));
	gn_storage_note_settled(job->id);
}

#define ATTEMPT_ENTRY                                                                  \
	"pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object('attempt', failures "  \
	"+ 1, "                                                                            \
	"'started_at', $2::pg_catalog.timestamptz, 'failed_at', "                          \
	"$3::pg_catalog.timestamptz, "                                                     \
	"'error', $4::pg_catalog.text, 'worker', CASE WHEN leased_at IS NULL THEN "        \
	"'executor' ELSE worker END))"
/* The last 25 attempts are enough to see what goes wrong. */
#define ATTEMPTS                                                                       \
	"CASE WHEN pg_catalog.jsonb_array_length(attempts) < 25 THEN attempts ELSE "       \
	"attempts - 0 END || " ATTEMPT_ENTRY

/* Nobody has the job any more. Of a lease that lapsed the number stays, and with it the
 * right to settle what nobody else has begun. */
#define NO_LEASE                                                                       \
	"lease_id = nullif($6, 0), lease_until = NULL, leased_at = NULL, slot = NULL, "    \
	"worker = NULL, progress = NULL"

void
gn_storage_fail(const GnJob *job, GnFailure failure, TimestampTz started_at,
				TimestampTz finished_at, TimestampTz run_at, const char *error)
{
	static GnQuery retry =
		GN_QUERY("UPDATE _grownext.queue_job SET ready = false, run_at = $5, failures "
				 "= failures + 1,"
				 " last_error = $4, attempts = " ATTEMPTS ", " NO_LEASE
				 " WHERE id = $1",
				 INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID,
				 INT8OID);
	static GnQuery snooze =
		GN_QUERY("UPDATE _grownext.queue_job SET ready = false, run_at = $5, " NO_LEASE
				 " WHERE id = $1",
				 INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID,
				 INT8OID);
	static GnQuery dead = GN_QUERY(
		"WITH gone AS (DELETE FROM _grownext.queue_job WHERE id = $1 RETURNING *)"
		" INSERT INTO _grownext.queue_dead (id, queue, enqueued_at, run_at, deadline, "
		"started_at, died_at,"
		" priority, max_attempts, failures, unique_key, group_key, tenant_id, claims, "
		"payload,"
		" last_error, attempts)"
		" SELECT id, queue, enqueued_at, run_at, deadline, $2, $3, priority, "
		"max_attempts, failures + 1,"
		" unique_key, group_key, tenant_id, claims, payload, $4, " ATTEMPTS
		" FROM gone",
		INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID);
	Datum values[6] = {Int64GetDatum(job->id),
					   TimestampTzGetDatum(started_at),
					   TimestampTzGetDatum(finished_at),
					   CStringGetTextDatum(error),
					   TimestampTzGetDatum(run_at),
					   Int64GetDatum(job->lease_id)};

	/* No row: a job that was run again, because its handler freed our lock, and is
	 * over. */
	switch (failure)
	{
		case GN_FAILURE_RETRY:
			(void) gn_spi_execute(&retry, values, NULL, false);
			break;
		case GN_FAILURE_SNOOZE:
			(void) gn_spi_execute(&snooze, values, NULL, false);
			break;
		case GN_FAILURE_DEAD:
			(void) gn_spi_execute(&dead, values, NULL, false);
			break;
	}
	gn_storage_note_settled(job->id);
}
