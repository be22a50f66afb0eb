/*
 * src/stream/definition.c
 *	  Streams, their grants and the open segment, cached per backend.
 *
 * There are few streams and they change rarely, so any change loads them all anew.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "stream/definition.h"
#include "stream/lock.h"

GN_FUNCTION(gn_stream_caller_may);

typedef struct StreamGrant
{
	char *stream;
	char *role;
	char *right;
} StreamGrant;

static GnMarker stream_marker = {.name = "stream_marker_stream"};
static uint64 loaded_generation = 0;
static MemoryContext definition_memory = NULL;
static GnStream *streams = NULL; /* by name */
static int stream_count = 0;
static StreamGrant *grants = NULL;
static int grant_count = 0;
static int open_segment = 0;

void
gn_stream_definition_init(void)
{
	gn_marker_register(&stream_marker);
}

static Datum
column(uint64 row, int number)
{
	bool isnull;

	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number,
						 &isnull);
}

static char *
keep_text(uint64 row, int number)
{
	char *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number);

	return MemoryContextStrdup(definition_memory, value);
}

static void
load_streams(void)
{
	static GnQuery query =
		GN_QUERY_NOARGS("SELECT id, stream, retention IS NULL"
						" FROM _grownext.stream_stream ORDER BY stream");
	uint64 count = gn_spi_execute(&query, NULL, NULL, true);

	streams = MemoryContextAllocZero(definition_memory, (count + 1) * sizeof(GnStream));
	for (uint64 i = 0; i < count; i++)
		streams[i] = (GnStream){.id = DatumGetInt64(column(i, 1)),
								.name = keep_text(i, 2),
								.keeps = DatumGetBool(column(i, 3))};
	stream_count = (int) count;
}

static void
load_grants(void)
{
	static GnQuery query = GN_QUERY_NOARGS(
		"SELECT stream, role_name, right_name FROM _grownext.stream_grant");
	uint64 count = gn_spi_execute(&query, NULL, NULL, true);

	grants =
		MemoryContextAllocZero(definition_memory, (count + 1) * sizeof(StreamGrant));
	for (uint64 i = 0; i < count; i++)
		grants[i] = (StreamGrant){keep_text(i, 1), keep_text(i, 2), keep_text(i, 3)};
	grant_count = (int) count;
}

static void
load_segment(void)
{
	static GnQuery query = GN_QUERY_NOARGS(
		"SELECT segment FROM _grownext.stream_segment WHERE state = 'open'");

	if (gn_spi_execute(&query, NULL, NULL, true) != 1)
		elog(ERROR, "no segment of streams is open");
	open_segment = DatumGetInt32(column(0, 1));
}

static void
refresh_definitions(void)
{
	uint64 generation = gn_marker_generation(&stream_marker);
	GnSpi spi;

	if (generation == loaded_generation)
		return;
	loaded_generation = 0; /* a load that fails half-way is none */
	stream_count = 0;
	grant_count = 0;
	if (definition_memory == NULL)
		definition_memory = AllocSetContextCreate(TopMemoryContext, "grownext streams",
												  ALLOCSET_SMALL_SIZES);
	MemoryContextReset(definition_memory);
	gn_spi_begin(&spi);
	/* A repeatable-read transaction's own snapshot may be older than the message. */
	PushActiveSnapshot(GetLatestSnapshot());
	load_streams();
	load_grants();
	load_segment();
	PopActiveSnapshot();
	gn_spi_end(&spi);
	loaded_generation = generation;
}

static int
compare_names(const void *name, const void *stream)
{
	return strcmp(name, ((const GnStream *) stream)->name);
}

const GnStream *
gn_stream_find(const char *name)
{
	refresh_definitions();
	return bsearch(name, streams, stream_count, sizeof(GnStream), compare_names);
}

int
gn_stream_open_segment(void)
{
	refresh_definitions();
	return open_segment;
}

bool
gn_stream_user_may(Oid user, const char *stream, const char *right)
{
	refresh_definitions();
	for (int i = 0; i < grant_count; i++)
	{
		Oid role;

		if (strcmp(grants[i].stream, stream) != 0 ||
			strcmp(grants[i].right, right) != 0)
			continue;
		role = get_role_oid(grants[i].role, true);
		if (OidIsValid(role) && has_privs_of_role(user, role))
			return true;
	}
	return gn_user_has_capability(user, "service") ||
		   gn_user_has_capability(user, "admin");
}

static void
raise_unknown(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("stream \"%s\" does not exist", name),
			 errhint("SELECT grownext.stream_define(%s);", quote_literal_cstr(name))));
}

static void
require_right(const char *name, const char *right)
{
	if (gn_stream_user_may(GetUserId(), name, right))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to %s stream \"%s\"",
					strcmp(right, "append") == 0 ? "append to" : right, name),
			 errhint("An administrator grants it: SELECT grownext.stream_grant(%s, "
					 "%s, '%s');",
					 quote_literal_cstr(name),
					 quote_literal_cstr(GetUserNameFromId(GetUserId(), false)),
					 right)));
}

GnStream
gn_stream_of_caller(const char *name, const char *right)
{
	const GnStream *stream;
	GnStream found;
	int64 locked = 0;

	if (strncmp(name, "grownext.", strlen("grownext.")) == 0)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("stream \"%s\" is internal", name),
						errdetail("Streams named grownext.* belong to the platform.")));
	/* dropped while we waited, the name may mean another stream */
	while ((stream = gn_stream_find(name)) != NULL && stream->id != locked)
	{
		locked = stream->id;
		gn_stream_lock(strcmp(right, "append") == 0 ? GN_STREAM_LOCK_STREAM
													: GN_STREAM_LOCK_READ,
					   (uint64) locked, ShareLock);
	}
	if (stream == NULL)
		raise_unknown(name);
	found = *stream; /* the next look may load them anew */
	found.name = unconstify(char *, name);
	require_right(name, right);
	return found;
}

/* SQL: _grownext.stream_caller_may(stream text, right_name text): as
 * core_caller_has(), for definer functions. */
Datum
gn_stream_caller_may(PG_FUNCTION_ARGS)
{
	char *stream = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *right = text_to_cstring(PG_GETARG_TEXT_PP(1));

	PG_RETURN_BOOL(gn_stream_user_may(GetOuterUserId(), stream, right));
}
