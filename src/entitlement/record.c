/*
 * src/entitlement/record.c
 *	  Everything a tenant is entitled to, compiled and cached per backend, never stale.
 *
 * A record depends on the catalogue, on its tenant and on the tenants above it. Each
 * tenant belongs to one of 64 marker relations; a row trigger sends the message of the
 * tenant's marker with every change, so a change elsewhere leaves most records alone.
 *The generations of all tenants' markers that a record depends on are added up: they
 *only grow, so equal sums mean that none moved. They are noted before the tables are
 *read, so a change that arrives while they are being read makes the record stale at
 *birth, and it is read again. What changes by itself (a trial's end, a grant that
 * begins) bounds the record's time instead.
 *
 * It is filled as the extension's owner, and the key holds everything that the answer
 * depends on, so no role's view answers for another's.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "entitlement/compile.h"
#include "entitlement/record.h"

GN_FUNCTION(gn_entitlement_invalidate);

#define BUCKETS 64
#define MARKER_NAME "entitlement_marker_tenant_%02u"

static GnMarker markers[BUCKETS];
static char marker_names[BUCKETS][sizeof(MARKER_NAME)];

static int cache_size = 16 * 1024; /* kB */

typedef struct Entry
{
	GnRecordKey key;
	GnRecord *record;
} Entry;

static HTAB *entries = NULL;
static dlist_head by_use = DLIST_STATIC_INIT(by_use);
static size_t total_size = 0;
uint64 gn_record_epoch = 1;

static uint8
bucket_of(const pg_uuid_t *tenant)
{
	return tenant->data[UUID_LEN - 1] % BUCKETS;
}

void
gn_record_init(void)
{
	for (unsigned int i = 0; i < BUCKETS; i++)
	{
		snprintf(marker_names[i], sizeof(marker_names[i]), MARKER_NAME, i);
		markers[i].name = marker_names[i];
		gn_marker_register(&markers[i]);
	}
	DefineCustomIntVariable(
		"grownext.entitlement_cache_size",
		"Memory that each session may use to remember entitlements of tenants.",
		"At least one tenant is remembered.", &cache_size, 16 * 1024, 64, 1024 * 1024,
		PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
}

/* SQL row trigger: _grownext.entitlement_invalidate('column of the tenant') */
Datum
gn_entitlement_invalidate(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	HeapTuple rows[2] = {0};
	int number;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		trigger->tg_trigger->tgnargs != 1)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg(
					 "entitlement_invalidate() can only be called as a row trigger")));
	number = SPI_fnumber(trigger->tg_relation->rd_att, trigger->tg_trigger->tgargs[0]);
	rows[0] = trigger->tg_trigtuple;
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		rows[1] = trigger->tg_newtuple;
	for (int i = 0; i < 2 && rows[i]; i++)
	{
		bool isnull;
		Datum tenant =
			heap_getattr(rows[i], number, trigger->tg_relation->rd_att, &isnull);

		if (!isnull)
			gn_marker_touch(marker_names[bucket_of(DatumGetUUIDP(tenant))]);
	}
	PG_RETURN_POINTER(NULL);
}

/* Compiling ---------------------------------------------------------------- */

static size_t
record_size(int features)
{
	return MAXALIGN(sizeof(GnRecord)) + MAXALIGN(features * sizeof(GnDecision)) +
		   MAXALIGN(features);
}

