/* SPDX-License-Identifier: Apache-2.0
 * bus - guest-physical and port ranges, and who answers for them.
 */
#ifndef HV_BUS_H
#define HV_BUS_H

#include <stdint.h>

struct bus;

/* Called on a vCPU's thread under the VM's device lock (vm_lock()). @off is inside the range
 * and off + len <= size; len is 1, 2, 4 or 8. Values are little-endian in @data. */
struct bus_ops {
	void (*read)(void *self, uint64_t off, void *data, unsigned len);
	void (*write)(void *self, uint64_t off, const void *data, unsigned len);
};

struct bus *bus_create(void); /* returns owned, or NULL: out of memory */
void bus_destroy(struct bus *b);
/* 0, -EEXIST if it overlaps another range, -ENOMEM. Borrows @ops and @self until removed. */
int bus_add(struct bus *b, uint64_t base, uint64_t size, const struct bus_ops *ops,
	    void *self);
void bus_remove(struct bus *b, uint64_t base);
/* Reads of nobody's addresses give all ones, writes are dropped. */
void bus_read(struct bus *b, uint64_t addr, void *data, unsigned len);
void bus_write(struct bus *b, uint64_t addr, const void *data, unsigned len);

#endif
