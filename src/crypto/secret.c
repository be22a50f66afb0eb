/*
 * src/crypto/secret.c
 *	  Stored secrets and root keys: sealed rows, opened only for C.
 *
 * A secret that is set again keeps its previous value alive for a day, so that
 * both ends of a shared secret can be changed one after the other; setting the
 * value that is current already changes nothing, so a deployment may repeat
 * itself. While a value is being stored, no error of any kind logs the statement.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "crypto/crypto.h"
#include "crypto/master_key.h"

#define SECRET_MAX 65536
#define SECRET_OVERLAP ((int64) 24 * SECS_PER_HOUR * USECS_PER_SEC)

GN_FUNCTION(gn_secret_set_sql);
GN_FUNCTION(gn_secret_drop_sql);

static GnQuery select_live =
	GN_QUERY("SELECT version, sealed FROM _grownext.crypto_secret "
			 "WHERE name = $1 AND (retires_at IS NULL OR retires_at > $2) ORDER BY "
			 "version DESC LIMIT 2",
			 TEXTOID, TIMESTAMPTZOID);
/* Two sessions that set one secret at once take turns. */
static GnQuery lock_secret = GN_QUERY("SELECT version FROM _grownext.crypto_secret "
									  "WHERE name = $1 ORDER BY version FOR UPDATE",
									  TEXTOID);
static GnQuery retire_current =
	GN_QUERY("UPDATE _grownext.crypto_secret SET retires_at = $2 WHERE name = $1 AND "
			 "retires_at IS NULL",
			 TEXTOID, TIMESTAMPTZOID);
static GnQuery delete_older =
	GN_QUERY("DELETE FROM _grownext.crypto_secret WHERE name = $1 AND version < $2",
			 TEXTOID, INT4OID);
static GnQuery insert_secret =
	GN_QUERY("INSERT INTO _grownext.crypto_secret (name, version, sealed, created_at) "
			 "VALUES ($1, $2, $3, $4)",
			 TEXTOID, INT4OID, BYTEAOID, TIMESTAMPTZOID);
static GnQuery drop_secret =
	GN_QUERY("DELETE FROM _grownext.crypto_secret WHERE name = $1", TEXTOID);
static GnQuery select_root =
	GN_QUERY("SELECT sealed FROM _grownext.crypto_root WHERE name = $1", TEXTOID);
static GnQuery insert_root = GN_QUERY(
	"INSERT INTO _grownext.crypto_root (name, sealed, created_at) VALUES ($1, $2, $3) "
	"ON CONFLICT DO NOTHING",
	TEXTOID, BYTEAOID, TIMESTAMPTZOID);

/* Runs for every error raised while a secret is an argument. */
static void
hide_statement(void *arg)
{
	errhidestmt(true);
}

static char *
secret_purpose(const char *name, int version)
{
	return psprintf("crypto_secret %s %d", name, version);
}

static void
check_name(const char *name)
{
	size_t len = strlen(name);

	if (len == 0 || len > 63 || !islower((unsigned char) name[0]) ||
		strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_.-") != len)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a secret's name must be up to 63 of a-z, 0-9, \"_\", "
							   "\".\" and \"-\", "
							   "a letter first")));
}

/* The file's bytes less one trailing newline, from gn_secret_alloc. */
static uint8 *
read_secret_file(const char *path, size_t *len)
{
	uint8 *data = gn_secret_alloc(SECRET_MAX + 1);
	ssize_t got = -1;
	struct stat st;
	int fd;

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg(
					 "only a superuser may read a secret from a file of the server")));
	if (!is_absolute_path(path))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the path of a secret's file must be absolute")));
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
	{
		if (fstat(fd, &st) == 0 && !S_ISREG(st.st_mode))
			errno = EINVAL;
		else
			got = read(fd, data, SECRET_MAX + 1);
		{
			int read_errno = errno;

			close(fd);
			errno = read_errno;
		}
	}
	if (got < 0)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not read file \"%s\": %m", path)));
	if (got > 0 && data[got - 1] == '\n')
		got--;
	if (got > 0 && data[got - 1] == '\r')
		got--;
	*len = (size_t) got;
	return data;
}

/* Within gn_spi_begin: the live values of a secret, newest first, and the newest's
 * version. */
