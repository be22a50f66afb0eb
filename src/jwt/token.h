/* src/jwt/token.h -- verified claims for the entry points of the caller's context;
 * private to jwt */
#ifndef GN_JWT_TOKEN_H
#define GN_JWT_TOKEN_H

#include "postgres.h"

#include "utils/jsonb.h"

/* Claims of a token that passed every check; raises NX011, NX012 otherwise. */
extern Jsonb *gn_jwt_verified_claims(const text *token, const char *audience,
									 const char *issuer, const char *purpose);

extern void gn_caller_init(void); /* at load, once */

#endif
