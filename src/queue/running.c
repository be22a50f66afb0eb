/*
 * src/queue/running.c
 *	  What each executor runs now, in shared memory: to stop it, and to see how far it
 * is.
 *
 * An interrupt must hit the job that it is meant for and never the next one. A signal
 * says nothing of that, so it only makes the executor look: whoever interrupts writes
 * down the turn that is meant, a number that each job gets, and the signal handler
 * compares it with the turn that is on. A signal that comes late finds another turn,
 * or none.
 *
 * An executor may have taken jobs that it has not begun. Nobody is interrupted for one
 *of those; the executor is told to look for marks before it begins the next.
 *
 * A cell is freed by an exit callback, under the lock, before its process is gone: a
 * signal never hits another process that has inherited the number.
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "core/core.h"
#include "queue/poison.h"
#include "queue/running.h"

#define INTERRUPTS_BEFORE_END 10

typedef struct Cell
{
	pid_t pid; /* 0: free */
	Oid database;
	int64 id; /* 0: none in hand */
	TimestampTz started_at;
	uint32 turn;           /* of the job in hand */
	volatile uint32 meant; /* the turn that is to be interrupted */
	volatile bool asked;   /* for one of those that follow */
	int following;
	int64 follower[GN_MAX_CLAIM]; /* jobs that are taken together, the first included */
	uint32 length;                /* of progress; 0: none */
	char progress[GN_MAX_PROGRESS];
} Cell;

typedef struct Cells
{
	LWLock lock;
	int tranche;
	int size;
	Cell cell[FLEXIBLE_ARRAY_MEMBER];
} Cells;

static Cells *cells = NULL;
static Cell *my_cell = NULL;
static volatile uint32 my_turn = 0; /* 0: no job in hand */
static volatile int interrupts = 0; /* of this turn */

Size
gn_running_shmem_size(void)
{
	return MAXALIGN(
		add_size(offsetof(Cells, cell), mul_size(gn_max_workers, sizeof(Cell))));
}

void
gn_running_shmem_init(void)
{
	bool found;

	cells = ShmemInitStruct("grownext running jobs", gn_running_shmem_size(), &found);
	if (!found)
	{
		memset(cells, 0, gn_running_shmem_size());
		cells->tranche = LWLockNewTrancheId();
		LWLockInitialize(&cells->lock, cells->tranche);
		cells->size = gn_max_workers;
	}
	LWLockRegisterTranche(cells->tranche, "grownext_running");
}

/* In a signal handler. */
static void
look_at_interrupt(SIGNAL_ARGS)
{
	int save_errno = errno;

	if (my_cell && my_turn != 0 && my_cell->meant == my_turn)
	{
		interrupts++;
		InterruptPending = true;
		QueryCancelPending = true;
		if (interrupts > INTERRUPTS_BEFORE_END)
			ProcDiePending = true;
		SetLatch(MyLatch);
	}
	errno = save_errno;
}

static void
free_cell(int code, Datum arg)
{
	if (my_cell == NULL)
		return;
	gn_poison_end();
	LWLockAcquire(&cells->lock, LW_EXCLUSIVE);
	my_turn = 0;
	my_cell->pid = 0;
	my_cell->id = 0;
	my_cell = NULL;
	LWLockRelease(&cells->lock);
}

static void
take_cell(void)
{
	pqsignal(SIGUSR2, look_at_interrupt);
	LWLockAcquire(&cells->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cells->size && my_cell == NULL; i++)
	{
		if (cells->cell[i].pid == 0)
			my_cell = &cells->cell[i];
	}
	if (my_cell)
	{
		my_cell->pid = MyProcPid;
		my_cell->database = MyDatabaseId;
		my_cell->id = 0;
		my_cell->following = 0;
	}
	LWLockRelease(&cells->lock);
	if (my_cell == NULL)
		elog(ERROR, "no cell is left for executor %d", MyProcPid);
	before_shmem_exit(free_cell, (Datum) 0);
}

