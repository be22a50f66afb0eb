/*
 * src/queue/enqueue.c
 *	  Jobs come in: in the caller's transaction, with the caller's context.
 *
 * A job carries its enqueuer's claims, so that its handler acts for the same tenant
 * and is answerable as the same actor. It is stored with claim tenant_id set to the
 * job's tenant, whatever path the tenant had in the original token.
 *
 * Locks, in this order: the queue (shared, against queue_drop), for an ordered queue
 * the group (so that ids are in the order of commits), the unique key. Two
 * transactions that take two keys in different orders can deadlock, as with rows.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/worker.h"
#include "queue/definition.h"
#include "queue/flow.h"
#include "queue/lock.h"
#include "queue/metrics.h"
#include "queue/queue.h"
#include "queue/ready.h"
#include "queue/storage.h"
#include "queue/wait.h"

GN_FUNCTION(gn_enqueue);
GN_FUNCTION(gn_enqueue_many);
GN_FUNCTION(gn_batch_create);
GN_FUNCTION(gn_queue_put_internal);

#define MAX_PAYLOAD (1024 * 1024)
#define MAX_KEY 512
#define MAX_MANY 100000

Jsonb *
gn_queue_carried_claims(const GnContext *context, const pg_uuid_t *tenant)
{
	JsonbParseState *state = NULL;
	JsonbValue key = {.type = jbvString,
					  .val.string = {.val = pstrdup("tenant_id"), .len = 9}};
	JsonbValue value = {.type = jbvString};

	if (context == NULL && tenant == NULL)
		return NULL;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (context)
	{
		JsonbIterator *it =
			JsonbIteratorInit(unconstify(JsonbContainer *, &context->claims->root));
		JsonbIteratorToken token;
		JsonbValue part;
		bool skip = false;

		while ((token = JsonbIteratorNext(&it, &part, true)) != WJB_DONE)
		{
			if (token == WJB_KEY)
				skip = part.val.string.len == key.val.string.len &&
					   memcmp(part.val.string.val, key.val.string.val,
							  key.val.string.len) == 0;
			if ((token == WJB_KEY || token == WJB_VALUE) && !skip)
				pushJsonbValue(&state, token, &part);
		}
	}
	if (tenant)
	{
		value.val.string.val = gn_uuid_text(tenant);
		value.val.string.len = 36;
		pushJsonbValue(&state, WJB_KEY, &key);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* A payload counts as it is stored or as text, whichever is smaller. */
static void
check_payload(const Jsonb *payload)
{
	if (VARSIZE(payload) <= MAX_PAYLOAD ||
		strlen(gn_jsonb_text(payload)) <= MAX_PAYLOAD)
		return;
	ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					errmsg("payload of a job exceeds 1 MB"),
					errhint("Store what is large in a table and enqueue its key.")));
}

static void
check_key(const char *what, const char *key)
{
	if (key == NULL)
		return;
	if (*key == '\0' || strlen(key) > MAX_KEY)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must have 1 to %d bytes", what, MAX_KEY)));
}

static void
check_request(const GnEnqueue *request)
{
	check_payload(request->payload);
	check_key("unique_key", request->unique_key);
	check_key("group_key", request->group_key);
	if (TIMESTAMP_NOT_FINITE(request->run_at) ||
		TIMESTAMP_NOT_FINITE(request->deadline))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("run_at and deadline of a job must be finite")));
	if (request->max_attempts < 0 || request->max_attempts > 1000)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("max_attempts must be between 1 and 1000")));
	if (request->unique_for && request->unique_key == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("unique_for needs a unique_key")));
}

