/* SPDX-License-Identifier: Apache-2.0
 * vm_impl - what a VM is made of; for the files that together implement hv/vm.h, nobody else.
 */
#ifndef HV_VM_IMPL_H
#define HV_VM_IMPL_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "hv/vcpu.h"
#include "hv/vm.h"

struct acpi_dev;
struct irq;

enum { VM_DEVICES_MAX = 64, VM_PAUSED_MAX = 8, VM_EVENT_TEXT = 160 };

struct vm_device {
	const struct vm_device_ops *ops;
	void *self;
	uint32_t instance;
};

/* Something for vm_on_event()'s function, on its way there. */
struct vm_notice {
	int set;
	enum vm_event ev;
	char text[VM_EVENT_TEXT];
};

struct vm {
	struct vm_config cfg; /* cfg.name and cfg.cpu point to the copies below */
	char name[64], cpu[32];
	int fd;
	struct gm *gm;
	struct bus *mmio, *pio;
	struct pci *pci;
	struct irq *irq;
	struct acpi_dev *acpi;
	struct vcpu_kind kind; /* what all vCPUs have in common */
	struct vcpu *vcpu[VM_VCPUS_MAX];
	struct vm_device dev[VM_DEVICES_MAX];
	unsigned ndev;
	struct {
		const struct vm_pause_ops *ops;
		void *self;
	} pausing[VM_PAUSED_MAX];
	unsigned npausing;
	struct kvm_irqchip chip[3]; /* at power-on */

	/* The device lock, and what is only touched under it. */
	pthread_mutex_t lock;
	struct vm_notice notice;

	/* Stop and go (vm_run.c). */
	atomic_uint gen;     /* odd: vCPUs must park; a futex */
	atomic_uint running; /* vCPUs that have not parked; a futex */
	atomic_int quit;
	/* Work that parked vCPUs' threads may join in; crew is odd while there is some. */
	atomic_uint crew, crew_busy;
	vm_crew_fn *crew_fn;
	void *crew_arg;
	int started, paused;
	vm_event_fn *on_event;
	void *on_event_arg;
};

/* Called under the device lock by a device: the event is told after the lock was dropped. */
void vm_notify(struct vm *vm, enum vm_event ev, const char *text);

/* vm_run.c */
void vm_guard(struct vm *vm);	     /* install the loop's guard */
void vm_stop_threads(struct vm *vm); /* for good; idempotent */
/* Make the guest's watchdogs forgive the time that it stands still. 0 or -errno. */
int vm_tell_paused(struct vm *vm);

/* vm_state.c: the interrupt controllers */
int vm_chips_get(struct vm *vm, struct kvm_irqchip chip[3]);
int vm_chips_set(struct vm *vm, const struct kvm_irqchip chip[3]);

#endif
