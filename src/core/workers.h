/* src/core/workers.h -- shared memory of the worker framework; private to core */
#ifndef GN_WORKERS_H
#define GN_WORKERS_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#include "core/worker.h"

#define GN_WORKER_ERROR_LENGTH 200
#define GN_WORKER_BLOCKS 32

typedef enum GnWorkerKind
{
	GN_WORKER_SCHEDULER,
	GN_WORKER_EXECUTOR
} GnWorkerKind;

/* docs/internals.md draws the transitions. */
typedef enum GnSlotState
{
	GN_SLOT_FREE,
	GN_SLOT_STARTING, /* reserved by a starter; the process has not attached yet */
	GN_SLOT_IDLE,     /* waits on its latch */
	GN_SLOT_LOOKING,  /* takes the next job there is; a committer may have woken it */
	GN_SLOT_BUSY,     /* has a job; nobody counts on it for another */
	GN_SLOT_LEAVING
} GnSlotState;

/* What the last scheduler of a database found there. */
typedef enum GnVerdict
{
	GN_VERDICT_UNKNOWN,
	GN_VERDICT_ARMED,
	GN_VERDICT_NOT_SET_UP, /* no extension, or no identity row */
	GN_VERDICT_FENCED,     /* an identity row that forbids to act */
	GN_VERDICT_UNFIT       /* library and SQL do not fit together */
} GnVerdict;

/* One background worker. Its starter's until attached, then its own. */
typedef struct GnWorkerSlot
{
	pg_atomic_uint32 state; /* GnSlotState; IDLE is left by compare-and-swap */
	pg_atomic_uint32 stop;  /* leave at the next chance */
	uint32 generation;      /* changes at reserve and release */
	GnWorkerKind kind;
	Oid database;
	pid_t pid;    /* 0 until attached */
	Latch *latch; /* of the worker's PGPROC; NULL until attached */
	TimestampTz started_at;
	TimestampTz last_tick_at;
	char error[GN_WORKER_ERROR_LENGTH]; /* last failed tick of this worker */
} GnWorkerSlot;

/* Start attempts of one kind of worker: failures in a row double the wait. */
typedef struct GnBackoff
{
	int failures; /* in a row */
	int restarts; /* after a failure, since the server started */
	TimestampTz not_before;
	char error[GN_WORKER_ERROR_LENGTH];
} GnBackoff;

/* What is remembered about a database while no worker of it runs. */
typedef struct GnDatabase
{
	Oid database;                /* InvalidOid: free */
	pg_atomic_uint32 generation; /* counts changes that workers must look at */
	pg_atomic_uint32 asked;      /* GN_ASKED_*: what the next pass is for */
	GnVerdict verdict;
	TimestampTz since;     /* of the verdict */
	TimestampTz hungry_at; /* when an executor last found no slot; 0: it did */
	GnBackoff scheduler;
	GnBackoff executor;
} GnDatabase;

#define GN_ASKED_TICK 1   /* a committer wants the ticks to look */
#define GN_ASKED_DEMAND 2 /* a committer found no idle executor for its jobs */

/* A backend that needs a database without sessions. */
typedef struct GnBlock
{
	Oid database; /* InvalidOid: free */
	pid_t pid;
	Latch *latch;
} GnBlock;

/* Why workers could not be started, kept for status(). */
typedef struct GnShortage
{
	TimestampTz since; /* 0: none */
	TimestampTz
		failed_at; /* the last start that failed; it is tried every few seconds */
	TimestampTz logged_at;
} GnShortage;

#define GN_SHORTAGE_LASTS_MS 60000 /* after the last failed start */

typedef struct GnWorkers
{
	LWLock lock; /* guards all but the atomics */
	int tranche;
	pid_t launcher_pid;
	Latch *launcher_latch;
	TimestampTz launcher_started_at;
	TimestampTz launcher_pass_at;
	int launcher_starts;
	int schedulers_waiting; /* databases whose scheduler found no slot */
	TimestampTz hungry_at;  /* the latest of all databases' */
	GnShortage slots;       /* of grownext.max_workers */
	GnShortage processes;   /* of max_worker_processes */
	GnBlock blocks[GN_WORKER_BLOCKS];
	int slot_count;
	int database_count;
	GnWorkerSlot *slot;
	GnDatabase *database;
} GnWorkers;

