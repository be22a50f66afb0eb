/*
 * src/core/wake.c
 *	  Wake-ups at commit: counted per subtransaction, sent once per transaction.
 *
 * The commit is visible to others before XACT_EVENT_COMMIT fires (the transaction
 * has left the process array), so whoever wakes up sees the rows. A rolled-back
 * savepoint takes its wishes with it. PREPARE forgets them: COMMIT PREPARED runs in
 * any session, and wakes everybody (utility.c). Nothing throws in the commit callback:
 * it takes locks and sets latches.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "core/core.h"
#include "core/workers.h"

typedef struct Call
{
	uint64 channel;
	int count;
	struct Call *next;
} Call;

typedef struct Wishes
{
	int level; /* nesting depth of the transaction that has them */
	int jobs;
	bool tick;
	bool recheck;
	bool scan;
	bool prepared;          /* it commits what another session has prepared */
	Call *calls;            /* one per channel */
	const char *unprepared; /* what must not be prepared, or NULL */
	struct Wishes *outer;
} Wishes;

void (*gn_before_wake)(bool prepared) = NULL;

static Wishes *wishes = NULL; /* innermost first; memory of TopTransactionContext */
static bool registered = false;

static int
add_counts(int a, int b)
{
	return Min(a, PG_INT32_MAX - b) + b;
}

static Call *
find_call(Wishes *w, uint64 channel)
{
	Call *call = w->calls;

	while (call && call->channel != channel)
		call = call->next;
	return call;
}

/* Takes the inner transaction's calls over; allocates nothing. */
static void
merge_into(Wishes *to, Wishes *from)
{
	Call *call = from->calls;

	to->jobs = add_counts(to->jobs, from->jobs);
	to->tick |= from->tick;
	to->recheck |= from->recheck;
	to->scan |= from->scan;
	to->prepared |= from->prepared;
	if (from->unprepared)
		to->unprepared = from->unprepared;
	while (call)
	{
		Call *next = call->next;
		Call *same = find_call(to, call->channel);

		if (same)
			same->count = add_counts(same->count, call->count);
		else
		{
			call->next = to->calls;
			to->calls = call;
		}
		call = next;
	}
}

static void
end_transaction(XactEvent event, void *arg)
{
	Wishes *w = wishes;

	if (event == XACT_EVENT_PRE_PREPARE && w && w->unprepared)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot PREPARE a transaction that has called %s",
							   w->unprepared)));
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PARALLEL_PRE_COMMIT ||
		event == XACT_EVENT_PRE_PREPARE)
		return;
	wishes = NULL;
	if (w == NULL || event != XACT_EVENT_COMMIT)
		return;
	if (gn_before_wake)
		gn_before_wake(w->prepared);
	if (w->recheck)
		gn_worker_recheck(MyDatabaseId);
	if (w->scan)
		gn_worker_wake_launcher();
	if (w->jobs > 0 || w->tick)
		gn_worker_wake(MyDatabaseId, w->jobs, w->tick);
	for (Call *call = w->calls; call; call = call->next)
		gn_wait_call(MyDatabaseId, call->channel, call->count);
}

static void
end_subtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent,
				   void *arg)
{
	Wishes *w = wishes;
	int level = GetCurrentTransactionNestLevel();

	if (w == NULL || w->level < level)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		wishes = w->outer;
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		if (w->outer && w->outer->level == level - 1)
		{
			merge_into(w->outer, w);
			wishes = w->outer;
		}
		else
			w->level = level - 1;
	}
}

static Wishes *
current_wishes(void)
{
	int level = GetCurrentTransactionNestLevel();

	if (!registered)
	{
		RegisterXactCallback(end_transaction, NULL);
		RegisterSubXactCallback(end_subtransaction, NULL);
		registered = true;
	}
	if (wishes == NULL || wishes->level < level)
	{
		Wishes *w = MemoryContextAllocZero(TopTransactionContext, sizeof(Wishes));

		w->level = level;
		w->outer = wishes;
		wishes = w;
	}
	return wishes;
}

void
gn_worker_wake_at_commit(int jobs)
{
	if (gn_workers && jobs > 0)
	{
		Wishes *w = current_wishes();

		w->jobs = add_counts(w->jobs, jobs);
	}
}

void
gn_wait_call_at_commit(uint64 channel, int count)
{
	Wishes *w;
	Call *call;

	if (gn_workers == NULL || count <= 0)
		return;
	w = current_wishes();
	call = find_call(w, channel);
	if (call == NULL)
	{
		call = MemoryContextAllocZero(TopTransactionContext, sizeof(Call));
		call->channel = channel;
		call->next = w->calls;
		w->calls = call;
	}
	call->count = add_counts(call->count, count);
}

void
gn_prepare_refuse(const char *what)
{
	current_wishes()->unprepared = what;
}

void
gn_worker_tick_at_commit(void)
{
	if (gn_workers)
		current_wishes()->tick = true;
}

void
gn_worker_recheck_at_commit(void)
{
	if (gn_workers)
		current_wishes()->recheck = true;
}

void
gn_worker_scan_at_commit(void)
{
	if (gn_workers)
		current_wishes()->scan = true;
}

void
gn_worker_prepared_at_commit(void)
{
	if (gn_workers == NULL)
		return;
	current_wishes()->prepared = true;
	gn_worker_wake_at_commit(1);
	gn_worker_tick_at_commit();
}
