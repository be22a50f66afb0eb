/*
 * src/queue/flow.c
 *	  Jobs that wait for others, and batches: what enqueueing and ending a job note.
 *
 * The scheduler's pass acts on the notes; flow.sql says how, and why nobody is missed.
 * What must hold here: whoever ends a job has its row before he looks for dependencies,
 * and looks under a snapshot that is newer.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "core/worker.h"
#include "queue/definition.h"
#include "queue/executor.h"
#include "queue/flow.h"
#include "queue/storage_row.h"

GN_FUNCTION(gn_queue_over);

#define MAX_PARENTS 1000

/* ---- the end of a job ---- */

/* Notes parents that some job waits for; whether there was one. */
static bool
note_parents(const int64 *ids, int count)
{
	static GnQuery find =
		GN_QUERY("SELECT FROM _grownext.queue_dependency WHERE parent_id = ANY ($1)"
				 " LIMIT 1",
				 INT8ARRAYOID);
	static GnQuery note = GN_QUERY(
		"INSERT INTO _grownext.queue_check (id, parent_id, due_at)"
		" SELECT _grownext.core_nextval('_grownext.queue_check_id'), p.id, '-infinity'"
		" FROM unnest($1) AS p (id)",
		INT8ARRAYOID);
	Datum values[1] = {gn_row_ids(ids, count)};
	bool found;

	PushActiveSnapshot(GetLatestSnapshot());
	found = gn_spi_execute(&find, values, NULL, true) > 0;
	PopActiveSnapshot();
	if (found)
		(void) gn_spi_execute(&note, values, NULL, false);
	return found;
}

static void
note_outcomes(const int64 *batch_ids, const int64 *ids, int count, const char *state)
{
	static GnQuery query =
		GN_QUERY("INSERT INTO _grownext.queue_batch_outcome (batch_id, job_id, state)"
				 " SELECT o.batch_id, o.job_id, $3"
				 " FROM unnest($1, $2) AS o (batch_id, job_id)",
				 INT8ARRAYOID, INT8ARRAYOID, TEXTOID);
	Datum values[3] = {gn_row_ids(batch_ids, count), gn_row_ids(ids, count),
					   CStringGetTextDatum(state)};

	(void) gn_spi_execute(&query, values, NULL, false);
}

void
gn_flow_over(const GnJob *jobs, int count, const char *state)
{
	int64 *ids = palloc((3 * count + 1) * sizeof(int64));
	int64 *members = ids + count; /* of batches */
	int64 *batch_ids = members + count;
	int member_count = 0;

	for (int i = 0; i < count; i++)
	{
		ids[i] = jobs[i].id;
		if (jobs[i].batch_id == 0)
			continue;
		members[member_count] = jobs[i].id;
		batch_ids[member_count++] = jobs[i].batch_id;
	}
	if (member_count > 0)
		note_outcomes(batch_ids, members, member_count, state);
	if ((count > 0 && note_parents(ids, count)) || member_count > 0)
		gn_worker_tick_at_commit();
	pfree(ids);
}

/* SQL: _grownext.queue_over(id bigint, batch_id bigint, state text) */
Datum
gn_queue_over(PG_FUNCTION_ARGS)
{
	GnJob job = {.id = PG_GETARG_INT64(0),
				 .batch_id = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT64(1)};
	char *state = text_to_cstring(PG_GETARG_TEXT_PP(2));
	GnSpi spi;

	gn_spi_begin(&spi);
	gn_flow_over(&job, 1, state);
	gn_spi_end(&spi);
	PG_RETURN_VOID();
}

/* ---- dependencies ---- */

