/* SPDX-License-Identifier: Apache-2.0
 * test_netbuf_race - captures, commits and alone beside a guest that keeps talking.
 */
#include "tests/unit/netrig.h"

#include <sched.h>
#include <stdatomic.h>

/* The guest's side of the race tests: numbered frames, again when refused. */
struct talker {
	struct rig *r;
	pthread_mutex_t device; /* as the loop's guard */
	uint32_t frames;
	atomic_int go;
};

static void *talk(void *arg)
{
	struct talker *t = arg;

	for (uint32_t v = 0; v < t->frames;) {
		pthread_mutex_lock(&t->device);
		v += !say(t->r->net[v & 1], v);
		pthread_mutex_unlock(&t->device);
		atomic_store(&t->go, (int)v);
	}
	return NULL;
}

static void in_order(uint32_t frames)
{
	CU_ASSERT_EQUAL(wire.n, frames);
	for (uint32_t i = 0; i < wire.n; i++)
		if (wire.seq[i] != i) {
			CU_FAIL("out of order");
			break;
		}
}

static void test_alone_beside_frames(void)
{
	for (int round = 0; round < 30; round++) {
		struct rig r;
		struct talker t = {
			.r = &r, .device = PTHREAD_MUTEX_INITIALIZER, .frames = 5000};
		pthread_t thread;

		setup(&r, 64 << 10, 0);
		capture(&r, 0);
		CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, talk, &t), 0);
		while (atomic_load(&t.go) < 15 * round)
			sched_yield();
		CU_ASSERT_EQUAL(round ? 0 : wire.n, 0);
		r.part.ops->unlinked(r.part.self);
		r.part.ops->alone(r.part.self);
		pthread_join(thread, NULL);
		in_order(t.frames);
		finish(&r);
	}
}

/* What a receiver thread does: acks come a while after their capture. */
struct acker {
	struct rig *r;
	atomic_int captured, stop;
};

static void *ack(void *arg)
{
	struct acker *a = arg;

	for (int i = 0; !atomic_load(&a->stop);) {
		if (i < atomic_load(&a->captured))
			committed(a->r, (uint64_t)i++);
		else
			sched_yield();
	}
	return NULL;
}

static void test_epochs_beside_frames(void)
{
	struct rig r;
	struct talker t = {.r = &r, .device = PTHREAD_MUTEX_INITIALIZER, .frames = 20000};
	struct acker a = {.r = &r};
	pthread_t talker, acker;
	uint32_t said_before = 0, early = 0;
	int epoch = 0;

	setup(&r, 64 << 10, 0);
	capture(&r, (uint64_t)epoch++);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&talker, NULL, talk, &t), 0);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&acker, NULL, ack, &a), 0);
	while ((uint32_t)atomic_load(&t.go) < t.frames) {
		/* Nothing that was said since the last capture may be out. */
		pthread_mutex_lock(&t.device);
		pthread_mutex_lock(&wire.lock);
		early += wire.n > said_before;
		pthread_mutex_unlock(&wire.lock);
		said_before = (uint32_t)atomic_load(&t.go) + 1;
		capture(&r, (uint64_t)epoch);
		pthread_mutex_unlock(&t.device);
		atomic_store(&a.captured, ++epoch);
	}
	CU_ASSERT_EQUAL(early, 0);
	pthread_join(talker, NULL);
	atomic_store(&a.stop, 1);
	pthread_join(acker, NULL);
	r.part.ops->alone(r.part.self);
	in_order(t.frames);
	finish(&r);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"alone beside frames", test_alone_beside_frames},
		{"epochs beside frames", test_epochs_beside_frames},
	};

	return UNIT_MAIN("netbuf, races", tests);
}
