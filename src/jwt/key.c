/*
 * src/jwt/key.c
 *	  Options of this database, and how keys and options are cached without ever being
 *	  stale.
 *
 * Two markers tell a backend that the tables changed; it then reads them under the
 * latest snapshot, not the statement's: a long statement or a repeatable-read
 * transaction must not load a key that was revoked after it began and keep it beyond
 * its end. In parallel mode no new snapshot may be taken, so what is loaded there is
 * loaded again afterwards.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "jwt/jwt.h"
#include "jwt/key.h"

#define UNIX_EPOCH_OFFSET                                                              \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * USECS_PER_SEC)

static GnMarker option_marker = {.name = "core_marker_option"};

static GnJwtOptions options;
static uint64 epoch = 1;

static void forget_options(void);

static GnJwtCache option_cache = {.marker = &option_marker, .forget = forget_options};

void
gn_jwt_cache_init(void)
{
	gn_jwt_keys_init();
	gn_marker_register(&option_marker);
}

const char *
gn_jwt_typ(const char *purpose)
{
	return strcmp(purpose, GN_PURPOSE_ACCESS) == 0 ? "at+jwt" : "JWT"; /* RFC 9068 */
}

int64
gn_jwt_unix_now(void)
{
	return gn_now() + UNIX_EPOCH_OFFSET;
}

uint64
gn_jwt_cache_epoch(void)
{
	return epoch;
}

bool
gn_jwt_cache_begin(GnJwtCache *cache, uint64 *generation)
{
	*generation = gn_marker_generation(cache->marker);
	if (cache->generation == *generation &&
		(!cache->old_snapshot || IsInParallelMode()))
		return false;
	cache->generation = 0;
	epoch++;
	cache->forget();
	if (cache->memory)
		MemoryContextReset(cache->memory);
	else
		cache->memory = AllocSetContextCreate(TopMemoryContext, "grownext jwt",
											  ALLOCSET_SMALL_SIZES);
	return true;
}

void
gn_jwt_cache_read(GnJwtCache *cache, const char *table, GnRowReader read)
{
	cache->old_snapshot = IsInParallelMode();
	gn_table_scan(table,
				  cache->old_snapshot ? GetActiveSnapshot() : GetLatestSnapshot(), read,
				  NULL);
}

/* setup() writes a non-empty array of strings. */
static void
load_audiences(Jsonb *list)
{
	int count = JB_ROOT_IS_ARRAY(list) ? JB_ROOT_COUNT(list) : 0;

	options.audiences =
		MemoryContextAlloc(option_cache.memory, Max(count, 1) * sizeof(char *));
	for (int i = 0; i < count; i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(&list->root, i);

		if (value->type != jbvString)
			continue;
		options.audiences[options.audience_count++] =
			MemoryContextStrdup(option_cache.memory,
								pnstrdup(value->val.string.val, value->val.string.len));
	}
}

static void
load_option(TupleTableSlot *row, void *arg)
{
	bool isnull;
	char *name = TextDatumGetCString(gn_row_value(row, "name", &isnull));
	Jsonb *value = DatumGetJsonbP(gn_row_value(row, "value", &isnull));
	JsonbValue scalar;

	if (strcmp(name, "audiences") == 0)
		load_audiences(value);
	else if (strcmp(name, "issuer") == 0 && JsonbExtractScalar(&value->root, &scalar) &&
			 scalar.type == jbvString)
		options.issuer =
			MemoryContextStrdup(option_cache.memory,
								pnstrdup(scalar.val.string.val, scalar.val.string.len));
}

static void
forget_options(void)
{
	options = (GnJwtOptions){0};
}

static void
refresh_options(void)
{
	uint64 generation;

	if (!gn_jwt_cache_begin(&option_cache, &generation))
		return;
	gn_jwt_cache_read(&option_cache, "core_option", load_option);
	option_cache.generation = generation;
}

const char *
gn_jwt_issuer(void)
{
	refresh_options();
	return options.issuer;
}

const GnJwtOptions *
gn_jwt_options(void)
{
	refresh_options();
	if (options.issuer == NULL || options.audience_count == 0)
		ereport(ERROR,
				(errcode(GN_ERRCODE_NOT_CONFIGURED),
				 errmsg("no issuer and audience are set up in this database"),
				 errhint("SELECT * FROM grownext.setup('https://auth.example.com', "
						 "ARRAY['my-api']);")));
	return &options;
}

/* The named audience if setup() allowed it, else the default one. */
const char *
gn_jwt_audience(const char *named)
{
	const GnJwtOptions *options = gn_jwt_options();

	if (named == NULL)
		return options->audiences[0];
	for (int i = 0; i < options->audience_count; i++)
	{
		if (strcmp(options->audiences[i], named) == 0)
			return options->audiences[i];
	}
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("audience \"%s\" is not one of this platform's", named),
					errhint("Allow it: SELECT * FROM grownext.setup(issuer, "
							"audiences), all of them named.")));
}
