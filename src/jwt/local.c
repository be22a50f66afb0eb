/*
 * src/jwt/local.c
 *	  Local keys: made here, sealed in the database, opened and used in this process.
 *
 * A private part is plaintext only between its making and its sealing, and inside
 * libcrypto once it has been opened. A symmetric key is for tokens that the platform
 * sends to itself: its kid is chance, because a thumbprint would be a hash of it, and
 * its public JWK says nothing but its type.
 */
#include "postgres.h"

#include "access/xact.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "crypto/crypto.h"
#include "jwt/base64url.h"
#include "jwt/key.h"

GN_FUNCTION(gn_jwt_key_generate);

#define RSA_DEFAULT_BITS 2048

char *
gn_jwt_key_seal_purpose(const char *kid, const char *alg)
{
	return psprintf("jwt_key %s %s", kid, alg);
}

static const GnJoseAlg *
require_alg(const char *name)
{
	const GnJoseAlg *alg = gn_jose_alg(name);

	if (alg == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("algorithm \"%s\" is not supported", name),
				 errhint("Use ES256, ES384, ES512, ES256K, EdDSA, RS256, RS384, RS512, "
						 "PS256, PS384 or PS512; HS256, HS384 or HS512 for tokens that "
						 "only this database verifies.")));
	return alg;
}

/* Not asked for, or NULL: the default. */
static int
require_bits(const GnJoseAlg *alg, FunctionCallInfo fcinfo)
{
	int bits = PG_NARGS() > 1 && !PG_ARGISNULL(1) ? PG_GETARG_INT32(1) : 0;

	if (bits != 0 && strcmp(alg->kty, "RSA") != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a key of %s has no choice of bits", alg->name)));
	if (bits != 0 && bits != 2048 && bits != 3072 && bits != 4096)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an RSA key has 2048, 3072 or 4096 bits, not %d", bits)));
	return bits ? bits : RSA_DEFAULT_BITS;
}

static void
name_key(const GnJoseAlg *alg, const char *jwk, size_t len,
		 char kid[GN_JWK_THUMBPRINT_SIZE])
{
	uint8 chance[32];

	if (alg->family == GN_JOSE_HMAC)
	{
		gn_random(chance, sizeof(chance));
		gn_base64url_encode(chance, sizeof(chance), kid);
	}
	else
	{
		gn_sha256(jwk, len, chance);
		gn_base64url_encode(chance, sizeof(chance), kid);
	}
}

void
gn_jwt_key_record(const GnJoseAlg *alg, const GnKeyNumbers *numbers, Datum values[3])
{
	char jwk[GN_JWK_TEXT_MAX];
	size_t len = gn_jwk_write_public(alg, numbers, jwk);
	char kid[GN_JWK_THUMBPRINT_SIZE + 1] = {0};
	uint8 *packed = gn_secret_alloc(GN_JWA_NUMBERS_ROOM);

	name_key(alg, jwk, len, kid);
	values[0] = CStringGetTextDatum(kid);
	values[1] = JsonbPGetDatum(gn_jsonb_from_text(
		psprintf("%.*s, \"kid\": \"%s\", \"alg\": \"%s\", \"use\": \"sig\"}",
				 (int) len - 1, jwk, kid, alg->name)));
	values[2] = PointerGetDatum(gn_seal(gn_jwt_key_seal_purpose(kid, alg->name), packed,
										gn_jose_private_pack(numbers, packed)));
}

/* SQL: _grownext.jwt_key_generate(alg text, bits integer, OUT kid text, OUT public_jwk
 * jsonb, OUT sealed bytea) */
Datum
gn_jwt_key_generate(PG_FUNCTION_ARGS)
{
	const GnJoseAlg *alg = require_alg(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	int bits = require_bits(alg, fcinfo);
	uint8 *room = gn_secret_alloc(GN_JWA_NUMBERS_ROOM);
	GnKeyNumbers numbers;
	TupleDesc desc;
	Datum values[3];
	bool nulls[3] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!gn_jose_key_generate(alg, bits, room, &numbers))
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("libcrypto could not make a key")));
	gn_jwt_key_record(alg, &numbers, values);
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* The sealed private part of one key, which no cache holds. */
typedef struct Search
{
	const char *kid;
	bytea *sealed;
} Search;

static void
look_for(const GnRow *row, void *arg)
{
	Search *search = arg;
	bool isnull;
	Datum datum = gn_row_value(row, "kid", &isnull);

	if (search->sealed || strcmp(TextDatumGetCString(datum), search->kid) != 0)
		return;
	datum = gn_row_value(row, "sealed", &isnull);
	if (!isnull)
		search->sealed = DatumGetByteaPCopy(datum);
}

static bytea *
fetch_sealed(const GnSigningKey *key)
{
	Search search = {.kid = key->kid};

	gn_table_scan("jwt_key",
				  IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot(),
				  look_for, &search);
	return search.sealed;
}

static bool
open_local(GnSigningKey *key)
{
	const GnJoseAlg *alg = key->alg;
	GnKeyNumbers numbers = key->numbers;
	bytea *sealed = fetch_sealed(key);
	size_t len;
	uint8 *packed;

	if (sealed == NULL)
		return false;
	packed = gn_open(gn_jwt_key_seal_purpose(key->kid, alg->name), sealed, &len);
	key->opened = gn_jose_private_unpack(alg, packed, len, &numbers) &&
				  gn_jose_key_build(&key->private, alg, &numbers) == NULL;
	gn_cleanse(packed, len);
	pfree(sealed);
	if (!key->opened)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("private part of signing key \"%s\" is damaged", key->kid)));
	return true;
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
