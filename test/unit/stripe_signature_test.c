/*
 * test/unit/stripe_signature_test.c -- the Stripe-Signature header, rule by rule. That
 * the MAC is Stripe's is tested where it is made: in sql/.
 */
#include "billing/stripe_signature.c"

#include "tap.h"

#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"
#define ONES "1111111111111111111111111111111111111111111111111111111111111111"

static GnStripeSignature signature;

static GnStripeResult
parse(const char *header)
{
	return gn_stripe_parse(header, strlen(header), &signature);
}

int
main(void)
{
	uint8 expected[2][GN_STRIPE_MAC_SIZE];

	memset(expected[0], 0x22, sizeof(expected[0]));
	memset(expected[1], 0x11, sizeof(expected[1]));

	ok(gn_stripe_parse(NULL, 0, &signature) == GN_STRIPE_NOT_SIGNED,
	   "no header: not signed");
	ok(parse("") == GN_STRIPE_NOT_SIGNED, "an empty header: not signed");

	ok(parse("t=1700000000,v1=" ZEROS ",v0=" ONES) == GN_STRIPE_VALID, "Stripe's form");
	ok(signature.timestamp == 1700000000 && signature.timestamp_length == 10,
	   "its time");
	ok(signature.count == 1, "v0, for test clients, does not count");
	ok(parse("v1=" ZEROS ",t=1700000000") == GN_STRIPE_VALID, "in any order");
	ok(parse("t=1,v1=" ZEROS ",v1=" ONES) == GN_STRIPE_VALID && signature.count == 2,
	   "a rolled secret signs twice");

	ok(parse("v1=" ZEROS) == GN_STRIPE_BAD_HEADER, "no time");
	ok(parse("t=1,t=2,v1=" ZEROS) == GN_STRIPE_BAD_HEADER, "two times");
	ok(parse("t=-1,v1=" ZEROS) == GN_STRIPE_BAD_HEADER, "a negative time");
	ok(parse("t= 1,v1=" ZEROS) == GN_STRIPE_BAD_HEADER, "white space in the time");
	ok(parse("t=01,v1=" ZEROS) == GN_STRIPE_BAD_HEADER,
	   "a second spelling of the time");
	ok(parse("t=9999999999999999999,v1=" ZEROS) == GN_STRIPE_BAD_HEADER,
	   "a time that fits no integer");
	ok(parse("t=1,v1") == GN_STRIPE_BAD_HEADER, "a part without a value");
	ok(parse("t=1,v1=a=b") == GN_STRIPE_BAD_HEADER, "a part with two");
	ok(parse("t=1,") == GN_STRIPE_BAD_HEADER, "an empty part");

	ok(parse("t=1,v1=abc,v1=" ONES) == GN_STRIPE_VALID && signature.count == 1,
	   "a v1 that is no SHA-256 is skipped");
	ok(parse("t=1,v1=z" ONES) == GN_STRIPE_VALID && signature.count == 0,
	   "and so is one with another alphabet or length");

	parse("t=1700000000,v1=" ZEROS ",v1=" ONES);
	ok(gn_stripe_check(&signature, expected, 2, 1700000000) == GN_STRIPE_VALID,
	   "any signature with any secret will do");
	ok(gn_stripe_check(&signature, expected, 1, 1700000000) == GN_STRIPE_NO_MATCH,
	   "none that matches");
	ok(gn_stripe_check(&signature, expected, 0, 1700000000) == GN_STRIPE_NO_MATCH,
	   "no secret at all");
	ok(gn_stripe_check(&signature, expected, 2, 1700000300) == GN_STRIPE_VALID,
	   "five minutes late");
	ok(gn_stripe_check(&signature, expected, 2, 1700000301) == GN_STRIPE_TOO_OLD,
	   "a second more");
	ok(gn_stripe_check(&signature, expected, 2, 1699999699) == GN_STRIPE_TOO_OLD,
	   "from too far in the future");
	ok(gn_stripe_check(&signature, expected, 1, 1) == GN_STRIPE_NO_MATCH,
	   "a forged one is not called old");
	return tap_done();
}
