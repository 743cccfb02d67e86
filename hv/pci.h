/* SPDX-License-Identifier: Apache-2.0
 * pci - a PCI Express root with one bus: configuration space by ECAM, memory BARs, capabilities.
 *
 * Slot 0 is the host bridge; functions take slots 1 to 31 in the order of their creation. At
 * power-on every BAR has an address in the PCI window (hv/layout.h) already, as firmware would
 * leave it, and memory decoding is off (command register 0) until the guest switches it on.
 * A BAR that the guest puts outside of the window, or over another one, is not decoded.
 *
 * Everything here runs under the device lock, or before the guest does.
 */
#ifndef HV_PCI_H
#define HV_PCI_H

#include <stdint.h>

struct buf;
struct bus_ops;
struct err;
struct pci;
struct pci_dev;
struct reader;
struct vm;

enum { PCI_SLOTS = 32, PCI_BARS = 6, PCI_CFG_SIZE = 256, PCI_BAR_MIN = 4096 };

struct pci_id {
	uint16_t vendor, device;
	uint16_t subsys_vendor, subsys;
	uint32_t class_code; /* 24 bits: class, subclass, interface */
	uint8_t revision;
};

/* What a function hears of its configuration space. All three must be there. */
struct pci_dev_ops {
	/* The guest is about to read these bytes; pci_cfg_set() may freshen them. */
	void (*cfg_read)(void *self, unsigned off, unsigned len);
	/* The guest wrote these bytes; the writable ones among them hold the new value. */
	void (*cfg_write)(void *self, unsigned off, unsigned len);
	/* BAR @bar answers at @addr from now on (@on), or will not any more. */
	void (*bar_moved)(void *self, unsigned bar, uint64_t addr, int on);
};

/* The root and its host bridge on the VM's buses, and its state among the VM's devices. Returns
 * owned; borrows @vm. */
int pci_create(struct vm *vm, struct pci **pci_out, struct err *err);
/* All functions are gone already. NULL is fine. */
void pci_destroy(struct pci *pci);

/* A function in the next free slot. Borrows @ops and @self. Returns owned. 0, -ENOSPC, -ENOMEM. */
int pci_dev_create(struct pci *pci, const struct pci_id *id,
		   const struct pci_dev_ops *ops, void *self, struct pci_dev **dev_out,
		   struct err *err);
/* Takes its BARs off the bus without a bar_moved(). NULL is fine. */
void pci_dev_destroy(struct pci_dev *d);
unsigned pci_dev_slot(const struct pci_dev *d);

/* Give it memory BAR @bar of @size bytes (a power of two, at least PCI_BAR_MIN), answered by
 * @ops (borrowed). With @is64 it takes the next register as well. Before the guest runs. */
int pci_dev_bar(struct pci_dev *d, unsigned bar, uint32_t size, int is64,
		const struct bus_ops *ops, void *self, struct err *err);
/* Append a capability: @id, the link, then @len bytes of @body, of which the bits set in @wmask
 * (NULL: none) are the guest's to write. Returns its offset or -ENOSPC. */
int pci_dev_cap(struct pci_dev *d, uint8_t id, const void *body, const void *wmask,
		unsigned len);

/* Little-endian value of @len (1, 2 or 4) bytes at @off, whatever the guest may write there.
 * A new value set this way is the power-on value only before the guest runs. */
uint32_t pci_cfg_get(const struct pci_dev *d, unsigned off, unsigned len);
void pci_cfg_set(struct pci_dev *d, unsigned off, unsigned len, uint32_t v);
/* An access of the function to one of its own BARs (for virtio's access by configuration space).
 * Out of bounds: reads give ones, writes are dropped. */
void pci_bar_access(struct pci_dev *d, unsigned bar, uint64_t off, void *data,
		    unsigned len, int write);

void pci_dev_reset(struct pci_dev *d);
int pci_dev_save(const struct pci_dev *d, struct buf *b);
/* -EBADMSG if what the guest cannot write differs: the stream is of another kind of device. */
int pci_dev_load(struct pci_dev *d, struct reader *r, struct err *err);

#endif
