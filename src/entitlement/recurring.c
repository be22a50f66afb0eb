/*
 * src/entitlement/recurring.c
 *	  What subscriptions and the like grant of a credit feature in each period.
 *
 * A source (a subscription, a grant, the free bundle or the default) has its amount to
 * give for the period that runs. What it gave for that period already counts against
 * it, under whichever plan, so nobody gets a period twice by changing back and forth,
 * and a larger plan or quantity adds the difference. The first grant of a period takes
 * along what the period before left, up to the rollover. A period in which nobody
 * touched the balance has no grant on record: it is reckoned as it would have been.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "entitlement/credit.h"
#include "entitlement/record.h"

/* How many periods without a touch are looked back on. */
#define IDLE_MAX 60

/*
 * Was it given for the period [start, end)? Time zones and anchors may have moved, so
 * bounds need not meet: it was if it began within, if it runs still, or if it covers
 * more than half.
 */
static bool
counts_against(const GnCredit *credit, TimestampTz at, TimestampTz start,
			   TimestampTz end)
{
	TimestampTz from = Max(credit->period_start, start);
	TimestampTz until = Min(credit->expires_at, end);

	if (credit->period_start >= start || credit->expires_at > at)
		return true;
	if (TIMESTAMP_IS_NOBEGIN(start) || TIMESTAMP_IS_NOEND(end))
		return false;
	return from < until && until - from > (end - start) / 2;
}

/* The last grants of a source before an instant: when they expired, what they left. */
static bool
last_period(const GnAnswer *answer, const pg_uuid_t *source, TimestampTz at, bool fresh,
			TimestampTz *expired_at, int64 *left)
{
	static GnQuery query =
		GN_QUERY("WITH last AS (SELECT max(c.expires_at) AS expires_at"
				 " FROM _grownext.entitlement_credit AS c WHERE c.tenant_id = $1"
				 " AND c.feature_id = $2 AND c.source_id = $3 AND c.expires_at <= $4)"
				 " SELECT last.expires_at, least(9223372036854775807, (SELECT"
				 " coalesce(sum(c.amount - coalesce((SELECT sum(b.amount)"
				 " FROM _grownext.entitlement_burn AS b"
				 " WHERE b.credit_id = c.id AND b.at < c.expires_at), 0)), 0)"
				 " FROM _grownext.entitlement_credit AS c WHERE c.tenant_id = $1"
				 " AND c.feature_id = $2 AND c.source_id = $3"
				 " AND c.expires_at = last.expires_at AND c.amount IS NOT NULL"
				 " AND (c.voided_at IS NULL OR c.voided_at >= c.expires_at)))::bigint"
				 " FROM last",
				 UUIDOID, INT4OID, UUIDOID, TIMESTAMPTZOID);
	Datum values[4] = {UUIDPGetDatum(&answer->holder), Int32GetDatum(answer->known->id),
					   UUIDPGetDatum(source), TimestampTzGetDatum(at)};
	bool isnull;
	Datum expires;

	gn_spi_execute(&query, values, NULL, !fresh);
	expires = gn_usage_column(1, &isnull);
	if (!isnull)
	{
		bool none;

		*expired_at = DatumGetTimestampTz(expires);
		*left = DatumGetInt64(gn_usage_column(2, &none));
	}
	SPI_freetuptable(SPI_tuptable);
	return !isnull;
}

/* What a source said at an instant; false if it did not entitle. */
static bool
setting_at(const GnAnswer *answer, const pg_uuid_t *source, TimestampTz at,
		   GnSetting *setting, pg_tz **zone)
{
	const GnRecord *record = gn_record_compile(&answer->holder, NULL, at);
	const GnDecision *decision;

	if (answer->known->id >= record->count)
		return false;
	decision = &record->decisions[answer->known->id];
	*zone = record->zone;
	for (int i = 0; i < decision->recurring_count; i++)
	{
		if (memcmp(&decision->recurring[i].source, source, sizeof(pg_uuid_t)) == 0)
		{
			*setting = decision->recurring[i].setting;
			return true;
		}
	}
	return false;
}

