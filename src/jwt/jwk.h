/* src/jwt/jwk.h -- keys and algorithms of JOSE over libcrypto; no server needed */
#ifndef GN_JWK_H
#define GN_JWK_H

#include "postgres.h"

#include <openssl/evp.h>

#define GN_JWK_MAX_SIGNATURE 132  /* ES512 */
#define GN_JWK_MAX_COORDINATE 66  /* P-521 */
#define GN_JWK_THUMBPRINT_SIZE 43 /* SHA-256 in base64url */

/* One row per algorithm; the key decides which one applies, never a token. */
typedef struct GnJoseAlg
{
	const char *name; /* of JWA */
	const char *kty;
	const char *crv;
	const char *group; /* libcrypto's name of the curve */
	const char *digest;
	size_t coordinate_size;
} GnJoseAlg;

extern const GnJoseAlg *gn_jose_alg(const char *name);

/* A key with contexts that are used again and again. */
typedef struct GnJoseKey
{
	const GnJoseAlg *alg;
	EVP_PKEY *pkey;
	EVP_PKEY_CTX *sign;   /* NULL: a public key */
	EVP_PKEY_CTX *verify; /* made at first use */
} GnJoseKey;

/* Private is the bytes of "d", or NULL for a public key. False: not a key. */
extern bool gn_jose_key_build(GnJoseKey *key, const GnJoseAlg *alg, const uint8 *x,
							  const uint8 *y, const uint8 *d);
extern void gn_jose_key_free(GnJoseKey *key);

/*
 * Makes libcrypto load what ES256 needs, which takes it milliseconds: called before
 * the postmaster forks, so that no backend waits for it. Draws no random bytes.
 */
extern void gn_jose_prepare(void);

/* A fresh key; each buffer takes alg->coordinate_size bytes. */
extern bool gn_jose_key_generate(const GnJoseAlg *alg, uint8 *x, uint8 *y, uint8 *d);

/* Signatures in the form of JWS; out takes GN_JWK_MAX_SIGNATURE bytes. */
extern bool gn_jose_sign(GnJoseKey *key, const void *input, size_t len, uint8 *out,
						 size_t *out_len);
extern bool gn_jose_verify(GnJoseKey *key, const void *input, size_t len,
						   const uint8 *signature, size_t signature_len);

/*
 * Public keys of a JWK or a JWK Set. Private and symmetric keys, duplicate kids and
 * keys that are not for verifying are refused.
 */
#define GN_JWK_SET_MAX 64
typedef struct GnJwkSet
{
	int count;
	GnJoseKey keys[GN_JWK_SET_MAX];
	char kids[GN_JWK_SET_MAX][65]; /* empty: none */
} GnJwkSet;

/* NULL, or what is wrong: static text. The set is to be freed in either case. */
extern const char *gn_jwk_set_parse(GnJwkSet *set, const char *text, size_t len);
extern void gn_jwk_set_free(GnJwkSet *set);
/* By kid; a key or a token without one goes only with a set of one key. NULL: none. */
extern GnJoseKey *gn_jwk_set_choose(GnJwkSet *set, const char *kid);

/* RFC 7638 over SHA-256, without terminator; NULL, or what is wrong: static text. */
extern const char *
gn_jwk_thumbprint(const char *text, size_t len, char out[GN_JWK_THUMBPRINT_SIZE]);

#endif
