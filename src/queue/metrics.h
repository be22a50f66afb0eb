/* src/queue/metrics.h -- what happens in each queue and how long it takes, counted in
 * shared memory; private to the queue */
#ifndef GN_QUEUE_METRICS_H
#define GN_QUEUE_METRICS_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "queue/definition.h"
#include "queue/storage.h"

typedef enum GnMeasure
{
	GN_MEASURE_ENQUEUED,
	GN_MEASURE_STARTED,
	GN_MEASURE_SUCCEEDED,
	GN_MEASURE_FAILED, /* and will be tried again */
	GN_MEASURE_DEAD,
	GN_MEASURE_CANCELLED,
	GN_MEASURE_SNOOZED,
	GN_MEASURE_FORGET /* the queue is dropped */
} GnMeasure;

typedef struct GnMeasurement
{
	GnMeasure what;
	int count;
	TimestampTz at;
	int64 time;   /* us: of a start the wait, of an end the run; -1: not known */
	int64 within; /* us: the wait that the queue's SLA allows; 0: it has none */
	bool missed;  /* a job that is over, after its deadline */
} GnMeasurement;

/* Counts at once, or when the transaction commits. The first throws nothing; both do
 * nothing without preload. */
extern void
gn_metrics_note(const char *queue, const GnMeasurement *measurements, int count);
extern void
gn_metrics_note_at_commit(const char *queue, const GnMeasurement *measurement);

/* An attempt begins. It waits since it was due, or since it was enqueued if it was due
 * before that. */
extern GnMeasurement
gn_metrics_start(const GnQueue *queue, const GnJob *job, TimestampTz at);

/* An attempt, begun at that time (0: not known), ends. */
extern GnMeasurement gn_metrics_end(GnMeasure what, const GnJob *job,
									TimestampTz started_at, TimestampTz at);

extern void gn_metrics_init(void);
extern Size gn_metrics_shmem_size(void);
extern void gn_metrics_shmem_init(void);

#endif
