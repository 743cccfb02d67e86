/* SPDX-License-Identifier: Apache-2.0
 * fault - a layer over any transport that does harm on purpose: for tests and for drills.
 */
#include "replication/transport.h"

#include "hv/base/err.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct fault_tp {
	struct tp tp;
	struct tp *inner;
	pthread_mutex_t
		lock; /* what follows; never held while the inner transport works */
	pthread_cond_t change;
	struct tp_fault f;
	uint64_t sent; /* bytes that were to go out */
	int flipped, stalled, cut, down;
	int hole; /* bytes have vanished: what came after them would make no sense */
};

static const struct tp_ops fault_ops;

static struct fault_tp *of(struct tp *tp)
{
	assert(tp->ops == &fault_ops);
	return (struct fault_tp *)tp;
}

static size_t total_of(const struct iovec *iov, int n)
{
	size_t total = 0;

	for (int i = 0; i < n; i++)
		total += iov[i].iov_len;
	return total;
}

/* Held back, unless the link is shut down meanwhile. Locked. */
static void hold_back(struct fault_tp *t)
{
	struct timespec until;
	int rc = 0;

	(void)clock_gettime(CLOCK_MONOTONIC, &until); /* cannot fail for this clock */
	until.tv_nsec += (long)(t->f.delay_us % 1000000) * 1000;
	until.tv_sec += t->f.delay_us / 1000000 + until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	while (!rc && !t->down)
		rc = pthread_cond_timedwait(&t->change, &t->lock, &until);
}

/* Is @mark reached with the next @len bytes? Then *at_out is where. Locked. */
static int due(const struct fault_tp *t, uint64_t mark, size_t len, size_t *at_out)
{
	if (!mark || mark > t->sent + len)
		return 0;
	*at_out = mark > t->sent ? (size_t)(mark - t->sent) : 0;
	return 1;
}

/* What is to be done to the next @len bytes. */
struct harm {
	size_t flip_at; /* SIZE_MAX: nowhere */
	size_t pass;	/* bytes that get through */
	int cut;
};

static struct harm harm_of(struct fault_tp *t, size_t len)
{
	struct harm h = {.flip_at = SIZE_MAX, .pass = len};
	size_t at;

	if (!t->flipped && due(t, t->f.flip_after, len, &at) && at < len) {
		h.flip_at = at;
		t->flipped = 1;
	}
	if (due(t, t->f.stall_after, len, &at)) {
		h.pass = at;
		t->stalled = 1;
		t->hole |= at < len;
	}
	if (due(t, t->f.cut_after, len, &at) && at <= h.pass) {
		h.pass = at;
		h.cut = t->cut = 1;
	}
	t->sent += len;
	return h;
}

static int send_harmed(struct fault_tp *t, const struct iovec *iov, int n, size_t len,
		       const struct harm *h)
{
	uint8_t *all = malloc(len ? len : 1), *p = all;
	struct iovec v = {.iov_base = all, .iov_len = h->pass};
	int rc;

	if (!all)
		return -ENOMEM;
	for (int i = 0; i < n; i++) {
		if (iov[i].iov_len)
			memcpy(p, iov[i].iov_base, iov[i].iov_len);
		p += iov[i].iov_len;
	}
	if (h->flip_at < len)
		all[h->flip_at] ^= 0x10;
	rc = tp_send(t->inner, &v, 1);
	free(all);
	if (!h->cut)
		return rc;
	if (!rc)
		rc = tp_flush(t->inner);
	tp_shutdown(t->inner);
	return rc ? rc : -ECONNRESET;
}

