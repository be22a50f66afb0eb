/*
 * src/schedule/zone.c
 *	  IANA time zones, as the server knows them.
 *
 * The server's look-up also takes POSIX rules such as "UTC+3", whose sign means the
 * opposite of what most people think, and which any misspelt name with a digit turns
 * into. They are refused: a zone is a name of the IANA database.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "pgtime.h"

#include "core/core.h"
#include "schedule/zone.h"

static int64
zone_offset(const void *zone, int64 at, int64 *until)
{
	pg_time_t time = at;
	pg_time_t boundary;
	long before;
	long after;
	int before_is_dst;
	int after_is_dst;
	int found = pg_next_dst_boundary(&time, &before, &before_is_dst, &boundary, &after,
									 &after_is_dst, zone);

	if (found < 0)
		elog(ERROR, "no offset of a time zone at " INT64_FORMAT, at);
	*until = found > 0 ? boundary : PG_INT64_MAX;
	return before;
}

/* The few IANA names with digits: all others with one are POSIX rules. */
static bool
may_have_digits(const char *name)
{
	static const char *const names[] = {"EST5EDT", "CST6CDT", "MST7MDT", "PST8PDT",
										"GMT0",    "GMT+0",   "GMT-0",   "Etc/GMT0"};
	const char *prefix = "Etc/GMT";
	long hours;

	for (size_t i = 0; i < lengthof(names); i++)
	{
		if (pg_strcasecmp(name, names[i]) == 0)
			return true;
	}
	if (pg_strncasecmp(name, prefix, strlen(prefix)) != 0)
		return false;
	name += strlen(prefix);
	if ((*name != '+' && *name != '-') || strlen(name) > 3 || name[1] == '0' ||
		strspn(name + 1, "0123456789") != strlen(name + 1))
		return strcmp(name, "+0") == 0 || strcmp(name, "-0") == 0;
	hours = strtol(name, NULL, 10);
	return hours >= -14 && hours <= 12;
}

GnCronZone
gn_zone_open(const char *name)
{
	pg_tz *zone = NULL;

	if (*name && strlen(name) <= TZ_STRLEN_MAX &&
		(strpbrk(name, "0123456789") == NULL || may_have_digits(name)))
		zone = pg_tzset(name);
	if (zone == NULL || !pg_tz_acceptable(zone))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown time zone \"%.*s\"",
						pg_mbcliplen(name, (int) strlen(name), 100), name),
				 errhint("Use a name of the IANA database, such as Europe/Berlin; see "
						 "pg_timezone_names.")));
	return (GnCronZone){.offset = zone_offset, .zone = zone};
}
