/* SPDX-License-Identifier: Apache-2.0
 * lane_rx - the receiving side: putting in order, and saying what is there.
 */
#include "replication/lane_impl.h"

#include <errno.h>
#include <stdlib.h>

enum {
	ACK_EVERY = 64,
	ACK_DELAY_NS = 200000,
};

int lane_rx_init(struct lane *l)
{
	struct lane_rx *r = &l->rx;

	r->slots = l->cfg.rx_slots;
	r->read = r->next = r->top = r->told = (uint32_t)l->cfg.own_id;
	r->told += r->slots; /* every HELLO says so */
	r->ack_at = LANE_NEVER;
	r->seg = calloc(r->slots, sizeof(*r->seg));
	r->have = calloc((r->slots + 63) / 64, sizeof(*r->have));
	return r->seg && r->have ? 0 : -ENOMEM;
}

void lane_rx_fini(struct lane *l)
{
	struct lane_rx *r = &l->rx;

	for (uint32_t i = 0; r->seg && i < r->slots; i++)
		if (r->seg[i].frame)
			l->ops->put(l->self, r->seg[i].frame);
	free(r->seg);
	free(r->have);
	r->seg = NULL;
	r->have = NULL;
}

static int have(const struct lane_rx *r, uint32_t seq)
{
	uint32_t i = seq & (r->slots - 1);

	return r->have[i / 64] >> (i % 64) & 1;
}

/* From @seq on, the first number below @limit whose bit is @want; whole words are skipped. */
static uint32_t find(const struct lane_rx *r, uint32_t seq, uint32_t limit, int want)
{
	while (seq != limit) {
		uint32_t i = seq & (r->slots - 1), run;
		uint64_t w = r->have[i / 64];

		w = (want ? w : ~w) >> (i % 64);
		run = w ? (uint32_t)__builtin_ctzll(w) : 64 - i % 64;
		if (r->slots < 64 && i + run > r->slots)
			run = r->slots - i; /* the bits above do not exist */
		if (run >= limit - seq)
			return limit;
		seq += run;
		if (have(r, seq) == want)
			return seq;
	}
	return limit;
}

int lane_rx_data(struct lane *l, const struct lane_msg *m, void *frame, uint64_t now)
{
	struct lane_rx *r = &l->rx;
	uint32_t i = m->seq & (r->slots - 1);

	if (m->flags & LANE_ASK)
		r->ack_now = 1;
	if (m->seq - r->next >= r->slots - (r->next - r->read) || have(r, m->seq)) {
		r->ack_now = 1; /* the peer may not have heard the last one */
		if (lane_before(m->seq, r->top)) {
			r->duplicates++;
			l->stats.duplicates++;
		} else {
			l->stats.refused++;
		}
		return 0;
	}
	if (l->peer_closed && !lane_before(m->seq, l->peer_final)) {
		l->stats.refused++;
		return 0;
	}
	r->seg[i] = (struct lane_rseg){frame, m->body, m->len};
	r->have[i / 64] |= 1ull << (i % 64);
	if (!lane_before(m->seq, r->top))
		r->top = m->seq + 1;
	if (m->seq == r->next)
		r->next = find(r, m->seq, r->top, 0);
	if (r->next != r->top)
		r->ack_now = 1; /* there is a gap */
	l->stats.received++;
	if (!r->unacked++)
		r->ack_at = now + ACK_DELAY_NS;
	if (r->unacked >= ACK_EVERY)
		r->ack_now = 1;
	return 1;
}

unsigned lane_readable(const struct lane *l)
{
	return l->rx.next - l->rx.read;
}

unsigned lane_take(struct lane *l, struct lane_piece *piece, unsigned max)
{
	struct lane_rx *r = &l->rx;
	unsigned n;

	for (n = 0; n < max && r->read != r->next; n++, r->read++) {
		uint32_t i = r->read & (r->slots - 1);

		piece[n] = (struct lane_piece){r->seg[i].frame, r->seg[i].data,
					       r->seg[i].len};
		r->seg[i].frame = NULL;
		r->have[i / 64] &= ~(1ull << (i % 64));
	}
	/* A sender that stands at the edge is told when there is room worth a frame or two. */
	if (r->read + r->slots - r->told >= (r->slots + 3) / 4)
		r->ack_now = 1;
	return n;
}

void lane_rx_discard(struct lane *l)
{
	struct lane_piece p;

	while (lane_take(l, &p, 1))
		l->ops->put(l->self, p.frame);
}

void lane_rx_told(struct lane *l)
{
	struct lane_rx *r = &l->rx;

	r->told = r->read + r->slots;
	r->unacked = 0;
	r->ack_at = LANE_NEVER;
}

/* More ranges than one ACK holds are told in turns. */
static void list_ranges(struct lane_rx *r, struct lane_msg *m)
{
	uint32_t at = r->turn - r->next < r->top - r->next ? r->turn : r->next;

	for (m->n_ranges = 0; m->n_ranges < LANE_RANGES_MAX; m->n_ranges++) {
		struct lane_range *g = &m->ranges[m->n_ranges];

		g->from = find(r, at, r->top, 1);
		if (g->from == r->top) {
			r->turn = r->next;
			return;
		}
		g->to = at = find(r, g->from, r->top, 0);
	}
	r->turn = at;
}

uint64_t lane_rx_run(struct lane *l, uint64_t now)
{
	struct lane_rx *r = &l->rx;
	struct lane_msg m;

	if (!r->ack_now && now < r->ack_at)
		return r->ack_at;
	if (!l->ops->room(l->self))
		return now + ACK_DELAY_NS;
	m.kind = LANE_ACK;
	m.flags = l->peer_closed ? LANE_CLOSED : 0;
	m.len = 0;
	m.seq = r->duplicates;
	list_ranges(r, &m);
	r->ack_now = 0;
	lane_rx_told(l);
	lane_say(l, &m);
	return LANE_NEVER;
}
