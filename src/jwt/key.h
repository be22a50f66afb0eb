/* src/jwt/key.h -- signing keys of this database, cached per backend; private
 * to jwt */
#ifndef GN_JWT_KEY_H
#define GN_JWT_KEY_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "jwt/jwk.h"

typedef enum GnKeyState
{
	GN_KEY_STANDBY,  /* published, signs not yet */
	GN_KEY_ACTIVE,   /* signs; one per purpose */
	GN_KEY_RETIRING, /* signs no more; its tokens still count */
	GN_KEY_REVOKED   /* nothing it signed counts */
} GnKeyState;

typedef struct GnSigningKey GnSigningKey;

/*
 * Where private parts live and who signs with them. Results are in JWS form. A
 * provider that leaves this process verifies what it got back with the public
 * part before it returns, and is never called under a row lock.
 */
typedef struct GnSigner
{
	const char *name;
	void (*open)(GnSigningKey *key); /* raises NX016 or NX017 */
	void (*sign)(GnSigningKey *key, const void *input, size_t len, uint8 *out,
				 size_t *out_len);
	void (*close)(GnSigningKey *key); /* must not raise */
} GnSigner;

extern const GnSigner gn_signer_local;

struct GnSigningKey
{
	GnSigningKey *next;
	char kid[GN_JWK_THUMBPRINT_SIZE + 1];
	char purpose[33];
	GnKeyState state;
	TimestampTz accepted_until; /* of a retiring key */
	GnJoseKey public;
	const char *provider;
	const GnSigner *signer; /* NULL: this library has none of that name */
	bool opened;
	GnJoseKey private;      /* of the local signer */
	struct varlena *sealed; /* or NULL */
	char *header;           /* first segment of its tokens */
	size_t header_len;
};

extern void gn_jwt_cache_init(void);

/* Microseconds since 1970, by the wall clock. */
extern int64 gn_jwt_unix_now(void);

/* Keys as of now, valid until the next call of either; NULL when there is none. */
extern GnSigningKey *gn_jwt_key_find(const char *kid);
extern GnSigningKey *gn_jwt_key_active(const char *purpose);

#endif
