/* SPDX-License-Identifier: Apache-2.0
 * test_session_heard - a path whose words take long is not silent while its wire is alive.
 *
 * On a slow wire what is to be read comes in for longer than the silence that is a failure: part of
 * a record, or nothing but acknowledgements. The transport says so; then no path is given up. Here it is
 * one whose recv does not return, and which says that it hears its peer, or not.
 */
#include "hv/base/clock.h"
#include "tests/unit/sesload.h"
#include "tests/unit/unit.h"

#include <poll.h>

enum { SILENCE_MS = 60 };

/* Around the client's ends of the paths. */
static atomic_int slow;	 /* what comes in is kept back */
static atomic_int alive; /* and still: it is heard that something comes */

struct slow_tp {
	struct tp tp; /* first */
	struct tp *inner;
	atomic_int down;
};

static int slow_send(struct tp *tp, const struct iovec *iov, int n)
{
	return tp_send(((struct slow_tp *)tp)->inner, iov, n);
}

static int slow_flush(struct tp *tp)
{
	return tp_flush(((struct slow_tp *)tp)->inner);
}

static int slow_recv(struct tp *tp, void *p, size_t len)
{
	struct slow_tp *t = (struct slow_tp *)tp;
	int rc = tp_recv(t->inner, p, len);

	while (atomic_load(&slow) && !atomic_load(&t->down))
		(void)poll(NULL, 0, 1); /* only a pause */
	return atomic_load(&t->down) ? -ESHUTDOWN : rc;
}

static void slow_shutdown(struct tp *tp)
{
	struct slow_tp *t = (struct slow_tp *)tp;

	atomic_store(&t->down, 1);
	tp_shutdown(t->inner);
}

static uint64_t slow_heard(struct tp *tp)
{
	return atomic_load(&alive) ? clock_mono_ns() : 0;
}

static void slow_close(struct tp *tp)
{
	tp_close(((struct slow_tp *)tp)->inner);
	free(tp);
}

static const struct tp_ops slow_ops = {
	.name = "slow",
	.send = slow_send,
	.flush = slow_flush,
	.recv = slow_recv,
	.shutdown = slow_shutdown,
	.heard = slow_heard,
	.loss = tp_loss_unseen,
	.close = slow_close,
};

static struct tp *slow_around(struct tp *inner)
{
	struct slow_tp *t = calloc(1, sizeof(*t));

	CU_ASSERT_PTR_NOT_NULL_FATAL(t);
	t->tp.ops = &slow_ops;
	t->tp.send_timeout_ms = TP_SEND_TIMEOUT_MS;
	t->inner = inner;
	return &t->tp;
}

static void test_slow(void)
{
	struct sesrig r = {.wrap = slow_around};
	struct pathsel p;
	struct load l;

	atomic_store(&slow, 0);
	atomic_store(&alive, 1);
	sesrig_up(&r, 4 * MiB, SILENCE_MS, CALM_MS);
	sesrig_wait(&r, 0, PATHSEL_IN_USE);
	sesrig_wait(&r, 1, PATHSEL_READY);
	load_start(&l, &r);
	flows(&l.in[0], MiB);
	atomic_store(&slow, 1);
	(void)poll(NULL, 0, 5 * SILENCE_MS); /* it may last: nothing is to happen */
	session_paths(r.s[0], &p);
	CU_ASSERT_EQUAL(p.in_use, 0);
	CU_ASSERT_EQUAL(p.path[0].failed, 0);
	CU_ASSERT_EQUAL(p.path[1].failed, 0);
	atomic_store(&slow, 0);
	flows(&l.in[0], 2 * MiB);
	load_end(&l, &r);
	sesrig_down(&r);
}

static void test_silent(void)
{
	struct sesrig r = {.wrap = slow_around};
	struct pathsel p;
	struct load l;

	atomic_store(&slow, 0);
	atomic_store(&alive, 1);
	sesrig_up(&r, 4 * MiB, SILENCE_MS, CALM_MS);
	sesrig_wait(&r, 0, PATHSEL_IN_USE);
	sesrig_wait(&r, 1, PATHSEL_READY);
	load_start(&l, &r);
	flows(&l.in[0], MiB);
	atomic_store(&slow, 1);
	atomic_store(&alive, 0);
	do {
		session_paths(r.s[0], &p);
		(void)poll(NULL, 0, 1); /* only a pause */
	} while (!p.path[0].failed && !atomic_load(&l.in[0].rc));
	CU_ASSERT_EQUAL(p.path[0].failed, 1);
	atomic_store(&slow, 0);
	flows(&l.in[0], 2 * MiB);
	load_end(&l, &r);
	sesrig_down(&r);
}

static const struct unit_test tests[] = {
	{"slow words are no silence", test_slow},
	{"silence is", test_silent},
};

int main(void)
{
	return UNIT_MAIN("session_heard", tests);
}
