/*
 * src/jwt/jwk.c
 *	  JSON Web Keys as libcrypto keys; signing and verifying in JWS form.
 *
 * Keys are built from their numbers with EVP_PKEY_fromdata, which takes 16 us,
 * where reading PEM takes 600; the context of a key is kept and used again, which
 * is worth as much once more. ECDSA signatures are r and s side by side in JWS and
 * DER in libcrypto: exactly 2n bytes are taken, so a signature has one length.
 *
 * Pure: no server, nothing raised.
 */
#include "postgres.h"

#include <string.h>

#include <jansson.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/param_build.h>

#include "jwt/base64url.h"
#include "jwt/jose.h"
#include "jwt/jwk.h"

static const GnJoseAlg algorithms[] = {
	{"ES256", "EC", "P-256", "P-256", "SHA256", 32},
	{"ES384", "EC", "P-384", "P-384", "SHA384", 48},
	{"ES512", "EC", "P-521", "P-521", "SHA512", 66},
};

#define ALGORITHM_COUNT (sizeof(algorithms) / sizeof(algorithms[0]))

/* Fetched once: an implicit fetch takes locks at every call. */
static EVP_MD *digests[ALGORITHM_COUNT];
static EVP_MD_CTX *digest_ctx = NULL;

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

static bool
digest_input(const GnJoseAlg *alg, const void *input, size_t len, uint8 *out,
			 unsigned int *out_len)
{
	EVP_MD **md = &digests[alg - algorithms];

	if (*md == NULL)
		*md = EVP_MD_fetch(NULL, alg->digest, NULL);
	if (digest_ctx == NULL)
		digest_ctx = EVP_MD_CTX_new();
	return *md && digest_ctx && EVP_DigestInit_ex2(digest_ctx, *md, NULL) == 1 &&
		   EVP_DigestUpdate(digest_ctx, input, len) == 1 &&
		   EVP_DigestFinal_ex(digest_ctx, out, out_len) == 1;
}

static EVP_PKEY *
build_pkey(const GnJoseAlg *alg, const uint8 *x, const uint8 *y, const uint8 *d)
{
	size_t n = alg->coordinate_size;
	uint8 point[1 + 2 * GN_JWK_MAX_COORDINATE];
	OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();
	OSSL_PARAM *params = NULL;
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
	BIGNUM *secret = d ? BN_secure_new() : NULL;
	EVP_PKEY *pkey = NULL;
	bool ready;

	point[0] = POINT_CONVERSION_UNCOMPRESSED;
	memcpy(point + 1, x, n);
	memcpy(point + 1 + n, y, n);
	ready = builder && ctx &&
			OSSL_PARAM_BLD_push_utf8_string(builder, OSSL_PKEY_PARAM_GROUP_NAME,
											alg->group, 0) == 1 &&
			OSSL_PARAM_BLD_push_octet_string(builder, OSSL_PKEY_PARAM_PUB_KEY, point,
											 1 + 2 * n) == 1;
	if (ready && d)
		ready = secret && BN_bin2bn(d, (int) n, secret) != NULL &&
				OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_PRIV_KEY, secret) == 1;
	if (ready)
		params = OSSL_PARAM_BLD_to_param(builder);
	/* fromdata refuses a point that is not on the curve */
	if (params == NULL || EVP_PKEY_fromdata_init(ctx) != 1 ||
		EVP_PKEY_fromdata(ctx, &pkey, d ? EVP_PKEY_KEYPAIR : EVP_PKEY_PUBLIC_KEY,
						  params) != 1)
		pkey = NULL;
	OSSL_PARAM_free(params);
	OSSL_PARAM_BLD_free(builder);
	EVP_PKEY_CTX_free(ctx);
	BN_clear_free(secret);
	ERR_clear_error();
	return pkey;
}

bool
gn_jose_key_build(GnJoseKey *key, const GnJoseAlg *alg, const uint8 *x, const uint8 *y,
				  const uint8 *d)
{
	memset(key, 0, sizeof(*key));
	key->alg = alg;
	key->pkey = build_pkey(alg, x, y, d);
	if (key->pkey && d)
	{
		key->sign = EVP_PKEY_CTX_new_from_pkey(NULL, key->pkey, NULL);
		if (key->sign == NULL || EVP_PKEY_sign_init(key->sign) != 1)
			gn_jose_key_free(key);
	}
	return key->pkey != NULL;
}

