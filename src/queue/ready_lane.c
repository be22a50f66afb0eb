/*
 * src/queue/ready_lane.c
 *	  Lanes of ready jobs: a window of ids each, in a ring with those of its priority.
 *
 * A lane without room for another id keeps the smaller ones and remembers where the
 * rest begins. From there on nothing is put into it until it was read.
 */
#include "postgres.h"

#include "common/hashfn.h"

#include "queue/ready_lane.h"

static uint64
key_hash(const GnLane *lane)
{
	uint64 hash;

	if (!lane->grouped)
		return 0;
	hash = hash_bytes_extended((const unsigned char *) lane->key,
							   (int) strlen(lane->key), 0);
	return hash ? hash : 1;
}

static const char *
lane_key(const GnReadyLane *lane)
{
	return lane->key_block == GN_NONE ? lane->key
									  : gn_ready_memory->block[lane->key_block].key;
}

static int *
bucket_of(int queue, int priority, uint64 hash)
{
	uint64 place = hash ^
				   ((uint64) (uint32) priority * UINT64CONST(0x9E3779B97F4A7C15)) ^
				   ((uint64) queue * UINT64CONST(0xC2B2AE3D27D4EB4F));

	return &gn_ready_memory->bucket[(place ^ (place >> 32)) % GN_READY_BUCKETS];
}

/* The place that names the level, or would name it, in the queue's list. */
static int *
level_place(GnReadyQueue *queue, int priority)
{
	int *place = &queue->levels;

	while (*place != GN_NONE && gn_ready_memory->level[*place].priority < priority)
		place = &gn_ready_memory->level[*place].next;
	return place;
}

GnReadyLane *
gn_lane_find(const GnReadyQueue *queue, const GnLane *wanted)
{
	uint64 hash = key_hash(wanted);
	int number = (int) (queue - gn_ready_memory->queue);

	for (int i = *bucket_of(number, wanted->priority, hash); i != GN_NONE;
		 i = gn_ready_memory->lane[i].next)
	{
		GnReadyLane *lane = &gn_ready_memory->lane[i];

		if (lane->queue == number && lane->hash == hash &&
			gn_ready_memory->level[lane->level].priority == wanted->priority &&
			(hash == 0 || strcmp(lane_key(lane), wanted->key) == 0))
			return lane;
	}
	return NULL;
}

static int
new_block(void)
{
	int block = gn_ready_memory->free_block;

	if (block != GN_NONE)
		gn_ready_memory->free_block = gn_ready_memory->block[block].next;
	return block;
}

static void
free_block(int block)
{
	gn_ready_memory->block[block].next = gn_ready_memory->free_block;
	gn_ready_memory->free_block = block;
}

static bool
store_key(GnReadyLane *lane, const GnLane *wanted)
{
	lane->key_block = GN_NONE;
	lane->key[0] = '\0';
	if (!wanted->grouped)
		return true;
	if (strlen(wanted->key) < GN_SHORT_KEY)
		strlcpy(lane->key, wanted->key, GN_SHORT_KEY);
	else
	{
		lane->key_block = new_block();
		if (lane->key_block == GN_NONE)
			return false;
		strlcpy(gn_ready_memory->block[lane->key_block].key, wanted->key,
				GN_READY_MAX_KEY + 1);
	}
	return true;
}

static int
make_level(GnReadyQueue *queue, int priority)
{
	int *place = level_place(queue, priority);
	int level;

	if (*place != GN_NONE && gn_ready_memory->level[*place].priority == priority)
		return *place;
	level = gn_ready_memory->free_level;
	gn_ready_memory->free_level = gn_ready_memory->level[level].next;
	gn_ready_memory->level[level] =
		(GnReadyLevel){.next = *place, .priority = priority, .head = GN_NONE};
	*place = level;
	return level;
}

GnReadyLane *
gn_lane_make(GnReadyQueue *queue, const GnLane *wanted)
{
	GnReadyLane *lane = gn_lane_find(queue, wanted);
	int number = gn_ready_memory->free_lane;
	int *bucket;
	int next;

	if (lane || number == GN_NONE)
		return lane;
	lane = &gn_ready_memory->lane[number];
	next = lane->next;
	memset(lane, 0, sizeof(GnReadyLane));
	lane->next = next;
	if (!store_key(lane, wanted))
		return NULL;
	gn_ready_memory->free_lane = next;
	gn_ready_memory->free_lanes--;
	lane->queue = (int) (queue - gn_ready_memory->queue);
	lane->level = make_level(queue, wanted->priority);
	gn_ready_memory->level[lane->level].lanes++;
	lane->hash = key_hash(wanted);
	lane->before = lane->after = GN_NONE;
	for (int i = 0; i < GN_LANE_BLOCKS; i++)
		lane->block[i] = GN_NONE;
	bucket = bucket_of(lane->queue, wanted->priority, lane->hash);
	lane->next = *bucket;
	*bucket = number;
	return lane;
}

static void
free_level(GnReadyQueue *queue, int level)
{
	*level_place(queue, gn_ready_memory->level[level].priority) =
		gn_ready_memory->level[level].next;
	gn_ready_memory->level[level].next = gn_ready_memory->free_level;
	gn_ready_memory->free_level = level;
}

