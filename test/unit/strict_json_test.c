/* test/unit/strict_json_test.c -- the reader of JSON, event by event and rule by rule
 */
#include "postgres.h"

#include "jwt/strict_json.c"
#include "tap.h"

static char heard[8192];

static void
write_down(void *arg, GnJsonEvent event, int depth, const char *text, size_t len)
{
	static const char marks[] = "{}[]KSNtf0";

	sprintf(heard + strlen(heard), "%c%d%.*s ", marks[event], depth, (int) len,
			text ? text : "");
}

static bool
reads(const char *json)
{
	GnJsonReader reader = {.event = write_down};

	heard[0] = '\0';
	return gn_json_read(json, strlen(json), palloc(strlen(json) + 1), &reader);
}

static void
refused(const char *json, const char *name)
{
	ok(!reads(json), "refused: %s", name);
}

static char *
repeated(const char *head, const char *text, int times, const char *tail)
{
	char *out = palloc(strlen(head) + strlen(text) * times + strlen(tail) + 1);

	strcpy(out, head);
	for (int i = 0; i < times; i++)
		strcat(out, text);
	strcat(out, tail);
	return out;
}

static char *
with_members(int count)
{
	char *out = palloc((size_t) count * 12 + 3);

	strcpy(out, "{");
	for (int i = 0; i < count; i++)
		sprintf(out + strlen(out), "%s\"m%d\":0", i ? "," : "", i);
	strcat(out, "}");
	return out;
}

static void
test_events(void)
{
	ok(reads("{}"), "an empty object");
	is_str(heard, "{0 }0 ", "and what is heard of it");
	ok(reads(" {\n\t\"a\" : [ 1 , -2.5e3 , \"x\" ] ,\r\"b\":{\"c\":null},\"d\":true,"
			 "\"e\":false,\"f\":[]} "),
	   "everything that JSON has");
	is_str(heard,
		   "{0 K1a [1 N21 N2-2.5e3 S2x ]1 K1b {1 K2c 02 }1 K1d t1 K1e f1 K1f [1 ]1 }0 ",
		   "in order, with depths");
	ok(reads("{\"\\u0061\\n\\\\\":\"\\ud83d\\ude00\\u00e9\\u20ac\\/\"}"), "escapes");
	is_str(heard, "{0 K1a\n\\ S1\xf0\x9f\x98\x80\xc3\xa9\xe2\x82\xac/ }0 ", "decoded");
	ok(reads("{\"\xc3\xa9\":\"\xf0\x9f\x98\x80\x7f\"}"), "UTF-8 as it is");
}

static void
test_refusals(void)
{
	refused("", "nothing");
	refused("[]", "an array");
	refused("\"a\"", "a string");
	refused("{", "half an object");
	refused("{}{}", "two");
	refused("{}x", "something behind");
	refused("\xef\xbb\xbf{}", "a byte order mark");
	refused("{\"a\":1,}", "a comma too many");
	refused("{,}", "a comma alone");
	refused("{\"a\" 1}", "no colon");
	refused("{a:1}", "a name without quotes");
	refused("{\"a\":[1,]}", "a comma too many in an array");
	refused("{\"a\":[1 2]}", "no comma");
	refused("{\"a\":[1}", "a bracket of the other kind");
	refused("{\"a\":tru}", "half a word");
	refused("{\"a\":'b'}", "other quotes");
	refused("{\"a\":1}/**/", "a comment");
	refused("{\"a\":\"\t\"}", "a control character");
	refused("{\"a\":\"\\x\"}", "an unknown escape");
	refused("{\"a\":\"\\u12\"}", "half an escape");
	refused("{\"a\":\"\\u0000\"}", "U+0000");
	refused("{\"a\":\"\\ud800\"}", "half a surrogate pair");
	refused("{\"a\":\"\\udc00\\ud800\"}", "a pair the wrong way round");
	refused("{\"a\":\"\\ud800\\u0041\"}", "half a pair and a letter");
	refused("{\"a\":\"\xff\"}", "no UTF-8");
	refused("{\"a\":\"\xc0\xaf\"}", "overlong UTF-8");
	refused("{\"a\":\"\xe0\x80\xaf\"}", "overlong UTF-8 of three");
	refused("{\"a\":\"\xed\xa0\x80\"}", "a surrogate in UTF-8");
	refused("{\"a\":\"\xf4\x90\x80\x80\"}", "beyond U+10FFFF");
	refused("{\"a\":\"\xe2\x82\"}", "UTF-8 that ends early");
	refused("{\"a\":1,\"a\":1}", "two members of one name");
	refused("{\"a\":1,\"\\u0061\":1}", "one of them escaped");
	refused("{\"x\":{\"a\":1,\"a\":1}}", "further inside");
	refused("{\"x\":[{\"a\":1},{\"b\":{},\"b\":1}]}", "in an array");
	ok(reads("{\"a\":{\"a\":{\"a\":1}},\"b\":{\"a\":1}}"),
	   "the same name in different objects is no duplicate");
}

static void
test_numbers(void)
{
	static const char *const good[] = {"0",
									   "-0",
									   "1",
									   "-1",
									   "10",
									   "1.5",
									   "-1.5e-3",
									   "1e9",
									   "1E+9",
									   "1e308",
									   "1e-999",
									   "9223372036854775807",
									   "-9223372036854775808"};
	static const char *const bad[] = {"01",
									  "-",
									  "+1",
									  ".5",
									  "1.",
									  "1.e3",
									  "1e",
									  "1e+",
									  "0x10",
									  "NaN",
									  "Infinity",
									  "-Infinity",
									  "1e400",
									  "-1e400",
									  "1e-99999",
									  "9223372036854775808",
									  "-9223372036854775809",
									  "99999999999999999999",
									  "1_000",
									  "1,5"};

	for (size_t i = 0; i < lengthof(good); i++)
	{
		char *json = palloc(80);

		sprintf(json, "{\"a\":%s}", good[i]);
		ok(reads(json), "a number: %s", good[i]);
	}
	for (size_t i = 0; i < lengthof(bad); i++)
	{
		char *json = palloc(80);

		sprintf(json, "{\"a\":%s}", bad[i]);
		refused(json, bad[i]);
	}
	ok(reads(repeated("{\"a\":0.", "1", 62, "}")), "a number of 64 characters");
	refused(repeated("{\"a\":0.", "1", 63, "}"), "one of 65");
}

static void
test_bounds(void)
{
	ok(reads(repeated("{\"a\":", "[", 31, "")) == false, "open brackets");
	ok(reads(repeated(repeated("{\"a\":", "[", 31, ""), "]", 31, "}")), "32 deep");
	refused(repeated(repeated("{\"a\":", "[", 32, ""), "]", 32, "}"), "33 deep");
	refused(repeated("", "{\"a\":", 100000, ""), "100000 deep");
	ok(gn_json_read(with_members(GN_JSON_MAX_MEMBERS),
					strlen(with_members(GN_JSON_MAX_MEMBERS)), palloc(20000), NULL),
	   "1024 members");
	ok(!gn_json_read(with_members(GN_JSON_MAX_MEMBERS + 1),
					 strlen(with_members(GN_JSON_MAX_MEMBERS + 1)), palloc(20000),
					 NULL),
	   "not one more");
}

int
main(void)
{
	test_events();
	test_refusals();
	test_numbers();
	test_bounds();
	stub_reset();
	return tap_done();
}
