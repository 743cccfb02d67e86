/* SPDX-License-Identifier: Apache-2.0
 * test_session - one stream over several paths: every byte once and in order, whatever breaks.
 *
 * CUnit is not thread-safe: threads only return results, the main thread judges them.
 */
#include "replication/replay.h"
#include "replication/session_priv.h"
#include "tests/unit/sesrig.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <sched.h>

enum { MiB = 1 << 20, CALM_MS = 20000 };

static uint8_t byte_at(uint64_t pos)
{
	return (uint8_t)((pos * 0x9e3779b97f4a7c15ull) >> 56);
}

/* Somebody who sends or receives the bytes that belong, until told to stop. */
struct worker {
	struct tp *tp;
	atomic_int stop;
	_Atomic uint64_t done;
	atomic_int rc;
	int wrong;
	pthread_t thread;
};

static void *sender(void *arg)
{
	static const size_t size[] = {1, 48, 4096, 100000, 262144, 7, 500000};
	struct worker *w = arg;
	uint8_t *b = malloc(500000);
	struct iovec v[2];

	for (unsigned i = 0; b && !w->rc && !atomic_load(&w->stop); i++) {
		size_t n = size[i % 7];

		for (size_t k = 0; k < n; k++)
			b[k] = byte_at(w->done + k);
		v[0] = (struct iovec){.iov_base = b, .iov_len = n / 3};
		v[1] = (struct iovec){.iov_base = b + n / 3, .iov_len = n - n / 3};
		w->rc = tp_send(w->tp, v, 2);
		if (!w->rc && i % 3 == 2)
			w->rc = tp_flush(w->tp);
		w->done += w->rc ? 0 : n;
	}
	if (!w->rc)
		w->rc = b ? tp_flush(w->tp) : -ENOMEM;
	free(b);
	return NULL;
}

static void *receiver(void *arg)
{
	static const size_t size[] = {48, 3, 65536, 1, 9000};
	struct worker *w = arg;
	uint8_t *b = malloc(65536);

	for (unsigned i = 0; b && !w->rc; i++) {
		size_t n = size[i % 5];

		w->rc = tp_recv(w->tp, b, n);
		for (size_t k = 0; !w->rc && k < n; k++)
			w->wrong += b[k] != byte_at(w->done + k);
		w->done += w->rc ? 0 : n;
	}
	free(b);
	return NULL;
}

static void start(struct worker *w, void *(*fn)(void *), struct tp *tp)
{
	*w = (struct worker){.tp = tp};
	CU_ASSERT_EQUAL_FATAL(pthread_create(&w->thread, NULL, fn, w), 0);
}

static void join(struct worker *w)
{
	CU_ASSERT_EQUAL_FATAL(pthread_join(w->thread, NULL), 0);
}

/* More bytes than before have come, also after what had been kept for sending again. */
static void flows(struct worker *w, uint64_t more)
{
	uint64_t goal = atomic_load(&w->done) + more;

	while (atomic_load(&w->done) < goal && !w->rc)
		sched_yield();
	CU_ASSERT(atomic_load(&w->done) >= goal);
}

static int in_use(struct sesrig *r)
{
	struct pathsel p;

	session_paths(r->s[0], &p);
	return p.in_use;
}

static int is_ready(struct sesrig *r, int i)
{
	struct pathsel p;

	session_paths(r->s[0], &p);
	return p.path[i].state == PATHSEL_READY;
}

/* A load in both directions. */
struct load {
	struct worker out[2], in[2];
};

static void load_start(struct load *l, struct sesrig *r)
{
	for (int i = 0; i < 2; i++) {
		start(&l->out[i], sender, r->tp[i]);
		start(&l->in[i], receiver, r->tp[!i]);
	}
}

/* The senders end in good order, then the session; all that was sent has come. */
static void load_end(struct load *l, struct sesrig *r)
{
	for (int i = 0; i < 2; i++) {
		atomic_store(&l->out[i].stop, 1);
		join(&l->out[i]);
		CU_ASSERT_EQUAL(l->out[i].rc, 0);
	}
	for (int i = 0; i < 2; i++)
		while (atomic_load(&l->in[i].done) + 65536 < l->out[i].done &&
		       !l->in[i].rc)
			sched_yield();
	tp_shutdown(r->tp[0]);
	tp_shutdown(r->tp[1]);
	for (int i = 0; i < 2; i++) {
		join(&l->in[i]);
		CU_ASSERT_EQUAL(l->in[i].wrong, 0);
		CU_ASSERT(l->in[i].done <= l->out[i].done);
		CU_ASSERT(l->in[i].done + 65536 > l->out[i].done);
	}
}

