/* SPDX-License-Identifier: Apache-2.0
 * vmrun_start - gather what a rhea-vm needs and start it. For vmrun.c.
 */
#ifndef CTL_VMRUN_START_H
#define CTL_VMRUN_START_H

struct config_vm;
struct console;
struct err;
struct host;
struct vmproc;
struct vmproc_ops;

/* Open kernel, disks and /dev/kvm, make the taps and the console, start the process and send
 * it the setup. Nothing is left open in rhead but the console's end, which @con takes. */
int vmrun_start(struct host *h, const struct config_vm *vm, struct console *con,
		const struct vmproc_ops *ops, void *arg, struct vmproc **p_out,
		struct err *err);
/* After its rhea-vm is gone: remove what does not vanish by itself, and with it the output that was held. */
void vmrun_clean(const struct config_vm *vm);

#endif
