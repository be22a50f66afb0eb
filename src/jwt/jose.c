/*
 * src/jwt/jose.c
 *	  Reading tokens: strict JSON, compact JWS, registered claims.
 *
 * Pure: no server, no allocation that outlives a call, no raise. Everything a
 * stranger can send passes here first, so each rule refuses; what RFC 8725 and the
 * published attacks ask for is in the order in which it is checked.
 */
#include "postgres.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

#include <jansson.h>

#include "jwt/base64url.h"
#include "jwt/jose.h"

/* 9999-12-31: no later time fits every calendar that will read it. */
#define LATEST_TIME 253402300799.0

static const struct
{
	const char *code;
	const char *detail;
} errors[] = {{NULL, NULL},
#define GN_JOSE_ROW(name, code, detail) {code, detail},
			  GN_JOSE_ERRORS(GN_JOSE_ROW)
#undef GN_JOSE_ROW
};

const char *
gn_jose_error_code(GnJoseError error)
{
	return errors[error].code;
}

const char *
gn_jose_error_detail(GnJoseError error)
{
	return errors[error].detail;
}

/* Skips a string's inside; NULL if it does not end. */
static const char *
skip_string(const char *at, const char *end)
{
	for (bool escaped = false; at < end; at++)
	{
		if (*at == '"' && !escaped)
			return at + 1;
		escaped = *at == '\\' && !escaped;
	}
	return NULL;
}

/* Numbers that jansson takes but jsonb would refuse: absurd exponents and lengths. */
static const char *
skip_number(const char *at, const char *end)
{
	const char *start = at;
	const char *exponent = NULL;

	for (; at < end &&
		   (isalnum((unsigned char) *at) || *at == '+' || *at == '-' || *at == '.');
		 at++)
	{
		if (*at == 'e' || *at == 'E')
			exponent = at;
	}
	if (at - start > 64 || (exponent && at - exponent > 5))
		return NULL;
	return at;
}

/* Bounds what the parser has to recurse into, before it runs. */
static bool
bounded(const char *at, const char *end)
{
	int depth = 0;

	while (at && at < end)
	{
		char c = *at;

		if (c == '"')
			at = skip_string(at + 1, end);
		else if (c == '-' || isdigit((unsigned char) c))
			at = skip_number(at, end);
		else
		{
			if ((c == '{' || c == '[') && ++depth > GN_JOSE_MAX_DEPTH)
				return false;
			if (c == '}' || c == ']')
				depth--;
			at++;
		}
	}
	return at != NULL;
}

json_t *
gn_json_parse(const void *text, size_t len)
{
	json_t *json;

	if (!bounded(text, (const char *) text + len))
		return NULL;
	json = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	if (json && !json_is_object(json))
	{
		json_decref(json);
		return NULL;
	}
	return json;
}

/* A member that must be a string of 1 to size - 1 printable characters if it is there.
 */
static bool
copy_string(const json_t *object, const char *key, char *out, size_t size)
{
	const json_t *value = json_object_get(object, key);
	size_t len;

	out[0] = '\0';
	if (value == NULL)
		return true;
	len = json_string_length(value);
	if (!json_is_string(value) || len == 0 || len >= size)
		return false;
	memcpy(out, json_string_value(value), len + 1);
	for (size_t i = 0; i < len; i++)
	{
		if (out[i] < 0x20 || out[i] > 0x7e)
			return false;
	}
	return true;
}

static GnJoseError
read_header(GnJws *jws)
{
	json_t *header = gn_json_parse(jws->header, jws->header_len);
	GnJoseError error = GN_JOSE_OK;

	if (header == NULL)
		return GN_JOSE_HEADER;
	if (!copy_string(header, "alg", jws->alg, sizeof(jws->alg)) ||
		jws->alg[0] == '\0' ||
		!copy_string(header, "kid", jws->kid, sizeof(jws->kid)) ||
		!copy_string(header, "typ", jws->typ, sizeof(jws->typ)))
		error = GN_JOSE_HEADER;
	/* No extension is known. jku, jwk, x5u and x5c are read by nobody: keys come from
	 * our table. */
	else if (json_object_get(header, "crit") || json_object_get(header, "b64"))
		error = GN_JOSE_CRITICAL;
	/* Encryption and compression have no place in a JWS. */
	else if (json_object_get(header, "enc") || json_object_get(header, "zip"))
		error = GN_JOSE_HEADER;
	json_decref(header);
	return error;
}

