/* src/queue/poison_file.h -- the file that names what each executor runs; private to
 * poison*.c */
#ifndef GN_QUEUE_POISON_FILE_H
#define GN_QUEUE_POISON_FILE_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "port/pg_crc32c.h"

/* Jobs of one transaction that an entry names; of more, the first and the last. */
#define GN_POISON_JOBS 64

typedef enum GnPoisonState
{
	GN_POISON_NONE,
	GN_POISON_RUNNING, /* the executor of that number runs the last of the jobs */
	GN_POISON_ENDED,   /* its process was told to end, for another one had crashed */
	GN_POISON_CRASHED  /* its process died with the jobs in hand */
} GnPoisonState;

#define GN_POISON_ALONE 1   /* it ran as a suspect */
#define GN_POISON_CHARGED 2 /* the crash is the last job's own */

/* What follows the check is checked, up to the last of the jobs. */
typedef struct GnPoisonEntry
{
	uint32 state;
	pg_crc32c check;
	TimeLineID timeline;
	Oid database;
	uint32 count;
	uint32 flags;
	TimestampTz began_at;
	int64 jobs[GN_POISON_JOBS];
} GnPoisonEntry;

/* Maps the file; what ran when the server crashed becomes entries of crashes. */
extern void gn_poison_file_init(void);

/* Executor number's own entry, or NULL: then nothing is written down. */
extern GnPoisonEntry *gn_poison_file_entry(int number);

/* Copies the next entry of a crash in this database that is at or after place, and
 * moves place behind it; false: there is none. */
extern bool gn_poison_file_next(int *place, GnPoisonEntry *entry);

/* Forgets an entry of a crash. */
extern void gn_poison_file_forget(int place);

extern pg_crc32c gn_poison_check(const GnPoisonEntry *entry);

#endif
