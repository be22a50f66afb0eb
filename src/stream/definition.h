/* src/stream/definition.h -- streams and their grants; private to the component */
#ifndef GN_STREAM_DEFINITION_H
#define GN_STREAM_DEFINITION_H

#include "postgres.h"

typedef struct GnStream
{
	int64 id;
	char *name;
	bool keeps; /* everything: its entries are never in the ring */
} GnStream;

extern void gn_stream_definition_init(void);

/* The stream, or NULL; valid until the next call that looks at definitions. */
extern const GnStream *gn_stream_find(const char *name);

/* The segment that appenders of the ring write to. */
extern int gn_stream_open_segment(void);

/* Rights: "append", "read". */
extern bool gn_stream_user_may(Oid user, const char *stream, const char *right);

/*
 * The stream that an SQL caller names, if it is none of the platform's and the caller
 * has the right; raises otherwise. Nobody drops it until the transaction ends. Only an
 * appender holds lock STREAM.
 */
extern GnStream gn_stream_of_caller(const char *name, const char *right);

#endif
