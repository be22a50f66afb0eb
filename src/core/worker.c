/*
 * src/core/worker.c
 *	  What scheduler and executor have in common: attach, connect, judge, wait, leave.
 *
 * A worker attaches to its slot before it connects and releases it in an exit
 * callback that stands between ProcKill and the removal from the process array: a
 * slot that looks attached may still be connecting, one that looks free has no
 * session left. Whoever waits for a database to be free of us can trust that.
 *
 * However the worker ends, the callback settles the account: a clean leave records
 * what was found, anything else (an error, pg_terminate_backend) counts as a failure
 * and doubles the wait, unless we were asked to stop. Crash rule: SIGKILL takes the
 * whole cluster down and the memory with it, so there is nothing to settle.
 *
 * Exit codes: 0 is quiet in the log; these workers are never restarted by the
 * postmaster, whatever the code.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/workers.h"

#define LOOK_AGAIN_AFTER_MS (5 * 60 * INT64CONST(1000))

GnWorkerSlot *gn_my_slot = NULL;

static GnDatabase *my_database =
	NULL; /* fixed while a slot of the database is in use */
static uint32 seen_generation = 0;
static bool left_clean = false;
static GnVerdict found = GN_VERDICT_UNKNOWN;
static char last_error[GN_WORKER_ERROR_LENGTH] = "the worker ended; see the server log";
static emit_log_hook_type previous_emit_log = NULL;
static MemoryContext outside = NULL; /* in force outside transactions */

/* Keeps the text of whatever may end this process. */
static void
keep_error(ErrorData *edata)
{
	if (edata->elevel >= ERROR && edata->message)
		strlcpy(last_error, edata->message, sizeof(last_error));
	if (previous_emit_log)
		previous_emit_log(edata);
}

/* Lock held. */
static void
settle_scheduler(GnDatabase *d, bool asked)
{
	TimestampTz now = GetCurrentTimestamp();
	bool outdated = pg_atomic_read_u32(&d->generation) != seen_generation;

	if (!left_clean && !asked)
	{
		gn_worker_backoff(&d->scheduler, gn_my_slot->started_at, last_error);
		return;
	}
	d->scheduler.failures = 0;
	d->scheduler.not_before = 0;
	if (!left_clean || found == GN_VERDICT_UNKNOWN)
		return;
	if (d->verdict != found)
		d->since = now;
	d->verdict = found;
	if (found == GN_VERDICT_UNFIT)
		strlcpy(d->scheduler.error, last_error, sizeof(d->scheduler.error));
	else
		d->scheduler.error[0] = '\0';
	/* What we found may have changed while we left. */
	if (found != GN_VERDICT_ARMED && !outdated)
		d->scheduler.not_before = TimestampTzPlusMilliseconds(now, LOOK_AGAIN_AFTER_MS);
}

static void
release_slot(int code, Datum arg)
{
	GnWorkerSlot *slot = gn_my_slot;
	bool asked;

	if (slot == NULL)
		return;
	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	asked = pg_atomic_read_u32(&slot->stop) != 0;
	if (slot->kind == GN_WORKER_SCHEDULER)
	{
		settle_scheduler(my_database, asked);
		gn_share_hunger(my_database->database, false);
	}
	else if (!left_clean && !asked)
		gn_worker_backoff(&my_database->executor, slot->started_at, last_error);
	else
		my_database->executor.failures = 0;
	slot->pid = 0;
	slot->latch = NULL;
	slot->generation++;
	pg_atomic_write_u32(&slot->state, GN_SLOT_FREE);
	gn_my_slot = NULL;

	/* Whoever may want to act on it. */
	if (gn_workers->launcher_latch)
		SetLatch(gn_workers->launcher_latch);
	gn_worker_ask_scheduler(my_database->database, GN_ASKED_DEMAND);
	gn_share_wake_hungry();
	for (int i = 0; i < GN_WORKER_BLOCKS; i++)
	{
		if (gn_workers->blocks[i].database == my_database->database)
			SetLatch(gn_workers->blocks[i].latch);
	}
	LWLockRelease(&gn_workers->lock);
}

/* Takes the slot that our starter reserved; false when it was taken back meanwhile. */
static bool
take_slot(int index)
{
	GnWorkerSlot *slot = &gn_workers->slot[index];
	uint32 generation;
	bool mine;

	memcpy(&generation, MyBgworkerEntry->bgw_extra, sizeof(generation));
	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	mine = slot->generation == generation &&
		   pg_atomic_read_u32(&slot->state) == GN_SLOT_STARTING;
	if (mine)
	{
		my_database = gn_worker_database_make(slot->database, true);
		mine = my_database != NULL;
	}
	if (mine)
	{
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
		pg_atomic_write_u32(&slot->state, slot->kind == GN_WORKER_EXECUTOR
											  ? GN_SLOT_LOOKING
											  : GN_SLOT_BUSY);
		/* A block that came after the reservation must keep us from connecting. */
		if (gn_worker_blocked(slot->database))
			pg_atomic_write_u32(&slot->stop, 1);
		seen_generation = pg_atomic_read_u32(&my_database->generation);
		gn_my_slot = slot;
	}
	LWLockRelease(&gn_workers->lock);
	return mine;
}

