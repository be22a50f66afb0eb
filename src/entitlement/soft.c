/*
 * src/entitlement/soft.c
 *	  The soft tier: usage is written down and counted later.
 *
 * A consume appends an event, and no two consumers share a row. What the counter says
 *is its rows and the events that no worker has folded yet. Consumers do not wait for
 *each other and do not see what is not committed, so a quota may be passed by what was
 *under way at the same time: approximate by design. Nothing is lost, though: whatever
 *was committed is counted, and the totals are exact.
 *
 * Row 0 is locked only to note that there are events, another quota, or a threshold.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "core/core.h"
#include "entitlement/counter.h"

/* So that no sum of what is under way passes a bigint. */
#define EVENT_MAX INT64CONST(1000000000000000)

static void
append_event(const GnChange *change)
{
	static GnQuery query =
		GN_QUERY("INSERT INTO _grownext.entitlement_usage_event"
				 " (tenant_id, feature_id, period_start, period, at, amount)"
				 " VALUES ($1, $2, $3, $4, $5, $6)",
				 UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID, INT8OID);
	Datum values[6];

	gn_counter_name(&change->counter, values);
	values[4] = TimestampTzGetDatum(change->at);
	values[5] = Int64GetDatum(change->amount);
	gn_spi_execute(&query, values, NULL, false);
}

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

	gn_counter_name(counter, values);
	if (gn_spi_execute(&query, values, NULL, false) != 1)
		return false;
	*row = (GnCounterRow){0};
	*total = DatumGetInt64(gn_usage_column(1, &isnull));
	quota = gn_usage_column(2, &isnull);
	row->unlimited = isnull;
	row->quota = isnull ? 0 : DatumGetInt64(quota);
	row->fired = DatumGetInt16(gn_usage_column(3, &isnull));
	row->has_events = DatumGetBool(gn_usage_column(4, &isnull));
	row->end = DatumGetTimestampTz(gn_usage_column(5, &isnull));
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
	GnCounterRow row;
	int64 total;
	bool found;

	if (change->amount > EVENT_MAX)
		ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						errmsg("amount is out of range for the soft tier"),
						errdetail("At most %lld units are one event.",
								  (long long) EVENT_MAX)));
	found = read_counter(&change->counter, &row, &total);
	if (gn_change_moved(change))
		return GN_COUNT_AGAIN;
	if (!found)
		return GN_COUNT_DENIED;
	gn_change_describe(change, &row, total);
	if (!gn_change_fits(change, total))
		return GN_COUNT_DENIED;
	write_row(table, change, &row, total + change->amount);
	append_event(change);
	gn_change_describe(change, &row, total + change->amount);
	return GN_COUNT_DONE;
}
