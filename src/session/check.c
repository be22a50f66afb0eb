/*
 * src/session/check.c
 *	  The check that every credential of this platform passes before it is bound: its
 *	  session goes on, it was not revoked, its client is enabled.
 *
 * What the tables say is read under the latest snapshot, not the statement's: a
 * revocation counts from the next statement on, in every backend, in a
 * repeatable-read transaction and on a hot standby too. A credential that passed is
 * remembered by this backend until the marker says that one of the tables changed in
 * a way that could matter, or its session's time is over. Only what passed is
 * remembered, and nothing while this transaction has changes of its own, which a
 * savepoint could undo without a message.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "crypto/crypto.h"
#include "jwt/jwt.h"
#include "session/check.h"

GN_FUNCTION(gn_session_claims_live);

#define REMEMBERED_MAX 1024
/* How precisely a session's last use is kept. */
#define USE_RESOLUTION (5 * SECS_PER_MINUTE * USECS_PER_SEC)

typedef enum Verdict
{
	LIVE,
	SESSION_ENDED,
	TOKEN_REVOKED,
	CLIENT_GONE,
	SUBJECT_GONE
} Verdict;

/* What a credential says that the tables can contradict; NULL where it says nothing. */
typedef struct Credential
{
	char *jti;
	char *session;
	char *subject;
	char *tenant;
	char *client;
	char *issued;
	char *actor;
	char *actor_session;
} Credential;

/* What the tables say beside the verdict. */
typedef struct Facts
{
	TimestampTz good_until;
	TimestampTz used_at; /* of the session */
} Facts;

typedef struct Remembered
{
	uint8 digest[GN_SHA256_SIZE]; /* of the credential: the key */
	TimestampTz good_until;
	TimestampTz used_at; /* as far as this backend knows */
} Remembered;

static GnMarker credential_marker = {.name = "session_marker_credential"};
static HTAB *remembered = NULL;
static uint64 remembered_generation = 0;

void
gn_session_check_init(void)
{
	gn_marker_register(&credential_marker);
	gn_context_register_check(gn_session_check);
}

static bool
is_registered_client(const char *id)
{
	return id && strncmp(id, GN_CLIENT_ID_PREFIX, strlen(GN_CLIENT_ID_PREFIX)) == 0;
}

/* False: a foreign issuer's, which a gateway verified; what it names is none of ours.
 */
static bool
read_credential(const Jsonb *claims, Credential *credential)
{
	char *issuer = gn_claim_text(claims, "iss");
	const char *own = gn_jwt_issuer();

	if (issuer && (own == NULL || strcmp(issuer, own) != 0))
		return false;
	*credential = (Credential){
		.jti = gn_claim_text(claims, "jti"),
		.session = gn_claim_text(claims, "sid"),
		.subject = gn_claim_text(claims, "sub"),
		.tenant = gn_claim_text(claims, "tenant_id"),
		.client = gn_claim_text(claims, "client_id"),
		.issued = gn_claim_text(claims, "iat"),
	};
	/* Who is behind an impersonation that began here, and not with a gateway. */
	if (issuer)
	{
		credential->actor = gn_claim_text(claims, "act.sub");
		credential->actor_session = gn_claim_text(claims, "act.sid");
	}
	return true;
}

/* Everything that the verdict depends on, so that no two credentials share one. */
static void
digest_credential(const Credential *credential, uint8 digest[GN_SHA256_SIZE])
{
	const char *const fields[] = {
		credential->jti,    credential->session,       credential->subject,
		credential->tenant, credential->client,        credential->issued,
		credential->actor,  credential->actor_session,
	};
	StringInfoData joined;

	initStringInfo(&joined);
	for (size_t i = 0; i < lengthof(fields); i++)
	{
		appendStringInfoChar(&joined, fields[i] ? '+' : '-');
		if (fields[i])
			appendBinaryStringInfo(&joined, fields[i], strlen(fields[i]) + 1);
	}
	gn_sha256(joined.data, joined.len, digest);
	pfree(joined.data);
}

/*
 * Whether the session goes on, is this subject's and, unless any will do, is in this
 * tenant: a token of the tenant that the session has left counts no more.
 */