static GnRecord *
new_record(MemoryContext parent, const GnCatalogue *catalogue)
{
	MemoryContext memory =
		AllocSetContextCreate(parent, "grownext entitlements", ALLOCSET_SMALL_SIZES);
	char *space = MemoryContextAllocZero(memory, record_size(catalogue->count));
	GnRecord *record = (GnRecord *) space;

	record->memory = memory;
	record->count = catalogue->count;
	record->decisions = (GnDecision *) (space + MAXALIGN(sizeof(GnRecord)));
	record->flags =
		(uint8 *) record->decisions + MAXALIGN(catalogue->count * sizeof(GnDecision));
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
	record->stamp.buckets[0] = bucket_of(&record->key.tenant);
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

/* The record of the tenant above: the cached one for now, else compiled. */
typedef const GnRecord *(*ParentRecord)(const pg_uuid_t *tenant, TimestampTz at);

static GnRecord *
compile(const GnRecordKey *key, const pg_uuid_t *user, TimestampTz at,
		MemoryContext memory, ParentRecord parent_record)
{
	const GnCatalogue *catalogue = gn_catalogue();
	GnReading *reading = gn_read_tenant(catalogue, &key->tenant, user, at);
	const GnRecord *parent = NULL;
	GnRecord *record;

	if (reading->has_parent && reading->state == GN_TENANT_ACTIVE)
		parent = parent_record(&reading->parent, at);
	record = new_record(memory, catalogue);
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

static GnRecordKey
key_of(const pg_uuid_t *tenant, const pg_uuid_t *user)
{
	GnRecordKey key = {.tenant = *tenant};

	if (user)
		key.user = *user;
	return key;
}

static const GnRecord *
compiled_parent(const pg_uuid_t *tenant, TimestampTz at)
{
	return gn_record_compile(tenant, NULL, at);
}

GnRecord *
gn_record_compile(const pg_uuid_t *tenant, const pg_uuid_t *user, TimestampTz at)
{
	GnRecordKey key = key_of(tenant, user);

	return compile(&key, user, at, CurrentMemoryContext, compiled_parent);
}

const GnCandidate *
gn_record_candidates(const pg_uuid_t *tenant, const pg_uuid_t *user, TimestampTz at,
					 int feature)
{
	const GnCatalogue *catalogue = gn_catalogue();

	if (feature >= catalogue->count)
		return NULL;
	return gn_read_tenant(catalogue, tenant, user, at)->candidates[feature];
}

/* Caching ------------------------------------------------------------------ */

bool
gn_stamp_moved(const GnStamp *stamp)
{
	uint64 tenants = 0;

	for (int i = 0; i <= stamp->depth; i++)
		tenants += gn_marker_current(&markers[stamp->buckets[i]]);
	return tenants != stamp->tenants || gn_catalogue_generation() != stamp->catalogue;
}

bool
gn_record_timeless(const GnRecord *record)
{
	return TIMESTAMP_IS_NOEND(record->until) && record->clock == gn_clock_epoch;
}

bool
gn_record_current(const GnRecord *record, TimestampTz now)
{
	return record->clock == gn_clock_epoch && now < record->until &&
		   !gn_stamp_moved(&record->stamp) && gn_scope_holds(&record->scope);
}

static void
forget(GnRecord *record)
{
	(void) hash_search(entries, &record->key, HASH_REMOVE, NULL);
	dlist_delete(&record->used);
	total_size -= record->size;
	gn_record_epoch++;
	MemoryContextDelete(record->memory);
}

static GnRecord *
find(const GnRecordKey *key)
{
	Entry *entry;

	if (entries == NULL)
	{
		HASHCTL control = {.keysize = sizeof(GnRecordKey), .entrysize = sizeof(Entry)};

		entries =
			hash_create("grownext entitlements", 64, &control, HASH_ELEM | HASH_BLOBS);
	}
	entry = hash_search(entries, key, HASH_FIND, NULL);
	return entry ? entry->record : NULL;
}

static void
keep(GnRecord *record)
{
	size_t limit = (size_t) cache_size * 1024;
	Entry *entry = hash_search(entries, &record->key, HASH_ENTER, NULL);

	entry->record = record;
	MemoryContextSetParent(record->memory, TopMemoryContext);
	dlist_push_head(&by_use, &record->used);
	total_size += record->size;
	while (total_size > limit && dlist_has_prev(&by_use, dlist_tail_node(&by_use)))
		forget(dlist_tail_element(GnRecord, used, &by_use));
}

static const GnRecord *
cached_parent(const pg_uuid_t *tenant, TimestampTz at)
{
	return gn_record(tenant, NULL, at);
}

/* How often a record that was stale at birth is read again before it is just used. */
#define FILL_TRIES 3

static const GnRecord *
fill(const GnRecordKey *key, const pg_uuid_t *user, TimestampTz now)
{
	for (int try = 1;; try++)
	{
		GnScope scope = gn_scope_now();
		uint64 catalogue;
		uint64 own;
		GnRecord *record;
		GnRecord *old;

		gn_cache_catch_up();
		catalogue = gn_catalogue_generation();
		own = gn_marker_current(&markers[bucket_of(&key->tenant)]);
		gn_scope_push_snapshot();
		record = compile(key, user, now, CurrentMemoryContext, cached_parent);
		PopActiveSnapshot();
		record->scope = scope;
		record->stamp.catalogue = catalogue;
		record->stamp.tenants += own; /* the parent's are there already */
		old = find(key);
		if (old)
			forget(old);
		keep(record);
		if (try == FILL_TRIES || !gn_stamp_moved(&record->stamp))
			return record;
	}
}

static const GnRecord *
look_up(const pg_uuid_t *tenant, const pg_uuid_t *user, TimestampTz now)
{
	GnRecordKey key = key_of(tenant, user);
	GnRecord *record = find(&key);

	gn_cache_catch_up();
	if (record && gn_record_current(record, now))
	{
		dlist_move_head(&by_use, &record->used);
		return record;
	}
	return fill(&key, user, now);
}

const GnRecord *
gn_record(const pg_uuid_t *tenant, const pg_uuid_t *user, TimestampTz now)
{
	const GnRecord *record = look_up(tenant, NULL, now);

	if (user && record->user_grants)
		record = look_up(tenant, user, now);
	return record;
}
