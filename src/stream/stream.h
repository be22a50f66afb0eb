/* src/stream/stream.h -- the public face of streams */
#ifndef GN_STREAM_H
#define GN_STREAM_H

#include "postgres.h"

#include "core/core.h"

extern const GnComponent gn_stream_component;

#endif
