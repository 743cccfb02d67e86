/* SPDX-License-Identifier: Apache-2.0
 * test_transport - one suite of promises, kept by every transport, and each one's own.
 *
 * CUnit is not thread-safe: threads only return results, the main thread judges them.
 */
#include "hv/base/err.h"
#include "replication/record.h"
#include "replication/transport.h"
#include "tests/unit/link.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MiB = 1 << 20, TOTAL = 3 * MiB + 17, FLOOD = 64 * MiB };

/* The byte that belongs at @pos of stream @seed. */
static uint8_t byte_at(unsigned seed, size_t pos)
{
	uint64_t x = (pos >> 3) * 0x9e3779b97f4a7c15ull + seed;

	x ^= x >> 29;
	x *= 0xbf58476d1ce4e5b9ull;
	return (uint8_t)(x >> (8 * (pos & 7)));
}

/* Somebody who sends or receives on a thread of its own. */
struct worker {
	struct tp *tp;
	unsigned seed;
	size_t total, done;
	int rc, wrong;
	pthread_t thread;
};

static void *sender(void *arg)
{
	static const size_t size[] = {1, 48, 0, 4096, 16383, 16384, 16385, 100000, 7};
	uint8_t *b = malloc(100000);
	struct worker *w = arg;
	struct iovec v[3];

	for (unsigned i = 0; b && !w->rc && w->done < w->total; i++) {
		size_t n = size[i % 9], a;

		n = n < w->total - w->done ? n : w->total - w->done;
		for (size_t k = 0; k < n; k++)
			b[k] = byte_at(w->seed, w->done + k);
		a = n / 3;
		v[0] = (struct iovec){.iov_base = b, .iov_len = a};
		v[1] = (struct iovec){.iov_base = NULL, .iov_len = 0};
		v[2] = (struct iovec){.iov_base = b + a, .iov_len = n - a};
		w->rc = tp_send(w->tp, v, 3);
		if (!w->rc)
			w->done += n;
	}
	if (!w->rc)
		w->rc = b ? tp_flush(w->tp) : -ENOMEM;
	free(b);
	return NULL;
}

static void *receiver(void *arg)
{
	static const size_t size[] = {48, 1, 4096, 333, 65536, 16384};
	uint8_t *b = malloc(65536);
	struct worker *w = arg;

	for (unsigned i = 0; b && !w->rc && w->done < w->total; i++) {
		size_t n = size[i % 6];

		n = n < w->total - w->done ? n : w->total - w->done;
		w->rc = tp_recv(w->tp, b, n);
		for (size_t k = 0; k < n && !w->rc; k++)
			w->wrong += b[k] != byte_at(w->seed, w->done + k);
		if (!w->rc)
			w->done += n;
	}
	free(b);
	return NULL;
}

static void start(struct worker *w, void *(*fn)(void *), struct tp *tp, unsigned seed,
		  size_t total)
{
	*w = (struct worker){.tp = tp, .seed = seed, .total = total};
	CU_ASSERT_EQUAL_FATAL(pthread_create(&w->thread, NULL, fn, w), 0);
}

static void join(struct worker *w)
{
	CU_ASSERT_EQUAL(pthread_join(w->thread, NULL), 0);
}

static int send_text(struct tp *tp, const char *s)
{
	struct iovec v = {.iov_base = (void *)s, .iov_len = strlen(s)};
	int rc = tp_send(tp, &v, 1);

	return rc ? rc : tp_flush(tp);
}

/* Sends until it fails or a flood has gone out; what it failed with. */
static int send_flood(struct tp *tp)
{
	static uint8_t page[64 << 10];
	struct iovec v = {.iov_base = page, .iov_len = sizeof(page)};
	int rc = 0;

	for (size_t n = 0; !rc && n < FLOOD; n += sizeof(page))
		rc = tp_send(tp, &v, 1);
	return rc;
}

static void close_both(struct tp *e[2])
{
	tp_close(e[0]);
	tp_close(e[1]);
}

