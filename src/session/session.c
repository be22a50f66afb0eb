/*
 * src/session/session.c
 *	  Refresh tokens without rows, and the settings of sessions.
 *
 * A refresh token is version, session, generation, counter and a MAC over them
 * under a key derived for that session and generation. Nothing of it is stored:
 * the row's counter says which token is the current one, so it can be handed out
 * again to a client that lost the answer, and a forged one fails before any row of
 * a session is read.
 */
#include "postgres.h"

#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "core/core.h"
#include "crypto/crypto.h"
#include "jwt/base64url.h"
#include "jwt/jwt.h"
#include "session/api_key.h"
#include "session/check.h"
#include "session/session.h"

GN_FUNCTION(gn_session_token_make);
GN_FUNCTION(gn_session_token_parse);

#define TOKEN_PREFIX "gnr_" /* what scanners of leaked secrets look for */
#define TOKEN_VERSION 1
#define TOKEN_SIGNED_SIZE (1 + UUID_LEN + 4 + 8)
#define TOKEN_MAC_SIZE 16
#define TOKEN_SIZE (TOKEN_SIGNED_SIZE + TOKEN_MAC_SIZE)
#define TOKEN_TEXT_SIZE                                                                \
	(sizeof(TOKEN_PREFIX) - 1 + GN_BASE64URL_ENCODED_SIZE(TOKEN_SIZE))

static int lifetime = 30 * SECS_PER_DAY;
static int idle_timeout = 14 * SECS_PER_DAY;
static int refresh_grace = 60;

typedef struct RefreshToken
{
	pg_uuid_t session;
	uint32 generation;
	uint64 counter;
} RefreshToken;

static void
put_number(uint8 *out, uint64 number, int size)
{
	for (int i = size - 1; i >= 0; i--, number >>= 8)
		out[i] = (uint8) number;
}

static uint64
get_number(const uint8 *in, int size)
{
	uint64 number = 0;

	for (int i = 0; i < size; i++)
		number = number << 8 | in[i];
	return number;
}

/* The MAC of what stands in front of it; the key is that of session and generation
 * alone. */
static void
sign_token(const uint8 *token, uint8 mac[GN_SHA256_SIZE])
{
	static const char label[] = "session refresh token";
	uint8 root[GN_KEY_SIZE];
	uint8 key[GN_KEY_SIZE];
	uint8 info[sizeof(label) + UUID_LEN + 4];

	memcpy(info, label, sizeof(label));
	memcpy(info + sizeof(label), token + 1, UUID_LEN + 4);
	gn_root_key("session", root);
	gn_hkdf_sha256(root, sizeof(root), NULL, 0, info, sizeof(info), key, sizeof(key));
	gn_hmac_sha256(key, sizeof(key), token, TOKEN_SIGNED_SIZE, mac);
	gn_cleanse(root, sizeof(root));
	gn_cleanse(key, sizeof(key));
}

/* SQL: _grownext.session_token_make(id uuid, generation int, counter bigint) */
Datum
gn_session_token_make(PG_FUNCTION_ARGS)
{
	uint8 token[TOKEN_SIGNED_SIZE + GN_SHA256_SIZE];
	text *result = palloc(VARHDRSZ + TOKEN_TEXT_SIZE);

	token[0] = TOKEN_VERSION;
	memcpy(token + 1, PG_GETARG_UUID_P(0)->data, UUID_LEN);
	put_number(token + 1 + UUID_LEN, (uint32) PG_GETARG_INT32(1), 4);
	put_number(token + 1 + UUID_LEN + 4, (uint64) PG_GETARG_INT64(2), 8);
	sign_token(token, token + TOKEN_SIGNED_SIZE);
	SET_VARSIZE(result, VARHDRSZ + TOKEN_TEXT_SIZE);
	memcpy(VARDATA(result), TOKEN_PREFIX, sizeof(TOKEN_PREFIX) - 1);
	gn_base64url_encode(token, TOKEN_SIZE, VARDATA(result) + sizeof(TOKEN_PREFIX) - 1);
	PG_RETURN_TEXT_P(result);
}

/* False for whatever this platform did not make. */
static bool
parse_token(const char *text, size_t len, RefreshToken *parsed)
{
	size_t prefix = sizeof(TOKEN_PREFIX) - 1;
	uint8 token[TOKEN_SIZE + 2];
	uint8 mac[GN_SHA256_SIZE];
	size_t size;

	if (len != TOKEN_TEXT_SIZE || memcmp(text, TOKEN_PREFIX, prefix) != 0 ||
		!gn_base64url_decode(text + prefix, len - prefix, token, &size) ||
		size != TOKEN_SIZE || token[0] != TOKEN_VERSION)
		return false;
	sign_token(token, mac);
	if (!gn_equal(mac, token + TOKEN_SIGNED_SIZE, TOKEN_MAC_SIZE))
		return false;
	memcpy(parsed->session.data, token + 1, UUID_LEN);
	parsed->generation = (uint32) get_number(token + 1 + UUID_LEN, 4);
	parsed->counter = get_number(token + 1 + UUID_LEN + 4, 8);
	return true;
}

/* SQL: _grownext.session_token_parse(token text, OUT id uuid, OUT generation int, OUT
 * counter bigint) */
Datum
gn_session_token_parse(PG_FUNCTION_ARGS)
{
	text *token = PG_GETARG_TEXT_PP(0);
	RefreshToken parsed;
	TupleDesc desc;
	Datum values[3] = {0};
	bool nulls[3] = {true, true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (parse_token(VARDATA_ANY(token), VARSIZE_ANY_EXHDR(token), &parsed))
	{
		memset(nulls, 0, sizeof(nulls));
		values[0] = UUIDPGetDatum(&parsed.session);
		values[1] = Int32GetDatum((int32) parsed.generation);
		values[2] = Int64GetDatum((int64) parsed.counter);
	}
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

static void
session_init(void)
{
	gn_session_check_init();
	gn_api_key_cache_init();
	DefineCustomIntVariable("grownext.session_idle_timeout",
							"Time without a refresh after which a session ends.", NULL,
							&idle_timeout, 14 * SECS_PER_DAY, 60, INT_MAX, PGC_SIGHUP,
							GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"grownext.session_lifetime",
		"Time after which a session ends, however often it is refreshed.", NULL,
		&lifetime, 30 * SECS_PER_DAY, 60, INT_MAX, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL,
		NULL);
	DefineCustomIntVariable(
		"grownext.session_refresh_grace",
		"Time in which the previous refresh token still gets the current one.",
		"For clients that lost the answer or refresh in several tabs at once.",
		&refresh_grace, 60, 0, 3600, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
}

const GnComponent gn_session_component = {
	.name = "session",
	.init = session_init,
	.shmem_size = gn_api_key_shmem_size,
	.shmem_init = gn_api_key_shmem_init,
	.tick = "SELECT least(_grownext.session_tick($1), "
			"_grownext.session_api_key_tick($1))",
};
