/*
 * src/entitlement/catalogue.c
 *	  The features there are and which bundle is free, cached per backend, and for whom
 *	  what was read is good.
 *
 * A catalogue is small, asked all the time and changed by people: it is read whole, and
 * again when its marker moved. Who reads it between two messages of one change keeps
 * the older generation with it, so the next call reads it again.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "entitlement/catalogue.h"

static GnMarker catalogue_marker = {.name = "entitlement_marker_catalogue"};

static GnCatalogue *cached = NULL;
static uint64 last_serial = 0;

void
gn_catalogue_init(void)
{
	gn_marker_register(&catalogue_marker);
}

uint64
gn_catalogue_generation(void)
{
	return gn_marker_current(&catalogue_marker);
}

/* Scopes ------------------------------------------------------------------- */

GnScope
gn_scope_now(void)
{
	GnScope scope = {0};

	if (!IsolationUsesXactSnapshot() && !IsInParallelMode())
		return scope;
	scope.transaction = gn_local_transaction();
	if (!IsolationUsesXactSnapshot() && ActiveSnapshotSet())
		scope.completions = GetActiveSnapshot()->snapXactCompletionCount;
	return scope;
}

bool
gn_scope_is_current(const GnScope *scope)
{
	GnScope now = gn_scope_now();

	return now.transaction == scope->transaction &&
		   now.completions == scope->completions;
}

void
gn_scope_push_snapshot(void)
{
	if (IsInParallelMode())
		PushActiveSnapshot(GetActiveSnapshot());
	else if (IsolationUsesXactSnapshot())
		PushActiveSnapshot(GetTransactionSnapshot());
	else
		PushActiveSnapshot(GetLatestSnapshot());
}

/* Reading ------------------------------------------------------------------ */

static Datum
column(uint64 row, int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number,
						 isnull);
}

bool
gn_read_setting(uint64 row, int first, GnSetting *setting)
{
	bool isnull;
	Datum datum = column(row, first, &isnull);

	*setting = (GnSetting){.period = GN_PERIOD_MONTH};
	TIMESTAMP_NOBEGIN(setting->anchor);
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
		setting->value = DatumGetJsonbPCopy(datum);
	datum = column(row, first + 6, &isnull);
	setting->rollover = isnull ? 0 : DatumGetInt64(datum);
	datum = column(row, first + 7, &isnull);
	setting->priority = isnull ? 0 : DatumGetInt32(datum);
	return true;
}

/* The place of a word in a list of words that the tables' constraints know, too. */
static int
word_of(const char *const *words, int count, uint64 row, int number)
{
	bool isnull;
	Datum datum = column(row, number, &isnull);
	char *word = isnull ? NULL : TextDatumGetCString(datum);

	for (int i = 0; word && i < count; i++)
	{
		if (strcmp(words[i], word) == 0)
			return i;
	}
	elog(ERROR, "unexpected \"%s\" in the catalogue", word ? word : "NULL");
}

/* Percent, rising: feature_define() saw to it. */
static void
read_thresholds(GnFeature *feature, uint64 row, int number)
{
	bool isnull;
	Datum datum = column(row, number, &isnull);
	Datum *elements;
	int count;

	deconstruct_array(DatumGetArrayTypeP(datum), INT4OID, sizeof(int32), true,
					  TYPALIGN_INT, &elements, NULL, &count);
	feature->threshold_count = Min(count, GN_THRESHOLD_MAX);
	for (int i = 0; i < feature->threshold_count; i++)
		feature->thresholds[i] = DatumGetInt32(elements[i]);
}

static void
read_feature(GnFeature *feature, uint64 row)
{
	static const char *const tiers[] = {
		[GN_TIER_STRICT] = "strict",
		[GN_TIER_ESCROW] = "escrow",
		[GN_TIER_SOFT] = "soft",
	};
	static const char *const kinds[] = {
		[GN_KIND_BOOLEAN] = "boolean", [GN_KIND_LIMIT] = "limit",
		[GN_KIND_CONFIG] = "config",   [GN_KIND_METERED] = "metered",
		[GN_KIND_CREDIT] = "credit",   [GN_KIND_SEATS] = "seats",
	};
	static const char *const folds[] = {
		[GN_FOLD_ANY] = "any",
		[GN_FOLD_LAST] = "last",
		[GN_FOLD_MAX] = "max",
		[GN_FOLD_SUM] = "sum",
	};
	static const char *const inherits[] = {
		[GN_INHERIT_OWN] = "own",
		[GN_INHERIT_PARENT] = "parent",
		[GN_INHERIT_POOL] = "pool",
	};
	bool isnull;

	feature->id = DatumGetInt32(column(row, 1, &isnull));
	feature->name = TextDatumGetCString(column(row, 2, &isnull));
	feature->kind = word_of(kinds, lengthof(kinds), row, 3);
	feature->fold = word_of(folds, lengthof(folds), row, 4);
	feature->inherit = word_of(inherits, lengthof(inherits), row, 5);
	feature->has_default = gn_read_setting(row, 10, &feature->fallback);
	feature->tier = word_of(tiers, lengthof(tiers), row, 6);
	feature->shards = DatumGetInt32(column(row, 7, &isnull));
	read_thresholds(feature, row, 8);
	feature->gauged = DatumGetBool(column(row, 9, &isnull));
}

