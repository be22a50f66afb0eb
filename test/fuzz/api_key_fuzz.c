/* test/fuzz/api_key_fuzz.c -- what passes for an API key has its length, its alphabet
 * and its checksum */
#include "session/api_key_text.c"

#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = exact_copy(data, size);
	char checksum[GN_API_KEY_CHECKSUM_SIZE];

	if (gn_api_key_plausible(text, size))
	{
		CHECK(size <= GN_API_KEY_MAX);
		CHECK(memcmp(text, GN_API_KEY_PREFIX, 3) == 0);
		for (size_t i = 0; i < size; i++)
			CHECK(isalnum((unsigned char) text[i]) || text[i] == '_');
		gn_api_key_checksum(text, size - GN_API_KEY_CHECKSUM_SIZE, checksum);
		CHECK(memcmp(text + size - GN_API_KEY_CHECKSUM_SIZE, checksum,
					 sizeof(checksum)) == 0);
		/* one bit more or less is another checksum */
		for (size_t i = 0; i < size; i++)
		{
			text[i] ^= 1;
			CHECK(!gn_api_key_plausible(text, size));
			text[i] ^= 1;
		}
	}
	free(text);
	return 0;
}
