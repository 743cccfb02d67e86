/* SPDX-License-Identifier: Apache-2.0
 * vhd_blk - a VHD chain as a device's backend: data over the ring, all else on threads that may wait.
 *
 * Theory of operation. A read or write is mapped under the image's lock and becomes operations of the
 * ring on the chain's files, a few at a time (a batch), until all of it is done. Where the map is not
 * known (a bitmap that was not read yet) or a block has no room yet, a worker makes it so and the
 * request goes on from there. A write's sectors count as here when their batch is done. A flush is
 * the worker's commit, erasing is the worker's, too.
 *
 * While it is held, what would change the image waits in one queue, in order; what came before ends
 * first. So there is a moment at which the leaf is what it was when the hold began, and stays so.
 */
#include "hv/blk.h"
#include "hv/ring.h"
#include "hv/vhd_impl.h"
#include "hv/vhd_work.h"

#include "hv/base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 16 };

/* One operation of a batch. */
struct piece {
	struct ring_op op; /* first */
	struct vreq *q;
	uint32_t block, entry; /* writes to sparse images */
	uint64_t off;
};

/* A request on its way. */
struct vreq {
	struct vhd_job job; /* first */
	struct vblk_vhd *b;
	struct blk_req *req;
	uint64_t at; /* bytes that are done or in the batch */
	struct piece piece[BATCH];
	unsigned n, pending;
	int counted; /* the batch is I/O of this parity */
	unsigned parity;
	int status;
	struct vreq *next; /* in the pool */
};

struct vblk_vhd {
	struct vhd_image *v;
	struct ring *ring;
	struct vhd_work *work;
	struct vreq *pool;
	unsigned active,
		changing; /* requests under way; those of them that change the image */
	int held;
	struct blk_req *waiting, **waiting_tail;
	void (*drained)(void *arg); /* NULL: was called, or nobody asks */
	void *drained_arg;
};

static int changes(const struct blk_req *r)
{
	return r->op != BLK_FLUSH && r->op != BLK_READ;
}

static void maybe_drained(struct vblk_vhd *b)
{
	void (*fn)(void *arg) = b->drained;

	if (!b->held || b->changing || !fn)
		return;
	b->drained = NULL;
	fn(b->drained_arg);
}

static void finish(struct vreq *q, int status)
{
	struct blk_req *req = q->req;
	struct vblk_vhd *b = q->b;

	b->active--;
	b->changing -= changes(req) ? 1 : 0;
	q->next = b->pool;
	b->pool = q;
	req->done(req, status);
	maybe_drained(b);
}

static void on_over(struct vhd_job *job, int status)
{
	finish((struct vreq *)job, status);
}

static void flush(struct vreq *q)
{
	q->job = (struct vhd_job){.kind = VHD_JOB_FLUSH, .done = on_over};
	vhd_work_give(q->b->work, &q->job);
}

static void step(struct vreq *q);

static void on_ready(struct vhd_job *job, int status)
{
	struct vreq *q = (struct vreq *)job;

	if (status)
		finish(q, status);
	else
		step(q);
}

/* What was written is here from now on. */
static void settle(struct vreq *q)
{
	struct vhd_image *v = q->b->v;
	struct vhd *f = v->file[0];

	pthread_mutex_lock(&v->lock);
	for (unsigned i = 0; i < q->n; i++) {
		const struct piece *p = &q->piece[i];

		/* Given up meanwhile: then it is gone with the block, as if it had come before. */
		if (p->op.op == BLK_WRITE && f->type != VHD_FIXED && !q->status &&
		    f->bat[p->block] == p->entry)
			vhd_bits_set(f, p->block, p->off, p->op.len);
	}
	if (q->counted)
		vhd_busy_end(v, q->parity);
	q->counted = 0;
	pthread_mutex_unlock(&v->lock);
}

static void on_piece(struct ring_op *op, int status)
{
	struct vreq *q = ((struct piece *)op)->q;

	if (status && !q->status)
		q->status = status;
	if (--q->pending)
		return;
	settle(q);
	if (q->status)
		finish(q, q->status);
	else
		step(q);
}

static void add_piece(struct vreq *q, const struct vhd_seg *seg)
{
	struct vhd_image *v = q->b->v;

	q->piece[q->n++] = (struct piece){
		.op = {.op = q->req->op,
		       .fd = seg->file->fd,
		       .offset = seg->at,
		       .len = (uint32_t)seg->len,
		       .bytes = q->req->data->bytes + q->at,
		       .fua = q->req->fua && v->file[0]->type == VHD_FIXED,
		       .done = on_piece},
		.q = q,
		.block = seg->block,
		.entry = seg->entry,
		.off = q->req->offset + q->at,
	};
	if (q->counted)
		return;
	q->parity = vhd_busy_begin(v);
	q->counted = 1;
}

/* Lock held. Where the next bytes of a write go; -EAGAIN: a job is to be done first. */
static int map_write(struct vreq *q, uint64_t off, uint64_t len, struct vhd_seg *seg)
{
	struct vhd *f = q->b->v->file[0];
	uint64_t in = f->type == VHD_FIXED ? 0 : off % f->header.block_size;
	uint64_t n = f->type == VHD_FIXED ? len : f->header.block_size - in;

	*seg = (struct vhd_seg){.file = f, .at = off, .len = n < len ? n : len};
	if (f->type == VHD_FIXED)
		return 0;
	if (!vhd_prepared(q->b->v, off, seg->len)) {
		q->job = (struct vhd_job){.kind = VHD_JOB_PREPARE,
					  .off = off,
					  .len = len,
					  .done = on_ready};
		return -EAGAIN;
	}
	seg->block = (uint32_t)(off / f->header.block_size);
	seg->entry = f->bat[seg->block];
	seg->at = (uint64_t)seg->entry * VHD_SECTOR + f->bitmap_bytes + in;
	return 0;
}

