/* SPDX-License-Identifier: Apache-2.0
 * lane_pace - when and how much: round trips, time-outs, the window, the pace.
 *
 * The wire is the pair's own, so a single lost frame says little: noise, or a ring that
 * overflowed for a moment. The window gives way when more than LOSS_PERCENT of a round
 * were lost, and grows while it is what holds the sender back and frames do not wait in queues
 * for longer than they travel: more would only fill those, and cool the caches.
 */
#include "replication/lane_impl.h"

enum {
	WINDOW_MIN = 16,
	WINDOW_START = 64,
	LOSS_PERCENT = 2,
	LOSS_CHANCE = 4, /* frames; in a small window these are no percentage */
	BURST_FRAMES = 64,
	BACKOFF_MAX = 6,
	CALM_ROUNDS = 16,
};

static const uint64_t timeout_min = 20 * LANE_MS, timeout_max = 2000 * LANE_MS,
		      timeout_first = 200 * LANE_MS, probe_slack = 2 * LANE_MS,
		      queue_ns = LANE_MS,
		      burst_ns =
			      300000; /* as long as the port's thread may nap, and more */

void lane_pace_init(struct lane *l)
{
	struct lane_pace *p = &l->pace;

	p->window_max = l->tx.slots;
	p->window = p->window_max < WINDOW_START ? p->window_max : WINDOW_START;
	p->threshold = p->window_max;
	p->round_end = l->tx.next;
}

/* RFC 6298, section 2. */
void lane_pace_rtt(struct lane *l, uint64_t sample)
{
	struct lane_pace *p = &l->pace;
	uint64_t off;

	sample = sample ? sample : 1;
	if (!p->srtt) {
		p->srtt = sample;
		p->rttvar = sample / 2;
	} else {
		off = sample > p->srtt ? sample - p->srtt : p->srtt - sample;
		p->rttvar = (3 * p->rttvar + off) / 4;
		p->srtt = (7 * p->srtt + sample) / 8;
	}
	if (!p->min_rtt || sample < p->min_rtt)
		p->min_rtt = sample;
}

uint64_t lane_pace_timeout(const struct lane *l)
{
	const struct lane_pace *p = &l->pace;
	uint64_t t = p->srtt ? p->srtt + 4 * p->rttvar : timeout_first;

	t = t < timeout_min ? timeout_min : t;
	t <<= p->backoff;
	return t < timeout_max ? t : timeout_max;
}

uint64_t lane_pace_probe(const struct lane *l)
{
	return l->pace.srtt ? 2 * l->pace.srtt + probe_slack : timeout_first;
}

/* Nanoseconds from frame to frame: a little faster than a window a round trip, so that pacing
 * alone never holds back what the window allows; twice as fast while it still opens. */
static uint64_t gap(const struct lane_pace *p)
{
	uint64_t frames = (uint64_t)p->window * (p->window < p->threshold ? 8 : 5);

	return p->srtt * 4 / frames;
}

int lane_pace_may(struct lane *l, uint64_t now)
{
	struct lane_pace *p = &l->pace;
	uint64_t g = gap(p), ahead;

	if (l->tx.in_flight >= p->window) {
		p->limited = 1;
		return 0;
	}
	ahead = g * BURST_FRAMES > burst_ns ? g * BURST_FRAMES : burst_ns;
	if (p->free_at > now + ahead)
		return 0;
	return 1;
}

void lane_pace_sent(struct lane *l, uint64_t now)
{
	struct lane_pace *p = &l->pace;

	p->free_at = (p->free_at > now ? p->free_at : now) + gap(p);
}

static void end_of_round(struct lane_pace *p)
{
	unsigned all = p->round_lost + p->round_acked, grown;

	if (p->round_lost > LOSS_CHANCE + (uint64_t)all * LOSS_PERCENT / 100) {
		p->window = p->window * 7 / 10;
		p->window = p->window > WINDOW_MIN ? p->window : WINDOW_MIN;
		p->threshold = p->window;
	} else if (p->limited && p->srtt < 2 * p->min_rtt + queue_ns) {
		grown = p->window < p->threshold ? p->window : p->window / 8 + 1;
		p->window += grown;
	}
	p->window = p->window < p->window_max ? p->window : p->window_max;
	p->round_lost = p->round_acked = 0;
	p->limited = 0;
}

void lane_pace_acked(struct lane *l, unsigned n)
{
	struct lane_pace *p = &l->pace;

	p->backoff = 0;
	p->round_acked += n;
	if (lane_before(l->tx.una, p->round_end))
		return;
	end_of_round(p);
	p->round_end = l->tx.next;
	if (++p->calm >= CALM_ROUNDS) {
		l->tx.reorder -= l->tx.reorder > 1;
		p->calm = 0;
	}
}

void lane_pace_lost(struct lane *l, unsigned n)
{
	l->pace.round_lost += n;
}

void lane_pace_found(struct lane *l, unsigned n)
{
	struct lane_pace *p = &l->pace;

	p->round_lost -= n < p->round_lost ? n : p->round_lost;
	p->calm = 0;
}

/* Everything under way is taken for lost; begin again carefully (RFC 6298, 5.4 to 5.7). */
void lane_pace_timed_out(struct lane *l)
{
	struct lane_pace *p = &l->pace;

	if (!p->backoff)
		p->threshold = p->window / 2 > WINDOW_MIN ? p->window / 2 : WINDOW_MIN;
	if (p->backoff < BACKOFF_MAX)
		p->backoff++;
	p->window = p->window < WINDOW_MIN ? p->window : WINDOW_MIN;
	p->round_end = l->tx.next;
	p->round_lost = p->round_acked = 0;
	p->free_at = 0;
}
