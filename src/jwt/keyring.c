/*
 * src/jwt/keyring.c
 *	  Signing keys of this database, from rows to keys that are ready.
 *
 * A backend reads all of them at once and builds the one that it needs when it needs
 * it: a database keeps many keys that nobody asks for any more. Private parts are not
 * kept at all; who signs fetches his.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "jwt/base64url.h"
#include "jwt/key.h"
#include "jwt/profile.h"

static GnMarker key_marker = {.name = "jwt_marker_key"};

static GnSigningKey *keys = NULL;

static void forget_keys(void);

static GnJwtCache key_cache = {.marker = &key_marker, .forget = forget_keys};

static const GnSigner *const signers[] = {&gn_signer_local, NULL};

void
gn_jwt_keys_init(void)
{
	gn_marker_register(&key_marker);
}

static void
forget_keys(void)
{
	for (GnSigningKey *key = keys; key; key = key->next)
	{
		if (key->opened)
			key->signer->close(key);
		gn_jose_key_free(&key->public);
	}
	keys = NULL;
}

static GnKeyState
parse_state(const char *state)
{
	if (strcmp(state, "active") == 0)
		return GN_KEY_ACTIVE;
	if (strcmp(state, "standby") == 0)
		return GN_KEY_STANDBY;
	return strcmp(state, "retiring") == 0 ? GN_KEY_RETIRING : GN_KEY_REVOKED;
}

/* The first segment of every token that this key signs, in the cache's memory. */
static void
prepare_header(GnSigningKey *key)
{
	char *text = psprintf("{\"alg\":\"%s\",\"typ\":\"%s\",\"kid\":\"%s\"}",
						  key->alg->name, gn_token_typ(key->purpose), key->kid);
	size_t len = strlen(text);

	key->header = MemoryContextAlloc(key_cache.memory, GN_BASE64URL_ENCODED_SIZE(len));
	key->header_len = gn_base64url_encode(text, len, key->header);
	pfree(text);
}

/* A number of the public JWK, in the cache's memory; none if it is not base64url. */
static GnNumber
public_number(const Jsonb *jwk, const char *name)
{
	JsonbValue space;
	const JsonbValue *value = gn_jsonb_field(jwk, name, &space);
	GnNumber number = {0};
	uint8 *data;

	if (value == NULL || value->type != jbvString)
		return number;
	data = MemoryContextAlloc(key_cache.memory, value->val.string.len * 3 / 4 + 1);
	if (gn_base64url_decode(value->val.string.val, (size_t) value->val.string.len, data,
							&number.len))
		number.data = data;
	return number;
}

static char *
text_value(const GnRow *row, const char *column)
{
	bool isnull;
	Datum datum = gn_row_value(row, column, &isnull);

	return isnull ? pstrdup("") : TextDatumGetCString(datum);
}

/* A key of a newer library's algorithm is passed over: it is unknown here. */
static void
load_key(const GnRow *row, void *arg)
{
	const GnJoseAlg *alg = gn_jose_alg(text_value(row, "alg"));
	char *provider;
	Jsonb *jwk;
	GnSigningKey *key;
	bool isnull;
	Datum datum;

	if (alg == NULL)
		return;
	key = MemoryContextAllocZero(key_cache.memory, sizeof(*key));
	key->next = keys;
	keys = key;
	key->alg = alg;
	strlcpy(key->kid, text_value(row, "kid"), sizeof(key->kid));
	strlcpy(key->purpose, text_value(row, "purpose"), sizeof(key->purpose));
	key->state = parse_state(text_value(row, "state"));
	provider = text_value(row, "provider");
	key->provider = MemoryContextStrdup(key_cache.memory, provider);
	for (int i = 0; signers[i]; i++)
		if (strcmp(signers[i]->name, provider) == 0)
			key->signer = signers[i];
	datum = gn_row_value(row, "accepted_until", &isnull);
	key->accepted_until = isnull ? DT_NOBEGIN : DatumGetTimestampTz(datum);
	prepare_header(key);
	jwk = DatumGetJsonbP(gn_row_value(row, "public_jwk", &isnull));
	if (strcmp(alg->kty, "RSA") == 0)
	{
		key->numbers.n = public_number(jwk, "n");
		key->numbers.e = public_number(jwk, "e");
	}
	else if (alg->family != GN_JOSE_HMAC)
	{
		key->numbers.x = public_number(jwk, "x");
		key->numbers.y = public_number(jwk, "y");
	}
}

static void
refresh_keys(void)
{
	uint64 generation;

	if (!gn_jwt_cache_begin(&key_cache, &generation))
		return;
	gn_jwt_cache_read(&key_cache, "jwt_key", load_key);
	key_cache.generation = generation;
}

GnSigningKey *
gn_jwt_key_find(const char *kid)
{
	refresh_keys();
	for (GnSigningKey *key = keys; key; key = key->next)
	{
		if (strcmp(key->kid, kid) == 0)
			return key;
	}
	return NULL;
}

GnSigningKey *
gn_jwt_key_active(const char *purpose)
{
	refresh_keys();
	for (GnSigningKey *key = keys; key; key = key->next)
	{
		if (key->state == GN_KEY_ACTIVE && strcmp(key->purpose, purpose) == 0)
			return key;
	}
	return NULL;
}

GnSigningKey *
gn_jwt_key_of_header(const char *segment, size_t len)
{
	refresh_keys();
	for (GnSigningKey *key = keys; key; key = key->next)
	{
		if (key->header_len == len && memcmp(key->header, segment, len) == 0)
			return key;
	}
	return NULL;
}

bool
gn_jwt_key_open(GnSigningKey *key)
{
	if (key->opened)
		return true;
	if (key->signer == NULL)
		ereport(ERROR,
				(errcode(GN_ERRCODE_KEY_UNAVAILABLE),
				 errmsg("signing key \"%s\" is held by provider \"%s\", which this "
						"library does not have",
						key->kid, key->provider),
				 errhint("SELECT grownext.key_rotate(%s, force => true);",
						 quote_literal_cstr(key->purpose))));
	return key->signer->open(key);
}

GnJoseKey *
gn_jwt_key_public(GnSigningKey *key)
{
	if (key->alg->family == GN_JOSE_HMAC)
		return gn_jwt_key_open(key) ? &key->private : NULL;
	if (key->public.pkey == NULL)
	{
		const char *why = gn_jose_key_build(&key->public, key->alg, &key->numbers);

		if (why)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("public part of signing key \"%s\" is damaged", key->kid),
					 errdetail_internal("Of the key: %s.", why)));
	}
	return &key->public;
}
