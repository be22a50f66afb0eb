/*
 * src/entitlement/counter.c
 *	  Counters: how many units of a feature a tenant used in a period.
 *
 * The tier of the feature says how a counter is kept. The strict one, here, is one row:
 * a consume that finds room writes it, waiting for whoever holds it and judging by what
 * that one left, so the sum of all grants never exceeds the quota and a denial means
 * that the quota was used up. The escrow tier (escrow.c) spreads the room over rows of
 * which a consume needs one; the soft tier (soft.c) writes events that are counted
 * later. Whatever an earlier tier left is gathered into row 0 before a strict consume
 * counts.
 *
 * Waiting may take long, and meanwhile the right may have ended. The change marker
 * tells: has anything that the answer rests on changed, nothing is written and the
 * question is asked again.
 *
 * Lock order: row 0, then shards by number, then events. A transaction that counts
 * twice in an escrow counter may hold a shard out of that order: it can end in 40P01.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "entitlement/catalogue.h"
#include "entitlement/counter.h"

#define HOT_WAITS 100 /* within a minute: a counter that serialises its tenant */

GN_FUNCTION(gn_entitlement_usage_fold);

bool
gn_change_moved(const GnChange *change)
{
	if (change->answer == NULL || change->keeps_quota)
		return false;
	gn_cache_catch_up();
	return gn_stamp_moved(&change->answer->stamp);
}

bool
gn_change_fits(const GnChange *change, int64 used)
{
	if (change->absolute || change->amount == 0)
		return true;
	if (change->amount < 0)
		return used >= -change->amount;
	return change->amount <= change->limit && used <= change->limit - change->amount;
}

void
gn_change_describe(GnChange *change, const GnCounterRow *row, int64 used)
{
	change->found = true;
	change->state = (GnCounterState){
		.used = used,
		.unlimited = row->unlimited,
		.quota = row->quota,
		.end = row->end,
	};
}

void
gn_change_set_quota(const GnChange *change, GnCounterRow *row)
{
	if (change->answer == NULL || change->keeps_quota)
		return;
	row->unlimited = change->answer->decision.setting.unlimited;
	row->quota = row->unlimited ? 0 : change->answer->decision.setting.quota;
}

bool
gn_change_has_quota(const GnChange *change, const GnCounterRow *row)
{
	GnCounterRow wanted = *row;

	gn_change_set_quota(change, &wanted);
	return wanted.unlimited == row->unlimited && wanted.quota == row->quota;
}

int64
gn_counter_fold_events(const GnCounter *counter)
{
	static GnQuery query = GN_QUERY(
		"WITH gone AS (DELETE FROM _grownext.entitlement_usage_event"
		" WHERE " GN_COUNTER_KEY " RETURNING at, amount),"
		" slot AS (SELECT date_bin('15 minutes', at, '2000-01-01 00:00Z') AS start,"
		" sum(amount) AS amount FROM gone GROUP BY 1 ORDER BY 1),"
		" noted AS (INSERT INTO _grownext.entitlement_usage_slot AS s"
		" (tenant_id, feature_id, period_start, period, slot_start, amount)"
		" SELECT $1, $2, $3, $4, start, amount FROM slot"
		" ON CONFLICT ON CONSTRAINT entitlement_usage_slot_pkey"
		" DO UPDATE SET amount = s.amount + EXCLUDED.amount)"
		" SELECT coalesce(sum(amount), 0)::bigint FROM gone",
		UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID);
	Datum values[4];
	bool isnull;
	int64 units;
	GnSpi spi;

	gn_counter_name(counter, values);
	gn_spi_begin(&spi);
	gn_spi_execute(&query, values, NULL, false);
	units = DatumGetInt64(gn_usage_column(1, &isnull));
	gn_spi_end(&spi);
	return units;
}

/* The strict tier ---------------------------------------------------------- */

/*
 * Gathers what other tiers left into row 0 and locks it. The shards stay, empty. False:
 * there is no counter.
 */
static bool
gather(GnCounterTable *table, const GnChange *change, GnCounterRow *row)
{
	const GnCounter *counter = &change->counter;
	int shards;

	if (!row->locked && !gn_counter_row_lock(table, counter, 0, row))
		return false;
	shards = row->shards;
	for (int shard = 1; shard <= shards; shard++)
	{
		GnCounterRow other;

		if (!gn_counter_row_lock(table, counter, shard, &other))
			continue;
		row->used += other.used;
		other.used = 0;
		other.allowance = 0;
		gn_counter_row_write(table, counter, &other);
	}
	row->shards = 0;
	if (row->has_events || change->folds)
		row->used += gn_counter_fold_events(counter);
	row->has_events = change->feature.tier == GN_TIER_SOFT;
	return gn_counter_row_write(table, counter, row);
}

