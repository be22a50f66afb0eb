/*
 * src/entitlement/reservation.c
 *	  Reservations: units are taken now, and committed, released or given back later.
 *
 * A reservation counts as used from the beginning, so a commit cannot fail for want of
 * units. Its row is locked by whoever closes it, and closed once: of a commit, a
 * release and an expiry that race, one wins. Expired ones give their units back before
 * anybody is denied them, and in the background; to the very counter, or the grants of
 * credit, that they came from, even if that period has ended. Those who look for
 * expired ones skip rows that are locked, so they wait for nobody while they hold a
 * counter. Lock order: reservation, then counter or balance.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "entitlement/credit.h"
#include "entitlement/reservation.h"

GN_FUNCTION(gn_usage_reserve);
GN_FUNCTION(gn_usage_commit);
GN_FUNCTION(gn_usage_release);
GN_FUNCTION(gn_entitlement_reservation_expire);

#define TTL_MIN USECS_PER_SEC
#define TTL_MAX (7 * USECS_PER_DAY)

#define RECLAIM_BATCH 100

typedef enum State
{
	STATE_OPEN,
	STATE_COMMITTED,
	STATE_RELEASED,
	STATE_EXPIRED
} State;

static const char *const state_names[] = {
	[STATE_OPEN] = "open",
	[STATE_COMMITTED] = "committed",
	[STATE_RELEASED] = "released",
	[STATE_EXPIRED] = "expired",
};

typedef struct Reservation
{
	pg_uuid_t id;
	pg_uuid_t tenant;
	char *feature;
	bool credit;
	GnCounter counter; /* of credit, tenant and feature only */
	int64 amount;
	State state;
	int64 committed;
	TimestampTz expires_at;
} Reservation;

#define RESERVATION                                                                    \
	"SELECT r.id, r.tenant_id, f.feature, r.feature_id, r.holder_id, r.period,"        \
	" r.period_start, r.amount, r.state, r.committed, r.expires_at"                    \
	" FROM _grownext.entitlement_reservation AS r"                                     \
	" JOIN _grownext.entitlement_feature AS f ON f.id = r.feature_id"

static Datum
column(uint64 row, int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number,
						 isnull);
}

static void
read_row(Reservation *reservation, uint64 row)
{
	bool isnull;
	Datum period;
	char *state;

	*reservation = (Reservation){0};
	reservation->id = *DatumGetUUIDP(column(row, 1, &isnull));
	reservation->tenant = *DatumGetUUIDP(column(row, 2, &isnull));
	reservation->feature = TextDatumGetCString(column(row, 3, &isnull));
	reservation->counter.feature = DatumGetInt32(column(row, 4, &isnull));
	reservation->counter.tenant = *DatumGetUUIDP(column(row, 5, &isnull));
	period = column(row, 6, &isnull);
	reservation->credit = isnull;
	if (!isnull)
	{
		gn_period_parse(TextDatumGetCString(period), &reservation->counter.period);
		reservation->counter.start = DatumGetTimestampTz(column(row, 7, &isnull));
	}
	reservation->amount = DatumGetInt64(column(row, 8, &isnull));
	state = TextDatumGetCString(column(row, 9, &isnull));
	for (size_t i = 0; i < lengthof(state_names); i++)
	{
		if (strcmp(state, state_names[i]) == 0)
			reservation->state = (State) i;
	}
	if (reservation->state == STATE_COMMITTED)
		reservation->committed = DatumGetInt64(column(row, 10, &isnull));
	reservation->expires_at = DatumGetTimestampTz(column(row, 11, &isnull));
}

static bool
find(const pg_uuid_t *id, bool lock, Reservation *reservation)
{
	static GnQuery look = GN_QUERY(RESERVATION " WHERE r.id = $1", UUIDOID);
	static GnQuery hold =
		GN_QUERY(RESERVATION " WHERE r.id = $1 FOR NO KEY UPDATE OF r", UUIDOID);
	Datum values[1] = {UUIDPGetDatum(id)};

	if (gn_spi_execute(lock ? &hold : &look, values, NULL, false) != 1)
		return false;
	read_row(reservation, 0);
	return true;
}

static void
close_row(const Reservation *reservation, State state, int64 committed)
{
	static GnQuery query = GN_QUERY("UPDATE _grownext.entitlement_reservation"
									" SET state = $2, committed = $3 WHERE id = $1",
									UUIDOID, TEXTOID, INT8OID);
	Datum values[3] = {UUIDPGetDatum(&reservation->id),
					   CStringGetTextDatum(state_names[state]),
					   Int64GetDatum(committed)};

	gn_spi_execute(&query, values, state == STATE_COMMITTED ? NULL : "  n", false);
}

