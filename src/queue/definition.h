/* src/queue/definition.h -- queues as this backend knows them, and who may use them;
 * private to the queue */
#ifndef GN_QUEUE_DEFINITION_H
#define GN_QUEUE_DEFINITION_H

#include "postgres.h"

/* Valid until the next look-up; never hold one across a query. */
typedef struct GnQueue
{
	char *name;
	int concurrency;   /* 0: no limit */
	int rate_count;    /* jobs that begin in rate_period; 0: no limit */
	int64 rate_period; /* microseconds */
	int weight;        /* of its share of executors' time */
	int max_attempts;
	double backoff_base; /* seconds */
	double backoff_cap;
	int64 timeout; /* milliseconds */
	bool ordered;
	bool expire;
	bool paused;
	char *handler; /* qualified and quoted, or NULL */
	bool handler_takes_job;
	char *run_as;
	int64 sla_within; /* us a job may wait; 0: no SLA */
} GnQueue;

extern void gn_definition_init(void);

/* The queue, or NULL. */
extern const GnQueue *gn_queue_find(const char *name);

/* The queue, which nobody can drop before this transaction ends; raises when there is
 * none. */
extern const GnQueue *gn_queue_open(const char *name);

/* The names of queues with a rate limit, palloc'd; how many. */
extern int gn_queue_limited(const char ***names);

/* Queues of the platform itself, which SQL callers cannot name. */
extern bool gn_queue_is_internal(const char *name);

/* Right "enqueue" or "work": by grant, or as service or admin. */
extern bool gn_queue_user_may(Oid user, const char *queue, const char *right);

/* Seconds until a job that has failed so often before this time is tried again. */
extern double gn_queue_backoff(const GnQueue *queue, int failures);

#endif
