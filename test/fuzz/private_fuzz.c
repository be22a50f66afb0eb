/* test/fuzz/private_fuzz.c -- a private key from a file: PEM or a JWK */
#include "jwt/base64url.c"
#include "jwt/jwa.c"
#include "jwt/jwk.c"
#include "jwt/pkey.c"
#include "jwt/private.c"
#include "jwt/strict_json.c"
#include "jwt/thumbprint.c"

#include "fuzz.h"

/* What is taken is a whole key, which can be built again, is for the algorithm that was
 * wanted if it can be, and has a name. */
static void
read_for(const char *text, size_t size, const GnJoseAlg *wanted)
{
	uint8 *room = exact_room(GN_JWA_NUMBERS_ROOM);
	char *jwk = (char *) exact_room(GN_JWK_TEXT_MAX);
	const GnJoseAlg *alg = NULL;
	GnKeyNumbers numbers;
	GnJoseKey key;

	if (gn_private_key_read(text, size, wanted, &alg, &numbers, room) == NULL)
	{
		CHECK(alg != NULL);
		CHECK(gn_jose_key_build(&key, alg, &numbers) == NULL && key.private);
		gn_jose_key_free(&key);
		CHECK(gn_jwk_write_public(alg, &numbers, jwk) <= GN_JWK_TEXT_MAX);
	}
	free(jwk);
	free(room);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = exact_copy(data, size);

	read_for(text, size, NULL);
	read_for(text, size, gn_jose_alg("PS512"));
	free(text);
	return 0;
}
