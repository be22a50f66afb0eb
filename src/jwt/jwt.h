/* src/jwt/jwt.h -- signing keys and tokens of this platform, as other components see
 * them */
#ifndef GN_JWT_H
#define GN_JWT_H

#include "postgres.h"

#include "core/component.h"

extern const GnComponent gn_jwt_component;

/* The issuer that setup() stored, valid until the next call, or NULL before setup. */
extern const char *gn_jwt_issuer(void);

#endif
