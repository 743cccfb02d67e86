/* SPDX-License-Identifier: Apache-2.0
 * virtio - the driver's side of virtio 1.x over PCI, by polling (Virtual I/O Device 1.2).
 */
#ifndef TESTS_GUEST_VIRTIO_H
#define TESTS_GUEST_VIRTIO_H

#include <stdint.h>

enum { VRING_SIZE = 64 };

struct virtio {
	uint64_t common, notify, device; /* addresses of the windows */
	uint32_t notify_step;
};

struct vring_desc {
	uint64_t at;
	uint32_t len;
	uint16_t flags, next;
};
struct vring_avail {
	uint16_t flags, idx, ring[VRING_SIZE];
};
struct vring_used {
	uint16_t flags, idx;
	struct {
		uint32_t id, len;
	} ring[VRING_SIZE];
};

/* One queue, shared with the device. */
struct vring {
	struct vring_desc desc[VRING_SIZE] __attribute__((aligned(16)));
	struct vring_avail avail;
	struct vring_used used __attribute__((aligned(4)));
	uint16_t seen; /* of used.idx */
	uint16_t queue;
	uint64_t notify;
};

struct vring_buf {
	void *at;
	uint32_t len;
	int device_writes;
};

/* Device number @nth (from 0) of type @id on the bus; 0: there is none. Its memory decoding
 * is switched on. */
int virtio_find(uint16_t id, unsigned nth, struct virtio *v);
/* Reset, and agree on VERSION_1 and what of @features (the low 32 bits) is offered. 0: refused. */
int virtio_begin(struct virtio *v, uint32_t features);
void vring_open(struct virtio *v, uint16_t queue, struct vring *r);
void virtio_run(struct virtio *v); /* after its queues are open */

/* Of the device's configuration: another one means that it has changed. */
uint8_t virtio_generation(const struct virtio *v);

/* Hand over @n buffers as one chain, from descriptor @head on. The caller knows which are free. */
void vring_put(struct vring *r, uint16_t head, const struct vring_buf *buf, unsigned n);
/* 1: the chain at *head_out came back, the device wrote *len_out bytes. 0: none did. */
int vring_done(struct vring *r, uint16_t *head_out, uint32_t *len_out);

#endif
