/*
 * src/account/factor.c
 *	  Secrets of second factors: made, shown once, sealed, compared.
 *
 * A TOTP secret is plain in here only, and in the answer that shows it to its
 * owner. The ciphertext opens for its own factor alone. Recovery codes are not kept
 * at all, only hashes under a key of this database: they are short enough to be
 * typed, so an ordinary hash of one could be searched for.
 */
#include "postgres.h"

#include "funcapi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "account/account.h"
#include "account/totp.h"
#include "core/core.h"
#include "crypto/crypto.h"

GN_FUNCTION(gn_account_totp_make);
GN_FUNCTION(gn_account_totp_match);
GN_FUNCTION(gn_account_recovery_make);
GN_FUNCTION(gn_account_recovery_hash);

/* Letters and digits that nobody mistakes for another: 12 of 32 are 60 bits. */
static const char recovery_alphabet[] = "abcdefghjkmnpqrstuvwxyz023456789";
#define RECOVERY_SIZE 12
#define RECOVERY_GROUP 4
StaticAssertDecl(sizeof(recovery_alphabet) == 32 + 1,
				 "five bits choose a character of a recovery code");

/* What a factor's secret is sealed for; totp.sql registers the same for rewrapping. */
static char *
seal_purpose(const pg_uuid_t *factor)
{
	return psprintf("account_totp %s", gn_uuid_text(factor));
}

static const GnTotpAlgorithm *
algorithm_argument(text *name)
{
	const GnTotpAlgorithm *algorithm =
		gn_totp_algorithm(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));

	if (algorithm == NULL)
		elog(ERROR, "unknown algorithm of a second factor");
	return algorithm;
}

/* Percent-encodes what RFC 3986 does not leave unreserved. */
static void
append_escaped(StringInfo out, text *value)
{
	const unsigned char *in = (const unsigned char *) VARDATA_ANY(value);

	for (size_t i = 0; i < VARSIZE_ANY_EXHDR(value); i++)
	{
		if ((in[i] >= 'a' && in[i] <= 'z') || (in[i] >= 'A' && in[i] <= 'Z') ||
			(in[i] >= '0' && in[i] <= '9') || strchr("-._~", in[i]))
			appendStringInfoChar(out, (char) in[i]);
		else
			appendStringInfo(out, "%%%02X", in[i]);
	}
}

static void
push_pair(JsonbParseState **state, const char *key, char *value, size_t len)
{
	JsonbValue item = {.type = jbvString};

	item.val.string.val = unconstify(char *, key);
	item.val.string.len = (int) strlen(key);
	pushJsonbValue(state, WJB_KEY, &item);
	item.val.string.val = value;
	item.val.string.len = (int) len;
	pushJsonbValue(state, WJB_VALUE, &item);
}

/* {secret, uri}: what an authenticator program takes, typed or as a picture. */
static Jsonb *
enrolment(const GnTotpAlgorithm *algorithm, int digits, text *issuer, text *label,
		  char *secret, size_t secret_len)
{
	JsonbParseState *state = NULL;
	StringInfoData uri;
	Jsonb *answer;

	initStringInfo(&uri);
	appendStringInfoString(&uri, "otpauth://totp/");
	append_escaped(&uri, issuer);
	appendStringInfoString(&uri, ":");
	append_escaped(&uri, label);
	appendStringInfoString(&uri, "?secret=");
	appendBinaryStringInfo(&uri, secret, (int) secret_len);
	appendStringInfoString(&uri, "&issuer=");
	append_escaped(&uri, issuer);
	appendStringInfo(&uri, "&algorithm=%s&digits=%d&period=%d", algorithm->name, digits,
					 GN_TOTP_PERIOD);

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_pair(&state, "secret", secret, secret_len);
	push_pair(&state, "uri", uri.data, uri.len);
	answer = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	gn_cleanse(uri.data, uri.len);
	return answer;
}

/* SQL: _grownext.account_totp_make(factor uuid, algorithm text, digits int, issuer
 * text, label text, OUT sealed bytea, OUT answer jsonb) */