static int map_read(struct vreq *q, uint64_t off, uint64_t len, struct vhd_seg *seg)
{
	struct vhd_job *j = &q->job;
	int rc = vhd_map(q->b->v, 0, off, len, seg, &j->file, &j->block);

	if (rc) {
		j->kind = VHD_JOB_LOAD;
		j->done = on_ready;
	}
	return rc;
}

/* Lock held. 0: the batch is as large as it can be; -EAGAIN: the job comes first. */
static int make_batch(struct vreq *q)
{
	const struct blk_req *req = q->req;
	struct vhd_seg seg;
	int rc = 0;

	for (q->n = 0; q->n < BATCH && q->at < req->len; q->at += seg.len) {
		uint64_t off = req->offset + q->at, left = req->len - q->at;

		rc = req->op == BLK_WRITE ? map_write(q, off, left, &seg)
					  : map_read(q, off, left, &seg);
		if (rc)
			break;
		if (!seg.file)
			memset(req->data->bytes + q->at, 0, seg.len);
		else
			add_piece(q, &seg);
	}
	/* The batch first; what has to be waited for is found again after it. */
	return q->n ? 0 : rc;
}

/* Go on with a read or write. */
static void step(struct vreq *q)
{
	struct vhd_image *v = q->b->v;
	unsigned n;
	int rc;

	pthread_mutex_lock(&v->lock);
	rc = make_batch(q);
	pthread_mutex_unlock(&v->lock);
	if (rc) {
		vhd_work_give(q->b->work, &q->job);
		return;
	}
	n = q->pending = q->n;
	if (!n && q->req->op == BLK_WRITE && q->req->fua && v->file[0]->type != VHD_FIXED)
		flush(q);
	else if (!n)
		finish(q, 0);
	for (unsigned i = 0; i < n; i++)
		ring_submit(q->b->ring, &q->piece[i].op);
}

static struct vreq *get_req(struct vblk_vhd *b)
{
	struct vreq *q = b->pool;

	if (q)
		b->pool = q->next;
	else
		q = malloc(sizeof(*q));
	return q;
}

static void begin(struct vblk_vhd *b, struct blk_req *r)
{
	struct vreq *q = get_req(b);

	if (!q) {
		r->done(r, -ENOMEM);
		return;
	}
	q->b = b;
	q->req = r;
	q->at = 0;
	q->n = q->pending = 0;
	q->counted = 0;
	q->status = 0;
	b->active++;
	b->changing += changes(r) ? 1 : 0;
	if (r->op == BLK_FLUSH) {
		flush(q);
	} else if (r->op == BLK_READ || r->op == BLK_WRITE) {
		step(q);
	} else {
		q->job = (struct vhd_job){.kind = VHD_JOB_ERASE,
					  .off = r->offset,
					  .len = r->len,
					  .done = on_over};
		vhd_work_give(b->work, &q->job);
	}
}

static void vhd_submit(void *self, struct blk_req *r)
{
	struct vblk_vhd *b = self;

	if (changes(r) && !b->v->write) {
		r->done(r, -EROFS);
	} else if (!r->len && r->op != BLK_FLUSH) {
		r->done(r, 0);
	} else if (b->held && changes(r)) {
		r->next = NULL;
		*b->waiting_tail = r;
		b->waiting_tail = &r->next;
	} else {
		begin(b, r);
	}
}

void vhd_blk_hold(struct blk blk, void (*drained)(void *arg), void *arg)
{
	struct vblk_vhd *b = blk.self;

	b->held = 1;
	b->drained = drained;
	b->drained_arg = arg;
	maybe_drained(b);
}

void vhd_blk_release(struct blk blk)
{
	struct vblk_vhd *b = blk.self;
	struct blk_req *r, *next;

	b->held = 0;
	b->drained = NULL;
	r = b->waiting;
	b->waiting = NULL;
	b->waiting_tail = &b->waiting;
	for (; r; r = next) {
		next = r->next;
		/* It may end, and be held again, in here. */
		vhd_submit(b, r);
	}
}

static uint64_t vhd_blk_capacity(void *self)
{
	return ((struct vblk_vhd *)self)->v->capacity;
}

static void vhd_blk_close(void *self)
{
	struct vblk_vhd *b = self;
	struct vreq *q;

	vhd_blk_release((struct blk){.self = b});
	/* What one has done may give the other work again. */
	while (b->active) {
		ring_drain(b->ring);
		(void)vhd_work_wait(b->work); /* how many does not matter */
	}
	vhd_work_destroy(b->work);
	ring_close(b->ring);
	while ((q = b->pool)) {
		b->pool = q->next;
		free(q);
	}
	free(b);
}

static const struct blk_ops vhd_blk_ops = {
	.name = "vhd",
	.submit = vhd_submit,
	.capacity = vhd_blk_capacity,
	.close = vhd_blk_close,
};

int vhd_blk_open(struct vhd_image *v, struct loop *loop, struct blk *blk_out,
		 struct err *err)
{
	struct vblk_vhd *b = calloc(1, sizeof(*b));
	int rc;

	*blk_out = (struct blk){0};
	if (!b)
		return err_set(err, -ENOMEM, "VHD: out of memory");
	b->v = v;
	b->waiting_tail = &b->waiting;
	rc = ring_open(loop, &b->ring, err);
	rc = rc ? rc : vhd_work_create(v, loop, &b->work, err);
	if (rc) {
		vhd_blk_close(b);
		return rc;
	}
	*blk_out = (struct blk){.ops = &vhd_blk_ops, .self = b};
	return 0;
}
