/* src/session/api_key_text.h -- how an API key is spelt */
#ifndef GN_API_KEY_TEXT_H
#define GN_API_KEY_TEXT_H

#include "postgres.h"

/* gx_<environment>_<30 of base62><6 of base62: CRC-32 of all before> */
#define GN_API_KEY_PREFIX "gx_"
#define GN_API_KEY_ENVIRONMENT_MAX 16
#define GN_API_KEY_RANDOM_SIZE 30
#define GN_API_KEY_CHECKSUM_SIZE 6
#define GN_API_KEY_MAX                                                                 \
	(sizeof(GN_API_KEY_PREFIX) - 1 + GN_API_KEY_ENVIRONMENT_MAX + 1 +                  \
	 GN_API_KEY_RANDOM_SIZE + GN_API_KEY_CHECKSUM_SIZE)

/* Up to 16 of a-z and 0-9, a letter first. */
extern bool gn_api_key_environment(const char *text, size_t len);

/* One of the 62 characters by its number. */
extern char gn_api_key_digit(int value);

/* The checksum of what stands before it. */
extern void gn_api_key_checksum(const char *text, size_t len,
								char checksum[GN_API_KEY_CHECKSUM_SIZE]);

/* False for whatever cannot be a key of this platform: foreign, cut, or mistyped. */
extern bool gn_api_key_plausible(const char *text, size_t len);

#endif
