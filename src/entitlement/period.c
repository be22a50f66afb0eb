/*
 * src/entitlement/period.c
 *	  In which period an instant falls.
 *
 * Boundary n is the original anchor plus n units, never the previous boundary plus
 * one: from 31 January the months begin on 28 February, 31 March, 30 April. Local
 * boundaries are turned into instants one by one, so across a change of the clock a
 * day has 23 or 25 hours, boundaries rise strictly and no instant is in two periods
 * or in none. A reset is therefore no job: the next period is another row.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "entitlement/period.h"

GN_FUNCTION(gn_entitlement_period);

static const char *const period_names[] = {
	[GN_PERIOD_HOUR] = "hour",   [GN_PERIOD_DAY] = "day",   [GN_PERIOD_WEEK] = "week",
	[GN_PERIOD_MONTH] = "month", [GN_PERIOD_YEAR] = "year", [GN_PERIOD_NEVER] = "never",
};

/*
 * The calendar's anchors, as timestamps without zone: 2000-01-01 and Monday,
 * 2000-01-03.
 */
#define CALENDAR_ANCHOR INT64CONST(0)
#define CALENDAR_MONDAY (2 * USECS_PER_DAY)

bool
gn_period_parse(const char *name, GnPeriod *period)
{
	for (size_t i = 0; i < lengthof(period_names); i++)
	{
		if (strcmp(period_names[i], name) == 0)
		{
			*period = (GnPeriod) i;
			return true;
		}
	}
	return false;
}

const char *
gn_period_name(GnPeriod period)
{
	return period_names[period];
}

static void
pg_attribute_noreturn() refuse_out_of_range(void)
{
	ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
					errmsg("timestamp out of range")));
}

static Timestamp
local_from_instant(TimestampTz instant, pg_tz *zone)
{
	struct pg_tm tm;
	fsec_t fsec;
	int offset;
	Timestamp local;

	if (timestamp2tm(instant, &offset, &tm, &fsec, NULL, zone) != 0 ||
		tm2timestamp(&tm, fsec, NULL, &local) != 0)
		refuse_out_of_range();
	return local;
}

static TimestampTz
instant_from_local(Timestamp local, pg_tz *zone)
{
	struct pg_tm tm;
	fsec_t fsec;
	int offset;
	TimestampTz instant;

	if (timestamp2tm(local, NULL, &tm, &fsec, NULL, NULL) != 0)
		refuse_out_of_range();
	offset = DetermineTimeZoneOffset(&tm, zone);
	if (tm2timestamp(&tm, fsec, &offset, &instant) != 0)
		refuse_out_of_range();
	return instant;
}

static int64
floor_divide(int64 a, int64 b)
{
	return a / b - (a % b < 0);
}

/* The n-th boundary after the anchor, which is local time, but UTC for hours. */
static TimestampTz
boundary(GnPeriod period, Timestamp anchor, pg_tz *zone, int64 n)
{
	Interval step = {0};

	switch (period)
	{
		case GN_PERIOD_HOUR:
			return anchor + n * USECS_PER_HOUR;
		case GN_PERIOD_DAY:
			step.day = (int32) n;
			break;
		case GN_PERIOD_WEEK:
			step.day = (int32) n * 7;
			break;
		case GN_PERIOD_MONTH:
			step.month = (int32) n;
			break;
		case GN_PERIOD_YEAR:
			step.month = (int32) n * 12;
			break;
		case GN_PERIOD_NEVER:
			elog(ERROR, "a period without end has no boundaries");
	}
	return instant_from_local(DatumGetTimestamp(
								  DirectFunctionCall2(timestamp_pl_interval,
													  TimestampGetDatum(anchor),
													  IntervalPGetDatum(&step))),
							  zone);
}

/* Which boundary is about the last one before local; off by one at most. */
static int64
guess_boundary(GnPeriod period, Timestamp anchor, Timestamp local)
{
	struct pg_tm from;
	struct pg_tm to;
	fsec_t fsec;

	switch (period)
	{
		case GN_PERIOD_HOUR:
			return floor_divide(local - anchor, USECS_PER_HOUR);
		case GN_PERIOD_DAY:
			return floor_divide(local - anchor, USECS_PER_DAY);
		case GN_PERIOD_WEEK:
			return floor_divide(local - anchor, 7 * USECS_PER_DAY);
		default:
			break;
	}
	if (timestamp2tm(anchor, NULL, &from, &fsec, NULL, NULL) != 0 ||
		timestamp2tm(local, NULL, &to, &fsec, NULL, NULL) != 0)
		refuse_out_of_range();
	if (period == GN_PERIOD_YEAR)
		return to.tm_year - from.tm_year;
	return (to.tm_year - from.tm_year) * INT64CONST(12) + to.tm_mon - from.tm_mon;
}

void
gn_period_bounds(GnPeriod period, const TimestampTz *anchor, pg_tz *zone,
				 TimestampTz at, TimestampTz *start, TimestampTz *end)
{
	Timestamp first;
	Timestamp local;
	int64 n;

	if (period == GN_PERIOD_NEVER)
	{
		TIMESTAMP_NOBEGIN(*start);
		TIMESTAMP_NOEND(*end);
		return;
	}
	if (TIMESTAMP_NOT_FINITE(at) || (anchor && TIMESTAMP_NOT_FINITE(*anchor)))
		refuse_out_of_range();
	if (period == GN_PERIOD_HOUR)
	{
		first = anchor ? *anchor : CALENDAR_ANCHOR;
		local = at;
	}
	else
	{
		first = anchor                     ? local_from_instant(*anchor, zone)
				: period == GN_PERIOD_WEEK ? CALENDAR_MONDAY
										   : CALENDAR_ANCHOR;
		local = local_from_instant(at, zone);
	}
	n = guess_boundary(period, first, local);
	*start = boundary(period, first, zone, n);
	while (*start > at)
		*start = boundary(period, first, zone, --n);
	*end = boundary(period, first, zone, n + 1);
	while (*end <= at)
	{
		*start = *end;
		*end = boundary(period, first, zone, ++n + 1);
	}
}

/*
 * SQL: _grownext.entitlement_period(period text, anchor timestamptz, time_zone text,
 *		at timestamptz) -> timestamptz[]: start and end
 */
Datum
gn_entitlement_period(PG_FUNCTION_ARGS)
{
	char *name;
	GnPeriod period;
	TimestampTz anchor = 0;
	pg_tz *zone;
	TimestampTz bounds[2];
	Datum elements[2];

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2) || PG_ARGISNULL(3))
		PG_RETURN_NULL();
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (!gn_period_parse(name, &period))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("period \"%s\" does not exist", name),
						errhint("Use hour, day, week, month, year or never.")));
	if (!PG_ARGISNULL(1))
		anchor = PG_GETARG_TIMESTAMPTZ(1);
	zone = pg_tzset(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	if (zone == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("time zone does not exist")));
	gn_period_bounds(period, PG_ARGISNULL(1) ? NULL : &anchor, zone,
					 PG_GETARG_TIMESTAMPTZ(3), &bounds[0], &bounds[1]);
	elements[0] = TimestampTzGetDatum(bounds[0]);
	elements[1] = TimestampTzGetDatum(bounds[1]);
	PG_RETURN_ARRAYTYPE_P(construct_array(elements, 2, TIMESTAMPTZOID,
										  sizeof(TimestampTz), FLOAT8PASSBYVAL,
										  TYPALIGN_DOUBLE));
}
