/* test/fuzz/cron_fuzz.c -- cron expressions, and the times that they name in a zone
 * whose clock jumps once
 *
 * Input: two bytes for the jump in minutes, two for where the walk begins, then the
 * expression. The oracle walks second by second.
 */
#include "schedule/cron.c"
#include "schedule/cron_next.c"

#include "fuzz.h"

#define JUMP_AT INT64CONST(1774746000) /* 2026-03-29 01:00 UTC */
#define WALK 9000

static int64 jump; /* seconds */

static int64
jumping_offset(const void *zone, int64 at, int64 *until)
{
	*until = at < JUMP_AT ? JUMP_AT : PG_INT64_MAX;
	return at < JUMP_AT ? 3600 : 3600 + jump;
}

static bool
local_matches(const GnCron *cron, int64 local)
{
	int64 day = floor_divide(local, DAY_SECONDS);
	int time = (int) (local - day * DAY_SECONDS);
	Date date = date_of_days(day);

	return (cron->hours >> (time / 3600) & 1) != 0 &&
		   (cron->minutes >> (time / 60 % 60) & 1) != 0 &&
		   (cron->seconds >> (time % 60) & 1) != 0 &&
		   (matching_days(cron, date.year, date.month) >> date.day & 1) != 0;
}

/* The first fire in the walk after an instant, by the words of docs/schedule.md; 0:
 * none.
 */
static int64
slow_next(const GnCron *cron, int64 after)
{
	int64 until;
	int64 begin = Min(after, JUMP_AT - 2 * 3600);
	int64 passed = begin + jumping_offset(NULL, begin, &until);

	for (int64 at = begin + 1; at <= after + WALK; at++)
	{
		int64 local = at + jumping_offset(NULL, at, &until);
		bool fires = false;

		if (cron->interval)
			fires = local_matches(cron, local);
		for (int64 each = passed + 1; !cron->interval && each <= local && !fires;
			 each++)
			fires = local_matches(cron, each);
		passed = Max(passed, local);
		if (fires && at > after)
			return at;
	}
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const GnCronZone zone = {.offset = jumping_offset};
	GnCron cron;
	GnCronError error;
	char *expression;
	int64 after;
	int64 next;
	int64 other;

	if (size < 4)
		return 0;
	jump = (int64) ((data[0] | data[1] << 8) % 241 - 120) * 60;
	after = JUMP_AT - 3600 + (data[2] | data[3] << 8) % 7200;
	expression = exact_copy(data + 4, size - 4);
	if (!gn_cron_parse(expression, size - 4, &cron, &error))
		CHECK(error.reason != NULL);
	else if (gn_cron_next(&cron, &zone, after, &next))
	{
		CHECK(next > after);
		CHECK(gn_cron_next(&cron, &zone, next - 1, &other) && other == next);
		CHECK(gn_cron_next(&cron, &zone, after + (next - after) / 2, &other) ==
				  (after + (next - after) / 2 < next) &&
			  other == next);
		CHECK(gn_cron_last(&cron, &zone, after, next, &other) && other == next);
		CHECK(!gn_cron_last(&cron, &zone, after, next - 1, &other));
		if (cron.every > 0)
			CHECK(next % cron.every == 0 && next - after <= cron.every);
		else
			CHECK(slow_next(&cron, after) == (next <= after + WALK ? next : 0));
	}
	else
		CHECK(cron.every == 0 && slow_next(&cron, after) == 0);
	free(expression);
	return 0;
}
