/*
 * src/entitlement/preview.c
 *	  subscription_preview(): what a change of a subscription would mean, without making
 *	  it.
 *
 * The tenant is compiled twice under one snapshot: as it is, and with the phase that
 * the change would begin in the place of the subscription's own. Both go through the
 * resolver that decides, so what is announced is what will be.
 */
#include "postgres.h"

#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "core/core.h"
#include "entitlement/compile.h"
#include "entitlement/entitlement.h"
#include "entitlement/record.h"

GN_FUNCTION(gn_entitlement_effects);

/* What holds, as a bundle would say it; "false" for what is denied. */
static char *
says(const GnAnswer *answer)
{
	StringInfoData json;

	initStringInfo(&json);
	if (answer->decision.decided)
		gn_append_setting(&json, answer->known, &answer->decision.setting);
	else
		appendStringInfoString(&json, "false");
	return json.data;
}

/* Is more in use than will be allowed? What is not counted here is not known. */
static bool
over_limit(const GnAnswer *before, const GnAnswer *after)
{
	if (!after->counted)
		return before->counted && before->used > 0;
	return !after->decision.setting.unlimited &&
		   after->used > after->decision.setting.quota;
}

static void
put_effect(ReturnSetInfo *result, const GnAnswer *before, const GnAnswer *after)
{
	char *said = says(before);
	char *will_say = says(after);
	Datum values[4];
	bool nulls[4] = {0};

	if (strcmp(said, will_say) == 0)
		return;
	values[0] = CStringGetTextDatum(before->feature);
	values[1] = JsonbPGetDatum(gn_jsonb_from_text(said));
	values[2] = JsonbPGetDatum(gn_jsonb_from_text(will_say));
	values[3] = BoolGetDatum(over_limit(before, after));
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * SQL: _grownext.entitlement_effects(tenant_id uuid, subscription_id uuid,
 * version_id int, quantity int)
 */
Datum
gn_entitlement_effects(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	GnQuestion question = {.tenant = *PG_GETARG_UUID_P(0), .at = gn_now()};
	GnChange change = {
		.subscription = *PG_GETARG_UUID_P(1),
		.version_id = PG_GETARG_INT32(2),
		.quantity = PG_GETARG_INT32(3),
	};
	MemoryContext memory = CurrentMemoryContext;
	GnAnswer *before;
	GnAnswer *after;
	int count;
	GnSpi spi;

	InitMaterializedSRF(fcinfo, 0);
	gn_spi_begin(&spi);
	gn_scope_push_snapshot();
	before = gn_entitlement_answer_from(gn_record_compile(&question.tenant, NULL,
														  question.at),
										&question, true, memory, &count);
	after = gn_entitlement_answer_from(gn_record_preview(&question.tenant, question.at,
														 &change),
									   &question, true, memory, &count);
	PopActiveSnapshot();
	gn_spi_end(&spi);
	for (int i = 0; i < count; i++)
		put_effect(result, &before[i], &after[i]);
	return (Datum) 0;
}
