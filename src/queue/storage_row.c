/*
 * src/queue/storage_row.c
 *	  Jobs as rows: what the storage's queries take and return.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "queue/storage_row.h"

int64
gn_row_int(uint64 row, int column)
{
	bool isnull;
	Datum value =
		SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);

	if (isnull)
		return 0;
	switch (SPI_gettypeid(SPI_tuptable->tupdesc, column))
	{
		case BOOLOID:
			return DatumGetBool(value);
		case INT4OID:
			return DatumGetInt32(value);
		default:
			return DatumGetInt64(value);
	}
}

void *
gn_row_copy(uint64 row, int column, Oid type, MemoryContext memory)
{
	bool isnull;
	Datum value =
		SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);
	MemoryContext old;
	void *copy;

	if (isnull)
		return NULL;
	old = MemoryContextSwitchTo(memory);
	switch (type)
	{
		case TEXTOID:
			copy = TextDatumGetCString(value);
			break;
		case JSONBOID:
			copy = DatumGetJsonbPCopy(value);
			break;
		case UUIDOID:
			copy = memcpy(palloc(sizeof(pg_uuid_t)), DatumGetUUIDP(value),
						  sizeof(pg_uuid_t));
			break;
		default:
			elog(ERROR, "unexpected column type %u", type);
	}
	MemoryContextSwitchTo(old);
	return copy;
}

void
gn_row_job(uint64 row, const char *queue, MemoryContext memory, GnJob *job)
{
	*job = (GnJob){
		.id = gn_row_int(row, 1),
		.queue = MemoryContextStrdup(memory, queue),
		.payload = gn_row_copy(row, 2, JSONBOID, memory),
		.priority = (int) gn_row_int(row, 3),
		.max_attempts = (int) gn_row_int(row, 4),
		.failures = (int) gn_row_int(row, 5),
		.enqueued_at = gn_row_int(row, 6),
		.run_at = gn_row_int(row, 7),
		.deadline = gn_row_int(row, 8),
		.unique_key = gn_row_copy(row, 9, TEXTOID, memory),
		.group_key = gn_row_copy(row, 10, TEXTOID, memory),
		.tenant = gn_row_copy(row, 11, UUIDOID, memory),
		.claims = gn_row_copy(row, 12, JSONBOID, memory),
		.batch_id = gn_row_int(row, 13),
	};
}

Datum
gn_row_ids(const int64 *ids, int count)
{
	Datum *values = palloc((count + 1) * sizeof(Datum));

	for (int i = 0; i < count; i++)
		values[i] = Int64GetDatum(ids[i]);
	return PointerGetDatum(construct_array(values, count, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/*
 * A plan is made once and kept, by the sizes that tables had then: a queue that was
 * empty would be read whole, and sorted, for ever.
 */
void
gn_row_plan_by_index(void)
{
	static const char *const methods[] = {"enable_seqscan", "enable_bitmapscan",
										  "enable_sort", "enable_hashjoin",
										  "enable_mergejoin"};

	for (size_t i = 0; i < lengthof(methods); i++)
		(void) set_config_option(methods[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

uint64
gn_row_read_latest(GnQuery *query, const Datum *values)
{
	uint64 rows;

	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	rows = gn_spi_execute(query, values, NULL, true);
	PopActiveSnapshot();
	return rows;
}
