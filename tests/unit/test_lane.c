/* SPDX-License-Identifier: Apache-2.0
 * test_lane - the lane over a simulated wire: loss, order, copies, delay, cuts, ends.
 */
#include "tests/unit/lanesim.h"
#include "tests/unit/unit.h"

#include <errno.h>

enum { MiB = 1 << 20, SLOTS = 4096, SEEDS = 3 };

static struct lane_stats stats(struct sim *s, int side)
{
	struct lane_stats st;

	lane_stats(s->end[side].lane, &st);
	return st;
}

static void begin(struct sim *s, uint64_t seed)
{
	sim_begin(s, seed, SLOTS);
	s->wire.delay_ns = 50000;
	s->wire.ns_per_frame = 1200; /* 10 Gbit/s */
}

static void clean_wire(void)
{
	struct sim s;

	begin(&s, 1);
	CU_ASSERT(sim_run(&s, sim_opened, 10));
	CU_ASSERT_EQUAL(stats(&s, 0).mtu, 1500);
	sim_transfer(&s, 64 * MiB + 17, 0, 70); /* 55 ms at the wire's rate */
	CU_ASSERT_EQUAL(stats(&s, 0).resent, 0);
	CU_ASSERT_EQUAL(stats(&s, 1).duplicates, 0);
	sim_transfer(&s, 8 * MiB, 8 * MiB + 1, 20);
	CU_ASSERT_EQUAL(stats(&s, 0).timeouts, 0);
	sim_finish(&s);
}

static void one_percent_lost(void)
{
	struct sim s;

	for (unsigned i = 0; i < SEEDS; i++) {
		begin(&s, 10 + i);
		s.wire.loss_ppm = 10000;
		sim_transfer(&s, 16 * MiB, 3 * MiB, 60);
		CU_ASSERT(stats(&s, 0).resent > 50);
		CU_ASSERT_EQUAL(stats(&s, 0).timeouts, 0);
		sim_finish(&s);
	}
}

static void out_of_order_and_twice(void)
{
	struct sim s;

	for (unsigned i = 0; i < SEEDS; i++) {
		begin(&s, 20 + i);
		s.wire.jitter_ns = 3 * SIM_MS;
		s.wire.copy_ppm = 50000;
		sim_transfer(&s, 4 * MiB, MiB, 1000);
		CU_ASSERT(stats(&s, 1).duplicates > 100);
		sim_finish(&s);
	}
}

/* 64 MiB of window and 100 ms each way: 2.5 Gbit/s; with loss, still most of that. */
static void long_wire(void)
{
	static const unsigned loss[] = {0, 10000};
	struct sim s;

	for (unsigned i = 0; i < 2; i++) {
		sim_begin(&s, 30 + i, 65536);
		s.wire.delay_ns = 100 * SIM_MS;
		s.wire.ns_per_frame = 4800; /* 2.5 Gbit/s */
		s.wire.loss_ppm = loss[i];
		CU_ASSERT(sim_run(&s, sim_opened, 3000));
		sim_transfer(&s, 128 * MiB, 0, 5000);
		CU_ASSERT_EQUAL(stats(&s, 0).timeouts, 0);
		sim_finish(&s);
	}
}

static void everything_at_once(void)
{
	struct sim s;

	for (unsigned i = 0; i < SEEDS; i++) {
		begin(&s, 40 + i);
		s.wire = (struct sim_wire){.delay_ns = 100 * SIM_MS,
					   .jitter_ns = 20 * SIM_MS,
					   .loss_ppm = 50000,
					   .copy_ppm = 50000,
					   .ns_per_frame = 1200};
		sim_transfer(&s, 2 * MiB, 2 * MiB, 120000);
		sim_finish(&s);
	}
}

/* The last frame of a burst vanishes, once. */
static int drop_last(const struct lane_msg *m, unsigned nth)
{
	static unsigned times;

	return m->kind == LANE_DATA && m->len == 7 && !(times++ % 2);
}

static void tail_is_not_waited_for(void)
{
	struct sim s;

	begin(&s, 50);
	s.wire.ns_per_frame = 0;
	CU_ASSERT(sim_run(&s, sim_opened, 10));
	sim_transfer(&s, MiB, 0, 20); /* the round trip is known */
	s.wire.drop = drop_last;
	for (unsigned i = 0; i < 20; i++)
		sim_transfer(&s, 20 * 1466 + 7, 0, 10); /* the time-out is 20 ms */
	CU_ASSERT_EQUAL(stats(&s, 0).timeouts, 0);
	CU_ASSERT(stats(&s, 0).probes >= 20);
	sim_finish(&s);
}

