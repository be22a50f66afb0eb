/*
 * src/queue/storage_many.c
 *	  Many jobs come in at once: rows and index entries without a plan.
 *
 * Pages are filled and logged one by one instead of row by row, as COPY does. The table
 * has no triggers, and its constraints are kept by what is put in.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "core/core.h"
#include "queue/storage_row.h"

#define AT_ONCE 500

/* A row with what all have in common. */
typedef struct Model
{
	Relation table;
	Datum *values;
	bool *nulls;
	int id; /* places of what differs */
	int payload;
	int group_key;
} Model;

static int
column_place(const Model *model, const char *name)
{
	AttrNumber number = get_attnum(RelationGetRelid(model->table), name);

	if (number == InvalidAttrNumber)
		elog(ERROR, "column %s of queue_job is missing", name);
	return number - 1;
}

static void
set(const Model *model, const char *name, Datum value)
{
	int place = column_place(model, name);

	model->values[place] = value;
	model->nulls[place] = false;
}

static Datum
no_attempts(void)
{
	return JsonbPGetDatum(gn_jsonb_from_text("[]"));
}

static void
make_model(Model *model, Relation table, const GnJob *job, bool ready)
{
	int columns = RelationGetDescr(table)->natts;

	model->table = table;
	model->values = palloc0(columns * sizeof(Datum));
	model->nulls = palloc(columns * sizeof(bool));
	memset(model->nulls, true, columns * sizeof(bool));
	model->id = column_place(model, "id");
	model->payload = column_place(model, "payload");
	model->group_key = column_place(model, "group_key");
	model->nulls[model->id] = model->nulls[model->payload] = false;
	set(model, "queue", CStringGetTextDatum(job->queue));
	set(model, "priority", Int32GetDatum(job->priority));
	set(model, "max_attempts", Int32GetDatum(job->max_attempts));
	set(model, "failures", Int32GetDatum(0));
	set(model, "ready", BoolGetDatum(ready));
	set(model, "waiting", BoolGetDatum(false));
	set(model, "attempts", no_attempts());
	set(model, "run_at", TimestampTzGetDatum(job->run_at));
	set(model, "enqueued_at", TimestampTzGetDatum(job->enqueued_at));
	if (job->deadline)
		set(model, "deadline", TimestampTzGetDatum(job->deadline));
	if (job->tenant)
		set(model, "tenant_id", UUIDPGetDatum(job->tenant));
	if (job->claims)
		set(model, "claims", JsonbPGetDatum(job->claims));
}

static void
fill_slot(const Model *model, TupleTableSlot *slot, int64 id, Datum payload,
		  Datum group_key, bool grouped)
{
	int columns = slot->tts_tupleDescriptor->natts;

	ExecClearTuple(slot);
	memcpy(slot->tts_values, model->values, columns * sizeof(Datum));
	memcpy(slot->tts_isnull, model->nulls, columns * sizeof(bool));
	slot->tts_values[model->id] = Int64GetDatum(id);
	slot->tts_values[model->payload] = payload;
	slot->tts_values[model->group_key] = group_key;
	slot->tts_isnull[model->group_key] = !grouped;
	ExecStoreVirtualTuple(slot);
}

static void
insert_rows(ResultRelInfo *target, EState *state, TupleTableSlot **slots, int count)
{
	table_multi_insert(target->ri_RelationDesc, slots, count, GetCurrentCommandId(true),
					   0, NULL);
	for (int i = 0; i < count; i++)
	{
		ResetPerTupleExprContext(state);
		list_free(gn_insert_index_tuples(target, slots[i], state));
	}
}

void
gn_storage_put_many(const GnJob *job, bool ready, int count, Datum payloads,
					Datum group_keys, int64 *ids)
{
	Oid schema = get_namespace_oid("_grownext", false);
	Relation table =
		table_open(get_relname_relid("queue_job", schema), RowExclusiveLock);
	EState *state = CreateExecutorState();
	ResultRelInfo *target = makeNode(ResultRelInfo);
	int slot_count = Min(count, AT_ONCE);
	TupleTableSlot **slots = palloc0(slot_count * sizeof(TupleTableSlot *));
	Model model;
	Datum *payload;
	Datum *group_key;
	bool *ungrouped;

	make_model(&model, table, job, ready);
	deconstruct_array(DatumGetArrayTypeP(payloads), JSONBOID, -1, false, TYPALIGN_INT,
					  &payload, NULL, &count);
	deconstruct_array(DatumGetArrayTypeP(group_keys), TEXTOID, -1, false, TYPALIGN_INT,
					  &group_key, &ungrouped, &count);
	InitResultRelInfo(target, table, 0, NULL, 0);
	ExecOpenIndices(target, false);
	for (int i = 0; i < slot_count; i++)
		slots[i] = table_slot_create(table, NULL);
	for (int done = 0; done < count; done += slot_count)
	{
		int rows = Min(count - done, slot_count);

		for (int i = 0; i < rows; i++)
		{
			ids[done + i] = gn_nextval("queue_job_id");
			fill_slot(&model, slots[i], ids[done + i], payload[done + i],
					  group_key[done + i], !ungrouped[done + i]);
		}
		insert_rows(target, state, slots, rows);
	}
	for (int i = 0; i < slot_count; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	ExecCloseIndices(target);
	FreeExecutorState(state);
	table_close(table, NoLock);
	CommandCounterIncrement();
}
