/*
 * src/core/rate.c
 *	  The buckets of rate limits, in shared memory of a fixed size.
 *
 * A bucket counts its debt: units taken, times the period in microseconds. One
 * microsecond pays off "burst" of it, so all arithmetic is on whole numbers and
 * nothing is lost by rounding. Terms are refused where burst * period would not fit.
 *
 * Buckets lie in partitions, each with its lock, chains and free list. In a partition
 * without a free bucket the one that would be full again first gives way: mostly one
 * that is full already, and so says nothing. Whoever sprays keys to push out the
 * bucket of a limit that he has used up pushes out his own young ones first.
 *
 * Nothing throws while a lock is held. A crash forgets everything, as a restart does.
 * Without preload a backend has buckets of its own: a limit then holds per session,
 * and status() says so.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/siphash.h"

#define PARTITIONS 64
#define PRIVATE_MEMORY_KB 64
#define NOBODY (-1)

typedef struct RateKey
{
	uint64 hash[2];
	Oid database;
} RateKey;

typedef struct RateBucket
{
	RateKey key;
	int32 next; /* in the chain or in the free list, or NOBODY */
	int64 burst;
	int64 period;
	int64 debt; /* as of "at": units * period */
	TimestampTz at;
} RateBucket;

typedef struct RatePartition
{
	LWLock lock;
	int32 free; /* head of the free list */
	int32 used;
	int64 evicted;
	TimestampTz evicted_at;
} RatePartition;

typedef union RatePartitionPadded
{
	RatePartition partition;
	char padding[PG_CACHE_LINE_SIZE];
} RatePartitionPadded;

typedef struct RateTable
{
	uint64 secret[2]; /* of the hash */
	int tranche;
	bool shared;
	int32 chains;  /* per partition; a power of two */
	int32 buckets; /* per partition */
	RatePartitionPadded partition[PARTITIONS];
	/* int32 heads[PARTITIONS * chains], then the buckets */
} RateTable;

static int rate_memory = 4096;
static RateTable *table = NULL;

static int32
buckets_per_partition(int memory_kb)
{
	/* a bucket has at most two chains, see chains_per_partition() */
	return (int32) ((int64) memory_kb * 1024 /
					(sizeof(RateBucket) + 2 * sizeof(int32)) / PARTITIONS);
}

static int32
chains_per_partition(int32 buckets)
{
	int32 chains = 1;

	while (chains < buckets)
		chains *= 2;
	return chains;
}

static Size
heads_offset(void)
{
	return MAXALIGN(sizeof(RateTable));
}

static Size
buckets_offset(int32 chains)
{
	return add_size(heads_offset(),
					MAXALIGN(mul_size((Size) PARTITIONS * chains, sizeof(int32))));
}

static Size
table_size(int memory_kb)
{
	int32 buckets = buckets_per_partition(memory_kb);

	return add_size(buckets_offset(chains_per_partition(buckets)),
					mul_size((Size) PARTITIONS * buckets, sizeof(RateBucket)));
}

static int32 *
heads_of(int partition)
{
	return (int32 *) ((char *) table + heads_offset()) +
		   (Size) partition * table->chains;
}

static RateBucket *
buckets_of(int partition)
{
	return (RateBucket *) ((char *) table + buckets_offset(table->chains)) +
		   (Size) partition * table->buckets;
}

/* Lays an empty table out; whoever preloads has locks to set up besides. */
static void
lay_out(int memory_kb, bool shared)
{
	table->shared = shared;
	table->buckets = buckets_per_partition(memory_kb);
	table->chains = chains_per_partition(table->buckets);
	if (!pg_strong_random(table->secret, sizeof(table->secret)))
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("could not generate a random key")));
	for (int p = 0; p < PARTITIONS; p++)
	{
		RatePartition *partition = &table->partition[p].partition;
		RateBucket *buckets = buckets_of(p);

		for (int32 c = 0; c < table->chains; c++)
			heads_of(p)[c] = NOBODY;
		for (int32 b = 0; b < table->buckets; b++)
			buckets[b].next = b + 1 < table->buckets ? b + 1 : NOBODY;
		partition->free = 0;
		partition->used = 0;
		partition->evicted = 0;
		partition->evicted_at = 0;
	}
}

Size
gn_rate_shmem_size(void)
{
	return table_size(rate_memory);
}

