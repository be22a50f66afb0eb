/* src/entitlement/usage.h -- metering: a call, its answer, its key and where units are
 * counted; private to entitlement */
#ifndef GN_USAGE_H
#define GN_USAGE_H

#include "postgres.h"

#include "entitlement/entitlement.h"

typedef struct GnUsageCall
{
	const char *operation; /* consume | return */
	pg_uuid_t tenant;
	char *feature; /* NULL was given: unknown */
	int64 amount;
	char *key; /* or NULL */
	TimestampTz now;
} GnUsageCall;

typedef struct GnUsageResult
{
	bool allowed;
	bool counted; /* the next four are of meaning */
	int64 used;
	bool unlimited;
	int64 quota;
	TimestampTz resets_at;
	const char *reason; /* NULL if allowed */
} GnUsageResult;

/* Everything below runs between gn_spi_begin and gn_spi_end. */

/* A column of the first row that the last query returned. */
extern Datum gn_usage_column(int number, bool *isnull);

/*
 * Takes the key for this call, waiting while another transaction holds it; true if
 * the result is there already. Then either the result is kept under it, or it is
 * dropped: denials are not remembered. An unknown feature has no keys.
 */
extern bool gn_usage_key_answers(const GnUsageCall *call, GnUsageResult *result);
extern void gn_usage_key_answer(const GnUsageCall *call, const GnUsageResult *result);
extern void gn_usage_key_drop(const GnUsageCall *call);

/* True if the units were counted; used is what the counter says then, or what denied
 * them. */
extern bool
gn_counter_add(const GnUsageCall *call, const GnAnswer *answer, int64 *used);

/* Takes back what this very transaction added a moment ago. */
extern void gn_counter_take_back(const GnUsageCall *call, const GnAnswer *answer);

extern int64 gn_counter_used(const GnAnswer *answer);

#endif
