/* test/unit/cron_test.c -- cron expressions, the calendar, and clocks that jump */
#include "postgres.h"

#include "schedule/cron.c"
#include "schedule/cron_next.c"
#include "tap.h"

/* A zone with a few jumps: from an instant on, an offset. */
typedef struct Jump
{
	int64 from;
	int64 offset;
} Jump;

static int64
jumping(const void *zone, int64 at, int64 *until)
{
	const Jump *jump = zone;

	while (jump[1].from <= at)
		jump++;
	*until = jump[1].from;
	return jump->offset;
}

static int64
instant(int64 year, int month, int day, int hour, int minute, int second)
{
	return days_of_date(year, month, day) * DAY_SECONDS + hour * 3600 + minute * 60 +
		   second;
}

static bool
parses(const char *text, GnCron *cron)
{
	GnCronError error;

	return gn_cron_parse(text, strlen(text), cron, &error);
}

static void
refuses(const char *text, const char *field, const char *reason)
{
	GnCron cron;
	GnCronError error;

	ok(!gn_cron_parse(text, strlen(text), &cron, &error), "refused: %s", text);
	is_str(error.field ? error.field : "", field, "its field: %s", text);
	is_str(error.reason, reason, "the reason: %s", text);
}

static void
fires(const char *text, const Jump *jumps, int64 after, int count, const int64 *wanted)
{
	const GnCronZone zone = {.offset = jumping, .zone = jumps};
	GnCron cron;
	int64 next;

	ok(parses(text, &cron), "parses: %s", text);
	for (int i = 0; i < count; i++)
	{
		ok(gn_cron_next(&cron, &zone, after, &next) && next == wanted[i],
		   "%s, fire %d: %lld, wanted %lld", text, i + 1, (long long) next,
		   (long long) wanted[i]);
		ok(gn_cron_last(&cron, &zone, after, next, &after) && after == next,
		   "and it is the last one up to itself");
	}
}
#define FIRES(text, jumps, after, ...)                                                 \
	fires(text, jumps, after, (int) lengthof(((int64[]){__VA_ARGS__})),                \
		  (int64[]){__VA_ARGS__})

static void
test_calendar(void)
{
	int64 day = days_of_date(-400, 3, 1);
	bool same = true;

	for (; day < days_of_date(10000, 1, 1); day += 13)
	{
		Date date = date_of_days(day);

		same &= days_of_date(date.year, date.month, date.day) == day &&
				date.month >= 1 && date.month <= 12 && date.day >= 1 &&
				date.day <= month_length(date.year, date.month);
	}
	ok(same, "days and dates are each other's inverse over ten thousand years");
	ok(days_of_date(1970, 1, 1) == 0 && days_of_date(2000, 3, 1) == 11017 &&
		   days_of_date(1900, 3, 1) == -25508,
	   "known days");
}

static void
test_fields(void)
{
	GnCron cron;

	ok(parses("*/20 1-5/2,23 1,L-3,L JAN-MAR,12 fri-SUN", &cron), "all kinds of items");
	ok(cron.seconds == 1, "second 0");
	ok(cron.minutes == (1 | 1 << 20 | UINT64CONST(1) << 40), "minutes");
	ok(cron.hours == (1 << 1 | 1 << 3 | 1 << 5 | 1 << 23), "hours");
	ok(cron.interval, "a step among the hours");
	ok(cron.days == 1 << 1 && cron.days_before_last == (1 << 0 | 1 << 3), "days");
	ok(cron.months == (1 << 1 | 1 << 2 | 1 << 3 | 1 << 12), "months");
	ok(cron.weekdays == (1 << 5 | 1 << 6 | 1 << 0), "weekdays up to SUN");
	ok(!cron.any_day && !cron.any_weekday, "both day fields are restricted");
	ok(parses("0 0 2 ? * 7/2,1#1,TUEL,3#L", &cron), "six fields");
	ok(cron.weekdays == (1 << 0 | 1 << 2 | 1 << 4 | 1 << 6), "7/2 begins on Sunday");
	ok(cron.nth_weekdays[1] == 1 << 1 && cron.last_weekdays == (1 << 2 | 1 << 3),
	   "nth and last weekdays");
	ok(!cron.interval && parses("0 0-23 * * *", &cron) && cron.interval,
	   "all hours are an interval");
	ok(parses("\t0  0 * *\t* ", &cron), "spaces and tabs");
	ok(parses("@every 1d2h3m4s", &cron) && cron.every == 93784, "@every");
	ok(parses("@EVERY  366d", &cron) && cron.every == GN_CRON_MAX_EVERY, "its bound");
	refuses("", "", "it is empty");
	refuses("* * * *", "", "there must be five fields, or six with seconds");
	refuses("60 * * * *", "minute", "a value is out of range");
	refuses("* 5-1 * * *", "hour", "a range runs backwards");
	refuses("* * 0 * *", "day of month", "a value is out of range");
	refuses("* * * MAYO *", "month", "something is left over behind a value");
	refuses("* * * * 1#6", "day of week", "# takes 1 to 5, or L for the last");
	refuses("*/61 * * * *", "minute", "a step is longer than the field");
	refuses("0 0 30 2 *", "", "no date ever matches it");
	refuses("0 0 */15 * TUE#2", "", "no date ever matches it");
	refuses("@reboot", "", "unknown macro");
	refuses("@every 367d", "", "@every takes one second to 366 days");
}

