/*
 * src/queue/ready.c
 *	  Which jobs to try next: windows on the table, in shared memory.
 *
 * Who claims jobs by a scan of the table's index pays for all that were there since the
 * oldest snapshot: dead entries lie at its head. Here whoever enqueues says at commit
 * what is ready, and the index is read only where the memory ends, from there on.
 *
 * Each queue has lanes, one for every priority and group with ready jobs. A lane is a
 * window: the first ids in their order, and the id from which on the table has more.
 * Lanes of the same priority take turns, a job each, so a group with a million jobs
 * delays the first job of another by one round. Jobs without a group are one lane.
 *
 *	queue -> levels, by priority -> ring of lanes -> blocks of ids
 *
 * Levels, lanes and blocks come from pools of a fixed size. A lane without a block for
 * another id remembers where the rest begins; a job that finds no lane leaves its queue
 * to be read again when there are some.
 *
 * One lock guards it all. Nothing throws while it is held.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/guc.h"

#include "core/core.h"
#include "queue/ready_lane.h"

GnReadyMemory *gn_ready_memory = NULL;
#define WAIT_MS 100 /* for a reader, who may be gone */

static int memory_kb = 8192;

void
gn_ready_define_settings(void)
{
	DefineCustomIntVariable(
		"grownext.queue_memory",
		"Shared memory for the order of ready jobs, in all databases.",
		"What does not fit is read from the table when its turn comes.", &memory_kb,
		8192, 1024, 1024 * 1024, GN_PGC_POSTMASTER, GUC_UNIT_KB, NULL, NULL, NULL);
}

/* One part in four for lanes. */
static int
lanes_in_memory(void)
{
	return (int) (memory_kb * INT64CONST(256) /
				  (sizeof(GnReadyLane) + sizeof(GnReadyLevel)));
}

static int
blocks_in_memory(void)
{
	return (int) (memory_kb * INT64CONST(768) / sizeof(GnReadyBlock));
}

Size
gn_ready_shmem_size(void)
{
	Size size = MAXALIGN(sizeof(GnReadyMemory));

	size = add_size(size, MAXALIGN(mul_size(lanes_in_memory(), sizeof(GnReadyLane))));
	size = add_size(size, MAXALIGN(mul_size(lanes_in_memory(), sizeof(GnReadyLevel))));
	return add_size(size, MAXALIGN(mul_size(blocks_in_memory(), sizeof(GnReadyBlock))));
}

static void
make_pools(void)
{
	char *memory = (char *) gn_ready_memory + MAXALIGN(sizeof(GnReadyMemory));

	gn_ready_memory->lane_count = gn_ready_memory->free_lanes = lanes_in_memory();
	gn_ready_memory->lane = (GnReadyLane *) memory;
	memory += MAXALIGN(mul_size(gn_ready_memory->lane_count, sizeof(GnReadyLane)));
	gn_ready_memory->level = (GnReadyLevel *) memory;
	memory += MAXALIGN(mul_size(gn_ready_memory->lane_count, sizeof(GnReadyLevel)));
	gn_ready_memory->block = (GnReadyBlock *) memory;
	for (int i = 0; i < gn_ready_memory->lane_count; i++)
		gn_ready_memory->lane[i].next = gn_ready_memory->level[i].next =
			i + 1 < gn_ready_memory->lane_count ? i + 1 : GN_NONE;
	for (int i = 0; i < blocks_in_memory(); i++)
		gn_ready_memory->block[i].next = i + 1 < blocks_in_memory() ? i + 1 : GN_NONE;
	for (int i = 0; i < GN_READY_BUCKETS; i++)
		gn_ready_memory->bucket[i] = GN_NONE;
}

