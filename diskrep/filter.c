/* SPDX-License-Identifier: Apache-2.0
 * filter - between virtio-blk and the image: what is written is also noted for the standby.
 */
#include "diskrep/dr.h"

#include "hv/base/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static void on_done(struct blk_req *r, int status);

struct dr_entry dr_entry_of(const struct dr_req *q)
{
	const struct blk_req *r = &q->r;

	return (struct dr_entry){
		.op = r->op == BLK_WRITE     ? DR_WRITE
		      : r->op == BLK_DISCARD ? DR_DISCARD
					     : DR_ZEROES,
		.disk = q->disk->index,
		.offset = r->offset,
		.len = r->len,
		.data = r->op == BLK_WRITE ? r->data : NULL,
	};
}

static int overlaps(const struct diskrep *dr, const struct dr_disk *d,
		    const struct blk_req *r)
{
	for (const struct blk_req *c = dr->cold; c; c = c->next)
		if (c->backend_priv == d && r->offset < c->offset + c->len &&
		    c->offset < r->offset + r->len)
			return 1;
	for (const struct dr_req *q = dr->first; q; q = q->next)
		if (q->disk == d && r->offset < q->r.offset + q->r.len &&
		    q->r.offset < r->offset + r->len)
			return 1;
	return 0;
}

/* Would it go over the limit? One request is always let through, however small the limit. */
static int list_full(const struct diskrep *dr, const struct blk_req *r)
{
	uint64_t cost = DR_ENTRY_COST + (r->op == BLK_WRITE ? r->len : 0);

	return dr->mode == DR_ON && dr->queued && dr->queued + cost > dr->limit;
}

/* Under lock. */
static int must_wait(const struct diskrep *dr, const struct dr_disk *d,
		     const struct blk_req *r, const char **why)
{
	if (list_full(dr, r)) {
		*why = "the disk buffer is full";
		return 1;
	}
	return dr_sync_behind(dr) || overlaps(dr, d, r);
}

/* Under lock: from here on it is in flight, and in the running epoch. */
static void admit(struct diskrep *dr, struct dr_req *q, const char **why)
{
	struct dr_entry e = dr_entry_of(q);
	uint64_t before = dr->queued;

	q->next = NULL;
	q->prev = dr->last;
	if (dr->last)
		dr->last->next = q;
	else
		dr->first = q;
	dr->last = q;
	dr_verify_written(q->disk, &q->r);
	if (dr->mode != DR_ON)
		return;
	dr_list_add(dr, dr->open, &e);
	if (before < dr->limit / 2 && dr->queued >= dr->limit / 2)
		*why = "the disk buffer is half full";
}

struct dr_req *dr_req_new(struct dr_disk *d, struct blk_req *outer,
			  void (*done)(struct blk_req *r, int status))
{
	struct dr_req *q = d->dr->pool;

	if (q)
		d->dr->pool = q->next;
	else
		q = malloc(sizeof(*q));
	if (!q)
		return NULL;
	*q = (struct dr_req){.r = *outer, .outer = outer, .disk = d};
	q->r.done = done;
	q->r.next = NULL;
	q->r.backend_priv = NULL;
	return q;
}

enum start { STARTED, WAIT, COLD };

/* Under lock. */
static enum start judge(struct diskrep *dr, struct dr_disk *d, struct dr_req *q,
			const char **why)
{
	if (must_wait(dr, d, &q->r, why)) {
		dr->stalled = 1;
		return WAIT;
	}
	/* The last question, because with a yes it counts as written. */
	if (!dr_activity_admit(d, &q->r))
		return COLD;
	admit(dr, q, why);
	return STARTED;
}

/* Admit and submit unless it must wait: WAIT, for what the standby or other requests do, and then all
 * that comes later waits behind it; COLD, for the activity log. */
static enum start start(struct dr_disk *d, struct blk_req *outer)
{
	struct diskrep *dr = d->dr;
	struct dr_req *q = dr_req_new(d, outer, on_done);
	const char *why = NULL;
	enum start how;

	if (!q) {
		/* Written nowhere: both images agree, and the guest is told. */
		outer->done(outer, -ENOMEM);
		return STARTED;
	}
	pthread_mutex_lock(&dr->lock);
	how = judge(dr, d, q, &why);
	pthread_mutex_unlock(&dr->lock);
	if (how != STARTED) {
		q->next = dr->pool;
		dr->pool = q;
	}
	if (why)
		dr->trigger.request(dr->trigger.arg, why);
	if (how == STARTED)
		d->inner.ops->submit(d->inner.self, &q->r);
	return how;
}