static int fault_send(struct tp *tp, const struct iovec *iov, int n)
{
	struct fault_tp *t = of(tp);
	size_t len = total_of(iov, n);
	struct harm h;
	int rc;

	pthread_mutex_lock(&t->lock);
	if (t->f.delay_us)
		hold_back(t);
	/* Who was held back while it was shut down may find the inner transport still up. */
	rc = t->cut ? -ECONNRESET : t->down ? -ESHUTDOWN : 0;
	h = harm_of(t, len);
	pthread_mutex_unlock(&t->lock);
	if (rc)
		return rc;
	tp->bytes_sent += len;
	t->inner->send_timeout_ms = tp->send_timeout_ms;
	if (h.pass == len && h.flip_at >= len && !h.cut)
		return tp_send(t->inner, iov, n);
	return send_harmed(t, iov, n, len, &h);
}

static int fault_flush(struct tp *tp)
{
	return tp_flush(of(tp)->inner);
}

static int fault_recv(struct tp *tp, void *p, size_t len)
{
	struct fault_tp *t = of(tp);
	int rc = tp_recv(t->inner, p, len);

	pthread_mutex_lock(&t->lock);
	/* With the cable pulled not even the end of the link is heard of. */
	while (t->stalled && !t->down)
		pthread_cond_wait(&t->change, &t->lock);
	if (t->down)
		rc = -ESHUTDOWN;
	else if (rc && t->cut)
		rc = -ECONNRESET;
	pthread_mutex_unlock(&t->lock);
	if (!rc)
		tp->bytes_received += len;
	return rc;
}

static void fault_shutdown(struct tp *tp)
{
	struct fault_tp *t = of(tp);

	pthread_mutex_lock(&t->lock);
	t->down = 1;
	pthread_cond_broadcast(&t->change);
	pthread_mutex_unlock(&t->lock);
	tp_shutdown(t->inner);
}

/* Where a cable is pulled, what comes in is not heard: fault_recv() keeps it back. */
static uint64_t fault_heard(struct tp *tp)
{
	struct fault_tp *t = of(tp);
	uint64_t heard;

	pthread_mutex_lock(&t->lock);
	heard = t->stalled ? 0 : tp_heard(t->inner);
	pthread_mutex_unlock(&t->lock);
	return heard;
}

static void fault_loss(struct tp *tp, struct tp_loss *out)
{
	tp_loss(of(tp)->inner, out);
}

static void fault_close(struct tp *tp)
{
	struct fault_tp *t = of(tp);

	tp_close(t->inner);
	pthread_cond_destroy(&t->change);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static const struct tp_ops fault_ops = {
	.name = "fault",
	.send = fault_send,
	.flush = fault_flush,
	.recv = fault_recv,
	.shutdown = fault_shutdown,
	.heard = fault_heard,
	.loss = fault_loss,
	.close = fault_close,
};

int tp_fault_wrap(struct tp *inner, const struct tp_fault *f, struct tp **tp_out,
		  struct err *err)
{
	struct fault_tp *t = calloc(1, sizeof(*t));
	pthread_condattr_t at;

	if (!t) {
		tp_close(inner); /* taken */
		return err_set(err, -ENOMEM, "no memory for a fault layer");
	}
	t->tp.ops = &fault_ops;
	t->tp.send_timeout_ms = inner->send_timeout_ms;
	t->inner = inner;
	t->f = *f;
	/* Plain initialisation of these cannot fail on Linux. */
	pthread_mutex_init(&t->lock, NULL);
	pthread_condattr_init(&at);
	pthread_condattr_setclock(&at, CLOCK_MONOTONIC);
	pthread_cond_init(&t->change, &at);
	pthread_condattr_destroy(&at);
	*tp_out = &t->tp;
	return 0;
}

void tp_fault_set(struct tp *tp, const struct tp_fault *f)
{
	struct fault_tp *t = of(tp);
	int cut;

	pthread_mutex_lock(&t->lock);
	t->f = *f;
	t->flipped = 0;
	t->stalled = f->stall_after && f->stall_after <= t->sent;
	cut = (f->cut_after && f->cut_after <= t->sent) || (t->hole && !t->stalled);
	t->cut |= cut;
	pthread_cond_broadcast(&t->change);
	pthread_mutex_unlock(&t->lock);
	if (cut)
		tp_shutdown(t->inner);
}
