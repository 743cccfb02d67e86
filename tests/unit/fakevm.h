/* SPDX-License-Identifier: Apache-2.0
 * fakevm - what a device needs of a VM, without KVM: memory that checks its marks, buses, vectors
 * that count, and a driver's side of a virtqueue.
 *
 * It defines the hypervisor's own functions, so a test that includes it links none of the real
 * ones. Guest memory is kept twice: vm_unmarked() finds bytes that a device changed without
 * gm_mark(), which a checkpoint would lose.
 */
#ifndef TESTS_UNIT_FAKEVM_H
#define TESTS_UNIT_FAKEVM_H

#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "hv/bus.h"
#include "hv/gm.h"
#include "hv/irq.h"
#include "hv/layout.h"
#include "hv/pci.h"
#include "hv/vm.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FAKE_RAM = 8 << 20, FAKE_DEVS = 8, FAKE_FDS = 64, FAKE_MSIS = 64 };

struct gm {
	uint8_t *ram, *seen, *marked; /* a byte of marked for each byte of ram */
};

struct irq_msi {
	uint64_t addr;
	uint32_t data;
	unsigned routes, raised;
};

struct vm {
	struct gm gm;
	struct bus *mmio, *pio;
	struct loop *loop;
	struct pci *pci;
	struct {
		const struct vm_device_ops *ops;
		void *self;
	} dev[FAKE_DEVS];
	unsigned devs;
	const struct vm_device_ops *root; /* the PCI root's, not among dev[] */
	struct {
		uint64_t addr;
		int fd;
	} io[FAKE_FDS];
	unsigned ios;
	const struct vm_pause_ops *pausing; /* one at most */
	void *pausing_self;
	struct irq_msi *msi[FAKE_MSIS]; /* in the order of creation */
	unsigned msis;
};

void *gm_at(const struct gm *gm, uint64_t gpa, uint64_t len)
{
	return gpa <= FAKE_RAM && len <= FAKE_RAM - gpa ? gm->ram + gpa : NULL;
}

void gm_mark(struct gm *gm, uint64_t gpa, uint64_t len)
{
	if (gm_at(gm, gpa, len))
		memset(gm->marked + gpa, 1, len);
}

unsigned gm_regions(const struct gm *gm, struct gm_region out[GM_REGIONS_MAX])
{
	out[0] = (struct gm_region){.bytes = FAKE_RAM, .host = gm->ram};
	return 1;
}

int vm_on_pause(struct vm *vm, const struct vm_pause_ops *ops, void *self,
		struct err *err)
{
	if (vm->pausing)
		return err_set(err, -ENOSPC, "a second one");
	vm->pausing = ops;
	vm->pausing_self = self;
	return 0;
}

struct gm *vm_gm(struct vm *vm)
{
	return &vm->gm;
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
	return vm->loop;
}

int vm_add_device(struct vm *vm, const struct vm_device_ops *ops, void *self,
		  uint32_t instance, struct err *err)
{
	if (vm->devs == FAKE_DEVS)
		return err_set(err, -ENOSPC, "too many devices");
	vm->dev[vm->devs].ops = ops;
	vm->dev[vm->devs++].self = self;
	return 0;
}

int vm_ioeventfd(struct vm *vm, uint64_t addr, unsigned len, int fd, int assign)
{
	unsigned i = 0;

	while (i < vm->ios && vm->io[i].addr != addr)
		i++;
	if (assign && (i < vm->ios || vm->ios == FAKE_FDS))
		return -EEXIST;
	if (!assign && i == vm->ios)
		return -ENOENT;
	if (assign) {
		vm->io[i].addr = addr;
		vm->io[i].fd = fd;
		vm->ios++;
	} else {
		vm->io[i] = vm->io[--vm->ios];
	}
	return 0;
}

int irq_msi_create(struct vm *vm, struct irq_msi **msi_out, struct err *err)
{
	*msi_out = calloc(1, sizeof(**msi_out));
	if (!*msi_out || vm->msis == FAKE_MSIS)
		return err_set(err, -ENOMEM, "too many vectors");
	vm->msi[vm->msis++] = *msi_out;
	return 0;
}

void irq_msi_destroy(struct irq_msi *m)
{
	free(m);
}

int irq_msi_route(struct irq_msi *m, uint64_t addr, uint32_t data)
{
	m->addr = addr;
	m->data = data;
	m->routes++;
	return 0;
}

void irq_msi_raise(struct irq_msi *m)
{
	m->raised++;
}

