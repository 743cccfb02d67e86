/* SPDX-License-Identifier: Apache-2.0
 * test_pathsel - the choice of the path: by hand, and against a world that fails at random.
 */
#include "replication/pathsel.h"
#include "tests/unit/unit.h"

#include <string.h>

#define MS 1000000ull
static const struct pathsel_params prm = {.retry_min_ns = 100 * MS,
					  .retry_max_ns = 1600 * MS,
					  .heal_ns = 3000 * MS,
					  .hold_max_ns = 60000 * MS,
					  .fresh_ns = UINT64_MAX};

static void expect(const struct pathsel *p, uint64_t now, enum pathsel_act act,
		   unsigned path)
{
	struct pathsel_do d = pathsel_decide(p, now);

	CU_ASSERT_EQUAL(d.act, act);
	if (act != PATHSEL_NOTHING)
		CU_ASSERT_EQUAL(d.path, path);
}

static void come_up(struct pathsel *p, unsigned i, uint64_t now)
{
	expect(p, now, PATHSEL_CONNECT, i);
	pathsel_connecting(p, i, now);
	pathsel_ready(p, i, now);
}

static void two_up(struct pathsel *p)
{
	pathsel_init(p, 2, &prm, 0);
	come_up(p, 0, 0);
	expect(p, 0, PATHSEL_USE, 0);
	pathsel_used(p, 0, 0);
	come_up(p, 1, 0);
	expect(p, 0, PATHSEL_NOTHING, 0);
}

static void test_order(void)
{
	struct pathsel p;

	pathsel_init(&p, 3, &prm, 0);
	expect(&p, 0, PATHSEL_CONNECT, 0);
	pathsel_connecting(&p, 0, 0);
	come_up(&p, 1, 0);
	/* What is there is used; nobody waits for the best. */
	expect(&p, 0, PATHSEL_USE, 1);
	pathsel_used(&p, 1, 0);
	come_up(&p, 2, 0);
	pathsel_ready(&p, 0, 5 * MS);
	expect(&p, 6 * MS, PATHSEL_NOTHING, 0);
	CU_ASSERT_EQUAL(pathsel_decide(&p, 6 * MS).at, 3005 * MS);
	expect(&p, 3005 * MS, PATHSEL_USE, 0);
	pathsel_used(&p, 0, 3005 * MS);
	CU_ASSERT_EQUAL(p.failovers, 0);
	/* The one that was left is kept ready again. */
	come_up(&p, 1, 3105 * MS);
	/* A worse one is never gone to for its own sake. */
	expect(&p, 1000000 * MS, PATHSEL_NOTHING, 0);
}

static void test_failover(void)
{
	struct pathsel p;

	two_up(&p);
	pathsel_failed(&p, 0, 50 * MS, "pulled");
	expect(&p, 50 * MS, PATHSEL_USE, 1);
	pathsel_used(&p, 1, 51 * MS);
	CU_ASSERT_EQUAL(p.failovers, 1);
	CU_ASSERT_STRING_EQUAL(p.path[0].why, "pulled");
	CU_ASSERT_EQUAL(p.path[0].failed, 1);
	expect(&p, 149 * MS, PATHSEL_NOTHING, 0);
	come_up(&p, 0, 150 * MS);
	expect(&p, 3149 * MS, PATHSEL_NOTHING, 0);
	expect(&p, 3150 * MS, PATHSEL_USE, 0);
}

static void test_attempts(void)
{
	static const unsigned wait[] = {100, 200, 400, 800, 1600, 1600};
	struct pathsel p;
	uint64_t now = 0;

	pathsel_init(&p, 1, &prm, now);
	for (unsigned i = 0; i < 6; i++) {
		expect(&p, now, PATHSEL_CONNECT, 0);
		pathsel_connecting(&p, 0, now);
		expect(&p, now, PATHSEL_NOTHING, 0);
		pathsel_failed(&p, 0, now, "refused");
		CU_ASSERT_EQUAL(pathsel_decide(&p, now).at, now + wait[i] * MS);
		now += wait[i] * MS;
	}
	CU_ASSERT_EQUAL(p.path[0].failures, 0);
	CU_ASSERT_EQUAL(p.failovers, 0);
}

