/*
 * src/jwt/token.c
 *	  Minting and verifying the platform's own tokens.
 *
 * The key decides the algorithm and the kind of token: a token is taken only if
 * its header says exactly what the key it names would have written. Time is the
 * wall clock, not the transaction's: a long transaction must not keep an expired
 * token alive. No token's text appears in any message.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "crypto/crypto.h"
#include "jwt/base64url.h"
#include "jwt/jose.h"
#include "jwt/jwt.h"
#include "jwt/key.h"
#include "jwt/token.h"

#define MINT_MAX_TOKEN 8192
#define DEFAULT_TTL (15 * SECS_PER_MINUTE)
/* key_rotate() accepts a retired key's tokens for an hour more than this. */
#define MAX_TTL (24 * SECS_PER_HOUR)
#define UNIX_EPOCH_OFFSET                                                              \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * USECS_PER_SEC)

GN_FUNCTION(gn_jwt_mint);
GN_FUNCTION(gn_jwt_issue);
GN_FUNCTION(gn_jwt_verify);
GN_FUNCTION(gn_jwt_inspect);

static int64
unix_now(void)
{
	return gn_now() + UNIX_EPOCH_OFFSET;
}

/* Minting ------------------------------------------------------------------ */

/* What only the minting itself says. */
static const char *const reserved_claims[] = {"iss", "sub", "aud", "exp",
											  "iat", "nbf", "jti", NULL};
/* What only sessions and act_as say. */
static const char *const bound_claims[] = {"sid", "act", NULL};

static bool
name_in(const JsonbValue *name, const char *const *names)
{
	for (; *names; names++)
	{
		if ((size_t) name->val.string.len == strlen(*names) &&
			memcmp(name->val.string.val, *names, name->val.string.len) == 0)
			return true;
	}
	return false;
}

static void
pg_attribute_noreturn() refuse_claim(const char *message, const char *name)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg(message, name)));
}

/* What could not be verified again must not be minted: see gn_json_parse. */
static void
check_claim_values(Jsonb *claims, bool platform)
{
	JsonbIterator *iterator = JsonbIteratorInit(&claims->root);
	JsonbIteratorToken token;
	JsonbValue value;
	int depth = 0;

	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
	{
		if (token == WJB_BEGIN_OBJECT || token == WJB_BEGIN_ARRAY)
		{
			if (++depth > GN_JOSE_MAX_DEPTH)
				ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
								errmsg("claims are nested more than %d deep",
									   GN_JOSE_MAX_DEPTH)));
		}
		else if (token == WJB_END_OBJECT || token == WJB_END_ARRAY)
			depth--;
		else if (token == WJB_KEY && depth == 1)
		{
			if (name_in(&value, reserved_claims) ||
				(!platform && name_in(&value, bound_claims)))
				refuse_claim("claim \"%s\" is reserved",
							 pnstrdup(value.val.string.val, value.val.string.len));
		}
		else if (value.type == jbvNumeric && (token == WJB_VALUE || token == WJB_ELEM))
		{
			char *digits = DatumGetCString(
				DirectFunctionCall1(numeric_out, NumericGetDatum(value.val.numeric)));

			if (strlen(digits) > 18)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("a number among the claims has more than 18 digits"),
						 errhint("Write it as a string.")));
			pfree(digits);
		}
	}
}

/*
 * A gateway does SET ROLE with this claim, so nobody may mint a role that is not
 * theirs, but for the two that end users have, and nobody a role above the rest.
 */
static void
check_role_claim(const Jsonb *claims)
{
	char *name = gn_claim_text(claims, "role");
	Oid role;

	if (name == NULL)
		return;
	role = get_role_oid(name, true);
	if (!OidIsValid(role))
		refuse_claim("claim \"role\": role \"%s\" does not exist", name);
	if (strcmp(name, "grownext_user") == 0 || strcmp(name, "grownext_anon") == 0)
		return;
	if (superuser_arg(role) || has_rolreplication(role) ||
		has_bypassrls_privilege(role) || strncmp(name, "pg_", 3) == 0 ||
		role == gn_extension_owner() || !is_member_of_role(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("claim \"role\": a token for role \"%s\" may not be minted",
						name),
				 errdetail(
					 "It must be a role of the caller, and not a privileged one.")));
}

static void
check_uuid_claim(const Jsonb *claims, const char *name)
{
	char *text = gn_claim_text(claims, name);
	pg_uuid_t uuid;

	if (text && !gn_uuid_parse(text, &uuid))
		refuse_claim("claim \"%s\" is not a uuid", name);
}

