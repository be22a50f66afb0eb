/*
 * src/entitlement/counter.c
 *	  The counter of a period: one row, exact.
 *
 * One guarded UPDATE of the period's row grants or denies. Under READ COMMITTED it
 * waits for whoever holds the row and judges by what that one left, so the sum of all
 * grants never exceeds the quota and a denial means that the quota was used up; a
 * rollback gives the units back. REPEATABLE READ raises 40001 instead of waiting for
 * a newer truth.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "core/core.h"
#include "entitlement/usage.h"

/* The four columns that name a period's row, as $1 to $4. */
#define USAGE_ROW                                                                      \
	"tenant_id = $1 AND feature_id = $2 AND period_start = $3 AND period = $4"

static void
name_row(const GnCounter *counter, Datum *values)
{
	values[0] = UUIDPGetDatum(&counter->tenant);
	values[1] = Int32GetDatum(counter->feature);
	values[2] = TimestampTzGetDatum(counter->start);
	values[3] = CStringGetTextDatum(gn_period_name(counter->period));
}

GnCounter
gn_counter_of(const GnAnswer *answer)
{
	return (GnCounter){
		.tenant = answer->holder,
		.feature = answer->known->id,
		.period = answer->decision.setting.period,
		.start = answer->period_start,
	};
}

/* The guarded update; false if there is no row, or no room in it. */
static bool
add_to_row(const GnCounter *counter, const GnSetting *setting, int64 amount,
		   int64 ceiling, int64 *used)
{
	static GnQuery query =
		GN_QUERY("UPDATE _grownext.entitlement_usage SET used = used + $5, quota = $7"
				 " WHERE " USAGE_ROW " AND used <= $6 - $5 RETURNING used",
				 UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID, INT8OID, INT8OID, INT8OID);
	Datum values[7];
	bool isnull;

	name_row(counter, values);
	values[4] = Int64GetDatum(amount);
	values[5] = Int64GetDatum(ceiling);
	values[6] = Int64GetDatum(setting->quota);
	if (gn_spi_execute(&query, values, setting->unlimited ? "      n" : NULL, false) !=
		1)
		return false;
	*used = DatumGetInt64(gn_usage_column(1, &isnull));
	return true;
}

/* The first consume of a period; false if somebody else was first. */
static bool
insert_row(const GnAnswer *answer, const GnCounter *counter, int64 amount, int64 *used)
{
	static GnQuery query = GN_QUERY(
		"INSERT INTO _grownext.entitlement_usage"
		" (tenant_id, feature_id, period_start, period, used, period_end, quota)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
		UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID, INT8OID, TIMESTAMPTZOID, INT8OID);
	const GnSetting *setting = &answer->decision.setting;
	Datum values[7];

	name_row(counter, values);
	values[4] = Int64GetDatum(amount);
	values[5] = TimestampTzGetDatum(answer->period_end);
	values[6] = Int64GetDatum(setting->quota);
	*used = amount;
	return gn_spi_execute(&query, values, setting->unlimited ? "      n" : NULL,
						  false) == 1;
}

int64
gn_counter_used(const GnCounter *counter)
{
	static GnQuery query =
		GN_QUERY("SELECT used FROM _grownext.entitlement_usage WHERE " USAGE_ROW,
				 UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID);
	Datum values[4];
	bool isnull;

	name_row(counter, values);
	if (gn_spi_execute(&query, values, NULL, false) != 1)
		return 0;
	return DatumGetInt64(gn_usage_column(1, &isnull));
}

bool
gn_counter_give_back(const GnCounter *counter, const char *operation, int64 amount,
					 TimestampTz at, GnCounterState *state)
{
	static GnQuery query = GN_QUERY(
		"UPDATE _grownext.entitlement_usage SET used = used - $5 WHERE " USAGE_ROW
		" AND used >= $5 RETURNING used, quota, period_end",
		UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID, INT8OID);
	Datum values[5];
	bool isnull;
	Datum quota;

	name_row(counter, values);
	values[4] = Int64GetDatum(amount);
	if (gn_spi_execute(&query, values, NULL, false) != 1)
		return false;
	state->used = DatumGetInt64(gn_usage_column(1, &isnull));
	quota = gn_usage_column(2, &isnull);
	state->unlimited = isnull;
	state->quota = isnull ? 0 : DatumGetInt64(quota);
	state->end = DatumGetTimestampTz(gn_usage_column(3, &isnull));
	return true;
}

GnCount
gn_counter_add(const GnAnswer *answer, const char *operation, int64 amount,
			   TimestampTz at, int64 *used)
{
	const GnSetting *setting = &answer->decision.setting;
	int64 ceiling = setting->unlimited || setting->soft ? PG_INT64_MAX : setting->quota;
	GnCounter counter = gn_counter_of(answer);
	bool counted =
		amount <= ceiling && (add_to_row(&counter, setting, amount, ceiling, used) ||
							  insert_row(answer, &counter, amount, used) ||
							  add_to_row(&counter, setting, amount, ceiling, used));
	GnCounterState state;

	gn_cache_catch_up();
	if (gn_stamp_moved(&answer->stamp))
	{
		/* the row is ours by now: nobody saw them */
		if (counted)
			gn_counter_give_back(&counter, operation, amount, at, &state);
		return GN_COUNT_AGAIN;
	}
	if (counted)
		return GN_COUNT_DONE;
	*used = gn_counter_used(&counter);
	return GN_COUNT_DENIED;
}
