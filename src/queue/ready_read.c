/*
 * src/queue/ready_read.c
 *	  The next jobs to try: from memory, and from the table where the memory ends.
 *
 * A lane is read from the id on at which its window ended, never from the beginning:
 * what lies there is dead, and stays in the index as long as a snapshot is held. Only
 * after a start, a COMMIT PREPARED or a change of many jobs at once are the lanes of a
 * queue looked for anew, one step of the index for each.
 *
 * Reading uses the latest snapshot, taken after the memory was told that it is read:
 * what was committed before is in it, what is committed later is put into the window.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "utils/builtins.h"

#include "core/core.h"
#include "queue/definition.h"
#include "queue/ready.h"
#include "queue/storage_row.h"

#define READ_IDS 1000   /* a window's worth */
#define READ_ROWS 20000 /* of other groups, passed over */

/* Gives one id away, so that it goes on though there be no room for any, and puts the
 * others into the window; how many it gave away. */
static int
keep_read(const char *queue, const GnLane *lane, const int64 *ids, int count,
		  int64 beyond, int64 *first)
{
	if (count == 0)
	{
		gn_ready_lane_read(queue, lane, ids, 0, beyond);
		return 0;
	}
	*first = ids[0];
	gn_ready_lane_read(queue, lane, ids + 1, count - 1, beyond);
	return 1;
}

static int
read_group(const char *queue, const GnLane *lane, int64 from, int64 *first)
{
	static GnQuery query = GN_QUERY(
		"SELECT j.id FROM _grownext.queue_job AS j WHERE j.queue = $1 AND j.ready"
		" AND j.priority = $2 AND j.group_key = $3 AND j.id >= $4"
		" ORDER BY j.id LIMIT $5",
		TEXTOID, INT4OID, TEXTOID, INT8OID, INT4OID);
	Datum values[5] = {CStringGetTextDatum(queue), Int32GetDatum(lane->priority),
					   CStringGetTextDatum(lane->key), Int64GetDatum(from),
					   Int32GetDatum(READ_IDS)};
	int count = (int) gn_row_read_latest(&query, values);
	int64 *ids = palloc((count + 1) * sizeof(int64));

	for (int i = 0; i < count; i++)
		ids[i] = gn_row_int(i, 1);
	count = keep_read(queue, lane, ids, count,
					  count == READ_IDS ? ids[count - 1] + 1 : 0, first);
	pfree(ids);
	return count;
}

/* Jobs without a group, which may lie far apart between those of groups. */
static int
read_ungrouped(const char *queue, const GnLane *lane, int64 from, int64 *first)
{
	static GnQuery query =
		GN_QUERY("SELECT j.id, j.group_key IS NULL FROM _grownext.queue_job AS j"
				 " WHERE j.queue = $1 AND j.ready AND j.priority = $2 AND j.id >= $3"
				 " ORDER BY j.id LIMIT $4",
				 TEXTOID, INT4OID, INT8OID, INT4OID);
	Datum values[4] = {CStringGetTextDatum(queue), Int32GetDatum(lane->priority),
					   Int64GetDatum(from), Int32GetDatum(READ_IDS)};
	int64 *ids = palloc(READ_IDS * sizeof(int64));
	int count = 0;
	int limit = READ_IDS;
	int rows = READ_IDS;
	int64 beyond = from;

	for (int read = 0; read < READ_ROWS && count < READ_IDS / 2 && rows == limit;
		 read += rows)
	{
		limit = READ_IDS - count;
		values[2] = Int64GetDatum(beyond);
		values[3] = Int32GetDatum(limit);
		rows = (int) gn_row_read_latest(&query, values);
		for (int i = 0; i < rows; i++)
		{
			if (gn_row_int(i, 2))
				ids[count++] = gn_row_int(i, 1);
			beyond = gn_row_int(i, 1) + 1;
		}
	}
	count = keep_read(queue, lane, ids, count, rows == limit ? beyond : 0, first);
	pfree(ids);
	return count;
}

