/*
 * test/fuzz/base64url_fuzz.c
 *	  Any text: what decodes has exactly one spelling, and any bytes come back.
 */
#include "postgres.h"

#include "jwt/base64url.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = palloc(GN_BASE64URL_ENCODED_SIZE(size)); /* exactly as long */
	uint8 *bytes = palloc(size * 3 / 4);
	size_t len;
	size_t back;

	if (gn_base64url_decode((const char *) data, size, bytes, &len))
	{
		assert(len == size * 3 / 4 && GN_BASE64URL_ENCODED_SIZE(len) == size);
		assert(gn_base64url_encode(bytes, len, text) == size);
		assert(memcmp(text, data, size) == 0);
	}
	len = gn_base64url_encode(data, size, text);
	assert(len == GN_BASE64URL_ENCODED_SIZE(size));
	bytes = palloc(size);
	assert(gn_base64url_decode(text, len, bytes, &back) && back == size);
	assert(memcmp(bytes, data, size) == 0);
	stub_reset();
	return 0;
}
