/* src/audit/audit.h -- append an event to the audit log from C */
#ifndef GN_AUDIT_H
#define GN_AUDIT_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "core/component.h"

extern const GnComponent gn_audit_component;

/* What a caller says about an event; who says it is the library's to find out. */
typedef struct GnAuditEvent
{
	const char *action; /* dotted name, never NULL */
	const char *target;
	const pg_uuid_t *tenant;  /* NULL: the global log */
	const char *actor;        /* NULL: the context's actor, else role:<session_user> */
	const char *on_behalf_of; /* goes with a named actor; the context knows it else */
	const char *category;
	const char *idempotency_key;
	const Jsonb *context; /* an object; NULL: {} */
	const Jsonb *change;  /* {"before": ..., "after": ...} or NULL */
	TimestampTz occurred_at;
	bool has_occurred_at; /* false: now */
} GnAuditEvent;

/* Writes one event in this transaction, with no check of who may; returns its id. */
extern int64 gn_audit_append(const GnAuditEvent *event);

#endif
