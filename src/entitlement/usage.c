/*
 * src/entitlement/usage.c
 *	  Metering: consume and return, exact, in the caller's transaction.
 *
 * One guarded UPDATE of the period's row grants or denies. Under READ COMMITTED it
 * waits for whoever holds the row and judges by what that one left, so the sum of all
 * grants never exceeds the quota and a denial means that the quota was used up; a
 * rollback gives the units back. REPEATABLE READ raises 40001 instead of waiting for
 * a newer truth.
 *
 * While it waited, the right to consume may have ended. The change marker tells:
 * has anything that answers depend on changed since we resolved, the units are taken
 * back and the question is asked again. The row is ours by then, so nobody saw them.
 *
 * An idempotency key is inserted first. A second call with the same key therefore
 * waits for the first, and answers what that one got, even if those were the last
 * units. A denial removes the key again. Lock order: key, then counter.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "entitlement/entitlement.h"

GN_FUNCTION(gn_usage_consume);
GN_FUNCTION(gn_usage_require);
GN_FUNCTION(gn_usage_return);

typedef struct UsageCall
{
	const char *operation; /* consume | return */
	pg_uuid_t tenant;
	char *feature; /* NULL was given: unknown */
	int64 amount;
	char *key; /* or NULL */
	TimestampTz now;
} UsageCall;

typedef struct UsageResult
{
	bool allowed;
	bool counted; /* the next four are of meaning */
	int64 used;
	bool unlimited;
	int64 quota;
	TimestampTz resets_at;
	const char *reason; /* NULL if allowed */
} UsageResult;

static Datum
usage_column(int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, isnull);
}

static UsageCall
usage_arguments(FunctionCallInfo fcinfo, const char *operation)
{
	UsageCall call = {.operation = operation, .now = gn_now()};

	if (PG_ARGISNULL(1) || PG_GETARG_INT64(1) <= 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("amount must be greater than zero")));
	call.amount = PG_GETARG_INT64(1);
	if (!PG_ARGISNULL(0))
		call.feature = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (!PG_ARGISNULL(2))
	{
		call.key = text_to_cstring(PG_GETARG_TEXT_PP(2));
		if (*call.key == '\0' || strlen(call.key) > 255)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("an idempotency key has 1 to 255 bytes")));
	}
	call.tenant =
		gn_caller_tenant(GetUserId(), PG_ARGISNULL(3) ? NULL : PG_GETARG_UUID_P(3));
	return call;
}

/* As of this moment, with what was committed while we waited. */
static GnAnswer *
resolve_now(const UsageCall *call)
{
	pg_uuid_t user;
	GnQuestion question = {
		.tenant = call->tenant,
		.feature = call->feature ? call->feature : "",
		.user = gn_context_user(&user),
		.at = call->now,
	};
	int count;

	return gn_entitlement_answer(&question, false, CurrentMemoryContext, &count);
}

/*
 * Answers from the key's row, false if there is none; raises if it stands for another
 * call.
 */
static bool
read_key(const UsageCall *call, UsageResult *result)
{
	static GnQuery query = GN_QUERY(
		"SELECT f.feature = $4 AND k.amount = $5, (k.result).used, (k.result).quota,"
		" (k.result).resets_at"
		" FROM _grownext.entitlement_usage_key AS k"
		" JOIN _grownext.entitlement_feature AS f ON f.id = k.feature_id"
		" WHERE k.tenant_id = $1 AND k.operation = $2 AND k.idempotency_key = $3",
		UUIDOID, TEXTOID, TEXTOID, TEXTOID, INT8OID);
	Datum values[5] = {UUIDPGetDatum(&call->tenant),
					   CStringGetTextDatum(call->operation),
					   CStringGetTextDatum(call->key),
					   CStringGetTextDatum(call->feature), Int64GetDatum(call->amount)};
	bool isnull;
	Datum quota;
	Datum resets_at;

	if (gn_spi_execute(&query, values, NULL, false) != 1)
		return false;
	if (!DatumGetBool(usage_column(1, &isnull)))
		ereport(ERROR, (errcode(GN_ERRCODE_IDEMPOTENCY_CONFLICT),
						errmsg("idempotency key \"%s\" was used with other arguments",
							   call->key)));
	*result = (UsageResult){.allowed = true, .counted = true};
	result->used = DatumGetInt64(usage_column(2, &isnull));
	quota = usage_column(3, &isnull);
	result->unlimited = isnull;
	result->quota = isnull ? 0 : DatumGetInt64(quota);
	resets_at = usage_column(4, &isnull);
	if (isnull)
		TIMESTAMP_NOEND(result->resets_at);
	else
		result->resets_at = DatumGetTimestampTz(resets_at);
	return true;
}

