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

/*
 * What each character of a group of four is worth, at its place, and that it is one:
 * the marks of four good ones add up to ALL_GOOD. Another character is worth nothing.
 */
#define GOOD (1u << 24)
#define ALL_GOOD (4u << 24)
/* clang-format off */
#define ROW(X, n, a, b, c, d, e, f, g, h) \
	X(a, (n)) X(b, (n) + 1) X(c, (n) + 2) X(d, (n) + 3) \
	X(e, (n) + 4) X(f, (n) + 5) X(g, (n) + 6) X(h, (n) + 7)
#define ALPHABET(X) \
	ROW(X, 0, 'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H') \
	ROW(X, 8, 'I', 'J', 'K', 'L', 'M', 'N', 'O', 'P') \
	ROW(X, 16, 'Q', 'R', 'S', 'T', 'U', 'V', 'W', 'X') \
	ROW(X, 24, 'Y', 'Z', 'a', 'b', 'c', 'd', 'e', 'f') \
	ROW(X, 32, 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n') \
	ROW(X, 40, 'o', 'p', 'q', 'r', 's', 't', 'u', 'v') \
	ROW(X, 48, 'w', 'x', 'y', 'z', '0', '1', '2', '3') \
	ROW(X, 56, '4', '5', '6', '7', '8', '9', '-', '_')
/* clang-format on */
#define AT_1(c, value) [c] = GOOD | (uint32) (value) << 18,
#define AT_2(c, value) [c] = GOOD | (uint32) (value) << 12,
#define AT_3(c, value) [c] = GOOD | (uint32) (value) << 6,
#define AT_4(c, value) [c] = GOOD | (uint32) (value),
static const uint32 first[256] = {ALPHABET(AT_1)};
static const uint32 second[256] = {ALPHABET(AT_2)};
static const uint32 third[256] = {ALPHABET(AT_3)};
static const uint32 fourth[256] = {ALPHABET(AT_4)};

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
	uint32 bits = first[in[0]] + second[in[1]] + GOOD;

	bits += len == 3 ? third[in[2]] : GOOD;
	if ((bits & ALL_GOOD) == 0)
		return false;
	out[0] = (uint8) (bits >> 16);
	if (len == 2)
		return (bits & 0xffff) == 0;
	out[1] = (uint8) (bits >> 8);
	return (bits & 0xff) == 0;
}

bool
gn_base64url_decode(const char *text, size_t len, uint8 *out, size_t *out_len)
{
	const uint8 *in = (const uint8 *) text;
	uint32 good = ALL_GOOD;

	*out_len = len * 3 / 4;
	for (; len >= 4; len -= 4, in += 4, out += 3)
	{
		uint32 bits = first[in[0]] + second[in[1]] + third[in[2]] + fourth[in[3]];

		good &= bits;
		out[0] = (uint8) (bits >> 16);
		out[1] = (uint8) (bits >> 8);
		out[2] = (uint8) bits;
	}
	if (good == 0 || len == 1)
		return false;
	return len == 0 || decode_tail(in, len, out);
}
