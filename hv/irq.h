/* SPDX-License-Identifier: Apache-2.0
 * irq - message-signalled and pin interrupts into KVM's in-kernel irqchip.
 *
 * An irq_msi is one MSI-X vector: an eventfd bound as irqfd to a routing entry of its own, so
 * that raising it is one write, from any thread.
 */
#ifndef HV_IRQ_H
#define HV_IRQ_H

#include <stdint.h>

struct err;
struct irq;
struct irq_msi;
struct vm;

/* The VM's own: its routing table. Between begin and end routes are gathered and take effect at
 * the end, all at once. Under vm_lock(). 0 or -errno. */
int irq_create(struct vm *vm, struct irq **irq_out, struct err *err);
void irq_destroy(struct irq *irq); /* all vectors are gone already; NULL is fine */
void irq_batch_begin(struct irq *irq);
int irq_batch_end(struct irq *irq);

int irq_msi_create(struct vm *vm, struct irq_msi **msi_out, struct err *err); /* owned */
void irq_msi_destroy(struct irq_msi *m);
/* Where it goes; takes effect before the return. Under vm_lock(). 0 or -errno. */
int irq_msi_route(struct irq_msi *m, uint64_t addr, uint32_t data);
/* Raise it (edge). Dropped when it was never routed. Any thread. */
void irq_msi_raise(struct irq_msi *m);

/* Drive an I/O APIC pin. Any thread. 0 or -errno. */
int irq_line(struct vm *vm, unsigned gsi, int level);

#endif
