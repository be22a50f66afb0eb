/*
 * src/jwt/mint.c
 *	  Minting the platform's own tokens.
 *
 * A token says only what verify.c takes: what could not be verified again is
 * refused here. Issuer, audience, times and id are the minting's to say, a session and
 * an impersonator the platform's, and no caller mints a database role that is not the
 * caller's own.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "crypto/crypto.h"
#include "jwt/base64url.h"
#include "jwt/jose.h"
#include "jwt/json_text.h"
#include "jwt/jwt.h"
#include "jwt/key.h"
#include "jwt/profile.h"
#include "jwt/token.h"

#define MINT_MAX_TOKEN 8192

GN_FUNCTION(gn_jwt_mint);
GN_FUNCTION(gn_jwt_issue);

/* What only the minting itself says. */
static const char *const reserved_claims[] = {"iss", "sub", "aud", "exp",
											  "iat", "nbf", "jti", NULL};
/* What only the platform says: sessions, act_as and the entitlements of a tenant. */
static const char *const bound_claims[] = {"sid", "act", "ent", "entc", "entv", NULL};

static GnEntitlementClaims entitlement_claims = NULL;

void
gn_jwt_set_entitlement_claims(GnEntitlementClaims provider)
{
	entitlement_claims = provider;
}

static bool
name_in(const JsonbValue *name, const char *const *names)
{
	for (; *names; names++)
	{
		if ((size_t) name->val.string.len == strlen(*names) &&
			memcmp(name->val.string.val, *names, name->val.string.len) == 0)
			return true;
	}
	return false;
}

static void
pg_attribute_noreturn() refuse_claim(const char *message, const char *name)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg(message, name)));
}

/* What could not be verified again must not be minted: see gn_json_read. */
static void
check_claim_values(Jsonb *claims, const GnTokenProfile *profile, bool platform)
{
	JsonbIterator *iterator = JsonbIteratorInit(&claims->root);
	JsonbIteratorToken token;
	JsonbValue value;
	int depth = 0;

	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
	{
		if (token == WJB_BEGIN_OBJECT || token == WJB_BEGIN_ARRAY)
		{
			if (++depth > GN_JOSE_MAX_DEPTH)
				ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
								errmsg("claims are nested more than %d deep",
									   GN_JOSE_MAX_DEPTH)));
		}
		else if (token == WJB_END_OBJECT || token == WJB_END_ARRAY)
			depth--;
		else if (token == WJB_KEY && depth == 1)
		{
			if (name_in(&value, reserved_claims) ||
				(!platform && name_in(&value, bound_claims)))
				refuse_claim("claim \"%s\" is reserved",
							 pnstrdup(value.val.string.val, value.val.string.len));
			if (!platform && !gn_token_claim_allowed(profile, &value))
				refuse_claim("claim \"%s\" is not one that the profile allows",
							 pnstrdup(value.val.string.val, value.val.string.len));
		}
		else if (value.type == jbvNumeric && (token == WJB_VALUE || token == WJB_ELEM))
		{
			char *digits = DatumGetCString(
				DirectFunctionCall1(numeric_out, NumericGetDatum(value.val.numeric)));

			if (strlen(digits) > 18)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("a number among the claims has more than 18 digits"),
						 errhint("Write it as a string.")));
			pfree(digits);
		}
	}
}

/*
 * A gateway does SET ROLE with this claim, so nobody may mint a role that is not
 * theirs, but for the two that end users have, and nobody a role above the rest.
 */
static void
check_role_claim(const Jsonb *claims)
{
	char *name = gn_claim_text(claims, "role");
	Oid role;

	if (name == NULL)
		return;
	role = get_role_oid(name, true);
	if (!OidIsValid(role))
		refuse_claim("claim \"role\": role \"%s\" does not exist", name);
	if (strcmp(name, "grownext_user") == 0 || strcmp(name, "grownext_anon") == 0)
		return;
	if (superuser_arg(role) || has_rolreplication(role) ||
		has_bypassrls_privilege(role) || strncmp(name, "pg_", 3) == 0 ||
		role == gn_extension_owner() || !is_member_of_role(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("claim \"role\": a token for role \"%s\" may not be minted",
						name),
				 errdetail(
					 "It must be a role of the caller, and not a privileged one.")));
}

