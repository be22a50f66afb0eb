/* src/schedule/cron.h -- cron expressions and the times that they name; pure */
#ifndef GN_CRON_H
#define GN_CRON_H

#include "postgres.h"

#define GN_CRON_MAX_LENGTH 256
#define GN_CRON_MAX_EVERY (366 * 86400) /* seconds */
#define GN_CRON_MAX_YEAR 9999

typedef struct GnCron
{
	int64 every;             /* seconds, counted from 1970-01-01 UTC; 0: the fields */
	uint64 seconds;          /* bits 0 to 59 */
	uint64 minutes;          /* bits 0 to 59 */
	uint32 hours;            /* bits 0 to 23 */
	uint32 days;             /* bits 1 to 31 */
	uint32 days_before_last; /* bit n: n days before the last day of the month */
	uint32 months;           /* bits 1 to 12 */
	uint32 weekdays;         /* bits 0 (Sunday) to 6 */
	uint32 nth_weekdays[6];  /* [n]: weekdays whose nth in the month counts */
	uint32 last_weekdays;    /* weekdays whose last in the month counts */
	bool any_day;            /* the day field begins with * or ? */
	bool any_weekday;        /* so does the weekday field */
	bool interval;           /* the hour field has * or a step, or names all hours */
} GnCron;

/* What is wrong with an expression: static text. */
typedef struct GnCronError
{
	const char *field; /* NULL: the expression as a whole */
	const char *reason;
} GnCronError;

/* False and *error, unless the text is an expression that names any time at all. */
extern bool
gn_cron_parse(const char *text, size_t length, GnCron *cron, GnCronError *error);

/*
 * A time zone: the offset from UTC in seconds that holds at an instant, and the
 * instant from which another one does, PG_INT64_MAX if none follows. Instants are
 * seconds since 1970-01-01 UTC.
 */
typedef struct GnCronZone
{
	int64 (*offset)(const void *zone, int64 at, int64 *until);
	const void *zone;
} GnCronZone;

/* The first fire after an instant; false: there is none up to GN_CRON_MAX_YEAR. */
extern bool
gn_cron_next(const GnCron *cron, const GnCronZone *zone, int64 after, int64 *next);

/* The last fire after one instant and not after another; false: there is none. */
extern bool gn_cron_last(const GnCron *cron, const GnCronZone *zone, int64 after,
						 int64 upto, int64 *last);

/* Whether the fields match any day of the calendar. */
extern bool gn_cron_possible(const GnCron *cron);

#endif
