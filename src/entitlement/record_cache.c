/*
 * src/entitlement/record_cache.c
 *	  Records of tenants that this backend remembers, never stale.
 *
 * Whether one is still true is a question of numbers (stamp.c) and of time. It is
 * filled as the extension's owner, and the key holds everything that the answer depends
 * on, so no role's view answers for another's.
 *
 * A hit writes nothing but a bit: what was used since the last look is passed over once
 * when room is needed (the clock algorithm), which comes close to forgetting what was
 * used longest ago.
 */
#include "postgres.h"

#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "entitlement/record.h"

typedef struct Entry
{
	GnRecordKey key;
	GnRecord *record;
	char status; /* of simplehash */
} Entry;

static inline uint32
key_hash(const GnRecordKey *key)
{
	uint64 words[4];
	uint64 hash;

	StaticAssertStmt(sizeof(words) == sizeof(*key), "a key is four words");
	memcpy(words, key, sizeof(words));
	hash = (words[0] ^ words[2]) * UINT64CONST(0x9E3779B97F4A7C15) +
		   (words[1] ^ words[3]) * UINT64CONST(0xC2B2AE3D27D4EB4F);
	/* ids may be counted up in any byte: every bit has to reach the lowest */
	hash ^= hash >> 32;
	hash *= UINT64CONST(0x9E3779B97F4A7C15);
	return (uint32) (hash ^ (hash >> 32));
}

static inline bool
same_key(const GnRecordKey *a, const GnRecordKey *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

#define SH_PREFIX entry
#define SH_ELEMENT_TYPE Entry
#define SH_KEY_TYPE GnRecordKey
#define SH_KEY key
#define SH_HASH_KEY(table, key) key_hash(&(key))
#define SH_EQUAL(table, a, b) same_key(&(a), &(b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

static int cache_size = 16 * 1024; /* kB */

static entry_hash *entries = NULL;
static dlist_head places = DLIST_STATIC_INIT(places);
static size_t total_size = 0;
static GnRecord *last_found = NULL;

void
gn_record_init(void)
{
	DefineCustomIntVariable(
		"grownext.entitlement_cache_size",
		"Memory that each session may use to remember entitlements of tenants.",
		"At least one tenant is remembered.", &cache_size, 16 * 1024, 64, 1024 * 1024,
		PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
}

static GnRecord *
find(const GnRecordKey *key)
{
	Entry *entry;

	if (last_found && same_key(&last_found->key, key))
		return last_found;
	if (entries == NULL)
		return NULL;
	entry = entry_lookup_hash(entries, *key, key_hash(key));
	if (entry == NULL)
		return NULL;
	last_found = entry->record;
	return entry->record;
}

static void
forget(GnRecord *record)
{
	(void) entry_delete(entries, record->key);
	dlist_delete(&record->place);
	total_size -= record->size;
	if (last_found == record)
		last_found = NULL;
	MemoryContextDelete(record->memory);
}

/* For one more record, which may be larger than the limit. */
static void
make_room(size_t size)
{
	size_t limit = (size_t) cache_size * 1024;

	while (total_size + size > limit && !dlist_is_empty(&places))
	{
		GnRecord *record = dlist_tail_element(GnRecord, place, &places);

		if (!record->used)
		{
			forget(record);
			continue;
		}
		record->used = false;
		dlist_delete(&record->place);
		dlist_push_head(&places, &record->place);
	}
}

static void
keep(GnRecord *record)
{
	bool found;

	if (entries == NULL)
		entries = entry_create(TopMemoryContext, 64, NULL);
	make_room(record->size);
	entry_insert(entries, record->key, &found)->record = record;
	MemoryContextSetParent(record->memory, TopMemoryContext);
	dlist_push_head(&places, &record->place);
	total_size += record->size;
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
		own = gn_stamp_generation(gn_stamp_bucket(&key->tenant));
		gn_scope_push_snapshot();
		record = gn_record_make(key, user, now, NULL, cached_parent);
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
	GnRecordKey key = gn_record_key(tenant, user);
	const GnRecord *record;

	gn_cache_catch_up();
	record = gn_record_cached(tenant, user);
	return record ? record : fill(&key, user, now);
}

const GnRecord *
gn_record(const pg_uuid_t *tenant, const pg_uuid_t *user, TimestampTz now)
{
	const GnRecord *record = look_up(tenant, NULL, now);

	if (user && record->user_grants)
		record = look_up(tenant, user, now);
	return record;
}

const GnRecord *
gn_record_cached(const pg_uuid_t *tenant, const pg_uuid_t *user)
{
	GnRecordKey key = gn_record_key(tenant, user);
	GnRecord *record = find(&key);

	if (record == NULL || record->clock != gn_clock_epoch ||
		gn_stamp_moved(&record->stamp) || !gn_scope_holds(&record->scope))
		return NULL;
	if (!TIMESTAMP_IS_NOEND(record->until) && !gn_now_is_before(record->until))
		return NULL;
	record->used = true;
	return record;
}

const GnRecord *
gn_record_remembered(const pg_uuid_t *tenant, const pg_uuid_t *user)
{
	const GnRecord *record = gn_record_cached(tenant, NULL);

	if (record == NULL || user == NULL || !record->user_grants)
		return record;
	return gn_record_cached(tenant, user);
}
