/*
 * src/jwt/private.c
 *	  Private keys as other programs write them: PEM and JWK.
 *
 * What is taken must sign what its own public part verifies: a private part beside a
 * public one that is not its own would give itself away with its signatures. The JSON
 * reader's memory is overwritten before it is given back; libcrypto does so itself.
 *
 * Pure: no server, nothing raised.
 */
#include "postgres.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include "jwt/jwk.h"
#include "jwt/private.h"

/* Memory that forgets, for jansson: each block knows its size. */

typedef union Block
{
	size_t size;
	max_align_t align;
} Block;

static void *
wiping_malloc(size_t size)
{
	Block *block = malloc(sizeof(Block) + size);

	if (block == NULL)
		return NULL;
	block->size = size;
	return block + 1;
}

static void
wiping_free(void *memory)
{
	Block *block = memory;

	if (block == NULL)
		return;
	block--;
	OPENSSL_cleanse(block + 1, block->size);
	free(block);
}

/* Nothing else of jansson's is alive meanwhile, and nothing of this outlives it. */
static const char *
parse_jwk(const char *text, size_t len, GnJoseKey *key, GnKeyNumbers *numbers,
		  uint8 *room)
{
	json_malloc_t usual_malloc;
	json_free_t usual_free;
	char kid[65];
	const char *why;

	json_get_alloc_funcs(&usual_malloc, &usual_free);
	json_set_alloc_funcs(wiping_malloc, wiping_free);
	why = gn_jwk_private_parse(key, kid, numbers, room, text, len);
	json_set_alloc_funcs(usual_malloc, usual_free);
	return why;
}

/* Of a key that serves several algorithms: the wanted one, or the usual one. */
static const char *
settle(GnJoseKey *key, const GnJoseAlg *wanted)
{
	if (key->alg || (wanted && gn_jose_key_settle(key, wanted)))
		return NULL;
	if (strcmp(key->kind->kty, "oct") == 0)
		return "a symmetric key must say its alg";
	return gn_jose_key_settle(key, gn_jose_alg("RS256")) ? NULL
														 : "it fits no algorithm";
}

static const char *
read_jwk(const char *text, size_t len, const GnJoseAlg *wanted, const GnJoseAlg **alg,
		 GnKeyNumbers *numbers, uint8 *room)
{
	GnJoseKey key;
	const char *why = parse_jwk(text, len, &key, numbers, room);

	if (why)
		return why;
	why = settle(&key, wanted);
	*alg = key.alg;
	gn_jose_key_free(&key);
	return why;
}

static const GnJoseAlg *
alg_of_curve(EVP_PKEY *pkey)
{
	static const struct
	{
		const char *group;
		const char *alg;
	} curves[] = {
		{SN_X9_62_prime256v1, "ES256"},
		{SN_secp384r1, "ES384"},
		{SN_secp521r1, "ES512"},
		{SN_secp256k1, "ES256K"},
	};
	char group[64];

	if (EVP_PKEY_get_group_name(pkey, group, sizeof(group), NULL) != 1)
		return NULL;
	for (size_t i = 0; i < lengthof(curves); i++)
	{
		if (strcmp(curves[i].group, group) == 0)
			return gn_jose_alg(curves[i].alg);
	}
	return NULL;
}

static const GnJoseAlg *
alg_of_pkey(EVP_PKEY *pkey, const GnJoseAlg *wanted)
{
	if (EVP_PKEY_is_a(pkey, "EC"))
		return alg_of_curve(pkey);
	if (EVP_PKEY_is_a(pkey, "ED25519"))
		return gn_jose_alg("EdDSA");
	if (EVP_PKEY_is_a(pkey, "RSA-PSS"))
		return wanted && wanted->family == GN_JOSE_PSS ? wanted : gn_jose_alg("PS256");
	if (EVP_PKEY_is_a(pkey, "RSA"))
		return wanted && strcmp(wanted->kty, "RSA") == 0 ? wanted
														 : gn_jose_alg("RS256");
	return NULL;
}

/* Asked for when a key is encrypted. */
static int
no_passphrase(char *buffer, int size, int writing, void *arg)
{
	return -1;
}

static bool
holds(const char *text, size_t len, const char *wanted)
{
	size_t n = strlen(wanted);

	for (size_t i = 0; i + n <= len; i++)
	{
		if (memcmp(text + i, wanted, n) == 0)
			return true;
	}
	return false;
}

static const char *
explain_pem(const char *text, size_t len)
{
	if (holds(text, len, "ENCRYPTED"))
		return "it is encrypted: decrypt it first";
	if (!holds(text, len, "PRIVATE KEY-----"))
		return "it holds no private key";
	return "it is not a private key that libcrypto can read";
}

static const char *
read_pem(const char *text, size_t len, const GnJoseAlg *wanted, const GnJoseAlg **alg,
		 GnKeyNumbers *numbers, uint8 *room)
{
	BIO *bio = BIO_new_mem_buf(text, (int) len);
	EVP_PKEY *pkey =
		bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;
	EVP_PKEY *second =
		pkey ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;
	const char *why = NULL;

	if (pkey == NULL)
		why = explain_pem(text, len);
	else if (second)
		why = "it holds more than one key";
	else if ((*alg = alg_of_pkey(pkey, wanted)) == NULL)
		why = "its type or curve is not supported";
	else if (!gn_jose_key_export(pkey, *alg, room, numbers))
		why = "its numbers are not acceptable";
	EVP_PKEY_free(pkey);
	EVP_PKEY_free(second);
	BIO_free(bio);
	ERR_clear_error();
	return why;
}

/* Signs with the private part, verifies with nothing but the public one. */
static const char *
try_key(const GnJoseAlg *alg, const GnKeyNumbers *numbers)
{
	static const char message[] = "private and public part belong together";
	GnKeyNumbers shown = {.n = numbers->n,
						  .e = numbers->e,
						  .x = numbers->x,
						  .y = numbers->y};
	uint8 signature[GN_JWA_MAX_SIGNATURE];
	size_t signature_len;
	GnJoseKey signer = {0};
	GnJoseKey verifier = {0};
	const char *why = gn_jose_key_build(&signer, alg, numbers);

	if (why == NULL && alg->family != GN_JOSE_HMAC)
	{
		why = gn_jose_key_build(&verifier, alg, &shown);
		if (why == NULL && (!gn_jose_sign(&signer, message, sizeof(message), signature,
										  &signature_len) ||
							!gn_jose_verify(&verifier, message, sizeof(message),
											signature, signature_len)))
			why = "its private part does not belong to its public part";
		gn_jose_key_free(&verifier);
	}
	gn_jose_key_free(&signer);
	return why;
}

static bool
is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

const char *
gn_private_key_read(const char *text, size_t len, const GnJoseAlg *wanted,
					const GnJoseAlg **alg, GnKeyNumbers *numbers, uint8 *room)
{
	const char *why;

	while (len > 0 && is_space(*text))
	{
		text++;
		len--;
	}
	if (len == 0 || memchr(text, '\0', len))
		return "it is neither PEM nor a JWK";
	why = *text == '{' ? read_jwk(text, len, wanted, alg, numbers, room)
					   : read_pem(text, len, wanted, alg, numbers, room);
	return why ? why : try_key(*alg, numbers);
}
