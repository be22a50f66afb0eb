/*
 * src/crypto/digest.c
 *	  Digests and key derivation.
 *
 * Thin over libcrypto, whose failures here can only mean that it is broken or out
 * of memory: they raise. HKDF is written out over HMAC (RFC 5869), because a
 * derivation must not depend on which providers an openssl.cnf has loaded. No
 * server is needed, so that tests can hold it against the published vectors.
 */
#include "postgres.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include "crypto/crypto.h"

#define INFO_MAX 1024

static void
require_libcrypto(bool done, const char *what)
{
	if (!done)
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("libcrypto failed: %s", what)));
}

/* Fetched once, and the contexts used again: an implicit fetch takes longer than the
 * digest of a token. */
void
gn_sha256(const void *data, size_t len, uint8 digest[GN_SHA256_SIZE])
{
	static EVP_MD *md = NULL;
	static EVP_MD_CTX *ctx = NULL;

	if (md == NULL)
		md = EVP_MD_fetch(NULL, "SHA256", NULL);
	if (ctx == NULL)
		ctx = EVP_MD_CTX_new();
	require_libcrypto(md && ctx && EVP_DigestInit_ex2(ctx, md, NULL) == 1 &&
						  EVP_DigestUpdate(ctx, data, len) == 1 &&
						  EVP_DigestFinal_ex(ctx, digest, NULL) == 1,
					  "SHA-256");
}

/* The context is freed, so that no key outlives its call. */
void
gn_hmac_sha256(const void *key, size_t key_len, const void *data, size_t len,
			   uint8 mac[GN_SHA256_SIZE])
{
	static EVP_MAC *hmac = NULL;
	static char digest[] = "SHA256";
	OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST,
															digest, 0),
						   OSSL_PARAM_construct_end()};
	EVP_MAC_CTX *ctx;
	size_t mac_len;
	bool done;

	if (hmac == NULL)
		hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	ctx = hmac ? EVP_MAC_CTX_new(hmac) : NULL;
	done = ctx && EVP_MAC_init(ctx, key, key_len, params) == 1 &&
		   EVP_MAC_update(ctx, data, len) == 1 &&
		   EVP_MAC_final(ctx, mac, &mac_len, GN_SHA256_SIZE) == 1;
	EVP_MAC_CTX_free(ctx);
	require_libcrypto(done, "HMAC-SHA-256");
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
