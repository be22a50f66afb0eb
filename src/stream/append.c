/*
 * src/stream/append.c
 *	  Entries come in: in the caller's transaction, with the caller's context.
 *
 * The order of a stream is that of its positions, which are drawn here. Appenders share
 * a lock that says that they are under way, and never wait for each other.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "core/core.h"
#include "queue/queue.h"
#include "stream/argument.h"
#include "stream/definition.h"
#include "stream/horizon.h"
#include "stream/log.h"

GN_FUNCTION(gn_stream_append);
GN_FUNCTION(gn_stream_append_many);

#define MAX_PAYLOAD (1024 * 1024)
#define MAX_KEY 512
#define MAX_MANY 100000

/* A payload counts as it is stored or as text, whichever is smaller. */
static void
check_payload(const Jsonb *payload)
{
	if (VARSIZE(payload) <= MAX_PAYLOAD ||
		strlen(gn_jsonb_text(payload)) <= MAX_PAYLOAD)
		return;
	ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					errmsg("payload of an entry exceeds 1 MB"),
					errhint("Store what is large in a table and append its key.")));
}

static void
check_key(const char *key)
{
	if (key && (*key == '\0' || strlen(key) > MAX_KEY))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("key must have 1 to %d bytes", MAX_KEY)));
}

/* Whose entry it is, and when. */
static void
sign_entry(GnEntry *entry, const GnContext *context, TimestampTz now)
{
	entry->appended_at = now;
	entry->tenant = context ? context->tenant : NULL;
	entry->claims = gn_queue_carried_claims(context, entry->tenant);
}

static GnStream
open_stream(FunctionCallInfo fcinfo, const char *what)
{
	PreventCommandIfReadOnly(what);
	return gn_stream_of_caller(gn_stream_text(fcinfo, 0, "stream"), "append");
}

static void
put_entries(const GnStream *stream, GnEntry *entries, int count)
{
	int segment = stream->keeps ? 0 : gn_stream_open_segment();

	gn_horizon_hold(stream->id);
	for (int i = 0; i < count; i++)
		entries[i].position = gn_nextval("stream_position");
	gn_log_insert(segment, stream->id, entries, count);
}

/* SQL: grownext.stream_append(stream text, payload jsonb, key text) */
Datum
gn_stream_append(PG_FUNCTION_ARGS)
{
	GnStream stream = open_stream(fcinfo, "stream_append()");
	GnEntry entry = {0};

	if (PG_ARGISNULL(1))
		gn_stream_refuse_null("payload");
	entry.payload = PG_GETARG_JSONB_P(1);
	entry.key = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	check_payload(entry.payload);
	check_key(entry.key);
	sign_entry(&entry, gn_context(), gn_now());
	put_entries(&stream, &entry, 1);
	PG_RETURN_INT64(entry.position);
}

static void
keys_argument(FunctionCallInfo fcinfo, GnEntry *entries, int expected)
{
	Datum *values;
	bool *nulls;
	int count;

	if (PG_ARGISNULL(2))
		return;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), TEXTOID, -1, false, TYPALIGN_INT,
					  &values, &nulls, &count);
	if (count != expected)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("keys must have one element per payload")));
	for (int i = 0; i < count; i++)
	{
		entries[i].key = nulls[i] ? NULL : TextDatumGetCString(values[i]);
		check_key(entries[i].key);
	}
}

static GnEntry *
payloads_argument(FunctionCallInfo fcinfo, int *count)
{
	GnEntry *entries;
	Datum *values;
	bool *nulls;

	if (PG_ARGISNULL(1))
		gn_stream_refuse_null("payloads");
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), JSONBOID, -1, false, TYPALIGN_INT,
					  &values, &nulls, count);
	if (*count > MAX_MANY)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("more than %d entries in one call", MAX_MANY),
						errhint("Append them in several calls of one transaction.")));
	entries = palloc0((*count + 1) * sizeof(GnEntry));
	for (int i = 0; i < *count; i++)
	{
		if (nulls[i])
			gn_stream_refuse_null("a payload");
		entries[i].payload = DatumGetJsonbP(values[i]);
		check_payload(entries[i].payload);
	}
	return entries;
}

/* SQL: grownext.stream_append_many(stream text, payloads jsonb[], keys text[]) */
Datum
gn_stream_append_many(PG_FUNCTION_ARGS)
{
	GnStream stream = open_stream(fcinfo, "stream_append_many()");
	int count;
	GnEntry *entries = payloads_argument(fcinfo, &count);
	const GnContext *context = gn_context();
	TimestampTz now = gn_now();
	GnEntry signature;
	Datum *positions = palloc((count + 1) * sizeof(Datum));

	keys_argument(fcinfo, entries, count);
	sign_entry(&signature, context, now);
	for (int i = 0; i < count; i++)
	{
		entries[i].appended_at = signature.appended_at;
		entries[i].tenant = signature.tenant;
		entries[i].claims = signature.claims;
	}
	if (count > 0)
		put_entries(&stream, entries, count);
	for (int i = 0; i < count; i++)
		positions[i] = Int64GetDatum(entries[i].position);
	PG_RETURN_ARRAYTYPE_P(construct_array(positions, count, INT8OID, sizeof(int64),
										  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}
