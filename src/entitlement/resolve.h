/* src/entitlement/resolve.h -- what a tenant is entitled to, from what was read */
#ifndef GN_RESOLVE_H
#define GN_RESOLVE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "entitlement/period.h"

typedef enum GnKind
{
	GN_KIND_BOOLEAN,
	GN_KIND_LIMIT,
	GN_KIND_CONFIG,
	GN_KIND_METERED,
	GN_KIND_CREDIT,
	GN_KIND_SEATS
} GnKind;

typedef enum GnFold
{
	GN_FOLD_ANY,
	GN_FOLD_LAST,
	GN_FOLD_MAX,
	GN_FOLD_SUM
} GnFold;

/* What a tenant below another has of its parent. */
typedef enum GnInherit
{
	GN_INHERIT_OWN,    /* nothing */
	GN_INHERIT_PARENT, /* the parent's setting, where it has none of its own */
	GN_INHERIT_POOL    /* setting and counter of the topmost tenant */
} GnInherit;

/* What a bundle, a grant or a default says; _grownext.entitlement_setting. */
typedef struct GnSetting
{
	bool enabled;
	bool unlimited;
	bool billing_anchor;
	bool soft;
	GnPeriod period;
	int64 quota;        /* all but boolean and config; of no meaning if unlimited */
	TimestampTz anchor; /* of the subscription; read if billing_anchor */
	Jsonb *value;       /* config; else NULL */
	int64 rollover;     /* credit: of what a period leaves, the next keeps at most */
	int priority;       /* credit: lower is burnt first */
} GnSetting;

/* What grants credit anew in each period. */
typedef struct GnRecurring
{
	pg_uuid_t source; /* subscription or grant; zero: free bundle or default */
	GnSetting setting;
} GnRecurring;

/* In the order in which they decide. */
typedef enum GnSource
{
	GN_SOURCE_BLOCK,
	GN_SOURCE_USER_GRANT,
	GN_SOURCE_TENANT_GRANT,
	GN_SOURCE_SUBSCRIPTION,
	GN_SOURCE_TENANT_ADD, /* folded with the subscriptions */
	GN_SOURCE_PARENT,
	GN_SOURCE_FREE_BUNDLE, /* what the default bundle says, without a subscription */
	GN_SOURCE_DEFAULT,
	GN_SOURCE_NONE
} GnSource;

/* One thing that has a say; the later of two equals wins. */
typedef struct GnCandidate
{
	GnSource source;
	int quantity;
	GnSetting setting;
	pg_uuid_t id;   /* of the grant or subscription */
	int version_id; /* of the bundle; subscriptions and the free bundle */
	TimestampTz valid_from;
	TimestampTz valid_until;
	struct GnCandidate *next;
} GnCandidate;

typedef enum GnTenantState
{
	GN_TENANT_UNKNOWN,
	GN_TENANT_ACTIVE,
	GN_TENANT_NOT_ACTIVE
} GnTenantState;

/* How a counter is kept: usage.h. */
typedef enum GnTier
{
	GN_TIER_STRICT,
	GN_TIER_ESCROW,
	GN_TIER_SOFT
} GnTier;

#define GN_THRESHOLD_MAX 8

/* A feature of the catalogue. */
typedef struct GnFeature
{
	int id;
	const char *name;
	GnKind kind;
	GnFold fold;
	GnInherit inherit;
	bool has_default;
	GnSetting fallback; /* of meaning if has_default */
	bool gauged;        /* a limit that limit_protect() counts */
	GnTier tier;
	int shards; /* of an escrow counter */
	int threshold_count;
	int thresholds[GN_THRESHOLD_MAX]; /* in percent, rising */
} GnFeature;

typedef struct GnDecision
{
	bool allowed;
	bool decided; /* setting is of meaning, which is so whenever allowed */
	bool pooled;  /* counted at the topmost tenant */
	GnSource source;
	const char *reason; /* NULL if allowed */
	GnSetting setting;
	bool by_balance; /* credit: what is granted decides, whoever granted it */
	int recurring_count;
	GnRecurring *recurring;
} GnDecision;

/* What the resolver looked at, rule by rule; for explain. */
#define GN_TRACE_MAX 10
typedef struct GnTrace
{
	int count;
	struct GnStep
	{
		const char *rule;
		bool decided;
		const GnCandidate *candidate; /* what decided, if it was one thing */
	} steps[GN_TRACE_MAX];
} GnTrace;

/* Copies what a decision points to into the memory of whoever keeps it. */
extern void gn_decision_own(GnDecision *decision, MemoryContext memory);

extern const char *gn_source_name(GnSource source);
extern const char *gn_kind_name(GnKind kind);

/*
 * Decides about a feature (NULL: unknown) of a tenant from the candidates that are in
 * force; parent is what was decided for the tenant above, or NULL. Counters are no part
 * of it: a metered feature is allowed if there is a quota, used up or not.
 */
extern GnDecision gn_entitlement_resolve(const GnFeature *feature, GnTenantState tenant,
										 const GnCandidate *candidates,
										 const GnDecision *parent, GnTrace *trace);

#endif
