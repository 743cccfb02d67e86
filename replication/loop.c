/* SPDX-License-Identifier: Apache-2.0
 * loop - a transport inside one process: two rings of bytes, one for each direction.
 */
#include "replication/transport.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Bytes under way from one end to the other. */
struct ring {
	uint8_t *data;
	size_t cap, head, len; /* the oldest byte is at head */
	int end;	       /* 0, or what the reader gets after the last byte */
	int dead;	       /* 0, or what the writer gets: nobody will read */
};

/* Shared by both ends, freed by the second close. One lock: this is for tests and for
 * drills, where a simple truth is worth more than the last bit of speed. */
struct pair {
	pthread_mutex_t lock;
	pthread_cond_t change;
	struct ring ring[2]; /* ring[i] is written by end i */
	int open;
};

struct loop_tp {
	struct tp tp;
	struct pair *pair;
	int side;
	int down;   /* tp_shutdown() was called here */
	int failed; /* what a send met; the sender's */
};

static struct loop_tp *of(struct tp *tp)
{
	return (struct loop_tp *)tp;
}

static void deadline_after(struct timespec *ts, unsigned ms)
{
	(void)clock_gettime(CLOCK_MONOTONIC, ts); /* cannot fail for this clock */
	ts->tv_sec += ms / 1000;
	ts->tv_nsec += (long)(ms % 1000) * 1000000;
	if (ts->tv_nsec >= 1000000000) {
		ts->tv_sec++;
		ts->tv_nsec -= 1000000000;
	}
}

/* Wait until the ring has room. Locked. */
static int wait_room(struct loop_tp *l, struct ring *r)
{
	struct timespec until;
	int rc = 0;

	deadline_after(&until, l->tp.send_timeout_ms);
	while (r->len == r->cap && !r->dead && !l->down && !rc)
		rc = -pthread_cond_timedwait(&l->pair->change, &l->pair->lock, &until);
	if (l->down)
		return -ESHUTDOWN;
	if (r->dead)
		return r->dead;
	return r->len == r->cap ? rc : 0;
}

/* Put as much of @len bytes as there is room for; returns the count. Locked. */
static size_t ring_put(struct ring *r, const uint8_t *p, size_t len)
{
	size_t tail = (r->head + r->len) % r->cap, n = r->cap - r->len, first;

	n = n < len ? n : len;
	first = r->cap - tail < n ? r->cap - tail : n;
	memcpy(r->data + tail, p, first);
	memcpy(r->data, p + first, n - first);
	r->len += n;
	return n;
}

static size_t ring_get(struct ring *r, uint8_t *p, size_t len)
{
	size_t n = r->len < len ? r->len : len, first;

	first = r->cap - r->head < n ? r->cap - r->head : n;
	memcpy(p, r->data + r->head, first);
	memcpy(p + first, r->data, n - first);
	r->head = (r->head + n) % r->cap;
	r->len -= n;
	return n;
}

static int loop_send(struct tp *tp, const struct iovec *iov, int n)
{
	struct loop_tp *l = of(tp);
	struct ring *r = &l->pair->ring[l->side];
	int rc = 0;

	pthread_mutex_lock(&l->pair->lock);
	for (int i = 0; i < n && !rc; i++) {
		const uint8_t *p = iov[i].iov_base;
		size_t left = iov[i].iov_len, took;

		while (left && !(rc = wait_room(l, r))) {
			took = ring_put(r, p, left);
			p += took;
			left -= took;
			tp->bytes_sent += took;
			pthread_cond_broadcast(&l->pair->change);
		}
	}
	if (rc && !r->dead) {
		/* Half a send may be in the ring: the stream is not whole any more. */
		r->dead = rc;
		r->end = -ECONNRESET;
		pthread_cond_broadcast(&l->pair->change);
	}
	pthread_mutex_unlock(&l->pair->lock);
	l->failed = l->failed ? l->failed : rc;
	return rc;
}

/* Nothing is kept back: a peer that has read all of it may be gone by now, in good order. */
static int loop_flush(struct tp *tp)
{
	struct loop_tp *l = of(tp);
	int rc;

	pthread_mutex_lock(&l->pair->lock);
	rc = l->down ? -ESHUTDOWN : l->failed;
	pthread_mutex_unlock(&l->pair->lock);
	return rc;
}

