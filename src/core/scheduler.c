/*
 * src/core/scheduler.c
 *	  One per armed database: runs the components' ticks, starts executors.
 *
 * A pass runs each tick that is due in a transaction of its own. The transaction
 * first takes a share lock on the extension and looks whether the database still is
 * armed, so DROP EXTENSION waits for one tick at most, a rolled-back one costs
 * nothing, and nothing acts in a database that was fenced. A tick that fails is
 * logged, shown by workers() and status(), and tried again later and later; the
 * others go on.
 *
 * Killable at any line: all it knows is in tables or is found again by the next
 * scheduler's first pass, which runs every tick.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/workers.h"

#define LONGEST_SLEEP_MS INT64CONST(60000)
#define SHORTEST_SLEEP_MS                                                              \
	INT64CONST(10) /* for a tick that always wants another at once */
#define LONGEST_BACKOFF_MS 60000
#define LONGEST_SHORTAGE_MS 8000
#define VERIFY_MS 100
#define HUNGRY_MS 3000 /* between two attempts to get a slot; see share.c */

/* A component's share of the pass: its tick, or its call for executors. */
typedef struct Duty
{
	const GnComponent *component;
	GnQuery query; /* sql NULL: executor_demand */
	TimestampTz due;
	int failures; /* in a row */
} Duty;

static MemoryContext pass_context; /* in force outside transactions, reset after each */
static Duty *duties;
static int duty_count;
static int waiting;           /* units of work that wait for an executor */
static long verify_ms;        /* until we look whether somebody took them; 0: no need */
static bool hungry;           /* an executor found no slot */
static int start_failures;    /* in a row, for want of processes */
static TimestampTz start_due; /* no executor is started before */

extern PGDLLEXPORT void gn_scheduler_main(Datum main_arg);

static void
list_duties(void)
{
	int count = 0;

	for (const GnComponent *const *c = gn_components; *c; c++)
		count += 2;
	duties = MemoryContextAllocZero(TopMemoryContext, (count + 1) * sizeof(Duty));
	for (const GnComponent *const *c = gn_components; *c; c++)
	{
		if ((*c)->tick)
			duties[duty_count++] = (Duty){
				.component = *c,
				.query = {.sql = (*c)->tick, .nargs = 1, .argtypes = {TIMESTAMPTZOID}},
			};
	}
	/* After all ticks: they may make work. */
	for (const GnComponent *const *c = gn_components; *c; c++)
	{
		if ((*c)->executor_demand)
			duties[duty_count++] = (Duty){.component = *c};
	}
}

/* Runs the tick's SQL; the time until the component wants the next one. */
static int64
run_tick(Duty *duty)
{
	TimestampTz now = gn_now();
	Datum argument = TimestampTzGetDatum(now);
	int64 wait = gn_tick_interval;
	GnSpi spi;

	gn_spi_begin(&spi);
	if (gn_spi_execute(&duty->query, &argument, NULL, false) == 1)
	{
		bool isnull;
		Datum next =
			SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);

		if (!isnull)
			wait = TimestampDifferenceMilliseconds(now, DatumGetTimestampTz(next));
	}
	gn_spi_end(&spi);
	return wait;
}

/* One transaction of a duty; leaves if the database is not ours to act in any more. */
static void
run_duty(Duty *duty)
{
	GnVerdict verdict = gn_worker_begin();
	int64 wait = SHORTEST_SLEEP_MS;

	if (verdict != GN_VERDICT_ARMED)
		gn_worker_leave(verdict);
	pgstat_report_activity(STATE_RUNNING,
						   duty->query.sql ? duty->query.sql : "executor demand");
	if (duty->query.sql)
		wait = run_tick(duty);
	else
		waiting += duty->component->executor_demand();
	gn_worker_commit();
	duty->failures = 0;
	wait = Max(SHORTEST_SLEEP_MS, Min(wait, LONGEST_SLEEP_MS));
	duty->due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait);
}

static void
run_guarded(Duty *duty)
{
	PG_TRY();
	{
		run_duty(duty);
	}
	PG_CATCH();
	{
		int wait = duty->failures < 6 ? 1000 << duty->failures : LONGEST_BACKOFF_MS;

		gn_worker_abort();
		gn_worker_note_error();
		duty->failures++;
		duty->due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait);
	}
	PG_END_TRY();
	MemoryContextReset(pass_context);
}

/* Who may start now: no shortage is being waited out, and executors do not fall over.
 */
static bool
executors_may_start(int *executors)
{
	TimestampTz now = GetCurrentTimestamp();
	GnDatabase *d;
	bool may;

	*executors = 0;
	LWLockAcquire(&gn_workers->lock, LW_SHARED);
	for (int i = 0; i < gn_workers->slot_count; i++)
	{
		GnWorkerSlot *slot = &gn_workers->slot[i];

		if (pg_atomic_read_u32(&slot->state) != GN_SLOT_FREE &&
			slot->kind == GN_WORKER_EXECUTOR && slot->database == MyDatabaseId)
			(*executors)++;
	}
	d = gn_worker_database(MyDatabaseId);
	if (d && d->executor.not_before > start_due)
		start_due = d->executor.not_before;
	may = start_due <= now;
	LWLockRelease(&gn_workers->lock);
	return may;
}