void
gn_ready_shmem_init(void)
{
	bool found;

	gn_ready_memory =
		ShmemInitStruct("grownext ready jobs", gn_ready_shmem_size(), &found);
	if (found)
		return;
	memset(gn_ready_memory, 0, gn_ready_shmem_size());
	gn_ready_memory->tranche = LWLockNewTrancheId();
	LWLockInitialize(&gn_ready_memory->lock, gn_ready_memory->tranche);
	ConditionVariableInit(&gn_ready_memory->read);
	make_pools();
}

static void
acquire(LWLockMode mode)
{
	static bool named = false;

	if (!named)
	{
		LWLockRegisterTranche(gn_ready_memory->tranche, "GrowNextReady");
		named = true;
	}
	LWLockAcquire(&gn_ready_memory->lock, mode);
}

/* ---- queues ---- */

static uint32
name_hash(const char *name)
{
	return hash_bytes((const unsigned char *) name, (int) strlen(name));
}

static GnReadyQueue *
find_queue(Oid database, const char *name)
{
	uint32 hash = name_hash(name);

	for (int i = 0; i < gn_ready_memory->queue_count; i++)
	{
		GnReadyQueue *queue = &gn_ready_memory->queue[i];

		if (queue->hash == hash && queue->database == database &&
			strcmp(queue->name, name) == 0)
			return queue;
	}
	return NULL;
}

static bool
is_empty(const GnReadyQueue *queue)
{
	return queue->levels == GN_NONE && queue->reader == 0 && !queue->unknown;
}

static bool
is_known(Oid database)
{
	for (int i = 0; i < GN_READY_DATABASES; i++)
	{
		if (gn_ready_memory->known[i] == database)
			return true;
	}
	return false;
}

static void
forget_database(Oid database)
{
	gn_ready_memory->forgotten++;
	for (int i = 0; i < GN_READY_DATABASES; i++)
	{
		if (gn_ready_memory->known[i] == database)
			gn_ready_memory->known[i] = InvalidOid;
	}
}

/* A queue that has no place leaves its database to be read. */
static GnReadyQueue *
make_queue(Oid database, const char *name)
{
	GnReadyQueue *queue = find_queue(database, name);

	if (queue)
		return queue;
	for (int i = 0; i < gn_ready_memory->queue_count && queue == NULL; i++)
	{
		if (gn_ready_memory->queue[i].database == InvalidOid ||
			is_empty(&gn_ready_memory->queue[i]))
			queue = &gn_ready_memory->queue[i];
	}
	if (queue == NULL && gn_ready_memory->queue_count < GN_READY_QUEUES)
		queue = &gn_ready_memory->queue[gn_ready_memory->queue_count++];
	if (queue == NULL)
	{
		forget_database(database);
		return NULL;
	}
	memset(queue, 0, sizeof(GnReadyQueue));
	queue->database = database;
	queue->hash = name_hash(name);
	queue->levels = GN_NONE;
	strlcpy(queue->name, name, GN_QUEUE_NAME);
	return queue;
}

/* ---- in ---- */

bool
gn_ready_put(Oid database, const char *name, const GnLane *wanted, const int64 *ids,
			 int count, int64 beyond)
{
	GnReadyQueue *queue;
	GnReadyLane *lane;
	bool put;

	if (gn_ready_memory == NULL)
		return true;
	acquire(LW_EXCLUSIVE);
	queue = make_queue(database, name);
	lane = queue ? gn_lane_make(queue, wanted) : NULL;
	put = lane != NULL;
	if (lane)
	{
		for (int i = 0; i < count; i++)
			gn_lane_insert(lane, ids[i]);
		gn_lane_cut(lane, beyond);
		gn_lane_place(lane);
	}
	else if (queue)
		queue->unknown = true;
	LWLockRelease(&gn_ready_memory->lock);
	return put;
}

