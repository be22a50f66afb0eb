/*
 * src/jwt/jws.c
 *	  Generic JOSE for keys that the caller brings: jws_sign(), jws_verify(),
 *	  jwk_thumbprint().
 *
 * A bad token never raises, a bad key does. What is signed here is what is verified
 * here: a header that our own reader would refuse is not written.
 */
#include "postgres.h"

#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "core/core.h"
#include "crypto/crypto.h"
#include "jwt/base64url.h"
#include "jwt/jose.h"
#include "jwt/json_text.h"
#include "jwt/jwk.h"

GN_FUNCTION(gn_jws_sign);
GN_FUNCTION(gn_jws_verify);
GN_FUNCTION(gn_jwk_thumbprint_sql);

/* Keys of libcrypto go with the context they are registered in, also after an error. */
typedef struct OpenedKeys
{
	MemoryContextCallback callback;
	GnJwkSet set; /* to verify with */
	GnJoseKey signer;
	char *text; /* may hold a secret */
	size_t len;
} OpenedKeys;

static void
free_keys(void *arg)
{
	OpenedKeys *opened = arg;

	gn_jwk_set_free(&opened->set);
	gn_jose_key_free(&opened->signer);
	gn_cleanse(opened->text, opened->len);
}

static OpenedKeys *
open_keys(Jsonb *jwk)
{
	OpenedKeys *opened = palloc0(sizeof(OpenedKeys));

	opened->text = gn_jsonb_text(jwk);
	opened->len = strlen(opened->text);
	opened->callback.func = free_keys;
	opened->callback.arg = opened;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &opened->callback);
	return opened;
}

static void
pg_attribute_noreturn() refuse_jwk(const char *why)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("the JWK is not acceptable: %s", why)));
}

static bytea *
make_bytea(const uint8 *data, size_t len)
{
	bytea *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), data, len);
	return result;
}

/* SQL: grownext.jws_verify(token text, jwk jsonb) */
Datum
gn_jws_verify(PG_FUNCTION_ARGS)
{
	OpenedKeys *opened;
	GnJoseError error = GN_JOSE_MALFORMED;
	GnJws jws = {0};
	const char *why;
	TupleDesc desc;
	Datum values[4] = {0};
	bool nulls[4] = {false, false, true, true};

	if (PG_ARGISNULL(1))
		refuse_jwk("it is NULL");
	opened = open_keys(PG_GETARG_JSONB_P(1));
	why = gn_jwk_set_parse(&opened->set, opened->text, opened->len);
	if (why)
		refuse_jwk(why);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!PG_ARGISNULL(0))
	{
		text *token = PG_GETARG_TEXT_PP(0);
		size_t len = VARSIZE_ANY_EXHDR(token);

		error = gn_jws_parse(&jws, VARDATA_ANY(token), len,
							 palloc(Min(len, GN_JOSE_MAX_TOKEN) + 1));
	}
	if (error == GN_JOSE_OK)
	{
		bool known;
		GnJoseKey *key = gn_jwk_set_choose(&opened->set, jws.kid, jws.alg, &known);

		nulls[2] = false;
		values[2] = JsonbPGetDatum(gn_json_to_jsonb(jws.header, jws.header_len));
		if (key == NULL)
			error = known ? GN_JOSE_ALGORITHM : GN_JOSE_UNKNOWN_KEY;
		else if (!gn_jose_verify(key, jws.input, jws.input_len, jws.signature,
								 jws.signature_len))
			error = GN_JOSE_SIGNATURE;
	}
	values[0] = BoolGetDatum(error == GN_JOSE_OK);
	nulls[1] = error == GN_JOSE_OK;
	nulls[3] = error != GN_JOSE_OK;
	if (error != GN_JOSE_OK)
		values[1] = CStringGetTextDatum(gn_jose_error_code(error));
	else
		values[3] = PointerGetDatum(make_bytea(jws.payload, jws.payload_len));
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

static void
pg_attribute_noreturn() refuse_header(const char *why)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("the header is not acceptable: %s", why)));
}

/* The algorithm that the key leaves open is the header's to name. */
static void
settle_algorithm(GnJoseKey *key, const Jsonb *header)
{
	JsonbValue space;
	const JsonbValue *value = gn_jsonb_field(header, "alg", &space);
	const GnJoseAlg *alg;

	if (value == NULL && key->alg == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the algorithm is open"),
						errhint("Name it as alg in the JWK or in the header.")));
	if (value == NULL)
		return;
	alg = value->type == jbvString
			  ? gn_jose_alg(pnstrdup(value->val.string.val, value->val.string.len))
			  : NULL;
	if (alg == NULL || !gn_jose_key_settle(key, alg))
		refuse_header("its alg is not one that the key can serve");
}