static void
check_uuid_claim(const Jsonb *claims, const char *name)
{
	char *text = gn_claim_text(claims, name);
	pg_uuid_t uuid;

	if (text && !gn_uuid_parse(text, &uuid))
		refuse_claim("claim \"%s\" is not a uuid", name);
}

static char *
span_text(int64 seconds)
{
	if (seconds % SECS_PER_HOUR != 0)
		return psprintf(INT64_FORMAT " seconds", seconds);
	return seconds == SECS_PER_HOUR
			   ? pstrdup("1 hour")
			   : psprintf(INT64_FORMAT " hours", seconds / SECS_PER_HOUR);
}

static int64
resolve_ttl(const Interval *ttl, const GnTokenProfile *profile)
{
	int64 seconds;

	if (ttl == NULL)
		return profile->ttl;
	seconds = ttl->time / USECS_PER_SEC + (int64) ttl->day * SECS_PER_DAY +
			  (int64) ttl->month * DAYS_PER_MONTH * SECS_PER_DAY;
	if (seconds <= 0 || seconds > profile->max_ttl)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a token's ttl must be between 1 second and %s",
							   span_text(profile->max_ttl))));
	return seconds;
}

/* A key may be revoked between being found and being opened, so that another one is to
 * be asked for; who revoked it may take a moment to tell us. */
#define OPEN_ATTEMPTS 1000

/* The key that signs, open. */
static GnSigningKey *
active_key(const char *purpose)
{
	for (int attempt = 0; attempt < OPEN_ATTEMPTS; attempt++)
	{
		GnSigningKey *key = gn_jwt_key_active(purpose);

		if (key == NULL)
			ereport(ERROR, (errcode(GN_ERRCODE_KEY_UNAVAILABLE),
							errmsg("there is no active signing key for purpose \"%s\"",
								   purpose),
							errhint("SELECT grownext.key_rotate(%s);",
									quote_literal_cstr(purpose))));
		if (gn_jwt_key_open(key))
			return key;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000);
	}
	ereport(ERROR, (errcode(GN_ERRCODE_KEY_UNAVAILABLE),
					errmsg("the active signing key for purpose \"%s\" has no private "
						   "part",
						   purpose),
					errhint("SELECT grownext.key_rotate(%s, force => true);",
							quote_literal_cstr(purpose))));
}

static void
append_payload(StringInfo payload, const char *issuer, const char *subject,
			   const char *audience, int64 ttl, Jsonb *claims, const char *purpose)
{
	int64 issued = gn_jwt_unix_now() / USECS_PER_SEC;
	uint8 id[16];
	char id_text[GN_BASE64URL_ENCODED_SIZE(sizeof(id)) + 1] = {0};

	gn_random(id, sizeof(id));
	gn_base64url_encode(id, sizeof(id), id_text);
	/* in the order in which jsonb keeps them, which spares the verifier sorting */
	gn_json_append(payload, "{\"aud\":");
	gn_json_append_string(payload, audience, strlen(audience));
	gn_json_append(payload, ",\"exp\":");
	gn_json_append_integer(payload, issued + ttl);
	gn_json_append(payload, ",\"iat\":");
	gn_json_append_integer(payload, issued);
	gn_json_append(payload, ",\"iss\":");
	gn_json_append_string(payload, issuer, strlen(issuer));
	gn_json_append(payload, ",\"jti\":\"");
	gn_json_append(payload, id_text);
	gn_json_append(payload, "\",\"sub\":");
	gn_json_append_string(payload, subject, strlen(subject));
	if (strcmp(purpose, GN_PURPOSE_ACCESS) == 0)
	{
		JsonbValue space;

		/* RFC 9068 asks for a client */
		if (claims == NULL || gn_jsonb_field(claims, "client_id", &space) == NULL)
			gn_json_append(payload, ",\"client_id\":\"first-party\"");
	}
	if (claims)
		gn_json_append_members(payload, claims);
	gn_json_append(payload, "}");
}