/*
 * Takes the key for this call, waiting while another transaction holds it; true if
 * the result is there already. An unknown feature has no keys.
 */
static bool
key_answers(const UsageCall *call, UsageResult *result)
{
	static GnQuery query = GN_QUERY(
		"INSERT INTO _grownext.entitlement_usage_key"
		" (tenant_id, operation, idempotency_key, feature_id, amount, created_at)"
		" SELECT $1, $2, $3, f.id, $5, $6"
		" FROM _grownext.entitlement_feature AS f WHERE f.feature = $4"
		" ON CONFLICT DO NOTHING",
		UUIDOID, TEXTOID, TEXTOID, TEXTOID, INT8OID, TIMESTAMPTZOID);
	Datum values[6] = {UUIDPGetDatum(&call->tenant),
					   CStringGetTextDatum(call->operation),
					   CStringGetTextDatum(call->key),
					   CStringGetTextDatum(call->feature),
					   Int64GetDatum(call->amount),
					   TimestampTzGetDatum(call->now)};

	return gn_spi_execute(&query, values, NULL, false) == 0 && read_key(call, result);
}

static void
drop_key(const UsageCall *call)
{
	static GnQuery query =
		GN_QUERY("DELETE FROM _grownext.entitlement_usage_key WHERE tenant_id = $1"
				 " AND operation = $2 AND idempotency_key = $3",
				 UUIDOID, TEXTOID, TEXTOID);
	Datum values[3] = {UUIDPGetDatum(&call->tenant),
					   CStringGetTextDatum(call->operation),
					   CStringGetTextDatum(call->key)};

	gn_spi_execute(&query, values, NULL, false);
}

static void
answer_key(const UsageCall *call, const UsageResult *result)
{
	static GnQuery query =
		GN_QUERY("UPDATE _grownext.entitlement_usage_key"
				 " SET result = ROW(true, $4, $5, greatest($5 - $4, 0), $6, "
				 "NULL)::grownext.usage_result"
				 " WHERE tenant_id = $1 AND operation = $2 AND idempotency_key = $3",
				 UUIDOID, TEXTOID, TEXTOID, INT8OID, INT8OID, TIMESTAMPTZOID);
	Datum values[6] = {UUIDPGetDatum(&call->tenant),
					   CStringGetTextDatum(call->operation),
					   CStringGetTextDatum(call->key),
					   Int64GetDatum(result->used),
					   Int64GetDatum(result->quota),
					   TimestampTzGetDatum(result->resets_at)};
	char nulls[] = "      ";

	if (result->unlimited)
		nulls[4] = 'n';
	if (TIMESTAMP_IS_NOEND(result->resets_at))
		nulls[5] = 'n';
	gn_spi_execute(&query, values, nulls, false);
}

/* The four columns that name a period's row, as $1 to $4. */
#define USAGE_ROW                                                                      \
	"tenant_id = $1 AND feature_id = $2 AND period_start = $3 AND period = $4"

static void
name_row(const GnAnswer *answer, Datum *values)
{
	values[0] = UUIDPGetDatum(&answer->holder);
	values[1] = Int32GetDatum(answer->known->id);
	values[2] = TimestampTzGetDatum(answer->period_start);
	values[3] = CStringGetTextDatum(gn_period_name(answer->decision.setting.period));
}

/* The guarded update; false if there is no row, or no room in it. */
static bool
add_to_row(const UsageCall *call, const GnAnswer *answer, int64 ceiling, int64 *used)
{
	static GnQuery query =
		GN_QUERY("UPDATE _grownext.entitlement_usage SET used = used + $5, quota = $7"
				 " WHERE " USAGE_ROW " AND used <= $6 - $5 RETURNING used",
				 UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID, INT8OID, INT8OID, INT8OID);
	const GnSetting *setting = &answer->decision.setting;
	Datum values[7];
	bool isnull;

	name_row(answer, values);
	values[4] = Int64GetDatum(call->amount);
	values[5] = Int64GetDatum(ceiling);
	values[6] = Int64GetDatum(setting->quota);
	if (gn_spi_execute(&query, values, setting->unlimited ? "      n" : NULL, false) !=
		1)
		return false;
	*used = DatumGetInt64(usage_column(1, &isnull));
	return true;
}

