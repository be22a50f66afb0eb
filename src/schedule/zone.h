/* src/schedule/zone.h -- time zones of the server for cron; private to schedule */
#ifndef GN_SCHEDULE_ZONE_H
#define GN_SCHEDULE_ZONE_H

#include "postgres.h"

#include "schedule/cron.h"

/* The zone of an IANA name; raises 22023 for anything else. */
extern GnCronZone gn_zone_open(const char *name);

#endif