void
gn_running_take(const GnJob *jobs, int count)
{
	if (my_cell == NULL)
		take_cell();
	LWLockAcquire(&cells->lock, LW_EXCLUSIVE);
	for (int i = 0; i < count; i++)
		my_cell->follower[i] = jobs[i].id;
	my_cell->following = count;
	my_cell->asked = false;
	LWLockRelease(&cells->lock);
}

bool
gn_running_asked(void)
{
	bool asked = my_cell->asked;

	if (asked)
		my_cell->asked = false;
	return asked;
}

void
gn_running_begin(int64 id, TimestampTz started_at)
{
	static uint32 turns = 0;

	if (my_cell == NULL)
		take_cell();
	if (++turns == 0)
		turns++;
	gn_poison_begin((int) (my_cell - cells->cell), id);
	LWLockAcquire(&cells->lock, LW_EXCLUSIVE);
	my_cell->id = id;
	my_cell->started_at = started_at;
	my_cell->turn = turns;
	my_cell->meant = 0;
	my_cell->length = 0;
	LWLockRelease(&cells->lock);
	interrupts = 0;
	my_turn = turns;
}

void
gn_running_finish(void)
{
	my_turn = 0;
	QueryCancelPending = false;
}

void
gn_running_end(void)
{
	my_turn = 0;
	if (my_cell == NULL)
		return;
	gn_poison_end();
	LWLockAcquire(&cells->lock, LW_EXCLUSIVE);
	my_cell->id = 0;
	my_cell->following = 0;
	LWLockRelease(&cells->lock);
}

void
gn_running_report(const Jsonb *progress)
{
	LWLockAcquire(&cells->lock, LW_EXCLUSIVE);
	my_cell->length = VARSIZE(progress);
	memcpy(my_cell->progress, progress, my_cell->length);
	LWLockRelease(&cells->lock);
}

/* Lock held. */
static Cell *
find_cell(int64 id)
{
	for (int i = 0; i < cells->size; i++)
	{
		Cell *cell = &cells->cell[i];

		if (cell->pid != 0 && cell->database == MyDatabaseId && cell->id == id)
			return cell;
	}
	return NULL;
}

Jsonb *
gn_running_progress(int64 id)
{
	char copy[GN_MAX_PROGRESS];
	uint32 length = 0;
	Cell *cell;
	Jsonb *progress;

	if (cells == NULL)
		return NULL;
	LWLockAcquire(&cells->lock, LW_SHARED);
	cell = find_cell(id);
	if (cell)
	{
		length = cell->length;
		memcpy(copy, cell->progress, length);
	}
	LWLockRelease(&cells->lock);
	if (length == 0)
		return NULL;
	progress = palloc(length);
	memcpy(progress, copy, length);
	return progress;
}

TimestampTz
gn_running_since(int64 id)
{
	TimestampTz since;
	Cell *cell;

	if (cells == NULL)
		return 0;
	LWLockAcquire(&cells->lock, LW_SHARED);
	cell = find_cell(id);
	since = cell ? cell->started_at : 0;
	LWLockRelease(&cells->lock);
	return since;
}

/* Lock held. The executor that has taken the job and has another in hand. */
static Cell *
find_taker(int64 id)
{
	for (int i = 0; i < cells->size; i++)
	{
		Cell *cell = &cells->cell[i];

		if (cell->pid == 0 || cell->database != MyDatabaseId)
			continue;
		for (int j = 0; j < cell->following; j++)
		{
			if (cell->follower[j] == id)
				return cell;
		}
	}
	return NULL;
}

bool
gn_running_interrupt(int64 id)
{
	Cell *cell;

	if (cells == NULL)
		return false;
	LWLockAcquire(&cells->lock, LW_EXCLUSIVE);
	cell = find_cell(id);
	if (cell)
	{
		cell->meant = cell->turn;
		(void) kill(cell->pid, SIGUSR2);
	}
	else if ((cell = find_taker(id)) != NULL)
		cell->asked = true;
	LWLockRelease(&cells->lock);
	return cell != NULL;
}
