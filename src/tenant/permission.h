/* src/tenant/permission.h -- what the caller's role permits; private to tenant */
#ifndef GN_PERMISSION_H
#define GN_PERMISSION_H

extern void gn_permission_init(void); /* at load, once */

#endif
