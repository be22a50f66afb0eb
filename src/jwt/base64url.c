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

/* Value of each character; 255 is not of the alphabet. */
static const uint8 values[256] = {
	255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
	255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
	255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 62,  255, 255,
	52,  53,  54,  55,  56,  57,  58,  59,  60,  61,  255, 255, 255, 255, 255, 255,
	255, 0,   1,   2,   3,   4,   5,   6,   7,   8,   9,   10,  11,  12,  13,  14,
	15,  16,  17,  18,  19,  20,  21,  22,  23,  24,  25,  255, 255, 255, 255, 63,
	255, 26,  27,  28,  29,  30,  31,  32,  33,  34,  35,  36,  37,  38,  39,  40,
	41,  42,  43,  44,  45,  46,  47,  48,  49,  50,  51,  255, 255, 255, 255, 255,
	255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
	255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
	255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
	255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
	255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
	255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
	255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
	255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
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

/* The tail of a text, 2 or 3 characters: one or two bytes, and no bits beside them. */
static bool
decode_tail(const uint8 *in, size_t len, uint8 *out)
{
	uint32 a = values[in[0]];
	uint32 b = values[in[1]];
	uint32 c = len == 3 ? values[in[2]] : 0;

	if ((a | b | c) > 63)
		return false;
	out[0] = (uint8) (a << 2 | b >> 4);
	if (len == 2)
		return (b & 15) == 0;
	out[1] = (uint8) (b << 4 | c >> 2);
	return (c & 3) == 0;
}

bool
gn_base64url_decode(const char *text, size_t len, uint8 *out, size_t *out_len)
{
	const uint8 *in = (const uint8 *) text;
	uint32 seen = 0; /* above 63 once a character was not of the alphabet */

	*out_len = len * 3 / 4;
	for (; len >= 4; len -= 4, in += 4, out += 3)
	{
		uint32 a = values[in[0]];
		uint32 b = values[in[1]];
		uint32 c = values[in[2]];
		uint32 d = values[in[3]];
		uint32 bits = a << 18 | b << 12 | c << 6 | d;

		seen |= a | b | c | d;
		out[0] = (uint8) (bits >> 16);
		out[1] = (uint8) (bits >> 8);
		out[2] = (uint8) bits;
	}
	if (seen > 63 || len == 1)
		return false;
	return len == 0 || decode_tail(in, len, out);
}
