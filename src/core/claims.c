/*
 * src/core/claims.c
 *	  Reading claims: from a gateway's text into jsonb, and single claims by type.
 *
 * A gateway hands over text that anybody may have written into a token of a
 * foreign issuer. It is taken only if it means one thing to every reader: a JSON
 * object within limits, no member twice. What is wrong is told without the text,
 * which holds personal data and would end up in a log.
 */
#include "postgres.h"

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "utils/jsonb.h"

#include "core/claims.h"
#include "core/core.h"

/* Members of all objects in JSON text that is known to be valid, or -1 if it nests too
 * deep to be read. */
static int
count_members(const char *text)
{
	int depth = 0;
	int members = 0;
	bool string = false;

	for (const char *c = text; *c; c++)
	{
		if (string)
		{
			if (*c == '\\' && c[1])
				c++;
			else if (*c == '"')
				string = false;
		}
		else if (*c == '"')
			string = true;
		else if (*c == ':')
			members++;
		else if (*c == '{' || *c == '[')
		{
			if (++depth > GN_CLAIMS_MAX_DEPTH)
				return -1;
		}
		else if (*c == '}' || *c == ']')
			depth--;
	}
	return members;
}

static int
count_keys(Jsonb *jsonb)
{
	JsonbIterator *iterator = JsonbIteratorInit(&jsonb->root);
	JsonbIteratorToken token;
	JsonbValue value;
	int keys = 0;

	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
		keys += token == WJB_KEY;
	return keys;
}

Jsonb *
gn_claims_parse(const char *text, const char **problem)
{
	size_t length = strlen(text);
	int members;
	Jsonb *parsed;

	*problem = "They are too large.";
	if (length > GN_CLAIMS_MAX_SIZE)
		return NULL;
	*problem = "They nest too deep.";
	members = count_members(text);
	if (members < 0)
		return NULL;
	*problem = "They are not valid JSON.";
	if (!pg_verify_mbstr(GetDatabaseEncoding(), text, (int) length, true) ||
		pg_parse_json(gn_json_lexer(text, length), &nullSemAction) != JSON_SUCCESS)
		return NULL;
	parsed = gn_jsonb_from_text(text);
	*problem = "They are not a JSON object.";
	if (!JB_ROOT_IS_OBJECT(parsed))
		return NULL;
	*problem = "A member occurs twice.";
	if (count_keys(parsed) != members)
		return NULL;
	*problem = NULL;
	return parsed;
}

static void
refuse_claim(const char *name, const char *rule)
{
	ereport(ERROR,
			(errcode(GN_ERRCODE_TOKEN_INVALID), errmsg("claim \"%s\" %s", name, rule)));
}

/* Text of a member that must be a string with something in it; absent and null are
 * NULL. */
static char *
string_value(const JsonbValue *value, const char *name)
{
	if (value == NULL || value->type == jbvNull)
		return NULL;
	if (value->type != jbvString)
		refuse_claim(name, "is not a string");
	if (value->val.string.len == 0)
		refuse_claim(name, "is empty");
	return pnstrdup(value->val.string.val, value->val.string.len);
}

char *
gn_claims_subject(const Jsonb *claims)
{
	JsonbValue space;

	return string_value(gn_jsonb_field(claims, "sub", &space), "sub");
}

/* RFC 8693, section 4.1: the outermost act is who acts now. */
char *
gn_claims_actor(const Jsonb *claims)
{
	JsonbValue space;
	JsonbValue inner;
	const JsonbValue *act = gn_jsonb_field(claims, "act", &space);
	char *actor;

	if (act == NULL || act->type == jbvNull)
		return NULL;
	if (act->type != jbvBinary || !JsonContainerIsObject(act->val.binary.data))
		refuse_claim("act", "is not an object");
	actor = string_value(getKeyJsonValueFromContainer(act->val.binary.data, "sub", 3,
													  &inner),
						 "act.sub");
	if (actor == NULL)
		refuse_claim("act", "names nobody");
	return actor;
}

bool
gn_claims_tenant(const Jsonb *claims, const char *path, pg_uuid_t *tenant)
{
	char *text = gn_claim_text(claims, path);

	if (text == NULL)
		return false;
	if (!gn_uuid_parse(text, tenant))
		refuse_claim(path, "is not a uuid");
	pfree(text);
	return true;
}

/* Foreign issuers name their sessions as they like: those are none that we know. */
bool
gn_claims_session(const Jsonb *claims, pg_uuid_t *session)
{
	char *text = gn_claim_text(claims, "sid");
	bool ours = text && gn_uuid_parse(text, session);

	if (text)
		pfree(text);
	return ours;
}
