/* src/jwt/strict_json.h -- JSON from strangers in one pass, no tree; no server needed
 */
#ifndef GN_STRICT_JSON_H
#define GN_STRICT_JSON_H

#include "postgres.h"

#define GN_JSON_MAX_DEPTH 32
#define GN_JSON_MAX_MEMBERS 1024 /* of all objects that are open at a time */

typedef enum GnJsonEvent
{
	GN_JSON_BEGIN_OBJECT,
	GN_JSON_END_OBJECT,
	GN_JSON_BEGIN_ARRAY,
	GN_JSON_END_ARRAY,
	GN_JSON_KEY,
	GN_JSON_STRING,
	GN_JSON_NUMBER,
	GN_JSON_TRUE,
	GN_JSON_FALSE,
	GN_JSON_NULL
} GnJsonEvent;

/*
 * Hears what a document says, in order. depth is 1 for what stands in the outermost
 * object, 0 for that object itself. Strings come decoded and numbers as they are
 * written, in memory that lives as long as text and scratch; others have no text.
 */
typedef struct GnJsonReader
{
	void (*event)(void *arg, GnJsonEvent event, int depth, const char *text,
				  size_t len);
	void *arg;
} GnJsonReader;

/*
 * True if the text is one JSON object and nothing else: valid UTF-8, no duplicate
 * member at any depth (compared decoded), no U+0000, no half surrogate, at most 32
 * deep, integers of 64 bits, finite numbers that jsonb can hold. Events heard before a
 * false count for nothing. scratch has room for len bytes.
 */
extern bool
gn_json_read(const void *text, size_t len, char *scratch, const GnJsonReader *reader);

#endif
