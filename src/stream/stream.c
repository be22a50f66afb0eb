/*
 * src/stream/stream.c
 *	  The component: what it tells the frame.
 *
 * A stream is an append-only log that several consumers read, each at its own pace and
 * from where it likes. It has no job states: what is to be done once, with retries, is
 * a job.
 */
#include "postgres.h"

#include "core/core.h"
#include "stream/definition.h"
#include "stream/horizon.h"
#include "stream/stream.h"

static void
init_stream(void)
{
	gn_stream_definition_init();
	gn_horizon_init();
}

const GnComponent gn_stream_component = {
	.name = "stream",
	.init = init_stream,
	.shmem_size = gn_horizon_shmem_size,
	.shmem_init = gn_horizon_shmem_init,
	.tick = "SELECT _grownext.stream_tick($1)",
};
