/* SPDX-License-Identifier: Apache-2.0
 * shield - errors of an image: held, tried again, answered, told.
 */
#include "hv/shield.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A request given to the image in the place of the user's own. */
struct shield_req {
	struct blk_req r; /* first */
	struct shield *h;
	struct blk_req *outer;
	int status;		 /* held: why */
	struct shield_req *next; /* held, in order; or in the pool */
};

struct shield {
	struct blk inner;
	struct img img; /* what shield_img() was given */
	struct loop *loop;
	struct event *retry;
	struct shield_news news;
	struct shield_req *held, **held_tail, *pool;
	atomic_int all;
	atomic_int owed; /* -errno that a flush by somebody else was told; 0: none */
	int closing;
	uint64_t told_ns;
	enum shield_what told;
	pthread_mutex_t lock; /* of the stats */
	struct shield_stats stats;
};

static int is_full(const struct shield_req *q, int status)
{
	return (status == -ENOSPC || status == -EDQUOT) && q->r.op != BLK_FLUSH;
}

static int is_fault(int status)
{
	switch (status) {
	case 0:
	case -EOPNOTSUPP:
	case -EINVAL:
	case -EROFS:
	case -ENOMEM:
	case -EAGAIN:
		return 0;
	default:
		return 1;
	}
}

static void tell(struct shield *h, const struct shield_fault *f)
{
	uint64_t now = clock_mono_ns();

	if (f->what == h->told && (f->what == SHIELD_MENDED ||
				   now - h->told_ns < SHIELD_TELL_MS * UINT64_C(1000000)))
		return;
	h->told = f->what;
	h->told_ns = now;
	if (h->news.fn)
		h->news.fn(h->news.arg, f);
}

static void note(struct shield *h, const struct shield_req *q, enum shield_what what,
		 int status)
{
	const struct shield_fault f = {
		.what = what, .op = q->r.op, .offset = q->r.offset, .rc = status};

	pthread_mutex_lock(&h->lock);
	h->stats.errors++;
	h->stats.answered += what == SHIELD_ANSWERED;
	h->stats.last = f;
	pthread_mutex_unlock(&h->lock);
	tell(h, &f);
}

static void count_waiting(struct shield *h, int more)
{
	pthread_mutex_lock(&h->lock);
	h->stats.waiting += (unsigned)more;
	pthread_mutex_unlock(&h->lock);
}

static void arm(struct shield *h)
{
	static const struct timeval pause = {.tv_sec = SHIELD_RETRY_MS / 1000,
					     .tv_usec = SHIELD_RETRY_MS % 1000 * 1000};

	/* Memory for a timer is there from the start: cannot fail. */
	if (!evtimer_pending(h->retry, NULL))
		(void)evtimer_add(h->retry, &pause);
}

static void keep(struct shield *h, struct shield_req *q, int status)
{
	q->status = status;
	q->next = NULL;
	*h->held_tail = q;
	h->held_tail = &q->next;
	count_waiting(h, 1);
	arm(h);
}

static void give_back(struct shield *h, struct shield_req *q, int status)
{
	struct blk_req *outer = q->outer;

	q->next = h->pool;
	h->pool = q;
	outer->done(outer, status);
}

static void judge(struct shield *h, struct shield_req *q, int status)
{
	int full = is_full(q, status), all = atomic_load(&h->all);

	if (is_fault(status) && !h->closing && (full || all)) {
		note(h, q, full && !all ? SHIELD_FULL : SHIELD_HELD, status);
		keep(h, q, status);
		return;
	}
	if (is_fault(status))
		note(h, q, SHIELD_ANSWERED, status);
	give_back(h, q, status);
}

static void on_done(struct blk_req *r, int status)
{
	struct shield_req *q = (struct shield_req *)r;
	struct shield *h = q->h;

	if (!status && r->op == BLK_FLUSH)
		status = atomic_exchange(&h->owed, 0);
	judge(h, q, status);
}

/* Those that fail again are held again, behind this list. */
static void try_again(struct shield *h)
{
	struct shield_req *q = h->held, *next;

	h->held = NULL;
	h->held_tail = &h->held;
	for (; q; q = next) {
		next = q->next;
		count_waiting(h, -1);
		if (q->r.op != BLK_FLUSH)
			h->inner.ops->submit(h->inner.self, &q->r);
		else if (atomic_load(&h->all))
			keep(h, q, q->status);
		else
			judge(h, q, q->status);
	}
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	const struct shield_fault mended = {.what = SHIELD_MENDED};
	struct shield *h = arg;

	loop_enter(h->loop);
	if (h->held) {
		try_again(h);
		arm(h);
	} else {
		/* None of those that were tried last time has come back. */
		tell(h, &mended);
	}
	loop_leave(h->loop);
}

