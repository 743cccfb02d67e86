/* SPDX-License-Identifier: Apache-2.0
 * pci - a PCI Express root with one bus: configuration space by ECAM, memory BARs, capabilities.
 *
 * Theory of operation. Configuration space is in memory (ECAM), and behind an address and a data
 * port as in old times: kernels look there before they have read the ACPI tables, and firmware
 * knows nothing else. A function is 256 bytes of configuration space and a mask of the bits that
 * the guest may write; BAR sizing falls out of that, as the low bits of a BAR are not writable.
 * After each write (or load, or reset) the whole bus is laid out anew: what every BAR wants
 * is compared with where it is on the VM's MMIO bus; first all that moved are taken off, then
 * put where they belong, so that two functions can swap addresses in any order.
 */
#include "hv/pci.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/bus.h"
#include "hv/layout.h"
#include "hv/state.h"
#include "hv/vm.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Registers of a type 0 header (PCI Local Bus 3.0, 6.1). */
enum {
	CFG_VENDOR = 0x00,
	CFG_DEVICE = 0x02,
	CFG_COMMAND = 0x04,
	CFG_STATUS = 0x06,
	CFG_REVISION = 0x08,
	CFG_CLASS = 0x09,
	CFG_CACHE_LINE = 0x0C,
	CFG_LATENCY = 0x0D,
	CFG_BAR0 = 0x10,
	CFG_SUBSYS_VENDOR = 0x2C,
	CFG_SUBSYS = 0x2E,
	CFG_CAP_PTR = 0x34,
	CFG_IRQ_LINE = 0x3C,
	CFG_CAPS = 0x40, /* the first capability */
};
enum { CMD_MEM = 1 << 1, CMD_MASTER = 1 << 2, CMD_NO_INTX = 1 << 10 };
enum { STATUS_CAPS = 1 << 4 };
enum { BAR_64 = 4, BAR_FLAGS = 0xF };
enum { ECAM_SLOT_SHIFT = 15, ECAM_FN_SHIFT = 12, ECAM_REG_MASK = 0xFFF };

/* Configuration mechanism 1 (PCI Local Bus 3.0, 3.2.2.3.2). */
enum { PORT_ADDR = 0, PORT_DATA = 4, PORTS = 8 };
#define PORT_ENABLE (1u << 31)
enum {
	PORT_BUS_SHIFT = 16,
	PORT_SLOT_SHIFT = 11,
	PORT_FN_SHIFT = 8,
	PORT_REG_MASK = 0xFC
};

struct pci_bar {
	uint32_t size; /* 0: there is none */
	int is64;
	const struct bus_ops *ops;
	void *self;
	uint64_t at; /* where it is on the bus, 0: nowhere */
};

struct pci_dev {
	struct pci *pci;
	unsigned slot;
	const struct pci_dev_ops *ops;
	void *self;
	uint8_t cfg[PCI_CFG_SIZE], wmask[PCI_CFG_SIZE], initial[PCI_CFG_SIZE];
	struct pci_bar bar[PCI_BARS];
	unsigned cap_next, cap_link; /* first free byte; where the next link goes */
};

struct pci {
	struct vm *vm;
	struct pci_dev *slot[PCI_SLOTS];
	struct pci_dev *bridge;
	uint64_t window_next;
	uint32_t port_addr; /* what the guest wrote to the address port */
};

static const struct state_field pci_fields[] = {
	STATE_BYTES(1, 1, struct pci_dev, cfg),
	STATE_END,
};
static const struct state_table pci_table = {"pci", 1, pci_fields};

static const struct state_field root_fields[] = {
	STATE_INT(1, 1, struct pci, port_addr),
	STATE_END,
};
static const struct state_table root_table = {"pci-root", 1, root_fields};

uint32_t pci_cfg_get(const struct pci_dev *d, unsigned off, unsigned len)
{
	uint32_t v = 0;

	for (unsigned i = 0; i < len; i++)
		v |= (uint32_t)d->cfg[off + i] << (8 * i);
	return v;
}

