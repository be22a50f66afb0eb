/*
 * src/stream/argument.c
 *	  What callers pass: names, positions, leases; and the refusals.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "stream/argument.h"

#define MAX_LEASE (7 * USECS_PER_DAY)
#define MAX_CONSUMER 100

void
gn_stream_refuse_null(const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					errmsg("%s must not be null", what)));
}

char *
gn_stream_text(FunctionCallInfo fcinfo, int argument, const char *what)
{
	if (PG_ARGISNULL(argument))
		gn_stream_refuse_null(what);
	return text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

int64
gn_stream_lease(FunctionCallInfo fcinfo, int argument)
{
	int64 lease = gn_interval_period(PG_GETARG_INTERVAL_P(argument));

	if (lease <= 0 || lease > MAX_LEASE)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a lease must be positive and at most 7 days")));
	return lease;
}

char *
gn_stream_consumer(FunctionCallInfo fcinfo, int argument)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyz"
								  "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:-";
	char *name = gn_stream_text(fcinfo, argument, "consumer");
	size_t length = strlen(name);

	if (length < 1 || length > MAX_CONSUMER || strspn(name, allowed) != length ||
		strchr(".:-", name[0]) != NULL)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid name of a consumer"),
			 errdetail("It has 1 to %d letters, digits and _ . : -, and begins with a "
					   "letter, a digit or _.",
					   MAX_CONSUMER)));
	return name;
}

int64
gn_stream_position(FunctionCallInfo fcinfo, int argument, const char *what)
{
	if (PG_ARGISNULL(argument))
		gn_stream_refuse_null(what);
	if (PG_GETARG_INT64(argument) < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must not be negative", what)));
	return PG_GETARG_INT64(argument);
}
