/* test/unit/jwk_test.c -- JWK and JWA: the vectors of RFC 7515, 7517, 7519, 7638, 8037
 * and 8725, every algorithm both ways, and keys that are refused */
#include "postgres.h"

#include "jwt/base64url.c"
#include "jwt/jose.c"
#include "jwt/jwa.c"
#include "jwt/jwk.c"
#include "jwt/pkey.c"
#include "jwt/strict_json.c"
#include "jwt/thumbprint.c"
#include "tap.h"

#define RFC_PAYLOAD                                                                    \
	"eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19y" \
	"b290Ijp0cnVlfQ"

/* RFC 7515, A.1, which is RFC 7519, 3.1, too */
#define HS256_KEY                                                                      \
	"{\"kty\":\"oct\",\"k\":\"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75"  \
	"aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow\"}"
#define HS256_INPUT "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9." RFC_PAYLOAD
#define HS256_TOKEN HS256_INPUT ".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"

/* RFC 7515, A.2 */
#define RSA_N                                                                          \
	"\"n\":\"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4q"  \
	"PCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9w"  \
	"Gzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsm"  \
	"tdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2et"  \
	"hFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ\""
#define RSA_PRIVATE                                                                    \
	"\"d\":\"Eq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyWPEAeP88vLNO97IjlA7_GQ5sLKMg"  \
	"vfTeXZx9SE-7YwVol2NXOoAJe46sui395IW_GO-pWJ1O0BkTGoVEn2bKVRUCgu-GjBVaYLU6f3l9kJf"  \
	"FNS3E0QbVdxzubSu3Mkqzjkn439X0M_V51gfpRLI9JYanrC4D4qAdGcopV_0ZHHzQlBjudU2QvXt4eh"  \
	"NYTCBr6XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl_x_jTj3ccPDVZFD9pIuhLhBOneufuBiB4cS98l2S"  \
	"R_RQyGWSeWjnczT0QU91p1DhOVRuOopznQ\",\"p\":\"4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH_"  \
	"5IB3jw3bcxGn6QLvnEtfdUdiYrqBdss1l58BQ3KhooKeQTa9AB0Hw_Py5PJdTJNPY8cQn7ouZ2KKDcm"  \
	"nPGBY5t7yLc1QlQ5xHdwW1VhvKn-nXqhJTBgIPgtldC-KDV5z-y2XDwGUc\",\"q\":\"uQPEfgmVtj"  \
	"L0Uyyx88GZFF1fOunH3-7cepKmtH4pxhtCoHqpWmT8YAmZxaewHgHAjLYsp1ZSe7zFYHj7C6ul7TjeL"  \
	"QeZD_YwD66t62wDmpe_HlB-TnBA-njbglfIsRLtXlnDzQkv5dTltRJ11BKBBypeeF6689rjcJIDEz9R"  \
	"Wdc\",\"dp\":\"BwKfV3Akq5_MFZDFZCnW-wzl-CCo83WoZvnLQwCTeDv8uzluRSnm71I3QCLdhrqE"  \
	"2e9YkxvuxdBfpT_PI7Yz-FOKnu1R6HsJeDCjn12Sk3vmAktV2zb34MCdy7cpdTh_YVr7tss2u6vneTw"  \
	"rA86rZtu5Mbr1C1XsmvkxHQAdYo0\",\"dq\":\"h_96-mK1R_7glhsum81dZxjTnYynPbZpHziZjee"  \
	"HcXYsXaaMwkOlODsWa7I9xXDoRwbKgB719rrmI2oKr6N3Do9U0ajaHF-NKJnwgjMd2w9cjz3_-kyNlx"  \
	"Ar2v4IKhGNpmM5iIgOS1VZnOZ68m6_pbLBSp3nssTdlqvd0tIiTHU\",\"qi\":"                  \
	"\"IYd7DHOhrWvxkwPQsRM2tOgrjbcrfvtQJipd-"                                          \
	"DlcxyVuuM9sQLdgjVk2oy26F0EmpScGLq2MowX7fhd_"                                      \
	"QJQ3ydy5cY7YIBi87w93IKLEdfnbJtoOPLUW0ITrJReOgo1cq9SbsxYawBgfp_gh6A5603k2-"        \
	"ZQwVK0JKSHuLFkuQ3U\""
