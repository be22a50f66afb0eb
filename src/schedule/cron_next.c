/*
 * src/schedule/cron_next.c
 *	  From a cron expression and a time zone to the next instant.
 *
 * Local time runs in stretches of one offset each. At the end of a stretch the local
 * clock jumps: forward, and local times are skipped, or back, and local times repeat.
 *
 * An expression that names its hours fires when the local clock first reads its time
 * or a later one. So a skipped time fires at the first instant after the gap, several
 * skipped times fire once, and a repeated time fires the first time only. The walk
 * below therefore carries "passed", the local time up to which everything has fired.
 *
 * An expression that leaves the hour open (*, a step, all hours) is an interval: it
 * fires whenever the local clock reads one of its times, so an hourly schedule keeps
 * firing every hour. A skipped time is skipped, a repeated one fires twice.
 */
#include "postgres.h"

#include "schedule/cron.h"

#define DAY_SECONDS 86400
/* No zone ever set its clock back by more: how far before "after" the walk begins. */
#define LOOK_BACK (2 * DAY_SECONDS)
/* After this many years the calendar repeats, weekdays included. */
#define CALENDAR_YEARS 400

typedef struct Date
{
	int64 year;
	int month; /* 1 to 12 */
	int day;   /* 1 to 31 */
} Date;

static int64
floor_divide(int64 value, int64 by)
{
	int64 quotient = value / by;

	return value % by < 0 ? quotient - 1 : quotient;
}

/* Days since 1970-01-01 of a date, in the Gregorian calendar of years before it, too.
 */
static int64
days_of_date(int64 year, int month, int day)
{
	int64 y =
		month > 2 ? year : year - 1; /* years begin in March: leap days come last */
	int64 era = floor_divide(y, 400);
	int64 year_of_era = y - era * 400;
	int64 day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;

	return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 +
		   day_of_year - 719468;
}

static Date
date_of_days(int64 days)
{
	int64 era = floor_divide(days + 719468, 146097);
	int64 day_of_era = days + 719468 - era * 146097;
	int64 year_of_era =
		(day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) /
		365;
	int64 day_of_year =
		day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	int64 month = (5 * day_of_year + 2) / 153;
	Date date;

	date.day = (int) (day_of_year - (153 * month + 2) / 5 + 1);
	date.month = (int) (month < 10 ? month + 3 : month - 9);
	date.year = year_of_era + era * 400 + (date.month <= 2 ? 1 : 0);
	return date;
}

static int
month_length(int64 year, int month)
{
	static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

	if (month == 2 && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0))
		return 29;
	return lengths[month - 1];
}

/* Days of the month, as bits 1 to 31, that the weekday field names. */
static uint32
weekday_days(const GnCron *cron, int64 first_day, int length)
{
	int weekday = (int) (((first_day + 4) % 7 + 7) % 7); /* 1970-01-01: a Thursday */
	uint32 days = 0;

	for (int day = 1; day <= length; day++, weekday = (weekday + 1) % 7)
	{
		uint32 bit = (uint32) 1 << weekday;

		if ((cron->weekdays & bit) || (cron->nth_weekdays[(day + 6) / 7] & bit) ||
			((cron->last_weekdays & bit) && day + 7 > length))
			days |= (uint32) 1 << day;
	}
	return days;
}

/*
 * Days of a month that match, as bits 1 to 31. Vixie's rule: when both day fields are
 * restricted, a day that matches either will do; when one begins with *, both must
 * match.
 */
static uint32
matching_days(const GnCron *cron, int64 year, int month)
{
	int length = month_length(year, month);
	uint32 all = (uint32) (((uint64) 2 << length) - 2);
	uint32 days = cron->days & all;
	uint32 weekdays;

	if ((cron->months & ((uint32) 1 << month)) == 0)
		return 0;
	for (int before = 0; before < length; before++)
	{
		if (cron->days_before_last & ((uint32) 1 << before))
			days |= (uint32) 1 << (length - before);
	}
	weekdays = weekday_days(cron, days_of_date(year, month, 1), length);
	if (cron->any_day || cron->any_weekday)
		return days & weekdays;
	return days | weekdays;
}

/* The lowest bit that is set from a position on; -1: none. */
static int
next_bit(uint64 bits, int from)
{
	for (int i = from; i < 60; i++)
	{
		if (bits & (UINT64CONST(1) << i))
			return i;
	}
	return -1;
}

/* The first time of day, in seconds, that matches and is not before another; -1: none.
 */
