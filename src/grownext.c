/*
 * src/grownext.c
 *	  Composition root: what the server calls when it loads the library.
 *
 * The only file that sees every component. The table below follows COMPONENTS of
 * the Makefile; a component without C has no entry.
 */
#include "postgres.h"

#include "fmgr.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "account/account.h"
#include "audit/audit.h"
#include "core/core.h"
#include "crypto/crypto.h"
#include "entitlement/entitlement.h"
#include "jwt/jwt.h"
#include "queue/queue.h"
#include "schedule/schedule.h"
#include "session/session.h"
#include "stream/stream.h"
#include "tenant/tenant.h"

GN_MODULE_MAGIC;

static const GnComponent *const components[] = {
	&gn_core_component, /* one a line, as in the Makefile */
	&gn_crypto_component,
	&gn_queue_component,
	&gn_audit_component,
	&gn_stream_component,
	&gn_schedule_component,
	&gn_jwt_component,
	&gn_account_component,
	&gn_tenant_component,
	&gn_session_component,
	&gn_entitlement_component,
	NULL,
};

const GnComponent *const *gn_components = components;
bool gn_preloaded = false;

static shmem_request_hook_type previous_shmem_request = NULL;
static shmem_startup_hook_type previous_shmem_startup = NULL;

extern PGDLLEXPORT void _PG_init(void);

static void
request_shared_memory(void)
{
	if (previous_shmem_request)
		previous_shmem_request();
	for (const GnComponent *const *c = components; *c; c++)
	{
		if ((*c)->shmem_size)
			RequestAddinShmemSpace((*c)->shmem_size());
	}
}

static void
start_shared_memory(void)
{
	if (previous_shmem_startup)
		previous_shmem_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (const GnComponent *const *c = components; *c; c++)
	{
		if ((*c)->shmem_init)
			(*c)->shmem_init();
	}
	LWLockRelease(AddinShmemInitLock);
}

void
_PG_init(void)
{
	gn_preloaded = process_shared_preload_libraries_in_progress;

	gn_settings_define();
	gn_context_define();
	for (const GnComponent *const *c = components; *c; c++)
	{
		if ((*c)->init)
			(*c)->init();
	}
	MarkGUCPrefixReserved("grownext");

	if (!gn_preloaded)
		return;
	previous_shmem_request = shmem_request_hook;
	shmem_request_hook = request_shared_memory;
	previous_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = start_shared_memory;
}
