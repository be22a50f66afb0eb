/* src/jwt/jwk.h -- JSON Web Keys: reading, choosing, writing, naming; no server needed
 */
#ifndef GN_JWK_H
#define GN_JWK_H

#include "postgres.h"

#include "jwt/jwa.h"

#define GN_JWK_THUMBPRINT_SIZE 43 /* SHA-256 in base64url */
#define GN_JWK_TEXT_MAX 2048      /* of the public members of any key */

/*
 * Keys of a JWK or a JWK Set to verify with: public ones, or nothing but symmetric
 * ones. Refused are private keys, a mixture, two of one kid, and keys that say of
 * themselves that they are for something else.
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

/*
 * The key for a token, settled for its algorithm. By kid; a key or a token without one
 * goes only with a set of one key. *known says that there was a key, whose algorithm
 * must then be another one if NULL is returned.
 */
extern GnJoseKey *
gn_jwk_set_choose(GnJwkSet *set, const char *kid, const char *alg, bool *known);

/*
 * One private or symmetric key to sign with, and its numbers, in room of
 * GN_JWA_NUMBERS_ROOM bytes that the caller wipes. The key is settled only if the JWK
 * or its curve says for which algorithm. NULL, or what is wrong.
 */
extern const char *
gn_jwk_private_parse(GnJoseKey *key, char kid[65], GnKeyNumbers *numbers, uint8 *room,
					 const char *text, size_t len);

/*
 * The public members that name a key, {"kty":...}, without spaces, in the order that
 * RFC 7638 has; nothing but the type of a symmetric one. out takes GN_JWK_TEXT_MAX
 * bytes. Returns how many were written, no terminator.
 */
extern size_t
gn_jwk_write_public(const GnJoseAlg *alg, const GnKeyNumbers *numbers, char *out);

/* RFC 7638 over SHA-256, without terminator; NULL, or what is wrong: static text. */
extern const char *
gn_jwk_thumbprint(const char *text, size_t len, char out[GN_JWK_THUMBPRINT_SIZE]);

#endif
