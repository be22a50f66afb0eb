/*
 * src/entitlement/explain.c
 *	  entitlement_explain(): every rule that was looked at, what had a say, who decided.
 *
 * The trace comes from the resolver that decides, run over what the tables say under
 * the snapshot of the answer, so an explanation cannot disagree with the decision.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "entitlement/compile.h"
#include "entitlement/entitlement.h"
#include "entitlement/record.h"

GN_FUNCTION(gn_entitlement_explain);

/* Which candidates a rule looks at. */
static bool
concerns(const struct GnStep *step, const GnFeature *feature, GnSource source)
{
	const char *rule = step->rule;

	switch (source)
	{
		case GN_SOURCE_BLOCK:
			return strcmp(rule, "block") == 0;
		case GN_SOURCE_USER_GRANT:
			return strcmp(rule, "user_grant") == 0;
		case GN_SOURCE_TENANT_GRANT:
			return strcmp(rule, "tenant_grant") == 0;
		case GN_SOURCE_SUBSCRIPTION:
		case GN_SOURCE_TENANT_ADD:
			return strcmp(rule, "subscription") == 0;
		case GN_SOURCE_FREE_BUNDLE:
			/* folded with add-ons and what is added; credits are not folded */
			if (strcmp(rule, "subscription") == 0)
				return step->decided && feature->kind != GN_KIND_CREDIT;
			return strcmp(rule, "free_bundle") == 0;
		case GN_SOURCE_PARENT:
		case GN_SOURCE_DEFAULT:
		case GN_SOURCE_NONE:
			break;
	}
	return false;
}

static void
append_instant(StringInfo json, const char *key, TimestampTz instant)
{
	char text[MAXDATELEN + 1];

	if (TIMESTAMP_NOT_FINITE(instant))
		appendStringInfo(json, ", \"%s\": null", key);
	else
		appendStringInfo(json, ", \"%s\": \"%s\"", key,
						 JsonEncodeDateTime(text, TimestampTzGetDatum(instant),
											TIMESTAMPTZOID, NULL));
}

static void
append_recurring(StringInfo json, const GnSetting *setting)
{
	if (setting->unlimited)
		appendStringInfoString(json, "{\"amount\": \"unlimited\"");
	else
		appendStringInfo(json, "{\"amount\": " INT64_FORMAT, setting->quota);
	appendStringInfo(json,
					 ", \"period\": \"%s\", \"rollover\": " INT64_FORMAT
					 ", \"priority\": %d}",
					 setting->billing_anchor ? "billing"
											 : gn_period_name(setting->period),
					 setting->rollover, setting->priority);
}

/* Of a balance: the sum of the grants in force, what of it is burnt, what is left. */
static void
append_balance(StringInfo json, const GnAnswer *answer)
{
	int64 remaining;

	if (gn_entitlement_remaining(answer, &remaining))
		appendStringInfo(json,
						 ", \"quota\": " INT64_FORMAT ", \"remaining\": " INT64_FORMAT,
						 answer->decision.setting.quota, remaining);
	else
		appendStringInfoString(json, ", \"quota\": \"unlimited\"");
	appendStringInfo(json, ", \"used\": " INT64_FORMAT, answer->used);
	append_instant(json, "resets_at", answer->period_end);
	if (answer->decision.pooled)
		appendStringInfo(json, ", \"counted_at\": \"%s\"",
						 gn_uuid_text(&answer->holder));
}

