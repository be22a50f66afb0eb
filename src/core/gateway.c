/*
 * src/core/gateway.c
 *	  The request that a gateway's transaction serves: its claims, its id, its gate.
 *
 * Any SQL user can set request.jwt.claims. They count only in a session whose
 * authenticated user is a gateway trusted in this database, never in a background
 * worker, and, unless the option require_pre_request is off, only after
 * pre_request() has checked and bound them. One transaction is one request: a
 * second, different value raises.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/claims.h"
#include "core/core.h"
#include "core/trust.h"

GN_FUNCTION(gn_pre_request);

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

/* When, and by which state of trust, it was found that unchecked claims cannot count.
 */
static TimestampTz barred_at = 0;
static uint64 barred_stamp;

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
gn_gateway_init(void)
{
	RegisterXactCallback(forget_at_end, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
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
gn_gateway_recheck(void)
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
		   barred_stamp == gn_trust_stamp();
}

static bool
unchecked_barred(void)
{
	barred_at = 0;
	if (!gn_trust_requires_pre_request() && gn_trust_gateway_session())
		return false;
	barred_stamp = gn_trust_stamp();
	barred_at = GetCurrentStatementStartTimestamp();
	return true;
}

const GnContext *
gn_gateway_unchecked_context(void)
{
	const char *claims;
	Jsonb *parsed;

	if (request.described)
	{
		gn_gateway_recheck();
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

	if (gn_trust_gateway_session())
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
