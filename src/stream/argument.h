/* src/stream/argument.h -- what callers pass, and the refusals; private to the
 * component
 */
#ifndef GN_STREAM_ARGUMENT_H
#define GN_STREAM_ARGUMENT_H

#include "postgres.h"

#include "fmgr.h"

extern void gn_stream_refuse_null(const char *what);
extern char *gn_stream_text(FunctionCallInfo fcinfo, int argument, const char *what);
extern int64 gn_stream_lease(FunctionCallInfo fcinfo, int argument); /* microseconds */

/* Names of consumers are made as those of streams. */
extern char *gn_stream_consumer(FunctionCallInfo fcinfo, int argument);

/* A bigint that is neither NULL nor negative. */
extern int64
gn_stream_position(FunctionCallInfo fcinfo, int argument, const char *what);

#endif