static bool
session_lives(const char *session, const char *subject, const char *tenant,
			  bool any_tenant, Facts *facts)
{
	static GnQuery query = GN_QUERY(
		"SELECT s.expires_at, u.used_at FROM _grownext.session_session AS s LEFT JOIN "
		"_grownext.session_use AS u ON u.session_id = s.id WHERE s.id = $1 AND "
		"s.user_id::pg_catalog.text = $2 AND s.revoked_at IS NULL AND s.expires_at > "
		"$3 AND ($4 OR s.tenant_id IS NOT DISTINCT FROM $5)",
		UUIDOID, TEXTOID, TIMESTAMPTZOID, BOOLOID, UUIDOID);
	char nulls[] = "     ";
	pg_uuid_t id;
	pg_uuid_t tenant_id;
	bool isnull;
	Datum value;

	if (subject == NULL || !gn_uuid_parse(session, &id) ||
		(tenant && !gn_uuid_parse(tenant, &tenant_id)))
		return false;
	if (tenant == NULL)
		nulls[4] = 'n';
	if (gn_spi_execute(&query,
					   (Datum[]){UUIDPGetDatum(&id), CStringGetTextDatum(subject),
								 TimestampTzGetDatum(gn_now()),
								 BoolGetDatum(any_tenant), UUIDPGetDatum(&tenant_id)},
					   nulls, true) != 1)
		return false;
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	facts->good_until = Min(facts->good_until, DatumGetTimestampTz(value));
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull);
	if (!isnull && !any_tenant)
		facts->used_at = DatumGetTimestampTz(value);
	return true;
}

static bool
token_revoked(const char *jti)
{
	static GnQuery query =
		GN_QUERY("SELECT 1 FROM _grownext.session_revoked_token WHERE jti = $1",
				 TEXTOID);

	return gn_spi_execute(&query, (Datum[]){CStringGetTextDatum(jti)}, NULL, true) == 1;
}

/* Whether the client is enabled, and the token was issued since it was so last. */
static bool
client_lives(const char *client, const char *issued)
{
	static GnQuery query = GN_QUERY(
		"SELECT 1 FROM _grownext.session_client WHERE id = $1 AND disabled_at IS NULL "
		"AND valid_from <= pg_catalog.to_timestamp($2)",
		TEXTOID, FLOAT8OID);

	return gn_spi_execute(&query,
						  (Datum[]){CStringGetTextDatum(client),
									Float8GetDatum(issued ? strtod(issued, NULL) : 0)},
						  NULL, true) == 1;
}

/* An impersonated user has no session that could end: the user itself must be there. */
static bool
subject_lives(const char *subject, const char *tenant)
{
	static GnQuery query = GN_QUERY(
		"SELECT 1 FROM _grownext.account_user AS u WHERE u.id = $1 AND u.disabled_at "
		"IS NULL AND ($2 IS NULL OR EXISTS (SELECT FROM _grownext.tenant_member AS m "
		"WHERE m.tenant_id = $2 AND m.user_id = u.id))",
		UUIDOID, UUIDOID);
	char nulls[] = "  ";
	pg_uuid_t id;
	pg_uuid_t tenant_id;

	if (subject == NULL || !gn_uuid_parse(subject, &id) ||
		(tenant && !gn_uuid_parse(tenant, &tenant_id)))
		return false;
	if (tenant == NULL)
		nulls[1] = 'n';
	return gn_spi_execute(&query,
						  (Datum[]){UUIDPGetDatum(&id), UUIDPGetDatum(&tenant_id)},
						  nulls, true) == 1;
}

/* Between gn_spi_begin and gn_spi_end, under the latest snapshot. */
static Verdict
judge(const Credential *credential, Facts *facts)
{
	if (credential->session && !session_lives(credential->session, credential->subject,
											  credential->tenant, false, facts))
		return SESSION_ENDED;
	if (credential->actor_session &&
		!session_lives(credential->actor_session, credential->actor, NULL, true, facts))
		return SESSION_ENDED;
	if (credential->jti && token_revoked(credential->jti))
		return TOKEN_REVOKED;
	if (is_registered_client(credential->client) &&
		!client_lives(credential->client, credential->issued))
		return CLIENT_GONE;
	if (is_registered_client(credential->actor) &&
		!client_lives(credential->actor, credential->issued))
		return CLIENT_GONE;
	if (credential->actor && credential->session == NULL &&
		!subject_lives(credential->subject, credential->tenant))
		return SUBJECT_GONE;
	return LIVE;
}

