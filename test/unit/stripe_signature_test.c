/* test/unit/stripe_signature_test.c -- Stripe-Signature: vectors, and every way to be
 * wrong */
#include "postgres.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "billing/stripe_signature.c"
#include "tap.h"

/*
 * Made with a tool that is not ours:
 * printf '1492774577.{"id":"evt_1","object":"event"}' |
 *     openssl dgst -sha256 -hmac whsec_test_secret
 */
#define BODY "{\"id\":\"evt_1\",\"object\":\"event\"}"
#define SECRET "whsec_test_secret"
#define NOW INT64_C(1492774577)
#define MAC "654b43d3508ecadb3f8cefc4bc7d3d2bdc5ba9e03bf2c89b2d0657a8e24e4543"
#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"

static GnStripeResult
verify(const char *header, const char *body, const char *secret, int64 now)
{
	GnStripeSignature signature;
	GnStripeResult result;
	uint8 expected[1][GN_STRIPE_MAC_SIZE];
	char *signed_bytes;
	unsigned int length = 0;

	result = gn_stripe_parse(header, header ? strlen(header) : 0, &signature);
	if (result != GN_STRIPE_VALID)
		return result;
	signed_bytes = palloc(signature.timestamp_length + strlen(body) + 2);
	sprintf(signed_bytes, "%.*s.%s", (int) signature.timestamp_length,
			signature.timestamp_text, body);
	HMAC(EVP_sha256(), secret, (int) strlen(secret),
		 (const unsigned char *) signed_bytes, strlen(signed_bytes), expected[0],
		 &length);
	stub_reset();
	return gn_stripe_check(&signature, (const uint8(*)[GN_STRIPE_MAC_SIZE]) expected, 1,
						   now);
}

static const struct
{
	const char *header;
	int64 now;
	GnStripeResult wanted;
	const char *claim;
} vectors[] = {
	{"t=1492774577,v1=" MAC, NOW, GN_STRIPE_VALID, "what Stripe signs is valid"},
	{"v1=" MAC ",t=1492774577", NOW, GN_STRIPE_VALID, "the order of the parts is free"},
	{"t=1492774577,v1=" ZEROS ",v1=" MAC, NOW, GN_STRIPE_VALID,
	 "one of several signatures suffices"},
	{"t=1492774577,v0=" ZEROS ",v1=" MAC ",v2=x", NOW, GN_STRIPE_VALID,
	 "unknown schemes are ignored"},
	{"t=1492774577,v1=zz,v1=" MAC, NOW, GN_STRIPE_VALID,
	 "a v1 that is no hexadecimal is skipped"},
	{"t=1492774577,v1=" MAC, NOW + 300, GN_STRIPE_VALID, "300 seconds old is in time"},
	{"t=1492774577,v1=" MAC, NOW - 300, GN_STRIPE_VALID,
	 "300 seconds ahead is in time"},
	{"t=1492774577,v1=" MAC, NOW + 301, GN_STRIPE_TOO_OLD,
	 "301 seconds old is too old"},
	{"t=1492774577,v1=" MAC, NOW - 301, GN_STRIPE_TOO_OLD,
	 "301 seconds ahead is refused too"},
	{NULL, NOW, GN_STRIPE_NOT_SIGNED, "no header is not signed"},
	{"", NOW, GN_STRIPE_NOT_SIGNED, "an empty header is not signed"},
	{"t=1492774577,v1=" ZEROS, NOW, GN_STRIPE_NO_MATCH, "another MAC does not match"},
	{"t=1492774577,v0=" MAC, NOW, GN_STRIPE_NO_MATCH, "v0 does not count"},
	{"t=1492774577", NOW, GN_STRIPE_NO_MATCH, "a header without v1 does not match"},
	{"t=1492774578,v1=" MAC, NOW, GN_STRIPE_NO_MATCH, "the time is signed as well"},
	{"t=1492774578,v1=" ZEROS, NOW + 9999, GN_STRIPE_NO_MATCH,
	 "a forged old one is forged, not old"},
	{"v1=" MAC, NOW, GN_STRIPE_BAD_HEADER, "a header needs a time"},
	{"t=,v1=" MAC, NOW, GN_STRIPE_BAD_HEADER, "an empty time is none"},
	{"t=x,v1=" MAC, NOW, GN_STRIPE_BAD_HEADER, "a word is no time"},
	{"t=-5,v1=" MAC, NOW, GN_STRIPE_BAD_HEADER, "a negative time is none"},
	{"t=+1492774577,v1=" MAC, NOW, GN_STRIPE_BAD_HEADER, "a sign is not signed"},
	{"t=01492774577,v1=" MAC, NOW, GN_STRIPE_BAD_HEADER, "nor is a leading zero"},
	{"t=99999999999999999999,v1=" MAC, NOW, GN_STRIPE_BAD_HEADER,
	 "a time that overflows is none"},
	{"t=1492774577,t=1492774577,v1=" MAC, NOW, GN_STRIPE_BAD_HEADER,
	 "two times are one too many"},
	{"t=1492774577,v1", NOW, GN_STRIPE_BAD_HEADER,
	 "a part without = spoils the header"},
	{"t=1492774577,v1=a=b", NOW, GN_STRIPE_BAD_HEADER,
	 "a part with two = spoils the header"},
	{"t=1492774577,v1=" MAC ",", NOW, GN_STRIPE_BAD_HEADER,
	 "an empty part spoils the header"},
	{"t=1492774577, v1=" MAC, NOW, GN_STRIPE_NO_MATCH, "a blank makes another scheme"},
};

int
main(void)
{
	char many[GN_STRIPE_MAX_HEADER + 2] = "t=1492774577";

	for (size_t i = 0; i < lengthof(vectors); i++)
		ok(verify(vectors[i].header, BODY, SECRET, vectors[i].now) == vectors[i].wanted,
		   "%s", vectors[i].claim);
	ok(verify("t=1492774577,v1=" MAC, BODY " ", SECRET, NOW) == GN_STRIPE_NO_MATCH,
	   "one byte more in the body does not match");
	ok(verify("t=1492774577,v1=" MAC, BODY, SECRET "x", NOW) == GN_STRIPE_NO_MATCH,
	   "another secret does not match");
	for (int i = 0; i < GN_STRIPE_MAX_SIGNATURES; i++)
		strcat(many, ",v1=" ZEROS);
	ok(verify(many, BODY, SECRET, NOW) == GN_STRIPE_NO_MATCH,
	   "eight signatures are read");
	strcat(many, ",v1=" ZEROS);
	ok(verify(many, BODY, SECRET, NOW) == GN_STRIPE_BAD_HEADER, "nine are not");
	memset(many, 'x', GN_STRIPE_MAX_HEADER + 1);
	ok(verify(many, BODY, SECRET, NOW) == GN_STRIPE_BAD_HEADER, "nor is a long header");
	return tap_done();
}
