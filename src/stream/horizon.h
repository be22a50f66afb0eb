/* src/stream/horizon.h -- up to where a stream is decided; private to the component */
#ifndef GN_STREAM_HORIZON_H
#define GN_STREAM_HORIZON_H

#include "postgres.h"

extern Size gn_horizon_shmem_size(void);
extern void gn_horizon_shmem_init(void);
extern void gn_horizon_init(void);

/*
 * Before this transaction draws a position of the stream, and with lock STREAM: until
 * it ends, no horizon of the stream goes beyond what it may still write. At its end,
 * however it ends, those who wait for entries of the stream look again.
 */
extern void gn_horizon_hold(int64 stream);

/*
 * Every position of the stream up to this one belongs to a transaction that is over, or
 * to ours. A snapshot taken afterwards sees all that committed of them.
 */
extern int64 gn_horizon(int64 stream);

/* The last position that was drawn, of any stream. */
extern int64 gn_horizon_last(void);

/* Where those wait who wait for entries of the stream. */
extern uint64 gn_horizon_channel(int64 stream);

#endif
