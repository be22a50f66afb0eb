/*
 * src/queue/pace.c
 *	  Which queue an executor serves next, and how many of its jobs it takes at once.
 *
 * Queues share an executor's time by their weights. Each has a pass, which grows by the
 * time that its jobs take, divided by its weight; the queue whose pass is the lowest
 *comes next. A queue that had no jobs for a while does not catch up: its pass is raised
 *to that of the queue that was served last. Each job counts for a little more than its
 * time, so that jobs that take none are shared by their number.
 *
 * Jobs that are taken together wait for each other: so only as many as run within a few
 * milliseconds, by what they took so far, and only what others that have nothing to do
 * leave. It begins with one, doubles while jobs are short, halves when one was slower,
 *and falls back to one for a while when one was long. When one fails the others run
 *again, so a queue in which many fail takes few. Payloads are in memory together, and
 *count, too.
 *
 * Each executor finds out for itself and forgets it when it leaves.
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "core/core.h"
#include "core/worker.h"
#include "queue/pace.h"
#include "queue/slot.h"
#include "queue/storage.h"

#define MAX_NAME 104
#define MAX_REMEMBERED 1000 /* queues */
#define JOB_COST 100        /* us that a job counts for, beside its time */
#define MAX_BYTES (8 * 1024 * 1024)
#define LONG_TIME 100000      /* us: nobody waits for such a job twice */
#define SUSPICIOUS_TIME 10000 /* us: a slower job, or only a busy machine */
#define PATIENCE 100          /* jobs that are short until it grows again */

typedef struct Pace
{
	char queue[MAX_NAME]; /* the key */
	int most;
	int patience;   /* jobs until it may grow */
	double average; /* us of a job, of late */
	int64 bytes;    /* of a payload, of late */
	double pass;    /* us, by weight */
} Pace;

static HTAB *paces = NULL;
static double served = 0; /* the pass of the queue that was served last, at that time */

static Pace *
pace_of(const char *queue)
{
	HASHCTL control = {.keysize = MAX_NAME, .entrysize = sizeof(Pace)};
	Pace *pace;
	bool found;

	if (paces && hash_get_num_entries(paces) >= MAX_REMEMBERED)
	{
		HTAB *stale = paces;

		paces = NULL;
		hash_destroy(stale);
	}
	if (paces == NULL)
		paces = hash_create("grownext paces", 32, &control, HASH_ELEM | HASH_STRINGS);
	pace = hash_search(paces, queue, HASH_ENTER, &found);
	if (!found)
	{
		pace->most = 1;
		pace->patience = 0;
		pace->average = 0;
		pace->bytes = 0;
		pace->pass = served;
	}
	return pace;
}

void
gn_pace_order(char **queues, int count)
{
	double *passes = palloc((count + 1) * sizeof(double));

	for (int i = 0; i < count; i++)
	{
		Pace *pace = pace_of(queues[i]);
		char *name = queues[i];
		double pass = pace->pass = Max(pace->pass, served);
		int place = i;

		for (; place > 0 && passes[place - 1] > pass; place--)
		{
			queues[place] = queues[place - 1];
			passes[place] = passes[place - 1];
		}
		queues[place] = name;
		passes[place] = pass;
	}
	pfree(passes);
}

void
gn_pace_took(const GnQueue *queue, int jobs)
{
	Pace *pace = pace_of(queue->name);

	served = Max(served, pace->pass);
	pace->pass += (double) jobs * JOB_COST / queue->weight;
}

/* What is left when others, who have nothing to do, take as much. */
static int
fair_share(const GnQueue *queue, int most)
{
	int others = gn_worker_others();
	int waiting;

	if (others > 0 && queue->concurrency > 0)
		others = gn_slot_free(queue, others);
	if (others == 0)
		return most;
	waiting = gn_storage_count_waiting(queue->name, most * (others + 1));
	return Max(Min(most, (waiting + others) / (others + 1)), 1);
}

int
gn_pace_most(const GnQueue *queue)
{
	int most = pace_of(queue->name)->most;

	/* A token that was taken for a job that is given back would be lost. */
	if (most == 1 || queue->rate_count > 0)
		return 1;
	return fair_share(queue, most);
}

void
gn_pace_ran(const GnQueue *queue, int jobs, int64 total, int64 longest, int64 bytes)
{
	Pace *pace = pace_of(queue->name);
	double weight = pace->average == 0 ? 1 : Min(jobs / 64.0, 0.5);
	int most;

	pace->average += ((double) total / jobs - pace->average) * weight;
	pace->pass += (double) total / queue->weight;
	pace->bytes = Max(bytes / jobs, pace->bytes - pace->bytes / 8);
	if (longest >= LONG_TIME)
	{
		pace->most = 1;
		pace->patience = PATIENCE;
		return;
	}
	pace->patience = Max(pace->patience - jobs, 0);
	if (longest >= SUSPICIOUS_TIME)
		most = pace->most / 2;
	else
		most = pace->patience > 0 ? pace->most : pace->most * 2;
	most = Min(most, (int) (GN_PACE_TIME / Max(pace->average, 1.0)));
	most = Min(most, (int) (MAX_BYTES / Max(pace->bytes, 1)));
	pace->most = Min(Max(most, 1), GN_MAX_CLAIM);
}

void
gn_pace_failed(const GnQueue *queue)
{
	Pace *pace = pace_of(queue->name);

	pace->most = Max(pace->most / 4, 1);
	pace->patience = PATIENCE;
}