#define RSA_KEY "{\"kty\":\"RSA\",\"e\":\"AQAB\"," RSA_N "}"
#define RSA_SIGNER "{\"kty\":\"RSA\",\"e\":\"AQAB\"," RSA_N "," RSA_PRIVATE "}"
#define RS256_TOKEN                                                                    \
	"eyJhbGciOiJSUzI1NiJ9." RFC_PAYLOAD                                                \
	".cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_l" \
	"F5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vR" \
	"K5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsq" \
	"tFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVr" \
	"Bp0igcN_IoypGlUPQGe77Rw"

/* RFC 7515, A.3 */
#define EC_X "\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\""
#define EC_Y "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\""
#define EC_D "\"d\":\"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI\""
#define EC "\"kty\":\"EC\",\"crv\":\"P-256\""
#define ES256_KEY "{" EC "," EC_X "," EC_Y "}"
#define ES256_SIGNATURE                                                                \
	"DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-"  \
	"Kg6NU1Q"
#define ES256_INPUT "eyJhbGciOiJFUzI1NiJ9." RFC_PAYLOAD
#define ES256_TOKEN ES256_INPUT "." ES256_SIGNATURE

/* RFC 7515, A.4 */
#define ES512_KEY                                                                      \
	"{\"kty\":\"EC\",\"crv\":\"P-521\",\"x\":\"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06"  \
	"wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk\",\"y\":\"ADSmRA43Z1DSNx_R"   \
	"vcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2\"}"
#define ES512_TOKEN                                                                    \
	"eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOY" \
	"aRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8Kp" \
	"EHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"

/* RFC 8037, A.1 to A.5 */
#define OKP_X                                                                          \
	"\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_"                       \
	"7TyWQHOg7hcvPapiMlrwIaaPcHURo\""
#define OKP_D "\"d\":\"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\""
#define EDDSA_INPUT "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
#define EDDSA_TOKEN                                                                    \
	EDDSA_INPUT ".hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVs" \
				"Pt9g7sVvpAr_MuM0KAg"

static bool
verifies(const char *jwk, const char *token)
{
	static GnJwkSet set;
	GnJws jws;
	bool known;
	GnJoseKey *key = NULL;
	bool valid = gn_jwk_set_parse(&set, jwk, strlen(jwk)) == NULL &&
				 gn_jws_parse(&jws, token, strlen(token), palloc(strlen(token) + 1)) ==
					 GN_JOSE_OK;

	if (valid)
		key = gn_jwk_set_choose(&set, jws.kid, jws.alg, &known);
	valid = key && gn_jose_verify(key, jws.input, jws.input_len, jws.signature,
								  jws.signature_len);
	gn_jwk_set_free(&set);
	return valid;
}

/* INPUT with the signature that the key makes for it; NULL: it makes none */
static char *
signed_with(const char *jwk, const char *alg, const char *input)
{
	GnJoseKey key;
	GnKeyNumbers numbers;
	char kid[65];
	uint8 signature[GN_JWA_MAX_SIGNATURE];
	size_t len;
	char *out = NULL;

	if (gn_jwk_private_parse(&key, kid, &numbers, palloc(GN_JWA_NUMBERS_ROOM), jwk,
							 strlen(jwk)) != NULL)
		return NULL;
	if (gn_jose_key_settle(&key, gn_jose_alg(alg)) &&
		gn_jose_sign(&key, input, strlen(input), signature, &len))
	{
		out = palloc0(strlen(input) + 2 + GN_BASE64URL_ENCODED_SIZE(len));
		sprintf(out, "%s.", input);
		gn_base64url_encode(signature, len, out + strlen(out));
	}
	gn_jose_key_free(&key);
	return out;
}

static char *
encoded(const uint8 *data, size_t len)
{
	char *out = palloc0(GN_BASE64URL_ENCODED_SIZE(len) + 1);

	gn_base64url_encode(data, len, out);
	return out;
}

static char *
es256_with(const char *signature)
{
	char *out = palloc(strlen(ES256_INPUT) + strlen(signature) + 2);

	sprintf(out, "%s.%s", ES256_INPUT, signature);
	return out;
}

