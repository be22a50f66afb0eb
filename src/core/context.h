/* src/core/context.h -- who is calling: the identity bound to the current transaction
 */
#ifndef GN_CONTEXT_H
#define GN_CONTEXT_H

#include "postgres.h"

#include "utils/jsonb.h"
#include "utils/uuid.h"

/* In rising order of precedence: of several that are bound, the last one answers. */
typedef enum GnContextSource
{
	GN_CONTEXT_GATEWAY, /* request.jwt.claims of a trusted gateway */
	GN_CONTEXT_JOB,     /* the enqueuer's, in an executor */
	GN_CONTEXT_TOKEN,   /* a credential that this library verified */
	GN_CONTEXT_ACT_AS,  /* named by a service or an admin */
	GN_CONTEXT_SOURCES
} GnContextSource;

typedef struct GnContext
{
	GnContextSource source;
	const char *subject;      /* claim sub, or NULL */
	const char *actor;        /* claim act.sub, else sub: who is answerable */
	const pg_uuid_t *user_id; /* the subject, if it is a uuid, or NULL */
	const pg_uuid_t *tenant;  /* NULL: none */
	const pg_uuid_t *session; /* claim sid, or NULL */
	const Jsonb *claims;      /* never NULL */
} GnContext;

extern void gn_context_define(void); /* at load, once */

/* The effective context, or NULL; valid until the next bind or transaction end. */
extern const GnContext *gn_context(void);

/*
 * Binds claims to this transaction: undone with a rolled-back savepoint,
 * forgotten at transaction end, known in parallel workers. tenant_claim is the
 * dotted path of the tenant ("tenant_id" when NULL); a malformed tenant raises.
 */
extern void
gn_context_bind(GnContextSource source, Jsonb *claims, const char *tenant_claim);

/* WARNING 25P01 when what was bound ends with this very statement. */
extern void gn_warn_outside_block(const char *what);

extern bool gn_context_bound(GnContextSource source);

/* Checks that every credential passes before it is bound; each raises on refusal. */
typedef void (*GnContextCheck)(const Jsonb *claims);
extern void gn_context_register_check(GnContextCheck check);
extern void gn_context_run_checks(const Jsonb *claims);

/* The same for claims that a gateway verified; headers of the request, or NULL. */
typedef void (*GnGatewayCheck)(const Jsonb *claims, const Jsonb *headers);
extern void gn_context_register_gateway_check(GnGatewayCheck check);

/* Where the tenant stands in claims: in our own tokens always "tenant_id". */
extern const char *gn_context_tenant_path(const Jsonb *claims);

/* Header X-Request-Id of the gateway's request, or NULL; valid in this transaction. */
extern const char *gn_request_id(void);

/* Whose rights count. Capabilities: "admin", "service", "worker", "auditor", "monitor".
 */
extern bool gn_user_has_capability(Oid user, const char *capability);

/*
 * The tenant that a call concerns: the named one if the user is service or admin
 * or it is the context's own, the context's if NULL is named; raises otherwise.
 */
extern pg_uuid_t gn_caller_tenant(Oid user, const pg_uuid_t *named);

/* The text of a claim's value (JSON text unless it is a string), palloc'd, or NULL. */
extern char *gn_claim_text(const Jsonb *claims, const char *path);

#endif
