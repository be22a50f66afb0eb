/*
 * src/entitlement/record.c
 *	  Everything a tenant is entitled to, compiled: what was read, decided for each
 *	  feature, and for how long it holds.
 *
 * A record depends on the catalogue, on its tenant and on the tenants above it. What
 * changes by itself (a trial's end, a grant that begins) bounds the record's time.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "core/core.h"
#include "entitlement/compile.h"
#include "entitlement/record.h"

static size_t
record_size(int features)
{
	return MAXALIGN(sizeof(GnRecord)) + MAXALIGN(features) +
		   features * sizeof(GnDecision);
}

static GnRecord *
new_record(const GnCatalogue *catalogue)
{
	MemoryContext memory =
		AllocSetContextCreate(CurrentMemoryContext, "grownext entitlements",
							  ALLOCSET_SMALL_SIZES);
	char *space = MemoryContextAllocZero(memory, record_size(catalogue->count));
	GnRecord *record = (GnRecord *) space;

	record->memory = memory;
	record->count = catalogue->count;
	/* the flags beside the head: they are what a check reads */
	record->flags = (uint8 *) space + MAXALIGN(sizeof(GnRecord));
	record->decisions = (GnDecision *) (record->flags + MAXALIGN(catalogue->count));
	return record;
}

static uint8
flags_of(const GnFeature *feature, const GnDecision *decision)
{
	uint8 flags = decision->allowed ? GN_FLAG_ALLOWED : 0;

	if (feature->kind == GN_KIND_METERED && decision->decided &&
		decision->setting.enabled)
		flags |= GN_FLAG_COUNTED;
	if (decision->by_balance)
		flags |= GN_FLAG_BALANCE;
	return flags;
}

/* Who stands above, as far as the parent's record knows. */
static void
join_parent(GnRecord *record, const GnRecord *parent)
{
	record->top = record->key.tenant;
	record->top_zone = record->zone;
	record->stamp.buckets[0] = gn_stamp_bucket(&record->key.tenant);
	if (parent == NULL)
		return;
	record->top = parent->top;
	record->top_zone = parent->top_zone;
	record->stamp.tenants = parent->stamp.tenants;
	record->stamp.depth = parent->stamp.depth + 1;
	if (record->stamp.depth >= GN_TENANT_DEPTH)
		elog(ERROR, "tenants nest deeper than %d levels", GN_TENANT_DEPTH);
	memcpy(&record->stamp.buckets[1], parent->stamp.buckets, record->stamp.depth);
	record->until = Min(record->until, parent->until);
}

static void
decide(GnRecord *record, const GnReading *reading, const GnRecord *parent)
{
	for (int id = 0; id < record->count; id++)
	{
		const GnFeature *feature = &reading->catalogue->features[id];
		const GnDecision *above =
			parent && id < parent->count ? &parent->decisions[id] : NULL;
		GnDecision *decision = &record->decisions[id];

		*decision = gn_entitlement_resolve(feature, reading->state,
										   reading->candidates[id], above, NULL);
		gn_decision_own(decision, record->memory);
		record->flags[id] = flags_of(feature, decision);
	}
}

GnRecord *
gn_record_make(const GnRecordKey *key, const pg_uuid_t *user, TimestampTz at,
			   const GnChange *change, GnRecordParent parent_record)
{
	const GnCatalogue *catalogue = gn_catalogue();
	GnReading *reading = gn_read_tenant(catalogue, &key->tenant, user, at, change);
	const GnRecord *parent = NULL;
	GnRecord *record;

	if (reading->has_parent && reading->state == GN_TENANT_ACTIVE)
		parent = parent_record(&reading->parent, at);
	record = new_record(catalogue);
	record->key = *key;
	record->at = at;
	record->until = reading->until;
	record->clock = gn_clock_epoch;
	record->user_grants = reading->user_grants;
	record->state = reading->state;
	record->zone = reading->zone;
	join_parent(record, parent);
	decide(record, reading, parent);
	record->size = MemoryContextMemAllocated(record->memory, true);
	return record;
}

static const GnRecord *
compiled_parent(const pg_uuid_t *tenant, TimestampTz at)
{
	return gn_record_compile(tenant, NULL, at);
}

GnRecord *
gn_record_compile(const pg_uuid_t *tenant, const pg_uuid_t *user, TimestampTz at)
{
	GnRecordKey key = gn_record_key(tenant, user);

	return gn_record_make(&key, user, at, NULL, compiled_parent);
}

GnRecord *
gn_record_preview(const pg_uuid_t *tenant, TimestampTz at, const GnChange *change)
{
	GnRecordKey key = gn_record_key(tenant, NULL);

	return gn_record_make(&key, NULL, at, change, compiled_parent);
}
