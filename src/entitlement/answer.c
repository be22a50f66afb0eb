/*
 * src/entitlement/answer.c
 *	  Reads what the resolver decides from, and the counters of metered features.
 *
 * Three small plans under one snapshot: the feature with the tenant, the
 * exceptions, the phases of subscriptions with what their bundles say. Nothing is
 * kept between calls, so no answer can be stale. The same reading serves one
 * feature and all of them.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/datum.h"

#include "core/core.h"
#include "entitlement/entitlement.h"

/* As many columns as read_setting() takes. */
#define SETTING(x)                                                                     \
	"(" x ").enabled, (" x ").quota, (" x ").period, (" x ").billing_anchor, (" x      \
	").soft, (" x ").value"
#define SETTING_COLUMNS 6

#define FEATURE_SQL                                                                    \
	"SELECT f.id, f.feature, f.kind, f.fold, t.state, t.time_zone, " SETTING(          \
		"f.fallback") " FROM _grownext.entitlement_feature AS f"                       \
					  " LEFT JOIN _grownext.tenant_tenant AS t ON t.id = $1"
#define OVERRIDE_SQL                                                                   \
	"SELECT o.feature_id, o.effect, o.user_id IS NOT NULL, " SETTING(                  \
		"o.setting") " FROM _grownext.entitlement_override AS o"                       \
					 " WHERE o.tenant_id = $1 AND o.valid_from <= $2 AND "             \
					 "o.valid_until > $2"                                              \
					 " AND (o.user_id IS NULL OR o.user_id = $3)"
#define OVERRIDE_ORDER " ORDER BY o.feature_id, o.valid_from, o.created_at, o.id"
#define PHASE_SQL                                                                      \
	"SELECT b.feature_id, p.quantity, p.anchor, " SETTING(                             \
		"b.setting") " FROM _grownext.entitlement_phase AS p"                          \
					 " JOIN _grownext.entitlement_bundle_feature AS b ON "             \
					 "b.version_id = p.version_id"                                     \
					 " WHERE p.tenant_id = $1 AND p.live AND p.valid_from <= $2 AND "  \
					 "p.valid_until > $2"                                              \
					 " AND p.live_until > $2"
#define PHASE_ORDER " ORDER BY b.feature_id, p.addon, p.valid_from, p.subscription_id"

static GnMarker change_marker = {.name = "entitlement_marker_change"};

static void
entitlement_init(void)
{
	gn_marker_register(&change_marker);
}

const GnComponent gn_entitlement_component = {
	.name = "entitlement",
	.init = entitlement_init,
	.tick = "SELECT _grownext.entitlement_tick($1)",
};

uint64
gn_entitlement_generation(void)
{
	return gn_marker_generation(&change_marker);
}

/* What is being read. */
typedef struct Reading
{
	const GnQuestion *question;
	MemoryContext memory;
	GnTenantState tenant;
	pg_tz *zone;
	GnFeature *features; /* by rising id */
	int count;
} Reading;

static Datum
column(uint64 row, int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number,
						 isnull);
}

/* A column that is never null. */
static Datum
sure_column(uint64 row, int number)
{
	bool isnull;
	Datum datum = column(row, number, &isnull);

	if (isnull)
		elog(ERROR, "unexpected null in column %d", number);
	return datum;
}

/* False if the setting is null. */
static bool
read_setting(const Reading *reading, uint64 row, int first, GnSetting *setting)
{
	bool isnull;
	Datum datum = column(row, first, &isnull);

	*setting = (GnSetting){.period = GN_PERIOD_MONTH};
	if (isnull)
		return false;
	setting->enabled = DatumGetBool(datum);
	datum = column(row, first + 1, &isnull);
	setting->unlimited = isnull;
	setting->quota = isnull ? 0 : DatumGetInt64(datum);
	datum = column(row, first + 2, &isnull);
	if (!isnull)
		gn_period_parse(TextDatumGetCString(datum), &setting->period);
	datum = column(row, first + 3, &isnull);
	setting->billing_anchor = !isnull && DatumGetBool(datum);
	datum = column(row, first + 4, &isnull);
	setting->soft = !isnull && DatumGetBool(datum);
	datum = column(row, first + 5, &isnull);
	if (!isnull)
	{
		MemoryContext caller = MemoryContextSwitchTo(reading->memory);

		setting->value = DatumGetJsonbPCopy(datum);
		MemoryContextSwitchTo(caller);
	}
	return true;
}

static GnCandidate *
add_candidate(const Reading *reading, GnFeature *feature, GnSource source)
{
	GnCandidate *candidate =
		MemoryContextAllocZero(reading->memory, sizeof(GnCandidate));

	candidate->source = source;
	candidate->quantity = 1;
	*feature->last = candidate;
	feature->last = &candidate->next;
	return candidate;
}

