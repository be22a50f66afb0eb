/*
 * src/billing/webhook.c
 *	  What billing needs of C: signatures under stored secrets, and a provider's name.
 *
 * A secret never becomes an SQL value: SQL names it, and gets a verdict.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "billing/stripe_signature.h"
#include "core/core.h"
#include "crypto/crypto.h"

GN_FUNCTION(gn_billing_stripe_verify);
GN_FUNCTION(gn_billing_act_as);

/* The bytes that Stripe signs: the time as the header writes it, a dot, the body. */
static char *
signed_bytes(const GnStripeSignature *signature, const bytea *body, size_t *length)
{
	size_t body_length = VARSIZE_ANY_EXHDR(body);
	char *bytes = palloc(signature->timestamp_length + 1 + body_length);

	memcpy(bytes, signature->timestamp_text, signature->timestamp_length);
	bytes[signature->timestamp_length] = '.';
	memcpy(bytes + signature->timestamp_length + 1, VARDATA_ANY(body), body_length);
	*length = signature->timestamp_length + 1 + body_length;
	return bytes;
}

static GnStripeResult
verify_stripe(const text *header, const bytea *body, const char *secret)
{
	GnStripeSignature signature;
	GnStripeResult result;
	GnSecret values[GN_SECRET_VALUES];
	uint8 expected[GN_SECRET_VALUES][GN_STRIPE_MAC_SIZE];
	int count;
	char *bytes;
	size_t length;

	result = gn_stripe_parse(header ? VARDATA_ANY(header) : NULL,
							 header ? VARSIZE_ANY_EXHDR(header) : 0, &signature);
	if (result != GN_STRIPE_VALID)
		return result;
	count = gn_secret_get(secret, values);
	bytes = signed_bytes(&signature, body, &length);
	for (int i = 0; i < count; i++)
		gn_hmac_sha256(values[i].data, values[i].len, bytes, length, expected[i]);
	result = gn_stripe_check(&signature, (const uint8(*)[GN_STRIPE_MAC_SIZE]) expected,
							 count, timestamptz_to_time_t(gn_now()));
	gn_cleanse(expected, sizeof(expected));
	pfree(bytes);
	return result;
}

/* SQL: _grownext.billing_stripe_verify(header text, body bytea, secret text) */
Datum
gn_billing_stripe_verify(PG_FUNCTION_ARGS)
{
	const text *header = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	const char *name;

	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("body and secret must not be null")));
	name = gn_stripe_result_name(verify_stripe(header, PG_GETARG_BYTEA_PP(1),
											   text_to_cstring(PG_GETARG_TEXT_PP(2))));
	if (name == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(name));
}

/* SQL: _grownext.billing_act_as(claims jsonb) */
Datum
gn_billing_act_as(PG_FUNCTION_ARGS)
{
	gn_context_bind(GN_CONTEXT_ACT_AS, PG_GETARG_JSONB_P_COPY(0), NULL);
	PG_RETURN_VOID();
}
