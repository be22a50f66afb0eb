/*
 * src/entitlement/entitlement.c
 *	  SQL functions that ask: entitlement, entitlements, entitlement_require; entitled
 *	  is in check.c.
 *
 * They run with the caller's rights and read as the owner.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/tuplestore.h"

#include "core/core.h"
#include "entitlement/entitlement.h"

GN_FUNCTION(gn_entitlement);
GN_FUNCTION(gn_entitlement_require);
GN_FUNCTION(gn_entitlements);

#define STATE_COLUMNS 10

/* The user of the caller's context, or NULL. */
const pg_uuid_t *
gn_context_user(pg_uuid_t *space)
{
	const GnContext *context = gn_context();

	if (context == NULL || context->user_id == NULL)
		return NULL;
	*space = *context->user_id; /* the context may end before the question does */
	return space;
}

/* Answers about one feature or all, with memory of the caller's context. */
static GnAnswer *
ask(const GnQuestion *question, int *count)
{
	MemoryContext memory = CurrentMemoryContext;
	GnAnswer *answers;
	GnSpi spi;

	gn_spi_begin(&spi);
	answers = gn_entitlement_answer(question, true, memory, count);
	gn_spi_end(&spi);
	return answers;
}

/* SQL: grownext.entitlement_require(feature text, tenant_id uuid) */
Datum
gn_entitlement_require(PG_FUNCTION_ARGS)
{
	GnQuestion question = {0};
	const GnDecision *decision;
	pg_uuid_t user;
	int count;

	question.tenant =
		gn_caller_tenant(GetUserId(), PG_ARGISNULL(1) ? NULL : PG_GETARG_UUID_P(1));
	question.feature = PG_ARGISNULL(0) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(0));
	question.user = gn_context_user(&user);
	question.at = gn_now();
	decision = &ask(&question, &count)->decision;
	if (!decision->allowed)
		ereport(ERROR,
				(errcode(GN_ERRCODE_NOT_ENTITLED),
				 errmsg("the tenant is not entitled to \"%s\"", question.feature),
				 errdetail("Reason: %s.", decision->reason)));
	PG_RETURN_VOID();
}

/* A quota as jsonb: a number or "unlimited". */
static Jsonb *
quota_jsonb(const GnSetting *setting)
{
	JsonbValue value;

	if (setting->unlimited)
	{
		value.type = jbvString;
		value.val.string.val = "unlimited";
		value.val.string.len = strlen("unlimited");
	}
	else
	{
		value.type = jbvNumeric;
		value.val.numeric = int64_to_numeric(setting->quota);
	}
	return JsonbValueToJsonb(&value);
}

/* What the application reads: NULL where nothing holds. */
static Jsonb *
answer_value(const GnAnswer *answer)
{
	const GnDecision *decision = &answer->decision;
	bool holds = decision->decided && decision->setting.enabled;
	JsonbValue value = {.type = jbvBool};

	if (answer->known == NULL)
		return NULL;
	switch (answer->known->kind)
	{
		case GN_KIND_BOOLEAN:
			value.val.boolean = decision->allowed;
			return JsonbValueToJsonb(&value);
		case GN_KIND_CONFIG:
			return holds ? decision->setting.value : NULL;
		case GN_KIND_LIMIT:
		case GN_KIND_METERED:
		case GN_KIND_CREDIT:
		case GN_KIND_SEATS:
			return holds ? quota_jsonb(&decision->setting) : NULL;
	}
	return NULL;
}

static void
set_text(Datum *value, bool *isnull, const char *text)
{
	*isnull = text == NULL;
	if (text)
		*value = CStringGetTextDatum(text);
}

/* A limit or seats, of which there is a number. */
static bool
has_quota(const GnAnswer *answer)
{
	const GnDecision *decision = &answer->decision;

	return answer->known &&
		   (answer->known->kind == GN_KIND_LIMIT ||
			answer->known->kind == GN_KIND_SEATS) &&
		   decision->decided && decision->setting.enabled &&
		   !decision->setting.unlimited;
}