/* Of what a period left, what the next one keeps, and what that one has then. */
static int64
keep(int64 left, const GnSetting *next)
{
	int64 kept = Min(left, next->rollover);

	if (next->unlimited)
		return 0;
	return pg_add_s64_overflow(kept, next->quota, &kept) ? PG_INT64_MAX : kept;
}

/* What the periods before the one that begins at start leave to it. */
static int64
rolled_over(const GnAnswer *answer, const GnRecurring *recurring, TimestampTz start,
			TimestampTz at, bool fresh)
{
	GnSetting *idle;
	int idle_count = 0;
	TimestampTz expired_at = 0;
	int64 left = 0;
	bool known;

	if (recurring->setting.rollover == 0 || TIMESTAMP_IS_NOBEGIN(start))
		return 0;
	known = last_period(answer, &recurring->source, at, fresh, &expired_at, &left);
	idle = palloc(IDLE_MAX * sizeof(GnSetting));
	while (idle_count < IDLE_MAX)
	{
		TimestampTz before;
		TimestampTz end;
		GnSetting *setting = &idle[idle_count];
		pg_tz *zone;

		/* the usual case: the period before is on record */
		if (known && expired_at >= start)
			break;
		if (!setting_at(answer, &recurring->source, start - 1, setting, &zone))
		{
			left = 0;
			break;
		}
		gn_setting_period(setting, zone, start - 1, &before, &end);
		if (known && expired_at > before)
			break;
		idle_count++;
		/* it alone leaves all that can be kept */
		if (TIMESTAMP_IS_NOBEGIN(before) ||
			setting->quota >= recurring->setting.rollover)
		{
			left = 0;
			break;
		}
		start = before;
	}
	if (!known || idle_count == IDLE_MAX)
		left = 0;
	while (idle_count > 0)
		left = keep(left, &idle[--idle_count]);
	return Min(left, recurring->setting.rollover);
}

static GnCreditDue
new_due(const GnRecurring *recurring, TimestampTz start, TimestampTz from,
		TimestampTz end)
{
	return (GnCreditDue){
		.source = recurring->source,
		.priority = recurring->setting.priority,
		.period_start = start,
		.valid_from = from,
		.expires_at = end,
	};
}

static void
add_due(const GnAnswer *answer, const GnRecurring *recurring, TimestampTz at,
		const GnCredit *credits, int count, bool fresh, GnCreditDue *due,
		int *due_count)
{
	TimestampTz start;
	TimestampTz end;
	int64 given = 0;
	bool unlimited = false;
	bool touched = false;
	GnCreditDue next;

	gn_setting_period(&recurring->setting, answer->zone, at, &start, &end);
	for (int i = 0; i < count; i++)
	{
		if (!credits[i].recurring ||
			memcmp(&credits[i].source, &recurring->source, sizeof(pg_uuid_t)) != 0 ||
			!counts_against(&credits[i], at, start, end))
			continue;
		touched = true;
		unlimited |= credits[i].unlimited;
		if (!credits[i].rollover &&
			pg_add_s64_overflow(given, credits[i].amount, &given))
			given = PG_INT64_MAX;
	}
	next = new_due(recurring, start, touched ? at : start, end);
	next.unlimited = recurring->setting.unlimited && !unlimited;
	if (!recurring->setting.unlimited)
		next.amount = Max(recurring->setting.quota - given, 0);
	if (next.unlimited || next.amount > 0)
		due[(*due_count)++] = next;
	if (touched || recurring->setting.unlimited)
		return;
	next.rollover = true;
	next.amount = rolled_over(answer, recurring, start, at, fresh);
	if (next.amount > 0)
		due[(*due_count)++] = next;
}

GnCreditDue *
gn_credit_due(const GnAnswer *answer, TimestampTz at, const GnCredit *credits,
			  int count, bool fresh, int *due_count)
{
	const GnDecision *decision = &answer->decision;
	GnCreditDue *due = palloc((2 * decision->recurring_count + 1) * sizeof(*due));

	*due_count = 0;
	for (int i = 0; i < decision->recurring_count; i++)
		add_due(answer, &decision->recurring[i], at, credits, count, fresh, due,
				due_count);
	return due;
}
