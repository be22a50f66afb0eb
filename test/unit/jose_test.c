/* test/unit/jose_test.c -- base64url, compact JWS, claims and JWK: vectors and attacks
 */
#include "postgres.h"

#include "jwt/base64url.c"
#include "jwt/jose.c"
#include "jwt/jwk.c"
#include "tap.h"

/* RFC 7515, A.3 */
#define ES256_KEY                                                                      \
	"{\"kty\":\"EC\",\"crv\":\"P-256\","                                               \
	"\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","                           \
	"\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}"
#define ES256_HEADER "eyJhbGciOiJFUzI1NiJ9"
#define ES256_PAYLOAD                                                                  \
	"eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19y" \
	"b290Ijp0cnVlfQ"
#define ES256_SIGNATURE                                                                \
	"DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-"  \
	"Kg6NU1Q"
/* RFC 7515, A.4 */
#define ES512_KEY                                                                      \
	"{\"kty\":\"EC\",\"crv\":\"P-521\",\"x\":\"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06"  \
	"wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk\",\"y\":\"ADSmRA43Z1DSNx_R"   \
	"vcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2\"}"
#define ES512_TOKEN                                                                    \
	"eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOY" \
	"aRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8Kp" \
	"EHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"

#define NOW INT64_C(1700000000)

static char *
encoded(const char *text)
{
	char *out = palloc0(GN_BASE64URL_ENCODED_SIZE(strlen(text)) + 1);

	gn_base64url_encode(text, strlen(text), out);
	return out;
}

static char *
joined(const char *a, const char *b, const char *c)
{
	char *out = palloc(strlen(a) + strlen(b) + strlen(c) + 3);

	sprintf(out, "%s.%s.%s", a, b, c);
	return out;
}

static GnJoseError
parse(const char *token)
{
	GnJws jws;

	return gn_jws_parse(&jws, token, strlen(token), palloc(strlen(token) + 1));
}

static void
refused(const char *token, GnJoseError error, const char *name)
{
	GnJoseError got = parse(token);

	ok(got == error, "refused: %s", name);
	if (got != error)
		printf("#   got %s\n",
			   gn_jose_error_code(got) ? gn_jose_error_code(got) : "ok");
}

static void
header(const char *json, GnJoseError error, const char *name)
{
	refused(joined(encoded(json), "e30", "AA"), error, name);
}

static bool
verifies(const char *jwk, const char *token)
{
	GnJwkSet set;
	GnJws jws;
	bool valid = gn_jwk_set_parse(&set, jwk, strlen(jwk)) == NULL &&
				 gn_jws_parse(&jws, token, strlen(token), palloc(strlen(token) + 1)) ==
					 GN_JOSE_OK &&
				 strcmp(set.keys[0].alg->name, jws.alg) == 0 &&
				 gn_jose_verify(&set.keys[0], jws.input, jws.input_len, jws.signature,
								jws.signature_len);

	gn_jwk_set_free(&set);
	return valid;
}

static void
claims(const char *json, GnJoseError error, const char *name)
{
	GnClaimRules rules = {.issuer = "i", .audience = "a", .now = NOW * 1000000};
	GnJoseError got = gn_claims_check(json, strlen(json), &rules);

	ok(got == error, "claims: %s", name);
	if (got != error)
		printf("#   got %s\n",
			   gn_jose_error_code(got) ? gn_jose_error_code(got) : "ok");
}

