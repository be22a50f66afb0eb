/*
 * src/entitlement/usage.c
 *	  Metering: consume and return, exact, in the caller's transaction.
 *
 * A consume resolves the right as of now and counts (counter.c). Counting may wait for
 * another transaction, and meanwhile the right may have ended. The change marker tells:
 * has anything that answers depend on changed since we resolved, nothing is counted and
 * the question is asked again.
 *
 * Lock order: idempotency key (usage_key.c), then counter.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "core/core.h"
#include "entitlement/credit.h"
#include "entitlement/reservation.h"
#include "entitlement/usage.h"

/* How far the clocks of recorders may be ahead. */
#define AHEAD_MAX (5 * USECS_PER_MINUTE)

GN_FUNCTION(gn_usage_consume);
GN_FUNCTION(gn_usage_require);
GN_FUNCTION(gn_usage_return);
GN_FUNCTION(gn_usage_record);
GN_FUNCTION(gn_usage_set);

Datum
gn_usage_column(int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, isnull);
}

static char *
key_argument(FunctionCallInfo fcinfo, int number)
{
	char *key;

	if (PG_ARGISNULL(number))
		return NULL;
	key = text_to_cstring(PG_GETARG_TEXT_PP(number));
	if (*key == '\0' || strlen(key) > 255)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("an idempotency key has 1 to 255 bytes")));
	return key;
}

/* The feature, the amount, and whose; the rest is the function's. */
static GnUsageCall
call_arguments(FunctionCallInfo fcinfo, const char *operation, int tenant)
{
	GnUsageCall call = {.operation = operation, .now = gn_now()};

	if (PG_ARGISNULL(1) || PG_GETARG_INT64(1) <= 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("amount must be greater than zero")));
	call.amount = PG_GETARG_INT64(1);
	if (!PG_ARGISNULL(0))
		call.feature = text_to_cstring(PG_GETARG_TEXT_PP(0));
	call.tenant =
		gn_caller_tenant(GetUserId(),
						 PG_ARGISNULL(tenant) ? NULL : PG_GETARG_UUID_P(tenant));
	return call;
}

GnUsageCall
gn_usage_arguments(FunctionCallInfo fcinfo, const char *operation, int key)
{
	GnUsageCall call = call_arguments(fcinfo, operation, key + 1);

	call.key = key_argument(fcinfo, key);
	return call;
}

/* As of the call's instant, with what was committed while we waited. */
GnAnswer *
gn_usage_resolve(const GnUsageCall *call)
{
	pg_uuid_t user;
	GnQuestion question = {
		.tenant = call->tenant,
		.feature = call->feature ? call->feature : "",
		.user = gn_context_user(&user),
		.at = call->now,
		.as_of = call->as_of,
	};
	MemoryContext memory = CurrentMemoryContext;
	GnAnswer *answer = gn_entitlement_answer_cached(&question, memory);
	int count;
	GnSpi spi;

	if (answer)
		return answer;
	gn_spi_begin(&spi);
	answer = gn_entitlement_answer(&question, false, memory, &count);
	gn_spi_end(&spi);
	return answer;
}

static void
describe_quota(const GnAnswer *answer, int64 used, GnUsageResult *result)
{
	result->counted = true;
	result->used = used;
	result->unlimited = answer->decision.setting.unlimited;
	result->quota = answer->decision.setting.quota;
	result->resets_at = answer->period_end;
}

static void
describe_state(const GnCounterState *state, GnUsageResult *result)
{
	*result = (GnUsageResult){
		.allowed = true,
		.counted = true,
		.used = state->used,
		.unlimited = state->unlimited,
		.quota = state->quota,
		.resets_at = state->end,
	};
}

static bool
consume_credit(GnUsageCall *call, const GnAnswer *answer, GnUsageResult *result)
{
	GnSpi spi;
	bool settled;

	gn_spi_begin(&spi);
	settled = gn_credit_consume(call, answer, result);
	gn_spi_end(&spi);
	return settled;
}

/* Takes back what expired reservations hold of what was denied; true if there was any.
 */