void
gn_ready_unknown(Oid database, const char *name)
{
	GnReadyQueue *queue;

	if (gn_ready_memory == NULL)
		return;
	acquire(LW_EXCLUSIVE);
	if (name == NULL)
	{
		forget_database(database);
		for (int i = 0; i < gn_ready_memory->queue_count; i++)
			gn_ready_memory->queue[i].unknown |=
				gn_ready_memory->queue[i].database == database;
	}
	else
	{
		queue = make_queue(database, name);
		if (queue)
			queue->unknown = true;
	}
	LWLockRelease(&gn_ready_memory->lock);
}

/* ---- out ---- */

/* Whether somebody reads: not a process that is gone, nor this one, which asks. */
static bool
is_reading(pid_t pid)
{
	return pid != 0 && pid != MyProcPid && BackendPidGetProc(pid) != NULL;
}

/* Whose reader is gone is read by another. */
static void
mend_lanes(GnReadyQueue *queue)
{
	int number = (int) (queue - gn_ready_memory->queue);
	GnReadyLane *lanes = gn_ready_memory->lane;

	for (int i = 0; lanes && i < gn_ready_memory->lane_count; i++)
	{
		GnReadyLane *lane = &lanes[i];

		if (lane->reader == 0 || lane->queue != number || is_reading(lane->reader))
			continue;
		lane->reader = 0;
		gn_lane_cut(lane, lane->read_from);
		gn_lane_place(lane);
	}
}

/* The lane whose turn it is, or NULL. */
static GnReadyLane *
first_lane(const GnReadyQueue *queue)
{
	for (int level = queue->levels; level != GN_NONE;
		 level = gn_ready_memory->level[level].next)
	{
		if (gn_ready_memory->level[level].head != GN_NONE)
			return &gn_ready_memory->lane[gn_ready_memory->level[level].head];
	}
	return NULL;
}

static GnReady
pop(GnReadyQueue *queue, int most, int64 *ids, int *count, GnLane *to, int64 *from)
{
	GnReadyLane *lane = NULL;

	if (queue->reader != 0 && !is_reading(queue->reader))
	{
		queue->reader = 0;
		queue->unknown = true;
	}
	if (queue->unknown && queue->reader == 0 &&
		(queue->levels == GN_NONE ||
		 gn_ready_memory->free_lanes > gn_ready_memory->lane_count / 8))
	{
		mend_lanes(queue);
		queue->unknown = false;
		queue->reader = MyProcPid;
		return GN_READY_UNKNOWN;
	}
	while (*count < most && (lane = first_lane(queue)) != NULL && lane->count > 0)
	{
		ids[(*count)++] = gn_lane_remove_first(lane);
		gn_ready_memory->level[lane->level].head = lane->after;
		gn_lane_place(lane);
	}
	if (*count > 0 || (lane == NULL && is_empty(queue)))
		return GN_READY_TAKEN;
	if (lane == NULL)
	{
		mend_lanes(queue); /* for the next time */
		return queue->reader == 0 && queue->levels == GN_NONE ? GN_READY_TAKEN
															  : GN_READY_BUSY;
	}
	gn_lane_describe(lane, to);
	*from = lane->read_from = lane->beyond;
	lane->beyond = 0; /* what is enqueued from now on is put into the window */
	lane->reader = MyProcPid;
	gn_lane_place(lane);
	return GN_READY_LANE;
}

GnReady
gn_ready_pop(const char *name, int most, int64 *ids, int *count, GnLane *lane,
			 int64 *from)
{
	GnReady result = GN_READY_TAKEN;
	GnReadyQueue *queue;

	if (gn_ready_memory == NULL)
		return result;
	acquire(LW_EXCLUSIVE);
	queue = find_queue(MyDatabaseId, name);
	if (queue)
		result = pop(queue, most, ids, count, lane, from);
	else if (!is_known(MyDatabaseId))
		result = GN_READY_NO_PLACE;
	LWLockRelease(&gn_ready_memory->lock);
	return result;
}

