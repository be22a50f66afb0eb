/*
 * src/queue/poison_file.c
 *	  The file that names what each executor runs, so that a crash leaves it behind.
 *
 * It is mapped by the postmaster and inherited: an executor writes down a job with a
 * few stores, and what a killed process has stored is there. Nothing is synced; after
 * a power cut the file may be old, and names jobs that are over, which does no harm.
 *
 * It is in pg_stat_tmp, which no base backup and no pg_rewind copies and the server
 * does not empty. It names the system, and each entry its timeline: a copy of the
 * directory that came to life as another server does not act on it. Only what is whole
 * is believed; of what is not, the log says that it was ignored.
 *
 * An entry has one writer at a time: its executor; when all executors are gone, the
 * postmaster; and for entries of crashes whoever has recorded them. The postmaster
 * writes a new file at each start and crash, and puts it in the old one's place: so
 * its size follows grownext.max_workers. The file is filled before it is mapped, lest
 * a full disk ends in a signal.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"

#include "core/core.h"
#include "queue/poison_file.h"

#define FILE_NAME PG_STAT_TMP_DIR "/grownext.running"
#define FILE_NAME_NEW FILE_NAME ".new"
#define MAGIC 0x474E5231
#define CRASHES 64 /* entries of crashes that are kept, the latest */
#define MOST_RUNNING 4096

typedef struct Contents
{
	uint32 magic;
	uint32 entry_size;
	uint64 system;
	uint32 running; /* entries behind those of crashes */
	pg_crc32c check;
	GnPoisonEntry entry[FLEXIBLE_ARRAY_MEMBER];
} Contents;

static Contents *map = NULL;

static Size
contents_size(uint32 running)
{
	return offsetof(Contents, entry) + (CRASHES + running) * sizeof(GnPoisonEntry);
}

static pg_crc32c
header_check(const Contents *contents)
{
	pg_crc32c check;

	INIT_CRC32C(check);
	COMP_CRC32C(check, contents, offsetof(Contents, check));
	FIN_CRC32C(check);
	return check;
}

pg_crc32c
gn_poison_check(const GnPoisonEntry *entry)
{
	pg_crc32c check;

	INIT_CRC32C(check);
	COMP_CRC32C(check, &entry->timeline,
				offsetof(GnPoisonEntry, jobs) - offsetof(GnPoisonEntry, timeline) +
					entry->count * sizeof(int64));
	FIN_CRC32C(check);
	return check;
}

/* ---- what the last file says ---- */

static bool
is_whole(const GnPoisonEntry *entry)
{
	return entry->state <= GN_POISON_CRASHED && entry->count >= 1 &&
		   entry->count <= GN_POISON_JOBS && entry->check == gn_poison_check(entry);
}

/* The file, or NULL if there is none, or none of this system that is whole. */
static Contents *
read_file(void)
{
	FILE *file = AllocateFile(FILE_NAME, PG_BINARY_R);
	Contents *contents;
	Size most = contents_size(MOST_RUNNING);
	Size length;
	bool usable;

	if (file == NULL)
	{
		if (errno != ENOENT)
			ereport(LOG, (errcode_for_file_access(),
						  errmsg("could not open file \"%s\": %m", FILE_NAME)));
		return NULL;
	}
	contents = palloc(most);
	length = fread(contents, 1, most, file);
	FreeFile(file);
	usable = length >= offsetof(Contents, entry) && contents->magic == MAGIC &&
			 contents->check == header_check(contents) &&
			 contents->entry_size == sizeof(GnPoisonEntry) &&
			 contents->running <= MOST_RUNNING &&
			 length == contents_size(contents->running);
	if (!usable)
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" is damaged and was ignored", FILE_NAME),
				 errdetail("It names the jobs that ran when the server crashed.")));
	else if (contents->system != GetSystemIdentifier())
		ereport(LOG, (errmsg("file \"%s\" is of another database system and was "
							 "ignored",
							 FILE_NAME)));
	if (usable && contents->system == GetSystemIdentifier())
		return contents;
	pfree(contents);
	return NULL;
}

