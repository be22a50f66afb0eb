/*
 * src/core/share.c
 *	  Who gets a slot when grownext.max_workers does not suffice for all.
 *
 * - Schedulers come first: without one a database knows of no job.
 * - The last free slot is for a database that has no executor, as long as there is
 *   an armed one: so a first job starts at once, whatever another database does.
 * - A database that finds no slot for an executor is hungry, and says so every few
 *   seconds. Nobody takes a slot before one that is hungry and has fewer executors.
 * - An executor gives its slot up for a hungry database, between two jobs: when it
 *   has no work; when its database has two more than the other; and, if the other
 *   has none at all, when it has had its own for TURN_MS. One at a time: nobody
 *   leaves while enough slots are free or about to be.
 *
 * A job is never aborted for another database. Hunger is a time that passes, so
 * nobody waits for a database whose scheduler has gone. A slot that becomes free
 * wakes the schedulers of those who are hungry.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "core/core.h"
#include "core/workers.h"

#define TURN_MS 1000

static int
count_state(GnSlotState state)
{
	int count = 0;

	for (int i = 0; i < gn_workers->slot_count; i++)
		count += pg_atomic_read_u32(&gn_workers->slot[i].state) == (uint32) state;
	return count;
}

/* Those that stay; one that leaves counts as a free slot already. */
static int
count_executors(Oid database)
{
	int count = 0;

	for (int i = 0; i < gn_workers->slot_count; i++)
	{
		GnWorkerSlot *slot = &gn_workers->slot[i];
		uint32 state = pg_atomic_read_u32(&slot->state);

		count += state != GN_SLOT_FREE && state != GN_SLOT_LEAVING &&
				 slot->kind == GN_WORKER_EXECUTOR && slot->database == database;
	}
	return count;
}

static bool
another_has_none(Oid database)
{
	for (int i = 0; i < gn_workers->database_count; i++)
	{
		GnDatabase *d = &gn_workers->database[i];

		if (OidIsValid(d->database) && d->database != database &&
			d->verdict == GN_VERDICT_ARMED && count_executors(d->database) == 0)
			return true;
	}
	return false;
}

/* How many free slots there must be for one more executor of this database. */
static int
slots_needed(Oid database, int executors)
{
	return executors > 0 && another_has_none(database) ? 2 : 1;
}

static bool
is_hungry(TimestampTz at)
{
	return at != 0 &&
		   !TimestampDifferenceExceeds(at, GetCurrentTimestamp(), GN_HUNGER_LASTS_MS);
}

/* May this database have one more executor now? */
bool
gn_share_allows(Oid database)
{
	int mine = count_executors(database);

	if (gn_workers->schedulers_waiting > 0 ||
		count_state(GN_SLOT_FREE) < slots_needed(database, mine))
		return false;
	for (int i = 0; mine > 0 && i < gn_workers->database_count; i++)
	{
		GnDatabase *d = &gn_workers->database[i];

		if (OidIsValid(d->database) && d->database != database &&
			is_hungry(d->hungry_at) && count_executors(d->database) < mine)
			return false;
	}
	return true;
}

/* An executor of the database found no slot, or needs none any more. */
void
gn_share_hunger(Oid database, bool hungry)
{
	GnDatabase *d = gn_worker_database(database);

	if (d)
		d->hungry_at = hungry ? GetCurrentTimestamp() : 0;
	if (d && hungry)
		gn_workers->hungry_at = d->hungry_at;
}

/* Does anybody wait for a slot at all? */
bool
gn_share_wanted(void)
{
	return gn_workers->schedulers_waiting > 0 || is_hungry(gn_workers->hungry_at);
}

/* Should this executor, which has no job in hand, leave its slot to somebody else? */
bool
gn_share_yields(const GnWorkerSlot *slot, bool idle)
{
	int coming = count_state(GN_SLOT_FREE) + count_state(GN_SLOT_LEAVING);
	int mine = count_executors(slot->database);
	bool turn_over =
		TimestampDifferenceExceeds(slot->started_at, GetCurrentTimestamp(), TURN_MS);

	if (coming < gn_workers->schedulers_waiting)
		return true;
	for (int i = 0; i < gn_workers->database_count; i++)
	{
		GnDatabase *d = &gn_workers->database[i];
		int theirs;

		if (!OidIsValid(d->database) || d->database == slot->database ||
			!is_hungry(d->hungry_at))
			continue;
		theirs = count_executors(d->database);
		if ((idle || mine >= theirs + 2 || (theirs == 0 && turn_over)) &&
			coming < slots_needed(d->database, theirs))
			return true;
	}
	return false;
}

/* A slot is free: whoever is hungry tries again. */
void
gn_share_wake_hungry(void)
{
	if (!is_hungry(gn_workers->hungry_at))
		return;
	for (int i = 0; i < gn_workers->database_count; i++)
	{
		GnDatabase *d = &gn_workers->database[i];

		if (OidIsValid(d->database) && is_hungry(d->hungry_at))
			gn_worker_ask_scheduler(d->database, GN_ASKED_DEMAND);
	}
}