/* Starts so many if they get slots and processes; true when slots ran out. */
static bool
start_some(int count)
{
	while (count-- > 0)
	{
		GnStart result = gn_worker_start(GN_WORKER_EXECUTOR, MyDatabaseId);

		if (result == GN_START_NO_SLOT)
			return true; /* we are woken when there is one */
		if (result != GN_START_OK)
		{
			start_due =
				TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											start_failures < 3 ? 1000 << start_failures
															   : LONGEST_SHORTAGE_MS);
			start_failures++;
			return false;
		}
		start_failures = 0;
		verify_ms = 0;
	}
	return false;
}

/*
 * Somebody for each job that waits. Executors on their way to a job are counted on
 * for one each, but they may be about to take what we did not count: so for as long
 * as jobs wait we look again soon, later and later.
 */
static void
serve_demand(void)
{
	int missing = waiting > 0 ? gn_worker_cover(MyDatabaseId, waiting) : 0;
	bool was_hungry = hungry;
	int executors;

	hungry = false;
	verify_ms = waiting > 0 ? Min(Max(2 * verify_ms, VERIFY_MS), LONGEST_SLEEP_MS) : 0;
	if (missing > 0 && executors_may_start(&executors))
		hungry = start_some(Min(missing, gn_executors - executors));
	if (was_hungry && !hungry)
	{
		LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
		gn_share_hunger(MyDatabaseId, false);
		LWLockRelease(&gn_workers->lock);
	}
}

static uint32
asked(bool take)
{
	GnDatabase *d;
	uint32 what = 0;

	LWLockAcquire(&gn_workers->lock, LW_SHARED);
	d = gn_worker_database(MyDatabaseId);
	if (d)
		what =
			take ? pg_atomic_exchange_u32(&d->asked, 0) : pg_atomic_read_u32(&d->asked);
	LWLockRelease(&gn_workers->lock);
	return what;
}

/* Runs what is due; all ticks when a committer asks, the demand whenever somebody woke
 * us. What is asked for is taken before anything looks, so none is missed. */
static void
run_pass(void)
{
	bool wanted = (asked(true) & GN_ASKED_TICK) != 0;
	TimestampTz now = GetCurrentTimestamp();
	bool failed = false;

	waiting = 0;
	for (int i = 0; i < duty_count; i++)
	{
		Duty *duty = &duties[i];
		bool called = duty->query.sql ? wanted : true;

		if (gn_worker_must_leave() || gn_worker_changed())
			return; /* then every duty is due */
		/* A failing duty waits for its time, whoever asks. */
		if (duty->due <= now || (called && duty->failures == 0))
			run_guarded(duty);
		failed |= duty->failures > 0;
	}
	serve_demand();
	gn_worker_beat(!failed);
}

/* Milliseconds until something is due. */
static long
time_to_sleep(void)
{
	TimestampTz now = GetCurrentTimestamp();
	long sleep = LONGEST_SLEEP_MS;

	for (int i = 0; i < duty_count; i++)
	{
		if (duties[i].query.sql || duties[i].failures > 0)
			sleep = Min(sleep, TimestampDifferenceMilliseconds(now, duties[i].due));
	}
	if (waiting > 0 && start_due > now)
		sleep = Min(sleep, TimestampDifferenceMilliseconds(now, start_due));
	if (verify_ms > 0)
		sleep = Min(sleep, verify_ms);
	if (hungry)
		sleep = Min(sleep, HUNGRY_MS);
	return sleep;
}

/* What came during the pass. The latch does not tell: a tick that waits for a lock
 * resets it. */
static bool
something_new(void)
{
	return gn_worker_must_leave() || gn_worker_changed() || asked(false) != 0;
}

/* Somebody changed something that matters: every duty is due, whatever went wrong
 * before. */
static void
expect_all(void)
{
	for (int i = 0; i < duty_count; i++)
	{
		duties[i].due = 0;
		duties[i].failures = 0;
	}
}

void
gn_scheduler_main(Datum main_arg)
{
	uint32 event = gn_wait_event("GrowNextScheduler");
	GnVerdict verdict;

	gn_worker_attach(GN_WORKER_SCHEDULER, main_arg);
	verdict = gn_worker_judge();
	if (verdict != GN_VERDICT_ARMED)
		gn_worker_leave(verdict);
	list_duties();
	pass_context = AllocSetContextCreate(TopMemoryContext, "grownext pass",
										 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(pass_context);
	for (;;)
	{
		if (gn_worker_must_leave())
			gn_worker_leave(GN_VERDICT_UNKNOWN);
		if (gn_worker_changed())
		{
			if ((verdict = gn_worker_judge()) != GN_VERDICT_ARMED)
				gn_worker_leave(verdict);
			expect_all();
		}
		pg_atomic_write_u32(&gn_my_slot->state, GN_SLOT_BUSY);
		gn_worker_reap();
		run_pass();
		pg_atomic_write_u32(&gn_my_slot->state, GN_SLOT_IDLE);
		if (!something_new())
			(void) gn_worker_wait(time_to_sleep(), event);
	}
}
