/*
 * src/crypto/primitives.c
 *	  Digests, key derivation, random bytes and memory that forgets.
 *
 * Thin over libcrypto, whose failures here can only mean that it is broken or out
 * of memory: they raise. HKDF is written out over HMAC (RFC 5869), because a
 * derivation must not depend on which providers an openssl.cnf has loaded.
 */
#include "postgres.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "utils/memutils.h"

#include "crypto/crypto.h"

static void
require_libcrypto(bool done, const char *what)
{
	if (!done)
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("libcrypto failed: %s", what)));
}

void
gn_sha256(const void *data, size_t len, uint8 digest[GN_SHA256_SIZE])
{
	require_libcrypto(EVP_Digest(data, len, digest, NULL, EVP_sha256(), NULL) == 1, "SHA-256");
}

void
gn_hmac_sha256(const void *key, size_t key_len, const void *data, size_t len,
			   uint8 mac[GN_SHA256_SIZE])
{
	require_libcrypto(HMAC(EVP_sha256(), key, (int) key_len, data, len, mac, NULL) != NULL,
					  "HMAC-SHA-256");
}

void
gn_hkdf_sha256(const void *secret, size_t secret_len, const void *salt, size_t salt_len,
			   const void *info, size_t info_len, uint8 *out, size_t out_len)
{
	static const uint8 no_salt[GN_SHA256_SIZE] = {0};
	uint8 prk[GN_SHA256_SIZE];
	uint8 block[GN_SHA256_SIZE];
	uint8 *message = gn_secret_alloc(GN_SHA256_SIZE + info_len + 1);
	size_t done = 0;

	Assert(out_len <= 255 * GN_SHA256_SIZE);
	gn_hmac_sha256(salt_len ? salt : no_salt, salt_len ? salt_len : sizeof(no_salt), secret,
				   secret_len, prk);
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
	gn_cleanse(message, GN_SHA256_SIZE + info_len + 1);
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

typedef struct SecretBlock
{
	MemoryContextCallback callback;
	size_t size;
	uint8 bytes[FLEXIBLE_ARRAY_MEMBER];
} SecretBlock;

static void
forget_block(void *arg)
{
	SecretBlock *block = arg;

	OPENSSL_cleanse(block->bytes, block->size);
}

/* The callback runs at reset and at deletion, after an error too, before memory is freed. */
void *
gn_secret_alloc(size_t size)
{
	SecretBlock *block = palloc(offsetof(SecretBlock, bytes) + size);

	block->size = size;
	block->callback.func = forget_block;
	block->callback.arg = block;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &block->callback);
	return block->bytes;
}
