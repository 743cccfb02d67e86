/* SPDX-License-Identifier: Apache-2.0
 * ring - operations on open files over io_uring, their completions on the I/O thread's loop.
 *
 * Theory of operation. Each operation becomes one of the ring; a short read or write is continued where
 * it stopped. Operations wait in a list, in order, until the loop's turn has run all that was ready, and then
 * go to the kernel together; longer, if the ring has no room for them. Zeroes are a
 * range operation of the file system where it has one, else written from a buffer of zeroes. A
 * flush is fdatasync, which covers every write that was completed before it.
 *
 * All calls and completions are on the I/O thread, inside the loop's guard.
 */
#ifndef HV_RING_H
#define HV_RING_H

#include <stdint.h>

#include "hv/blk.h"

struct err;
struct loop;
struct ring;

/* Owned by who submits it, untouched until done() was called. */
struct ring_op {
	enum blk_op op;
	int fd;
	uint64_t offset; /* bytes */
	uint32_t len;	 /* bytes; 0 for flush */
	uint8_t *bytes;	 /* READ, WRITE */
	int fua;
	void (*done)(struct ring_op *op, int status); /* 0 or -errno; may submit again */
	/* The ring's own. */
	uint32_t did;
	int plain_zeroes; /* they have to be written one by one */
	struct ring_op *next;
};

/* Returns owned in *r_out. */
int ring_open(struct loop *loop, struct ring **r_out, struct err *err);
/* Never fails itself: errors go to done(), which is not called before this returns. */
void ring_submit(struct ring *r, struct ring_op *op);
/* Wait until nothing is under way any more (done() is called). The loop does not run. */
void ring_drain(struct ring *r);
void ring_close(struct ring *r); /* after ring_drain(); NULL is fine */

#endif
