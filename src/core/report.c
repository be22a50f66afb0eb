/*
 * src/core/report.c
 *	  What a DBA sees of the workers: workers(), and the facts behind status().
 *
 * Shared memory is copied under the lock and looked at afterwards: nothing that can
 * throw runs while it is held. Messages of other databases are shown only to those
 * who may read everybody's statistics.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_control.h"
#include "commands/dbcommands.h"
#include "common/controldata_utils.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/workers.h"

GN_FUNCTION(gn_worker_list);
GN_FUNCTION(gn_core_worker_facts);

/* A private copy of the shared memory. */
static GnWorkers *
copy_workers(void)
{
	GnWorkers *copy;
	int slot_count = gn_workers->slot_count; /* both are fixed */
	int database_count = gn_workers->database_count;
	GnWorkerSlot *slot = palloc(slot_count * sizeof(GnWorkerSlot));
	GnDatabase *database = palloc(database_count * sizeof(GnDatabase));

	copy = palloc(sizeof(GnWorkers));
	LWLockAcquire(&gn_workers->lock, LW_SHARED);
	memcpy(copy, gn_workers, sizeof(GnWorkers));
	memcpy(slot, gn_workers->slot, slot_count * sizeof(GnWorkerSlot));
	memcpy(database, gn_workers->database, database_count * sizeof(GnDatabase));
	LWLockRelease(&gn_workers->lock);
	copy->slot = slot;
	copy->database = database;
	return copy;
}

static GnDatabase *
find_database(GnWorkers *workers, Oid oid)
{
	for (int i = 0; i < workers->database_count; i++)
	{
		if (workers->database[i].database == oid)
			return &workers->database[i];
	}
	return NULL;
}

static GnWorkerSlot *
find_scheduler(GnWorkers *workers, Oid oid)
{
	for (int i = 0; i < workers->slot_count; i++)
	{
		GnWorkerSlot *slot = &workers->slot[i];

		if (pg_atomic_read_u32(&slot->state) != GN_SLOT_FREE &&
			slot->kind == GN_WORKER_SCHEDULER && slot->database == oid)
			return slot;
	}
	return NULL;
}

static const char *
slot_state(GnWorkerSlot *slot)
{
	switch ((GnSlotState) pg_atomic_read_u32(&slot->state))
	{
		case GN_SLOT_STARTING:
			return "starting";
		case GN_SLOT_IDLE:
			return "idle";
		case GN_SLOT_LEAVING:
			return "leaving";
		default:
			return pg_atomic_read_u32(&slot->stop) ? "leaving" : "running";
	}
}

/* Why a database that we know has no scheduler; NULL when it never was set up. */
static const char *
absence(GnWorkers *workers, GnDatabase *d)
{
	for (int i = 0; i < GN_WORKER_BLOCKS; i++)
	{
		if (workers->blocks[i].database == d->database)
			return "blocked";
	}
	if (d->scheduler.failures > 0)
		return "backing off";
	switch (d->verdict)
	{
		case GN_VERDICT_FENCED:
			return "fenced";
		case GN_VERDICT_UNFIT:
			return "version skew";
		case GN_VERDICT_ARMED:
			return gn_mode != GN_MODE_ON ? "stopped" : "waiting";
		default:
			return NULL;
	}
}

typedef struct Row
{
	Oid database;
	const char *worker;
	pid_t pid;
	const char *state;
	TimestampTz last_tick_at;
	int restarts;
	const char *error;
} Row;

static void
put_row(ReturnSetInfo *result, const Row *row)
{
	Datum values[7] = {0};
	bool nulls[7] = {0};
	NameData name;
	char *database =
		OidIsValid(row->database) ? get_database_name(row->database) : NULL;
	bool readable = row->database == MyDatabaseId ||
					has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);

	nulls[0] = database == NULL;
	if (database)
	{
		namestrcpy(&name, database);
		values[0] = NameGetDatum(&name);
	}
	values[1] = CStringGetTextDatum(row->worker);
	nulls[2] = row->pid == 0;
	values[2] = Int32GetDatum(row->pid);
	values[3] = CStringGetTextDatum(row->state);
	nulls[4] = row->last_tick_at == 0;
	values[4] = TimestampTzGetDatum(row->last_tick_at);
	values[5] = Int32GetDatum(row->restarts);
	nulls[6] = !readable || row->error == NULL || *row->error == '\0';
	if (!nulls[6])
		values[6] = CStringGetTextDatum(row->error);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
put_slot(ReturnSetInfo *result, GnWorkers *workers, GnWorkerSlot *slot)
{
	GnDatabase *d = find_database(workers, slot->database);
	bool scheduler = slot->kind == GN_WORKER_SCHEDULER;
	GnBackoff *backoff = d ? (scheduler ? &d->scheduler : &d->executor) : NULL;
	Row row = {
		.database = slot->database,
		.worker = scheduler ? "scheduler" : "executor",
		.pid = slot->pid,
		.state = slot_state(slot),
		.last_tick_at = slot->last_tick_at,
		.restarts = backoff ? backoff->restarts : 0,
		.error = slot->error[0] || backoff == NULL ? slot->error : backoff->error,
	};

	put_row(result, &row);
}