/* NULL unless the library was preloaded. */
extern GnWorkers *gn_workers;

/* workers.c: memory, and what is asked of it with the lock held */
extern Size gn_worker_shmem_size(void);
extern void gn_worker_shmem_init(void);
extern GnDatabase *gn_worker_database(Oid database);
extern GnDatabase *gn_worker_database_make(Oid database, bool evict);
extern bool gn_worker_database_in_use(Oid database); /* its entry may not move */
extern GnWorkerSlot *gn_worker_scheduler(Oid database);
extern bool gn_worker_blocked(Oid database);
extern void gn_worker_ask_scheduler(Oid database, uint32 what);
extern void
gn_worker_backoff(GnBackoff *backoff, TimestampTz started_at, const char *error);

/* workers.c: these take the lock, throw nothing, and do nothing without preload */
extern void
gn_worker_recheck(Oid database); /* its identity, extension or fence may have changed */
extern void gn_worker_wake_launcher(void);
extern void gn_worker_wake(Oid database, int jobs, bool tick);
extern int gn_worker_cover(Oid database, int jobs);
extern int
gn_worker_stop(Oid database, bool terminate); /* how many are still attached */
extern void gn_worker_nudge_executors(void);  /* idle ones look whether to leave */

/* share.c: whose turn is it when slots run out; the lock is held */
extern bool gn_share_allows(Oid database);
extern void gn_share_hunger(Oid database, bool hungry);
extern bool gn_share_wanted(void);
extern bool gn_share_yields(const GnWorkerSlot *slot, bool idle);
extern void gn_share_wake_hungry(void);
#define GN_HUNGER_LASTS_MS 10000 /* a scheduler repeats it more often */

/* start.c: for launcher and schedulers */
typedef enum GnStart
{
	GN_START_OK,
	GN_START_REFUSED,   /* blocked, or the database has its scheduler */
	GN_START_NO_SLOT,   /* grownext.max_workers */
	GN_START_NO_PROCESS /* max_worker_processes */
} GnStart;
extern GnStart gn_worker_start(GnWorkerKind kind, Oid database);
extern void gn_worker_reap(void); /* frees slots whose worker never came up */

/* worker.c: for workers */
extern GnWorkerSlot *gn_my_slot;
extern void gn_worker_attach(GnWorkerKind kind, Datum main_arg);
extern _Noreturn void gn_worker_leave(GnVerdict verdict);
extern bool gn_worker_must_leave(void);
extern bool gn_worker_changed(void);
extern GnVerdict gn_worker_begin(void);
extern void gn_worker_commit(void);
extern void gn_worker_abort(void);
extern GnVerdict gn_worker_judge(void);
extern bool gn_worker_wait(long milliseconds, uint32 event);
extern void gn_worker_beat(bool healthy); /* a pass ended; healthy forgets the error */
extern void gn_worker_note_error(void); /* the last one logged is this worker's state */

/* launcher.c */
extern bool gn_database_listed(const char *name);

/* wake.c: at commit of the current transaction */
extern void gn_worker_recheck_at_commit(void);
extern void gn_worker_scan_at_commit(void);
extern void gn_worker_prepared_at_commit(void);

/* waiter.c: takes its lock, throws nothing, does nothing without preload */
extern Size gn_wait_shmem_size(void);
extern void gn_wait_shmem_init(void);

/* block.c */
extern void gn_database_block(Oid database); /* until the transaction ends */

/* identity.c */
typedef enum GnIdentity
{
	GN_IDENTITY_ARMED,
	GN_IDENTITY_NONE,
	GN_IDENTITY_FENCED,
	GN_IDENTITY_OTHER_CLUSTER,
	GN_IDENTITY_OTHER_DATABASE,
	GN_IDENTITY_REINSTALLED,
	GN_IDENTITY_REWOUND,
	GN_IDENTITY_OTHER_ENVIRONMENT
} GnIdentity;
extern GnIdentity gn_identity(void);

/* Once per process. */
extern void gn_identity_init(void);
extern void gn_utility_init(void);
extern void gn_launcher_init(void);

#endif
