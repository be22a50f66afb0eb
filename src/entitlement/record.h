/* src/entitlement/record.h -- everything a tenant is entitled to, compiled and cached;
 * private to entitlement */
#ifndef GN_RECORD_H
#define GN_RECORD_H

#include "postgres.h"

#include "lib/ilist.h"
#include "pgtime.h"

#include "entitlement/catalogue.h"
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

typedef struct GnRecord
{
	GnRecordKey key;
	GnStamp stamp;
	GnScope scope;
	uint32 clock;      /* gn_clock_epoch */
	TimestampTz at;    /* when it was read */
	TimestampTz until; /* when the next thing begins or ends by itself */
	pg_uuid_t top;     /* the topmost tenant, or this one */
	pg_tz *top_zone;
	bool user_grants; /* are there any, to whomever */
	GnTenantState state;
	pg_tz *zone;
	int count; /* of features */
	GnDecision *decisions;
	uint8 *flags;
	size_t size;
	dlist_node used; /* the first was used last */
	MemoryContext memory;
} GnRecord;

extern void gn_record_init(void);
extern void gn_plan_init(void);

/* Changes when a record goes: pointers from before may dangle. */
extern uint64 gn_record_epoch;

/* Is it still true at that instant? Messages must have been taken. */
extern bool gn_record_current(const GnRecord *record, TimestampTz now);

/* Does the time matter to it at all? Reading the clock costs as much as the check. */
extern bool gn_record_timeless(const GnRecord *record);

/*
 * The record of a tenant, and of one of its users if one is named, as of now; valid
 * until the next call. Between gn_spi_begin and gn_spi_end.
 */
extern const GnRecord *
gn_record(const pg_uuid_t *tenant, const pg_uuid_t *user, TimestampTz now);

/* One without cache, as of any instant, in the current memory context. */
extern GnRecord *
gn_record_compile(const pg_uuid_t *tenant, const pg_uuid_t *user, TimestampTz at);

/* The candidates of a feature at an instant, for explain. */
extern const GnCandidate *
gn_record_candidates(const pg_uuid_t *tenant, const pg_uuid_t *user, TimestampTz at,
					 int feature);

#endif