void
gn_rate_shmem_init(void)
{
	bool found;

	table = ShmemInitStruct("grownext rate limits", gn_rate_shmem_size(), &found);
	if (!found)
	{
		lay_out(rate_memory, true);
		table->tranche = LWLockNewTrancheId();
		for (int p = 0; p < PARTITIONS; p++)
			LWLockInitialize(&table->partition[p].partition.lock, table->tranche);
	}
	LWLockRegisterTranche(table->tranche, "grownext_rate_limits");
}

/* Buckets of this backend alone, where there is no shared memory. */
static void
need_table(void)
{
	RateTable *fresh;

	if (table)
		return;
	fresh = MemoryContextAllocZero(TopMemoryContext, table_size(PRIVATE_MEMORY_KB));
	table = fresh;
	lay_out(PRIVATE_MEMORY_KB, false);
}

static RatePartition *
lock_partition(int number, LWLockMode mode)
{
	RatePartition *partition = &table->partition[number].partition;

	if (table->shared)
		LWLockAcquire(&partition->lock, mode);
	return partition;
}

static void
unlock_partition(RatePartition *partition)
{
	if (table->shared)
		LWLockRelease(&partition->lock);
}

static RateKey
make_key(const char *scope, const void *key, size_t len)
{
	RateKey made = {.database = MyDatabaseId};
	uint64 scope_key[2];

	/* The scope's hash is the key's key: no scope can spell another one's keys. */
	gn_siphash(table->secret, scope, strlen(scope), scope_key);
	gn_siphash(scope_key, key, len, made.hash);
	return made;
}

static int
partition_of(const RateKey *key)
{
	return (int) (key->hash[0] % PARTITIONS);
}

/* The link that leads to the key's bucket, or the one at the end of its chain. */
static int32 *
find_link(int partition, const RateKey *key)
{
	RateBucket *buckets = buckets_of(partition);
	int32 *link = &heads_of(partition)[key->hash[1] & (uint64) (table->chains - 1)];

	while (*link != NOBODY)
	{
		const RateKey *other = &buckets[*link].key;

		if (other->hash[0] == key->hash[0] && other->hash[1] == key->hash[1] &&
			other->database == key->database)
			break;
		link = &buckets[*link].next;
	}
	return link;
}

static int64
divide_up(int64 number, int64 by)
{
	return number / by + (number % by > 0 ? 1 : 0);
}

static TimestampTz
full_at(const RateBucket *bucket)
{
	return bucket->at + divide_up(bucket->debt, bucket->burst);
}

/* Takes the bucket out of its chain and puts it at the head of the free list. */
static void
release_bucket(RatePartition *partition, int number, int32 *link)
{
	int32 index = *link;
	RateBucket *bucket = &buckets_of(number)[index];

	*link = bucket->next;
	bucket->next = partition->free;
	partition->free = index;
	partition->used--;
}

/* Makes room: the bucket that is full again first says least. */
static void
evict_one(RatePartition *partition, int number, TimestampTz now)
{
	RateBucket *buckets = buckets_of(number);
	int32 victim = 0;

	for (int32 b = 1; b < table->buckets; b++)
	{
		if (full_at(&buckets[b]) < full_at(&buckets[victim]))
			victim = b;
	}
	if (full_at(&buckets[victim]) > now)
	{
		partition->evicted++;
		partition->evicted_at = now;
	}
	release_bucket(partition, number, find_link(number, &buckets[victim].key));
}

static RateBucket *
add_bucket(RatePartition *partition, int number, const RateKey *key, TimestampTz now)
{
	RateBucket *bucket;
	int32 *link;
	int32 index;

	if (partition->free == NOBODY)
		evict_one(partition, number, now);
	index = partition->free;
	bucket = &buckets_of(number)[index];
	partition->free = bucket->next;
	partition->used++;
	link = find_link(number, key);
	bucket->next = NOBODY;
	bucket->key = *key;
	*link = index;
	return bucket;
}

/* The debt of a bucket now, under terms that may be new. */
static int64
current_debt(const RateBucket *bucket, int64 burst, int64 period, TimestampTz now)
{
	/* a clock that was set back pays nothing off and takes nothing away */
	int64 elapsed = Max(now - bucket->at, 0);
	int64 debt;
	int64 units;

	if (elapsed >= bucket->period)
		return 0;
	debt = Max(bucket->debt - elapsed * bucket->burst, 0);
	if (bucket->burst == burst && bucket->period == period)
		return debt;
	units = Min(divide_up(debt, bucket->period), burst);
	return units * period;
}

