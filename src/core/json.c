/*
 * src/core/json.c
 *	  Small helpers over jsonb and uuid that every component needs.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "core/core.h"

Jsonb *
gn_jsonb_from_text(const char *text)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
}

char *
gn_jsonb_text(const Jsonb *jsonb)
{
	return JsonbToCString(NULL, unconstify(JsonbContainer *, &jsonb->root),
						  VARSIZE(jsonb));
}

/* The value of a top-level key, in space, or NULL; not an object has no keys. */
const JsonbValue *
gn_jsonb_field(const Jsonb *object, const char *key, JsonbValue *space)
{
	if (!JB_ROOT_IS_OBJECT(object))
		return NULL;
	return getKeyJsonValueFromContainer(unconstify(JsonbContainer *, &object->root),
										key, strlen(key), space);
}

static char *
value_text(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return NULL;
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		case jbvNumeric:
			return DatumGetCString(
				DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
		case jbvBinary:
			return JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
		default:
			elog(ERROR, "unexpected jsonb value type %d", (int) value->type);
	}
}

/*
 * A claim by name, or, if there is none of that name, by dotted path. Text as
 * ->> gives it.
 */
char *
gn_claim_text(const Jsonb *claims, const char *path)
{
	JsonbValue space;
	const JsonbValue *value = gn_jsonb_field(claims, path, &space);
	JsonbContainer *container = unconstify(JsonbContainer *, &claims->root);

	if (value)
		return value_text(value);
	if (!JB_ROOT_IS_OBJECT(claims) || strchr(path, '.') == NULL)
		return NULL;
	for (;;)
	{
		const char *dot = strchr(path, '.');
		size_t length = dot ? (size_t) (dot - path) : strlen(path);

		if (!JsonContainerIsObject(container))
			return NULL;
		value = getKeyJsonValueFromContainer(container, path, length, &space);
		if (value == NULL || dot == NULL)
			return value ? value_text(value) : NULL;
		if (value->type != jbvBinary)
			return NULL;
		container = value->val.binary.data;
		path = dot + 1;
	}
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Only the canonical form, 8-4-4-4-12 hexadecimal digits: ids are compared as text
 * outside. */
bool
gn_uuid_parse(const char *text, pg_uuid_t *uuid)
{
	int byte = 0;

	if (strlen(text) != 36)
		return false;
	for (int i = 0; i < 36;)
	{
		int high;
		int low;

		if (i == 8 || i == 13 || i == 18 || i == 23)
		{
			if (text[i++] != '-')
				return false;
			continue;
		}
		high = hex_digit(text[i]);
		low = hex_digit(text[i + 1]);
		if (high < 0 || low < 0)
			return false;
		uuid->data[byte++] = (unsigned char) (high << 4 | low);
		i += 2;
	}
	return true;
}

char *
gn_uuid_text(const pg_uuid_t *uuid)
{
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(uuid)));
}

void
gn_uuid_random(pg_uuid_t *uuid)
{
	if (!pg_strong_random(uuid->data, UUID_LEN))
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("could not get random bytes")));
	uuid->data[6] = (uuid->data[6] & 0x0f) | 0x40; /* RFC 9562: version 4 */
	uuid->data[8] = (uuid->data[8] & 0x3f) | 0x80; /* variant 10 */
}