/*
 * To where they came from. A counter that somebody corrected downwards meanwhile keeps
 * what it says.
 */
static void
give_back(const Reservation *reservation, int64 amount, TimestampTz now)
{
	GnCounterState state;

	if (reservation->credit)
		(void) gn_credit_refund(&reservation->counter.tenant,
								reservation->counter.feature, amount, &reservation->id,
								now, true);
	else
		(void) gn_counter_give_back(&reservation->counter, amount, now, &state);
}

/* Reserving ------------------------------------------------------------------ */

static TimestampTz
expiry(FunctionCallInfo fcinfo, int number, TimestampTz now)
{
	TimestampTz expires_at;

	if (PG_ARGISNULL(number))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("ttl must be between 1 second and 7 days")));
	expires_at = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
														 TimestampTzGetDatum(now),
														 PG_GETARG_DATUM(number)));
	if (expires_at < now + TTL_MIN || expires_at > now + TTL_MAX)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("ttl must be between 1 second and 7 days")));
	return expires_at;
}

/*
 * Takes the key and the id, waiting while another transaction holds the key. False:
 * the key stands for a reservation already, whose id it is then, or it raises.
 */
static bool
insert_row(const GnUsageCall *call, int feature, Datum ttl, TimestampTz expires_at,
		   pg_uuid_t *id)
{
	static GnQuery insert = GN_QUERY(
		"INSERT INTO _grownext.entitlement_reservation (id, tenant_id, feature_id,"
		" holder_id, amount, ttl, idempotency_key, expires_at, created_at)"
		" VALUES ($1, $2, $3, $2, $4, $5, $6, $7, $8)"
		" ON CONFLICT ON CONSTRAINT entitlement_reservation_idempotency_key DO NOTHING",
		UUIDOID, UUIDOID, INT4OID, INT8OID, INTERVALOID, TEXTOID, TIMESTAMPTZOID,
		TIMESTAMPTZOID);
	static GnQuery earlier =
		GN_QUERY("SELECT r.id, r.feature_id = $3 AND r.amount = $4 AND r.ttl = $5"
				 " FROM _grownext.entitlement_reservation AS r"
				 " WHERE r.tenant_id = $1 AND r.idempotency_key = $2",
				 UUIDOID, TEXTOID, INT4OID, INT8OID, INTERVALOID);
	Datum values[8] = {UUIDPGetDatum(id),
					   UUIDPGetDatum(&call->tenant),
					   Int32GetDatum(feature),
					   Int64GetDatum(call->amount),
					   ttl,
					   call->key ? CStringGetTextDatum(call->key) : (Datum) 0,
					   TimestampTzGetDatum(expires_at),
					   TimestampTzGetDatum(call->now)};
	Datum key[5] = {values[1], values[5], values[2], values[3], values[4]};
	bool isnull;

	if (gn_spi_execute(&insert, values, call->key ? NULL : "     n  ", false) == 1)
		return true;
	if (gn_spi_execute(&earlier, key, NULL, false) != 1)
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("could not serialize access due to concurrent update")));
	if (!DatumGetBool(gn_usage_column(2, &isnull)))
		ereport(ERROR, (errcode(GN_ERRCODE_IDEMPOTENCY_CONFLICT),
						errmsg("idempotency key \"%s\" was used with other arguments",
							   call->key)));
	*id = *DatumGetUUIDP(gn_usage_column(1, &isnull));
	return false;
}

/* Notes where the units came from. */
static void
complete_row(const GnUsageCall *call, const GnUsageResult *result)
{
	static GnQuery query =
		GN_QUERY("UPDATE _grownext.entitlement_reservation"
				 " SET holder_id = $2, period = $3, period_start = $4"
				 " WHERE id = $1",
				 UUIDOID, UUIDOID, TEXTOID, TIMESTAMPTZOID);
	const GnCounter *counter = &result->counter;
	Datum values[4] = {UUIDPGetDatum(call->reservation),
					   UUIDPGetDatum(&counter->tenant),
					   CStringGetTextDatum(gn_period_name(counter->period)),
					   TimestampTzGetDatum(counter->start)};

	gn_spi_execute(&query, values, result->credit ? "  nn" : NULL, false);
}

static void
drop_row(const pg_uuid_t *id)
{
	static GnQuery query =
		GN_QUERY("DELETE FROM _grownext.entitlement_reservation WHERE id = $1",
				 UUIDOID);
	Datum values[1] = {UUIDPGetDatum(id)};

	gn_spi_execute(&query, values, NULL, false);
}

