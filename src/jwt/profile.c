/*
 * src/jwt/profile.c
 *	  Issuer, audiences and profiles of tokens of this database, cached.
 *
 * A purpose that nobody defined has a profile all the same: the platform's issuer and
 * audiences, 15 minutes, any claim. Access tokens follow RFC 9068.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "jwt/jwt.h"
#include "jwt/key.h"
#include "jwt/profile.h"

#define DEFAULT_TTL (15 * SECS_PER_MINUTE)
#define DEFAULT_MAX_TTL (24 * SECS_PER_HOUR)

GN_FUNCTION(gn_jwt_alg_supported);

static GnMarker option_marker = {.name = "core_marker_option"};

static GnTokenProfile platform; /* what setup() said; issuer NULL before */
static GnTokenProfile *profiles = NULL;

static void forget_profiles(void);

static GnJwtCache cache = {.marker = &option_marker, .forget = forget_profiles};

void
gn_token_profile_init(void)
{
	gn_marker_register(&option_marker);
}

static void
forget_profiles(void)
{
	platform = (GnTokenProfile){
		.ttl = DEFAULT_TTL,
		.max_ttl = DEFAULT_MAX_TTL,
		.claim_count = -1,
	};
	profiles = NULL;
}

/* In the cache's memory; NULL for NULL. */
static char *
keep(const char *text)
{
	return text ? MemoryContextStrdup(cache.memory, text) : NULL;
}

/* setup() writes a non-empty array of strings. */
static void
load_audiences(Jsonb *list)
{
	int count = JB_ROOT_IS_ARRAY(list) ? JB_ROOT_COUNT(list) : 0;

	platform.audiences =
		MemoryContextAlloc(cache.memory, Max(count, 1) * sizeof(char *));
	for (int i = 0; i < count; i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(&list->root, i);

		if (value->type == jbvString)
			platform.audiences[platform.audience_count++] =
				keep(pnstrdup(value->val.string.val, value->val.string.len));
	}
}

static void
load_option(const GnRow *row, void *arg)
{
	bool isnull;
	char *name = TextDatumGetCString(gn_row_value(row, "name", &isnull));
	Jsonb *value = DatumGetJsonbP(gn_row_value(row, "value", &isnull));
	JsonbValue scalar;

	if (strcmp(name, "audiences") == 0)
		load_audiences(value);
	else if (strcmp(name, "issuer") == 0 && JsonbExtractScalar(&value->root, &scalar) &&
			 scalar.type == jbvString)
		platform.issuer = keep(pnstrdup(scalar.val.string.val, scalar.val.string.len));
}

static char *
row_text(const GnRow *row, const char *column)
{
	bool isnull;
	Datum datum = gn_row_value(row, column, &isnull);

	return isnull ? NULL : keep(TextDatumGetCString(datum));
}

static char *
row_name(const GnRow *row, const char *column)
{
	bool isnull;
	Datum datum = gn_row_value(row, column, &isnull);

	return isnull ? NULL : keep(NameStr(*DatumGetName(datum)));
}

static int64
row_integer(const GnRow *row, const char *column)
{
	bool isnull;

	return DatumGetInt32(gn_row_value(row, column, &isnull));
}

static bool
row_boolean(const GnRow *row, const char *column)
{
	bool isnull;

	return DatumGetBool(gn_row_value(row, column, &isnull)) && !isnull;
}

/* A text[] of a row; -1 for NULL. */
static int
row_texts(const GnRow *row, const char *column, char ***texts)
{
	bool isnull;
	Datum datum = gn_row_value(row, column, &isnull);
	Datum *elements;
	bool *nulls;
	int count;

	if (isnull)
		return -1;
	deconstruct_array(DatumGetArrayTypeP(datum), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, &count);
	*texts = MemoryContextAlloc(cache.memory, Max(count, 1) * sizeof(char *));
	for (int i = 0; i < count; i++)
		(*texts)[i] = keep(nulls[i] ? "" : TextDatumGetCString(elements[i]));
	return count;
}

static void
load_profile(const GnRow *row, void *arg)
{
	GnTokenProfile *profile =
		MemoryContextAllocZero(cache.memory, sizeof(GnTokenProfile));

	profile->purpose = row_text(row, "purpose");
	profile->issuer = row_text(row, "issuer");
	profile->audience_count = row_texts(row, "audiences", &profile->audiences);
	profile->ttl = row_integer(row, "ttl");
	profile->max_ttl = row_integer(row, "max_ttl");
	profile->claim_count = row_texts(row, "claims", &profile->claims);
	profile->typ = row_text(row, "typ");
	profile->hook = (GnClaimsHook){
		.schema = row_name(row, "hook_schema"),
		.name = row_name(row, "hook_name"),
		.owner = row_name(row, "hook_owner"),
	};
	profile->entitlements = row_boolean(row, "entitlements");
	if (profile->issuer == NULL)
		profile->issuer = platform.issuer;
	if (profile->audience_count < 0)
	{
		profile->audience_count = platform.audience_count;
		profile->audiences = platform.audiences;
	}
	profile->next = profiles;
	profiles = profile;
}

static void
refresh(void)
{
	uint64 generation;

	if (!gn_jwt_cache_begin(&cache, &generation))
		return;
	gn_jwt_cache_read(&cache, "core_option", load_option);
	gn_jwt_cache_read(&cache, "jwt_profile", load_profile);
	cache.generation = generation;
}

static const GnTokenProfile *
find_profile(const char *purpose)
{
	refresh();
	for (GnTokenProfile *profile = profiles; profile; profile = profile->next)
	{
		if (strcmp(profile->purpose, purpose) == 0)
			return profile;
	}
	platform.typ =
		strcmp(purpose, GN_PURPOSE_ACCESS) == 0 ? "at+jwt" : "JWT"; /* RFC 9068 */
	return &platform;
}

const char *
gn_jwt_issuer(void)
{
	return find_profile(GN_PURPOSE_ACCESS)->issuer;
}

const char *
gn_token_typ(const char *purpose)
{
	return find_profile(purpose)->typ;
}

const GnTokenProfile *
gn_token_profile(const char *purpose)
{
	const GnTokenProfile *profile = find_profile(purpose);

	if (platform.issuer == NULL || platform.audience_count == 0)
		ereport(ERROR,
				(errcode(GN_ERRCODE_NOT_CONFIGURED),
				 errmsg("no issuer and audience are set up in this database"),
				 errhint("SELECT * FROM grownext.setup('https://auth.example.com', "
						 "ARRAY['my-api']);")));
	return profile;
}

const char *
gn_token_audience(const GnTokenProfile *profile, const char *named)
{
	if (named == NULL)
		return profile->audiences[0];
	for (int i = 0; i < profile->audience_count; i++)
	{
		if (strcmp(profile->audiences[i], named) == 0)
			return profile->audiences[i];
	}
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("audience \"%s\" is not one of this platform's", named),
					errhint("Allow it: SELECT * FROM grownext.setup(issuer, "
							"audiences), all of them named.")));
}

bool
gn_token_claim_allowed(const GnTokenProfile *profile, const JsonbValue *name)
{
	for (int i = 0; i < profile->claim_count; i++)
	{
		if (strlen(profile->claims[i]) == (size_t) name->val.string.len &&
			memcmp(profile->claims[i], name->val.string.val, name->val.string.len) == 0)
			return true;
	}
	return profile->claim_count < 0;
}

/* SQL: _grownext.jwt_alg_supported(alg text) */
Datum
gn_jwt_alg_supported(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(gn_jose_alg(text_to_cstring(PG_GETARG_TEXT_PP(0))) != NULL);
}
