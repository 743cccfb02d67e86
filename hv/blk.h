/* SPDX-License-Identifier: Apache-2.0
 * blk - a disk as devices see it: requests in, completions out. Filters (replication) and
 * images (raw) offer the same ops struct.
 *
 * All calls and completions are on the I/O thread, inside the loop's guard.
 */
#ifndef HV_BLK_H
#define HV_BLK_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct loop;

enum blk_op { BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_DISCARD, BLK_ZEROES };

/* The bytes of one write, copied once from the guest, shared by whoever needs them. */
struct blk_data {
	atomic_uint refs;
	uint32_t len;
	uint8_t bytes[];
};
struct blk_data *blk_data_new(uint32_t len); /* one reference; NULL: out of memory */
struct blk_data *blk_data_get(struct blk_data *d);
void blk_data_put(struct blk_data *d); /* any thread; NULL is fine */

/* Owned by who submits it, untouched until done() was called. */
struct blk_req {
	enum blk_op op;
	uint64_t offset; /* bytes */
	uint32_t len;	 /* bytes; 0 for flush */
	struct blk_data
		*data; /* READ: filled by the backend, len bytes. WRITE: the bytes */
	int fua;
	void (*done)(struct blk_req *req,
		     int status); /* 0 or -errno; may be called in submit */
	struct blk_req *next;	  /* for the backend, while it holds it */
	void *backend_priv;
};

struct blk_ops {
	const char *name;
	/* Never fails itself: errors go to done(). Offsets and lengths were checked against
	 * capacity by the device. */
	void (*submit)(void *self, struct blk_req *req);
	uint64_t (*capacity)(void *self); /* bytes */
	/* What is in flight ends first (done() is called). The loop does not run any more. */
	void (*close)(void *self);
};

struct blk {
	const struct blk_ops *ops;
	void *self;
};

/* A raw image or block device over io_uring. Takes @fd. Capacity is a multiple of 512. */
int raw_open(int fd, struct loop *loop, struct blk *blk_out, struct err *err);

#endif
