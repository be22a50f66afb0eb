/*
 * src/jwt/pkey.c
 *	  Keys from their numbers, and fresh ones.
 *
 * Keys are built with EVP_PKEY_fromdata, which takes 3 to 16 us, where reading PEM
 * takes 600. What RFC 7518 and 8725 ask of a key is checked here, so that no key that
 * is too weak, or too expensive, exists.
 *
 * Pure: no server, nothing raised.
 */
#include "postgres.h"

#include <string.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/param_build.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>

#include "jwt/jwa.h"

#define RSA_MIN_BITS 2048
#define RSA_MAX_BITS 8192 /* beyond, verifying one is a denial of service */
#define RSA_MAX_EXPONENT 8
#define SECRET_MAX 1024

/* Numbers of libcrypto that live until the key is built, private ones in memory that is
 * wiped. */
typedef struct Builder
{
	OSSL_PARAM_BLD *params;
	BIGNUM *numbers[8];
	int count;
	bool good;
} Builder;

static void
begin(Builder *builder)
{
	memset(builder, 0, sizeof(*builder));
	builder->params = OSSL_PARAM_BLD_new();
	builder->good = builder->params != NULL;
}

static void
push_number(Builder *builder, const char *name, const GnNumber *number, bool private)
{
	BIGNUM *bn = private ? BN_secure_new() : BN_new();

	builder->numbers[builder->count++] = bn;
	builder->good = builder->good && bn &&
					BN_bin2bn(number->data, (int) number->len, bn) != NULL &&
					OSSL_PARAM_BLD_push_BN(builder->params, name, bn) == 1;
}

static EVP_PKEY *
finish(Builder *builder, const char *type, bool private)
{
	OSSL_PARAM *params =
		builder->good ? OSSL_PARAM_BLD_to_param(builder->params) : NULL;
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
	EVP_PKEY *pkey = NULL;

	if (params == NULL || ctx == NULL || EVP_PKEY_fromdata_init(ctx) != 1 ||
		EVP_PKEY_fromdata(ctx, &pkey, private ? EVP_PKEY_KEYPAIR : EVP_PKEY_PUBLIC_KEY,
						  params) != 1)
		pkey = NULL;
	OSSL_PARAM_free(params);
	OSSL_PARAM_BLD_free(builder->params);
	EVP_PKEY_CTX_free(ctx);
	for (int i = 0; i < builder->count; i++)
		BN_clear_free(builder->numbers[i]);
	ERR_clear_error();
	return pkey;
}

static int
bit_length(const GnNumber *number)
{
	int bits = (int) number->len * 8;

	for (uint8 top = number->data[0]; !(top & 0x80); top = (uint8) (top << 1))
	{
		if (top == 0)
			return 0; /* a leading zero byte is a second spelling */
		bits--;
	}
	return bits;
}

static bool
is_odd(const GnNumber *number)
{
	return number->data[number->len - 1] & 1;
}

static const char *
check_rsa(const GnKeyNumbers *numbers)
{
	const GnNumber *private[] = {&numbers->d,  &numbers->p,  &numbers->q,
								 &numbers->dp, &numbers->dq, &numbers->qi};
	int bits;

	if (!numbers->n.len || !numbers->e.len)
		return "its n or e is missing";
	bits = bit_length(&numbers->n);
	if (bits < RSA_MIN_BITS || bits > RSA_MAX_BITS || !is_odd(&numbers->n))
		return "its n is not an odd number of 2048 to 8192 bits";
	if (numbers->e.len > RSA_MAX_EXPONENT || bit_length(&numbers->e) < 2 ||
		!is_odd(&numbers->e))
		return "its e is not an odd number of 3 or more";
	for (size_t i = 0; numbers->d.data && i < lengthof(private); i++)
	{
		if (!private[i] -> len)
			return "its private part is not complete";
	}
	return NULL;
}

