/* SPDX-License-Identifier: Apache-2.0
 * test_lane_hostile - frames that no honest peer sends, in every state of a lane.
 */
#include "tests/unit/lanesim.h"
#include "tests/unit/unit.h"

#include <errno.h>

enum { SLOTS = 256, MiB = 1 << 20, SHOTS = 4000 };

static struct lane_msg message(int to, unsigned kind)
{
	struct lane_cfg c = sim_cfg(!to, SLOTS);
	struct lane_msg m = {.kind = (uint8_t)kind,
			     .id = c.peer_id,
			     .ack = (uint32_t)c.peer_id,
			     .edge = (uint32_t)c.peer_id + SLOTS,
			     .seq = (uint32_t)c.peer_id};

	memcpy(m.to, c.peer_mac, sizeof(m.to));
	memcpy(m.from, c.own_mac, sizeof(m.from));
	m.hello = (struct lane_hello){1, 1, 0, 1500, SLOTS, c.own_id};
	return m;
}

static void shoot(struct sim *s, int to, const struct lane_msg *m)
{
	uint8_t frame[SIM_FRAME] = {0};
	size_t len = lane_build(m, frame);

	sim_arrive(s, to, frame, len);
}

/* Bring the lanes into @state: for the later ones, with traffic on them. */
static void into(struct sim *s, enum lane_state state, uint64_t seed)
{
	sim_begin(s, seed, SLOTS);
	s->wire.delay_ns = SIM_MS;
	s->wire.cut = state == LANE_ST_CALLING;
	while (lane_state(s->end[0].lane) < state && state < LANE_ST_CLOSING &&
	       s->now < 10000 * SIM_MS)
		(void)sim_run(s, NULL, 1);
	CU_ASSERT(state == LANE_ST_CALLING || state >= LANE_ST_CLOSING ||
		  lane_state(s->end[0].lane) >= state);
	if (state >= LANE_ST_CLOSING) {
		CU_ASSERT(sim_run(s, sim_opened, 100));
		s->end[1].sent_total = MiB;
		(void)sim_run(s, NULL, 2);
		lane_close(s->end[0].lane, 0, s->now);
		if (state == LANE_ST_DONE)
			lane_fail(s->end[0].lane, -ECONNRESET);
	}
}

/* Noise, and frames of the lane's own with bits flipped: no word of it is taken, so the
 * stream comes through whole. */
static void garbage_in_each_state(void)
{
	struct lane_msg m;
	struct sim s;

	for (unsigned st = LANE_ST_CALLING; st <= LANE_ST_DONE; st++) {
		into(&s, st, 1 + st);
		for (unsigned i = 0; i < SHOTS; i++) {
			uint8_t frame[256];
			size_t len = sim_random(&s) % sizeof(frame);

			for (size_t k = 0; k < len; k++)
				frame[k] = (uint8_t)sim_random(&s);
			if (i % 2) {
				memset(frame, 0, sizeof(frame));
				m = message(0, 1 + i / 2 % 8);
				m.len = m.kind == LANE_DATA    ? 5
					: m.kind == LANE_RESET ? 8
							       : 0;
				len = lane_build(&m, frame);
				/* in what the sum covers */
				frame[14 + sim_random(&s) % 34] ^=
					(uint8_t)(1 << sim_random(&s) % 8);
			}
			sim_arrive(&s, 0, frame, len);
		}
		s.wire.cut = 0;
		if (st < LANE_ST_CLOSING) {
			sim_transfer(&s, MiB, MiB, 5000);
			CU_ASSERT(sim_opened(&s));
		}
		sim_finish(&s);
	}
}

/* Frames with a right sum and everything else at random: anything may become of the link,
 * but nothing of the process, and no more memory is held than the window. */