/* Somebody waited for the row; the hundredth within a minute is remembered. */
static void
note_wait(const GnChange *change, GnCounterRow *row)
{
	static GnQuery query = GN_QUERY(
		"INSERT INTO _grownext.entitlement_usage_hot (tenant_id, feature_id, hot_at)"
		" VALUES ($1, $2, $3)"
		" ON CONFLICT ON CONSTRAINT entitlement_usage_hot_pkey"
		" DO UPDATE SET hot_at = EXCLUDED.hot_at",
		UUIDOID, INT4OID, TIMESTAMPTZOID);
	TimestampTz now = gn_now();
	Datum values[3] = {UUIDPGetDatum(&change->counter.tenant),
					   Int32GetDatum(change->counter.feature),
					   TimestampTzGetDatum(now)};
	GnSpi spi;

	if (row->waits_since == 0 || now < row->waits_since ||
		now - row->waits_since >= USECS_PER_MINUTE)
	{
		row->waits_since = now;
		row->waits = 0;
	}
	if (++row->waits != HOT_WAITS)
		return;
	gn_spi_begin(&spi);
	gn_spi_execute(&query, values, NULL, false);
	gn_spi_end(&spi);
}

/* Writes the change into row 0; false: it is not the newest, or somebody is at it. */
static bool
write_change(GnCounterTable *table, GnChange *change, const GnCounterRow *row)
{
	GnCounterRow next = *row;
	GnSpill spill;

	next.used = change->absolute ? change->amount : row->used + change->amount;
	spill = gn_slot_add(&next, next.used - row->used, change->at);
	gn_change_set_quota(change, &next);
	change->fired_from = change->fired_to = next.fired;
	if (next.used > row->used || change->folds)
		gn_threshold_note(change, &next, next.used);
	if (row->waited && change->feature.tier == GN_TIER_STRICT)
		note_wait(change, &next);
	if (!gn_counter_row_write(table, &change->counter, &next))
		return false;
	gn_slot_spill(&change->counter, 0, spill);
	gn_change_describe(change, &next, next.used);
	return true;
}

static GnCount
change_row(GnCounterTable *table, GnChange *change)
{
	GnCounterRow row;
	bool found = gn_counter_row_read(table, &change->counter, 0, &row);

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (found && (row.shards > 0 || row.has_events || change->folds))
			found = gather(table, change, &row);
		if (gn_change_moved(change))
			return GN_COUNT_AGAIN;
		if (!found)
			return GN_COUNT_DENIED;
		if (!gn_change_fits(change, row.used))
		{
			gn_change_describe(change, &row, row.used);
			return GN_COUNT_DENIED;
		}
		if (write_change(table, change, &row))
			return GN_COUNT_DONE;
		found = gn_counter_row_lock(table, &change->counter, 0, &row);
	}
}

/* Any tier ----------------------------------------------------------------- */

/* Is there a counter, or is one made for what is to be counted? */
static bool
make_counter(GnCounterTable *table, GnChange *change)
{
	const GnSetting *setting;
	GnCounterRow row;

	if (gn_counter_row_read(table, &change->counter, 0, &row))
		return true;
	if (change->answer == NULL || !gn_change_fits(change, 0))
		return false;
	setting = &change->answer->decision.setting;
	gn_counter_row_make(&change->counter, 0, change->answer->period_end,
						setting->unlimited, setting->quota);
	return true;
}

static GnCount
change_counter(GnCounterTable *table, GnChange *change)
{
	bool exactly = change->absolute || change->folds;

	if (change->feature.tier == GN_TIER_SOFT && change->amount > 0 && !exactly)
		return gn_soft_add(table, change);
	if (change->feature.tier == GN_TIER_SOFT)
		gn_soft_forget(&change->counter);
	if (change->feature.tier == GN_TIER_ESCROW && !exactly)
		return gn_escrow_change(table, change);
	return change_row(table, change);
}

/*
 * Runs a change. A tier that denies without having found a counter asks for one.
 */
static GnCount
run(GnChange *change)
{
	GnCounterTable table;
	GnCount count;

	gn_counter_open(&table);
	count = change_counter(&table, change);
	if (count == GN_COUNT_DENIED && !change->found && make_counter(&table, change))
		count = change_counter(&table, change);
	gn_counter_close(&table);
	if (count != GN_COUNT_DONE)
		return count;
	if (change->fired_to > change->fired_from)
		gn_threshold_tell(change);
	return count;
}

