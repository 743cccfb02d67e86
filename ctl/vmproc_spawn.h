/* SPDX-License-Identifier: Apache-2.0
 * vmproc_spawn - the birth of a rhea-vm: fork, exec, and its first message. For vmproc.c.
 */
#ifndef CTL_VMPROC_SPAWN_H
#define CTL_VMPROC_SPAWN_H

#include <sys/types.h>

struct err;
struct vmproc_start;

/* Start @program with one end of a socket pair as descriptor 3. Returns the process and our
 * end (owned, non-blocking). Only the thread that lives longest may call this. */
int vmproc_fork(const char *program, const char *vm, pid_t *pid_out, int *sock_out,
		struct err *err);
/* Send the setup message with its descriptors. */
int vmproc_send_setup(int sock, const struct vmproc_start *st, struct err *err);

#endif
