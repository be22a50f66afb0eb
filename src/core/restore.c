/*
 * src/core/restore.c
 *	  Loads rows of a dump as they were: foreign keys and side effects stand aside.
 *
 * The tables of an extension exist, with their foreign keys and triggers, before
 * pg_restore brings their rows, and pg_restore -j brings them in any order. What was
 * consistent when it was dumped must not be checked row by row against a half
 * restored database, and must not start anything. So a statement trigger that fires
 * ALWAYS, on every table with foreign keys or triggers, sets session_replication_role
 * to replica for as long as a COPY into that very table lasts, and only if a
 * superuser typed that COPY: which is what pg_restore does, and nobody else may.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "miscadmin.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/portal.h"
#include "utils/rel.h"

#include "core/core.h"

GN_FUNCTION(gn_core_load);

/* The role that was in force before the COPY began; empty when none of ours is under
 * way. */
static char previous_role[16] = "";

static const char *
skip_word(const char *text, const char *word)
{
	size_t length = strlen(word);

	while (isspace((unsigned char) *text))
		text++;
	return pg_strncasecmp(text, word, length) == 0 ? text + length : NULL;
}

/* Is the client's statement a COPY of this relation, as pg_dump writes it? */
static bool
copies_into(Relation relation)
{
	const char *name;
	const char *rest;

	if (ActivePortal == NULL || ActivePortal->commandTag != CMDTAG_COPY ||
		debug_query_string == NULL || !superuser_arg(GetSessionUserId()))
		return false;
	name =
		quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
								   RelationGetRelationName(relation));
	rest = skip_word(debug_query_string, "copy");
	rest = rest ? skip_word(rest, name) : NULL;
	return rest && (isspace((unsigned char) *rest) || *rest == '(');
}

/* SQL trigger: _grownext.core_load() */
Datum
gn_core_load(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("core_load() can only be called as a trigger")));
	if (!copies_into(trigger->tg_relation))
		PG_RETURN_POINTER(NULL);
	if (TRIGGER_FIRED_BEFORE(trigger->tg_event))
	{
		strlcpy(previous_role,
				GetConfigOption("session_replication_role", false, false),
				sizeof(previous_role));
		(void) set_config_option("session_replication_role", "replica", PGC_SUSET,
								 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	}
	else if (previous_role[0] != '\0')
	{
		(void) set_config_option("session_replication_role", previous_role, PGC_SUSET,
								 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
		previous_role[0] = '\0';
	}
	PG_RETURN_POINTER(NULL);
}
