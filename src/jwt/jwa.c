/*
 * src/jwt/jwa.c
 *	  Signing and verifying in the form of JWS.
 *
 * The context of a key is kept and used again, and digests are fetched once: an
 * implicit fetch takes locks at every call. ECDSA signatures are r and s side by side
 * in JWS and DER in libcrypto: exactly 2n bytes are taken, so a signature has one
 * length; RSA and Ed25519 have one by their nature, and MACs are never truncated.
 *
 * Pure: no server, nothing raised.
 */
#include "postgres.h"

#include <string.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rsa.h>

#include "jwt/jwa.h"

static const GnJoseAlg algorithms[] = {
	{"HS256", "oct", NULL, NULL, "SHA256", GN_JOSE_HMAC, 32},
	{"HS384", "oct", NULL, NULL, "SHA384", GN_JOSE_HMAC, 48},
	{"HS512", "oct", NULL, NULL, "SHA512", GN_JOSE_HMAC, 64},
	{"RS256", "RSA", NULL, NULL, "SHA256", GN_JOSE_RSA, 0},
	{"RS384", "RSA", NULL, NULL, "SHA384", GN_JOSE_RSA, 0},
	{"RS512", "RSA", NULL, NULL, "SHA512", GN_JOSE_RSA, 0},
	{"PS256", "RSA", NULL, NULL, "SHA256", GN_JOSE_PSS, 0},
	{"PS384", "RSA", NULL, NULL, "SHA384", GN_JOSE_PSS, 0},
	{"PS512", "RSA", NULL, NULL, "SHA512", GN_JOSE_PSS, 0},
	{"ES256", "EC", "P-256", "P-256", "SHA256", GN_JOSE_ECDSA, 32},
	{"ES384", "EC", "P-384", "P-384", "SHA384", GN_JOSE_ECDSA, 48},
	{"ES512", "EC", "P-521", "P-521", "SHA512", GN_JOSE_ECDSA, 66},
	{"ES256K", "EC", "secp256k1", "secp256k1", "SHA256", GN_JOSE_ECDSA, 32},
	{"EdDSA", "OKP", "Ed25519", NULL, NULL, GN_JOSE_EDDSA, 32},
};

#define ALGORITHM_COUNT (sizeof(algorithms) / sizeof(algorithms[0]))

/* DER of r and s of up to 66 bytes: each may need a byte more, and the header three. */
#define DER_MAX (3 + 2 * (3 + GN_JWA_MAX_COORDINATE + 1))

static EVP_MD *digests[ALGORITHM_COUNT];
static EVP_MD_CTX *digest_ctx = NULL;
static EVP_MAC *hmac = NULL;

const GnJoseAlg *
gn_jose_alg(const char *name)
{
	for (size_t i = 0; i < ALGORITHM_COUNT; i++)
	{
		if (strcmp(algorithms[i].name, name) == 0)
			return &algorithms[i];
	}
	return NULL;
}

const GnJoseAlg *
gn_jose_alg_of_type(const char *kty, const char *crv)
{
	for (size_t i = 0; i < ALGORITHM_COUNT; i++)
	{
		const GnJoseAlg *alg = &algorithms[i];

		if (strcmp(alg->kty, kty) == 0 &&
			(alg->crv == NULL || (crv && strcmp(alg->crv, crv) == 0)))
			return alg;
	}
	return NULL;
}

static EVP_MD *
digest_of(const GnJoseAlg *alg)
{
	EVP_MD **md = &digests[alg - algorithms];

	if (*md == NULL)
		*md = EVP_MD_fetch(NULL, alg->digest, NULL);
	return *md;
}

static bool
digest_input(const GnJoseAlg *alg, const void *input, size_t len, uint8 *out,
			 unsigned int *out_len)
{
	EVP_MD *md = digest_of(alg);

	if (digest_ctx == NULL)
		digest_ctx = EVP_MD_CTX_new();
	return md && digest_ctx && EVP_DigestInit_ex2(digest_ctx, md, NULL) == 1 &&
		   EVP_DigestUpdate(digest_ctx, input, len) == 1 &&
		   EVP_DigestFinal_ex(digest_ctx, out, out_len) == 1;
}

