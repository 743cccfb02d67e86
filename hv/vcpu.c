/* SPDX-License-Identifier: Apache-2.0
 * vcpu - one virtual CPU: how it is made, and what is done at each of its exits.
 */
#include "hv/vcpu.h"

#include "hv/base/err.h"
#include "hv/bus.h"
#include "hv/vm_impl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int has_cap(struct vm *vm, int cap)
{
	return ioctl(vm->fd, KVM_CHECK_EXTENSION, cap);
}

int vcpu_kind_find(struct vm *vm, struct err *err)
{
	struct vcpu_kind *k = &vm->kind;
	int len = ioctl(vm->cfg.kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);

	if (len < (int)sizeof(struct kvm_run))
		return err_set(err, -ENOTSUP, "KVM: no room to run a vCPU");
	if (has_cap(vm, KVM_CAP_XSAVE) <= 0 || has_cap(vm, KVM_CAP_IMMEDIATE_EXIT) <= 0 ||
	    has_cap(vm, KVM_CAP_VCPU_EVENTS) <= 0 || has_cap(vm, KVM_CAP_MP_STATE) <= 0)
		return err_set(
			err, -ENOTSUP,
			"KVM: too old; a kernel of 5.10 or later is needed on this host");
	/* More only after this process asked the kernel for AMX, which no model shows. */
	if (has_cap(vm, KVM_CAP_XSAVE2) > VCPU_XSAVE_LEN)
		return err_set(err, -ENOTSUP, "KVM: vector state of more than %d bytes",
			       VCPU_XSAVE_LEN);
	k->run_len = (uint32_t)len;
	k->has_sregs2 = has_cap(vm, KVM_CAP_SREGS2) > 0;
	k->has_xcrs = has_cap(vm, KVM_CAP_XCRS) > 0;
	k->has_debugregs = has_cap(vm, KVM_CAP_DEBUGREGS) > 0;
	return cpuid_make(vm->cfg.kvm_fd, vm->cfg.cpu, vm->cfg.vcpus, &k->cpuid, err);
}

static int set_cpuid(struct vcpu *v, struct err *err)
{
	struct cpuid *c = malloc(sizeof(*c));
	struct kvm_cpuid2 *k = calloc(1, sizeof(*k) + sizeof(c->e));
	int rc = 0;

	if (!c || !k) {
		rc = err_set(err, -ENOMEM, "vCPU %u: out of memory", v->id);
		goto out;
	}
	*c = v->vm->kind.cpuid;
	cpuid_personal(c, v->id);
	k->nent = c->n;
	memcpy(k->entries, c->e, c->n * sizeof(c->e[0]));
	if (ioctl(v->fd, KVM_SET_CPUID2, k))
		rc = err_sys(err, -errno, "vCPU %u: KVM refuses its CPUID", v->id);
out:
	free(k);
	free(c);
	return rc;
}

/* What firmware would leave: memory is write-back unless a page says otherwise. A Linux that
 * finds the MTRRs off switches the PAT off as well. */
static void init_mtrr(struct vcpu_state *s)
{
	enum { MTRR_DEF_TYPE = 0x2FF, MTRR_ENABLE = 1 << 11, WRITE_BACK = 6 };

	for (uint32_t i = 0; i < s->msrs; i++)
		if (s->msr_id[i] == MTRR_DEF_TYPE)
			s->msr[i] = MTRR_ENABLE | WRITE_BACK;
}

int vcpu_create(struct vm *vm, unsigned id, struct vcpu **v_out, struct err *err)
{
	struct kvm_device_attr tsc = {.group = KVM_VCPU_TSC_CTRL,
				      .attr = KVM_VCPU_TSC_OFFSET};
	struct vcpu *v = calloc(1, sizeof(*v));
	int rc;

	*v_out = NULL;
	if (!v)
		return err_set(err, -ENOMEM, "vCPU %u: out of memory", id);
	v->vm = vm;
	v->id = id;
	v->run = MAP_FAILED;
	v->fd = ioctl(vm->fd, KVM_CREATE_VCPU, id);
	if (v->fd >= 0)
		v->run = mmap(NULL, vm->kind.run_len, PROT_READ | PROT_WRITE, MAP_SHARED,
			      v->fd, 0);
	if (v->run == MAP_FAILED) {
		rc = err_sys(err, -errno, "vCPU %u: creating it", id);
		goto fail;
	}
	rc = set_cpuid(v, err);
	if (!rc && id == 0) {
		vm->kind.has_tsc_offset = !ioctl(v->fd, KVM_HAS_DEVICE_ATTR, &tsc);
		rc = vcpu_kind_msrs(v, err);
	}
	if (rc)
		goto fail;
	rc = vcpu_get(v, &v->initial);
	if (rc) {
		err_sys(err, rc, "vCPU %u: reading its state at power-on", id);
		goto fail;
	}
	init_mtrr(&v->initial);
	rc = vcpu_set(v, &v->initial, err);
	if (rc)
		goto fail;
	*v_out = v;
	return 0;
fail:
	vcpu_destroy(v);
	return rc;
}

