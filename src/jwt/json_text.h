/* src/jwt/json_text.h -- JSON between jsonb and tokens, both ways; private to jwt */
#ifndef GN_JWT_JSON_TEXT_H
#define GN_JWT_JSON_TEXT_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/jsonb.h"

#include "jwt/strict_json.h"

/* Written without white space: every byte of a token is sent with every request. */
extern void gn_json_append(StringInfo out, const char *text);
extern void gn_json_append_string(StringInfo out, const char *text, size_t len);
extern void gn_json_append_integer(StringInfo out, int64 value);
/* The members of an object, each behind a comma. */
extern void gn_json_append_members(StringInfo out, const Jsonb *object);

/* What gn_json_read says, as jsonb in the current context. */
typedef struct GnJsonbBuilder
{
	JsonbParseState *state;
	JsonbValue *result;
	GnJsonReader reader; /* set by gn_jsonb_build_begin */
} GnJsonbBuilder;

extern void gn_jsonb_build_begin(GnJsonbBuilder *builder);
/* Once gn_json_read was true. */
extern Jsonb *gn_jsonb_build_end(GnJsonbBuilder *builder);

/* Both at once, for a text that gn_json_read has taken before. */
extern Jsonb *gn_json_to_jsonb(const void *text, size_t len);

#endif
