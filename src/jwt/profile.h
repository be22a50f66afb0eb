/* src/jwt/profile.h -- what tokens of a purpose say; private to jwt */
#ifndef GN_JWT_PROFILE_H
#define GN_JWT_PROFILE_H

#include "postgres.h"

#include "utils/jsonb.h"

/* Tokens of other purposes than this one must not pass for access tokens. */
#define GN_PURPOSE_ACCESS "access"

/* Who adds claims: a function(subject text, claims jsonb) of a role. By names: they
 * survive a restore, and are looked up for every token. */
typedef struct GnClaimsHook
{
	const char *schema; /* NULL: no hook */
	const char *name;
	const char *owner;
} GnClaimsHook;

typedef struct GnTokenProfile GnTokenProfile;
struct GnTokenProfile
{
	GnTokenProfile *next;
	const char *purpose;
	const char *issuer;
	int audience_count;
	char **audiences; /* the first is the default */
	int64 ttl;        /* seconds */
	int64 max_ttl;
	int claim_count; /* -1: any */
	char **claims;
	const char *typ;
	GnClaimsHook hook;
	bool entitlements; /* of the tenant, as a bitset */
};

extern void gn_token_profile_init(void);

/* As of now, defined or not; valid until the next call. Raises NX003 before setup(). */
extern const GnTokenProfile *gn_token_profile(const char *purpose);

/* What the header of such tokens says; raises nothing. */
extern const char *gn_token_typ(const char *purpose);

/* The named audience if it is one of the profile's, else raises; the default for NULL.
 */
extern const char *gn_token_audience(const GnTokenProfile *profile, const char *named);

/* Whether a caller may put a claim into tokens. */
extern bool
gn_token_claim_allowed(const GnTokenProfile *profile, const JsonbValue *name);

/* hook.c: the claims with those that the hook adds; raises NX018 if it fails. */
extern Jsonb *
gn_claims_hook_run(const GnClaimsHook *hook, const char *subject, Jsonb *claims);

#endif
