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
#include "entitlement/entitlement.h"

static int64
first_number(void)
{
	bool isnull;

	return DatumGetInt64(
		SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

static int64
seats_in_use(const pg_uuid_t *tenant)
{
	static GnQuery query = GN_QUERY("SELECT _grownext.tenant_seats($1)", UUIDOID);
	Datum values[1] = {UUIDPGetDatum(tenant)};
	int64 used = 0;

	if (gn_spi_execute(&query, values, NULL, true) == 1)
		used = first_number();
	SPI_freetuptable(SPI_tuptable);
	return used;
}

static int64
rows_in_use(const pg_uuid_t *tenant, int feature)
{
	static GnQuery query =
		GN_QUERY("SELECT u.used FROM _grownext.entitlement_usage AS u"
				 " WHERE u.tenant_id = $1 AND u.feature_id = $2"
				 " AND u.period_start = '-infinity' AND u.period = 'never'",
				 UUIDOID, INT4OID);
	Datum values[2] = {UUIDPGetDatum(tenant), Int32GetDatum(feature)};
	int64 used = 0;

	if (gn_spi_execute(&query, values, NULL, true) == 1)
		used = first_number();
	SPI_freetuptable(SPI_tuptable);
	return used;
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