/* The job as it will be stored; true if it may run at once. */
static bool
make_job(const GnEnqueue *request, const GnQueue *queue, GnJob *job)
{
	const GnContext *context = request->claims ? NULL : gn_context();
	const pg_uuid_t *tenant = request->tenant;
	TimestampTz now = gn_now();

	if (tenant == NULL && context)
		tenant = context->tenant;
	*job = (GnJob){
		.queue = request->queue,
		.payload = request->payload,
		.priority = request->priority,
		.max_attempts =
			request->max_attempts ? request->max_attempts : queue->max_attempts,
		.enqueued_at = now,
		.run_at = request->run_at > now ? request->run_at : now,
		.deadline = request->deadline,
		.unique_key = request->unique_key,
		.group_key = request->group_key,
		.tenant = tenant,
		.claims = gn_queue_carried_claims(context, tenant),
		.batch_id = request->batch_id,
		.waiting = request->waiting || request->parent_count > 0,
	};
	if (request->claims)
		job->claims = JB_ROOT_COUNT(request->claims) ? request->claims : NULL;
	return job->run_at == now && !job->waiting;
}

static TimestampTz
window_end(TimestampTz now, const Interval *window)
{
	TimestampTz end = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
															  TimestampTzGetDatum(now),
															  PointerGetDatum(window)));

	if (end <= now)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("unique_for must be positive")));
	return end;
}

/* The id of the job that holds the key already, or 0 when the new one may be put. */
static int64
resolve_unique(const GnEnqueue *request, const GnJob *job, bool ready, bool *replaced)
{
	int64 existing =
		gn_storage_find_unique(job->queue, job->unique_key, job->enqueued_at);

	*replaced = false;
	if (existing == 0)
		return 0;
	if (request->unique_mode == GN_UNIQUE_REJECT)
		ereport(ERROR, (errcode(ERRCODE_UNIQUE_VIOLATION),
						errmsg("queue \"%s\" already has a job with this unique_key",
							   job->queue),
						errdetail("Its id is " INT64_FORMAT ".", existing)));
	if (request->unique_mode == GN_UNIQUE_REPLACE)
		*replaced = gn_storage_replace(existing, job, ready);
	return existing;
}

static void
note_enqueued(const GnJob *job, int count)
{
	GnMeasurement enqueued = {.what = GN_MEASURE_ENQUEUED,
							  .count = count,
							  .at = job->enqueued_at};

	gn_metrics_note_at_commit(job->queue, &enqueued);
}

/* Jobs of an ordered queue are looked for in the table. */
static void
note_ready(bool ordered, const GnJob *job, int64 id)
{
	if (!ordered)
		gn_ready_note(job->queue, job->priority, job->group_key, id);
}

static int64
store_job(const GnEnqueue *request, const GnQueue *queue)
{
	GnJob job;
	bool ready = make_job(request, queue, &job);
	bool ordered = queue->ordered;
	bool stored = true;
	int64 id = 0;
	GnSpi spi;

	if (ordered && job.group_key)
		gn_queue_lock(GN_QUEUE_LOCK_GROUP, gn_queue_lock_key(job.queue, job.group_key),
					  ExclusiveLock);
	if (job.unique_key)
		gn_queue_lock(GN_QUEUE_LOCK_UNIQUE,
					  gn_queue_lock_key(job.queue, job.unique_key), ExclusiveLock);
	gn_spi_begin(&spi);
	if (job.unique_key)
		id = resolve_unique(request, &job, ready, &stored);
	if (id == 0)
	{
		id = gn_storage_put(&job, ready);
		stored = true;
		note_enqueued(&job, 1);
		if (request->parent_count > 0)
			gn_flow_depend(id, request->parents, request->parent_count);
		if (request->unique_for)
			gn_storage_hold_unique(job.queue, job.unique_key, id,
								   window_end(job.enqueued_at, request->unique_for));
	}
	gn_spi_end(&spi);
	if (stored && !ready)
		gn_worker_tick_at_commit();
	else if (stored)
	{
		note_ready(ordered, &job, id);
		gn_queue_call_at_commit(gn_queue_find(request->queue), 1);
	}
	return id;
}

int64
gn_queue_enqueue(const GnEnqueue *request)
{
	check_request(request);
	return store_job(request, gn_queue_open(request->queue));
}

/* ---- SQL ---- */

static void
refuse_null(const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					errmsg("%s must not be null", what)));
}