static const char *
build_rsa(GnJoseKey *key, const GnKeyNumbers *numbers)
{
	const char *why = check_rsa(numbers);
	Builder builder;

	if (why)
		return why;
	begin(&builder);
	push_number(&builder, OSSL_PKEY_PARAM_RSA_N, &numbers->n, false);
	push_number(&builder, OSSL_PKEY_PARAM_RSA_E, &numbers->e, false);
	if (key->private)
	{
		push_number(&builder, OSSL_PKEY_PARAM_RSA_D, &numbers->d, true);
		push_number(&builder, OSSL_PKEY_PARAM_RSA_FACTOR1, &numbers->p, true);
		push_number(&builder, OSSL_PKEY_PARAM_RSA_FACTOR2, &numbers->q, true);
		push_number(&builder, OSSL_PKEY_PARAM_RSA_EXPONENT1, &numbers->dp, true);
		push_number(&builder, OSSL_PKEY_PARAM_RSA_EXPONENT2, &numbers->dq, true);
		push_number(&builder, OSSL_PKEY_PARAM_RSA_COEFFICIENT1, &numbers->qi, true);
	}
	key->pkey = finish(&builder, "RSA", key->private);
	return key->pkey ? NULL : "it is not an RSA key";
}

/* fromdata refuses a point that is not on the curve. */
static const char *
build_ec(GnJoseKey *key, const GnKeyNumbers *numbers)
{
	size_t n = key->kind->size;
	uint8 point[1 + 2 * GN_JWA_MAX_COORDINATE];
	Builder builder;

	if (numbers->x.len != n || numbers->y.len != n ||
		(key->private && numbers->d.len != n))
		return "a coordinate is not as long as those of its curve";
	point[0] = POINT_CONVERSION_UNCOMPRESSED;
	memcpy(point + 1, numbers->x.data, n);
	memcpy(point + 1 + n, numbers->y.data, n);
	begin(&builder);
	builder.good =
		builder.good &&
		OSSL_PARAM_BLD_push_utf8_string(builder.params, OSSL_PKEY_PARAM_GROUP_NAME,
										key->kind->group, 0) == 1 &&
		OSSL_PARAM_BLD_push_octet_string(builder.params, OSSL_PKEY_PARAM_PUB_KEY, point,
										 1 + 2 * n) == 1;
	if (key->private)
		push_number(&builder, OSSL_PKEY_PARAM_PRIV_KEY, &numbers->d, true);
	key->pkey = finish(&builder, "EC", key->private);
	return key->pkey ? NULL : "its point is not on the curve";
}

/* The public part of a private Ed25519 key is computed: it must be what is claimed. */
static const char *
build_ed25519(GnJoseKey *key, const GnKeyNumbers *numbers)
{
	size_t n = key->kind->size;
	uint8 x[32];
	size_t x_len = sizeof(x);

	if (numbers->x.len != n || (key->private && numbers->d.len != n))
		return "its x or d is not 32 bytes long";
	key->pkey =
		key->private
			? EVP_PKEY_new_raw_private_key_ex(NULL, "ED25519", NULL, numbers->d.data, n)
			: EVP_PKEY_new_raw_public_key_ex(NULL, "ED25519", NULL, numbers->x.data, n);
	ERR_clear_error();
	if (key->pkey == NULL || EVP_PKEY_get_raw_public_key(key->pkey, x, &x_len) != 1 ||
		x_len != n || memcmp(x, numbers->x.data, n) != 0)
		return "its x does not belong to its d";
	return NULL;
}

static const char *
build_secret(GnJoseKey *key, const GnKeyNumbers *numbers)
{
	if (numbers->k.len < key->kind->size)
		return "it is shorter than the hash of its algorithm";
	if (numbers->k.len > SECRET_MAX)
		return "it is longer than 1024 bytes";
	key->secret = OPENSSL_malloc(numbers->k.len);
	if (key->secret == NULL)
		return "libcrypto is out of memory";
	memcpy(key->secret, numbers->k.data, numbers->k.len);
	key->secret_len = numbers->k.len;
	return NULL;
}

