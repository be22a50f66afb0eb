/* src/queue/ready.h -- which jobs to try next, in shared memory; private to the queue
 */
#ifndef GN_QUEUE_READY_H
#define GN_QUEUE_READY_H

#include "postgres.h"

/*
 * Hints, and never the truth: the job's row says whether it is ready, and who has it.
 * A hint too many costs a look at a row; one too few would leave a job lying about, so
 * whoever may have lost one says that the queue must be read.
 *
 * All of this does nothing without preload.
 */

/* ready.c: the memory. These take its lock and throw nothing. */

/* A lane: the jobs of one priority and one group, in the order of their ids. */
#define GN_READY_MAX_KEY 512
typedef struct GnLane
{
	int priority;
	bool grouped;
	char key[GN_READY_MAX_KEY + 1]; /* of the group */
} GnLane;

static inline GnLane
gn_ready_lane(int priority, const char *group_key)
{
	GnLane lane = {.priority = priority, .grouped = group_key != NULL};

	strlcpy(lane.key, group_key ? group_key : "", sizeof(lane.key));
	return lane;
}

/* What a look at a queue came to. */
typedef enum GnReady
{
	GN_READY_TAKEN,   /* so many ids as asked for, or all there are */
	GN_READY_LANE,    /* this lane must be read first, from this id on */
	GN_READY_UNKNOWN, /* the queue must be read first: which lanes it has */
	GN_READY_BUSY,    /* others read what there is; wait, and ask again */
	GN_READY_NO_PLACE /* the queue has none in memory, and may have jobs */
} GnReady;

/* False: there was no lane, and the queue must be read. */
extern bool gn_ready_put(Oid database, const char *name, const GnLane *wanted,
						 const int64 *ids, int count, int64 beyond);
/* Adds to the ids; with some in hand it does not ask for more to be read. */
extern GnReady gn_ready_pop(const char *name, int most, int64 *ids, int *count,
							GnLane *lane, int64 *from);
extern void gn_ready_lane_read(const char *name, const GnLane *wanted, const int64 *ids,
							   int count, int64 beyond);
extern void gn_ready_queue_read(const char *name, bool complete);
extern void gn_ready_wait(void);

/* The queue, or with NULL all queues of the database, must be read. */
extern void gn_ready_unknown(Oid database, const char *name);

/* About how many jobs of a queue wait, at most so many: never 0 when there is one. */
extern int gn_ready_count(const char *name, int most);

/* Names of this database's queues in which something may be ready, palloc'd. */
extern int gn_ready_queues(char ***names);

/* Whether it is not known which queues of the database have ready jobs; then it is up
 * to the caller to find out. */
extern bool gn_ready_database_unknown(uint64 *forgotten);
extern void gn_ready_database_read(uint64 forgotten);

extern void gn_ready_define_settings(void);
extern Size gn_ready_shmem_size(void);
extern void gn_ready_shmem_init(void);

/* ready_note.c: what a transaction has to say when it has committed. */
extern void gn_ready_init(void);
extern void
gn_ready_note(const char *queue, int priority, const char *group_key, int64 id);
extern void gn_ready_note_unknown(const char *queue);

/* Who takes jobs that the same transaction has enqueued finds them. */
extern void gn_ready_say_early(const char *queue);

/* What this transaction took, or locked, is there for others again if it rolls back:
 * then the queue must be read. */
extern void gn_ready_note_taken(const char *queue);

/* ready_read.c: the next jobs to try, read from the table where the memory ends. Run
 * between gn_spi_begin and gn_spi_end. */
extern int gn_ready_take(const char *queue, int most, int64 *ids);

/* Whether one of them is there to be run. */
extern bool gn_ready_any(const char *queue);

/* Unpaused queues with a handler in which something may be ready, by name, palloc'd. */
extern int gn_ready_names(char ***queues);

#endif