static void
test_base64url(void)
{
	static const char *const bad[] = {"A",
									  "AA==",
									  "AAA=",
									  "AA A",
									  "AA+A",
									  "AA/A",
									  "AA\nA",
									  "AB",
									  "AAB",
									  "AAAAA",
									  "\xc3\xa4"
									  "AA"};
	uint8 out[16];
	size_t len;

	is_str(encoded("f"), "Zg", "base64url: one byte");
	is_str(encoded("fo"), "Zm8", "base64url: two bytes");
	is_str(encoded("foo"), "Zm9v", "base64url: three bytes");
	is_str(encoded("\xfb\xff\xbe"), "-_--", "base64url: its own alphabet");
	ok(gn_base64url_decode("Zm9vYg", 6, out, &len) && len == 4 &&
		   memcmp(out, "foob", 4) == 0,
	   "base64url: and back");
	ok(gn_base64url_decode("", 0, out, &len) && len == 0,
	   "base64url: nothing is nothing");
	for (size_t i = 0; i < lengthof(bad); i++)
		ok(!gn_base64url_decode(bad[i], strlen(bad[i]), out, &len),
		   "base64url: bad spelling %zu is refused", i);
}

static void
test_shape(void)
{
	char *deep = palloc0(200);
	char *large = palloc(GN_JOSE_MAX_TOKEN + 2);
	char *long_header = palloc(4096);

	ok(parse(joined(ES256_HEADER, ES256_PAYLOAD, ES256_SIGNATURE)) == GN_JOSE_OK,
	   "RFC 7515 A.3 parses");
	refused("", GN_JOSE_MALFORMED, "nothing");
	refused("a.b", GN_JOSE_MALFORMED, "two segments");
	refused(joined(ES256_HEADER, ES256_PAYLOAD, ES256_SIGNATURE ".AA"),
			GN_JOSE_MALFORMED, "four segments");
	refused("e30.e30.e30.e30.e30", GN_JOSE_MALFORMED, "five segments (JWE)");
	refused("{\"payload\":\"\"}", GN_JOSE_MALFORMED, "JSON serialization");
	refused(joined(ES256_HEADER "=", ES256_PAYLOAD, ES256_SIGNATURE), GN_JOSE_MALFORMED,
			"a padded header");
	refused(joined(ES256_HEADER, ES256_PAYLOAD "==", ES256_SIGNATURE),
			GN_JOSE_MALFORMED, "a padded payload");
	refused(joined(ES256_HEADER, ES256_PAYLOAD, ES256_SIGNATURE "=="),
			GN_JOSE_MALFORMED, "a padded signature");
	refused(joined(ES256_HEADER, ES256_PAYLOAD, "AB"), GN_JOSE_MALFORMED, "stray bits");
	refused(joined(ES256_HEADER, ES256_PAYLOAD, "A A"), GN_JOSE_MALFORMED,
			"white space");
	refused(joined("", "e30", "AA"), GN_JOSE_HEADER, "an empty header");

	header("{}", GN_JOSE_HEADER, "no alg");
	header("{\"alg\":\"\"}", GN_JOSE_HEADER, "an empty alg");
	header("{\"alg\":1}", GN_JOSE_HEADER, "a numeric alg");
	header("[\"alg\"]", GN_JOSE_HEADER, "a header that is no object");
	header("{\"alg\":\"ES256\",\"alg\":\"none\"}", GN_JOSE_HEADER, "two algs");
	header("{\"alg\":\"ES256\",\"\\u0061lg\":\"none\"}", GN_JOSE_HEADER,
		   "two algs, one escaped");
	header("{\"alg\":\"ES256\"} x", GN_JOSE_HEADER, "something behind the header");
	header("{\"alg\":\"ES256\",\"kid\":7}", GN_JOSE_HEADER, "a numeric kid");
	header("{\"alg\":\"ES256\",\"kid\":\"\\u0000\"}", GN_JOSE_HEADER, "U+0000");
	header("{\"alg\":\"ES256\",\"kid\":\"\\ud800\"}", GN_JOSE_HEADER,
		   "half a surrogate");
	header("{\"alg\":\"ES256\",\"kid\":\"\xff\"}", GN_JOSE_HEADER, "no UTF-8");
	header("{\"alg\":\"ES256\",\"crit\":[\"x\"]}", GN_JOSE_CRITICAL, "an unknown crit");
	header("{\"alg\":\"ES256\",\"crit\":[]}", GN_JOSE_CRITICAL, "an empty crit");
	header("{\"alg\":\"ES256\",\"b64\":false}", GN_JOSE_CRITICAL, "b64");
	header("{\"alg\":\"ES256\",\"zip\":\"DEF\"}", GN_JOSE_HEADER, "compression");
	header("{\"alg\":\"ES256\",\"enc\":\"A256GCM\"}", GN_JOSE_HEADER, "encryption");
	header("{\"alg\":\"ES256\",\"x\":1e400}", GN_JOSE_HEADER, "1e400");
	header("{\"alg\":\"ES256\",\"x\":1e-99999}", GN_JOSE_HEADER, "1e-99999");

	strcpy(deep, "{\"alg\":\"ES256\",\"x\":");
	memset(deep + strlen(deep), '[', 32);
	memset(deep + strlen(deep), ']', 32);
	strcat(deep, "}");
	header(deep, GN_JOSE_HEADER, "too deep");
	memset(large, 'A', GN_JOSE_MAX_TOKEN + 1);
	large[GN_JOSE_MAX_TOKEN + 1] = '\0';
	refused(large, GN_JOSE_TOO_LARGE, "a token of more than 16 KiB");
	memset(long_header, 'A', 4000);
	long_header[4000] = '\0';
	refused(joined(long_header, "e30", "AA"), GN_JOSE_TOO_LARGE,
			"a header of more than 2 KiB");
}

