/*
 * src/crypto/master_key.c
 *	  The master keys: from a file that is checked, or from a command run once.
 *
 * They live outside the database, so that a dump, a base backup and a stolen
 * table hold ciphertext only. A backend reads the file when it first needs a key
 * and again only when the file changed; the command runs in the postmaster, whose
 * children inherit what it said. The page that holds the keys stays out of core
 * dumps and, where the limit allows, out of swap.
 *
 * Nothing here raises: status() must be able to say what is wrong.
 */
#include "postgres.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "core/core.h"
#include "crypto/master_key.h"

#define KEYS_MAX 32
#define TEXT_MAX 8192

/* A private mapping: keys, and the text they are read from. */
typedef struct Keyring
{
	int count;
	GnMasterKey keys[KEYS_MAX];
	char text[TEXT_MAX];
} Keyring;

static Keyring *command_ring = NULL; /* filled in the postmaster, inherited */
static Keyring *file_ring = NULL;

/* What the file's keys were read from, to see that it changed. */
static char loaded_path[MAXPGPATH];
static struct stat loaded_stat;

static char *master_key_file = NULL;
static char *master_key_command = NULL;

static bool
check_file_setting(char **newval, void **extra, GucSource source)
{
	if (*newval && **newval && !is_absolute_path(*newval))
	{
		GUC_check_errdetail("The path must be absolute.");
		return false;
	}
	if (*newval && strlen(*newval) >= MAXPGPATH)
	{
		GUC_check_errdetail("The path is too long.");
		return false;
	}
	return true;
}

