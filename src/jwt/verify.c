/*
 * src/jwt/verify.c
 *	  Verifying the platform's own tokens.
 *
 * The key decides the algorithm and the kind of token: a token is taken only if
 * its header says exactly what the key it names would have written. Time is the
 * wall clock, not the transaction's: a long transaction must not keep an expired
 * token alive. No token's text appears in any message.
 */
#include "postgres.h"

#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "jwt/jose.h"
#include "jwt/jwt.h"
#include "jwt/key.h"
#include "jwt/token.h"

GN_FUNCTION(gn_jwt_verify);
GN_FUNCTION(gn_jwt_inspect);

/* What was asked of a token, settled before it is looked at. */
typedef struct Expectation
{
	const char *audience;
	const char *issuer;
	const char *purpose;
} Expectation;

static Expectation
expectation(const char *audience, const char *issuer, const char *purpose)
{
	const GnJwtOptions *options = gn_jwt_options();

	if (issuer && strcmp(issuer, options->issuer) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("issuer \"%s\" is not trusted here", issuer),
				 errhint(
					 "Only tokens of this platform's own issuer can be verified.")));
	if (purpose == NULL)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("a token's purpose must be named")));
	return (Expectation){
		.audience = gn_jwt_audience(audience),
		.issuer = options->issuer,
		.purpose = purpose,
	};
}

/* A token in the course of being verified; how far it came decides what may be shown.
 */
typedef struct Candidate
{
	GnJws jws;
	bool decoded;
	bool authentic;
} Candidate;

static GnJoseError
check_signature(Candidate *candidate, const char *purpose)
{
	GnJws *jws = &candidate->jws;
	GnSigningKey *key = gn_jwt_key_find(jws->kid);

	if (key == NULL)
		return GN_JOSE_UNKNOWN_KEY;
	if (key->state == GN_KEY_REVOKED)
		return GN_JOSE_REVOKED_KEY;
	if (key->state == GN_KEY_RETIRING && gn_now() >= key->accepted_until)
		return GN_JOSE_UNKNOWN_KEY;
	if (strcmp(jws->alg, key->public.alg->name) != 0)
		return GN_JOSE_ALGORITHM;
	if (strcmp(key->purpose, purpose) != 0 ||
		pg_strcasecmp(jws->typ, gn_jwt_typ(purpose)) != 0)
		return GN_JOSE_TYPE;
	if (!gn_jose_verify(&key->public, jws->input, jws->input_len, jws->signature,
						jws->signature_len))
		return GN_JOSE_SIGNATURE;
	candidate->authentic = true;
	return GN_JOSE_OK;
}

static GnJoseError
verify(const text *token, const Expectation *expected, Candidate *candidate)
{
	size_t len = VARSIZE_ANY_EXHDR(token);
	GnClaimRules rules = {
		.issuer = expected->issuer,
		.audience = expected->audience,
		.now = gn_jwt_unix_now(),
	};
	GnJoseError error;

	*candidate = (Candidate){0};
	if (len > GN_JOSE_MAX_TOKEN)
		return GN_JOSE_TOO_LARGE;
	error = gn_jws_parse(&candidate->jws, VARDATA_ANY(token), len, palloc(len + 1));
	candidate->decoded = error == GN_JOSE_OK;
	if (error == GN_JOSE_OK)
		error = check_signature(candidate, expected->purpose);
	if (error == GN_JOSE_OK)
		error =
			gn_claims_check(candidate->jws.payload, candidate->jws.payload_len, &rules);
	return error;
}

/* Only for bytes that gn_json_parse took: jsonb takes them too. */
static Jsonb *
parsed_json(const uint8 *data, size_t len)
{
	return gn_jsonb_from_text(pnstrdup((const char *) data, len));
}

Jsonb *
gn_jwt_verified_claims(const text *token, const char *audience, const char *issuer,
					   const char *purpose)
{
	Expectation expected = expectation(audience, issuer, purpose);
	Candidate candidate;
	GnJoseError error = verify(token, &expected, &candidate);

	if (error == GN_JOSE_EXPIRED)
		ereport(ERROR,
				(errcode(GN_ERRCODE_TOKEN_EXPIRED), errmsg("token has expired")));
	if (error != GN_JOSE_OK)
		ereport(ERROR, (errcode(GN_ERRCODE_TOKEN_INVALID), errmsg("token is not valid"),
						errdetail("%s", gn_jose_error_detail(error))));
	return parsed_json(candidate.jws.payload, candidate.jws.payload_len);
}

static char *
optional_text(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

/* SQL: grownext.jwt_verify(token text, audience text, issuer text, purpose text) */
Datum
gn_jwt_verify(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(GN_ERRCODE_TOKEN_INVALID), errmsg("token is not valid"),
						errdetail("It is NULL.")));
	PG_RETURN_JSONB_P(
		gn_jwt_verified_claims(PG_GETARG_TEXT_PP(0), optional_text(fcinfo, 1),
							   optional_text(fcinfo, 2), optional_text(fcinfo, 3)));
}

/* SQL: grownext.jwt_inspect(token text, audience text, issuer text, purpose text) */
Datum
gn_jwt_inspect(PG_FUNCTION_ARGS)
{
	Expectation expected =
		expectation(optional_text(fcinfo, 1), optional_text(fcinfo, 2),
					optional_text(fcinfo, 3));
	Candidate candidate = {0};
	GnJoseError error = GN_JOSE_MALFORMED;
	TupleDesc desc;
	Datum values[5] = {0};
	bool nulls[5] = {false, false, true, true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!PG_ARGISNULL(0))
		error = verify(PG_GETARG_TEXT_PP(0), &expected, &candidate);
	values[0] = BoolGetDatum(error == GN_JOSE_OK);
	nulls[1] = error == GN_JOSE_OK;
	if (error != GN_JOSE_OK)
		values[1] = CStringGetTextDatum(gn_jose_error_code(error));
	if (candidate.decoded)
	{
		nulls[2] = candidate.jws.kid[0] == '\0';
		values[2] = CStringGetTextDatum(candidate.jws.kid);
		nulls[3] = false;
		values[3] =
			JsonbPGetDatum(parsed_json(candidate.jws.header, candidate.jws.header_len));
	}
	/* Claims that nobody vouches for are not repeated. */
	if (candidate.authentic && error != GN_JOSE_CLAIMS)
	{
		nulls[4] = false;
		values[4] = JsonbPGetDatum(
			parsed_json(candidate.jws.payload, candidate.jws.payload_len));
	}
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

static void
jwt_init(void)
{
	gn_jwt_cache_init();
	gn_caller_init();
	if (gn_preloaded)
		gn_jose_prepare();
}

const GnComponent gn_jwt_component = {
	.name = "jwt",
	.init = jwt_init,
};
