/*
 * src/audit/append.c
 *	  Appends events: who did what to what, as the library knows it.
 *
 * The actor comes from the verified context in C memory, the session role and the
 * time from the server; a caller chooses the rest, within limits that keep a row
 * readable. One INSERT per event, in the caller's transaction: rolled back with it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "audit/audit.h"
#include "audit/log.h"
#include "core/core.h"

GN_FUNCTION(gn_audit_append_sql);
GN_FUNCTION(gn_audit_append_many);
GN_FUNCTION(gn_audit_write);
GN_FUNCTION(gn_audit_write_for);

#define MAX_ACTION 128
#define MAX_TEXT 1024
#define MAX_CONTEXT (64 * 1024)
#define MAX_CHANGE (1024 * 1024)
#define MAX_BATCH 10000
/* A caller's clock may run ahead of ours a little. */
#define MAX_CLOCK_SKEW (5 * SECS_PER_MINUTE * USECS_PER_SEC)

static void
refuse_argument(const char *name, const char *rule)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("audit event: %s %s", name, rule)));
}

/* Lower-case words of letters, digits, "_" and "-", joined by dots. */
static bool
action_is_valid(const char *action)
{
	bool word = false;
	size_t length = 0;

	for (const char *c = action; *c; c++, length++)
	{
		if (*c == '.')
		{
			if (!word)
				return false;
			word = false;
			continue;
		}
		if (!((*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') || *c == '_' ||
			  *c == '-'))
			return false;
		word = true;
	}
	return word && length <= MAX_ACTION;
}

static void
check_text(const char *name, const char *value)
{
	size_t length = 0;

	if (value == NULL)
		return;
	for (const unsigned char *c = (const unsigned char *) value; *c; c++, length++)
	{
		if (*c < 0x20 || *c == 0x7f)
			refuse_argument(name, "must not contain control characters");
	}
	if (length == 0)
		refuse_argument(name, "must not be empty");
	if (length > MAX_TEXT)
		refuse_argument(name, psprintf("must not be longer than %d bytes", MAX_TEXT));
}

static void
check_event(const GnAuditEvent *event, TimestampTz now)
{
	if (!action_is_valid(event->action))
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("audit event: action \"%s\" is not a valid name",
					pnstrdup(event->action,
							 pg_mbcliplen(event->action, strlen(event->action),
										  MAX_ACTION))),
			 errhint(
				 "An action is a dotted lower-case name of at most %d bytes, such as "
				 "\"project.deleted\".",
				 MAX_ACTION)));
	check_text("target", event->target);
	check_text("actor", event->actor);
	check_text("on_behalf_of", event->on_behalf_of);
	check_text("category", event->category);
	check_text("idempotency_key", event->idempotency_key);
	if (event->context && !JB_ROOT_IS_OBJECT(event->context))
		refuse_argument("context", "must be a JSON object");
	if (event->context && VARSIZE(event->context) > MAX_CONTEXT)
		refuse_argument("context",
						psprintf("must not be larger than %d bytes", MAX_CONTEXT));
	if (event->change && VARSIZE(event->change) > MAX_CHANGE)
		refuse_argument("change",
						psprintf("must not be larger than %d bytes", MAX_CHANGE));
	if (event->has_occurred_at && (TIMESTAMP_NOT_FINITE(event->occurred_at) ||
								   event->occurred_at > now + MAX_CLOCK_SKEW))
		refuse_argument("occurred_at", "must be finite and not lie in the future");
}

/* Who is answerable, for whom, and how we know. */
typedef struct AuditActor
{
	const char *actor;
	const char *on_behalf_of;
	const char *source;
	const char *session_role;
	const char *request_id;
} AuditActor;

static const char *const source_names[GN_CONTEXT_SOURCES] = {
	[GN_CONTEXT_GATEWAY] = "gateway",
	[GN_CONTEXT_JOB] = "job",
	[GN_CONTEXT_TOKEN] = "token",
	[GN_CONTEXT_ACT_AS] = "act_as",
};

static void
find_actor(const GnAuditEvent *event, AuditActor *found)
{
	const GnContext *context = gn_context();

	*found = (AuditActor){.session_role = GetUserNameFromId(GetSessionUserId(), false)};
	found->request_id = gn_request_id();
	if (context && found->request_id == NULL)
		found->request_id = gn_claim_text(context->claims, "request_id");
	if (event->on_behalf_of)
		found->on_behalf_of = event->on_behalf_of;
	else if (context && context->subject && context->actor &&
			 strcmp(context->subject, context->actor) != 0)
		found->on_behalf_of = context->subject;
	if (event->actor)
	{
		found->actor = event->actor;
		found->source = "named";
	}
	else if (context && context->actor)
	{
		found->actor = context->actor;
		found->source = source_names[context->source];
	}
	else
	{
		found->actor = psprintf("role:%s", found->session_role);
		found->source = "role";
	}
}

