/* src/jwt/jwt.h -- signing keys and tokens of this platform, as other components see
 * them */
#ifndef GN_JWT_H
#define GN_JWT_H

#include "postgres.h"

#include "utils/jsonb.h"

#include "core/component.h"

extern const GnComponent gn_jwt_component;

/* The issuer that setup() stored, valid until the next call, or NULL before setup. */
extern const char *gn_jwt_issuer(void);

/*
 * What entitlement vouches for in tokens whose profile asks for it, from the subject
 * and the other claims; NULL adds nothing.
 */
typedef Jsonb *(*GnEntitlementClaims)(const char *subject, const Jsonb *claims);
extern void gn_jwt_set_entitlement_claims(GnEntitlementClaims provider);

#endif
