/* test/unit/digest_test.c -- HKDF and HMAC against RFC 5869 and RFC 4231 */
#include "postgres.h"

#include <sys/wait.h>
#include <unistd.h>

#include "crypto/digest.c"
#include "crypto/random.c"
#include "tap.h"

static char *
hex(const uint8 *data, size_t len)
{
	char *text = palloc(2 * len + 1);

	for (size_t i = 0; i < len; i++)
		sprintf(text + 2 * i, "%02x", data[i]);
	text[2 * len] = '\0';
	return text;
}

/* so many bytes that count up from the first */
static uint8 *
run_of(uint8 first, size_t len)
{
	uint8 *data = palloc(len);

	for (size_t i = 0; i < len; i++)
		data[i] = (uint8) (first + i);
	return data;
}

static void
hkdf(const uint8 *secret, size_t secret_len, const uint8 *salt, size_t salt_len,
	 const uint8 *info, size_t info_len, size_t out_len, const char *wanted,
	 const char *name)
{
	uint8 out[128];

	gn_hkdf_sha256(secret, secret_len, salt, salt_len, info, info_len, out, out_len);
	is_str(hex(out, out_len), wanted, "HKDF: %s", name);
}

static bool
all_zero(const uint8 *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		if (data[i] != 0)
			return false;
	}
	return true;
}

/* The pool is one process's: what a child gets, its parent does not. */
static void
test_random(void)
{
	uint8 own[64];
	uint8 theirs[64];
	int ends[2];
	pid_t child;

	gn_random(own, sizeof(own));
	ok(left > 0 && all_zero(pool, sizeof(pool) - left),
	   "what was given out is overwritten");
	assert(pipe(ends) == 0);
	child = fork();
	if (child == 0)
	{
		gn_random(theirs, sizeof(theirs));
		_exit(write(ends[1], theirs, sizeof(theirs)) != sizeof(theirs));
	}
	assert(read(ends[0], theirs, sizeof(theirs)) == sizeof(theirs));
	waitpid(child, NULL, 0);
	gn_random(own, sizeof(own));
	ok(memcmp(own, theirs, sizeof(own)) != 0, "a child draws bytes of its own");
	for (int i = 0; i < 200; i++) /* over the end of the pool */
	{
		memset(own, 0, sizeof(own));
		gn_random(own, 1 + (size_t) i % sizeof(own));
		if (i % 64 > 15 && all_zero(own, sizeof(own)))
			ok(false, "no bytes in round %d", i);
	}
	gn_random(own, 0);
	ok(left <= sizeof(pool), "the pool is filled again when it is empty");
}

int
main(void)
{
	uint8 secret[22];
	uint8 mac[GN_SHA256_SIZE];
	uint8 out[GN_SHA256_SIZE];

	memset(secret, 0x0b, sizeof(secret));
	hkdf(
		secret, 22, run_of(0, 13), 13, run_of(0xf0, 10), 10, 42,
		"3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887"
		"185865",
		"RFC 5869 A.1");
	hkdf(
		run_of(0, 80), 80, run_of(0x60, 80), 80, run_of(0xb0, 80), 80, 82,
		"b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac782"
		"7271cb41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3"
		"434f1d87",
		"RFC 5869 A.2");
	hkdf(
		secret, 22, NULL, 0, (const uint8 *) "", 0, 42,
		"8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b6"
		"1a96c8",
		"RFC 5869 A.3");

	gn_hmac_sha256(secret, 20, "Hi There", 8, mac);
	is_str(hex(mac, sizeof(mac)),
		   "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
		   "HMAC: RFC 4231 case 1");
	gn_hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, mac);
	is_str(hex(mac, sizeof(mac)),
		   "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
		   "HMAC: RFC 4231 case 2");
	gn_sha256("abc", 3, mac);
	is_str(hex(mac, sizeof(mac)),
		   "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		   "SHA-256: abc");

	ok(!STUB_TRY(gn_hkdf_sha256(secret, 22, NULL, 0, run_of(0, 1025), 1025, out, 32)),
	   "HKDF refuses an info that is too long");
	ok(!STUB_TRY(gn_hkdf_sha256(secret, 22, NULL, 0, "", 0, out, 255 * 32 + 1)),
	   "HKDF refuses to derive more than it may");
	ok(gn_equal("abc", "abc", 3) && !gn_equal("abc", "abd", 3),
	   "equal bytes are equal, others are not");
	gn_cleanse(mac, sizeof(mac));
	ok(gn_equal(mac, (uint8[GN_SHA256_SIZE]){0}, sizeof(mac)),
	   "cleansed memory is zero");
	gn_random(mac, sizeof(mac));
	gn_random(out, sizeof(out));
	ok(!gn_equal(mac, out, sizeof(mac)), "random bytes differ");
	test_random();
	stub_reset();
	return tap_done();
}