Datum
gn_account_totp_make(PG_FUNCTION_ARGS)
{
	const GnTotpAlgorithm *algorithm = algorithm_argument(PG_GETARG_TEXT_PP(1));
	uint8 *secret = gn_secret_alloc(GN_TOTP_SECRET_MAX);
	char *shown = gn_secret_alloc(GN_BASE32_ENCODED_SIZE(GN_TOTP_SECRET_MAX));
	size_t shown_len;
	TupleDesc desc;
	Datum values[2];
	bool nulls[2] = {false, false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	gn_random(secret, algorithm->secret_size);
	shown_len = gn_base32_encode(secret, algorithm->secret_size, shown);
	values[0] = PointerGetDatum(
		gn_seal(seal_purpose(PG_GETARG_UUID_P(0)), secret, algorithm->secret_size));
	values[1] =
		JsonbPGetDatum(enrolment(algorithm, PG_GETARG_INT32(2), PG_GETARG_TEXT_PP(3),
								 PG_GETARG_TEXT_PP(4), shown, shown_len));
	gn_cleanse(secret, GN_TOTP_SECRET_MAX);
	gn_cleanse(shown, shown_len);
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* SQL: _grownext.account_totp_match(factor uuid, algorithm text, digits int, sealed
 * bytea, last_step bigint, code text, at timestamptz)
 *
 * The step whose code it is, NULL if it is none that may be used now. */
Datum
gn_account_totp_match(PG_FUNCTION_ARGS)
{
	const GnTotpAlgorithm *algorithm = algorithm_argument(PG_GETARG_TEXT_PP(1));
	text *code = PG_GETARG_TEXT_PP(5);
	pg_time_t now = timestamptz_to_time_t(PG_GETARG_TIMESTAMPTZ(6));
	size_t secret_len;
	uint8 *secret = gn_open(seal_purpose(PG_GETARG_UUID_P(0)), PG_GETARG_VARLENA_PP(3),
							&secret_len);
	int64 step = gn_totp_match(algorithm, secret, secret_len, PG_GETARG_INT32(2),
							   VARDATA_ANY(code), VARSIZE_ANY_EXHDR(code),
							   now / GN_TOTP_PERIOD, PG_GETARG_INT64(4));

	gn_cleanse(secret, secret_len);
	if (step < 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(step);
}

/* SQL: _grownext.account_recovery_make() */
Datum
gn_account_recovery_make(PG_FUNCTION_ARGS)
{
	uint8 random[RECOVERY_SIZE];
	char code[RECOVERY_SIZE + RECOVERY_SIZE / RECOVERY_GROUP];
	size_t len = 0;

	gn_random(random, sizeof(random));
	for (int i = 0; i < RECOVERY_SIZE; i++)
	{
		if (i > 0 && i % RECOVERY_GROUP == 0)
			code[len++] = '-';
		code[len++] = recovery_alphabet[random[i] & 31];
	}
	gn_cleanse(random, sizeof(random));
	PG_RETURN_TEXT_P(cstring_to_text_with_len(code, (int) len));
}

/* SQL: _grownext.account_recovery_hash(factor uuid, code text)
 *
 * As a person may type it: upper case, and hyphens and spaces anywhere or nowhere.
 * NULL for what cannot be one. */
Datum
gn_account_recovery_hash(PG_FUNCTION_ARGS)
{
	text *code = PG_GETARG_TEXT_PP(1);
	const char *in = VARDATA_ANY(code);
	uint8 message[UUID_LEN + RECOVERY_SIZE];
	uint8 key[GN_KEY_SIZE];
	size_t len = UUID_LEN;
	bytea *result;

	memcpy(message, PG_GETARG_UUID_P(0)->data, UUID_LEN);
	for (size_t i = 0; i < VARSIZE_ANY_EXHDR(code); i++)
	{
		if (in[i] == '-' || in[i] == ' ')
			continue;
		if (len == sizeof(message))
			PG_RETURN_NULL();
		message[len++] = (uint8) pg_ascii_tolower((unsigned char) in[i]);
	}
	if (len < sizeof(message))
		PG_RETURN_NULL();
	result = palloc(VARHDRSZ + GN_SHA256_SIZE);
	SET_VARSIZE(result, VARHDRSZ + GN_SHA256_SIZE);
	gn_account_key("recovery code", key);
	gn_hmac_sha256(key, sizeof(key), message, sizeof(message),
				   (uint8 *) VARDATA(result));
	gn_cleanse(key, sizeof(key));
	gn_cleanse(message, sizeof(message));
	PG_RETURN_BYTEA_P(result);
}