static void madness_in_each_state(void)
{
	struct sim s;

	for (unsigned st = LANE_ST_CALLING; st <= LANE_ST_DONE; st++)
		for (unsigned seed = 0; seed < 20; seed++) {
			into(&s, st, 100 + seed);
			for (unsigned i = 0; i < SHOTS / 10; i++) {
				struct lane_msg m = message(0, 1 + sim_random(&s) % 8);
				unsigned far = sim_random(&s) % 2 ? 8 : 30;

				m.flags = (unsigned)sim_random(&s) & 0xffff;
				m.seq += (uint32_t)(sim_random(&s) >> far % 64) % 1000;
				m.ack += (uint32_t)sim_random(&s) >> far;
				m.edge += (uint32_t)sim_random(&s) >> far;
				m.len = m.kind == LANE_DATA ? 1 + sim_random(&s) % 1000
							    : 0;
				m.hello.slots = 1 + (uint32_t)sim_random(&s) % 1000;
				m.n_ranges = m.kind == LANE_ACK ? sim_random(&s) % 3 : 0;
				for (unsigned k = 0; k < m.n_ranges; k++)
					m.ranges[k] = (struct lane_range){
						m.ack + 2 + k * 50,
						m.ack + 3 + k * 50 + sim_random(&s) % 40};
				shoot(&s, 0, &m);
				CU_ASSERT(s.end[0].held <= 2 * SLOTS + 1);
			}
			s.end[0].wrong = s.end[1].wrong = 0;
			(void)sim_run(&s, NULL, 50);
			s.end[0].wrong = s.end[1].wrong = 0; /* forged bytes were taken */
			sim_finish(&s);
		}
}

static void versions(void)
{
	static const struct {
		unsigned min, max;
		int error;
	} c[] = {{1, 1, 0}, {1, 7, 0}, {0, 1, 0}, {0, 0, -EPROTO}, {2, 9, -EPROTO}};
	struct sim s;

	for (unsigned i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
		struct lane_msg m = message(0, LANE_HELLO);

		into(&s, LANE_ST_CALLING, 300);
		m.hello.version_min = c[i].min;
		m.hello.version_max = c[i].max;
		shoot(&s, 0, &m);
		CU_ASSERT_EQUAL(lane_error(s.end[0].lane), c[i].error);
		sim_finish(&s);
	}
}

/* A good HELLO's fields out of their bounds. */
static void hello_out_of_bounds(void)
{
	struct lane_msg m[6], out;
	uint8_t frame[SIM_FRAME];

	for (int i = 0; i < 6; i++)
		m[i] = message(0, LANE_HELLO);
	m[1].hello.slots = 0;
	m[2].hello.slots = LANE_SLOTS_MAX + 1;
	m[3].hello.mtu = LANE_MTU_MIN - 1;
	m[4].hello.version_min = 3;
	for (int i = 0; i < 5; i++)
		CU_ASSERT_EQUAL(lane_parse(frame, lane_build(&m[i], frame), &out),
				i ? LANE_BAD : LANE_GOOD);
	CU_ASSERT_EQUAL(lane_parse(frame, lane_build(&m[5], frame) - 1, &out), LANE_BAD);
	CU_ASSERT_EQUAL(lane_parse(frame, LANE_HEAD - 1, &out), LANE_NOT_OURS);
}

/* The peer's address or id is not ours: no word is taken, no answer given. */
static void strangers(void)
{
	struct sim s;
	unsigned frames;

	into(&s, LANE_ST_OPEN, 400);
	CU_ASSERT(sim_run(&s, sim_opened, 100));
	frames = s.end[0].frames;
	for (unsigned kind = LANE_HELLO; kind <= LANE_RESET; kind++) {
		struct lane_msg m = message(0, kind);

		m.len = kind == LANE_DATA ? 5 : kind == LANE_RESET ? 8 : 0;
		m.from[5] ^= 4;
		shoot(&s, 0, &m);
		m = message(0, kind);
		m.len = kind == LANE_DATA ? 5 : kind == LANE_RESET ? 8 : 0;
		m.id++;
		shoot(&s, 0, &m);
	}
	CU_ASSERT_EQUAL(s.end[0].frames, frames);
	sim_transfer(&s, MiB, MiB, 2000);
	sim_finish(&s);
}

static const struct unit_test tests[] = {
	{"garbage in each state", garbage_in_each_state},
	{"madness in each state", madness_in_each_state},
	{"versions", versions},
	{"hello out of bounds", hello_out_of_bounds},
	{"strangers", strangers},
};

int main(void)
{
	return UNIT_MAIN("lane hostile", tests);
}
