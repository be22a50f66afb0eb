/*
 * src/core/trust.c
 *	  Whose word and whose rights count: gateways and capabilities of this database.
 *
 * What the tables say is kept per backend by name; which roles those are and who is a
 * member of them is asked of the catalogue each time, because GRANT and DROP ROLE
 * touch no table of ours.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/trust.h"

static GnMarker trust_marker = {.name = "core_marker_trust"};
static GnMarker option_marker = {.name = "core_marker_option"};

/* What the tables say, as of the noted generations. */
static struct
{
	uint64 trust_generation;
	uint64 option_generation;
	bool provisional; /* read under an older snapshot than it should have been */
	int gateway_count;
	NameData *gateways;
	int capability_count;
	struct TrustCapability
	{
		char capability[16];
		NameData role;
	} * capabilities;
	bool require_pre_request; /* claims count only after pre_request() */
	char *issuer;             /* NULL before setup() */
} trust;

void
gn_trust_init(void)
{
	gn_marker_register(&trust_marker);
	gn_marker_register(&option_marker);
}

static void *
fresh_array(void *old, uint64 count, size_t size)
{
	void *fresh = MemoryContextAllocZero(TopMemoryContext, (count + 1) * size);

	if (old)
		pfree(old);
	return fresh;
}

static void
load_gateways(void)
{
	static GnQuery query =
		GN_QUERY_NOARGS("SELECT role_name FROM _grownext.core_gateway");
	uint64 count = gn_spi_execute(&query, NULL, NULL, true);

	trust.gateway_count = 0;
	trust.gateways = fresh_array(trust.gateways, count, sizeof(*trust.gateways));
	for (uint64 i = 0; i < count; i++)
	{
		bool isnull;
		Datum name =
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);

		trust.gateways[trust.gateway_count++] = *DatumGetName(name);
	}
}

static void
load_capabilities(void)
{
	static GnQuery query =
		GN_QUERY_NOARGS("SELECT capability, role_name FROM _grownext.core_capability");
	uint64 count = gn_spi_execute(&query, NULL, NULL, true);

	trust.capability_count = 0;
	trust.capabilities =
		fresh_array(trust.capabilities, count, sizeof(*trust.capabilities));
	for (uint64 i = 0; i < count; i++)
	{
		struct TrustCapability *entry = &trust.capabilities[trust.capability_count++];
		HeapTuple tuple = SPI_tuptable->vals[i];
		bool isnull;
		Datum capability = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull);

		text_to_cstring_buffer(DatumGetTextPP(capability), entry->capability,
							   sizeof(entry->capability));
		entry->role =
			*DatumGetName(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull));
	}
}

static void
load_options(void)
{
	static GnQuery query = GN_QUERY_NOARGS(
		"SELECT (SELECT value = 'false'::pg_catalog.jsonb FROM _grownext.core_option "
		"WHERE name = 'require_pre_request'), "
		"(SELECT value #>> '{}' FROM _grownext.core_option WHERE name = 'issuer')");
	char *old_issuer;
	bool isnull;
	Datum value;

	if (gn_spi_execute(&query, NULL, NULL, true) != 1)
		elog(ERROR, "could not read the options");
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	trust.require_pre_request = isnull || !DatumGetBool(value);
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull);
	old_issuer = trust.issuer;
	trust.issuer =
		isnull ? NULL
			   : MemoryContextStrdup(TopMemoryContext, TextDatumGetCString(value));
	if (old_issuer)
		pfree(old_issuer);
}

/*
 * What committed since this statement began counts, or it would be missed for good.
 * In parallel mode there is no newer snapshot to be had than the query's own, so what
 * the leader reads then is read again afterwards; a worker lives for one query.
 */
static void
load_trust(void)
{
	bool parallel = IsInParallelMode();
	GnSpi spi;

	gn_spi_begin(&spi);
	PushActiveSnapshot(parallel ? GetActiveSnapshot() : GetLatestSnapshot());
	load_gateways();
	load_capabilities();
	load_options();
	PopActiveSnapshot();
	gn_spi_end(&spi);
	trust.provisional = parallel && !IsParallelWorker();
}

static void
refresh_trust(void)
{
	uint64 trust_now = gn_marker_generation(&trust_marker);
	uint64 option_now = gn_marker_generation(&option_marker);

	if (trust_now == trust.trust_generation && option_now == trust.option_generation &&
		(!trust.provisional || IsInParallelMode()))
		return;
	load_trust();
	trust.trust_generation = trust_now;
	trust.option_generation = option_now;
}

/* Whether a client, not a job, is behind this process. */
static bool
serves_client(void)
{
	if (!gn_in_background_worker())
		return true;
	return IsParallelWorker() && MyProc->lockGroupLeader &&
		   gn_serves_client(MyProc->lockGroupLeader);
}

bool
gn_trust_gateway_session(void)
{
	if (!serves_client())
		return false;
	refresh_trust();
	for (int i = 0; i < trust.gateway_count; i++)
	{
		Oid role = get_role_oid(NameStr(trust.gateways[i]), true);

		if (OidIsValid(role) &&
			is_member_of_role_nosuper(GetAuthenticatedUserId(), role))
			return true;
	}
	return false;
}

bool
gn_trust_requires_pre_request(void)
{
	refresh_trust();
	return trust.require_pre_request;
}

/* Either number only grows, so their sum changes with each of them. */
uint64
gn_trust_stamp(void)
{
	return trust_marker.generation + option_marker.generation;
}

const char *
gn_context_tenant_path(const Jsonb *claims)
{
	char *issuer = gn_claim_text(claims, "iss");

	refresh_trust();
	return issuer && trust.issuer && strcmp(issuer, trust.issuer) == 0
			   ? "tenant_id"
			   : gn_tenant_claim;
}

bool
gn_user_has_capability(Oid user, const char *capability)
{
	char role_name[NAMEDATALEN];
	Oid role;

	if (superuser_arg(user) || user == gn_extension_owner())
		return true;
	snprintf(role_name, sizeof(role_name), "grownext_%s", capability);
	role = get_role_oid(role_name, true);
	if (OidIsValid(role) && has_privs_of_role(user, role))
		return true;
	refresh_trust();
	for (int i = 0; i < trust.capability_count; i++)
	{
		if (strcmp(trust.capabilities[i].capability, capability) != 0)
			continue;
		role = get_role_oid(NameStr(trust.capabilities[i].role), true);
		if (OidIsValid(role) && has_privs_of_role(user, role))
			return true;
	}
	return false;
}