static void length_of_frames(void)
{
	static const struct {
		unsigned a, b, wire, found;
	} c[] = {
		{9000, 9000, 0, 9000}, {9000, 9000, 9000, 9000}, {9000, 9000, 8999, 1500},
		{9000, 4000, 0, 4000}, {1500, 9000, 1400, 1280}, {9000, 9000, 1000, 576},
	};
	struct sim s;

	for (unsigned i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
		struct lane_cfg cfg[2] = {sim_cfg(0, SLOTS), sim_cfg(1, SLOTS)};

		s = (struct sim){.now = SIM_MS, .rng = i + 1};
		s.wire.mtu = c[i].wire;
		s.wire.loss_ppm = 10000;
		cfg[0].mtu = c[i].a;
		cfg[1].mtu = c[i].b;
		sim_lane(&s, 0, &cfg[0]);
		sim_lane(&s, 1, &cfg[1]);
		CU_ASSERT(sim_run(&s, sim_opened, 2000));
		CU_ASSERT_EQUAL(stats(&s, 0).mtu, c[i].found);
		CU_ASSERT_EQUAL(stats(&s, 1).mtu, c[i].found);
		sim_transfer(&s, MiB, MiB, 3000);
		sim_finish(&s);
	}
}

static void wire_of_no_use(void)
{
	struct sim s;

	begin(&s, 60);
	s.wire.mtu = 400;
	CU_ASSERT(sim_run(&s, sim_both_done, 5000));
	for (int i = 0; i < 2; i++)
		CU_ASSERT(lane_error(s.end[i].lane) == -EMSGSIZE ||
			  lane_error(s.end[i].lane) == -ECONNRESET);
	sim_finish(&s);
}

static int drop_acks(const struct lane_msg *m, unsigned nth)
{
	return m->kind == LANE_ACK;
}

/* Nobody reads: the sender stops at the window's edge, and goes on when there is room,
 * also if the word of it was lost. */
static void backpressure(void)
{
	struct sim s;

	for (unsigned i = 0; i < SEEDS; i++) {
		sim_begin(&s, 70 + i, 64);
		s.wire.delay_ns = 50000;
		s.wire.loss_ppm = i ? 100000 : 0;
		s.end[1].reads = 0;
		s.end[0].sent_total = MiB;
		CU_ASSERT(!sim_run(&s, sim_all_taken, 10000));
		CU_ASSERT_EQUAL(lane_readable(s.end[1].lane), 64);
		CU_ASSERT_EQUAL(s.end[0].sent, 128 * 1466);
		CU_ASSERT_EQUAL(lane_state(s.end[0].lane), LANE_ST_OPEN);
		s.end[1].reads = 1;
		s.wire.drop = drop_acks;
		CU_ASSERT(!sim_run(&s, sim_all_taken, 10));
		s.wire.drop = NULL;
		CU_ASSERT(sim_run(&s, sim_all_taken, 20000));
		sim_finish(&s);
	}
}

static void idle_is_alive(void)
{
	struct sim s;
	unsigned before;

	begin(&s, 80);
	sim_transfer(&s, MiB, MiB, 100);
	before = s.end[0].frames;
	(void)sim_run(&s, NULL, 60000);
	CU_ASSERT(sim_opened(&s));
	CU_ASSERT(s.end[0].frames - before < 300); /* a word now and then */
	sim_transfer(&s, MiB, MiB, 100);
	sim_finish(&s);
}

static void cut(void)
{
	struct sim s;

	for (unsigned i = 0; i < 2; i++) {
		begin(&s, 90 + i);
		CU_ASSERT(sim_run(&s, sim_opened, 10));
		s.end[0].sent_total = i ? 0 : 64 * MiB; /* under load, and idle */
		(void)sim_run(&s, NULL, 5);
		s.wire.cut = 1;
		CU_ASSERT(sim_run(&s, sim_both_done, 2600));
		for (int e = 0; e < 2; e++) {
			CU_ASSERT_EQUAL(lane_error(s.end[e].lane), -ETIMEDOUT);
			CU_ASSERT_EQUAL(lane_end(s.end[e].lane), -ETIMEDOUT);
			CU_ASSERT_EQUAL(lane_send_error(s.end[e].lane), -ETIMEDOUT);
		}
		sim_finish(&s);
	}
}

/* A short break costs time only. */
static void broken_for_a_second(void)
{
	struct sim s;

	begin(&s, 95);
	s.end[0].sent_total = 64 * MiB;
	(void)sim_run(&s, NULL, 10);
	s.wire.cut = 1;
	(void)sim_run(&s, NULL, 1000);
	s.wire.cut = 0;
	sim_transfer(&s, 0, 0, 3000);
	CU_ASSERT(sim_opened(&s));
	sim_finish(&s);
}

static void nobody_answers(void)
{
	struct sim s;

	begin(&s, 100);
	lane_free(s.end[1].lane);
	s.end[1].lane = NULL;
	(void)sim_run(&s, NULL, 10000);
	CU_ASSERT_EQUAL(lane_state(s.end[0].lane), LANE_ST_CALLING);
	CU_ASSERT(s.end[0].frames < 110);
	sim_finish(&s);
}

/* One end forgets everything, another lane takes its place: the old one is neither
 * answered nor disturbed by it, and finds out. */
