/* src/crypto/crypto.h -- sealing under the master key, stored secrets, digests, memory
 * that forgets */
#ifndef GN_CRYPTO_H
#define GN_CRYPTO_H

#include "postgres.h"

#include "core/component.h"

extern const GnComponent gn_crypto_component;

#define GN_SHA256_SIZE 32
#define GN_KEY_SIZE 32

/* Primitives; they raise only when libcrypto itself fails. */
extern void gn_sha256(const void *data, size_t len, uint8 digest[GN_SHA256_SIZE]);
extern void gn_hmac_sha256(const void *key, size_t key_len, const void *data,
						   size_t len, uint8 mac[GN_SHA256_SIZE]);
extern void
gn_hkdf_sha256(const void *secret, size_t secret_len, const void *salt, size_t salt_len,
			   const void *info, size_t info_len, uint8 *out, size_t out_len);
extern void gn_random(void *out, size_t len);
extern bool gn_equal(const void *a, const void *b, size_t len); /* in constant time */

/* palloc'd in the current context and overwritten before that context gives it back. */
extern void *gn_secret_alloc(size_t size);
extern void gn_cleanse(void *data, size_t len);

/*
 * Ciphertext under the current master key, bound to purpose: it opens under the
 * same purpose only. Raises NX017 when there is no master key, or another one
 * than this database was sealed with.
 */
extern struct varlena *gn_seal(const char *purpose, const void *plain, size_t len);
/* The plaintext, from gn_secret_alloc. Raises NX017, or data_corrupted. */
extern uint8 *gn_open(const char *purpose, const struct varlena *sealed, size_t *len);

/* A random key of this database, made and sealed at first use, for deriving others. */
extern void gn_root_key(const char *name, uint8 key[GN_KEY_SIZE]);

/* Live values of a stored secret, newest first: two while it is being rotated. */
#define GN_SECRET_VALUES 2
typedef struct GnSecret
{
	const uint8 *data; /* from gn_secret_alloc */
	size_t len;
} GnSecret;
/* How many there are; none raises NX003 with the call that stores one. */
extern int gn_secret_get(const char *name, GnSecret values[GN_SECRET_VALUES]);

#endif
