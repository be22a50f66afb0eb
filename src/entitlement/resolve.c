/*
 * src/entitlement/resolve.c
 *	  The resolver: the one place that decides what a tenant is entitled to.
 *
 * It is pure: whoever asks (a check, a state, a list, a consume, a question about
 * another instant) reads candidates and gets the decision from here, so no two
 * answers can disagree. First decisive wins: unknown feature, unknown tenant,
 * tenant not active, the pool above, block, grant to the user, grant to the tenant,
 * live subscriptions and add-ons folded with grants that add (and, where there are none
 * but add-ons, with the free bundle), the parent, the free bundle, the feature's
 * default. Each rule that was looked at leaves a step in the
 * trace, so an explanation is the decision itself, seen from the side.
 */
#include "postgres.h"

#include "common/int.h"

#include "entitlement/resolve.h"

const char *
gn_source_name(GnSource source)
{
	switch (source)
	{
		case GN_SOURCE_BLOCK:
			return "block";
		case GN_SOURCE_USER_GRANT:
			return "user_grant";
		case GN_SOURCE_TENANT_GRANT:
		case GN_SOURCE_TENANT_ADD:
			return "tenant_grant";
		case GN_SOURCE_SUBSCRIPTION:
			return "subscription";
		case GN_SOURCE_PARENT:
			return "parent";
		case GN_SOURCE_FREE_BUNDLE:
			return "free_bundle";
		case GN_SOURCE_DEFAULT:
			return "default";
		case GN_SOURCE_NONE:
			break;
	}
	return NULL;
}

const char *
gn_kind_name(GnKind kind)
{
	switch (kind)
	{
		case GN_KIND_BOOLEAN:
			return "boolean";
		case GN_KIND_LIMIT:
			return "limit";
		case GN_KIND_CONFIG:
			return "config";
		case GN_KIND_METERED:
			return "metered";
		case GN_KIND_CREDIT:
			return "credit";
		case GN_KIND_SEATS:
			return "seats";
	}
	return NULL;
}

/* A product or sum that does not fit is the largest number there is. */
static int64
saturating_multiply(int64 a, int64 b)
{
	int64 result;

	return pg_mul_s64_overflow(a, b, &result) ? PG_INT64_MAX : result;
}

static int64
saturating_add(int64 a, int64 b)
{
	int64 result;

	return pg_add_s64_overflow(a, b, &result) ? PG_INT64_MAX : result;
}

static GnDecision
denied(GnSource source, const char *reason)
{
	return (GnDecision){.source = source, .reason = reason};
}

static GnDecision
decided_by(const GnFeature *feature, GnSource source, const GnSetting *setting)
{
	bool counts = feature->kind == GN_KIND_LIMIT || feature->kind == GN_KIND_METERED ||
				  feature->kind == GN_KIND_SEATS;
	GnDecision decision = {.source = source, .setting = *setting, .decided = true};

	if (!setting->enabled)
		decision.reason = source == GN_SOURCE_DEFAULT ? "not_included" : "taken_away";
	else if (counts && !setting->unlimited && setting->quota == 0 && !setting->soft)
		decision.reason =
			feature->kind == GN_KIND_METERED ? "quota_exceeded" : "limit_is_zero";
	else
		decision.allowed = true;
	return decision;
}

/* The last candidate of a source, or NULL. */
static const GnCandidate *
last_candidate(const GnCandidate *candidates, GnSource source)
{
	const GnCandidate *found = NULL;

	for (const GnCandidate *c = candidates; c; c = c->next)
	{
		if (c->source == source)
			found = c;
	}
	return found;
}

/*
 * Do both count the same periods? Quotas of different periods cannot be added or
 * compared.
 */
static bool
same_period(const GnSetting *a, const GnSetting *b)
{
	if (a->period != b->period || a->billing_anchor != b->billing_anchor)
		return false;
	return !a->billing_anchor || a->anchor == b->anchor;
}

