/*
 * src/core/events.c
 *	  Platform events: routed into queues in the transaction that caused them.
 *
 * Core stands left of the queue, so it knows routes and a sink, not queues. A
 * database without routes pays one comparison per event.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/core.h"
#include "core/events.h"

GN_FUNCTION(gn_core_event_emit);

typedef struct EventRoute
{
	char *event_type;
	char *queue;
} EventRoute;

static GnMarker route_marker = {.name = "core_marker_route"};
static GnEventSink sink = NULL;

static MemoryContext route_memory = NULL;
static EventRoute *routes = NULL;
static int route_count = 0;
static uint64 route_generation = 0;

void
gn_events_init(void)
{
	gn_marker_register(&route_marker);
}

void
gn_event_set_sink(GnEventSink new_sink)
{
	sink = new_sink;
}

static void
load_routes(void)
{
	static GnQuery query =
		GN_QUERY_NOARGS("SELECT event_type, queue FROM _grownext.core_event_route "
						"ORDER BY event_type, queue");
	uint64 generation = gn_marker_generation(&route_marker);
	GnSpi spi;
	uint64 count;

	if (generation == route_generation)
		return;
	if (route_memory == NULL)
		route_memory = AllocSetContextCreate(TopMemoryContext, "grownext event routes",
											 ALLOCSET_SMALL_SIZES);
	MemoryContextReset(route_memory);
	route_count = 0;
	gn_spi_begin(&spi);
	/* What committed since this statement began counts, or it would be missed for good.
	 */
	PushActiveSnapshot(GetLatestSnapshot());
	count = gn_spi_execute(&query, NULL, NULL, true);
	routes = MemoryContextAlloc(route_memory, (count + 1) * sizeof(EventRoute));
	for (uint64 i = 0; i < count; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		EventRoute *route = &routes[route_count++];

		route->event_type =
			MemoryContextStrdup(route_memory,
								SPI_getvalue(tuple, SPI_tuptable->tupdesc, 1));
		route->queue =
			MemoryContextStrdup(route_memory,
								SPI_getvalue(tuple, SPI_tuptable->tupdesc, 2));
	}
	PopActiveSnapshot();
	gn_spi_end(&spi);
	route_generation = generation;
}

/* "*" covers all, "tenant.*" whatever begins with "tenant.", else the type itself. */
static bool
route_covers(const char *pattern, const char *type)
{
	size_t length = strlen(pattern);

	if (length > 0 && pattern[length - 1] == '*')
		return strncmp(pattern, type, length - 1) == 0;
	return strcmp(pattern, type) == 0;
}

static Jsonb *
make_event(const char *type, const pg_uuid_t *tenant, Jsonb *data)
{
	static GnQuery query =
		GN_QUERY("SELECT pg_catalog.jsonb_build_object('id', 'evt_' || "
				 "$1::pg_catalog.text, 'type', $2, "
				 "'timestamp', $3, 'tenant_id', $4, 'data', $5)",
				 UUIDOID, TEXTOID, TIMESTAMPTZOID, UUIDOID, JSONBOID);
	pg_uuid_t id;
	Datum values[5];
	char nulls[] = "     ";
	bool isnull;
	Datum event;
	GnSpi spi;

	gn_uuid_random(&id);
	values[0] = UUIDPGetDatum(&id);
	values[1] = CStringGetTextDatum(type);
	values[2] = TimestampTzGetDatum(gn_now());
	values[3] = UUIDPGetDatum(tenant);
	nulls[3] = tenant ? ' ' : 'n';
	values[4] = JsonbPGetDatum(data);

	gn_spi_begin(&spi);
	gn_spi_execute(&query, values, nulls, true);
	event = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	event = SPI_datumTransfer(event, false, -1);
	gn_spi_end(&spi);
	return DatumGetJsonbP(event);
}

void
gn_event_emit(const char *type, const pg_uuid_t *tenant, Jsonb *data)
{
	Jsonb *event = NULL;

	load_routes();
	for (int i = 0; sink && i < route_count; i++)
	{
		if (!route_covers(routes[i].event_type, type))
			continue;
		if (event == NULL)
			event = make_event(type, tenant, data);
		sink(routes[i].queue, event, tenant);
	}
}

/* SQL: _grownext.core_event_emit(event_type text, tenant_id uuid, data jsonb) */
Datum
gn_core_event_emit(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("event_type must not be null")));
	gn_event_emit(text_to_cstring(PG_GETARG_TEXT_PP(0)),
				  PG_ARGISNULL(1) ? NULL : PG_GETARG_UUID_P(1),
				  PG_ARGISNULL(2) ? gn_jsonb_from_text("{}") : PG_GETARG_JSONB_P(2));
	PG_RETURN_VOID();
}