/* SQL: grownext.usage_reserve(feature, amount, ttl, idempotency_key, tenant_id) */
Datum
gn_usage_reserve(PG_FUNCTION_ARGS)
{
	GnUsageCall call = gn_usage_arguments(fcinfo, "reserve", 3);
	TimestampTz expires_at = expiry(fcinfo, 2, call.now);
	pg_uuid_t *id = palloc(sizeof(pg_uuid_t));
	GnUsageResult result = {0};
	const GnAnswer *answer;
	bool reserved = false;
	GnSpi spi;

	gn_uuid_random(id);
	call.reservation = id;
	gn_spi_begin(&spi);
	answer = gn_usage_resolve(&call);
	if (answer->known &&
		!insert_row(&call, answer->known->id, PG_GETARG_DATUM(2), expires_at, id))
		reserved = true;
	else if (answer->known)
	{
		gn_usage_take(&call, &result);
		reserved = result.allowed;
		if (reserved)
			complete_row(&call, &result);
		else
			drop_row(id);
	}
	gn_spi_end(&spi);
	if (!reserved)
		PG_RETURN_NULL();
	PG_RETURN_UUID_P(id);
}

/* Closing -------------------------------------------------------------------- */

/* The caller's own, or a service's; what is not is not found. */
static Reservation
find_own(FunctionCallInfo fcinfo, bool lock)
{
	Oid user = GetUserId();
	Reservation reservation;
	pg_uuid_t tenant;
	bool serves;
	bool found;
	GnSpi spi;
	MemoryContext memory = CurrentMemoryContext;

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("reservation must not be null"),
						errhint("usage_reserve() returns NULL when it denies.")));
	serves = gn_user_has_capability(user, "service") ||
			 gn_user_has_capability(user, "admin");
	if (!serves)
		tenant = gn_caller_tenant(user, NULL);
	gn_spi_begin(&spi);
	found = find(PG_GETARG_UUID_P(0), lock, &reservation);
	if (found)
		reservation.feature = MemoryContextStrdup(memory, reservation.feature);
	gn_spi_end(&spi);
	if (!found ||
		(!serves && memcmp(&tenant, &reservation.tenant, sizeof(pg_uuid_t)) != 0))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("reservation \"%s\" does not exist",
							   gn_uuid_text(PG_GETARG_UUID_P(0)))));
	return reservation;
}

/* True: it was committed, with this amount. */
static bool
check_commit(const Reservation *reservation, int64 amount, TimestampTz now)
{
	if (reservation->state == STATE_COMMITTED)
	{
		if (reservation->committed == amount)
			return true;
		ereport(ERROR, (errcode(GN_ERRCODE_IDEMPOTENCY_CONFLICT),
						errmsg("reservation \"%s\" was committed with another amount",
							   gn_uuid_text(&reservation->id))));
	}
	if (reservation->state == STATE_RELEASED)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("reservation \"%s\" was released",
							   gn_uuid_text(&reservation->id))));
	if (reservation->state == STATE_EXPIRED || reservation->expires_at <= now)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("reservation \"%s\" has expired",
							   gn_uuid_text(&reservation->id)),
						errhint("Consume the units with usage_require().")));
	return false;
}

static void
commit(Reservation *reservation, int64 amount, TimestampTz now)
{
	GnUsageCall more = {
		.operation = "commit",
		.tenant = reservation->tenant,
		.feature = reservation->feature,
		.amount = amount - reservation->amount,
		.now = now,
		.reservation = &reservation->id,
	};
	GnUsageResult result = {.allowed = true};
	GnSpi spi;

	gn_spi_begin(&spi);
	if (amount < reservation->amount)
		give_back(reservation, reservation->amount - amount, now);
	else if (amount > reservation->amount)
		gn_usage_take(&more, &result);
	if (result.allowed)
		close_row(reservation, STATE_COMMITTED, amount);
	gn_spi_end(&spi);
	if (!result.allowed)
		gn_usage_refuse(&more, &result);
}

/* SQL: grownext.usage_commit(reservation uuid, amount bigint) */
Datum
gn_usage_commit(PG_FUNCTION_ARGS)
{
	Reservation reservation;
	int64 amount;

	if (!PG_ARGISNULL(1) && PG_GETARG_INT64(1) <= 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("amount must be greater than zero"),
						errhint("To use nothing, release the reservation.")));
	/* without the lock first: who comes too late stands in nobody's way */
	reservation = find_own(fcinfo, false);
	amount = PG_ARGISNULL(1) ? reservation.amount : PG_GETARG_INT64(1);
	if (check_commit(&reservation, amount, gn_now()))
		PG_RETURN_VOID();
	reservation = find_own(fcinfo, true);
	if (!check_commit(&reservation, amount, gn_now()))
		commit(&reservation, amount, gn_now());
	PG_RETURN_VOID();
}

