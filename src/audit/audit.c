/*
 * src/audit/audit.c
 *	  The component's descriptor and the trigger that refuses changes.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "utils/rel.h"

#include "audit/audit.h"
#include "audit/log.h"
#include "core/core.h"

GN_FUNCTION(gn_audit_refuse);
GN_FUNCTION(gn_audit_guarded_sql);

const GnComponent gn_audit_component = {
	.name = "audit",
	.init = gn_audit_guard_init,
	.tick = "SELECT _grownext.audit_tick($1)",
};

/* SQL: _grownext.audit_refuse(), trigger of the log */
Datum
gn_audit_refuse(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("audit_refuse() is a trigger function")));
	ereport(ERROR,
			(errcode(GN_ERRCODE_AUDIT_APPEND_ONLY),
			 errmsg("the audit log cannot be changed"),
			 errdetail(
				 "Events are appended by grownext.audit_append(), never updated or "
				 "deleted.")));
}

/* SQL: _grownext.audit_guarded() */
Datum
gn_audit_guarded_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(gn_audit_guarded());
}