static void half_open(void)
{
	struct lane_cfg other = sim_cfg(1, SLOTS);
	struct sim s;

	begin(&s, 110);
	sim_transfer(&s, MiB, MiB, 100);
	lane_free(s.end[1].lane);
	other.own_id = 0x777700000005;
	sim_lane(&s, 1, &other);
	s.end[0].sent_total += MiB;
	(void)sim_run(&s, NULL, 2600);
	CU_ASSERT_EQUAL(lane_error(s.end[0].lane), -ETIMEDOUT);
	CU_ASSERT_EQUAL(lane_error(s.end[1].lane), -ECONNRESET); /* is told so */
	sim_finish(&s);
}

static int read_all(const struct sim *s)
{
	return s->end[1].taken == s->end[0].sent_total && lane_end(s->end[1].lane);
}

/* What was given before the close arrives, then the end, of the right kind. */
static void closes(void)
{
	struct sim s;

	for (unsigned i = 0; i < 4 * SEEDS; i++) {
		int abort = (int)i % 2;

		begin(&s, 120 + i);
		s.wire.loss_ppm = i / 2 % 2 ? 100000 : 0;
		CU_ASSERT(sim_run(&s, sim_opened, 1000));
		s.end[0].sent_total = 2 * MiB;
		s.end[1].sent_total = 50 * MiB;
		sim_serve(&s, &s.end[0]);
		CU_ASSERT_EQUAL(s.end[0].sent, 2 * MiB);
		lane_close(s.end[0].lane, abort, s.now);
		CU_ASSERT_EQUAL(lane_send_error(s.end[0].lane), -ESHUTDOWN);
		CU_ASSERT(sim_run(&s, read_all, 3000));
		CU_ASSERT_EQUAL(lane_end(s.end[1].lane), abort ? -ECONNRESET : -EPIPE);
		CU_ASSERT_EQUAL(lane_send_error(s.end[1].lane), -ECONNRESET);
		lane_close(s.end[1].lane, 0, s.now);
		CU_ASSERT(sim_run(&s, sim_both_done, 3000));
		CU_ASSERT_EQUAL(lane_error(s.end[0].lane), 0);
		sim_finish(&s);
	}
}

/* The reader takes its time; the closed end lingers no longer than it must. */
static void closed_before_read(void)
{
	struct sim s;

	begin(&s, 150);
	CU_ASSERT(sim_run(&s, sim_opened, 100));
	s.end[1].reads = 0;
	s.end[0].sent_total = MiB;
	(void)sim_run(&s, NULL, 5);
	lane_close(s.end[0].lane, 0, s.now);
	(void)sim_run(&s, NULL, 30000);
	CU_ASSERT_EQUAL(lane_state(s.end[0].lane), LANE_ST_DONE);
	CU_ASSERT_EQUAL(lane_error(s.end[0].lane), 0);
	CU_ASSERT_EQUAL(lane_end(s.end[1].lane), 0);
	s.end[1].reads = 1;
	s.end[1].wake = s.now;
	CU_ASSERT(sim_run(&s, read_all, 10));
	CU_ASSERT_EQUAL(lane_end(s.end[1].lane), -EPIPE);
	sim_finish(&s);
}

/* A failure on one side: the other hears of it, and keeps what came before. */
static void fails(void)
{
	struct sim s;

	begin(&s, 160);
	CU_ASSERT(sim_run(&s, sim_opened, 100));
	s.end[1].reads = 0;
	s.end[0].sent_total = 6 * 1466;
	(void)sim_run(&s, NULL, 5);
	lane_fail(s.end[0].lane, -ETIMEDOUT);
	CU_ASSERT(sim_run(&s, sim_both_done, 5));
	CU_ASSERT_EQUAL(lane_end(s.end[1].lane), 0);
	CU_ASSERT_EQUAL(lane_send_error(s.end[1].lane), -ECONNRESET);
	s.end[1].reads = 1;
	sim_drain(&s.end[1]);
	CU_ASSERT_EQUAL(s.end[1].taken, 6 * 1466);
	CU_ASSERT_EQUAL(lane_end(s.end[1].lane), -ECONNRESET);
	sim_finish(&s);
}

/* A process that stood still for longer than silence is allowed does not blame its peer. */
static void stood_still(void)
{
	struct sim s;

	begin(&s, 170);
	sim_transfer(&s, MiB, MiB, 100);
	s.now += 10000 * SIM_MS;
	sim_transfer(&s, MiB, MiB, 100);
	CU_ASSERT(sim_opened(&s));
	sim_finish(&s);
}

static const struct unit_test tests[] = {
	{"clean wire", clean_wire},
	{"one per cent lost", one_percent_lost},
	{"out of order and twice", out_of_order_and_twice},
	{"long wire", long_wire},
	{"everything at once", everything_at_once},
	{"tail is not waited for", tail_is_not_waited_for},
	{"length of frames", length_of_frames},
	{"wire of no use", wire_of_no_use},
	{"backpressure", backpressure},
	{"idle is alive", idle_is_alive},
	{"cut", cut},
	{"broken for a second", broken_for_a_second},
	{"nobody answers", nobody_answers},
	{"half open", half_open},
	{"closes", closes},
	{"closed before read", closed_before_read},
	{"fails", fails},
	{"stood still", stood_still},
};

int main(void)
{
	return UNIT_MAIN("lane", tests);
}