/* Moves what ran among the crashes. One that was alone has crashed the server, or
 * nobody can tell but of suspects, of which one runs at a time. */
static void
judge_running(Contents *old)
{
	GnPoisonEntry *running = old->entry + CRASHES;
	uint32 died = 0;

	for (uint32 i = 0; i < old->running; i++)
		died += running[i].state == GN_POISON_RUNNING && is_whole(&running[i]);
	for (uint32 i = 0; i < old->running; i++)
	{
		if (running[i].state != GN_POISON_RUNNING || !is_whole(&running[i]))
			continue;
		running[i].state = GN_POISON_CRASHED;
		if (died == 1 || (running[i].flags & GN_POISON_ALONE))
			running[i].flags |= GN_POISON_CHARGED;
		running[i].check = gn_poison_check(&running[i]);
	}
}

static void
keep_crashes(Contents *old, Contents *new)
{
	uint32 total = CRASHES + old->running;
	int room = CRASHES;
	int damaged = 0;

	judge_running(old);
	for (uint32 i = total; i-- > 0;) /* the latest are the last */
	{
		const GnPoisonEntry *entry = &old->entry[i];

		if (entry->state == GN_POISON_NONE || entry->state == GN_POISON_ENDED)
			continue;
		if (!is_whole(entry))
			damaged++;
		else if (entry->state == GN_POISON_CRASHED && room > 0)
			new->entry[--room] = *entry;
	}
	if (damaged > 0)
		ereport(LOG, (errcode(ERRCODE_DATA_CORRUPTED),
					  errmsg("%d damaged entries of file \"%s\" were ignored", damaged,
							 FILE_NAME)));
}

/* ---- the new file ---- */

static bool
write_file(const Contents *contents, Size size)
{
	FILE *file = AllocateFile(FILE_NAME_NEW, PG_BINARY_W);
	bool written = false;

	if (file)
	{
		written = fwrite(contents, 1, size, file) == size;
		if (FreeFile(file) != 0)
			written = false;
	}
	return written && rename(FILE_NAME_NEW, FILE_NAME) == 0;
}

static bool
map_file(Size size)
{
	int file = BasicOpenFile(FILE_NAME, O_RDWR | PG_BINARY);
	void *memory;
	int save_errno;

	if (file < 0)
		return false;
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	save_errno = errno;
	close(file);
	errno = save_errno;
	if (memory == MAP_FAILED)
		return false;
	map = memory;
	return true;
}

void
gn_poison_file_init(void)
{
	uint32 running = Min(gn_max_workers, MOST_RUNNING);
	Size size = contents_size(running);
	Contents *new = palloc0(size);
	Contents *old;

	if (map)
		(void) munmap(map, contents_size(map->running));
	map = NULL;
	old = read_file();
	new->magic = MAGIC;
	new->entry_size = sizeof(GnPoisonEntry);
	new->system = GetSystemIdentifier();
	new->running = running;
	new->check = header_check(new);
	if (old)
		keep_crashes(old, new);
	if (!write_file(new, size) || !map_file(size))
		ereport(LOG, (errcode_for_file_access(),
					  errmsg("could not write file \"%s\": %m", FILE_NAME),
					  errdetail("A job that crashes the server is not told apart.")));
	if (old)
		pfree(old);
	pfree(new);
}

/* ---- entries ---- */

GnPoisonEntry *
gn_poison_file_entry(int number)
{
	if (map == NULL || number >= (int) map->running)
		return NULL;
	return &map->entry[CRASHES + number];
}

bool
gn_poison_file_next(int *place, GnPoisonEntry *entry)
{
	while (map && *place < CRASHES)
	{
		*entry = map->entry[(*place)++];
		if (entry->state == GN_POISON_CRASHED && entry->database == MyDatabaseId &&
			is_whole(entry))
			return true;
	}
	return false;
}

void
gn_poison_file_forget(int place)
{
	map->entry[place].state = GN_POISON_NONE;
}
