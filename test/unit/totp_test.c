/* test/unit/totp_test.c -- TOTP against RFC 6238, HOTP against RFC 4226, base32 against
 * RFC 4648 */
#include "postgres.h"

#include "account/totp.c"
#include "crypto/digest.c"
#include "tap.h"

/* Appendix B: time, then the codes of the three algorithms. The secrets are ASCII
 * digits as long as the digest (erratum 2866 says so; the RFC's text names one only).
 */
static const struct
{
	int64 time;
	const char *codes[3];
} rfc6238[] = {
	{59, {"94287082", "46119246", "90693936"}},
	{1111111109, {"07081804", "68084774", "25091201"}},
	{1111111111, {"14050471", "67062674", "99943326"}},
	{1234567890, {"89005924", "91819424", "93441116"}},
	{2000000000, {"69279037", "90698825", "38618901"}},
	{20000000000, {"65353130", "77737706", "47863826"}},
};
static const char *const names[] = {"SHA1", "SHA256", "SHA512"};
static const uint8 secret[] =
	"1234567890123456789012345678901234567890123456789012345678901234";

/* RFC 4226, appendix D: the codes of the first ten counters */
static const char *const rfc4226[] = {"755224", "287082", "359152", "969429", "338314",
									  "254676", "287922", "162583", "399871", "520489"};

static const GnTotpAlgorithm *
named(const char *name)
{
	return gn_totp_algorithm(name, strlen(name));
}

static int64
match(const char *code, int64 now, int64 last)
{
	return gn_totp_match(named("SHA1"), secret, 20, 6, code, strlen(code), now, last);
}

static void
base32(const char *plain, const char *wanted)
{
	char out[32];

	out[gn_base32_encode((const uint8 *) plain, strlen(plain), out)] = '\0';
	ok(strlen(out) == GN_BASE32_ENCODED_SIZE(strlen(plain)), "size of base32 of \"%s\"",
	   plain);
	is_str(out, wanted, "base32 of \"%s\"", plain);
}

int
main(void)
{
	char code[GN_TOTP_DIGITS_MAX + 1];

	for (size_t i = 0; i < lengthof(rfc6238); i++)
	{
		for (size_t a = 0; a < lengthof(names); a++)
		{
			const GnTotpAlgorithm *algorithm = named(names[a]);

			gn_totp_code(algorithm, secret, algorithm->secret_size,
						 rfc6238[i].time / GN_TOTP_PERIOD, 8, code);
			is_str(code, rfc6238[i].codes[a], "RFC 6238 appendix B: %s at %lld",
				   names[a], (long long) rfc6238[i].time);
		}
	}
	for (size_t i = 0; i < lengthof(rfc4226); i++)
	{
		gn_totp_code(named("SHA1"), secret, 20, (int64) i, 6, code);
		is_str(code, rfc4226[i], "RFC 4226 appendix D: counter %d", (int) i);
	}

	ok(match(rfc4226[4], 4, -1) == 4, "the code of this step");
	ok(match(rfc4226[3], 4, -1) == 3, "the code of the step before");
	ok(match(rfc4226[5], 4, -1) == 5, "the code of the step after");
	ok(match(rfc4226[2], 4, -1) == -1, "not of two steps before");
	ok(match(rfc4226[6], 4, -1) == -1, "not of two steps after");
	ok(match(rfc4226[4], 4, 4) == -1, "a used step is refused");
	ok(match(rfc4226[3], 4, 4) == -1, "so is one before a used step");
	ok(match(rfc4226[5], 4, 4) == 5, "the next one is not");
	ok(match(rfc4226[0], 0, -1) == 0, "the first step there is");
	ok(match("75522", 0, -1) == -1, "a code that is short");
	ok(match("7552240", 0, -1) == -1, "a code that is long");
	ok(match("", 0, -1) == -1, "an empty code");
	ok(match("75522\xef", 0, -1) == -1, "a code that is no number");

	ok(named("MD5") == NULL && named("sha1") == NULL && named("") == NULL &&
		   named("SHA1 ") == NULL,
	   "no other algorithm");

	base32("", "");
	base32("f", "MY");
	base32("fo", "MZXQ");
	base32("foo", "MZXW6");
	base32("foob", "MZXW6YQ");
	base32("fooba", "MZXW6YTB");
	base32("foobar", "MZXW6YTBOI");
	stub_reset();
	return tap_done();
}
