/* SPDX-License-Identifier: Apache-2.0
 * test_stripes - several streams as one: order, and what a stream that breaks, stalls or lies does.
 *
 * The conformance cases of test_transport run over them as well.
 */
#include "hv/base/err.h"
#include "replication/stripes.h"
#include "replication/transport.h"
#include "tests/unit/link.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { STREAMS = 3, MiB = 1 << 20 };

/* Between the ends of one stream on the wire: carries all until told otherwise. */
struct wire {
	int fd[2];	 /* to the client, to the server */
	atomic_int stop; /* take no more from the client, but keep the connection */
	atomic_long cut; /* close both after so many bytes of the client's */
	atomic_long carried;
	pthread_t thread;
};

static int carry(struct wire *w, int from)
{
	char b[16384];
	long left = atomic_load(&w->cut) - w->carried;
	size_t room = from == 0 && left < (long)sizeof(b) ? (size_t)left : sizeof(b);
	ssize_t n = recv(w->fd[from], b, room, 0);

	if (n <= 0)
		return 0;
	for (ssize_t done = 0, r; done < n; done += r) {
		r = send(w->fd[!from], b + done, (size_t)(n - done), MSG_NOSIGNAL);
		if (r < 0)
			return 0;
	}
	w->carried += from == 0 ? n : 0;
	return w->carried < atomic_load(&w->cut);
}

static void *wire_run(void *arg)
{
	struct wire *w = arg;
	struct pollfd p[2];
	int on = 1;

	while (on) {
		/* A turn each millisecond, to hear of a stop. */
		p[0] = (struct pollfd){.fd = atomic_load(&w->stop) ? -1 : w->fd[0],
				       .events = POLLIN};
		p[1] = (struct pollfd){.fd = w->fd[1], .events = POLLIN};
		if (poll(p, 2, 1) < 0)
			break;
		on = (!p[0].revents || carry(w, 0)) && (!p[1].revents || carry(w, 1));
	}
	(void)close(w->fd[0]); /* ends both sides */
	(void)close(w->fd[1]);
	return NULL;
}

/* One stream: e[0] is the client's end, e[1] the server's, @w between them. */
static void stream_open(struct wire *w, struct tp *e[2])
{
	struct link_side side[2] = {0};
	int left[2], right[2];

	link_sockets(left);
	link_sockets(right);
	*w = (struct wire){.fd = {left[1], right[0]}, .cut = 1l << 40};
	for (int i = 0; i < 2; i++)
		side[i] = (struct link_side){.fd = i ? right[1] : left[0],
					     .server = i,
					     .identity = "p",
					     .psk = link_psk,
					     .timeout_ms = 20000};
	CU_ASSERT_EQUAL_FATAL(pthread_create(&w->thread, NULL, wire_run, w), 0);
	link_shake_hands(side);
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_PTR_NOT_NULL_FATAL(side[i].tp);
		e[i] = side[i].tp;
	}
}

static void open_all(struct wire w[STREAMS], struct tp *ends[2])
{
	struct tp *e[STREAMS][2], *of[STREAMS];
	struct err err = {0};

	for (int k = 0; k < STREAMS; k++)
		stream_open(&w[k], e[k]);
	for (int i = 0; i < 2; i++) {
		for (int k = 0; k < STREAMS; k++)
			of[k] = e[k][i];
		CU_ASSERT_EQUAL_FATAL(tp_tcp_join(of, STREAMS, &ends[i], &err), 0);
	}
}

static void close_all(struct wire w[STREAMS], struct tp *ends[2])
{
	for (int i = 0; i < 2; i++)
		tp_close(ends[i]);
	for (int k = 0; k < STREAMS; k++)
		CU_ASSERT_EQUAL(pthread_join(w[k].thread, NULL), 0);
}

/* Each 8 bytes say their place. */
struct pump {
	struct tp *tp;
	size_t total;
	long rc;
	atomic_size_t done;
	pthread_t thread;
};

static void *pump(void *arg)
{
	struct pump *p = arg;
	uint64_t b[4096 / 8];
	struct iovec v = {.iov_base = b, .iov_len = sizeof(b)};
	size_t n = 0;

	while (!p->rc && n < p->total) {
		for (size_t i = 0; i < sizeof(b) / 8; i++)
			b[i] = n / 8 + i;
		p->rc = tp_send(p->tp, &v, 1);
		n += sizeof(b);
		atomic_store(&p->done, n);
	}
	if (!p->rc)
		p->rc = tp_flush(p->tp);
	return NULL;
}

