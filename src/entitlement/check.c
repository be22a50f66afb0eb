/*
 * src/entitlement/check.c
 *	  entitled(): the check that stands in policies, views and hot paths.
 *
 * It never raises: an unknown feature, an unknown tenant, another's tenant and no
 *caller at all must all read as "no". A call site remembers the last question and the
 *record that answered it; as long as nothing moved, a row costs a few comparisons.
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
	/* the question, and what answered it */
	uint64 epoch;
	const GnRecord *record; /* dangles unless epoch is gn_record_epoch */
	bool for_user;          /* the context's user was part of the question */
	pg_uuid_t subject;
	int feature; /* -1: unknown */
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
serves_all(Site *site)
{
	Oid user = GetUserId();
	TimestampTz statement = GetCurrentStatementStartTimestamp();

	if (site->user != user || site->statement != statement)
	{
		site->serves = gn_user_has_capability(user, "service") ||
					   gn_user_has_capability(user, "admin");
		site->user = user;
		site->statement = statement;
	}
	return site->serves;
}

/* False where gn_caller_tenant() would raise. */
static bool
visible_tenant(Site *site, const GnContext *context, const pg_uuid_t *named,
			   pg_uuid_t *tenant)
{
	const pg_uuid_t *own = context ? context->tenant : NULL;

	if (named == NULL)
	{
		if (own)
			*tenant = *own;
		return own != NULL;
	}
	*tenant = *named;
	return (own && memcmp(own, named, sizeof(pg_uuid_t)) == 0) || serves_all(site);
}

/* Does what the site remembers answer this question? Messages were taken. */
static bool
remembers(const Site *site, const pg_uuid_t *tenant, const pg_uuid_t *user,
		  const char *name, size_t length)
{
	const GnRecord *record = site->record;

	if (site->epoch != gn_record_epoch || site->name_length != length ||
		memcmp(site->name, name, length) != 0 ||
		memcmp(&record->key.tenant, tenant, sizeof(pg_uuid_t)) != 0)
		return false;
	/* A record for a user is that user's; one without is everybody's only if the tenant
	 * has no grants to users, or for questions without a user. */
	if (record->user_grants &&
		(site->for_user != (user != NULL) ||
		 (user && memcmp(&site->subject, user, sizeof(pg_uuid_t)) != 0)))
		return false;
	return gn_record_current(record,
							 gn_record_timeless(record) ? record->at : gn_now());
}

static void
look_up(Site *site, const pg_uuid_t *tenant, const pg_uuid_t *user, const char *name,
		size_t length)
{
	const GnFeature *feature;
	GnSpi spi;

	site->epoch = 0;
	gn_spi_begin(&spi);
	feature = gn_catalogue_find(gn_catalogue(), name, length);
	site->feature = feature ? feature->id : -1;
	site->record = gn_record(tenant, user, gn_now());
	site->for_user = user != NULL;
	if (user)
		site->subject = *user;
	gn_spi_end(&spi);
	if (length > NAME_MAX_REMEMBERED)
		return;
	site->name_length = length;
	memcpy(site->name, name, length);
	site->epoch = gn_record_epoch;
}

/* Counters are not cached. */
static bool
counted_answer(const pg_uuid_t *tenant, const pg_uuid_t *user, const char *name,
			   size_t length)
{
	GnQuestion question = {
		.tenant = *tenant,
		.feature = pnstrdup(name, length),
		.user = user,
		.at = gn_now(),
	};
	MemoryContext memory = CurrentMemoryContext;
	GnAnswer *answer;
	bool allowed;
	int count;
	GnSpi spi;

	gn_spi_begin(&spi);
	answer = gn_entitlement_answer(&question, true, memory, &count);
	allowed = answer->decision.allowed;
	gn_spi_end(&spi);
	return allowed;
}

static bool
is_entitled(Site *site, const GnContext *context, const pg_uuid_t *tenant,
			const text *feature)
{
	const char *name = VARDATA_ANY(feature);
	size_t length = VARSIZE_ANY_EXHDR(feature);
	const pg_uuid_t *user = context ? context->user_id : NULL;
	uint8 flags;

	gn_cache_catch_up();
	if (!remembers(site, tenant, user, name, length))
		look_up(site, tenant, user, name, length);
	if (site->feature < 0 || site->feature >= site->record->count)
		return false;
	flags = site->record->flags[site->feature];
	if (flags & GN_FLAG_BALANCE || (flags & GN_FLAG_ALLOWED && flags & GN_FLAG_COUNTED))
		return counted_answer(tenant, user, name, length);
	return (flags & GN_FLAG_ALLOWED) != 0;
}

/* SQL: grownext.entitled(feature text, tenant_id uuid) */
Datum
gn_entitled(PG_FUNCTION_ARGS)
{
	Site *site = site_of(fcinfo);
	const GnContext *context = gn_context();
	pg_uuid_t tenant;

	if (PG_ARGISNULL(0) ||
		!visible_tenant(site, context, PG_ARGISNULL(1) ? NULL : PG_GETARG_UUID_P(1),
						&tenant))
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(is_entitled(site, context, &tenant, PG_GETARG_TEXT_PP(0)));
}

/* SQL: grownext.entitled_tenant(feature text) */
Datum
gn_entitled_tenant(PG_FUNCTION_ARGS)
{
	Site *site = site_of(fcinfo);
	const GnContext *context = gn_context();
	pg_uuid_t *tenant = palloc(sizeof(pg_uuid_t));

	if (PG_ARGISNULL(0) || !visible_tenant(site, context, NULL, tenant) ||
		!is_entitled(site, context, tenant, PG_GETARG_TEXT_PP(0)))
		PG_RETURN_NULL();
	PG_RETURN_UUID_P(tenant);
}
