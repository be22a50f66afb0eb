/* src/entitlement/period.h -- in which period an instant falls */
#ifndef GN_PERIOD_H
#define GN_PERIOD_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "pgtime.h"

typedef enum GnPeriod
{
	GN_PERIOD_HOUR,
	GN_PERIOD_DAY,
	GN_PERIOD_WEEK,
	GN_PERIOD_MONTH,
	GN_PERIOD_YEAR,
	GN_PERIOD_NEVER
} GnPeriod;

/* False: no such period. */
extern bool gn_period_parse(const char *name, GnPeriod *period);
extern const char *gn_period_name(GnPeriod period);

/*
 * The period that contains at: [start, end). With an anchor periods count from it,
 * without (NULL) they are those of the calendar. Days and longer ones follow the zone's
 * local time; hours are those of UTC. NEVER is (-infinity, infinity).
 */
extern void gn_period_bounds(GnPeriod period, const TimestampTz *anchor, pg_tz *zone,
							 TimestampTz at, TimestampTz *start, TimestampTz *end);

#endif
