/* SPDX-License-Identifier: Apache-2.0
 * vcpu_state - a vCPU's state between KVM, struct vcpu_state and the state stream.
 *
 * The order of reading: KVM settles a pending INIT or SIPI when asked for the MP state, so that
 * comes first. The order of writing: segments and control registers (they hold the APIC's
 * base and mode) before the APIC, the APIC before the MSRs (the last of which, TSC_DEADLINE,
 * arms its timer), pending events late, and the MP state last. The TSC is not here: all vCPUs'
 * are set together, before (vm_clock.c).
 */
#include "hv/vcpu.h"

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/state.h"
#include "hv/vm_impl.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum { MSR_TSC = 0x10, MSR_TSC_DEADLINE = 0x6E0, MSR_LIST_MAX = 1024 };

/* MSRs of KVM's list that are no state of a guest of ours, by what they belong to. */
static const struct msr_range {
	uint32_t first, last;
} not_ours[] = {
	{MSR_TSC, MSR_TSC}, /* vm_clock.c */
	{0xC1, 0xC8},	    /* performance counters */
	{0x186, 0x18D},
	{0x309, 0x30C},
	{0x38D, 0x392},
	{0x3F1, 0x3F2},
	{0x4C1, 0x4C8},
	{0x480, 0x491},		  /* VMX: no nested guests */
	{0x1C4, 0x1C5},		  /* XFD: AMX only */
	{0x570, 0x58F},		  /* processor trace */
	{0x40000000, 0x400001FF}, /* Hyper-V: not offered */
	{0xC0010000, 0xC0010007}, /* performance counters */
	{0xC0010200, 0xC001020B},
	{0xC0000300, 0xC0000302},
	{0x8B, 0x8B},		  /* constants of the host: microcode, */
	{0xCF, 0xCF},		  /* core capabilities, */
	{0x10A, 0x10A},		  /* immunities, */
	{0x345, 0x345},		  /* performance capabilities */
	{0xC0010114, 0xC0010117}, /* SVM */
};