static void
test_vectors(void)
{
	ok(verifies(HS256_KEY, HS256_TOKEN), "RFC 7515 A.1: HS256");
	is_str(signed_with(HS256_KEY, "HS256", HS256_INPUT), HS256_TOKEN,
		   "RFC 7515 A.1: and the same made here");
	ok(verifies(RSA_KEY, RS256_TOKEN), "RFC 7515 A.2: RS256");
	is_str(signed_with(RSA_SIGNER, "RS256", "eyJhbGciOiJSUzI1NiJ9." RFC_PAYLOAD),
		   RS256_TOKEN, "RFC 7515 A.2: and the same made here");
	ok(verifies(ES256_KEY, ES256_TOKEN), "RFC 7515 A.3: ES256");
	ok(verifies(ES256_KEY, signed_with("{" EC "," EC_X "," EC_Y "," EC_D "}", "ES256",
									   ES256_INPUT)),
	   "RFC 7515 A.3: and one made here");
	ok(verifies(ES512_KEY, ES512_TOKEN), "RFC 7515 A.4: ES512");
	ok(!verifies(ES256_KEY, "eyJhbGciOiJub25lIn0." RFC_PAYLOAD "."),
	   "RFC 7515 A.5, RFC 7519 6.1: an unsecured JWS is refused");
	ok(!verifies(HS256_KEY,
				 "eyJhbGciOiJub25lIiwNCiAiY3JpdCI6WyJodHRwOi8vZXhhbXBsZS5jb20vVU5ERUZJ"
				 "TkVEIl0sDQogImh0dHA6Ly9leGFtcGxlLmNvbS9VTkRFRklORUQiOnRydWUNCn0.RkFJT"
				 "A."),
	   "RFC 7515 appendix E: a negative test case for crit");
	ok(verifies("{" OKP_X "}", EDDSA_TOKEN), "RFC 8037 A.5: EdDSA");
	is_str(signed_with("{" OKP_X "," OKP_D "}", "EdDSA", EDDSA_INPUT), EDDSA_TOKEN,
		   "RFC 8037 A.4: and the same made here");
}

static void
test_attacks(void)
{
	uint8 raw[66];
	size_t len;
	uint8 der[DER_MAX];
	size_t der_len;
	char *set = palloc(2 * strlen(RSA_KEY) + 500);

	for (size_t i = 0; i < strlen(ES256_TOKEN); i += 7)
	{
		char *changed = pstrdup(ES256_TOKEN);

		if (changed[i] == '.')
			continue;
		changed[i] = changed[i] == 'A' ? 'Q' : 'A';
		ok(!verifies(ES256_KEY, changed), "changed at %zu", i);
	}
	ok(!verifies(ES512_KEY, ES256_TOKEN), "another key's algorithm");
	ok(!verifies(ES256_KEY, es256_with("")), "no signature");
	assert(gn_base64url_decode(ES256_SIGNATURE, strlen(ES256_SIGNATURE), raw, &len) &&
		   len == 64);
	der_len = der_signature(raw, 32, der);
	ok(!verifies(ES256_KEY, es256_with(encoded(der, der_len))), "a signature in DER");
	ok(!verifies(ES256_KEY, es256_with(encoded((uint8[64]){0}, 64))),
	   "r and s of 0 (CVE-2022-21449)");
	ok(!verifies(ES256_KEY, es256_with(encoded(raw, 63))), "a byte short");
	memmove(raw + 1, raw, 64);
	raw[0] = 0;
	ok(!verifies(ES256_KEY, es256_with(encoded(raw, 65))), "a byte long");
	memset(raw, 0xff, 64);
	ok(!verifies(ES256_KEY, es256_with(encoded(raw, 64))), "r and s beyond the order");

	/* RFC 8725, 2.1 and 3.1: the public key of one algorithm as the secret of another
	 */
	ok(!verifies(RSA_KEY, HS256_TOKEN), "HMAC where the key is RSA");
	ok(!verifies(HS256_KEY, RS256_TOKEN), "RSA where the key is a secret");
	sprintf(set, "{\"kty\":\"RSA\",\"alg\":\"PS256\",\"e\":\"AQAB\",%s}", RSA_N);
	ok(!verifies(set, RS256_TOKEN), "RS256 where the key is for PS256");
	sprintf(set, "{\"kty\":\"RSA\",\"alg\":\"RS256\",\"e\":\"AQAB\",%s}", RSA_N);
	ok(verifies(set, RS256_TOKEN), "RS256 where it is for RS256");
	sprintf(set, "{\"keys\":[%s,%s]}", ES256_KEY, RSA_KEY);
	ok(!verifies(set, ES256_TOKEN), "no kid, several keys: nothing is tried");
}

