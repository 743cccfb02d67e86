/* SPDX-License-Identifier: Apache-2.0
 * vhdload - a VHD chain served to a device that has many requests under way at a time, beside plain bytes.
 */
#ifndef TESTS_UNIT_VHDLOAD_H
#define TESTS_UNIT_VHDLOAD_H

#include "tests/unit/vhdrig.h"

#include "hv/base/loop.h"
#include "hv/blk.h"

#include <event2/event.h>

enum { SIZE = 60 * RIG_BLOCK + 512, FLIGHT = 24 };

struct io {
	struct blk_req r;
	int busy, status;
	uint8_t *want; /* of a read, as it was when it was submitted */
};

static struct loop *loop;
static struct blk blk;
static struct io ios[FLIGHT];
static unsigned in_flight;

static inline void on_done(struct blk_req *r, int status)
{
	struct io *io = (struct io *)r;

	io->busy = 0;
	io->status = status;
	in_flight--;
	CU_ASSERT_EQUAL(status, 0);
	if (io->want && memcmp(io->want, r->data->bytes, r->len) != 0)
		CU_FAIL("a read saw other bytes");
	free(io->want);
	io->want = NULL;
	blk_data_put(r->data);
	r->data = NULL;
}

static inline int overlaps(uint64_t off, uint64_t len)
{
	for (unsigned i = 0; i < FLIGHT; i++)
		if (ios[i].busy && off < ios[i].r.offset + ios[i].r.len &&
		    ios[i].r.offset < off + len)
			return 1;
	return 0;
}

static inline void turn(void)
{
	if (event_base_loop(loop_base(loop), EVLOOP_ONCE) < 0)
		abort();
}

static inline void wait_all(void)
{
	while (in_flight)
		turn();
}

static struct io *free_io(void)
{
	for (;;) {
		for (unsigned i = 0; i < FLIGHT; i++)
			if (!ios[i].busy)
				return &ios[i];
		turn();
	}
}

static inline void start(struct rig_want *w, enum blk_op op, uint64_t off, uint32_t len,
			 int fill)
{
	struct io *io = free_io();

	*io = (struct io){.r = {.op = op, .offset = off, .len = len, .done = on_done},
			  .busy = 1};
	if (op == BLK_READ || op == BLK_WRITE) {
		io->r.data = blk_data_new(len);
		CU_ASSERT_PTR_NOT_NULL_FATAL(io->r.data);
		memset(io->r.data->bytes, fill, len);
	}
	if (op == BLK_READ) {
		io->want = malloc(len);
		CU_ASSERT_PTR_NOT_NULL_FATAL(io->want);
		memcpy(io->want, w->bytes + off, len);
	} else if (len) {
		memset(w->bytes + off, op == BLK_WRITE ? fill : 0, len);
	}
	io->r.fua = op == BLK_WRITE && fill % 16 == 0;
	in_flight++;
	blk.ops->submit(blk.self, &io->r);
}

static inline void one(struct rig_want *w, unsigned i)
{
	uint64_t off = rig_random() % (w->size / 512) * 512;
	uint64_t most = w->size - off < 3 * RIG_BLOCK ? w->size - off : 3 * RIG_BLOCK;
	uint32_t len = (uint32_t)(1 + rig_random() % (most / 512)) * 512;

	/* What overlaps and is in flight at one time may end in any order. */
	if (overlaps(off, len))
		return;
	switch (rig_random() % 10) {
	case 0:
		start(w, BLK_FLUSH, 0, 0, 0);
		break;
	case 1:
		start(w, BLK_ZEROES, off, len, 0);
		break;
	case 2:
		off = off / RIG_BLOCK * RIG_BLOCK;
		len = w->size - off < RIG_BLOCK ? (uint32_t)(w->size - off) : RIG_BLOCK;
		if (!overlaps(off, len))
			start(w, BLK_DISCARD, off, len, 0);
		break;
	case 3:
	case 4:
	case 5:
		start(w, BLK_READ, off, len, 0xcc);
		break;
	default:
		start(w, BLK_WRITE, off, len, (int)(i % 255 + 1));
	}
}

static inline void serve(struct rig_chain *c, const char *const names[], unsigned flags)
{
	struct err err = {0};

	CU_ASSERT_EQUAL_FATAL(rig_open(c, names, flags), 0);
	CU_ASSERT_EQUAL_FATAL(loop_create(&loop, &err), 0);
	CU_ASSERT_EQUAL_FATAL(vhd_blk_open(c->v, loop, &blk, &err), 0);
	CU_ASSERT_EQUAL(blk.ops->capacity(blk.self), vhd_capacity(c->v));
}

static inline void end(struct rig_chain *c)
{
	blk.ops->close(blk.self);
	CU_ASSERT_EQUAL(in_flight, 0);
	loop_destroy(loop);
	rig_close(c);
}

#endif
