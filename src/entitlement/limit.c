/*
 * src/entitlement/limit.c
 *	  Limits on tables: a tenant's rows are the units of a limit.
 *
 * Statement triggers count what a statement adds and takes away, tenant by tenant, in
 * the order of their ids, so that two statements over the same tenants wait for each
 * other instead of blocking each other for good. The counter is the one of period
 * "never" (counter.c): exact under concurrency, and what rolls back was never counted.
 * A unit that comes needs room under the limit as it is at that moment; one that goes
 * is always given back, so whoever is over a limit that shrank can tidy up.
 *
 * The triggers are the only record of which tables count: they are renamed, dumped and
 * dropped with the table. Rows without a tenant count for nobody.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "utils/hsearch.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "core/core.h"
#include "entitlement/catalogue.h"
#include "entitlement/limit.h"
#include "entitlement/usage.h"

GN_FUNCTION(gn_limit_count);

HTAB *
gn_units_create(void)
{
	HASHCTL control = {.keysize = sizeof(pg_uuid_t), .entrysize = sizeof(GnUnits)};

	control.hcxt = CurrentMemoryContext;
	return hash_create("grownext units", 64, &control,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

void
gn_units_add(HTAB *units, const pg_uuid_t *tenant, int64 change)
{
	bool found;
	GnUnits *entry = hash_search(units, tenant, HASH_ENTER, &found);

	if (!found)
		entry->change = 0;
	entry->change += change;
}

AttrNumber
gn_limit_column(Relation relation, const char *name)
{
	TupleDesc descriptor = RelationGetDescr(relation);

	for (int i = 0; i < descriptor->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(descriptor, i);

		if (!attribute->attisdropped && strcmp(NameStr(attribute->attname), name) == 0)
		{
			if (attribute->atttypid != UUIDOID)
				ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
								errmsg("column \"%s\" of \"%s\" is not of type uuid",
									   name, RelationGetRelationName(relation))));
			return attribute->attnum;
		}
	}
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
					errmsg("table \"%s\" has no column \"%s\"",
						   RelationGetRelationName(relation), name),
					errhint("Protect it anew: SELECT grownext.limit_protect(relation, "
							"feature, tenant_column);")));
}

/* What a transition table holds of each tenant. */
static void
add_rows(HTAB *units, Tuplestorestate *rows, Relation relation, AttrNumber column,
		 int64 change)
{
	TupleTableSlot *slot;

	if (rows == NULL)
		return;
	slot = MakeSingleTupleTableSlot(RelationGetDescr(relation), &TTSOpsMinimalTuple);
	/* others may be reading it, too */
	tuplestore_select_read_pointer(rows,
								   tuplestore_alloc_read_pointer(rows,
																 EXEC_FLAG_REWIND));
	tuplestore_rescan(rows);
	while (tuplestore_gettupleslot(rows, true, false, slot))
	{
		bool isnull;
		Datum tenant = slot_getattr(slot, column, &isnull);

		if (!isnull)
			gn_units_add(units, DatumGetUUIDP(tenant), change);
	}
	ExecDropSingleTupleTableSlot(slot);
}

static int
by_tenant(const void *a, const void *b)
{
	return memcmp(&((const GnUnits *) a)->tenant, &((const GnUnits *) b)->tenant,
				  sizeof(pg_uuid_t));
}

GnUnits *
gn_units_sorted(HTAB *units, int *count)
{
	GnUnits *sorted = palloc((hash_get_num_entries(units) + 1) * sizeof(GnUnits));
	HASH_SEQ_STATUS scan;
	GnUnits *entry;

	*count = 0;
	hash_seq_init(&scan, units);
	while ((entry = hash_seq_search(&scan)) != NULL)
		sorted[(*count)++] = *entry;
	qsort(sorted, *count, sizeof(GnUnits), by_tenant);
	return sorted;
}

/* Counting ----------------------------------------------------------------- */

