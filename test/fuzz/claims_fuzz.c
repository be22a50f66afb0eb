/* test/fuzz/claims_fuzz.c -- strict JSON and registered claims, without the base64
 * around it */
#include "jwt/base64url.c"
#include "jwt/jose.c"

#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	void *payload = exact_copy(data, size);
	GnClaimRules rules = {.issuer = "i",
						  .audience = "a",
						  .now = INT64CONST(1700000000000000)};
	json_t *json = gn_json_parse(payload, size);
	GnJoseError error = gn_claims_check(payload, size, &rules);

	CHECK(json == NULL || json_is_object(json));
	CHECK(json != NULL || error == GN_JOSE_CLAIMS);
	if (error == GN_JOSE_OK)
	{
		CHECK(strcmp(json_string_value(json_object_get(json, "iss")), "i") == 0);
		CHECK(json_is_string(json_object_get(json, "sub")));
		CHECK(json_is_number(json_object_get(json, "exp")));
	}
	json_decref(json);
	free(payload);
	return 0;
}
