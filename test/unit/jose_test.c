/* test/unit/jose_test.c -- compact JWS, its header and registered claims, rule by rule
 */
#include "postgres.h"

#include "jwt/base64url.c"
#include "jwt/claims.c"
#include "jwt/jose.c"
#include "jwt/strict_json.c"
#include "tap.h"

/* RFC 7515, A.3 */
#define ES256_HEADER "eyJhbGciOiJFUzI1NiJ9"
#define ES256_PAYLOAD                                                                  \
	"eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19y" \
	"b290Ijp0cnVlfQ"
#define ES256_SIGNATURE                                                                \
	"DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-"  \
	"Kg6NU1Q"

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

static void
claims(const char *json, GnJoseError error, const char *name)
{
	GnClaimRules rules = {.issuer = "i", .audience = "a", .now = NOW * 1000000};
	GnClaimTimes times = {0};
	GnJoseError got = gn_claims_check(json, strlen(json), palloc(strlen(json) + 1),
									  &rules, NULL, &times);

	ok(got == error, "claims: %s", name);
	if (got != error)
		printf("#   got %s\n",
			   gn_jose_error_code(got) ? gn_jose_error_code(got) : "ok");
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
	claims("{\"iss\":\"i\",\"sub\":\"s\",\"aud\":{\"a\":\"a\"},\"iat\":1" REST,
		   GN_JOSE_CLAIMS, "an aud that is an object");
	claims("{\"iss\":\"i\",\"sub\":\"s\",\"aud\":[[\"a\"]],\"iat\":1" REST,
		   GN_JOSE_CLAIMS, "an aud within an array within");
	claims("{\"x\":{\"iss\":\"i\",\"aud\":\"a\",\"exp\":1700000900},\"iss\":\"i\","
		   "\"sub\":\"s\",\"aud\":\"b\",\"iat\":1" REST,
		   GN_JOSE_AUDIENCE, "claims within a claim count for nothing");
	claims("{\"\\u0069ss\":\"\\u0069\",\"sub\":\"s\",\"aud\":\"a\",\"iat\":1" REST,
		   GN_JOSE_OK, "escaped names and values are what they say");
	claims("[]", GN_JOSE_CLAIMS, "no object");
	claims("", GN_JOSE_CLAIMS, "nothing");
#undef REST
}

int
main(void)
{
	test_shape();
	test_claims();
	stub_reset();
	return tap_done();
}