static bool
reclaim(const GnUsageCall *call, const GnAnswer *answer)
{
	GnSpi spi;
	int count;

	gn_spi_begin(&spi);
	count = gn_reservation_reclaim(&answer->holder, answer->known->id, call);
	gn_spi_end(&spi);
	return count > 0;
}

/* One round: resolve as of now and count. True unless something changed meanwhile. */
static bool
try_consume(GnUsageCall *call, GnUsageResult *result)
{
	const GnAnswer *answer;
	GnCount count;
	GnCounter counter;
	int64 used;

	call->now = gn_now();
	answer = gn_usage_resolve(call);
	*result = (GnUsageResult){.reason = answer->decision.reason};
	if (answer->known == NULL)
		return true; /* denied, with the reason; there is nothing to count */
	if (answer->decision.by_balance)
		return consume_credit(call, answer, result);
	if (answer->known->kind != GN_KIND_METERED && answer->decision.allowed)
		result->reason = "not_metered";
	if (answer->counted && !answer->decision.allowed)
	{
		counter = gn_counter_of(answer);
		describe_quota(answer, gn_counter_used(&counter), result);
	}
	if (result->reason)
		return true;
	count = gn_counter_add(answer, call->amount, call->now, &used);
	if (count == GN_COUNT_AGAIN)
		return false;
	result->counter = gn_counter_of(answer);
	if (count == GN_COUNT_DENIED && reclaim(call, answer))
		return false;
	describe_quota(answer, used, result);
	result->allowed = count == GN_COUNT_DONE;
	if (!result->allowed)
		result->reason = "quota_exceeded";
	return true;
}

void
gn_usage_take(GnUsageCall *call, GnUsageResult *result)
{
	while (!try_consume(call, result))
		CHECK_FOR_INTERRUPTS();
}

static void
consume(GnUsageCall *call, GnUsageResult *result)
{
	GnSpi spi;

	if (call->key == NULL || call->feature == NULL)
	{
		gn_usage_take(call,
					  result); /* without SPI, if nothing is out of the ordinary */
		return;
	}
	gn_spi_begin(&spi);
	if (!gn_usage_key_answers(call, result))
	{
		gn_usage_take(call, result);
		if (result->allowed)
			gn_usage_key_answer(call, result);
		else
			gn_usage_key_drop(call);
	}
	gn_spi_end(&spi);
}

/*
 * Gives units back to a period that still runs, the one that began last if there are
 * two; right or no right, since what was consumed may be given back after the end of a
 * subscription.
 */
static void
give_back_units(const GnUsageCall *call, const GnAnswer *answer, GnUsageResult *result)
{
	static GnQuery query =
		GN_QUERY("SELECT r.feature_id, r.period_start, r.period"
				 " FROM _grownext.entitlement_usage AS r"
				 " JOIN _grownext.entitlement_feature AS f ON f.id = r.feature_id"
				 " AND f.feature = $2 AND f.kind <> 'limit'"
				 " WHERE r.tenant_id = $1 AND r.shard = 0 AND r.period_start <= $3 AND "
				 "r.period_end > $3"
				 " ORDER BY r.period_start DESC LIMIT 1",
				 UUIDOID, TEXTOID, TIMESTAMPTZOID);
	Datum values[3] = {0, CStringGetTextDatum(call->feature),
					   TimestampTzGetDatum(call->now)};
	GnCounter counter;
	GnCounterState state;
	bool isnull;

	*result = (GnUsageResult){.reason = "nothing_to_return"};
	counter.tenant = answer->counted ? answer->holder : call->tenant;
	values[0] = UUIDPGetDatum(&counter.tenant);
	if (gn_spi_execute(&query, values, NULL, false) != 1)
		return;
	counter.feature = DatumGetInt32(gn_usage_column(1, &isnull));
	counter.start = DatumGetTimestampTz(gn_usage_column(2, &isnull));
	gn_period_parse(TextDatumGetCString(gn_usage_column(3, &isnull)), &counter.period);
	if (!gn_counter_give_back(&counter, call->amount, call->now, &state))
		return;
	describe_state(&state, result);
}