static int
next_time(const GnCron *cron, int from)
{
	int hour = from / 3600;
	int minute = from / 60 % 60;
	int second = from % 60;

	if (cron->hours & ((uint32) 1 << hour))
	{
		int found;

		if ((cron->minutes & (UINT64CONST(1) << minute)) &&
			(found = next_bit(cron->seconds, second)) >= 0)
			return hour * 3600 + minute * 60 + found;
		if ((found = next_bit(cron->minutes, minute + 1)) >= 0)
			return hour * 3600 + found * 60 + next_bit(cron->seconds, 0);
	}
	hour = next_bit(cron->hours, hour + 1);
	if (hour < 0)
		return -1;
	return hour * 3600 + next_bit(cron->minutes, 0) * 60 + next_bit(cron->seconds, 0);
}

/* The first local time (seconds since 1970-01-01, as its clock counts) that matches
 * and is not before another; false: none within a turn of the calendar. */
static bool
next_local(const GnCron *cron, int64 from, int64 *match)
{
	int64 day = floor_divide(from, DAY_SECONDS);
	int time = next_time(cron, (int) (from - day * DAY_SECONDS));
	Date date;
	uint32 days;

	if (time < 0)
	{
		day++;
		time = next_time(cron, 0);
	}
	date = date_of_days(day);
	days = matching_days(cron, date.year, date.month);
	if ((days & ((uint32) 1 << date.day)) == 0)
		time = next_time(cron, 0);
	days &= ~(((uint32) 1 << date.day) - 1);
	for (int months = 0; days == 0 && months <= 12 * CALENDAR_YEARS; months++)
	{
		if (date.month == 12)
			date.year++;
		date.month = date.month % 12 + 1;
		days = matching_days(cron, date.year, date.month);
		if (days)
			time = next_time(cron, 0);
	}
	if (days == 0 || date.year > GN_CRON_MAX_YEAR)
		return false;
	*match =
		days_of_date(date.year, date.month, next_bit(days, 1)) * DAY_SECONDS + time;
	return true;
}

bool
gn_cron_possible(const GnCron *cron)
{
	int64 match;

	return next_local(cron, days_of_date(2000, 1, 1) * DAY_SECONDS, &match);
}

/* The first fire of an interval: whenever the local clock reads a time that matches. */
static bool
next_of_interval(const GnCron *cron, const GnCronZone *zone, int64 from, int64 *next)
{
	int64 match;

	for (;;)
	{
		int64 until;
		int64 offset = zone->offset(zone->zone, from, &until);

		if (!next_local(cron, from + offset, &match))
			return false;
		if (match - offset < until)
		{
			*next = match - offset;
			return true;
		}
		from = until;
	}
}

/* The first fire after an instant of an expression that names its hours. */
static bool
next_of_fixed(const GnCron *cron, const GnCronZone *zone, int64 after, int64 *next)
{
	int64 begin = after - LOOK_BACK; /* of the stretch */
	int64 passed = PG_INT64_MIN; /* local times before this one have had their fire */

	for (;;)
	{
		int64 until;
		int64 offset = zone->offset(zone->zone, begin, &until);
		int64 local = begin + offset;
		int64 from;
		int64 match;

		if (passed == PG_INT64_MIN)
			passed = local;
		/* What the jump to this stretch skipped has its fire at the stretch's begin. */
		from = begin > after ? passed : Max(passed, after + 1 + offset);
		if (until > after + 1)
		{
			if (!next_local(cron, from, &match))
				return false;
			if (match <= local || match - offset < until)
			{
				*next = Max(match - offset, begin);
				return true;
			}
		}
		if (until == PG_INT64_MAX)
			return false; /* not reached: the match lies before */
		passed = Max(passed, until + offset);
		begin = until;
	}
}

bool
gn_cron_next(const GnCron *cron, const GnCronZone *zone, int64 after, int64 *next)
{
	if (cron->every > 0)
	{
		*next = (floor_divide(after, cron->every) + 1) * cron->every;
		return *next < days_of_date(GN_CRON_MAX_YEAR + 1, 1, 1) * DAY_SECONDS;
	}
	if (cron->interval)
		return next_of_interval(cron, zone, after + 1, next);
	return next_of_fixed(cron, zone, after, next);
}

bool
gn_cron_last(const GnCron *cron, const GnCronZone *zone, int64 after, int64 upto,
			 int64 *last)
{
	int64 low = after; /* the first fire after it is not after upto */
	int64 high = upto; /* the first fire after it is */
	int64 found;

	if (after >= upto || !gn_cron_next(cron, zone, after, last) || *last > upto)
		return false;
	while (high - low > 1)
	{
		int64 middle = low + (high - low) / 2;

		if (gn_cron_next(cron, zone, middle, &found) && found <= upto)
		{
			low = middle;
			*last = found;
		}
		else
			high = middle;
	}
	return true;
}
