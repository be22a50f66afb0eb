/* src/entitlement/counter_row.h -- rows of counters and their slots; private to
 * entitlement */
#ifndef GN_COUNTER_ROW_H
#define GN_COUNTER_ROW_H

#include "postgres.h"

#include "executor/tuptable.h"
#include "storage/itemptr.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

#include "entitlement/usage.h"

typedef struct GnCounterRow
{
	ItemPointerData tid;
	bool locked; /* by us, until the transaction ends */
	bool waited; /* somebody else held it when we came */
	int shard;
	int64 used;
	int64 slot_used; /* of it, what was added in the slot that runs */
	TimestampTz slot_start;
	int64 allowance; /* shards: used never passes it */
	bool unlimited;
	int64 quota;
	TimestampTz end;
	int fired;               /* row 0: the highest threshold that was reached */
	int shards;              /* row 0: how many there are */
	bool has_events;         /* row 0: the soft tier's may not all be folded */
	int waits;               /* in the minute from waits_since on */
	TimestampTz waits_since; /* 0: never */
} GnCounterRow;

/* The open table; a snapshot is taken anew for each read. */
typedef struct GnCounterTable
{
	Relation heap;
	Relation index;       /* or NULL: not needed so far */
	TupleTableSlot *slot; /* or NULL: not needed so far */
} GnCounterTable;

/* Refuses where nothing may be written, as the executor would. */
extern void gn_counter_open(GnCounterTable *table);
extern void gn_counter_close(GnCounterTable *table);

/* As of now, or of the transaction's snapshot; false: there is no such row. */
extern bool gn_counter_row_read(GnCounterTable *table, const GnCounter *counter,
								int shard, GnCounterRow *row);

/* All rows by shard, in one snapshot; palloc'd. Returns how many. */
extern int gn_counter_rows_read(GnCounterTable *table, const GnCounter *counter,
								GnCounterRow **rows);

/* Row 0 of a counter that may be new; may wait for another who makes it. */
extern void gn_counter_row_make(const GnCounter *counter, int shard, TimestampTz end,
								bool unlimited, int64 quota);

/*
 * Locks the newest version, waiting for whoever holds it; row says what it says then.
 * False: it is gone.
 */
extern bool gn_counter_row_lock(GnCounterTable *table, const GnCounter *counter,
								int shard, GnCounterRow *row);

/*
 * Writes a row that was read or locked. One that is not locked is written only if it is
 * still the newest version and nobody is at it; else false, without waiting.
 */
extern bool gn_counter_row_write(GnCounterTable *table, const GnCounter *counter,
								 GnCounterRow *row);

/* Writes down an event of the soft tier. */
extern void
gn_counter_event_append(const GnCounter *counter, int64 amount, TimestampTz at);

/* Slots, the ledger: slot.c ------------------------------------------------- */

/* What is to be added to a slot that is not the running one. */
typedef struct GnSpill
{
	TimestampTz start;
	int64 amount; /* 0: nothing */
} GnSpill;

/*
 * Notes units in the running slot of a row that is to be written; what it returns is
 * spilled once the row is written.
 */
extern GnSpill gn_slot_add(GnCounterRow *row, int64 units, TimestampTz at);
extern void gn_slot_spill(const GnCounter *counter, int shard, GnSpill spill);

#endif
