/*
 * src/entitlement/compile.c
 *	  Reads what has a say about a tenant: its state, exceptions, phases of
 *	  subscriptions with what their bundles say, the free bundle where there is none.
 *
 * All under one snapshot. Starting a plan costs ten times what reading a row does, so
 * rows with a key are read without, and exceptions and phases, of which many tenants
 * have none, are looked for before they are asked for. What is not yet in force is read
 * with the rest, because the instant at which it will be bounds the time for which the
 * answer holds: nobody has to tell a cache that a trial is over.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/scan.h"
#include "entitlement/compile.h"

static Datum
sure_column(uint64 row, int number)
{
	bool isnull;
	Datum datum =
		SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, &isnull);

	if (isnull)
		elog(ERROR, "unexpected null in column %d", number);
	return datum;
}

static bool
is_null(uint64 row, int number)
{
	bool isnull;

	(void) SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number,
						 &isnull);
	return isnull;
}

static void
note_row(const GnRow *row, void *arg)
{
	*(bool *) arg = true;
}

static bool
has_rows(const char *name, const char *index, const pg_uuid_t *tenant)
{
	bool found = false;

	gn_key_scan(name, index, "tenant_id", tenant, GetActiveSnapshot(), note_row,
				&found);
	return found;
}

/* A zone that the time zone database lost counts as UTC. */
static void
read_state(const GnRow *row, void *arg)
{
	GnReading *reading = arg;
	bool isnull;
	Datum state = gn_row_value(row, "state", &isnull);
	pg_tz *zone =
		pg_tzset(TextDatumGetCString(gn_row_value(row, "time_zone", &isnull)));

	reading->state = strcmp(TextDatumGetCString(state), "active") == 0
						 ? GN_TENANT_ACTIVE
						 : GN_TENANT_NOT_ACTIVE;
	if (zone)
		reading->zone = zone;
}

static void
read_parent(const GnRow *row, void *arg)
{
	GnReading *reading = arg;
	bool isnull;

	reading->parent = *DatumGetUUIDP(gn_row_value(row, "parent_id", &isnull));
	reading->has_parent = true;
}

/* Is it in force? Notes when that will change. What is over is not asked about. */
static bool
in_force(GnReading *reading, TimestampTz from, TimestampTz until)
{
	reading->until = Min(reading->until, from > reading->at ? from : until);
	return from <= reading->at;
}

/* Hangs in a candidate if it is in force. */
static GnCandidate *
add_candidate(GnReading *reading, int feature, TimestampTz from, TimestampTz until)
{
	GnCandidate *candidate;

	/* A feature that was defined after the catalogue was read is unknown for now. */
	if (feature >= reading->catalogue->count || !in_force(reading, from, until))
		return NULL;
	candidate = palloc0(sizeof(GnCandidate));
	candidate->quantity = 1;
	candidate->valid_from = from;
	candidate->valid_until = until;
	if (reading->last[feature])
		reading->last[feature]->next = candidate;
	else
		reading->candidates[feature] = candidate;
	reading->last[feature] = candidate;
	return candidate;
}

static GnSource
override_source(const char *effect, bool for_user)
{
	if (strcmp(effect, "block") == 0)
		return GN_SOURCE_BLOCK;
	if (strcmp(effect, "add") == 0)
		return GN_SOURCE_TENANT_ADD;
	return for_user ? GN_SOURCE_USER_GRANT : GN_SOURCE_TENANT_GRANT;
}

static void
read_overrides(GnReading *reading, const pg_uuid_t *tenant, const pg_uuid_t *user)
{
	static GnQuery query = GN_QUERY(
		"SELECT o.feature_id, o.effect, o.user_id, o.id, o.valid_from, "
		"o.valid_until, " GN_SETTING_COLUMNS(
			"o.setting") " FROM _grownext.entitlement_override AS o"
						 " WHERE o.tenant_id = $1 AND o.valid_until > $2 AND "
						 "o.valid_from < "
						 "o.valid_until"
						 " ORDER BY o.feature_id, o.valid_from, o.created_at, o.id",
		UUIDOID, TIMESTAMPTZOID);
	Datum values[2] = {UUIDPGetDatum(tenant), TimestampTzGetDatum(reading->at)};
	uint64 rows;

	if (!has_rows("entitlement_override", "entitlement_override_tenant_id_idx", tenant))
		return;
	rows = gn_spi_execute(&query, values, NULL, true);
	for (uint64 i = 0; i < rows; i++)
	{
		bool for_user = !is_null(i, 3);
		GnCandidate *candidate;

		reading->user_grants |= for_user;
		if (for_user && (user == NULL || memcmp(DatumGetUUIDP(sure_column(i, 3)), user,
												sizeof(pg_uuid_t)) != 0))
			continue;
		candidate = add_candidate(reading, DatumGetInt32(sure_column(i, 1)),
								  DatumGetTimestampTz(sure_column(i, 5)),
								  DatumGetTimestampTz(sure_column(i, 6)));
		if (candidate == NULL)
			continue;
		candidate->source =
			override_source(TextDatumGetCString(sure_column(i, 2)), for_user);
		candidate->id = *DatumGetUUIDP(sure_column(i, 4));
		(void) gn_read_setting(i, 7, &candidate->setting);
	}
	SPI_freetuptable(SPI_tuptable);
}

