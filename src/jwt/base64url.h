/* src/jwt/base64url.h -- base64url without padding, as JOSE has it (RFC 7515, section
 * 2) */
#ifndef GN_BASE64URL_H
#define GN_BASE64URL_H

#include "postgres.h"

#define GN_BASE64URL_ENCODED_SIZE(len) (((size_t) (len) *4 + 2) / 3)

/* Writes GN_BASE64URL_ENCODED_SIZE(len) characters, no terminator; returns how many. */
extern size_t gn_base64url_encode(const void *data, size_t len, char *out);

/*
 * Strict: no padding, no white space, no other alphabet, no stray bits, so that a
 * value has exactly one spelling. out has room for len * 3 / 4 bytes.
 */
extern bool
gn_base64url_decode(const char *text, size_t len, uint8 *out, size_t *out_len);

#endif
