/*
 * src/billing/stripe_signature.c
 *	  The Stripe-Signature header: "t=1700000000,v1=<hex>[,v1=<hex>...][,v0=...]".
 *
 * Pure, so that it is fuzzed and tested without a server. The rules are those of
 * Stripe's own libraries, and stricter only where a header of Stripe's never goes: a
 * part without exactly one "=" spoils the header, unknown schemes are ignored (v0 is
 * for test clients), a v1 that is no SHA-256 in hexadecimal is skipped, any one that
 * matches will do. The time is judged last: only what Stripe has signed can be old.
 */
#include "postgres.h"

#include <openssl/crypto.h>

#include "billing/stripe_signature.h"

/* Plain digits, as a timestamp is written: no sign, no leading zero, within 18 digits.
 */
static bool
parse_timestamp(const char *text, size_t length, GnStripeSignature *signature)
{
	int64 value = 0;

	if (signature->timestamp_length > 0) /* a second one would be a choice */
		return false;
	if (length == 0 || length > 18 || (text[0] == '0' && length > 1))
		return false;
	for (size_t i = 0; i < length; i++)
	{
		if (text[i] < '0' || text[i] > '9')
			return false;
		value = value * 10 + (text[i] - '0');
	}
	signature->timestamp = value;
	signature->timestamp_text = text;
	signature->timestamp_length = length;
	return true;
}

static int
hex_value(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	if (digit >= 'a' && digit <= 'f')
		return digit - 'a' + 10;
	if (digit >= 'A' && digit <= 'F')
		return digit - 'A' + 10;
	return -1;
}

static bool
decode_mac(const char *text, size_t length, uint8 mac[GN_STRIPE_MAC_SIZE])
{
	if (length != 2 * GN_STRIPE_MAC_SIZE)
		return false;
	for (size_t i = 0; i < GN_STRIPE_MAC_SIZE; i++)
	{
		int high = hex_value(text[2 * i]);
		int low = hex_value(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		mac[i] = (uint8) (high << 4 | low);
	}
	return true;
}

/* One "scheme=value"; false spoils the header. */
static bool
parse_part(const char *part, size_t length, GnStripeSignature *signature)
{
	const char *equals = memchr(part, '=', length);
	const char *value;
	size_t scheme_length;
	size_t value_length;

	if (equals == NULL)
		return false;
	value = equals + 1;
	scheme_length = equals - part;
	value_length = length - scheme_length - 1;
	if (memchr(value, '=', value_length))
		return false;
	if (scheme_length == 1 && part[0] == 't')
		return parse_timestamp(value, value_length, signature);
	if (scheme_length == 2 && memcmp(part, "v1", 2) == 0)
	{
		uint8 mac[GN_STRIPE_MAC_SIZE];

		if (!decode_mac(value, value_length, mac))
			return true;
		if (signature->count == GN_STRIPE_MAX_SIGNATURES)
			return false;
		memcpy(signature->macs[signature->count++], mac, sizeof(mac));
	}
	return true;
}

GnStripeResult
gn_stripe_parse(const char *header, size_t length, GnStripeSignature *signature)
{
	const char *end;

	*signature = (GnStripeSignature){0};
	if (header == NULL || length == 0)
		return GN_STRIPE_NOT_SIGNED;
	if (length > GN_STRIPE_MAX_HEADER)
		return GN_STRIPE_BAD_HEADER;
	end = header + length;
	for (const char *part = header; part <= end;)
	{
		const char *comma = part < end ? memchr(part, ',', end - part) : NULL;
		const char *part_end = comma ? comma : end;

		if (!parse_part(part, part_end - part, signature))
			return GN_STRIPE_BAD_HEADER;
		part = part_end + 1;
	}
	return signature->timestamp_length > 0 ? GN_STRIPE_VALID : GN_STRIPE_BAD_HEADER;
}

GnStripeResult
gn_stripe_check(const GnStripeSignature *signature,
				const uint8 expected[][GN_STRIPE_MAC_SIZE], int expected_count,
				int64 now)
{
	bool match = false;
	int64 age = now - signature->timestamp;

	for (int i = 0; i < signature->count; i++)
	{
		for (int j = 0; j < expected_count; j++)
			match |=
				CRYPTO_memcmp(signature->macs[i], expected[j], GN_STRIPE_MAC_SIZE) == 0;
	}
	if (!match)
		return GN_STRIPE_NO_MATCH;
	if (age > GN_STRIPE_TOLERANCE || age < -GN_STRIPE_TOLERANCE)
		return GN_STRIPE_TOO_OLD;
	return GN_STRIPE_VALID;
}

const char *
gn_stripe_result_name(GnStripeResult result)
{
	switch (result)
	{
		case GN_STRIPE_VALID:
			return NULL;
		case GN_STRIPE_NOT_SIGNED:
			return "not_signed";
		case GN_STRIPE_BAD_HEADER:
			return "bad_header";
		case GN_STRIPE_NO_MATCH:
			return "no_valid_signature";
		case GN_STRIPE_TOO_OLD:
			return "too_old";
	}
	return NULL;
}