static void
test_claims(void)
{
#define BASE "\"iss\":\"i\",\"sub\":\"s\",\"aud\":\"a\",\"iat\":1700000000"
	claims("{" BASE ",\"exp\":1700000900}", GN_JOSE_OK, "a good one");
	claims("{" BASE ",\"exp\":1700000900.5}", GN_JOSE_OK, "a fractional exp");
	claims("{" BASE ",\"exp\":1.7000009e9}", GN_JOSE_OK, "an exp with an exponent");
	claims("{" BASE ",\"exp\":1699999971}", GN_JOSE_OK, "expired within the leeway");
	claims("{" BASE ",\"exp\":1699999970}", GN_JOSE_EXPIRED, "expired");
	claims("{" BASE ",\"exp\":0}", GN_JOSE_EXPIRED, "exp 0");
	claims("{" BASE "}", GN_JOSE_CLAIMS, "no exp");
	claims("{" BASE ",\"exp\":\"1700000900\"}", GN_JOSE_CLAIMS, "exp a string");
	claims("{" BASE ",\"exp\":\"never\"}", GN_JOSE_CLAIMS, "exp never");
	claims("{" BASE ",\"exp\":null}", GN_JOSE_CLAIMS, "exp null");
	claims("{" BASE ",\"exp\":true}", GN_JOSE_CLAIMS, "exp true");
	claims("{" BASE ",\"exp\":[1700000900]}", GN_JOSE_CLAIMS, "exp an array");
	claims("{" BASE ",\"exp\":NaN}", GN_JOSE_CLAIMS, "exp NaN");
	claims("{" BASE ",\"exp\":Infinity}", GN_JOSE_CLAIMS, "exp Infinity");
	claims("{" BASE ",\"exp\":1e400}", GN_JOSE_CLAIMS, "exp 1e400");
	claims("{" BASE ",\"exp\":1e308}", GN_JOSE_CLAIMS, "exp beyond every calendar");
	claims("{" BASE ",\"exp\":99999999999999999999}", GN_JOSE_CLAIMS,
		   "exp beyond 64 bits");
	claims("{" BASE ",\"exp\":-1}", GN_JOSE_CLAIMS, "exp negative");
	claims("{" BASE ",\"exp\":5,\"exp\":1700000900}", GN_JOSE_CLAIMS, "two exps");
	claims("{" BASE ",\"exp\":5,\"e\\u0078p\":1700000900}", GN_JOSE_CLAIMS,
		   "two exps, one escaped");
	claims("{" BASE ",\"exp\":1700000900,\"nbf\":1700000030}", GN_JOSE_OK,
		   "nbf within the leeway");
	claims("{" BASE ",\"exp\":1700000900,\"nbf\":1700000031}", GN_JOSE_NOT_YET, "nbf");
	claims("{" BASE ",\"exp\":1700000900,\"nbf\":\"never\"}", GN_JOSE_CLAIMS,
		   "nbf a string");
	claims("{" BASE ",\"exp\":1700000900,\"nbf\":1700000030.5}", GN_JOSE_NOT_YET,
		   "a fractional nbf in the future");
#undef BASE
#define REST ",\"exp\":1700000900}"
	claims("{\"iss\":\"i\",\"sub\":\"s\",\"aud\":\"a\",\"iat\":1700000031" REST,
		   GN_JOSE_NOT_YET, "iat in the future");
	claims("{\"iss\":\"i\",\"sub\":\"s\",\"aud\":\"a\"" REST, GN_JOSE_CLAIMS, "no iat");
	claims("{\"sub\":\"s\",\"aud\":\"a\",\"iat\":1" REST, GN_JOSE_ISSUER, "no iss");
	claims("{\"iss\":\"I\",\"sub\":\"s\",\"aud\":\"a\",\"iat\":1" REST, GN_JOSE_ISSUER,
		   "another iss");
	claims("{\"iss\":[\"i\"],\"sub\":\"s\",\"aud\":\"a\",\"iat\":1" REST,
		   GN_JOSE_ISSUER, "iss an array");
	claims("{\"iss\":\"i\",\"aud\":\"a\",\"iat\":1" REST, GN_JOSE_CLAIMS, "no sub");
	claims("{\"iss\":\"i\",\"sub\":\"\",\"aud\":\"a\",\"iat\":1" REST, GN_JOSE_CLAIMS,
		   "an empty sub");
	claims("{\"iss\":\"i\",\"sub\":\"s\",\"iat\":1" REST, GN_JOSE_AUDIENCE, "no aud");
	claims("{\"iss\":\"i\",\"sub\":\"s\",\"aud\":\"b\",\"iat\":1" REST,
		   GN_JOSE_AUDIENCE, "another aud");
	claims("{\"iss\":\"i\",\"sub\":\"s\",\"aud\":[\"b\",\"a\"],\"iat\":1" REST,
		   GN_JOSE_OK, "one of several auds");
	claims("{\"iss\":\"i\",\"sub\":\"s\",\"aud\":[],\"iat\":1" REST, GN_JOSE_AUDIENCE,
		   "no aud in the array");
	claims("{\"iss\":\"i\",\"sub\":\"s\",\"aud\":[\"a\",1],\"iat\":1" REST,
		   GN_JOSE_CLAIMS, "an aud that is no string");
	claims("[]", GN_JOSE_CLAIMS, "no object");
	claims("", GN_JOSE_CLAIMS, "nothing");
#undef REST
}