void
gn_jose_key_free(GnJoseKey *key)
{
	EVP_PKEY_CTX_free(key->sign);
	EVP_PKEY_CTX_free(key->verify);
	EVP_PKEY_free(key->pkey);
	memset(key, 0, sizeof(*key));
}

static bool
export_number(EVP_PKEY *pkey, const char *name, uint8 *out, size_t size)
{
	BIGNUM *number = NULL;
	bool done = EVP_PKEY_get_bn_param(pkey, name, &number) == 1 &&
				BN_bn2binpad(number, out, (int) size) == (int) size;

	BN_clear_free(number);
	return done;
}

bool
gn_jose_key_generate(const GnJoseAlg *alg, uint8 *x, uint8 *y, uint8 *d)
{
	EVP_PKEY *pkey = EVP_EC_gen(alg->group);
	bool done =
		pkey &&
		export_number(pkey, OSSL_PKEY_PARAM_EC_PUB_X, x, alg->coordinate_size) &&
		export_number(pkey, OSSL_PKEY_PARAM_EC_PUB_Y, y, alg->coordinate_size) &&
		export_number(pkey, OSSL_PKEY_PARAM_PRIV_KEY, d, alg->coordinate_size);

	EVP_PKEY_free(pkey);
	return done;
}

/* DER to r and s, each padded to n bytes. */
static bool
raw_signature(const uint8 *der, size_t der_len, size_t n, uint8 *out)
{
	const uint8 *at = der;
	ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &at, (long) der_len);
	bool done = sig && BN_bn2binpad(ECDSA_SIG_get0_r(sig), out, (int) n) == (int) n &&
				BN_bn2binpad(ECDSA_SIG_get0_s(sig), out + n, (int) n) == (int) n;

	ECDSA_SIG_free(sig);
	return done;
}

/* r and s to DER; the caller frees *der with OPENSSL_free. */
static int
der_signature(const uint8 *raw, size_t n, uint8 **der)
{
	ECDSA_SIG *sig = ECDSA_SIG_new();
	BIGNUM *r = BN_bin2bn(raw, (int) n, NULL);
	BIGNUM *s = BN_bin2bn(raw + n, (int) n, NULL);
	int len = -1;

	if (sig && r && s && ECDSA_SIG_set0(sig, r, s) == 1)
	{
		r = s = NULL;
		len = i2d_ECDSA_SIG(sig, der);
	}
	BN_free(r);
	BN_free(s);
	ECDSA_SIG_free(sig);
	return len;
}

bool
gn_jose_sign(GnJoseKey *key, const void *input, size_t len, uint8 *out, size_t *out_len)
{
	uint8 digest[EVP_MAX_MD_SIZE];
	unsigned int digest_len;
	uint8 der[GN_JWK_MAX_SIGNATURE + 16];
	size_t der_len = sizeof(der);

	if (key->sign == NULL || !digest_input(key->alg, input, len, digest, &digest_len) ||
		EVP_PKEY_sign(key->sign, der, &der_len, digest, digest_len) != 1 ||
		!raw_signature(der, der_len, key->alg->coordinate_size, out))
	{
		ERR_clear_error();
		return false;
	}
	*out_len = 2 * key->alg->coordinate_size;
	return true;
}

bool
gn_jose_verify(GnJoseKey *key, const void *input, size_t len, const uint8 *signature,
			   size_t signature_len)
{
	uint8 digest[EVP_MAX_MD_SIZE];
	unsigned int digest_len;
	uint8 *der = NULL;
	int der_len;
	bool valid;

	if (signature_len != 2 * key->alg->coordinate_size)
		return false;
	if (key->verify == NULL)
	{
		key->verify = EVP_PKEY_CTX_new_from_pkey(NULL, key->pkey, NULL);
		if (key->verify && EVP_PKEY_verify_init(key->verify) != 1)
		{
			EVP_PKEY_CTX_free(key->verify);
			key->verify = NULL;
		}
	}
	der_len = der_signature(signature, key->alg->coordinate_size, &der);
	/* libcrypto refuses r and s outside [1, n-1] */
	valid =
		key->verify && der_len > 0 &&
		digest_input(key->alg, input, len, digest, &digest_len) &&
		EVP_PKEY_verify(key->verify, der, (size_t) der_len, digest, digest_len) == 1;
	OPENSSL_free(der);
	ERR_clear_error();
	return valid;
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
	uint8 signature[64];
	GnJoseKey key;

	memset(signature, 1, sizeof(signature));
	if (gn_jose_key_build(&key, &algorithms[0], x, y, NULL))
		(void) gn_jose_verify(&key, "", 0, signature, sizeof(signature));
	gn_jose_key_free(&key);
}