static void
set_text(Datum *value, char *null, const char *text)
{
	*null = text ? ' ' : 'n';
	*value = text ? CStringGetTextDatum(text) : (Datum) 0;
}

static void
set_uuid(Datum *value, char *null, const pg_uuid_t *uuid)
{
	*null = uuid ? ' ' : 'n';
	*value = UUIDPGetDatum(uuid);
}

static int64
single_bigint(void)
{
	bool isnull;
	Datum value =
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/*
 * Claims the key for a new id and returns 0, or returns the id of the event that
 * has it. Waits for a transaction that is just claiming the same key.
 */
static int64
claim_key(const GnAuditEvent *event, TimestampTz now, int64 *id)
{
	static GnQuery claim =
		GN_QUERY("INSERT INTO _grownext.audit_idempotency AS k (tenant_id, key, "
				 "fingerprint, event_id, recorded_at) "
				 "VALUES ($1, $2, "
				 "pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.jsonb_build_array("
				 "$4, $5, $6, $7, $8, $9)::pg_catalog.text, 'UTF8')), "
				 "_grownext.core_nextval('grownext_audit.event_id_seq'), $3) "
				 "ON CONFLICT ON CONSTRAINT audit_idempotency_key DO NOTHING RETURNING "
				 "k.event_id",
				 UUIDOID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
				 TIMESTAMPTZOID, JSONBOID);
	static GnQuery find = GN_QUERY(
		"SELECT CASE WHEN k.fingerprint = pg_catalog.sha256(pg_catalog.convert_to("
		"pg_catalog.jsonb_build_array($4, $5, $6, $7, $8, $9)::pg_catalog.text, "
		"'UTF8')) "
		"THEN k.event_id END FROM _grownext.audit_idempotency AS k "
		"WHERE k.tenant_id IS NOT DISTINCT FROM $1 AND k.key = $2 AND $3 IS NOT NULL",
		UUIDOID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
		TIMESTAMPTZOID, JSONBOID);
	Datum values[9];
	char nulls[10] = "         ";
	int64 found;

	set_uuid(&values[0], &nulls[0], event->tenant);
	set_text(&values[1], &nulls[1], event->idempotency_key);
	values[2] = TimestampTzGetDatum(now);
	set_text(&values[3], &nulls[3], event->action);
	set_text(&values[4], &nulls[4], event->target);
	set_text(&values[5], &nulls[5], event->actor);
	set_text(&values[6], &nulls[6], event->category);
	values[7] = TimestampTzGetDatum(event->occurred_at);
	nulls[7] = event->has_occurred_at ? ' ' : 'n';
	values[8] = JsonbPGetDatum(event->context);
	nulls[8] = event->context ? ' ' : 'n';

	if (gn_spi_execute(&claim, values, nulls, false) == 1)
	{
		*id = single_bigint();
		return 0;
	}
	if (gn_spi_execute(&find, values, nulls, false) != 1)
		ereport(
			ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not read the audit event that holds idempotency key \"%s\"",
					event->idempotency_key)));
	found = single_bigint();
	if (found == 0)
		ereport(ERROR,
				(errcode(GN_ERRCODE_IDEMPOTENCY_CONFLICT),
				 errmsg("idempotency key \"%s\" was used for another audit event",
						event->idempotency_key)));
	return found;
}

static int64
insert_event(const GnAuditEvent *event, TimestampTz now, int64 id)
{
	static GnQuery insert = GN_QUERY(
		"INSERT INTO grownext_audit.event (id, txid, recorded_at, occurred_at, "
		"tenant_id, actor, "
		"on_behalf_of, actor_source, session_role, action, target, category, context, "
		"change, "
		"request_id) VALUES (coalesce($1, "
		"_grownext.core_nextval('grownext_audit.event_id_seq')), "
		"pg_catalog.pg_current_xact_id(), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, "
		"coalesce($12, '{}'), $13, $14) RETURNING id",
		INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, UUIDOID, TEXTOID, TEXTOID, TEXTOID,
		TEXTOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID, TEXTOID);
	AuditActor actor;
	Datum values[14];
	char nulls[15] = "              ";

	find_actor(event, &actor);
	values[0] = Int64GetDatum(id);
	nulls[0] = id ? ' ' : 'n';
	values[1] = TimestampTzGetDatum(now);
	values[2] = TimestampTzGetDatum(event->has_occurred_at ? event->occurred_at : now);
	set_uuid(&values[3], &nulls[3], event->tenant);
	set_text(&values[4], &nulls[4], actor.actor);
	set_text(&values[5], &nulls[5], actor.on_behalf_of);
	set_text(&values[6], &nulls[6], actor.source);
	set_text(&values[7], &nulls[7], actor.session_role);
	set_text(&values[8], &nulls[8], event->action);
	set_text(&values[9], &nulls[9], event->target);
	set_text(&values[10], &nulls[10], event->category);
	values[11] = JsonbPGetDatum(event->context);
	nulls[11] = event->context ? ' ' : 'n';
	values[12] = JsonbPGetDatum(event->change);
	nulls[12] = event->change ? ' ' : 'n';
	set_text(&values[13], &nulls[13], actor.request_id);
	gn_spi_execute(&insert, values, nulls, false);
	return single_bigint();
}