/* The ids, each once and in order. */
static int
compare_ids(const void *a, const void *b)
{
	int64 left = *(const int64 *) a;
	int64 right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

static int64 *
parse_parents(ArrayType *depends_on, int *count)
{
	int items = ArrayGetNItems(ARR_NDIM(depends_on), ARR_DIMS(depends_on));
	int64 *ids;

	if (array_contains_nulls(depends_on))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("an element of depends_on must not be null")));
	if (ARR_NDIM(depends_on) > 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("depends_on must be a list")));
	if (items > MAX_PARENTS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a job depends on at most %d jobs", MAX_PARENTS),
				 errhint("Make them a batch and depend on nothing: its callback runs "
						 "when they are over.")));
	ids = palloc((items + 1) * sizeof(int64));
	memcpy(ids, ARR_DATA_PTR(depends_on), items * sizeof(int64));
	qsort(ids, items, sizeof(int64), compare_ids);
	*count = 0;
	for (int i = 0; i < items; i++)
	{
		if (i == 0 || ids[i] != ids[i - 1])
			ids[(*count)++] = ids[i];
	}
	return ids;
}

/* Whether the caller sees the job, as job_get() has it; a handler sees its own. */
static bool
may_see(Oid caller, int64 id, const char *queue, const pg_uuid_t *tenant)
{
	const GnContext *context = gn_context();

	if (gn_executor_has(id) || gn_user_has_capability(caller, "service") ||
		gn_user_has_capability(caller, "admin"))
		return true;
	if (gn_queue_is_internal(queue))
		return false;
	if (gn_queue_user_may(caller, queue, "work"))
		return true;
	return tenant && context && context->tenant &&
		   memcmp(tenant, context->tenant, sizeof(pg_uuid_t)) == 0 &&
		   gn_queue_user_may(caller, queue, "enqueue");
}

static void
raise_unknown(int64 id)
{
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
					errmsg("job " INT64_FORMAT " does not exist", id),
					errdetail("Nobody can depend on a job that is not there, was "
							  "deleted, or is not the caller's to see.")));
}

static void
refuse_parent(int64 id, const char *state)
{
	if (strcmp(state, "batch") == 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("job " INT64_FORMAT " is the callback of a batch", id),
						errdetail("Nobody can depend on it before the batch is over."),
						errhint("Let the callback enqueue what comes after it.")));
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("job " INT64_FORMAT " is %s", id, state),
					errdetail("A job that depended on it would never run."),
					errhint("See grownext.job_get(" INT64_FORMAT ").", id)));
}

typedef struct Parent
{
	const char *queue;
	const pg_uuid_t *tenant;
	const char *state;
} Parent;

/* What the ids stand for, under the latest snapshot; queue NULL: nothing. */
static Parent *
find_parents(const int64 *ids, int count)
{
	static GnQuery query = GN_QUERY(
		"SELECT f.queue, f.tenant_id, f.state FROM unnest($1) AS p (id)"
		" LEFT JOIN LATERAL (SELECT j.queue, j.tenant_id, CASE WHEN j.waiting AND "
		"EXISTS "
		"(SELECT FROM _grownext.queue_batch AS b WHERE b.id = j.id) THEN 'batch' ELSE "
		"'live' END AS state FROM _grownext.queue_job AS j WHERE j.id = p.id"
		" UNION ALL SELECT d.queue, d.tenant_id, d.state FROM _grownext.queue_done AS d"
		" WHERE d.id = p.id"
		" UNION ALL SELECT d.queue, d.tenant_id, 'dead' FROM _grownext.queue_dead AS d"
		" WHERE d.id = p.id) AS f ON true ORDER BY p.id",
		INT8ARRAYOID);
	MemoryContext memory = CurrentMemoryContext;
	Parent *parents = palloc0((count + 1) * sizeof(Parent));
	Datum values[1] = {gn_row_ids(ids, count)};
	GnSpi spi;

	gn_spi_begin(&spi);
	PushActiveSnapshot(GetLatestSnapshot());
	if (gn_spi_execute(&query, values, NULL, true) != (uint64) count)
		elog(ERROR, "a job has two states");
	PopActiveSnapshot();
	for (int i = 0; i < count; i++)
		parents[i] = (Parent){
			.queue = gn_row_copy(i, 1, TEXTOID, memory),
			.tenant = gn_row_copy(i, 2, UUIDOID, memory),
			.state = gn_row_copy(i, 3, TEXTOID, memory),
		};
	gn_spi_end(&spi);
	return parents;
}