static bool
begin_mac(GnJoseKey *key)
{
	OSSL_PARAM params[2];

	if (hmac == NULL)
		hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	params[0] =
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST,
										 (char *) (uintptr_t) key->alg->digest, 0);
	params[1] = OSSL_PARAM_construct_end();
	key->mac = hmac ? EVP_MAC_CTX_new(hmac) : NULL;
	return key->mac &&
		   EVP_MAC_init(key->mac, key->secret, key->secret_len, params) == 1;
}

/* The key is prepared once; NULL begins anew with it. */
static bool
compute_mac(GnJoseKey *key, const void *input, size_t len, uint8 *out)
{
	size_t out_len;

	if (key->mac == NULL ? !begin_mac(key) : EVP_MAC_init(key->mac, NULL, 0, NULL) != 1)
		return false;
	return EVP_MAC_update(key->mac, input, len) == 1 &&
		   EVP_MAC_final(key->mac, out, &out_len, key->alg->size) == 1 &&
		   out_len == key->alg->size;
}

/* RFC 7518, 3.5: MGF1 over the same digest, and a salt as long as it. */
static bool
set_padding(EVP_PKEY_CTX *ctx, const GnJoseAlg *alg)
{
	EVP_MD *md = digest_of(alg);

	if (md == NULL || EVP_PKEY_CTX_set_signature_md(ctx, md) != 1)
		return false;
	if (alg->family == GN_JOSE_RSA)
		return EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PADDING) == 1;
	return EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PSS_PADDING) == 1 &&
		   EVP_PKEY_CTX_set_rsa_mgf1_md(ctx, md) == 1 &&
		   EVP_PKEY_CTX_set_rsa_pss_saltlen(ctx, RSA_PSS_SALTLEN_DIGEST) == 1;
}

static bool
begin_pkey(GnJoseKey *key, EVP_PKEY_CTX **ctx, int (*init)(EVP_PKEY_CTX *))
{
	if (*ctx)
		return true;
	*ctx = EVP_PKEY_CTX_new_from_pkey(NULL, key->pkey, NULL);
	if (*ctx && init(*ctx) == 1 &&
		(key->alg->family == GN_JOSE_ECDSA || set_padding(*ctx, key->alg)))
		return true;
	EVP_PKEY_CTX_free(*ctx);
	*ctx = NULL;
	return false;
}

static bool
begin_one_shot(GnJoseKey *key, EVP_MD_CTX **ctx, bool again,
			   int (*init)(EVP_MD_CTX *, EVP_PKEY_CTX **, const EVP_MD *, ENGINE *,
						   EVP_PKEY *))
{
	if (*ctx && !again)
		return true;
	EVP_MD_CTX_free(*ctx);
	*ctx = EVP_MD_CTX_new();
	if (*ctx && init(*ctx, NULL, NULL, NULL, key->pkey) == 1)
		return true;
	EVP_MD_CTX_free(*ctx);
	*ctx = NULL;
	return false;
}

/*
 * Beginning costs a third of a signature, and the contexts of OpenSSL 3.0 can be used
 * again as they are. Later ones refuse that at once, and are begun again. A refusal is
 * told from a bad signature by its error.
 */
static bool
one_shot_used_up(void)
{
	unsigned long error = ERR_peek_last_error();

	return ERR_GET_LIB(error) == ERR_LIB_EVP;
}

static bool
sign_one_shot(GnJoseKey *key, const void *input, size_t len, uint8 *out,
			  size_t *out_len)
{
	for (int attempt = 0; attempt < 2; attempt++)
	{
		*out_len = GN_JWA_MAX_SIGNATURE;
		if (!begin_one_shot(key, &key->one_shot_sign, attempt > 0, EVP_DigestSignInit))
			return false;
		if (EVP_DigestSign(key->one_shot_sign, out, out_len, input, len) == 1)
			return true;
	}
	return false;
}

