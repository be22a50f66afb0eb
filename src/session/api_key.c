/*
 * src/session/api_key.c
 *	  API keys: making one, judging one, binding its caller.
 *
 * A key is 178 random bits, so nobody guesses one, and SHA-256 is all the hashing that
 * it needs at rest. Failed attempts are counted per address and per text, beside the
 * transaction, and only ever change the answer about keys that do not exist: a key that
 * is good is never refused for what others tried, so nobody can lock it out.
 */
#include "postgres.h"

#include <sys/socket.h>

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/inet.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "jwt/jwt.h"
#include "session/api_key.h"
#include "session/api_key_text.h"

GN_FUNCTION(gn_session_api_key_make);
GN_FUNCTION(gn_session_api_key_environment);
GN_FUNCTION(gn_api_key_verify);
GN_FUNCTION(gn_authenticate_api_key);

typedef enum Code
{
	CODE_VALID,
	CODE_NOT_FOUND,
	CODE_DISABLED,
	CODE_EXPIRED,
	CODE_TENANT_NOT_ACTIVE,
	CODE_FORBIDDEN,
	CODE_INSUFFICIENT_PERMISSIONS,
	CODE_RATE_LIMITED
} Code;

static const char *const code_names[] = {
	[CODE_VALID] = "VALID",
	[CODE_NOT_FOUND] = "NOT_FOUND",
	[CODE_DISABLED] = "DISABLED",
	[CODE_EXPIRED] = "EXPIRED",
	[CODE_TENANT_NOT_ACTIVE] = "TENANT_NOT_ACTIVE",
	[CODE_FORBIDDEN] = "FORBIDDEN",
	[CODE_INSUFFICIENT_PERMISSIONS] = "INSUFFICIENT_PERMISSIONS",
	[CODE_RATE_LIMITED] = "RATE_LIMITED",
};

typedef struct Outcome
{
	Code code;
	GnApiKey *key; /* NULL: not one of ours */
	bool limited;  /* "rate" says something */
	GnRateVerdict rate;
} Outcome;

/* ---- making ---- */

/* Characters that are all equally likely: bytes that would favour some are dropped. */
static void
put_random(char *out)
{
	uint8 bytes[2 * GN_API_KEY_RANDOM_SIZE];
	int done = 0;

	while (done < GN_API_KEY_RANDOM_SIZE)
	{
		gn_random(bytes, sizeof(bytes));
		for (size_t i = 0; i < sizeof(bytes) && done < GN_API_KEY_RANDOM_SIZE; i++)
		{
			if (bytes[i] < 256 - 256 % 62)
				out[done++] = gn_api_key_digit(bytes[i] % 62);
		}
	}
	gn_cleanse(bytes, sizeof(bytes));
}

/* SQL: _grownext.session_api_key_environment(environment text) */
Datum
gn_session_api_key_environment(PG_FUNCTION_ARGS)
{
	text *environment = PG_GETARG_TEXT_PP(0);

	PG_RETURN_BOOL(gn_api_key_environment(VARDATA_ANY(environment),
										  VARSIZE_ANY_EXHDR(environment)));
}

/* SQL: _grownext.session_api_key_make(environment text, OUT api_key text, OUT digest
 * bytea, OUT prefix text, OUT last_four text) */