int64
gn_audit_append(const GnAuditEvent *event)
{
	TimestampTz now = gn_now();
	int64 id = 0;
	int64 result = 0;
	GnSpi spi;

	check_event(event, now);
	gn_spi_begin(&spi);
	gn_audit_log_ensure();
	if (event->idempotency_key)
		result = claim_key(event, now, &id);
	if (result == 0)
		result = insert_event(event, now, id);
	gn_spi_end(&spi);
	return result;
}

/*
 * The log that a caller may write to. Without a tenant, named or bound, it is the
 * global one, and that is for those who answer for the platform.
 */
static const pg_uuid_t *
choose_log(const pg_uuid_t *named, pg_uuid_t *space)
{
	const GnContext *context = gn_context();
	Oid user = GetUserId();

	if (named == NULL && (context == NULL || context->tenant == NULL) &&
		(gn_user_has_capability(user, "service") ||
		 gn_user_has_capability(user, "admin") ||
		 gn_user_has_capability(user, "auditor")))
		return NULL;
	*space = gn_caller_tenant(user, named);
	return space;
}

static void
check_named_actor(const char *actor)
{
	if (actor && !gn_user_has_capability(GetUserId(), "service"))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to name the actor of an audit event"),
				 errhint("Leave actor out, or call as a member of grownext_service.")));
}

static char *
text_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

/* SQL: grownext.audit_append(action, target, context, tenant_id, actor, occurred_at,
 * category, idempotency_key, personal, sealed) */
Datum
gn_audit_append_sql(PG_FUNCTION_ARGS)
{
	pg_uuid_t tenant;
	GnAuditEvent event = {0};

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("action must not be null")));
	if (!PG_ARGISNULL(8))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("personal fields of audit events are not supported yet"),
				 errhint(
					 "Leave personal out, and keep personal data out of context.")));
	if (!PG_ARGISNULL(9) && PG_GETARG_BOOL(9))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("audit events are not sealed yet"),
						errhint("Leave sealed out.")));
	event.action = text_argument(fcinfo, 0);
	event.target = text_argument(fcinfo, 1);
	event.context = PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P(2);
	event.tenant = choose_log(PG_ARGISNULL(3) ? NULL : PG_GETARG_UUID_P(3), &tenant);
	event.actor = text_argument(fcinfo, 4);
	event.has_occurred_at = !PG_ARGISNULL(5);
	event.occurred_at = event.has_occurred_at ? PG_GETARG_TIMESTAMPTZ(5) : 0;
	event.category = text_argument(fcinfo, 6);
	event.idempotency_key = text_argument(fcinfo, 7);
	check_named_actor(event.actor);
	PG_RETURN_INT64(gn_audit_append(&event));
}

