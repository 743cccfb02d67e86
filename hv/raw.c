/* SPDX-License-Identifier: Apache-2.0
 * raw - a raw image or block device: requests go to the ring as they are.
 */
#include "hv/blk.h"

#include "hv/base/err.h"
#include "hv/img.h"
#include "hv/ring.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { SECTOR = 512 };

/* One request on its way. */
struct raw_op {
	struct ring_op op; /* first */
	struct raw *raw;
	struct blk_req *req;
	struct raw_op *next; /* in the pool */
};

struct raw {
	int fd;
	uint64_t bytes;
	struct ring *ring;
	struct raw_op *pool;
};

static void on_done(struct ring_op *op, int status)
{
	struct raw_op *o = (struct raw_op *)op;
	struct blk_req *req = o->req;

	/* In the pool before done(), which may submit the next. */
	o->next = o->raw->pool;
	o->raw->pool = o;
	req->done(req, status);
}

static struct raw_op *get_op(struct raw *w)
{
	struct raw_op *o = w->pool;

	if (o)
		w->pool = o->next;
	else
		o = malloc(sizeof(*o));
	return o;
}

static void raw_submit(void *self, struct blk_req *r)
{
	struct raw *w = self;
	struct raw_op *o;

	if (!r->len && r->op != BLK_FLUSH) {
		r->done(r, 0);
		return;
	}
	o = get_op(w);
	if (!o) {
		r->done(r, -ENOMEM);
		return;
	}
	*o = (struct raw_op){
		.op = {.op = r->op,
		       .fd = w->fd,
		       .offset = r->offset,
		       .len = r->len,
		       .bytes = r->data ? r->data->bytes : NULL,
		       .fua = r->fua,
		       .done = on_done},
		.raw = w,
		.req = r,
	};
	ring_submit(w->ring, &o->op);
}

/* The file may have grown since it was opened. */
static uint64_t raw_capacity(void *self)
{
	struct raw *w = self;
	uint64_t n;

	if (!img_size(img_of_fd(w->fd), &n))
		w->bytes = n & ~(uint64_t)(SECTOR - 1);
	return w->bytes;
}

static void raw_close(void *self)
{
	struct raw *w = self;
	struct raw_op *o;

	if (w->ring)
		ring_drain(w->ring);
	ring_close(w->ring);
	while ((o = w->pool)) {
		w->pool = o->next;
		free(o);
	}
	if (w->fd >= 0)
		close(w->fd);
	free(w);
}

static const struct blk_ops raw_ops = {
	.name = "raw",
	.submit = raw_submit,
	.capacity = raw_capacity,
	.close = raw_close,
};

static int find_size(struct raw *w, struct err *err)
{
	uint64_t n;
	int rc = img_size(img_of_fd(w->fd), &n);

	if (rc == -EINVAL)
		return err_set(err, rc, "disk image: neither a file nor a block device");
	if (rc)
		return err_sys(err, rc, "disk image: its size");
	w->bytes = n & ~(uint64_t)(SECTOR - 1);
	if (!w->bytes)
		return err_set(err, -EINVAL, "disk image: it is empty");
	return 0;
}

int raw_open(int fd, struct loop *loop, struct blk *blk_out, struct err *err)
{
	struct raw *w = calloc(1, sizeof(*w));
	int rc;

	*blk_out = (struct blk){0};
	if (!w) {
		close(fd);
		return err_set(err, -ENOMEM, "disk image: out of memory");
	}
	*w = (struct raw){.fd = fd};
	rc = find_size(w, err);
	if (!rc)
		rc = ring_open(loop, &w->ring, err);
	if (rc) {
		raw_close(w);
		return rc;
	}
	*blk_out = (struct blk){.ops = &raw_ops, .self = w};
	return 0;
}