/* What whoever counts calls ------------------------------------------------ */

GnCounter
gn_counter_of(const GnAnswer *answer)
{
	return (GnCounter){
		.tenant = answer->holder,
		.feature = answer->known->id,
		.period = answer->decision.setting.period,
		.start = answer->period_start,
	};
}

void
gn_counter_name(const GnCounter *counter, Datum *values)
{
	values[0] = UUIDPGetDatum(&counter->tenant);
	values[1] = Int32GetDatum(counter->feature);
	values[2] = TimestampTzGetDatum(counter->start);
	values[3] = CStringGetTextDatum(gn_period_name(counter->period));
}

static int64
read_total(const GnCounter *counter, bool read_only)
{
	static GnQuery query = GN_QUERY("SELECT " GN_COUNTER_TOTAL("$1", "$2", "$3", "$4"),
									UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID);
	Datum values[4];
	bool isnull;
	int64 total;
	GnSpi spi;

	gn_counter_name(counter, values);
	gn_spi_begin(&spi);
	gn_spi_execute(&query, values, NULL, read_only);
	total = DatumGetInt64(gn_usage_column(1, &isnull));
	gn_spi_end(&spi);
	return total;
}

int64
gn_counter_used(const GnCounter *counter)
{
	return read_total(counter, false);
}

int64
gn_counter_seen(const GnCounter *counter)
{
	return read_total(counter, true);
}

GnCount
gn_counter_add(const GnAnswer *answer, int64 amount, TimestampTz at, int64 *used)
{
	const GnSetting *setting = &answer->decision.setting;
	GnChange change = {
		.counter = gn_counter_of(answer),
		.feature = *answer->known,
		.answer = answer,
		.amount = amount,
		.limit = setting->unlimited || setting->soft ? PG_INT64_MAX : setting->quota,
		.at = at,
	};
	GnCount count = run(&change);

	*used = change.state.used;
	return count;
}

GnCount
gn_counter_record(const GnAnswer *answer, bool as_of, int64 amount, TimestampTz at,
				  GnCounterState *state)
{
	GnChange change = {
		.counter = gn_counter_of(answer),
		.feature = *answer->known,
		.answer = answer,
		.keeps_quota = as_of,
		.amount = amount,
		.limit = PG_INT64_MAX,
		.at = at,
	};
	GnCount count = run(&change);

	if (count == GN_COUNT_DENIED)
		ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						errmsg("usage of \"%s\" is out of range", answer->feature)));
	*state = change.state;
	return count;
}

GnCount
gn_counter_set(const GnAnswer *answer, int64 used, TimestampTz at,
			   GnCounterState *state)
{
	GnChange change = {
		.counter = gn_counter_of(answer),
		.feature = *answer->known,
		.answer = answer,
		.amount = used,
		.absolute = true,
		.at = at,
	};
	GnCount count = run(&change);

	*state = change.state;
	return count;
}

bool
gn_counter_give_back(const GnCounter *counter, int64 amount, TimestampTz at,
					 GnCounterState *state)
{
	GnChange change = {
		.counter = *counter,
		.feature = gn_catalogue()->features[counter->feature],
		.amount = -amount,
		.at = at,
	};

	change.feature.name = pstrdup(change.feature.name);
	if (run(&change) != GN_COUNT_DONE)
		return false;
	*state = change.state;
	return true;
}

/* SQL: _grownext.entitlement_usage_fold(tenant_id uuid, feature_id int, period_start
 *		timestamptz, period text)
 */
Datum
gn_entitlement_usage_fold(PG_FUNCTION_ARGS)
{
	GnChange change = {
		.counter = {.tenant = *PG_GETARG_UUID_P(0),
					.feature = PG_GETARG_INT32(1),
					.start = PG_GETARG_TIMESTAMPTZ(2)},
		.folds = true,
	};
	GnSpi spi;

	if (!gn_period_parse(text_to_cstring(PG_GETARG_TEXT_PP(3)), &change.counter.period))
		elog(ERROR, "unexpected period of a counter");
	gn_spi_begin(&spi);
	change.feature = gn_catalogue()->features[change.counter.feature];
	change.feature.name = pstrdup(change.feature.name);
	run(&change);
	gn_spi_end(&spi);
	PG_RETURN_VOID();
}