/* A string field of one event of a batch, or NULL. */
static char *
string_field(const JsonbValue *value, const char *key)
{
	if (value->type == jbvNull)
		return NULL;
	if (value->type != jbvString)
		refuse_argument(key, "must be a string");
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static void
read_field(GnAuditEvent *event, pg_uuid_t *tenant, const char *key,
		   const JsonbValue *value)
{
	if (strcmp(key, "action") == 0)
		event->action = string_field(value, key);
	else if (strcmp(key, "target") == 0)
		event->target = string_field(value, key);
	else if (strcmp(key, "actor") == 0)
		event->actor = string_field(value, key);
	else if (strcmp(key, "category") == 0)
		event->category = string_field(value, key);
	else if (strcmp(key, "idempotency_key") == 0)
		event->idempotency_key = string_field(value, key);
	else if (strcmp(key, "context") == 0)
	{
		if (value->type != jbvNull)
			event->context = JsonbValueToJsonb(unconstify(JsonbValue *, value));
	}
	else if (strcmp(key, "tenant_id") == 0)
	{
		char *text = string_field(value, key);

		if (text && !gn_uuid_parse(text, tenant))
			refuse_argument(key, "must be a uuid");
		event->tenant = text ? tenant : NULL;
	}
	else if (strcmp(key, "occurred_at") == 0)
	{
		char *text = string_field(value, key);

		event->has_occurred_at = text != NULL;
		if (text)
			event->occurred_at = DatumGetTimestampTz(
				DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
									ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	}
	else
		refuse_argument("field", psprintf("\"%s\" is unknown", key));
}

static int64
append_element(const JsonbValue *element)
{
	GnAuditEvent event = {0};
	pg_uuid_t named;
	pg_uuid_t chosen;
	JsonbIterator *it;
	JsonbValue value;
	JsonbIteratorToken token;
	char *key = NULL;

	if (element->type != jbvBinary || !JsonContainerIsObject(element->val.binary.data))
		refuse_argument("each event", "must be a JSON object");
	it = JsonbIteratorInit(element->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE && key)
			read_field(&event, &named, key, &value);
	}
	if (event.action == NULL)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("action must not be null")));
	event.tenant = choose_log(event.tenant, &chosen);
	check_named_actor(event.actor);
	return gn_audit_append(&event);
}

/* SQL: grownext.audit_append_many(events jsonb) */
Datum
gn_audit_append_many(PG_FUNCTION_ARGS)
{
	Jsonb *events = PG_GETARG_JSONB_P(0);
	uint32 count = JB_ROOT_COUNT(events);
	Datum *ids;
	MemoryContext memory;
	MemoryContext old;

	if (!JB_ROOT_IS_ARRAY(events) || JB_ROOT_IS_SCALAR(events))
		refuse_argument("events", "must be a JSON array");
	if (count > MAX_BATCH)
		refuse_argument("events", psprintf("must not be more than %d", MAX_BATCH));
	ids = palloc(sizeof(Datum) * (count + 1));
	memory = AllocSetContextCreate(CurrentMemoryContext, "audit event",
								   ALLOCSET_DEFAULT_SIZES);
	for (uint32 i = 0; i < count; i++)
	{
		old = MemoryContextSwitchTo(memory);
		ids[i] = Int64GetDatum(
			append_element(getIthJsonbValueFromContainer(&events->root, i)));
		MemoryContextSwitchTo(old);
		MemoryContextReset(memory);
	}
	MemoryContextDelete(memory);
	PG_RETURN_ARRAYTYPE_P(
		construct_array(ids, count, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* {"before": ..., "after": ...}, or NULL when there is neither. */
static Jsonb *
make_change(const Jsonb *before, const Jsonb *after)
{
	static const char *const keys[] = {"before", "after"};
	const Jsonb *const images[] = {before, after};
	JsonbParseState *state = NULL;
	JsonbValue *result;

	if (before == NULL && after == NULL)
		return NULL;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (size_t i = 0; i < lengthof(images); i++)
	{
		JsonbValue value = {.type = jbvString};

		value.val.string.val = unconstify(char *, keys[i]);
		value.val.string.len = strlen(keys[i]);
		pushJsonbValue(&state, WJB_KEY, &value);
		if (images[i] == NULL)
			value = (JsonbValue){.type = jbvNull};
		else
			JsonbToJsonbValue(unconstify(Jsonb *, images[i]), &value);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	result = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(result);
}

/* What audit_write and audit_write_for have in common. */
static void
read_platform_event(FunctionCallInfo fcinfo, GnAuditEvent *event)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("action must not be null")));
	event->category = "platform";
	event->action = text_argument(fcinfo, 0);
	event->target = text_argument(fcinfo, 1);
	event->tenant = PG_ARGISNULL(2) ? NULL : PG_GETARG_UUID_P(2);
	event->change = make_change(PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3),
								PG_ARGISNULL(4) ? NULL : PG_GETARG_JSONB_P(4));
}

/* SQL: _grownext.audit_write(action text, target text, tenant_id uuid, before jsonb,
 * after jsonb) */
Datum
gn_audit_write(PG_FUNCTION_ARGS)
{
	GnAuditEvent event = {0};

	read_platform_event(fcinfo, &event);
	PG_RETURN_INT64(gn_audit_append(&event));
}

/* SQL: _grownext.audit_write_for(..., actor text, on_behalf_of text): the same, when
 * the platform knows who acts before anybody is bound */
Datum
gn_audit_write_for(PG_FUNCTION_ARGS)
{
	GnAuditEvent event = {0};

	read_platform_event(fcinfo, &event);
	event.actor = text_argument(fcinfo, 5);
	event.on_behalf_of = text_argument(fcinfo, 6);
	PG_RETURN_INT64(gn_audit_append(&event));
}
