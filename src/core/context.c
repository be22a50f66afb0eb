/*
 * src/core/context.c
 *	  The caller's context: who is bound to the current transaction.
 *
 * The bound identities live in one flat image that is the "extra" of a hidden
 * setting, grownext.context, always set LOCAL. The server's own settings
 * machinery then gives everything that is asked of a context: it ends with the
 * transaction (a pooler leaks nothing), a rolled-back savepoint undoes it, and it
 * is copied to parallel workers, where an accessor that knew nothing would hide
 * rows. Only this file may set it: the check hook refuses everybody else, so no
 * SQL user can forge an identity through a setting.
 *
 * Claims of a gateway (request.jwt.claims, which any SQL user can set) count only
 * in sessions that a trusted gateway opened; see core/gateway.c.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "nodes/params.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "core/claims.h"
#include "core/core.h"
#include "core/trust.h"

/* One identity in the image; offsets count from the image's start, 0 is "none". */
typedef struct ContextSlot
{
	bool bound;
	bool has_user;
	bool has_tenant;
	bool has_session;
	pg_uuid_t user; /* the subject, where it is one of ours */
	pg_uuid_t tenant;
	pg_uuid_t session;
	uint32 subject;
	uint32 actor;
	uint32 claims; /* a Jsonb, aligned */
} ContextSlot;

typedef struct ContextImage
{
	uint32 size;
	ContextSlot slots[GN_CONTEXT_SOURCES];
} ContextImage;

static char *context_setting =
	NULL; /* the image in hexadecimal, for parallel workers */
static const ContextImage *image = NULL;
static const ContextImage *publishing = NULL; /* set only while we set it ourselves */

static GnContext effective;             /* view of the image */
static const GnContext *current = NULL; /* that view, or NULL: nobody is bound */

#define MAX_CHECKS 8
static GnContextCheck checks[MAX_CHECKS];
static int check_count = 0;
static GnGatewayCheck gateway_checks[MAX_CHECKS];
static int gateway_check_count = 0;

static bool
check_context(char **newval, void **extra, GucSource source)
{
	size_t length = *newval ? strlen(*newval) : 0;

	if (publishing)
	{
		*extra = gn_guc_malloc(publishing->size);
		if (*extra == NULL)
			return false;
		memcpy(*extra, publishing, publishing->size);
		return true;
	}
	if (length == 0 && source < PGC_S_CLIENT)
		return true;
	if (InitializingParallelWorker)
	{
		if (length == 0)
			return true;
		*extra = gn_guc_malloc(length / 2);
		if (*extra == NULL)
			return false;
		(void) hex_decode(*newval, length, *extra);
		return true;
	}
	GUC_check_errcode(ERRCODE_INSUFFICIENT_PRIVILEGE);
	GUC_check_errdetail("The caller's context is bound by grownext.authenticate() and "
						"its like, never set.");
	return false;
}

static void
describe_slot(const ContextImage *from, GnContextSource source, GnContext *view)
{
	const ContextSlot *slot = &from->slots[source];
	const char *base = (const char *) from;

	view->source = source;
	view->subject = slot->subject ? base + slot->subject : NULL;
	view->actor = slot->actor ? base + slot->actor : NULL;
	view->user_id = slot->has_user ? &slot->user : NULL;
	view->tenant = slot->has_tenant ? &slot->tenant : NULL;
	view->session = slot->has_session ? &slot->session : NULL;
	view->claims = (const Jsonb *) (base + slot->claims);
}

/* Accessors are called for each row, this for each binding: what can be settled here
 * is. */
static void
assign_context(const char *newval, void *extra)
{
	image = extra;
	current = NULL;
	for (int source = GN_CONTEXT_SOURCES - 1; image && source >= 0; source--)
	{
		if (image->slots[source].bound)
		{
			describe_slot(image, source, &effective);
			current = &effective;
			break;
		}
	}
}

/* The value holds claims; nobody needs to see it. */
static const char *
show_context(void)
{
	return "";
}

void
gn_context_define(void)
{
	DefineCustomStringVariable("grownext.context",
							   "The caller's context, for parallel workers.",
							   "Set by the library alone.", &context_setting, "",
							   PGC_SUSET,
							   GUC_NO_SHOW_ALL | GUC_NO_RESET_ALL | GN_GUC_NO_RESET |
								   GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE |
								   GUC_SUPERUSER_ONLY,
							   check_context, assign_context, show_context);
}

const GnContext *
gn_context(void)
{
	if (unlikely(current == NULL))
		return gn_gateway_unchecked_context();
	if (current->source == GN_CONTEXT_GATEWAY)
		gn_gateway_recheck();
	return current;
}

