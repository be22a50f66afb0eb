/*
 * src/core/cache.c
 *	  Marker relations: invalidation that is exactly as transactional as the data.
 *
 * A relation-cache message becomes visible to other backends after the commit is
 * visible and before the client hears of it; it is dropped at rollback, survives
 * two-phase commit and is replayed on standbys. Postgres allows ten callbacks in
 * all, so core registers the one of this extension. The callback may run inside
 * catalogue code: it only counts, and never looks anything up.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "core/core.h"

static GnMarker *markers = NULL;
uint64 gn_cache_changes = 0;

GN_FUNCTION(gn_core_invalidate);
GN_FUNCTION(gn_core_touch);

/*
 * InvalidOid means that messages were lost: everything is stale. For a marker whose OID
 * is not known every message counts, so that it has to be looked up only once there
 * are messages to be told apart. One that was named is looked up anew: the message may
 * tell of its drop, and an extension that is created again has another of that name.
 */
static void
note_invalidation(Datum arg, Oid relid)
{
	gn_cache_changes++;
	for (GnMarker *m = markers; m; m = m->next)
	{
		if (relid != InvalidOid && m->relid != InvalidOid && m->relid != relid)
			continue;
		m->generation++;
		m->relid = InvalidOid;
		m->to_look_up = true;
	}
}

void
gn_cache_init(void)
{
	CacheRegisterRelcacheCallback(note_invalidation, (Datum) 0);
}

void
gn_marker_register(GnMarker *marker)
{
	marker->generation = 1;
	marker->relid = InvalidOid;
	marker->to_look_up = false;
	marker->next = markers;
	markers = marker;
}

static Oid
marker_relid(const char *name)
{
	Oid namespace = get_namespace_oid("_grownext", true);

	return OidIsValid(namespace) ? get_relname_relid(name, namespace) : InvalidOid;
}

void
gn_cache_catch_up(void)
{
	AcceptInvalidationMessages();
}

/* Until a marker is known every message counts, so the look-up cannot race. */
uint64
gn_marker_look_up(GnMarker *marker)
{
	marker->to_look_up = false; /* unless one comes now */
	marker->relid = marker_relid(marker->name);
	return ++marker->generation;
}

uint64
gn_marker_generation(GnMarker *marker)
{
	gn_cache_catch_up();
	return gn_marker_current(marker);
}

void
gn_marker_touch(const char *name)
{
	Oid relid = marker_relid(name);

	if (OidIsValid(relid))
		CacheInvalidateRelcacheByRelid(relid);
}

/* SQL trigger: _grownext.core_invalidate('marker', ...) */
Datum
gn_core_invalidate(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("core_invalidate() can only be called as a trigger")));
	for (int i = 0; i < trigger->tg_trigger->tgnargs; i++)
		gn_marker_touch(trigger->tg_trigger->tgargs[i]);
	PG_RETURN_POINTER(NULL);
}

/* SQL: _grownext.core_touch(marker text) */
Datum
gn_core_touch(PG_FUNCTION_ARGS)
{
	gn_marker_touch(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	PG_RETURN_VOID();
}
