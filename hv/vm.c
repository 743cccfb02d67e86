/* SPDX-License-Identifier: Apache-2.0
 * vm - how a virtual machine is made, booted and taken apart.
 */
#include "hv/vm.h"

#include "hv/acpi.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/boot.h"
#include "hv/bus.h"
#include "hv/gm.h"
#include "hv/irq.h"
#include "hv/layout.h"
#include "hv/pci.h"
#include "hv/vm_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int check_config(const struct vm_config *cfg, struct err *err)
{
	if (!cfg->vcpus || cfg->vcpus > VM_VCPUS_MAX)
		return err_set(err, -EINVAL, "%s: %u vCPUs; it can have 1 to %d",
			       cfg->name, cfg->vcpus, VM_VCPUS_MAX);
	if (ioctl(cfg->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		return err_set(err, -ENOTSUP, "%s: this is no KVM that we know",
			       cfg->name);
	return 0;
}

/* The VM itself, in KVM's eyes. The order is KVM's: addresses that it uses for itself, then
 * the irqchip, then vCPUs. */
static int create_in_kvm(struct vm *vm, struct err *err)
{
	uint64_t identity = LAYOUT_KVM_IDENTITY;

	vm->fd = ioctl(vm->cfg.kvm_fd, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		return err_sys(err, -errno, "KVM: creating a VM");
	if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) ||
	    ioctl(vm->fd, KVM_SET_TSS_ADDR, LAYOUT_KVM_TSS))
		return err_sys(err, -errno, "KVM: placing its own pages");
	if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0))
		return err_sys(err, -errno, "KVM: creating interrupt controllers");
	return 0;
}

static int create_memory(struct vm *vm, struct err *err)
{
	int rc = gm_create(vm->cfg.ram_bytes, &vm->gm, err);

	return rc ? rc : gm_attach(vm->gm, vm->fd, err);
}

static int create_buses(struct vm *vm, struct err *err)
{
	int rc;

	vm->mmio = bus_create();
	vm->pio = bus_create();
	if (!vm->mmio || !vm->pio)
		return err_set(err, -ENOMEM, "%s: out of memory", vm->name);
	rc = irq_create(vm, &vm->irq, err);
	if (!rc)
		rc = pci_create(vm, &vm->pci, err);
	return rc ? rc : acpi_dev_create(vm, &vm->acpi, err);
}

static int create_vcpus(struct vm *vm, struct err *err)
{
	int rc = vcpu_kind_find(vm, err);

	for (unsigned i = 0; i < vm->cfg.vcpus && !rc; i++)
		rc = vcpu_create(vm, i, &vm->vcpu[i], err);
	if (rc)
		return rc;
	rc = vm_chips_get(vm, vm->chip);
	return rc ? err_sys(err, rc, "KVM: reading the interrupt controllers") : 0;
}

int vm_create(const struct vm_config *cfg, struct vm **vm_out, struct err *err)
{
	struct vm *vm;
	int rc = check_config(cfg, err);

	*vm_out = NULL;
	if (rc)
		return rc;
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return err_set(err, -ENOMEM, "%s: out of memory", cfg->name);
	vm->cfg = *cfg;
	(void)snprintf(vm->name, sizeof(vm->name), "%s",
		       cfg->name); /* a cut name will do */
	(void)snprintf(vm->cpu, sizeof(vm->cpu), "%s",
		       cfg->cpu); /* cut: it is unknown anyway */
	vm->cfg.name = vm->name;
	vm->cfg.cpu = vm->cpu;
	vm->fd = -1;
	pthread_mutex_init(&vm->lock, NULL);
	rc = create_in_kvm(vm, err);
	if (!rc)
		rc = create_memory(vm, err);
	if (!rc)
		rc = create_vcpus(vm, err);
	if (!rc)
		rc = create_buses(vm, err);
	if (rc) {
		vm_destroy(vm);
		return err_ctx(err, "%s", cfg->name);
	}
	vm_guard(vm);
	*vm_out = vm;
	return 0;
}

