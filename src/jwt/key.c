/*
 * src/jwt/key.c
 *	  Signing keys and options of this database: cached, and never stale.
 *
 * A backend holds every key built and ready. Two markers tell it that the tables
 * changed; it then reads them under the latest snapshot, not the statement's: a
 * long statement or a repeatable-read transaction must not load a key that was
 * revoked after it began and keep it beyond its end. In parallel mode no new
 * snapshot may be taken, so what is loaded there is loaded again afterwards.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "crypto/crypto.h"
#include "jwt/base64url.h"
#include "jwt/jwt.h"
#include "jwt/key.h"

#define UNIX_EPOCH_OFFSET                                                              \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * USECS_PER_SEC)

GN_FUNCTION(gn_jwt_key_generate);

static GnMarker key_marker = {.name = "jwt_marker_key"};
static GnMarker option_marker = {.name = "core_marker_option"};

typedef struct Cache
{
	GnMarker *marker;
	void (*forget)(void); /* gives back what memory does not own */
	uint64 generation;    /* of the marker; 0: nothing usable */
	bool old_snapshot;    /* loaded in parallel mode */
	MemoryContext memory;
} Cache;

static GnSigningKey *keys = NULL;
static GnJwtOptions options;

static void forget_keys(void);
static void forget_options(void);

static Cache key_cache = {.marker = &key_marker, .forget = forget_keys};
static Cache option_cache = {.marker = &option_marker, .forget = forget_options};

static const GnSigner *const signers[] = {&gn_signer_local, NULL};

void
gn_jwt_cache_init(void)
{
	gn_marker_register(&key_marker);
	gn_marker_register(&option_marker);
}

const char *
gn_jwt_typ(const char *purpose)
{
	return strcmp(purpose, GN_PURPOSE_ACCESS) == 0 ? "at+jwt" : "JWT"; /* RFC 9068 */
}

/* True if the cache must be filled; it has been emptied then. */
static bool
begin_load(Cache *cache, uint64 *generation)
{
	*generation = gn_marker_generation(cache->marker);
	if (cache->generation == *generation &&
		(!cache->old_snapshot || IsInParallelMode()))
		return false;
	cache->generation = 0;
	cache->forget();
	if (cache->memory)
		MemoryContextReset(cache->memory);
	else
		cache->memory = AllocSetContextCreate(TopMemoryContext, "grownext jwt",
											  ALLOCSET_SMALL_SIZES);
	return true;
}

static void
push_snapshot(Cache *cache)
{
	cache->old_snapshot = IsInParallelMode();
	PushActiveSnapshot(cache->old_snapshot ? GetActiveSnapshot() : GetLatestSnapshot());
}

static char *
row_text(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

static Jsonb *
row_jsonb(uint64 row, int column)
{
	bool isnull;

	return DatumGetJsonbP(
		SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull));
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

/* The plainest query there is: a fresh backend plans it before its first token. */
static void
load_options(void)
{
	static GnQuery query =
		GN_QUERY_NOARGS("SELECT name, value FROM _grownext.core_option");
	uint64 rows = gn_spi_execute(&query, NULL, NULL, true);

	for (uint64 row = 0; row < rows; row++)
	{
		char *name = row_text(row, 1);
		JsonbValue value;

		if (strcmp(name, "audiences") == 0)
			load_audiences(row_jsonb(row, 2));
		else if (strcmp(name, "issuer") == 0 &&
				 JsonbExtractScalar(&row_jsonb(row, 2)->root, &value) &&
				 value.type == jbvString)
			options.issuer = MemoryContextStrdup(option_cache.memory,
												 pnstrdup(value.val.string.val,
														  value.val.string.len));
	}
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
	GnSpi spi;

	if (!begin_load(&option_cache, &generation))
		return;
	push_snapshot(&option_cache);
	gn_spi_begin(&spi);
	load_options();
	gn_spi_end(&spi);
	PopActiveSnapshot();
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

static void
forget_keys(void)
{
	for (GnSigningKey *key = keys; key; key = key->next)
	{
		if (key->opened)
			key->signer->close(key);
		gn_jose_key_free(&key->public);
	}
	keys = NULL;
}

static GnKeyState
parse_state(const char *state)
{
	if (strcmp(state, "active") == 0)
		return GN_KEY_ACTIVE;
	if (strcmp(state, "standby") == 0)
		return GN_KEY_STANDBY;
	return strcmp(state, "retiring") == 0 ? GN_KEY_RETIRING : GN_KEY_REVOKED;
}

int64
gn_jwt_unix_now(void)
{
	return gn_now() + UNIX_EPOCH_OFFSET;
}

/* The first segment of every token that this key signs, in the cache's memory. */
static void
prepare_header(GnSigningKey *key)
{
	char *text = psprintf("{\"alg\":\"%s\",\"typ\":\"%s\",\"kid\":\"%s\"}",
						  key->public.alg->name, gn_jwt_typ(key->purpose), key->kid);
	size_t len = strlen(text);

	key->header = MemoryContextAlloc(key_cache.memory, GN_BASE64URL_ENCODED_SIZE(len));
	key->header_len = gn_base64url_encode(text, len, key->header);
	pfree(text);
}

static void
build_public(GnSigningKey *key, const GnJoseAlg *alg, const char *x, const char *y)
{
	uint8 point[2][GN_JWK_MAX_COORDINATE + 2];
	const char *texts[2] = {x, y};

	for (int i = 0; i < 2; i++)
	{
		size_t len = 0;

		if (texts[i] == NULL ||
			strlen(texts[i]) != GN_BASE64URL_ENCODED_SIZE(alg->coordinate_size) ||
			!gn_base64url_decode(texts[i], strlen(texts[i]), point[i], &len))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("public part of signing key \"%s\" is damaged", key->kid)));
	}
	if (!gn_jose_key_build(&key->public, alg, point[0], point[1], NULL))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("public part of signing key \"%s\" is damaged", key->kid)));
}

