/* src/entitlement/entitlement.h -- what a tenant may do, and how much of it */
#ifndef GN_ENTITLEMENT_H
#define GN_ENTITLEMENT_H

#include "postgres.h"

#include "utils/uuid.h"

#include "core/component.h"
#include "entitlement/resolve.h"

extern const GnComponent gn_entitlement_component;

typedef struct GnQuestion
{
	pg_uuid_t tenant;
	const char *feature;   /* NULL: all */
	const pg_uuid_t *user; /* or NULL */
	TimestampTz at;
} GnQuestion;

typedef struct GnAnswer
{
	const char *feature;
	const GnFeature *known; /* NULL: there is no such feature */
	GnDecision decision;
	bool counted; /* metered and decided: what follows is of meaning */
	TimestampTz period_start;
	TimestampTz period_end;
	int64 used;
} GnAnswer;

/* Everything below runs between gn_spi_begin and gn_spi_end. */

/*
 * Answers about one feature, or about all (*count of them), as of the active
 * snapshot; counters are read if with_usage. Memory is of the given context.
 */
extern GnAnswer *gn_entitlement_answer(const GnQuestion *question, bool with_usage,
									   MemoryContext memory, int *count);

/* What is left of a quota, never below zero; false: unlimited. */
extern bool gn_entitlement_remaining(const GnAnswer *answer, int64 *remaining);

/* Counts changes of anything that an answer depends on, other than usage. */
extern uint64 gn_entitlement_generation(void);

#endif