/* The queue that an SQL caller names: no internal one, and the caller may enqueue. */
static char *
callers_queue(FunctionCallInfo fcinfo, int argument)
{
	char *name;

	if (PG_ARGISNULL(argument))
		refuse_null("queue");
	name = text_to_cstring(PG_GETARG_TEXT_PP(argument));
	if (gn_queue_is_internal(name))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("queue \"%s\" is internal", name),
						errdetail("Queues named grownext.* belong to the platform.")));
	(void) gn_queue_open(name);
	if (!gn_queue_user_may(GetUserId(), name, "enqueue"))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to enqueue into queue \"%s\"", name),
				 errhint("An administrator grants it: SELECT grownext.queue_grant(%s, "
						 "%s, 'enqueue');",
						 quote_literal_cstr(name),
						 quote_literal_cstr(GetUserNameFromId(GetUserId(), false)))));
	return name;
}

static char *
text_argument(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

/* A time argument; 0 for NULL, and never 0 otherwise. */
static TimestampTz
time_argument(FunctionCallInfo fcinfo, int argument)
{
	TimestampTz value;

	if (PG_ARGISNULL(argument))
		return 0;
	value = PG_GETARG_TIMESTAMPTZ(argument);
	return value ? value : 1;
}

static int
attempts_argument(FunctionCallInfo fcinfo, int argument)
{
	if (PG_ARGISNULL(argument))
		return 0;
	return PG_GETARG_INT32(argument) > 0 ? PG_GETARG_INT32(argument) : -1;
}

static GnUniqueMode
mode_argument(FunctionCallInfo fcinfo, int argument)
{
	char *mode = text_argument(fcinfo, argument);

	if (mode && strcmp(mode, "keep") == 0)
		return GN_UNIQUE_KEEP;
	if (mode && strcmp(mode, "replace") == 0)
		return GN_UNIQUE_REPLACE;
	if (mode && strcmp(mode, "reject") == 0)
		return GN_UNIQUE_REJECT;
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("unknown unique_mode \"%s\"", mode ? mode : "NULL"),
					errhint("Modes: keep, replace, reject.")));
}

/* What the job waits for, and whose callback waits for it. A job that is replaced keeps
 * what it has of both: otherwise two jobs could come to wait for each other. */
static void
flow_arguments(FunctionCallInfo fcinfo, int depends_on, int batch, GnEnqueue *request)
{
	if (PG_ARGISNULL(depends_on) && PG_ARGISNULL(batch))
		return;
	if (request->unique_key && request->unique_mode == GN_UNIQUE_REPLACE)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("unique_mode \"replace\" goes with neither depends_on "
							   "nor batch_id"),
						errdetail("A job that is replaced keeps those that it has.")));
	if (!PG_ARGISNULL(depends_on))
		request->parents =
			gn_flow_parents(GetUserId(), PG_GETARG_ARRAYTYPE_P(depends_on),
							&request->parent_count);
	if (!PG_ARGISNULL(batch))
	{
		gn_flow_join(GetUserId(), PG_GETARG_INT64(batch));
		request->batch_id = PG_GETARG_INT64(batch);
	}
}

/* SQL: grownext.enqueue(queue text, payload jsonb, ...) */
Datum
gn_enqueue(PG_FUNCTION_ARGS)
{
	GnEnqueue request = {0};
	pg_uuid_t tenant;

	request.queue = callers_queue(fcinfo, 0);
	if (PG_ARGISNULL(1))
		refuse_null("payload");
	request.payload = PG_GETARG_JSONB_P(1);
	request.run_at = time_argument(fcinfo, 2);
	request.priority = PG_ARGISNULL(3) ? 0 : PG_GETARG_INT32(3);
	request.unique_key = text_argument(fcinfo, 4);
	request.group_key = text_argument(fcinfo, 5);
	request.max_attempts = attempts_argument(fcinfo, 6);
	request.deadline = time_argument(fcinfo, 7);
	request.unique_mode = mode_argument(fcinfo, 8);
	request.unique_for = PG_ARGISNULL(9) ? NULL : PG_GETARG_INTERVAL_P(9);
	if (!PG_ARGISNULL(12))
	{
		tenant = gn_caller_tenant(GetUserId(), PG_GETARG_UUID_P(12));
		request.tenant = &tenant;
	}
	flow_arguments(fcinfo, 10, 11, &request);
	PG_RETURN_INT64(gn_queue_enqueue(&request));
}

