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
#include "crypto/crypto.h"
#include "jwt/jose.h"
#include "jwt/json_text.h"
#include "jwt/jwt.h"
#include "jwt/key.h"
#include "jwt/profile.h"
#include "jwt/token.h"
#include "jwt/verified.h"

GN_FUNCTION(gn_jwt_verify);
GN_FUNCTION(gn_jwt_inspect);

/* What was asked of a token, settled before it is looked at. */
typedef struct Expectation
{
	const char *audience;
	const char *issuer;
	const char *purpose;
	const char *typ;
} Expectation;

static Expectation
expectation(const char *audience, const char *issuer, const char *purpose)
{
	const GnTokenProfile *profile;

	if (purpose == NULL)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("a token's purpose must be named")));
	profile = gn_token_profile(purpose);
	if (issuer && strcmp(issuer, profile->issuer) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("issuer \"%s\" is not trusted here", issuer),
				 errhint(
					 "Only tokens of this platform's own issuer can be verified.")));
	return (Expectation){
		.audience = gn_token_audience(profile, audience),
		.issuer = profile->issuer,
		.purpose = purpose,
		.typ = profile->typ,
	};
}

/* A token in the course of being verified; how far it came decides what may be shown.
 */
typedef struct Candidate
{
	GnJws jws;
	GnSigningKey *key;
	bool own_header; /* its header is what the key's tokens begin with, to the byte */
	bool decoded;
	bool authentic;
	Jsonb *claims;
	GnClaimTimes times;
} Candidate;

/* Tokens longer than this are verified each time. */
#define REMEMBERED_MAX 4096

/* A token that begins as a key's tokens do has nothing in its header to be read. */
static void
recognise(Candidate *candidate)
{
	candidate->key =
		gn_jwt_key_of_header(candidate->jws.input, candidate->jws.header_text_len);
	candidate->own_header = candidate->key != NULL;
}

/* Looking up the hash of a token costs what a MAC costs. */
static bool
worth_remembering(const Candidate *candidate)
{
	return candidate->own_header && candidate->key->alg->family != GN_JOSE_HMAC &&
		   candidate->jws.input_len <= REMEMBERED_MAX;
}

static GnJoseError
check_key(const Candidate *candidate, const Expectation *expected)
{
	const GnSigningKey *key = candidate->key;
	const GnJws *jws = &candidate->jws;

	if (key == NULL)
		return GN_JOSE_UNKNOWN_KEY;
	if (key->state == GN_KEY_REVOKED)
		return GN_JOSE_REVOKED_KEY;
	if (key->state == GN_KEY_RETIRING && gn_now() >= key->accepted_until)
		return GN_JOSE_UNKNOWN_KEY;
	if (!candidate->own_header && strcmp(jws->alg, key->alg->name) != 0)
		return GN_JOSE_ALGORITHM;
	if (strcmp(key->purpose, expected->purpose) != 0 ||
		(!candidate->own_header && pg_strcasecmp(jws->typ, expected->typ) != 0))
		return GN_JOSE_TYPE;
	return GN_JOSE_OK;
}

static GnJoseError
check_signature(Candidate *candidate, const Expectation *expected,
				const GnTokenName *name)
{
	GnJws *jws = &candidate->jws;
	GnJoseKey *key;
	GnJoseError error;

	if (!candidate->own_header)
		candidate->key = gn_jwt_key_find(jws->kid);
	error = check_key(candidate, expected);
	if (error != GN_JOSE_OK)
		return error;
	key = gn_jwt_key_public(candidate->key);
	if (key == NULL)
		return GN_JOSE_REVOKED_KEY;
	if (!gn_jose_verify_hashed(key, name ? name->digest : NULL, jws->input,
							   jws->input_len, jws->signature, jws->signature_len))
		return GN_JOSE_SIGNATURE;
	candidate->authentic = true;
	return GN_JOSE_OK;
}

/* Judges the claims and makes jsonb of them at once. */
static GnJoseError
check_claims(Candidate *candidate, const Expectation *expected)
{
	const GnJws *jws = &candidate->jws;
	GnClaimRules rules = {
		.issuer = expected->issuer,
		.audience = expected->audience,
		.now = gn_jwt_unix_now(),
	};
	GnJsonbBuilder builder;
	GnJoseError error;

	gn_jsonb_build_begin(&builder);
	error =
		gn_claims_check(jws->payload, jws->payload_len, palloc(jws->payload_len + 1),
						&rules, &builder.reader, &candidate->times);
	if (error != GN_JOSE_CLAIMS)
		candidate->claims = gn_jsonb_build_end(&builder);
	return error;
}

