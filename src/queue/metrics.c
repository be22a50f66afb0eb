/*
 * src/queue/metrics.c
 *	  Counts and times of each queue, in shared memory until they are written down.
 *
 * A cell holds what happened in one queue of one database since the scheduler last
 * wrote it down, about once a minute, as a row of queue_history. A crash or a restart
 * loses what cells hold; nothing that must be exact depends on them.
 *
 * What an executor does is counted when it is over. What a transaction of somebody else
 * does (enqueue, fetch, complete) is remembered and counted when that commits; a
 * savepoint that is rolled back takes its part along. PREPARE forgets it.
 *
 * Whoever writes cells down copies them, inserts rows, and at commit takes the copy off
 * the cells: if it rolls back, nothing has happened. In the instant between the commit
 * and that a reader may see an interval twice, or miss it if its snapshot is older.
 *
 * There is a fixed number of cells. An empty one gives way to a queue that has none,
 * and so does one that nobody has written down for ten minutes (its database is
 * dropped, or not armed). Otherwise what happens is not counted, and that is counted.
 *
 * Order of locks: the table's, then a cell's. Nothing throws while one is held.
 */
#include "postgres.h"

#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "queue/histogram.h"
#include "queue/lock.h"
#include "queue/metrics.h"

GN_FUNCTION(gn_queue_measured);
GN_FUNCTION(gn_queue_minute_begins);
GN_FUNCTION(gn_queue_forget);
GN_FUNCTION(gn_queue_uncounted);

#define MAX_NAME 104
#define GIVES_WAY_AFTER (10 * USECS_PER_MINUTE)
#define CACHED 16

enum Counter
{
	COUNT_ENQUEUED,
	COUNT_STARTED,
	COUNT_SUCCEEDED,
	COUNT_FAILED, /* attempts, the last ones of dead letters included */
	COUNT_DEAD,
	COUNT_MISSED,
	COUNT_WITHIN,
	COUNT_LATE,
	COUNTERS
};

typedef struct Counts
{
	int64 counter[COUNTERS];
	uint32 wait[GN_HISTOGRAM_BUCKETS];
	uint32 run[GN_HISTOGRAM_BUCKETS];
} Counts;

typedef struct Cell
{
	LWLock lock;
	Oid database; /* InvalidOid: never used; else changes under both locks */
	char queue[MAX_NAME];
	TimestampTz since; /* of the first thing it counts; 0: it counts nothing */
	int64 within;      /* the SLA's wait that its counts are about */
	Counts counts;
} Cell;

typedef struct Cells
{
	LWLock lock;
	int tranche;
	int size;
	int used; /* cells behind these were never used */
	int64 uncounted;
	Cell cell[FLEXIBLE_ARRAY_MEMBER];
} Cells;

static int metrics_queues = 500;
static Cells *cells = NULL;

void
gn_metrics_init(void)
{
	DefineCustomIntVariable("grownext.queue_metrics",
							"Queues of all databases whose times are counted.",
							"About 2.5 kB of shared memory for each.", &metrics_queues,
							500, 10, 100000, GN_PGC_POSTMASTER, 0, NULL, NULL, NULL);
}

Size
gn_metrics_shmem_size(void)
{
	return MAXALIGN(
		add_size(offsetof(Cells, cell), mul_size(metrics_queues, sizeof(Cell))));
}

void
gn_metrics_shmem_init(void)
{
	bool found;

	cells = ShmemInitStruct("grownext queue metrics", gn_metrics_shmem_size(), &found);
	if (!found)
	{
		memset(cells, 0, gn_metrics_shmem_size());
		cells->tranche = LWLockNewTrancheId();
		cells->size = metrics_queues;
		LWLockInitialize(&cells->lock, cells->tranche);
		for (int i = 0; i < cells->size; i++)
			LWLockInitialize(&cells->cell[i].lock, cells->tranche);
	}
	LWLockRegisterTranche(cells->tranche, "grownext_queue_metrics");
}

/* ---- cells ---- */

static bool
is_of(const Cell *cell, const char *queue)
{
	return cell->database == MyDatabaseId && strcmp(cell->queue, queue) == 0;
}

static void
empty_cell(Cell *cell)
{
	cell->since = 0;
	cell->within = 0;
	memset(&cell->counts, 0, sizeof(Counts));
}

/* Table lock held. */
static Cell *
find_cell(Cells *table, const char *queue)
{
	for (int i = 0; i < table->used; i++)
	{
		if (is_of(&table->cell[i], queue))
			return &table->cell[i];
	}
	return NULL;
}

