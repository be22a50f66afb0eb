/* src/entitlement/catalogue.h -- the features there are, cached per backend; private to
 * entitlement */
#ifndef GN_CATALOGUE_H
#define GN_CATALOGUE_H

#include "postgres.h"

#include "entitlement/resolve.h"
#include "entitlement/scope.h"

/* Which version of a bundle was the free one, from when until when. */
typedef struct GnFreeBundle
{
	int version_id;
	TimestampTz valid_from;
	TimestampTz valid_until;
} GnFreeBundle;

#define GN_VERSION_SIZE 12 /* 64 bits as base64url, and a terminator */

typedef struct GnCatalogue
{
	uint64 serial;     /* tells it apart from every other; not 0 */
	uint64 generation; /* of the marker, when it was read */
	GnScope scope;
	int count; /* ids are dense from 0 */
	GnFeature *features;
	uint32 mask; /* of an open hash of names; slots hold id + 1 */
	uint32 *slots;
	int free_count; /* in the order of time; they do not overlap */
	GnFreeBundle *free_bundles;
	char version[GN_VERSION_SIZE]; /* of names and kinds; empty until it is asked for */
	MemoryContext memory;
} GnCatalogue;

extern void gn_catalogue_init(void);
extern void gn_claims_init(void);

/* Counts changes of the catalogue; messages must have been taken. */
extern uint64 gn_catalogue_generation(void);

/* As of now, valid until the next call. Between gn_spi_begin and gn_spi_end. */
extern const GnCatalogue *gn_catalogue(void);

/* The same if it need not be read, else NULL; anywhere. Messages must have been taken.
 */
extern const GnCatalogue *gn_catalogue_cached(void);

/* By name, or NULL. */
extern const GnFeature *
gn_catalogue_find(const GnCatalogue *catalogue, const char *name, size_t len);

/* A setting from eight columns of a row, from column first on; false if it is null. */
#define GN_SETTING_COLUMNS(x)                                                          \
	"(" x ").enabled, (" x ").quota, (" x ").period, (" x ").billing_anchor, (" x      \
	").soft, (" x ").value, (" x ").rollover, (" x ").priority"
extern bool gn_read_setting(uint64 row, int first, GnSetting *setting);

#endif
