/*
 * src/core/accessors.c
 *	  SQL accessors of the caller's context, cheap enough to stand unwrapped in a
 *	  row policy: a pointer is read, nothing is parsed or looked up.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "core/core.h"

GN_FUNCTION(gn_claims);
GN_FUNCTION(gn_claim);
GN_FUNCTION(gn_current_subject);
GN_FUNCTION(gn_current_user_id);
GN_FUNCTION(gn_current_tenant);
GN_FUNCTION(gn_current_session);
GN_FUNCTION(gn_current_actor);
GN_FUNCTION(gn_has_scope);
GN_FUNCTION(gn_scope_require);
GN_FUNCTION(gn_core_caller_tenant);
GN_FUNCTION(gn_core_caller_has);

/* A uuid of the context, copied: the context may end before the value does. */
static Datum
uuid_copy(const pg_uuid_t *uuid)
{
	pg_uuid_t *copy = palloc(sizeof(pg_uuid_t));

	*copy = *uuid;
	return UUIDPGetDatum(copy);
}

/*
 * The same for a call that may be made for each row: the copy that the first call left
 * in fn_extra is handed out again while it is equal, and never written again, so
 * whoever still holds it keeps what he got. Allocating is two thirds of what a call
 * costs.
 */
static inline Datum
uuid_of_call(FunctionCallInfo fcinfo, const pg_uuid_t *uuid)
{
	FmgrInfo *call = fcinfo->flinfo;

	if (unlikely(call == NULL))
		return uuid_copy(uuid);
	if (unlikely(call->fn_extra == NULL))
	{
		call->fn_extra = MemoryContextAlloc(call->fn_mcxt, sizeof(pg_uuid_t));
		memcpy(call->fn_extra, uuid, sizeof(pg_uuid_t));
	}
	if (likely(memcmp(call->fn_extra, uuid, sizeof(pg_uuid_t)) == 0))
		return PointerGetDatum(call->fn_extra);
	return uuid_copy(uuid);
}

/* SQL: grownext.claims() */
Datum
gn_claims(PG_FUNCTION_ARGS)
{
	const GnContext *context = gn_context();
	Jsonb *copy;

	if (context == NULL)
		PG_RETURN_NULL();
	copy = palloc(VARSIZE(context->claims));
	memcpy(copy, context->claims, VARSIZE(context->claims));
	PG_RETURN_JSONB_P(copy);
}

/* SQL: grownext.claim(name text) */
Datum
gn_claim(PG_FUNCTION_ARGS)
{
	const GnContext *context = gn_context();
	char *value;

	if (context == NULL)
		PG_RETURN_NULL();
	value = gn_claim_text(context->claims, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (value == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(value));
}

/* SQL: grownext.current_subject() */
Datum
gn_current_subject(PG_FUNCTION_ARGS)
{
	const GnContext *context = gn_context();

	if (context == NULL || context->subject == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(context->subject));
}

/* SQL: grownext.current_user_id() */
Datum
gn_current_user_id(PG_FUNCTION_ARGS)
{
	const GnContext *context = gn_context();

	if (context == NULL || context->user_id == NULL)
		PG_RETURN_NULL();
	return uuid_of_call(fcinfo, context->user_id);
}

/* SQL: grownext.current_tenant() */
Datum
gn_current_tenant(PG_FUNCTION_ARGS)
{
	const GnContext *context = gn_context();

	if (context == NULL || context->tenant == NULL)
		PG_RETURN_NULL();
	return uuid_of_call(fcinfo, context->tenant);
}

/* SQL: grownext.current_session() */
Datum
gn_current_session(PG_FUNCTION_ARGS)
{
	const GnContext *context = gn_context();

	if (context == NULL || context->session == NULL)
		PG_RETURN_NULL();
	return uuid_of_call(fcinfo, context->session);
}

/* SQL: grownext.current_actor() */
Datum
gn_current_actor(PG_FUNCTION_ARGS)
{
	const GnContext *context = gn_context();

	if (context == NULL || context->actor == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(context->actor));
}

/* True if word is one of the space-separated words of list (RFC 6749, section 3.3). */
static bool
word_in_list(const char *word, size_t length, const char *list, size_t list_length)
{
	const char *end = list + list_length;

	while (list < end)
	{
		const char *space = memchr(list, ' ', end - list);
		size_t part = (space ? space : end) - list;

		if (part == length && memcmp(list, word, length) == 0)
			return true;
		list += part + 1;
	}
	return false;
}

/* Claim scope: a space-separated string, or an array of strings as some issuers write
 * it. */
static bool
claims_have_scope(const Jsonb *claims, const char *scope, size_t length)
{
	JsonbValue space;
	const JsonbValue *value = gn_jsonb_field(claims, "scope", &space);
	JsonbIterator *it;
	JsonbValue element;
	JsonbIteratorToken token;

	if (value == NULL || length == 0)
		return false;
	if (value->type == jbvString)
		return word_in_list(scope, length, value->val.string.val,
							value->val.string.len);
	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		return false;
	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &element, true)) != WJB_DONE)
	{
		if (token == WJB_ELEM && element.type == jbvString &&
			(size_t) element.val.string.len == length &&
			memcmp(element.val.string.val, scope, length) == 0)
			return true;
	}
	return false;
}