/* Table lock held exclusively. A cell that may be given to another queue, or NULL. */
static Cell *
find_victim(Cells *table, TimestampTz now)
{
	Cell *oldest = &table->cell[0];

	if (table->used < table->size)
		return &table->cell[table->used++];
	for (int i = 0; i < table->size; i++)
	{
		Cell *cell = &table->cell[i];

		if (cell->since == 0)
			return cell;
		if (cell->since < oldest->since)
			oldest = cell;
	}
	return oldest->since < now - GIVES_WAY_AFTER ? oldest : NULL;
}

/* The queue's cell, made if there is none, or NULL. */
static Cell *
look_up_cell(Cells *table, const char *queue, TimestampTz now)
{
	Cell *cell;

	LWLockAcquire(&table->lock, LW_SHARED);
	cell = find_cell(table, queue);
	LWLockRelease(&table->lock);
	if (cell)
		return cell;
	LWLockAcquire(&table->lock, LW_EXCLUSIVE);
	cell = find_cell(table, queue);
	if (cell == NULL && (cell = find_victim(table, now)) != NULL)
	{
		LWLockAcquire(&cell->lock, LW_EXCLUSIVE);
		empty_cell(cell);
		cell->database = MyDatabaseId;
		strlcpy(cell->queue, queue, MAX_NAME);
		LWLockRelease(&cell->lock);
	}
	else if (cell == NULL)
		table->uncounted++;
	LWLockRelease(&table->lock);
	return cell;
}

/* The queue's cell, locked, or NULL. Where it was last time, it mostly is. */
static Cell *
lock_cell(Cells *table, const char *queue, TimestampTz now)
{
	static Cell *cache[CACHED];
	size_t length = strlen(queue);
	Cell **cached = &cache[(length + (unsigned char) queue[length / 2] * 7) % CACHED];

	for (;;)
	{
		if (*cached)
		{
			LWLockAcquire(&(*cached)->lock, LW_EXCLUSIVE);
			if (is_of(*cached, queue))
				return *cached;
			LWLockRelease(&(*cached)->lock);
		}
		*cached = look_up_cell(table, queue, now);
		if (*cached == NULL)
			return NULL;
	}
}

/* ---- counting ---- */

/* How a start stands to the SLA. Counts about other terms are of no use any more. */
static void
count_start(Cell *cell, const GnMeasurement *m)
{
	if (cell->within != m->within)
	{
		cell->counts.counter[COUNT_WITHIN] = cell->counts.counter[COUNT_LATE] = 0;
		cell->within = m->within;
	}
	if (m->within > 0)
		cell->counts.counter[m->time <= m->within ? COUNT_WITHIN : COUNT_LATE]++;
	cell->counts.counter[COUNT_STARTED]++;
	cell->counts.wait[gn_histogram_bucket(m->time)]++;
}

static void
count_end(Cell *cell, const GnMeasurement *m)
{
	int64 *counter = cell->counts.counter;

	counter[COUNT_SUCCEEDED] += m->what == GN_MEASURE_SUCCEEDED;
	counter[COUNT_FAILED] += m->what == GN_MEASURE_FAILED || m->what == GN_MEASURE_DEAD;
	counter[COUNT_DEAD] += m->what == GN_MEASURE_DEAD;
	counter[COUNT_MISSED] += m->missed;
	if (m->time >= 0)
		cell->counts.run[gn_histogram_bucket(m->time)]++;
}

static void
count_one(Cell *cell, const GnMeasurement *m)
{
	if (m->what == GN_MEASURE_FORGET)
		empty_cell(cell);
	else if (cell->since == 0)
		cell->since = m->at;
	switch (m->what)
	{
		case GN_MEASURE_ENQUEUED:
			cell->counts.counter[COUNT_ENQUEUED] += m->count;
			break;
		case GN_MEASURE_STARTED:
			count_start(cell, m);
			break;
		case GN_MEASURE_FORGET:
			break;
		default:
			count_end(cell, m);
	}
}

void
gn_metrics_note(const char *queue, const GnMeasurement *measurements, int count)
{
	Cells *table = cells;
	Cell *cell = NULL;

	if (table && count > 0)
		cell = lock_cell(table, queue, measurements[0].at);
	if (cell == NULL)
		return;
	for (int i = 0; i < count; i++)
		count_one(cell, &measurements[i]);
	LWLockRelease(&cell->lock);
}

GnMeasurement
gn_metrics_start(const GnQueue *queue, const GnJob *job, TimestampTz at)
{
	TimestampTz since = Max(job->run_at, job->enqueued_at);

	return (GnMeasurement){.what = GN_MEASURE_STARTED,
						   .at = at,
						   .time = Max(at - since, 0),
						   .within = queue->sla_within};
}

