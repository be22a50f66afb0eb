/*
 * src/jwt/caller.c
 *	  authenticate() and act_as(): how an identity is bound to a transaction.
 *
 * A token speaks for its subject once it is verified and every registered check
 * (a session not revoked, and the like) has passed. act_as() needs no token but a
 * role that may speak for anybody; with a reason it is an impersonation: the
 * claims name who really acts, and the audit log keeps it.
 *
 * A gateway verifies tokens itself, with public keys that it fetched some time ago.
 * The token is still in the request's headers, so pre_request() can see that the key
 * which signed it was revoked since, or is one for tokens of another purpose.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "core/core.h"
#include "jwt/jose.h"
#include "jwt/jwt.h"
#include "jwt/key.h"
#include "jwt/profile.h"
#include "jwt/token.h"

GN_FUNCTION(gn_authenticate);
GN_FUNCTION(gn_act_as);

#define MAX_SUBJECT 255
#define MAX_CLAIMS (64 * 1024)

/* The token of header Authorization (RFC 6750, section 2.1), or NULL. */
static const char *
bearer_token(const Jsonb *headers)
{
	const char *value = headers ? gn_claim_text(headers, "authorization") : NULL;

	if (value == NULL || pg_strncasecmp(value, "bearer ", 7) != 0)
		return NULL;
	value += 7;
	return value + strspn(value, " ");
}

static GnJoseError
key_error(const GnSigningKey *key)
{
	if (key == NULL ||
		(key->state == GN_KEY_RETIRING && gn_now() >= key->accepted_until))
		return GN_JOSE_UNKNOWN_KEY;
	if (key->state == GN_KEY_REVOKED)
		return GN_JOSE_REVOKED_KEY;
	return strcmp(key->purpose, GN_PURPOSE_ACCESS) == 0 ? GN_JOSE_OK : GN_JOSE_TYPE;
}

/*
 * Runs when claims of a gateway are to be bound. It refuses what the gateway could not
 * know; what it did verify is not verified again. A gateway that hands over no headers
 * has to read the JWKS more often.
 */
static void
check_bearer_key(const Jsonb *claims, const Jsonb *headers)
{
	const char *issuer = gn_claim_text(claims, "iss");
	const char *own = gn_jwt_issuer();
	const char *token;
	size_t len;
	GnJws jws;
	GnJoseError error;

	if (issuer == NULL || own == NULL || strcmp(issuer, own) != 0)
		return;
	token = bearer_token(headers);
	len = token ? strlen(token) : 0;
	if (len == 0 || len > GN_JOSE_MAX_TOKEN ||
		gn_jws_parse(&jws, token, len, palloc(len + 1)) != GN_JOSE_OK ||
		jws.kid[0] == '\0')
		return;
	error = key_error(gn_jwt_key_find(jws.kid));
	if (error != GN_JOSE_OK)
		ereport(ERROR, (errcode(GN_ERRCODE_TOKEN_INVALID), errmsg("token is not valid"),
						errdetail("%s", gn_jose_error_detail(error))));
}

void
gn_caller_init(void)
{
	gn_context_register_gateway_check(check_bearer_key);
}

/* SQL: grownext.authenticate(token text, audience text) */
Datum
gn_authenticate(PG_FUNCTION_ARGS)
{
	Jsonb *claims;

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(GN_ERRCODE_TOKEN_INVALID), errmsg("token is not valid"),
						errdetail("It is NULL.")));
	claims =
		gn_jwt_verified_claims(PG_GETARG_TEXT_PP(0),
							   PG_ARGISNULL(1) ? NULL
											   : text_to_cstring(PG_GETARG_TEXT_PP(1)),
							   NULL, GN_PURPOSE_ACCESS);
	gn_context_run_checks(claims);
	gn_context_bind(GN_CONTEXT_TOKEN, claims, NULL);
	gn_warn_outside_block("authenticate()");
	PG_RETURN_JSONB_P(claims);
}

static void
push_string(JsonbParseState **state, const char *key, const char *value)
{
	JsonbValue item = {.type = jbvString};

	item.val.string.val = unconstify(char *, key);
	item.val.string.len = (int) strlen(key);
	pushJsonbValue(state, WJB_KEY, &item);
	item.val.string.val = unconstify(char *, value);
	item.val.string.len = (int) strlen(value);
	pushJsonbValue(state, WJB_VALUE, &item);
}

