/* test/fuzz/stripe_signature_fuzz.c -- the Stripe-Signature header of an
 * unauthenticated request */
#include "billing/stripe_signature.c"

#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *header = exact_copy(data, size);
	uint8 expected[1][GN_STRIPE_MAC_SIZE];
	GnStripeSignature signature;
	GnStripeResult result = gn_stripe_parse(header, size, &signature);

	if (result == GN_STRIPE_VALID)
	{
		CHECK(signature.timestamp_text >= header);
		CHECK(signature.timestamp_text + signature.timestamp_length <= header + size);
		CHECK(signature.timestamp >= 0);
		CHECK(signature.count >= 0 && signature.count <= GN_STRIPE_MAX_SIGNATURES);
		if (signature.count > 0)
		{
			int64 then = signature.timestamp;

			memcpy(expected[0], signature.macs[signature.count - 1],
				   GN_STRIPE_MAC_SIZE);
			CHECK(gn_stripe_check(&signature, expected, 1, then) == GN_STRIPE_VALID);
			CHECK(gn_stripe_check(&signature, expected, 1,
								  then + GN_STRIPE_TOLERANCE + 1) == GN_STRIPE_TOO_OLD);
			CHECK(gn_stripe_check(&signature, expected, 0, then) == GN_STRIPE_NO_MATCH);
		}
	}
	else
		CHECK(gn_stripe_result_name(result) != NULL);
	free(header);
	return 0;
}
