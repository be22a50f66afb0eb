/*
 * src/entitlement/burn.c
 *	  Credit is burnt and refunded, exact, in the caller's transaction.
 *
 * Whoever burns or refunds holds the row of the balance until the transaction ends, so
 * grants are locked in no order and nobody judges by a balance that somebody else is
 * about to change: who waited reads anew. What is due for the period is written first,
 * under the same lock, once. Each burn leaves a line per grant, the receipt, by which a
 * refund finds its way back. Lock order: idempotency key, reservation, balance.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "entitlement/credit.h"
#include "entitlement/reservation.h"

#define BALANCE                                                                        \
	"SELECT b.burnt FROM _grownext.entitlement_balance AS b"                           \
	" WHERE b.tenant_id = $1 AND b.feature_id = $2 FOR NO KEY UPDATE"

static void
lock_balance(const pg_uuid_t *holder, int feature)
{
	static GnQuery lock = GN_QUERY(BALANCE, UUIDOID, INT4OID);
	static GnQuery insert =
		GN_QUERY("INSERT INTO _grownext.entitlement_balance (tenant_id, feature_id)"
				 " VALUES ($1, $2) ON CONFLICT DO NOTHING",
				 UUIDOID, INT4OID);
	Datum values[2] = {UUIDPGetDatum(holder), Int32GetDatum(feature)};

	if (gn_spi_execute(&lock, values, NULL, false) == 1)
		return;
	gn_spi_execute(&insert, values, NULL, false);
	gn_spi_execute(&lock, values, NULL, false);
}

/* False: somebody holds it, or there is none. */
static bool
lock_free_balance(const pg_uuid_t *holder, int feature)
{
	static GnQuery lock = GN_QUERY(BALANCE " SKIP LOCKED", UUIDOID, INT4OID);
	Datum values[2] = {UUIDPGetDatum(holder), Int32GetDatum(feature)};

	return gn_spi_execute(&lock, values, NULL, false) == 1;
}

static void
write_due(const GnAnswer *answer, const GnCreditDue *due, TimestampTz at)
{
	static GnQuery query = GN_QUERY(
		"INSERT INTO _grownext.entitlement_credit (number, tenant_id, feature_id,"
		" origin, source_id, period_start, step, amount, priority, valid_from,"
		" expires_at, created_at)"
		" SELECT _grownext.core_nextval('_grownext.entitlement_credit_number'),"
		" $1, $2, $3, $4, $5,"
		" (SELECT count(*) FROM _grownext.entitlement_credit AS c"
		" WHERE c.tenant_id = $1 AND c.feature_id = $2 AND c.source_id = $4"
		" AND c.period_start = $5 AND c.origin = $3), $6, $7, $8, $9, $10",
		UUIDOID, INT4OID, TEXTOID, UUIDOID, TIMESTAMPTZOID, INT8OID, INT4OID,
		TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID);
	Datum values[10] = {
		UUIDPGetDatum(&answer->holder),
		Int32GetDatum(answer->known->id),
		CStringGetTextDatum(due->rollover ? "rollover" : "period"),
		UUIDPGetDatum(&due->source),
		TimestampTzGetDatum(due->period_start),
		Int64GetDatum(due->amount),
		Int32GetDatum(due->priority),
		TimestampTzGetDatum(due->valid_from),
		TimestampTzGetDatum(due->expires_at),
		TimestampTzGetDatum(at),
	};

	gn_spi_execute(&query, values, due->unlimited ? "     n    " : NULL, false);
}

/* Brings the balance up to date: answer says afterwards what it is. */
static void
touch(GnAnswer *answer, TimestampTz at)
{
	int count;
	int due_count;
	GnCredit *credits = gn_credit_read(answer, at, false, true, &count);
	GnCreditDue *due = gn_credit_due(answer, at, credits, count, true, &due_count);

	for (int i = 0; i < due_count; i++)
		write_due(answer, &due[i], at);
	gn_credit_judge(answer, at, credits, count, due, due_count);
}