/* The extra claims, and above them who is spoken for and, in an impersonation, by whom.
 */
static Jsonb *
acting_claims(Jsonb *extra, const char *subject, const pg_uuid_t *tenant,
			  const char *actor)
{
	static const char *const own[] = {"sub", "tenant_id", "act", "sid"};
	JsonbParseState *state = NULL;
	JsonbIterator *iterator = JsonbIteratorInit(&extra->root);
	JsonbIteratorToken token;
	JsonbValue value;
	JsonbValue act = {.type = jbvString};

	for (size_t i = 0; i < lengthof(own); i++)
	{
		JsonbValue space;

		if (gn_jsonb_field(extra, own[i], &space))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("claim \"%s\" is reserved", own[i])));
	}
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	(void) JsonbIteratorNext(&iterator, &value, true);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_END_OBJECT)
		pushJsonbValue(&state, token, &value);
	push_string(&state, "sub", subject);
	if (tenant)
		push_string(&state, "tenant_id", gn_uuid_text(tenant));
	if (actor)
	{
		const char *key = "act";

		act.val.string.val = unconstify(char *, key);
		act.val.string.len = 3;
		pushJsonbValue(&state, WJB_KEY, &act);
		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		push_string(&state, "sub", actor);
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static void
audit_impersonation(const char *subject, const pg_uuid_t *tenant, const char *actor,
					const char *reason)
{
	static GnQuery write = GN_QUERY(
		"SELECT _grownext.audit_write('user.impersonated', 'user:' || $1, $2, NULL, "
		"pg_catalog.jsonb_build_object('actor', $3, 'reason', $4))",
		TEXTOID, UUIDOID, TEXTOID, TEXTOID);
	GnSpi spi;

	gn_spi_begin(&spi);
	gn_spi_execute(&write,
				   (Datum[]){CStringGetTextDatum(subject),
							 tenant ? UUIDPGetDatum(tenant) : 0,
							 CStringGetTextDatum(actor), CStringGetTextDatum(reason)},
				   tenant ? NULL : " n  ", false);
	gn_spi_end(&spi);
}

/* OpenID Connect Core, section 2: at most 255 characters; the audit log takes no
 * control characters. */
static void
check_subject(const char *subject)
{
	if (subject == NULL || *subject == '\0')
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("a subject must be named")));
	if (strlen(subject) > MAX_SUBJECT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a subject must not be longer than %d bytes", MAX_SUBJECT)));
	for (const unsigned char *c = (const unsigned char *) subject; *c; c++)
	{
		if (*c < 0x20 || *c == 0x7f)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("a subject must not contain control characters")));
	}
}

/* SQL: grownext.act_as(subject text, tenant_id uuid, claims jsonb, reason text) */
Datum
gn_act_as(PG_FUNCTION_ARGS)
{
	char *subject = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	pg_uuid_t *tenant = PG_ARGISNULL(1) ? NULL : PG_GETARG_UUID_P(1);
	Jsonb *extra = PG_ARGISNULL(2) ? gn_jsonb_from_text("{}") : PG_GETARG_JSONB_P(2);
	char *reason = PG_ARGISNULL(3) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(3));
	const GnContext *before = gn_context();
	char *actor = NULL;

	if (!gn_user_has_capability(GetUserId(), "service") &&
		!gn_user_has_capability(GetUserId(), "admin"))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied to act as somebody else"),
						errdetail("It takes grownext_service or grownext_admin.")));
	check_subject(subject);
	if (!JB_ROOT_IS_OBJECT(extra))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("claims must be a JSON object")));
	if (VARSIZE(extra) > MAX_CLAIMS)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("claims must not be larger than %d bytes", MAX_CLAIMS)));
	if (reason && *reason == '\0')
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a reason must not be empty")));
	if (reason)
		actor = before && before->actor
					? pstrdup(before->actor)
					: psprintf("role:%s", GetUserNameFromId(GetSessionUserId(), false));
	gn_context_bind(GN_CONTEXT_ACT_AS, acting_claims(extra, subject, tenant, actor),
					NULL);
	if (reason)
		audit_impersonation(subject, tenant, actor, reason);
	gn_warn_outside_block("act_as()");
	PG_RETURN_VOID();
}
