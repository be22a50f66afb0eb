/*
 * src/entitlement/check.c
 *	  entitled(): the check that stands in policies, views and hot paths.
 *
 * It never raises: an unknown feature, an unknown tenant, another's tenant and no
 * caller at all must all read as "no". What is remembered answers without SPI and
 * without a palloc, whether each row asks for the same tenant or for another.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "entitlement/entitlement.h"
#include "entitlement/record.h"

GN_FUNCTION(gn_entitled);
GN_FUNCTION(gn_entitled_tenant);

#define NAME_MAX_REMEMBERED 200 /* bytes; no feature's name is longer */

/* What a call site remembers. */
typedef struct Site
{
	/* may the user ask about tenants other than the own one? */
	Oid user;
	TimestampTz statement;
	bool serves;
	/* the last name that was looked up */
	uint64 catalogue; /* its serial; 0: none was */
	int feature;      /* -1: unknown */
	size_t name_length;
	char name[NAME_MAX_REMEMBERED];
} Site;

static Site *
site_of(FunctionCallInfo fcinfo)
{
	if (fcinfo->flinfo->fn_extra == NULL)
		fcinfo->flinfo->fn_extra =
			MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(Site));
	return fcinfo->flinfo->fn_extra;
}

/* Rights are looked up once per statement: that is as often as they can be granted. */
static bool
knows_rights(const Site *site)
{
	return site->user == GetUserId() &&
		   site->statement == GetCurrentStatementStartTimestamp();
}

static bool
serves_all(Site *site)
{
	if (!knows_rights(site))
	{
		Oid user = GetUserId();

		site->serves = gn_user_has_capability(user, "service") ||
					   gn_user_has_capability(user, "admin");
		site->user = user;
		site->statement = GetCurrentStatementStartTimestamp();
	}
	return site->serves;
}

/*
 * False where gn_caller_tenant() would raise. A service that names tenants is asked but
 * once who it is: finding out that there is no context costs more than all the rest.
 */
static bool
visible_tenant(Site *site, const pg_uuid_t *named, pg_uuid_t *tenant)
{
	const GnContext *context;
	const pg_uuid_t *own;

	if (named)
		*tenant = *named;
	if (named && knows_rights(site) && site->serves)
		return true;
	context = gn_context();
	own = context ? context->tenant : NULL;
	if (named)
		return (own && memcmp(own, named, sizeof(pg_uuid_t)) == 0) || serves_all(site);
	if (own)
		*tenant = *own;
	return own != NULL;
}

static int
find_feature(Site *site, const GnCatalogue *catalogue, const char *name, size_t length)
{
	const GnFeature *feature;

	if (site->catalogue == catalogue->serial && site->name_length == length &&
		memcmp(site->name, name, length) == 0)
		return site->feature;
	if (length > NAME_MAX_REMEMBERED)
		return -1;
	feature = gn_catalogue_find(catalogue, name, length);
	site->catalogue = catalogue->serial;
	site->feature = feature ? feature->id : -1;
	site->name_length = length;
	memcpy(site->name, name, length);
	return site->feature;
}

/* What is remembered of the tenant, for the context's user where that matters. */
static const GnRecord *
cached_record(const pg_uuid_t *tenant)
{
	const GnRecord *record = gn_record_cached(tenant, NULL);
	pg_uuid_t space;
	const pg_uuid_t *user;

	if (record == NULL || !record->user_grants)
		return record;
	user = gn_context_user(&space);
	return user ? gn_record_cached(tenant, user) : record;
}

static const GnRecord *
read_record(const pg_uuid_t *tenant, const GnCatalogue **catalogue)
{
	pg_uuid_t space;
	const pg_uuid_t *user = gn_context_user(&space);
	const GnRecord *record;
	GnSpi spi;

	gn_spi_begin(&spi);
	record = gn_record(tenant, user, gn_now());
	*catalogue = gn_catalogue();
	gn_spi_end(&spi);
	return record;
}

/* Counters are not cached. */
static bool
counted_answer(const pg_uuid_t *tenant, const char *name, size_t length)
{
	GnQuestion question = {
		.tenant = *tenant,
		.feature = pnstrdup(name, length),
		.at = gn_now(),
	};
	pg_uuid_t space;
	MemoryContext memory = CurrentMemoryContext;
	GnAnswer *answer;
	bool allowed;
	int count;
	GnSpi spi;

	question.user = gn_context_user(&space);
	gn_spi_begin(&spi);
	answer = gn_entitlement_answer(&question, true, memory, &count);
	allowed = answer->decision.allowed;
	gn_spi_end(&spi);
	return allowed;
}

static bool
is_entitled(Site *site, const pg_uuid_t *tenant, const text *feature)
{
	const char *name = VARDATA_ANY(feature);
	size_t length = VARSIZE_ANY_EXHDR(feature);
	const GnCatalogue *catalogue;
	const GnRecord *record;
	uint8 flags;
	int id;

	gn_cache_catch_up();
	record = cached_record(tenant);
	catalogue = gn_catalogue_cached();
	if (unlikely(record == NULL || catalogue == NULL))
		record = read_record(tenant, &catalogue);
	id = find_feature(site, catalogue, name, length);
	if (id < 0 || id >= record->count)
		return false;
	flags = record->flags[id];
	if (flags & GN_FLAG_BALANCE || (flags & GN_FLAG_ALLOWED && flags & GN_FLAG_COUNTED))
		return counted_answer(tenant, name, length);
	return (flags & GN_FLAG_ALLOWED) != 0;
}

/* SQL: grownext.entitled(feature text, tenant_id uuid) */
Datum
gn_entitled(PG_FUNCTION_ARGS)
{
	Site *site = site_of(fcinfo);
	pg_uuid_t tenant;

	if (PG_ARGISNULL(0) ||
		!visible_tenant(site, PG_ARGISNULL(1) ? NULL : PG_GETARG_UUID_P(1), &tenant))
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(is_entitled(site, &tenant, PG_GETARG_TEXT_PP(0)));
}

/* SQL: grownext.entitled_tenant(feature text) */
Datum
gn_entitled_tenant(PG_FUNCTION_ARGS)
{
	Site *site = site_of(fcinfo);
	pg_uuid_t *tenant = palloc(sizeof(pg_uuid_t));

	if (PG_ARGISNULL(0) || !visible_tenant(site, NULL, tenant) ||
		!is_entitled(site, tenant, PG_GETARG_TEXT_PP(0)))
		PG_RETURN_NULL();
	PG_RETURN_UUID_P(tenant);
}
