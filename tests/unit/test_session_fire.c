/* SPDX-License-Identifier: Apache-2.0
 * test_session_fire - two sessions under load, whose paths are harmed at random: every byte once and in
 * order, and the best path at the end.
 *
 *   test_session_fire [SEED]     default: another one each time; which one is printed
 *
 * What is done to which path is drawn from the seed. Threads are the kernel's to order, so a seed brings back
 * the harm and not each moment of it. Nothing is judged by the clock, but that a link that stands still for
 * twenty seconds is given up.
 */
#include "hv/base/clock.h"
#include "tests/unit/sesload.h"
#include "tests/unit/unit.h"

#include <poll.h>
#include <stdio.h>

enum { ROUNDS = 30, SILENCE_MS = 120, SLOW_US = 3000 };

static const struct tp_fault none = {0};
static uint64_t rng;

static unsigned dice(unsigned n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (unsigned)(rng % n);
}

static void both_up(struct sesrig *r)
{
	uint64_t end = clock_mono_ns() + CALM_MS * SESRIG_MS;
	int i;

	while ((i = in_use(r)) < 0 || !is_ready(r, !i)) {
		CU_ASSERT_FATAL(clock_mono_ns() < end);
		sched_yield();
	}
}

/* An end with an error, at any byte, of every connection that this path makes; the other one works. */
static void cut(struct sesrig *r, struct load *l)
{
	struct tp_fault f = {.cut_after = 1 + dice(300000)};
	unsigned side = dice(2), path = dice(2);

	session_fault(r->s[side], path, &f);
	flows(&l->in[dice(2)], MiB + dice(MiB));
	session_fault(r->s[side], path, &none);
}

/* Both in one moment, as if the peer's process had ended. */
static void cut_both(struct sesrig *r, struct load *l)
{
	static const struct tp_fault f = {.cut_after = 1};
	unsigned side = dice(2);

	both_up(r);
	for (unsigned i = 0; i < 2; i++)
		session_fault(r->s[side], i, &f);
	for (unsigned i = 0; i < 2; i++)
		session_fault(r->s[side], i, &none);
	flows(&l->in[dice(2)], dice(MiB));
}

/* Silence, of one path or of both in turn so that the second fails while it takes over. */
static void stall(struct sesrig *r, struct load *l)
{
	struct tp_fault f = {.stall_after = 1 + dice(300000)};
	unsigned side = dice(2), path = dice(2), both = !dice(3);

	both_up(r);
	session_fault(r->s[side], path, &f);
	if (both) {
		poll(NULL, 0, (int)dice(SILENCE_MS * 3 / 2));
		f.stall_after = 1;
		session_fault(r->s[dice(2)], !path, &f);
		poll(NULL, 0, (int)dice(SILENCE_MS * 2));
	} else {
		flows(&l->in[dice(2)], MiB + dice(MiB));
	}
	for (unsigned i = 0; i < 4; i++)
		session_fault(r->s[i % 2], i / 2, &none);
}

static void slow(struct sesrig *r, struct load *l)
{
	struct tp_fault f = {.delay_us = dice(SLOW_US)};
	unsigned side = dice(2), path = dice(2);

	session_fault(r->s[side], path, &f);
	flows(&l->in[dice(2)], MiB);
	session_fault(r->s[side], path, &none);
}

/* Silence, and then nobody answers there any more. */
static void refuse(struct sesrig *r, struct load *l)
{
	static const struct tp_fault f = {.stall_after = 1};
	unsigned path = dice(2);

	atomic_store(&r->refused[path], 1);
	session_fault(r->s[0], path, &f);
	flows(&l->in[dice(2)], MiB + dice(MiB));
	session_fault(r->s[0], path, &none);
	atomic_store(&r->refused[path], 0);
}

static void test_fire(void)
{
	static void (*const harm[])(struct sesrig * r, struct load * l) = {
		cut, cut_both, stall, slow, refuse};
	struct sesrig r = {0};
	struct load l;

	sesrig_up(&r, 4 * MiB, SILENCE_MS, CALM_MS);
	load_start(&l, &r);
	for (unsigned i = 0; i < ROUNDS; i++)
		harm[dice(sizeof(harm) / sizeof(harm[0]))](&r, &l);
	flows(&l.in[0], 5 * MiB);
	flows(&l.in[1], 5 * MiB);
	sesrig_wait(&r, 0, PATHSEL_IN_USE);
	load_end(&l, &r);
	sesrig_down(&r);
}

static const struct unit_test tests[] = {
	{"under fire", test_fire},
};

int main(int argc, char **argv)
{
	uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : clock_mono_ns();

	rng = seed | 1;
	printf("seed %llu\n", (unsigned long long)seed);
	return UNIT_MAIN("session_fire", tests);
}
