/* src/entitlement/compile.h -- what has a say about a tenant, read from the tables;
 * private to entitlement */
#ifndef GN_COMPILE_H
#define GN_COMPILE_H

#include "postgres.h"

#include "pgtime.h"

#include "entitlement/catalogue.h"
#include "entitlement/resolve.h"

/* Everything about one tenant at one instant, in the memory that was current. */
typedef struct GnReading
{
	const GnCatalogue *catalogue;
	TimestampTz at;
	TimestampTz until; /* the next instant at which something begins or ends */
	GnTenantState state;
	pg_tz *zone;
	bool has_parent;
	pg_uuid_t parent;
	bool user_grants;         /* are there any, to whomever */
	bool subscribed;          /* live, add-ons apart: the free bundle has no say */
	GnCandidate **candidates; /* by feature, in the order in which they count */
	GnCandidate **last;
} GnReading;

/* Between gn_spi_begin and gn_spi_end, under the active snapshot. */
extern GnReading *gn_read_tenant(const GnCatalogue *catalogue, const pg_uuid_t *tenant,
								 const pg_uuid_t *user, TimestampTz at);

#endif
