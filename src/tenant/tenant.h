/* src/tenant/tenant.h -- tenants as the other components see them in C */
#ifndef GN_TENANT_H
#define GN_TENANT_H

#include "core/component.h"

extern const GnComponent gn_tenant_component;

#endif
