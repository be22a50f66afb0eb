/*
 * src/jwt/key.c
 *	  Signing keys of this database, every one of them built and ready.
 *
 * cache.c says why they are never stale.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "core/core.h"
#include "crypto/crypto.h"
#include "jwt/base64url.h"
#include "jwt/cache.h"
#include "jwt/key.h"
#include "jwt/profile.h"

#define UNIX_EPOCH_OFFSET                                                              \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * USECS_PER_SEC)

GN_FUNCTION(gn_jwt_key_generate);

static GnMarker key_marker = {.name = "jwt_marker_key"};

static GnSigningKey *keys = NULL;

static void forget_keys(void);
static void load_keys(void);

static GnTableCache key_cache = {
	.marker = &key_marker,
	.forget = forget_keys,
	.load = load_keys,
};

static const GnSigner *const signers[] = {&gn_signer_local, NULL};

void
gn_jwt_cache_init(void)
{
	gn_marker_register(&key_marker);
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
						  key->public.alg->name, gn_token_typ(key->purpose), key->kid);
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
	const GnJoseAlg *alg = gn_jose_alg(gn_row_text(row, 3));
	char *provider = gn_row_text(row, 5);
	Jsonb *public_jwk;
	GnSigningKey *key;
	bool isnull;
	Datum datum;

	if (alg == NULL)
		return;
	key = MemoryContextAllocZero(key_cache.memory, sizeof(*key));
	key->next = keys;
	keys = key;
	strlcpy(key->kid, gn_row_text(row, 1), sizeof(key->kid));
	strlcpy(key->purpose, gn_row_text(row, 2), sizeof(key->purpose));
	key->state = parse_state(gn_row_text(row, 4));
	key->provider = MemoryContextStrdup(key_cache.memory, provider);
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
	public_jwk = gn_row_jsonb(row, 6);
	build_public(key, alg, gn_claim_text(public_jwk, "x"),
				 gn_claim_text(public_jwk, "y"));
	prepare_header(key);
}

static void
load_keys(void)
{
	static GnQuery query = GN_QUERY_NOARGS(
		"SELECT kid, purpose, alg, state, provider, public_jwk, sealed, "
		"accepted_until FROM _grownext.jwt_key");
	uint64 rows = gn_spi_execute(&query, NULL, NULL, true);

	for (uint64 row = 0; row < rows; row++)
		load_key(row);
}

GnSigningKey *
gn_jwt_key_find(const char *kid)
{
	gn_table_cache_refresh(&key_cache);
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
	gn_table_cache_refresh(&key_cache);
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