static void one_way(const struct link_kind *k)
{
	struct worker out, in;
	struct tp *e[2];

	for (int side = 0; side < 2; side++) {
		link_open(k, e);
		start(&in, receiver, e[!side], 1, TOTAL);
		start(&out, sender, e[side], 1, TOTAL);
		join(&out);
		join(&in);
		CU_ASSERT_EQUAL(out.rc, 0);
		CU_ASSERT_EQUAL(in.rc, 0);
		CU_ASSERT_EQUAL(in.done, TOTAL);
		CU_ASSERT_EQUAL(in.wrong, 0);
		CU_ASSERT_EQUAL(e[side]->bytes_sent, TOTAL);
		CU_ASSERT_EQUAL(e[!side]->bytes_received, TOTAL);
		close_both(e);
	}
}

static void both_ways(const struct link_kind *k)
{
	struct worker w[4];
	struct tp *e[2];

	link_open(k, e);
	for (unsigned i = 0; i < 2; i++) {
		start(&w[i], sender, e[i], i, 2 * TOTAL);
		start(&w[2 + i], receiver, e[i], !i, 2 * TOTAL);
	}
	for (unsigned i = 0; i < 4; i++) {
		join(&w[i]);
		CU_ASSERT_EQUAL(w[i].rc, 0);
		CU_ASSERT_EQUAL(w[i].done, 2 * TOTAL);
		CU_ASSERT_EQUAL(w[i].wrong, 0);
	}
	close_both(e);
}

/* Nobody reads: the sender is held, and gives up after its time-out. So buffers are bounded. */
static void backpressure(const struct link_kind *k)
{
	struct tp *e[2];

	link_open(k, e);
	e[0]->send_timeout_ms = 50;
	CU_ASSERT_EQUAL(send_flood(e[0]), -ETIMEDOUT);
	CU_ASSERT(e[0]->bytes_sent < FLOOD);
	CU_ASSERT_EQUAL(send_text(e[0], "more"), -ETIMEDOUT);
	CU_ASSERT_EQUAL(tp_flush(e[0]), -ETIMEDOUT);
	close_both(e);
}

static void shutdown_unblocks(const struct link_kind *k)
{
	struct worker in, out;
	struct tp *e[2];

	link_open(k, e);
	start(&in, receiver, e[0], 0, 10);
	start(&out, sender, e[0], 0, FLOOD);
	tp_shutdown(e[0]);
	join(&in);
	join(&out);
	CU_ASSERT_EQUAL(in.rc, -ESHUTDOWN);
	CU_ASSERT_EQUAL(out.rc, -ESHUTDOWN);
	tp_shutdown(e[0]); /* twice is fine */
	CU_ASSERT_EQUAL(send_text(e[0], "x"), -ESHUTDOWN);
	CU_ASSERT_EQUAL(tp_recv(e[0], &in, 1), -ESHUTDOWN);
	close_both(e);
}

static void peer_closes_in_good_order(const struct link_kind *k)
{
	struct tp *e[2];
	char b[8];

	link_open(k, e);
	CU_ASSERT_EQUAL(send_text(e[1], "goodbye"), 0);
	tp_close(e[1]);
	CU_ASSERT_EQUAL(tp_recv(e[0], b, 7), 0);
	CU_ASSERT_EQUAL(memcmp(b, "goodbye", 7), 0);
	CU_ASSERT_EQUAL(tp_recv(e[0], b, 1), -EPIPE);
	CU_ASSERT_EQUAL(tp_recv(e[0], b, 1), -EPIPE);
	CU_ASSERT_EQUAL(send_flood(e[0]), -ECONNRESET);
	CU_ASSERT_EQUAL(send_text(e[0], "x"), -ECONNRESET);
	tp_close(e[0]);
}

static void peer_closes_within_a_recv(const struct link_kind *k)
{
	struct tp *e[2];
	char b[8];

	link_open(k, e);
	CU_ASSERT_EQUAL(send_text(e[1], "half"), 0);
	tp_close(e[1]);
	CU_ASSERT_EQUAL(tp_recv(e[0], b, 8), -ECONNRESET);
	CU_ASSERT_EQUAL(tp_recv(e[0], b, 1), -ECONNRESET);
	tp_close(e[0]);
}

/* A peer that dies in the middle of things; what it said before can still be heard, also
 * after a send has failed. */