/* SQL: grownext.has_scope(scope text) */
Datum
gn_has_scope(PG_FUNCTION_ARGS)
{
	const GnContext *context = gn_context();
	text *scope = PG_GETARG_TEXT_PP(0);

	if (context == NULL)
		PG_RETURN_NULL();
	PG_RETURN_BOOL(claims_have_scope(context->claims, VARDATA_ANY(scope),
									 VARSIZE_ANY_EXHDR(scope)));
}

/* SQL: grownext.scope_require(scope text) */
Datum
gn_scope_require(PG_FUNCTION_ARGS)
{
	const GnContext *context = gn_context();
	text *scope;

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("scope must not be null")));
	if (context == NULL)
		ereport(ERROR, (errcode(GN_ERRCODE_NO_CONTEXT),
						errmsg("no caller is bound to this transaction")));
	scope = PG_GETARG_TEXT_PP(0);
	if (!claims_have_scope(context->claims, VARDATA_ANY(scope),
						   VARSIZE_ANY_EXHDR(scope)))
		ereport(ERROR,
				(errcode(GN_ERRCODE_SCOPE_MISSING),
				 errmsg("the credential lacks scope \"%s\"", text_to_cstring(scope))));
	PG_RETURN_VOID();
}

pg_uuid_t
gn_caller_tenant(Oid user, const pg_uuid_t *named)
{
	const GnContext *context = gn_context();
	const pg_uuid_t *own = context ? context->tenant : NULL;

	if (named == NULL)
	{
		if (own == NULL)
			ereport(ERROR, (errcode(GN_ERRCODE_NO_CONTEXT),
							errmsg("no tenant is named and the caller has none"),
							errhint("Pass tenant_id, or bind a caller first with "
									"grownext.authenticate(token) or "
									"grownext.act_as(subject, tenant_id).")));
		return *own;
	}
	if (own && memcmp(own, named, sizeof(pg_uuid_t)) == 0)
		return *named;
	if (!gn_user_has_capability(user, "service") &&
		!gn_user_has_capability(user, "admin"))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for a tenant other than the caller's own")));
	return *named;
}

/*
 * SQL: _grownext.core_caller_tenant(tenant_id uuid)
 *
 * In a definer function the current user is the owner; whoever is logged in or
 * SET is the one to be judged.
 */
Datum
gn_core_caller_tenant(PG_FUNCTION_ARGS)
{
	pg_uuid_t tenant = gn_caller_tenant(GetOuterUserId(),
										PG_ARGISNULL(0) ? NULL : PG_GETARG_UUID_P(0));

	return uuid_copy(&tenant);
}

/* SQL: _grownext.core_caller_has(capability text) */
Datum
gn_core_caller_has(PG_FUNCTION_ARGS)
{
	char *capability = text_to_cstring(PG_GETARG_TEXT_PP(0));

	PG_RETURN_BOOL(gn_user_has_capability(GetOuterUserId(), capability));
}