static void
refuse(const GnAnswer *answer, const GnUnits *units, int64 used)
{
	const GnDecision *decision = &answer->decision;
	bool full = decision->allowed || decision->setting.quota == 0;

	/* a limit of zero is a limit; what is not there at all is another matter */
	if (decision->decided && decision->setting.enabled && full)
		ereport(ERROR, (errcode(GN_ERRCODE_QUOTA_EXCEEDED),
						errmsg("the limit of \"%s\" is reached", answer->feature),
						errdetail("%lld of %lld are used, %lld more were asked for.",
								  (long long) used, (long long) decision->setting.quota,
								  (long long) units->change)));
	ereport(ERROR, (errcode(GN_ERRCODE_NOT_ENTITLED),
					errmsg("the tenant is not entitled to \"%s\"", answer->feature),
					errdetail("Reason: %s.", decision->reason)));
}

/* As of this moment, with what was committed while we waited. */
static GnAnswer *
resolve_now(const char *feature, const pg_uuid_t *tenant)
{
	pg_uuid_t user;
	GnQuestion question = {
		.tenant = *tenant,
		.feature = feature,
		.user = gn_context_user(&user),
		.at = gn_now(),
	};
	GnAnswer *answer;
	int count;

	answer = gn_entitlement_answer(&question, false, CurrentMemoryContext, &count);
	answer->holder = *tenant;
	answer->decision.setting.period = GN_PERIOD_NEVER;
	TIMESTAMP_NOBEGIN(answer->period_start);
	TIMESTAMP_NOEND(answer->period_end);
	return answer;
}

static void
take(const char *feature, const GnUnits *units)
{
	for (;;)
	{
		GnAnswer *answer = resolve_now(feature, &units->tenant);
		GnCounter counter;
		int64 used = 0;

		if (!answer->decision.allowed)
		{
			if (answer->known)
			{
				counter = gn_counter_of(answer);
				used = gn_counter_used(&counter);
			}
			refuse(answer, units, used);
		}
		switch (gn_counter_add(answer, units->change, gn_now(), &used))
		{
			case GN_COUNT_DONE:
				return;
			case GN_COUNT_DENIED:
				refuse(answer, units, used);
				break;
			case GN_COUNT_AGAIN:
				CHECK_FOR_INTERRUPTS();
				break;
		}
	}
}

/* Never below zero: rows may have come in while nobody counted. */
static void
give_back(const GnFeature *feature, const GnUnits *units)
{
	GnCounter counter = {.tenant = units->tenant,
						 .feature = feature->id,
						 .period = GN_PERIOD_NEVER};
	GnCounterState state;
	int64 amount = -units->change;

	TIMESTAMP_NOBEGIN(counter.start);
	while (amount > 0 && !gn_counter_give_back(&counter, amount, gn_now(), &state))
		amount = Min(amount, gn_counter_used(&counter));
}

static void
count_units(const char *feature, HTAB *changes)
{
	GnSpi spi;
	int count;
	GnUnits *units = gn_units_sorted(changes, &count);

	gn_spi_begin(&spi);
	for (int i = 0; i < count; i++)
	{
		if (units[i].change > 0)
			take(feature, &units[i]);
		else if (units[i].change < 0)
		{
			const GnFeature *known =
				gn_catalogue_find(gn_catalogue(), feature, strlen(feature));

			if (known)
				give_back(known, &units[i]);
		}
	}
	gn_spi_end(&spi);
}

/*
 * SQL trigger: grownext.limit_count(feature, tenant_column)
 *
 * Whoever emptied a table leaves no transition table: what goes is counted before.
 */
Datum
gn_limit_count(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	HTAB *units;
	AttrNumber column;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event) ||
		trigger->tg_trigger->tgnargs != 2)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("limit_count() is a trigger that only limit_protect() makes")));
	units = gn_units_create();
	column = gn_limit_column(trigger->tg_relation, trigger->tg_trigger->tgargs[1]);
	if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		gn_limit_read(trigger->tg_relation, trigger->tg_trigger->tgargs[1], true, -1,
					  units);
	else
	{
		add_rows(units, trigger->tg_oldtable, trigger->tg_relation, column, -1);
		add_rows(units, trigger->tg_newtable, trigger->tg_relation, column, 1);
	}
	count_units(trigger->tg_trigger->tgargs[0], units);
	hash_destroy(units);
	PG_RETURN_POINTER(NULL);
}
