/* src/schedule/schedule.h -- the public face of schedule: jobs that come again */
#ifndef GN_SCHEDULE_H
#define GN_SCHEDULE_H

#include "core/component.h"

extern const GnComponent gn_schedule_component;

#endif