/* The named audience if setup() allowed it, else the default one. */
static const char *
resolve_audience(const GnJwtOptions *options, const char *named)
{
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

static int64
resolve_ttl(const Interval *ttl)
{
	int64 seconds;

	if (ttl == NULL)
		return DEFAULT_TTL;
	seconds = ttl->time / USECS_PER_SEC + (int64) ttl->day * SECS_PER_DAY +
			  (int64) ttl->month * DAYS_PER_MONTH * SECS_PER_DAY;
	if (seconds <= 0 || seconds > MAX_TTL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a token's ttl must be between 1 second and 24 hours")));
	return seconds;
}

static GnSigningKey *
active_key(const char *purpose)
{
	GnSigningKey *key = gn_jwt_key_active(purpose);

	if (key == NULL || key->signer == NULL)
		ereport(ERROR,
				(errcode(GN_ERRCODE_KEY_UNAVAILABLE),
				 errmsg("there is no active signing key for purpose \"%s\"", purpose),
				 errhint("SELECT grownext.key_rotate(%s);",
						 quote_literal_cstr(purpose))));
	return key;
}

static void
append_payload(StringInfo payload, const GnJwtOptions *options, const char *subject,
			   const char *audience, int64 ttl, Jsonb *claims, const char *purpose)
{
	int64 issued = unix_now() / USECS_PER_SEC;
	uint8 id[16];
	char id_text[GN_BASE64URL_ENCODED_SIZE(sizeof(id)) + 1] = {0};

	gn_random(id, sizeof(id));
	gn_base64url_encode(id, sizeof(id), id_text);
	appendStringInfoString(payload, "{\"iss\":");
	escape_json(payload, options->issuer);
	appendStringInfoString(payload, ",\"sub\":");
	escape_json(payload, subject);
	appendStringInfoString(payload, ",\"aud\":");
	escape_json(payload, audience);
	appendStringInfo(payload,
					 ",\"iat\":" INT64_FORMAT ",\"exp\":" INT64_FORMAT
					 ",\"jti\":\"%s\"",
					 issued, issued + ttl, id_text);
	if (strcmp(purpose, GN_PURPOSE_ACCESS) == 0)
	{
		JsonbValue space;

		/* RFC 9068 asks for a client */
		if (claims == NULL || gn_jsonb_field(claims, "client_id", &space) == NULL)
			appendStringInfoString(payload, ",\"client_id\":\"first-party\"");
	}
	if (claims && JB_ROOT_COUNT(claims) > 0)
	{
		char *text = gn_jsonb_text(claims); /* {...} */

		appendStringInfoChar(payload, ',');
		appendStringInfoString(payload, text + 1);
		pfree(text);
	}
	else
		appendStringInfoChar(payload, '}');
}

/* header.payload.signature, written straight into the result. */
static text *
sign_token(GnSigningKey *key, const StringInfoData *payload)
{
	size_t payload_len = GN_BASE64URL_ENCODED_SIZE(payload->len);
	size_t input_len = key->header_len + 1 + payload_len;
	uint8 signature[GN_JWK_MAX_SIGNATURE];
	size_t signature_len;
	text *token = palloc(VARHDRSZ + input_len + 1 +
						 GN_BASE64URL_ENCODED_SIZE(GN_JWK_MAX_SIGNATURE));
	char *out = VARDATA(token);

	memcpy(out, key->header, key->header_len);
	out[key->header_len] = '.';
	gn_base64url_encode(payload->data, payload->len, out + key->header_len + 1);
	if (!key->opened)
		key->signer->open(key);
	key->signer->sign(key, out, input_len, signature, &signature_len);
	out[input_len] = '.';
	input_len += 1 + gn_base64url_encode(signature, signature_len, out + input_len + 1);
	if (input_len > MINT_MAX_TOKEN)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the token would be larger than %d bytes", MINT_MAX_TOKEN),
				 errhint("Carry fewer claims.")));
	SET_VARSIZE(token, VARHDRSZ + input_len);
	return token;
}

/* platform: sessions and impersonations may say what callers may not. */
static Datum
mint(FunctionCallInfo fcinfo, bool platform)
{
	const GnJwtOptions *options = gn_jwt_options();
	char *subject = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	Jsonb *claims = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1);
	const char *audience =
		resolve_audience(options, PG_ARGISNULL(2)
									  ? NULL
									  : text_to_cstring(PG_GETARG_TEXT_PP(2)));
	int64 ttl = resolve_ttl(PG_ARGISNULL(3) ? NULL : PG_GETARG_INTERVAL_P(3));
	char *purpose = PG_ARGISNULL(4) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(4));
	GnSigningKey *key;
	StringInfoData payload;

	if (subject == NULL || *subject == '\0' || purpose == NULL)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("a token needs a subject and a purpose")));
	if (claims)
	{
		if (!JB_ROOT_IS_OBJECT(claims))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("claims must be a JSON object")));
		check_claim_values(claims, platform);
		check_uuid_claim(claims, "tenant_id");
		check_uuid_claim(claims, "sid");
		if (!platform && strcmp(purpose, GN_PURPOSE_ACCESS) == 0)
			check_role_claim(claims);
	}
	key = active_key(purpose);
	initStringInfo(&payload);
	append_payload(&payload, options, subject, audience, ttl, claims, purpose);
	PG_RETURN_TEXT_P(sign_token(key, &payload));
}

/* SQL: grownext.jwt_mint(subject text, claims jsonb, audience text, ttl interval,
 * purpose text) */
Datum
gn_jwt_mint(PG_FUNCTION_ARGS)
{
	return mint(fcinfo, false);
}

/* SQL: _grownext.jwt_issue(...): the same, with the claims that are the platform's to
 * make */
Datum
gn_jwt_issue(PG_FUNCTION_ARGS)
{
	return mint(fcinfo, true);
}

/* Verifying ---------------------------------------------------------------- */

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
		.audience = resolve_audience(options, audience),
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
		.now = unix_now(),
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
	if (gn_preloaded)
		gn_jose_prepare();
}

const GnComponent gn_jwt_component = {
	.name = "jwt",
	.init = jwt_init,
};
