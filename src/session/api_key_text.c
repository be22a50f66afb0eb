/*
 * src/session/api_key_text.c
 *	  How an API key is spelt, and what is no key at all.
 *
 * The checksum is no secret and proves nothing; it lets scanners of leaked secrets and
 * this parser tell a key from noise without a database. No server is needed here, so
 * that it can be tested and fuzzed by itself.
 */
#include "postgres.h"

#include "session/api_key_text.h"

static const char base62[] =
	"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/* CRC-32 as in ISO 3309, zlib and PNG, four bits at a time. */
static uint32
crc32_of(const char *text, size_t len)
{
	static const uint32 nibbles[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac,
									   0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
									   0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
									   0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
	uint32 crc = 0xffffffff;

	for (size_t i = 0; i < len; i++)
	{
		crc ^= (uint8) text[i];
		crc = crc >> 4 ^ nibbles[crc & 15];
		crc = crc >> 4 ^ nibbles[crc & 15];
	}
	return ~crc;
}

char
gn_api_key_digit(int value)
{
	return base62[value];
}

void
gn_api_key_checksum(const char *text, size_t len,
					char checksum[GN_API_KEY_CHECKSUM_SIZE])
{
	uint32 crc = crc32_of(text, len);

	for (int i = GN_API_KEY_CHECKSUM_SIZE - 1; i >= 0; i--, crc /= 62)
		checksum[i] = base62[crc % 62];
}

static bool
is_lower(char c)
{
	return c >= 'a' && c <= 'z';
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

bool
gn_api_key_environment(const char *text, size_t len)
{
	if (len == 0 || len > GN_API_KEY_ENVIRONMENT_MAX || !is_lower(text[0]))
		return false;
	for (size_t i = 1; i < len; i++)
	{
		if (!is_lower(text[i]) && !is_digit(text[i]))
			return false;
	}
	return true;
}

bool
gn_api_key_plausible(const char *text, size_t len)
{
	const size_t prefix = sizeof(GN_API_KEY_PREFIX) - 1;
	const size_t tail = 1 + GN_API_KEY_RANDOM_SIZE + GN_API_KEY_CHECKSUM_SIZE;
	char checksum[GN_API_KEY_CHECKSUM_SIZE];
	const char *random;

	if (len <= prefix + tail || len > GN_API_KEY_MAX ||
		memcmp(text, GN_API_KEY_PREFIX, prefix) != 0 || text[len - tail] != '_' ||
		!gn_api_key_environment(text + prefix, len - tail - prefix))
		return false;
	random = text + len - tail + 1;
	for (int i = 0; i < GN_API_KEY_RANDOM_SIZE; i++)
	{
		if (!is_digit(random[i]) && !is_lower(random[i]) &&
			!(random[i] >= 'A' && random[i] <= 'Z'))
			return false;
	}
	gn_api_key_checksum(text, len - GN_API_KEY_CHECKSUM_SIZE, checksum);
	return memcmp(checksum, random + GN_API_KEY_RANDOM_SIZE, sizeof(checksum)) == 0;
}
