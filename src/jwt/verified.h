/* src/jwt/verified.h -- tokens that this backend verified before; private to jwt */
#ifndef GN_JWT_VERIFIED_H
#define GN_JWT_VERIFIED_H

#include "postgres.h"

#include "utils/jsonb.h"

#include "jwt/jose.h"
#include "jwt/key.h"

/* What a token turned out to be. It may have expired since: times tell. */
typedef struct GnVerified
{
	GnSigningKey *key;
	const char *audience; /* that it was held against: one of the options */
	GnClaimTimes times;
	Jsonb *claims; /* the cache's own */
} GnVerified;

/* The whole token: the SHA-256 of what was signed, and the signature as it is written.
 */
typedef struct GnTokenName
{
	uint8 digest[32];
	const char *signature;
	size_t signature_len;
} GnTokenName;

/*
 * NULL: not remembered. Keys and options must have been asked for before, so that the
 * cache knows whether they are those it was filled under.
 */
extern const GnVerified *
gn_verified_find(const GnTokenName *name, const char *audience);
extern void gn_verified_remember(const GnTokenName *name, const GnVerified *verified);

#endif
