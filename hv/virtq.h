/* SPDX-License-Identifier: Apache-2.0
 * virtq - the device's side of a split virtqueue (Virtual I/O Device 1.2, 2.7).
 *
 * Theory of operation. Everything in the ring is hostile: the guest may change it at any time,
 * while we look. So each field is copied once and judged by the copy; every address goes through
 * gm_at(); a chain has at most VIRTQ_SEGS_MAX segments, which also ends loops; indirect tables
 * do not nest. What a driver may not do (an index that jumps further than the ring, a head or a
 * link outside of the table, readable after writable segments) breaks the queue: it gives
 * nothing more until a reset, and the device says NEEDS_RESET.
 *
 * All our writes into guest memory are marked (gm_mark) right after they are made. Runs under the
 * device lock, which a checkpoint holds, so none ever sees a write without its mark.
 */
#ifndef HV_VIRTQ_H
#define HV_VIRTQ_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct buf;
struct err;
struct gm;
struct reader;

enum { VIRTQ_SIZE_MAX = 256, VIRTQ_SEGS_MAX = 256 };

/* One queue. The fields above the line are state and are saved; the owner sets @size and the
 * addresses from the driver's registers and calls virtq_enable(). */
struct virtq {
	uint16_t size;	 /* a power of two, at most size_max */
	uint16_t vector; /* MSI-X vector or MSIX_NO_VECTOR */
	uint8_t ready;
	uint8_t event_idx; /* VIRTIO_F_EVENT_IDX was negotiated */
	uint8_t broken;
	uint64_t desc, avail, used; /* guest-physical */
	uint16_t avail_next;	    /* index of the next available entry to take */
	uint16_t used_next;	    /* index of the next used entry to give */
	uint16_t used_told;	    /* used index at the last interrupt decision */
	/* ---- */
	struct gm *gm;
	uint16_t size_max;
	const uint8_t *desc_p; /* host addresses, checked by virtq_enable() */
	uint8_t *avail_p, *used_p;
};

/* A chain in hand: segments that the device reads come first, then those it writes. */
struct virtq_chain {
	uint16_t head;
	unsigned n_out, n_in;
	uint64_t out_len, in_len; /* bytes */
	struct iovec seg[VIRTQ_SEGS_MAX];
	uint64_t gpa[VIRTQ_SEGS_MAX];
};

/* @size_max: a power of two, at most VIRTQ_SIZE_MAX. */
void virtq_init(struct virtq *q, struct gm *gm, uint16_t size_max);
void virtq_reset(struct virtq *q); /* power-on: full size, no addresses, not ready */
/* Check size and addresses (alignment, all of the three areas in RAM) and make the queue ready.
 * 0 or -EINVAL; then it stays off. */
int virtq_enable(struct virtq *q);

/* Take the next available chain. 1: *c is it. 0: there is none. -EPROTO: the queue is broken. */
int virtq_pop(struct virtq *q, struct virtq_chain *c);
/* Put the last popped chain back: the next pop gives it again. Not after its push. */
void virtq_unpop(struct virtq *q);
/* Parse the chain that starts at @head again, as after a restore. 0 or -EPROTO (broken). */
int virtq_parse(struct virtq *q, uint16_t head, struct virtq_chain *c);
/* Ask the driver to tell about new chains, then look once more. Returns 1 if one came in
 * meanwhile (take it now), else 0: the driver will kick. */
int virtq_wait(struct virtq *q);

/* Give chain @head back with @written bytes in its writable segments. */
void virtq_push(struct virtq *q, uint16_t head, uint32_t written);
/* Like a row of pushes that become visible at once: fill entry @i after the next (from 0), then
 * show @n of them. */
void virtq_fill(struct virtq *q, unsigned i, uint16_t head, uint32_t written);
void virtq_show(struct virtq *q, unsigned n);
/* Whether the driver wants an interrupt for what was pushed since the last time asked. */
int virtq_wants_irq(struct virtq *q);

/* Copy from the readable or into the writable segments at byte @off, at most what is there;
 * returns the bytes copied. Writes are marked. */
size_t virtq_read(const struct virtq_chain *c, size_t off, void *dst, size_t len);
size_t virtq_write(struct virtq *q, const struct virtq_chain *c, size_t off,
		   const void *src, size_t len);

/* Somebody else served the queue and has stopped: he would have taken entry @avail_next next, and what
 * he gave back is what the used index says. */
void virtq_taken_over(struct virtq *q, uint16_t avail_next);

int virtq_save(const struct virtq *q, uint32_t instance, struct buf *b);
/* Registers and indices are checked as if the guest had written them. */
int virtq_load(struct virtq *q, uint32_t instance, struct reader *r, struct err *err);

#endif
