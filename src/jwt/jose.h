/* src/jwt/jose.h -- reading tokens and what can be wrong with one; no server needed */
#ifndef GN_JOSE_H
#define GN_JOSE_H

#include "postgres.h"

#include "jwt/strict_json.h"

/* name, what token_info.error says, the sentence for a detail. Never a token's own
 * text. */
#define GN_JOSE_ERRORS(X)                                                              \
	X(MALFORMED, "malformed", "It is not a compact JWS of three base64url segments.")  \
	X(TOO_LARGE, "too_large", "It is larger than 16 KiB, or its header than 2 KiB.")   \
	X(HEADER, "bad_header", "Its header is not acceptable.")                           \
	X(CRITICAL, "unsupported_critical",                                                \
	  "Its header demands an extension that is not supported.")                        \
	X(UNKNOWN_KEY, "unknown_key",                                                      \
	  "No key of this platform has the key id that it names.")                         \
	X(REVOKED_KEY, "revoked_key", "The key that signed it was revoked.")               \
	X(ALGORITHM, "wrong_algorithm", "Its algorithm is not that of the key.")           \
	X(TYPE, "wrong_type", "It is not a token of the expected type.")                   \
	X(SIGNATURE, "bad_signature", "Its signature does not fit.")                       \
	X(CLAIMS, "bad_claims", "Its claims are not acceptable.")                          \
	X(ISSUER, "wrong_issuer", "It is from another issuer.")                            \
	X(AUDIENCE, "wrong_audience", "It is meant for another audience.")                 \
	X(EXPIRED, "expired", "Its time is over.")                                         \
	X(NOT_YET, "not_yet_valid", "Its time has not come.")

#define GN_JOSE_ENUM(name, code, detail) GN_JOSE_##name,
typedef enum GnJoseError
{
	GN_JOSE_OK,
	GN_JOSE_ERRORS(GN_JOSE_ENUM)
} GnJoseError;
#undef GN_JOSE_ENUM

extern const char *gn_jose_error_code(GnJoseError error);
extern const char *gn_jose_error_detail(GnJoseError error);

#define GN_JOSE_MAX_TOKEN 16384
#define GN_JOSE_MAX_HEADER 2048
#define GN_JOSE_MAX_DEPTH GN_JSON_MAX_DEPTH

/* A compact JWS, split and decoded but not verified. */
typedef struct GnJws
{
	const char *input; /* the signing input, which the token begins with */
	size_t input_len;
	size_t header_text_len; /* of the first segment */
	const char *signature_text;
	size_t signature_text_len;
	char alg[16];
	char kid[65]; /* empty: none */
	char typ[33]; /* empty: none */
	const uint8 *header;
	size_t header_len;
	const uint8 *payload;
	size_t payload_len;
	const uint8 *signature;
	size_t signature_len;
} GnJws;

/* scratch has room for len bytes and must live as long as jws. */
extern GnJoseError
gn_jws_parse(GnJws *jws, const char *token, size_t len, uint8 *scratch);

/*
 * Its parts, for those who know the header's segment to be one of their own, in which
 * there is nothing to read: where the segments are; then payload and signature decoded,
 * or the header decoded and read. Each takes scratch of its own.
 */
extern GnJoseError gn_jws_split(GnJws *jws, const char *token, size_t len);
extern GnJoseError gn_jws_decode(GnJws *jws, uint8 *scratch);
extern GnJoseError gn_jws_decode_header(GnJws *jws, uint8 *scratch);
extern GnJoseError gn_jws_read_header(GnJws *jws);

/* What claims are held against; times in microseconds since 1970. */
typedef struct GnClaimRules
{
	const char *issuer;
	const char *audience;
	int64 now;
} GnClaimRules;

#define GN_JOSE_LEEWAY ((int64) 30000000)

/* Seconds since 1970, within the calendar. */
typedef struct GnClaimTimes
{
	double expires;
	double issued;
	double not_before; /* 0: no nbf */
} GnClaimTimes;

/*
 * Judges registered claims in one pass. scratch has room for len bytes; reader, if
 * there is one, hears every event too; times may be NULL, and is filled where the
 * error is none, or one of time.
 */
extern GnJoseError gn_claims_check(const void *payload, size_t len, char *scratch,
								   const GnClaimRules *rules,
								   const GnJsonReader *reader, GnClaimTimes *times);
extern GnJoseError gn_claims_check_times(const GnClaimTimes *times, int64 now);

#endif
