/* SPDX-License-Identifier: Apache-2.0
 * lanesim - two lanes and a wire between them that does what wires do, in seeded time.
 */
#ifndef TESTS_UNIT_LANESIM_H
#define TESTS_UNIT_LANESIM_H

#include "replication/lane.h"
#include "replication/lane_wire.h"

#include <CUnit/CUnit.h>
#include <stdlib.h>
#include <string.h>

#define SIM_MS 1000000ull
enum { SIM_FRAME = 16100, SIM_ID = 0x1234 };

struct sim_frame {
	int refs;
	uint8_t data[SIM_FRAME];
};

/* A frame on the wire. */
struct sim_event {
	uint64_t at, order;
	int to;
	size_t len;
	uint8_t *data;
};

struct sim_wire {
	uint64_t delay_ns, jitter_ns; /* jitter also puts frames out of order */
	unsigned loss_ppm, copy_ppm;
	unsigned mtu;	       /* longer ones vanish; 0: none is too long */
	uint64_t ns_per_frame; /* the wire's rate; 0: no limit */
	int cut;
	/* Asked about each frame; not 0: it vanishes. May be NULL. */
	int (*drop)(const struct lane_msg *m, unsigned nth);
};

struct sim_end {
	struct sim *sim;
	int side;
	struct lane *lane;
	uint64_t wake, wire_free;
	uint64_t sent, sent_total, taken; /* bytes of the stream */
	int reads;			  /* takes what comes */
	unsigned wrong, frames, held;	  /* held: frames not given back */
};

struct sim {
	uint64_t now, rng, order;
	struct sim_wire wire;
	struct sim_end end[2];
	struct sim_event *heap;
	unsigned n, cap;
};

static inline uint64_t sim_random(struct sim *s)
{
	s->rng ^= s->rng << 13;
	s->rng ^= s->rng >> 7;
	s->rng ^= s->rng << 17;
	return s->rng;
}

static inline uint8_t sim_byte(int side, uint64_t pos)
{
	uint64_t x = ((pos >> 3) + 1) * 0x9e3779b97f4a7c15ull + (uint64_t)side;

	return (uint8_t)((x ^ x >> 31) >> (8 * (pos & 7)));
}

