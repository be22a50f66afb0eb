/*
 * src/core/trust.c
 *	  Whose word and whose rights count: gateways and capabilities of this database.
 *
 * Any SQL user can set request.jwt.claims. They count only in a session whose
 * authenticated user is a gateway trusted in this database, never in a background
 * worker, and, unless the option require_pre_request is off, only after
 * pre_request() has checked and bound them. One transaction is one request: a
 * second, different value raises.
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

#include "core/claims.h"
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

/* Of the current transaction, and undone with the savepoint that it began in; memory
 * of TopTransactionContext. */
static struct
{
	int level; /* of the subtransaction that bound, 0: nothing is bound */
	char *claims;
	TimestampTz rechecked_at;
	bool described; /* claims that pre_request() need not have seen were looked at */
	const GnContext *answer; /* and this is what they say: the view, or NULL */
	GnContext view;
	char *request_id;
} request;

/* When and by what generations it was found that unchecked claims cannot count. */
static TimestampTz barred_at = 0;
static uint64 barred_trust;
static uint64 barred_option;

static void
forget_at_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PARALLEL_PRE_COMMIT ||
		event == XACT_EVENT_PRE_PREPARE)
		return;
	memset(&request, 0, sizeof(request));
}

static void
end_subtransaction(SubXactEvent event, SubTransactionId mine, SubTransactionId parent,
				   void *arg)
{
	int level = GetCurrentTransactionNestLevel();

	if (request.level < level)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		memset(&request, 0, sizeof(request));
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		request.level = level - 1;
}

