/* SPDX-License-Identifier: Apache-2.0
 * kit_slow - a disk of a known speed.
 */
#include "tests/bench/kit_slow.h"

#include "tests/bench/kit.h"

#include "hv/base/clock.h"
#include "hv/base/loop.h"

#include <event2/event.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

struct slow {
	struct blk inner;
	struct loop *loop;
	struct event *ev;
	int fd;
	uint64_t ns, bytes_s;
	uint64_t free_at; /* ns: the last request is served */
	struct slow_req *first, **tail;
};

struct slow_req {
	struct blk_req r; /* first */
	struct blk_req *outer;
	struct slow *s;
	struct slow_req *next;
	uint64_t due;
	int done, status;
};

static void set_timer(struct slow *s)
{
	struct itimerspec t = {0};

	if (s->first)
		t.it_value =
			(struct timespec){.tv_sec = (time_t)(s->first->due / 1000000000),
					  .tv_nsec = (long)(s->first->due % 1000000000)};
	if (timerfd_settime(s->fd, TFD_TIMER_ABSTIME, &t, NULL))
		kit_die("timerfd", NULL);
}

static void finish(struct slow *s)
{
	struct slow_req *q;

	while ((q = s->first) && q->done && q->due <= clock_mono_ns()) {
		s->first = q->next;
		if (!s->first)
			s->tail = &s->first;
		q->outer->done(q->outer, q->status);
		free(q);
	}
	if (s->first && !s->first->done)
		return; /* its end comes back here */
	set_timer(s);
}

static void on_done(struct blk_req *r, int status)
{
	struct slow_req *q = (struct slow_req *)r;

	q->done = 1;
	q->status = status;
	if (q == q->s->first)
		finish(q->s);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct slow *s = arg;
	uint64_t n;

	if (read(fd, &n, sizeof(n)) < 0) {
		/* EAGAIN: it was set anew meanwhile. */
	}
	loop_enter(s->loop);
	finish(s);
	loop_leave(s->loop);
}

static void slow_submit(void *self, struct blk_req *outer)
{
	struct slow *s = self;
	struct slow_req *q = malloc(sizeof(*q));
	uint64_t now = clock_mono_ns(), takes = outer->len * 1000000000ull / s->bytes_s;

	if (!q)
		kit_die("memory", NULL);
	*q = (struct slow_req){.r = *outer, .outer = outer, .s = s};
	q->r.done = on_done;
	takes = takes > s->ns ? takes : s->ns;
	s->free_at = (s->free_at > now ? s->free_at : now) +
		     (outer->op == BLK_FLUSH ? 0 : takes);
	q->due = s->free_at;
	*s->tail = q;
	s->tail = &q->next;
	s->inner.ops->submit(s->inner.self, &q->r);
}

static uint64_t slow_capacity(void *self)
{
	struct slow *s = self;

	return s->inner.ops->capacity(s->inner.self);
}

static void slow_close(void *self)
{
	struct slow *s = self;

	/* What is in flight ends now, late or not. */
	for (struct slow_req *q = s->first; q; q = q->next)
		q->due = 0;
	s->inner.ops->close(s->inner.self);
	finish(s);
	event_free(s->ev);
	close(s->fd);
	free(s);
}

static const struct blk_ops slow_ops = {
	.name = "slow",
	.submit = slow_submit,
	.capacity = slow_capacity,
	.close = slow_close,
};

struct blk kit_slow(struct blk inner, struct loop *loop, unsigned us, uint64_t bytes_s)
{
	struct slow *s = calloc(1, sizeof(*s));

	if (!s)
		kit_die("memory", NULL);
	*s = (struct slow){
		.inner = inner, .loop = loop, .ns = us * 1000ull, .bytes_s = bytes_s};
	s->tail = &s->first;
	s->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (s->fd < 0)
		kit_die("timerfd", NULL);
	s->ev = event_new(loop_base(loop), s->fd, EV_READ | EV_PERSIST, on_timer, s);
	if (!s->ev || event_add(s->ev, NULL))
		kit_die("an event", NULL);
	return (struct blk){.ops = &slow_ops, .self = s};
}
