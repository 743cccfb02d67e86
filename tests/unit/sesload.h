/* SPDX-License-Identifier: Apache-2.0
 * sesload - a load in both directions of two sessions, whose every byte is known.
 *
 * CUnit is not thread-safe: threads only return results, the main thread judges them.
 */
#ifndef TESTS_UNIT_SESLOAD_H
#define TESTS_UNIT_SESLOAD_H

#include "tests/unit/sesrig.h"

#include <errno.h>
#include <sched.h>

enum { MiB = 1 << 20, CALM_MS = 20000 };

static inline uint8_t byte_at(uint64_t pos)
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

static inline void *sender(void *arg)
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

static inline void *receiver(void *arg)
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

static inline void start(struct worker *w, void *(*fn)(void *), struct tp *tp)
{
	*w = (struct worker){.tp = tp};
	CU_ASSERT_EQUAL_FATAL(pthread_create(&w->thread, NULL, fn, w), 0);
}

static inline void join(struct worker *w)
{
	CU_ASSERT_EQUAL_FATAL(pthread_join(w->thread, NULL), 0);
}

/* More bytes than before have come, also after what had been kept for sending again. */
static inline void flows(struct worker *w, uint64_t more)
{
	uint64_t goal = atomic_load(&w->done) + more;

	while (atomic_load(&w->done) < goal && !w->rc)
		sched_yield();
	CU_ASSERT(atomic_load(&w->done) >= goal);
}

static inline int in_use(struct sesrig *r)
{
	struct pathsel p;

	session_paths(r->s[0], &p);
	return p.in_use;
}

static inline int is_ready(struct sesrig *r, int i)
{
	struct pathsel p;

	session_paths(r->s[0], &p);
	return p.path[i].state == PATHSEL_READY;
}

/* A load in both directions. */
struct load {
	struct worker out[2], in[2];
};

static inline void load_start(struct load *l, struct sesrig *r)
{
	for (int i = 0; i < 2; i++) {
		start(&l->out[i], sender, r->tp[i]);
		start(&l->in[i], receiver, r->tp[!i]);
	}
}

/* The senders end in good order, then the session; all that was sent has come. */
static inline void load_end(struct load *l, struct sesrig *r)
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

#endif
