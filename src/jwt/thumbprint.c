/*
 * src/jwt/thumbprint.c
 *	  What a key is called: RFC 7638 thumbprints, and the members that they are made of.
 *
 * Pure: no server, nothing raised.
 */
#include "postgres.h"

#include <stdio.h>
#include <string.h>

#include <openssl/evp.h>

#include "jwt/base64url.h"
#include "jwt/jwk.h"
#include "jwt/strict_json.h"

/* The members that RFC 7638 and RFC 8037 take, in lexicographic order. */
static const struct
{
	const char *kty;
	const char *members[5];
} named_by[] = {
	{"EC", {"crv", "kty", "x", "y", NULL}},
	{"OKP", {"crv", "kty", "x", NULL}},
	{"RSA", {"e", "kty", "n", NULL}},
	{"oct", {"k", "kty", NULL}},
};

static const char *const *
members_of(const char *kty, size_t len)
{
	for (size_t i = 0; i < lengthof(named_by); i++)
	{
		if (strlen(named_by[i].kty) == len && memcmp(named_by[i].kty, kty, len) == 0)
			return named_by[i].members;
	}
	return NULL;
}

static char *
put_text(char *out, const char *text, size_t len)
{
	memcpy(out, text, len);
	return out + len;
}

static char *
put_name(char *out, const char *name, bool first)
{
	*out++ = first ? '{' : ',';
	*out++ = '"';
	out = put_text(out, name, strlen(name));
	return put_text(out, "\":\"", 3);
}

static char *
put_public(char *out, const char *name, const GnJoseAlg *alg,
		   const GnKeyNumbers *numbers)
{
	const GnNumber *number;

	if (strcmp(name, "kty") == 0)
		return put_text(out, alg->kty, strlen(alg->kty));
	if (strcmp(name, "crv") == 0)
		return put_text(out, alg->crv, strlen(alg->crv));
	number = strcmp(name, "n") == 0   ? &numbers->n
			 : strcmp(name, "e") == 0 ? &numbers->e
			 : strcmp(name, "x") == 0 ? &numbers->x
									  : &numbers->y;
	return out + gn_base64url_encode(number->data, number->len, out);
}

size_t
gn_jwk_write_public(const GnJoseAlg *alg, const GnKeyNumbers *numbers, char *out)
{
	const char *const *members = members_of(alg->kty, strlen(alg->kty));
	char *at = out;

	for (; *members; members++)
	{
		if (strcmp(*members, "k") == 0) /* the secret itself */
			continue;
		at = put_name(at, *members, at == out);
		at = put_public(at, *members, alg, numbers);
		*at++ = '"';
	}
	*at++ = '}';
	return (size_t) (at - out);
}

/* Strings of the outermost object that may be wanted, where they stand. */
typedef struct Found
{
	const char *current; /* whose value comes; NULL: nobody's */
	struct
	{
		const char *text; /* NULL: not there, or no string */
		size_t len;
	} values[7];
} Found;

static const char *const wanted[] = {"kty", "crv", "x", "y", "n", "e", "k"};

static int
wanted_index(const char *name, size_t len)
{
	for (size_t i = 0; i < lengthof(wanted); i++)
	{
		if (strlen(wanted[i]) == len && memcmp(wanted[i], name, len) == 0)
			return (int) i;
	}
	return -1;
}

static void
hear_member(void *arg, GnJsonEvent event, int depth, const char *text, size_t len)
{
	Found *found = arg;
	int i;

	if (depth != 1)
		return;
	if (event == GN_JSON_KEY)
	{
		i = wanted_index(text, len);
		found->current = i >= 0 ? wanted[i] : NULL;
	}
	else if (found->current && event == GN_JSON_STRING)
	{
		i = wanted_index(found->current, strlen(found->current));
		found->values[i].text = text;
		found->values[i].len = len;
	}
}

/* Of an alphabet that JSON writes without escapes; numbers are base64url throughout. */
static bool
plain_member(const char *name, const char *text, size_t len)
{
	uint8 bytes[3];
	size_t ignored;

	if (strcmp(name, "kty") == 0 || strcmp(name, "crv") == 0)
	{
		for (size_t i = 0; i < len; i++)
		{
			if (text[i] <= ' ' || text[i] > '~' || text[i] == '"' || text[i] == '\\')
				return false;
		}
		return len > 0;
	}
	if (len == 0)
		return false;
	for (; len > 4; text += 4, len -= 4) /* any size without a buffer */
	{
		if (!gn_base64url_decode(text, 4, bytes, &ignored))
			return false;
	}
	return gn_base64url_decode(text, len, bytes, &ignored);
}

static bool
digest_members(EVP_MD_CTX *ctx, const Found *found, const char *const *members)
{
	for (int i = 0; members[i]; i++)
	{
		int at = wanted_index(members[i], strlen(members[i]));
		char name[8];
		size_t len = (size_t) (put_name(name, members[i], i == 0) - name);

		if (EVP_DigestUpdate(ctx, name, len) != 1 ||
			EVP_DigestUpdate(ctx, found->values[at].text, found->values[at].len) != 1 ||
			EVP_DigestUpdate(ctx, "\"", 1) != 1)
			return false;
	}
	return EVP_DigestUpdate(ctx, "}", 1) == 1;
}

static const char *
thumbprint(const Found *found, char out[GN_JWK_THUMBPRINT_SIZE])
{
	const char *const *members;
	uint8 digest[EVP_MAX_MD_SIZE];
	EVP_MD_CTX *ctx;
	bool done;

	if (found->values[0].text == NULL)
		return "it has no kty";
	members = members_of(found->values[0].text, found->values[0].len);
	if (members == NULL)
		return "its kty is not supported";
	for (int i = 0; members[i]; i++)
	{
		int at = wanted_index(members[i], strlen(members[i]));

		if (found->values[at].text == NULL ||
			!plain_member(members[i], found->values[at].text, found->values[at].len))
			return "a member that its kty needs is missing or not base64url";
	}
	ctx = EVP_MD_CTX_new();
	done = ctx && EVP_DigestInit_ex2(ctx, EVP_sha256(), NULL) == 1 &&
		   digest_members(ctx, found, members) &&
		   EVP_DigestFinal_ex(ctx, digest, NULL) == 1;
	EVP_MD_CTX_free(ctx);
	if (!done)
		return "libcrypto failed";
	gn_base64url_encode(digest, 32, out);
	return NULL;
}

const char *
gn_jwk_thumbprint(const char *text, size_t len, char out[GN_JWK_THUMBPRINT_SIZE])
{
	char *scratch = malloc(len + 1);
	Found found = {0};
	GnJsonReader reader = {.event = hear_member, .arg = &found};
	const char *why = "it is not a JSON object";

	if (scratch && gn_json_read(text, len, scratch, &reader))
		why = thumbprint(&found, out);
	free(scratch);
	return why;
}
