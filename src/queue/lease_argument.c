/*
 * src/queue/lease_argument.c
 *	  What workers pass: leases, ids, rights; and the refusals.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "queue/lease.h"
#include "queue/queue.h"

#define MAX_LEASE (7 * USECS_PER_DAY)

void
gn_lease_refuse_null(const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					errmsg("%s must not be null", what)));
}

void
gn_lease_require_arguments(FunctionCallInfo fcinfo, int count, const char *const *names)
{
	for (int i = 0; i < count; i++)
	{
		if (PG_ARGISNULL(i))
			gn_lease_refuse_null(names[i]);
	}
}

int64
gn_lease_argument(FunctionCallInfo fcinfo, int argument)
{
	int64 lease;

	if (PG_ARGISNULL(argument))
		gn_lease_refuse_null("lease");
	lease = gn_interval_period(PG_GETARG_INTERVAL_P(argument));
	if (lease <= 0 || lease > MAX_LEASE)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a lease must be positive and at most 7 days")));
	return lease;
}

/* An array of bigint without nulls, as long as the one before it (or -1). */
Datum
gn_lease_ids(FunctionCallInfo fcinfo, int argument, const char *what, int *count)
{
	ArrayType *array;
	int items;

	if (PG_ARGISNULL(argument))
		gn_lease_refuse_null(what);
	array = PG_GETARG_ARRAYTYPE_P(argument);
	items = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	if (array_contains_nulls(array))
		gn_lease_refuse_null("an element of ids and lease_ids");
	if (ARR_NDIM(array) > 1 || items > GN_LEASE_MAX_COUNT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a list of at most %d", what, GN_LEASE_MAX_COUNT)));
	if (*count >= 0 && items != *count)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must have one element per id", what)));
	*count = items;
	return PointerGetDatum(array);
}

Datum
gn_lease_id_array(const int64 *ids, int count)
{
	Datum *values = palloc((count + 1) * sizeof(Datum));

	for (int i = 0; i < count; i++)
		values[i] = Int64GetDatum(ids[i]);
	return PointerGetDatum(construct_array(values, count, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

void
gn_lease_require_right(Oid caller, const char *queue)
{
	if (gn_queue_user_may(caller, queue, "work"))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to work queue \"%s\"", queue),
			 errhint("An administrator grants it: SELECT grownext.queue_grant(%s, "
					 "%s, 'work');",
					 quote_literal_cstr(queue),
					 quote_literal_cstr(GetUserNameFromId(caller, false)))));
}

const GnQueue *
gn_lease_queue(const char *name)
{
	const GnQueue *queue;

	if (gn_queue_is_internal(name))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("queue \"%s\" is internal", name),
						errdetail("Queues named grownext.* belong to the platform.")));
	queue = gn_queue_open(name);
	gn_lease_require_right(GetUserId(), name);
	return queue;
}

void
gn_lease_raise_stale(int64 id)
{
	ereport(ERROR,
			(errcode(GN_ERRCODE_LEASE_STALE),
			 errmsg("the lease of job " INT64_FORMAT " is not valid any more", id),
			 errdetail("The job was handed out again, or is over, or the lease never "
					   "was this one."),
			 errhint("Roll back; see grownext.job_get(" INT64_FORMAT ").", id)));
}