void
gn_worker_attach(GnWorkerKind kind, Datum main_arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	if (gn_workers == NULL)
		proc_exit(0);
	on_shmem_exit(release_slot, (Datum) 0);
	previous_emit_log = emit_log_hook;
	emit_log_hook = keep_error;
	if (!take_slot(DatumGetInt32(main_arg)))
		proc_exit(0);
	if (gn_worker_must_leave())
		gn_worker_leave(GN_VERDICT_UNKNOWN);
	BackgroundWorkerInitializeConnectionByOid(gn_my_slot->database, InvalidOid, 0);
	SetConfigOption("application_name",
					kind == GN_WORKER_SCHEDULER ? "grownext scheduler"
												: "grownext executor",
					PGC_USERSET, PGC_S_SESSION);
}

void
gn_worker_leave(GnVerdict verdict)
{
	found = verdict;
	left_clean = true;
	proc_exit(0);
}

/* Takes pending configuration in; not to be called inside a transaction. */
bool
gn_worker_must_leave(void)
{
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	return gn_mode != GN_MODE_ON || pg_atomic_read_u32(&gn_my_slot->stop) != 0;
}

/* Whether somebody asked for another look at identity and extension since the last
 * judgement. */
bool
gn_worker_changed(void)
{
	return pg_atomic_read_u32(&my_database->generation) != seen_generation;
}

/* True when something woke us, false after the time. */
bool
gn_worker_wait(long milliseconds, uint32 event)
{
	int events;

	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					   milliseconds, event);
	if (events & WL_LATCH_SET)
		ResetLatch(MyLatch);
	QueryCancelPending = false; /* meant for something that has ended */
	CHECK_FOR_INTERRUPTS();
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
	return (events & WL_LATCH_SET) != 0;
}

void
gn_worker_beat(bool healthy)
{
	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	if (healthy)
		gn_my_slot->error[0] = '\0';
	if (healthy && gn_my_slot->kind == GN_WORKER_EXECUTOR)
		my_database->executor.failures = 0;
	gn_my_slot->last_tick_at = GetCurrentTimestamp();
	LWLockRelease(&gn_workers->lock);
}

void
gn_worker_note_error(void)
{
	LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
	strlcpy(gn_my_slot->error, last_error, sizeof(gn_my_slot->error));
	LWLockRelease(&gn_workers->lock);
}

/*
 * Holds off DROP and ALTER EXTENSION until the transaction ends, and tells whether
 * there is an extension at all: it may have gone while we waited for the lock.
 */
static bool
lock_extension(void)
{
	for (;;)
	{
		Oid oid = gn_extension_oid();

		if (!OidIsValid(oid))
			return false;
		LockDatabaseObject(ExtensionRelationId, oid, 0, AccessShareLock);
		if (gn_extension_oid() == oid)
			return true;
		UnlockDatabaseObject(ExtensionRelationId, oid, 0, AccessShareLock);
	}
}

/* Whether library and SQL fit; if not, the transaction is of no use any more. */
static bool
versions_fit(void)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile bool fit = true;

	PG_TRY();
	{
		(void) gn_extension_owner();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		if (error->sqlerrcode != GN_ERRCODE_SQL_VERSION)
			PG_RE_THROW();
		FlushErrorState();
		strlcpy(last_error, error->message, sizeof(last_error));
		fit = false;
	}
	PG_END_TRY();
	return fit;
}

/* Begins a transaction and looks around in it; it stays open for GN_VERDICT_ARMED
 * alone. */
GnVerdict
gn_worker_begin(void)
{
	uint32 generation = pg_atomic_read_u32(&my_database->generation);
	GnVerdict verdict;

	outside = CurrentMemoryContext;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (!lock_extension())
		verdict = GN_VERDICT_NOT_SET_UP;
	else if (!versions_fit())
		verdict = GN_VERDICT_UNFIT;
	else
	{
		GnIdentity identity = gn_identity();

		verdict = identity == GN_IDENTITY_ARMED  ? GN_VERDICT_ARMED
				  : identity == GN_IDENTITY_NONE ? GN_VERDICT_NOT_SET_UP
												 : GN_VERDICT_FENCED;
	}
	if (verdict == GN_VERDICT_ARMED)
	{
		/* The lock may have made us wait: what follows must see what was committed
		 * then. */
		PopActiveSnapshot();
		PushActiveSnapshot(GetTransactionSnapshot());
	}
	else
	{
		AbortCurrentTransaction();
		MemoryContextSwitchTo(outside);
	}
	seen_generation = generation;
	return verdict;
}

void
gn_worker_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(outside);
}

/* After an error that was caught: logs it and makes the process usable again. */
void
gn_worker_abort(void)
{
	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(outside);
	strlcpy(last_error, CopyErrorData()->message, sizeof(last_error));
	EmitErrorReport();
	AbortCurrentTransaction();
	MemoryContextSwitchTo(outside);
	FlushErrorState();
	RESUME_INTERRUPTS();
}

/* May this worker stay? Records it for its database when a scheduler asks. */
GnVerdict
gn_worker_judge(void)
{
	GnVerdict verdict = gn_worker_begin();

	if (verdict == GN_VERDICT_ARMED)
		gn_worker_commit();
	if (verdict == GN_VERDICT_ARMED && gn_my_slot->kind == GN_WORKER_SCHEDULER)
	{
		LWLockAcquire(&gn_workers->lock, LW_EXCLUSIVE);
		if (my_database->verdict != verdict)
			my_database->since = GetCurrentTimestamp();
		my_database->verdict = verdict;
		if (gn_workers->launcher_latch)
			SetLatch(gn_workers->launcher_latch);
		LWLockRelease(&gn_workers->lock);
	}
	return verdict;
}