/* S + L signs the same message for those who do not look: RFC 8032, 5.1.7 */
static void
test_malleable_eddsa(void)
{
	static const uint8 order[32] = {0xed, 0xd3, 0xf5, 0x5c, 0x1a,       0x63,
									0x12, 0x58, 0xd6, 0x9c, 0xf7,       0xa2,
									0xde, 0xf9, 0xde, 0x14, [31] = 0x10};
	const char *text = strrchr(EDDSA_TOKEN, '.') + 1;
	uint8 raw[66];
	size_t len;
	int carry = 0;
	char *token = palloc(strlen(EDDSA_TOKEN) + 10);

	assert(gn_base64url_decode(text, strlen(text), raw, &len) && len == 64);
	for (int i = 0; i < 32; i++)
	{
		carry += raw[32 + i] + order[i];
		raw[32 + i] = (uint8) carry;
		carry >>= 8;
	}
	sprintf(token, "%s.%s", EDDSA_INPUT, encoded(raw, 64));
	ok(!verifies("{" OKP_X "}", token), "EdDSA with S beyond the order");
}

/* Contexts are kept: a second message, and a second after a failure, must do as well.
 */
static void
test_round_trip(const char *name)
{
	const GnJoseAlg *alg = gn_jose_alg(name);
	GnKeyNumbers numbers;
	GnKeyNumbers unpacked;
	uint8 *room = palloc(GN_JWA_NUMBERS_ROOM);
	uint8 *packed = palloc(GN_JWA_NUMBERS_ROOM);
	GnJoseKey private, public;
	uint8 signature[GN_JWA_MAX_SIGNATURE];
	size_t len;
	bool symmetric = alg->family == GN_JOSE_HMAC;

	assert(gn_jose_key_generate(alg, 2048, room, &numbers));
	unpacked = numbers;
	unpacked.d = unpacked.p = unpacked.q = unpacked.dp = unpacked.dq = unpacked.qi =
		unpacked.k = (GnNumber){0};
	if (!symmetric)
		ok(gn_jose_key_build(&public, alg, &unpacked) == NULL, "%s: a fresh key", name);
	ok(gn_jose_private_unpack(alg, packed, gn_jose_private_pack(&numbers, packed),
							  &unpacked) &&
		   gn_jose_key_build(&private, alg, &unpacked) == NULL,
	   "%s: packed and unpacked", name);
	if (symmetric)
		assert(gn_jose_key_build(&public, alg, &unpacked) == NULL);
	for (int i = 0; i < 3; i++)
	{
		ok(gn_jose_sign(&private, &i, sizeof(i), signature, &len) &&
			   gn_jose_verify(&public, &i, sizeof(i), signature, len) &&
			   gn_jose_verify(&private, &i, sizeof(i), signature, len),
		   "%s: signs and verifies, %d", name, i);
		ok(!gn_jose_verify(&public, "", 0, signature, len), "%s: not another message",
		   name);
		signature[len - 1] ^= 1;
		ok(!gn_jose_verify(&public, &i, sizeof(i), signature, len),
		   "%s: not another signature", name);
		ok(!gn_jose_verify(&public, &i, sizeof(i), signature, len - 1),
		   "%s: not a shorter one", name);
	}
	if (!symmetric)
		ok(!gn_jose_sign(&public, "abc", 3, signature, &len),
		   "%s: a public key does not sign", name);
	for (size_t cut = 0; cut < 3; cut++)
		ok(strcmp(alg->kty, "RSA") != 0 ||
			   !gn_jose_private_unpack(alg, packed,
									   gn_jose_private_pack(&numbers, packed) - 1 - cut,
									   &unpacked),
		   "%s: a packed key that was cut", name);
	gn_jose_key_free(&private);
	gn_jose_key_free(&public);
}

static void
test_algorithms(void)
{
	static const char *const names[] = {"HS256", "HS384", "HS512",  "RS256", "RS384",
										"RS512", "PS256", "PS384",  "PS512", "ES256",
										"ES384", "ES512", "ES256K", "EdDSA"};
	static const char *const none[] = {"none",  "None",  "NONE",   "nOnE", "",
									   "es256", "hs256", "RSA1_5", "HS1",  "EdDSA "};

	for (size_t i = 0; i < lengthof(names); i++)
		test_round_trip(names[i]);
	for (size_t i = 0; i < lengthof(none); i++)
		ok(gn_jose_alg(none[i]) == NULL, "\"%s\" is no algorithm", none[i]);
	gn_jose_prepare();
}