static inline void fake_vm_open(struct vm *vm)
{
	struct err err = {0};

	memset(vm, 0, sizeof(*vm));
	vm->gm.ram = calloc(1, FAKE_RAM);
	vm->gm.seen = calloc(1, FAKE_RAM);
	vm->gm.marked = calloc(1, FAKE_RAM);
	vm->mmio = bus_create();
	vm->pio = bus_create();
	if (!vm->gm.ram || !vm->gm.seen || !vm->gm.marked || !vm->mmio || !vm->pio ||
	    loop_create(&vm->loop, &err) || pci_create(vm, &vm->pci, &err))
		abort();
	vm->root = vm->dev[0].ops;
	vm->devs = 0;
}

static inline void fake_vm_close(struct vm *vm)
{
	while (vm->devs--)
		vm->dev[vm->devs].ops->destroy(vm->dev[vm->devs].self);
	pci_destroy(vm->pci);
	bus_destroy(vm->pio);
	bus_destroy(vm->mmio);
	loop_destroy(vm->loop);
	free(vm->gm.ram);
	free(vm->gm.seen);
	free(vm->gm.marked);
}

/* From here on the device is watched: what the test wrote is its own affair. */
static inline void vm_watch(struct vm *vm)
{
	memcpy(vm->gm.seen, vm->gm.ram, FAKE_RAM);
	memset(vm->gm.marked, 0, FAKE_RAM);
}

/* How many bytes were changed since without a mark. */
static inline unsigned vm_unmarked(struct vm *vm)
{
	unsigned n = 0;

	for (unsigned i = 0; i < FAKE_RAM; i++)
		n += vm->gm.ram[i] != vm->gm.seen[i] && !vm->gm.marked[i];
	return n;
}

/* Let the loop handle what is ready, until nothing is. */
static inline void vm_turn(struct vm *vm)
{
	for (int i = 0; i < 8; i++)
		if (event_base_loop(loop_base(vm->loop), EVLOOP_NONBLOCK) < 0)
			abort();
}

/* Let the loop wait for the next event and handle it. */
static inline void vm_await(struct vm *vm)
{
	if (event_base_loop(loop_base(vm->loop), EVLOOP_ONCE) < 0)
		abort();
}

static inline uint32_t mmio_read(struct vm *vm, uint64_t addr, unsigned len)
{
	uint32_t v = 0;

	bus_read(vm->mmio, addr, &v, len);
	return v;
}

static inline void mmio_write(struct vm *vm, uint64_t addr, unsigned len, uint64_t v)
{
	bus_write(vm->mmio, addr, &v, len);
}

static inline uint64_t ecam(unsigned slot, unsigned reg)
{
	return LAYOUT_ECAM + ((uint64_t)slot << 15) + reg;
}

/* ---- a driver's side of a virtqueue at fixed places in guest memory ---- */

enum {
	DRV_SIZE = 16,
	DRV_STRIDE = 0x10000, /* of one queue's rings and buffers */
	DRV_BASE = 0x100000,
	DRV_AVAIL = 0x1000,
	DRV_USED = 0x2000,
	DRV_DATA = 0x4000,
};
enum { D_NEXT = 1, D_WRITE = 2, D_INDIRECT = 4 };

struct drv {
	struct vm *vm;
	uint64_t base;
	uint16_t avail, used;
};

static inline void put16(struct vm *vm, uint64_t gpa, uint16_t v)
{
	memcpy(vm->gm.ram + gpa, &v, sizeof(v));
}

static inline uint16_t get16(struct vm *vm, uint64_t gpa)
{
	uint16_t v;

	memcpy(&v, vm->gm.ram + gpa, sizeof(v));
	return v;
}

static inline uint32_t get32(struct vm *vm, uint64_t gpa)
{
	uint32_t v;

	memcpy(&v, vm->gm.ram + gpa, sizeof(v));
	return v;
}

static inline void drv_init(struct drv *q, struct vm *vm, unsigned index)
{
	*q = (struct drv){.vm = vm, .base = DRV_BASE + (uint64_t)index * DRV_STRIDE};
	memset(vm->gm.ram + q->base, 0, DRV_STRIDE);
}

static inline uint64_t drv_data(const struct drv *q)
{
	return q->base + DRV_DATA;
}

static inline void desc_at(struct vm *vm, uint64_t table, unsigned i, uint64_t addr,
			   uint32_t len, uint16_t flags, uint16_t next)
{
	uint8_t *p = vm->gm.ram + table + 16ull * i;

	memcpy(p, &addr, 8);
	memcpy(p + 8, &len, 4);
	memcpy(p + 12, &flags, 2);
	memcpy(p + 14, &next, 2);
}

static inline void drv_desc(struct drv *q, unsigned i, uint64_t addr, uint32_t len,
			    uint16_t flags, uint16_t next)
{
	desc_at(q->vm, q->base, i, addr, len, flags, next);
}

