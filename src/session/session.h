/* src/session/session.h -- sessions and refresh tokens */
#ifndef GN_SESSION_H
#define GN_SESSION_H

#include "postgres.h"

#include "core/component.h"

extern const GnComponent gn_session_component;

#endif