static int loop_recv(struct tp *tp, void *p, size_t len)
{
	struct loop_tp *l = of(tp);
	struct ring *r = &l->pair->ring[!l->side];
	size_t done = 0, n;
	int rc = 0;

	pthread_mutex_lock(&l->pair->lock);
	while (done < len) {
		if (l->down) {
			rc = -ESHUTDOWN;
			break;
		}
		n = ring_get(r, (uint8_t *)p + done, len - done);
		done += n;
		if (n) {
			tp->heard_ns = clock_mono_ns();
			pthread_cond_broadcast(&l->pair->change);
		} else if (r->end) {
			rc = r->end == -EPIPE && done ? -ECONNRESET : r->end;
			r->end = rc;
			break;
		} else {
			pthread_cond_wait(&l->pair->change, &l->pair->lock);
		}
	}
	tp->bytes_received += done;
	pthread_mutex_unlock(&l->pair->lock);
	return rc;
}

/* The other end reads what is there and then @end; what it sends gets nowhere. Locked. */
static void leave(struct loop_tp *l, int end)
{
	struct ring *out = &l->pair->ring[l->side], *in = &l->pair->ring[!l->side];

	if (!out->end)
		out->end = end;
	if (!in->dead)
		in->dead = -ECONNRESET;
	pthread_cond_broadcast(&l->pair->change);
}

static void loop_shutdown(struct tp *tp)
{
	struct loop_tp *l = of(tp);

	pthread_mutex_lock(&l->pair->lock);
	l->down = 1;
	leave(l, -ECONNRESET);
	pthread_mutex_unlock(&l->pair->lock);
}

static void pair_free(struct pair *p)
{
	if (!p)
		return;
	pthread_cond_destroy(&p->change);
	pthread_mutex_destroy(&p->lock);
	free(p->ring[0].data);
	free(p->ring[1].data);
	free(p);
}

static void loop_close(struct tp *tp)
{
	struct loop_tp *l = of(tp);
	int last;

	pthread_mutex_lock(&l->pair->lock);
	leave(l, -EPIPE);
	last = --l->pair->open == 0;
	pthread_mutex_unlock(&l->pair->lock);
	if (last)
		pair_free(l->pair);
	free(l);
}

static const struct tp_ops loop_ops = {
	.name = "loop",
	.send = loop_send,
	.flush = loop_flush,
	.recv = loop_recv,
	.shutdown = loop_shutdown,
	.loss = tp_loss_unseen,
	.close = loop_close,
};

static struct pair *pair_new(size_t bytes)
{
	struct pair *p = calloc(1, sizeof(*p));
	pthread_condattr_t at;

	if (!p)
		return NULL;
	/* Plain initialisation of these cannot fail on Linux. */
	pthread_mutex_init(&p->lock, NULL);
	pthread_condattr_init(&at);
	pthread_condattr_setclock(&at, CLOCK_MONOTONIC);
	pthread_cond_init(&p->change, &at);
	pthread_condattr_destroy(&at);
	p->open = 2;
	for (int i = 0; i < 2; i++) {
		p->ring[i].cap = bytes;
		p->ring[i].data = malloc(bytes);
		if (!p->ring[i].data) {
			pair_free(p);
			return NULL;
		}
	}
	return p;
}

int tp_loop_pair(size_t bytes, struct tp *ends_out[2], struct err *err)
{
	struct loop_tp *end[2] = {calloc(1, sizeof(*end[0])), calloc(1, sizeof(*end[0]))};
	struct pair *p = bytes ? pair_new(bytes) : NULL;

	if (!end[0] || !end[1] || !p) {
		free(end[0]);
		free(end[1]);
		pair_free(p);
		return err_set(err, bytes ? -ENOMEM : -EINVAL,
			       "in-process link with %zu bytes of buffer", bytes);
	}
	for (int i = 0; i < 2; i++) {
		*end[i] = (struct loop_tp){
			.tp = {.ops = &loop_ops, .send_timeout_ms = TP_SEND_TIMEOUT_MS},
			.pair = p,
			.side = i,
		};
		ends_out[i] = &end[i]->tp;
	}
	return 0;
}
