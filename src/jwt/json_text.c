/*
 * src/jwt/json_text.c
 *	  JSON between jsonb and tokens, both ways.
 *
 * What the server has for it walks the text once more, and writes spaces.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/numeric.h"

#include "core/core.h"
#include "jwt/json_text.h"

void
gn_json_append(StringInfo out, const char *text)
{
	appendBinaryStringInfo(out, text, (int) strlen(text));
}

static void
append_escape(StringInfo out, unsigned char c)
{
	static const char named[] = "\bb\ff\nn\rr\tt\"\"\\\\";

	for (size_t i = 0; i + 1 < sizeof(named); i += 2)
	{
		if ((unsigned char) named[i] == c)
		{
			appendStringInfoChar(out, '\\');
			appendStringInfoChar(out, named[i + 1]);
			return;
		}
	}
	appendStringInfo(out, "\\u%04x", c);
}

/* Whether one of eight bytes is a quote, a backslash or a control character; may also
 * be true for one above 127, which is then looked at on its own. */
static bool
needs_care(const char *text)
{
	const uint64 ones = UINT64CONST(0x0101010101010101);
	uint64 word;
	uint64 quote;
	uint64 backslash;

	memcpy(&word, text, sizeof(word));
	quote = word ^ (ones * '"');
	backslash = word ^ (ones * '\\');
	return (((word - ones * 0x20) | (quote - ones) | (backslash - ones) | word) &
			(ones << 7)) != 0;
}

void
gn_json_append_string(StringInfo out, const char *text, size_t len)
{
	size_t run = 0; /* where what is not written yet begins */
	size_t i = 0;

	enlargeStringInfo(out, (int) len + 2);
	appendStringInfoCharMacro(out, '"');
	while (i < len)
	{
		unsigned char c = (unsigned char) text[i];

		if (len - i >= 8 && !needs_care(text + i))
		{
			i += 8;
			continue;
		}
		if (c < 0x20 || c == '"' || c == '\\')
		{
			appendBinaryStringInfo(out, text + run, (int) (i - run));
			append_escape(out, c);
			run = i + 1;
		}
		i++;
	}
	appendBinaryStringInfo(out, text + run, (int) (len - run));
	appendStringInfoChar(out, '"');
}

void
gn_json_append_integer(StringInfo out, int64 value)
{
	char digits[MAXINT8LEN + 1];

	appendBinaryStringInfo(out, digits, pg_lltoa(value, digits));
}

static void
append_scalar(StringInfo out, const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			gn_json_append_string(out, value->val.string.val,
								  (size_t) value->val.string.len);
			break;
		case jbvNumeric:
			gn_json_append(out, DatumGetCString(DirectFunctionCall1(
									numeric_out, NumericGetDatum(value->val.numeric))));
			break;
		case jbvBool:
			gn_json_append(out, value->val.boolean ? "true" : "false");
			break;
		default:
			gn_json_append(out, "null");
	}
}

void
gn_json_append_members(StringInfo out, const Jsonb *object)
{
	JsonbIterator *iterator =
		JsonbIteratorInit(unconstify(JsonbContainer *, &object->root));
	JsonbIteratorToken token;
	JsonbValue value;
	bool separate = true; /* whether a comma belongs in front of what comes */
	int depth = 0;

	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
	{
		bool ends = token == WJB_END_OBJECT || token == WJB_END_ARRAY;

		if (ends && --depth == 0)
			break;
		if (separate && !ends && depth > 0)
			appendStringInfoChar(out, ',');
		separate = token != WJB_KEY;
		switch (token)
		{
			case WJB_BEGIN_OBJECT:
			case WJB_BEGIN_ARRAY:
				if (depth++ > 0)
				{
					appendStringInfoChar(out, token == WJB_BEGIN_OBJECT ? '{' : '[');
					separate = false;
				}
				break;
			case WJB_END_OBJECT:
				appendStringInfoChar(out, '}');
				break;
			case WJB_END_ARRAY:
				appendStringInfoChar(out, ']');
				break;
			default:
				append_scalar(out, &value);
		}
		if (token == WJB_KEY)
			appendStringInfoChar(out, ':');
	}
}

/* Numbers of a token are nearly always short integers, which need no parsing by
 * numeric. */
static Numeric
parse_number(const char *text, size_t len)
{
	char copy[65]; /* gn_json_read lets no longer one pass */
	int64 value = 0;
	size_t i;

	for (i = text[0] == '-'; i < len && len <= 18 && isdigit((unsigned char) text[i]);
		 i++)
		value = value * 10 + (text[i] - '0');
	if (i == len)
		return int64_to_numeric(text[0] == '-' ? -value : value);
	memcpy(copy, text, len);
	copy[len] = '\0';
	return DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(copy),
											   ObjectIdGetDatum(InvalidOid),
											   Int32GetDatum(-1)));
}

static void
push_scalar(GnJsonbBuilder *builder, GnJsonEvent event, const char *text, size_t len)
{
	JsonbValue value = {.type = jbvNull};
	bool in_array = builder->state->contVal.type == jbvArray;

	if (event == GN_JSON_KEY || event == GN_JSON_STRING)
	{
		value.type = jbvString;
		value.val.string.val = unconstify(char *, text);
		value.val.string.len = (int) len;
	}
	else if (event == GN_JSON_NUMBER)
	{
		value.type = jbvNumeric;
		value.val.numeric = parse_number(text, len);
	}
	else if (event == GN_JSON_TRUE || event == GN_JSON_FALSE)
	{
		value.type = jbvBool;
		value.val.boolean = event == GN_JSON_TRUE;
	}
	(void) pushJsonbValue(&builder->state,
						  event == GN_JSON_KEY ? WJB_KEY
						  : in_array           ? WJB_ELEM
											   : WJB_VALUE,
						  &value);
}

static void
hear(void *arg, GnJsonEvent event, int depth, const char *text, size_t len)
{
	GnJsonbBuilder *builder = arg;

	switch (event)
	{
		case GN_JSON_BEGIN_OBJECT:
			(void) pushJsonbValue(&builder->state, WJB_BEGIN_OBJECT, NULL);
			break;
		case GN_JSON_BEGIN_ARRAY:
			(void) pushJsonbValue(&builder->state, WJB_BEGIN_ARRAY, NULL);
			break;
		case GN_JSON_END_OBJECT:
			builder->result = pushJsonbValue(&builder->state, WJB_END_OBJECT, NULL);
			break;
		case GN_JSON_END_ARRAY:
			builder->result = pushJsonbValue(&builder->state, WJB_END_ARRAY, NULL);
			break;
		default:
			push_scalar(builder, event, text, len);
	}
}

void
gn_jsonb_build_begin(GnJsonbBuilder *builder)
{
	builder->state = NULL;
	builder->result = NULL;
	builder->reader = (GnJsonReader){.event = hear, .arg = builder};
}

Jsonb *
gn_jsonb_build_end(GnJsonbBuilder *builder)
{
	return JsonbValueToJsonb(builder->result);
}

Jsonb *
gn_json_to_jsonb(const void *text, size_t len)
{
	GnJsonbBuilder builder;

	gn_jsonb_build_begin(&builder);
	if (!gn_json_read(text, len, palloc(len + 1), &builder.reader))
		elog(ERROR, "JSON that was read cannot be read again");
	return gn_jsonb_build_end(&builder);
}
