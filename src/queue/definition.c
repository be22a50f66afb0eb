/*
 * src/queue/definition.c
 *	  Queues and their grants, cached per backend.
 *
 * There are few queues and they change rarely, so any change loads them all anew.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "queue/definition.h"
#include "queue/lock.h"

typedef struct QueueGrant
{
	char *queue;
	char *role;
	char *right;
} QueueGrant;

static GnMarker queue_marker = {.name = "queue_marker_queue"};
static uint64 loaded_generation = 0;
static MemoryContext definition_memory = NULL;
static GnQueue *queues = NULL; /* by name */
static int queue_count = 0;
static QueueGrant *grants = NULL;
static int grant_count = 0;

void
gn_definition_init(void)
{
	gn_marker_register(&queue_marker);
}

static char *
text_column(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

static Datum
column(uint64 row, int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number,
						 isnull);
}

static char *
keep_text(uint64 row, int number)
{
	char *value = text_column(row, number);

	return value ? MemoryContextStrdup(definition_memory, value) : NULL;
}

static void
load_queues(void)
{
	static GnQuery query = GN_QUERY_NOARGS(
		"SELECT queue, concurrency, max_attempts,"
		" extract(epoch FROM backoff_base)::pg_catalog.float8,"
		" extract(epoch FROM backoff_cap)::pg_catalog.float8,"
		" (extract(epoch FROM timeout) * 1000)::pg_catalog.int8,"
		" ordered, expire, paused_at IS NOT NULL, handler, "
		"handler_takes = 'job', run_as,"
		" (extract(epoch FROM sla_start_within) * 1000000)::pg_catalog.int8,"
		" rate_count, (extract(epoch FROM rate_period) * 1000000)::pg_catalog.int8, "
		"weight"
		" FROM _grownext.queue_queue ORDER BY queue");
	uint64 count = gn_spi_execute(&query, NULL, NULL, true);

	queues = MemoryContextAllocZero(definition_memory, (count + 1) * sizeof(GnQueue));
	for (uint64 i = 0; i < count; i++)
	{
		bool null;

		queues[i] = (GnQueue){
			.name = keep_text(i, 1),
			.concurrency = DatumGetInt32(column(i, 2, &null)),
			.max_attempts = DatumGetInt32(column(i, 3, &null)),
			.backoff_base = DatumGetFloat8(column(i, 4, &null)),
			.backoff_cap = DatumGetFloat8(column(i, 5, &null)),
			.timeout = DatumGetInt64(column(i, 6, &null)),
			.ordered = DatumGetBool(column(i, 7, &null)),
			.expire = DatumGetBool(column(i, 8, &null)),
			.paused = DatumGetBool(column(i, 9, &null)),
			.handler = keep_text(i, 10),
			.handler_takes_job = DatumGetBool(column(i, 11, &null)),
			.run_as = keep_text(i, 12),
			.sla_within = DatumGetInt64(column(i, 13, &null)),
			.rate_count = DatumGetInt32(column(i, 14, &null)),
			.rate_period = DatumGetInt64(column(i, 15, &null)),
			.weight = DatumGetInt32(column(i, 16, &null)),
		};
	}
	queue_count = (int) count;
}

static void
load_grants(void)
{
	static GnQuery query = GN_QUERY_NOARGS(
		"SELECT queue, role_name, right_name FROM _grownext.queue_grant");
	uint64 count = gn_spi_execute(&query, NULL, NULL, true);

	grants =
		MemoryContextAllocZero(definition_memory, (count + 1) * sizeof(QueueGrant));
	for (uint64 i = 0; i < count; i++)
		grants[i] = (QueueGrant){keep_text(i, 1), keep_text(i, 2), keep_text(i, 3)};
	grant_count = (int) count;
}

static void
refresh_definitions(void)
{
	uint64 generation = gn_marker_generation(&queue_marker);
	GnSpi spi;

	if (generation == loaded_generation)
		return;
	loaded_generation = 0; /* a load that fails half-way is none */
	queue_count = 0;
	grant_count = 0;
	if (definition_memory == NULL)
		definition_memory = AllocSetContextCreate(TopMemoryContext, "grownext queues",
												  ALLOCSET_SMALL_SIZES);
	MemoryContextReset(definition_memory);
	gn_spi_begin(&spi);
	/* A repeatable-read transaction's own snapshot may be older than the message. */
	PushActiveSnapshot(GetLatestSnapshot());
	load_queues();
	load_grants();
	PopActiveSnapshot();
	gn_spi_end(&spi);
	loaded_generation = generation;
}

static int
compare_names(const void *name, const void *queue)
{
	return strcmp(name, ((const GnQueue *) queue)->name);
}

const GnQueue *
gn_queue_find(const char *name)
{
	refresh_definitions();
	return bsearch(name, queues, queue_count, sizeof(GnQueue), compare_names);
}

const GnQueue *
gn_queue_open(const char *name)
{
	const GnQueue *queue;

	gn_queue_lock(GN_QUEUE_LOCK_QUEUE, gn_queue_lock_key(name, NULL), ShareLock);
	queue = gn_queue_find(name);
	if (queue == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("queue \"%s\" does not exist", name),
						errhint("SELECT grownext.queue_define(%s);",
								quote_literal_cstr(name))));
	return queue;
}

int
gn_queue_limited(const char ***names)
{
	int count = 0;

	refresh_definitions();
	*names = palloc((queue_count + 1) * sizeof(char *));
	for (int i = 0; i < queue_count; i++)
	{
		if (queues[i].rate_count > 0)
			(*names)[count++] = pstrdup(queues[i].name);
	}
	return count;
}

bool
gn_queue_is_internal(const char *name)
{
	return strncmp(name, "grownext.", strlen("grownext.")) == 0;
}

bool
gn_queue_user_may(Oid user, const char *queue, const char *right)
{
	refresh_definitions();
	for (int i = 0; i < grant_count; i++)
	{
		Oid role;

		if (strcmp(grants[i].queue, queue) != 0 || strcmp(grants[i].right, right) != 0)
			continue;
		role = get_role_oid(grants[i].role, true);
		if (OidIsValid(role) && has_privs_of_role(user, role))
			return true;
	}
	return gn_user_has_capability(user, "service") ||
		   gn_user_has_capability(user, "admin");
}

/* Exponential, never above the cap, and spread over a quarter so that a crowd does not
 * come back as one. */
double
gn_queue_backoff(const GnQueue *queue, int failures)
{
	double delay = queue->backoff_base;

	for (int i = 0; i < failures && delay < queue->backoff_cap; i++)
		delay *= 2;
	delay = Min(delay, queue->backoff_cap);
	return delay * (1.0 - 0.25 * pg_prng_double(&pg_global_prng_state));
}
