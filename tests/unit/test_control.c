/* SPDX-License-Identifier: Apache-2.0
 * test_control - the epoch controller against a model of a guest: short epochs for a few
 * answers, long ones for bulk, the cap kept, and no swinging when the load steps, ramps or
 * comes in bursts.
 */
#include "remus/control.h"
#include "tests/unit/unit.h"

#define US UINT64_C(1000)
#define MS (1000 * US)

static const struct control_config cfg = {.interval = 25 * MS,
					  .min_interval = 200 * US,
					  .latency_target = 500 * US,
					  .overhead_cap = 20};

/* A guest that has output all the time and dirties @rate pages a ms, of @set at most. */
struct model {
	struct control c;
	uint64_t now, last, stood;
	double rate, set;
};

static double pages_after(const struct model *m, uint64_t ns)
{
	double n = m->rate * (double)ns / 1e6;

	return n < m->set ? n : m->set;
}

/* One epoch; its length in ns. */
static uint64_t turn(struct model *m)
{
	uint64_t start = control_next(&m->c, &cfg, m->last, m->last + 1), len, pause;

	if (start < m->now)
		start = m->now; /* the guest stood until then */
	len = start - m->last;
	pause = 120 * US + (uint64_t)(pages_after(m, len) * 300); /* 0.3 us a page */
	control_pause(&m->c, pause);
	control_commit(&m->c, 200 * US + (uint64_t)(pages_after(m, len) * 1000));
	m->last = start;
	m->now = start + pause;
	m->stood += pause;
	return len;
}

static struct model make(double rate, double set)
{
	return (struct model){.now = MS, .last = MS, .rate = rate, .set = set};
}

/* Lengths of the last @n epochs: their spread over their mean. */
static double swing(struct model *m, unsigned n)
{
	double least = 1e18, most = 0, sum = 0;

	for (unsigned i = 0; i < n; i++) {
		double len = (double)turn(m);

		least = len < least ? len : least;
		most = len > most ? len : most;
		sum += len;
	}
	return (most - least) / (sum / n);
}

static void alone_it_waits(void)
{
	struct control c = {0};

	CU_ASSERT_EQUAL(control_next(&c, &cfg, 1000 * MS, 0), 1025 * MS);
	/* Nothing is known yet: the target is kept as if a commit took no time. */
	CU_ASSERT_EQUAL(control_next(&c, &cfg, 1000 * MS, 1010 * MS),
			1010 * MS + 500 * US);
}

static void output_ends_it(void)
{
	struct control c = {.pause = 200 * US, .commit = 200 * US};

	/* 100 us are left of the target. */
	CU_ASSERT_EQUAL(control_next(&c, &cfg, 1000 * MS, 1010 * MS),
			1010 * MS + 100 * US);
	/* Not sooner than the cap lets: 200 us at 20 %. */
	CU_ASSERT_EQUAL(control_gap(&c, &cfg), MS);
	CU_ASSERT_EQUAL(control_next(&c, &cfg, 1000 * MS, 1000 * MS + 1), 1001 * MS);
	/* Not later than the interval. */
	CU_ASSERT_EQUAL(control_next(&c, &cfg, 1000 * MS, 1025 * MS - 1), 1025 * MS);
	c.commit = 5 * MS; /* it cannot be kept: at once */
	CU_ASSERT_EQUAL(control_next(&c, &cfg, 1000 * MS, 1010 * MS), 1010 * MS);
	c.pause = 50 * MS; /* more than the interval allows for: the interval */
	CU_ASSERT_EQUAL(control_gap(&c, &cfg), 25 * MS);
	c.pause = 1;
	CU_ASSERT_EQUAL(control_gap(&c, &cfg), 200 * US);
}

/* A few pages: epochs as short as the cap lets, and the cap is kept. */
static void light_load(void)
{
	struct model m = make(20, 1e9);

	for (int i = 0; i < 200; i++)
		(void)turn(&m);
	CU_ASSERT_TRUE(turn(&m) < 2 * MS);
	CU_ASSERT_TRUE(swing(&m, 100) < 0.05);
	CU_ASSERT_TRUE((double)m.stood / (double)(m.now - MS) < 0.22);
}

/* So many pages that no distance keeps the cap: the whole interval. */
static void bulk_load(void)
{
	struct model m = make(1000, 1e9);

	for (int i = 0; i < 200; i++)
		(void)turn(&m);
	CU_ASSERT_EQUAL(turn(&m), 25 * MS);
	CU_ASSERT_TRUE(swing(&m, 100) < 0.01);
}

/* From light to bulk and back: each in a few epochs, without ringing. */
static void steps(void)
{
	struct model m = make(20, 1e9);
	unsigned n;

	for (int round = 0; round < 5; round++) {
		m.rate = 1000;
		for (n = 0; turn(&m) < 24 * MS && n < 1000; n++)
			;
		CU_ASSERT_TRUE(n < 40);
		CU_ASSERT_TRUE(swing(&m, 50) < 0.05);
		m.rate = 20;
		for (n = 0; turn(&m) > 2 * MS && n < 1000; n++)
			;
		CU_ASSERT_TRUE(n < 60);
		(void)swing(&m, 50); /* the last eighths */
		CU_ASSERT_TRUE(swing(&m, 50) < 0.05);
	}
}

/* While the load grows epochs only grow, and while it falls they only fall. */
static void ramps(void)
{
	struct model m = make(0, 1e9);
	uint64_t len, last = 0;

	for (int i = 0; i < 3000; i++) {
		m.rate = i / 10.0;
		len = turn(&m);
		if (i > 50)
			CU_ASSERT_TRUE_FATAL(len + len / 20 >= last);
		last = len;
	}
	for (int i = 3000; i-- > 0;) {
		m.rate = i / 10.0;
		len = turn(&m);
		if (i < 2950)
			CU_ASSERT_TRUE_FATAL(len <= last + last / 20);
		last = len;
	}
}

/* Bursts every few epochs: the distance stays near what the bursts need instead of following each,
 * and the cap holds over the whole. */
static void bursts(void)
{
	struct model m = make(20, 4000);
	uint64_t begin;

	for (int i = 0; i < 4000; i++) {
		m.rate = i % 8 < 2 ? 800 : 20;
		(void)turn(&m);
		CU_ASSERT_TRUE_FATAL(control_gap(&m.c, &cfg) <= cfg.interval);
	}
	m.stood = 0;
	begin = m.now;
	for (int i = 0; i < 800; i++) {
		m.rate = i % 8 < 2 ? 800 : 20;
		(void)turn(&m);
	}
	CU_ASSERT_TRUE((double)m.stood / (double)(m.now - begin) < 0.25);
}

static const struct unit_test tests[] = {
	{"without output: the interval", alone_it_waits},
	{"output ends an epoch", output_ends_it},
	{"light load", light_load},
	{"bulk load", bulk_load},
	{"steps", steps},
	{"ramps", ramps},
	{"bursts", bursts},
};

int main(void)
{
	return UNIT_MAIN("control", tests);
}