bool
gn_jose_key_settle(GnJoseKey *key, const GnJoseAlg *alg)
{
	const char *crv = key->kind->crv;

	if (key->alg)
		return key->alg == alg;
	if (strcmp(alg->kty, key->kind->kty) != 0 ||
		(crv && (alg->crv == NULL || strcmp(alg->crv, crv) != 0)) ||
		(alg->family == GN_JOSE_HMAC && key->secret_len < alg->size))
		return false;
	key->alg = alg;
	key->signature_size =
		alg->family == GN_JOSE_HMAC ? alg->size : (size_t) EVP_PKEY_get_size(key->pkey);
	if (alg->family == GN_JOSE_ECDSA)
		key->signature_size = 2 * alg->size; /* libcrypto counts in DER */
	return true;
}

const char *
gn_jose_key_build(GnJoseKey *key, const GnJoseAlg *alg, const GnKeyNumbers *numbers)
{
	const char *why;

	memset(key, 0, sizeof(*key));
	key->kind = alg;
	key->private = numbers->d.data || numbers->k.data;
	if (alg->family == GN_JOSE_HMAC)
		why = build_secret(key, numbers);
	else if (alg->family == GN_JOSE_ECDSA)
		why = build_ec(key, numbers);
	else if (alg->family == GN_JOSE_EDDSA)
		why = build_ed25519(key, numbers);
	else
		why = build_rsa(key, numbers);
	if (why == NULL)
		(void) gn_jose_key_settle(key, alg);
	else
		gn_jose_key_free(key);
	return why;
}

void
gn_jose_key_free(GnJoseKey *key)
{
	EVP_PKEY_CTX_free(key->sign);
	EVP_PKEY_CTX_free(key->verify);
	EVP_MD_CTX_free(key->one_shot_sign);
	EVP_MD_CTX_free(key->one_shot_verify);
	EVP_MAC_CTX_free(key->mac);
	EVP_PKEY_free(key->pkey);
	OPENSSL_clear_free(key->secret, key->secret_len);
	memset(key, 0, sizeof(*key));
}

/* Room that is given out from one end. */
typedef struct Room
{
	uint8 *at;
	size_t left;
} Room;

/* size 0: as long as the number is */
static bool
export_number(EVP_PKEY *pkey, const char *name, size_t size, Room *room,
			  GnNumber *number)
{
	BIGNUM *bn = NULL;
	bool done = false;

	if (EVP_PKEY_get_bn_param(pkey, name, &bn) == 1)
	{
		number->len = size ? size : (size_t) BN_num_bytes(bn);
		number->data = room->at;
		done = number->len <= room->left &&
			   BN_bn2binpad(bn, room->at, (int) number->len) == (int) number->len;
	}
	if (done)
	{
		room->at += number->len;
		room->left -= number->len;
	}
	BN_clear_free(bn);
	return done;
}

static bool
export_rsa(EVP_PKEY *pkey, Room *room, GnKeyNumbers *numbers)
{
	return export_number(pkey, OSSL_PKEY_PARAM_RSA_N, 0, room, &numbers->n) &&
		   export_number(pkey, OSSL_PKEY_PARAM_RSA_E, 0, room, &numbers->e) &&
		   export_number(pkey, OSSL_PKEY_PARAM_RSA_D, 0, room, &numbers->d) &&
		   export_number(pkey, OSSL_PKEY_PARAM_RSA_FACTOR1, 0, room, &numbers->p) &&
		   export_number(pkey, OSSL_PKEY_PARAM_RSA_FACTOR2, 0, room, &numbers->q) &&
		   export_number(pkey, OSSL_PKEY_PARAM_RSA_EXPONENT1, 0, room, &numbers->dp) &&
		   export_number(pkey, OSSL_PKEY_PARAM_RSA_EXPONENT2, 0, room, &numbers->dq) &&
		   export_number(pkey, OSSL_PKEY_PARAM_RSA_COEFFICIENT1, 0, room, &numbers->qi);
}

static bool
export_ec(EVP_PKEY *pkey, size_t size, Room *room, GnKeyNumbers *numbers)
{
	return export_number(pkey, OSSL_PKEY_PARAM_EC_PUB_X, size, room, &numbers->x) &&
		   export_number(pkey, OSSL_PKEY_PARAM_EC_PUB_Y, size, room, &numbers->y) &&
		   export_number(pkey, OSSL_PKEY_PARAM_PRIV_KEY, size, room, &numbers->d);
}