Datum
gn_session_api_key_make(PG_FUNCTION_ARGS)
{
	text *environment = PG_GETARG_TEXT_PP(0);
	size_t shown = sizeof(GN_API_KEY_PREFIX) - 1 + VARSIZE_ANY_EXHDR(environment) + 1;
	size_t size = shown + GN_API_KEY_RANDOM_SIZE + GN_API_KEY_CHECKSUM_SIZE;
	bytea *digest = palloc(VARHDRSZ + GN_SHA256_SIZE);
	TupleDesc tupdesc;
	Datum values[4];
	bool nulls[4] = {0};
	text *made;
	char *key;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!gn_api_key_environment(VARDATA_ANY(environment),
								VARSIZE_ANY_EXHDR(environment)))
		elog(ERROR, "invalid environment of an API key");
	made = palloc(VARHDRSZ + size);
	SET_VARSIZE(made, VARHDRSZ + size);
	key = VARDATA(made);
	memcpy(key, GN_API_KEY_PREFIX, sizeof(GN_API_KEY_PREFIX) - 1);
	memcpy(key + sizeof(GN_API_KEY_PREFIX) - 1, VARDATA_ANY(environment),
		   VARSIZE_ANY_EXHDR(environment));
	key[shown - 1] = '_';
	put_random(key + shown);
	gn_api_key_checksum(key, size - GN_API_KEY_CHECKSUM_SIZE,
						key + size - GN_API_KEY_CHECKSUM_SIZE);
	SET_VARSIZE(digest, VARHDRSZ + GN_SHA256_SIZE);
	gn_sha256(key, size, (uint8 *) VARDATA(digest));
	values[0] = PointerGetDatum(made);
	values[1] = PointerGetDatum(digest);
	values[2] = PointerGetDatum(cstring_to_text_with_len(key, (int) shown + 4));
	values[3] = PointerGetDatum(cstring_to_text_with_len(key + size - 4, 4));
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

/* ---- judging ---- */

/* Whose address counts: the one that a trusted caller names, else the client's own. */
static const inet *
caller_address(FunctionCallInfo fcinfo, int number)
{
	static const inet *client = NULL;
	static bool client_known = false;

	if (!PG_ARGISNULL(number))
	{
		if (!gn_user_has_capability(GetUserId(), "service") &&
			!gn_user_has_capability(GetUserId(), "admin"))
			ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
							errmsg("permission denied to name the address of a caller"),
							errdetail("It takes grownext_service or grownext_admin."),
							errhidestmt(true)));
		return PG_GETARG_INET_PP(number);
	}
	if (!client_known)
	{
		LOCAL_FCINFO(call, 0);
		Datum result;

		InitFunctionCallInfoData(*call, NULL, 0, InvalidOid, NULL, NULL);
		result = inet_client_addr(call);
		if (!call->isnull)
		{
			MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

			client = DatumGetInetPP(PointerGetDatum(PG_DETOAST_DATUM_COPY(result)));
			MemoryContextSwitchTo(old);
		}
		client_known = true;
	}
	return client;
}

/* Counts a failure of an address; an IPv6 client owns the 64 bits of its network. */
static GnRateVerdict
note_address(const inet *address)
{
	const char *bytes = "";
	size_t len = 0;

	if (address)
	{
		bytes = (const char *) ip_addr(address);
		len = ip_family(address) == PGSQL_AF_INET ? 4 : 8;
	}
	return gn_failure_note("api_key.address", bytes, len);
}

/* Not one of our keys: one more failed attempt. */
static void
refuse_unknown(const inet *address, const uint8 *digest, Outcome *outcome)
{
	outcome->code = CODE_NOT_FOUND;
	outcome->rate = note_address(address);
	if (outcome->rate.allowed && digest)
		outcome->rate = gn_failure_note("api_key.text", digest, GN_SHA256_SIZE);
	if (!outcome->rate.allowed)
	{
		outcome->code = CODE_RATE_LIMITED;
		outcome->limited = true;
	}
}

static bool
address_allowed(const GnApiKey *key, const inet *address)
{
	if (key->address_count == 0)
		return true;
	for (int i = 0; address && i < key->address_count; i++)
	{
		if (DatumGetBool(DirectFunctionCall2(network_subeq, InetPGetDatum(address),
											 key->addresses[i])))
			return true;
	}
	return false;
}

/* Whether the key has every one of the scopes, which spaces separate. */
static bool
scopes_held(const GnApiKey *key, const char *wanted)
{
	while (*wanted)
	{
		size_t len = strcspn(wanted, " ");
		bool held = len == 0;

		for (int i = 0; !held && i < key->scope_count; i++)
			held = strncmp(key->scopes[i], wanted, len) == 0 &&
				   key->scopes[i][len] == '\0';
		if (!held)
			return false;
		wanted += len;
		wanted += strspn(wanted, " ");
	}
	return true;
}