static void test_calm(void)
{
	struct sesrig r = {0};
	struct load l;

	sesrig_up(&r, MiB, CALM_MS, 2 * CALM_MS);
	load_start(&l, &r);
	flows(&l.in[0], 20 * MiB);
	flows(&l.in[1], 20 * MiB);
	CU_ASSERT_EQUAL(in_use(&r), 0);
	load_end(&l, &r);
	sesrig_down(&r);
}

/* The path in use breaks under load, again and again, at any byte. */
static void test_cuts(void)
{
	static const struct tp_fault none = {0};
	struct sesrig r = {0};
	struct pathsel p;
	struct load l;

	sesrig_up(&r, 4 * MiB, CALM_MS, 2 * CALM_MS);
	load_start(&l, &r);
	for (unsigned i = 0; i < 40; i++) {
		struct tp_fault cut = {.cut_after = 1 + i * 977 % 90000};
		int path;

		flows(&l.in[i % 2], MiB);
		/* Both cut at once would be taken for the end of a process. */
		while ((path = in_use(&r)) < 0 || !is_ready(&r, !path))
			sched_yield();
		session_fault(r.s[i / 2 % 2], (unsigned)path, &cut);
		while (in_use(&r) == path)
			sched_yield();
		session_fault(r.s[i / 2 % 2], (unsigned)path, &none);
	}
	flows(&l.in[0], 5 * MiB);
	flows(&l.in[1], 5 * MiB);
	session_paths(r.s[0], &p);
	CU_ASSERT(p.failovers >= 20);
	load_end(&l, &r);
	sesrig_down(&r);
}

/* Nothing comes any more, and nobody says so. */
static void test_silence(void)
{
	static const struct tp_fault stall = {.stall_after = 1};
	struct sesrig r = {0};
	struct pathsel p;
	struct load l;

	for (int side = 0; side < 2; side++) {
		sesrig_up(&r, 4 * MiB, 300, CALM_MS);
		sesrig_wait(&r, 0, PATHSEL_IN_USE);
		sesrig_wait(&r, 1, PATHSEL_READY);
		load_start(&l, &r);
		flows(&l.in[0], MiB);
		session_fault(r.s[side], 0, &stall);
		sesrig_wait(&r, 1, PATHSEL_IN_USE);
		flows(&l.in[0], 5 * MiB);
		flows(&l.in[1], 5 * MiB);
		session_paths(r.s[0], &p);
		CU_ASSERT_EQUAL(p.in_use, 1);
		load_end(&l, &r);
		sesrig_down(&r);
	}
}

/* A better path that is back is used again, once it has proven itself; the load does not notice. */
static void test_way_back(void)
{
	static const struct tp_fault cut = {.cut_after = 1};
	static const struct tp_fault none = {0};
	struct sesrig r = {0};
	struct pathsel p;
	struct load l;

	sesrig_up(&r, 4 * MiB, CALM_MS, 2 * CALM_MS);
	sesrig_wait(&r, 0, PATHSEL_IN_USE);
	sesrig_wait(&r, 1, PATHSEL_READY);
	load_start(&l, &r);
	atomic_store(&r.refused[0], 1);
	session_fault(r.s[0], 0, &cut);
	sesrig_wait(&r, 1, PATHSEL_IN_USE);
	flows(&l.in[0], 2 * MiB);
	session_paths(r.s[0], &p);
	CU_ASSERT_EQUAL(p.in_use, 1);
	session_fault(r.s[0], 0, &none);
	atomic_store(&r.refused[0], 0);
	sesrig_wait(&r, 0, PATHSEL_IN_USE);
	flows(&l.in[0], 2 * MiB);
	flows(&l.in[1], 2 * MiB);
	sesrig_wait(&r, 1, PATHSEL_READY);
	session_paths(r.s[0], &p);
	CU_ASSERT_EQUAL(p.failovers, 1);
	CU_ASSERT_EQUAL(p.path[0].failed, 1);
	CU_ASSERT_EQUAL(p.path[1].failed, 0);
	load_end(&l, &r);
	sesrig_down(&r);
}