/* Pieces that do not fit those of the sender, nor the stripes. Returns how many bytes came as they
 * were sent; *rc_out: what ended it. */
static size_t drain(struct tp *tp, size_t total, int *rc_out)
{
	static uint64_t b[1000];
	size_t n = 0;

	for (*rc_out = 0; n < total;) {
		size_t len = total - n < sizeof(b) ? total - n : sizeof(b);

		*rc_out = tp_recv(tp, b, len);
		if (*rc_out)
			break;
		for (size_t i = 0; i < len / 8; i++)
			if (b[i] != n / 8 + i)
				return n;
		n += len;
	}
	return n;
}

static void start(struct pump *p, struct tp *tp, size_t total)
{
	*p = (struct pump){.tp = tp, .total = total};
	CU_ASSERT_EQUAL_FATAL(pthread_create(&p->thread, NULL, pump, p), 0);
}

static void test_order(void)
{
	struct wire w[STREAMS];
	struct pump p[2];
	struct tp *e[2];
	int rc;

	open_all(w, e);
	start(&p[0], e[0], 64 * MiB);
	start(&p[1], e[1], MiB);
	CU_ASSERT_EQUAL(drain(e[1], 64 * MiB, &rc), 64 * MiB);
	CU_ASSERT_EQUAL(drain(e[0], MiB, &rc), MiB);
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL(pthread_join(p[i].thread, NULL), 0);
		CU_ASSERT_EQUAL(p[i].rc, 0);
	}
	for (int k = 0; k < STREAMS; k++)
		CU_ASSERT(w[k].carried > STRIPE_MAX); /* each had its part */
	close_all(w, e);
}

/* All streams are quiet for most of the time, so flushes go out on the caller's thread. */
static void test_ping_pong(void)
{
	struct wire w[STREAMS];
	struct tp *e[2];
	uint8_t b[5000] = {0}, c[sizeof(b)];
	struct iovec v = {.iov_base = b};

	open_all(w, e);
	for (unsigned i = 0; i < 500; i++) {
		v.iov_len = 1 + i * 37 % sizeof(b);
		b[0] = (uint8_t)i;
		CU_ASSERT(!tp_send(e[i % 2], &v, 1) && !tp_flush(e[i % 2]));
		CU_ASSERT_EQUAL(tp_recv(e[!(i % 2)], c, v.iov_len), 0);
		CU_ASSERT_EQUAL(c[0], (uint8_t)i);
	}
	close_all(w, e);
}

/* Cut at many places of one stream, inside records and between: what arrives is a beginning of what was
 * sent, then an error. */
static void test_cut(void)
{
	for (long at = 0; at < 2 * MiB; at = at * 2 + 7777) {
		struct wire w[STREAMS];
		struct pump p;
		struct tp *e[2];
		int rc;

		open_all(w, e);
		atomic_store(&w[1].cut, w[1].carried + at + 1);
		start(&p, e[0], 64 * MiB);
		CU_ASSERT(drain(e[1], 64 * MiB, &rc) < 64 * MiB);
		CU_ASSERT_EQUAL(rc, -ECONNRESET);
		CU_ASSERT_EQUAL(drain(e[1], 1, &rc), 0);
		CU_ASSERT_EQUAL(rc, -ECONNRESET);
		CU_ASSERT_EQUAL(pthread_join(p.thread, NULL), 0);
		CU_ASSERT_EQUAL(p.rc, -ECONNRESET);
		close_all(w, e);
	}
}

/* One stream takes nothing any more. The sender may run ahead by what the queues hold and the sockets, and
 * then waits; the receiver gets nothing out of order meanwhile; and all goes on where it stood. */
static void test_stall(void)
{
	const size_t most = (size_t)2 * STREAMS * (STRIPE_DEPTH + 1) * STRIPE_MAX;
	struct wire w[STREAMS];
	struct pump p;
	struct tp *e[2];
	size_t before, n;
	int rc;

	open_all(w, e);
	start(&p, e[0], 256 * MiB);
	n = drain(e[1], 32 * MiB, &rc);
	CU_ASSERT_EQUAL(n, 32 * MiB);
	atomic_store(&w[2].stop, 1);
	/* Until the sender does not move for a while that is long for it: this waits for nothing to
	 * happen, and a busy machine can only make the bound below easier to keep. */
	do {
		before = atomic_load(&p.done);
		(void)poll(NULL, 0, 200);
	} while (atomic_load(&p.done) != before);
	/* What the kernel holds for the stalled stream and the others comes on top. */
	CU_ASSERT(before < 256 * MiB);
	CU_ASSERT(before - n < most + 4 * (size_t)STREAMS * 8 * MiB);
	atomic_store(&w[2].stop, 0);
	{
		static uint64_t b[512];

		while (n < 256 * MiB && !tp_recv(e[1], b, sizeof(b))) {
			if (b[0] != n / 8 || b[511] != n / 8 + 511)
				break;
			n += sizeof(b);
		}
	}
	CU_ASSERT_EQUAL(n, 256 * MiB);
	CU_ASSERT_EQUAL(pthread_join(p.thread, NULL), 0);
	CU_ASSERT_EQUAL(p.rc, 0);
	close_all(w, e);
}

