/*
 * src/queue/attempt.c
 *	  What becomes of an attempt that failed: tried again, dead, or cancelled.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/worker.h"
#include "queue/attempt.h"
#include "queue/flow.h"
#include "queue/storage.h"
#include "queue/time_limit.h"

/* Error message for last_error: code and primary message, nothing of detail, hint or
 * query. */
static char *
describe_error(const ErrorData *error, const GnQueue *queue)
{
	const char *code = unpack_sql_state(error->sqlerrcode);
	char *text;
	int length;

	if (gn_time_limit_reached() && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		text =
			psprintf("%s: timed out after " INT64_FORMAT " ms", code, queue->timeout);
	else
		text = psprintf("%s: %s", code, error->message ? error->message : "no message");
	length = (int) strlen(text);
	if (length > GN_MAX_ERROR)
		text[pg_mbcliplen(text, length, GN_MAX_ERROR)] = '\0';
	return text;
}

/* How long a handler that raised job_snooze wants to wait: its DETAIL is an interval.
 */
static double
snooze_seconds(const ErrorData *error, const GnQueue *queue)
{
	static GnQuery query = GN_QUERY("SELECT _grownext.queue_seconds($1)", TEXTOID);
	Datum values[1];
	bool isnull;
	double seconds;

	if (error->detail == NULL)
		return queue->backoff_base;
	values[0] = CStringGetTextDatum(error->detail);
	(void) gn_spi_execute(&query, values, NULL, false);
	seconds = DatumGetFloat8(
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	return isnull ? queue->backoff_base : Max(seconds, 1.0);
}

static GnFailure
judge_failure(const GnJob *job, const ErrorData *error)
{
	if (error->sqlerrcode == GN_ERRCODE_JOB_SNOOZE)
		return GN_FAILURE_SNOOZE;
	if (error->sqlerrcode == GN_ERRCODE_JOB_DISCARD ||
		job->failures + 1 >= job->max_attempts)
		return GN_FAILURE_DEAD;
	return GN_FAILURE_RETRY;
}

static GnMeasure
measure_of(GnFailure failure)
{
	switch (failure)
	{
		case GN_FAILURE_SNOOZE:
			return GN_MEASURE_SNOOZED;
		case GN_FAILURE_DEAD:
			return GN_MEASURE_DEAD;
		default:
			return GN_MEASURE_FAILED;
	}
}

GnMeasure
gn_attempt_fail(const GnQueue *queue, const GnJob *job, const ErrorData *error,
				char **text)
{
	GnFailure failure = judge_failure(job, error);
	TimestampTz now = gn_now();
	double delay = 0;
	bool cancelled;
	GnSpi spi;

	*text = describe_error(error, queue);
	gn_spi_begin(&spi);
	cancelled = gn_storage_cancelled(job->id);
	if (failure == GN_FAILURE_SNOOZE)
		delay = snooze_seconds(error, queue);
	else if (failure == GN_FAILURE_RETRY)
		delay = gn_queue_backoff(queue, job->failures);
	if (cancelled)
		gn_storage_cancel(job, now, GN_CANCELLED);
	else
		gn_storage_fail(job, failure, job->leased_at, now,
						now + (TimestampTz) (delay * USECS_PER_SEC), *text);
	if (cancelled || failure == GN_FAILURE_DEAD)
		gn_flow_over(job, 1, cancelled ? "cancelled" : "dead");
	gn_spi_end(&spi);
	if (failure != GN_FAILURE_DEAD)
		gn_worker_tick_at_commit();
	return cancelled ? GN_MEASURE_CANCELLED : measure_of(failure);
}
