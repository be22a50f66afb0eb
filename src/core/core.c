/*
 * src/core/core.c
 *	  Core's own descriptor, and what is too small for a file of its own.
 */
#include "postgres.h"

#include "funcapi.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/events.h"
#include "core/trust.h"
#include "core/workers.h"

GN_FUNCTION(gn_core_now);
GN_FUNCTION(gn_core_errors);

static void
init_core(void)
{
	gn_cache_init();
	gn_spi_init();
	gn_trust_init();
	gn_gateway_init();
	gn_events_init();
	gn_identity_init();
	gn_utility_init();
	gn_launcher_init();
	gn_rate_init();
	gn_limits_init();
}

static Size
core_shmem_size(void)
{
	return add_size(add_size(gn_worker_shmem_size(), gn_wait_shmem_size()),
					gn_rate_shmem_size());
}

static void
core_shmem_init(void)
{
	gn_worker_shmem_init();
	gn_wait_shmem_init();
	gn_rate_shmem_init();
}

const GnComponent gn_core_component = {
	.name = "core",
	.init = init_core,
	.shmem_size = core_shmem_size,
	.shmem_init = core_shmem_init,
	.tick = "SELECT _grownext.core_tick($1)",
};

void
gn_require_preload(const char *what)
{
	if (gn_preloaded)
		return;
	ereport(ERROR,
			(errcode(GN_ERRCODE_NOT_PRELOADED),
			 errmsg("%s needs grownext in shared_preload_libraries", what),
			 errhint("Add grownext to shared_preload_libraries in postgresql.conf and "
					 "restart the server.")));
}

/* SQL: _grownext.core_now() */
Datum
gn_core_now(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(gn_now());
}

typedef struct RegisteredError
{
	const char *name;
	const char code[6];
	int http;
	const char *meaning;
} RegisteredError;

#define GN_ERROR_ROW(name, a, b, c, http, meaning)                                     \
	{#name, {'N', 'X', a, b, c, '\0'}, http, meaning},
static const RegisteredError registered_errors[] = {GN_ERROR_REGISTRY(GN_ERROR_ROW)};
#undef GN_ERROR_ROW

/* SQL: _grownext.core_errors() */
Datum
gn_core_errors(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (size_t i = 0; i < lengthof(registered_errors); i++)
	{
		const RegisteredError *error = &registered_errors[i];
		char *name = asc_tolower(error->name, strlen(error->name));
		Datum values[4] = {CStringGetTextDatum(error->code), CStringGetTextDatum(name),
						   Int32GetDatum(error->http),
						   CStringGetTextDatum(error->meaning)};
		bool nulls[4] = {false, false, error->http == 0, false};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