static void
test_times(void)
{
	static const Jump utc[] = {{PG_INT64_MIN, 0}, {PG_INT64_MAX, 0}};
	const int64 forward = instant(2025, 3, 30, 1, 0, 0);
	const int64 back = instant(2025, 10, 26, 1, 0, 0);
	const Jump berlin[] = {{PG_INT64_MIN, 3600},
						   {forward, 7200},
						   {back, 3600},
						   {PG_INT64_MAX, 0}};
	/* a clock that hesitates: back an hour, an hour later again, then forward three */
	const Jump odd[] = {{PG_INT64_MIN, 7200},
						{forward, 3600},
						{forward + 3600, 0},
						{forward + 9000, 10800},
						{PG_INT64_MAX, 0}};
	const GnCronZone zone = {.offset = jumping, .zone = utc};
	GnCron cron;
	int64 next;

	FIRES("0 0 29 2 *", utc, instant(2096, 3, 1, 0, 0, 0),
		  instant(2104, 2, 29, 0, 0, 0));
	FIRES("0 0 * 2 MON#5", utc, instant(2024, 3, 1, 0, 0, 0),
		  instant(2044, 2, 29, 0, 0, 0));
	FIRES("0 12 13 * FRI", utc, instant(2025, 6, 5, 0, 0, 0),
		  instant(2025, 6, 6, 12, 0, 0), instant(2025, 6, 13, 12, 0, 0),
		  instant(2025, 6, 20, 12, 0, 0));
	FIRES("0 12 */2 * MON", utc, instant(2025, 6, 1, 12, 0, 0),
		  instant(2025, 6, 9, 12, 0, 0), instant(2025, 6, 23, 12, 0, 0));
	FIRES("59 59 23 31 12 *", utc, instant(2025, 1, 1, 0, 0, 0),
		  instant(2025, 12, 31, 23, 59, 59), instant(2026, 12, 31, 23, 59, 59));
	FIRES("@every 7s", utc, 14, 21, 28);
	FIRES("@every 7s", utc, -1, 0, 7);
	FIRES("30 2 * * *", berlin, forward - 7200, forward, forward + 84600);
	FIRES("0,15,30,45 2 * * *", berlin, forward - 7200, forward, forward + 82800);
	FIRES("30 2 * * *", berlin, back - 7200, back - 1800, back + 88200);
	FIRES("30 2 * * *", berlin, back + 60, back + 88200);
	FIRES("30 * * * *", berlin, back - 3600, back - 1800, back + 1800, back + 5400);
	FIRES("0 */2 * * *", berlin, forward - 7200, forward + 3600);
	FIRES("*/30 2 * * *", berlin, back - 3601, back - 3600, back - 1800, back + 86400);
	/* local time: up to 03:00, 02:00 to 03:00, 02:00 to 03:30, from 06:30 on */
	FIRES("0 1 * * *", odd, forward - 7201, forward - 7200, forward + 75600);
	FIRES("0 2 * * *", odd, forward - 7200, forward - 3600, forward + 79200);
	FIRES("0 3 * * *", odd, forward - 7200, forward + 7200, forward + 82800);
	FIRES("0 4,5 * * *", odd, forward - 7200, forward + 9000, forward + 86400);
	ok(parses("0 0 1 1 *", &cron) &&
		   !gn_cron_next(&cron, &zone, instant(9999, 1, 1, 0, 0, 0), &next),
	   "nothing after the year 9999");
	ok(!gn_cron_last(&cron, &zone, instant(2025, 1, 1, 0, 0, 0),
					 instant(2025, 12, 31, 0, 0, 0), &next),
	   "no last one where there is none");
	ok(gn_cron_last(&cron, &zone, instant(1900, 1, 1, 0, 0, 0),
					instant(2025, 12, 31, 0, 0, 0), &next) &&
		   next == instant(2025, 1, 1, 0, 0, 0),
	   "the last one of a hundred and twenty-five");
}

int
main(void)
{
	test_calendar();
	test_fields();
	test_times();
	return tap_done();
}