static void
jwk(const char *text, bool good, const char *name)
{
	static GnJwkSet set;
	const char *why = gn_jwk_set_parse(&set, text, strlen(text));

	ok((why == NULL) == good, "JWK: %s", name);
	if ((why == NULL) != good)
		printf("#   %s\n", why ? why : "taken");
	gn_jwk_set_free(&set);
}

static void
test_ec_keys(void)
{
	jwk(ES256_KEY, true, "RFC 7515 A.3");
	jwk("{" EC "," EC_X "," EC_Y
		",\"use\":\"sig\",\"alg\":\"ES256\",\"key_ops\":[\"verify\"]}",
		true, "with every mark of its use");
	jwk("{" EC "," EC_X "," EC_Y ",\"use\":\"enc\"}", false, "for encryption");
	jwk("{" EC "," EC_X "," EC_Y ",\"use\":1}", false, "a use that is no string");
	jwk("{" EC "," EC_X "," EC_Y ",\"alg\":\"ES384\"}", false,
		"an alg of another curve");
	jwk("{" EC "," EC_X "," EC_Y ",\"alg\":\"RS256\"}", false,
		"an alg of another type");
	jwk("{" EC "," EC_X "," EC_Y ",\"alg\":\"none\"}", false, "alg none");
	jwk("{" EC "," EC_X "," EC_Y ",\"key_ops\":[\"sign\"]}", false,
		"not for verifying");
	jwk("{" EC "," EC_X "," EC_Y ",\"key_ops\":\"verify\"}", false,
		"key_ops that are no array");
	jwk("{" EC "," EC_X "," EC_Y "," EC_D "}", false, "private");
	jwk("{" EC "," EC_X "}", false, "without y");
	jwk("{" EC "," EC_X ",\"y\":\"AA\"}", false, "a short y");
	jwk("{" EC "," EC_X ",\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a1\"}",
		false, "stray bits in y");
	jwk("{" EC "," EC_X ",\"y\":\"y_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}",
		false, "beside the curve");
	jwk("{\"kty\":\"EC\",\"crv\":\"P-192\"," EC_X "," EC_Y "}", false, "a weak curve");
	jwk("{\"kty\":\"EC\",\"crv\":\"P-384\"," EC_X "," EC_Y "}", false, "another curve");
	jwk("{\"kty\":\"EC\"," EC_X "," EC_Y "}", false, "no curve");
	jwk("{\"kty\":\"ec\",\"crv\":\"P-256\"," EC_X "," EC_Y "}", false,
		"another spelling of its type");
	/* SEC 2: the generator of secp256k1 */
#define K1                                                                             \
	"\"kty\":\"EC\",\"crv\":\"secp256k1\","                                            \
	"\"x\":\"eb5mfvncu6xVoGKVzocLBwKb_NstzijZWfKBWxb4F5g\","                           \
	"\"y\":\"SDradyajxGVdpPv8DhEIqP0XtEimhVQZnEfQj_sQ1Lg\""
	jwk("{" K1 ",\"alg\":\"ES256K\"}", true, "secp256k1 that was asked for");
	jwk("{" K1 "}", false, "secp256k1 that was not");
	jwk("{" K1 ",\"alg\":\"ES256\"}", false, "secp256k1 as ES256");
	jwk("{" OKP_X "}", true, "RFC 8037 A.2");
	jwk("{" OKP_X "," OKP_D "}", false, "RFC 8037 A.1, private");
	jwk("{\"kty\":\"OKP\",\"crv\":\"X25519\",\"x\":\"3p7bfXt9wbTTW2HC7OQ1Nz-"
		"DQ8hbeGdNrfx-FG-IK08\"}",
		false, "RFC 8037 A.6: X25519 signs nothing");
	jwk("{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_"
		"7TyWQHOg7hcvPapiMlrwIaaPcHUQ\"}",
		false, "a short x");
}

