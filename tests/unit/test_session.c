/* SPDX-License-Identifier: Apache-2.0
 * test_session - one stream over several paths: every byte once and in order, whatever breaks.
 */
#include "replication/replay.h"
#include "tests/unit/sesload.h"
#include "tests/unit/unit.h"

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

/* A better path that is gone back to, and says nothing from that moment on: the one that was left for it is
 * there again. */
static void test_way_back_stalls(void)
{
	/* One question is answered, which makes it ready. */
	static const struct tp_fault cut = {.cut_after = 1},
				     stall = {.stall_after = sizeof(struct ses_wire) + 1};
	static const struct tp_fault none = {0};
	struct sesrig r = {0};
	struct pathsel p;
	struct load l;

	sesrig_up(&r, 4 * MiB, 200, CALM_MS);
	sesrig_wait(&r, 0, PATHSEL_IN_USE);
	sesrig_wait(&r, 1, PATHSEL_READY);
	load_start(&l, &r);
	atomic_store(&r.refused[0], 1);
	session_fault(r.s[0], 0, &cut);
	sesrig_wait(&r, 1, PATHSEL_IN_USE);
	session_fault(r.s[0], 0, &stall);
	atomic_store(&r.refused[0], 0);
	do {
		session_paths(r.s[0], &p);
		sched_yield();
	} while (p.path[0].failed < 3 && !atomic_load(&l.in[0].rc));
	CU_ASSERT_EQUAL_FATAL(l.in[0].rc, 0);
	flows(&l.in[0], 2 * MiB);
	flows(&l.in[1], 2 * MiB);
	CU_ASSERT_EQUAL(p.path[1].failed, 0);
	session_fault(r.s[0], 0, &none);
	sesrig_wait(&r, 0, PATHSEL_IN_USE);
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
	{"the way back stalls", test_way_back_stalls},
	{"no path for too long", test_give_up},
	{"the peer is gone", test_peer_gone},
	{"an end in good order", test_good_order},
	{"backpressure", test_backpressure},
};

int main(void)
{
	return UNIT_MAIN("session", tests);
}