static bool
decode_segment(const char *text, size_t len, uint8 **scratch, const uint8 **out,
			   size_t *out_len)
{
	if (!gn_base64url_decode(text, len, *scratch, out_len))
		return false;
	*out = *scratch;
	*scratch += *out_len;
	return true;
}

GnJoseError
gn_jws_parse(GnJws *jws, const char *token, size_t len, uint8 *scratch)
{
	const char *end = token + len;
	const char *first;
	const char *second;

	memset(jws, 0, sizeof(*jws));
	if (len > GN_JOSE_MAX_TOKEN)
		return GN_JOSE_TOO_LARGE;
	first = memchr(token, '.', len);
	if (first == NULL)
		return GN_JOSE_MALFORMED;
	second = memchr(first + 1, '.', (size_t) (end - first - 1));
	if (second == NULL || memchr(second + 1, '.', (size_t) (end - second - 1)) != NULL)
		return GN_JOSE_MALFORMED;
	if (GN_BASE64URL_ENCODED_SIZE(GN_JOSE_MAX_HEADER) < (size_t) (first - token))
		return GN_JOSE_TOO_LARGE;
	if (!decode_segment(token, (size_t) (first - token), &scratch, &jws->header,
						&jws->header_len) ||
		!decode_segment(first + 1, (size_t) (second - first - 1), &scratch,
						&jws->payload, &jws->payload_len) ||
		!decode_segment(second + 1, (size_t) (end - second - 1), &scratch,
						&jws->signature, &jws->signature_len))
		return GN_JOSE_MALFORMED;
	jws->input = token;
	jws->input_len = (size_t) (second - token);
	return read_header(jws);
}

/* Absent is true when it may be; *out is then left alone. Strings, null, NaN are not
 * times. */
static bool
read_time(const json_t *claims, const char *key, bool required, double *out)
{
	const json_t *value = json_object_get(claims, key);

	if (value == NULL)
		return !required;
	if (!json_is_number(value))
		return false;
	*out = json_number_value(value);
	return isfinite(*out) && *out >= 0 && *out <= LATEST_TIME;
}

static bool
same_string(const json_t *value, const char *expected)
{
	size_t len = strlen(expected);

	return json_is_string(value) && json_string_length(value) == len &&
		   memcmp(json_string_value(value), expected, len) == 0;
}

/* A string, or an array of nothing but strings, one of which is expected. */
static GnJoseError
check_audience(const json_t *audience, const char *expected)
{
	bool found = false;

	if (json_is_string(audience))
		return same_string(audience, expected) ? GN_JOSE_OK : GN_JOSE_AUDIENCE;
	if (!json_is_array(audience))
		return audience ? GN_JOSE_CLAIMS : GN_JOSE_AUDIENCE;
	for (size_t i = 0; i < json_array_size(audience); i++)
	{
		const json_t *one = json_array_get(audience, i);

		if (!json_is_string(one))
			return GN_JOSE_CLAIMS;
		found |= same_string(one, expected);
	}
	return found ? GN_JOSE_OK : GN_JOSE_AUDIENCE;
}

static GnJoseError
check_claims(const json_t *claims, const GnClaimRules *rules)
{
	const json_t *issuer = json_object_get(claims, "iss");
	const json_t *subject = json_object_get(claims, "sub");
	double now = (double) rules->now / 1e6;
	double leeway = (double) GN_JOSE_LEEWAY / 1e6;
	double expires;
	double issued;
	double not_before = 0;
	GnJoseError error;

	if (!read_time(claims, "exp", true, &expires) ||
		!read_time(claims, "iat", true, &issued) ||
		!read_time(claims, "nbf", false, &not_before))
		return GN_JOSE_CLAIMS;
	if (!json_is_string(subject) || json_string_length(subject) == 0)
		return GN_JOSE_CLAIMS;
	if (!same_string(issuer, rules->issuer))
		return GN_JOSE_ISSUER;
	error = check_audience(json_object_get(claims, "aud"), rules->audience);
	if (error != GN_JOSE_OK)
		return error;
	if (now >= expires + leeway)
		return GN_JOSE_EXPIRED;
	if (now + leeway < not_before || now + leeway < issued)
		return GN_JOSE_NOT_YET;
	return GN_JOSE_OK;
}

GnJoseError
gn_claims_check(const void *payload, size_t len, const GnClaimRules *rules)
{
	json_t *claims = gn_json_parse(payload, len);
	GnJoseError error;

	if (claims == NULL)
		return GN_JOSE_CLAIMS;
	error = check_claims(claims, rules);
	json_decref(claims);
	return error;
}