static void put(uint8_t *p, unsigned len, uint32_t v)
{
	for (unsigned i = 0; i < len; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

void pci_cfg_set(struct pci_dev *d, unsigned off, unsigned len, uint32_t v)
{
	put(d->cfg + off, len, v);
}

/* Where the guest wants this BAR: 0 if nowhere, or where it must not be. */
static uint64_t bar_wanted(const struct pci_dev *d, unsigned bar)
{
	const struct pci_bar *b = &d->bar[bar];
	uint64_t addr;

	if (!b->size || !(pci_cfg_get(d, CFG_COMMAND, 2) & CMD_MEM))
		return 0;
	addr = pci_cfg_get(d, CFG_BAR0 + 4 * bar, 4) & ~(uint32_t)BAR_FLAGS;
	if (b->is64)
		addr |= (uint64_t)pci_cfg_get(d, CFG_BAR0 + 4 * bar + 4, 4) << 32;
	/* The bridge forwards its window and nothing else: a BAR cannot hide RAM or an APIC. */
	if (addr < LAYOUT_PCI_MMIO ||
	    addr > LAYOUT_PCI_MMIO + LAYOUT_PCI_MMIO_SIZE - b->size)
		return 0;
	return addr;
}

static void bar_unmap(struct pci_dev *d, unsigned bar)
{
	struct pci_bar *b = &d->bar[bar];
	uint64_t at = b->at;

	b->at = 0;
	d->ops->bar_moved(d->self, bar, at, 0);
	bus_remove(vm_mmio(d->pci->vm), at);
}

static void bar_map(struct pci_dev *d, unsigned bar, uint64_t at)
{
	struct pci_bar *b = &d->bar[bar];
	int rc = bus_add(vm_mmio(d->pci->vm), at, b->size, b->ops, b->self);

	if (rc) {
		log_ratelimited(LOG_LVL_WARN, 1000,
				"pci slot %u: BAR %u not decoded at %#" PRIx64 ": %s",
				d->slot, bar, at, strerror(-rc));
		return;
	}
	b->at = at;
	d->ops->bar_moved(d->self, bar, at, 1);
}

static void bus_relayout(struct pci *pci)
{
	for (unsigned s = 0; s < PCI_SLOTS; s++)
		for (unsigned i = 0; pci->slot[s] && i < PCI_BARS; i++) {
			struct pci_dev *d = pci->slot[s];

			if (d->bar[i].at && d->bar[i].at != bar_wanted(d, i))
				bar_unmap(d, i);
		}
	for (unsigned s = 0; s < PCI_SLOTS; s++)
		for (unsigned i = 0; pci->slot[s] && i < PCI_BARS; i++) {
			struct pci_dev *d = pci->slot[s];
			uint64_t want = bar_wanted(d, i);

			if (want && !d->bar[i].at)
				bar_map(d, i, want);
		}
}

static struct pci_dev *dev_at(struct pci *pci, uint64_t slot, unsigned fn)
{
	return slot < PCI_SLOTS && fn == 0 ? pci->slot[slot] : NULL;
}

static void cfg_read(struct pci_dev *d, unsigned reg, void *data, unsigned len)
{
	memset(data, 0xFF, len);
	if (!d || len > 4 || reg % len)
		return;
	memset(data, 0, len);
	/* No extended capabilities: their list starts with zero. */
	if (reg >= PCI_CFG_SIZE)
		return;
	d->ops->cfg_read(d->self, reg, len);
	memcpy(data, d->cfg + reg, len);
}

static void cfg_write(struct pci_dev *d, unsigned reg, const void *data, unsigned len)
{
	const uint8_t *p = data;

	if (!d || len > 4 || reg % len || reg >= PCI_CFG_SIZE)
		return;
	for (unsigned i = 0; i < len; i++) {
		uint8_t m = d->wmask[reg + i];

		d->cfg[reg + i] = (uint8_t)((d->cfg[reg + i] & ~m) | (p[i] & m));
	}
	d->ops->cfg_write(d->self, reg, len);
	if (reg == CFG_COMMAND || (reg >= CFG_BAR0 && reg < CFG_BAR0 + 4 * PCI_BARS))
		bus_relayout(d->pci);
}

static void ecam_read(void *self, uint64_t off, void *data, unsigned len)
{
	cfg_read(dev_at(self, off >> ECAM_SLOT_SHIFT, off >> ECAM_FN_SHIFT & 7),
		 (unsigned)(off & ECAM_REG_MASK), data, len);
}

static void ecam_write(void *self, uint64_t off, const void *data, unsigned len)
{
	cfg_write(dev_at(self, off >> ECAM_SLOT_SHIFT, off >> ECAM_FN_SHIFT & 7),
		  (unsigned)(off & ECAM_REG_MASK), data, len);
}

static const struct bus_ops ecam_ops = {.read = ecam_read, .write = ecam_write};

/* Whom the address port means: NULL if nobody, or not switched on. */
static struct pci_dev *port_dev(struct pci *pci)
{
	uint32_t a = pci->port_addr;

	if (!(a & PORT_ENABLE) || (a >> PORT_BUS_SHIFT & 0xFF))
		return NULL;
	return dev_at(pci, a >> PORT_SLOT_SHIFT & 31, a >> PORT_FN_SHIFT & 7);
}

static void port_read(void *self, uint64_t off, void *data, unsigned len)
{
	struct pci *pci = self;

	if (off >= PORT_DATA) {
		cfg_read(port_dev(pci),
			 (pci->port_addr & PORT_REG_MASK) | (unsigned)(off - PORT_DATA),
			 data, len);
		return;
	}
	memset(data, 0xFF, len);
	if (off == PORT_ADDR && len == 4)
		memcpy(data, &pci->port_addr, 4);
}

static void port_write(void *self, uint64_t off, const void *data, unsigned len)
{
	struct pci *pci = self;

	if (off >= PORT_DATA)
		cfg_write(port_dev(pci),
			  (pci->port_addr & PORT_REG_MASK) | (unsigned)(off - PORT_DATA),
			  data, len);
	else if (off == PORT_ADDR && len == 4)
		memcpy(&pci->port_addr, data, 4);
}

static const struct bus_ops port_ops = {.read = port_read, .write = port_write};

static int root_save(void *self, struct buf *b)
{
	return state_save(b, &root_table, 0, self);
}

static int root_load(void *self, struct reader *r, struct err *err)
{
	return state_load(r, &root_table, 0, self, err);
}

static void root_loaded(void *self)
{
}

static void root_reset(void *self)
{
	((struct pci *)self)->port_addr = 0;
}

/* The root outlives the devices that sit on it: pci_destroy(). */
static void root_destroy(void *self)
{
}

static const struct vm_device_ops root_ops = {
	.name = "pci-root",
	.save = root_save,
	.load = root_load,
	.loaded = root_loaded,
	.reset = root_reset,
	.destroy = root_destroy,
};

static void no_cfg(void *self, unsigned off, unsigned len)
{
}

static void no_bar(void *self, unsigned bar, uint64_t addr, int on)
{
}

static const struct pci_dev_ops bridge_ops = {
	.cfg_read = no_cfg,
	.cfg_write = no_cfg,
	.bar_moved = no_bar,
};

static int bridge_create(struct pci *pci, struct err *err)
{
	static const struct pci_id id = {
		.vendor = 0x1B36, /* Red Hat's; 0008: a generic PCIe host bridge */
		.device = 0x0008,
		.class_code = 0x060000,
	};

	return pci_dev_create(pci, &id, &bridge_ops, pci, &pci->bridge, err);
}

int pci_create(struct vm *vm, struct pci **pci_out, struct err *err)
{
	struct pci *pci = calloc(1, sizeof(*pci));
	int rc;

	*pci_out = NULL;
	if (!pci)
		return err_set(err, -ENOMEM, "pci: out of memory");
	pci->vm = vm;
	pci->window_next = LAYOUT_PCI_MMIO;
	rc = bridge_create(pci, err);
	if (rc)
		goto out;
	rc = bus_add(vm_mmio(vm), LAYOUT_ECAM, LAYOUT_ECAM_SIZE, &ecam_ops, pci);
	if (!rc)
		rc = bus_add(vm_pio(vm), LAYOUT_PORT_PCI, PORTS, &port_ops, pci);
	if (rc) {
		err_sys(err, rc, "pci: configuration space");
		goto out;
	}
	rc = vm_add_device(vm, &root_ops, pci, 0, err);
	if (rc)
		goto out;
	*pci_out = pci;
	return 0;
out:
	pci_destroy(pci);
	return rc;
}

void pci_destroy(struct pci *pci)
{
	if (!pci)
		return;
	bus_remove(vm_pio(pci->vm), LAYOUT_PORT_PCI);
	bus_remove(vm_mmio(pci->vm), LAYOUT_ECAM);
	pci_dev_destroy(pci->bridge);
	free(pci);
}

/* Set bytes and their power-on value, and which bits the guest may write. */
static void cfg_init(struct pci_dev *d, unsigned off, unsigned len, uint32_t v,
		     uint32_t wmask)
{
	put(d->cfg + off, len, v);
	put(d->initial + off, len, v);
	put(d->wmask + off, len, wmask);
}

int pci_dev_create(struct pci *pci, const struct pci_id *id,
		   const struct pci_dev_ops *ops, void *self, struct pci_dev **dev_out,
		   struct err *err)
{
	struct pci_dev *d;
	unsigned slot = 0;

	*dev_out = NULL;
	while (slot < PCI_SLOTS && pci->slot[slot])
		slot++;
	if (slot == PCI_SLOTS)
		return err_set(err, -ENOSPC, "pci: all %d slots are taken", PCI_SLOTS);
	d = calloc(1, sizeof(*d));
	if (!d)
		return err_set(err, -ENOMEM, "pci: out of memory");
	*d = (struct pci_dev){.pci = pci, .slot = slot, .ops = ops, .self = self};
	d->cap_next = CFG_CAPS;
	d->cap_link = CFG_CAP_PTR;
	cfg_init(d, CFG_VENDOR, 2, id->vendor, 0);
	cfg_init(d, CFG_DEVICE, 2, id->device, 0);
	cfg_init(d, CFG_COMMAND, 2, 0, CMD_MEM | CMD_MASTER | CMD_NO_INTX);
	cfg_init(d, CFG_REVISION, 1, id->revision, 0);
	cfg_init(d, CFG_CLASS, 3, id->class_code, 0);
	cfg_init(d, CFG_CACHE_LINE, 1, 0, 0xFF);
	cfg_init(d, CFG_SUBSYS_VENDOR, 2, id->subsys_vendor, 0);
	cfg_init(d, CFG_SUBSYS, 2, id->subsys, 0);
	cfg_init(d, CFG_IRQ_LINE, 1, 0, 0xFF);
	pci->slot[slot] = d;
	*dev_out = d;
	return 0;
}

void pci_dev_destroy(struct pci_dev *d)
{
	if (!d)
		return;
	for (unsigned i = 0; i < PCI_BARS; i++)
		if (d->bar[i].at)
			bus_remove(vm_mmio(d->pci->vm), d->bar[i].at);
	d->pci->slot[d->slot] = NULL;
	free(d);
}

unsigned pci_dev_slot(const struct pci_dev *d)
{
	return d->slot;
}

int pci_dev_bar(struct pci_dev *d, unsigned bar, uint32_t size, int is64,
		const struct bus_ops *ops, void *self, struct err *err)
{
	const uint64_t end = LAYOUT_PCI_MMIO + LAYOUT_PCI_MMIO_SIZE;
	uint64_t at;

	if (bar + !!is64 >= PCI_BARS || d->bar[bar].size || size < PCI_BAR_MIN ||
	    (size & (size - 1)))
		return err_set(err, -EINVAL, "pci slot %u: BAR %u of %u bytes", d->slot,
			       bar, size);
	at = (d->pci->window_next + size - 1) & ~(uint64_t)(size - 1);
	if (at + size > end)
		return err_set(err, -ENOSPC, "pci slot %u: no room for BAR %u", d->slot,
			       bar);
	d->pci->window_next = at + size;
	d->bar[bar] =
		(struct pci_bar){.size = size, .is64 = is64, .ops = ops, .self = self};
	cfg_init(d, CFG_BAR0 + 4 * bar, 4, (uint32_t)at | (is64 ? BAR_64 : 0),
		 ~(size - 1));
	if (is64)
		cfg_init(d, CFG_BAR0 + 4 * bar + 4, 4, (uint32_t)(at >> 32), ~0u);
	return 0;
}

int pci_dev_cap(struct pci_dev *d, uint8_t id, const void *body, const void *wmask,
		unsigned len)
{
	unsigned at = d->cap_next, end = at + 2 + len;

	if (end > PCI_CFG_SIZE)
		return -ENOSPC;
	cfg_init(d, CFG_STATUS, 2, STATUS_CAPS, 0);
	cfg_init(d, d->cap_link, 1, at, 0);
	cfg_init(d, at, 1, id, 0);
	memcpy(d->cfg + at + 2, body, len);
	memcpy(d->initial + at + 2, body, len);
	if (wmask)
		memcpy(d->wmask + at + 2, wmask, len);
	d->cap_link = at + 1;
	d->cap_next = (end + 3) & ~3u;
	return (int)at;
}

void pci_bar_access(struct pci_dev *d, unsigned bar, uint64_t off, void *data,
		    unsigned len, int write)
{
	const struct pci_bar *b = bar < PCI_BARS ? &d->bar[bar] : NULL;

	if (!b || !b->size || len > b->size || off > b->size - len) {
		if (!write)
			memset(data, 0xFF, len);
		return;
	}
	if (write)
		b->ops->write(b->self, off, data, len);
	else
		b->ops->read(b->self, off, data, len);
}

void pci_dev_reset(struct pci_dev *d)
{
	memcpy(d->cfg, d->initial, sizeof(d->cfg));
	bus_relayout(d->pci);
}

int pci_dev_save(const struct pci_dev *d, struct buf *b)
{
	return state_save(b, &pci_table, d->slot, d);
}

int pci_dev_load(struct pci_dev *d, struct reader *r, struct err *err)
{
	struct pci_dev *in = calloc(1, sizeof(*in));
	int rc;

	if (!in)
		return err_set(err, -ENOMEM, "pci: out of memory");
	rc = state_load(r, &pci_table, d->slot, in, err);
	if (rc)
		goto out;
	for (unsigned i = 0; i < PCI_CFG_SIZE; i++)
		if ((in->cfg[i] ^ d->initial[i]) & ~d->wmask[i]) {
			rc = err_set(err, -EBADMSG,
				     "pci slot %u: another kind of device (byte %#x)",
				     d->slot, i);
			goto out;
		}
	memcpy(d->cfg, in->cfg, sizeof(d->cfg));
	bus_relayout(d->pci);
out:
	free(in);
	return rc;
}
