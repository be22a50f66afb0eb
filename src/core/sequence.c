/*
 * src/core/sequence.c
 *	  Ids that a crash never hands out twice.
 *
 * With wal_level = minimal, PostgreSQL writes no WAL for storage that is new in the
 * current transaction: the commit writes its pages as they are. For a sequence that
 * was used in that transaction, such a page says that the next 32 values are in the
 * WAL already, although they are not; later transactions hand them out unlogged, and
 * after a crash they come again. So after every value of a new sequence we write it
 * with setval(), which promises nothing about those to come. Nobody else can use the
 * sequence meanwhile: who makes or restarts one holds a lock that excludes them.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "commands/sequence.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "core/core.h"

GN_FUNCTION(gn_core_nextval);

/* Whether the storage is new in this transaction, and what happens to it unlogged. */
static bool
is_unlogged_for_now(Oid sequence)
{
	Relation relation = RelationIdGetRelation(sequence);
	bool unlogged;

	if (!RelationIsValid(relation))
		elog(ERROR, "could not open sequence %u", sequence);
	unlogged = RelationIsPermanent(relation) && !RelationNeedsWAL(relation);
	RelationClose(relation);
	return unlogged;
}

static int64
next_value(Oid sequence, bool check_rights)
{
	int64 id = nextval_internal(sequence, check_rights); /* locks it until the end */

	if (is_unlogged_for_now(sequence))
		(void) DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence),
								   Int64GetDatum(id));
	return id;
}

/* SQL: _grownext.core_nextval(sequence regclass) */
Datum
gn_core_nextval(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(next_value(PG_GETARG_OID(0), true));
}

int64
gn_nextval(const char *name)
{
	Oid sequence = get_relname_relid(name, get_namespace_oid("_grownext", false));

	if (!OidIsValid(sequence))
		elog(ERROR, "sequence %s is missing", name);
	return next_value(sequence, false);
}