static void
give_back(GnUsageCall *call, GnUsageResult *result)
{
	const GnAnswer *answer = gn_usage_resolve(call);

	while (answer->known && answer->known->kind == GN_KIND_CREDIT)
	{
		CHECK_FOR_INTERRUPTS();
		if (gn_credit_return(call, answer, result))
			return;
		answer = gn_usage_resolve(call);
	}
	give_back_units(call, answer, result);
}

static void
return_units(GnUsageCall *call, GnUsageResult *result)
{
	GnSpi spi;

	if (call->feature == NULL)
	{
		*result = (GnUsageResult){.reason = "nothing_to_return"};
		return;
	}
	gn_spi_begin(&spi);
	if (call->key == NULL || !gn_usage_key_answers(call, result))
	{
		give_back(call, result);
		if (call->key && result->allowed)
			gn_usage_key_answer(call, result);
		else if (call->key)
			gn_usage_key_drop(call);
	}
	gn_spi_end(&spi);
}

/*
 * The answer to what is written down whatever the limit; NULL with the reason in
 * result: it is not counted.
 */
static const GnAnswer *
resolve_counted(const GnUsageCall *call, GnUsageResult *result)
{
	const GnAnswer *answer = gn_usage_resolve(call);

	*result = (GnUsageResult){.reason = answer->decision.reason};
	if (answer->known && answer->known->kind != GN_KIND_METERED)
		result->reason = "not_metered";
	else if (answer->counted)
		return answer;
	return NULL;
}

static void
record(const GnUsageCall *call, GnUsageResult *result)
{
	GnCounterState state;
	const GnAnswer *answer;
	GnSpi spi;

	gn_spi_begin(&spi);
	if (call->feature == NULL || !gn_usage_key_answers(call, result))
	{
		do
		{
			CHECK_FOR_INTERRUPTS();
			answer = resolve_counted(call, result);
		} while (answer && gn_counter_record(answer, call->as_of, call->amount,
											 call->now, &state) == GN_COUNT_AGAIN);
		if (answer)
			describe_state(&state, result);
		if (call->feature && answer)
			gn_usage_key_answer(call, result);
		else if (call->feature)
			gn_usage_key_drop(call);
	}
	gn_spi_end(&spi);
}

static void
set_used(const GnUsageCall *call, GnUsageResult *result)
{
	GnCounterState state;
	const GnAnswer *answer;
	GnCount count = GN_COUNT_DENIED;
	GnSpi spi;

	gn_spi_begin(&spi);
	do
	{
		CHECK_FOR_INTERRUPTS();
		answer = resolve_counted(call, result);
		if (answer)
			count = gn_counter_set(answer, call->amount, call->now, &state);
	} while (count == GN_COUNT_AGAIN);
	if (count == GN_COUNT_DONE)
		describe_state(&state, result);
	gn_spi_end(&spi);
}

/* The expression names the type; asking the catalogue what a function returns is dear.
 */
static TupleDesc
result_type(FunctionCallInfo fcinfo)
{
	Oid type = get_fn_expr_rettype(fcinfo->flinfo);
	TupleDesc descriptor;

	if (OidIsValid(type))
		return lookup_rowtype_tupdesc(type, -1);
	if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return BlessTupleDesc(descriptor);
}

static Datum
result_datum(FunctionCallInfo fcinfo, const GnUsageResult *result)
{
	TupleDesc descriptor;
	HeapTuple tuple;
	Datum values[6] = {BoolGetDatum(result->allowed)};
	bool nulls[6] = {false, true, true, true, true, true};

	if (result->counted)
	{
		values[1] = Int64GetDatum(result->used);
		nulls[1] = false;
		if (!result->unlimited)
		{
			values[2] = Int64GetDatum(result->quota);
			values[3] = Int64GetDatum(Max(result->quota - result->used, 0));
			nulls[2] = nulls[3] = false;
		}
		values[4] = TimestampTzGetDatum(result->resets_at);
		nulls[4] = TIMESTAMP_IS_NOEND(result->resets_at);
	}
	if (result->reason)
	{
		values[5] = CStringGetTextDatum(result->reason);
		nulls[5] = false;
	}
	descriptor = result_type(fcinfo);
	tuple = heap_form_tuple(descriptor, values, nulls);
	ReleaseTupleDesc(descriptor);
	return HeapTupleGetDatum(tuple);
}

