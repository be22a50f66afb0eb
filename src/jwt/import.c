/*
 * src/jwt/import.c
 *	  Private keys that were made elsewhere, taken from a file of the server.
 *
 * A key is never an argument: it would be in the client's history and the server's log.
 * A superuser names a file below grownext.key_directory, which only the server's
 * configuration can set; every step of the path is opened without following links, so
 * that whoever may write below the directory cannot lead us out of it. The file must be
 * closed to others. Its bytes are sealed at once and stay nowhere else.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "core/core.h"
#include "crypto/crypto.h"
#include "jwt/key.h"
#include "jwt/private.h"

#define KEY_FILE_MAX 65536

GN_FUNCTION(gn_jwt_key_import);

static char *key_directory = NULL;

static bool
check_directory(char **newval, void **extra, GucSource source)
{
	if (*newval && **newval && !is_absolute_path(*newval))
	{
		GUC_check_errdetail("The path must be absolute.");
		return false;
	}
	return true;
}

void
gn_key_import_init(void)
{
	DefineCustomStringVariable("grownext.key_directory",
							   "Directory from which key_import() takes keys.",
							   "Empty means that no key can be imported.",
							   &key_directory, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_directory, NULL, NULL);
}

/* Who pastes the key itself must not find it in the log. */
static void
refuse_key_text(const char *path)
{
	if (path[strcspn(path, "\r\n{")] == '\0' && strncmp(path, "-----", 5) != 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("that is not the name of a key file"),
			 errhint("Pass the name of a file below grownext.key_directory; a key's "
					 "text is not taken.")));
}

/* NULL, or why the path cannot be taken. */
static const char *
refuse_path(const char *path)
{
	const char *step = path;

	if (*path == '/')
		return "it must be relative to grownext.key_directory";
	if (strlen(path) >= MAXPGPATH)
		return "it is too long";
	for (;;)
	{
		size_t len = strcspn(step, "/");

		if (len == 0)
			return "a step of it is empty";
		if ((len == 1 && step[0] == '.') || (len == 2 && strncmp(step, "..", 2) == 0))
			return "no step of it may be \".\" or \"..\"";
		if (step[len] == '\0')
			return NULL;
		step += len + 1;
	}
}

/* The file's descriptor, or -1 with errno set. */
static int
open_below(const char *directory, const char *path)
{
	int at = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char *copy = pstrdup(path);
	char *step = copy;

	while (at >= 0)
	{
		char *slash = strchr(step, '/');
		int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC;
		int next;
		int open_errno;

		if (slash)
			*slash = '\0';
		/* do not hang on a pipe, nor take a terminal */
		next = openat(at, step, flags | (slash ? O_DIRECTORY : O_NONBLOCK | O_NOCTTY));
		open_errno = errno;
		close(at);
		errno = open_errno;
		at = next;
		if (slash == NULL)
			break;
		step = slash + 1;
	}
	pfree(copy);
	return at;
}

/* As the server checks its TLS key. */
static const char *
refuse_file(const struct stat *st)
{
	if (!S_ISREG(st->st_mode))
		return "it is not a regular file";
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return "it must be owned by the server's user or by root";
	if (st->st_mode & (S_IRWXO | S_IWGRP | S_IXGRP) ||
		(st->st_uid == geteuid() && st->st_mode & S_IRGRP))
		return "others than its owner may read or write it";
	if (st->st_size > KEY_FILE_MAX)
		return "it is larger than 64 KiB";
	return NULL;
}

static void
pg_attribute_noreturn() refuse(const char *path, const char *why)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("key file \"%s\" cannot be used: %s", path, why)));
}

