/*
 * src/crypto/digest.c
 *	  Digests, key derivation, random bytes.
 *
 * Thin over libcrypto, whose failures here can only mean that it is broken or out
 * of memory: they raise. HKDF is written out over HMAC (RFC 5869), because a
 * derivation must not depend on which providers an openssl.cnf has loaded. No
 * server is needed, so that tests can hold it against the published vectors.
 */
#include "postgres.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "crypto/crypto.h"

#define INFO_MAX 1024

static void
require_libcrypto(bool done, const char *what)
{
	if (!done)
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("libcrypto failed: %s", what)));
}

void
gn_sha256(const void *data, size_t len, uint8 digest[GN_SHA256_SIZE])
{
	require_libcrypto(EVP_Digest(data, len, digest, NULL, EVP_sha256(), NULL) == 1,
					  "SHA-256");
}

void
gn_hmac_sha256(const void *key, size_t key_len, const void *data, size_t len,
			   uint8 mac[GN_SHA256_SIZE])
{
	require_libcrypto(HMAC(EVP_sha256(), key, (int) key_len, data, len, mac, NULL) !=
						  NULL,
					  "HMAC-SHA-256");
}

void
gn_hkdf_sha256(const void *secret, size_t secret_len, const void *salt, size_t salt_len,
			   const void *info, size_t info_len, uint8 *out, size_t out_len)
{
	static const uint8 no_salt[GN_SHA256_SIZE] = {0};
	uint8 prk[GN_SHA256_SIZE];
	uint8 block[GN_SHA256_SIZE];
	uint8 message[GN_SHA256_SIZE + INFO_MAX + 1];
	size_t done = 0;

	if (info_len > INFO_MAX || out_len > 255 * GN_SHA256_SIZE)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("key derivation: too long")));
	gn_hmac_sha256(salt_len ? salt : no_salt, salt_len ? salt_len : sizeof(no_salt),
				   secret, secret_len, prk);
	for (uint8 counter = 1; done < out_len; counter++)
	{
		size_t chained = counter == 1 ? 0 : GN_SHA256_SIZE;
		size_t take = Min(out_len - done, GN_SHA256_SIZE);

		memcpy(message, block, chained);
		memcpy(message + chained, info, info_len);
		message[chained + info_len] = counter;
		gn_hmac_sha256(prk, sizeof(prk), message, chained + info_len + 1, block);
		memcpy(out + done, block, take);
		done += take;
	}
	gn_cleanse(prk, sizeof(prk));
	gn_cleanse(block, sizeof(block));
	gn_cleanse(message, sizeof(message));
}

void
gn_random(void *out, size_t len)
{
	require_libcrypto(RAND_bytes(out, (int) len) == 1, "random bytes");
}

bool
gn_equal(const void *a, const void *b, size_t len)
{
	return CRYPTO_memcmp(a, b, len) == 0;
}

void
gn_cleanse(void *data, size_t len)
{
	OPENSSL_cleanse(data, len);
}