static void
test_signatures(void)
{
	char *token = joined(ES256_HEADER, ES256_PAYLOAD, ES256_SIGNATURE);
	uint8 raw[66];
	size_t len;
	uint8 *der = NULL;
	int der_len;
	char der_text[128] = {0};
	uint8 zeros[64] = {0};
	char zero_text[100] = {0};

	ok(verifies(ES256_KEY, token), "RFC 7515 A.3: ES256");
	ok(verifies(ES512_KEY, ES512_TOKEN), "RFC 7515 A.4: ES512");
	ok(!verifies(ES512_KEY, token), "another key's algorithm");
	ok(!verifies(ES256_KEY, joined(ES256_HEADER, ES256_PAYLOAD, "")), "no signature");
	for (size_t i = 0; i < strlen(token); i += 7)
	{
		char *changed = pstrdup(token);

		if (changed[i] == '.')
			continue;
		changed[i] = changed[i] == 'A' ? 'Q' : 'A';
		ok(!verifies(ES256_KEY, changed), "changed at %zu", i);
	}
	assert(gn_base64url_decode(ES256_SIGNATURE, strlen(ES256_SIGNATURE), raw, &len) &&
		   len == 64);
	der_len = der_signature(raw, 32, &der);
	gn_base64url_encode(der, (size_t) der_len, der_text);
	OPENSSL_free(der);
	ok(!verifies(ES256_KEY, joined(ES256_HEADER, ES256_PAYLOAD, der_text)),
	   "a signature in DER");
	gn_base64url_encode(zeros, 64, zero_text);
	ok(!verifies(ES256_KEY, joined(ES256_HEADER, ES256_PAYLOAD, zero_text)),
	   "r and s of 0 (CVE-2022-21449)");
	gn_base64url_encode(raw, 63, memset(zero_text, 0, sizeof(zero_text)));
	ok(!verifies(ES256_KEY, joined(ES256_HEADER, ES256_PAYLOAD, zero_text)),
	   "a byte short");
	memmove(raw + 1, raw, 64);
	raw[0] = 0;
	gn_base64url_encode(raw, 65, memset(zero_text, 0, sizeof(zero_text)));
	ok(!verifies(ES256_KEY, joined(ES256_HEADER, ES256_PAYLOAD, zero_text)),
	   "a byte long");
}