/* A base64url member of exactly size bytes. */
static bool
read_bytes(const json_t *jwk, const char *name, uint8 *out, size_t size)
{
	const json_t *value = json_object_get(jwk, name);
	size_t len;

	return json_is_string(value) &&
		   json_string_length(value) == GN_BASE64URL_ENCODED_SIZE(size) &&
		   gn_base64url_decode(json_string_value(value), json_string_length(value), out,
							   &len) &&
		   len == size;
}

static const char *
string_member(const json_t *object, const char *name)
{
	return json_string_value(
		json_object_get(object, name)); /* NULL unless it is a string */
}

/* What a key says about its own use must allow verifying. */
static const char *
refuse_use(const json_t *jwk, const GnJoseAlg *alg)
{
	const json_t *operations = json_object_get(jwk, "key_ops");
	const char *use = string_member(jwk, "use");
	const char *own = string_member(jwk, "alg");
	bool verify = false;

	if (json_object_get(jwk, "use") && (use == NULL || strcmp(use, "sig") != 0))
		return "its use is not \"sig\"";
	if (json_object_get(jwk, "alg") && (own == NULL || strcmp(own, alg->name) != 0))
		return "its alg does not fit its curve";
	if (operations == NULL)
		return NULL;
	for (size_t i = 0; i < json_array_size(operations); i++)
	{
		const char *operation = json_string_value(json_array_get(operations, i));

		verify |= operation && strcmp(operation, "verify") == 0;
	}
	return verify ? NULL : "its key_ops do not allow \"verify\"";
}

static const char *
build_public(const json_t *jwk, GnJoseKey *key)
{
	const char *kty = string_member(jwk, "kty");
	const char *crv = string_member(jwk, "crv");
	const GnJoseAlg *alg = NULL;
	uint8 x[GN_JWK_MAX_COORDINATE];
	uint8 y[GN_JWK_MAX_COORDINATE];
	const char *why;

	memset(key, 0, sizeof(*key));
	if (kty == NULL)
		return "it has no kty";
	if (json_object_get(jwk, "d") || strcmp(kty, "oct") == 0)
		return "it is a private or symmetric key; only public keys may be passed "
			   "around";
	for (size_t i = 0; i < ALGORITHM_COUNT && alg == NULL; i++)
	{
		if (crv && strcmp(kty, algorithms[i].kty) == 0 &&
			strcmp(crv, algorithms[i].crv) == 0)
			alg = &algorithms[i];
	}
	if (alg == NULL)
		return "its kty and crv are not supported";
	why = refuse_use(jwk, alg);
	if (why)
		return why;
	if (!read_bytes(jwk, "x", x, alg->coordinate_size) ||
		!read_bytes(jwk, "y", y, alg->coordinate_size))
		return "its x or y is not a base64url coordinate of the curve";
	if (!gn_jose_key_build(key, alg, x, y, NULL))
		return "its point is not on the curve";
	return NULL;
}

static const char *
add_key(GnJwkSet *set, const json_t *jwk)
{
	const json_t *kid = json_object_get(jwk, "kid");
	char *own = set->kids[set->count];
	const char *why;

	if (!json_is_object(jwk))
		return "a key is not an object";
	if (kid && (!json_is_string(kid) || json_string_length(kid) == 0 ||
				json_string_length(kid) >= sizeof(set->kids[0])))
		return "its kid is not a string of 1 to 64 bytes";
	if (kid)
		memcpy(own, json_string_value(kid), json_string_length(kid) + 1);
	for (int i = 0; kid && i < set->count; i++)
	{
		if (strcmp(set->kids[i], own) == 0)
			return "two keys have the same kid";
	}
	why = build_public(jwk, &set->keys[set->count]);
	if (why == NULL)
		set->count++;
	return why;
}

static const char *
add_keys(GnJwkSet *set, const json_t *json)
{
	const json_t *keys = json_object_get(json, "keys");
	const char *why = NULL;

	if (keys == NULL)
		return add_key(set, json);
	if (!json_is_array(keys) || json_array_size(keys) == 0)
		return "\"keys\" is not an array with keys";
	if (json_array_size(keys) > GN_JWK_SET_MAX)
		return "there are more than 64 keys";
	for (size_t i = 0; i < json_array_size(keys) && why == NULL; i++)
		why = add_key(set, json_array_get(keys, i));
	return why;
}

