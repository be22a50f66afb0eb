/*
 * src/core/limits.c
 *	  Rate limits for SQL of our own, and what counts as too many failed attempts.
 *
 * A failed attempt is counted beside the transaction, so the count stays when the
 * caller raises. It is no lock that falls shut: of failure_limit attempts one comes
 * back every failure_period / failure_limit, so nobody is shut out for longer than
 * that by somebody else's guessing, and guessing goes at that pace. Success forgets
 * the failures.
 */
#include "postgres.h"

#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "core/core.h"

GN_FUNCTION(gn_core_rate_take);
GN_FUNCTION(gn_core_rate_peek);
GN_FUNCTION(gn_core_rate_clear);
GN_FUNCTION(gn_core_rate_facts);
GN_FUNCTION(gn_core_failure_check);
GN_FUNCTION(gn_core_failure_note);
GN_FUNCTION(gn_core_failure_clear);

static int failure_limit = 10;
static int failure_period = 900;

GnRateVerdict
gn_failure_check(const char *scope, const void *key, size_t len)
{
	return gn_rate_peek(scope, key, len, failure_limit, failure_period * USECS_PER_SEC,
						1);
}

GnRateVerdict
gn_failure_note(const char *scope, const void *key, size_t len)
{
	return gn_rate_take(scope, key, len, failure_limit, failure_period * USECS_PER_SEC,
						1);
}

void
gn_failure_clear(const char *scope, const void *key, size_t len)
{
	(void) gn_rate_forget(scope, key, len);
}

/* Scope and key, the first two arguments. */
static char *
scope_argument(FunctionCallInfo fcinfo, const char **key, size_t *len)
{
	text *given;

	for (int i = 0; i < PG_NARGS(); i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("no argument of a rate limit may be null")));
	}
	given = PG_GETARG_TEXT_PP(1);
	*key = VARDATA_ANY(given);
	*len = VARSIZE_ANY_EXHDR(given);
	return text_to_cstring(PG_GETARG_TEXT_PP(0));
}

int64
gn_interval_period(const Interval *interval)
{
	double days = (double) interval->month * DAYS_PER_MONTH + interval->day;
	double span = days * USECS_PER_DAY + interval->time;

	if (!(span >= 1 && span <= GN_RATE_MAX_PERIOD))
		return 0;
	return ((int64) interval->month * DAYS_PER_MONTH + interval->day) * USECS_PER_DAY +
		   interval->time;
}

static Datum
return_verdict(FunctionCallInfo fcinfo, const GnRateVerdict *verdict)
{
	TupleDesc tupdesc;
	Datum values[5];
	bool nulls[5] = {0};

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = BoolGetDatum(verdict->allowed);
	values[1] = Int64GetDatum(verdict->limit);
	values[2] = Int64GetDatum(verdict->remaining);
	values[3] = TimestampTzGetDatum(verdict->retry_at);
	values[4] = TimestampTzGetDatum(verdict->reset_at);
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

/* SQL: _grownext.core_rate_take(scope text, key text, burst bigint, period interval,
 * cost bigint) */
Datum
gn_core_rate_take(PG_FUNCTION_ARGS)
{
	const char *key;
	size_t len;
	char *scope = scope_argument(fcinfo, &key, &len);
	GnRateVerdict verdict =
		gn_rate_take(scope, key, len, PG_GETARG_INT64(2),
					 gn_interval_period(PG_GETARG_INTERVAL_P(3)), PG_GETARG_INT64(4));

	return return_verdict(fcinfo, &verdict);
}

/* SQL: _grownext.core_rate_peek(scope text, key text, burst bigint, period interval,
 * cost bigint) */
Datum
gn_core_rate_peek(PG_FUNCTION_ARGS)
{
	const char *key;
	size_t len;
	char *scope = scope_argument(fcinfo, &key, &len);
	GnRateVerdict verdict =
		gn_rate_peek(scope, key, len, PG_GETARG_INT64(2),
					 gn_interval_period(PG_GETARG_INTERVAL_P(3)), PG_GETARG_INT64(4));

	return return_verdict(fcinfo, &verdict);
}

/* SQL: _grownext.core_rate_clear(scope text, key text) */
Datum
gn_core_rate_clear(PG_FUNCTION_ARGS)
{
	const char *key;
	size_t len;
	char *scope = scope_argument(fcinfo, &key, &len);

	PG_RETURN_BOOL(gn_rate_forget(scope, key, len));
}

/* SQL: _grownext.core_failure_check(scope text, key text) */
Datum
gn_core_failure_check(PG_FUNCTION_ARGS)
{
	const char *key;
	size_t len;
	char *scope = scope_argument(fcinfo, &key, &len);
	GnRateVerdict verdict = gn_failure_check(scope, key, len);

	return return_verdict(fcinfo, &verdict);
}

/* SQL: _grownext.core_failure_note(scope text, key text) */
Datum
gn_core_failure_note(PG_FUNCTION_ARGS)
{
	const char *key;
	size_t len;
	char *scope = scope_argument(fcinfo, &key, &len);
	GnRateVerdict verdict = gn_failure_note(scope, key, len);

	return return_verdict(fcinfo, &verdict);
}

/* SQL: _grownext.core_failure_clear(scope text, key text) */
Datum
gn_core_failure_clear(PG_FUNCTION_ARGS)
{
	const char *key;
	size_t len;
	char *scope = scope_argument(fcinfo, &key, &len);

	gn_failure_clear(scope, key, len);
	PG_RETURN_VOID();
}

/* SQL: _grownext.core_rate_facts() */
Datum
gn_core_rate_facts(PG_FUNCTION_ARGS)
{
	GnRateUse use = gn_rate_use();
	TupleDesc tupdesc;
	Datum values[5];
	bool nulls[5] = {0};

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = BoolGetDatum(use.shared);
	values[1] = Int64GetDatum(use.buckets);
	values[2] = Int64GetDatum(use.used);
	values[3] = Int64GetDatum(use.evicted);
	values[4] = TimestampTzGetDatum(use.evicted_at);
	nulls[4] = use.evicted_at == 0;
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

void
gn_limits_init(void)
{
	DefineCustomIntVariable("grownext.failure_limit",
							"Failed attempts in a row before the next one must wait.",
							"Per credential, subject or address that they concern.",
							&failure_limit, 10, 1, 10000, PGC_SIGHUP, 0, NULL, NULL,
							NULL);
	DefineCustomIntVariable(
		"grownext.failure_period",
		"Time in which all of grownext.failure_limit attempts come back.", NULL,
		&failure_period, 900, 1, 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
}