/* The first consume of a period; false if somebody else was first. */
static bool
insert_row(const UsageCall *call, const GnAnswer *answer, int64 *used)
{
	static GnQuery query = GN_QUERY(
		"INSERT INTO _grownext.entitlement_usage"
		" (tenant_id, feature_id, period_start, period, used, period_end, quota)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
		UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID, INT8OID, TIMESTAMPTZOID, INT8OID);
	const GnSetting *setting = &answer->decision.setting;
	Datum values[7];

	name_row(answer, values);
	values[4] = Int64GetDatum(call->amount);
	values[5] = TimestampTzGetDatum(answer->period_end);
	values[6] = Int64GetDatum(setting->quota);
	*used = call->amount;
	return gn_spi_execute(&query, values, setting->unlimited ? "      n" : NULL,
						  false) == 1;
}

static int64
used_of_row(const GnAnswer *answer)
{
	static GnQuery query =
		GN_QUERY("SELECT used FROM _grownext.entitlement_usage WHERE " USAGE_ROW,
				 UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID);
	Datum values[4];
	bool isnull;

	name_row(answer, values);
	if (gn_spi_execute(&query, values, NULL, false) != 1)
		return 0;
	return DatumGetInt64(usage_column(1, &isnull));
}

/* Units that this very transaction added a moment ago. */
static void
take_back(const UsageCall *call, const GnAnswer *answer)
{
	static GnQuery query = GN_QUERY(
		"UPDATE _grownext.entitlement_usage SET used = used - $5 WHERE " USAGE_ROW,
		UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID, INT8OID);
	Datum values[5];

	name_row(answer, values);
	values[4] = Int64GetDatum(call->amount);
	gn_spi_execute(&query, values, NULL, false);
}

/* True if the units were counted; used is what the row says then, or what denied them.
 */
static bool
count_units(const UsageCall *call, const GnAnswer *answer, int64 *used)
{
	const GnSetting *setting = &answer->decision.setting;
	int64 ceiling = setting->unlimited || setting->soft ? PG_INT64_MAX : setting->quota;

	if (call->amount <= ceiling &&
		(add_to_row(call, answer, ceiling, used) || insert_row(call, answer, used) ||
		 add_to_row(call, answer, ceiling, used)))
		return true;
	*used = used_of_row(answer);
	return false;
}

static void
describe_quota(const GnAnswer *answer, int64 used, UsageResult *result)
{
	result->counted = true;
	result->used = used;
	result->unlimited = answer->decision.setting.unlimited;
	result->quota = answer->decision.setting.quota;
	result->resets_at = answer->period_end;
}

/* One round: resolve as of now and count. True unless something changed meanwhile. */
static bool
try_consume(UsageCall *call, UsageResult *result)
{
	const GnAnswer *answer;
	int64 used;

	call->now = gn_now();
	answer = resolve_now(call);
	*result = (UsageResult){.reason = answer->decision.reason};
	if (answer->known == NULL)
		return true; /* denied, with the reason; there is nothing to count */
	if (answer->known->kind != GN_KIND_METERED && answer->decision.allowed)
		result->reason = "not_metered";
	if (answer->counted && !answer->decision.allowed)
		describe_quota(answer, used_of_row(answer), result);
	if (result->reason)
		return true;
	result->allowed = count_units(call, answer, &used);
	gn_cache_catch_up();
	if (gn_stamp_moved(&answer->stamp))
	{
		if (result->allowed)
			take_back(call, answer);
		return false;
	}
	describe_quota(answer, used, result);
	if (!result->allowed)
		result->reason = "quota_exceeded";
	return true;
}

static void
consume(UsageCall *call, UsageResult *result)
{
	GnSpi spi;
	bool keyed = call->key && call->feature;

	gn_spi_begin(&spi);
	if (!keyed || !key_answers(call, result))
	{
		while (!try_consume(call, result))
			CHECK_FOR_INTERRUPTS();
		if (keyed && result->allowed)
			answer_key(call, result);
		else if (keyed)
			drop_key(call);
	}
	gn_spi_end(&spi);
}

/*
 * Gives units back to a period that still runs, the one that began last if there are
 * two; right or no right, since what was consumed may be given back after the end of a
 * subscription.
 */
