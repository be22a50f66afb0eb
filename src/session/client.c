/*
 * src/session/client.c
 *	  How a client proves who it is: secrets, and assertions as they are before
 *	  anybody has verified them.
 *
 * A secret is 256 random bits, so its plain digest is as good as a slow one. It
 * exists here and in the answer that shows it once.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "core/core.h"
#include "crypto/crypto.h"
#include "jwt/base64url.h"
#include "jwt/jose.h"
#include "jwt/json_text.h"
#include "session/check.h"

GN_FUNCTION(gn_session_client_id_make);
GN_FUNCTION(gn_session_client_secret_make);
GN_FUNCTION(gn_session_client_secret_matches);
GN_FUNCTION(gn_session_assertion_claims);

#define SECRET_PREFIX "gns_" /* what scanners of leaked secrets look for */
#define CLIENT_ID_SIZE 16
#define SECRET_SIZE 32

static text *
random_name(const char *prefix, size_t size)
{
	size_t prefix_len = strlen(prefix);
	uint8 bytes[SECRET_SIZE];
	text *result = palloc(VARHDRSZ + prefix_len + GN_BASE64URL_ENCODED_SIZE(size));
	size_t len;

	gn_random(bytes, size);
	memcpy(VARDATA(result), prefix, prefix_len);
	len = prefix_len + gn_base64url_encode(bytes, size, VARDATA(result) + prefix_len);
	SET_VARSIZE(result, VARHDRSZ + len);
	gn_cleanse(bytes, sizeof(bytes));
	return result;
}

static bytea *
digest_of(const void *data, size_t len)
{
	bytea *digest = palloc(VARHDRSZ + GN_SHA256_SIZE);

	SET_VARSIZE(digest, VARHDRSZ + GN_SHA256_SIZE);
	gn_sha256(data, len, (uint8 *) VARDATA(digest));
	return digest;
}

/* SQL: _grownext.session_client_id_make() */
Datum
gn_session_client_id_make(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(random_name(GN_CLIENT_ID_PREFIX, CLIENT_ID_SIZE));
}

/* SQL: _grownext.session_client_secret_make(OUT secret text, OUT digest bytea) */
Datum
gn_session_client_secret_make(PG_FUNCTION_ARGS)
{
	text *secret = random_name(SECRET_PREFIX, SECRET_SIZE);
	TupleDesc desc;
	Datum values[2];
	bool nulls[2] = {false, false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = PointerGetDatum(secret);
	values[1] = PointerGetDatum(digest_of(VARDATA(secret), VARSIZE(secret) - VARHDRSZ));
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/*
 * SQL: _grownext.session_client_secret_matches(secret text, digests bytea[])
 *
 * One digest and two comparisons, whether the client has two secrets, one or none.
 */
Datum
gn_session_client_secret_matches(PG_FUNCTION_ARGS)
{
	static const uint8 nobodys[GN_SHA256_SIZE] = {0};
	text *secret = PG_GETARG_TEXT_PP(0);
	bytea *given = digest_of(VARDATA_ANY(secret), VARSIZE_ANY_EXHDR(secret));
	Datum *digests;
	int count;
	bool matches = false;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), BYTEAOID, -1, false, TYPALIGN_INT,
					  &digests, NULL, &count);
	for (int i = 0; i < Max(count, 2); i++)
	{
		const bytea *kept = i < count ? DatumGetByteaPP(digests[i]) : NULL;
		bool whole = kept && VARSIZE_ANY_EXHDR(kept) == GN_SHA256_SIZE;
		bool equal =
			gn_equal(VARDATA(given), whole ? (const void *) VARDATA_ANY(kept) : nobodys,
					 GN_SHA256_SIZE);

		matches |= equal && whole;
	}
	PG_RETURN_BOOL(matches);
}

/*
 * SQL: _grownext.session_assertion_claims(assertion text)
 *
 * What an assertion says, which nobody vouches for: it names the client whose keys
 * are to verify it. NULL unless it is a compact JWS over a strict JSON object.
 */
Datum
gn_session_assertion_claims(PG_FUNCTION_ARGS)
{
	text *assertion = PG_GETARG_TEXT_PP(0);
	size_t len = VARSIZE_ANY_EXHDR(assertion);
	GnJsonbBuilder builder;
	GnJws jws;

	if (len > GN_JOSE_MAX_TOKEN ||
		gn_jws_parse(&jws, VARDATA_ANY(assertion), len, palloc(len + 1)) != GN_JOSE_OK)
		PG_RETURN_NULL();
	gn_jsonb_build_begin(&builder);
	if (!gn_json_read(jws.payload, jws.payload_len, palloc(jws.payload_len + 1),
					  &builder.reader))
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(gn_jsonb_build_end(&builder));
}
