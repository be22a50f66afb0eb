/* test/fuzz/claims_fuzz.c -- strict JSON and registered claims, without the base64
 * around it; jansson is asked whether it reads the same */
#include "jwt/claims.c"
#include "jwt/strict_json.c"

#include <jansson.h>

#include "fuzz.h"

/* What jansson is to be spared: it recurses, takes numbers that jsonb cannot hold, and
 * reads over a zero byte behind a number. */
static bool
fit_for_jansson(const char *at, const char *end)
{
	bool string = false;
	int depth = 0;

	for (; at < end; at++)
	{
		size_t number = 0;
		size_t exponent = 0;

		if (*at == '\0')
			return false;
		if (string)
		{
			if (*at == '\\')
				at++;
			else
				string = *at != '"';
			continue;
		}
		string = *at == '"';
		depth += (*at == '{' || *at == '[') - (*at == '}' || *at == ']');
		if (depth > GN_JSON_MAX_DEPTH)
			return false;
		while (at + number < end && strchr("+-.0123456789eE", at[number]) &&
			   at[number] != '\0')
		{
			if (exponent || at[number] == 'e' || at[number] == 'E')
				exponent++;
			number++;
		}
		if (number > NUMBER_MAX || exponent > EXPONENT_MAX)
			return false;
		if (number > 0)
			at += number - 1;
	}
	return true;
}

/* A tree made of what is heard, to be held against jansson's. */
typedef struct Tree
{
	json_t *stack[GN_JSON_MAX_DEPTH + 1];
	char *key[GN_JSON_MAX_DEPTH + 1];
	int depth;
	json_t *root;
} Tree;

static void
put(Tree *tree, json_t *value)
{
	json_t *parent = tree->depth > 0 ? tree->stack[tree->depth] : NULL;

	if (parent == NULL)
		tree->root = value;
	else if (json_is_array(parent))
		json_array_append_new(parent, value);
	else
	{
		json_object_set_new_nocheck(parent, tree->key[tree->depth], value);
		free(tree->key[tree->depth]);
		tree->key[tree->depth] = NULL;
	}
}

static void
build(void *arg, GnJsonEvent event, int depth, const char *text, size_t len)
{
	Tree *tree = arg;
	json_t *value = NULL;

	CHECK(depth >= 0 && depth <= GN_JSON_MAX_DEPTH);
	switch (event)
	{
		case GN_JSON_BEGIN_OBJECT:
		case GN_JSON_BEGIN_ARRAY:
			CHECK(depth == tree->depth);
			value = event == GN_JSON_BEGIN_OBJECT ? json_object() : json_array();
			put(tree, value);
			tree->stack[++tree->depth] = value;
			return;
		case GN_JSON_END_OBJECT:
		case GN_JSON_END_ARRAY:
			tree->depth--;
			CHECK(depth == tree->depth);
			return;
		case GN_JSON_KEY:
			CHECK(memchr(text, '\0', len) == NULL);
			tree->key[tree->depth] = strndup(text, len);
			return;
		case GN_JSON_STRING:
			value = json_stringn_nocheck(text, len);
			break;
		case GN_JSON_NUMBER:
		{
			char copy[NUMBER_MAX + 1] = {0};

			CHECK(len > 0 && len <= NUMBER_MAX);
			memcpy(copy, text, len);
			value = strpbrk(copy, ".eE") ? json_real(strtod(copy, NULL))
										 : json_integer(strtoll(copy, NULL, 10));
			break;
		}
		default:
			value = event == GN_JSON_NULL ? json_null()
										  : json_boolean(event == GN_JSON_TRUE);
	}
	CHECK(value != NULL && depth == tree->depth);
	put(tree, value);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	void *payload = exact_copy(data, size);
	char *scratch = exact_room(size);
	GnClaimRules rules = {.issuer = "i",
						  .audience = "a",
						  .now = INT64CONST(1700000000000000)};
	GnClaimTimes times = {0};
	Tree tree = {0};
	GnJsonReader reader = {.event = build, .arg = &tree};
	GnJoseError error =
		gn_claims_check(payload, size, scratch, &rules, &reader, &times);
	bool read = gn_json_read(payload, size, scratch, NULL);
	json_t *json = fit_for_jansson(payload, (char *) payload + size)
					   ? json_loadb(payload, size, JSON_REJECT_DUPLICATES, NULL)
					   : NULL;

	CHECK(read || error == GN_JOSE_CLAIMS);
	CHECK(!read || json_equal(tree.root, json)); /* so what is read, jansson reads */
	CHECK(read || json == NULL || !json_is_object(json) ||
		  size > 3 * GN_JSON_MAX_MEMBERS);
	if (error == GN_JOSE_OK)
	{
		CHECK(strcmp(json_string_value(json_object_get(json, "iss")), "i") == 0);
		CHECK(json_string_length(json_object_get(json, "sub")) > 0);
		CHECK(json_number_value(json_object_get(json, "exp")) == times.expires);
		CHECK(json_number_value(json_object_get(json, "iat")) == times.issued);
		CHECK(gn_claims_check_times(&times, rules.now) == GN_JOSE_OK);
	}
	for (int i = 0; i <= GN_JSON_MAX_DEPTH; i++)
		free(tree.key[i]);
	json_decref(tree.root);
	json_decref(json);
	free(scratch);
	free(payload);
	return 0;
}