/* From gn_secret_alloc. */
static char *
read_key_file(const char *path, size_t *len)
{
	char *data = gn_secret_alloc(KEY_FILE_MAX + 1);
	const char *why = NULL;
	struct stat st;
	ssize_t got = -1;
	int fd = open_below(key_directory, path);
	int read_errno;

	if (fd >= 0 && fstat(fd, &st) == 0 && (why = refuse_file(&st)) == NULL)
		got = read(fd, data, KEY_FILE_MAX + 1);
	read_errno = errno;
	if (fd >= 0)
		close(fd);
	if (why)
		refuse(path, why);
	if (got < 0)
	{
		/* what O_NOFOLLOW says of a link, and of one where a directory should be */
		if (read_errno == ELOOP || read_errno == ENOTDIR)
			refuse(path, "a step of its path is a link, or no directory");
		errno = read_errno;
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not read key file \"%s\": %m", path)));
	}
	if (got > KEY_FILE_MAX)
		refuse(path, "it is larger than 64 KiB");
	*len = (size_t) got;
	return data;
}

/* Within gn_spi_begin: the algorithm that the purpose's profile expects, or NULL. */
static const GnJoseAlg *
expected_alg(Datum purpose)
{
	static GnQuery query =
		GN_QUERY("SELECT alg FROM _grownext.jwt_profile WHERE purpose = $1 AND alg IS "
				 "NOT NULL",
				 TEXTOID);

	if (gn_spi_execute(&query, &purpose, NULL, false) == 0)
		return NULL;
	return gn_jose_alg(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
}

/* Keys that rotation makes after it are as large. */
static char *
ref_text(const GnJoseAlg *alg, const GnKeyNumbers *numbers)
{
	int bits = (int) numbers->n.len * 8;

	if (strcmp(alg->kty, "RSA") == 0 && (bits == 2048 || bits == 3072 || bits == 4096))
		return psprintf("{\"bits\": %d}", bits);
	return pstrdup("{}");
}

/* Within gn_spi_begin: seals the key and puts it on standby; its kid. */
static Datum
add_key(const GnJoseAlg *alg, const GnKeyNumbers *numbers, Datum purpose)
{
	static GnQuery query =
		GN_QUERY("SELECT _grownext.jwt_key_add($1, $2, $3, 'local', $4, $5, $6, "
				 "_grownext.core_now(), '{\"imported\": true}')",
				 TEXTOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID, BYTEAOID);
	Datum record[3]; /* kid, public JWK, sealed */

	gn_jwt_key_record(alg, numbers, record);
	gn_spi_execute(&query,
				   (Datum[]){record[0], purpose, CStringGetTextDatum(alg->name),
							 JsonbPGetDatum(gn_jsonb_from_text(ref_text(alg, numbers))),
							 record[1], record[2]},
				   NULL, false);
	return record[0];
}

/* SQL: grownext.key_import(file text, purpose text) */
Datum
gn_jwt_key_import(PG_FUNCTION_ARGS)
{
	char *path;
	char *content;
	size_t len;
	uint8 *room = gn_secret_alloc(GN_JWA_NUMBERS_ROOM);
	const GnJoseAlg *alg;
	GnKeyNumbers numbers;
	const char *why;
	MemoryContext caller = CurrentMemoryContext;
	Datum kid;
	GnSpi spi;

	if (!superuser())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("only a superuser may import a key from a file of the "
							   "server")));
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("a key is imported from a file, for a purpose")));
	if (*key_directory == '\0')
		ereport(ERROR, (errcode(GN_ERRCODE_NOT_CONFIGURED),
						errmsg("there is no directory to import keys from"),
						errhint("ALTER SYSTEM SET grownext.key_directory = "
								"'/etc/grownext/import'; SELECT pg_reload_conf();")));
	path = text_to_cstring(PG_GETARG_TEXT_PP(0));
	refuse_key_text(path);
	why = refuse_path(path);
	if (why)
		refuse(path, why);
	content = read_key_file(path, &len);
	gn_spi_begin(&spi);
	why = gn_private_key_read(content, len, expected_alg(PG_GETARG_DATUM(1)), &alg,
							  &numbers, room);
	gn_cleanse(content, len);
	if (why)
		refuse(path, why);
	kid = add_key(alg, &numbers, PG_GETARG_DATUM(1));
	gn_cleanse(room, GN_JWA_NUMBERS_ROOM);
	MemoryContextSwitchTo(caller);
	kid = PointerGetDatum(DatumGetTextPCopy(kid));
	gn_spi_end(&spi);
	PG_RETURN_DATUM(kid);
}