/* SQL: grownext.batch_create(callback_queue text, callback_payload jsonb) */
Datum
gn_batch_create(PG_FUNCTION_ARGS)
{
	const GnContext *context = gn_context();
	GnEnqueue request = {.waiting = true};
	int64 id;

	request.queue = callers_queue(fcinfo, 0);
	if (PG_ARGISNULL(1))
		refuse_null("callback_payload");
	request.payload = PG_GETARG_JSONB_P(1);
	if (!JB_ROOT_IS_OBJECT(request.payload))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("callback_payload must be an object"),
						errdetail("The counts of the batch are added to it.")));
	id = gn_queue_enqueue(&request);
	gn_flow_new_batch(id, request.queue, context ? context->tenant : NULL);
	PG_RETURN_INT64(id);
}

/* SQL: _grownext.queue_put_internal(queue text, payload jsonb, ...) */
Datum
gn_queue_put_internal(PG_FUNCTION_ARGS)
{
	GnEnqueue request = {0};

	if (PG_ARGISNULL(0))
		refuse_null("queue");
	if (PG_ARGISNULL(1))
		refuse_null("payload");
	request.queue = text_to_cstring(PG_GETARG_TEXT_PP(0));
	request.payload = PG_GETARG_JSONB_P(1);
	request.run_at = time_argument(fcinfo, 2);
	request.priority = PG_ARGISNULL(3) ? 0 : PG_GETARG_INT32(3);
	request.unique_key = text_argument(fcinfo, 4);
	request.group_key = text_argument(fcinfo, 5);
	request.max_attempts = attempts_argument(fcinfo, 6);
	request.tenant = PG_ARGISNULL(7) ? NULL : PG_GETARG_UUID_P(7);
	PG_RETURN_INT64(gn_queue_enqueue(&request));
}

/* ---- many ---- */

typedef struct ManyKeys
{
	int count;
	Datum *values;
	bool *nulls; /* NULL: no array was given */
} ManyKeys;

static ManyKeys
keys_argument(FunctionCallInfo fcinfo, int argument, const char *what, int expected)
{
	ManyKeys keys = {0};

	if (PG_ARGISNULL(argument))
		return keys;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(argument), TEXTOID, -1, false, TYPALIGN_INT,
					  &keys.values, &keys.nulls, &keys.count);
	if (keys.count != expected)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must have one element per payload", what)));
	return keys;
}

static char *
key_at(const ManyKeys *keys, int i)
{
	if (keys->nulls == NULL || keys->nulls[i])
		return NULL;
	return TextDatumGetCString(keys->values[i]);
}

static int
compare_keys(const void *a, const void *b)
{
	uint64 left = *(const uint64 *) a;
	uint64 right = *(const uint64 *) b;

	return left < right ? -1 : left > right;
}

/* Takes the locks on all names in one order, so that two such calls cannot deadlock. */
static void
lock_names(GnQueueLock kind, const char *queue, const ManyKeys *keys)
{
	uint64 *hashes = palloc((keys->count + 1) * sizeof(uint64));
	int count = 0;

	for (int i = 0; i < keys->count; i++)
	{
		char *key = key_at(keys, i);

		if (key)
			hashes[count++] = gn_queue_lock_key(queue, key);
	}
	qsort(hashes, count, sizeof(uint64), compare_keys);
	for (int i = 0; i < count; i++)
	{
		if (i == 0 || hashes[i] != hashes[i - 1])
			gn_queue_lock(kind, hashes[i], ExclusiveLock);
	}
	pfree(hashes);
}