/* What speaks against a key of ours, before its limit is asked. */
static Code
judge_key(const GnApiKey *key, const char *scope, const inet *address, TimestampTz now)
{
	if (key->disabled)
		return CODE_DISABLED;
	if (key->expires_at <= now)
		return CODE_EXPIRED;
	if (!key->tenant_active)
		return CODE_TENANT_NOT_ACTIVE;
	if (!address_allowed(key, address))
		return CODE_FORBIDDEN;
	if (scope && !scopes_held(key, scope))
		return CODE_INSUFFICIENT_PERMISSIONS;
	return CODE_VALID;
}

/* Arguments: api_key text, scope text, address inet. */
static void
judge(FunctionCallInfo fcinfo, Outcome *outcome)
{
	const inet *address = caller_address(fcinfo, 2);
	char *scope = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	text *given = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	uint8 digest[GN_SHA256_SIZE];
	TimestampTz now;

	memset(outcome, 0, sizeof(Outcome));
	if (given == NULL ||
		!gn_api_key_plausible(VARDATA_ANY(given), VARSIZE_ANY_EXHDR(given)))
	{
		refuse_unknown(address, NULL, outcome);
		return;
	}
	gn_sha256(VARDATA_ANY(given), VARSIZE_ANY_EXHDR(given), digest);
	outcome->key = gn_api_key_find(digest);
	if (outcome->key == NULL)
	{
		refuse_unknown(address, digest, outcome);
		return;
	}
	now = gn_now();
	outcome->code = judge_key(outcome->key, scope, address, now);
	if (outcome->code != CODE_VALID)
		return;
	if (outcome->key->rate_limit > 0)
	{
		outcome->limited = true;
		outcome->rate =
			gn_rate_take("api_key", &outcome->key->family, sizeof(pg_uuid_t),
						 outcome->key->rate_limit, outcome->key->rate_period, 1);
		if (!outcome->rate.allowed)
		{
			outcome->code = CODE_RATE_LIMITED;
			return;
		}
	}
	gn_api_key_note_use(outcome->key, now);
}

/* ---- answering ---- */

static void
push_key(JsonbParseState **state, const char *key)
{
	JsonbValue item = {.type = jbvString};

	item.val.string.val = unconstify(char *, key);
	item.val.string.len = (int) strlen(key);
	pushJsonbValue(state, WJB_KEY, &item);
}

static void
push_string(JsonbParseState **state, const char *key, const char *value)
{
	JsonbValue item = {.type = jbvString};

	push_key(state, key);
	item.val.string.val = unconstify(char *, value);
	item.val.string.len = (int) strlen(value);
	pushJsonbValue(state, WJB_VALUE, &item);
}

static void
push_number(JsonbParseState **state, const char *key, int64 value)
{
	JsonbValue item = {.type = jbvNumeric};

	push_key(state, key);
	item.val.numeric = int64_to_numeric(value);
	pushJsonbValue(state, WJB_VALUE, &item);
}

static void
push_time(JsonbParseState **state, const char *key, TimestampTz value)
{
	char text[MAXDATELEN + 1];

	JsonEncodeDateTime(text, TimestampTzGetDatum(value), TIMESTAMPTZOID, NULL);
	push_string(state, key, pstrdup(text));
}

static void
push_rate(JsonbParseState **state, const GnRateVerdict *rate)
{
	push_key(state, "rate_limit");
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	push_number(state, "limit", rate->limit);
	push_number(state, "remaining", rate->remaining);
	push_time(state, "reset_at", rate->reset_at);
	if (!rate->allowed)
		push_time(state, "retry_at", rate->retry_at);
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/* The members of an object, into one that is open. */
static void
push_members(JsonbParseState **state, Jsonb *object)
{
	JsonbIterator *iterator = JsonbIteratorInit(&object->root);
	JsonbIteratorToken token;
	JsonbValue value;

	(void) JsonbIteratorNext(&iterator, &value, true);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_END_OBJECT)
		pushJsonbValue(state, token, &value);
}

