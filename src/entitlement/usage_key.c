/*
 * src/entitlement/usage_key.c
 *	  Idempotency keys of consumes and returns.
 *
 * A key is inserted before anything is counted. A second call with the same key
 * therefore waits for the first, and answers what that one got, even if those were the
 * last units. A denial removes the key again. Lock order: key, then counter.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "core/core.h"
#include "entitlement/usage.h"

/*
 * Answers from the key's row, false if there is none; raises if it stands for another
 * call.
 */
static bool
read_key(const GnUsageCall *call, GnUsageResult *result)
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
	if (!DatumGetBool(gn_usage_column(1, &isnull)))
		ereport(ERROR, (errcode(GN_ERRCODE_IDEMPOTENCY_CONFLICT),
						errmsg("idempotency key \"%s\" was used with other arguments",
							   call->key)));
	*result = (GnUsageResult){.allowed = true, .counted = true};
	result->used = DatumGetInt64(gn_usage_column(2, &isnull));
	quota = gn_usage_column(3, &isnull);
	result->unlimited = isnull;
	result->quota = isnull ? 0 : DatumGetInt64(quota);
	resets_at = gn_usage_column(4, &isnull);
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
bool
gn_usage_key_answers(const GnUsageCall *call, GnUsageResult *result)
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

void
gn_usage_key_drop(const GnUsageCall *call)
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

void
gn_usage_key_answer(const GnUsageCall *call, const GnUsageResult *result)
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