static Keyring *
open_ring(void)
{
	Keyring *ring = mmap(NULL, sizeof(Keyring), PROT_READ | PROT_WRITE,
						 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (ring == MAP_FAILED)
		return NULL;
#ifdef MADV_DONTDUMP
	(void) madvise(ring, sizeof(Keyring), MADV_DONTDUMP);
#endif
	(void) mlock(ring, sizeof(Keyring)); /* as far as RLIMIT_MEMLOCK allows */
	return ring;
}

static void
forget_file_keys(void)
{
	if (file_ring)
		gn_cleanse(file_ring, sizeof(Keyring));
	loaded_path[0] = '\0';
}

static int
base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* 44 characters of base64 with one "=" are 32 bytes exactly. */
static bool
decode_key(const char *text, size_t len, uint8 out[GN_KEY_SIZE])
{
	uint32 bits = 0;
	int held = 0;
	int n = 0;

	if (len != 44 || text[43] != '=')
		return false;
	for (int i = 0; i < 43; i++)
	{
		int value = base64_value(text[i]);

		if (value < 0)
			return false;
		bits = (bits << 6 | (uint32) value) & 0xffff;
		held += 6;
		if (held >= 8)
		{
			held -= 8;
			out[n++] = (uint8) (bits >> held);
		}
	}
	return n == GN_KEY_SIZE && (bits & ((1u << held) - 1)) == 0;
}

static bool
valid_id(const char *id, size_t len)
{
	return len >= 1 && len <= GN_MASTER_KEY_ID_MAX &&
		   strspn(
			   id,
			   "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") >=
			   len;
}

/* Fills the ring from its text; NULL, or what is wrong with the numbered line. */
static const char *
parse_keys(Keyring *ring, size_t len, int *line_number)
{
	char *line = ring->text;
	char *end = ring->text + len;
	int count = 0;

	for (*line_number = 1; line < end; (*line_number)++)
	{
		char *stop = memchr(line, '\n', end - line);
		size_t length = (stop ? stop : end) - line;
		char *colon;
		GnMasterKey *key = &ring->keys[count];

		if (length > 0 && line[length - 1] == '\r')
			length--;
		if (length > 0 && line[0] != '#')
		{
			if (count == KEYS_MAX)
				return "there are too many keys";
			colon = memchr(line, ':', length);
			if (colon == NULL || !valid_id(line, colon - line))
				return "a line must read id:base64";
			if (!decode_key(colon + 1, line + length - colon - 1, key->bytes))
				return "a key must be 32 bytes, written as 44 characters of base64";
			memcpy(key->id, line, colon - line);
			key->id[colon - line] = '\0';
			for (int i = 0; i < count; i++)
				if (strcmp(ring->keys[i].id, key->id) == 0)
					return "an id stands twice";
			count++;
		}
		line = stop ? stop + 1 : end;
	}
	*line_number = 0;
	ring->count = count;
	return count > 0 ? NULL : "it holds no key";
}

/* Mending advice for a missing key: the whole procedure, ready to paste. */
static char *
creation_hint(void)
{
	return pstrdup(
		"As the server's operating system user: "
		"(umask 077; echo \"k1:$(openssl rand -base64 32)\" > "
		"/etc/grownext/master.key); then: "
		"ALTER SYSTEM SET grownext.master_key_file = '/etc/grownext/master.key'; "
		"SELECT pg_reload_conf(); Keep a copy apart from the database's backups.");
}

/* As the server checks its TLS key: its own with nothing for others, or root's with
 * group at most reading. */
static const char *
refuse_file(const struct stat *st, const char *path, char **hint)
{
	if (!S_ISREG(st->st_mode))
	{
		*hint = psprintf("Name a plain file in grownext.master_key_file.");
		return "it is not a regular file";
	}
	if (st->st_uid != geteuid() && st->st_uid != 0)
	{
		*hint = psprintf("chown %d '%s'", (int) geteuid(), path);
		return "it must be owned by the server's user or by root";
	}
	if ((st->st_uid == geteuid() && st->st_mode & (S_IRWXG | S_IRWXO)) ||
		(st->st_uid == 0 && st->st_mode & (S_IWGRP | S_IXGRP | S_IRWXO)))
	{
		*hint = psprintf("chmod 600 '%s'", path);
		return "others than its owner may read or write it";
	}
	if (st->st_size >= TEXT_MAX)
	{
		*hint = psprintf("A key file holds one line of id:base64 per key.");
		return "it is too large";
	}
	return NULL;
}

static bool
same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino &&
		   a->st_size == b->st_size && a->st_mode == b->st_mode &&
		   a->st_uid == b->st_uid && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
		   a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
		   a->st_ctim.tv_sec == b->st_ctim.tv_sec &&
		   a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static void
report_file(GnMasterKeyProblem *problem, const char *path, const char *why, char *hint)
{
	problem->message = psprintf("master key file \"%s\" cannot be used", path);
	problem->detail = psprintf("The reason: %s.", why);
	problem->hint = hint;
}

/* Reads the keys of an open file; NULL, or what is wrong, with a hint if it is special.
 */
static const char *
read_key_file(int fd, const struct stat *st, const char *path, char **hint)
{
	const char *why = refuse_file(st, path, hint);
	int line_number = 0;
	ssize_t len;

	if (why)
		return why;
	if (file_ring == NULL)
		file_ring = open_ring();
	if (file_ring == NULL)
		return "out of memory";
	len = read(fd, file_ring->text, TEXT_MAX);
	why = len < 0 ? strerror(errno) : parse_keys(file_ring, (size_t) len, &line_number);
	gn_cleanse(file_ring->text, TEXT_MAX);
	return why && line_number ? psprintf("line %d: %s", line_number, why) : why;
}

/* Reads the file if it is not what the ring holds already. */
static void
load_key_file(const char *path, GnMasterKeyProblem *problem)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* do not hang on a pipe */
	struct stat st;
	const char *why;
	char *hint = NULL;

	if (fd < 0 || fstat(fd, &st) != 0)
	{
		int open_errno = errno;

		if (fd >= 0)
			close(fd);
		forget_file_keys();
		hint =
			open_errno == ENOENT
				? psprintf(
					  "Put the key file back from its backup; never a new key in its "
					  "place, unless nothing was ever sealed here.")
				: psprintf("chown %d '%s' && chmod 600 '%s'", (int) geteuid(), path,
						   path);
		report_file(problem, path, strerror(open_errno), hint);
		return;
	}
	if (strcmp(path, loaded_path) == 0 && same_file(&st, &loaded_stat))
	{
		close(fd);
		return;
	}
	forget_file_keys();
	why = read_key_file(fd, &st, path, &hint);
	close(fd);
	if (why)
	{
		forget_file_keys();
		if (hint == NULL)
			hint = psprintf(
				"Write one line of id:base64 per key; openssl rand -base64 32 makes "
				"32 bytes.");
		report_file(problem, path, why, hint);
		return;
	}
	strlcpy(loaded_path, path, sizeof(loaded_path));
	loaded_stat = st;
}

