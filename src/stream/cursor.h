/* src/stream/cursor.h -- how far consumers are; private to the component */
#ifndef GN_STREAM_CURSOR_H
#define GN_STREAM_CURSOR_H

#include "postgres.h"

#include "datatype/timestamp.h"

typedef struct GnCursor
{
	int64 stream;
	const char
		*consumer;    /* "": the stream itself, whose entries up to there are gone */
	int64 generation; /* 0: nothing was written yet */
	int64 position;
	int64 lease_id; /* 0: none */
	int64 lease_upto;
	TimestampTz lease_until;
} GnCursor;

/* As of now, whatever the transaction's snapshot. Whoever writes holds the lock. */
extern void gn_cursor_read(int64 stream, const char *consumer, GnCursor *cursor);
extern void gn_cursor_lock(int64 stream, const char *consumer);
extern bool gn_cursor_try_lock(int64 stream, const char *consumer);
extern void gn_cursor_write(GnCursor *cursor);

/* What the next read begins after. */
extern int64 gn_cursor_start(const GnCursor *cursor);

static inline bool
gn_cursor_leased(const GnCursor *cursor, TimestampTz now)
{
	return cursor->lease_id != 0 && cursor->lease_until > now;
}

#endif