static bool
export_ed25519(EVP_PKEY *pkey, Room *room, GnKeyNumbers *numbers)
{
	numbers->x = (GnNumber){room->at, 32};
	numbers->d = (GnNumber){room->at + 32, 32};
	return EVP_PKEY_get_raw_public_key(pkey, room->at, &numbers->x.len) == 1 &&
		   EVP_PKEY_get_raw_private_key(pkey, room->at + 32, &numbers->d.len) == 1;
}

bool
gn_jose_key_export(EVP_PKEY *pkey, const GnJoseAlg *alg, uint8 *room_bytes,
				   GnKeyNumbers *numbers)
{
	Room room = {room_bytes, GN_JWA_NUMBERS_ROOM};
	bool done;

	memset(numbers, 0, sizeof(*numbers));
	if (alg->family == GN_JOSE_ECDSA)
		done = export_ec(pkey, alg->size, &room, numbers);
	else if (alg->family == GN_JOSE_EDDSA)
		done = export_ed25519(pkey, &room, numbers);
	else
		done = export_rsa(pkey, &room, numbers);
	ERR_clear_error();
	return done;
}

bool
gn_jose_key_generate(const GnJoseAlg *alg, int rsa_bits, uint8 *room,
					 GnKeyNumbers *numbers)
{
	EVP_PKEY *pkey;
	bool done;

	if (alg->family == GN_JOSE_HMAC)
	{
		memset(numbers, 0, sizeof(*numbers));
		numbers->k = (GnNumber){room, alg->size};
		return RAND_priv_bytes(room, (int) alg->size) == 1;
	}
	if (alg->family == GN_JOSE_ECDSA)
		pkey = EVP_EC_gen(alg->group);
	else if (alg->family == GN_JOSE_EDDSA)
		pkey = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
	else
		pkey = EVP_RSA_gen((unsigned int) rsa_bits);
	done = pkey && gn_jose_key_export(pkey, alg, room, numbers);
	EVP_PKEY_free(pkey);
	ERR_clear_error();
	return done;
}

/* Private numbers in the order in which they are packed, as many as there are. */
static int
private_numbers(GnKeyNumbers *numbers, GnNumber *out[7])
{
	GnNumber *all[] = {&numbers->d,  &numbers->p,  &numbers->q, &numbers->dp,
					   &numbers->dq, &numbers->qi, &numbers->k};
	int count = 0;

	for (size_t i = 0; i < lengthof(all); i++)
	{
		if (all[i]->data)
			out[count++] = all[i];
	}
	return count;
}

/*
 * A key of one private number is packed as that number; RSA as each of its numbers
 * behind its length in two bytes.
 */
size_t
gn_jose_private_pack(const GnKeyNumbers *numbers, uint8 *out)
{
	GnKeyNumbers copy = *numbers;
	GnNumber *each[7];
	int count = private_numbers(&copy, each);
	uint8 *at = out;

	for (int i = 0; i < count; i++)
	{
		if (count > 1)
		{
			*at++ = (uint8) (each[i]->len >> 8);
			*at++ = (uint8) each[i]->len;
		}
		memcpy(at, each[i]->data, each[i]->len);
		at += each[i]->len;
	}
	return (size_t) (at - out);
}

bool
gn_jose_private_unpack(const GnJoseAlg *alg, const uint8 *packed, size_t len,
					   GnKeyNumbers *numbers)
{
	GnNumber *each[] = {&numbers->d,  &numbers->p,  &numbers->q,
						&numbers->dp, &numbers->dq, &numbers->qi};
	const uint8 *end = packed + len;

	if (strcmp(alg->kty, "RSA") != 0)
	{
		*(alg->family == GN_JOSE_HMAC ? &numbers->k : &numbers->d) =
			(GnNumber){packed, len};
		return len > 0;
	}
	for (size_t i = 0; i < lengthof(each); i++)
	{
		if (end - packed < 2)
			return false;
		*each[i] = (GnNumber){packed + 2, (size_t) packed[0] << 8 | packed[1]};
		if ((size_t) (end - packed - 2) < each[i]->len)
			return false;
		packed += 2 + each[i]->len;
	}
	return packed == end;
}