/* An answer as the columns of grownext.entitlement_state. */
static void
state_columns(const GnAnswer *answer, Datum *values, bool *nulls)
{
	const GnDecision *decision = &answer->decision;
	Jsonb *value = answer_value(answer);
	int64 remaining;

	memset(nulls, true, STATE_COLUMNS);
	set_text(&values[0], &nulls[0], answer->feature);
	set_text(&values[1], &nulls[1],
			 answer->known ? gn_kind_name(answer->known->kind) : NULL);
	values[2] = BoolGetDatum(decision->allowed);
	nulls[2] = false;
	if (value)
	{
		values[3] = JsonbPGetDatum(value);
		nulls[3] = false;
	}
	if (answer->counted)
	{
		values[4] = Int64GetDatum(answer->used);
		nulls[4] = false;
		if (gn_entitlement_remaining(answer, &remaining))
		{
			values[5] = Int64GetDatum(decision->setting.quota);
			values[6] = Int64GetDatum(remaining);
			nulls[5] = nulls[6] = false;
		}
		values[7] = TimestampTzGetDatum(answer->period_end);
		nulls[7] = TIMESTAMP_IS_NOEND(answer->period_end);
	}
	else if (has_quota(answer))
	{
		values[5] = Int64GetDatum(decision->setting.quota);
		nulls[5] = false;
	}
	if (answer->gauged)
	{
		values[4] = Int64GetDatum(answer->used);
		nulls[4] = false;
		if (!nulls[5] && gn_entitlement_remaining(answer, &remaining))
		{
			values[6] = Int64GetDatum(remaining);
			nulls[6] = false;
		}
	}
	set_text(&values[8], &nulls[8], gn_source_name(decision->source));
	set_text(&values[9], &nulls[9], decision->reason);
}

TimestampTz
gn_instant_argument(FunctionCallInfo fcinfo, int number)
{
	TimestampTz at = PG_ARGISNULL(number) ? gn_now() : PG_GETARG_TIMESTAMPTZ(number);

	if (TIMESTAMP_NOT_FINITE(at))
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("\"at\" must be a finite instant")));
	return at;
}

const pg_uuid_t *
gn_named_user(const pg_uuid_t *named, pg_uuid_t *space)
{
	const pg_uuid_t *own = gn_context_user(space);

	if (named == NULL || (own && memcmp(own, named, sizeof(pg_uuid_t)) == 0))
		return own;
	if (!gn_user_has_capability(GetUserId(), "service") &&
		!gn_user_has_capability(GetUserId(), "admin"))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied for a user other than the caller")));
	return named;
}

/* SQL: grownext.entitlement(feature text, tenant_id uuid, at timestamptz, user_id uuid)
 */
Datum
gn_entitlement(PG_FUNCTION_ARGS)
{
	GnQuestion question = {0};
	TupleDesc descriptor;
	Datum values[STATE_COLUMNS];
	bool nulls[STATE_COLUMNS];
	pg_uuid_t user;
	int count;

	if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	question.tenant =
		gn_caller_tenant(GetUserId(), PG_ARGISNULL(1) ? NULL : PG_GETARG_UUID_P(1));
	question.feature = PG_ARGISNULL(0) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(0));
	question.as_of = !PG_ARGISNULL(2);
	question.at = gn_instant_argument(fcinfo, 2);
	question.user = gn_named_user(PG_ARGISNULL(3) ? NULL : PG_GETARG_UUID_P(3), &user);
	state_columns(ask(&question, &count), values, nulls);
	nulls[0] = PG_ARGISNULL(0);
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls)));
}

/* SQL: grownext.entitlements(tenant_id uuid, at timestamptz) */
Datum
gn_entitlements(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	GnQuestion question = {0};
	GnAnswer *answers;
	pg_uuid_t user;
	int count;

	InitMaterializedSRF(fcinfo, 0);
	question.tenant =
		gn_caller_tenant(GetUserId(), PG_ARGISNULL(0) ? NULL : PG_GETARG_UUID_P(0));
	question.as_of = !PG_ARGISNULL(1);
	question.at = gn_instant_argument(fcinfo, 1);
	question.user = gn_context_user(&user);
	answers = ask(&question, &count);
	for (int i = 0; i < count; i++)
	{
		Datum values[STATE_COLUMNS];
		bool nulls[STATE_COLUMNS];

		state_columns(&answers[i], values, nulls);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
