/* test/unit/base64url_test.c -- RFC 4648's examples, and what strict means */
#include "jwt/base64url.c"

#include "tap.h"

static const char *
encoded(const char *text)
{
	static char out[64];
	size_t length = gn_base64url_encode(text, strlen(text), out);

	out[length] = '\0';
	return out;
}

static bool
decodes(const char *text, const char *wanted)
{
	uint8 out[64];
	size_t length;

	return gn_base64url_decode(text, strlen(text), out, &length) &&
		   length == strlen(wanted) && memcmp(out, wanted, length) == 0;
}

static bool
refuses(const char *text)
{
	uint8 out[64];
	size_t length;

	return !gn_base64url_decode(text, strlen(text), out, &length);
}

int
main(void)
{
	static const char *const vectors[][2] = {
		{"", ""},
		{"f", "Zg"},
		{"fo", "Zm8"},
		{"foo", "Zm9v"},
		{"foob", "Zm9vYg"},
		{"fooba", "Zm9vYmE"},
		{"foobar", "Zm9vYmFy"},
	};

	for (size_t i = 0; i < lengthof(vectors); i++)
	{
		is_str(encoded(vectors[i][0]), vectors[i][1], "\"%s\" is encoded",
			   vectors[i][0]);
		ok(decodes(vectors[i][1], vectors[i][0]), "\"%s\" is decoded", vectors[i][1]);
	}
	is_str(encoded("\xfb\xff\xfe"), "-__-", "the alphabet is the one for URLs");
	ok(decodes("-__-", "\xfb\xff\xfe"), "and so in reading");
	ok(refuses("+//+"), "the other alphabet is refused");
	ok(refuses("Zg=="), "padding is refused");
	ok(refuses("Zm9v\n"), "a line end is refused");
	ok(refuses("Zm 9v"), "white space is refused");
	ok(refuses("Z"), "a single character is nothing");
	ok(refuses("Zh"),
	   "stray bits after one byte are refused: a value has one spelling");
	ok(refuses("Zm9"), "stray bits after two bytes are refused");
	ok(refuses("Zm9v\x80"), "a byte beyond ASCII is refused");
	return tap_done();
}
