/* src/session/api_key.h -- API keys: what is known of one, and its last use */
#ifndef GN_API_KEY_H
#define GN_API_KEY_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/array.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "crypto/crypto.h"

typedef struct GnApiKey
{
	uint8 digest[GN_SHA256_SIZE]; /* of its text; first, for it is the cache's key */
	pg_uuid_t id;
	pg_uuid_t tenant;
	pg_uuid_t family; /* of the first key of a chain of rerolls: they share a limit */
	bool disabled;    /* revoked, or its user is disabled */
	bool tenant_active;
	TimestampTz expires_at; /* DT_NOEND: never */
	int scope_count;
	char **scopes;
	int address_count;    /* 0: from anywhere */
	Datum *addresses;     /* cidr */
	int64 rate_limit;     /* 0: none */
	int64 rate_period;    /* microseconds */
	Jsonb *claims;        /* what authenticate_api_key() binds */
	Jsonb *answer;        /* of api_key_verify(), when it is valid */
	TimestampTz noted_at; /* when this backend last noted its use */
} GnApiKey;

/* api_key_cache.c: the key of that digest, or NULL; valid until the next call. */
extern GnApiKey *gn_api_key_find(const uint8 digest[GN_SHA256_SIZE]);
extern void gn_api_key_cache_init(void);

/* api_key_use.c: remembers that the key was used. */
extern void gn_api_key_note_use(GnApiKey *key, TimestampTz now);
extern Size gn_api_key_shmem_size(void);
extern void gn_api_key_shmem_init(void);

#endif