void
gn_append_setting(StringInfo json, const GnFeature *feature, const GnSetting *setting)
{
	if (!setting->enabled)
		appendStringInfoString(json, "false");
	else if (feature->kind == GN_KIND_BOOLEAN)
		appendStringInfoString(json, "true");
	else if (feature->kind == GN_KIND_CONFIG)
		appendStringInfo(json, "{\"value\": %s}",
						 setting->value ? gn_jsonb_text(setting->value) : "null");
	else if (feature->kind == GN_KIND_CREDIT)
		append_recurring(json, setting);
	else
	{
		if (setting->unlimited)
			appendStringInfoString(json, "{\"quota\": \"unlimited\"");
		else
			appendStringInfo(json, "{\"quota\": " INT64_FORMAT, setting->quota);
		if (feature->kind == GN_KIND_METERED)
			appendStringInfo(json, ", \"period\": \"%s\", \"soft\": %s",
							 setting->billing_anchor ? "billing"
													 : gn_period_name(setting->period),
							 setting->soft ? "true" : "false");
		appendStringInfoChar(json, '}');
	}
}

static void
append_says(StringInfo json, const GnFeature *feature, const GnSetting *setting)
{
	appendStringInfoString(json, ", \"says\": ");
	gn_append_setting(json, feature, setting);
}