/* header.payload.signature, written straight into the result. */
static text *
sign_token(GnSigningKey *key, const StringInfoData *payload)
{
	size_t payload_len = GN_BASE64URL_ENCODED_SIZE(payload->len);
	size_t input_len = key->header_len + 1 + payload_len;
	uint8 signature[GN_JWA_MAX_SIGNATURE];
	size_t signature_len;
	text *token = palloc(VARHDRSZ + input_len + 1 +
						 GN_BASE64URL_ENCODED_SIZE(GN_JWA_MAX_SIGNATURE));
	char *out = VARDATA(token);

	memcpy(out, key->header, key->header_len);
	out[key->header_len] = '.';
	gn_base64url_encode(payload->data, payload->len, out + key->header_len + 1);
	key->signer->sign(key, out, input_len, signature, &signature_len);
	out[input_len] = '.';
	input_len += 1 + gn_base64url_encode(signature, signature_len, out + input_len + 1);
	if (input_len > MINT_MAX_TOKEN)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the token would be larger than %d bytes", MINT_MAX_TOKEN),
				 errhint("Carry fewer claims.")));
	SET_VARSIZE(token, VARHDRSZ + input_len);
	return token;
}

static Jsonb *
join_claims(Jsonb *claims, Jsonb *added)
{
	if (added == NULL)
		return claims;
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(claims),
											  JsonbPGetDatum(added)));
}

static Jsonb *
add_hook_claims(const GnTokenProfile *profile, const char *purpose, const char *subject,
				Jsonb *claims)
{
	Jsonb *added;

	if (profile->hook.schema == NULL)
		return claims;
	if (claims == NULL)
		claims = gn_jsonb_from_text("{}");
	added = gn_claims_hook_run(&(GnClaimsHook){pstrdup(profile->hook.schema),
											   pstrdup(profile->hook.name),
											   pstrdup(profile->hook.owner)},
							   subject, claims);
	/* the hook may have changed anything, and the cached profile with it */
	if (added)
		check_claim_values(added, gn_token_profile(purpose), false);
	return join_claims(claims, added);
}

/* The claims of a token: those asked for, those that the profile's hook adds, and the
 * entitlements of the tenant. */
static Jsonb *
resolve_claims(const char *purpose, const char *subject, Jsonb *claims, bool platform)
{
	const GnTokenProfile *profile = gn_token_profile(purpose);
	bool with_entitlements;

	if (claims)
	{
		if (!JB_ROOT_IS_OBJECT(claims))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("claims must be a JSON object")));
		check_claim_values(claims, profile, platform);
		check_uuid_claim(claims, "tenant_id");
		check_uuid_claim(claims, "sid");
		if (!platform && strcmp(purpose, GN_PURPOSE_ACCESS) == 0)
			check_role_claim(claims);
	}
	with_entitlements = profile->entitlements;
	claims = add_hook_claims(profile, purpose, subject, claims);
	if (!with_entitlements || claims == NULL || entitlement_claims == NULL)
		return claims;
	return join_claims(claims, entitlement_claims(subject, claims));
}

/* platform: sessions and impersonations may say what callers may not. */
static Datum
mint(FunctionCallInfo fcinfo, bool platform)
{
	char *subject = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	Jsonb *claims = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1);
	char *audience = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	Interval *ttl = PG_ARGISNULL(3) ? NULL : PG_GETARG_INTERVAL_P(3);
	char *purpose = PG_ARGISNULL(4) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(4));
	const GnTokenProfile *profile;
	GnSigningKey *key;
	StringInfoData payload;

	if (subject == NULL || *subject == '\0' || purpose == NULL)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("a token needs a subject and a purpose")));
	claims = resolve_claims(purpose, subject, claims, platform);
	profile = gn_token_profile(purpose);
	initStringInfo(&payload);
	append_payload(&payload, profile->issuer, subject,
				   gn_token_audience(profile, audience), resolve_ttl(ttl, profile),
				   claims, purpose);
	key = active_key(purpose);
	PG_RETURN_TEXT_P(sign_token(key, &payload));
}

/* SQL: grownext.jwt_mint(subject text, claims jsonb, audience text, ttl interval,
 * purpose text) */
Datum
gn_jwt_mint(PG_FUNCTION_ARGS)
{
	return mint(fcinfo, false);
}

/* SQL: _grownext.jwt_issue(...): the same, with the claims that are the platform's to
 * make */
Datum
gn_jwt_issue(PG_FUNCTION_ARGS)
{
	return mint(fcinfo, true);
}
