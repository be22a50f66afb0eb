/* src/core/trust.h -- gateways and capabilities: whose word and whose rights count;
 * private to core */
#ifndef GN_TRUST_H
#define GN_TRUST_H

#include "core/context.h"

extern void gn_trust_init(void);

/* The context of a trusted gateway that need not call pre_request(), or NULL. */
extern const GnContext *gn_trust_unchecked_context(void);

/* Raises when request.jwt.claims no longer are what this transaction was bound to. */
extern void gn_trust_recheck(void);

/* core/context.c */
extern void gn_context_run_gateway_checks(const Jsonb *claims, const Jsonb *headers);

/* core/context.c: a view of claims without binding them. */
extern void
gn_context_describe(GnContextSource source, const Jsonb *claims,
					const char *tenant_claim, MemoryContext memory, GnContext *view);

#endif
