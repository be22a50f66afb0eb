/*
 * src/tenant/tenant.c
 *	  The component, and the names of time zones.
 */
#include "postgres.h"

#include "pgtime.h"
#include "utils/builtins.h"

#include "core/core.h"
#include "tenant/permission.h"
#include "tenant/tenant.h"

GN_FUNCTION(gn_tenant_time_zone);

const GnComponent gn_tenant_component = {
	.name = "tenant",
	.init = gn_permission_init,
	.tick = "SELECT _grownext.tenant_tick($1)",
};

/*
 * POSIX specifications such as "ABC5" are no names: the few zones with a digit are
 * listed.
 */
static bool
is_zone_name(const char *name)
{
	static const char *const with_digits[] = {"Etc/GMT", "GMT",     "EST5EDT",
											  "CST6CDT", "MST7MDT", "PST8PDT"};

	if (strpbrk(name, "0123456789<>,:") == NULL)
		return true;
	for (size_t i = 0; i < lengthof(with_digits); i++)
	{
		size_t length = strlen(with_digits[i]);

		if (pg_strncasecmp(name, with_digits[i], length) == 0 &&
			strspn(name + length, "+-0123456789") == strlen(name + length))
			return true;
	}
	return false;
}

/*
 * SQL: _grownext.tenant_time_zone(name text)
 *
 * The zone's name as the time zone database spells it, NULL if there is none.
 */
Datum
gn_tenant_time_zone(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	pg_tz *zone;

	if (!is_zone_name(name))
		PG_RETURN_NULL();
	zone = pg_tzset(name);
	if (zone == NULL || !pg_tz_acceptable(zone))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(pg_get_timezone_name(zone)));
}