/* Each level of the queue with its first job: jobs without a group may follow. */
static bool
find_levels(const char *queue)
{
	static GnQuery query =
		GN_QUERY("WITH RECURSIVE level AS ("
				 "(SELECT j.priority, j.id FROM _grownext.queue_job AS j"
				 " WHERE j.queue = $1 AND j.ready ORDER BY j.priority, j.id LIMIT 1)"
				 " UNION ALL SELECT n.priority, n.id FROM level AS l, LATERAL ("
				 "SELECT j.priority, j.id FROM _grownext.queue_job AS j"
				 " WHERE j.queue = $1 AND j.ready AND j.priority > l.priority"
				 " ORDER BY j.priority, j.id LIMIT 1) AS n)"
				 " SELECT l.priority, l.id FROM level AS l",
				 TEXTOID);
	Datum values[1] = {CStringGetTextDatum(queue)};
	uint64 count = gn_row_read_latest(&query, values);
	bool complete = true;

	for (uint64 i = 0; i < count; i++)
	{
		GnLane lane = gn_ready_lane((int) gn_row_int(i, 1), NULL);

		complete &= gn_ready_put(MyDatabaseId, queue, &lane, NULL, 0, gn_row_int(i, 2));
	}
	return complete;
}

static bool
find_groups(const char *queue)
{
	static GnQuery query = GN_QUERY(
		"WITH RECURSIVE lane AS ("
		"(SELECT j.priority, j.group_key, j.id FROM _grownext.queue_job AS j"
		" WHERE j.queue = $1 AND j.ready AND j.group_key IS NOT NULL"
		" ORDER BY j.priority, j.group_key, j.id LIMIT 1)"
		" UNION ALL SELECT n.priority, n.group_key, n.id FROM lane AS l, LATERAL ("
		"SELECT j.priority, j.group_key, j.id FROM _grownext.queue_job AS j"
		" WHERE j.queue = $1 AND j.ready AND j.group_key IS NOT NULL"
		" AND (j.priority, j.group_key) > (l.priority, l.group_key)"
		" ORDER BY j.priority, j.group_key, j.id LIMIT 1) AS n)"
		" SELECT l.priority, l.id, l.group_key FROM lane AS l",
		TEXTOID);
	Datum values[1] = {CStringGetTextDatum(queue)};
	uint64 count = gn_row_read_latest(&query, values);
	bool complete = true;

	for (uint64 i = 0; i < count && complete; i++)
	{
		char *key = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 3);
		GnLane lane = gn_ready_lane((int) gn_row_int(i, 1), key);

		pfree(key);
		complete = gn_ready_put(MyDatabaseId, queue, &lane, NULL, 0, gn_row_int(i, 2));
	}
	return complete;
}

/* Queues that had ready jobs before this memory knew of the database. */
static void
find_queues(void)
{
	static GnQuery query = GN_QUERY_NOARGS(
		"SELECT q.queue FROM _grownext.queue_queue AS q"
		" WHERE NOT q.ordered AND EXISTS (SELECT FROM"
		" _grownext.queue_job AS j WHERE j.queue = q.queue AND j.ready)");
	uint64 count;

	count = gn_row_read_latest(&query, NULL);
	for (uint64 i = 0; i < count; i++)
	{
		char *name = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);

		gn_ready_unknown(MyDatabaseId, name);
		pfree(name);
	}
}

/* Ready jobs of ordered queues are found in the table. */
static int
ordered_queues(char ***queues)
{
	static GnQuery query = GN_QUERY_NOARGS(
		"SELECT q.queue FROM _grownext.queue_queue AS q,"
		" LATERAL (SELECT FROM _grownext.queue_job AS j WHERE j.queue = q.queue"
		" AND j.ready ORDER BY j.priority, j.id LIMIT 1) AS first"
		" WHERE q.ordered AND q.handler IS NOT NULL AND q.paused_at IS NULL");
	int count = (int) gn_spi_execute(&query, NULL, NULL, false);

	*queues = palloc((count + 1) * sizeof(char *));
	for (int i = 0; i < count; i++)
		(*queues)[i] = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
	return count;
}

