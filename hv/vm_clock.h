/* SPDX-License-Identifier: Apache-2.0
 * vm_clock - the guest's time: kvmclock and the TSCs, in a checkpoint and after it.
 */
#ifndef HV_VM_CLOCK_H
#define HV_VM_CLOCK_H

#include <stdint.h>

#include "hv/vm.h"

struct buf;
struct err;
struct reader;

struct vm_clock {
	uint64_t kvmclock_ns; /* the guest's monotonic clock */
	uint64_t real_ns;     /* the host's wall clock at the same moment */
	uint64_t tsc;	      /* vCPU 0's */
	uint32_t tsc_khz;
	int64_t tsc_delta
		[VM_VCPUS_MAX]; /* to vCPU 0; 0 unless the guest pulled them apart */
};

/* VM paused. 0 or -errno. */
int vm_clock_get(struct vm *vm, struct vm_clock *c);
/* Continue from @c, @step_ns later. Before the vCPUs' other state is set. */
int vm_clock_set(struct vm *vm, const struct vm_clock *c, uint64_t step_ns,
		 struct err *err);
/* How far the guest's time steps from @c to the host's wall time @now_ns. Pure. */
uint64_t vm_clock_step(const struct vm_clock *c, uint64_t now_ns);

int vm_clock_save(const struct vm_clock *c, struct buf *b);
int vm_clock_load(struct vm_clock *c, struct reader *r, struct err *err);

#endif
