/* SPDX-License-Identifier: Apache-2.0
 * test_linkcarry - from measures to rates and verdicts, and when a VM's commits suffer: pure arithmetic.
 */
#include "ctl/commitguard.h"
#include "ctl/linkcarry.h"
#include "tests/unit/unit.h"

#include <string.h>

#define MS 1000000ull

static int near(double a, double b)
{
	return a > b * 0.999 && a < b * 1.001;
}

/* 100 MB/s, 0.2 ms for a page, 25 ms epochs. */
static struct carry_in good_wire(void)
{
	return (struct carry_in){.bytes = 50000000,
				 .ns = 500 * MS,
				 .trip_ns = 200000,
				 .interval_us = 25000};
}

static void test_raw(void)
{
	struct carry_in in = good_wire();
	struct carry c;

	carry_judge(&in, &c);
	CU_ASSERT(near(c.bytes_per_s, 1e8));
	CU_ASSERT(near(c.bytes_per_epoch, 2.5e6));
	CU_ASSERT_EQUAL(c.pages_raw, 607); /* 2,500,000 / 4112 */
	CU_ASSERT_EQUAL(c.pages_encoded, 0);
	CU_ASSERT(near(c.raw.commit_ms, 0.2 + 999 * 4112 / 1e8 * 1e3));
	CU_ASSERT(near(c.raw.per_s, 1e3 / c.raw.commit_ms));
	CU_ASSERT_EQUAL(c.raw.limit, CARRY_BY_BANDWIDTH);
	CU_ASSERT_EQUAL(c.verdict, CARRY_GOOD);
}

static void test_encoded(void)
{
	struct carry_in in = good_wire();
	struct carry c;

	in.page_bytes = 100;
	in.pages = 500;
	carry_judge(&in, &c);
	CU_ASSERT_EQUAL(c.pages_encoded, 25000);
	CU_ASSERT_EQUAL(c.pages_raw, 607);
	CU_ASSERT(near(c.encoded.commit_ms, 0.2 + 0.999));
	CU_ASSERT(near(c.load.commit_ms, 0.2 + 0.499));
	CU_ASSERT_EQUAL(c.verdict, CARRY_GOOD);
	in.trip_ns = 2 * MS;
	carry_judge(&in, &c);
	CU_ASSERT_EQUAL(c.encoded.limit, CARRY_BY_LATENCY);
	CU_ASSERT_EQUAL(c.raw.limit, CARRY_BY_BANDWIDTH);
}

static void test_verdicts(void)
{
	struct carry_in in = good_wire();
	struct carry c;

	/* It fits into the interval, but is acknowledged after it: a long way. */
	in.page_bytes = 1000;
	in.pages = 1000;
	in.trip_ns = 30 * MS;
	carry_judge(&in, &c);
	CU_ASSERT_EQUAL(c.verdict, CARRY_LATE);
	/* 25 ms of sending and the round trip. */
	in.trip_ns = 200000;
	in.pages = 2500;
	carry_judge(&in, &c);
	CU_ASSERT_EQUAL(c.verdict, CARRY_LATE);
	in.pages = 2501;
	carry_judge(&in, &c);
	CU_ASSERT_EQUAL(c.verdict, CARRY_SLOW);
	/* Nothing is known of the VM, and one page takes too long already. */
	in = good_wire();
	in.trip_ns = 30 * MS;
	carry_judge(&in, &c);
	CU_ASSERT_EQUAL(c.verdict, CARRY_LATE);
	in.bytes = 10000; /* 20 kB/s */
	carry_judge(&in, &c);
	CU_ASSERT_EQUAL(c.verdict, CARRY_SLOW);
	CU_ASSERT_EQUAL(c.pages_raw, 0);
	/* An idle VM. */
	in = good_wire();
	in.page_bytes = 100;
	carry_judge(&in, &c);
	CU_ASSERT_EQUAL(c.verdict, CARRY_GOOD);
	CU_ASSERT(near(c.load.commit_ms, 0.2));
}

static void test_nothing_measured(void)
{
	struct carry_in in = good_wire();
	struct carry c;

	in.ns = 0;
	carry_judge(&in, &c);
	CU_ASSERT_EQUAL(c.verdict, CARRY_UNMEASURED);
	in = good_wire();
	in.bytes = 0;
	carry_judge(&in, &c);
	CU_ASSERT_EQUAL(c.verdict, CARRY_UNMEASURED);
	in = (struct carry_in){.bytes = 1, .ns = 1};
	carry_judge(&in, &c); /* no interval, no trip: no division by them */
	CU_ASSERT_STRING_EQUAL(carry_verdict_name(c.verdict), "slow");
	CU_ASSERT_STRING_EQUAL(carry_limit_name(c.raw.limit), "bandwidth");
}

/* 100 commits of 2 ms so far. */
static struct commit_sample calm(void)
{
	return (struct commit_sample){.protected = 1,
				      .commits = 100,
				      .commit_ns = 200 * MS,
				      .captured = 101,
				      .acked = 99};
}

static struct commit_sample later(const struct commit_sample *s, uint64_t commits,
				  uint64_t each_ns)
{
	struct commit_sample n = *s;

	n.commits += commits;
	n.commit_ns += commits * each_ns;
	n.captured += commits;
	n.acked += commits;
	return n;
}