static inline int sim_earlier(const struct sim_event *a, const struct sim_event *b)
{
	return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static inline void sim_heap_push(struct sim *s, struct sim_event e)
{
	unsigned i = s->n++;

	if (s->n > s->cap) {
		s->cap = s->cap ? 2 * s->cap : 1024;
		s->heap = realloc(s->heap, s->cap * sizeof(*s->heap));
		CU_ASSERT_PTR_NOT_NULL_FATAL(s->heap);
	}
	for (; i && sim_earlier(&e, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
		s->heap[i] = s->heap[(i - 1) / 2];
	s->heap[i] = e;
}

static inline struct sim_event sim_heap_pop(struct sim *s)
{
	struct sim_event top = s->heap[0], last = s->heap[--s->n];
	unsigned i = 0, c;

	s->heap[s->n] = s->heap[0] = (struct sim_event){0}; /* each frame has one owner */
	while ((c = 2 * i + 1) < s->n) {
		c += c + 1 < s->n && sim_earlier(&s->heap[c + 1], &s->heap[c]);
		if (!sim_earlier(&s->heap[c], &last))
			break;
		s->heap[i] = s->heap[c];
		i = c;
	}
	if (s->n)
		s->heap[i] = last;
	return top;
}

static inline void *sim_get(void *self, uint8_t **data_out)
{
	struct sim_end *e = self;
	struct sim_frame *f = malloc(sizeof(*f));

	if (!f)
		abort();
	f->refs = 1;
	*data_out = f->data;
	e->held++;
	return f;
}

static inline void sim_put(void *self, void *frame)
{
	struct sim_end *e = self;
	struct sim_frame *f = frame;

	if (--f->refs)
		return;
	e->held--;
	free(f);
}

/* Now and then the hardware still has the frame. */
static inline void *sim_again(void *self, void *frame, size_t len, uint8_t **data_out)
{
	struct sim_end *e = self;
	struct sim_frame *f = frame;

	if (sim_random(e->sim) % 8 == 0) {
		f = sim_get(self, data_out);
		memcpy(f->data, ((struct sim_frame *)frame)->data, len);
		return f;
	}
	f->refs++;
	*data_out = f->data;
	return f;
}

static inline unsigned sim_room(void *self)
{
	return 32;
}

static inline void sim_carry(struct sim *s, int to, const uint8_t *data, size_t len,
			     uint64_t at)
{
	uint8_t *copy = malloc(len);

	CU_ASSERT_PTR_NOT_NULL_FATAL(copy);
	memcpy(copy, data, len);
	at += s->wire.delay_ns;
	at += s->wire.jitter_ns ? sim_random(s) % s->wire.jitter_ns : 0;
	sim_heap_push(s, (struct sim_event){at, s->order++, to, len, copy});
}

static inline void sim_send(void *self, void *frame, size_t len)
{
	struct sim_end *e = self;
	struct sim *s = e->sim;
	struct sim_frame *f = frame;
	struct lane_msg m;

	CU_ASSERT_EQUAL(lane_parse(f->data, len, &m), LANE_GOOD);
	e->wire_free =
		(e->wire_free > s->now ? e->wire_free : s->now) + s->wire.ns_per_frame;
	if (!s->wire.cut && !(s->wire.mtu && len > LANE_ETHER + s->wire.mtu) &&
	    sim_random(s) % 1000000 >= s->wire.loss_ppm &&
	    !(s->wire.drop && s->wire.drop(&m, e->frames))) {
		sim_carry(s, !e->side, f->data, len, e->wire_free);
		if (sim_random(s) % 1000000 < s->wire.copy_ppm)
			sim_carry(s, !e->side, f->data, len, e->wire_free);
	}
	e->frames++;
	sim_put(self, frame);
}

static const struct lane_ops sim_ops = {
	.get = sim_get,
	.put = sim_put,
	.again = sim_again,
	.room = sim_room,
	.send = sim_send,
};

static inline struct lane_cfg sim_cfg(int side, unsigned slots)
{
	struct lane_cfg c = {
		/* the numbers of both streams wrap soon */
		.own_id = (uint64_t)(SIM_ID + side) << 32 | 0xfffffe00u,
		.peer_id = (uint64_t)(SIM_ID + !side) << 32 | 0xfffffe00u,
		.own_mac = {2, 0, 0, 0, 0, (uint8_t)side},
		.peer_mac = {2, 0, 0, 0, 0, (uint8_t)!side},
		.mtu = 1500,
		.tx_slots = slots,
		.rx_slots = slots,
		.dead_ms = 2000,
	};

	return c;
}

static inline void sim_lane(struct sim *s, int side, const struct lane_cfg *c)
{
	struct sim_end *e = &s->end[side];

	e->sim = s;
	e->side = side;
	e->reads = 1;
	e->wake = s->now;
	e->lane = lane_new(c, &sim_ops, e, s->now);
	CU_ASSERT_PTR_NOT_NULL_FATAL(e->lane);
}

static inline void sim_begin(struct sim *s, uint64_t seed, unsigned slots)
{
	*s = (struct sim){.now = 1000 * SIM_MS, .rng = seed * 2654435761u + 1};
	for (int i = 0; i < 2; i++) {
		struct lane_cfg c = sim_cfg(i, slots);

		sim_lane(s, i, &c);
	}
}

static inline void sim_finish(struct sim *s)
{
	for (int i = 0; i < 2; i++) {
		lane_free(s->end[i].lane);
		CU_ASSERT_EQUAL(s->end[i].held, 0);
		CU_ASSERT_EQUAL(s->end[i].wrong, 0);
	}
	while (s->n)
		free(sim_heap_pop(s).data);
	free(s->heap);
}

/* What a port does with a frame. */
static inline void sim_arrive(struct sim *s, int to, const uint8_t *data, size_t len)
{
	struct sim_end *e = &s->end[to];
	struct sim_frame *f;
	struct lane_msg m;
	uint8_t *at;

	if (!e->lane)
		return;
	f = sim_get(e, &at);
	memcpy(at, data, len);
	if (lane_parse(at, len, &m) != LANE_GOOD ||
	    (m.id != lane_own_id(e->lane) && !lane_reset_names(e->lane, &m)) ||
	    !lane_input(e->lane, &m, f, s->now))
		sim_put(e, f);
}

static inline void sim_fill(struct sim_end *e)
{
	while (lane_state(e->lane) == LANE_ST_OPEN && !lane_send_error(e->lane) &&
	       e->sent < e->sent_total && lane_room(e->lane)) {
		uint64_t n = lane_segment(e->lane), left = e->sent_total - e->sent;
		uint8_t *at;
		void *f = sim_get(e, &at);

		n = n < left ? n : left;
		for (uint64_t i = 0; i < n; i++)
			at[LANE_HEAD + i] = sim_byte(e->side, e->sent + i);
		lane_push(e->lane, f, (unsigned)n);
		e->sent += n;
	}
}

static inline void sim_drain(struct sim_end *e)
{
	struct lane_piece p;

	while (e->reads && lane_state(e->lane) != LANE_ST_CLOSING &&
	       lane_take(e->lane, &p, 1)) {
		for (unsigned i = 0; i < p.len; i++)
			e->wrong += p.data[i] != sim_byte(!e->side, e->taken + i);
		e->taken += p.len;
		sim_put(e, p.frame);
	}
}

static inline void sim_serve(struct sim *s, struct sim_end *e)
{
	uint64_t next;

	if (!e->lane)
		return;
	sim_drain(e);
	sim_fill(e);
	next = lane_output(e->lane, s->now);
	/* A port calls again at once while the lane's send queue was full. */
	e->wake = next > s->now ? next : s->now + 10000;
}

/* Until @done says so or @ms have passed; 1 if it did. */
static inline int sim_run(struct sim *s, int (*done)(const struct sim *), uint64_t ms)
{
	uint64_t end = s->now + ms * SIM_MS;

	s->end[0].wake = s->end[1].wake = s->now; /* the test may have done something */
	while (s->now < end) {
		uint64_t at = end;

		if (done && done(s))
			return 1;
		for (int i = 0; i < 2; i++)
			if (s->end[i].lane && s->end[i].wake < at)
				at = s->end[i].wake;
		if (s->n && s->heap[0].at < at)
			at = s->heap[0].at;
		s->now = at > s->now ? at : s->now;
		for (int i = 0; i < 2; i++)
			if (s->end[i].wake <= s->now)
				sim_serve(s, &s->end[i]);
		while (s->n && s->heap[0].at <= s->now) {
			struct sim_event e = sim_heap_pop(s);

			sim_arrive(s, e.to, e.data, e.len);
			free(e.data);
			sim_serve(s, &s->end[e.to]);
		}
	}
	return done && done(s);
}

static inline int sim_opened(const struct sim *s)
{
	return lane_state(s->end[0].lane) == LANE_ST_OPEN &&
	       lane_state(s->end[1].lane) == LANE_ST_OPEN;
}

static inline int sim_all_taken(const struct sim *s)
{
	return s->end[0].taken == s->end[1].sent_total &&
	       s->end[1].taken == s->end[0].sent_total;
}

static inline int sim_both_done(const struct sim *s)
{
	return lane_state(s->end[0].lane) == LANE_ST_DONE &&
	       lane_state(s->end[1].lane) == LANE_ST_DONE;
}

/* Open and carry so many bytes, within so much simulated time. */
static inline void sim_transfer(struct sim *s, uint64_t a, uint64_t b, uint64_t ms)
{
	s->end[0].sent_total += a;
	s->end[1].sent_total += b;
	CU_ASSERT(sim_run(s, sim_all_taken, ms));
}

#endif