int64 *
gn_flow_parents(Oid caller, ArrayType *depends_on, int *count)
{
	int named;
	int64 *ids = parse_parents(depends_on, &named);
	Parent *parents = find_parents(ids, named);

	*count = 0;
	for (int i = 0; i < named; i++)
	{
		if (parents[i].queue == NULL ||
			!may_see(caller, ids[i], parents[i].queue, parents[i].tenant))
			raise_unknown(ids[i]);
		if (strcmp(parents[i].state, "live") == 0)
			ids[(*count)++] = ids[i];
		else if (strcmp(parents[i].state, "succeeded") != 0)
			refuse_parent(ids[i], parents[i].state);
	}
	return ids;
}

void
gn_flow_depend(int64 id, const int64 *parents, int count)
{
	static GnQuery query = GN_QUERY(
		"WITH new AS (INSERT INTO _grownext.queue_dependency (child_id, parent_id)"
		" SELECT $1, p.id FROM unnest($2) AS p (id) RETURNING parent_id)"
		" INSERT INTO _grownext.queue_check (id, parent_id, due_at)"
		" SELECT _grownext.core_nextval('_grownext.queue_check_id'), n.parent_id,"
		" '-infinity' FROM new AS n",
		INT8OID, INT8ARRAYOID);
	Datum values[2] = {Int64GetDatum(id), gn_row_ids(parents, count)};

	(void) gn_spi_execute(&query, values, NULL, false);
}

/* ---- batches ---- */

/* A job adds to its own batch, whatever its handler's role may. */
static bool
may_join(Oid caller, int64 batch_id, const char *queue, const pg_uuid_t *tenant)
{
	const GnContext *context = gn_context();
	const pg_uuid_t *own = context ? context->tenant : NULL;

	if (gn_executor_batch() == batch_id || gn_user_has_capability(caller, "service") ||
		gn_user_has_capability(caller, "admin"))
		return true;
	if ((own == NULL) != (tenant == NULL) ||
		(own && memcmp(own, tenant, sizeof(pg_uuid_t)) != 0))
		return false;
	return gn_queue_user_may(caller, queue, "enqueue");
}

void
gn_flow_join(Oid caller, int64 batch_id)
{
	static GnQuery query =
		GN_QUERY("SELECT queue, tenant_id FROM _grownext.queue_batch WHERE id = $1"
				 " FOR KEY SHARE",
				 INT8OID);
	MemoryContext memory = CurrentMemoryContext;
	Datum values[1] = {Int64GetDatum(batch_id)};
	char *queue = NULL;
	pg_uuid_t *tenant = NULL;
	GnSpi spi;

	gn_spi_begin(&spi);
	if (gn_spi_execute(&query, values, NULL, false) > 0)
	{
		queue = gn_row_copy(0, 1, TEXTOID, memory);
		tenant = gn_row_copy(0, 2, UUIDOID, memory);
	}
	gn_spi_end(&spi);
	if (queue == NULL || !may_join(caller, batch_id, queue, tenant))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("batch " INT64_FORMAT " does not exist", batch_id),
				 errdetail("It never did, or is over, or is not the caller's."),
				 errhint("Jobs are added by the transaction that calls batch_create(), "
						 "or while a job of the batch has no outcome.")));
	gn_worker_tick_at_commit(); /* a pass that found the batch locked looks again */
}

void
gn_flow_new_batch(int64 id, const char *queue, const pg_uuid_t *tenant)
{
	static GnQuery query =
		GN_QUERY("INSERT INTO _grownext.queue_batch (id, queue, tenant_id)"
				 " VALUES ($1, $2, $3)",
				 INT8OID, TEXTOID, UUIDOID);
	char nulls[3] = {' ', ' ', ' '};
	Datum values[3] = {Int64GetDatum(id), CStringGetTextDatum(queue),
					   pointer_or_null(tenant, &nulls[2])};
	GnSpi spi;

	gn_spi_begin(&spi);
	(void) gn_spi_execute(&query, values, nulls, false);
	gn_spi_end(&spi);
}