/* Each failure in use makes the way back twice as long; long good service forgives. */
static void test_hold_down(void)
{
	static const unsigned heal_s[] = {3, 3, 6, 12, 24, 48, 60, 60};
	struct pathsel p;
	uint64_t now = 0;

	two_up(&p);
	for (unsigned i = 0; i < 8; i++) {
		CU_ASSERT_EQUAL(pathsel_heal_ns(&p, 0), heal_s[i] * 1000 * MS);
		pathsel_failed(&p, 0, now, "again");
		pathsel_used(&p, 1, now);
		now += 100 * MS;
		come_up(&p, 0, now);
		now += pathsel_heal_ns(&p, 0);
		expect(&p, now - 1, PATHSEL_NOTHING, 0);
		expect(&p, now, PATHSEL_USE, 0);
		pathsel_used(&p, 0, now);
		now += 100 * MS;
		come_up(&p, 1, now);
	}
	now += 60000 * MS;
	pathsel_failed(&p, 0, now, "once");
	CU_ASSERT_EQUAL(pathsel_heal_ns(&p, 0), 3000 * MS);
}

/* When all fail in turn, the one with the better record is chosen first. */
static void test_record(void)
{
	struct pathsel p;

	two_up(&p);
	pathsel_failed(&p, 0, 0, "x");
	pathsel_connecting(&p, 0, 100 * MS);
	pathsel_ready(&p, 0, 100 * MS);
	expect(&p, 100 * MS, PATHSEL_USE, 1);
	pathsel_failed(&p, 1, 100 * MS, "x");
	expect(&p, 100 * MS, PATHSEL_USE, 0);
}

/* Who fails at taking over is to blame, and not who was left for it. */
static void test_missed(void)
{
	struct pathsel p;

	two_up(&p);
	pathsel_failed(&p, 0, 0, "pulled");
	pathsel_used(&p, 1, 0);
	come_up(&p, 0, 100 * MS);
	expect(&p, 3100 * MS, PATHSEL_USE, 0);
	pathsel_taking(&p, 0, 3100 * MS);
	come_up(&p, 1, 3101 * MS); /* the one that was left is not waited for */
	expect(&p, 3150 * MS, PATHSEL_NOTHING, 0);
	pathsel_failed(&p, 0, 3200 * MS, "nothing is heard on it");
	CU_ASSERT_EQUAL(p.in_use, -1);
	CU_ASSERT_EQUAL(p.path[0].failed, 2);
	CU_ASSERT_EQUAL(p.path[1].failed, 0);
	CU_ASSERT_STRING_EQUAL(p.path[1].why, "");
	CU_ASSERT_EQUAL(pathsel_heal_ns(&p, 0), 6000 * MS);
	expect(&p, 3200 * MS, PATHSEL_USE, 1);
	pathsel_used(&p, 1, 3250 * MS);
	come_up(&p, 0, 3300 * MS);
	CU_ASSERT_EQUAL(p.failovers, 2);
	expect(&p, 9299 * MS, PATHSEL_NOTHING, 0);
	expect(&p, 9300 * MS, PATHSEL_USE, 0);
}

/* While a path that is to take over does not answer, others are connected, and soon. */
static void test_meanwhile(void)
{
	struct pathsel p;

	two_up(&p);
	for (uint64_t now = 0; now < 5; now++) {
		pathsel_failed(&p, 0, now * 10000 * MS, "pulled");
		pathsel_connecting(&p, 0, now * 10000 * MS);
	}
	pathsel_failed(&p, 0, 50000 * MS, "pulled");
	expect(&p, 50000 * MS, PATHSEL_USE, 1);
	pathsel_taking(&p, 1, 50000 * MS);
	expect(&p, 50099 * MS, PATHSEL_NOTHING, 0);
	expect(&p, 50100 * MS, PATHSEL_CONNECT, 0);
	pathsel_connecting(&p, 0, 50100 * MS);
	pathsel_ready(&p, 0, 50100 * MS);
	expect(&p, 50100 * MS, PATHSEL_NOTHING, 0);
	pathsel_failed(&p, 1, 50200 * MS, "nothing is heard on it");
	expect(&p, 50200 * MS, PATHSEL_USE, 0);
}

