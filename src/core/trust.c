/*
 * src/core/trust.c
 *	  Whose word and whose rights count: gateways and capabilities of this database.
 *
 * Any SQL user can set request.jwt.claims. They count only in a session whose
 * authenticated user is a gateway trusted in this database, never in a background
 * worker, and, unless the option require_pre_request is off, only after
 * pre_request() has checked and bound them. One transaction is one request: a
 * second, different value raises.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/trust.h"

GN_FUNCTION(gn_pre_request);

static GnMarker trust_marker = {.name = "core_marker_trust"};
static GnMarker option_marker = {.name = "core_marker_option"};

/* What the tables say, as of the noted generations. */
static struct
{
	uint64 trust_generation;
	uint64 option_generation;
	bool gateway; /* the authenticated user of this session is a trusted gateway */
	bool require_pre_request; /* claims count only after pre_request() */
	int capability_count;
	struct TrustCapability
	{
		char capability[16];
		Oid role;
	} * capabilities;
} trust;

/* Of the current transaction; memory of TopTransactionContext. */
static char *bound_claims = NULL;
static TimestampTz rechecked_at = 0;
static GnContext unchecked;
static bool unchecked_known = false;

static void
forget_at_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PARALLEL_PRE_COMMIT ||
		event == XACT_EVENT_PRE_PREPARE)
		return;
	bound_claims = NULL;
	unchecked_known = false;
}

void
gn_trust_init(void)
{
	gn_marker_register(&trust_marker);
	gn_marker_register(&option_marker);
	RegisterXactCallback(forget_at_end, NULL);
}

static void
load_gateways(void)
{
	static GnQuery query =
		GN_QUERY_NOARGS("SELECT role_name FROM _grownext.core_gateway");
	uint64 count = gn_spi_execute(&query, NULL, NULL, true);

	trust.gateway = false;
	for (uint64 i = 0; i < count; i++)
	{
		bool isnull;
		Name name = DatumGetName(
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
		Oid role = get_role_oid(NameStr(*name), true);

		if (OidIsValid(role) &&
			is_member_of_role_nosuper(GetAuthenticatedUserId(), role))
			trust.gateway = true;
	}
}

static void
load_capabilities(void)
{
	static GnQuery query =
		GN_QUERY_NOARGS("SELECT capability, role_name FROM _grownext.core_capability");
	uint64 count = gn_spi_execute(&query, NULL, NULL, true);

	trust.capability_count = 0;
	if (trust.capabilities)
		pfree(trust.capabilities);
	trust.capabilities =
		MemoryContextAllocZero(TopMemoryContext,
							   (count + 1) * sizeof(*trust.capabilities));
	for (uint64 i = 0; i < count; i++)
	{
		struct TrustCapability *entry = &trust.capabilities[trust.capability_count];
		HeapTuple tuple = SPI_tuptable->vals[i];
		bool isnull;
		Datum capability = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull);
		Name name =
			DatumGetName(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull));

		entry->role = get_role_oid(NameStr(*name), true);
		text_to_cstring_buffer(DatumGetTextPP(capability), entry->capability,
							   sizeof(entry->capability));
		if (OidIsValid(entry->role))
			trust.capability_count++;
	}
}

static void
load_options(void)
{
	static GnQuery query =
		GN_QUERY_NOARGS("SELECT value = 'false'::pg_catalog.jsonb FROM "
						"_grownext.core_option WHERE name = 'require_pre_request'");

	trust.require_pre_request = true;
	if (gn_spi_execute(&query, NULL, NULL, true) == 1)
	{
		bool isnull;

		trust.require_pre_request = !DatumGetBool(
			SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	}
}

static void
refresh_trust(void)
{
	uint64 trust_now = gn_marker_generation(&trust_marker);
	uint64 option_now = gn_marker_generation(&option_marker);
	GnSpi spi;

	if (trust_now == trust.trust_generation && option_now == trust.option_generation)
		return;
	gn_spi_begin(&spi);
	/* What committed since this statement began counts, or it would be missed for good.
	 */
	PushActiveSnapshot(GetLatestSnapshot());
	load_gateways();
	load_capabilities();
	load_options();
	PopActiveSnapshot();
	gn_spi_end(&spi);
	trust.trust_generation = trust_now;
	trust.option_generation = option_now;
}

/* Claims as the gateway set them, or NULL where they count for nothing. */
static const char *
gateway_claims(void)
{
	const char *claims;

	if (gn_in_background_worker() && !IsParallelWorker())
		return NULL;
	claims = GetConfigOption("request.jwt.claims", true, false);
	if (claims == NULL || *claims == '\0')
		return NULL;
	refresh_trust();
	return trust.gateway ? claims : NULL;
}

static void
note_bound_claims(const char *claims)
{
	bound_claims = MemoryContextStrdup(TopTransactionContext, claims);
	rechecked_at = GetCurrentStatementStartTimestamp();
}

static void
refuse_changed_claims(void)
{
	ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					errmsg("request.jwt.claims changed within a transaction"),
					errdetail("One transaction serves one request.")));
}

void
gn_trust_recheck(void)
{
	const char *claims;

	/* Once per statement is enough: the bound claims themselves cannot change. */
	if (bound_claims == NULL || rechecked_at == GetCurrentStatementStartTimestamp())
		return;
	claims = GetConfigOption("request.jwt.claims", true, false);
	if (claims == NULL || strcmp(claims, bound_claims) != 0)
		refuse_changed_claims();
	rechecked_at = GetCurrentStatementStartTimestamp();
}

const GnContext *
gn_trust_unchecked_context(void)
{
	const char *claims;

	if (unchecked_known)
	{
		gn_trust_recheck();
		return &unchecked;
	}
	claims = gateway_claims();
	if (claims == NULL || trust.require_pre_request)
		return NULL;
	if (bound_claims && strcmp(claims, bound_claims) != 0)
		refuse_changed_claims();
	gn_context_describe(GN_CONTEXT_GATEWAY, gn_jsonb_from_text(claims), gn_tenant_claim,
						TopTransactionContext, &unchecked);
	if (bound_claims == NULL)
		note_bound_claims(claims);
	unchecked_known = true;
	return &unchecked;
}

/* SQL: grownext.pre_request() */
Datum
gn_pre_request(PG_FUNCTION_ARGS)
{
	const char *claims = gateway_claims();
	Jsonb *parsed;

	refresh_trust();
	if (!trust.gateway)
	{
		char *role = GetUserNameFromId(GetAuthenticatedUserId(), false);

		ereport(ERROR,
				(errcode(GN_ERRCODE_NOT_CONFIGURED),
				 errmsg("role \"%s\" is not a gateway trusted in this database", role),
				 errhint("SELECT grownext.gateway_trust(%s);",
						 quote_literal_cstr(role))));
	}
	if (claims == NULL)
		PG_RETURN_VOID();
	if (bound_claims && strcmp(claims, bound_claims) != 0)
		refuse_changed_claims();
	if (bound_claims && gn_context_bound(GN_CONTEXT_GATEWAY))
		PG_RETURN_VOID(); /* asked twice; a rolled-back savepoint may have unbound it */
	parsed = gn_jsonb_from_text(claims);
	gn_context_run_checks(parsed);
	gn_context_bind(GN_CONTEXT_GATEWAY, parsed, gn_tenant_claim);
	if (bound_claims == NULL)
		note_bound_claims(claims);
	PG_RETURN_VOID();
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
		if (strcmp(trust.capabilities[i].capability, capability) == 0 &&
			has_privs_of_role(user, trust.capabilities[i].role))
			return true;
	}
	return false;
}