static void
test_rsa_keys(void)
{
	char *text = palloc(8192);
	char *n = palloc0(4096);

	jwk(RSA_KEY, true, "RFC 7515 A.2");
	jwk(RSA_SIGNER, false, "RFC 7515 A.2, private");
	jwk("{\"kty\":\"RSA\"," RSA_N "}", false, "without e");
	jwk("{\"kty\":\"RSA\",\"e\":\"AQAB\"}", false, "without n");
	jwk("{\"kty\":\"RSA\",\"e\":\"AQ\"," RSA_N "}", false, "e of 1");
	jwk("{\"kty\":\"RSA\",\"e\":\"Ag\"," RSA_N "}", false, "e of 2");
	jwk("{\"kty\":\"RSA\",\"e\":\"Aw\"," RSA_N "}", true, "e of 3");
	jwk("{\"kty\":\"RSA\",\"e\":\"AQAA\"," RSA_N "}", false, "an even e");
	jwk("{\"kty\":\"RSA\",\"e\":\"AAEAAQ\"," RSA_N "}", false, "e with a leading zero");
	jwk("{\"kty\":\"RSA\",\"e\":\"\"," RSA_N "}", false, "an empty e");
	jwk("{\"kty\":\"RSA\",\"e\":\"AQAB\",\"alg\":\"ES256\"," RSA_N "}", false,
		"an alg of another type");
	jwk("{\"kty\":\"RSA\",\"e\":\"AQAB\",\"alg\":\"RSA-OAEP\"," RSA_N "}", false,
		"an alg for encryption");
	jwk("{\"kty\":\"RSA\",\"e\":\"AQAB\",\"oth\":[]," RSA_N "}", false,
		"more than two primes");
	memset(n, '_', 171);
	sprintf(text, "{\"kty\":\"RSA\",\"e\":\"AQAB\",\"n\":\"%.170sw\"}", n);
	jwk(text, false, "1024 bits");
	memset(n, '_', 1368);
	sprintf(text, "{\"kty\":\"RSA\",\"e\":\"AQAB\",\"n\":\"%.1368s\"}", n);
	jwk(text, false, "8208 bits");
	sprintf(text, "{\"kty\":\"RSA\",\"e\":\"AQAB\",\"n\":\"%.341s-\"}", n);
	jwk(text, false, "stray bits in n");
}

/* RFC 7517, appendix A: keys for other purposes than ours, and symmetric ones */
static void
test_sets(void)
{
	static GnJwkSet set;
	bool known;
	static const char two[] = "{\"keys\":[{" EC "," EC_X "," EC_Y ",\"kid\":\"1\"},{" EC
							  "," EC_X "," EC_Y ",\"kid\":\"2\"}]}";

	jwk("{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":"
		"\"MKBCTNIcKUSDii11ySs3526iDZ8A"
		"iTo7Tu6KPAqv7D4\",\"y\":\"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM\","
		"\"use\":"
		"\"enc\",\"kid\":\"1\"}]}",
		false, "RFC 7517 A.1: a key for encryption");
	jwk("{\"keys\":[{\"kty\":\"oct\",\"alg\":\"A128KW\",\"k\":"
		"\"GawgguFyGrWKav7AX4VKUg\"}]}",
		false, "RFC 7517 A.3: a key for wrapping keys");
	jwk("{\"kty\":\"oct\",\"k\":\"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-"
		"1qS0gZH75aKt"
		"MN3Yj0iPS4hcgUuTwjAzZr1Z9CAow\",\"kid\":\"HMAC key used in JWS spec Appendix "
		"A.1 "
		"example\"}",
		true, "RFC 7517 A.3: a key for HMAC");
	jwk("{\"keys\":[" HS256_KEY "]}", true, "a set of nothing but symmetric keys");
	jwk("{\"keys\":[" ES256_KEY "," HS256_KEY "]}", false,
		"public and symmetric mixed");
	jwk("{\"keys\":[" HS256_KEY "," ES256_KEY "]}", false, "the other way round");
	jwk("{\"kty\":\"oct\",\"k\":\"AAAA\"}", false, "a short secret");
	jwk("{\"kty\":\"oct\",\"k\":\"\"}", false, "an empty secret");
	jwk("{\"kty\":\"oct\"}", false, "no secret");
	jwk("{\"kty\":\"oct\",\"alg\":\"HS512\",\"k\":\"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-"
		"EstJQ"
		"Lr8\"}",
		false, "32 bytes for HS512");
	jwk("{\"keys\":[]}", false, "an empty set");
	jwk("{\"keys\":[1]}", false, "a set of no keys");
	jwk("{\"keys\":{}}", false, "keys that are no array");
	jwk("{\"keys\":[{" EC "," EC_X "," EC_Y ",\"kid\":\"1\"},{" EC "," EC_X "," EC_Y
		",\"kid\":\"1\"}]}",
		false, "one kid twice");
	jwk("{" EC "," EC_X "," EC_Y ",\"kid\":\"\"}", false, "an empty kid");
	jwk("{" EC "," EC_X "," EC_Y ",\"kid\":1}", false, "a kid that is no string");
	jwk("{" EC "," EC_X "," EC_X "," EC_Y "}", false, "a member twice");
	jwk("nonsense", false, "no JSON");

	assert(gn_jwk_set_parse(&set, two, strlen(two)) == NULL);
	ok(gn_jwk_set_choose(&set, "2", "ES256", &known) == &set.keys[1],
	   "a set is searched by kid");
	ok(gn_jwk_set_choose(&set, "2", "ES384", &known) == NULL && known,
	   "and its key serves its own algorithm only");
	ok(gn_jwk_set_choose(&set, "3", "ES256", &known) == NULL && !known,
	   "an unknown kid finds nothing");
	ok(gn_jwk_set_choose(&set, "", "ES256", &known) == NULL && !known,
	   "no kid, several keys: nothing");
	gn_jwk_set_free(&set);
	ok(signed_with(
		   "{\"kty\":\"oct\",\"k\":\"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr8\"}",
		   "HS384", "e30.e30") == NULL,
	   "a secret of 32 bytes does not sign HS384");
	ok(signed_with(ES256_KEY, "ES256", ES256_INPUT) == NULL,
	   "a public key does not sign");
	ok(signed_with("{\"keys\":[{" EC "," EC_X "," EC_Y "," EC_D "}]}", "ES256",
				   ES256_INPUT) == NULL,
	   "nor does a set");
}