static void
give_back(const UsageCall *call, UsageResult *result)
{
	static GnQuery query = GN_QUERY(
		"UPDATE _grownext.entitlement_usage AS u SET used = u.used - $3"
		" FROM (SELECT r.tenant_id, r.feature_id, r.period_start, r.period"
		" FROM _grownext.entitlement_usage AS r"
		" JOIN _grownext.entitlement_feature AS f ON f.id = r.feature_id AND f.feature "
		"= $2"
		" WHERE r.tenant_id = $1 AND r.period_start <= $4 AND r.period_end > $4"
		" ORDER BY r.period_start DESC LIMIT 1) AS r"
		" WHERE u.tenant_id = r.tenant_id AND u.feature_id = r.feature_id"
		" AND u.period_start = r.period_start AND u.period = r.period AND u.used >= $3"
		" RETURNING u.used, u.quota, u.period_end",
		UUIDOID, TEXTOID, INT8OID, TIMESTAMPTZOID);
	Datum values[4] = {UUIDPGetDatum(&call->tenant), CStringGetTextDatum(call->feature),
					   Int64GetDatum(call->amount), TimestampTzGetDatum(call->now)};
	bool isnull;
	Datum quota;

	*result = (UsageResult){.reason = "nothing_to_return"};
	if (gn_spi_execute(&query, values, NULL, false) != 1)
		return;
	*result = (UsageResult){.allowed = true, .counted = true};
	result->used = DatumGetInt64(usage_column(1, &isnull));
	quota = usage_column(2, &isnull);
	result->unlimited = isnull;
	result->quota = isnull ? 0 : DatumGetInt64(quota);
	result->resets_at = DatumGetTimestampTz(usage_column(3, &isnull));
}

static void
return_units(const UsageCall *call, UsageResult *result)
{
	GnSpi spi;

	if (call->feature == NULL)
	{
		*result = (UsageResult){.reason = "nothing_to_return"};
		return;
	}
	gn_spi_begin(&spi);
	if (call->key == NULL || !key_answers(call, result))
	{
		give_back(call, result);
		if (call->key && result->allowed)
			answer_key(call, result);
		else if (call->key)
			drop_key(call);
	}
	gn_spi_end(&spi);
}

static Datum
result_datum(FunctionCallInfo fcinfo, const UsageResult *result)
{
	TupleDesc descriptor;
	Datum values[6] = {BoolGetDatum(result->allowed)};
	bool nulls[6] = {false, true, true, true, true, true};

	if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
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
	return HeapTupleGetDatum(
		heap_form_tuple(BlessTupleDesc(descriptor), values, nulls));
}

/* SQL: grownext.usage_consume(feature, amount, idempotency_key, tenant_id) */
Datum
gn_usage_consume(PG_FUNCTION_ARGS)
{
	UsageCall call = usage_arguments(fcinfo, "consume");
	UsageResult result;

	consume(&call, &result);
	PG_RETURN_DATUM(result_datum(fcinfo, &result));
}

/* SQL: grownext.usage_require(feature, amount, idempotency_key, tenant_id) */
Datum
gn_usage_require(PG_FUNCTION_ARGS)
{
	UsageCall call = usage_arguments(fcinfo, "consume");
	UsageResult result;

	consume(&call, &result);
	if (!result.allowed && strcmp(result.reason, "quota_exceeded") == 0)
		ereport(ERROR, (errcode(GN_ERRCODE_QUOTA_EXCEEDED),
						errmsg("the quota of \"%s\" is used up", call.feature),
						errdetail("%lld of %lld are used, %lld more were asked for.",
								  (long long) result.used, (long long) result.quota,
								  (long long) call.amount)));
	if (!result.allowed)
		ereport(ERROR, (errcode(GN_ERRCODE_NOT_ENTITLED),
						errmsg("the tenant is not entitled to \"%s\"",
							   call.feature ? call.feature : ""),
						errdetail("Reason: %s.", result.reason)));
	PG_RETURN_DATUM(result_datum(fcinfo, &result));
}

/* SQL: grownext.usage_return(feature, amount, idempotency_key, tenant_id) */
Datum
gn_usage_return(PG_FUNCTION_ARGS)
{
	UsageCall call = usage_arguments(fcinfo, "return");
	UsageResult result;

	return_units(&call, &result);
	PG_RETURN_DATUM(result_datum(fcinfo, &result));
}