/*
 * Folds one more candidate into result. The first that is enabled decides on the
 * period; a metered one of another period is left out.
 */
static void
fold_candidate(const GnFeature *feature, GnSetting *result,
			   const GnCandidate *candidate)
{
	GnSetting next = candidate->setting;

	next.quota = saturating_multiply(next.quota, candidate->quantity);
	if (!result->enabled || feature->fold == GN_FOLD_LAST)
	{
		*result = next;
		return;
	}
	if (feature->fold == GN_FOLD_ANY)
		return;
	if (candidate->source == GN_SOURCE_TENANT_ADD)
	{
		/* what is added has no period of its own */
		result->unlimited |= next.unlimited;
		result->quota = saturating_add(result->quota, next.quota);
		return;
	}
	if (feature->kind == GN_KIND_METERED && !same_period(result, &next))
		return;
	result->unlimited |= next.unlimited;
	result->soft |= next.soft;
	result->quota = feature->fold == GN_FOLD_SUM
						? saturating_add(result->quota, next.quota)
						: Max(result->quota, next.quota);
}

/*
 * Subscriptions and add-ons first, then grants that add. The free bundle decides
 * nothing here, but who has only add-ons or what was added keeps what is free beside
 * it.
 */
static bool
fold_candidates(const GnFeature *feature, const GnCandidate *candidates,
				GnSetting *result, GnSource *source)
{
	static const GnSource sources[] = {GN_SOURCE_SUBSCRIPTION, GN_SOURCE_FREE_BUNDLE,
									   GN_SOURCE_TENANT_ADD};

	*result = (GnSetting){0};
	*source = GN_SOURCE_NONE;
	for (size_t i = 0; i < lengthof(sources); i++)
	{
		bool is_free = sources[i] == GN_SOURCE_FREE_BUNDLE;

		if (is_free && feature->fold == GN_FOLD_LAST && result->enabled)
			continue;
		for (const GnCandidate *c = candidates; c; c = c->next)
		{
			if (c->source != sources[i] || !c->setting.enabled)
				continue;
			if (*source == GN_SOURCE_NONE && !is_free)
				*source = c->source;
			fold_candidate(feature, result, c);
		}
	}
	return *source != GN_SOURCE_NONE;
}

/* Notes that a rule was looked at; returns whether it decides. */
static bool
step(GnTrace *trace, const char *rule, bool decides, const GnCandidate *candidate)
{
	if (trace && trace->count < GN_TRACE_MAX)
	{
		trace->steps[trace->count].rule = rule;
		trace->steps[trace->count].decided = decides;
		trace->steps[trace->count].candidate = candidate;
		trace->count++;
	}
	return decides;
}

static GnDecision
from_parent(const GnDecision *parent, bool pooled)
{
	GnDecision decision = *parent;

	decision.source = GN_SOURCE_PARENT;
	decision.pooled = pooled;
	return decision;
}

