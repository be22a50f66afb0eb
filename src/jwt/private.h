/* src/jwt/private.h -- private keys as other programs write them; no server needed */
#ifndef GN_JWT_PRIVATE_H
#define GN_JWT_PRIVATE_H

#include "jwt/jwa.h"

/*
 * Reads one private or symmetric key: PEM (PKCS #8, PKCS #1 or SEC 1, not encrypted) or
 * a JWK. It is for wanted if it can be, else for what it says of itself, else for the
 * usual algorithm of its type. The numbers stand in room of GN_JWA_NUMBERS_ROOM bytes
 * that the caller wipes. NULL, or what is wrong: static text that repeats nothing of
 * the key.
 */
extern const char *
gn_private_key_read(const char *text, size_t len, const GnJoseAlg *wanted,
					const GnJoseAlg **alg, GnKeyNumbers *numbers, uint8 *room);

#endif
