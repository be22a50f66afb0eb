/* src/core/events.h -- routes of platform events; private to core (public: core.h) */
#ifndef GN_EVENTS_H
#define GN_EVENTS_H

extern void gn_events_init(void); /* at load, once */

#endif