/* Reserves room for data behind the image's end and returns its offset. */
static uint32
append_data(ContextImage **to, const void *data, uint32 length)
{
	uint32 offset = MAXALIGN((*to)->size);

	*to = repalloc(*to, offset + length);
	memset((char *) *to + (*to)->size, 0, offset - (*to)->size);
	memcpy((char *) *to + offset, data, length);
	(*to)->size = offset + length;
	return offset;
}

static void
copy_slot(ContextImage **to, const ContextImage *from, int source)
{
	GnContext view;
	ContextSlot slot = from->slots[source];

	describe_slot(from, source, &view);
	if (slot.subject)
		slot.subject = append_data(to, view.subject, strlen(view.subject) + 1);
	if (slot.actor)
		slot.actor = append_data(to, view.actor, strlen(view.actor) + 1);
	slot.claims = append_data(to, view.claims, VARSIZE(view.claims));
	(*to)->slots[source] = slot;
}

static void
fill_slot(ContextImage **to, GnContextSource source, const Jsonb *claims,
		  const char *tenant_claim)
{
	char *subject = gn_claims_subject(claims);
	char *actor = gn_claims_actor(claims);
	ContextSlot slot = {.bound = true};

	slot.has_tenant =
		gn_claims_tenant(claims, tenant_claim ? tenant_claim : "tenant_id",
						 &slot.tenant);
	slot.has_session = gn_claims_session(claims, &slot.session);
	slot.has_user = subject && gn_uuid_parse(subject, &slot.user);
	if (actor == NULL)
		actor = subject;
	if (subject)
		slot.subject = append_data(to, subject, strlen(subject) + 1);
	if (actor)
		slot.actor = append_data(to, actor, strlen(actor) + 1);
	slot.claims = append_data(to, claims, VARSIZE(claims));
	(*to)->slots[source] = slot;
}

static ContextImage *
build_image(GnContextSource source, const Jsonb *claims, const char *tenant_claim)
{
	ContextImage *built;

	if (!JB_ROOT_IS_OBJECT(claims))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("claims must be a JSON object")));
	built = palloc0(sizeof(ContextImage));
	built->size = sizeof(ContextImage);
	for (int other = 0; image && other < GN_CONTEXT_SOURCES; other++)
	{
		if (other != (int) source && image->slots[other].bound)
			copy_slot(&built, image, other);
	}
	fill_slot(&built, source, claims, tenant_claim);
	return built;
}

void
gn_context_bind(GnContextSource source, Jsonb *claims, const char *tenant_claim)
{
	ContextImage *built = build_image(source, claims, tenant_claim);
	char *text = palloc(2 * (size_t) built->size + 1);

	text[hex_encode((const char *) built, built->size, text)] = '\0';
	publishing = built;
	PG_TRY();
	{
		(void) set_config_option("grownext.context", text, PGC_SUSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
	}
	PG_FINALLY();
	{
		publishing = NULL;
	}
	PG_END_TRY();
	pfree(text);
	pfree(built);
}

/*
 * As SET LOCAL does: bound outside a transaction block, the caller is forgotten at
 * the end of this very statement. Inside a function or another query, whose error
 * contexts stand on the stack, what follows still profits.
 */
void
gn_warn_outside_block(const char *what)
{
	const ErrorContextCallback *outer = error_context_stack;
	bool top_level = outer == NULL || (outer->previous == NULL &&
									   outer->callback == ParamsErrorCallback);

	if (top_level && !IsTransactionBlock() && !gn_in_background_worker())
		ereport(WARNING, (errcode(ERRCODE_NO_ACTIVE_SQL_TRANSACTION),
						  errmsg("%s can only be used in transaction blocks", what),
						  errhint("BEGIN first; the caller is forgotten at the end of "
								  "the transaction.")));
}

bool
gn_context_bound(GnContextSource source)
{
	return image && image->slots[source].bound;
}

/* A view of claims that are not bound, made in memory; for core/gateway.c. */
void
gn_context_describe(GnContextSource source, const Jsonb *claims,
					const char *tenant_claim, MemoryContext memory, GnContext *view)
{
	MemoryContext old = MemoryContextSwitchTo(memory);

	describe_slot(build_image(source, claims, tenant_claim), source, view);
	MemoryContextSwitchTo(old);
}

void
gn_context_register_check(GnContextCheck check)
{
	if (check_count == MAX_CHECKS)
		elog(ERROR, "too many context checks");
	checks[check_count++] = check;
}

void
gn_context_run_checks(const Jsonb *claims)
{
	for (int i = 0; i < check_count; i++)
		checks[i](claims);
}

void
gn_context_register_gateway_check(GnGatewayCheck check)
{
	if (gateway_check_count == MAX_CHECKS)
		elog(ERROR, "too many gateway checks");
	gateway_checks[gateway_check_count++] = check;
}

void
gn_context_run_gateway_checks(const Jsonb *claims, const Jsonb *headers)
{
	for (int i = 0; i < gateway_check_count; i++)
		gateway_checks[i](claims, headers);
}
