/* src/stream/log.h -- entries in their segments; private to the component */
#ifndef GN_STREAM_LOG_H
#define GN_STREAM_LOG_H

#include "postgres.h"

#include "access/genam.h"
#include "utils/jsonb.h"
#include "utils/snapshot.h"
#include "utils/uuid.h"

#define GN_SEGMENTS 5 /* 0 has what is kept for good; the others are a ring */

typedef struct GnEntry
{
	int64 position;
	TimestampTz appended_at;
	const pg_uuid_t *tenant; /* NULL: none */
	const char *key;         /* NULL: none */
	Jsonb *payload;
	Jsonb *claims; /* NULL: none */
} GnEntry;

/* Inserts entries of one stream, which have their positions. */
extern void gn_log_insert(int segment, int64 stream, const GnEntry *entries, int count);

/* Entries of a stream in the order of their positions, from all segments at once. */
typedef struct GnLogScan
{
	struct
	{
		Relation heap;
		Relation index;
		SysScanDesc scan;
		HeapTuple tuple; /* the next one, or NULL */
		int64 position;
	} segment[GN_SEGMENTS];
	Snapshot snapshot;
	int current; /* whose tuple was returned last; -1: none */
} GnLogScan;

/* Begins after a position, with a snapshot of this moment. */
extern void gn_log_begin(GnLogScan *scan, int64 stream, int64 after);
/* The next entry as it is stored, or NULL; good until the next call. */
extern HeapTuple gn_log_next(GnLogScan *scan, int64 *position);
extern void gn_log_end(GnLogScan *scan);

/* Of a tuple of the scan. */
extern TimestampTz gn_log_time(const GnLogScan *scan, HeapTuple tuple);
extern int64 gn_log_size(const GnLogScan *scan, HeapTuple tuple);
/* All of it, in the current memory context. */
extern void gn_log_entry(const GnLogScan *scan, HeapTuple tuple, GnEntry *entry);

/* Whether a segment has an entry of the stream after a position. */
extern bool gn_log_has(int segment, int64 stream, int64 after);

extern Oid gn_log_relation(int segment);

#endif
