/*
 * src/audit/log.c
 *	  Where the log lives: schema grownext_audit, outside the extension.
 *
 * The log must outlive the extension, and pg_dump must see it as a plain table
 * with its index: both hold only for objects that are no members. So the schema
 * and its table are made at the first event, not by the install script, owned by
 * the extension's owner. The append-only triggers call a function of ours, so DROP
 * EXTENSION refuses while the log exists; with CASCADE the triggers go and the
 * rows stay, and the next first event puts the triggers back. The test for that is
 * the table's own trigger list, read at every append: it costs less than a flag
 * that could be wrong after a restore, a rolled-back savepoint or a DROP EXTENSION.
 *
 * Two first users: both want the lock on the extension's pg_extension entry, which
 * no ordinary user can take; the second finds what the first has committed.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "commands/extension.h"
#include "commands/schemacmds.h"
#include "commands/tablecmds.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "audit/log.h"
#include "core/core.h"

bool gn_audit_log_making = false;

static Oid
log_relation(const char *name)
{
	Oid namespace = get_namespace_oid(GN_AUDIT_SCHEMA, true);

	return OidIsValid(namespace) ? get_relname_relid(name, namespace) : InvalidOid;
}

Oid
gn_audit_log_oid(void)
{
	return log_relation(GN_AUDIT_TABLE);
}

bool
gn_audit_log_owns(Oid relid)
{
	HeapTuple tuple;
	Oid owner;

	if (!OidIsValid(relid) || (relid != log_relation(GN_AUDIT_TABLE) &&
							   relid != log_relation(GN_AUDIT_SEQUENCE)))
		return false;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	if (!HeapTupleIsValid(tuple))
		return false;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner == get_role_oid("grownext_owner", true);
}

static bool
has_trigger(const TriggerDesc *triggers, const char *name)
{
	for (int i = 0; triggers && i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if (strcmp(trigger->tgname, name) == 0)
			return trigger->tgenabled == TRIGGER_FIRES_ALWAYS;
	}
	return false;
}

/* Takes the lock that the insert needs anyway, and looks at what came with it. */
static bool
log_is_ready(Oid owner)
{
	Oid relid = gn_audit_log_oid();
	Relation relation;
	bool ready;

	if (!OidIsValid(relid))
		return false;
	relation = try_relation_open(relid, RowExclusiveLock);
	if (relation == NULL)
		return false;
	ready = relation->rd_rel->relowner == owner &&
			has_trigger(relation->trigdesc, GN_AUDIT_ROW_TRIGGER) &&
			has_trigger(relation->trigdesc, GN_AUDIT_TRUNCATE_TRIGGER);
	relation_close(relation, NoLock);
	return ready;
}

/*
 * What a superuser owns was restored without owners and becomes ours. Anybody
 * else's schema or table of this name is a trap: our rights would run its triggers.
 */
static bool
owner_needs_change(const char *kind, Oid current, Oid wanted)
{
	if (current == wanted)
		return false;
	if (!superuser_arg(current))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("%s of the audit log belongs to role \"%s\"", kind,
							   GetUserNameFromId(current, true)),
						errhint("Find out who made schema " GN_AUDIT_SCHEMA
								", then drop it or "
								"ALTER its schema, table and sequence OWNER TO %s.",
								GetUserNameFromId(wanted, true))));
	return true;
}

static Oid
schema_owner(Oid namespace)
{
	HeapTuple tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(namespace));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema %u", namespace);
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

static void
take_relation(const char *name, const char *kind, Oid wanted)
{
	Oid relid = log_relation(name);
	Relation relation;
	Oid current;

	if (!OidIsValid(relid))
		return;
	relation = relation_open(relid, AccessExclusiveLock);
	current = relation->rd_rel->relowner;
	relation_close(relation, NoLock);
	if (owner_needs_change(kind, current, wanted))
	{
		ATExecChangeOwner(relid, wanted, false, AccessExclusiveLock);
		CommandCounterIncrement();
	}
}

/*
 * CREATE SCHEMA would ask for the CREATE right on the database, which a copy made
 * with TEMPLATE loses.
 */
static void
take_schema(Oid owner)
{
	Oid namespace = get_namespace_oid(GN_AUDIT_SCHEMA, true);

	if (!OidIsValid(namespace))
	{
		(void) NamespaceCreate(GN_AUDIT_SCHEMA, owner, false);
		CommandCounterIncrement();
	}
	else if (owner_needs_change("schema " GN_AUDIT_SCHEMA, schema_owner(namespace),
								owner))
	{
		AlterSchemaOwner_oid(namespace, owner);
		CommandCounterIncrement();
	}
}

/*
 * To give a superuser's objects to the owner takes a superuser. No SQL and no
 * trigger runs meanwhile.
 */
static void
take_ownership(Oid owner)
{
	Oid user;
	int sec_context;

	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID,
						   sec_context | SECURITY_LOCAL_USERID_CHANGE);
	take_schema(owner);
	take_relation(GN_AUDIT_SEQUENCE, "sequence " GN_AUDIT_SCHEMA "." GN_AUDIT_SEQUENCE,
				  owner);
	take_relation(GN_AUDIT_TABLE, "table " GN_AUDIT_SCHEMA "." GN_AUDIT_TABLE, owner);
	SetUserIdAndSecContext(user, sec_context);
}

static void
make_log(Oid owner)
{
	static GnQuery query = GN_QUERY_NOARGS("SELECT _grownext.audit_log_make()");
	bool creating = creating_extension;

	/* Another extension's install script may be the first user; the log is not its
	 * member. */
	creating_extension = false;
	gn_audit_log_making = true;
	PG_TRY();
	{
		take_ownership(owner);
		gn_spi_execute(&query, NULL, NULL, false);
	}
	PG_FINALLY();
	{
		creating_extension = creating;
		gn_audit_log_making = false;
	}
	PG_END_TRY();
}

void
gn_audit_log_ensure(void)
{
	Oid owner = gn_extension_owner();

	if (log_is_ready(owner))
		return;
	PreventCommandIfReadOnly("writing to the audit log");
	PreventCommandIfParallelMode("writing to the audit log");
	LockDatabaseObject(ExtensionRelationId, gn_extension_oid(), 0,
					   ShareUpdateExclusiveLock);
	if (!log_is_ready(owner))
		make_log(owner);
}
