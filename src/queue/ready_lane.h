/* src/queue/ready_lane.h -- queues, levels and lanes in shared memory; private to
 * ready*.c */
#ifndef GN_QUEUE_READY_LANE_H
#define GN_QUEUE_READY_LANE_H

#include "postgres.h"

#include "storage/condition_variable.h"
#include "storage/lwlock.h"

#include "queue/ready.h"

#define GN_NONE (-1)
#define GN_QUEUE_NAME 104
#define GN_BLOCK_IDS 128
#define GN_LANE_BLOCKS 8
#define GN_SHORT_KEY 40
#define GN_READY_QUEUES 1024
#define GN_READY_DATABASES 64
#define GN_READY_BUCKETS 4096

typedef union GnReadyBlock
{
	int next; /* of the free ones */
	int64 ids[GN_BLOCK_IDS];
	char key[GN_READY_MAX_KEY + 1];
} GnReadyBlock;

/* The window's first ids; position / GN_BLOCK_IDS says in which block. */
typedef struct GnReadyLane
{
	int next; /* of its bucket, or of the free ones */
	int queue;
	int level;
	uint64 hash; /* of the group's key; 0: jobs without a group */
	char key[GN_SHORT_KEY];
	int key_block; /* of a longer key */
	int before;    /* in the ring */
	int after;     /* in the ring; GN_NONE: not in it */
	uint32 first;
	uint32 count;
	int block[GN_LANE_BLOCKS];
	int64 beyond; /* from this id on the table has more; 0: it has not */
	pid_t reader; /* who reads it; 0: nobody */
	int64 read_from;
} GnReadyLane;

typedef struct GnReadyLevel
{
	int next; /* of the queue, with a higher priority number; or of the free ones */
	int priority;
	int lanes; /* in the ring or being read */
	int head;  /* of the ring: whose turn it is */
} GnReadyLevel;

typedef struct GnReadyQueue
{
	Oid database; /* InvalidOid: free */
	uint32 hash;  /* of the name */
	char name[GN_QUEUE_NAME];
	int levels;
	bool unknown; /* it has lanes that are not here */
	pid_t reader;
	int64 hints;
} GnReadyQueue;

typedef struct GnReadyMemory
{
	LWLock lock;
	int tranche;
	Oid known[GN_READY_DATABASES]; /* whose queues with ready jobs are here */
	uint64 forgotten;              /* how often one was forgotten */
	ConditionVariable read;        /* somebody has read */
	int queue_count;               /* queues behind these were never used */
	int lane_count;
	int free_lanes; /* how many */
	int free_lane;
	int free_level;
	int free_block;
	GnReadyQueue queue[GN_READY_QUEUES];
	int bucket[GN_READY_BUCKETS];
	GnReadyLane *lane;
	GnReadyLevel *level; /* as many as lanes */
	GnReadyBlock *block;
} GnReadyMemory;

/* NULL without preload. */
extern GnReadyMemory *gn_ready_memory;

/* All with the lock held. The lane or NULL; make: NULL when there is no room. */
extern GnReadyLane *gn_lane_find(const GnReadyQueue *queue, const GnLane *wanted);
extern GnReadyLane *gn_lane_make(GnReadyQueue *queue, const GnLane *wanted);
extern void gn_lane_describe(const GnReadyLane *lane, GnLane *to);

/* After a change: into the ring, as the last, if it has something, out of it if not,
 * and gone if it will have nothing. */
extern void gn_lane_place(GnReadyLane *lane);

extern void gn_lane_insert(GnReadyLane *lane, int64 id);
extern int64 gn_lane_remove_first(GnReadyLane *lane);
extern void gn_lane_cut(GnReadyLane *lane, int64 beyond);

#endif
