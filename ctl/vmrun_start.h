/* SPDX-License-Identifier: Apache-2.0
 * vmrun_start - gather what a rhea-vm needs and start it. For vmrun.c.
 */
#ifndef CTL_VMRUN_START_H
#define CTL_VMRUN_START_H

#include <jansson.h>
#include <stdint.h>
#include <stddef.h>

struct config_vm;
struct console;
struct err;
struct host;
struct vmproc;
struct vmproc_ops;

/* Open kernel, disks and /dev/kvm, make the taps and the console, start the process and send
 * it the setup. @resumes: it goes on from the saved guest. Nothing is left open in rhead but the console's end, which @con takes. */
int vmrun_start(struct host *h, const struct config_vm *vm, int resumes,
		struct console *con, const struct vmproc_ops *ops, void *arg,
		struct vmproc **p_out, struct err *err);
/* The setup message of a process that only measures (linktest.h): owned, or NULL. */
json_t *vmrun_tester_setup(struct host *h, const char *name);
/* Where the VM's disk journal is: into @out. 0 or -ENAMETOOLONG. */
int vmrun_journal_path(const struct host *h, const struct config_vm *vm, char *out,
		       size_t room);
/* After its rhea-vm is gone: remove what does not vanish by itself, and with it the output that was held. */
void vmrun_clean(const struct config_vm *vm);

/* vmrun_save.c: the file of the VM's saved guest: a new and empty one, durably there; or the one that there is.
 * Returns owned, or -errno with @err. */
int vmrun_saved_make(const struct host *h, const struct config_vm *vm, struct err *err);
int vmrun_saved_open(const struct host *h, const struct config_vm *vm, struct err *err);
/* A copy of the saved guest @from becomes it. Durable; believed once the record says so. Blocking, any thread. */
int vmrun_saved_take(const struct host *h, const struct config_vm *vm, const char *from,
		     struct err *err);
/* It is worth nothing: remove it. 0 also when there is none. */
int vmrun_saved_drop(const struct host *h, const struct config_vm *vm, struct err *err);

/* vmrun_activity.c: open the VM's activity log. Returns owned, or -errno; -EAGAIN: another process
 * has it, all else is logged, and the VM runs without. */
/* Where it is: into @path, PATH_MAX bytes. 0 or -ENAMETOOLONG. */
int vmrun_activity_path(const struct host *h, const struct config_vm *vm, char *path);
int vmrun_activity_open(struct host *h, const struct config_vm *vm);
/* rhea-vm cannot write it any more. */
void vmrun_activity_failed(struct host *h, const struct config_vm *vm, uint64_t term,
			   uint64_t epoch, const char *why);

#endif
