/* src/entitlement/resolve.h -- what a tenant is entitled to, from what was read */
#ifndef GN_RESOLVE_H
#define GN_RESOLVE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

#include "entitlement/period.h"

typedef enum GnKind
{
	GN_KIND_BOOLEAN,
	GN_KIND_LIMIT,
	GN_KIND_CONFIG,
	GN_KIND_METERED
} GnKind;

typedef enum GnFold
{
	GN_FOLD_ANY,
	GN_FOLD_LAST,
	GN_FOLD_MAX,
	GN_FOLD_SUM
} GnFold;

/* What a bundle, a grant or a default says; _grownext.entitlement_setting. */
typedef struct GnSetting
{
	bool enabled;
	bool unlimited;
	int64 quota; /* limit, metered; of no meaning if unlimited */
	GnPeriod period;
	bool billing_anchor;
	bool soft;
	TimestampTz anchor; /* of the subscription; read if billing_anchor */
	Jsonb *value;       /* config; else NULL */
} GnSetting;

/* In the order in which they decide. */
typedef enum GnSource
{
	GN_SOURCE_BLOCK,
	GN_SOURCE_USER_GRANT,
	GN_SOURCE_TENANT_GRANT,
	GN_SOURCE_SUBSCRIPTION,
	GN_SOURCE_TENANT_ADD, /* folded with the subscriptions */
	GN_SOURCE_DEFAULT,
	GN_SOURCE_NONE
} GnSource;

/* One thing that has a say; the later of two equals wins. */
typedef struct GnCandidate
{
	GnSource source;
	int quantity;
	GnSetting setting;
	struct GnCandidate *next;
} GnCandidate;

typedef enum GnTenantState
{
	GN_TENANT_UNKNOWN,
	GN_TENANT_ACTIVE,
	GN_TENANT_NOT_ACTIVE
} GnTenantState;

typedef struct GnFeature
{
	int id;
	const char *name;
	GnKind kind;
	GnFold fold;
	GnCandidate *candidates;
	GnCandidate **last; /* where the next one is hung in */
} GnFeature;

typedef struct GnDecision
{
	bool allowed;
	GnSource source;
	const char *reason; /* NULL if allowed */
	GnSetting setting;  /* of meaning if decided, which is so whenever allowed */
	bool decided;
} GnDecision;

extern const char *gn_source_name(GnSource source);
extern const char *gn_kind_name(GnKind kind);

/*
 * Decides about a feature (NULL: unknown) of a tenant. Counters are no part of it: a
 * metered feature is allowed if there is a quota, used up or not.
 */
extern GnDecision
gn_entitlement_resolve(const GnFeature *feature, GnTenantState tenant);

#endif