static void peer_dies(const struct link_kind *k)
{
	struct tp *e[2];
	char b[8];

	link_open(k, e);
	CU_ASSERT_EQUAL(send_text(e[1], "fenced"), 0);
	tp_shutdown(e[1]);
	CU_ASSERT_EQUAL(send_flood(e[0]), -ECONNRESET);
	CU_ASSERT_EQUAL(tp_recv(e[0], b, 6), 0);
	CU_ASSERT_EQUAL(memcmp(b, "fenced", 6), 0);
	CU_ASSERT_EQUAL(tp_recv(e[0], b, 1), -ECONNRESET);
	close_both(e);
}

static void peer_dies_under_load(const struct link_kind *k)
{
	struct worker out, in;
	struct tp *e[2];

	link_open(k, e);
	start(&out, sender, e[0], 1, FLOOD);
	start(&in, receiver, e[0], 2, 1000);
	tp_shutdown(e[1]);
	join(&out);
	CU_ASSERT_EQUAL(out.rc, -ECONNRESET);
	join(&in);
	CU_ASSERT_EQUAL(in.rc, -ECONNRESET);
	close_both(e);
}

static void cut(const struct link_kind *k)
{
	const struct tp_fault f = {.cut_after = 1000};
	struct worker out, in;
	struct tp *e[2];
	char b[1];

	link_open(k, e);
	tp_fault_set(e[0], &f);
	start(&out, sender, e[0], 5, TOTAL);
	start(&in, receiver, e[1], 5, TOTAL);
	join(&out);
	join(&in);
	CU_ASSERT_EQUAL(out.rc, -ECONNRESET);
	CU_ASSERT_EQUAL(in.rc, -ECONNRESET);
	CU_ASSERT_EQUAL(in.wrong, 0);
	CU_ASSERT_EQUAL(e[1]->bytes_received, 1000);
	CU_ASSERT_EQUAL(tp_recv(e[0], b, 1), -ECONNRESET);
	close_both(e);
}

static void cut_while_it_runs(const struct link_kind *k)
{
	const struct tp_fault f = {.cut_after = 1};
	struct worker in;
	struct tp *e[2];
	char b[8];

	link_open(k, e);
	CU_ASSERT_EQUAL(send_text(e[0], "before"), 0);
	CU_ASSERT_EQUAL(tp_recv(e[1], b, 6), 0);
	start(&in, receiver, e[0], 0, 1);
	tp_fault_set(e[0], &f);
	join(&in);
	CU_ASSERT_EQUAL(in.rc, -ECONNRESET);
	CU_ASSERT_EQUAL(send_text(e[0], "after"), -ECONNRESET);
	CU_ASSERT_EQUAL(tp_recv(e[1], b, 1), -ECONNRESET);
	close_both(e);
}

static void flip_is_noticed(const struct link_kind *k)
{
	const size_t one = sizeof(struct rec_wire) + 32;
	struct iovec v = {.iov_base = "0123456789abcdef0123456789abcdef", .iov_len = 32};
	struct err err = {0};
	struct tp *e[2];

	for (size_t at = 1; at < 3 * one; at += 7) {
		struct tp_fault f = {.flip_after = at};
		struct rec_stream out, in;
		struct rec r;

		link_open(k, e);
		tp_fault_set(e[0], &f);
		rec_stream_init(&out, e[0], 1);
		rec_stream_init(&in, e[1], 1);
		for (int i = 0; i < 3; i++)
			CU_ASSERT_EQUAL(rec_send(&out, 0x0100, 1, &v, 1), 0);
		CU_ASSERT_EQUAL(rec_flush(&out), 0);
		for (size_t i = 0; i < at / one; i++)
			CU_ASSERT_EQUAL(rec_recv(&in, &r, &err), 0);
		CU_ASSERT_EQUAL(rec_recv(&in, &r, &err), -EBADMSG);
		rec_stream_fini(&in);
		close_both(e);
	}
}

