/*
 * src/entitlement/stamp.c
 *	  What answers depend on, as numbers: equal numbers, nothing moved.
 *
 * Each tenant belongs to one of 64 marker relations; a row trigger sends the message of
 * the tenant's marker with every change, so a change elsewhere leaves most records
 * alone. The generations of all tenants' markers that a record depends on are added up:
 * they only grow, so equal sums mean that none moved. They are noted before the tables
 * are read, so a change that arrives while they are being read makes the record stale
 * at birth, and it is read again.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "utils/rel.h"
#include "utils/uuid.h"

#include "core/core.h"
#include "entitlement/catalogue.h"

GN_FUNCTION(gn_entitlement_invalidate);

#define BUCKETS 64
#define MARKER_NAME "entitlement_marker_tenant_%02u"

static GnMarker markers[BUCKETS];
static char marker_names[BUCKETS][sizeof(MARKER_NAME)];

uint8
gn_stamp_bucket(const pg_uuid_t *tenant)
{
	return tenant->data[UUID_LEN - 1] % BUCKETS;
}

void
gn_stamp_init(void)
{
	for (unsigned int i = 0; i < BUCKETS; i++)
	{
		snprintf(marker_names[i], sizeof(marker_names[i]), MARKER_NAME, i);
		markers[i].name = marker_names[i];
		gn_marker_register(&markers[i]);
	}
}

uint64
gn_stamp_generation(uint8 bucket)
{
	return gn_marker_current(&markers[bucket]);
}

bool
gn_stamp_moved(const GnStamp *stamp)
{
	uint64 tenants = 0;

	for (int i = 0; i <= stamp->depth; i++)
		tenants += gn_marker_current(&markers[stamp->buckets[i]]);
	return tenants != stamp->tenants || gn_catalogue_generation() != stamp->catalogue;
}

/* SQL row trigger: _grownext.entitlement_invalidate('column of the tenant') */
Datum
gn_entitlement_invalidate(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	HeapTuple rows[2] = {0};
	int number;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		trigger->tg_trigger->tgnargs != 1)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg(
					 "entitlement_invalidate() can only be called as a row trigger")));
	number = SPI_fnumber(trigger->tg_relation->rd_att, trigger->tg_trigger->tgargs[0]);
	rows[0] = trigger->tg_trigtuple;
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		rows[1] = trigger->tg_newtuple;
	for (int i = 0; i < 2 && rows[i]; i++)
	{
		bool isnull;
		Datum tenant =
			heap_getattr(rows[i], number, trigger->tg_relation->rd_att, &isnull);

		if (!isnull)
			gn_marker_touch(marker_names[gn_stamp_bucket(DatumGetUUIDP(tenant))]);
	}
	PG_RETURN_POINTER(NULL);
}