/* A key of a newer library's algorithm is passed over: it is unknown here. */
static void
load_key(uint64 row)
{
	HeapTuple tuple = SPI_tuptable->vals[row];
	TupleDesc desc = SPI_tuptable->tupdesc;
	const GnJoseAlg *alg = gn_jose_alg(row_text(row, 3));
	char *provider = row_text(row, 5);
	Jsonb *public_jwk;
	GnSigningKey *key;
	bool isnull;
	Datum datum;

	if (alg == NULL)
		return;
	key = MemoryContextAllocZero(key_cache.memory, sizeof(*key));
	key->next = keys;
	keys = key;
	strlcpy(key->kid, row_text(row, 1), sizeof(key->kid));
	strlcpy(key->purpose, row_text(row, 2), sizeof(key->purpose));
	key->state = parse_state(row_text(row, 4));
	for (int i = 0; signers[i]; i++)
		if (strcmp(signers[i]->name, provider) == 0)
			key->signer = signers[i];
	datum = SPI_getbinval(tuple, desc, 7, &isnull);
	if (!isnull)
	{
		MemoryContext old = MemoryContextSwitchTo(key_cache.memory);

		key->sealed = DatumGetByteaPCopy(datum);
		MemoryContextSwitchTo(old);
	}
	datum = SPI_getbinval(tuple, desc, 8, &isnull);
	key->accepted_until = isnull ? DT_NOBEGIN : DatumGetTimestampTz(datum);
	public_jwk = row_jsonb(row, 6);
	build_public(key, alg, gn_claim_text(public_jwk, "x"),
				 gn_claim_text(public_jwk, "y"));
	prepare_header(key);
}

static void
refresh_keys(void)
{
	static GnQuery query = GN_QUERY_NOARGS(
		"SELECT kid, purpose, alg, state, provider, public_jwk, sealed, "
		"accepted_until FROM _grownext.jwt_key");
	uint64 generation;
	uint64 rows;
	GnSpi spi;

	if (!begin_load(&key_cache, &generation))
		return;
	push_snapshot(&key_cache);
	gn_spi_begin(&spi);
	rows = gn_spi_execute(&query, NULL, NULL, true);
	for (uint64 row = 0; row < rows; row++)
		load_key(row);
	gn_spi_end(&spi);
	PopActiveSnapshot();
	key_cache.generation = generation;
}

GnSigningKey *
gn_jwt_key_find(const char *kid)
{
	refresh_keys();
	for (GnSigningKey *key = keys; key; key = key->next)
	{
		if (strcmp(key->kid, kid) == 0)
			return key;
	}
	return NULL;
}

GnSigningKey *
gn_jwt_key_active(const char *purpose)
{
	refresh_keys();
	for (GnSigningKey *key = keys; key; key = key->next)
	{
		if (key->state == GN_KEY_ACTIVE && strcmp(key->purpose, purpose) == 0)
			return key;
	}
	return NULL;
}

