/*
 * src/session/api_key_use.c
 *	  When a key was last used, without a row that every call writes.
 *
 * A backend notes a key at most every NOTE_EVERY, in shared memory; the scheduler's
 * pass takes the notes of its database and writes them. Notes live in sets of a few
 * places; in a full set the oldest one gives way, and is noted again at its next use.
 * A crash loses what was not written yet.
 *
 * Without preload there is neither memory nor scheduler. Then a transaction that may
 * write does it itself, at most every WRITE_EVERY per key, and never waits: a row that
 * somebody else is writing is up to date.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "session/api_key.h"

GN_FUNCTION(gn_session_api_key_uses);

#define NOTE_EVERY (10 * USECS_PER_SEC)
#define WRITE_EVERY (10 * USECS_PER_MINUTE)
#define SETS 512
#define WAYS 8

typedef struct Use
{
	Oid database; /* InvalidOid: free */
	pg_uuid_t id;
	TimestampTz at;
} Use;

typedef struct Uses
{
	LWLock lock;
	int tranche;
	Use use[SETS][WAYS];
} Uses;

static Uses *uses = NULL;

Size
gn_api_key_shmem_size(void)
{
	return MAXALIGN(sizeof(Uses));
}

void
gn_api_key_shmem_init(void)
{
	bool found;

	uses = ShmemInitStruct("grownext API key uses", sizeof(Uses), &found);
	if (!found)
	{
		memset(uses, 0, sizeof(Uses));
		uses->tranche = LWLockNewTrancheId();
		LWLockInitialize(&uses->lock, uses->tranche);
	}
	LWLockRegisterTranche(uses->tranche, "grownext_api_key_uses");
}

static void
note_in_memory(const GnApiKey *key, TimestampTz now)
{
	Use *set = uses->use[hash_bytes(key->id.data, UUID_LEN) % SETS];
	Use *place = NULL;

	LWLockAcquire(&uses->lock, LW_EXCLUSIVE);
	for (int i = 0; i < WAYS; i++)
	{
		Use *use = &set[i];

		if (use->database == MyDatabaseId &&
			memcmp(&use->id, &key->id, sizeof(pg_uuid_t)) == 0)
		{
			place = use;
			break;
		}
		if (place == NULL || (OidIsValid(place->database) &&
							  (!OidIsValid(use->database) || use->at < place->at)))
			place = use;
	}
	place->database = MyDatabaseId;
	place->id = key->id;
	place->at = now;
	LWLockRelease(&uses->lock);
}

static void
write_row(const GnApiKey *key, TimestampTz now)
{
	static GnQuery query = GN_QUERY(
		"UPDATE _grownext.session_api_key_use AS u SET last_used_at = $2 WHERE "
		"u.key_id IN (SELECT l.key_id FROM _grownext.session_api_key_use AS l WHERE "
		"l.key_id = $1 AND (l.last_used_at IS NULL OR l.last_used_at < $3) "
		"FOR UPDATE SKIP LOCKED)",
		UUIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID);
	GnSpi spi;

	gn_spi_begin(&spi);
	gn_spi_execute(&query,
				   (Datum[]){UUIDPGetDatum(&key->id), TimestampTzGetDatum(now),
							 TimestampTzGetDatum(now - WRITE_EVERY)},
				   NULL, false);
	gn_spi_end(&spi);
}

void
gn_api_key_note_use(GnApiKey *key, TimestampTz now)
{
	int64 since = now - key->noted_at;

	if (uses)
	{
		if (since >= 0 && since < NOTE_EVERY)
			return;
		key->noted_at = now;
		note_in_memory(key, now);
		return;
	}
	/* An update of a row that changed since the snapshot would fail the caller. */
	if ((since >= 0 && since < WRITE_EVERY) || XactReadOnly || RecoveryInProgress() ||
		IsInParallelMode() || IsolationUsesXactSnapshot())
		return;
	key->noted_at = now;
	write_row(key, now);
}

/*
 * SQL: _grownext.session_api_key_uses()
 *
 * Hands the notes of this database out, once. One that its reader loses by an error
 * comes again with the next use.
 */
Datum
gn_session_api_key_uses(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Use *taken;
	int count = 0;

	InitMaterializedSRF(fcinfo, 0);
	if (uses == NULL)
		return (Datum) 0;
	taken = palloc(sizeof(uses->use));
	LWLockAcquire(&uses->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SETS * WAYS; i++)
	{
		Use *use = &uses->use[i / WAYS][i % WAYS];

		if (use->database != MyDatabaseId)
			continue;
		taken[count++] = *use;
		use->database = InvalidOid;
	}
	LWLockRelease(&uses->lock);
	for (int i = 0; i < count; i++)
	{
		Datum values[2] = {UUIDPGetDatum(&taken[i].id),
						   TimestampTzGetDatum(taken[i].at)};
		bool nulls[2] = {0};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