static struct tp *lone[2][STREAMS]; /* the ends of streams; [1] are not joined */

static void half(struct tp **joined)
{
	struct err err = {0};

	for (int k = 0; k < STREAMS; k++) {
		struct tp *e[2];

		link_tcp_inner(e);
		lone[0][k] = e[0];
		lone[1][k] = e[1];
	}
	CU_ASSERT_EQUAL_FATAL(tp_tcp_join(lone[0], STREAMS, joined, &err), 0);
}

static void say_stripe(int k, uint32_t len, uint32_t zero, uint64_t number)
{
	struct stripe_wire h = {
		.len = le32_of(len), .zero = le32_of(zero), .number = le64_of(number)};
	char byte = (char)number;
	struct iovec v[2] = {{.iov_base = &h, .iov_len = sizeof(h)},
			     {.iov_base = &byte, .iov_len = 1}};

	CU_ASSERT(!tp_send(lone[1][k], v, 2) && !tp_flush(lone[1][k]));
}

static void part(struct tp *joined)
{
	tp_close(joined);
	for (int k = 0; k < STREAMS; k++)
		tp_close(lone[1][k]);
}

/* A peer with the key that says what cannot be. */
static void test_lies(void)
{
	static const struct {
		uint32_t len, zero;
		uint64_t number;
		int want;
	} lie[] = {{0, 0, 0, -EBADMSG},
		   {STRIPE_MAX + 1, 0, 0, -EBADMSG},
		   {1, 1, 0, -EBADMSG}};
	struct tp *joined;
	char c;

	for (size_t i = 0; i < sizeof(lie) / sizeof(lie[0]); i++) {
		half(&joined);
		say_stripe(1, lie[i].len, lie[i].zero, lie[i].number);
		CU_ASSERT_EQUAL(tp_recv(joined, &c, 1), lie[i].want);
		part(joined);
	}
	/* A number twice on one stream is seen at once, on another when nothing else can come. */
	for (int other = 0; other < 2; other++) {
		half(&joined);
		say_stripe(0, 1, 0, 0);
		CU_ASSERT_EQUAL(tp_recv(joined, &c, 1), 0);
		say_stripe(other, 1, 0, 0);
		for (int k = 0; other && k < STREAMS; k++) {
			tp_close(lone[1][k]);
			lone[1][k] = NULL;
		}
		CU_ASSERT_EQUAL(tp_recv(joined, &c, 1), other ? -ECONNRESET : -EBADMSG);
		part(joined);
	}
}

/* Later ones wait for the one that is missing, and the last words before an end are heard. */
static void test_out_of_order(void)
{
	struct tp *joined;
	char c = 0;

	half(&joined);
	say_stripe(2, 1, 0, 2);
	say_stripe(1, 1, 0, 1);
	say_stripe(2, 1, 0, 4);
	say_stripe(0, 1, 0, 0);
	for (char i = 0; i < 3; i++) {
		CU_ASSERT_EQUAL(tp_recv(joined, &c, 1), 0);
		CU_ASSERT_EQUAL(c, i);
	}
	/* Number 3 does not come any more: 4 is not delivered in its place. */
	for (int k = 0; k < STREAMS; k++) {
		tp_close(lone[1][k]);
		lone[1][k] = NULL;
	}
	CU_ASSERT_EQUAL(tp_recv(joined, &c, 1), -ECONNRESET);
	part(joined);
}

static const struct unit_test tests[] = {
	{"in order, and over all streams", test_order},
	{"short flushes", test_ping_pong},
	{"one stream is cut", test_cut},
	{"one stream stalls", test_stall},
	{"stripes that cannot be", test_lies},
	{"a stripe is missing", test_out_of_order},
};

int main(void)
{
	return UNIT_MAIN("stripes", tests);
}
