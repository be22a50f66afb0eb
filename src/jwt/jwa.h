/* src/jwt/jwa.h -- the algorithms of JOSE and keys for them, over libcrypto; no server
 * needed */
#ifndef GN_JWA_H
#define GN_JWA_H

#include "postgres.h"

#include <openssl/evp.h>

#define GN_JWA_MAX_SIGNATURE 1024 /* RSA of 8192 bits */
#define GN_JWA_MAX_COORDINATE 66  /* P-521 */

typedef enum GnJoseFamily
{
	GN_JOSE_HMAC,
	GN_JOSE_RSA, /* PKCS #1 v1.5 */
	GN_JOSE_PSS,
	GN_JOSE_ECDSA,
	GN_JOSE_EDDSA
} GnJoseFamily;

/* One row per algorithm; the key decides which one applies, never a token. */
typedef struct GnJoseAlg
{
	const char *name; /* of JWA */
	const char *kty;
	const char *crv;    /* or NULL */
	const char *group;  /* libcrypto's name of the curve, or NULL */
	const char *digest; /* or NULL */
	GnJoseFamily family;
	size_t size; /* of a coordinate, of a MAC and the least secret; 0: RSA */
} GnJoseAlg;

extern const GnJoseAlg *gn_jose_alg(const char *name); /* NULL: there is none */
/* Some algorithm for keys of this type and curve; crv counts for EC and OKP alone. */
extern const GnJoseAlg *gn_jose_alg_of_type(const char *kty, const char *crv);

/* The numbers of a key as its JWK has them, big-endian, in somebody else's memory. */
typedef struct GnNumber
{
	const uint8 *data; /* NULL: absent */
	size_t len;
} GnNumber;

typedef struct GnKeyNumbers
{
	GnNumber n, e, x, y;             /* public */
	GnNumber d, p, q, dp, dq, qi, k; /* private: of RSA all but k, of EC and OKP d */
} GnKeyNumbers;

#define GN_JWA_NUMBERS_ROOM 6144 /* for all numbers of any key */

/* A key with contexts that are used again and again. */
typedef struct GnJoseKey
{
	const GnJoseAlg *kind; /* an algorithm of its type and curve */
	const GnJoseAlg *alg;  /* the one that it serves; NULL: not settled */
	bool private;
	EVP_PKEY *pkey; /* NULL: symmetric */
	uint8 *secret;  /* of a symmetric key */
	size_t secret_len;
	EVP_PKEY_CTX *sign; /* these are made at first use */
	EVP_PKEY_CTX *verify;
	EVP_MD_CTX *one_shot_sign;
	EVP_MD_CTX *one_shot_verify;
	EVP_MAC_CTX *mac;
	size_t signature_size;
} GnJoseKey;

/*
 * Builds a key for alg, private if the numbers are. NULL, or what is wrong with them:
 * static text. Checked are the sizes of RFC 7518 and 8725, that a point is on its
 * curve, and every length; not that private and public part belong together.
 */
extern const char *
gn_jose_key_build(GnJoseKey *key, const GnJoseAlg *alg, const GnKeyNumbers *numbers);
/* Lets an unsettled key serve alg, once and for all. False: it cannot. */
extern bool gn_jose_key_settle(GnJoseKey *key, const GnJoseAlg *alg);
extern void gn_jose_key_free(GnJoseKey *key);

/*
 * A fresh key, in room of GN_JWA_NUMBERS_ROOM bytes that the caller wipes. RSA of so
 * many bits takes a second and more: never while somebody waits.
 */
extern bool gn_jose_key_generate(const GnJoseAlg *alg, int rsa_bits, uint8 *room,
								 GnKeyNumbers *numbers);

/* The same of a key that libcrypto has, such as one that was read from a file. */
extern bool gn_jose_key_export(EVP_PKEY *pkey, const GnJoseAlg *alg, uint8 *room,
							   GnKeyNumbers *numbers);

/*
 * The private numbers as bytes to be sealed, and back; the numbers then point into
 * them. out takes GN_JWA_NUMBERS_ROOM bytes.
 */
extern size_t gn_jose_private_pack(const GnKeyNumbers *numbers, uint8 *out);
extern bool gn_jose_private_unpack(const GnJoseAlg *alg, const uint8 *packed,
								   size_t len, GnKeyNumbers *numbers);

/* Signatures in the form of JWS; out takes GN_JWA_MAX_SIGNATURE bytes. */
extern bool gn_jose_sign(GnJoseKey *key, const void *input, size_t len, uint8 *out,
						 size_t *out_len);
extern bool gn_jose_verify(GnJoseKey *key, const void *input, size_t len,
						   const uint8 *signature, size_t signature_len);
/* The same where the SHA-256 of the input is known already, for algorithms that want
 * it. */
extern bool
gn_jose_verify_hashed(GnJoseKey *key, const uint8 *sha256, const void *input,
					  size_t len, const uint8 *signature, size_t signature_len);

/*
 * Makes libcrypto load what the algorithms need, which takes it milliseconds: called
 * before the postmaster forks, so that no backend waits for it. Draws no random bytes.
 */
extern void gn_jose_prepare(void);

#endif
