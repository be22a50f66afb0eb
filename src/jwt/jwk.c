/*
 * src/jwt/jwk.c
 *	  JSON Web Keys: from text to keys that verify or sign.
 *
 * A key says what it is for, and nothing else than that is done with it. Two keys of
 * one kid, a private key where a public one belongs, a symmetric key beside public
 * ones: each has been somebody's forged token, and is refused as a whole.
 *
 * Pure: no server, nothing raised.
 */
#include "postgres.h"

#include <string.h>

#include <jansson.h>
#include <openssl/bn.h>
#include <openssl/crypto.h>

#include "jwt/base64url.h"
#include "jwt/jwk.h"
#include "jwt/strict_json.h"

#define TEXT_MAX (256 * 1024) /* of a set */

/* The strict reader decides what is JSON; jansson then makes a tree of it. */
static json_t *
parse_object(const char *text, size_t len)
{
	char *scratch;
	json_t *json = NULL;

	if (len > TEXT_MAX)
		return NULL;
	scratch = malloc(len + 1);
	if (scratch && gn_json_read(text, len, scratch, NULL))
		json = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	if (scratch)
		OPENSSL_cleanse(scratch, len + 1);
	free(scratch);
	return json;
}

static const char *
string_member(const json_t *object, const char *name)
{
	return json_string_value(
		json_object_get(object, name)); /* NULL unless it is a string */
}

/* Frees a tree that may hold a secret: jansson would leave its strings as they are. */
static void /* NOLINTNEXTLINE(misc-no-recursion): as deep as GN_JOSE_MAX_DEPTH */
forget(json_t *json)
{
	const char *name;
	json_t *value;
	size_t i;

	if (json_is_string(json))
		OPENSSL_cleanse((char *) (uintptr_t) json_string_value(json),
						json_string_length(json));
	json_object_foreach(json, name, value) forget(json_incref(value));
	json_array_foreach(json, i, value) forget(json_incref(value));
	json_decref(json);
}

/* The numbers of a JWK, decoded one behind the other. */
typedef struct Decoder
{
	const json_t *jwk;
	uint8 *at;
	size_t left;
	bool good;
} Decoder;

static GnNumber
decode_member(Decoder *decoder, const char *name)
{
	const json_t *value = json_object_get(decoder->jwk, name);
	GnNumber number = {NULL, 0};
	size_t len = json_string_length(value);

	if (value == NULL)
		return number;
	if (!json_is_string(value) || len * 3 / 4 > decoder->left ||
		!gn_base64url_decode(json_string_value(value), len, decoder->at, &number.len))
	{
		decoder->good = false;
		return number;
	}
	number.data = decoder->at;
	decoder->at += number.len;
	decoder->left -= number.len;
	return number;
}

/* Which members a key has depends on its type; what else stands there is nobody's. */
static bool
decode_numbers(const json_t *jwk, const GnJoseAlg *kind, uint8 *room,
			   GnKeyNumbers *numbers)
{
	Decoder decoder = {jwk, room, GN_JWA_NUMBERS_ROOM, true};

	memset(numbers, 0, sizeof(*numbers));
	if (strcmp(kind->kty, "oct") == 0)
		numbers->k = decode_member(&decoder, "k");
	else if (strcmp(kind->kty, "RSA") == 0)
	{
		numbers->n = decode_member(&decoder, "n");
		numbers->e = decode_member(&decoder, "e");
		numbers->p = decode_member(&decoder, "p");
		numbers->q = decode_member(&decoder, "q");
		numbers->dp = decode_member(&decoder, "dp");
		numbers->dq = decode_member(&decoder, "dq");
		numbers->qi = decode_member(&decoder, "qi");
	}
	else
	{
		numbers->x = decode_member(&decoder, "x");
		if (strcmp(kind->kty, "EC") == 0)
			numbers->y = decode_member(&decoder, "y");
	}
	if (strcmp(kind->kty, "oct") != 0)
		numbers->d = decode_member(&decoder, "d");
	return decoder.good;
}