void
gn_trust_init(void)
{
	gn_marker_register(&trust_marker);
	gn_marker_register(&option_marker);
	RegisterXactCallback(forget_at_end, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
}

static void *
fresh_array(void *old, uint64 count, size_t size)
{
	if (old)
		pfree(old);
	return MemoryContextAllocZero(TopMemoryContext, (count + 1) * size);
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
	bool isnull;
	Datum value;

	if (gn_spi_execute(&query, NULL, NULL, true) != 1)
		elog(ERROR, "could not read the options");
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	trust.require_pre_request = isnull || !DatumGetBool(value);
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull);
	if (trust.issuer)
		pfree(trust.issuer);
	trust.issuer =
		isnull ? NULL
			   : MemoryContextStrdup(TopMemoryContext, TextDatumGetCString(value));
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

/* Whether the authenticated user of this session is a trusted gateway; needs
 * refresh_trust(). */
static bool
gateway_session(void)
{
	if (!serves_client())
		return false;
	for (int i = 0; i < trust.gateway_count; i++)
	{
		Oid role = get_role_oid(NameStr(trust.gateways[i]), true);

		if (OidIsValid(role) &&
			is_member_of_role_nosuper(GetAuthenticatedUserId(), role))
			return true;
	}
	return false;
}

/* A setting of the gateway, NULL when it is empty or not there. */
static const char *
gateway_setting(const char *name)
{
	const char *value = GetConfigOption(name, true, false);

	return value && *value ? value : NULL;
}

static void
note_request(const char *claims)
{
	if (request.level == 0)
		request.level = GetCurrentTransactionNestLevel();
	request.claims = MemoryContextStrdup(TopTransactionContext, claims);
	request.rechecked_at = GetCurrentStatementStartTimestamp();
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
	if (likely(request.rechecked_at == GetCurrentStatementStartTimestamp()) ||
		request.claims == NULL)
		return;
	claims = gateway_setting("request.jwt.claims");
	if (claims == NULL || strcmp(claims, request.claims) != 0)
		refuse_changed_claims();
	request.rechecked_at = GetCurrentStatementStartTimestamp();
}

static Jsonb *
parse_claims(const char *text)
{
	const char *problem;
	Jsonb *claims = gn_claims_parse(text, &problem);

	if (claims == NULL)
		ereport(ERROR, (errcode(GN_ERRCODE_TOKEN_INVALID),
						errmsg("request.jwt.claims are not valid"),
						errdetail_internal("%s", problem)));
	return claims;
}

/*
 * An anonymous request, as PostgREST makes it: claims that say as which role to run
 * and nothing about anybody.
 */
static bool
names_nobody(Jsonb *claims)
{
	JsonbValue space;

	return JB_ROOT_COUNT(claims) == 0 ||
		   (JB_ROOT_COUNT(claims) == 1 && gn_jsonb_field(claims, "role", &space));
}

/* Without a context an accessor still may be asked for each row: a statement finds out
 * once that unchecked claims cannot count. */
static inline bool
known_barred(void)
{
	return barred_at == GetCurrentStatementStartTimestamp() &&
		   barred_trust == trust_marker.generation &&
		   barred_option == option_marker.generation;
}

static bool
unchecked_barred(void)
{
	barred_at = 0;
	refresh_trust();
	if (!trust.require_pre_request && gateway_session())
		return false;
	barred_trust = trust.trust_generation;
	barred_option = trust.option_generation;
	barred_at = GetCurrentStatementStartTimestamp();
	return true;
}

const GnContext *
gn_trust_unchecked_context(void)
{
	const char *claims;
	Jsonb *parsed;

	if (request.described)
	{
		gn_trust_recheck();
		return request.answer;
	}
	if (known_barred())
		return NULL;
	claims = gateway_setting("request.jwt.claims");
	if (claims == NULL || unchecked_barred())
		return NULL;
	if (request.claims && strcmp(claims, request.claims) != 0)
		refuse_changed_claims();
	parsed = parse_claims(claims);
	if (!names_nobody(parsed))
	{
		gn_context_describe(GN_CONTEXT_GATEWAY, parsed, gn_context_tenant_path(parsed),
							TopTransactionContext, &request.view);
		request.answer = &request.view;
	}
	if (request.claims == NULL)
		note_request(claims);
	request.described = true;
	return request.answer;
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

/* What a log can hold and a person can type. */
static bool
request_id_is_fit(const char *id)
{
	size_t length = strlen(id);

	for (const char *c = id; *c; c++)
	{
		if (*c <= ' ' || *c > '~')
			return false;
	}
	return length > 0 && length <= 200;
}

/* Headers of the request as PostgREST hands them over, names in lower case; NULL if
 * there are none or they cannot be read: nobody is refused for them. */
static Jsonb *
request_headers(void)
{
	const char *text = gateway_setting("request.headers");
	const char *problem;

	return text ? gn_claims_parse(text, &problem) : NULL;
}

static void
note_request_id(const Jsonb *headers)
{
	char *id = headers ? gn_claim_text(headers, "x-request-id") : NULL;

	if (id && request_id_is_fit(id))
	{
		if (request.level == 0)
			request.level = GetCurrentTransactionNestLevel();
		request.request_id = MemoryContextStrdup(TopTransactionContext, id);
	}
}

const char *
gn_request_id(void)
{
	return request.request_id;
}

static void
require_gateway(void)
{
	char *role;

	refresh_trust();
	if (gateway_session())
		return;
	role = GetUserNameFromId(GetAuthenticatedUserId(), false);
	ereport(ERROR,
			(errcode(GN_ERRCODE_NOT_CONFIGURED),
			 errmsg("role \"%s\" is not a gateway trusted in this database", role),
			 errhint("SELECT grownext.gateway_trust(%s);", quote_literal_cstr(role))));
}

/* SQL: grownext.pre_request() */
Datum
gn_pre_request(PG_FUNCTION_ARGS)
{
	const char *claims;
	Jsonb *headers;
	Jsonb *parsed;

	require_gateway();
	claims = gateway_setting("request.jwt.claims");
	if (claims && request.claims && strcmp(claims, request.claims) != 0)
		refuse_changed_claims();
	if (request.claims && gn_context_bound(GN_CONTEXT_GATEWAY))
		PG_RETURN_VOID(); /* asked twice */
	headers = request_headers();
	note_request_id(headers);
	if (claims == NULL)
		PG_RETURN_VOID();
	parsed = parse_claims(claims);
	if (names_nobody(parsed))
	{
		note_request(claims);
		PG_RETURN_VOID();
	}
	gn_context_run_checks(parsed);
	gn_context_run_gateway_checks(parsed, headers);
	gn_context_bind(GN_CONTEXT_GATEWAY, parsed, gn_context_tenant_path(parsed));
	note_request(claims);
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
		if (strcmp(trust.capabilities[i].capability, capability) != 0)
			continue;
		role = get_role_oid(NameStr(trust.capabilities[i].role), true);
		if (OidIsValid(role) && has_privs_of_role(user, role))
			return true;
	}
	return false;
}