/* A lane was read up to an id, from which on there is more, or to its end (0). */
void
gn_ready_lane_read(const char *name, const GnLane *wanted, const int64 *ids, int count,
				   int64 beyond)
{
	GnReadyQueue *queue;
	GnReadyLane *lane;

	acquire(LW_EXCLUSIVE);
	queue = find_queue(MyDatabaseId, name);
	lane = queue ? gn_lane_find(queue, wanted) : NULL;
	if (lane && lane->reader == MyProcPid)
	{
		lane->reader = 0;
		gn_lane_cut(lane, beyond);
		for (int i = 0; i < count; i++)
			gn_lane_insert(lane, ids[i]);
		gn_lane_place(lane);
	}
	LWLockRelease(&gn_ready_memory->lock);
	ConditionVariableBroadcast(&gn_ready_memory->read);
}

void
gn_ready_queue_read(const char *name, bool complete)
{
	GnReadyQueue *queue;

	acquire(LW_EXCLUSIVE);
	queue = find_queue(MyDatabaseId, name);
	if (queue && queue->reader == MyProcPid)
	{
		queue->reader = 0;
		queue->unknown |= !complete;
	}
	LWLockRelease(&gn_ready_memory->lock);
	ConditionVariableBroadcast(&gn_ready_memory->read);
}

/* Until somebody has read, or is gone before he could: then whoever asks next reads. */
void
gn_ready_wait(void)
{
	static uint32 event = 0;

	if (event == 0)
		event = gn_wait_event("GrowNextReadAhead");
	(void) ConditionVariableTimedSleep(&gn_ready_memory->read, WAIT_MS, event);
}

int
gn_ready_count(const char *name, int most)
{
	int count = 0;
	GnReadyQueue *queue;

	if (gn_ready_memory == NULL)
		return 0;
	acquire(LW_SHARED);
	queue = find_queue(MyDatabaseId, name);
	if (queue)
	{
		count = (int) Min(queue->hints, most);
		if (count == 0 && most > 0 && !is_empty(queue))
			count = 1;
		if (queue->hints >= GN_BLOCK_IDS * GN_LANE_BLOCKS / 2)
			count = most; /* a window that was cut has more in the table */
	}
	LWLockRelease(&gn_ready_memory->lock);
	return count;
}

int
gn_ready_queues(char ***names)
{
	char(*found)[GN_QUEUE_NAME] = palloc(GN_READY_QUEUES * GN_QUEUE_NAME);
	int count = 0;

	if (gn_ready_memory)
	{
		acquire(LW_SHARED);
		for (int i = 0; i < gn_ready_memory->queue_count; i++)
		{
			GnReadyQueue *queue = &gn_ready_memory->queue[i];

			if (queue->database == MyDatabaseId && !is_empty(queue))
				memcpy(found[count++], queue->name, GN_QUEUE_NAME);
		}
		LWLockRelease(&gn_ready_memory->lock);
	}
	*names = palloc((count + 1) * sizeof(char *));
	for (int i = 0; i < count; i++)
		(*names)[i] = pstrdup(found[i]);
	pfree(found);
	return count;
}

bool
gn_ready_database_unknown(uint64 *forgotten)
{
	bool known;

	if (gn_ready_memory == NULL)
		return false;
	acquire(LW_SHARED);
	known = is_known(MyDatabaseId);
	*forgotten = gn_ready_memory->forgotten;
	LWLockRelease(&gn_ready_memory->lock);
	return !known;
}

void
gn_ready_database_read(uint64 forgotten)
{
	int place =
		(int) (MyDatabaseId % GN_READY_DATABASES); /* another's, if all are taken */

	acquire(LW_EXCLUSIVE);
	if (gn_ready_memory->forgotten == forgotten && !is_known(MyDatabaseId))
	{
		for (int i = 0; i < GN_READY_DATABASES; i++)
		{
			if (gn_ready_memory->known[i] == InvalidOid)
				place = i;
		}
		gn_ready_memory->known[place] = MyDatabaseId;
	}
	LWLockRelease(&gn_ready_memory->lock);
}