static bool
verify_one_shot(GnJoseKey *key, const void *input, size_t len, const uint8 *signature,
				size_t signature_len)
{
	for (int attempt = 0; attempt < 2; attempt++)
	{
		if (!begin_one_shot(key, &key->one_shot_verify, attempt > 0,
							EVP_DigestVerifyInit))
			return false;
		if (EVP_DigestVerify(key->one_shot_verify, signature, signature_len, input,
							 len) == 1)
			return true;
		if (!one_shot_used_up())
			return false;
	}
	return false;
}

/* One INTEGER of DER: no more leading zeros than its sign needs. */
static uint8 *
put_integer(uint8 *out, const uint8 *number, size_t len)
{
	while (len > 1 && *number == 0)
	{
		number++;
		len--;
	}
	*out++ = 2;
	*out++ = (uint8) (len + (*number >> 7));
	if (*number >> 7)
		*out++ = 0;
	memcpy(out, number, len);
	return out + len;
}

/* r and s, n bytes each, to DER; out takes DER_MAX bytes. Returns how many. */
static size_t
der_signature(const uint8 *raw, size_t n, uint8 *out)
{
	uint8 body[DER_MAX];
	size_t len = (size_t) (put_integer(put_integer(body, raw, n), raw + n, n) - body);
	uint8 *at = out;

	*at++ = 0x30;
	if (len > 127)
		*at++ = 0x81;
	*at++ = (uint8) len;
	memcpy(at, body, len);
	return (size_t) (at - out) + len;
}

/* What libcrypto itself wrote: right-aligned into n bytes. NULL: it is something else.
 */
static const uint8 *
get_integer(const uint8 *at, const uint8 *end, size_t n, uint8 *out)
{
	size_t len;

	if (end - at < 2 || at[0] != 2 || at[1] > 127 || end - at - 2 < at[1])
		return NULL;
	len = at[1];
	at += 2;
	while (len > 0 && *at == 0)
	{
		at++;
		len--;
	}
	if (len > n)
		return NULL;
	memset(out, 0, n - len);
	memcpy(out + n - len, at, len);
	return at + len;
}

static bool
raw_signature(const uint8 *der, size_t der_len, size_t n, uint8 *out)
{
	const uint8 *end = der + der_len;
	const uint8 *at = der + (der_len > 2 && der[1] == 0x81 ? 3 : 2);

	if (der_len < 8 || der[0] != 0x30)
		return false;
	at = get_integer(at, end, n, out);
	if (at)
		at = get_integer(at, end, n, out + n);
	return at == end;
}

static bool
sign_digest(GnJoseKey *key, const void *input, size_t len, uint8 *out, size_t *out_len)
{
	uint8 digest[EVP_MAX_MD_SIZE];
	unsigned int digest_len;
	uint8 der[DER_MAX + 16];
	size_t der_len = sizeof(der);

	if (!begin_pkey(key, &key->sign, EVP_PKEY_sign_init) ||
		!digest_input(key->alg, input, len, digest, &digest_len))
		return false;
	if (key->alg->family != GN_JOSE_ECDSA)
	{
		*out_len = GN_JWA_MAX_SIGNATURE;
		return EVP_PKEY_sign(key->sign, out, out_len, digest, digest_len) == 1;
	}
	*out_len = key->signature_size;
	return EVP_PKEY_sign(key->sign, der, &der_len, digest, digest_len) == 1 &&
		   raw_signature(der, der_len, key->alg->size, out);
}

bool
gn_jose_sign(GnJoseKey *key, const void *input, size_t len, uint8 *out, size_t *out_len)
{
	bool done = false;

	if (key->private && key->alg)
	{
		*out_len = key->signature_size;
		if (key->alg->family == GN_JOSE_HMAC)
			done = compute_mac(key, input, len, out);
		else if (key->alg->family == GN_JOSE_EDDSA)
			done = sign_one_shot(key, input, len, out, out_len);
		else
			done = sign_digest(key, input, len, out, out_len);
	}
	if (!done)
		ERR_clear_error();
	return done && *out_len == key->signature_size;
}

