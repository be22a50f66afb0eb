/*
 * src/entitlement/claims.c
 *	  Entitlements in a token: a bitset over the catalogue, with what it depends on.
 *
 * A token outlives what it says, so it also says of what it is the truth: entc is the
 * version of the catalogue, without which the bits have no names, and entv that of what
 * the tenant is entitled to. Both are digests of content: no counter has to be kept
 * that changes would wait for, a server and its standby and a restored copy agree, and
 * what was taken back leaves no trace. Limits and balances never travel; entv covers
 * limits, so that who keeps them elsewhere knows when to ask again.
 *
 * Whether a token is current is asked by making the claims again: a version that
 * somebody else signed over other bits is no match.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "core/core.h"
#include "crypto/crypto.h"
#include "entitlement/entitlement.h"
#include "entitlement/record.h"
#include "jwt/base64url.h"
#include "jwt/jwt.h"

GN_FUNCTION(gn_entitlement_claims);
GN_FUNCTION(gn_entitlement_claims_check);
GN_FUNCTION(gn_entitlement_catalogue);

/* Features whose bits fit into a token with room to spare. */
#define MAX_BYTES 2048

/* Versions ------------------------------------------------------------------- */

static void
digest(const StringInfoData *content, char *version)
{
	uint8 bytes[GN_SHA256_SIZE];

	gn_sha256(content->data, content->len, bytes);
	version[gn_base64url_encode(bytes, 8, version)] = '\0';
}

static const char *
catalogue_version(const GnCatalogue *catalogue)
{
	char *version = unconstify(GnCatalogue *, catalogue)->version;
	StringInfoData content;

	if (*version)
		return version;
	initStringInfo(&content);
	for (int i = 0; i < catalogue->count; i++)
		appendStringInfo(&content, "%s %s\n", catalogue->features[i].name,
						 gn_kind_name(catalogue->features[i].kind));
	digest(&content, version);
	return version;
}

static void
append_setting(StringInfo content, const GnSetting *setting)
{
	appendStringInfo(content, "%d%d%d%d %d " INT64_FORMAT, setting->enabled,
					 setting->unlimited, setting->billing_anchor, setting->soft,
					 setting->period, setting->quota);
	if (setting->billing_anchor)
		appendStringInfo(content, " " INT64_FORMAT, setting->anchor);
	if (setting->value)
		appendStringInfo(content, " %s", gn_jsonb_text(setting->value));
}

/* All that the record says of a feature; balances and counters are not in it. */
static void
append_decision(StringInfo content, const GnDecision *decision)
{
	appendStringInfo(content, "%d%d%d", decision->allowed, decision->decided,
					 decision->pooled);
	if (decision->decided)
		append_setting(content, &decision->setting);
	for (int i = 0; i < decision->recurring_count; i++)
	{
		const GnSetting *setting = &decision->recurring[i].setting;

		appendStringInfoChar(content, ' ');
		append_setting(content, setting);
		appendStringInfo(content, " " INT64_FORMAT " %d", setting->rollover,
						 setting->priority);
	}
	appendStringInfoChar(content, '\n');
}

static const char *
record_version(const GnRecord *record)
{
	char *version = unconstify(GnRecord *, record)->version;
	StringInfoData content;

	if (*version)
		return version;
	initStringInfo(&content);
	for (int i = 0; i < record->count; i++)
		append_decision(&content, &record->decisions[i]);
	digest(&content, version);
	return version;
}

/* Claims --------------------------------------------------------------------- */

/*
 * Feature i is bit i % 8, counted from the lowest, of byte i / 8; zeroes at the end are
 * left out. NULL if that is too long for a token.
 */
