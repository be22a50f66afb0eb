/*
 * src/jwt/hook.c
 *	  The function of the application that adds claims to tokens of a purpose.
 *
 * A hook runs as the role that owns it, whoever mints: whoever can change what the
 * function does is that role already, and neither the minter nor the platform lends it
 * rights. Only who can become that role may register it. Superusers, the extension's
 * owner and roles that stand above row security are refused, and all is checked again
 * for every token: a function dropped and made anew by somebody else does not run. What
 * it does is a security-restricted operation, so that nothing of it is left to run
 * later as somebody else.
 *
 * A hook adds; it never says what the platform vouches for. The text of its errors may
 * quote what it was given, so only their code is passed on.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "core/core.h"
#include "jwt/profile.h"

GN_FUNCTION(gn_token_profile_define);
GN_FUNCTION(gn_jwt_hook_problem);

/* What a token says with the platform's authority. */
static const char *const platform_claims[] = {
	"iss",  "sub",       "aud",         "exp",       "iat", "nbf",  "jti",
	"sid",  "act",       "may_act",     "client_id", "cnf", "acr",  "amr",
	"role", "tenant_id", "tenant_role", "auth_time", "ent", "entc", "entv",
};

static char *
hook_text(const GnClaimsHook *hook)
{
	return quote_qualified_identifier(hook->schema, hook->name);
}

/* NULL, or why no hook may run as the role. */
static const char *
refuse_owner(Oid owner, const char *name)
{
	if (superuser_arg(owner))
		return psprintf("its owner \"%s\" is a superuser", name);
	if (owner == gn_extension_owner())
		return psprintf("its owner \"%s\" owns the platform", name);
	if (has_rolreplication(owner) || has_bypassrls_privilege(owner))
		return psprintf("its owner \"%s\" stands above row security", name);
	return NULL;
}

/* NULL, or why the function cannot be a hook. */
static const char *
refuse_function(Oid function, Form_pg_proc proc)
{
	if (proc->prokind != PROKIND_FUNCTION || proc->proretset || proc->pronargs != 2 ||
		proc->proargtypes.values[0] != TEXTOID ||
		proc->proargtypes.values[1] != JSONBOID || proc->prorettype != JSONBOID)
		return "it is not a function(subject text, claims jsonb) that returns jsonb";
	if (isAnyTempNamespace(proc->pronamespace))
		return "it is temporary";
	if (function < FirstNormalObjectId ||
		OidIsValid(getExtensionOfObject(ProcedureRelationId, function)))
		return "it belongs to the system or an extension";
	if (gn_proc_aclcheck(function, proc->proowner) != ACLCHECK_OK)
		return "its owner may not execute it";
	return refuse_owner(proc->proowner, GetUserNameFromId(proc->proowner, false));
}

/* The hook's function as it is now; NULL, or why it may not run. Raises nothing. */
static const char *
resolve(const GnClaimsHook *hook, Oid *function, Oid *owner)
{
	Oid arguments[] = {TEXTOID, JSONBOID};
	Oid namespace = get_namespace_oid(hook->schema, true);
	HeapTuple tuple = SearchSysCache3(PROCNAMEARGSNSP, CStringGetDatum(hook->name),
									  PointerGetDatum(buildoidvector(arguments, 2)),
									  ObjectIdGetDatum(namespace));
	Form_pg_proc proc;
	const char *problem;

	if (!HeapTupleIsValid(tuple))
		return "it does not exist";
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	*function = proc->oid;
	*owner = proc->proowner;
	problem = refuse_function(*function, proc);
	if (problem == NULL && *owner != get_role_oid(hook->owner, true))
		problem = psprintf("it is not owned by role \"%s\" any more", hook->owner);
	ReleaseSysCache(tuple);
	return problem;
}

static Datum
call(Oid function, Oid owner, const char *subject, Jsonb *claims, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 2);
	FmgrInfo info;
	Oid user;
	int context;
	int level = NewGUCNestLevel();
	Datum result;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(owner, context | SECURITY_LOCAL_USERID_CHANGE |
									  SECURITY_RESTRICTED_OPERATION);
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	fmgr_info(function, &info);
	InitFunctionCallInfoData(*fcinfo, &info, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0] = (NullableDatum){.value = CStringGetTextDatum(subject)};
	fcinfo->args[1] = (NullableDatum){.value = JsonbPGetDatum(claims)};
	result = FunctionCallInvoke(fcinfo);
	*isnull = fcinfo->isnull;
	AtEOXact_GUC(false, level);
	SetUserIdAndSecContext(user, context);
	return result;
}

/* What the client must see as it is, because it decides whether to try again. */
static bool
passes_through(int code)
{
	int category = ERRCODE_TO_CATEGORY(code);

	return category == ERRCODE_TRANSACTION_ROLLBACK ||
		   category == ERRCODE_INSUFFICIENT_RESOURCES ||
		   category == ERRCODE_OPERATOR_INTERVENTION;
}

static Datum
call_guarded(const GnClaimsHook *hook, Oid function, Oid owner, const char *subject,
			 Jsonb *claims, bool *isnull)
{
	MemoryContext memory = CurrentMemoryContext;
	volatile Datum result = (Datum) 0;

	PG_TRY();
	{
		result = call(function, owner, subject, claims, isnull);
	}
	PG_CATCH();
	{
		int code = geterrcode();

		if (passes_through(code))
			PG_RE_THROW();
		MemoryContextSwitchTo(memory);
		FlushErrorState();
		ereport(ERROR,
				(errcode(GN_ERRCODE_CLAIMS_HOOK_FAILED),
				 errmsg("claims hook %s failed", hook_text(hook)),
				 errdetail("It raised SQLSTATE %s.", unpack_sql_state(code)),
				 errhint("Call it yourself to see why: SELECT %s(subject, claims);",
						 hook_text(hook))));
	}
	PG_END_TRY();
	return result;
}