/* SQL: grownext.usage_release(reservation uuid) */
Datum
gn_usage_release(PG_FUNCTION_ARGS)
{
	Reservation reservation = find_own(fcinfo, false);
	GnSpi spi;

	reservation = find_own(fcinfo, true);
	if (reservation.state == STATE_COMMITTED)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("reservation \"%s\" was committed",
							   gn_uuid_text(&reservation.id)),
						errhint("A service returns units with usage_return().")));
	if (reservation.state != STATE_OPEN)
		PG_RETURN_VOID();
	gn_spi_begin(&spi);
	give_back(&reservation, reservation.amount, gn_now());
	close_row(&reservation, STATE_RELEASED, 0);
	gn_spi_end(&spi);
	PG_RETURN_VOID();
}

/* Expiring ------------------------------------------------------------------- */

static Reservation *
read_rows(uint64 rows)
{
	Reservation *reservations = palloc((rows + 1) * sizeof(Reservation));

	for (uint64 i = 0; i < rows; i++)
		read_row(&reservations[i], i);
	SPI_freetuptable(SPI_tuptable);
	return reservations;
}

int
gn_reservation_reclaim(const pg_uuid_t *holder, int feature, const GnUsageCall *call)
{
	static GnQuery query =
		GN_QUERY(RESERVATION
				 " WHERE r.holder_id = $1 AND r.feature_id = $2 AND r.state = 'open'"
				 " AND r.expires_at <= $3 AND r.id IS DISTINCT FROM $4"
				 " ORDER BY r.expires_at LIMIT $5 FOR NO KEY UPDATE OF r SKIP LOCKED",
				 UUIDOID, INT4OID, TIMESTAMPTZOID, UUIDOID, INT8OID);
	Datum values[5] = {UUIDPGetDatum(holder), Int32GetDatum(feature),
					   TimestampTzGetDatum(call->now), UUIDPGetDatum(call->reservation),
					   Int64GetDatum(RECLAIM_BATCH)};
	uint64 rows =
		gn_spi_execute(&query, values, call->reservation ? NULL : "   n ", false);
	Reservation *expired = read_rows(rows);

	for (uint64 i = 0; i < rows; i++)
	{
		give_back(&expired[i], expired[i].amount, call->now);
		close_row(&expired[i], STATE_EXPIRED, 0);
	}
	return (int) rows;
}

/* Locks all rows of a counter, if there are any; false: somebody holds one. */
static bool
lock_free_counter(const GnCounter *counter)
{
	static GnQuery query =
		GN_QUERY("WITH held AS (SELECT FROM _grownext.entitlement_usage"
				 " WHERE " GN_COUNTER_KEY " FOR NO KEY UPDATE SKIP LOCKED)"
				 " SELECT FROM (SELECT count(*) AS rows FROM held) AS h"
				 " WHERE h.rows > 0 AND h.rows = (SELECT count(*)"
				 " FROM _grownext.entitlement_usage WHERE " GN_COUNTER_KEY ")",
				 UUIDOID, INT4OID, TIMESTAMPTZOID, TEXTOID);
	Datum values[4];

	gn_counter_name(counter, values);
	return gn_spi_execute(&query, values, NULL, false) == 1;
}

/*
 * SQL: _grownext.entitlement_reservation_expire(now timestamptz, most int) -> int
 *
 * Waits for nobody: what is in use is left to the next pass. Returns how many expired
 * ones it looked at.
 */
Datum
gn_entitlement_reservation_expire(PG_FUNCTION_ARGS)
{
	static GnQuery query =
		GN_QUERY(RESERVATION
				 " WHERE r.state = 'open' AND r.expires_at <= $1"
				 " ORDER BY r.expires_at LIMIT $2 FOR NO KEY UPDATE OF r SKIP LOCKED",
				 TIMESTAMPTZOID, INT4OID);
	Datum values[2] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};
	TimestampTz now = PG_GETARG_TIMESTAMPTZ(0);
	Reservation *expired;
	uint64 rows;
	GnSpi spi;

	gn_spi_begin(&spi);
	rows = gn_spi_execute(&query, values, NULL, false);
	expired = read_rows(rows);
	for (uint64 i = 0; i < rows; i++)
	{
		bool given;

		if (expired[i].credit)
			given =
				gn_credit_refund(&expired[i].counter.tenant, expired[i].counter.feature,
								 expired[i].amount, &expired[i].id, now, false);
		else
		{
			given = lock_free_counter(&expired[i].counter);
			if (given)
				give_back(&expired[i], expired[i].amount, now);
		}
		if (given)
			close_row(&expired[i], STATE_EXPIRED, 0);
	}
	gn_spi_end(&spi);
	PG_RETURN_INT32((int32) rows);
}