static GnKind
parse_kind(const char *name)
{
	if (strcmp(name, "boolean") == 0)
		return GN_KIND_BOOLEAN;
	if (strcmp(name, "limit") == 0)
		return GN_KIND_LIMIT;
	if (strcmp(name, "config") == 0)
		return GN_KIND_CONFIG;
	if (strcmp(name, "metered") == 0)
		return GN_KIND_METERED;
	elog(ERROR, "unexpected kind of feature \"%s\"", name);
}

static GnFold
parse_fold(const char *name)
{
	if (strcmp(name, "any") == 0)
		return GN_FOLD_ANY;
	if (strcmp(name, "last") == 0)
		return GN_FOLD_LAST;
	if (strcmp(name, "max") == 0)
		return GN_FOLD_MAX;
	if (strcmp(name, "sum") == 0)
		return GN_FOLD_SUM;
	elog(ERROR, "unexpected fold of feature \"%s\"", name);
}

/*
 * The tenant comes with every feature; a zone that the time zone database lost counts
 * as UTC.
 */
static void
read_tenant(Reading *reading)
{
	bool isnull;
	Datum state = column(0, 5, &isnull);

	if (isnull)
		return;
	reading->tenant = strcmp(TextDatumGetCString(state), "active") == 0
						  ? GN_TENANT_ACTIVE
						  : GN_TENANT_NOT_ACTIVE;
	reading->zone = pg_tzset(TextDatumGetCString(sure_column(0, 6)));
	if (reading->zone == NULL)
		reading->zone = pg_tzset("GMT");
}

static void
read_features(Reading *reading)
{
	static GnQuery one =
		GN_QUERY(FEATURE_SQL " WHERE f.feature = $2", UUIDOID, TEXTOID);
	static GnQuery all = GN_QUERY(FEATURE_SQL " ORDER BY f.id", UUIDOID);
	Datum values[2] = {UUIDPGetDatum(&reading->question->tenant)};

	if (reading->question->feature)
		values[1] = CStringGetTextDatum(reading->question->feature);
	reading->count = (int) gn_spi_execute(reading->question->feature ? &one : &all,
										  values, NULL, true);
	reading->features = MemoryContextAllocZero(reading->memory, (reading->count + 1) *
																	sizeof(GnFeature));
	for (int i = 0; i < reading->count; i++)
	{
		GnFeature *feature = &reading->features[i];
		GnSetting setting;

		feature->id = DatumGetInt32(sure_column(i, 1));
		feature->name = MemoryContextStrdup(reading->memory,
											TextDatumGetCString(sure_column(i, 2)));
		feature->kind = parse_kind(TextDatumGetCString(sure_column(i, 3)));
		feature->fold = parse_fold(TextDatumGetCString(sure_column(i, 4)));
		feature->last = &feature->candidates;
		if (read_setting(reading, i, 7, &setting))
			add_candidate(reading, feature, GN_SOURCE_DEFAULT)->setting = setting;
	}
	if (reading->count > 0)
		read_tenant(reading);
	SPI_freetuptable(SPI_tuptable);
}

/* Rows come in the order of their features: the search goes on where it stood. */
static GnFeature *
next_feature(const Reading *reading, int id, int *position)
{
	while (*position < reading->count && reading->features[*position].id < id)
		(*position)++;
	if (*position < reading->count && reading->features[*position].id == id)
		return &reading->features[*position];
	return NULL;
}

static GnSource
override_source(uint64 row)
{
	char *effect = TextDatumGetCString(sure_column(row, 2));

	if (strcmp(effect, "block") == 0)
		return GN_SOURCE_BLOCK;
	if (strcmp(effect, "add") == 0)
		return GN_SOURCE_TENANT_ADD;
	return DatumGetBool(sure_column(row, 3)) ? GN_SOURCE_USER_GRANT
											 : GN_SOURCE_TENANT_GRANT;
}

static void
read_overrides(Reading *reading)
{
	static GnQuery one = GN_QUERY(OVERRIDE_SQL " AND o.feature_id = $4" OVERRIDE_ORDER,
								  UUIDOID, TIMESTAMPTZOID, UUIDOID, INT4OID);
	static GnQuery all =
		GN_QUERY(OVERRIDE_SQL OVERRIDE_ORDER, UUIDOID, TIMESTAMPTZOID, UUIDOID);
	const GnQuestion *question = reading->question;
	Datum values[4] = {UUIDPGetDatum(&question->tenant),
					   TimestampTzGetDatum(question->at), UUIDPGetDatum(question->user),
					   Int32GetDatum(reading->features[0].id)};
	uint64 rows = gn_spi_execute(question->feature ? &one : &all, values,
								 question->user ? NULL : "  n ", true);
	int position = 0;

	for (uint64 i = 0; i < rows; i++)
	{
		GnFeature *feature =
			next_feature(reading, DatumGetInt32(sure_column(i, 1)), &position);
		GnSetting setting;

		if (feature == NULL)
			continue;
		(void) read_setting(reading, i, 4, &setting);
		add_candidate(reading, feature, override_source(i))->setting = setting;
	}
	SPI_freetuptable(SPI_tuptable);
}