static bool
has_private_member(const json_t *jwk)
{
	static const char *const names[] = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"};

	for (size_t i = 0; i < lengthof(names); i++)
	{
		if (json_object_get(jwk, names[i]))
			return true;
	}
	return false;
}

/* What a key says about its own use must allow the operation. */
static const char *
refuse_use(const json_t *jwk, const char *operation)
{
	const json_t *operations = json_object_get(jwk, "key_ops");
	const char *use = string_member(jwk, "use");
	bool allowed = false;

	if (json_object_get(jwk, "use") && (use == NULL || strcmp(use, "sig") != 0))
		return "its use is not \"sig\"";
	if (operations == NULL)
		return NULL;
	for (size_t i = 0; i < json_array_size(operations); i++)
	{
		const char *one = json_string_value(json_array_get(operations, i));

		allowed |= one && strcmp(one, operation) == 0;
	}
	if (allowed)
		return NULL;
	return strcmp(operation, "sign") == 0 ? "its key_ops do not allow \"sign\""
										  : "its key_ops do not allow \"verify\"";
}

/* The type of a key, and the algorithm if the key, or its curve, has only one. */
static const char *
read_type(const json_t *jwk, const GnJoseAlg **kind, const GnJoseAlg **alg)
{
	const char *kty = string_member(jwk, "kty");
	const char *crv = string_member(jwk, "crv");
	const char *name = string_member(jwk, "alg");

	*alg = NULL;
	if (kty == NULL)
		return "it has no kty";
	*kind = gn_jose_alg_of_type(kty, crv);
	if (*kind == NULL)
		return "its kty and crv are not supported";
	if (json_object_get(jwk, "alg"))
	{
		*alg = name ? gn_jose_alg(name) : NULL;
		if (*alg == NULL || strcmp((*alg)->kty, kty) != 0 ||
			((*alg)->crv && strcmp((*alg)->crv, crv) != 0))
			return "its alg does not fit its kty and crv";
	}
	else if (strcmp((*kind)->name, "ES256K") == 0)
		return "a key on secp256k1 has to say that its alg is ES256K";
	else if ((*kind)->crv)
		*alg = *kind;
	return NULL;
}

static const char *
build_key(const json_t *jwk, const char *operation, GnJoseKey *key,
		  GnKeyNumbers *numbers, uint8 *room)
{
	const GnJoseAlg *kind;
	const GnJoseAlg *alg;
	const char *why = read_type(jwk, &kind, &alg);

	if (why == NULL)
		why = refuse_use(jwk, operation);
	if (why == NULL && json_object_get(jwk, "oth"))
		why = "it has more than two primes";
	if (why == NULL && !decode_numbers(jwk, kind, room, numbers))
		why = "a member is not base64url, or too long";
	if (why == NULL)
		why = gn_jose_key_build(key, alg ? alg : kind, numbers);
	if (why == NULL && alg == NULL)
		key->alg = NULL; /* the token may choose among those of its type */
	return why;
}

/*
 * Moduli of a smart card library whose primes can be found (ROCA, CVE-2017-15361): by
 * every small prime they leave a remainder that is a power of 65537, as hardly any
 * other does.
 */
static bool
is_roca(const GnNumber *modulus)
{
	static const uint8 primes[] = {3,   5,   7,   11,  13,  17,  19,  23,  29,  31,
								   37,  41,  43,  47,  53,  59,  61,  67,  71,  73,
								   79,  83,  89,  97,  101, 103, 107, 109, 113, 127,
								   131, 137, 139, 149, 151, 157, 163, 167};

	for (size_t i = 0; i < lengthof(primes); i++)
	{
		uint32 prime = primes[i];
		uint32 remainder = 0;
		uint32 power = 1;

		for (size_t at = 0; at < modulus->len; at++)
			remainder = (remainder << 8 | modulus->data[at]) % prime;
		do
			power = power * (65537 % prime) % prime;
		while (power != remainder && power != 1);
		if (power != remainder)
			return false;
	}
	return true;
}

