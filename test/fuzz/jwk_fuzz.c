/* test/fuzz/jwk_fuzz.c -- a JWK or a JWK Set that somebody brings */
#include "jwt/base64url.c"
#include "jwt/jose.c"
#include "jwt/jwk.c"

#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static GnJwkSet set;
	char *text = exact_copy(data, size);
	char thumbprint[GN_JWK_THUMBPRINT_SIZE];
	uint8 signature[GN_JWK_MAX_SIGNATURE] = {0};

	memset(&set, 0, sizeof(set));
	if (gn_jwk_set_parse(&set, text, size) == NULL)
	{
		CHECK(set.count > 0 && set.count <= GN_JWK_SET_MAX);
		for (int i = 0; i < set.count; i++)
		{
			CHECK(set.keys[i].alg != NULL && set.keys[i].pkey != NULL);
			/* A signature of zeros is nobody's. */
			CHECK(!gn_jose_verify(&set.keys[i], text, size, signature,
								  2 * set.keys[i].alg->coordinate_size));
		}
	}
	gn_jwk_set_free(&set);
	gn_jwk_thumbprint(text, size, thumbprint);
	free(text);
	return 0;
}