/* SQL: grownext.usage_consume(feature, amount, idempotency_key, tenant_id) */
Datum
gn_usage_consume(PG_FUNCTION_ARGS)
{
	GnUsageCall call = gn_usage_arguments(fcinfo, "consume", 2);
	GnUsageResult result;

	consume(&call, &result);
	PG_RETURN_DATUM(result_datum(fcinfo, &result));
}

void
gn_usage_refuse(const GnUsageCall *call, const GnUsageResult *result)
{
	if (strcmp(result->reason, "quota_exceeded") == 0)
		ereport(ERROR, (errcode(GN_ERRCODE_QUOTA_EXCEEDED),
						errmsg("the quota of \"%s\" is used up", call->feature),
						errdetail("%lld of %lld are used, %lld more were asked for.",
								  (long long) result->used, (long long) result->quota,
								  (long long) call->amount)));
	ereport(ERROR, (errcode(GN_ERRCODE_NOT_ENTITLED),
					errmsg("the tenant is not entitled to \"%s\"",
						   call->feature ? call->feature : ""),
					errdetail("Reason: %s.", result->reason)));
}

/* SQL: grownext.usage_require(feature, amount, idempotency_key, tenant_id) */
Datum
gn_usage_require(PG_FUNCTION_ARGS)
{
	GnUsageCall call = gn_usage_arguments(fcinfo, "consume", 2);
	GnUsageResult result;

	consume(&call, &result);
	if (!result.allowed)
		gn_usage_refuse(&call, &result);
	PG_RETURN_DATUM(result_datum(fcinfo, &result));
}

/* SQL: grownext.usage_return(feature, amount, idempotency_key, tenant_id) */
Datum
gn_usage_return(PG_FUNCTION_ARGS)
{
	GnUsageCall call = gn_usage_arguments(fcinfo, "return", 2);
	GnUsageResult result;

	return_units(&call, &result);
	PG_RETURN_DATUM(result_datum(fcinfo, &result));
}

/* SQL: grownext.usage_record(feature, amount, idempotency_key, at, tenant_id) */
Datum
gn_usage_record(PG_FUNCTION_ARGS)
{
	GnUsageCall call = call_arguments(fcinfo, "record", 4);
	GnUsageResult result;

	call.key = key_argument(fcinfo, 2);
	if (call.key == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("usage is recorded under an idempotency key"),
						errhint("Pass the id of the event that was used.")));
	if (!PG_ARGISNULL(3))
	{
		TimestampTz at = gn_instant_argument(fcinfo, 3);

		if (at > call.now + AHEAD_MAX)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("usage cannot be recorded ahead of time")));
		call.now = at;
		call.as_of = true;
	}
	record(&call, &result);
	PG_RETURN_DATUM(result_datum(fcinfo, &result));
}

/* SQL: grownext.usage_set(feature, used, tenant_id) */
Datum
gn_usage_set(PG_FUNCTION_ARGS)
{
	GnUsageCall call = {.operation = "set", .now = gn_now()};
	GnUsageResult result;

	if (PG_ARGISNULL(1) || PG_GETARG_INT64(1) < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("used must not be negative")));
	call.amount = PG_GETARG_INT64(1);
	if (!PG_ARGISNULL(0))
		call.feature = text_to_cstring(PG_GETARG_TEXT_PP(0));
	call.tenant =
		gn_caller_tenant(GetUserId(), PG_ARGISNULL(2) ? NULL : PG_GETARG_UUID_P(2));
	set_used(&call, &result);
	PG_RETURN_DATUM(result_datum(fcinfo, &result));
}
