/* src/core/claims.h -- reading claims; private to core */
#ifndef GN_CLAIMS_H
#define GN_CLAIMS_H

#include "postgres.h"

#include "utils/jsonb.h"
#include "utils/uuid.h"

#define GN_CLAIMS_MAX_SIZE (64 * 1024)
#define GN_CLAIMS_MAX_DEPTH 32

/* An object, or NULL and a sentence about what is wrong, without any of the text. */
extern Jsonb *gn_claims_parse(const char *text, const char **problem);

/* Single claims, palloc'd; absent and null are none, a wrong type raises NX011. */
extern char *gn_claims_subject(const Jsonb *claims);
extern char *gn_claims_actor(const Jsonb *claims); /* act.sub */
extern bool gn_claims_tenant(const Jsonb *claims, const char *path, pg_uuid_t *tenant);
extern bool gn_claims_session(const Jsonb *claims, pg_uuid_t *session);

#endif
