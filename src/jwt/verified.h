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

/* SHA-256 of the token. */
typedef struct GnTokenDigest
{
	uint8 bytes[32];
} GnTokenDigest;

/*
 * NULL: not remembered. Keys and options must have been asked for before, so that the
 * cache knows whether they are those it was filled under.
 */
extern const GnVerified *
gn_verified_find(const GnTokenDigest *digest, const char *audience);
extern void
gn_verified_remember(const GnTokenDigest *digest, const GnVerified *verified);

#endif