const char *
gn_jwk_set_parse(GnJwkSet *set, const char *text, size_t len)
{
	json_t *json = gn_json_parse(text, len);
	const char *why;

	memset(set, 0, sizeof(*set));
	if (json == NULL)
		return "it is not a JSON object";
	why = add_keys(set, json);
	json_decref(json);
	return why;
}

void
gn_jwk_set_free(GnJwkSet *set)
{
	for (int i = 0; i < set->count; i++)
		gn_jose_key_free(&set->keys[i]);
	set->count = 0;
}

GnJoseKey *
gn_jwk_set_choose(GnJwkSet *set, const char *kid)
{
	for (int i = 0; *kid && i < set->count; i++)
	{
		if (strcmp(set->kids[i], kid) == 0)
			return &set->keys[i];
	}
	return set->count == 1 && (*kid == '\0' || set->kids[0][0] == '\0') ? &set->keys[0]
																		: NULL;
}

/* The members that RFC 7638 takes, in lexicographic order. */
static const struct
{
	const char *kty;
	const char *members[5];
} thumbprint_members[] = {
	{"EC", {"crv", "kty", "x", "y", NULL}},
	{"OKP", {"crv", "kty", "x", NULL}},
	{"RSA", {"e", "kty", "n", NULL}},
};

#define THUMBPRINT_KINDS (sizeof(thumbprint_members) / sizeof(thumbprint_members[0]))

/* Its members are all of an alphabet that JSON writes without escapes. */
static bool
plain_member(const char *name, const char *value)
{
	uint8 bytes[3];
	size_t len;

	if (strcmp(name, "kty") == 0 || strcmp(name, "crv") == 0)
		return strspn(
				   value,
				   "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-") ==
			   strlen(value);
	len = strlen(value);
	if (len == 0 || len > 2048)
		return false;
	while (len > 4) /* group by group: any size without a buffer */
	{
		if (!gn_base64url_decode(value, 4, bytes, &(size_t){0}))
			return false;
		value += 4;
		len -= 4;
	}
	return gn_base64url_decode(value, len, bytes, &len);
}

static const char *
thumbprint(const json_t *jwk, char out[GN_JWK_THUMBPRINT_SIZE])
{
	const char *kty = string_member(jwk, "kty");
	const char *const *members = NULL;
	uint8 digest[EVP_MAX_MD_SIZE];
	EVP_MD_CTX *ctx;
	const char *why = NULL;

	if (kty == NULL)
		return "it has no kty";
	if (strcmp(kty, "oct") == 0)
		return "the thumbprint of a symmetric key would tell about the key";
	for (size_t i = 0; i < THUMBPRINT_KINDS && members == NULL; i++)
	{
		if (strcmp(kty, thumbprint_members[i].kty) == 0)
			members = thumbprint_members[i].members;
	}
	if (members == NULL)
		return "its kty is not supported";
	ctx = EVP_MD_CTX_new();
	if (ctx == NULL || EVP_DigestInit_ex2(ctx, EVP_sha256(), NULL) != 1)
		why = "libcrypto failed";
	for (int i = 0; members[i] && why == NULL; i++)
	{
		const char *value = string_member(jwk, members[i]);

		if (value == NULL || !plain_member(members[i], value))
			why = "a member that its kty needs is missing or not base64url";
		else if (EVP_DigestUpdate(ctx, i ? ",\"" : "{\"", 2) != 1 ||
				 EVP_DigestUpdate(ctx, members[i], strlen(members[i])) != 1 ||
				 EVP_DigestUpdate(ctx, "\":\"", 3) != 1 ||
				 EVP_DigestUpdate(ctx, value, strlen(value)) != 1 ||
				 EVP_DigestUpdate(ctx, "\"", 1) != 1)
			why = "libcrypto failed";
	}
	if (why == NULL && (EVP_DigestUpdate(ctx, "}", 1) != 1 ||
						EVP_DigestFinal_ex(ctx, digest, NULL) != 1))
		why = "libcrypto failed";
	EVP_MD_CTX_free(ctx);
	if (why == NULL)
		gn_base64url_encode(digest, 32, out);
	return why;
}

const char *
gn_jwk_thumbprint(const char *text, size_t len, char out[GN_JWK_THUMBPRINT_SIZE])
{
	json_t *jwk = gn_json_parse(text, len);
	const char *why = jwk ? thumbprint(jwk, out) : "it is not a JSON object";

	json_decref(jwk);
	return why;
}