static void stall(const struct link_kind *k)
{
	const struct tp_fault f = {.stall_after = 6};
	struct worker here, there;
	struct tp *e[2];

	link_open(k, e);
	tp_fault_set(e[0], &f);
	start(&there, receiver, e[1], 3, 100);
	start(&here, sender, e[0], 3, TOTAL);
	join(&here);
	CU_ASSERT_EQUAL(here.rc, 0); /* nothing is noticed */
	CU_ASSERT_EQUAL(send_text(e[1], "unheard"), 0);
	start(&here, receiver, e[0], 0, 7);
	tp_shutdown(e[0]);
	join(&here);
	CU_ASSERT_EQUAL(here.rc, -ESHUTDOWN);
	CU_ASSERT_EQUAL(here.done, 0);
	tp_shutdown(e[1]);
	join(&there);
	CU_ASSERT_EQUAL(there.wrong, 0);
	CU_ASSERT(e[1]->bytes_received <= 6);
	close_both(e);
}

static void delay(const struct link_kind *k)
{
	const struct tp_fault slow = {.delay_us = 500},
			      never = {.delay_us = 3600u * 1000000};
	struct worker out, in;
	struct tp *e[2];

	link_open(k, e);
	tp_fault_set(e[0], &slow);
	start(&out, sender, e[0], 1, 200000);
	start(&in, receiver, e[1], 1, 200000);
	join(&out);
	join(&in);
	CU_ASSERT_EQUAL(out.rc, 0);
	CU_ASSERT_EQUAL(in.rc, 0);
	CU_ASSERT_EQUAL(in.wrong, 0);
	tp_fault_set(e[0], &never);
	start(&out, sender, e[0], 1, 10);
	tp_shutdown(e[0]);
	join(&out);
	CU_ASSERT_EQUAL(out.rc, -ESHUTDOWN);
	close_both(e);
}

#define EACH(fn, kind)                \
	static void fn##_##kind(void) \
	{                             \
		fn(&link_##kind);     \
	}
/* To a session a broken path is no end; what is one, its receiver finds out, and test_session
 * tests that. */
#define DIES(fn)       \
	EACH(fn, loop) \
	EACH(fn, tcp) EACH(fn, seal_loop) EACH(fn, fault_loop) EACH(fn, fault_tcp)
#define ALL(fn)	  DIES(fn) EACH(fn, session_loop)
#define FAULT(fn) EACH(fn, fault_loop) EACH(fn, fault_tcp)

ALL(one_way)
ALL(both_ways)
ALL(backpressure)
ALL(shutdown_unblocks)
ALL(peer_closes_in_good_order)
ALL(peer_closes_within_a_recv)
DIES(peer_dies)
ALL(peer_dies_under_load)
FAULT(cut)
FAULT(cut_while_it_runs)
FAULT(flip_is_noticed)
FAULT(stall)
FAULT(delay)

static void loop_without_buffer(void)
{
	struct err err = {0};
	struct tp *e[2];

	CU_ASSERT_EQUAL(tp_loop_pair(0, e, &err), -EINVAL);
	tp_close(NULL); /* is fine */
}

#define ROW(fn, kind)                      \
	{                                  \
#fn " " #kind, fn##_##kind \
	}
#define DIES_ROWS(fn)                                                         \
	ROW(fn, loop), ROW(fn, tcp), ROW(fn, seal_loop), ROW(fn, fault_loop), \
		ROW(fn, fault_tcp)
#define ROWS(fn)       DIES_ROWS(fn), ROW(fn, session_loop)
#define FAULT_ROWS(fn) ROW(fn, fault_loop), ROW(fn, fault_tcp)

static const struct unit_test tests[] = {
	ROWS(one_way),
	ROWS(both_ways),
	ROWS(backpressure),
	ROWS(shutdown_unblocks),
	ROWS(peer_closes_in_good_order),
	ROWS(peer_closes_within_a_recv),
	DIES_ROWS(peer_dies),
	ROWS(peer_dies_under_load),
	FAULT_ROWS(cut),
	FAULT_ROWS(cut_while_it_runs),
	FAULT_ROWS(flip_is_noticed),
	FAULT_ROWS(stall),
	FAULT_ROWS(delay),
	{"loop without a buffer", loop_without_buffer},
};

int main(void)
{
	return UNIT_MAIN("transport", tests);
}