static const char *
build_verifier(const json_t *jwk, GnJoseKey *key)
{
	GnKeyNumbers numbers;
	uint8 room[GN_JWA_NUMBERS_ROOM];
	const char *kty = string_member(jwk, "kty");
	const char *why;

	if (kty && strcmp(kty, "oct") != 0 && has_private_member(jwk))
		return "it is a private key; only public keys may be passed around";
	why = build_key(jwk, "verify", key, &numbers, room);
	if (why == NULL && numbers.n.data && is_roca(&numbers.n))
	{
		gn_jose_key_free(key);
		why = "its n was made by a generator whose keys are broken (ROCA)";
	}
	if (kty && strcmp(kty, "oct") == 0)
		OPENSSL_cleanse(room, sizeof(room));
	return why;
}

static const char *
read_kid(const json_t *jwk, char kid[65])
{
	const json_t *value = json_object_get(jwk, "kid");

	kid[0] = '\0';
	if (value == NULL)
		return NULL;
	if (!json_is_string(value) || json_string_length(value) == 0 ||
		json_string_length(value) > 64)
		return "its kid is not a string of 1 to 64 bytes";
	memcpy(kid, json_string_value(value), json_string_length(value) + 1);
	return NULL;
}

static const char *
add_key(GnJwkSet *set, const json_t *jwk)
{
	GnJoseKey *key = &set->keys[set->count];
	char *kid = set->kids[set->count];
	const char *why;

	if (!json_is_object(jwk))
		return "a key is not an object";
	why = read_kid(jwk, kid);
	for (int i = 0; why == NULL && *kid && i < set->count; i++)
	{
		if (strcmp(set->kids[i], kid) == 0)
			why = "two keys have the same kid";
	}
	if (why == NULL)
		why = build_verifier(jwk, key);
	if (why)
		return why;
	set->count++;
	if (key->private != set->keys[0].private)
		return "it has symmetric keys beside public ones";
	return NULL;
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
	json_t *json = parse_object(text, len);
	const char *why;

	memset(set, 0, sizeof(*set));
	if (json == NULL)
		return "it is not a JSON object of up to 256 KiB";
	why = add_keys(set, json);
	forget(json);
	return why;
}

void
gn_jwk_set_free(GnJwkSet *set)
{
	for (int i = 0; i < set->count; i++)
		gn_jose_key_free(&set->keys[i]);
	set->count = 0;
}

static GnJoseKey *
find_key(GnJwkSet *set, const char *kid)
{
	for (int i = 0; *kid && i < set->count; i++)
	{
		if (strcmp(set->kids[i], kid) == 0)
			return &set->keys[i];
	}
	return set->count == 1 && (*kid == '\0' || set->kids[0][0] == '\0') ? &set->keys[0]
																		: NULL;
}

GnJoseKey *
gn_jwk_set_choose(GnJwkSet *set, const char *kid, const char *alg, bool *known)
{
	GnJoseKey *key = find_key(set, kid);
	const GnJoseAlg *wanted = gn_jose_alg(alg);

	*known = key != NULL;
	return key && wanted && gn_jose_key_settle(key, wanted) ? key : NULL;
}

static const char *
build_signer(const json_t *jwk, GnJoseKey *key, char kid[65], GnKeyNumbers *numbers,
			 uint8 *room)
{
	const char *why = read_kid(jwk, kid);

	if (why == NULL && json_object_get(jwk, "keys"))
		why = "it is a set; one key signs";
	if (why == NULL)
		why = build_key(jwk, "sign", key, numbers, room);
	if (why == NULL && !key->private)
	{
		gn_jose_key_free(key);
		why = "it has no private part";
	}
	return why;
}

const char *
gn_jwk_private_parse(GnJoseKey *key, char kid[65], GnKeyNumbers *numbers, uint8 *room,
					 const char *text, size_t len)
{
	json_t *json = parse_object(text, len);
	const char *why;

	memset(key, 0, sizeof(*key));
	if (json == NULL)
		return "it is not a JSON object of up to 256 KiB";
	why = build_signer(json, key, kid, numbers, room);
	forget(json);
	return why;
}
