/*
 * src/queue/time_limit.c
 *	  How long a handler may take.
 *
 * statement_timeout is armed by a backend's main loop alone, so a worker needs a timer
 *of its own.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "queue/time_limit.h"

#define TIMEOUT_REPEAT 1000 /* ms between cancels of a handler that catches them */
#define TIMEOUT_GRACE 10    /* so many, then the process ends */

static TimeoutId limit_timer;
static bool limit_registered = false;
static volatile sig_atomic_t limit_fired = 0;

/* In a signal handler. */
static void
limit_reached(void)
{
	limit_fired++;
	InterruptPending = true;
	QueryCancelPending = true;
	if (limit_fired > TIMEOUT_GRACE)
		ProcDiePending = true;
	SetLatch(MyLatch);
}

void
gn_time_limit_start(int64 milliseconds)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), milliseconds);

	if (!limit_registered)
	{
		limit_timer = RegisterTimeout(USER_TIMEOUT, limit_reached);
		limit_registered = true;
	}
	enable_timeout_every(limit_timer, end, TIMEOUT_REPEAT);
}

void
gn_time_limit_stop(void)
{
	if (limit_registered)
		disable_timeout(limit_timer, false);
}

void
gn_time_limit_clear(void)
{
	limit_fired = 0;
}

void
gn_time_limit_blame(void)
{
	limit_fired = Max(limit_fired, 1);
}

bool
gn_time_limit_reached(void)
{
	return limit_fired > 0;
}

bool
gn_time_limit_ends_process(void)
{
	return limit_fired > TIMEOUT_GRACE;
}