static char *
bitset(const GnRecord *record)
{
	size_t length = 0;
	uint8 *bytes = palloc0(record->count / 8 + 1);
	char *text;

	for (int i = 0; i < record->count; i++)
	{
		if (!(record->flags[i] & GN_FLAG_ALLOWED))
			continue;
		bytes[i / 8] |= 1 << (i % 8);
		length = i / 8 + 1;
	}
	if (length > MAX_BYTES)
		return NULL;
	text = palloc0(GN_BASE64URL_ENCODED_SIZE(length) + 1);
	(void) gn_base64url_encode(bytes, length, text);
	return text;
}

typedef struct Claims
{
	char *ent; /* NULL: too many features */
	char *entc;
	char *entv;
} Claims;

static Claims
make_claims(const pg_uuid_t *tenant, const pg_uuid_t *user)
{
	MemoryContext caller = CurrentMemoryContext;
	const GnRecord *record;
	Claims claims;
	GnSpi spi;

	gn_spi_begin(&spi);
	record = gn_record(tenant, user, gn_now());
	MemoryContextSwitchTo(caller);
	claims.ent = bitset(record);
	claims.entv = pstrdup(record_version(record));
	claims.entc = pstrdup(catalogue_version(gn_catalogue()));
	gn_spi_end(&spi);
	return claims;
}

static Jsonb *
claims_jsonb(const Claims *claims)
{
	/* base64url needs no escapes */
	return claims->ent == NULL
			   ? NULL
			   : gn_jsonb_from_text(
					 psprintf("{\"ent\": \"%s\", \"entc\": \"%s\", \"entv\": \"%s\"}",
							  claims->ent, claims->entc, claims->entv));
}

/* For tokens whose profile asks for it. */
static Jsonb *
token_claims(const char *subject, const Jsonb *token)
{
	char *text = gn_claim_text(token, "tenant_id");
	pg_uuid_t tenant;
	pg_uuid_t user;
	Claims claims;

	if (text == NULL || !gn_uuid_parse(text, &tenant))
		return NULL;
	claims = make_claims(&tenant, gn_uuid_parse(subject, &user) ? &user : NULL);
	return claims_jsonb(&claims);
}

void
gn_claims_init(void)
{
	gn_jwt_set_entitlement_claims(token_claims);
}

/* SQL: grownext.entitlement_claims(tenant_id uuid, user_id uuid) */
Datum
gn_entitlement_claims(PG_FUNCTION_ARGS)
{
	pg_uuid_t tenant =
		gn_caller_tenant(GetUserId(), PG_ARGISNULL(0) ? NULL : PG_GETARG_UUID_P(0));
	pg_uuid_t space;
	const pg_uuid_t *user =
		gn_named_user(PG_ARGISNULL(1) ? NULL : PG_GETARG_UUID_P(1), &space);
	Claims claims = make_claims(&tenant, user);
	Jsonb *result = claims_jsonb(&claims);

	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(result);
}

/* Reading -------------------------------------------------------------------- */

static bool
says(const Jsonb *claims, const char *name, const char *value)
{
	JsonbValue space;
	const JsonbValue *said = gn_jsonb_field(claims, name, &space);

	return value && said && said->type == jbvString &&
		   (size_t) said->val.string.len == strlen(value) &&
		   memcmp(said->val.string.val, value, said->val.string.len) == 0;
}

/* The bytes of claim ent, or NULL for what no catalogue of this size can mean. */
static uint8 *
read_bits(const Jsonb *claims, int features, size_t *length)
{
	JsonbValue space;
	const JsonbValue *said = gn_jsonb_field(claims, "ent", &space);
	uint8 *bytes;

	if (said == NULL || said->type != jbvString ||
		said->val.string.len > (int) GN_BASE64URL_ENCODED_SIZE(MAX_BYTES))
		return NULL;
	bytes = palloc(said->val.string.len + 1);
	if (!gn_base64url_decode(said->val.string.val, said->val.string.len, bytes, length))
		return NULL;
	for (size_t i = features; i < *length * 8; i++)
	{
		if (bytes[i / 8] & (1 << (i % 8)))
			return NULL;
	}
	return bytes;
}

