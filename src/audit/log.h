/* src/audit/log.h -- where the log lives, and what protects it there */
#ifndef GN_AUDIT_LOG_H
#define GN_AUDIT_LOG_H

#include "postgres.h"

#define GN_AUDIT_SCHEMA "grownext_audit"
#define GN_AUDIT_TABLE "event"
#define GN_AUDIT_SEQUENCE "event_id_seq"
#define GN_AUDIT_ROW_TRIGGER "event_append_only"
#define GN_AUDIT_TRUNCATE_TRIGGER "event_no_truncate"

/* The log's table in this database, or InvalidOid before its first use. */
extern Oid gn_audit_log_oid(void);

/*
 * True if the relation is the log's table or its sequence, and ours: of that name and
 * owned by grownext_owner, whether or not the extension is there.
 */
extern bool gn_audit_log_owns(Oid relid);

/*
 * Makes the log at its first use and adopts one that a restore or an earlier
 * installation left. Between gn_spi_begin and gn_spi_end. Takes RowExclusiveLock
 * on the table; to make it, also a lock on the extension until the transaction ends.
 */
extern void gn_audit_log_ensure(void);

/* Installs the hooks that refuse what triggers cannot; guard.c. */
extern void gn_audit_guard_init(void);

/* False where grownext.audit_enforce is off or the library is not preloaded. */
extern bool gn_audit_guarded(void);

/* True while gn_audit_log_ensure works: its own DDL passes the guard. */
extern bool gn_audit_log_making;

#endif