static void
thumbprint_is(const char *text, const char *wanted, const char *name)
{
	char out[GN_JWK_THUMBPRINT_SIZE + 1] = {0};

	if (wanted == NULL)
		ok(gn_jwk_thumbprint(text, strlen(text), out) != NULL, "no thumbprint: %s",
		   name);
	else if (gn_jwk_thumbprint(text, strlen(text), out) == NULL)
		is_str(out, wanted, "thumbprint: %s", name);
	else
		ok(false, "thumbprint: %s", name);
}

static void
test_thumbprints(void)
{
	thumbprint_is(
		"{\"kty\":\"RSA\",\"n\":"
		"\"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cb"
		"bfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-"
		"5JsGY4Hc"
		"5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_"
		"FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0"
		"zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-"
		"bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPk"
		"sINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw\",\"e\":\"AQAB\",\"alg\":"
		"\"RS256\",\"kid\":\"2011-04-29\"}",
		"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", "RFC 7638, 3.1");
	thumbprint_is("{" OKP_X "}", "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
				  "RFC 8037, A.3");
	thumbprint_is("{" OKP_X "," OKP_D "}",
				  "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
				  "the private key has that of the public one");
	thumbprint_is(ES256_KEY, "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U",
				  "RFC 7515 A.3, as other libraries have it");
	thumbprint_is(HS256_KEY, "y_x3gCJnL6oKGBBIXScabduwxTVy2Wd2bzRVEUbdUzc",
				  "RFC 7515 A.1, as other libraries have it");
	thumbprint_is("{\"kty\":\"EC\"}", NULL, "half a key");
	thumbprint_is("{\"kty\":\"oct\"}", NULL, "no secret");
	thumbprint_is("{\"kty\":\"oct\",\"k\":\"=\"}", NULL, "no base64url");
	thumbprint_is("{\"kty\":\"AKP\"}", NULL, "another type");
	thumbprint_is("{}", NULL, "no type");
	thumbprint_is("1", NULL, "no object");
}

int
main(void)
{
	test_vectors();
	test_attacks();
	test_malleable_eddsa();
	test_algorithms();
	test_ec_keys();
	test_rsa_keys();
	test_sets();
	test_thumbprints();
	stub_reset();
	EVP_MD_CTX_free(digest_ctx);
	EVP_MAC_free(hmac);
	for (size_t i = 0; i < ALGORITHM_COUNT; i++)
		EVP_MD_free(digests[i]);
	return tap_done();
}
