/* src/session/strict_json.h -- whether bytes are JSON that jsonb will take */
#ifndef GN_SESSION_STRICT_JSON_H
#define GN_SESSION_STRICT_JSON_H

#include "postgres.h"

/* A JSON object as jwt/jose.h has it: strict, and never an error in jsonb_in. */
extern bool gn_session_strict_json(const void *text, size_t len);

#endif