GnMeasurement
gn_metrics_end(GnMeasure what, const GnJob *job, TimestampTz started_at, TimestampTz at)
{
	bool over = what != GN_MEASURE_FAILED && what != GN_MEASURE_SNOOZED;

	return (GnMeasurement){.what = what,
						   .at = at,
						   .time = started_at ? Max(at - started_at, 0) : -1,
						   .missed = over && job->deadline && job->deadline < at};
}

/* ---- at commit ---- */

typedef struct Note
{
	SubTransactionId subxact;
	const char *queue;
	GnMeasurement measurement;
} Note;

/* What was copied from a cell and is written down by this transaction. */
typedef struct Copy
{
	SubTransactionId subxact;
	Cell *cell;
	char queue[MAX_NAME];
	TimestampTz since;
	TimestampTz taken_at;
	int64 within;
	Counts counts;
	struct Copy *next;
} Copy;

/* All in TopTransactionContext. */
static Note *notes = NULL;
static int note_count = 0;
static int note_space = 0;
static Copy *written = NULL;

/* Takes off a cell what is written down now. */
static void
take_off(const Copy *copy)
{
	Cell *cell = copy->cell;
	int64 left = 0;

	LWLockAcquire(&cell->lock, LW_EXCLUSIVE);
	if (is_of(cell, copy->queue) && cell->since == copy->since)
	{
		for (int i = 0; i < COUNTERS; i++)
		{
			/* those of other terms are gone already */
			if (i < COUNT_WITHIN || cell->within == copy->within)
				cell->counts.counter[i] -= copy->counts.counter[i];
			left += cell->counts.counter[i];
		}
		for (int i = 0; i < GN_HISTOGRAM_BUCKETS; i++)
		{
			cell->counts.wait[i] -= copy->counts.wait[i];
			cell->counts.run[i] -= copy->counts.run[i];
			left += cell->counts.run[i];
		}
		cell->since = left > 0 ? copy->taken_at : 0;
	}
	LWLockRelease(&cell->lock);
}

static void
end_transaction(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	if (event == XACT_EVENT_COMMIT)
	{
		for (Copy *copy = written; copy; copy = copy->next)
			take_off(copy);
		for (int i = 0; i < note_count; i++)
			gn_metrics_note(notes[i].queue, &notes[i].measurement, 1);
	}
	notes = NULL;
	note_count = note_space = 0;
	written = NULL;
}

/* Numbers of subtransactions grow, and the innermost is the last one begun: what came
 * since it began is its own. */
static void
end_subtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent,
				   void *arg)
{
	Copy **copy = &written;
	int kept = 0;

	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	for (int i = 0; i < note_count; i++)
	{
		if (notes[i].subxact < mine)
			notes[kept++] = notes[i];
	}
	note_count = kept;
	while (*copy)
	{
		if ((*copy)->subxact >= mine)
			*copy = (*copy)->next;
		else
			copy = &(*copy)->next;
	}
}