static void
test_own_keys(void)
{
	static const char *const names[] = {"ES256", "ES384", "ES512"};

	for (size_t i = 0; i < lengthof(names); i++)
	{
		const GnJoseAlg *alg = gn_jose_alg(names[i]);
		uint8 x[66], y[66], d[66];
		GnJoseKey private, public;
		uint8 signature[GN_JWK_MAX_SIGNATURE];
		size_t len;

		ok(gn_jose_key_generate(alg, x, y, d) &&
			   gn_jose_key_build(&private, alg, x, y, d) &&
			   gn_jose_key_build(&public, alg, x, y, NULL),
		   "%s: a fresh key", names[i]);
		ok(gn_jose_sign(&private, "abc", 3, signature, &len) &&
			   len == 2 * alg->coordinate_size &&
			   gn_jose_verify(&public, "abc", 3, signature, len) &&
			   gn_jose_verify(&private, "abc", 3, signature, len),
		   "%s: signs and verifies", names[i]);
		ok(!gn_jose_verify(&public, "abd", 3, signature, len),
		   "%s: not another message", names[i]);
		ok(!gn_jose_sign(&public, "abc", 3, signature, &len),
		   "%s: a public key does not sign", names[i]);
		y[0] ^= 1;
		gn_jose_key_free(&private);
		gn_jose_key_free(&public);
		ok(!gn_jose_key_build(&public, alg, x, y, NULL),
		   "%s: a point beside the curve is refused", names[i]);
	}
	ok(gn_jose_alg("none") == NULL && gn_jose_alg("es256") == NULL &&
		   gn_jose_alg("HS256") == NULL,
	   "there is no none, no other spelling, no HMAC");
}

static void
jwk(const char *text, bool good, const char *name)
{
	GnJwkSet set;
	const char *why = gn_jwk_set_parse(&set, text, strlen(text));

	ok((why == NULL) == good, "JWK: %s", name);
	gn_jwk_set_free(&set);
}

