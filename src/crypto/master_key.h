/* src/crypto/master_key.h -- where the master keys come from; private to crypto */
#ifndef GN_CRYPTO_MASTER_KEY_H
#define GN_CRYPTO_MASTER_KEY_H

#include "postgres.h"

#include "crypto/crypto.h"

#define GN_MASTER_KEY_ID_MAX 32
#define GN_MASTER_KEY_CHECK_SIZE 16

typedef struct GnMasterKey
{
	char id[GN_MASTER_KEY_ID_MAX + 1];
	uint8 bytes[GN_KEY_SIZE];
} GnMasterKey;

/* Why there is no usable master key; all NULL when there is one. */
typedef struct GnMasterKeyProblem
{
	char *message;
	char *detail;
	char *hint;
} GnMasterKeyProblem;

extern void gn_master_key_define(void); /* settings; runs the command under preload */

/* The keys, current one first, as they are now; 0 with *problem filled in. Never
 * raises. */
extern int gn_master_keys(const GnMasterKey **keys, GnMasterKeyProblem *problem);
/* The key of that id, or NULL; reads the file again only if it changed. */
extern const GnMasterKey *gn_master_key_find(const char *id);
/* Where keys come from, for messages; palloc'd. */
extern char *gn_master_key_source(void);
/* Would every base backup carry the keys? */
extern bool gn_master_key_in_data_directory(void);
/* What crypto_master_key keeps, to tell a right key from a wrong one. */
extern void
gn_master_key_check(const GnMasterKey *key, uint8 check[GN_MASTER_KEY_CHECK_SIZE]);

#endif