void vm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	vm_stop_threads(vm);
	loop_set_guard(vm->cfg.loop, NULL, NULL, NULL);
	while (vm->ndev) {
		const struct vm_device *d = &vm->dev[--vm->ndev];

		d->ops->destroy(d->self);
	}
	pci_destroy(vm->pci);
	irq_destroy(vm->irq);
	bus_destroy(vm->pio);
	bus_destroy(vm->mmio);
	for (unsigned i = 0; i < VM_VCPUS_MAX; i++)
		vcpu_destroy(vm->vcpu[i]);
	if (vm->fd >= 0)
		close(vm->fd);
	gm_destroy(vm->gm); /* after KVM let go of it */
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

void vm_on_event(struct vm *vm, vm_event_fn *fn, void *arg)
{
	vm->on_event = fn;
	vm->on_event_arg = arg;
}

int vm_add_device(struct vm *vm, const struct vm_device_ops *ops, void *self,
		  uint32_t instance, struct err *err)
{
	if (vm->ndev == VM_DEVICES_MAX)
		return err_set(err, -ENOSPC, "%s: more than %d devices", vm->name,
			       VM_DEVICES_MAX);
	vm->dev[vm->ndev++] =
		(struct vm_device){.ops = ops, .self = self, .instance = instance};
	return 0;
}

struct gm *vm_gm(struct vm *vm)
{
	return vm->gm;
}

struct bus *vm_mmio(struct vm *vm)
{
	return vm->mmio;
}

struct bus *vm_pio(struct vm *vm)
{
	return vm->pio;
}

struct pci *vm_pci(struct vm *vm)
{
	return vm->pci;
}

struct loop *vm_loop(struct vm *vm)
{
	return vm->cfg.loop;
}

int vm_fd(struct vm *vm)
{
	return vm->fd;
}

unsigned vm_vcpus(struct vm *vm)
{
	return vm->cfg.vcpus;
}

void vm_lock(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
}

void vm_unlock(struct vm *vm)
{
	pthread_mutex_unlock(&vm->lock);
}

int vm_ioeventfd(struct vm *vm, uint64_t addr, unsigned len, int fd, int assign)
{
	struct kvm_ioeventfd e = {
		.addr = addr,
		.len = len,
		.fd = fd,
		.flags = assign ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN,
	};

	return ioctl(vm->fd, KVM_IOEVENTFD, &e) ? -errno : 0;
}

int vm_boot(struct vm *vm, const struct vm_kernel *k, struct err *err)
{
	struct boot_entry entry;
	int rc = gm_clear(vm->gm, err);

	if (!rc)
		rc = boot_load(vm->gm, k, vm->cfg.vcpus, &entry, err);
	return rc ? rc : boot_enter(vm->gm, vm->vcpu[0], &entry, err);
}

int vm_reboot(struct vm *vm, const struct vm_kernel *k, struct err *err)
{
	int rc = 0;

	for (unsigned i = 0; i < vm->ndev; i++)
		vm->dev[i].ops->reset(vm->dev[i].self);
	if (vm_chips_set(vm, vm->chip))
		return err_set(err, -EIO,
			       "KVM refuses to reset the interrupt controllers");
	for (unsigned i = 0; i < vm->cfg.vcpus && !rc; i++) {
		vm->vcpu[i]->failed = 0;
		vm->vcpu[i]->told = 0;
		vm->vcpu[i]->asked = VCPU_ASKED_NOTHING;
		rc = vcpu_set(vm->vcpu[i], &vm->vcpu[i]->initial, err);
	}
	return rc ? rc : vm_boot(vm, k, err);
}

void vm_power_button(struct vm *vm)
{
	vm_lock(vm);
	acpi_press(vm->acpi);
	vm_unlock(vm);
}