/* Reads what the command prints; NULL, or what is wrong. */
static const char *
read_command(FILE *pipe)
{
	int line_number = 0;
	const char *why;
	size_t len;

	command_ring = open_ring();
	if (pipe == NULL || command_ring == NULL)
		return "it could not be started";
	setvbuf(pipe, NULL, _IONBF, 0); /* no second copy of the keys */
	len = fread(command_ring->text, 1, TEXT_MAX, pipe);
	why = len == TEXT_MAX ? "it said too much"
						  : parse_keys(command_ring, len, &line_number);
	gn_cleanse(command_ring->text, TEXT_MAX);
	return why;
}

/* In the postmaster, before it forks: what the command says stays in memory only. */
static void
run_command(void)
{
	/* a shell is what the administrator who wrote the setting expects, as in
	 * archive_command */
	FILE *pipe = popen(master_key_command, "r"); /* NOLINT(cert-env33-c) */
	const char *why = read_command(pipe);

	if (pipe && pclose(pipe) != 0)
		why = "it failed";
	if (why == NULL)
		return;
	if (command_ring)
		gn_cleanse(command_ring, sizeof(Keyring));
	ereport(WARNING,
			(errcode(GN_ERRCODE_MASTER_KEY_MISSING),
			 errmsg("grownext.master_key_command gave no master key: %s", why),
			 errhint(
				 "It must print lines of id:base64; it runs once, at server start.")));
}

static void
report_absence(GnMasterKeyProblem *problem)
{
	if (*master_key_command == '\0')
	{
		problem->message = pstrdup("no master key is configured");
		problem->hint = creation_hint();
	}
	else if (gn_preloaded)
	{
		problem->message = pstrdup("grownext.master_key_command gave no master key");
		problem->detail =
			pstrdup("It ran at server start and failed; the server log says why.");
		problem->hint = pstrdup("Mend the command and restart the server.");
	}
	else
	{
		problem->message = pstrdup("grownext.master_key_command gave no master key");
		problem->detail =
			pstrdup("It runs at server start, and the library was not preloaded.");
		problem->hint =
			pstrdup("Set shared_preload_libraries = 'grownext' and restart, or use "
					"grownext.master_key_file.");
	}
}

int
gn_master_keys(const GnMasterKey **keys, GnMasterKeyProblem *problem)
{
	const Keyring *ring = command_ring;

	*problem = (GnMasterKeyProblem){0};
	if (*master_key_file)
	{
		load_key_file(master_key_file, problem);
		ring = file_ring;
	}
	else if (ring == NULL || ring->count == 0)
		report_absence(problem);
	*keys = ring ? ring->keys : NULL;
	return ring ? ring->count : 0;
}

const GnMasterKey *
gn_master_key_find(const char *id)
{
	const GnMasterKey *keys;
	GnMasterKeyProblem problem;
	int count = gn_master_keys(&keys, &problem);

	for (int i = 0; i < count; i++)
		if (strcmp(keys[i].id, id) == 0)
			return &keys[i];
	return NULL;
}

char *
gn_master_key_source(void)
{
	if (*master_key_file)
		return psprintf("file \"%s\"", master_key_file);
	return pstrdup(master_key_command && *master_key_command
					   ? "grownext.master_key_command"
					   : "nowhere");
}

bool
gn_master_key_in_data_directory(void)
{
	char path[PATH_MAX];

	return realpath(master_key_file, path) && path_is_prefix_of_path(DataDir, path);
}

void
gn_master_key_check(const GnMasterKey *key, uint8 check[GN_MASTER_KEY_CHECK_SIZE])
{
	static const char info[] = "grownext master key check 1";

	gn_hkdf_sha256(key->bytes, sizeof(key->bytes), NULL, 0, info, sizeof(info) - 1,
				   check, GN_MASTER_KEY_CHECK_SIZE);
}

void
gn_master_key_define(void)
{
	/* A session cannot set them: who chooses the key reads every secret. */
	DefineCustomStringVariable(
		"grownext.master_key_command",
		"Command that prints the master keys; it runs once, at server start.",
		"Lines of id:base64, the current key first. Works under "
		"shared_preload_libraries only.",
		&master_key_command, "",
		process_shared_preload_libraries_in_progress ? PGC_POSTMASTER : PGC_SIGHUP,
		GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomStringVariable(
		"grownext.master_key_file",
		"File with the master keys that seal secrets and private keys.",
		"Lines of id:base64, the current key first; mode 0600.", &master_key_file, "",
		PGC_SIGHUP, GUC_SUPERUSER_ONLY, check_file_setting, NULL, NULL);
	if (process_shared_preload_libraries_in_progress && *master_key_command &&
		!*master_key_file)
		run_command();
}
