/*
 * src/tenant/invitation.c
 *	  Tokens of invitations: 256 bits that nobody can guess and no dump holds.
 *
 * The row holds a random nonce and the SHA-256 of the token; the token is a MAC of the
 * nonce under a key of this database, so it can be made again for the message that
 * is sent later, and only where the master key is.
 */
#include "postgres.h"

#include "core/core.h"
#include "crypto/crypto.h"
#include "jwt/base64url.h"

GN_FUNCTION(gn_tenant_nonce);
GN_FUNCTION(gn_tenant_invitation_token);
GN_FUNCTION(gn_tenant_token_hash);

#define NONCE_SIZE 32
#define TOKEN_PREFIX "gni_" /* what scanners of leaked secrets look for */
#define TOKEN_SIZE                                                                     \
	(sizeof(TOKEN_PREFIX) - 1 + GN_BASE64URL_ENCODED_SIZE(GN_SHA256_SIZE))

/* SQL: _grownext.tenant_nonce() */
Datum
gn_tenant_nonce(PG_FUNCTION_ARGS)
{
	bytea *nonce = palloc(VARHDRSZ + NONCE_SIZE);

	SET_VARSIZE(nonce, VARHDRSZ + NONCE_SIZE);
	gn_random(VARDATA(nonce), NONCE_SIZE);
	PG_RETURN_BYTEA_P(nonce);
}

/* SQL: _grownext.tenant_invitation_token(nonce bytea) */
Datum
gn_tenant_invitation_token(PG_FUNCTION_ARGS)
{
	bytea *nonce = PG_GETARG_BYTEA_PP(0);
	text *token = palloc(VARHDRSZ + TOKEN_SIZE);
	uint8 key[GN_KEY_SIZE];
	uint8 mac[GN_SHA256_SIZE];

	gn_root_key("invitation", key);
	gn_hmac_sha256(key, sizeof(key), VARDATA_ANY(nonce), VARSIZE_ANY_EXHDR(nonce), mac);
	gn_cleanse(key, sizeof(key));
	SET_VARSIZE(token, VARHDRSZ + TOKEN_SIZE);
	memcpy(VARDATA(token), TOKEN_PREFIX, sizeof(TOKEN_PREFIX) - 1);
	gn_base64url_encode(mac, sizeof(mac), VARDATA(token) + sizeof(TOKEN_PREFIX) - 1);
	gn_cleanse(mac, sizeof(mac));
	PG_RETURN_TEXT_P(token);
}

/*
 * SQL: _grownext.tenant_token_hash(token text)
 *
 * In C and called by itself: as a parameter of a nested statement, or of a SQL
 * function's, the token would stand in the log of a server that explains those.
 */
Datum
gn_tenant_token_hash(PG_FUNCTION_ARGS)
{
	text *token = PG_GETARG_TEXT_PP(0);
	bytea *hash = palloc(VARHDRSZ + GN_SHA256_SIZE);

	SET_VARSIZE(hash, VARHDRSZ + GN_SHA256_SIZE);
	gn_sha256(VARDATA_ANY(token), VARSIZE_ANY_EXHDR(token), (uint8 *) VARDATA(hash));
	PG_RETURN_BYTEA_P(hash);
}
