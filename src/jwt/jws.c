/*
 * src/jwt/jws.c
 *	  Generic JOSE for keys that the caller brings: jws_verify(), jwk_thumbprint().
 *
 * A bad token never raises, a bad key does. Only public keys are taken: a shared
 * secret in an argument is a secret in a log.
 */
#include "postgres.h"

#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "core/core.h"
#include "jwt/jose.h"
#include "jwt/jwk.h"

GN_FUNCTION(gn_jws_verify);
GN_FUNCTION(gn_jwk_thumbprint_sql);

/* Keys of libcrypto go with the context they are registered in, also after an error. */
typedef struct OpenedSet
{
	MemoryContextCallback callback;
	GnJwkSet set;
} OpenedSet;

static void
free_set(void *arg)
{
	gn_jwk_set_free(arg);
}

static void
pg_attribute_noreturn() refuse_jwk(const char *why)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("the JWK is not acceptable: %s", why)));
}

static GnJwkSet *
open_set(Jsonb *jwk)
{
	OpenedSet *opened = palloc0(sizeof(OpenedSet));
	char *text = gn_jsonb_text(jwk);
	const char *why;

	opened->callback.func = free_set;
	opened->callback.arg = &opened->set;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &opened->callback);
	why = gn_jwk_set_parse(&opened->set, text, strlen(text));
	if (why)
		refuse_jwk(why);
	return &opened->set;
}

/* SQL: grownext.jws_verify(token text, jwk jsonb) */
Datum
gn_jws_verify(PG_FUNCTION_ARGS)
{
	GnJwkSet *set = open_set(PG_GETARG_JSONB_P(1));
	GnJoseError error = GN_JOSE_MALFORMED;
	GnJws jws = {0};
	GnJoseKey *key;
	TupleDesc desc;
	Datum values[4] = {0};
	bool nulls[4] = {false, false, true, true};

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
		nulls[2] = false;
		values[2] = JsonbPGetDatum(
			gn_jsonb_from_text(pnstrdup((const char *) jws.header, jws.header_len)));
		key = gn_jwk_set_choose(set, jws.kid);
		if (key == NULL)
			error = GN_JOSE_UNKNOWN_KEY;
		else if (strcmp(key->alg->name, jws.alg) != 0)
			error = GN_JOSE_ALGORITHM;
		else if (!gn_jose_verify(key, jws.input, jws.input_len, jws.signature,
								 jws.signature_len))
			error = GN_JOSE_SIGNATURE;
	}
	values[0] = BoolGetDatum(error == GN_JOSE_OK);
	nulls[1] = error == GN_JOSE_OK;
	if (error != GN_JOSE_OK)
		values[1] = CStringGetTextDatum(gn_jose_error_code(error));
	else
	{
		bytea *payload = palloc(VARHDRSZ + jws.payload_len);

		SET_VARSIZE(payload, VARHDRSZ + jws.payload_len);
		memcpy(VARDATA(payload), jws.payload, jws.payload_len);
		nulls[3] = false;
		values[3] = PointerGetDatum(payload);
	}
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* SQL: grownext.jwk_thumbprint(jwk jsonb) */
Datum
gn_jwk_thumbprint_sql(PG_FUNCTION_ARGS)
{
	char *text = gn_jsonb_text(PG_GETARG_JSONB_P(0));
	char thumbprint[GN_JWK_THUMBPRINT_SIZE];
	const char *why = gn_jwk_thumbprint(text, strlen(text), thumbprint);

	if (why)
		refuse_jwk(why);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(thumbprint, GN_JWK_THUMBPRINT_SIZE));
}
