/* src/billing/stripe_signature.h -- the Stripe-Signature header: parse, compare; pure
 */
#ifndef GN_STRIPE_SIGNATURE_H
#define GN_STRIPE_SIGNATURE_H

#include "postgres.h"

#define GN_STRIPE_MAC_SIZE 32
#define GN_STRIPE_TOLERANCE 300 /* seconds, either way */

/* A rolled secret signs twice; more than this is no header of Stripe's. */
#define GN_STRIPE_MAX_SIGNATURES 8
#define GN_STRIPE_MAX_HEADER 4096

typedef enum GnStripeResult
{
	GN_STRIPE_VALID,
	GN_STRIPE_NOT_SIGNED, /* no header */
	GN_STRIPE_BAD_HEADER, /* not of the form t=...,v1=... */
	GN_STRIPE_NO_MATCH,   /* no v1 is the body's under any secret */
	GN_STRIPE_TOO_OLD     /* signed outside the tolerance */
} GnStripeResult;

typedef struct GnStripeSignature
{
	int64 timestamp;
	const char *timestamp_text; /* its digits, within the header: signed as written */
	size_t timestamp_length;
	int count;
	uint8 macs[GN_STRIPE_MAX_SIGNATURES][GN_STRIPE_MAC_SIZE];
} GnStripeSignature;

/* The parts of a header, which stays referenced; VALID, NOT_SIGNED or BAD_HEADER. */
extern GnStripeResult
gn_stripe_parse(const char *header, size_t length, GnStripeSignature *signature);

/*
 * VALID if one of the signatures is one of the expected MACs, in time that does not
 * depend on their bytes, and the timestamp is within the tolerance of now.
 */
extern GnStripeResult gn_stripe_check(const GnStripeSignature *signature,
									  const uint8 expected[][GN_STRIPE_MAC_SIZE],
									  int expected_count, int64 now);

/* Names of the results as billing_webhook() returns them; NULL for VALID. */
extern const char *gn_stripe_result_name(GnStripeResult result);

#endif