static GnDecision
decide(const GnFeature *feature, GnTenantState tenant, const GnCandidate *candidates,
	   const GnDecision *parent, GnTrace *trace)
{
	const GnCandidate *candidate;
	GnSetting folded;
	GnSource source = GN_SOURCE_NONE;

	if (step(trace, "feature", feature == NULL, NULL))
		return denied(GN_SOURCE_NONE, "unknown_feature");
	if (step(trace, "tenant", tenant != GN_TENANT_ACTIVE, NULL))
		return denied(GN_SOURCE_NONE, tenant == GN_TENANT_UNKNOWN ? "unknown_tenant"
																  : "tenant_suspended");
	candidate = last_candidate(candidates, GN_SOURCE_BLOCK);
	if (step(trace, "block", candidate != NULL, candidate))
		return denied(GN_SOURCE_BLOCK, "blocked");
	if (feature->inherit == GN_INHERIT_POOL &&
		step(trace, "pool", parent != NULL, NULL))
		return from_parent(parent, true);
	candidate = last_candidate(candidates, GN_SOURCE_USER_GRANT);
	if (step(trace, "user_grant", candidate != NULL, candidate))
		return decided_by(feature, GN_SOURCE_USER_GRANT, &candidate->setting);
	candidate = last_candidate(candidates, GN_SOURCE_TENANT_GRANT);
	if (step(trace, "tenant_grant", candidate != NULL, candidate))
		return decided_by(feature, GN_SOURCE_TENANT_GRANT, &candidate->setting);
	if (step(trace, "subscription",
			 fold_candidates(feature, candidates, &folded, &source), NULL))
		return decided_by(feature, source, &folded);
	if (feature->inherit == GN_INHERIT_PARENT &&
		step(trace, "parent", parent != NULL && parent->allowed, NULL))
		return from_parent(parent, false);
	candidate = last_candidate(candidates, GN_SOURCE_FREE_BUNDLE);
	if (step(trace, "free_bundle", candidate && candidate->setting.enabled, candidate))
		return decided_by(feature, GN_SOURCE_FREE_BUNDLE, &candidate->setting);
	if (step(trace, "default", feature->has_default, NULL))
		return decided_by(feature, GN_SOURCE_DEFAULT, &feature->fallback);
	return denied(GN_SOURCE_NONE, "not_included");
}

/* Credits: what grants them is not folded, each source grants its own. */
static void
add_recurring(GnDecision *decision, const pg_uuid_t *source, const GnSetting *setting,
			  int quantity)
{
	GnRecurring *recurring = &decision->recurring[decision->recurring_count++];

	*recurring = (GnRecurring){.setting = *setting};
	if (source)
		recurring->source = *source;
	recurring->setting.quota = saturating_multiply(setting->quota, quantity);
	recurring->setting.rollover = saturating_multiply(setting->rollover, quantity);
}

/*
 * Whether the balance decides: not if somebody denied the feature. What was inherited
 * knows already.
 */
static void
find_recurring(const GnCandidate *candidates, GnDecision *decision)
{
	int count = 1;

	if (decision->source == GN_SOURCE_PARENT)
		return;
	decision->by_balance =
		decision->allowed ||
		(decision->reason && strcmp(decision->reason, "not_included") == 0);
	if (!decision->allowed)
		return;
	for (const GnCandidate *c = candidates; c; c = c->next)
		count++;
	decision->recurring = palloc(count * sizeof(GnRecurring));
	if (decision->source == GN_SOURCE_FREE_BUNDLE ||
		decision->source == GN_SOURCE_DEFAULT)
		add_recurring(decision, NULL, &decision->setting, 1);
	else if (decision->source != GN_SOURCE_SUBSCRIPTION)
	{
		const GnCandidate *candidate = last_candidate(candidates, decision->source);

		add_recurring(decision, &candidate->id, &candidate->setting, 1);
	}
	else
	{
		for (const GnCandidate *c = candidates; c; c = c->next)
		{
			if (c->source == GN_SOURCE_SUBSCRIPTION && c->setting.enabled)
				add_recurring(decision, &c->id, &c->setting, c->quantity);
		}
	}
}

GnDecision
gn_entitlement_resolve(const GnFeature *feature, GnTenantState tenant,
					   const GnCandidate *candidates, const GnDecision *parent,
					   GnTrace *trace)
{
	GnDecision decision = decide(feature, tenant, candidates, parent, trace);

	if (feature && feature->kind == GN_KIND_CREDIT)
		find_recurring(candidates, &decision);
	return decision;
}

void
gn_decision_own(GnDecision *decision, MemoryContext memory)
{
	if (decision->setting.value)
	{
		Jsonb *value = decision->setting.value;

		decision->setting.value =
			memcpy(MemoryContextAlloc(memory, VARSIZE(value)), value, VARSIZE(value));
	}
	if (decision->recurring_count > 0)
	{
		size_t size = decision->recurring_count * sizeof(GnRecurring);

		decision->recurring =
			memcpy(MemoryContextAlloc(memory, size), decision->recurring, size);
	}
}