static void test_guard_limits(void)
{
	struct commit_sample s = calm();
	struct commitguard g;

	commitguard_begin(&g, &s, 25000, 200000, 0);
	CU_ASSERT_EQUAL(g.usual_ns, 2 * MS);
	CU_ASSERT_EQUAL(g.limit_ns, 45 * MS);
	CU_ASSERT_EQUAL(g.end_ns, 100 * MS);
	s.commit_ns = 2000 * MS; /* 20 ms each: four times that are 80 */
	commitguard_begin(&g, &s, 25000, 0, 0);
	CU_ASSERT_EQUAL(g.limit_ns, 80 * MS);
	CU_ASSERT_EQUAL(g.end_ns, UINT64_MAX);
	commitguard_begin(&g, &s, 25000, 100000, 0); /* suspected after 100 ms */
	CU_ASSERT_EQUAL(g.limit_ns, 50 * MS);
	CU_ASSERT_EQUAL(g.end_ns, 50 * MS);
	commitguard_begin(&g, &s, 25000, 30000, 0); /* it lives dangerously anyway */
	CU_ASSERT_EQUAL(g.end_ns, 40 * MS);
	s.commits = s.commit_ns = 0;
	commitguard_begin(&g, &s, 25000, 200000, 0);
	CU_ASSERT_EQUAL(g.limit_ns, 45 * MS);
	CU_ASSERT_EQUAL(commitguard_mean(&g), 0);
}

static char why[160];

static enum commitguard_says look(struct commitguard *g, const struct commit_sample *s,
				  uint64_t now)
{
	why[0] = 0;
	return commitguard_look(g, s, now, why, sizeof(why));
}

static void test_guard_strikes(void)
{
	struct commit_sample s = calm();
	struct commitguard g;
	uint64_t now = 1000 * MS;

	commitguard_begin(&g, &s, 25000, 200000, now);
	for (int i = 0; i < 10; i++) {
		s = later(&s, 1, 10 * MS);
		CU_ASSERT_EQUAL(look(&g, &s, now += 25 * MS), COMMITGUARD_GO);
	}
	CU_ASSERT_EQUAL(commitguard_mean(&g), 10 * MS);
	/* One that is too late: less, please; looking again does not count it again. */
	s = later(&s, 2, 46 * MS);
	CU_ASSERT_EQUAL(look(&g, &s, now += 5 * MS), COMMITGUARD_SLOWER);
	for (int i = 0; i < 15; i++) {
		s = later(&s, 1, 46 * MS);
		CU_ASSERT_EQUAL(look(&g, &s, now += 5 * MS), COMMITGUARD_SLOWER);
	}
	s = later(&s, 1, 2 * MS);
	CU_ASSERT_EQUAL(look(&g, &s, now += 5 * MS), COMMITGUARD_GO);
	for (int i = 1; i < COMMITGUARD_STRIKES; i++) {
		s = later(&s, 1, 46 * MS);
		CU_ASSERT_EQUAL(look(&g, &s, now += 100 * MS), COMMITGUARD_SLOWER);
		s = later(&s, 10, 2 * MS);
		CU_ASSERT_EQUAL(look(&g, &s, now += 5 * MS), COMMITGUARD_GO);
	}
	s = later(&s, 1, 46 * MS);
	CU_ASSERT_EQUAL(look(&g, &s, now += 100 * MS), COMMITGUARD_STOP);
	CU_ASSERT_PTR_NOT_NULL(strstr(why, "46.0 ms"));
	/* One that is much too late. */
	s = calm();
	commitguard_begin(&g, &s, 25000, 200000, now);
	s = later(&s, 1, 101 * MS);
	CU_ASSERT_EQUAL(look(&g, &s, now += 5 * MS), COMMITGUARD_STOP);
}

/* None comes at all. */
static void test_guard_waits(void)
{
	struct commit_sample s = calm();
	struct commitguard g;
	uint64_t now = 1000 * MS;

	commitguard_begin(&g, &s, 25000, 200000, now);
	CU_ASSERT_EQUAL(look(&g, &s, now + 45 * MS), COMMITGUARD_GO);
	CU_ASSERT_EQUAL(look(&g, &s, now + 46 * MS), COMMITGUARD_SLOWER);
	CU_ASSERT_EQUAL(look(&g, &s, now + 100 * MS), COMMITGUARD_SLOWER);
	CU_ASSERT_EQUAL(look(&g, &s, now + 101 * MS), COMMITGUARD_STOP);
	/* No epoch waits for one: the interval is long. */
	s.captured = 100;
	commitguard_begin(&g, &s, 25000, 200000, now);
	CU_ASSERT_EQUAL(look(&g, &s, now + 900 * MS), COMMITGUARD_GO);
	/* Not even the first one came. */
	s = (struct commit_sample){.protected = 1, .captured = 1, .acked = UINT64_MAX};
	commitguard_begin(&g, &s, 25000, 200000, now);
	CU_ASSERT_EQUAL(look(&g, &s, now + 900 * MS), COMMITGUARD_STOP);
}

static void test_guard_unprotected(void)
{
	struct commit_sample s = calm(), none = {.acked = UINT64_MAX};
	struct commitguard g;

	commitguard_begin(&g, &none, 25000, 200000, 0);
	CU_ASSERT_EQUAL(look(&g, &none, 900 * MS), COMMITGUARD_GO);
	commitguard_begin(&g, &s, 25000, 200000, 0);
	s.protected = 0;
	CU_ASSERT_EQUAL(look(&g, &s, MS), COMMITGUARD_STOP);
	CU_ASSERT_STRING_EQUAL(why, "the VM is not protected any more");
}

static const struct unit_test tests[] = {
	{"uncompressed", test_raw},
	{"as encoded", test_encoded},
	{"verdicts", test_verdicts},
	{"nothing measured", test_nothing_measured},
	{"guard: limits", test_guard_limits},
	{"guard: commits that suffer", test_guard_strikes},
	{"guard: commits that do not come", test_guard_waits},
	{"guard: a VM without a standby", test_guard_unprotected},
};

int main(void)
{
	return UNIT_MAIN("linkcarry", tests);
}
