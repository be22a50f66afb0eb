/*
 * src/core/settings.c
 *	  Settings that belong to the server and are read by more than one component.
 *
 * What belongs to the data (issuer, audiences, trust) is rows, so that a restore
 * brings it back. Nothing here that affects trust can be set by an ordinary user.
 * docs/settings.md lists them all; a lint rule keeps it so.
 */
#include "postgres.h"

#include <time.h>

#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "core/core.h"

int gn_mode = GN_MODE_ON;
int gn_max_workers = 8;
int gn_executors = 2;
int gn_tick_interval = 1000;
int gn_executor_idle = 60;
char *gn_databases = NULL;
char *gn_environment = NULL;
char *gn_tenant_claim = NULL;

static char *test_clock = NULL;

static const struct config_enum_entry mode_options[] = {
	{"on", GN_MODE_ON, false},
	{"drain", GN_MODE_DRAIN, false},
	{"off", GN_MODE_OFF, false},
	{NULL, 0, false},
};

/* Parses the test clock once, when it is set; no value means the wall clock. */
static bool
check_test_clock(char **newval, void **extra, GucSource source)
{
	TimestampTz *instant;

	if (*newval == NULL || **newval == '\0')
		return true;
	if (!IsTransactionState())
	{
		GUC_check_errdetail("It can be set only inside a session.");
		return false;
	}
	instant = gn_guc_malloc(sizeof(TimestampTz));
	if (instant == NULL)
		return false;
	*instant = DatumGetTimestampTz(
		DirectFunctionCall3(timestamptz_in, CStringGetDatum(*newval),
							ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	*extra = instant;
	return true;
}

static const TimestampTz *test_instant = NULL;
uint32 gn_clock_epoch = 0;

static void
assign_test_clock(const char *newval, void *extra)
{
	test_instant = extra;
	gn_clock_epoch++;
}

TimestampTz
gn_now(void)
{
	return test_instant ? *test_instant : GetCurrentTimestamp();
}

/* The kernel's coarse clock is read at a fraction of the price, and lags by a tick. */
bool
gn_now_is_before(TimestampTz instant)
{
#ifdef CLOCK_REALTIME_COARSE
	struct timespec coarse;

	if (test_instant == NULL && clock_gettime(CLOCK_REALTIME_COARSE, &coarse) == 0 &&
		time_t_to_timestamptz(coarse.tv_sec) + 2 * USECS_PER_SEC < instant)
		return true;
#endif
	return gn_now() < instant;
}

void
gn_settings_define(void)
{
	DefineCustomStringVariable(
		"grownext.databases",
		"Databases that workers serve; empty means every database that was set up.",
		"A comma-separated list of names.", &gn_databases, "", PGC_SIGHUP,
		GUC_LIST_INPUT, NULL, NULL, NULL);
	DefineCustomStringVariable(
		"grownext.environment",
		"Name of this environment, such as production or staging.",
		"A database that was set up under another name stays fenced.", &gn_environment,
		"", PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("grownext.executor_idle",
							"Time after which an executor without work leaves.", NULL,
							&gn_executor_idle, 60, 1, 86400, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("grownext.executors", "Most executors in one database.",
							NULL, &gn_executors, 2, 0, 64, PGC_SIGHUP, 0, NULL, NULL,
							NULL);
	DefineCustomIntVariable("grownext.max_workers",
							"Most workers in the cluster, the launcher not counted.",
							"Each takes one of max_worker_processes.", &gn_max_workers,
							8, 1, 256, GN_PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable(
		"grownext.mode", "Whether workers run.",
		"off stops them, drain lets running jobs end and starts none.", &gn_mode,
		GN_MODE_ON, mode_options, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("grownext.tenant_claim",
							   "Path of the tenant in claims of foreign tokens.",
							   "Dotted, such as app_metadata.tenant_id.",
							   &gn_tenant_claim, "tenant_id", PGC_SUSET, 0, NULL, NULL,
							   NULL);
	DefineCustomStringVariable("grownext.test_clock",
							   "Instant that replaces the wall clock, for tests.", NULL,
							   &test_clock, "", PGC_SUSET, GUC_NOT_IN_SAMPLE,
							   check_test_clock, assign_test_clock, NULL);
	DefineCustomIntVariable("grownext.tick_interval",
							"Longest time between two passes of a scheduler.", NULL,
							&gn_tick_interval, 1000, 10, 3600000, PGC_SIGHUP,
							GUC_UNIT_MS, NULL, NULL, NULL);
}