/* SQL: grownext.workers() */
Datum
gn_worker_list(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	GnWorkers *workers;
	Row launcher = {.worker = "launcher"};

	InitMaterializedSRF(fcinfo, 0);
	if (gn_workers == NULL)
		return (Datum) 0;
	workers = copy_workers();
	launcher.pid = workers->launcher_pid;
	launcher.state = workers->launcher_pid ? "running" : "down";
	launcher.last_tick_at = workers->launcher_pass_at;
	launcher.restarts = Max(workers->launcher_starts - 1, 0);
	put_row(result, &launcher);
	for (int i = 0; i < workers->slot_count; i++)
	{
		if (pg_atomic_read_u32(&workers->slot[i].state) != GN_SLOT_FREE)
			put_slot(result, workers, &workers->slot[i]);
	}
	for (int i = 0; i < workers->database_count; i++)
	{
		GnDatabase *d = &workers->database[i];
		Row row = {.database = d->database, .worker = "scheduler"};

		if (!OidIsValid(d->database) || find_scheduler(workers, d->database))
			continue;
		row.state = absence(workers, d);
		row.restarts = d->scheduler.restarts;
		row.error = d->scheduler.error;
		if (row.state)
			put_row(result, &row);
	}
	return (Datum) 0;
}

/* max_worker_processes of the primary whose WAL we replay, as pg_control has it. */
static int
primary_worker_processes(void)
{
	bool intact;
	ControlFileData *control = get_controlfile(DataDir, &intact);

	return intact ? control->max_worker_processes : 0;
}

static Datum
text_or_null(const char *text, bool *isnull)
{
	*isnull = text == NULL || *text == '\0';
	return *isnull ? (Datum) 0 : CStringGetTextDatum(text);
}

static Datum
time_or_null(TimestampTz time, bool *isnull)
{
	*isnull = time == 0;
	return TimestampTzGetDatum(time);
}

static Datum
int_or_null(int number, bool *isnull)
{
	*isnull = number == 0;
	return Int32GetDatum(number);
}

/* Since when starts fail; 0 when they no longer do, or nobody needs one. */
static TimestampTz
lasting_since(const GnShortage *shortage)
{
	return TimestampDifferenceExceeds(shortage->failed_at, GetCurrentTimestamp(),
									  GN_SHORTAGE_LASTS_MS)
			   ? 0
			   : shortage->since;
}

#define FACTS 22

/* The columns that come from shared memory. */
static void
put_shared_facts(Datum *values, bool *nulls)
{
	GnWorkers *workers = copy_workers();
	GnDatabase *d = find_database(workers, MyDatabaseId);
	GnWorkerSlot *scheduler = find_scheduler(workers, MyDatabaseId);
	int used = 0;
	int databases = 0;

	for (int i = 0; i < workers->slot_count; i++)
		used += pg_atomic_read_u32(&workers->slot[i].state) != GN_SLOT_FREE;
	for (int i = 0; i < workers->database_count; i++)
		databases += OidIsValid(workers->database[i].database) &&
					 workers->database[i].verdict == GN_VERDICT_ARMED;
	values[6] = int_or_null(workers->launcher_pid, &nulls[6]);
	values[7] = time_or_null(workers->launcher_pass_at, &nulls[7]);
	values[8] = int_or_null(scheduler ? scheduler->pid : 0, &nulls[8]);
	values[9] = text_or_null(scheduler ? slot_state(scheduler)
							 : d       ? absence(workers, d)
									   : NULL,
							 &nulls[9]);
	values[10] = time_or_null(scheduler ? scheduler->last_tick_at : 0, &nulls[10]);
	values[11] = text_or_null(scheduler ? scheduler->error
							  : d       ? d->scheduler.error
										: NULL,
							  &nulls[11]);
	values[12] = time_or_null(d ? d->since : 0, &nulls[12]);
	values[13] = int_or_null(d ? d->executor.failures : 0, &nulls[13]);
	values[14] = text_or_null(d ? d->executor.error : NULL, &nulls[14]);
	values[15] = Int32GetDatum(workers->slot_count);
	nulls[15] = false;
	values[16] = Int32GetDatum(used);
	nulls[16] = false;
	values[17] = time_or_null(lasting_since(&workers->slots), &nulls[17]);
	values[18] = time_or_null(lasting_since(&workers->processes), &nulls[18]);
	values[19] = Int32GetDatum(databases);
	nulls[19] = false;
}

/* SQL: _grownext.core_worker_facts() */
Datum
gn_core_worker_facts(PG_FUNCTION_ARGS)
{
	static const char *const modes[] = {"on", "drain", "off"};
	TupleDesc tupdesc;
	Datum values[FACTS] = {0};
	bool nulls[FACTS];
	char *database = get_database_name(MyDatabaseId);

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	Assert(tupdesc->natts == FACTS);
	memset(nulls, true, sizeof(nulls));
	memset(nulls, false, 6 * sizeof(bool));
	values[0] = BoolGetDatum(gn_workers != NULL);
	values[1] = CStringGetTextDatum(
		shared_preload_libraries_string ? shared_preload_libraries_string : "");
	values[2] = CStringGetTextDatum(GN_VERSION);
	values[3] = CStringGetTextDatum(modes[gn_mode]);
	values[4] = BoolGetDatum(database && gn_database_listed(database));
	values[5] = Int32GetDatum(gn_executors);
	if (gn_workers)
		put_shared_facts(values, nulls);
	values[20] = Int32GetDatum(max_worker_processes);
	nulls[20] = false;
	values[21] =
		int_or_null(RecoveryInProgress() ? primary_worker_processes() : 0, &nulls[21]);
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}
