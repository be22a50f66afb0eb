/*
 * test/fuzz/jws_fuzz.c
 *	  Any bytes as a token, and as a token's claims: what is taken is what it claims
 *	  to be, and no forgery verifies.
 *
 * Random bytes seldom get past base64url, so an input is also taken as header and
 * payload, split at a zero byte, and encoded.
 */
#include "postgres.h"

#include "jwt/base64url.c"
#include "jwt/jose.c"
#include "jwt/jwk.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* RFC 7515, A.3; the fuzzer does not have its private part. */
static const char key_text[] = "{\"kty\":\"EC\",\"crv\":\"P-256\","
							   "\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
							   "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}";
static const char known_input[] =
	"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9l"
	"eGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

static GnJwkSet set;

static void
probe_token(const char *text, size_t size)
{
	char *token = palloc(size); /* exactly as long: one byte more is found */
	GnJws jws;
	GnJoseError error;

	memcpy(token, text, size);
	error = gn_jws_parse(&jws, token, size, palloc(size));
	if (error != GN_JOSE_OK)
	{
		assert(gn_jose_error_code(error) && gn_jose_error_detail(error));
		return;
	}
	assert(size <= GN_JOSE_MAX_TOKEN && jws.header_len <= GN_JOSE_MAX_HEADER);
	assert(strlen(jws.alg) > 0 && strlen(jws.kid) <= 64 && strlen(jws.typ) <= 32);
	assert(jws.input == token && jws.input_len < size && token[jws.input_len] == '.');
	if (gn_jose_verify(&set.keys[0], jws.input, jws.input_len, jws.signature,
					   jws.signature_len))
		assert(jws.input_len == strlen(known_input) &&
			   memcmp(jws.input, known_input, jws.input_len) == 0);
}

static void
probe_claims(const uint8_t *data, size_t size)
{
	GnClaimRules rules = {.issuer = "i",
						  .audience = "a",
						  .now = INT64_C(1700000000) * 1000000};
	uint8 *claims = palloc(size);
	GnJoseError error;

	memcpy(claims, data, size);
	error = gn_claims_check(claims, size, &rules);
	assert(error == GN_JOSE_OK || gn_jose_error_code(error));
	if (error == GN_JOSE_OK)
	{
		/* a day later than the latest time it may be kept alive */
		json_t *json = gn_json_parse(claims, size);

		rules.now =
			(int64) ((json_number_value(json_object_get(json, "exp")) + 30) * 1e6);
		json_decref(json);
		assert(gn_claims_check(claims, size, &rules) == GN_JOSE_EXPIRED);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *split = size ? memchr(data, 0, size) : NULL;

	if (set.count == 0)
		assert(gn_jwk_set_parse(&set, key_text, strlen(key_text)) == NULL);
	probe_token((const char *) data, size);
	probe_claims(data, size);
	if (split)
	{
		size_t first = (size_t) (split - data);
		size_t second = size - first - 1;
		char *token = palloc(2 * size + 200);
		size_t len = gn_base64url_encode(data, first, token);

		token[len++] = '.';
		len += gn_base64url_encode(split + 1, second, token + len);
		memcpy(token + len, ".AA", 3);
		probe_token(token, len + 3);
	}
	stub_reset();
	return 0;
}
