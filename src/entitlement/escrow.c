/*
 * src/entitlement/escrow.c
 *	  The escrow tier: a counter that many sessions use at the same time.
 *
 * The counter is spread over shards. Each has an allowance, and all allowances sum to
 * what may be used at all, so whoever stays within the allowance of one shard needs no
 * other and cannot oversell. A consume takes any shard with room that nobody holds;
 * only if all of them are held it waits for one.
 *
 * If no shard has room by itself, all are locked in order and what remains is spread
 * anew; the same is done for a new quota. So a denial is judged on the whole counter,
 * never on a shard. The allowances reach only up to the next threshold that has not
 * fired: whoever gets there does it under all locks, knows the exact total, and tells.
 *
 * Row 0 holds nothing then but the quota that the allowances were made for, and a slot.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "core/core.h"
#include "entitlement/counter.h"

/* What is left for others when a counter without a limit is spread. */
#define NO_LIMIT (PG_INT64_MAX / 2)

static int64
sum_used(const GnCounterRow *rows, int count)
{
	int64 total = 0;

	for (int i = 0; i < count; i++)
		total += rows[i].used;
	return total;
}

/* Within one shard? */
static bool
shard_fits(const GnChange *change, const GnCounterRow *shard)
{
	if (change->amount < 0)
		return shard->used >= -change->amount;
	return change->amount <= shard->allowance &&
		   shard->used <= shard->allowance - change->amount;
}

static bool
write_shard(GnCounterTable *table, const GnChange *change, const GnCounterRow *shard)
{
	GnCounterRow next = *shard;
	GnSpill spill = gn_slot_add(&next, change->amount, change->at);

	next.used += change->amount;
	if (!gn_counter_row_write(table, &change->counter, &next))
		return false;
	gn_slot_spill(&change->counter, next.shard, spill);
	return true;
}

/* How far the counter may be used until somebody has to look at all of it. */
static int64
ceiling_of(const GnChange *change, const GnCounterRow *row)
{
	int64 limit = row->unlimited ? NO_LIMIT : row->quota;

	if (change->answer && !change->keeps_quota)
		limit = Min(change->limit, NO_LIMIT); /* a soft quota is no limit */
	return Min(limit, gn_threshold_ceiling(&change->feature, row));
}

/*
 * Spreads used units and room. A share that holds less than a few amounts would only be
 * passed by, so little room goes to few shards.
 */
static void
spread(GnCounterTable *table, const GnChange *change, GnCounterRow *rows, int count,
	   int64 total)
{
	int shards = rows[0].shards;
	int64 room = Max(ceiling_of(change, &rows[0]) - total, 0);
	int64 amount = Max(change->amount < 0 ? -change->amount : change->amount, 1);
	int64 active = Max(Min(room / 4 / amount, shards), 1);

	rows[0].used = 0;
	gn_counter_row_write(table, &change->counter, &rows[0]);
	for (int i = 1; i < count; i++)
	{
		int64 place = i - 1;
		GnCounterRow *row = &rows[i];

		row->used = row->allowance = 0;
		if (place < shards)
			row->used = total / shards + (place < total % shards);
		if (place < active)
			row->allowance = room / active + (place < room % active);
		row->allowance += row->used;
		gn_counter_row_write(table, &change->counter, row);
	}
}

/* Locks all rows in order, making those that are missing; returns how many, 0: none. */
static int
lock_rows(GnCounterTable *table, const GnChange *change, GnCounterRow *rows)
{
	int shards;

	if (!gn_counter_row_lock(table, &change->counter, 0, &rows[0]))
		return 0;
	shards = Max(rows[0].shards, change->feature.shards);
	for (int i = 1; i <= shards; i++)
	{
		while (!gn_counter_row_lock(table, &change->counter, i, &rows[i]))
		{
			CHECK_FOR_INTERRUPTS();
			gn_counter_row_make(&change->counter, i, rows[0].end, true, 0);
		}
	}
	return shards + 1;
}

/* Counts with all rows locked, and spreads what remains. */
static GnCount
change_all(GnCounterTable *table, GnChange *change)
{
	GnCounterRow *rows = palloc((GN_SHARDS_MAX + 1) * sizeof(GnCounterRow));
	int count = lock_rows(table, change, rows);
	GnSpill spill = {0};
	int64 total;
	bool fits;

	if (count == 0)
		return GN_COUNT_DENIED;
	if (gn_change_moved(change))
		return GN_COUNT_AGAIN;
	total = sum_used(rows, count);
	if (rows[0].has_events)
		total += gn_counter_fold_events(&change->counter);
	rows[0].has_events = false;
	rows[0].shards = change->feature.shards;
	gn_change_set_quota(change, &rows[0]);
	fits = gn_change_fits(change, total);
	if (fits)
	{
		total += change->amount;
		spill = gn_slot_add(&rows[0], change->amount, change->at);
	}
	change->fired_from = change->fired_to = rows[0].fired;
	if (change->amount > 0 && fits)
		gn_threshold_note(change, &rows[0], total);
	spread(table, change, rows, count, total);
	gn_slot_spill(&change->counter, 0, spill);
	gn_change_describe(change, &rows[0], total);
	return fits ? GN_COUNT_DONE : GN_COUNT_DENIED;
}

typedef enum Tried
{
	TRIED_COUNTED,
	TRIED_NO_ROOM, /* in no shard alone */
	TRIED_TAKEN,   /* all with room are held by others */
} Tried;

/* Tries each shard, beginning where others do not; held is the first with room. */
static Tried
try_shards(GnCounterTable *table, GnChange *change, const GnCounterRow *rows, int *held)
{
	int shards = rows[0].shards;

	*held = 0;
	for (int i = 0; i < shards; i++)
	{
		const GnCounterRow *shard = &rows[1 + (MyProcPid + i) % shards];

		if (!shard_fits(change, shard))
			continue;
		if (write_shard(table, change, shard))
			return TRIED_COUNTED;
		if (*held == 0)
			*held = shard->shard;
	}
	return *held ? TRIED_TAKEN : TRIED_NO_ROOM;
}

/* Waits for a shard and counts in it, if it still has room then. */
static bool
wait_for_shard(GnCounterTable *table, GnChange *change, int number)
{
	GnCounterRow shard;

	return gn_counter_row_lock(table, &change->counter, number, &shard) &&
		   shard_fits(change, &shard) && !gn_change_moved(change) &&
		   write_shard(table, change, &shard);
}

GnCount
gn_escrow_change(GnCounterTable *table, GnChange *change)
{
	for (;;)
	{
		GnCounterRow *rows;
		int count = gn_counter_rows_read(table, &change->counter, &rows);
		int64 total = sum_used(rows, count);
		Tried tried;
		int held;

		CHECK_FOR_INTERRUPTS();
		if (gn_change_moved(change))
			return GN_COUNT_AGAIN;
		if (count == 0)
			return GN_COUNT_DENIED;
		if (rows[0].shards != change->feature.shards || rows[0].has_events ||
			!gn_change_has_quota(change, &rows[0]))
			return change_all(table, change);
		gn_change_describe(change, &rows[0], total);
		if (!gn_change_fits(change, total))
			return GN_COUNT_DENIED;
		tried = try_shards(table, change, rows, &held);
		if (tried == TRIED_NO_ROOM)
			return change_all(table, change);
		if (tried == TRIED_COUNTED || wait_for_shard(table, change, held))
		{
			change->state.used = total + change->amount;
			return GN_COUNT_DONE;
		}
		pfree(rows);
	}
}
