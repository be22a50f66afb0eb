/*
 * src/entitlement/slot.c
 *	  The ledger: what of a counter was used in which quarter of an hour.
 *
 * The slot that runs is part of the counter's row, so a change costs the ledger
 * nothing: it is the same heap-only update. The first change in another quarter of an
 * hour writes the finished slot to entitlement_usage_slot. What belongs to a slot
 * before the running one, such as a late record, goes there at once. Slots and running
 * slots of a counter therefore always sum to what it says, and what rolls back is in
 * neither.
 *
 * Each row of an escrow counter has slots of its own, written under the lock of the
 * row: nobody waits for a slot who did not wait for the row.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "entitlement/counter_row.h"

#define SLOT (15 * USECS_PER_MINUTE)

static TimestampTz
slot_of(TimestampTz at)
{
	int64 rest = at % SLOT;

	return at - rest - (rest < 0 ? SLOT : 0);
}

GnSpill
gn_slot_add(GnCounterRow *row, int64 units, TimestampTz at)
{
	TimestampTz slot = slot_of(at);
	GnSpill spill = {.start = row->slot_start, .amount = row->slot_used};
	int64 sum;

	if (units == 0 || slot < row->slot_start)
		return (GnSpill){.start = slot, .amount = units};
	if (slot == row->slot_start && !pg_add_s64_overflow(row->slot_used, units, &sum))
	{
		row->slot_used = sum;
		return (GnSpill){0};
	}
	row->slot_start = slot;
	row->slot_used = units;
	return spill;
}

void
gn_slot_spill(const GnCounter *counter, int shard, GnSpill spill)
{
	static GnQuery query = GN_QUERY(
		"INSERT INTO _grownext.entitlement_usage_slot AS s"
		" (tenant_id, feature_id, period_start, period, slot_start, shard, amount)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7)"
		" ON CONFLICT ON CONSTRAINT entitlement_usage_slot_pkey"
		" DO UPDATE SET amount = s.amount + EXCLUDED.amount",
		UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID, INT2OID, INT8OID);
	Datum values[7];
	GnSpi spi;

	if (spill.amount == 0)
		return;
	gn_counter_name(counter, values);
	values[4] = TimestampTzGetDatum(spill.start);
	values[5] = Int16GetDatum(shard);
	values[6] = Int64GetDatum(spill.amount);
	gn_spi_begin(&spi);
	gn_spi_execute(&query, values, NULL, false);
	gn_spi_end(&spi);
}
