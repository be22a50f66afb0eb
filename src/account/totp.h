/* src/account/totp.h -- time-based one-time passwords (RFC 6238), pure arithmetic */
#ifndef GN_TOTP_H
#define GN_TOTP_H

#include "postgres.h"

#define GN_TOTP_PERIOD 30 /* seconds of a step */
#define GN_TOTP_DIGITS_MAX 8
#define GN_TOTP_SECRET_MAX 64

typedef struct GnTotpAlgorithm
{
	const char *name;
	size_t secret_size; /* as long as the digest (RFC 4226, section 4, R6) */
} GnTotpAlgorithm;

/* NULL for a name that is none of SHA1, SHA256, SHA512. */
extern const GnTotpAlgorithm *gn_totp_algorithm(const char *name, size_t len);

/* The code of a step: digits characters and a terminator. */
extern void
gn_totp_code(const GnTotpAlgorithm *algorithm, const uint8 *secret, size_t secret_len,
			 int64 step, int digits, char code[GN_TOTP_DIGITS_MAX + 1]);

/*
 * The step whose code this is, of the current one, the one before and the one after;
 * -1 when there is none later than last_step, which was used already. Takes the same
 * time whichever it is.
 */
extern int64 gn_totp_match(const GnTotpAlgorithm *algorithm, const uint8 *secret,
						   size_t secret_len, int digits, const char *code,
						   size_t code_len, int64 current_step, int64 last_step);

/* Base32 without padding, as authenticator programs read it (RFC 4648, section 6). */
#define GN_BASE32_ENCODED_SIZE(len) (((size_t) (len) *8 + 4) / 5)
extern size_t gn_base32_encode(const uint8 *data, size_t len, char *out);

#endif
