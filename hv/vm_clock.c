/* SPDX-License-Identifier: Apache-2.0
 * vm_clock - the guest's time: kvmclock and the TSCs, in a checkpoint and after it.
 *
 * TSCs are restored by offset where KVM lets us: a TSC that is written is guessed by KVM to be
 * an attempt to synchronise, if it is within a second of what it expects, and is then not what
 * was written. All vCPUs get offsets of one reading, so that they stay in step. Without the
 * offset attribute the same value is written to all, which that guess then makes equal.
 */
#include "hv/vm_clock.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/state.h"
#include "hv/vm_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

enum { MSR_TSC = 0x10, KHZ_TOLERANCE = 4000 /* one in so many: KVM's own 250 ppm */ };

static const struct state_field clock_fields[] = {
	STATE_INT(1, 1, struct vm_clock, kvmclock_ns),
	STATE_INT(2, 1, struct vm_clock, real_ns),
	STATE_INT(3, 1, struct vm_clock, tsc),
	STATE_INT(4, 1, struct vm_clock, tsc_khz),
	STATE_INTS(5, 1, struct vm_clock, tsc_delta),
	STATE_END,
};
static const struct state_table clock_table = {"clock", 1, clock_fields};

struct tsc_msr {
	struct kvm_msrs h;
	struct kvm_msr_entry e;
};

static int tsc_read(struct vcpu *v, uint64_t *tsc_out)
{
	struct tsc_msr m = {.h.nmsrs = 1, .e.index = MSR_TSC};

	if (ioctl(v->fd, KVM_GET_MSRS, &m) != 1)
		return -EIO;
	*tsc_out = m.e.data;
	return 0;
}

static int tsc_write(struct vcpu *v, uint64_t tsc)
{
	struct tsc_msr m = {.h.nmsrs = 1, .e = {.index = MSR_TSC, .data = tsc}};

	return ioctl(v->fd, KVM_SET_MSRS, &m) == 1 ? 0 : -EIO;
}

static int tsc_offset(struct vcpu *v, unsigned long op, uint64_t *offset)
{
	struct kvm_device_attr a = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)offset,
	};

	return ioctl(v->fd, op, &a) ? -errno : 0;
}

/* How far a vCPU's TSC is from vCPU 0's. Readings one after the other differ by the time in
 * between, so without offsets anything below a millisecond counts as in step. */
static int tsc_delta(struct vm *vm, struct vm_clock *c, unsigned i)
{
	uint64_t mine, first;
	int64_t d;
	int rc;

	if (vm->kind.has_tsc_offset) {
		rc = tsc_offset(vm->vcpu[0], KVM_GET_DEVICE_ATTR, &first);
		if (!rc)
			rc = tsc_offset(vm->vcpu[i], KVM_GET_DEVICE_ATTR, &mine);
		c->tsc_delta[i] = rc ? 0 : (int64_t)(mine - first);
		return rc;
	}
	rc = tsc_read(vm->vcpu[0], &first);
	if (!rc)
		rc = tsc_read(vm->vcpu[i], &mine);
	d = rc ? 0 : (int64_t)(mine - first);
	c->tsc_delta[i] = d < 0 || d > (int64_t)c->tsc_khz ? d : 0;
	return rc;
}

int vm_clock_get(struct vm *vm, struct vm_clock *c)
{
	struct kvm_clock_data k = {0};
	int khz, rc;

	*c = (struct vm_clock){0};
	if (ioctl(vm->fd, KVM_GET_CLOCK, &k))
		return -errno;
	/* KVM may tell the wall time of the same moment itself. */
	c->real_ns = k.flags & KVM_CLOCK_REALTIME ? k.realtime : clock_real_ns();
	c->kvmclock_ns = k.clock;
	khz = ioctl(vm->vcpu[0]->fd, KVM_GET_TSC_KHZ, 0);
	c->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
	rc = tsc_read(vm->vcpu[0], &c->tsc);
	for (unsigned i = 1; i < vm->cfg.vcpus && !rc; i++)
		rc = tsc_delta(vm, c, i);
	return rc;
}

uint64_t vm_clock_step(const struct vm_clock *c, uint64_t now_ns)
{
	uint64_t step = now_ns > c->real_ns ? now_ns - c->real_ns : 0;

	return step < VM_CLOCK_STEP_MAX_NS ? step : VM_CLOCK_STEP_MAX_NS;
}

/* The guest measured its TSC once. If this host's runs at another speed and cannot be scaled,
 * kvmclock still keeps good time, and running on beats not running. */
static void match_khz(struct vm *vm, struct vcpu *v, uint32_t khz)
{
	int now = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);

	if (!khz || now <= 0 || (uint32_t)abs(now - (int)khz) <= khz / KHZ_TOLERANCE)
		return;
	if (ioctl(v->fd, KVM_SET_TSC_KHZ, (unsigned long)khz))
		log_warn(
			"vCPU %u: its TSC ran at %u kHz, here it runs at %d and cannot be scaled",
			v->id, khz, now);
}

/* Set all TSCs to @tsc plus their deltas, as of now. */
static int set_tscs(struct vm *vm, const struct vm_clock *c, uint64_t tsc)
{
	uint64_t now, offset;
	int rc = 0;

	if (!vm->kind.has_tsc_offset) {
		for (unsigned i = 0; i < vm->cfg.vcpus && !rc; i++)
			rc = tsc_write(vm->vcpu[i], tsc + (uint64_t)c->tsc_delta[i]);
		return rc;
	}
	rc = tsc_offset(vm->vcpu[0], KVM_GET_DEVICE_ATTR, &offset);
	if (!rc)
		rc = tsc_read(vm->vcpu[0], &now);
	if (rc)
		return rc;
	offset += tsc - now;
	for (unsigned i = 0; i < vm->cfg.vcpus && !rc; i++) {
		uint64_t mine = offset + (uint64_t)c->tsc_delta[i];

		rc = tsc_offset(vm->vcpu[i], KVM_SET_DEVICE_ATTR, &mine);
	}
	return rc;
}

int vm_clock_set(struct vm *vm, const struct vm_clock *c, uint64_t step_ns,
		 struct err *err)
{
	struct kvm_clock_data k = {.clock = c->kvmclock_ns + step_ns};
	/* At most 60 s of at most 4 THz: fits. */
	uint64_t step_tsc = step_ns / 1000 * c->tsc_khz / 1000;
	int rc;

	for (unsigned i = 0; i < vm->cfg.vcpus; i++)
		match_khz(vm, vm->vcpu[i], c->tsc_khz);
	if (ioctl(vm->fd, KVM_SET_CLOCK, &k))
		return err_sys(err, -errno, "guest clock: KVM refuses %llu ns",
			       (unsigned long long)k.clock);
	rc = set_tscs(vm, c, c->tsc + step_tsc);
	return rc ? err_sys(err, rc, "guest clock: setting the TSCs") : 0;
}

int vm_clock_save(const struct vm_clock *c, struct buf *b)
{
	return state_save(b, &clock_table, 0, c);
}

int vm_clock_load(struct vm_clock *c, struct reader *r, struct err *err)
{
	return state_load(r, &clock_table, 0, c, err);
}