/* No path for too long: an end as of any link, and what comes back later does not join. */
static void test_give_up(void)
{
	static const struct tp_fault cut = {.cut_after = 1};
	struct sesrig r = {0};
	struct err err = {0};
	struct tp *e[2];
	char c;

	sesrig_up(&r, MiB, CALM_MS, 50);
	sesrig_wait(&r, 0, PATHSEL_IN_USE);
	sesrig_wait(&r, 1, PATHSEL_READY);
	atomic_store(&r.refused[0], 1);
	atomic_store(&r.refused[1], 1);
	session_fault(r.s[0], 0, &cut);
	session_fault(r.s[0], 1, &cut);
	CU_ASSERT(tp_recv(r.tp[0], &c, 1) < 0);
	CU_ASSERT(tp_recv(r.tp[1], &c, 1) < 0);
	CU_ASSERT(!session_is(r.s[1], (const uint8_t *)"a session's id\0"));
	CU_ASSERT_EQUAL_FATAL(tp_loop_pair(1000, e, &err), 0);
	session_add(r.s[1], 0, e[1]);
	CU_ASSERT(tp_recv(e[0], &c, 1) < 0); /* closed at once */
	tp_close(e[0]);
	sesrig_down(&r);
}

/* The peer's process is gone: that is not waited for. */
static void test_peer_gone(void)
{
	struct sesrig r = {0};
	char c;

	sesrig_up(&r, MiB, CALM_MS, 2 * CALM_MS);
	sesrig_wait(&r, 0, PATHSEL_IN_USE);
	sesrig_wait(&r, 1, PATHSEL_READY);
	tp_shutdown(r.tp[1]);
	CU_ASSERT_EQUAL(tp_recv(r.tp[0], &c, 1), -ECONNRESET);
	CU_ASSERT_EQUAL(tp_recv(r.tp[1], &c, 1), -ESHUTDOWN);
	sesrig_down(&r);
}

static void test_good_order(void)
{
	struct sesrig r = {0};
	struct iovec v = {.iov_base = "last", .iov_len = 4};
	char c[4];

	sesrig_up(&r, MiB, CALM_MS, 2 * CALM_MS);
	sesrig_wait(&r, 0, PATHSEL_IN_USE);
	CU_ASSERT(!tp_send(r.tp[0], &v, 1) && !tp_flush(r.tp[0]));
	CU_ASSERT_EQUAL(tp_recv(r.tp[1], c, 4), 0);
	CU_ASSERT(!tp_send(r.tp[1], &v, 1) && !tp_flush(r.tp[1]));
	CU_ASSERT_EQUAL(tp_recv(r.tp[0], c, 4), 0);
	tp_close(r.tp[0]);
	r.tp[0] = NULL;
	CU_ASSERT_EQUAL(tp_recv(r.tp[1], c, 4), -EPIPE);
	CU_ASSERT_EQUAL(tp_send(r.tp[1], &v, 1), -ECONNRESET);
	sesrig_down(&r);
}

/* Nobody takes anything: the sender waits, within bounds, and then says so. */
static void test_backpressure(void)
{
	static uint8_t big[MiB];
	struct sesrig r = {0};
	struct iovec v = {.iov_base = big, .iov_len = sizeof(big)};
	int rc = 0, n;

	sesrig_up(&r, 2 * MiB, CALM_MS, 2 * CALM_MS);
	r.tp[0]->send_timeout_ms = 30;
	for (n = 0; !rc && n < 10; n++)
		rc = tp_send(r.tp[0], &v, 1);
	CU_ASSERT_EQUAL(rc, -ETIMEDOUT);
	CU_ASSERT(n <= 4);
	CU_ASSERT_EQUAL(tp_send(r.tp[0], &v, 1), -ETIMEDOUT); /* for good */
	sesrig_down(&r);
}

/* A server whose peer says these frames on its path, by hand. */
struct hand {
	struct session *s;
	struct tp *tp, *wire;
};

static void no_connect(void *arg, unsigned i)
{
}