static GnRateVerdict
judge(int64 debt, int64 burst, int64 period, int64 cost, TimestampTz now)
{
	GnRateVerdict verdict = {.limit = burst};
	int64 lacking = cost > burst ? 0 : debt - (burst - cost) * period;

	verdict.allowed = cost <= burst && lacking <= 0;
	verdict.remaining = burst - divide_up(debt, period);
	verdict.reset_at = now + divide_up(debt, burst);
	if (verdict.allowed)
		verdict.retry_at = now;
	else
		verdict.retry_at = cost > burst ? DT_NOEND : now + divide_up(lacking, burst);
	return verdict;
}

static void
check_terms(int64 burst, int64 period, int64 cost)
{
	if (burst < 1 || cost < 0 || period < 1 || period > GN_RATE_MAX_PERIOD ||
		burst > PG_INT64_MAX / period)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid terms of a rate limit"),
				 errdetail(
					 "The burst is at least 1, the cost at least 0, the period up "
					 "to 366 days, and burst times the period in microseconds at "
					 "most 2^63 - 1.")));
}

static GnRateVerdict
ask(const char *scope, const void *key, size_t len, int64 burst, int64 period,
	int64 cost, bool take)
{
	RateKey wanted;
	RatePartition *partition;
	RateBucket *bucket = NULL;
	GnRateVerdict verdict;
	TimestampTz now;
	int64 debt = 0;
	int number;
	int32 index;

	check_terms(burst, period, cost);
	need_table();
	wanted = make_key(scope, key, len);
	number = partition_of(&wanted);
	partition = lock_partition(number, take ? LW_EXCLUSIVE : LW_SHARED);
	now = gn_now(); /* under the lock: time never runs backwards for a bucket */
	index = *find_link(number, &wanted);
	if (index != NOBODY)
	{
		bucket = &buckets_of(number)[index];
		debt = current_debt(bucket, burst, period, now);
	}
	verdict = judge(debt, burst, period, cost, now);
	if (take && verdict.allowed && cost > 0)
	{
		if (bucket == NULL)
			bucket = add_bucket(partition, number, &wanted, now);
		debt += cost * period;
		bucket->burst = burst;
		bucket->period = period;
		bucket->debt = debt;
		bucket->at = now;
		verdict.remaining = burst - divide_up(debt, period);
		verdict.reset_at = now + divide_up(debt, burst);
	}
	unlock_partition(partition);
	return verdict;
}

GnRateVerdict
gn_rate_take(const char *scope, const void *key, size_t len, int64 burst,
			 int64 period_us, int64 cost)
{
	return ask(scope, key, len, burst, period_us, cost, true);
}

GnRateVerdict
gn_rate_peek(const char *scope, const void *key, size_t len, int64 burst,
			 int64 period_us, int64 cost)
{
	return ask(scope, key, len, burst, period_us, cost, false);
}

bool
gn_rate_forget(const char *scope, const void *key, size_t len)
{
	RateKey wanted;
	RatePartition *partition;
	int32 *link;
	bool found;
	int number;

	need_table();
	wanted = make_key(scope, key, len);
	number = partition_of(&wanted);
	partition = lock_partition(number, LW_EXCLUSIVE);
	link = find_link(number, &wanted);
	found = *link != NOBODY;
	if (found)
		release_bucket(partition, number, link);
	unlock_partition(partition);
	return found;
}

GnRateUse
gn_rate_use(void)
{
	GnRateUse use = {0};

	need_table();
	use.shared = table->shared;
	use.buckets = (int64) PARTITIONS * table->buckets;
	for (int p = 0; p < PARTITIONS; p++)
	{
		RatePartition *partition = lock_partition(p, LW_SHARED);

		use.used += partition->used;
		use.evicted += partition->evicted;
		use.evicted_at = Max(use.evicted_at, partition->evicted_at);
		unlock_partition(partition);
	}
	return use;
}

void
gn_rate_init(void)
{
	DefineCustomIntVariable("grownext.rate_limit_memory",
							"Shared memory for rate limits and failed attempts.",
							"About 72 bytes for each limit that is partly used up.",
							&rate_memory, 4096, 64, 1024 * 1024, GN_PGC_POSTMASTER,
							GUC_UNIT_KB, NULL, NULL, NULL);
}
