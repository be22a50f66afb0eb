/*
 * test/fuzz/jwk_fuzz.c
 *	  Any bytes as a JWK or a JWK Set: a key that is taken can be used, and its
 *	  thumbprint does not depend on how it was written.
 */
#include "postgres.h"

#include "jwt/base64url.c"
#include "jwt/jose.c"
#include "jwt/jwk.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8 zeros[GN_JWK_MAX_SIGNATURE] = {0};
	char *text = palloc(size); /* exactly as long: one byte more is found */
	char first[GN_JWK_THUMBPRINT_SIZE];
	char second[GN_JWK_THUMBPRINT_SIZE];
	GnJwkSet set;
	const char *why;

	memcpy(text, data, size);
	why = gn_jwk_set_parse(&set, text, size);
	assert(why || (set.count >= 1 && set.count <= GN_JWK_SET_MAX));
	for (int i = 0; i < set.count; i++)
	{
		GnJoseKey *key = &set.keys[i];

		assert(key->pkey && key->sign == NULL);
		assert(!gn_jose_verify(key, "abc", 3, zeros, 2 * key->alg->coordinate_size));
		if (set.kids[i][0])
			assert(gn_jwk_set_choose(&set, set.kids[i]) == key);
	}
	gn_jwk_set_free(&set);
	if (gn_jwk_thumbprint(text, size, first) == NULL)
	{
		json_t *json = gn_json_parse(text, size);
		char *other = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);

		assert(gn_jwk_thumbprint(other, strlen(other), second) == NULL);
		assert(memcmp(first, second, sizeof(first)) == 0);
		free(other);
		json_decref(json);
	}
	stub_reset();
	return 0;
}