static struct shield_req *get_req(struct shield *h)
{
	struct shield_req *q = h->pool;

	if (q)
		h->pool = q->next;
	else
		q = malloc(sizeof(*q));
	return q;
}

static void shield_submit(void *self, struct blk_req *r)
{
	struct shield *h = self;
	struct shield_req *q = get_req(h);

	if (!q) {
		r->done(r, -ENOMEM);
		return;
	}
	*q = (struct shield_req){.r = *r, .h = h, .outer = r};
	q->r.done = on_done;
	q->r.next = NULL;
	q->r.backend_priv = NULL;
	h->inner.ops->submit(h->inner.self, &q->r);
}

static uint64_t shield_capacity(void *self)
{
	struct shield *h = self;

	return h->inner.ops->capacity(h->inner.self);
}

static void shield_free(struct shield *h)
{
	struct shield_req *q;

	while ((q = h->pool)) {
		h->pool = q->next;
		free(q);
	}
	if (h->retry)
		event_free(h->retry);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

static void shield_close(void *self)
{
	struct shield *h = self;
	struct shield_req *q;

	h->closing = 1;
	while ((q = h->held)) {
		h->held = q->next;
		give_back(h, q, q->status);
	}
	h->inner.ops->close(h->inner.self);
	shield_free(h);
}

static const struct blk_ops shield_ops = {
	.name = "held",
	.submit = shield_submit,
	.capacity = shield_capacity,
	.close = shield_close,
};

int shield_create(struct blk inner, struct loop *loop, struct shield_news news,
		  struct shield **h_out, struct blk *outer_out, struct err *err)
{
	struct shield *h = calloc(1, sizeof(*h));

	*h_out = NULL;
	if (h) {
		*h = (struct shield){.inner = inner,
				     .loop = loop,
				     .news = news,
				     .told = SHIELD_MENDED};
		h->held_tail = &h->held;
		pthread_mutex_init(&h->lock, NULL);
		h->retry = evtimer_new(loop_base(loop), on_retry, h);
	}
	if (!h || !h->retry) {
		inner.ops->close(inner.self);
		if (h)
			shield_free(h);
		return err_set(err, -ENOMEM, "disk: out of memory");
	}
	*h_out = h;
	*outer_out = (struct blk){.ops = &shield_ops, .self = h};
	return 0;
}

static int img_read_through(void *self, void *p, uint64_t len, uint64_t offset)
{
	return img_read(((struct shield *)self)->img, p, len, offset);
}

static int img_write_through(void *self, const void *p, uint64_t len, uint64_t offset)
{
	return img_write(((struct shield *)self)->img, p, len, offset);
}

static int img_erase_through(void *self, uint64_t offset, uint64_t len)
{
	return img_erase(((struct shield *)self)->img, offset, len);
}

static uint64_t img_data_through(void *self, uint64_t offset)
{
	return img_data(((struct shield *)self)->img, offset);
}

static int img_sync_owing(void *self)
{
	struct shield *h = self;
	int rc = img_sync(h->img);

	if (is_fault(rc))
		atomic_store(&h->owed, rc);
	return rc;
}

static int img_size_through(void *self, uint64_t *bytes_out)
{
	return img_size(((struct shield *)self)->img, bytes_out);
}

static int img_resize_through(void *self, uint64_t bytes)
{
	return img_resize(((struct shield *)self)->img, bytes);
}

static const struct img_ops img_through = {
	.name = "held",
	.read = img_read_through,
	.write = img_write_through,
	.erase = img_erase_through,
	.data = img_data_through,
	.sync = img_sync_owing,
	.size = img_size_through,
	.resize = img_resize_through,
};

struct img shield_img(struct shield *h, struct img inner)
{
	h->img = inner;
	return (struct img){.ops = &img_through, .self = h};
}

void shield_all(struct shield *h, int all)
{
	atomic_store(&h->all, all);
}

void shield_stats(struct shield *h, struct shield_stats *out)
{
	pthread_mutex_lock(&h->lock);
	*out = h->stats;
	pthread_mutex_unlock(&h->lock);
}