static void
watch_transaction(void)
{
	static bool registered = false;

	if (registered)
		return;
	RegisterXactCallback(end_transaction, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
	registered = true;
}

/* More jobs enqueued into the queue of the last note. */
static bool
extend_note(const char *queue, const GnMeasurement *m)
{
	Note *last = note_count > 0 ? &notes[note_count - 1] : NULL;

	if (last == NULL || m->what != GN_MEASURE_ENQUEUED ||
		last->measurement.what != GN_MEASURE_ENQUEUED ||
		last->subxact != GetCurrentSubTransactionId() ||
		strcmp(last->queue, queue) != 0)
		return false;
	last->measurement.count += m->count;
	return true;
}

void
gn_metrics_note_at_commit(const char *queue, const GnMeasurement *m)
{
	Note *last = note_count > 0 ? &notes[note_count - 1] : NULL;

	if (cells == NULL || extend_note(queue, m))
		return;
	watch_transaction();
	if (last == NULL || strcmp(last->queue, queue) != 0)
		queue = MemoryContextStrdup(TopTransactionContext, queue);
	else
		queue = last->queue;
	if (note_count == note_space)
	{
		int space = Max(note_space * 2, 8);

		notes = notes ? repalloc(notes, space * sizeof(Note))
					  : MemoryContextAlloc(TopTransactionContext, space * sizeof(Note));
		note_space = space;
	}
	notes[note_count++] = (Note){.subxact = GetCurrentSubTransactionId(),
								 .queue = queue,
								 .measurement = *m};
}

/* ---- SQL ---- */

/* The columns of _grownext.queue_history. */
enum HistoryColumn
{
	HISTORY_QUEUE,
	HISTORY_AT,
	HISTORY_SECONDS,
	HISTORY_WITHIN,
	HISTORY_COUNTERS,
	HISTORY_WAIT = HISTORY_COUNTERS + COUNTERS,
	HISTORY_RUN,
	HISTORY_COLUMNS
};

static TimestampTz
minute_of(TimestampTz time)
{
	TimestampTz within = time % USECS_PER_MINUTE;

	return time - (within < 0 ? within + USECS_PER_MINUTE : within);
}

static void
put_history(ReturnSetInfo *result, const Copy *copy)
{
	Datum values[HISTORY_COLUMNS];
	bool nulls[HISTORY_COLUMNS] = {false};
	Interval within = {.time = copy->within};

	if (result->setDesc->natts != HISTORY_COLUMNS)
		elog(ERROR, "table queue_history has %d columns", result->setDesc->natts);
	values[HISTORY_QUEUE] = CStringGetTextDatum(copy->queue);
	values[HISTORY_AT] = TimestampTzGetDatum(minute_of(copy->since));
	values[HISTORY_SECONDS] = Int32GetDatum(60);
	values[HISTORY_WITHIN] = IntervalPGetDatum(&within);
	for (int i = 0; i < COUNTERS; i++)
		values[HISTORY_COUNTERS + i] = Int64GetDatum(copy->counts.counter[i]);
	values[HISTORY_WAIT] = gn_histogram_array(copy->counts.wait);
	values[HISTORY_RUN] = gn_histogram_array(copy->counts.run);
	nulls[HISTORY_WAIT] = values[HISTORY_WAIT] == 0;
	nulls[HISTORY_RUN] = values[HISTORY_RUN] == 0;
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Copies a cell of this database that counts something since before that time. */
static bool
copy_cell(Cell *cell, TimestampTz before, Copy *copy)
{
	bool found;

	LWLockAcquire(&cell->lock, LW_SHARED);
	found = cell->database == MyDatabaseId && cell->since != 0 && cell->since < before;
	if (found)
	{
		copy->cell = cell;
		copy->since = cell->since;
		copy->within = cell->within;
		copy->counts = cell->counts;
		strlcpy(copy->queue, cell->queue, MAX_NAME);
	}
	LWLockRelease(&cell->lock);
	return found;
}

static void
take_at_commit(const Copy *found, TimestampTz now)
{
	Copy *copy = MemoryContextAlloc(TopTransactionContext, sizeof(Copy));

	watch_transaction();
	*copy = *found;
	copy->subxact = GetCurrentSubTransactionId();
	copy->taken_at = now;
	copy->next = written;
	written = copy;
}

/*
 * SQL: _grownext.queue_measured(now timestamptz): what cells hold; with a time, what
 * those hold that began before its minute, taken off them when this transaction
 * commits. One transaction at a time does that.
 */
Datum
gn_queue_measured(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	bool take = !PG_ARGISNULL(0);
	TimestampTz now = take ? PG_GETARG_TIMESTAMPTZ(0) : 0;
	TimestampTz before = take ? minute_of(now) : PG_INT64_MAX;
	Copy *copy;

	InitMaterializedSRF(fcinfo, 0);
	if (cells == NULL)
		return (Datum) 0;
	/* What this transaction has taken it must not take again. */
	if (take &&
		(written || !gn_queue_try_lock(GN_QUEUE_LOCK_METRICS, 0, ExclusiveLock, false)))
		return (Datum) 0;
	copy = palloc(sizeof(Copy));
	for (int i = 0; i < cells->used; i++)
	{
		if (!copy_cell(&cells->cell[i], before, copy))
			continue;
		put_history(result, copy);
		if (take)
			take_at_commit(copy, now);
	}
	return (Datum) 0;
}

/* SQL: _grownext.queue_minute_begins(now timestamptz): true once for each minute and
 * process. */
Datum
gn_queue_minute_begins(PG_FUNCTION_ARGS)
{
	static TimestampTz last = 0;
	TimestampTz minute = minute_of(PG_GETARG_TIMESTAMPTZ(0));
	bool begins = minute != last;

	last = minute;
	PG_RETURN_BOOL(begins);
}

/* SQL: _grownext.queue_forget(queue text) */
Datum
gn_queue_forget(PG_FUNCTION_ARGS)
{
	GnMeasurement forget = {.what = GN_MEASURE_FORGET, .at = gn_now()};

	gn_metrics_note_at_commit(text_to_cstring(PG_GETARG_TEXT_PP(0)), &forget);
	PG_RETURN_VOID();
}

/* SQL: _grownext.queue_uncounted() */
Datum
gn_queue_uncounted(PG_FUNCTION_ARGS)
{
	int64 uncounted = 0;

	if (cells)
	{
		LWLockAcquire(&cells->lock, LW_SHARED);
		uncounted = cells->uncounted;
		LWLockRelease(&cells->lock);
	}
	PG_RETURN_INT64(uncounted);
}
