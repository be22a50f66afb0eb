/*
 * src/entitlement/soft.c
 *	  The soft tier: usage is written down and counted later.
 *
 * A consume appends an event, and no two consumers share a row. What the counter says
 * is its rows and the events that no worker has folded yet. Consumers do not wait for
 * each other and do not see what is not committed, so a quota may be passed by what was
 * under way at the same time: approximate by design. Nothing is lost, though: whatever
 * was committed is counted, and the totals are exact.
 *
 * Summing up the events at each consume would be dear, so a backend remembers the total
 * that it read last and adds what it consumes itself. It reads again after a tenth of a
 * second, or so much later that reading takes a hundredth of its time, a second at
 * most; near the quota and at thresholds; and after an abort, which may have taken back
 * what was added.
 *
 * Row 0 is locked only to note that there are events, another quota, or a threshold.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "entitlement/counter.h"

/* So that no sum of what is under way passes a bigint. */
#define EVENT_MAX INT64CONST(1000000000000000)

/* Remembering ---------------------------------------------------------------- */

#define SEEN_SIZE 256 /* counters, by hash; the later one stays */
#define SEEN_FOR_MIN (100 * INT64CONST(1000))
#define SEEN_FOR_MAX USECS_PER_SEC

typedef struct Seen
{
	GnCounter counter;
	uint64 aborts;    /* how many there had been */
	uint64 catalogue; /* its generation */
	TimestampTz read_at;
	int64 good_for; /* microseconds */
	int64 total;
	GnCounterRow row;
} Seen;

static Seen seen_counters[SEEN_SIZE];
static uint64 aborts = 1;

static void
on_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		aborts++;
}

static void
on_subtransaction_end(SubXactEvent event, SubTransactionId own, SubTransactionId parent,
					  void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		aborts++;
}

void
gn_soft_init(void)
{
	RegisterXactCallback(on_transaction_end, NULL);
	RegisterSubXactCallback(on_subtransaction_end, NULL);
}

static Seen *
seen_place(const GnCounter *counter)
{
	uint32 hash = hash_bytes(counter->tenant.data, UUID_LEN);

	return &seen_counters[hash_combine(hash, (uint32) counter->feature) % SEEN_SIZE];
}

static bool
is_of(const Seen *seen, const GnCounter *counter)
{
	return seen->counter.feature == counter->feature &&
		   seen->counter.period == counter->period &&
		   seen->counter.start == counter->start &&
		   memcmp(&seen->counter.tenant, &counter->tenant, sizeof(pg_uuid_t)) == 0;
}

void
gn_soft_forget(const GnCounter *counter)
{
	seen_place(counter)->aborts = 0;
}

/* Where others may have consumed the rest: the last tenth, or a hundred such amounts.
 */
static bool
is_near(const GnChange *change, const Seen *seen)
{
	int64 after = seen->total + change->amount;

	if (after > gn_threshold_ceiling(&change->feature, &seen->row))
		return true;
	return change->limit != PG_INT64_MAX &&
		   after > change->limit - change->limit / 10 - 100 * change->amount;
}

/* What is remembered is good enough: NULL if it is not. */
static Seen *
remembered(const GnChange *change)
{
	Seen *seen = seen_place(&change->counter);
	int64 age;

	if (IsolationUsesXactSnapshot() || seen->aborts != aborts ||
		seen->catalogue != change->answer->stamp.catalogue ||
		!is_of(seen, &change->counter))
		return NULL;
	age = GetCurrentTimestamp() - seen->read_at;
	if (age < 0 || age >= seen->good_for || !seen->row.has_events ||
		!gn_change_has_quota(change, &seen->row) || is_near(change, seen))
		return NULL;
	return seen;
}

static void
remember(const GnChange *change, const GnCounterRow *row, int64 total,
		 TimestampTz began)
{
	TimestampTz now = GetCurrentTimestamp();

	*seen_place(&change->counter) = (Seen){
		.counter = change->counter,
		.aborts = aborts,
		.catalogue = change->answer->stamp.catalogue,
		.read_at = now,
		.good_for =
			Max(SEEN_FOR_MIN, Min(SEEN_FOR_MAX, (now - began) * INT64CONST(100))),
		.total = total,
		.row = *row,
	};
}

/* Counting ------------------------------------------------------------------- */

/* Row 0 and the total, in one snapshot; false: there is no such counter. */
static bool
read_counter(const GnCounter *counter, GnCounterRow *row, int64 *total)
{
	static GnQuery query =
		GN_QUERY("SELECT " GN_COUNTER_TOTAL(
					 "$1", "$2", "$3",
					 "$4") ", quota, fired, has_events, period_end"
						   " FROM _grownext.entitlement_usage WHERE shard = 0"
						   " AND " GN_COUNTER_KEY,
				 UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID);
	Datum values[4];
	Datum quota;
	bool isnull;
	GnSpi spi;

	gn_counter_name(counter, values);
	*row = (GnCounterRow){0};
	gn_spi_begin(&spi);
	if (gn_spi_execute(&query, values, NULL, false) != 1)
	{
		gn_spi_end(&spi);
		return false;
	}
	*total = DatumGetInt64(gn_usage_column(1, &isnull));
	quota = gn_usage_column(2, &isnull);
	row->unlimited = isnull;
	row->quota = isnull ? 0 : DatumGetInt64(quota);
	row->fired = DatumGetInt16(gn_usage_column(3, &isnull));
	row->has_events = DatumGetBool(gn_usage_column(4, &isnull));
	row->end = DatumGetTimestampTz(gn_usage_column(5, &isnull));
	gn_spi_end(&spi);
	return true;
}

/* Writes into row 0 what it does not say yet; row is what it says then. */
static void
write_row(GnCounterTable *table, GnChange *change, GnCounterRow *row, int64 used)
{
	bool knows = row->has_events && gn_change_has_quota(change, row);

	gn_change_set_quota(change, row);
	gn_threshold_note(change, row, used);
	if (knows && change->fired_to == change->fired_from)
		return;
	if (!gn_counter_row_lock(table, &change->counter, 0, row))
		elog(ERROR, "a counter is gone that was there a moment ago");
	gn_change_set_quota(change, row);
	gn_threshold_note(change, row, used);
	row->has_events = true;
	gn_counter_row_write(table, &change->counter, row);
}

GnCount
gn_soft_add(GnCounterTable *table, GnChange *change)
{
	Seen *seen;
	GnCounterRow row;
	TimestampTz began;
	int64 total;
	bool found;

	if (change->amount > EVENT_MAX)
		ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						errmsg("amount is out of range for the soft tier"),
						errdetail("At most %lld units are one event.",
								  (long long) EVENT_MAX)));
	seen = remembered(change);
	if (seen)
	{
		gn_counter_event_append(&change->counter, change->amount, change->at);
		seen->total += change->amount;
		gn_change_describe(change, &seen->row, seen->total);
		return GN_COUNT_DONE;
	}
	began = GetCurrentTimestamp();
	found = read_counter(&change->counter, &row, &total);
	if (gn_change_moved(change))
		return GN_COUNT_AGAIN;
	if (!found)
		return GN_COUNT_DENIED;
	gn_change_describe(change, &row, total);
	if (!gn_change_fits(change, total))
		return GN_COUNT_DENIED;
	write_row(table, change, &row, total + change->amount);
	gn_counter_event_append(&change->counter, change->amount, change->at);
	gn_change_describe(change, &row, total + change->amount);
	remember(change, &row, total + change->amount, began);
	return GN_COUNT_DONE;
}
