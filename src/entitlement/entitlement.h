/* src/entitlement/entitlement.h -- what a tenant may do, and how much of it */
#ifndef GN_ENTITLEMENT_H
#define GN_ENTITLEMENT_H

#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "pgtime.h"
#include "utils/uuid.h"

#include "core/component.h"
#include "entitlement/resolve.h"
#include "entitlement/scope.h"

extern const GnComponent gn_entitlement_component;

typedef struct GnQuestion
{
	pg_uuid_t tenant;
	const char *feature;   /* NULL: all */
	const pg_uuid_t *user; /* or NULL */
	TimestampTz at;
	bool as_of; /* at is not now: nothing is cached */
} GnQuestion;

typedef struct GnAnswer
{
	const char *feature;
	const GnFeature *known; /* NULL: there is no such feature */
	GnDecision decision;
	bool counted;     /* metered or credit, and decided: what follows is of meaning */
	pg_uuid_t holder; /* the tenant at which it is counted */
	pg_tz *zone;      /* of its days and months */
	TimestampTz period_start;
	TimestampTz period_end; /* of credit: when the next is granted */
	int64 used;
	bool gauged;   /* used is told, and has no say in the decision */
	GnStamp stamp; /* of what it rests on, usage apart */
} GnAnswer;

/* Everything below runs between gn_spi_begin and gn_spi_end. */

/*
 * Answers about one feature, or about all (*count of them); counters are read, as of
 * the active snapshot, if with_usage. Memory is of the given context.
 */
extern GnAnswer *gn_entitlement_answer(const GnQuestion *question, bool with_usage,
									   MemoryContext memory, int *count);

/*
 * About one feature, if all that takes is remembered, without SPI; NULL: it is not.
 * Counters are not read. Anywhere.
 */
extern GnAnswer *
gn_entitlement_answer_cached(const GnQuestion *question, MemoryContext memory);

/* The same from a record that the caller compiled. */
struct GnRecord;
extern GnAnswer *
gn_entitlement_answer_from(const struct GnRecord *record, const GnQuestion *question,
						   bool with_usage, MemoryContext memory, int *count);
/*
 * Notes what seats and protected limits of now use; no history of them is kept, so
 * nothing is told of another instant.
 */
extern void gn_gauges_read(const GnQuestion *question, GnAnswer *answers, int count);

/*
 * The period of a setting that contains an instant. Only subscriptions have an anchor;
 * what holds without one follows the calendar.
 */
extern void gn_setting_period(const GnSetting *setting, pg_tz *zone, TimestampTz at,
							  TimestampTz *start, TimestampTz *end);

/* What is left of a quota, never below zero; false: unlimited. */
extern bool gn_entitlement_remaining(const GnAnswer *answer, int64 *remaining);

/* What a setting says, as jsonb that bundle_define() takes. */
extern void
gn_append_setting(StringInfo json, const GnFeature *feature, const GnSetting *setting);

/* Arguments of questions: the user of the caller's context, or NULL; now for NULL. */
extern const pg_uuid_t *gn_context_user(pg_uuid_t *space);

/* The user that a question names, else the context's; naming another takes a service.
 */
extern const pg_uuid_t *gn_named_user(const pg_uuid_t *named, pg_uuid_t *space);
extern TimestampTz gn_instant_argument(FunctionCallInfo fcinfo, int number);

#endif
