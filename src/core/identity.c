/*
 * src/core/identity.c
 *	  Is this the database that setup() armed? Restores, clones and rewinds are not.
 *
 * setup() and unfence() write one row: system identifier, database OID, OID of the
 * extension, timeline, environment. What each comparison catches:
 * - other cluster: a dump restored elsewhere, pg_upgrade, logical replication;
 * - other database: CREATE DATABASE ... TEMPLATE, a dump restored beside the original
 *   (a rename keeps the OID, and so the identity);
 * - other extension OID: a dump restored in place, into the same database;
 * - timeline: point-in-time recovery. The timeline history file says why each
 *   timeline began; "no recovery target specified" is a promotion or a recovery to
 *   the end of the archive, and the database goes on; anything else rewound it;
 * - environment: byte-for-byte clones (storage snapshots, a standby promoted for
 *   staging) differ in nothing else, so grownext.environment must tell them apart.
 *
 * The row is read under the latest snapshot and remembered until its marker changes:
 * a fence that committed counts at once, whatever snapshot the caller's statement has.
 */
#include "postgres.h"

#include "access/timeline.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/core.h"
#include "core/workers.h"

#define PROMOTION "no recovery target specified"

GN_FUNCTION(gn_core_server_identity);
GN_FUNCTION(gn_core_identity_state);
GN_FUNCTION(gn_core_recheck);

static GnMarker identity_marker = {.name = "core_marker_identity"};

/* The row, as of a generation of the marker. */
static struct
{
	uint64 generation;
	bool present;
	bool fenced;
	int64 system_identifier;
	Oid database;
	Oid extension;
	TimeLineID timeline;
	char *environment;
	TimeLineID rewound_on; /* timelines whose history was judged, 0: none */
	TimeLineID promoted_on;
} row;

void
gn_identity_init(void)
{
	gn_marker_register(&identity_marker);
}

static Datum
column(int number)
{
	bool isnull;

	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, &isnull);
}

static void
load_row(void)
{
	static GnQuery query = GN_QUERY_NOARGS(
		"SELECT fenced_at IS NOT NULL, system_identifier, database_oid, "
		"extension_oid, timeline, environment FROM _grownext.core_identity");
	uint64 generation = gn_marker_generation(&identity_marker);
	GnSpi spi;

	if (generation == row.generation)
		return;
	row.generation = 0;
	gn_spi_begin(&spi);
	PushActiveSnapshot(GetLatestSnapshot());
	row.present = gn_spi_execute(&query, NULL, NULL, true) == 1;
	if (row.environment)
		pfree(row.environment);
	row.environment = NULL;
	if (row.present)
	{
		row.fenced = DatumGetBool(column(1));
		row.system_identifier = DatumGetInt64(column(2));
		row.database = DatumGetObjectId(column(3));
		row.extension = DatumGetObjectId(column(4));
		row.timeline = (TimeLineID) DatumGetInt32(column(5));
		row.environment =
			MemoryContextStrdup(TopMemoryContext, TextDatumGetCString(column(6)));
	}
	row.rewound_on = row.promoted_on = 0;
	PopActiveSnapshot();
	gn_spi_end(&spi);
	row.generation = generation;
}

/*
 * Whether everything that happened to the cluster since timeline "from" was a
 * promotion. Lines read "parent <tab> switch point <tab> reason"; blank lines and
 * comments occur. Without the file nobody knows, and the answer is no.
 */
static bool
only_promotions_since(TimeLineID from, TimeLineID current)
{
	char path[MAXPGPATH];
	char line[MAXPGPATH];
	FILE *file;
	bool descends = false;
	bool promotions = true;

	TLHistoryFilePath(path, current);
	file = AllocateFile(path, "r");
	if (file == NULL)
		return false;
	while (fgets(line, sizeof(line), file))
	{
		char *after;
		unsigned long parent = strtoul(line, &after, 10);
		char *reason = strchr(line, '\t');

		line[strcspn(line, "\r\n")] = '\0';
		if (after == line || reason == NULL ||
			(reason = strchr(reason + 1, '\t')) == NULL)
			continue;
		if (parent == from)
			descends = true;
		if (parent >= from && strcmp(reason + 1, PROMOTION) != 0)
			promotions = false;
	}
	FreeFile(file);
	return descends && promotions;
}