/* A key that is embedded for its receiver must be a public one. */
static void
refuse_embedded_secret(const Jsonb *header)
{
	static const char *const names[] = {"d", "k", "p", "q", "dp", "dq", "qi"};
	JsonbValue space;
	const JsonbValue *value = gn_jsonb_field(header, "jwk", &space);

	for (size_t i = 0; value && value->type == jbvBinary && i < lengthof(names); i++)
	{
		JsonbValue member;

		if (JsonContainerIsObject(value->val.binary.data) &&
			getKeyJsonValueFromContainer(value->val.binary.data, names[i],
										 (int) strlen(names[i]), &member))
			refuse_header("its jwk has a private part");
	}
}

/* Ours comes first: alg, and kid if the key has one and the header names none. */
static void
write_header(StringInfo out, const GnJoseKey *key, const char *kid, Jsonb *header)
{
	JsonbValue space;

	gn_json_append(out, "{\"alg\":");
	gn_json_append_string(out, key->alg->name, strlen(key->alg->name));
	if (*kid && gn_jsonb_field(header, "kid", &space) == NULL)
	{
		gn_json_append(out, ",\"kid\":");
		gn_json_append_string(out, kid, strlen(kid));
	}
	header = DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(header),
												CStringGetTextDatum("alg")));
	gn_json_append_members(out, header);
	gn_json_append(out, "}");
}

static void
check_header(const StringInfoData *text)
{
	GnJws jws = {.header = (const uint8 *) text->data,
				 .header_len = (size_t) text->len};
	GnJoseError error = GN_JOSE_TOO_LARGE;

	if (text->len <= GN_JOSE_MAX_HEADER)
		error = gn_jws_read_header(&jws);
	if (error == GN_JOSE_CRITICAL)
		refuse_header("crit and b64 are not supported");
	if (error == GN_JOSE_TOO_LARGE)
		refuse_header("it is larger than 2 KiB");
	if (error != GN_JOSE_OK)
		refuse_header(
			"kid and typ must be short printable strings, enc and zip absent, "
			"numbers of 64 bits");
}

/* SQL: grownext.jws_sign(payload bytea, jwk jsonb, header jsonb) */
Datum
gn_jws_sign(PG_FUNCTION_ARGS)
{
	bytea *payload = PG_GETARG_BYTEA_PP(0);
	OpenedKeys *opened = open_keys(PG_GETARG_JSONB_P(1));
	Jsonb *header = PG_GETARG_JSONB_P(2);
	GnKeyNumbers numbers;
	char kid[65];
	uint8 signature[GN_JWA_MAX_SIGNATURE];
	size_t signature_len;
	const char *why;
	StringInfoData text;
	char *out;
	size_t len;

	if (!JB_ROOT_IS_OBJECT(header))
		refuse_header("it is not a JSON object");
	why = gn_jwk_private_parse(&opened->signer, kid, &numbers,
							   gn_secret_alloc(GN_JWA_NUMBERS_ROOM), opened->text,
							   opened->len);
	if (why)
		refuse_jwk(why);
	settle_algorithm(&opened->signer, header);
	refuse_embedded_secret(header);
	initStringInfo(&text);
	write_header(&text, &opened->signer, kid, header);
	check_header(&text);
	len = GN_BASE64URL_ENCODED_SIZE(text.len) + 1 +
		  GN_BASE64URL_ENCODED_SIZE(VARSIZE_ANY_EXHDR(payload)) + 1 +
		  GN_BASE64URL_ENCODED_SIZE(opened->signer.signature_size);
	if (len > GN_JOSE_MAX_TOKEN)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the token would be larger than %d bytes", GN_JOSE_MAX_TOKEN)));
	out = palloc(len);
	len = gn_base64url_encode(text.data, (size_t) text.len, out);
	out[len++] = '.';
	len += gn_base64url_encode(VARDATA_ANY(payload), VARSIZE_ANY_EXHDR(payload),
							   out + len);
	/* a private part that does not fit the public one would give itself away */
	if (!gn_jose_sign(&opened->signer, out, len, signature, &signature_len) ||
		!gn_jose_verify(&opened->signer, out, len, signature, signature_len))
		refuse_jwk("its private part does not belong to its public part");
	out[len++] = '.';
	len += gn_base64url_encode(signature, signature_len, out + len);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out, (int) len));
}

/* SQL: grownext.jwk_thumbprint(jwk jsonb) */
Datum
gn_jwk_thumbprint_sql(PG_FUNCTION_ARGS)
{
	OpenedKeys *opened = open_keys(PG_GETARG_JSONB_P(0));
	char thumbprint[GN_JWK_THUMBPRINT_SIZE];
	const char *why = gn_jwk_thumbprint(opened->text, opened->len, thumbprint);

	if (why)
		refuse_jwk(why);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(thumbprint, GN_JWK_THUMBPRINT_SIZE));
}