static void hand_up(struct hand *h)
{
	struct session_params prm = {.server = 1,
				     .paths = 1,
				     .replay = MiB,
				     .silence_ns = CALM_MS * SESRIG_MS,
				     .giveup_ns = 2 * CALM_MS * SESRIG_MS,
				     .connect = no_connect,
				     .changed = sesrig_nothing};
	struct err err = {0};
	struct tp *e[2];

	CU_ASSERT_EQUAL_FATAL(session_create(&prm, &h->s, &h->tp, &err), 0);
	CU_ASSERT_EQUAL_FATAL(tp_loop_pair(60000, e, &err), 0);
	h->wire = e[0];
	session_add(h->s, 0, e[1]);
}

static void hand_down(struct hand *h)
{
	tp_close(h->wire);
	tp_close(h->tp);
	session_put(h->s);
}

static void say(struct hand *h, unsigned type, uint32_t len, uint64_t pos,
		uint64_t received)
{
	struct ses_wire w = {.len = le32_of(len),
			     .type = le16_of((uint16_t)type),
			     .pos = le64_of(pos),
			     .received = le64_of(received)};
	static uint8_t content[SES_FRAME_MAX];
	struct iovec v[2] = {{.iov_base = &w, .iov_len = sizeof(w)},
			     {.iov_base = content, .iov_len = len < 64 ? len : 0}};

	CU_ASSERT_EQUAL(tp_send(h->wire, v, 2), 0);
}

static struct ses_wire hear(struct hand *h)
{
	struct ses_wire w = {0};

	CU_ASSERT_EQUAL(tp_recv(h->wire, &w, sizeof(w)), 0);
	return w;
}

static void test_hostile(void)
{
	static const struct {
		int resumed; /* the path is in use already */
		unsigned type;
		uint32_t len;
		uint64_t pos, received;
	} bad[] = {
		{0, 0, 0, 0, 0},
		{0, SES_NTYPES, 0, 0, 0},
		{0, 0x10001, 0, 0, 0},
		{0, SES_DATA, 4, 0, 0}, /* before RESUME */
		{0, SES_RESUMED, 0, 0, 0},
		{0, SES_PONG, 0, 0, 0},
		{0, SES_RESUME, 0, 0, 1}, /* has what was never sent */
		{0, SES_RESUME, 1, 0, 0},
		{0, SES_RESUME, 0, 1, 0},
		{0, SES_PING, 0, 0, 1},
		{1, SES_RESUME, 0, 0, 0},
		{1, SES_RESUMED, 0, 0, 0},
		{1, SES_DATA, 0, 0, 0},
		{1, SES_DATA, SES_FRAME_MAX + 1, 0, 0},
		{1, SES_DATA, 4, 1, 0}, /* one byte is missing */
		{1, SES_DATA, 4, UINT64_MAX, 0},
		{1, SES_ALIVE, 0, 0, UINT64_MAX},
		{1, SES_ALIVE, 0, 7, 0},
	};
	struct hand h;
	char c;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		hand_up(&h);
		if (bad[i].resumed) {
			say(&h, SES_RESUME, 0, 0, 0);
			CU_ASSERT_EQUAL(le16_get(hear(&h).type), SES_RESUMED);
		}
		say(&h, bad[i].type, bad[i].len, bad[i].pos, bad[i].received);
		CU_ASSERT_EQUAL(tp_recv(h.tp, &c, 1), -EBADMSG);
		hand_down(&h);
	}
}

/* By hand: what is asked for again comes again, from exactly there, and is doubled for nobody. */
static void test_exact(void)
{
	struct iovec v = {.iov_base = "0123456789", .iov_len = 10};
	struct tp *e[2], *old;
	struct err err = {0};
	struct ses_wire w;
	struct hand h;
	char c[10];

	hand_up(&h);
	say(&h, SES_RESUME, 0, 0, 0);
	CU_ASSERT_EQUAL(le16_get(hear(&h).type), SES_RESUMED);
	CU_ASSERT(!tp_send(h.tp, &v, 1) && !tp_flush(h.tp));
	do
		w = hear(&h);
	while (le16_get(w.type) == SES_ALIVE);
	CU_ASSERT_EQUAL(le32_get(w.len), 10);
	CU_ASSERT_EQUAL(tp_recv(h.wire, c, 10), 0);
	/* Four bytes of ours are taken whole, the fifth frame is cut off after its header. */
	say(&h, SES_DATA, 4, 0, 0);
	CU_ASSERT_EQUAL(tp_recv(h.tp, c, 4), 0);
	CU_ASSERT_EQUAL_FATAL(tp_loop_pair(60000, e, &err), 0);
	old = h.wire;
	h.wire = e[0];
	session_add(h.s, 0, e[1]);
	tp_close(old);
	say(&h, SES_RESUME, 0, 0, 7);
	w = hear(&h);
	CU_ASSERT_EQUAL(le16_get(w.type), SES_RESUMED);
	CU_ASSERT_EQUAL(le64_get(w.received), 4);
	w = hear(&h);
	CU_ASSERT_EQUAL(le16_get(w.type), SES_DATA);
	CU_ASSERT_EQUAL(le64_get(w.pos), 7);
	CU_ASSERT_EQUAL(le32_get(w.len), 3);
	CU_ASSERT_EQUAL(tp_recv(h.wire, c, 3), 0);
	CU_ASSERT_EQUAL(memcmp(c, "789", 3), 0);
	say(&h, SES_DATA, 4, 4, 10);
	CU_ASSERT_EQUAL(tp_recv(h.tp, c, 4), 0);
	hand_down(&h);
}

