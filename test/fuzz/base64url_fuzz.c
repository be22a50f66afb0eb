/* test/fuzz/base64url_fuzz.c -- both ways are each other's inverse, and one spelling
 * only */
#include "jwt/base64url.c"

#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = exact_copy(data, size);
	uint8 *bytes = exact_room(size * 3 / 4);
	char *encoded = exact_room(GN_BASE64URL_ENCODED_SIZE(size));
	uint8 *decoded = exact_room(GN_BASE64URL_ENCODED_SIZE(size) * 3 / 4);
	size_t length;
	size_t encoded_length;

	if (gn_base64url_decode(text, size, bytes, &length))
	{
		char *again = exact_room(GN_BASE64URL_ENCODED_SIZE(length));

		CHECK(length == size * 3 / 4);
		CHECK(gn_base64url_encode(bytes, length, again) == size);
		CHECK(memcmp(again, text, size) == 0);
		free(again);
	}
	encoded_length = gn_base64url_encode(text, size, encoded);
	CHECK(encoded_length == GN_BASE64URL_ENCODED_SIZE(size));
	CHECK(gn_base64url_decode(encoded, encoded_length, decoded, &length));
	CHECK(length == size && memcmp(decoded, text, size) == 0);
	free(decoded);
	free(encoded);
	free(bytes);
	free(text);
	return 0;
}
