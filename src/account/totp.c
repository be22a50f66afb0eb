/*
 * src/account/totp.c
 *	  Time-based one-time passwords (RFC 6238 over RFC 4226), and base32.
 *
 * Pure arithmetic without the server, so that tests can hold it against the
 * published vectors. What was used, who failed how often and where the secret is
 * kept is factor.c's and the SQL's affair.
 */
#include "postgres.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "account/totp.h"
#include "crypto/crypto.h"

static const GnTotpAlgorithm algorithms[] = {
	{"SHA1", 20},
	{"SHA256", 32},
	{"SHA512", 64},
};

const GnTotpAlgorithm *
gn_totp_algorithm(const char *name, size_t len)
{
	for (size_t i = 0; i < lengthof(algorithms); i++)
	{
		if (strlen(algorithms[i].name) == len &&
			memcmp(algorithms[i].name, name, len) == 0)
			return &algorithms[i];
	}
	return NULL;
}

static const EVP_MD *
digest_of(const GnTotpAlgorithm *algorithm)
{
	switch (algorithm->secret_size)
	{
		case 20:
			return EVP_sha1();
		case 32:
			return EVP_sha256();
		default:
			return EVP_sha512();
	}
}

void
gn_totp_code(const GnTotpAlgorithm *algorithm, const uint8 *secret, size_t secret_len,
			 int64 step, int digits, char code[GN_TOTP_DIGITS_MAX + 1])
{
	uint8 counter[8];
	uint8 mac[EVP_MAX_MD_SIZE];
	unsigned int mac_len;
	uint32 number;
	size_t offset;

	Assert(digits >= 6 && digits <= GN_TOTP_DIGITS_MAX);
	for (int i = 7; i >= 0; i--, step >>= 8)
		counter[i] = (uint8) step;
	if (HMAC(digest_of(algorithm), secret, (int) secret_len, counter, sizeof(counter),
			 mac, &mac_len) == NULL)
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("libcrypto failed: %s", "HMAC of a one-time code")));
	/* dynamic truncation (RFC 4226, section 5.3) */
	offset = mac[mac_len - 1] & 0x0f;
	number = ((uint32) mac[offset] & 0x7f) << 24 | (uint32) mac[offset + 1] << 16 |
			 (uint32) mac[offset + 2] << 8 | mac[offset + 3];
	for (int i = digits - 1; i >= 0; i--, number /= 10)
		code[i] = (char) ('0' + number % 10);
	code[digits] = '\0';
	gn_cleanse(mac, sizeof(mac));
}

int64
gn_totp_match(const GnTotpAlgorithm *algorithm, const uint8 *secret, size_t secret_len,
			  int digits, const char *code, size_t code_len, int64 current_step,
			  int64 last_step)
{
	int64 matched = -1;

	if (code_len != (size_t) digits)
		return -1;
	for (int64 step = current_step - 1; step <= current_step + 1; step++)
	{
		char wanted[GN_TOTP_DIGITS_MAX + 1];
		bool equal;

		gn_totp_code(algorithm, secret, secret_len, step, digits, wanted);
		equal = gn_equal(wanted, code, digits);
		if (equal & (step > last_step) & (step >= 0))
			matched = step;
		gn_cleanse(wanted, sizeof(wanted));
	}
	return matched;
}

size_t
gn_base32_encode(const uint8 *data, size_t len, char *out)
{
	static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
	uint32 held = 0;
	int bits = 0;
	size_t written = 0;

	for (size_t i = 0; i < len; i++)
	{
		held = (held << 8 | data[i]) & 0xffff;
		bits += 8;
		while (bits >= 5)
		{
			bits -= 5;
			out[written++] = alphabet[held >> bits & 31];
		}
	}
	if (bits > 0)
		out[written++] = alphabet[held << (5 - bits) & 31];
	return written;
}