/* The memory type registers: KVMs before 6.8 do not list them, and all have them. */
static const struct msr_range mtrrs[] = {
	{0x200, 0x20F}, {0x250, 0x250}, {0x258, 0x259}, {0x268, 0x26F}, {0x2FF, 0x2FF},
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

struct msr_one {
	struct kvm_msrs h;
	struct kvm_msr_entry e;
};
struct msr_all {
	struct kvm_msrs h;
	struct kvm_msr_entry e[VCPU_MSRS_MAX];
};

static int in_ranges(const struct msr_range *r, size_t n, uint32_t msr)
{
	for (size_t i = 0; i < n; i++)
		if (msr >= r[i].first && msr <= r[i].last)
			return 1;
	return 0;
}

/* Add @msr to what is saved, if this vCPU has it. */
static int add_msr(struct vcpu *v, struct vcpu_kind *k, uint32_t msr, struct err *err)
{
	struct msr_one m = {.h.nmsrs = 1, .e.index = msr};

	if (ioctl(v->fd, KVM_GET_MSRS, &m) != 1)
		return 0;
	for (uint32_t i = 0; i < k->msrs; i++)
		if (k->msr[i] == msr)
			return 0;
	if (k->msrs == VCPU_MSRS_MAX)
		return err_set(err, -ENOSPC, "this KVM has more than %d MSRs to save",
			       VCPU_MSRS_MAX);
	k->msr[k->msrs++] = msr;
	return 0;
}

int vcpu_kind_msrs(struct vcpu *v, struct err *err)
{
	static const uint32_t deadline = MSR_TSC_DEADLINE;
	struct vcpu_kind *k = &v->vm->kind;
	struct {
		struct kvm_msr_list h;
		uint32_t index[MSR_LIST_MAX];
	} list = {.h.nmsrs = MSR_LIST_MAX};
	int rc = 0;

	if (ioctl(v->vm->cfg.kvm_fd, KVM_GET_MSR_INDEX_LIST, &list))
		return err_sys(err, -errno, "KVM: list of MSRs");
	k->msrs = 0;
	for (uint32_t i = 0; i < list.h.nmsrs && !rc; i++)
		if (list.index[i] != deadline &&
		    !in_ranges(not_ours, COUNT(not_ours), list.index[i]))
			rc = add_msr(v, k, list.index[i], err);
	for (size_t i = 0; i < COUNT(mtrrs); i++)
		for (uint32_t m = mtrrs[i].first; m <= mtrrs[i].last && !rc; m++)
			rc = add_msr(v, k, m, err);
	return rc ? rc : add_msr(v, k, deadline, err);
}

static int get_msrs(struct vcpu *v, struct vcpu_state *s)
{
	const struct vcpu_kind *k = &v->vm->kind;
	struct msr_all m = {.h.nmsrs = k->msrs};

	for (uint32_t i = 0; i < k->msrs; i++)
		m.e[i].index = k->msr[i];
	if (ioctl(v->fd, KVM_GET_MSRS, &m) != (int)k->msrs)
		return -EIO;
	s->msrs = k->msrs;
	for (uint32_t i = 0; i < k->msrs; i++) {
		s->msr_id[i] = m.e[i].index;
		s->msr[i] = m.e[i].data;
	}
	return 0;
}

static int get_sregs(struct vcpu *v, struct vcpu_state *s)
{
	struct kvm_sregs old;

	memset(&s->sregs, 0, sizeof(s->sregs));
	if (v->vm->kind.has_sregs2)
		return ioctl(v->fd, KVM_GET_SREGS2, &s->sregs) ? -errno : 0;
	if (ioctl(v->fd, KVM_GET_SREGS, &old))
		return -errno;
	/* The old struct begins alike; what it ends with, a pending interrupt, is an event. */
	memcpy(&s->sregs, &old, offsetof(struct kvm_sregs, interrupt_bitmap));
	return 0;
}

static int get_xcrs(struct vcpu *v, struct vcpu_state *s)
{
	struct kvm_xcrs x = {0};

	s->xcrs = 0;
	if (!v->vm->kind.has_xcrs)
		return 0;
	if (ioctl(v->fd, KVM_GET_XCRS, &x))
		return -errno;
	if (x.nr_xcrs > VCPU_XCRS_MAX)
		return -E2BIG;
	s->xcrs = x.nr_xcrs;
	for (uint32_t i = 0; i < x.nr_xcrs; i++) {
		s->xcr_id[i] = x.xcrs[i].xcr;
		s->xcr[i] = x.xcrs[i].value;
	}
	return 0;
}

int vcpu_get(struct vcpu *v, struct vcpu_state *s)
{
	int rc;

	if (ioctl(v->fd, KVM_GET_MP_STATE, &s->mp) ||
	    ioctl(v->fd, KVM_GET_VCPU_EVENTS, &s->events) ||
	    ioctl(v->fd, KVM_GET_REGS, &s->regs))
		return -errno;
	rc = get_sregs(v, s);
	if (!rc)
		rc = get_xcrs(v, s);
	if (!rc)
		rc = get_msrs(v, s);
	if (rc)
		return rc;
	if (v->vm->kind.has_debugregs && ioctl(v->fd, KVM_GET_DEBUGREGS, &s->debug))
		return -errno;
	if (ioctl(v->fd, KVM_GET_LAPIC, &s->lapic) ||
	    ioctl(v->fd, KVM_GET_XSAVE, s->xsave))
		return -errno;
	return 0;
}

static int set_sregs(struct vcpu *v, const struct vcpu_state *s)
{
	struct kvm_sregs old = {0};

	if (v->vm->kind.has_sregs2)
		return ioctl(v->fd, KVM_SET_SREGS2, &s->sregs);
	memcpy(&old, &s->sregs, offsetof(struct kvm_sregs, interrupt_bitmap));
	return ioctl(v->fd, KVM_SET_SREGS, &old);
}

static int set_xcrs(struct vcpu *v, const struct vcpu_state *s)
{
	struct kvm_xcrs x = {.nr_xcrs = s->xcrs};

	if (!v->vm->kind.has_xcrs || !s->xcrs)
		return 0;
	for (uint32_t i = 0; i < s->xcrs; i++) {
		x.xcrs[i].xcr = s->xcr_id[i];
		x.xcrs[i].value = s->xcr[i];
	}
	return ioctl(v->fd, KVM_SET_XCRS, &x);
}

/* KVM stops at the first MSR that it refuses. One that this host has not, and that is zero as
 * if it were not there, may be missing; any other is an error. */
static int set_msrs(struct vcpu *v, const struct vcpu_state *s, struct err *err)
{
	const struct vcpu_kind *k = &v->vm->kind;
	struct msr_all m;
	uint32_t n = 0, done = 0, skip = 0;

	for (uint32_t i = 0; i < s->msrs; i++) {
		uint32_t j = 0;

		while (j < k->msrs && k->msr[j] != s->msr_id[i])
			j++;
		if (j < k->msrs)
			m.e[n++] = (struct kvm_msr_entry){.index = s->msr_id[i],
							  .data = s->msr[i]};
		else if (s->msr[i])
			return err_set(err, -ENOTSUP, "vCPU %u: this host has no MSR %#x",
				       v->id, s->msr_id[i]);
	}
	while (done < n) {
		int r;

		m.h.nmsrs = n - done;
		memmove(m.e, m.e + skip, m.h.nmsrs * sizeof(m.e[0]));
		r = ioctl(v->fd, KVM_SET_MSRS, &m);
		if (r < 0)
			return err_sys(err, -errno, "vCPU %u: setting MSRs", v->id);
		done += (uint32_t)r;
		skip = (uint32_t)r + 1;
		if (done < n && m.e[r].data)
			return err_set(err, -EINVAL,
				       "vCPU %u: KVM refuses MSR %#x = %#llx", v->id,
				       m.e[r].index, (unsigned long long)m.e[r].data);
		done++;
	}
	return 0;
}

static int failed(struct vcpu *v, const char *what, struct err *err)
{
	return err_sys(err, -errno, "vCPU %u: KVM refuses its %s", v->id, what);
}

int vcpu_set(struct vcpu *v, const struct vcpu_state *s, struct err *err)
{
	const struct vcpu_kind *k = &v->vm->kind;
	int rc;

	if (set_sregs(v, s))
		return failed(v, "segment and control registers", err);
	if (ioctl(v->fd, KVM_SET_REGS, &s->regs))
		return failed(v, "registers", err);
	if (set_xcrs(v, s))
		return failed(v, "extended control registers", err);
	if (ioctl(v->fd, KVM_SET_XSAVE, s->xsave))
		return failed(v, "floating point and vector registers", err);
	if (k->has_debugregs && ioctl(v->fd, KVM_SET_DEBUGREGS, &s->debug))
		return failed(v, "debug registers", err);
	if (ioctl(v->fd, KVM_SET_LAPIC, &s->lapic))
		return failed(v, "local APIC", err);
	rc = set_msrs(v, s, err);
	if (rc)
		return rc;
	if (ioctl(v->fd, KVM_SET_VCPU_EVENTS, &s->events))
		return failed(v, "pending events", err);
	if (ioctl(v->fd, KVM_SET_MP_STATE, &s->mp))
		return failed(v, "MP state", err);
	return 0;
}