static inline void drv_post(struct drv *q, uint16_t head)
{
	put16(q->vm, q->base + DRV_AVAIL + 4 + 2 * (q->avail % DRV_SIZE), head);
	q->avail++;
	put16(q->vm, q->base + DRV_AVAIL + 2, q->avail);
}

/* The next used entry: 1 and its head and length, or 0 and zeroes. */
static inline int drv_take(struct drv *q, uint32_t *head_out, uint32_t *len_out)
{
	uint64_t at = q->base + DRV_USED + 4 + 8ull * (q->used % DRV_SIZE);

	*head_out = *len_out = 0;
	if (get16(q->vm, q->base + DRV_USED + 2) == q->used)
		return 0;
	q->used++;
	*head_out = get32(q->vm, at);
	*len_out = get32(q->vm, at + 4);
	return 1;
}

/* ---- a driver's side of a virtio-pci function ---- */

enum { WIN_NOTIFY_AT = 0x3000, WIN_CFG_AT = 0x2000, WIN_TABLE_AT = 0x4000 };

static inline uint64_t drv_bar(struct vm *vm, unsigned slot)
{
	return (mmio_read(vm, ecam(slot, 0x10), 4) & ~0xFu) |
	       (uint64_t)mmio_read(vm, ecam(slot, 0x14), 4) << 32;
}

/* Up to FEATURES_OK with VERSION_1 and @features. Returns the status read back. */
static inline uint32_t drv_negotiate(struct vm *vm, unsigned slot, uint64_t features)
{
	uint64_t bar;

	mmio_write(vm, ecam(slot, 0x04), 2, 2);
	bar = drv_bar(vm, slot);
	features |= 1ull << 32;
	mmio_write(vm, bar + 20, 1, 0);
	mmio_write(vm, bar + 20, 1, 1);
	mmio_write(vm, bar + 20, 1, 3);
	for (unsigned i = 0; i < 2; i++) {
		mmio_write(vm, bar + 8, 4, i);
		mmio_write(vm, bar + 12, 4, (uint32_t)(features >> (32 * i)));
	}
	mmio_write(vm, bar + 20, 1, 0xB);
	return mmio_read(vm, bar + 20, 1);
}

/* Set queue @index up for @q with MSI-X vector @index + 1 and enable it. */
static inline void drv_enable(struct vm *vm, unsigned slot, unsigned index, struct drv *q)
{
	uint64_t bar = drv_bar(vm, slot);

	drv_init(q, vm, slot * 4 + index);
	mmio_write(vm, bar + 22, 2, index);
	mmio_write(vm, bar + 24, 2, DRV_SIZE);
	mmio_write(vm, bar + 26, 2, index + 1);
	mmio_write(vm, bar + 32, 8, q->base);
	mmio_write(vm, bar + 40, 8, q->base + DRV_AVAIL);
	mmio_write(vm, bar + 48, 8, q->base + DRV_USED);
	mmio_write(vm, bar + 28, 2, 1);
}

/* Switch MSI-X on with vector i sending data 0x40 + i. */
static inline void drv_msix(struct vm *vm, unsigned slot, unsigned vectors)
{
	uint64_t table = drv_bar(vm, slot) + WIN_TABLE_AT;

	for (unsigned i = 0; i < vectors; i++) {
		mmio_write(vm, table + 16 * i, 4, LAYOUT_LAPIC);
		mmio_write(vm, table + 16 * i + 8, 4, 0x40 + i);
		mmio_write(vm, table + 16 * i + 12, 4, 0);
	}
	mmio_write(vm, ecam(slot, 0x42), 2, 1 << 15);
	mmio_write(vm, drv_bar(vm, slot) + 16, 2,
		   0); /* configuration changes: vector 0 */
}

/* A device with @queues queues in @slot, ready to work; it is watched from here on. */
static inline void drv_start(struct vm *vm, unsigned slot, uint64_t features,
			     struct drv *q, unsigned queues)
{
	if (drv_negotiate(vm, slot, features) != 0xB)
		abort();
	drv_msix(vm, slot, queues + 1);
	for (unsigned i = 0; i < queues; i++)
		drv_enable(vm, slot, i, &q[i]);
	mmio_write(vm, drv_bar(vm, slot) + 20, 1, 0xF);
	vm_turn(vm);
}

static inline void drv_kick(struct vm *vm, unsigned slot, unsigned queue)
{
	mmio_write(vm, drv_bar(vm, slot) + WIN_NOTIFY_AT + 4 * queue, 2, queue);
	vm_turn(vm);
}

static inline uint32_t drv_status(struct vm *vm, unsigned slot)
{
	return mmio_read(vm, drv_bar(vm, slot) + 20, 1);
}

#endif
