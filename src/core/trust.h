/* src/core/trust.h -- gateways and capabilities: whose word and whose rights count;
 * private to core */
#ifndef GN_TRUST_H
#define GN_TRUST_H

#include "core/context.h"

extern void gn_trust_init(void);

/* Whether a client is served here whose authenticated user is a trusted gateway. */
extern bool gn_trust_gateway_session(void);

/* Whether claims count only after pre_request(). */
extern bool gn_trust_requires_pre_request(void);

/* Changes when what this backend knows about trust is stale; costs nothing. */
extern uint64 gn_trust_stamp(void);

/* core/gateway.c */
extern void gn_gateway_init(void);

/* The context of a trusted gateway that need not call pre_request(), or NULL. */
extern const GnContext *gn_gateway_unchecked_context(void);

/* Raises when request.jwt.claims no longer are what this transaction was bound to. */
extern void gn_gateway_recheck(void);

/* core/context.c */
extern void gn_context_run_gateway_checks(const Jsonb *claims, const Jsonb *headers);

/* core/context.c: a view of claims without binding them. */
extern void
gn_context_describe(GnContextSource source, const Jsonb *claims,
					const char *tenant_claim, MemoryContext memory, GnContext *view);

#endif