/* Empties the memory when it is stale or full. */
static void
prepare_memory(uint64 generation)
{
	HASHCTL control = {.keysize = GN_SHA256_SIZE, .entrysize = sizeof(Remembered)};

	if (remembered && remembered_generation == generation &&
		hash_get_num_entries(remembered) < REMEMBERED_MAX)
		return;
	if (remembered)
	{
		HTAB *stale = remembered;

		remembered = NULL;
		hash_destroy(stale);
	}
	remembered =
		hash_create("grownext credentials", 64, &control, HASH_ELEM | HASH_BLOBS);
	remembered_generation = generation;
}

/*
 * The verdict, and in *entry what is remembered of the credential, or NULL where
 * nothing may be.
 */
static Verdict
find_verdict(const Credential *credential, Remembered **entry)
{
	uint8 digest[GN_SHA256_SIZE];
	uint64 generation = gn_marker_generation(&credential_marker);
	bool own_changes = TransactionIdIsValid(GetTopTransactionIdIfAny());
	Facts facts = {.good_until = DT_NOEND, .used_at = DT_NOBEGIN};
	Verdict verdict;
	GnSpi spi;

	digest_credential(credential, digest);
	prepare_memory(generation);
	*entry = own_changes ? NULL : hash_search(remembered, digest, HASH_FIND, NULL);
	if (*entry && (*entry)->good_until > gn_now())
		return LIVE;

	PushActiveSnapshot(GetLatestSnapshot());
	gn_spi_begin(&spi);
	verdict = judge(credential, &facts);
	gn_spi_end(&spi);
	PopActiveSnapshot();

	*entry = NULL;
	if (verdict == LIVE && !own_changes)
	{
		*entry = hash_search(remembered, digest, HASH_ENTER, NULL);
		(*entry)->good_until = facts.good_until;
		(*entry)->used_at = facts.used_at;
	}
	return verdict;
}

/*
 * Keeps when the session was used. Never where nothing may be written, never waiting
 * for another request of the session that just does the same, and only where a
 * change that somebody else made meanwhile is no error.
 */
static void
note_use(const Credential *credential, Remembered *entry)
{
	static GnQuery query = GN_QUERY(
		"UPDATE _grownext.session_use SET used_at = $2 WHERE session_id = (SELECT "
		"u.session_id FROM _grownext.session_use AS u WHERE u.session_id = $1 AND "
		"u.used_at <= $3 FOR NO KEY UPDATE SKIP LOCKED)",
		UUIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID);
	TimestampTz now = gn_now();
	pg_uuid_t id;
	GnSpi spi;

	if (credential->session == NULL || entry == NULL ||
		entry->used_at > now - USE_RESOLUTION || XactReadOnly || RecoveryInProgress() ||
		IsInParallelMode() || XactIsoLevel != XACT_READ_COMMITTED ||
		!gn_uuid_parse(credential->session, &id))
		return;
	entry->used_at = now;
	gn_spi_begin(&spi);
	gn_spi_execute(&query,
				   (Datum[]){UUIDPGetDatum(&id), TimestampTzGetDatum(now),
							 TimestampTzGetDatum(now - USE_RESOLUTION)},
				   NULL, false);
	gn_spi_end(&spi);
}

void
gn_session_check(const Jsonb *claims)
{
	static const char *const details[] = {
		[SESSION_ENDED] = "It was revoked, it expired, or it does not exist here.",
		[TOKEN_REVOKED] = "It ended before its time.",
		[CLIENT_GONE] = "Its client was disabled or deleted.",
		[SUBJECT_GONE] = "Its subject was disabled or deleted, or left the tenant.",
	};
	Credential credential;
	Remembered *entry;
	Verdict verdict;

	if (!read_credential(claims, &credential))
		return;
	verdict = find_verdict(&credential, &entry);
	if (verdict != LIVE)
		ereport(ERROR, (errcode(GN_ERRCODE_SESSION_REVOKED),
						errmsg(verdict == SESSION_ENDED ? "session has ended"
														: "token was revoked"),
						errdetail("%s", details[verdict])));
	note_use(&credential, entry);
}

/* SQL: _grownext.session_claims_live(claims jsonb) */
Datum
gn_session_claims_live(PG_FUNCTION_ARGS)
{
	Credential credential;
	Remembered *entry;

	PG_RETURN_BOOL(!read_credential(PG_GETARG_JSONB_P(0), &credential) ||
				   find_verdict(&credential, &entry) == LIVE);
}
