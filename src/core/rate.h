/* src/core/rate.h -- rate limits and failed attempts, remembered beside the transaction
 */
#ifndef GN_RATE_H
#define GN_RATE_H

#include "postgres.h"

#include "datatype/timestamp.h"

/*
 * A bucket holds "burst" units and fills up again evenly over "period". It belongs to
 * one database, scope and key. It is no table: what was taken stays taken when the
 * caller rolls back, and a standby counts, too. Every number is exact.
 */
typedef struct GnRateVerdict
{
	bool allowed;
	int64 limit;          /* the burst */
	int64 remaining;      /* whole units left, after this call */
	TimestampTz retry_at; /* when the cost would be allowed; DT_NOEND: never */
	TimestampTz reset_at; /* when the bucket is full again */
} GnRateVerdict;

/*
 * Takes cost units, all or none; peek only asks. Raises 22023 unless 1 <= burst,
 * 0 <= cost, 1 <= period_us <= GN_RATE_MAX_PERIOD and burst * period_us fits in
 * an int64. An existing bucket that is asked under other terms keeps the units taken.
 */
#define GN_RATE_MAX_PERIOD (366 * USECS_PER_DAY)
extern GnRateVerdict gn_rate_take(const char *scope, const void *key, size_t len,
								  int64 burst, int64 period_us, int64 cost);
extern GnRateVerdict gn_rate_peek(const char *scope, const void *key, size_t len,
								  int64 burst, int64 period_us, int64 cost);
/* The bucket is full again; true if there was one. */
extern bool gn_rate_forget(const char *scope, const void *key, size_t len);

/*
 * Failed attempts under grownext.failure_limit and grownext.failure_period. "allowed"
 * of check: one more attempt may be made; of note: this one was within the limit.
 */
extern GnRateVerdict gn_failure_check(const char *scope, const void *key, size_t len);
extern GnRateVerdict gn_failure_note(const char *scope, const void *key, size_t len);
extern void gn_failure_clear(const char *scope, const void *key, size_t len);

/* Of the whole table, for status(). */
typedef struct GnRateUse
{
	bool shared; /* false: this backend's own buckets, for want of preload */
	int64 buckets;
	int64 used;
	int64 evicted;          /* buckets in use that gave way to others */
	TimestampTz evicted_at; /* the last one; 0: never */
} GnRateUse;
extern GnRateUse gn_rate_use(void);

/* An interval as a period, days of 24 hours and months of 30 days; 0: out of range. */
extern int64 gn_interval_period(const Interval *interval);

/* For core's descriptor. */
extern void gn_rate_init(void);
extern void gn_limits_init(void);
extern Size gn_rate_shmem_size(void);
extern void gn_rate_shmem_init(void);

#endif
