/* test/fuzz/jwk_fuzz.c -- a JWK or a JWK Set that somebody brings, to verify or to sign
 */
#include "jwt/base64url.c"
#include "jwt/jwa.c"
#include "jwt/jwk.c"
#include "jwt/pkey.c"
#include "jwt/strict_json.c"
#include "jwt/thumbprint.c"

#include "fuzz.h"

/* What signs also verifies, or its halves do not belong together; a signature of zeros
 * is nobody's. */
static void
try_to_sign(const char *text, size_t size)
{
	GnJoseKey key;
	GnKeyNumbers numbers;
	GnKeyNumbers unpacked;
	char kid[65];
	uint8 *room = exact_room(GN_JWA_NUMBERS_ROOM);
	uint8 *packed = exact_room(GN_JWA_NUMBERS_ROOM);
	uint8 *signature = exact_room(GN_JWA_MAX_SIGNATURE);
	size_t len;

	if (gn_jwk_private_parse(&key, kid, &numbers, room, text, size) == NULL)
	{
		CHECK(key.private && strnlen(kid, sizeof(kid)) < sizeof(kid));
		len = gn_jose_private_pack(&numbers, packed);
		unpacked = numbers;
		CHECK(gn_jose_private_unpack(key.kind, packed, len, &unpacked));
		if (key.alg && gn_jose_sign(&key, text, size, signature, &len))
		{
			CHECK(len == key.signature_size && len <= GN_JWA_MAX_SIGNATURE);
			(void) gn_jose_verify(&key, text, size, signature, len);
		}
		gn_jose_key_free(&key);
	}
	CHECK(key.pkey == NULL && key.secret == NULL);
	free(signature);
	free(packed);
	free(room);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static GnJwkSet set;
	char *text = exact_copy(data, size);
	char thumbprint[GN_JWK_THUMBPRINT_SIZE];
	static const uint8 zeros[GN_JWA_MAX_SIGNATURE];

	if (gn_jwk_set_parse(&set, text, size) == NULL)
	{
		CHECK(set.count > 0 && set.count <= GN_JWK_SET_MAX);
		for (int i = 0; i < set.count; i++)
		{
			GnJoseKey *key = &set.keys[i];

			CHECK(key->kind != NULL && (key->pkey != NULL) != (key->secret != NULL));
			CHECK(key->private == set.keys[0].private);
			if (key->alg)
				CHECK(!gn_jose_verify(key, text, size, zeros, key->signature_size) ||
					  key->alg->family == GN_JOSE_EDDSA);
		}
	}
	gn_jwk_set_free(&set);
	try_to_sign(text, size);
	gn_jwk_thumbprint(text, size, thumbprint);
	free(text);
	return 0;
}