static Datum
group_key_array(const ManyKeys *keys, int count)
{
	Datum *values = keys->values;
	bool *nulls = keys->nulls;
	int dims[1] = {count};
	int lower[1] = {1};

	if (nulls == NULL)
	{
		values = palloc0(count * sizeof(Datum));
		nulls = palloc(count * sizeof(bool));
		memset(nulls, true, count * sizeof(bool));
	}
	return PointerGetDatum(construct_md_array(values, nulls, 1, dims, lower, TEXTOID,
											  -1, false, TYPALIGN_INT));
}

/* Jobs without unique keys: one statement. */
static void
enqueue_plain(const GnEnqueue *model, const GnQueue *queue, Datum payloads,
			  const ManyKeys *groups, int count, int64 *ids)
{
	GnJob job;
	bool ready = make_job(model, queue, &job);
	bool ordered = queue->ordered;
	GnSpi spi;

	if (ordered)
		lock_names(GN_QUEUE_LOCK_GROUP, model->queue, groups);
	gn_spi_begin(&spi);
	gn_storage_put_many(&job, ready, count, payloads, group_key_array(groups, count),
						ids);
	gn_spi_end(&spi);
	note_enqueued(&job, count);
	if (!ready)
	{
		gn_worker_tick_at_commit();
		return;
	}
	for (int i = 0; i < count; i++)
	{
		job.group_key = key_at(groups, i);
		note_ready(ordered, &job, ids[i]);
	}
	gn_queue_call_at_commit(gn_queue_find(model->queue), count);
}

/* SQL: grownext.enqueue_many(queue text, payloads jsonb[], run_at, priority, group_keys
 * text[], unique_keys text[]) */
Datum
gn_enqueue_many(PG_FUNCTION_ARGS)
{
	GnEnqueue request = {0};
	const GnQueue *queue;
	ManyKeys groups;
	ManyKeys uniques;
	Datum *payloads;
	bool *nulls;
	int count;
	int64 *ids;
	Datum *result;

	request.queue = callers_queue(fcinfo, 0);
	if (PG_ARGISNULL(1))
		refuse_null("payloads");
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), JSONBOID, -1, false, TYPALIGN_INT,
					  &payloads, &nulls, &count);
	if (count == 0)
		PG_RETURN_ARRAYTYPE_P(construct_empty_array(INT8OID));
	if (count > MAX_MANY)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("enqueue_many() takes at most %d payloads", MAX_MANY)));
	request.run_at = time_argument(fcinfo, 2);
	request.priority = PG_ARGISNULL(3) ? 0 : PG_GETARG_INT32(3);
	groups = keys_argument(fcinfo, 4, "group_keys", count);
	uniques = keys_argument(fcinfo, 5, "unique_keys", count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			refuse_null("an element of payloads");
		request.payload = DatumGetJsonbP(payloads[i]);
		request.group_key = key_at(&groups, i);
		request.unique_key = key_at(&uniques, i);
		check_request(&request);
	}
	request.group_key = request.unique_key = NULL;
	queue = gn_queue_open(request.queue);
	ids = palloc(count * sizeof(int64));
	if (uniques.nulls == NULL)
		enqueue_plain(&request, queue,
					  PointerGetDatum(construct_array(payloads, count, JSONBOID, -1,
													  false, TYPALIGN_INT)),
					  &groups, count, ids);
	else
	{
		if (queue->ordered)
			lock_names(GN_QUEUE_LOCK_GROUP, request.queue, &groups);
		lock_names(GN_QUEUE_LOCK_UNIQUE, request.queue, &uniques);
		for (int i = 0; i < count; i++)
		{
			request.payload = DatumGetJsonbP(payloads[i]);
			request.group_key = key_at(&groups, i);
			request.unique_key = key_at(&uniques, i);
			ids[i] = store_job(&request, gn_queue_find(request.queue));
		}
	}
	result = palloc(count * sizeof(Datum));
	for (int i = 0; i < count; i++)
		result[i] = Int64GetDatum(ids[i]);
	PG_RETURN_ARRAYTYPE_P(construct_array(result, count, INT8OID, sizeof(int64),
										  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}
