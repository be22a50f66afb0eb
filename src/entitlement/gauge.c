/*
 * src/entitlement/gauge.c
 *	  What is used of seats and of limits that tables count.
 *
 * Seats are members and invitations that can be accepted; one expires without anybody
 * writing, so they are counted when somebody asks. Rows of protected tables are counted
 * as they come and go (limit.c). Neither decides whether a feature is allowed: what is
 * there stays, and only more of it is refused.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "core/core.h"
#include "entitlement/usage.h"

static int64
seats_in_use(const pg_uuid_t *tenant)
{
	static GnQuery query = GN_QUERY("SELECT _grownext.tenant_seats($1)", UUIDOID);
	Datum values[1] = {UUIDPGetDatum(tenant)};
	int64 used;
	bool isnull;

	gn_spi_execute(&query, values, NULL, true);
	used = DatumGetInt64(gn_usage_column(1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return used;
}

static int64
rows_in_use(const pg_uuid_t *tenant, int feature)
{
	GnCounter counter = {
		.tenant = *tenant,
		.feature = feature,
		.period = GN_PERIOD_NEVER,
		.start = DT_NOBEGIN,
	};

	return gn_counter_seen(&counter);
}

void
gn_gauges_read(const GnQuestion *question, GnAnswer *answers, int count)
{
	int64 seats = -1; /* not counted yet: the same for all features */

	for (int i = 0; i < count; i++)
	{
		GnAnswer *answer = &answers[i];

		if (answer->known == NULL)
			continue;
		if (answer->known->kind == GN_KIND_SEATS)
		{
			if (seats < 0)
				seats = seats_in_use(&question->tenant);
			answer->used = seats;
			answer->gauged = true;
		}
		else if (answer->known->gauged)
		{
			answer->used = rows_in_use(&question->tenant, answer->known->id);
			answer->gauged = true;
		}
	}
}