static void
free_lane(GnReadyLane *lane)
{
	int number = (int) (lane - gn_ready_memory->lane);
	int *place = bucket_of(lane->queue, gn_ready_memory->level[lane->level].priority,
						   lane->hash);

	while (*place != number)
		place = &gn_ready_memory->lane[*place].next;
	*place = lane->next;
	if (lane->key_block != GN_NONE)
		free_block(lane->key_block);
	for (int i = 0; i < GN_LANE_BLOCKS; i++)
	{
		if (lane->block[i] != GN_NONE)
			free_block(lane->block[i]);
	}
	if (--gn_ready_memory->level[lane->level].lanes == 0)
		free_level(&gn_ready_memory->queue[lane->queue], lane->level);
	lane->next = gn_ready_memory->free_lane;
	gn_ready_memory->free_lane = number;
	gn_ready_memory->free_lanes++;
}

/* In the ring if it has something, as the last; gone if it will have nothing. */
void
gn_lane_place(GnReadyLane *lane)
{
	GnReadyLevel *level = &gn_ready_memory->level[lane->level];
	int number = (int) (lane - gn_ready_memory->lane);
	bool has = lane->reader == 0 && (lane->count > 0 || lane->beyond != 0);

	if (has && lane->after == GN_NONE)
	{
		if (level->head == GN_NONE)
			level->head = lane->before = lane->after = number;
		else
		{
			lane->after = level->head;
			lane->before = gn_ready_memory->lane[level->head].before;
			gn_ready_memory->lane[lane->before].after = number;
			gn_ready_memory->lane[level->head].before = number;
		}
	}
	else if (!has && lane->after != GN_NONE)
	{
		if (lane->after == number)
			level->head = GN_NONE;
		else
		{
			gn_ready_memory->lane[lane->before].after = lane->after;
			gn_ready_memory->lane[lane->after].before = lane->before;
			if (level->head == number)
				level->head = lane->after;
		}
		lane->before = lane->after = GN_NONE;
	}
	if (!has && lane->reader == 0)
		free_lane(lane);
}

void
gn_lane_describe(const GnReadyLane *lane, GnLane *to)
{
	to->priority = gn_ready_memory->level[lane->level].priority;
	to->grouped = lane->hash != 0;
	strlcpy(to->key, lane_key(lane), sizeof(to->key));
}

/* ---- a lane's window ---- */

static int64 *
id_at(GnReadyLane *lane, uint32 index)
{
	uint32 position = lane->first + index;

	return &gn_ready_memory
				->block[lane->block[position / GN_BLOCK_IDS % GN_LANE_BLOCKS]]
				.ids[position % GN_BLOCK_IDS];
}

static void
drop_block_at(GnReadyLane *lane, uint32 position)
{
	int *block = &lane->block[position / GN_BLOCK_IDS % GN_LANE_BLOCKS];

	free_block(*block);
	*block = GN_NONE;
}

int64
gn_lane_remove_first(GnReadyLane *lane)
{
	int64 id = *id_at(lane, 0);

	if (lane->first % GN_BLOCK_IDS == GN_BLOCK_IDS - 1 || lane->count == 1)
		drop_block_at(lane, lane->first);
	lane->count--;
	lane->first = lane->count ? lane->first + 1 : 0;
	gn_ready_memory->queue[lane->queue].hints--;
	return id;
}

static void
remove_last(GnReadyLane *lane)
{
	uint32 position = lane->first + lane->count - 1;

	if (position % GN_BLOCK_IDS == 0 || lane->count == 1)
		drop_block_at(lane, position);
	lane->count--;
	if (lane->count == 0)
		lane->first = 0;
	gn_ready_memory->queue[lane->queue].hints--;
}

/* Room for another id behind the last. */
static bool
extend(GnReadyLane *lane)
{
	uint32 position = lane->first + lane->count;
	int *block = &lane->block[position / GN_BLOCK_IDS % GN_LANE_BLOCKS];

	/* the first block may still be in use at its other end */
	if (lane->count > 0 &&
		position / GN_BLOCK_IDS - lane->first / GN_BLOCK_IDS >= GN_LANE_BLOCKS)
		return false;
	if (*block == GN_NONE)
		*block = new_block();
	return *block != GN_NONE;
}

static void
note_beyond(GnReadyLane *lane, int64 id)
{
	if (lane->beyond == 0 || id < lane->beyond)
		lane->beyond = id;
}

void
gn_lane_insert(GnReadyLane *lane, int64 id)
{
	uint32 place = lane->count;

	if (lane->beyond != 0 && id >= lane->beyond)
		return;
	while (place > 0 && *id_at(lane, place - 1) > id)
		place--;
	if (place > 0 && *id_at(lane, place - 1) == id)
		return;
	if (!extend(lane))
	{
		if (place == lane->count)
		{
			note_beyond(lane, id);
			return;
		}
		note_beyond(lane, *id_at(lane, lane->count - 1));
		remove_last(lane);
		(void) extend(lane); /* what was freed is there */
	}
	lane->count++;
	gn_ready_memory->queue[lane->queue].hints++;
	for (uint32 i = lane->count - 1; i > place; i--)
		*id_at(lane, i) = *id_at(lane, i - 1);
	*id_at(lane, place) = id;
}

void
gn_lane_cut(GnReadyLane *lane, int64 beyond)
{
	if (beyond == 0)
		return;
	note_beyond(lane, beyond);
	while (lane->count > 0 && *id_at(lane, lane->count - 1) >= lane->beyond)
		remove_last(lane);
}