/* Name and version of the bundle that a subscription means. */
static void
append_bundle(StringInfo json, int version_id)
{
	static GnQuery query = GN_QUERY(
		"SELECT v.bundle, v.version FROM _grownext.entitlement_bundle_version AS v"
		" WHERE v.id = $1",
		INT4OID);
	Datum values[1] = {Int32GetDatum(version_id)};

	if (gn_spi_execute(&query, values, NULL, true) == 1)
	{
		appendStringInfoString(json, ", \"bundle\": ");
		escape_json(json,
					SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
		appendStringInfo(json, ", \"version\": %s",
						 SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2));
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Why somebody granted or blocked. */
static void
append_reason(StringInfo json, const pg_uuid_t *id)
{
	static GnQuery query =
		GN_QUERY("SELECT o.reason FROM _grownext.entitlement_override AS o"
				 " WHERE o.id = $1 AND o.reason IS NOT NULL",
				 UUIDOID);
	Datum values[1] = {UUIDPGetDatum(id)};

	if (gn_spi_execute(&query, values, NULL, true) == 1)
	{
		appendStringInfoString(json, ", \"reason\": ");
		escape_json(json,
					SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	}
	SPI_freetuptable(SPI_tuptable);
}

static void
append_candidate(StringInfo json, const GnFeature *feature,
				 const GnCandidate *candidate)
{
	appendStringInfo(json, "{\"source\": \"%s\"", gn_source_name(candidate->source));
	if (candidate->source != GN_SOURCE_FREE_BUNDLE)
		appendStringInfo(json, ", \"id\": \"%s\"", gn_uuid_text(&candidate->id));
	if (candidate->source == GN_SOURCE_SUBSCRIPTION)
	{
		append_bundle(json, candidate->version_id);
		appendStringInfo(json, ", \"quantity\": %d", candidate->quantity);
	}
	else if (candidate->source == GN_SOURCE_FREE_BUNDLE)
		append_bundle(json, candidate->version_id);
	else
		append_reason(json, &candidate->id);
	if (candidate->source == GN_SOURCE_TENANT_ADD)
		appendStringInfoString(json, ", \"adds\": true");
	if (candidate->source != GN_SOURCE_BLOCK)
		append_says(json, feature, &candidate->setting);
	append_instant(json, "valid_from", candidate->valid_from);
	append_instant(json, "valid_until", candidate->valid_until);
	appendStringInfoChar(json, '}');
}

static void
append_step(StringInfo json, const struct GnStep *step, const GnFeature *feature,
			const GnCandidate *candidates)
{
	bool any = false;

	appendStringInfo(json, "{\"rule\": \"%s\", \"decided\": %s", step->rule,
					 step->decided ? "true" : "false");
	for (const GnCandidate *c = candidates; c; c = c->next)
	{
		if (!concerns(step, feature, c->source))
			continue;
		appendStringInfoString(json, any ? ", " : ", \"candidates\": [");
		append_candidate(json, feature, c);
		any = true;
	}
	if (any)
		appendStringInfoChar(json, ']');
	appendStringInfoChar(json, '}');
}

static void
append_answer(StringInfo json, const GnQuestion *question, const GnAnswer *answer)
{
	appendStringInfoString(json, "{\"feature\": ");
	escape_json(json, question->feature);
	appendStringInfo(json, ", \"tenant_id\": \"%s\"", gn_uuid_text(&question->tenant));
	append_instant(json, "at", question->at);
	appendStringInfo(json, ", \"allowed\": %s",
					 answer->decision.allowed ? "true" : "false");
	if (answer->decision.source != GN_SOURCE_NONE)
		appendStringInfo(json, ", \"source\": \"%s\"",
						 gn_source_name(answer->decision.source));
	if (answer->decision.reason)
		appendStringInfo(json, ", \"reason\": \"%s\"", answer->decision.reason);
	if (answer->counted && answer->known->kind == GN_KIND_CREDIT)
	{
		append_balance(json, answer);
		return;
	}
	if (answer->known && answer->decision.decided)
		append_says(json, answer->known, &answer->decision.setting);
	if (answer->counted)
	{
		appendStringInfo(json, ", \"used\": " INT64_FORMAT, answer->used);
		append_instant(json, "period_start", answer->period_start);
		append_instant(json, "resets_at", answer->period_end);
		if (answer->known->tier == GN_TIER_SOFT)
			appendStringInfoString(json, ", \"approximate\": true");
		if (answer->decision.pooled)
			appendStringInfo(json, ", \"counted_at\": \"%s\"",
							 gn_uuid_text(&answer->holder));
	}
}

/* The decision once more, over the same tables under the same snapshot, traced. */
static void
append_steps(StringInfo json, const GnQuestion *question)
{
	const GnCatalogue *catalogue = gn_catalogue();
	const GnFeature *feature =
		gn_catalogue_find(catalogue, question->feature, strlen(question->feature));
	GnReading *reading = gn_read_tenant(catalogue, &question->tenant, question->user,
										question->at, NULL);
	const GnCandidate *candidates = feature ? reading->candidates[feature->id] : NULL;
	const GnRecord *parent = NULL;
	GnTrace trace = {0};

	if (reading->has_parent && reading->state == GN_TENANT_ACTIVE)
		parent = gn_record_compile(&reading->parent, NULL, question->at);
	(void) gn_entitlement_resolve(feature, reading->state, candidates,
								  parent && feature ? &parent->decisions[feature->id]
													: NULL,
								  &trace);
	appendStringInfoString(json, ", \"steps\": [");
	for (int i = 0; i < trace.count; i++)
	{
		if (i > 0)
			appendStringInfoString(json, ", ");
		append_step(json, &trace.steps[i], feature, candidates);
	}
	appendStringInfoChar(json, ']');
}

/* SQL: grownext.entitlement_explain(feature text, tenant_id uuid, at timestamptz) */
Datum
gn_entitlement_explain(PG_FUNCTION_ARGS)
{
	GnQuestion question = {.as_of = true};
	MemoryContext memory = CurrentMemoryContext;
	StringInfoData json;
	GnAnswer *answer;
	pg_uuid_t user;
	int count;
	GnSpi spi;

	question.tenant =
		gn_caller_tenant(GetUserId(), PG_ARGISNULL(1) ? NULL : PG_GETARG_UUID_P(1));
	question.feature = PG_ARGISNULL(0) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(0));
	question.at = gn_instant_argument(fcinfo, 2);
	question.user = gn_context_user(&user);
	initStringInfo(&json);
	gn_spi_begin(&spi);
	gn_scope_push_snapshot();
	answer = gn_entitlement_answer(&question, true, memory, &count);
	append_answer(&json, &question, answer);
	append_steps(&json, &question);
	PopActiveSnapshot();
	gn_spi_end(&spi);
	appendStringInfoChar(&json, '}');
	PG_RETURN_JSONB_P(gn_jsonb_from_text(json.data));
}
