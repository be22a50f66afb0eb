/*
 * src/queue/ready_note.c
 *	  What a transaction has to say of ready jobs, said when it has committed.
 *
 * At that moment others see the rows. It is said before anybody is woken. What a
 * savepoint takes back is said all the same: a hint too many.
 *
 * COMMIT PREPARED runs in any session and knows of nothing: all queues of the database
 * are read again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "core/core.h"
#include "core/worker.h"
#include "queue/ready.h"

#define MOST_IDS 1024 /* of a lane; the table has the others */
#define MOST_NOTES 4096

typedef struct Note
{
	char *queue;
	GnLane *lane; /* NULL: the queue must be read */
	int64 *ids;
	int count;
	int size;
	int64 beyond; /* the smallest id that found no place; 0: none */
	bool said;    /* early, and nothing has come to it since */
	struct Note *next;
} Note;

/* In TopTransactionContext. */
static Note *notes = NULL;
static int note_count = 0;

/* Queues in whose order this process has a part until its transaction ends. */
static char *taken = NULL; /* the last one's name; "" for several */

static void
say(const Note *note)
{
	if (note->lane)
		(void) gn_ready_put(MyDatabaseId, note->queue, note->lane, note->ids,
							note->count, note->beyond);
	else
		gn_ready_unknown(MyDatabaseId, note->queue[0] ? note->queue : NULL);
}

static void
say_all(void)
{
	for (Note *note = notes; note; note = note->next)
		say(note);
	notes = NULL;
	note_count = 0;
}

/* For this transaction's own use; at commit it is said again. */
void
gn_ready_say_early(const char *queue)
{
	for (Note *note = notes; note; note = note->next)
	{
		if (note->said || strcmp(note->queue, queue) != 0)
			continue;
		say(note);
		note->said = true;
	}
}

/* Called by core at commit before it wakes anybody. */
static void
before_wake(bool prepared)
{
	say_all();
	if (prepared)
		gn_ready_unknown(MyDatabaseId, NULL);
}

static void
give_back(void)
{
	if (taken)
		gn_ready_unknown(MyDatabaseId, taken[0] ? taken : NULL);
}

static void
end_subtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent,
				   void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		give_back();
}

static void
end_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			say_all();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			give_back();
			break;
		default:
			return;
	}
	notes = NULL;
	note_count = 0;
	taken = NULL;
}

void
gn_ready_init(void)
{
	gn_ready_define_settings();
	gn_before_wake = before_wake;
}

static void
register_once(void)
{
	static bool registered = false;

	if (!registered)
	{
		RegisterXactCallback(end_transaction, NULL);
		RegisterSubXactCallback(end_subtransaction, NULL);
	}
	registered = true;
}

static Note *
new_note(const char *queue)
{
	Note *note = MemoryContextAllocZero(TopTransactionContext, sizeof(Note));

	register_once();
	note->queue = MemoryContextStrdup(TopTransactionContext, queue);
	note->next = notes;
	notes = note;
	note_count++;
	return note;
}

static bool
is_lane(const GnLane *lane, int priority, const char *group_key)
{
	return lane && lane->priority == priority && lane->grouped == (group_key != NULL) &&
		   (group_key == NULL || strcmp(lane->key, group_key) == 0);
}

static GnLane *
new_lane(int priority, const char *group_key)
{
	GnLane *lane =
		MemoryContextAllocZero(TopTransactionContext,
							   group_key ? offsetof(GnLane, key) + strlen(group_key) + 1
										 : sizeof(GnLane));

	lane->priority = priority;
	lane->grouped = group_key != NULL;
	if (group_key)
		memcpy(lane->key, group_key, strlen(group_key) + 1);
	return lane;
}

static void
add_id(Note *note, int64 id)
{
	note->said = false;
	if (note->count == MOST_IDS)
	{
		if (note->beyond == 0 || id < note->beyond)
			note->beyond = id;
		return;
	}
	if (note->ids == NULL)
	{
		note->size = 4;
		note->ids =
			MemoryContextAlloc(TopTransactionContext, note->size * sizeof(int64));
	}
	else if (note->count == note->size)
	{
		note->size *= 2;
		note->ids = repalloc(note->ids, note->size * sizeof(int64));
	}
	note->ids[note->count++] = id;
}

void
gn_ready_note(const char *queue, int priority, const char *group_key, int64 id)
{
	Note *note = notes;

	if (!gn_preloaded)
		return;
	if (note == NULL || !is_lane(note->lane, priority, group_key) ||
		strcmp(note->queue, queue) != 0)
	{
		if (note_count >= MOST_NOTES)
		{
			gn_ready_note_unknown(queue);
			return;
		}
		note = new_note(queue);
		note->lane = new_lane(priority, group_key);
	}
	add_id(note, id);
}

void
gn_ready_note_unknown(const char *queue)
{
	if (!gn_preloaded)
		return;
	/* the newest notes say it already, if somebody says it for many jobs in a row */
	if (notes && notes->lane == NULL && strcmp(notes->queue, queue ? queue : "") == 0)
		return;
	(void) new_note(queue ? queue : "");
}

void
gn_ready_note_taken(const char *queue)
{
	if (!gn_preloaded)
		return;
	register_once();
	if (taken == NULL)
		taken = MemoryContextStrdup(TopTransactionContext, queue);
	else if (strcmp(taken, queue) != 0)
		taken[0] = '\0';
}
