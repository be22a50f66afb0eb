/*
 * src/jwt/base64url.c
 *	  base64url in both directions, strict in reading.
 *
 * A token with a second spelling is a token that slips past a denylist, so
 * whatever the encoder would not have written is refused.
 */
#include "postgres.h"

#include "jwt/base64url.h"

static const char alphabet[] =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* Value of each character plus one; 0 is not of the alphabet. */
static const uint8 values[256] = {
	['A'] = 1,  ['B'] = 2,  ['C'] = 3,  ['D'] = 4,  ['E'] = 5,  ['F'] = 6,  ['G'] = 7,
	['H'] = 8,  ['I'] = 9,  ['J'] = 10, ['K'] = 11, ['L'] = 12, ['M'] = 13, ['N'] = 14,
	['O'] = 15, ['P'] = 16, ['Q'] = 17, ['R'] = 18, ['S'] = 19, ['T'] = 20, ['U'] = 21,
	['V'] = 22, ['W'] = 23, ['X'] = 24, ['Y'] = 25, ['Z'] = 26, ['a'] = 27, ['b'] = 28,
	['c'] = 29, ['d'] = 30, ['e'] = 31, ['f'] = 32, ['g'] = 33, ['h'] = 34, ['i'] = 35,
	['j'] = 36, ['k'] = 37, ['l'] = 38, ['m'] = 39, ['n'] = 40, ['o'] = 41, ['p'] = 42,
	['q'] = 43, ['r'] = 44, ['s'] = 45, ['t'] = 46, ['u'] = 47, ['v'] = 48, ['w'] = 49,
	['x'] = 50, ['y'] = 51, ['z'] = 52, ['0'] = 53, ['1'] = 54, ['2'] = 55, ['3'] = 56,
	['4'] = 57, ['5'] = 58, ['6'] = 59, ['7'] = 60, ['8'] = 61, ['9'] = 62, ['-'] = 63,
	['_'] = 64,
};

size_t
gn_base64url_encode(const void *data, size_t len, char *out)
{
	const uint8 *in = data;
	char *start = out;

	for (; len >= 3; len -= 3, in += 3)
	{
		*out++ = alphabet[in[0] >> 2];
		*out++ = alphabet[(in[0] & 3) << 4 | in[1] >> 4];
		*out++ = alphabet[(in[1] & 15) << 2 | in[2] >> 6];
		*out++ = alphabet[in[2] & 63];
	}
	if (len > 0)
	{
		*out++ = alphabet[in[0] >> 2];
		*out++ = alphabet[(in[0] & 3) << 4 | (len == 2 ? in[1] >> 4 : 0)];
		if (len == 2)
			*out++ = alphabet[(in[1] & 15) << 2];
	}
	return (size_t) (out - start);
}

bool
gn_base64url_decode(const char *text, size_t len, uint8 *out, size_t *out_len)
{
	const uint8 *in = (const uint8 *) text;
	uint8 *start = out;
	uint32 bits = 0;
	int held = 0;

	if (len % 4 == 1)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		uint8 value = values[in[i]];

		if (value == 0)
			return false;
		bits = bits << 6 | (uint32) (value - 1);
		held += 6;
		if (held >= 8)
		{
			held -= 8;
			*out++ = (uint8) (bits >> held);
		}
	}
	*out_len = (size_t) (out - start);
	return (bits & ((1u << held) - 1)) == 0;
}
