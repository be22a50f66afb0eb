/*
 * src/core/launcher.c
 *	  One per cluster: keeps a scheduler in every database that is set up.
 *
 * It connects to no database and looks at pg_database alone; whether a database is
 * set up is found out by a scheduler that starts there and leaves again. The answer
 * is remembered in shared memory, so that a database without us costs a process
 * every few minutes at most, and setup() or unfence() need not wait for it: they
 * wake the launcher at their commit.
 *
 * Databases known to be armed are started at once; the others two at a time, lest
 * a cluster of a thousand databases starts a thousand processes.
 *
 * The launcher starts when recovery has ended, so never on a standby. It ends with
 * exit code 1 whatever stops it: with 0 the postmaster would not start it again.
 */
#include "postgres.h"

#include <signal.h>

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "core/core.h"
#include "core/workers.h"

#define SCAN_INTERVAL_MS 60000
#define PROBES_AT_ONCE 2
#define PROBE_TIME_MS 5000
#define OFF_GRACE_MS 1000
#define LONGEST_SHORTAGE_MS 8000L

typedef struct Candidate
{
	Oid oid;
	bool served; /* connectable, no template, listed */
} Candidate;

static TimestampTz start_due; /* after a shortage: no start before */
static int start_failures;
static Oid last_untracked;

extern PGDLLEXPORT void gn_launcher_main(Datum main_arg);

void
gn_launcher_init(void)
{
	BackgroundWorker worker = {0};

	if (!gn_preloaded || IsBinaryUpgrade)
		return;
	snprintf(worker.bgw_name, BGW_MAXLEN, "grownext launcher");
	snprintf(worker.bgw_type, BGW_MAXLEN, "grownext launcher");
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "grownext");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name),
			 "gn_launcher_main");
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	RegisterBackgroundWorker(&worker);
}

static void
detach(int code, Datum arg)
{
	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	gn_workers->launcher_pid = 0;
	gn_workers->launcher_latch = NULL;
	LWLockRelease(&gn_workers->lock);
}

static void
attach(void)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	on_shmem_exit(detach, (Datum) 0);
	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	gn_workers->launcher_pid = MyProcPid;
	gn_workers->launcher_latch = MyLatch;
	gn_workers->launcher_started_at = GetCurrentTimestamp();
	gn_workers->launcher_starts++;
	LWLockRelease(&gn_workers->lock);
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
}

/* Whether grownext.databases lets us serve a database. An unreadable list lets us serve
 * none. */
bool
gn_database_listed(const char *name)
{
	List *listed = NIL;
	ListCell *cell;

	if (gn_databases == NULL || *gn_databases == '\0')
		return true;
	if (!SplitIdentifierString(pstrdup(gn_databases), ',', &listed))
		return false;
	foreach (cell, listed)
	{
		if (strcmp(lfirst(cell), name) == 0)
			return true;
	}
	return false;
}

static int
compare_candidates(const void *a, const void *b)
{
	Oid left = ((const Candidate *) a)->oid;
	Oid right = ((const Candidate *) b)->oid;

	return left < right ? -1 : left > right;
}