static bool
verify_mac(GnJoseKey *key, const void *input, size_t len, const uint8 *mac)
{
	uint8 expected[EVP_MAX_MD_SIZE];
	bool valid = compute_mac(key, input, len, expected) &&
				 CRYPTO_memcmp(expected, mac, key->alg->size) == 0;

	OPENSSL_cleanse(expected, sizeof(expected));
	return valid;
}

/* libcrypto refuses r and s outside [1, n-1], and RSA signatures beyond the modulus. */
static bool
verify_digest(GnJoseKey *key, const uint8 *sha256, const void *input, size_t len,
			  const uint8 *signature, size_t signature_len)
{
	uint8 digest[EVP_MAX_MD_SIZE];
	unsigned int digest_len;
	uint8 der[DER_MAX];

	if (!begin_pkey(key, &key->verify, EVP_PKEY_verify_init))
		return false;
	if (sha256 && strcmp(key->alg->digest, "SHA256") == 0)
		memcpy(digest, sha256, digest_len = 32);
	else if (!digest_input(key->alg, input, len, digest, &digest_len))
		return false;
	if (key->alg->family == GN_JOSE_ECDSA)
	{
		signature_len = der_signature(signature, key->alg->size, der);
		signature = der;
	}
	return EVP_PKEY_verify(key->verify, signature, signature_len, digest, digest_len) ==
		   1;
}

bool
gn_jose_verify_hashed(GnJoseKey *key, const uint8 *sha256, const void *input,
					  size_t len, const uint8 *signature, size_t signature_len)
{
	bool valid;

	if (key->alg == NULL || signature_len != key->signature_size)
		return false;
	if (key->alg->family == GN_JOSE_HMAC)
		valid = verify_mac(key, input, len, signature);
	else if (key->alg->family == GN_JOSE_EDDSA)
		valid = verify_one_shot(key, input, len, signature, signature_len);
	else
		valid = verify_digest(key, sha256, input, len, signature, signature_len);
	if (!valid)
		ERR_clear_error();
	return valid;
}

bool
gn_jose_verify(GnJoseKey *key, const void *input, size_t len, const uint8 *signature,
			   size_t signature_len)
{
	return gn_jose_verify_hashed(key, NULL, input, len, signature, signature_len);
}

/* Verifies a signature of ones, which is nobody's, with some public key. */
static void
prepare_with(const char *alg, const GnKeyNumbers *numbers)
{
	static uint8 signature[256];
	GnJoseKey key;

	memset(signature, 1, sizeof(signature));
	if (gn_jose_key_build(&key, gn_jose_alg(alg), numbers) == NULL)
		(void) gn_jose_verify(&key, "", 0, signature, key.signature_size);
	gn_jose_key_free(&key);
}

void
gn_jose_prepare(void)
{
	/* the generator of P-256, as good a public key as any */
	static const uint8 x[] = {0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47,
							  0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2,
							  0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0,
							  0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96};
	static const uint8 y[] = {0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b,
							  0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16,
							  0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce,
							  0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5};
	static const uint8 e[] = {1, 0, 1};
	static const uint8 secret[32] = {1};
	static uint8 n[256]; /* an odd number of 2048 bits is a modulus for nothing */

	memset(n, 0xff, sizeof(n));
	prepare_with("ES256", &(GnKeyNumbers){.x = {x, 32}, .y = {y, 32}});
	prepare_with("EdDSA", &(GnKeyNumbers){.x = {x, 32}});
	prepare_with("RS256", &(GnKeyNumbers){.n = {n, 256}, .e = {e, 3}});
	prepare_with("HS256", &(GnKeyNumbers){.k = {secret, 32}});
}