static uint32
name_hash(const char *name, size_t len)
{
	return DatumGetUInt32(hash_any((const unsigned char *) name, (int) len));
}

static void
hash_names(GnCatalogue *catalogue)
{
	uint32 size = 16;

	while (size < (uint32) catalogue->count * 2)
		size *= 2;
	catalogue->mask = size - 1;
	catalogue->slots = palloc0(size * sizeof(uint32));
	for (int id = 0; id < catalogue->count; id++)
	{
		const char *name = catalogue->features[id].name;
		uint32 slot = name_hash(name, strlen(name)) & catalogue->mask;

		while (catalogue->slots[slot])
			slot = (slot + 1) & catalogue->mask;
		catalogue->slots[slot] = id + 1;
	}
}

/* Settings are read by who needs them: a paying tenant's record does not. */
static void
read_free_bundles(GnCatalogue *catalogue)
{
	static GnQuery query = GN_QUERY_NOARGS(
		"SELECT f.version_id, f.valid_from, f.valid_until"
		" FROM _grownext.entitlement_free_bundle AS f ORDER BY f.valid_from");
	bool isnull;

	catalogue->free_count = (int) gn_spi_execute(&query, NULL, NULL, true);
	catalogue->free_bundles =
		MemoryContextAlloc(catalogue->memory,
						   (catalogue->free_count + 1) * sizeof(GnFreeBundle));
	for (int i = 0; i < catalogue->free_count; i++)
	{
		GnFreeBundle *bundle = &catalogue->free_bundles[i];

		bundle->version_id = DatumGetInt32(column(i, 1, &isnull));
		bundle->valid_from = DatumGetTimestampTz(column(i, 2, &isnull));
		bundle->valid_until = DatumGetTimestampTz(column(i, 3, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
}

static GnCatalogue *
read_catalogue(void)
{
	static GnQuery query = GN_QUERY_NOARGS(
		"SELECT f.id, f.feature, f.kind, f.fold, f.inherit, f.tier, f.shards,"
		" f.thresholds, EXISTS (SELECT FROM _grownext.entitlement_gauge AS g"
		" WHERE g.feature_id = f.id), " GN_SETTING_COLUMNS(
			"f.fallback") " FROM _grownext.entitlement_feature AS f ORDER BY f.id");
	MemoryContext memory =
		AllocSetContextCreate(CurrentMemoryContext, "grownext catalogue",
							  ALLOCSET_DEFAULT_SIZES);
	uint64 generation = gn_catalogue_generation();
	GnCatalogue *catalogue = MemoryContextAllocZero(memory, sizeof(GnCatalogue));
	MemoryContext caller;

	catalogue->memory = memory;
	catalogue->serial = ++last_serial;
	catalogue->generation = generation;
	catalogue->scope = gn_scope_now();
	gn_scope_push_snapshot();
	read_free_bundles(catalogue);
	catalogue->count = (int) gn_spi_execute(&query, NULL, NULL, true);
	PopActiveSnapshot();
	caller = MemoryContextSwitchTo(memory);
	catalogue->features = palloc0((catalogue->count + 1) * sizeof(GnFeature));
	for (int i = 0; i < catalogue->count; i++)
	{
		read_feature(&catalogue->features[i], i);
		if (catalogue->features[i].id != i)
			elog(ERROR, "features are not numbered from 0 without a gap");
	}
	hash_names(catalogue);
	MemoryContextSwitchTo(caller);
	SPI_freetuptable(SPI_tuptable);
	return catalogue;
}

const GnCatalogue *
gn_catalogue_cached(void)
{
	if (cached && cached->generation == gn_catalogue_generation() &&
		gn_scope_holds(&cached->scope))
		return cached;
	return NULL;
}

const GnCatalogue *
gn_catalogue(void)
{
	const GnCatalogue *known;
	GnCatalogue *fresh;

	gn_cache_catch_up();
	known = gn_catalogue_cached();
	if (known)
		return known;
	fresh = read_catalogue();
	MemoryContextSetParent(fresh->memory, TopMemoryContext);
	if (cached)
		MemoryContextDelete(cached->memory);
	cached = fresh;
	return cached;
}

const GnFeature *
gn_catalogue_find(const GnCatalogue *catalogue, const char *name, size_t len)
{
	uint32 slot = name_hash(name, len) & catalogue->mask;

	for (; catalogue->slots[slot]; slot = (slot + 1) & catalogue->mask)
	{
		const GnFeature *feature = &catalogue->features[catalogue->slots[slot] - 1];

		if (strncmp(feature->name, name, len) == 0 && feature->name[len] == '\0')
			return feature;
	}
	return NULL;
}
