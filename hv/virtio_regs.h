/* SPDX-License-Identifier: Apache-2.0
 * virtio_regs - the common configuration registers of a virtio 1.x device and its status machine.
 *
 * Theory of operation (Virtual I/O Device 1.2, 2.1 and 4.1.4.3). The driver sets the status bits
 * one after the other:
 *
 *   reset -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> DRIVER_OK        FAILED may join at any time,
 *     ^________________________________________________|             NEEDS_RESET is the device's
 *
 * A bit is taken only when all before it are there; FEATURES_OK only when the driver's features are
 * offered ones and hold VERSION_1. No bit is taken back but by a reset (writing 0). Queues are
 * set up through a window of registers that shows the selected one.
 *
 * Runs under the device lock.
 */
#ifndef HV_VIRTIO_REGS_H
#define HV_VIRTIO_REGS_H

#include <stdint.h>

#include "hv/virtq.h"

struct buf;
struct err;
struct reader;

enum {
	VIRTIO_ACKNOWLEDGE = 1,
	VIRTIO_DRIVER = 2,
	VIRTIO_DRIVER_OK = 4,
	VIRTIO_FEATURES_OK = 8,
	VIRTIO_NEEDS_RESET = 64,
	VIRTIO_FAILED = 128,
};
enum {
	VIRTIO_F_INDIRECT_DESC = 28,
	VIRTIO_F_EVENT_IDX = 29,
	VIRTIO_F_VERSION_1 = 32,
};
enum { VIRTIO_COMMON_SIZE = 56, VIRTIO_QUEUES_MAX = 16 };

struct virtio_regs_ops {
	void (*reset)(
		void *self); /* the driver wrote 0; queues and registers are reset already */
	void (*started)(void *self);		     /* DRIVER_OK */
	void (*enabled)(void *self, unsigned queue); /* a queue became ready */
};

/* The fields above the line are state and are saved. */
struct virtio_regs {
	uint8_t status, generation;
	uint16_t config_vector, queue_select;
	uint32_t device_select,
		driver_select; /* which half of the features is in the window */
	uint64_t driver_features;
	/* ---- */
	uint64_t offered;
	unsigned queues, vectors;
	struct virtq *queue; /* borrowed, @queues of them */
	const struct virtio_regs_ops *ops;
	void *self;
};

/* Registers and queues to power-on values, without ops->reset. */
void virtio_regs_reset(struct virtio_regs *r);
/* Accesses to the common configuration, @off from its start. Fields are read and written whole
 * (64-bit ones by halves too); other accesses read zero and are dropped. */
void virtio_regs_read(const struct virtio_regs *r, uint64_t off, void *data,
		      unsigned len);
void virtio_regs_write(struct virtio_regs *r, uint64_t off, const void *data,
		       unsigned len);
/* The driver is ready and the device has not given up. */
int virtio_regs_running(const struct virtio_regs *r);

int virtio_regs_save(const struct virtio_regs *r, uint32_t instance, struct buf *b);
int virtio_regs_load(struct virtio_regs *r, uint32_t instance, struct reader *in,
		     struct err *err);

#endif
