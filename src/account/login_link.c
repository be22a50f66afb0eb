/*
 * src/account/login_link.c
 *	  The token of a login link, derived from the link's id.
 *
 * Nothing that opens an account is stored: the row has the token's SHA-256, and
 * whoever delivers the link asks for the token when the message is written. So it
 * is in no queue, no dump and no backup, however long a delivery waits.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/uuid.h"

#include "account/account.h"
#include "core/core.h"
#include "crypto/crypto.h"
#include "jwt/base64url.h"

GN_FUNCTION(gn_account_login_token);
GN_FUNCTION(gn_account_login_hash);

#define TOKEN_PREFIX "gnl_" /* what scanners of leaked secrets look for */
#define TOKEN_PREFIX_SIZE (sizeof(TOKEN_PREFIX) - 1)
#define TOKEN_SIZE (TOKEN_PREFIX_SIZE + GN_BASE64URL_ENCODED_SIZE(GN_SHA256_SIZE))

/* SQL: _grownext.account_login_token(id uuid) */
Datum
gn_account_login_token(PG_FUNCTION_ARGS)
{
	text *result = palloc(VARHDRSZ + TOKEN_SIZE);
	uint8 key[GN_KEY_SIZE];
	uint8 mac[GN_SHA256_SIZE];

	gn_account_key("login link", key);
	gn_hmac_sha256(key, sizeof(key), PG_GETARG_UUID_P(0)->data, UUID_LEN, mac);
	SET_VARSIZE(result, VARHDRSZ + TOKEN_SIZE);
	memcpy(VARDATA(result), TOKEN_PREFIX, TOKEN_PREFIX_SIZE);
	gn_base64url_encode(mac, sizeof(mac), VARDATA(result) + TOKEN_PREFIX_SIZE);
	gn_cleanse(key, sizeof(key));
	gn_cleanse(mac, sizeof(mac));
	PG_RETURN_TEXT_P(result);
}

/*
 * SQL: _grownext.account_login_hash(token text)
 *
 * NULL for what cannot be one: it is not worth a look into the table.
 */
Datum
gn_account_login_hash(PG_FUNCTION_ARGS)
{
	text *token = PG_GETARG_TEXT_PP(0);
	bytea *result;

	if (VARSIZE_ANY_EXHDR(token) != TOKEN_SIZE ||
		memcmp(VARDATA_ANY(token), TOKEN_PREFIX, TOKEN_PREFIX_SIZE) != 0)
		PG_RETURN_NULL();
	result = palloc(VARHDRSZ + GN_SHA256_SIZE);
	SET_VARSIZE(result, VARHDRSZ + GN_SHA256_SIZE);
	gn_sha256(VARDATA_ANY(token), TOKEN_SIZE, (uint8 *) VARDATA(result));
	PG_RETURN_BYTEA_P(result);
}
