/*
 * src/entitlement/credit.c
 *	  The balance of a credit feature, now and at any other instant.
 *
 * A balance is the sum of what grants in force have left. A grant that a subscription
 * or the like gave for a period counts only while that still entitles; what a period
 * gives is written at the first consume in it, and until then it is reckoned here, by
 * the rule that will write it (recurring.c): a question writes nothing. Amounts never
 * change and each burn is a line with its instant, so a past balance is what it was.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "entitlement/credit.h"

static Datum
column(uint64 row, int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number,
						 isnull);
}

/* When the first of the running periods began. */
static TimestampTz
earliest_period(const GnAnswer *answer, TimestampTz at)
{
	TimestampTz since = at;

	for (int i = 0; i < answer->decision.recurring_count; i++)
	{
		TimestampTz start;
		TimestampTz end;

		gn_setting_period(&answer->decision.recurring[i].setting, answer->zone, at,
						  &start, &end);
		since = Min(since, start);
	}
	return since;
}

static void
read_credit(GnCredit *credit, uint64 row)
{
	bool isnull;
	Datum datum = column(row, 1, &isnull);

	*credit = (GnCredit){.recurring = !isnull};
	if (!isnull)
		credit->source = *DatumGetUUIDP(datum);
	credit->rollover = DatumGetBool(column(row, 2, &isnull));
	datum = column(row, 3, &isnull);
	credit->unlimited = isnull;
	credit->amount = isnull ? 0 : DatumGetInt64(datum);
	credit->burnt = DatumGetInt64(column(row, 4, &isnull));
	datum = column(row, 5, &isnull);
	credit->voided = !isnull && DatumGetBool(datum);
	datum = column(row, 6, &isnull);
	if (!isnull)
		credit->period_start = DatumGetTimestampTz(datum);
	credit->expires_at = DatumGetTimestampTz(column(row, 7, &isnull));
}

#define CREDITS_WITH(burnt)                                                            \
	"SELECT c.source_id, c.origin = 'rollover', c.amount, " burnt                      \
	", c.voided_at <= $3, c.period_start, c.expires_at"                                \
	" FROM _grownext.entitlement_credit AS c"                                          \
	" WHERE c.tenant_id = $1 AND c.feature_id = $2 AND c.valid_from <= $3"             \
	" AND c.expires_at > $4 AND (c.expires_at > $3 OR c.source_id IS NOT NULL)"

GnCredit *
gn_credit_read(const GnAnswer *answer, TimestampTz at, bool as_of, bool fresh,
			   int *count)
{
	static GnQuery latest = GN_QUERY(CREDITS_WITH("c.burnt"), UUIDOID, INT4OID,
									 TIMESTAMPTZOID, TIMESTAMPTZOID);
	static GnQuery past =
		GN_QUERY(CREDITS_WITH("coalesce((SELECT sum(b.amount)"
							  " FROM _grownext.entitlement_burn AS b"
							  " WHERE b.credit_id = c.id AND b.at <= $3), 0)::bigint")
				 /* what was written later was reckoned then, from what held then */
				 " AND c.created_at <= $3",
				 UUIDOID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID);
	Datum values[4] = {UUIDPGetDatum(&answer->holder), Int32GetDatum(answer->known->id),
					   TimestampTzGetDatum(at),
					   TimestampTzGetDatum(earliest_period(answer, at))};
	uint64 rows = gn_spi_execute(as_of ? &past : &latest, values, NULL, !fresh);
	GnCredit *credits = palloc((rows + 1) * sizeof(GnCredit));

	for (uint64 i = 0; i < rows; i++)
		read_credit(&credits[i], i);
	SPI_freetuptable(SPI_tuptable);
	*count = (int) rows;
	return credits;
}

/* A grant counts while it runs and what gave it still entitles. */
static bool
in_force(const GnAnswer *answer, const GnCredit *credit, TimestampTz at)
{
	if (credit->voided || credit->expires_at <= at)
		return false;
	if (!credit->recurring)
		return true;
	for (int i = 0; i < answer->decision.recurring_count; i++)
	{
		const GnRecurring *recurring = &answer->decision.recurring[i];

		if (memcmp(&recurring->source, &credit->source, sizeof(pg_uuid_t)) == 0)
			return !credit->unlimited || recurring->setting.unlimited;
	}
	return false;
}

static void
add_saturating(int64 *sum, int64 amount)
{
	if (pg_add_s64_overflow(*sum, amount, sum))
		*sum = PG_INT64_MAX;
}

/* When the next period begins that grants anything. */
static TimestampTz
next_grant(const GnAnswer *answer, TimestampTz at)
{
	TimestampTz next;

	TIMESTAMP_NOEND(next);
	for (int i = 0; i < answer->decision.recurring_count; i++)
	{
		TimestampTz start;
		TimestampTz end;

		gn_setting_period(&answer->decision.recurring[i].setting, answer->zone, at,
						  &start, &end);
		next = Min(next, end);
	}
	return next;
}

void
gn_credit_judge(GnAnswer *answer, TimestampTz at, const GnCredit *credits, int count,
				const GnCreditDue *due, int due_count)
{
	GnDecision *decision = &answer->decision;
	GnSetting balance = {.enabled = true};
	bool granted = decision->recurring_count > 0;

	answer->used = 0;
	for (int i = 0; i < count; i++)
	{
		if (!in_force(answer, &credits[i], at))
			continue;
		granted = true;
		balance.unlimited |= credits[i].unlimited;
		add_saturating(&balance.quota, credits[i].amount);
		add_saturating(&answer->used, credits[i].burnt);
	}
	for (int i = 0; i < due_count; i++)
	{
		balance.unlimited |= due[i].unlimited;
		add_saturating(&balance.quota, due[i].amount);
	}
	if (!granted)
		return; /* not included, and nobody granted anything */
	if (decision->recurring_count == 0)
		decision->source = GN_SOURCE_TENANT_GRANT;
	answer->counted = true;
	answer->period_start = at;
	answer->period_end = next_grant(answer, at);
	decision->setting = balance;
	decision->decided = true;
	decision->allowed = balance.unlimited || answer->used < balance.quota;
	decision->reason = decision->allowed ? NULL : "quota_exceeded";
}

void
gn_credit_answers(GnAnswer *answers, int count, const GnQuestion *question)
{
	for (int i = 0; i < count; i++)
	{
		int credit_count;
		int due_count;
		GnCredit *credits;
		GnCreditDue *due;

		if (!answers[i].decision.by_balance)
			continue;
		credits = gn_credit_read(&answers[i], question->at, question->as_of, false,
								 &credit_count);
		due = gn_credit_due(&answers[i], question->at, credits, credit_count, false,
							&due_count);
		gn_credit_judge(&answers[i], question->at, credits, credit_count, due,
						due_count);
	}
}
