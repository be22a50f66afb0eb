/* src/jwt/key.h -- signing keys of this database, cached per backend; private
 * to jwt */
#ifndef GN_JWT_KEY_H
#define GN_JWT_KEY_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

#include "core/cache.h"
#include "core/scan.h"
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
	/* Raises NX016 or NX017. False: the private part went since the key was looked up.
	 */
	bool (*open)(GnSigningKey *key);
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
	const GnJoseAlg *alg;
	GnKeyNumbers numbers; /* the public ones */
	GnJoseKey public;     /* built at first use; see gn_jwt_key_public */
	const char *provider;
	const GnSigner *signer; /* NULL: this library has none of that name */
	bool opened;
	GnJoseKey private; /* of the local signer */
	char *header;      /* first segment of its tokens */
	size_t header_len;
};

/* A whole small table in memory of its own, good for as long as a marker stands still.
 */
typedef struct GnJwtCache
{
	GnMarker *marker;
	void (*forget)(void); /* gives back what memory does not own */
	uint64 generation;    /* of the marker; 0: nothing usable */
	bool old_snapshot;    /* loaded in parallel mode */
	MemoryContext memory;
} GnJwtCache;

/* True if the cache must be filled; it has been emptied then. */
extern bool gn_jwt_cache_begin(GnJwtCache *cache, uint64 *generation);
extern void gn_jwt_cache_read(GnJwtCache *cache, const char *table, GnRowReader read);

/* Another number whenever one of the caches was emptied: what points into them, or was
 * concluded from them, is good for as long as it stays the same. */
extern uint64 gn_jwt_cache_epoch(void);

extern void gn_jwt_keys_init(void);
extern void gn_key_import_init(void); /* its setting */

/* Microseconds since 1970, by the wall clock. */
extern int64 gn_jwt_unix_now(void);

/* Keys as of now, valid until the next call of any; NULL when there is none. */
extern GnSigningKey *gn_jwt_key_find(const char *kid);
extern GnSigningKey *gn_jwt_key_active(const char *purpose);
/* The key whose tokens begin with this segment. */
extern GnSigningKey *gn_jwt_key_of_header(const char *segment, size_t len);

/* To sign with. False: it was revoked since it was looked up. Raises for want of a
 * provider or a master key. */
extern bool gn_jwt_key_open(GnSigningKey *key);
/* To verify with; raises if the row is damaged. Of a symmetric key this is the secret,
 * which its signer opens; NULL: it was revoked since it was looked up. */
extern GnJoseKey *gn_jwt_key_public(GnSigningKey *key);

/* What a private part is sealed for. */
extern char *gn_jwt_key_seal_purpose(const char *kid, const char *alg);

/* What is stored of a fresh or imported key: kid, public_jwk and sealed. */
extern void
gn_jwt_key_record(const GnJoseAlg *alg, const GnKeyNumbers *numbers, Datum values[3]);

#endif
