/*
 * src/session/strict_json.c
 *	  Whether bytes are JSON that jsonb will take. A file of its own, because jansson.h
 *	  and the server's headers both declare json_object.
 */
#include "postgres.h"

#include <jansson.h>

#include "jwt/jose.h"
#include "session/strict_json.h"

bool
gn_session_strict_json(const void *text, size_t len)
{
	json_t *json = gn_json_parse(text, len);

	json_decref(json);
	return json != NULL;
}
