/*
 * src/tenant/tenant.c
 *	  The component, the check that refuses tenants at the gate, and the names of time
 *	  zones.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "tenant/permission.h"
#include "tenant/tenant.h"

GN_FUNCTION(gn_tenant_time_zone);

/*
 * Tenants that this backend found active, until the marker says that some tenant's
 * state has changed; a full place is taken over by whoever comes next.
 */
#define ACTIVE_PLACES 256
static GnMarker state_marker = {.name = "tenant_marker_state"};
static struct
{
	pg_uuid_t id;
	uint64 generation;
} active[ACTIVE_PLACES];

static bool
tenant_suspended(const pg_uuid_t *id)
{
	static GnQuery query = GN_QUERY("SELECT 1 FROM _grownext.tenant_tenant WHERE id = "
									"$1 AND state <> 'active'",
									UUIDOID);
	bool suspended;
	GnSpi spi;

	PushActiveSnapshot(GetLatestSnapshot());
	gn_spi_begin(&spi);
	suspended = gn_spi_execute(&query, (Datum[]){UUIDPGetDatum(id)}, NULL, true) == 1;
	gn_spi_end(&spi);
	PopActiveSnapshot();
	return suspended;
}

/*
 * Runs before a caller is bound: nobody acts for a suspended tenant, whatever the token
 * says that was minted before. A tenant that is not ours is an application's affair.
 * Nothing is remembered while this transaction has changes of its own, which a
 * savepoint could undo without a message.
 */
static void
check_tenant(const Jsonb *claims)
{
	char *text = gn_claim_text(claims, gn_context_tenant_path(claims));
	uint64 generation = gn_marker_generation(&state_marker);
	bool own_changes = TransactionIdIsValid(GetTopTransactionIdIfAny());
	pg_uuid_t id;
	int place;

	if (text == NULL || !gn_uuid_parse(text, &id))
		return;
	place = id.data[UUID_LEN - 1] % ACTIVE_PLACES;
	if (!own_changes && active[place].generation == generation &&
		memcmp(&active[place].id, &id, sizeof(id)) == 0)
		return;
	if (tenant_suspended(&id))
		ereport(ERROR, (errcode(GN_ERRCODE_TENANT_NOT_ACTIVE),
						errmsg("tenant \"%s\" is not active", text)));
	if (own_changes)
		return;
	active[place].id = id;
	active[place].generation = generation;
}

static void
tenant_init(void)
{
	gn_marker_register(&state_marker);
	gn_context_register_check(check_tenant);
	gn_permission_init();
}

const GnComponent gn_tenant_component = {
	.name = "tenant",
	.init = tenant_init,
	.tick = "SELECT _grownext.tenant_tick($1)",
};

/*
 * POSIX specifications such as "ABC5" are no names: the few zones with a digit are
 * listed.
 */
static bool
is_zone_name(const char *name)
{
	static const char *const with_digits[] = {"Etc/GMT", "GMT",     "EST5EDT",
											  "CST6CDT", "MST7MDT", "PST8PDT"};

	if (strpbrk(name, "0123456789<>,:") == NULL)
		return true;
	for (size_t i = 0; i < lengthof(with_digits); i++)
	{
		size_t length = strlen(with_digits[i]);

		if (pg_strncasecmp(name, with_digits[i], length) == 0 &&
			strspn(name + length, "+-0123456789") == strlen(name + length))
			return true;
	}
	return false;
}

/*
 * SQL: _grownext.tenant_time_zone(name text)
 *
 * The zone's name as the time zone database spells it, NULL if there is none.
 */
Datum
gn_tenant_time_zone(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	pg_tz *zone;

	if (!is_zone_name(name))
		PG_RETURN_NULL();
	zone = pg_tzset(name);
	if (zone == NULL || !pg_tz_acceptable(zone))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(pg_get_timezone_name(zone)));
}