static void put_cold(struct diskrep *dr, struct blk_req *r)
{
	struct blk_req **at = &dr->cold;

	while (*at)
		at = &(*at)->next;
	r->next = NULL;
	*at = r;
}

/* Those that are still cold, or must wait for others, stay where they are. */
static void pump_cold(struct diskrep *dr)
{
	struct blk_req *left = dr->cold, *r;

	dr->cold = NULL;
	while ((r = left)) {
		left = r->next;
		if (start(r->backend_priv, r) != STARTED)
			put_cold(dr, r);
	}
}

/* From the queue, where reads and flushes are only while nothing may go to the images. */
static enum start start_any(struct dr_disk *d, struct blk_req *r)
{
	if (dr_settled(d->dr))
		r->done(r, -EIO);
	else if (r->op == BLK_FLUSH)
		dr_activity_flush(d, r);
	else if (r->op == BLK_READ)
		d->inner.ops->submit(d->inner.self, r);
	else
		return start(d, r);
	return STARTED;
}

void dr_pump(struct diskrep *dr)
{
	struct blk_req *r;

	/* A backend may complete inside submit; one pump at a time, or the stack grows. */
	if (dr->pumping || dr_settled(dr) == -EAGAIN)
		return;
	dr->pumping = 1;
	pump_cold(dr);
	while ((r = dr->waiting)) {
		enum start how;

		/* Off the queue first: the request may be gone when start() is back. */
		dr->waiting = r->next;
		if (!dr->waiting)
			dr->waiting_tail = &dr->waiting;
		how = start_any(r->backend_priv, r);
		if (how == COLD)
			put_cold(dr, r);
		if (how != WAIT)
			continue;
		r->next = dr->waiting;
		if (!dr->waiting)
			dr->waiting_tail = &r->next;
		dr->waiting = r;
		break;
	}
	dr->pumping = 0;
}

static void on_done(struct blk_req *r, int status)
{
	struct dr_req *q = (struct dr_req *)r;
	struct diskrep *dr = q->disk->dr;
	struct blk_req *outer = q->outer;

	pthread_mutex_lock(&dr->lock);
	if (q->prev)
		q->prev->next = q->next;
	else
		dr->first = q->next;
	if (q->next)
		q->next->prev = q->prev;
	else
		dr->last = q->prev;
	/* Now that the bytes are there: see the theory of operation. */
	if (dr->mode == DR_SYNC)
		dr_mark(q->disk, r->offset, r->len);
	if (status && dr->mode == DR_ON)
		dr_redo_note(q->disk, r);
	pthread_mutex_unlock(&dr->lock);
	q->next = dr->pool;
	dr->pool = q;
	outer->done(outer, status);
	dr_pump(dr);
}

static void wait_in_line(struct dr_disk *d, struct blk_req *r)
{
	r->next = NULL;
	r->backend_priv = d;
	*d->dr->waiting_tail = r;
	d->dr->waiting_tail = &r->next;
}

static void submit_write(struct dr_disk *d, struct blk_req *r)
{
	switch (start(d, r)) {
	case WAIT:
		wait_in_line(d, r);
		break;
	case COLD:
		r->backend_priv = d;
		put_cold(d->dr, r);
		break;
	case STARTED:
		break;
	}
}

static void filter_submit(void *self, struct blk_req *r)
{
	struct dr_disk *d = self;

	if (dr_settled(d->dr)) {
		wait_in_line(d, r);
		dr_pump(d->dr);
	}
	/* A flush speaks of writes that are complete, so it need not wait for those in line. */
	else if (r->op == BLK_FLUSH)
		dr_activity_flush(d, r);
	else if (r->op == BLK_READ)
		d->inner.ops->submit(d->inner.self, r);
	else if (d->dr->waiting || d->dr->pumping)
		wait_in_line(d, r);
	else
		submit_write(d, r);
}

static uint64_t filter_capacity(void *self)
{
	struct dr_disk *d = self;

	return d->img.capacity;
}

static void filter_close(void *self)
{
	struct dr_disk *d = self;

	d->inner.ops->close(d->inner.self);
	dr_flushes_end(d);
}

const struct blk_ops dr_filter_ops = {
	.name = "replicated",
	.submit = filter_submit,
	.capacity = filter_capacity,
	.close = filter_close,
};

int dr_unstall(struct diskrep *dr)
{
	int was = dr->stalled;

	dr->stalled = 0;
	return was;
}

void dr_wake(struct diskrep *dr)
{
	uint64_t one = 1;

	if (write(dr->wake_fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is full, so the loop wakes anyway. */
	}
}