static void
look_for_queues(void)
{
	uint64 forgotten;

	if (!gn_ready_database_unknown(&forgotten))
		return;
	find_queues();
	gn_ready_database_read(forgotten);
}

static bool
can_run(const char *name)
{
	const GnQueue *queue = gn_queue_find(name);

	return queue && queue->handler && !queue->paused;
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

int
gn_ready_names(char ***queues)
{
	char **ordered;
	char **others;
	int ordered_count;
	int other_count;
	int count = 0;

	look_for_queues();
	ordered_count = ordered_queues(&ordered);
	other_count = gn_ready_queues(&others);
	*queues = palloc((ordered_count + other_count + 1) * sizeof(char *));
	for (int i = 0; i < ordered_count; i++)
		(*queues)[count++] = ordered[i];
	for (int i = 0; i < other_count; i++)
	{
		if (can_run(others[i]))
			(*queues)[count++] = others[i];
	}
	qsort(*queues, count, sizeof(char *), compare_names);
	return count;
}

/* Other queues have all the lanes: without turns. */
static int
read_plain(const char *queue, int most, int64 *ids)
{
	static GnQuery query =
		GN_QUERY("SELECT j.id FROM _grownext.queue_job AS j WHERE j.queue = $1 AND"
				 " j.ready ORDER BY j.priority, j.id LIMIT $2",
				 TEXTOID, INT4OID);
	Datum values[2] = {CStringGetTextDatum(queue), Int32GetDatum(most)};
	int count = (int) gn_row_read_latest(&query, values);

	for (int i = 0; i < count; i++)
		ids[i] = gn_row_int(i, 1);
	return count;
}

int
gn_ready_take(const char *queue, int most, int64 *ids)
{
	int count = 0;
	bool complete = true;

	look_for_queues();
	gn_ready_say_early(queue);
	for (;;)
	{
		GnLane lane;
		int64 from;
		GnReady ready = gn_ready_pop(queue, most, ids, &count, &lane, &from);

		if (ready == GN_READY_BUSY)
		{
			gn_ready_wait();
			continue;
		}
		ConditionVariableCancelSleep();
		if (ready == GN_READY_TAKEN)
			return count;
		if (ready == GN_READY_NO_PLACE || (ready == GN_READY_UNKNOWN && !complete))
		{
			gn_ready_queue_read(queue, false);
			return read_plain(queue, most, ids);
		}
		if (ready == GN_READY_UNKNOWN)
		{
			complete = find_levels(queue);
			complete &= find_groups(queue);
			gn_ready_queue_read(queue, complete);
		}
		else if (lane.grouped)
			count = read_group(queue, &lane, from, ids);
		else
			count = read_ungrouped(queue, &lane, from, ids);
	}
}

/* Names that turn out to be of no use are forgotten; the first that is good is put
 * back.
 */
bool
gn_ready_any(const char *queue)
{
	static GnQuery query =
		GN_QUERY("SELECT j.priority, j.group_key FROM _grownext.queue_job AS j"
				 " WHERE j.id = $1 AND j.queue = $2 AND j.ready",
				 INT8OID, TEXTOID);
	Datum values[2] = {0, CStringGetTextDatum(queue)};
	int64 id;

	while (gn_ready_take(queue, 1, &id) > 0)
	{
		char *key;
		GnLane lane;

		values[0] = Int64GetDatum(id);
		if (gn_row_read_latest(&query, values) == 0)
			continue;
		key = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
		lane = gn_ready_lane((int) gn_row_int(0, 1), key);
		(void) gn_ready_put(MyDatabaseId, queue, &lane, &id, 1, 0);
		return true;
	}
	return false;
}
