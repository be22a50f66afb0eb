/* src/queue/histogram.h -- log-linear histograms of times; private to the queue */
#ifndef GN_QUEUE_HISTOGRAM_H
#define GN_QUEUE_HISTOGRAM_H

#include "postgres.h"

/*
 * Bucket 0 holds what took less than 64 us. Each doubling of the time from there on has
 * eight buckets of equal width, up to 25 days; the last one holds all that took longer.
 * A time read from a histogram is at most an eighth off.
 */
#define GN_HISTOGRAM_LOWEST 6 /* bits */
#define GN_HISTOGRAM_HIGHEST 41
#define GN_HISTOGRAM_STEPS 3 /* bits */
#define GN_HISTOGRAM_BUCKETS                                                           \
	(1 + ((GN_HISTOGRAM_HIGHEST - GN_HISTOGRAM_LOWEST) << GN_HISTOGRAM_STEPS))

extern int gn_histogram_bucket(int64 microseconds);

/*
 * As bigint[], from the first bucket in use to the last, with subscripts that are the
 * buckets' numbers; (Datum) 0 when all are empty. So a histogram of few times is small
 * and two add up by subscript.
 */
extern Datum gn_histogram_array(const uint32 *buckets);

#endif
