/* src/entitlement/reservation.h -- units that are taken for a while; private to
 * entitlement */
#ifndef GN_RESERVATION_H
#define GN_RESERVATION_H

#include "postgres.h"

#include "entitlement/usage.h"

/*
 * Gives back what reservations that are expired by call->now hold of a feature's
 * counters or balance at a tenant; how many there were. The call's own and those that
 * somebody is closing are skipped. Between gn_spi_begin and gn_spi_end.
 */
extern int
gn_reservation_reclaim(const pg_uuid_t *holder, int feature, const GnUsageCall *call);

#endif
