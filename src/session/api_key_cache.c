/*
 * src/session/api_key_cache.c
 *	  What this backend knows of API keys that were shown to it.
 *
 * Keyed by the whole SHA-256 of the key's text. Whatever an answer depends on (the
 * key, its tenant's state, its user, the user's role in the tenant) sends a message
 * for one marker; then everything here is forgotten, before the next answer. Unknown
 * keys are not remembered: their number is the attacker's choice.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "session/api_key.h"

#define CACHE_MAX 512

static GnMarker marker = {.name = "session_marker_api_key"};
static MemoryContext cache_context = NULL;
static HTAB *cache = NULL;
static uint64 cache_generation = 0;

void
gn_api_key_cache_init(void)
{
	gn_marker_register(&marker);
}

static void
forget_all(void)
{
	HASHCTL info = {.keysize = GN_SHA256_SIZE, .entrysize = sizeof(GnApiKey)};

	cache = NULL;
	if (cache_context)
		MemoryContextReset(cache_context);
	else
		cache_context = AllocSetContextCreate(TopMemoryContext, "grownext API keys",
											  ALLOCSET_DEFAULT_SIZES);
	info.hcxt = cache_context;
	cache = hash_create("grownext API keys", 64, &info,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* A column of the row that was found; false for NULL. */
static bool
column(int number, Datum *value)
{
	bool isnull;

	*value =
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, &isnull);
	return !isnull;
}

static void
read_scopes(Datum array, GnApiKey *key)
{
	Datum *items;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &items, NULL, &key->scope_count);
	key->scopes = palloc((key->scope_count + 1) * sizeof(char *));
	for (int i = 0; i < key->scope_count; i++)
		key->scopes[i] = TextDatumGetCString(items[i]);
}

static void
read_addresses(Datum array, GnApiKey *key)
{
	deconstruct_array(DatumGetArrayTypePCopy(array), CIDROID, -1, false, TYPALIGN_INT,
					  &key->addresses, NULL, &key->address_count);
}

/* Fills the key from the row, with memory of the current context. */
static void
read_row(GnApiKey *key)
{
	Datum value;

	if (column(1, &value))
		key->id = *DatumGetUUIDP(value);
	if (column(2, &value))
		key->tenant = *DatumGetUUIDP(value);
	if (column(3, &value))
		key->family = *DatumGetUUIDP(value);
	key->disabled = column(4, &value) && DatumGetBool(value);
	key->tenant_active = column(5, &value) && DatumGetBool(value);
	key->expires_at = column(6, &value) ? DatumGetTimestampTz(value) : DT_NOEND;
	if (column(7, &value))
		read_scopes(value, key);
	if (column(8, &value))
		read_addresses(value, key);
	key->rate_limit = column(9, &value) ? DatumGetInt64(value) : 0;
	if (column(10, &value))
		key->rate_period = gn_interval_period(DatumGetIntervalP(value));
	if (column(11, &value))
		key->claims = DatumGetJsonbPCopy(value);
	if (column(12, &value))
		key->answer = DatumGetJsonbPCopy(value);
}

/* Reads the key under the latest snapshot: a revocation counts from the next statement
 * on, in a repeatable-read transaction too. */
static bool
load_key(GnApiKey *key)
{
	static GnQuery query =
		GN_QUERY("SELECT id, tenant_id, family_id, disabled, tenant_active, "
				 "expires_at, scopes, addresses, rate_limit, rate_period, claims, "
				 "answer FROM _grownext.session_api_key_find($1)",
				 BYTEAOID);
	bytea *digest = palloc(VARHDRSZ + GN_SHA256_SIZE);
	bool found;
	GnSpi spi;

	SET_VARSIZE(digest, VARHDRSZ + GN_SHA256_SIZE);
	memcpy(VARDATA(digest), key->digest, GN_SHA256_SIZE);
	gn_spi_begin(&spi);
	PushActiveSnapshot(GetLatestSnapshot());
	found = gn_spi_execute(&query, (Datum[]){PointerGetDatum(digest)}, NULL, true) == 1;
	if (found)
	{
		MemoryContext ours = MemoryContextSwitchTo(cache_context);

		read_row(key);
		MemoryContextSwitchTo(ours);
	}
	PopActiveSnapshot();
	gn_spi_end(&spi);
	pfree(digest);
	return found;
}

GnApiKey *
gn_api_key_find(const uint8 digest[GN_SHA256_SIZE])
{
	uint64 generation = gn_marker_generation(&marker);
	GnApiKey fresh = {0};
	GnApiKey *key;

	if (cache == NULL || generation != cache_generation)
	{
		forget_all();
		cache_generation = generation;
	}
	key = hash_search(cache, digest, HASH_FIND, NULL);
	if (key)
		return key;
	if (hash_get_num_entries(cache) >= CACHE_MAX)
		forget_all();
	memcpy(fresh.digest, digest, GN_SHA256_SIZE);
	/* What an error leaves in the context goes with the next forget_all(). */
	if (!load_key(&fresh))
		return NULL;
	key = hash_search(cache, digest, HASH_ENTER, NULL);
	*key = fresh;
	return key;
}