static int
read_secret(const char *name, GnSecret values[GN_SECRET_VALUES], int *version)
{
	bytea *sealed[GN_SECRET_VALUES];
	int versions[GN_SECRET_VALUES];
	int count = (int) gn_spi_execute(&select_live,
									 (Datum[]){CStringGetTextDatum(name),
											   TimestampTzGetDatum(gn_now())},
									 NULL, false);

	for (int i = 0; i < count; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		bool isnull;

		versions[i] =
			DatumGetInt32(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
		sealed[i] =
			DatumGetByteaPCopy(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
	}
	for (int i = 0; i < count; i++)
		values[i].data =
			gn_open(secret_purpose(name, versions[i]), sealed[i], &values[i].len);
	*version = count ? versions[0] : 0;
	return count;
}

int
gn_secret_get(const char *name, GnSecret values[GN_SECRET_VALUES])
{
	MemoryContext caller = CurrentMemoryContext;
	int count;
	int version;
	GnSpi spi;

	gn_spi_begin(&spi);
	count = read_secret(name, values, &version);
	for (int i = 0; i < count; i++)
	{
		MemoryContext ours = MemoryContextSwitchTo(caller);
		uint8 *copy = gn_secret_alloc(Max(values[i].len, 1));

		memcpy(copy, values[i].data, values[i].len);
		values[i].data = copy;
		MemoryContextSwitchTo(ours);
	}
	gn_spi_end(&spi);
	if (count == 0)
		ereport(
			ERROR,
			(errcode(GN_ERRCODE_NOT_CONFIGURED),
			 errmsg("secret \"%s\" is not stored", name),
			 errhint("SELECT grownext.secret_set('%s', $1), with the value as a bound "
					 "parameter.",
					 name)));
	return count;
}

static void
emit_event(const char *type, const char *name)
{
	StringInfoData data;

	initStringInfo(&data);
	appendStringInfoString(&data, "{\"name\": ");
	escape_json(&data, name);
	appendStringInfoChar(&data, '}');
	gn_event_emit(type, NULL, gn_jsonb_from_text(data.data));
}

/* Stores the value as the newest version; false if it is current already. */
static bool
store_secret(const char *name, const uint8 *value, size_t len)
{
	GnSecret live[GN_SECRET_VALUES];
	Datum name_datum = CStringGetTextDatum(name);
	TimestampTz now = gn_now();
	int version = 0;
	uint64 rows;
	bool current;
	bytea *sealed;
	GnSpi spi;

	gn_spi_begin(&spi);
	rows = gn_spi_execute(&lock_secret, &name_datum, NULL, false);
	if (rows > 0)
	{
		bool isnull;

		version = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[rows - 1],
											  SPI_tuptable->tupdesc, 1, &isnull));
	}
	current = rows > 0 && read_secret(name, live, &version) > 0 && live[0].len == len &&
			  gn_equal(live[0].data, value, len);
	if (!current)
	{
		/* The one that was current becomes the previous one; what was previous ends. */
		gn_spi_execute(&delete_older, (Datum[]){name_datum, Int32GetDatum(version)},
					   NULL, false);
		gn_spi_execute(&retire_current,
					   (Datum[]){name_datum, TimestampTzGetDatum(now + SECRET_OVERLAP)},
					   NULL, false);
		sealed = gn_seal(secret_purpose(name, version + 1), value, len);
		gn_spi_execute(&insert_secret,
					   (Datum[]){name_datum, Int32GetDatum(version + 1),
								 PointerGetDatum(sealed), TimestampTzGetDatum(now)},
					   NULL, false);
	}
	gn_spi_end(&spi);
	return !current;
}

/* SQL: grownext.secret_set(name text, value text, file text) */
Datum
gn_secret_set_sql(PG_FUNCTION_ARGS)
{
	ErrorContextCallback hidden = {.previous = error_context_stack,
								   .callback = hide_statement};
	char *name;
	const uint8 *value;
	size_t len;

	error_context_stack = &hidden;
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("a secret needs a name")));
	if (PG_ARGISNULL(1) == PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a secret is set from either a value or a file")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	check_name(name);
	if (PG_ARGISNULL(1))
		value = read_secret_file(text_to_cstring(PG_GETARG_TEXT_PP(2)), &len);
	else
	{
		text *argument = PG_GETARG_TEXT_PP(1);

		value = (const uint8 *) VARDATA_ANY(argument);
		len = VARSIZE_ANY_EXHDR(argument);
	}
	if (len == 0 || len > SECRET_MAX)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a secret must be 1 to %d bytes long", SECRET_MAX)));
	if (store_secret(name, value, len))
		emit_event("secret.set", name);
	error_context_stack = hidden.previous;
	PG_RETURN_VOID();
}

/* SQL: grownext.secret_drop(name text) */
Datum
gn_secret_drop_sql(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	uint64 dropped;
	GnSpi spi;

	gn_spi_begin(&spi);
	dropped =
		gn_spi_execute(&drop_secret, (Datum[]){CStringGetTextDatum(name)}, NULL, false);
	gn_spi_end(&spi);
	if (dropped == 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("secret \"%s\" does not exist", name)));
	emit_event("secret.dropped", name);
	PG_RETURN_VOID();
}

/* Within gn_spi_begin: opens the root key if it is there. */
static bool
read_root(const char *name, Datum name_datum, uint8 key[GN_KEY_SIZE])
{
	bytea *sealed;
	uint8 *plain;
	size_t len;
	bool isnull;

	if (gn_spi_execute(&select_root, &name_datum, NULL, false) == 0)
		return false;
	sealed = DatumGetByteaPCopy(
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	plain = gn_open(psprintf("crypto_root %s", name), sealed, &len);
	if (len != GN_KEY_SIZE)
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
						errmsg("root key \"%s\" is damaged", name)));
	memcpy(key, plain, GN_KEY_SIZE);
	return true;
}

void
gn_root_key(const char *name, uint8 key[GN_KEY_SIZE])
{
	Datum name_datum = CStringGetTextDatum(name);
	GnSpi spi;

	gn_spi_begin(&spi);
	if (!read_root(name, name_datum, key))
	{
		uint8 *fresh = gn_secret_alloc(GN_KEY_SIZE);
		bytea *sealed;

		gn_random(fresh, GN_KEY_SIZE);
		sealed = gn_seal(psprintf("crypto_root %s", name), fresh, GN_KEY_SIZE);
		gn_spi_execute(&insert_root,
					   (Datum[]){name_datum, PointerGetDatum(sealed),
								 TimestampTzGetDatum(gn_now())},
					   NULL, false);
		if (!read_root(name, name_datum, key)) /* another session may have been first */
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("root key \"%s\" was made by a concurrent transaction",
							name),
					 errhint("Try again.")));
	}
	gn_spi_end(&spi);
}

const GnComponent gn_crypto_component = {
	.name = "crypto",
	.init = gn_master_key_define,
};
