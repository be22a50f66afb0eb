/* test/fuzz/jws_fuzz.c -- a compact token from a stranger, down to its claims */
#include "jwt/base64url.c"
#include "jwt/claims.c"
#include "jwt/jose.c"
#include "jwt/strict_json.c"

#include "fuzz.h"

/* A member that was accepted has an end and holds nothing but printable characters. */
static bool
printable(const char *text, size_t size)
{
	size_t length = strnlen(text, size);

	if (length == size)
		return false;
	for (size_t i = 0; i < length; i++)
	{
		if (text[i] < 0x20 || text[i] > 0x7e)
			return false;
	}
	return true;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *token = exact_copy(data, size);
	uint8 *scratch = exact_room(size);
	GnClaimRules rules = {.issuer = "i",
						  .audience = "a",
						  .now = INT64CONST(1700000000000000)};
	char *claims_scratch;
	GnJws jws;
	GnJoseError error = gn_jws_parse(&jws, token, size, scratch);

	if (error == GN_JOSE_OK)
	{
		CHECK(size <= GN_JOSE_MAX_TOKEN);
		CHECK(jws.header_len <= GN_JOSE_MAX_HEADER);
		CHECK(jws.alg[0] != '\0' && printable(jws.alg, sizeof(jws.alg)));
		CHECK(printable(jws.kid, sizeof(jws.kid)) &&
			  printable(jws.typ, sizeof(jws.typ)));
		CHECK(jws.input == token && jws.input_len < size &&
			  token[jws.input_len] == '.');
		CHECK(jws.header_len + jws.payload_len + jws.signature_len <= size);
		CHECK(jws.header_text_len < size && token[jws.header_text_len] == '.');
		claims_scratch = exact_room(jws.payload_len);
		error = gn_claims_check(jws.payload, jws.payload_len, claims_scratch, &rules,
								NULL, NULL);
		free(claims_scratch);
	}
	CHECK((error == GN_JOSE_OK) == (gn_jose_error_code(error) == NULL));
	free(scratch);
	free(token);
	return 0;
}
