/* SPDX-License-Identifier: Apache-2.0
 * vcpu - one virtual CPU: its KVM descriptor, its state, and what it does at each exit.
 *
 * vcpu_run() belongs to the vCPU's own thread; all else is for a vCPU that stands still.
 */
#ifndef HV_VCPU_H
#define HV_VCPU_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "hv/cpuid.h"

struct buf;
struct err;
struct reader;
struct vm;

enum { VCPU_MSRS_MAX = 160, VCPU_XCRS_MAX = 4, VCPU_XSAVE_LEN = 4096 };

/* What all vCPUs of a VM have in common: found once, by asking KVM. */
struct vcpu_kind {
	struct cpuid cpuid;
	uint32_t msr
		[VCPU_MSRS_MAX]; /* which are saved; TSC_DEADLINE last, TSC not at all */
	uint32_t msrs;
	int has_sregs2, has_xcrs, has_debugregs;
	int has_tsc_offset; /* KVM_VCPU_TSC_OFFSET */
	uint32_t run_len;   /* bytes of struct kvm_run */
};

/* Everything of a vCPU that a checkpoint holds, but its TSC. */
struct vcpu_state {
	struct kvm_mp_state mp;
	struct kvm_vcpu_events events;
	struct kvm_regs regs;
	struct kvm_sregs2 sregs;
	struct kvm_debugregs debug;
	struct kvm_lapic_state lapic;
	uint8_t xsave[VCPU_XSAVE_LEN];
	uint32_t xcrs;
	uint32_t xcr_id[VCPU_XCRS_MAX];
	uint64_t xcr[VCPU_XCRS_MAX];
	uint32_t msrs;
	uint32_t msr_id[VCPU_MSRS_MAX];
	uint64_t msr[VCPU_MSRS_MAX];
};

/* What the guest asked for on this vCPU, until it is done: a checkpoint holds it (STATE.md, acpi),
 * because the guest will not ask twice. */
enum vcpu_asked { VCPU_ASKED_NOTHING, VCPU_ASKED_POWEROFF, VCPU_ASKED_RESET };

struct vcpu {
	struct vm *vm;
	unsigned id;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	int has_thread;
	int io_pending; /* an exit's I/O is completed by the next KVM_RUN */
	int failed;	/* -errno of a KVM_RUN that failed */
	/* Both changed by others only while it is stopped. */
	int told; /* the guest's end was told: this vCPU stands still */
	enum vcpu_asked asked;
	struct vcpu_state state;
	struct vcpu_state initial; /* power-on */
};

/* What this KVM and the named CPU model give. Does not need a vCPU. */
int vcpu_kind_find(struct vm *vm, struct err *err);
/* Which MSRs can be saved: asks @v, the VM's first vCPU. */
int vcpu_kind_msrs(struct vcpu *v, struct err *err);

int vcpu_create(struct vm *vm, unsigned id, struct vcpu **v_out,
		struct err *err);  /* owned */
void vcpu_destroy(struct vcpu *v); /* its thread has ended; NULL is fine */

/* Run until the next exit and handle it. An event of the VM is put in @notice. */
struct vm_notice;
void vcpu_run(struct vcpu *v, struct vm_notice *notice);

/* Between KVM and @s. 0 or -errno, with @err in the second. */
int vcpu_get(struct vcpu *v, struct vcpu_state *s);
int vcpu_set(struct vcpu *v, const struct vcpu_state *s, struct err *err);

/* v->state to and from a state stream. */
int vcpu_save(struct vcpu *v, struct buf *b);
int vcpu_load(struct vcpu *v, struct reader *r, struct err *err);

#endif
