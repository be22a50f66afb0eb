/*
 * src/queue/histogram.c
 *	  Log-linear histograms of times: buckets, sums and percentiles.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "port/pg_bitutils.h"
#include "utils/array.h"

#include "core/core.h"
#include "queue/histogram.h"

GN_FUNCTION(gn_queue_histogram_add);
GN_FUNCTION(gn_queue_percentile);

#define STEPS (1 << GN_HISTOGRAM_STEPS)

int
gn_histogram_bucket(int64 microseconds)
{
	int highest;
	int step;

	if (microseconds < (INT64CONST(1) << GN_HISTOGRAM_LOWEST))
		return 0;
	highest = pg_leftmost_one_pos64((uint64) microseconds);
	if (highest >= GN_HISTOGRAM_HIGHEST)
		return GN_HISTOGRAM_BUCKETS - 1;
	step = (int) (microseconds >> (highest - GN_HISTOGRAM_STEPS)) & (STEPS - 1);
	return 1 + (highest - GN_HISTOGRAM_LOWEST) * STEPS + step;
}

/* The least time that falls into a bucket. */
static double
lower_bound(int bucket)
{
	int highest;

	if (bucket == 0)
		return 0;
	highest = GN_HISTOGRAM_LOWEST + (bucket - 1) / STEPS;
	return (double) ((INT64CONST(1) << highest) + ((int64) ((bucket - 1) % STEPS)
												   << (highest - GN_HISTOGRAM_STEPS)));
}

static ArrayType *
make_array(const int64 *counts, int first, int last)
{
	int dims[1] = {last - first + 1};
	int lower[1] = {first};
	Datum *values = palloc(dims[0] * sizeof(Datum));

	for (int i = first; i <= last; i++)
		values[i - first] = Int64GetDatum(counts[i]);
	return construct_md_array(values, NULL, 1, dims, lower, INT8OID, sizeof(int64),
							  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
}

Datum
gn_histogram_array(const uint32 *buckets)
{
	int64 counts[GN_HISTOGRAM_BUCKETS];
	int first = -1;
	int last = -1;

	for (int i = 0; i < GN_HISTOGRAM_BUCKETS; i++)
	{
		counts[i] = buckets[i];
		if (buckets[i] == 0)
			continue;
		if (first < 0)
			first = i;
		last = i;
	}
	if (first < 0)
		return (Datum) 0;
	return PointerGetDatum(make_array(counts, first, last));
}

/* A stored histogram: its counts, and which buckets they are of. */
typedef struct Stored
{
	const int64 *counts;
	int first;
	int last;
} Stored;

static Stored
read_array(ArrayType *array)
{
	Stored stored = {.counts = (const int64 *) ARR_DATA_PTR(array)};
	int count = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));

	if (ARR_NDIM(array) == 1)
		stored.first = ARR_LBOUND(array)[0];
	stored.last = stored.first + count - 1;
	if (ARR_NDIM(array) != 1 || array_contains_nulls(array) || stored.first < 0 ||
		stored.last >= GN_HISTOGRAM_BUCKETS)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("malformed histogram")));
	return stored;
}

/* SQL: _grownext.queue_histogram_add(bigint[], bigint[]) */
Datum
gn_queue_histogram_add(PG_FUNCTION_ARGS)
{
	Stored addends[2] = {read_array(PG_GETARG_ARRAYTYPE_P(0)),
						 read_array(PG_GETARG_ARRAYTYPE_P(1))};
	int64 sum[GN_HISTOGRAM_BUCKETS] = {0};

	for (int a = 0; a < 2; a++)
	{
		for (int i = addends[a].first; i <= addends[a].last; i++)
			sum[i] += addends[a].counts[i - addends[a].first];
	}
	PG_RETURN_ARRAYTYPE_P(make_array(sum, Min(addends[0].first, addends[1].first),
									 Max(addends[0].last, addends[1].last)));
}

/* SQL: _grownext.queue_percentile(histogram bigint[], share double precision): in
 * milliseconds, as if the times of a bucket were spread evenly. */
Datum
gn_queue_percentile(PG_FUNCTION_ARGS)
{
	Stored stored = read_array(PG_GETARG_ARRAYTYPE_P(0));
	double share = PG_GETARG_FLOAT8(1);
	double total = 0;
	double rank;

	for (int i = stored.first; i <= stored.last; i++)
		total += (double) stored.counts[i - stored.first];
	if (!(total > 0))
		PG_RETURN_NULL();
	rank = share * total;
	for (int i = stored.first; i <= stored.last; i++)
	{
		double count = (double) stored.counts[i - stored.first];
		double from = lower_bound(i);

		if (count > 0 && rank <= count)
			PG_RETURN_FLOAT8((from + (lower_bound(i + 1) - from) * rank / count) /
							 1000.0);
		rank -= count;
	}
	PG_RETURN_FLOAT8(lower_bound(stored.last + 1) / 1000.0);
}