/* The names of the bits that are set, in their order. */
static ArrayType *
named_features(const Jsonb *claims)
{
	MemoryContext caller = CurrentMemoryContext;
	const GnCatalogue *catalogue;
	ArrayType *names = NULL;
	size_t length;
	uint8 *bytes;
	GnSpi spi;

	gn_spi_begin(&spi);
	catalogue = gn_catalogue();
	MemoryContextSwitchTo(caller);
	bytes = read_bits(claims, catalogue->count, &length);
	if (bytes && says(claims, "entc", catalogue_version(catalogue)))
	{
		Datum *values = palloc((catalogue->count + 1) * sizeof(Datum));
		int count = 0;

		for (size_t i = 0; i < length * 8; i++)
		{
			if (bytes[i / 8] & (1 << (i % 8)))
				values[count++] = CStringGetTextDatum(catalogue->features[i].name);
		}
		names = construct_array(values, count, TEXTOID, -1, false, TYPALIGN_INT);
	}
	gn_spi_end(&spi);
	return names;
}

/* Are these the claims that a token of that tenant and user would get now? */
static bool
claims_are_current(const Jsonb *claims, const pg_uuid_t *tenant, const pg_uuid_t *user)
{
	Claims now = make_claims(tenant, user);

	return says(claims, "ent", now.ent) && says(claims, "entc", now.entc) &&
		   says(claims, "entv", now.entv);
}

/* The tenant and user whom claims are about; raises unless the caller may ask. */
static const pg_uuid_t *
claims_subject(const Jsonb *claims, pg_uuid_t *tenant, pg_uuid_t *space)
{
	char *text = gn_claim_text(claims, "tenant_id");
	char *subject = gn_claim_text(claims, "sub");
	pg_uuid_t named;

	if (text == NULL || !gn_uuid_parse(text, tenant))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the claims name no tenant"),
						errhint("Pass the claims of a token with \"tenant_id\".")));
	*tenant = gn_caller_tenant(GetUserId(), tenant);
	if (subject == NULL || !gn_uuid_parse(subject, &named))
		return NULL;
	(void) gn_named_user(&named, space);
	*space = named;
	return space;
}

/* SQL: grownext.entitlement_claims_check(claims jsonb) */
Datum
gn_entitlement_claims_check(PG_FUNCTION_ARGS)
{
	Datum values[2] = {0};
	bool nulls[2] = {false, true};
	const Jsonb *claims;
	const pg_uuid_t *user;
	pg_uuid_t tenant;
	pg_uuid_t space;
	TupleDesc descriptor;
	ArrayType *names;

	if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (PG_ARGISNULL(0))
	{
		const GnContext *context = gn_context();

		tenant = gn_caller_tenant(GetUserId(), NULL);
		claims = context->claims;
		user = gn_context_user(&space);
	}
	else
	{
		claims = PG_GETARG_JSONB_P(0);
		user = claims_subject(claims, &tenant, &space);
	}
	values[0] = BoolGetDatum(claims_are_current(claims, &tenant, user));
	names = named_features(claims);
	if (names)
	{
		values[1] = PointerGetDatum(names);
		nulls[1] = false;
	}
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls)));
}

/* SQL: grownext.entitlement_catalogue() */
Datum
gn_entitlement_catalogue(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	const GnCatalogue *catalogue;
	StringInfoData json;
	GnSpi spi;

	gn_spi_begin(&spi);
	catalogue = gn_catalogue();
	MemoryContextSwitchTo(caller);
	initStringInfo(&json);
	appendStringInfo(&json, "{\"entc\": \"%s\", \"features\": [",
					 catalogue_version(catalogue));
	for (int i = 0; i < catalogue->count; i++)
	{
		appendStringInfoString(&json, i ? ", " : "");
		escape_json(&json, catalogue->features[i].name);
	}
	appendStringInfoString(&json, "]}");
	gn_spi_end(&spi);
	PG_RETURN_JSONB_P(gn_jsonb_from_text(json.data));
}
