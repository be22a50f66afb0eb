/*
 * src/tenant/permission.c
 *	  What the caller's role permits, fast enough for a row policy.
 *
 * has_permission() stands in row policies, so it is C without a definer wrapper. It
 * goes by the membership itself: a member who was removed a moment ago has no
 * permission left, whatever the token says. It never raises.
 *
 * A few memberships are remembered per backend, each with the permissions of its
 * role. They are read under a snapshot of this very moment, as the extension's owner,
 * and hold for as long as their marker does (core/cache.h): a change of members,
 * roles, tenants or users counts from the next statement on, in a repeatable-read
 * transaction too. The generation is noted before the snapshot is taken, so whatever
 * commits in between only costs another look. The snapshot is a catalogue snapshot
 * because that kind may be taken in parallel workers as well.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "tenant/permission.h"

GN_FUNCTION(gn_has_permission);

#define REMEMBERED 64 /* memberships; a transaction asks for one */
#define UUID_TEXT_SIZE 36

/* The permissions, each as its length and its bytes, one after the other. */
typedef struct Membership
{
	uint64 generation; /* 0: none */
	pg_uuid_t tenant;
	pg_uuid_t user;
	uint32 size;
	char *permissions;
} Membership;

static GnMarker access_marker = {.name = "tenant_marker_access"};
static Membership remembered[REMEMBERED];

void
gn_permission_init(void)
{
	gn_marker_register(&access_marker);
}

/* Packs an array of texts into memory that lives as long as the backend. */
static void
pack_permissions(Membership *membership, ArrayType *array)
{
	Datum *texts;
	int count;
	char *end;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &texts, NULL, &count);
	membership->size = 0;
	for (int i = 0; i < count; i++)
		membership->size +=
			sizeof(uint32) + VARSIZE_ANY_EXHDR(DatumGetPointer(texts[i]));
	membership->permissions =
		MemoryContextAlloc(TopMemoryContext, Max(membership->size, 1));
	end = membership->permissions;
	for (int i = 0; i < count; i++)
	{
		uint32 length = VARSIZE_ANY_EXHDR(DatumGetPointer(texts[i]));

		memcpy(end, &length, sizeof(length));
		memcpy(end + sizeof(length), VARDATA_ANY(DatumGetPointer(texts[i])), length);
		end += sizeof(length) + length;
	}
}

/* Reads the membership as it is now; none has no permissions. */
static void
read_membership(Membership *membership)
{
	static GnQuery query = GN_QUERY(
		"SELECT _grownext.tenant_role_permissions(m.tenant_id, m.role)"
		" FROM _grownext.tenant_member AS m"
		" JOIN _grownext.tenant_tenant AS t ON t.id = m.tenant_id AND t.state = "
		"'active'"
		" JOIN _grownext.account_user AS u ON u.id = m.user_id AND u.disabled_at IS "
		"NULL"
		" WHERE m.tenant_id = $1 AND m.user_id = $2",
		UUIDOID, UUIDOID);
	Datum values[2] = {UUIDPGetDatum(&membership->tenant),
					   UUIDPGetDatum(&membership->user)};
	GnSpi spi;

	gn_spi_begin(&spi);
	PushActiveSnapshot(GetCatalogSnapshot(InvalidOid));
	if (gn_spi_execute(&query, values, NULL, true) == 1)
	{
		bool isnull;
		Datum datum =
			SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);

		if (!isnull)
			pack_permissions(membership, DatumGetArrayTypeP(datum));
	}
	PopActiveSnapshot();
	gn_spi_end(&spi);
}

/* The caller's user; parsing costs more than all the rest, and the caller is mostly the
 * same as before. False: the subject is no user. */
static bool
find_user(const char *subject, pg_uuid_t *user)
{
	static char known[UUID_TEXT_SIZE + 1] = "";
	static pg_uuid_t known_user;

	if (known[0] == '\0' || strcmp(subject, known) != 0)
	{
		known[0] = '\0';
		if (!gn_uuid_parse(subject, &known_user))
			return false;
		strlcpy(known, subject, sizeof(known));
	}
	*user = known_user;
	return true;
}

static const Membership *
find_membership(const pg_uuid_t *tenant, const pg_uuid_t *user)
{
	uint64 generation = gn_marker_generation(&access_marker);
	Membership *place = &remembered[(tenant->data[0] ^ tenant->data[15] ^
									 user->data[0] ^ user->data[15]) %
									REMEMBERED];

	if (place->generation == generation &&
		memcmp(&place->user, user, sizeof(pg_uuid_t)) == 0 &&
		memcmp(&place->tenant, tenant, sizeof(pg_uuid_t)) == 0)
		return place;
	place->generation = 0;
	if (place->permissions)
		pfree(place->permissions);
	place->permissions = NULL;
	place->size = 0;
	place->tenant = *tenant;
	place->user = *user;
	read_membership(place);
	place->generation = generation;
	return place;
}

/* "*" permits all, "reports.*" whatever begins with "reports.", else the permission
 * itself; SQL: _grownext.tenant_permits(). */
static bool
covers(const char *pattern, uint32 length, const char *permission, uint32 asked)
{
	if (length == asked && memcmp(pattern, permission, length) == 0)
		return true;
	if (length == 1 && pattern[0] == '*')
		return true;
	return length >= 2 && pattern[length - 1] == '*' && pattern[length - 2] == '.' &&
		   asked >= length - 1 && memcmp(pattern, permission, length - 1) == 0;
}

static bool
permits(const Membership *membership, const char *permission, uint32 asked)
{
	const char *end = membership->permissions + membership->size;

	for (const char *next = membership->permissions; next < end;)
	{
		uint32 length;

		memcpy(&length, next, sizeof(length));
		next += sizeof(length);
		if (covers(next, length, permission, asked))
			return true;
		next += length;
	}
	return false;
}

/* SQL: grownext.has_permission(permission text) */
Datum
gn_has_permission(PG_FUNCTION_ARGS)
{
	text *permission = PG_GETARG_TEXT_PP(0);
	const GnContext *context = gn_context();
	pg_uuid_t user;
	pg_uuid_t tenant;

	if (context == NULL)
		PG_RETURN_NULL();
	if (context->tenant == NULL || context->subject == NULL ||
		!find_user(context->subject, &user))
		PG_RETURN_BOOL(false);
	tenant = *context->tenant;
	PG_RETURN_BOOL(permits(find_membership(&tenant, &user), VARDATA_ANY(permission),
						   VARSIZE_ANY_EXHDR(permission)));
}
