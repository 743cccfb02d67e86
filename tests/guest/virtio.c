/* SPDX-License-Identifier: Apache-2.0
 * virtio - the driver's side of virtio 1.x over PCI, by polling (Virtual I/O Device 1.2).
 *
 * No interrupts are asked for. Everything the driver knows is in memory, so that it goes on
 * after a restore on another host without noticing.
 */
#include "tests/guest/virtio.h"

#include "hv/layout.h"
#include "tests/guest/io.h"
#include "tests/guest/say.h"

/* Configuration space. */
enum {
	CFG_ID = 0x00,
	CFG_COMMAND = 0x04,
	CFG_BAR = 0x10,
	CFG_CAPS = 0x34,
	COMMAND_MEMORY = 2,
	COMMAND_MASTER = 4,
	SLOTS = 32,
	SLOT_SHIFT = 15,
	VENDOR_VIRTIO = 0x1AF4,
	DEVICE_FIRST = 0x1040,
	CAP_VENDOR = 9,
	CAPS_MAX = 48,
};
/* A capability of virtio: offsets of its fields, and types. */
enum {
	CAP_TYPE = 3,
	CAP_BAR = 4,
	CAP_OFFSET = 8,
	CAP_NOTIFY_STEP = 16,
	TYPE_COMMON = 1,
	TYPE_NOTIFY = 2,
	TYPE_DEVICE = 4,
};
/* Common configuration. */
enum {
	C_DEVICE_SELECT = 0x00,
	C_DEVICE_FEATURES = 0x04,
	C_DRIVER_SELECT = 0x08,
	C_DRIVER_FEATURES = 0x0C,
	C_STATUS = 0x14,
	C_GENERATION = 0x15,
	C_QUEUE_SELECT = 0x16,
	C_QUEUE_SIZE = 0x18,
	C_QUEUE_ENABLE = 0x1C,
	C_QUEUE_NOTIFY = 0x1E,
	C_QUEUE_DESC = 0x20,
	C_QUEUE_AVAIL = 0x28,
	C_QUEUE_USED = 0x30,
	S_ACKNOWLEDGE = 1,
	S_DRIVER = 2,
	S_DRIVER_OK = 4,
	S_FEATURES_OK = 8,
};
enum { DESC_NEXT = 1, DESC_WRITE = 2, AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1 };
#define VERSION_1 1u /* bit 32: bit 0 of the upper half */

static uint64_t bar_at(uint64_t cfg, unsigned bar)
{
	uint32_t low = io_read32(cfg + CFG_BAR + 4 * bar);
	uint64_t high = (low & 6) == 4 ? io_read32(cfg + CFG_BAR + 4 * bar + 4) : 0;

	return high << 32 | (low & ~0xFu);
}

static void windows(uint64_t cfg, struct virtio *v)
{
	uint8_t at = io_read8(cfg + CFG_CAPS);

	*v = (struct virtio){0};
	for (int i = 0; at && i < CAPS_MAX; i++, at = io_read8(cfg + at + 1)) {
		uint64_t window;

		if (io_read8(cfg + at) != CAP_VENDOR)
			continue;
		window = bar_at(cfg, io_read8(cfg + at + CAP_BAR)) +
			 io_read32(cfg + at + CAP_OFFSET);
		switch (io_read8(cfg + at + CAP_TYPE)) {
		case TYPE_COMMON:
			v->common = window;
			break;
		case TYPE_NOTIFY:
			v->notify = window;
			v->notify_step = io_read32(cfg + at + CAP_NOTIFY_STEP);
			break;
		case TYPE_DEVICE:
			v->device = window;
			break;
		}
	}
}

int virtio_find(uint16_t id, unsigned nth, struct virtio *v)
{
	for (uint64_t slot = 0; slot < SLOTS; slot++) {
		uint64_t cfg = LAYOUT_ECAM + (slot << SLOT_SHIFT);

		if (io_read32(cfg + CFG_ID) !=
		    ((uint32_t)(DEVICE_FIRST + id) << 16 | VENDOR_VIRTIO))
			continue;
		if (nth--)
			continue;
		io_write16(cfg + CFG_COMMAND, COMMAND_MEMORY | COMMAND_MASTER);
		windows(cfg, v);
		return v->common && v->notify;
	}
	return 0;
}