static Datum
source_array(const GnDecision *decision, bool unlimited_only)
{
	Datum *sources = palloc((decision->recurring_count + 1) * sizeof(Datum));
	int count = 0;

	for (int i = 0; i < decision->recurring_count; i++)
	{
		if (!unlimited_only || decision->recurring[i].setting.unlimited)
			sources[count++] = UUIDPGetDatum(&decision->recurring[i].source);
	}
	return PointerGetDatum(
		construct_array(sources, count, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
}

/*
 * What is unlimited goes first, it costs nobody anything; of one instant what was
 * rolled over, then what was granted first. The lines are in the order of burning:
 * refunds go backwards.
 */
static void
burn(const GnUsageCall *call, const GnAnswer *answer)
{
	static GnQuery query = GN_QUERY(
		"WITH open AS ("
		"SELECT c.id, left_over.amount, row_number() OVER burning AS place,"
		" sum(left_over.amount) OVER (burning ROWS UNBOUNDED PRECEDING)"
		" - left_over.amount AS before"
		" FROM _grownext.entitlement_credit AS c"
		" CROSS JOIN LATERAL (SELECT coalesce(c.amount - c.burnt, "
		"9223372036854775807)) AS left_over (amount)"
		" WHERE c.tenant_id = $1 AND c.feature_id = $2 AND c.valid_from <= $3"
		" AND c.expires_at > $3 AND c.voided_at IS NULL AND left_over.amount > 0"
		" AND (c.source_id IS NULL OR c.source_id = ANY ($4))"
		" AND (c.amount IS NOT NULL OR c.source_id = ANY ($5))"
		" WINDOW burning AS (ORDER BY c.amount IS NOT NULL, c.priority, c.expires_at,"
		" c.created_at, c.origin DESC, c.number)),"
		" taken AS (SELECT o.id, o.place, least(o.amount, $6 - o.before)::bigint AS "
		"amount"
		" FROM open AS o WHERE o.before < $6),"
		" burnt AS (UPDATE _grownext.entitlement_credit AS c"
		" SET burnt = c.burnt + t.amount FROM taken AS t WHERE c.id = t.id),"
		" total AS (UPDATE _grownext.entitlement_balance AS b SET burnt = b.burnt + $6"
		" WHERE b.tenant_id = $1 AND b.feature_id = $2)"
		" INSERT INTO _grownext.entitlement_burn"
		" (tenant_id, feature_id, id, credit_id, amount, reservation_id, at)"
		" SELECT $1, $2, _grownext.core_nextval('_grownext.entitlement_burn_id'),"
		" t.id, t.amount, $7, $3 FROM taken AS t ORDER BY t.place",
		UUIDOID, INT4OID, TIMESTAMPTZOID, UUIDARRAYOID, UUIDARRAYOID, INT8OID, UUIDOID);
	Datum values[7] = {
		UUIDPGetDatum(&answer->holder),        Int32GetDatum(answer->known->id),
		TimestampTzGetDatum(call->now),        source_array(&answer->decision, false),
		source_array(&answer->decision, true), Int64GetDatum(call->amount),
		UUIDPGetDatum(call->reservation),
	};

	if (gn_spi_execute(&query, values, call->reservation ? NULL : "      n", false) ==
		0)
		elog(ERROR, "nothing was burnt");
}

static void
describe_balance(const GnAnswer *answer, GnUsageResult *result)
{
	result->counted = answer->counted;
	result->used = answer->used;
	result->unlimited = answer->decision.setting.unlimited;
	result->quota = answer->decision.setting.quota;
	result->resets_at = answer->period_end;
}

static bool
suffices(const GnAnswer *answer, int64 amount)
{
	const GnSetting *balance = &answer->decision.setting;

	return balance->unlimited || amount <= balance->quota - answer->used;
}

/*
 * Waiting for the balance may take long: what was granted meanwhile, and by which
 * right, is seen only by who asks anew, as of an instant that is not before it.
 */
static GnAnswer *
lock_and_resolve(GnUsageCall *call, const GnAnswer *before)
{
	lock_balance(&before->holder, before->known->id);
	call->now = gn_now();
	return gn_usage_resolve(call);
}

bool
gn_credit_consume(GnUsageCall *call, const GnAnswer *before, GnUsageResult *result)
{
	GnAnswer *answer = lock_and_resolve(call, before);

	if (answer->known == NULL || !answer->decision.by_balance ||
		memcmp(&answer->holder, &before->holder, sizeof(pg_uuid_t)) != 0)
		return false;
	touch(answer, call->now);
	*result = (GnUsageResult){.reason = answer->decision.reason};
	describe_balance(answer, result);
	if (!answer->counted)
		return true;
	if (!suffices(answer, call->amount))
	{
		result->reason = "quota_exceeded";
		return gn_reservation_reclaim(&answer->holder, answer->known->id, call) == 0;
	}
	burn(call, answer);
	result->used += call->amount;
	result->allowed = true;
	result->reason = NULL;
	result->credit = true;
	result->counter =
		(GnCounter){.tenant = answer->holder, .feature = answer->known->id};
	return true;
}

/* Is so much burnt for good? What open reservations hold is not. */
static bool
refundable(const GnAnswer *answer, int64 amount)
{
	static GnQuery query =
		GN_QUERY("SELECT b.burnt - coalesce((SELECT sum(r.amount)"
				 " FROM _grownext.entitlement_reservation AS r WHERE r.holder_id = $1"
				 " AND r.feature_id = $2 AND r.state = 'open'), 0) >= $3"
				 " FROM _grownext.entitlement_balance AS b"
				 " WHERE b.tenant_id = $1 AND b.feature_id = $2",
				 UUIDOID, INT4OID, INT8OID);
	Datum values[3] = {UUIDPGetDatum(&answer->holder), Int32GetDatum(answer->known->id),
					   Int64GetDatum(amount)};
	bool isnull;

	return gn_spi_execute(&query, values, NULL, false) == 1 &&
		   DatumGetBool(gn_usage_column(1, &isnull));
}

static void
refund(const pg_uuid_t *holder, int feature, int64 amount, const pg_uuid_t *reservation,
	   TimestampTz at)
{
	static GnQuery query =
		GN_QUERY("SELECT _grownext.entitlement_credit_refund($1, $2, $3, $4, $5)",
				 UUIDOID, INT4OID, INT8OID, UUIDOID, TIMESTAMPTZOID);
	Datum values[5] = {UUIDPGetDatum(holder), Int32GetDatum(feature),
					   Int64GetDatum(amount), UUIDPGetDatum(reservation),
					   TimestampTzGetDatum(at)};

	gn_spi_execute(&query, values, reservation ? NULL : "   n ", false);
}

bool
gn_credit_return(GnUsageCall *call, const GnAnswer *before, GnUsageResult *result)
{
	GnAnswer *answer = lock_and_resolve(call, before);

	if (answer->known == NULL ||
		memcmp(&answer->holder, &before->holder, sizeof(pg_uuid_t)) != 0)
		return false;
	*result = (GnUsageResult){.reason = "nothing_to_return"};
	if (!refundable(answer, call->amount))
		return true;
	refund(&answer->holder, answer->known->id, call->amount, NULL, call->now);
	if (answer->decision.by_balance)
		touch(answer, call->now);
	result->allowed = true;
	result->reason = NULL;
	describe_balance(answer, result);
	return true;
}

bool
gn_credit_refund(const pg_uuid_t *holder, int feature, int64 amount,
				 const pg_uuid_t *reservation, TimestampTz at, bool wait)
{
	if (wait)
		lock_balance(holder, feature);
	else if (!lock_free_balance(holder, feature))
		return false;
	refund(holder, feature, amount, reservation, at);
	return true;
}