static bool
was_rewound(void)
{
	TimeLineID current = GetWALInsertionTimeLine();

	if (current == row.timeline || current == row.promoted_on)
		return false;
	if (current == row.rewound_on)
		return true;
	if (only_promotions_since(row.timeline, current))
	{
		row.promoted_on = current;
		return false;
	}
	row.rewound_on = current;
	return true;
}

/* What stands between this database and acting. On a standby: what would after a
 * promotion. */
GnIdentity
gn_identity(void)
{
	load_row();
	if (!row.present)
		return GN_IDENTITY_NONE;
	if (row.system_identifier != (int64) GetSystemIdentifier())
		return GN_IDENTITY_OTHER_CLUSTER;
	if (row.database != MyDatabaseId)
		return GN_IDENTITY_OTHER_DATABASE;
	if (row.extension != gn_extension_oid())
		return GN_IDENTITY_REINSTALLED;
	if (!RecoveryInProgress() && was_rewound())
		return GN_IDENTITY_REWOUND;
	if (strcmp(row.environment, gn_environment ? gn_environment : "") != 0)
		return GN_IDENTITY_OTHER_ENVIRONMENT;
	return row.fenced ? GN_IDENTITY_FENCED : GN_IDENTITY_ARMED;
}

bool
gn_database_armed(void)
{
	return !RecoveryInProgress() && gn_identity() == GN_IDENTITY_ARMED;
}

void
gn_database_require_armed(const char *what)
{
	GnIdentity identity = gn_identity();

	if (identity == GN_IDENTITY_ARMED)
		return;
	if (identity == GN_IDENTITY_NONE)
		ereport(ERROR,
				(errcode(GN_ERRCODE_NOT_CONFIGURED),
				 errmsg("%s needs a database that was set up", what),
				 errhint("SELECT * FROM grownext.setup('https://id.example.com', "
						 "'{https://api.example.com}');")));
	ereport(ERROR, (errcode(GN_ERRCODE_OUTBOUND_FENCED),
					errmsg("%s is refused: this database is fenced", what),
					errhint("See grownext.status() for the reason, then SELECT "
							"grownext.unfence('...');")));
}

static const char *const identity_names[] = {
	[GN_IDENTITY_ARMED] = "armed",
	[GN_IDENTITY_NONE] = "not_set_up",
	[GN_IDENTITY_FENCED] = "fenced",
	[GN_IDENTITY_OTHER_CLUSTER] = "other_cluster",
	[GN_IDENTITY_OTHER_DATABASE] = "other_database",
	[GN_IDENTITY_REINSTALLED] = "reinstalled",
	[GN_IDENTITY_REWOUND] = "rewound",
	[GN_IDENTITY_OTHER_ENVIRONMENT] = "other_environment",
};

/* SQL: _grownext.core_identity_state() */
Datum
gn_core_identity_state(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(identity_names[gn_identity()]));
}

/* SQL: _grownext.core_server_identity() */
Datum
gn_core_server_identity(PG_FUNCTION_ARGS)
{
	TupleDesc tupdesc;
	Datum values[5];
	bool nulls[5] = {0};

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int64GetDatum((int64) GetSystemIdentifier());
	values[1] = ObjectIdGetDatum(MyDatabaseId);
	values[2] = ObjectIdGetDatum(gn_extension_oid());
	nulls[3] = RecoveryInProgress();
	values[3] = nulls[3] ? (Datum) 0 : Int32GetDatum((int32) GetWALInsertionTimeLine());
	values[4] = CStringGetTextDatum(gn_environment ? gn_environment : "");
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

/* SQL trigger: _grownext.core_recheck() */
Datum
gn_core_recheck(PG_FUNCTION_ARGS)
{
	gn_worker_recheck_at_commit();
	PG_RETURN_POINTER(NULL);
}