void vcpu_destroy(struct vcpu *v)
{
	if (!v)
		return;
	if (v->run != MAP_FAILED)
		(void)munmap(v->run,
			     v->vm->kind.run_len); /* fails only for a bad range */
	if (v->fd >= 0)
		close(v->fd);
	free(v);
}

static void __attribute__((format(printf, 3, 4)))
crash(struct vcpu *v, struct vm_notice *n, const char *fmt, ...)
{
	char what[96];
	struct kvm_regs r = {0};
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof(what), fmt, ap); /* truncation is fine */
	va_end(ap);
	/* Where it was is a help for people; 0 if KVM does not say. */
	if (ioctl(v->fd, KVM_GET_REGS, &r))
		r.rip = 0;
	n->set = 1;
	n->ev = VM_EV_CRASH;
	(void)snprintf(n->text, sizeof(n->text), "vCPU %u: %s at %#llx", v->id, what,
		       (unsigned long long)r.rip);
}

static void on_port(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	uint8_t *p = (uint8_t *)run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++, p += run->io.size) {
		if (run->io.direction == KVM_EXIT_IO_OUT)
			bus_write(v->vm->pio, run->io.port, p, run->io.size);
		else
			bus_read(v->vm->pio, run->io.port, p, run->io.size);
	}
}

static void on_mmio(struct vcpu *v)
{
	struct kvm_run *run = v->run;

	if (run->mmio.is_write)
		bus_write(v->vm->mmio, run->mmio.phys_addr, run->mmio.data,
			  run->mmio.len);
	else
		bus_read(v->vm->mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
}

/* A device may have said something for vm_on_event() meanwhile; it is told without the lock. */
static void on_io(struct vcpu *v, struct vm_notice *notice,
		  void (*handler)(struct vcpu *))
{
	struct vm *vm = v->vm;

	v->io_pending = 1;
	vm_lock(vm);
	handler(v);
	*notice = vm->notice;
	vm->notice.set = 0;
	vm_unlock(vm);
}

static void on_system_event(struct vcpu *v, struct vm_notice *n)
{
	uint32_t type = v->run->system_event.type;

	if (type == KVM_SYSTEM_EVENT_CRASH || type > KVM_SYSTEM_EVENT_CRASH) {
		crash(v, n, "system event %u", type);
		return;
	}
	n->set = 1;
	n->ev = type == KVM_SYSTEM_EVENT_SHUTDOWN ? VM_EV_POWEROFF : VM_EV_RESET;
}

void vcpu_run(struct vcpu *v, struct vm_notice *notice)
{
	struct kvm_run *run = v->run;
	int rc = ioctl(v->fd, KVM_RUN, 0) ? -errno : 0;

	/* What was pending is complete, whether the guest ran on or not. */
	v->io_pending = 0;
	if (rc == -EINTR || rc == -EAGAIN)
		return;
	if (rc) {
		v->failed = rc;
		crash(v, notice, "KVM_RUN: %s", strerror(-rc));
		return;
	}
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		on_io(v, notice, on_port);
		break;
	case KVM_EXIT_MMIO:
		on_io(v, notice, on_mmio);
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		break;
	case KVM_EXIT_SHUTDOWN:
		crash(v, notice, "triple fault");
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		on_system_event(v, notice);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		crash(v, notice, "KVM internal error %u", run->internal.suberror);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		crash(v, notice, "KVM entry failed, hardware reason %#llx",
		      (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		break;
	default:
		crash(v, notice, "KVM exit %u, which nothing here causes",
		      run->exit_reason);
	}
}
