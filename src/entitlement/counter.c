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
name_row(const GnAnswer *answer, Datum *values)
{
	values[0] = UUIDPGetDatum(&answer->holder);
	values[1] = Int32GetDatum(answer->known->id);
	values[2] = TimestampTzGetDatum(answer->period_start);
	values[3] = CStringGetTextDatum(gn_period_name(answer->decision.setting.period));
}

/* The guarded update; false if there is no row, or no room in it. */
static bool
add_to_row(const GnUsageCall *call, const GnAnswer *answer, int64 ceiling, int64 *used)
{
	static GnQuery query =
		GN_QUERY("UPDATE _grownext.entitlement_usage SET used = used + $5, quota = $7"
				 " WHERE " USAGE_ROW " AND used <= $6 - $5 RETURNING used",
				 UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID, INT8OID, INT8OID, INT8OID);
	const GnSetting *setting = &answer->decision.setting;
	Datum values[7];
	bool isnull;

	name_row(answer, values);
	values[4] = Int64GetDatum(call->amount);
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
insert_row(const GnUsageCall *call, const GnAnswer *answer, int64 *used)
{
	static GnQuery query = GN_QUERY(
		"INSERT INTO _grownext.entitlement_usage"
		" (tenant_id, feature_id, period_start, period, used, period_end, quota)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
		UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID, INT8OID, TIMESTAMPTZOID, INT8OID);
	const GnSetting *setting = &answer->decision.setting;
	Datum values[7];

	name_row(answer, values);
	values[4] = Int64GetDatum(call->amount);
	values[5] = TimestampTzGetDatum(answer->period_end);
	values[6] = Int64GetDatum(setting->quota);
	*used = call->amount;
	return gn_spi_execute(&query, values, setting->unlimited ? "      n" : NULL,
						  false) == 1;
}

int64
gn_counter_used(const GnAnswer *answer)
{
	static GnQuery query =
		GN_QUERY("SELECT used FROM _grownext.entitlement_usage WHERE " USAGE_ROW,
				 UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID);
	Datum values[4];
	bool isnull;

	name_row(answer, values);
	if (gn_spi_execute(&query, values, NULL, false) != 1)
		return 0;
	return DatumGetInt64(gn_usage_column(1, &isnull));
}

/* Units that this very transaction added a moment ago. */
void
gn_counter_take_back(const GnUsageCall *call, const GnAnswer *answer)
{
	static GnQuery query = GN_QUERY(
		"UPDATE _grownext.entitlement_usage SET used = used - $5 WHERE " USAGE_ROW,
		UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID, INT8OID);
	Datum values[5];

	name_row(answer, values);
	values[4] = Int64GetDatum(call->amount);
	gn_spi_execute(&query, values, NULL, false);
}

/* True if the units were counted; used is what the row says then, or what denied them.
 */
bool
gn_counter_add(const GnUsageCall *call, const GnAnswer *answer, int64 *used)
{
	const GnSetting *setting = &answer->decision.setting;
	int64 ceiling = setting->unlimited || setting->soft ? PG_INT64_MAX : setting->quota;

	if (call->amount <= ceiling &&
		(add_to_row(call, answer, ceiling, used) || insert_row(call, answer, used) ||
		 add_to_row(call, answer, ceiling, used)))
		return true;
	*used = gn_counter_used(answer);
	return false;
}
