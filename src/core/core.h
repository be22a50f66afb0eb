/* src/core/core.h -- the public face of core: settings, clock, events, small helpers */
#ifndef GN_CORE_H
#define GN_CORE_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "core/cache.h"
#include "core/compat.h"
#include "core/component.h"
#include "core/context.h"
#include "core/errors.h"
#include "core/rate.h"
#include "core/spi.h"

extern const GnComponent gn_core_component;

/* Settings that more than one component reads; core/settings.c defines them. */
typedef enum GnMode
{
	GN_MODE_ON,
	GN_MODE_DRAIN,
	GN_MODE_OFF
} GnMode;
extern int gn_mode;
extern int gn_max_workers;
extern int gn_executors;
extern int gn_tick_interval;
extern int gn_executor_idle;
extern char *gn_databases;
extern char *gn_environment;
extern char *gn_tenant_claim;
extern void gn_settings_define(void);

/* For settings fixed at server start: the server refuses to create such once it runs,
 * as when a session loads us. */
#define GN_PGC_POSTMASTER (gn_preloaded ? PGC_POSTMASTER : PGC_SIGHUP)

/* Wall clock, or the instant that a superuser's test put in grownext.test_clock. */
extern TimestampTz gn_now(void);

/* gn_now() < instant, cheap enough to be asked for each row. */
extern bool gn_now_is_before(TimestampTz instant);

/* Changes whenever a test replaces the clock: what was cached by the time is stale. */
extern uint32 gn_clock_epoch;

/*
 * Sends a platform event {id, type, timestamp, tenant_id, data} to every queue
 * routed for its type, in this transaction. The queue component is the sink.
 */
typedef void (*GnEventSink)(const char *queue, Jsonb *event, const pg_uuid_t *tenant);
extern void gn_event_set_sink(GnEventSink sink);
extern void gn_event_emit(const char *type, const pg_uuid_t *tenant, Jsonb *data);

/* Raises NX001 with the hint, naming what needs the preloaded library. */
extern void gn_require_preload(const char *what);

/* The next value of sequence _grownext.<name>, as core_nextval() without its check of
 * rights. */
extern int64 gn_nextval(const char *name);

/* How far the WAL must be on disk for a transaction's commit to survive a crash;
 * core/durable.c. */
extern XLogRecPtr gn_commit_position(TransactionId xid);

/* uuid helpers */
extern bool gn_uuid_parse(const char *text, pg_uuid_t *uuid); /* false: not a uuid */
extern char *gn_uuid_text(const pg_uuid_t *uuid);             /* palloc'd */
extern void gn_uuid_random(pg_uuid_t *uuid);                  /* version 4 */

/* jsonb helpers; core/json.c */
extern Jsonb *gn_jsonb_from_text(const char *text); /* raises 22P02 */
extern char *gn_jsonb_text(const Jsonb *jsonb);
extern const JsonbValue *
gn_jsonb_field(const Jsonb *object, const char *key, JsonbValue *space);

#endif
