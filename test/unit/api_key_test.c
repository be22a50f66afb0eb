/* test/unit/api_key_test.c -- how an API key is spelt, and what is none */
#include "session/api_key_text.c"

#include "tap.h"

static const char *
checksum(const char *text)
{
	static char out[GN_API_KEY_CHECKSUM_SIZE + 1];

	gn_api_key_checksum(text, strlen(text), out);
	return out;
}

static bool
plausible(const char *text)
{
	return gn_api_key_plausible(text, strlen(text));
}

int
main(void)
{
	static const char key[] = "gx_live_0123456789abcdefghijABCDEFGHIJ05J5j9";
	char text[128];

	ok(crc32_of("123456789", 9) == 0xcbf43926, "the check value of CRC-32");
	ok(crc32_of("", 0) == 0, "of nothing it is 0");
	is_str(checksum(""), "000000", "six digits in any case");
	is_str(checksum("123456789"), "3jZRME", "0xcbf43926 in base 62");
	is_str(checksum("gx_live_0123456789abcdefghijABCDEFGHIJ"), key + strlen(key) - 6,
		   "the checksum of a key, worked out by zlib");
	ok(plausible(key), "a key");
	for (size_t i = 0; i < strlen(key); i++)
	{
		strcpy(text, key);
		text[i] = text[i] == 'x' ? 'y' : 'x';
		ok(!plausible(text), "not with character %zu changed", i);
	}
	for (size_t len = 0; len < strlen(key); len++)
		ok(!gn_api_key_plausible(key, len), "not its first %zu characters", len);
	ok(!gn_api_key_plausible(key, sizeof(key)), "not with a byte behind it");
	ok(gn_api_key_environment("live", 4), "an environment");
	ok(gn_api_key_environment("a", 1) && gn_api_key_environment("eu2", 3),
	   "short, and with digits");
	ok(gn_api_key_environment("abcdefghij012345", 16), "of 16 characters");
	ok(!gn_api_key_environment("abcdefghij0123456", 17), "not of 17");
	ok(!gn_api_key_environment("", 0), "not empty");
	ok(!gn_api_key_environment("2eu", 3), "not with a digit first");
	ok(!gn_api_key_environment("Live", 4) && !gn_api_key_environment("my_env", 6) &&
		   !gn_api_key_environment("a-b", 3),
	   "nothing but lower case and digits");
	return tap_done();
}
