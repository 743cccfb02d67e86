/* SPDX-License-Identifier: Apache-2.0
 * modules - finds and loads transports that are modules (module.h).
 */
#ifndef REPLICATION_MODULES_H
#define REPLICATION_MODULES_H

struct err;
struct tp_module;

enum { TP_MODULE_NAME_MAX = 16 }; /* with the NUL */

/* 1: may be the name of a transport: small letters, no more than fit. */
int tp_module_name_ok(const char *name);

/* Load DIR/rhea-tp-NAME.so, once: it stays until the process ends. Opens files, so it is called
 * before the process is shut in. One thread. 0 or -errno with what to install in @err: -EINVAL no
 * such name can be, -ENOENT not installed, -ENOEXEC not loadable, or of another version. */
int tp_module_load(const char *dir, const char *name, const struct tp_module **m_out,
		   struct err *err);

#endif
