/* src/entitlement/record.h -- everything a tenant is entitled to, compiled and cached;
 * private to entitlement */
#ifndef GN_RECORD_H
#define GN_RECORD_H

#include "postgres.h"

#include "lib/ilist.h"
#include "pgtime.h"

#include "entitlement/catalogue.h"
#include "entitlement/compile.h"
#include "entitlement/resolve.h"

/* Whose record: for a user only if the tenant has grants to single users. */
typedef struct GnRecordKey
{
	pg_uuid_t tenant;
	pg_uuid_t user; /* zero: none */
} GnRecordKey;

/* What entitled() needs of a feature. */
#define GN_FLAG_ALLOWED 1
#define GN_FLAG_COUNTED 2 /* the counter has a say, too */
#define GN_FLAG_BALANCE 4 /* the balance alone decides */

/* What a check reads comes first. */
typedef struct GnRecord
{
	GnRecordKey key;
	GnStamp stamp;
	GnScope scope;
	TimestampTz until; /* when the next thing begins or ends by itself */
	uint32 clock;      /* gn_clock_epoch */
	int count;         /* of features */
	uint8 *flags;
	bool user_grants; /* are there any, to whomever */
	bool used;        /* since the cache last looked for what to forget */
	GnTenantState state;
	TimestampTz at; /* when it was read */
	pg_tz *zone;
	pg_uuid_t top; /* the topmost tenant, or this one */
	pg_tz *top_zone;
	GnDecision *decisions;
	char version[GN_VERSION_SIZE]; /* of the content; empty until it is asked for */
	size_t size;
	dlist_node place; /* among those that are remembered */
	MemoryContext memory;
} GnRecord;

extern void gn_plan_init(void);

/* Made and read between gn_spi_begin and gn_spi_end ------------------------- */

/* The record of the tenant above: the cached one for now, else compiled. */
typedef const GnRecord *(*GnRecordParent)(const pg_uuid_t *tenant, TimestampTz at);

static inline GnRecordKey
gn_record_key(const pg_uuid_t *tenant, const pg_uuid_t *user)
{
	GnRecordKey key = {.tenant = *tenant};

	if (user)
		key.user = *user;
	return key;
}

/* As of any instant, in the current memory context; change is of a preview, or NULL. */
extern GnRecord *
gn_record_make(const GnRecordKey *key, const pg_uuid_t *user, TimestampTz at,
			   const GnChange *change, GnRecordParent parent_record);

/* The same with the parents' made for it: nothing is cached. */
extern GnRecord *
gn_record_compile(const pg_uuid_t *tenant, const pg_uuid_t *user, TimestampTz at);

/* The same, as if a subscription of the tenant had been changed at that instant. */
extern GnRecord *
gn_record_preview(const pg_uuid_t *tenant, TimestampTz at, const GnChange *change);

/* Remembered; record_cache.c ------------------------------------------------ */

extern void gn_record_init(void);

/*
 * The record of a tenant, and of one of its users if one is named, as of now; valid
 * until the next call. Between gn_spi_begin and gn_spi_end.
 */
extern const GnRecord *
gn_record(const pg_uuid_t *tenant, const pg_uuid_t *user, TimestampTz now);

/*
 * What is remembered of just this tenant and user, if it still is true, else NULL;
 * anywhere, and without a palloc. Messages must have been taken.
 */
extern const GnRecord *gn_record_cached(const pg_uuid_t *tenant, const pg_uuid_t *user);

/* The same, for a user only where that matters; user may be NULL. */
extern const GnRecord *
gn_record_remembered(const pg_uuid_t *tenant, const pg_uuid_t *user);

#endif