/* name: of a token that is worth remembering, or NULL */
static GnJoseError
verify_anew(Candidate *candidate, const Expectation *expected, const GnTokenName *name)
{
	GnJws *jws = &candidate->jws;
	uint8 *scratch = palloc(jws->input_len + jws->signature_text_len + 1);
	GnJoseError error = gn_jws_decode(jws, scratch);

	if (error == GN_JOSE_OK && !candidate->own_header)
		error =
			gn_jws_decode_header(jws, scratch + jws->payload_len + jws->signature_len);
	candidate->decoded = error == GN_JOSE_OK;
	if (error == GN_JOSE_OK)
		error = check_signature(candidate, expected, name);
	if (error == GN_JOSE_OK)
		error = check_claims(candidate, expected);
	return error;
}

/* What was verified before is asked again what may have changed: time, and the key. */
static bool
verify_again(Candidate *candidate, const Expectation *expected, const GnTokenName *name,
			 GnJoseError *error)
{
	const GnVerified *verified = gn_verified_find(name, expected->audience);

	if (verified == NULL || verified->key != candidate->key ||
		check_key(candidate, expected) != GN_JOSE_OK)
		return false; /* what is wrong is said by verifying it anew */
	candidate->decoded = candidate->authentic = true;
	*error = gn_claims_check_times(&verified->times, gn_jwt_unix_now());
	candidate->claims = palloc(VARSIZE(verified->claims));
	memcpy(candidate->claims, verified->claims, VARSIZE(verified->claims));
	return true;
}

static GnJoseError
verify(const text *token, const Expectation *expected, Candidate *candidate)
{
	GnJws *jws = &candidate->jws;
	GnTokenName name;
	GnJoseError error;

	memset(candidate, 0, sizeof(*candidate));
	error = gn_jws_split(jws, VARDATA_ANY(token), VARSIZE_ANY_EXHDR(token));
	if (error != GN_JOSE_OK)
		return error;
	recognise(candidate);
	if (!worth_remembering(candidate))
		return verify_anew(candidate, expected, NULL);
	gn_sha256(jws->input, jws->input_len, name.digest);
	name.signature = jws->signature_text;
	name.signature_len = jws->signature_text_len;
	if (verify_again(candidate, expected, &name, &error))
		return error;
	error = verify_anew(candidate, expected, &name);
	if (error == GN_JOSE_OK)
		gn_verified_remember(&name, &(GnVerified){
										.key = candidate->key,
										.audience = expected->audience,
										.times = candidate->times,
										.claims = candidate->claims,
									});
	return error;
}

/* The same, and the header is there to be shown, which verifying may have done without.
 */
static GnJoseError
inspect(const text *token, const Expectation *expected, Candidate *candidate)
{
	GnJoseError error = verify(token, expected, candidate);

	if (candidate->own_header && candidate->decoded)
		(void) gn_jws_decode_header(&candidate->jws,
									palloc(candidate->jws.header_text_len + 1));
	return error;
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
	return candidate.claims;
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
		error = inspect(PG_GETARG_TEXT_PP(0), &expected, &candidate);
	values[0] = BoolGetDatum(error == GN_JOSE_OK);
	nulls[1] = error == GN_JOSE_OK;
	if (error != GN_JOSE_OK)
		values[1] = CStringGetTextDatum(gn_jose_error_code(error));
	if (candidate.decoded)
	{
		nulls[2] = candidate.jws.kid[0] == '\0';
		values[2] = CStringGetTextDatum(candidate.jws.kid);
		nulls[3] = false;
		values[3] = JsonbPGetDatum(
			gn_json_to_jsonb(candidate.jws.header, candidate.jws.header_len));
	}
	/* Claims that nobody vouches for are not repeated. */
	if (candidate.authentic && candidate.claims)
	{
		nulls[4] = false;
		values[4] = JsonbPGetDatum(candidate.claims);
	}
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

static void
jwt_init(void)
{
	gn_jwt_keys_init();
	gn_token_profile_init();
	gn_key_import_init();
	gn_caller_init();
	if (gn_preloaded)
	{
		uint8 digest[GN_SHA256_SIZE];

		gn_jose_prepare();
		gn_sha256("", 0, digest);
	}
}

const GnComponent gn_jwt_component = {
	.name = "jwt",
	.init = jwt_init,
	.tick = "SELECT _grownext.jwt_tick($1)",
};