/* What was confirmed is not kept, so it cannot be asked for. */
static void test_too_old(void)
{
	struct iovec v = {.iov_base = "0123456789", .iov_len = 10};
	struct err err = {0};
	struct tp *e[2], *old;
	struct hand h;
	char c[10];

	hand_up(&h);
	say(&h, SES_RESUME, 0, 0, 0);
	CU_ASSERT_EQUAL(le16_get(hear(&h).type), SES_RESUMED);
	CU_ASSERT(!tp_send(h.tp, &v, 1) && !tp_flush(h.tp));
	say(&h, SES_ALIVE, 0, 0, 10);
	say(&h, SES_DATA, 1, 0, 10);
	CU_ASSERT_EQUAL(tp_recv(h.tp, c, 1), 0);
	CU_ASSERT_EQUAL_FATAL(tp_loop_pair(60000, e, &err), 0);
	old = h.wire;
	h.wire = e[0];
	session_add(h.s, 0, e[1]);
	tp_close(old);
	say(&h, SES_RESUME, 0, 0, 7);
	CU_ASSERT_EQUAL(tp_recv(h.tp, c, 1), -EBADMSG);
	hand_down(&h);
}

static void test_replay(void)
{
	struct iovec v[2];
	struct replay r;

	CU_ASSERT_EQUAL_FATAL(replay_init(&r, 10), 0);
	for (uint64_t pos = 0; pos < 1000;) {
		size_t n = 1 + pos % 10, got = 0;

		n = n < replay_room(&r) ? n : replay_room(&r);
		replay_place(&r, n, v);
		for (size_t k = 0; k < n; k++)
			((uint8_t *)v[k >= v[0].iov_len]
				 .iov_base)[k >= v[0].iov_len ? k - v[0].iov_len : k] =
				byte_at(pos + k);
		replay_commit(&r, n);
		pos += n;
		CU_ASSERT_EQUAL(r.end, pos);
		for (int i = 0, pieces = replay_peek(&r, r.begin, 100, v); i < pieces;
		     i++)
			for (size_t k = 0; k < v[i].iov_len; k++)
				CU_ASSERT_EQUAL(((uint8_t *)v[i].iov_base)[k],
						byte_at(r.begin + got++));
		CU_ASSERT_EQUAL(got, r.end - r.begin);
		CU_ASSERT_EQUAL(replay_confirm(&r, r.end + 1), -ERANGE);
		CU_ASSERT_EQUAL(replay_confirm(&r, r.begin + (r.end - r.begin) * 2 / 3),
				0);
	}
	CU_ASSERT_EQUAL(replay_confirm(&r, 0), -ERANGE);
	replay_fini(&r);
}

static const struct unit_test tests[] = {
	{"the ring", test_replay},
	{"calm", test_calm},
	{"cuts under load", test_cuts},
	{"silence", test_silence},
	{"the way back", test_way_back},
	{"no path for too long", test_give_up},
	{"the peer is gone", test_peer_gone},
	{"an end in good order", test_good_order},
	{"backpressure", test_backpressure},
	{"hostile frames", test_hostile},
	{"exactly from there", test_exact},
	{"asked for what was confirmed", test_too_old},
};

int main(void)
{
	return UNIT_MAIN("session", tests);
}