static void
test_jwk(void)
{
#define X "\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\""
#define Y "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\""
#define EC "\"kty\":\"EC\",\"crv\":\"P-256\""
	GnJwkSet set;
	static const char two[] = "{\"keys\":[{" EC "," X "," Y ",\"kid\":\"1\"},{" EC "," X
							  "," Y ",\"kid\":\"2\"}]}";

	jwk(ES256_KEY, true, "RFC 7515 A.3");
	jwk("{" EC "," X "," Y
		",\"use\":\"sig\",\"alg\":\"ES256\",\"key_ops\":[\"verify\"]}",
		true, "with every mark of its use");
	jwk("{" EC "," X "," Y ",\"use\":\"enc\"}", false, "for encryption");
	jwk("{" EC "," X "," Y ",\"alg\":\"ES384\"}", false, "an alg of another curve");
	jwk("{" EC "," X "," Y ",\"key_ops\":[\"sign\"]}", false, "not for verifying");
	jwk("{" EC "," X "," Y ",\"d\":\"AA\"}", false, "private");
	jwk("{\"kty\":\"oct\",\"k\":\"AAAA\"}", false, "symmetric");
	jwk("{" EC "," X "}", false, "without y");
	jwk("{" EC "," X ",\"y\":\"AA\"}", false, "a short y");
	jwk("{" EC "," X ",\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a1\"}", false,
		"stray bits in y");
	jwk("{" EC "," X ",\"y\":\"y_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}", false,
		"beside the curve");
	jwk("{\"kty\":\"EC\",\"crv\":\"P-192\"," X "," Y "}", false, "a weak curve");
	jwk("{\"keys\":[]}", false, "an empty set");
	jwk("{\"keys\":[1]}", false, "a set of no keys");
	jwk("{\"keys\":[{" EC "," X "," Y ",\"kid\":\"1\"},{" EC "," X "," Y
		",\"kid\":\"1\"}]}",
		false, "one kid twice");
	jwk("{\"keys\":[{" EC "," X "," Y "},{\"kty\":\"oct\",\"k\":\"AAAA\"}]}", false,
		"public and symmetric mixed");
	jwk("nonsense", false, "no JSON");
	assert(gn_jwk_set_parse(&set, two, strlen(two)) == NULL);
	ok(gn_jwk_set_choose(&set, "2") == &set.keys[1], "a set is searched by kid");
	ok(gn_jwk_set_choose(&set, "3") == NULL, "an unknown kid finds nothing");
	ok(gn_jwk_set_choose(&set, "") == NULL, "no kid, several keys: nothing");
	gn_jwk_set_free(&set);
}

static void
test_thumbprints(void)
{
	static const char rsa[] =
		"{\"kty\":\"RSA\",\"n\":"
		"\"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cb"
		"bfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-"
		"5JsGY4Hc"
		"5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_"
		"FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0"
		"zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-"
		"bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPk"
		"sINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw\",\"e\":\"AQAB\",\"alg\":"
		"\"RS256\",\"kid\":\"2011-04-29\"}";
	static const char okp[] = "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":"
							  "\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwI"
							  "aaPcHURo\"}";
	char out[GN_JWK_THUMBPRINT_SIZE + 1] = {0};

	ok(gn_jwk_thumbprint(rsa, strlen(rsa), out) == NULL, "thumbprint of an RSA key");
	is_str(out, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", "RFC 7638, 3.1");
	ok(gn_jwk_thumbprint(okp, strlen(okp), out) == NULL,
	   "thumbprint of an Ed25519 key");
	is_str(out, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", "RFC 8037, A.3");
	ok(gn_jwk_thumbprint("{\"kty\":\"oct\",\"k\":\"AAAA\"}", 24, out) != NULL,
	   "not of a symmetric key");
	ok(gn_jwk_thumbprint("{\"kty\":\"EC\"}", 12, out) != NULL, "not of half a key");
}

int
main(void)
{
	test_base64url();
	test_shape();
	test_claims();
	test_signatures();
	test_own_keys();
	test_jwk();
	test_thumbprints();
	stub_reset();
	EVP_MD_CTX_free(digest_ctx);
	for (size_t i = 0; i < ALGORITHM_COUNT; i++)
		EVP_MD_free(digests[i]);
	return tap_done();
}