/* Every database, by OID. */
static Candidate *
read_databases(int *count)
{
	MemoryContext caller = CurrentMemoryContext;
	int room = 64;
	Candidate *candidates = palloc(room * sizeof(Candidate));
	Relation catalog;
	TableScanDesc scan;
	HeapTuple tuple;

	*count = 0;
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	catalog = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(catalog, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (*count == room)
			candidates = repalloc(candidates, (room *= 2) * sizeof(Candidate));
		candidates[*count].oid = form->oid;
		candidates[*count].served = form->datallowconn && !form->datistemplate &&
									!database_is_invalid_form(form) &&
									gn_database_listed(NameStr(form->datname));
		(*count)++;
	}
	table_endscan(scan);
	table_close(catalog, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	qsort(candidates, *count, sizeof(Candidate), compare_candidates);
	return candidates;
}

static Candidate *
find_candidate(Oid oid, Candidate *candidates, int count)
{
	Candidate key = {.oid = oid};

	return bsearch(&key, candidates, count, sizeof(Candidate), compare_candidates);
}

/* Forgets databases that are gone, and takes new ones in. */
static void
track_databases(Candidate *candidates, int count)
{
	Oid first_after = last_untracked;

	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	for (int i = 0; i < gn_workers->database_count; i++)
	{
		GnDatabase *d = &gn_workers->database[i];

		if (OidIsValid(d->database) &&
			!find_candidate(d->database, candidates, count) &&
			!gn_worker_database_in_use(d->database))
			d->database = InvalidOid;
	}

	/* When there are more than we can remember, they take turns: begin after the last
	 * newcomer. */
	for (int turn = 0; turn < 2; turn++)
	{
		for (int i = 0; i < count; i++)
		{
			bool now = (candidates[i].oid > first_after) == (turn == 0);

			if (!now || !candidates[i].served || gn_worker_database(candidates[i].oid))
				continue;
			if (gn_worker_database_make(candidates[i].oid, false))
				last_untracked = candidates[i].oid;
		}
	}
	LWLockRelease(&gn_workers->lock);
}

/* Makes room for one database that is not tracked, at the cost of one whose next probe
 * is due. */
static void
rotate_databases(void)
{
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	for (int i = 0; i < gn_workers->database_count; i++)
	{
		GnDatabase *d = &gn_workers->database[i];

		if (OidIsValid(d->database) && d->verdict == GN_VERDICT_NOT_SET_UP &&
			d->scheduler.not_before <= now && !gn_worker_database_in_use(d->database) &&
			gn_worker_database(InvalidOid) == NULL)
			d->database = InvalidOid;
	}
	LWLockRelease(&gn_workers->lock);
}

typedef struct Survey
{
	int due_count;
	Oid *due;     /* databases whose scheduler may start now */
	long next_ms; /* until another may */
	int excess_count;
	Oid *excess; /* databases that have workers and should not */
} Survey;

/* Who lacks a scheduler and may have one, armed databases first. */
static void
survey_databases(Candidate *candidates, int count, Survey *survey)
{
	TimestampTz now = GetCurrentTimestamp();
	int probes = PROBES_AT_ONCE;
	int room = gn_workers->database_count;

	survey->due = palloc(room * sizeof(Oid));
	survey->excess = palloc(room * sizeof(Oid));
	LWLockAcquire(&gn_workers->lock, LW_SHARED);
	for (int i = 0; i < room; i++)
	{
		GnDatabase *d = &gn_workers->database[i];
		GnWorkerSlot *scheduler;

		if (!OidIsValid(d->database) || d->verdict == GN_VERDICT_ARMED)
			continue;
		scheduler = gn_worker_scheduler(d->database);
		if (scheduler &&
			!TimestampDifferenceExceeds(scheduler->started_at, now, PROBE_TIME_MS))
			probes--;
	}
	for (int armed = 1; armed >= 0; armed--)
	{
		for (int i = 0; i < room; i++)
		{
			GnDatabase *d = &gn_workers->database[i];
			Candidate *candidate;

			if (!OidIsValid(d->database) ||
				(d->verdict == GN_VERDICT_ARMED) != (armed == 1))
				continue;
			candidate = find_candidate(d->database, candidates, count);
			if (candidate == NULL || !candidate->served)
			{
				survey->excess[survey->excess_count++] = d->database;
				continue;
			}
			if (gn_worker_scheduler(d->database) || gn_worker_blocked(d->database))
				continue;
			if (d->scheduler.not_before > now)
				survey->next_ms =
					Min(survey->next_ms,
						TimestampDifferenceMilliseconds(now, d->scheduler.not_before));
			else if (armed == 1 || probes-- > 0)
				survey->due[survey->due_count++] = d->database;
			else
				survey->next_ms = Min(survey->next_ms, PROBE_TIME_MS);
		}
	}
	LWLockRelease(&gn_workers->lock);
}

/* Starts what is due; after a shortage nothing for a while. */
static void
start_schedulers(Survey *survey)
{
	TimestampTz now = GetCurrentTimestamp();
	int started = 0;

	if (start_due > now && survey->due_count > 0)
	{
		survey->next_ms =
			Min(survey->next_ms, TimestampDifferenceMilliseconds(now, start_due));
		return;
	}
	for (; started < survey->due_count; started++)
	{
		GnStart result = gn_worker_start(GN_WORKER_SCHEDULER, survey->due[started]);
		long wait;

		if (result == GN_START_OK || result == GN_START_REFUSED)
		{
			start_failures = 0;
			continue;
		}
		wait = start_failures < 3 ? 1000L << start_failures : LONGEST_SHORTAGE_MS;
		start_failures++;
		/* A slot that becomes free wakes us, a process does not. */
		if (result == GN_START_NO_PROCESS)
			start_due = TimestampTzPlusMilliseconds(now, wait);
		survey->next_ms = Min(survey->next_ms, wait);
		break;
	}
	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	gn_workers->schedulers_waiting = survey->due_count - started;
	LWLockRelease(&gn_workers->lock);
	if (started < survey->due_count)
		gn_worker_nudge_executors();
}

/* grownext.mode = off: what does not leave by itself within a moment is terminated. */
static long
stop_all(TimestampTz off_since)
{
	bool terminate =
		TimestampDifferenceExceeds(off_since, GetCurrentTimestamp(), OFF_GRACE_MS);

	return gn_worker_stop(InvalidOid, terminate) > 0 ? OFF_GRACE_MS / 4
													 : SCAN_INTERVAL_MS;
}

static long
run_pass(void)
{
	Survey survey = {.next_ms = SCAN_INTERVAL_MS};
	Candidate *candidates;
	int count;

	candidates = read_databases(&count);
	rotate_databases();
	track_databases(candidates, count);
	survey_databases(candidates, count, &survey);
	for (int i = 0; i < survey.excess_count; i++)
		(void) gn_worker_stop(survey.excess[i], false);
	start_schedulers(&survey);
	return survey.next_ms;
}

/* A reload may have changed grownext.environment: fenced databases are looked at again.
 */
static void
expect_fenced(void)
{
	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	for (int i = 0; i < gn_workers->database_count; i++)
	{
		if (gn_workers->database[i].verdict == GN_VERDICT_FENCED)
			gn_workers->database[i].scheduler.not_before = 0;
	}
	LWLockRelease(&gn_workers->lock);
}

void
gn_launcher_main(Datum main_arg)
{
	uint32 event = gn_wait_event("GrowNextLauncher");
	TimestampTz off_since = 0;

	attach();
	ereport(DEBUG1, (errmsg_internal("grownext launcher started")));
	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "grownext launcher",
												ALLOCSET_DEFAULT_SIZES));
	for (;;)
	{
		long sleep = SCAN_INTERVAL_MS;

		QueryCancelPending = false;
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			expect_fenced();
		}
		gn_worker_reap();
		if (gn_mode != GN_MODE_OFF)
			off_since = 0;
		else if (off_since == 0)
			off_since = GetCurrentTimestamp();
		if (gn_mode == GN_MODE_ON)
			sleep = run_pass();
		else if (gn_mode == GN_MODE_OFF)
			sleep = stop_all(off_since);
		LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
		gn_workers->launcher_pass_at = GetCurrentTimestamp();
		LWLockRelease(&gn_workers->lock);
		MemoryContextReset(CurrentMemoryContext);
		pgstat_report_stat(true);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 sleep, event);
		ResetLatch(MyLatch);
	}
}