static void status_add(struct virtio *v, uint8_t bit)
{
	io_write8(v->common + C_STATUS, io_read8(v->common + C_STATUS) | bit);
}

static uint32_t features_offered(struct virtio *v, uint32_t half)
{
	io_write32(v->common + C_DEVICE_SELECT, half);
	return io_read32(v->common + C_DEVICE_FEATURES);
}

static void features_take(struct virtio *v, uint32_t half, uint32_t features)
{
	io_write32(v->common + C_DRIVER_SELECT, half);
	io_write32(v->common + C_DRIVER_FEATURES, features);
}

int virtio_begin(struct virtio *v, uint32_t features)
{
	io_write8(v->common + C_STATUS, 0);
	while (io_read8(v->common + C_STATUS))
		io_relax();
	status_add(v, S_ACKNOWLEDGE);
	status_add(v, S_DRIVER);
	features_take(v, 0, features_offered(v, 0) & features);
	features_take(v, 1, features_offered(v, 1) & VERSION_1);
	status_add(v, S_FEATURES_OK);
	return (io_read8(v->common + C_STATUS) & S_FEATURES_OK) != 0;
}

static void write_address(uint64_t reg, const void *p)
{
	io_write32(reg, (uint32_t)(uint64_t)p);
	io_write32(reg + 4, 0); /* all of this program is below 4 GiB */
}

void vring_open(struct virtio *v, uint16_t queue, struct vring *r)
{
	*r = (struct vring){.queue = queue};
	r->avail.flags = AVAIL_NO_INTERRUPT;
	io_write16(v->common + C_QUEUE_SELECT, queue);
	if (io_read16(v->common + C_QUEUE_SIZE) < VRING_SIZE)
		fail("virtio: a queue is too short");
	io_write16(v->common + C_QUEUE_SIZE, VRING_SIZE);
	write_address(v->common + C_QUEUE_DESC, r->desc);
	write_address(v->common + C_QUEUE_AVAIL, &r->avail);
	write_address(v->common + C_QUEUE_USED, &r->used);
	r->notify = v->notify +
		    (uint64_t)v->notify_step * io_read16(v->common + C_QUEUE_NOTIFY);
	io_write16(v->common + C_QUEUE_ENABLE, 1);
}

void virtio_run(struct virtio *v)
{
	status_add(v, S_DRIVER_OK);
	if (!(io_read8(v->common + C_STATUS) & S_DRIVER_OK))
		fail("virtio: a device refuses to run");
}

uint8_t virtio_generation(const struct virtio *v)
{
	return io_read8(v->common + C_GENERATION);
}

void vring_put(struct vring *r, uint16_t head, const struct vring_buf *buf, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		r->desc[head + i] = (struct vring_desc){
			.at = (uint64_t)buf[i].at,
			.len = buf[i].len,
			.flags = (uint16_t)((buf[i].device_writes ? DESC_WRITE : 0) |
					    (i + 1 < n ? DESC_NEXT : 0)),
			.next = (uint16_t)(head + i + 1),
		};
	r->avail.ring[r->avail.idx % VRING_SIZE] = head;
	io_order();
	*(volatile uint16_t *)&r->avail.idx = (uint16_t)(r->avail.idx + 1);
	/* The device must not miss the index after it was seen to be awake. */
	io_fence();
	if (!(*(volatile uint16_t *)&r->used.flags & USED_NO_NOTIFY))
		io_write16(r->notify, r->queue);
}

int vring_done(struct vring *r, uint16_t *head_out, uint32_t *len_out)
{
	unsigned at = r->seen % VRING_SIZE;

	if (*(volatile uint16_t *)&r->used.idx == r->seen)
		return 0;
	io_order();
	if (r->used.ring[at].id >= VRING_SIZE)
		fail("virtio: the device gave back what it never got");
	*head_out = (uint16_t)r->used.ring[at].id;
	*len_out = r->used.ring[at].len;
	r->seen++;
	return 1;
}
