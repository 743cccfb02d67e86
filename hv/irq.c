/* SPDX-License-Identifier: Apache-2.0
 * irq - the routing table of the in-kernel irqchip, and eventfds that raise its vectors.
 *
 * KVM takes the routing table only as a whole, and each change waits for readers to leave
 * (milliseconds). So while a whole machine is loaded changes are gathered, and given to KVM
 * once.
 */
#include "hv/irq.h"

#include "hv/base/err.h"
#include "hv/layout.h"
#include "hv/vm.h"
#include "hv/vm_impl.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { MSI_MAX = 1024, PIC_PINS = 16, PIC_HALF = 8, IOAPIC_PINS = LAYOUT_GSI_MSI_FIRST };

struct irq_msi {
	struct irq *irq;
	unsigned index; /* in irq->msi; its GSI follows the pins */
	int fd;
	uint64_t addr;
	uint32_t data;
	atomic_int routed; /* raising is of use */
	atomic_int held;   /* raised while routes were gathered */
};

struct irq {
	struct vm *vm;
	struct irq_msi *msi[MSI_MAX];
	unsigned top;	  /* above the highest used index */
	atomic_int batch; /* routes are being gathered */
	int dirty;
	struct kvm_irq_routing *table;
};

int irq_create(struct vm *vm, struct irq **irq_out, struct err *err)
{
	struct irq *irq = calloc(1, sizeof(*irq));
	size_t entries = PIC_PINS + IOAPIC_PINS + MSI_MAX;

	*irq_out = NULL;
	if (irq)
		irq->table =
			calloc(1, sizeof(*irq->table) +
					  entries * sizeof(struct kvm_irq_routing_entry));
	if (!irq || !irq->table) {
		free(irq);
		return err_set(err, -ENOMEM, "interrupt routing: out of memory");
	}
	irq->vm = vm;
	*irq_out = irq;
	return 0;
}

void irq_destroy(struct irq *irq)
{
	if (!irq)
		return;
	free(irq->table);
	free(irq);
}

static void add_pin(struct kvm_irq_routing *t, unsigned gsi, unsigned chip, unsigned pin)
{
	t->entries[t->nr++] = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = {.irqchip = chip, .pin = pin},
	};
}

/* Give KVM the table: the pins as they are by default, and all MSIs that lead somewhere. */
static int commit(struct irq *irq)
{
	struct kvm_irq_routing *t = irq->table;

	if (atomic_load(&irq->batch)) {
		irq->dirty = 1;
		return 0;
	}
	t->nr = 0;
	for (unsigned i = 0; i < PIC_PINS; i++)
		add_pin(t, i,
			i < PIC_HALF ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
			i % PIC_HALF);
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		add_pin(t, i, KVM_IRQCHIP_IOAPIC, i);
	for (unsigned i = 0; i < irq->top; i++) {
		const struct irq_msi *m = irq->msi[i];

		if (!m || !m->addr)
			continue;
		t->entries[t->nr++] = (struct kvm_irq_routing_entry){
			.gsi = LAYOUT_GSI_MSI_FIRST + i,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi = {.address_lo = (uint32_t)m->addr,
				  .address_hi = (uint32_t)(m->addr >> 32),
				  .data = m->data},
		};
	}
	irq->dirty = 0;
	return ioctl(vm_fd(irq->vm), KVM_SET_GSI_ROUTING, t) ? -errno : 0;
}

void irq_batch_begin(struct irq *irq)
{
	atomic_store(&irq->batch, 1);
}

int irq_batch_end(struct irq *irq)
{
	int rc;

	atomic_store(&irq->batch, 0);
	rc = irq->dirty ? commit(irq) : 0;
	for (unsigned i = 0; i < irq->top; i++)
		if (irq->msi[i] && atomic_exchange(&irq->msi[i]->held, 0))
			irq_msi_raise(irq->msi[i]);
	return rc;
}

static int bind_irqfd(struct irq_msi *m, uint32_t flags)
{
	struct kvm_irqfd f = {
		.fd = (uint32_t)m->fd,
		.gsi = LAYOUT_GSI_MSI_FIRST + m->index,
		.flags = flags,
	};

	return ioctl(vm_fd(m->irq->vm), KVM_IRQFD, &f) ? -errno : 0;
}

int irq_msi_create(struct vm *vm, struct irq_msi **msi_out, struct err *err)
{
	struct irq *irq = vm->irq;
	struct irq_msi *m;
	unsigned i = 0;
	int rc;

	*msi_out = NULL;
	while (i < MSI_MAX && irq->msi[i])
		i++;
	if (i == MSI_MAX)
		return err_set(err, -ENOSPC, "interrupts: all %d vectors are taken",
			       MSI_MAX);
	m = calloc(1, sizeof(*m));
	if (!m)
		return err_set(err, -ENOMEM, "interrupts: out of memory");
	m->irq = irq;
	m->index = i;
	m->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (m->fd < 0) {
		rc = err_sys(err, -errno, "interrupts: eventfd");
		goto fail;
	}
	rc = bind_irqfd(m, 0);
	if (rc) {
		err_sys(err, rc, "interrupts: KVM_IRQFD for vector %u", i);
		goto fail;
	}
	irq->msi[i] = m;
	if (i >= irq->top)
		irq->top = i + 1;
	*msi_out = m;
	return 0;
fail:
	if (m->fd >= 0)
		close(m->fd);
	free(m);
	return rc;
}

void irq_msi_destroy(struct irq_msi *m)
{
	if (!m)
		return;
	/* Closing the eventfd would unbind it as well, only later. */
	(void)bind_irqfd(m, KVM_IRQFD_FLAG_DEASSIGN);
	m->irq->msi[m->index] = NULL;
	close(m->fd);
	free(m);
}

int irq_msi_route(struct irq_msi *m, uint64_t addr, uint32_t data)
{
	uint64_t old_addr = m->addr;
	uint32_t old_data = m->data;
	int rc;

	if (m->addr == addr && m->data == data)
		return 0;
	m->addr = addr;
	m->data = data;
	rc = commit(m->irq);
	if (rc) {
		m->addr = old_addr;
		m->data = old_data;
		return rc;
	}
	atomic_store(&m->routed, addr != 0);
	return 0;
}

void irq_msi_raise(struct irq_msi *m)
{
	uint64_t one = 1;

	if (!atomic_load(&m->routed))
		return;
	/* Its route is not KVM's yet; the end of the batch raises it. */
	if (atomic_load(&m->irq->batch)) {
		atomic_store(&m->held, 1);
		return;
	}
	if (write(m->fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is full, so the interrupt is on its way. */
	}
}

int irq_line(struct vm *vm, unsigned gsi, int level)
{
	struct kvm_irq_level l = {.irq = gsi, .level = (uint32_t)level};

	return ioctl(vm_fd(vm), KVM_IRQ_LINE, &l) ? -errno : 0;
}
