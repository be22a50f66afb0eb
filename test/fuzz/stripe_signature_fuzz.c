/*
 * test/fuzz/stripe_signature_fuzz.c
 *	  The Stripe-Signature parser on any bytes: what it accepts, it accepts for a
 *reason.
 */
#include "postgres.h"

#include "billing/stripe_signature.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8 expected[1][GN_STRIPE_MAC_SIZE] = {{0xab}};
	char *header = palloc(size + 1); /* exactly as long: one byte more is found */
	GnStripeSignature signature;
	GnStripeResult result;

	memcpy(header, data, size);
	result = gn_stripe_parse(header, size, &signature);
	if (result == GN_STRIPE_VALID)
	{
		char digits[24];

		assert(signature.count >= 0 && signature.count <= GN_STRIPE_MAX_SIGNATURES);
		assert(signature.timestamp_text >= header &&
			   signature.timestamp_text + signature.timestamp_length <= header + size);
		snprintf(digits, sizeof(digits), "%lld", (long long) signature.timestamp);
		assert(strlen(digits) == signature.timestamp_length &&
			   memcmp(digits, signature.timestamp_text, signature.timestamp_length) ==
				   0);
		result = gn_stripe_check(&signature, expected, 1, signature.timestamp);
		assert(result == GN_STRIPE_VALID || result == GN_STRIPE_NO_MATCH);
		if (result == GN_STRIPE_VALID)
			assert(gn_stripe_check(&signature, expected, 1,
								   signature.timestamp + 301) == GN_STRIPE_TOO_OLD);
		assert(gn_stripe_check(&signature, expected, 0, signature.timestamp) ==
			   GN_STRIPE_NO_MATCH);
	}
	else
		assert(gn_stripe_result_name(result) != NULL);
	stub_reset();
	return 0;
}
