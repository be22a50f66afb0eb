/* src/entitlement/usage.h -- metering: a call, its answer, its key and where units are
 * counted; private to entitlement */
#ifndef GN_USAGE_H
#define GN_USAGE_H

#include "postgres.h"

#include "entitlement/entitlement.h"

typedef struct GnUsageCall
{
	const char *operation; /* consume | return | record | reserve | commit */
	pg_uuid_t tenant;
	char *feature; /* NULL was given: unknown */
	int64 amount;
	char *key; /* or NULL */
	TimestampTz now;
	bool as_of;                   /* records: now is when it was used */
	const pg_uuid_t *reservation; /* that takes the units, or NULL */
} GnUsageCall;

/*
 * Counters. A counter is what a tenant uses of a feature in one period; how its units
 * are kept (one row, shards, events) is counter.c's business alone. Lock order:
 * idempotency key, then counter.
 */
typedef struct GnCounter
{
	pg_uuid_t tenant; /* at which it is counted: the holder of an answer */
	int feature;
	GnPeriod period;
	TimestampTz start;
} GnCounter;

typedef struct GnUsageResult
{
	bool allowed;
	bool counted; /* the next four are of meaning */
	int64 used;
	bool unlimited;
	int64 quota;
	TimestampTz resets_at;
	const char *reason; /* NULL if allowed */
	bool credit;        /* of counter, tenant and feature only are of meaning */
	GnCounter counter;  /* of meaning if allowed: where the units were taken from */
} GnUsageResult;

/* A column of the first row that the last query returned. */
extern Datum gn_usage_column(int number, bool *isnull);

/* What is decided about the call's feature as of call->now, without its usage. */
extern GnAnswer *gn_usage_resolve(const GnUsageCall *call);

/* Takes the units, all or none; the key is the caller's business. */
extern void gn_usage_take(GnUsageCall *call, GnUsageResult *result);

/* The call of a SQL function: feature, amount, ..., key, tenant; and how it raises. */
extern GnUsageCall
gn_usage_arguments(FunctionCallInfo fcinfo, const char *operation, int key);
extern void pg_attribute_noreturn()
	gn_usage_refuse(const GnUsageCall *call, const GnUsageResult *result);

/*
 * Between gn_spi_begin and gn_spi_end, as all that concerns keys.
 *
 * Takes the key for this call, waiting while another transaction holds it; true if
 * the result is there already. Then either the result is kept under it, or it is
 * dropped: denials are not remembered. An unknown feature has no keys.
 */
extern bool gn_usage_key_answers(const GnUsageCall *call, GnUsageResult *result);
extern void gn_usage_key_answer(const GnUsageCall *call, const GnUsageResult *result);
extern void gn_usage_key_drop(const GnUsageCall *call);

/* What a counter says after a change. */
typedef struct GnCounterState
{
	int64 used;
	bool unlimited;
	int64 quota; /* of meaning unless unlimited */
	TimestampTz end;
} GnCounterState;

typedef enum GnCount
{
	GN_COUNT_DONE,
	GN_COUNT_DENIED, /* there is no room; nothing was written */
	GN_COUNT_AGAIN   /* the right changed meanwhile; nothing was counted: ask anew */
} GnCount;

/* The counter of an answer that is counted. */
extern GnCounter gn_counter_of(const GnAnswer *answer);

/*
 * Adds units to the counter of an answer, all or none, within the quota of the answer
 * unless that is soft. GN_COUNT_DONE and _DENIED set used to what the counter says
 * then.
 */
extern GnCount
gn_counter_add(const GnAnswer *answer, int64 amount, TimestampTz at, int64 *used);

/*
 * Gives units back to exactly this counter, whatever is entitled now. False if fewer
 * were used, or none. Between gn_spi_begin and gn_spi_end.
 */
extern bool gn_counter_give_back(const GnCounter *counter, int64 amount, TimestampTz at,
								 GnCounterState *state);

/*
 * Adds units without a limit; as_of: the answer is about another instant than now, and
 * its quota is not the counter's. Sets what the counter says.
 */
extern GnCount gn_counter_record(const GnAnswer *answer, bool as_of, int64 amount,
								 TimestampTz at, GnCounterState *state);
extern GnCount gn_counter_set(const GnAnswer *answer, int64 used, TimestampTz at,
							  GnCounterState *state);

/* At load, once. */
extern void gn_soft_init(void);

/* What it says as of now, and as of the active snapshot. */
extern int64 gn_counter_used(const GnCounter *counter);
extern int64 gn_counter_seen(const GnCounter *counter);

/* The four values that GN_COUNTER_KEY compares with. */
extern void gn_counter_name(const GnCounter *counter, Datum *values);

#define GN_SHARDS_MAX 256

#define GN_COUNTER_IS(table, tenant, feature, start, period)                           \
	table ".tenant_id = " tenant " AND " table ".feature_id = " feature " AND " table  \
		  ".period_start = " start " AND " table ".period = " period
#define GN_COUNTER_KEY                                                                 \
	"tenant_id = $1 AND feature_id = $2 AND period_start = $3 AND period = $4"

/* What a counter says: its rows, and events that no row holds yet. An expression. */
#define GN_COUNTER_TOTAL(tenant, feature, start, period)                               \
	"((SELECT coalesce(sum(u.used), 0) FROM _grownext.entitlement_usage AS u "         \
	"WHERE " GN_COUNTER_IS("u", tenant, feature, start,                                \
						   period) ") + (SELECT coalesce(sum(e.amount), 0) FROM "      \
								   "_grownext.entitlement_usage_event"                 \
								   " AS e WHERE " GN_COUNTER_IS("e", tenant, feature,  \
																start,                 \
																period) "))::bigint"

#endif