static char *
key_purpose(const char *kid, const char *alg)
{
	return psprintf("jwt_key %s %s", kid, alg);
}

/* SQL: _grownext.jwt_key_generate(alg text, OUT kid text, OUT public_jwk jsonb, OUT
 * sealed bytea) */
Datum
gn_jwt_key_generate(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	const GnJoseAlg *alg = gn_jose_alg(name);
	uint8 x[GN_JWK_MAX_COORDINATE];
	uint8 y[GN_JWK_MAX_COORDINATE];
	uint8 *d = gn_secret_alloc(GN_JWK_MAX_COORDINATE);
	char x_text[GN_BASE64URL_ENCODED_SIZE(GN_JWK_MAX_COORDINATE) + 1] = {0};
	char y_text[GN_BASE64URL_ENCODED_SIZE(GN_JWK_MAX_COORDINATE) + 1] = {0};
	char kid[GN_JWK_THUMBPRINT_SIZE + 1] = {0};
	TupleDesc desc;
	Datum values[3];
	bool nulls[3] = {false};
	char *jwk;
	const char *why;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (alg == NULL)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("algorithm \"%s\" is not supported", name),
						errhint("Use ES256, ES384 or ES512.")));
	if (!gn_jose_key_generate(alg, x, y, d))
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("libcrypto could not make a key")));
	gn_base64url_encode(x, alg->coordinate_size, x_text);
	gn_base64url_encode(y, alg->coordinate_size, y_text);
	jwk = psprintf("{\"kty\": \"%s\", \"crv\": \"%s\", \"x\": \"%s\", \"y\": \"%s\"",
				   alg->kty, alg->crv, x_text, y_text);
	why = gn_jwk_thumbprint(psprintf("%s}", jwk), strlen(jwk) + 1, kid);
	if (why)
		elog(ERROR, "could not name a fresh key: %s", why);
	values[0] = CStringGetTextDatum(kid);
	values[1] = JsonbPGetDatum(gn_jsonb_from_text(
		psprintf("%s, \"kid\": \"%s\", \"alg\": \"%s\", \"use\": \"sig\"}", jwk, kid,
				 alg->name)));
	values[2] =
		PointerGetDatum(gn_seal(key_purpose(kid, alg->name), d, alg->coordinate_size));
	gn_cleanse(d, GN_JWK_MAX_COORDINATE);
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* The local signer: the private part, unsealed once per backend, signs here. */

static void
open_local(GnSigningKey *key)
{
	const GnJoseAlg *alg = key->public.alg;
	uint8 x[GN_JWK_MAX_COORDINATE];
	uint8 y[GN_JWK_MAX_COORDINATE];
	uint8 point[1 + 2 * GN_JWK_MAX_COORDINATE];
	uint8 *d;
	size_t len;

	if (key->sealed == NULL)
		ereport(ERROR, (errcode(GN_ERRCODE_KEY_UNAVAILABLE),
						errmsg("signing key \"%s\" has no private part", key->kid)));
	d = gn_open(key_purpose(key->kid, alg->name), key->sealed, &len);
	if (len != alg->coordinate_size ||
		EVP_PKEY_get_octet_string_param(key->public.pkey, "encoded-pub-key", point,
										sizeof(point), &len) != 1 ||
		len != 1 + 2 * alg->coordinate_size)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("private part of signing key \"%s\" is damaged", key->kid)));
	memcpy(x, point + 1, alg->coordinate_size);
	memcpy(y, point + 1 + alg->coordinate_size, alg->coordinate_size);
	key->opened = gn_jose_key_build(&key->private, alg, x, y, d);
	gn_cleanse(d, alg->coordinate_size);
	if (!key->opened)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("private part of signing key \"%s\" is damaged", key->kid)));
}

static void
sign_local(GnSigningKey *key, const void *input, size_t len, uint8 *out,
		   size_t *out_len)
{
	if (!gn_jose_sign(&key->private, input, len, out, out_len))
		ereport(ERROR, (errcode(GN_ERRCODE_KEY_UNAVAILABLE),
						errmsg("signing key \"%s\" could not sign", key->kid)));
}

static void
close_local(GnSigningKey *key)
{
	gn_jose_key_free(&key->private);
}

const GnSigner gn_signer_local = {
	.name = "local",
	.open = open_local,
	.sign = sign_local,
	.close = close_local,
};