static void
read_phases(Reading *reading)
{
	static GnQuery one = GN_QUERY(PHASE_SQL " AND b.feature_id = $3" PHASE_ORDER,
								  UUIDOID, TIMESTAMPTZOID, INT4OID);
	static GnQuery all = GN_QUERY(PHASE_SQL PHASE_ORDER, UUIDOID, TIMESTAMPTZOID);
	const GnQuestion *question = reading->question;
	Datum values[3] = {UUIDPGetDatum(&question->tenant),
					   TimestampTzGetDatum(question->at),
					   Int32GetDatum(reading->features[0].id)};
	uint64 rows = gn_spi_execute(question->feature ? &one : &all, values, NULL, true);
	int position = 0;

	for (uint64 i = 0; i < rows; i++)
	{
		GnFeature *feature =
			next_feature(reading, DatumGetInt32(sure_column(i, 1)), &position);
		GnCandidate *candidate;
		GnSetting setting;

		if (feature == NULL || !read_setting(reading, i, 4, &setting))
			continue;
		setting.anchor = DatumGetTimestampTz(sure_column(i, 3));
		candidate = add_candidate(reading, feature, GN_SOURCE_SUBSCRIPTION);
		candidate->quantity = DatumGetInt32(sure_column(i, 2));
		candidate->setting = setting;
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Only subscriptions have an anchor; what holds without one follows the calendar. */
static void
find_period(const Reading *reading, GnAnswer *answer)
{
	const GnSetting *setting = &answer->decision.setting;
	bool anchored =
		setting->billing_anchor && answer->decision.source == GN_SOURCE_SUBSCRIPTION;

	gn_period_bounds(setting->period, anchored ? &setting->anchor : NULL, reading->zone,
					 reading->question->at, &answer->period_start, &answer->period_end);
}

static void
read_usage(const Reading *reading, GnAnswer *answer)
{
	static GnQuery query = GN_QUERY(
		"SELECT u.used FROM _grownext.entitlement_usage AS u WHERE u.tenant_id = $1"
		" AND u.feature_id = $2 AND u.period_start = $3 AND u.period = $4",
		UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID);
	const GnSetting *setting = &answer->decision.setting;
	Datum values[4] = {UUIDPGetDatum(&reading->question->tenant),
					   Int32GetDatum(answer->known->id),
					   TimestampTzGetDatum(answer->period_start),
					   CStringGetTextDatum(gn_period_name(setting->period))};

	if (gn_spi_execute(&query, values, NULL, true) == 1)
		answer->used = DatumGetInt64(sure_column(0, 1));
	SPI_freetuptable(SPI_tuptable);
	if (answer->decision.allowed && !setting->unlimited &&
		answer->used >= setting->quota)
	{
		answer->decision.allowed = setting->soft;
		answer->decision.reason = setting->soft ? NULL : "quota_exceeded";
	}
}

static void
answer_feature(const Reading *reading, const GnFeature *feature, bool with_usage,
			   GnAnswer *answer)
{
	answer->known = feature;
	answer->feature = feature ? feature->name : reading->question->feature;
	answer->decision = gn_entitlement_resolve(feature, reading->tenant);
	answer->counted = feature && feature->kind == GN_KIND_METERED &&
					  answer->decision.decided && answer->decision.setting.enabled;
	if (!answer->counted)
		return;
	find_period(reading, answer);
	if (with_usage)
		read_usage(reading, answer);
}

GnAnswer *
gn_entitlement_answer(const GnQuestion *question, bool with_usage, MemoryContext memory,
					  int *count)
{
	Reading reading = {.question = question, .memory = memory};
	GnAnswer *answers;

	read_features(&reading);
	if (reading.count > 0 && reading.tenant == GN_TENANT_ACTIVE)
	{
		read_overrides(&reading);
		read_phases(&reading);
	}
	*count = question->feature ? 1 : reading.count;
	answers = MemoryContextAllocZero(memory, (*count + 1) * sizeof(GnAnswer));
	for (int i = 0; i < *count; i++)
		answer_feature(&reading, i < reading.count ? &reading.features[i] : NULL,
					   with_usage, &answers[i]);
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