/* A copy, for the cache may go while the answer is still in use. */
static Jsonb *
copy_jsonb(const Jsonb *jsonb)
{
	Jsonb *copy = palloc(VARSIZE(jsonb));

	memcpy(copy, jsonb, VARSIZE(jsonb));
	return copy;
}

static Jsonb *
answer(const Outcome *outcome)
{
	JsonbParseState *state = NULL;
	JsonbValue valid = {.type = jbvBool};

	if (outcome->code == CODE_VALID && !outcome->limited)
		return copy_jsonb(outcome->key->answer);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (outcome->code == CODE_VALID)
		push_members(&state, outcome->key->answer);
	else
	{
		push_key(&state, "valid");
		pushJsonbValue(&state, WJB_VALUE, &valid);
		push_string(&state, "code", code_names[outcome->code]);
		if (outcome->key)
		{
			push_string(&state, "id", gn_uuid_text(&outcome->key->id));
			push_string(&state, "tenant_id", gn_uuid_text(&outcome->key->tenant));
		}
	}
	if (outcome->limited)
		push_rate(&state, &outcome->rate);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* SQL: grownext.api_key_verify(api_key text, scope text, address inet) */
Datum
gn_api_key_verify(PG_FUNCTION_ARGS)
{
	Outcome outcome;

	judge(fcinfo, &outcome);
	PG_RETURN_JSONB_P(answer(&outcome));
}

/* The statement stays out of the log: a key that is refused may be a good one mistyped.
 */
static void
refuse(const Outcome *outcome, const char *scope)
{
	switch (outcome->code)
	{
		case CODE_VALID:
			break;
		case CODE_TENANT_NOT_ACTIVE:
			ereport(ERROR, (errcode(GN_ERRCODE_TENANT_NOT_ACTIVE),
							errmsg("tenant \"%s\" is not active",
								   gn_uuid_text(&outcome->key->tenant)),
							errhidestmt(true)));
			break;
		case CODE_FORBIDDEN:
			ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
							errmsg("API key may not be used from this address"),
							errhidestmt(true)));
			break;
		case CODE_INSUFFICIENT_PERMISSIONS:
			ereport(ERROR,
					(errcode(GN_ERRCODE_SCOPE_MISSING),
					 errmsg("API key lacks scope \"%s\"", scope), errhidestmt(true)));
			break;
		case CODE_RATE_LIMITED:
			ereport(ERROR, (errcode(GN_ERRCODE_RATE_LIMITED),
							outcome->key ? errmsg("too many calls with this API key")
										 : errmsg("too many failed attempts"),
							errhint("Try again at %s.",
									timestamptz_to_str(outcome->rate.retry_at)),
							errhidestmt(true)));
			break;
		case CODE_NOT_FOUND:
		case CODE_DISABLED:
		case CODE_EXPIRED:
			ereport(ERROR,
					(errcode(GN_ERRCODE_TOKEN_INVALID), errmsg("API key is not valid"),
					 outcome->code == CODE_DISABLED
						 ? errdetail("It was revoked, or its user is disabled.")
					 : outcome->code == CODE_EXPIRED ? errdetail("It has expired.")
													 : 0,
					 errhidestmt(true)));
			break;
	}
}

/* SQL: grownext.authenticate_api_key(api_key text, scope text, address inet) */
Datum
gn_authenticate_api_key(PG_FUNCTION_ARGS)
{
	Outcome outcome;
	Jsonb *claims;

	judge(fcinfo, &outcome);
	if (outcome.code != CODE_VALID)
	{
		refuse(&outcome,
			   PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)));
		pg_unreachable();
	}
	claims = copy_jsonb(outcome.key->claims);
	gn_context_run_checks(claims);
	gn_context_bind(GN_CONTEXT_TOKEN, claims, NULL);
	gn_warn_outside_block("authenticate_api_key()");
	PG_RETURN_JSONB_P(claims);
}
