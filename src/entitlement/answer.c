/*
 * src/entitlement/answer.c
 *	  Answers: what was decided about features of a tenant, with their counters.
 *
 * The decision about now comes from the tenant's cached record, about any other instant
 * from one that is compiled for it. Counters are never cached: they are read where they
 * are wanted, all of them in one query.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "entitlement/credit.h"
#include "entitlement/entitlement.h"
#include "entitlement/record.h"
#include "entitlement/usage.h"

static void
entitlement_init(void)
{
	gn_catalogue_init();
	gn_stamp_init();
	gn_record_init();
	gn_plan_init();
	gn_claims_init();
	gn_soft_init();
}

const GnComponent gn_entitlement_component = {
	.name = "entitlement",
	.init = entitlement_init,
	.tick = "SELECT _grownext.entitlement_tick($1)",
};

void
gn_setting_period(const GnSetting *setting, pg_tz *zone, TimestampTz at,
				  TimestampTz *start, TimestampTz *end)
{
	bool anchored = setting->billing_anchor && !TIMESTAMP_NOT_FINITE(setting->anchor);

	gn_period_bounds(setting->period, anchored ? &setting->anchor : NULL, zone, at,
					 start, end);
}

static void
apply_usage(GnAnswer *answer, int64 used)
{
	const GnSetting *setting = &answer->decision.setting;

	answer->used = used;
	if (answer->decision.allowed && !setting->unlimited && used >= setting->quota)
	{
		answer->decision.allowed = setting->soft;
		answer->decision.reason = setting->soft ? NULL : "quota_exceeded";
	}
}

/* The counters of all answers that have one. */
static void
read_usage(GnAnswer *answers, int count)
{
	static GnQuery query = GN_QUERY(
		"SELECT k.place, " GN_COUNTER_TOTAL(
			"k.tenant_id", "k.feature_id", "k.period_start",
			"k.period") " FROM unnest($1, $2, $3, $4)"
						" WITH ORDINALITY AS k (tenant_id, feature_id, period_start, "
						"period, place)",
		UUIDARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID);
	Datum *columns[4];
	Datum values[4];
	GnAnswer **asked = palloc(count * sizeof(GnAnswer *));
	int wanted = 0;
	uint64 rows;

	for (int i = 0; i < 4; i++)
		columns[i] = palloc(count * sizeof(Datum));
	for (int i = 0; i < count; i++)
	{
		if (!answers[i].counted)
			continue;
		columns[0][wanted] = UUIDPGetDatum(&answers[i].holder);
		columns[1][wanted] = Int32GetDatum(answers[i].known->id);
		columns[2][wanted] = TimestampTzGetDatum(answers[i].period_start);
		columns[3][wanted] =
			CStringGetTextDatum(gn_period_name(answers[i].decision.setting.period));
		asked[wanted++] = &answers[i];
	}
	if (wanted == 0)
		return;
	values[0] = PointerGetDatum(
		construct_array(columns[0], wanted, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	values[1] = PointerGetDatum(
		construct_array(columns[1], wanted, INT4OID, 4, true, TYPALIGN_INT));
	values[2] = PointerGetDatum(construct_array(columns[2], wanted, TIMESTAMPTZOID, 8,
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[3] = PointerGetDatum(
		construct_array(columns[3], wanted, TEXTOID, -1, false, TYPALIGN_INT));
	rows = gn_spi_execute(&query, values, NULL, true);
	for (uint64 i = 0; i < rows; i++)
	{
		bool isnull;
		int64 place = DatumGetInt64(
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
		int64 used = DatumGetInt64(
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull));

		apply_usage(asked[place - 1], used);
	}
	SPI_freetuptable(SPI_tuptable);
}

/* One read of one counter, as most questions are. */
static void
read_one_usage(GnAnswer *answer)
{
	GnCounter counter = gn_counter_of(answer);

	apply_usage(answer, gn_counter_seen(&counter));
}

/* Copies what is cached: the caller's answer outlives it. */
static void
answer_feature(const GnQuestion *question, const GnRecord *record,
			   const GnFeature *feature, MemoryContext memory, GnAnswer *answer)
{
	MemoryContext caller = MemoryContextSwitchTo(memory);

	answer->stamp = record->stamp;
	if (feature && feature->id < record->count)
	{
		GnFeature *copy = palloc(sizeof(GnFeature));

		*copy = *feature;
		copy->name = pstrdup(feature->name);
		answer->known = copy;
		answer->feature = copy->name;
		answer->decision = record->decisions[feature->id];
		gn_decision_own(&answer->decision, memory);
		answer->counted = (record->flags[feature->id] & GN_FLAG_COUNTED) != 0;
		answer->holder = answer->decision.pooled ? record->top : question->tenant;
		answer->zone = answer->decision.pooled ? record->top_zone : record->zone;
	}
	else
	{
		answer->feature = question->feature;
		answer->decision =
			gn_entitlement_resolve(NULL, record->state, NULL, NULL, NULL);
	}
	if (answer->counted)
		gn_setting_period(&answer->decision.setting, answer->zone, question->at,
						  &answer->period_start, &answer->period_end);
	MemoryContextSwitchTo(caller);
}

static GnAnswer *
answer_one(const GnRecord *record, const GnCatalogue *catalogue,
		   const GnQuestion *question, MemoryContext memory)
{
	GnAnswer *answer = MemoryContextAllocZero(memory, sizeof(GnAnswer));

	answer_feature(question, record,
				   gn_catalogue_find(catalogue, question->feature,
									 strlen(question->feature)),
				   memory, answer);
	return answer;
}

GnAnswer *
gn_entitlement_answer_cached(const GnQuestion *question, MemoryContext memory)
{
	const GnCatalogue *catalogue;
	const GnRecord *record;

	if (question->as_of)
		return NULL;
	gn_cache_catch_up();
	record = gn_record_remembered(&question->tenant, question->user);
	catalogue = gn_catalogue_cached();
	if (record == NULL || catalogue == NULL)
		return NULL;
	return answer_one(record, catalogue, question, memory);
}

GnAnswer *
gn_entitlement_answer(const GnQuestion *question, bool with_usage, MemoryContext memory,
					  int *count)
{
	const GnRecord *record =
		question->as_of
			? gn_record_compile(&question->tenant, question->user, question->at)
			: gn_record(&question->tenant, question->user, question->at);

	return gn_entitlement_answer_from(record, question, with_usage, memory, count);
}

GnAnswer *
gn_entitlement_answer_from(const GnRecord *record, const GnQuestion *question,
						   bool with_usage, MemoryContext memory, int *count)
{
	const GnCatalogue *catalogue = gn_catalogue();
	GnAnswer *answers;

	*count = question->feature ? 1 : Min(record->count, catalogue->count);
	if (question->feature)
		answers = answer_one(record, catalogue, question, memory);
	else
	{
		answers = MemoryContextAllocZero(memory, (*count + 1) * sizeof(GnAnswer));
		for (int i = 0; i < *count; i++)
			answer_feature(question, record, &catalogue->features[i], memory,
						   &answers[i]);
	}
	if (with_usage && *count == 1 && answers[0].counted)
		read_one_usage(&answers[0]);
	else if (with_usage)
		read_usage(answers, *count);
	if (with_usage && !question->as_of)
		gn_gauges_read(question, answers, *count);
	if (with_usage)
		gn_credit_answers(answers, *count, question);
	return answers;
}

bool
gn_entitlement_remaining(const GnAnswer *answer, int64 *remaining)
{
	const GnSetting *setting = &answer->decision.setting;

	if (setting->unlimited)
		return false;
	*remaining = Max(setting->quota - answer->used, 0);
	return true;
}