/* Two paths over one cable: the second is not tried while a third is heard. */
static void test_fresh(void)
{
	struct pathsel_params fresh = prm;
	struct pathsel p;

	fresh.fresh_ns = 200 * MS;
	pathsel_init(&p, 3, &fresh, 0);
	for (unsigned i = 0; i < 3; i++) {
		pathsel_connecting(&p, i, 0);
		pathsel_ready(&p, i, 0);
	}
	pathsel_used(&p, 0, 0);
	pathsel_heard(&p, 1, 1000 * MS);
	pathsel_heard(&p, 2, 1150 * MS);
	pathsel_failed(&p, 0, 1200 * MS, "nothing is heard on it");
	expect(&p, 1200 * MS, PATHSEL_USE, 2);
	/* With nobody heard lately (this host stood still) the order counts. */
	expect(&p, 1400 * MS, PATHSEL_USE, 1);
	pathsel_used(&p, 2, 1200 * MS);
	/* And a better one that is healed, but silent now, is not gone back to. */
	pathsel_connecting(&p, 0, 1300 * MS);
	pathsel_heard(&p, 2, 9000 * MS);
	expect(&p, 9000 * MS, PATHSEL_NOTHING, 0);
	pathsel_heard(&p, 1, 8900 * MS);
	expect(&p, 9000 * MS, PATHSEL_USE, 1);
}

/* A world of cables that break and heal at random. */
struct world {
	struct pathsel p;
	uint64_t now, rng, up_since[PATHSEL_MAX], down_until[PATHSEL_MAX], lost_since;
	unsigned switches, back;
};

static unsigned dice(struct world *w, unsigned n)
{
	w->rng ^= w->rng << 13;
	w->rng ^= w->rng >> 7;
	w->rng ^= w->rng << 17;
	return (unsigned)(w->rng % n);
}

static int works(const struct world *w, unsigned i)
{
	return w->now >= w->down_until[i];
}

/* Whatever is decided is legal, and done at once. Returns 0 when there is nothing to do. */
static int obey(struct world *w)
{
	struct pathsel_do d = pathsel_decide(&w->p, w->now);
	int before = w->p.in_use;

	if (d.act == PATHSEL_NOTHING) {
		CU_ASSERT(d.at > w->now);
		return 0;
	}
	if (d.act == PATHSEL_CONNECT) {
		pathsel_connecting(&w->p, d.path, w->now);
		if (works(w, d.path))
			pathsel_ready(&w->p, d.path, w->now);
		else
			pathsel_failed(&w->p, d.path, w->now, "broken");
		return 1;
	}
	if (before >= 0) {
		/* Only to a better one, and only after it was alive for long enough. */
		CU_ASSERT((int)d.path < before);
		CU_ASSERT(w->now - w->p.path[d.path].since >= prm.heal_ns);
		w->back++;
	}
	w->switches++;
	pathsel_used(&w->p, d.path, w->now);
	return 1;
}

static void breaks(struct world *w)
{
	for (unsigned i = 0; i < w->p.n; i++) {
		if (!dice(w, 4000))
			w->down_until[i] = w->now + dice(w, 20000) * MS;
		if (!works(w, i) && w->p.path[i].state >= PATHSEL_READY)
			pathsel_failed(&w->p, i, w->now, "broken");
	}
}

static void one_world(uint64_t seed)
{
	struct world w = {.rng = seed * 0x9e3779b97f4a7c15ull + 1};
	unsigned n = 1 + dice(&w, 4), alive;

	pathsel_init(&w.p, n, &prm, 0);
	for (unsigned turn = 0; turn < 20000; turn++) {
		breaks(&w);
		while (obey(&w))
			;
		alive = 0;
		for (unsigned i = 0; i < n; i++)
			alive += w.p.path[i].state == PATHSEL_READY;
		/* Never without a path while there is one. */
		CU_ASSERT(w.p.in_use >= 0 || !alive);
		w.now += 10 * MS;
	}
	/* 200 s: no more ways back than the hold-down allows for each path. */
	CU_ASSERT(w.back <= n * 200 / 3);
	memset(w.down_until, 0, sizeof(w.down_until));
	for (unsigned turn = 0; turn < 8000; turn++) {
		while (obey(&w))
			;
		w.now += 10 * MS;
	}
	CU_ASSERT_EQUAL(w.p.in_use, 0);
}

static void test_worlds(void)
{
	for (uint64_t seed = 1; seed <= 200; seed++)
		one_world(seed);
}

static const struct unit_test tests[] = {
	{"order", test_order},
	{"failover and back", test_failover},
	{"attempts", test_attempts},
	{"hold-down", test_hold_down},
	{"the better record", test_record},
	{"failed at taking over", test_missed},
	{"meanwhile", test_meanwhile},
	{"who was heard lately", test_fresh},
	{"worlds at random", test_worlds},
};

int main(void)
{
	return UNIT_MAIN("pathsel", tests);
}
