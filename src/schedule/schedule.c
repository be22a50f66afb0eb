/*
 * src/schedule/schedule.c
 *	  The component's descriptor and what SQL needs of C: the cron functions, the
 *	  enqueue of a fire, the call for the scheduler.
 *
 * When a schedule fires is decided in fire.sql; here is no state.
 */
#include "postgres.h"

#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "core/core.h"
#include "core/worker.h"
#include "queue/queue.h"
#include "schedule/cron.h"
#include "schedule/schedule.h"
#include "schedule/zone.h"

GN_FUNCTION(gn_cron_next_sql);
GN_FUNCTION(gn_cron_last_sql);
GN_FUNCTION(gn_schedule_enqueue);
GN_FUNCTION(gn_schedule_wake);

#define MAX_COUNT 10000

/* Seconds from 1970, where time zones count from, to 2000, where timestamps do. */
#define EPOCH_SHIFT ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)

/* Bounds of the years 1 and 9999, in UTC, as seconds since 1970. */
#define FIRST_SECOND INT64CONST(-62135596800)
#define LAST_SECOND INT64CONST(253402300799)

const GnComponent gn_schedule_component = {
	.name = "schedule",
	.tick = "SELECT _grownext.schedule_tick($1)",
};

static void
refuse_null(const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					errmsg("%s must not be null", what)));
}

/* The whole second at or before a time. */
static int64
seconds_of(TimestampTz at)
{
	int64 seconds = at / USECS_PER_SEC;

	if (at % USECS_PER_SEC < 0)
		seconds--;
	return seconds + EPOCH_SHIFT;
}

static TimestampTz
time_of(int64 seconds)
{
	return (seconds - EPOCH_SHIFT) * USECS_PER_SEC;
}

static int64
instant_argument(FunctionCallInfo fcinfo, int argument, const char *name)
{
	TimestampTz at;
	int64 seconds;

	if (PG_ARGISNULL(argument))
		refuse_null(name);
	at = PG_GETARG_TIMESTAMPTZ(argument);
	seconds = TIMESTAMP_NOT_FINITE(at) ? PG_INT64_MIN : seconds_of(at);
	if (seconds < FIRST_SECOND || seconds > LAST_SECOND)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must be a time of the years 1 to %d", name,
							   GN_CRON_MAX_YEAR)));
	return seconds;
}

static void
cron_argument(FunctionCallInfo fcinfo, int argument, GnCron *cron)
{
	GnCronError error;
	char *expression;

	if (PG_ARGISNULL(argument))
		refuse_null("cron");
	expression = text_to_cstring(PG_GETARG_TEXT_PP(argument));
	if (gn_cron_parse(expression, strlen(expression), cron, &error))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid cron expression \"%.*s\"",
					pg_mbcliplen(expression, (int) strlen(expression), 100),
					expression),
			 error.field ? errdetail("Field \"%s\": %s.", error.field, error.reason)
						 : errdetail_internal("Cause: %s.", error.reason),
			 errhint(
				 "Write minute, hour, day of month, month and day of week, such as "
				 "\"30 2 * * MON-FRI\", a second before them if wanted, or a macro: "
				 "@hourly, @daily, @weekly, @monthly, @yearly, @every 30s.")));
}

static GnCronZone
zone_argument(FunctionCallInfo fcinfo, int argument)
{
	if (PG_ARGISNULL(argument))
		refuse_null("time_zone");
	return gn_zone_open(text_to_cstring(PG_GETARG_TEXT_PP(argument)));
}

/* SQL: grownext.cron_next(cron text, after timestamptz, time_zone text, count int) */
Datum
gn_cron_next_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	GnCron cron;
	GnCronZone zone;
	int64 at;
	int count;

	cron_argument(fcinfo, 0, &cron);
	at = instant_argument(fcinfo, 1, "after");
	zone = zone_argument(fcinfo, 2);
	count = PG_ARGISNULL(3) ? 0 : PG_GETARG_INT32(3);
	if (count < 1 || count > MAX_COUNT)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("count must be between 1 and %d", MAX_COUNT)));
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	for (int i = 0; i < count && gn_cron_next(&cron, &zone, at, &at); i++)
	{
		Datum value = TimestampTzGetDatum(time_of(at));
		bool null = false;

		CHECK_FOR_INTERRUPTS();
		tuplestore_putvalues(result->setResult, result->setDesc, &value, &null);
	}
	return (Datum) 0;
}

/* SQL: _grownext.schedule_cron_last(cron text, after timestamptz, upto timestamptz,
 * time_zone text) */
Datum
gn_cron_last_sql(PG_FUNCTION_ARGS)
{
	GnCron cron;
	GnCronZone zone;
	int64 after;
	int64 upto;
	int64 last;

	cron_argument(fcinfo, 0, &cron);
	after = instant_argument(fcinfo, 1, "after");
	upto = instant_argument(fcinfo, 2, "upto");
	zone = zone_argument(fcinfo, 3);
	if (!gn_cron_last(&cron, &zone, after, upto, &last))
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(time_of(last));
}

/* SQL: _grownext.schedule_enqueue(queue text, payload jsonb, priority int, max_attempts
 * int, tenant_id uuid, claims jsonb): whoever makes a schedule fire, its jobs carry the
 * schedule's context. */
Datum
gn_schedule_enqueue(PG_FUNCTION_ARGS)
{
	GnEnqueue request = {0};

	if (PG_ARGISNULL(0))
		refuse_null("queue");
	if (PG_ARGISNULL(1))
		refuse_null("payload");
	if (PG_ARGISNULL(5))
		refuse_null("claims");
	request.queue = text_to_cstring(PG_GETARG_TEXT_PP(0));
	request.payload = PG_GETARG_JSONB_P(1);
	request.priority = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2);
	request.max_attempts = PG_ARGISNULL(3) ? 0 : PG_GETARG_INT32(3);
	request.tenant = PG_ARGISNULL(4) ? NULL : PG_GETARG_UUID_P(4);
	request.claims = PG_GETARG_JSONB_P(5);
	PG_RETURN_INT64(gn_queue_enqueue(&request));
}

/* SQL: _grownext.schedule_wake(): the scheduler looks at the schedules at commit. */
Datum
gn_schedule_wake(PG_FUNCTION_ARGS)
{
	gn_worker_tick_at_commit();
	PG_RETURN_VOID();
}