/* A phase of a bundle without features is read, too: it is a subscription. */
#define PHASES_OF(source)                                                              \
	"SELECT b.feature_id, p.quantity, p.anchor, p.subscription_id, p.version_id,"      \
	" p.valid_from, p.valid_until, p.live_until, p.addon, " GN_SETTING_COLUMNS(        \
		"b.setting") " FROM " source " AS p"                                           \
					 " LEFT JOIN _grownext.entitlement_bundle_feature AS b"            \
					 " ON b.version_id = p.version_id"                                 \
					 " WHERE p.tenant_id = $1 AND p.live AND p.valid_until > $2"       \
					 " AND p.live_until > $2"                                          \
					 " ORDER BY b.feature_id, p.addon, p.valid_from,"                  \
					 " p.subscription_id"

static uint64
execute_phases(const GnReading *reading, const pg_uuid_t *tenant,
			   const GnChange *change)
{
	static GnQuery as_is =
		GN_QUERY(PHASES_OF("_grownext.entitlement_phase"), UUIDOID, TIMESTAMPTZOID);
	static GnQuery as_if =
		GN_QUERY(PHASES_OF("_grownext.entitlement_phase_if($1, $2, $3, $4, $5)"),
				 UUIDOID, TIMESTAMPTZOID, UUIDOID, INT4OID, INT4OID);
	Datum values[5] = {UUIDPGetDatum(tenant), TimestampTzGetDatum(reading->at)};

	if (change == NULL)
		return gn_spi_execute(&as_is, values, NULL, true);
	values[2] = UUIDPGetDatum(&change->subscription);
	values[3] = Int32GetDatum(change->version_id);
	values[4] = Int32GetDatum(change->quantity);
	return gn_spi_execute(&as_if, values, NULL, true);
}

static void
read_phases(GnReading *reading, const pg_uuid_t *tenant, const GnChange *change)
{
	uint64 rows;

	if (change == NULL &&
		!has_rows("entitlement_phase", "entitlement_phase_tenant_id_idx", tenant))
		return;
	rows = execute_phases(reading, tenant, change);
	for (uint64 i = 0; i < rows; i++)
	{
		TimestampTz from = DatumGetTimestampTz(sure_column(i, 6));
		TimestampTz until = Min(DatumGetTimestampTz(sure_column(i, 7)),
								DatumGetTimestampTz(sure_column(i, 8)));
		GnCandidate *candidate;

		if (in_force(reading, from, until) && !DatumGetBool(sure_column(i, 9)))
			reading->subscribed = true;
		if (is_null(i, 1))
			continue;
		candidate =
			add_candidate(reading, DatumGetInt32(sure_column(i, 1)), from, until);
		if (candidate == NULL)
			continue;
		candidate->source = GN_SOURCE_SUBSCRIPTION;
		candidate->quantity = DatumGetInt32(sure_column(i, 2));
		candidate->id = *DatumGetUUIDP(sure_column(i, 4));
		candidate->version_id = DatumGetInt32(sure_column(i, 5));
		if (gn_read_setting(i, 10, &candidate->setting))
			candidate->setting.anchor = DatumGetTimestampTz(sure_column(i, 3));
	}
	SPI_freetuptable(SPI_tuptable);
}

/* What the free bundle that is in force says. */
static void
read_free_bundle(GnReading *reading)
{
	static GnQuery query =
		GN_QUERY("SELECT b.feature_id, " GN_SETTING_COLUMNS(
					 "b.setting") " FROM _grownext.entitlement_bundle_feature AS b"
								  " WHERE b.version_id = $1",
				 INT4OID);
	const GnFreeBundle *free_bundle = NULL;
	Datum values[1];
	uint64 rows;

	for (int i = 0; i < reading->catalogue->free_count; i++)
	{
		const GnFreeBundle *next = &reading->catalogue->free_bundles[i];

		if (next->valid_until > reading->at &&
			in_force(reading, next->valid_from, next->valid_until))
			free_bundle = next;
	}
	if (free_bundle == NULL)
		return;
	values[0] = Int32GetDatum(free_bundle->version_id);
	rows = gn_spi_execute(&query, values, NULL, true);
	for (uint64 i = 0; i < rows; i++)
	{
		GnCandidate *candidate =
			add_candidate(reading, DatumGetInt32(sure_column(i, 1)),
						  free_bundle->valid_from, free_bundle->valid_until);

		if (candidate == NULL)
			continue;
		candidate->source = GN_SOURCE_FREE_BUNDLE;
		candidate->version_id = free_bundle->version_id;
		(void) gn_read_setting(i, 2, &candidate->setting);
	}
	SPI_freetuptable(SPI_tuptable);
}

GnReading *
gn_read_tenant(const GnCatalogue *catalogue, const pg_uuid_t *tenant,
			   const pg_uuid_t *user, TimestampTz at, const GnChange *change)
{
	GnReading *reading = palloc0(sizeof(GnReading));

	reading->catalogue = catalogue;
	reading->at = at;
	TIMESTAMP_NOEND(reading->until);
	reading->candidates = palloc0((catalogue->count + 1) * sizeof(GnCandidate *));
	reading->last = palloc0((catalogue->count + 1) * sizeof(GnCandidate *));
	reading->zone = pg_tzset("GMT");
	gn_key_scan("tenant_tenant", "tenant_tenant_pkey", "id", tenant,
				GetActiveSnapshot(), read_state, reading);
	gn_key_scan("tenant_parent", "tenant_parent_pkey", "tenant_id", tenant,
				GetActiveSnapshot(), read_parent, reading);
	if (reading->state == GN_TENANT_ACTIVE)
	{
		read_overrides(reading, tenant, user);
		read_phases(reading, tenant, change);
		if (!reading->subscribed)
			read_free_bundle(reading);
	}
	return reading;
}