static void
check_added(const GnClaimsHook *hook, Jsonb *claims, Jsonb *added)
{
	JsonbIterator *iterator = JsonbIteratorInit(&added->root);
	JsonbIteratorToken token;
	JsonbValue name;
	JsonbValue space;

	if (!JB_ROOT_IS_OBJECT(added))
		ereport(ERROR, (errcode(GN_ERRCODE_CLAIMS_HOOK_FAILED),
						errmsg("claims hook %s returned no object", hook_text(hook)),
						errhint("It must return a JSON object of claims, or NULL.")));
	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		char *text;
		bool refused;

		if (token != WJB_KEY)
			continue;
		text = pnstrdup(name.val.string.val, name.val.string.len);
		refused = gn_jsonb_field(claims, text, &space) != NULL;
		for (size_t i = 0; i < lengthof(platform_claims); i++)
			refused |= strcmp(platform_claims[i], text) == 0;
		if (refused)
			ereport(ERROR, (errcode(GN_ERRCODE_CLAIMS_HOOK_FAILED),
							errmsg("claims hook %s may not say claim \"%s\"",
								   hook_text(hook), text),
							errdetail("It is reserved, or the token has it already.")));
		pfree(text);
	}
}

Jsonb *
gn_claims_hook_run(const GnClaimsHook *hook, const char *subject, Jsonb *claims)
{
	Oid function;
	Oid owner;
	const char *problem = resolve(hook, &function, &owner);
	Datum result;
	Jsonb *added;
	bool isnull;

	if (problem)
		ereport(ERROR, (errcode(GN_ERRCODE_CLAIMS_HOOK_FAILED),
						errmsg("claims hook %s may not run", hook_text(hook)),
						errdetail("The reason: %s.", problem),
						errhint("Name another one: SELECT "
								"grownext.token_profile_define(...);")));
	result = call_guarded(hook, function, owner, subject, claims, &isnull);
	if (isnull)
		return NULL;
	added = DatumGetJsonbP(result);
	check_added(hook, claims, added);
	return added;
}

/* SQL: _grownext.jwt_hook_problem(schema name, name name, owner name) */
Datum
gn_jwt_hook_problem(PG_FUNCTION_ARGS)
{
	GnClaimsHook hook = {
		.schema = NameStr(*PG_GETARG_NAME(0)),
		.name = NameStr(*PG_GETARG_NAME(1)),
		.owner = NameStr(*PG_GETARG_NAME(2)),
	};
	Oid function;
	Oid owner;
	const char *problem = resolve(&hook, &function, &owner);

	if (problem == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(
		psprintf("claims hook %s may not run: %s", hook_text(&hook), problem)));
}

/* The function that an option names, if the caller may make a hook of it. */
static void
find_hook(const char *text, GnClaimsHook *hook)
{
	Oid function = DatumGetObjectId(
		DirectFunctionCall1(regprocedurein, CStringGetDatum(text))); /* 42883 */
	HeapTuple tuple;
	Form_pg_proc proc;
	const char *problem;

	LockDatabaseObject(ProcedureRelationId, function, 0, AccessShareLock);
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
						errmsg("function \"%s\" does not exist", text)));
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	problem = refuse_function(function, proc);
	if (problem)
		ereport(ERROR, (errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
						errmsg("function %s cannot be a claims hook",
							   format_procedure(function)),
						errdetail("The reason: %s.", problem)));
	if (!gn_can_set_role(GetUserId(), proc->proowner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to let function %s run as role \"%s\"",
						format_procedure(function),
						GetUserNameFromId(proc->proowner, false)),
				 errhint("A hook runs as its owner: whoever registers it must be able "
						 "to SET ROLE to that role.")));
	hook->schema = get_namespace_name(proc->pronamespace);
	hook->name = pstrdup(NameStr(proc->proname));
	hook->owner = GetUserNameFromId(proc->proowner, false);
	ReleaseSysCache(tuple);
}

/*
 * SQL: grownext.token_profile_define(purpose text, options jsonb)
 *
 * Runs as the invoker: what is checked of a hook are the invoker's own rights.
 */
Datum
gn_token_profile_define(PG_FUNCTION_ARGS)
{
	static GnQuery store =
		GN_QUERY("SELECT _grownext.jwt_profile_store($1, $2, $3, $4, $5)", TEXTOID,
				 JSONBOID, NAMEOID, NAMEOID, NAMEOID);
	GnClaimsHook hook = {0};
	JsonbValue space;
	const JsonbValue *named = NULL;
	Datum values[5] = {0};
	char nulls[5] = {' ', ' ', 'n', 'n', 'n'};
	GnSpi spi;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("a profile needs a purpose and options")));
	if (JB_ROOT_IS_OBJECT(PG_GETARG_JSONB_P(1)))
		named = gn_jsonb_field(PG_GETARG_JSONB_P(1), "claims_hook", &space);
	values[0] = PG_GETARG_DATUM(0);
	values[1] = PG_GETARG_DATUM(1);
	if (named && named->type == jbvString)
	{
		find_hook(pnstrdup(named->val.string.val, named->val.string.len), &hook);
		values[2] = DirectFunctionCall1(namein, CStringGetDatum(hook.schema));
		values[3] = DirectFunctionCall1(namein, CStringGetDatum(hook.name));
		values[4] = DirectFunctionCall1(namein, CStringGetDatum(hook.owner));
		memset(nulls, ' ', sizeof(nulls));
	}
	gn_spi_begin(&spi);
	(void) gn_spi_execute(&store, values, nulls, false);
	gn_spi_end(&spi);
	PG_RETURN_VOID();
}
