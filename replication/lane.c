/* SPDX-License-Identifier: Apache-2.0
 * lane - a reliable, ordered stream of bytes over Ethernet frames of its own type.
 *
 * Theory of operation. The stream is cut into numbered frames, not bytes: a frame is
 * filled once and sent as often as it takes. The ends know each other's ids and addresses
 * before the first frame (they cross over a connection that has proven who is who), so a lane never
 * takes a word from anybody else by accident, and the handshake only finds out whether
 * the wire works, in both directions, and for frames of which length. A lane ends by CLOSE, which
 * says where the stream ends and is outside of it, so that it needs no room at the peer.
 */
#include "replication/lane_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { LINGER_MS = 10000, LINGER_LAST_MS = 200 };
static const uint64_t close_first = 20 * LANE_MS, close_slowest = 500 * LANE_MS;

static const char *const state_names[] = {"calling", "probing", "ready",
					  "open",    "closing", "done"};
static_assert(sizeof(state_names) / sizeof(state_names[0]) == LANE_ST_DONE + 1,
	      "a name for each state");

/* Bit n: may go to state n. */
static const uint8_t moves[] = {
	[LANE_ST_CALLING] =
		1 << LANE_ST_PROBING | 1 << LANE_ST_CLOSING | 1 << LANE_ST_DONE,
	[LANE_ST_PROBING] = 1 << LANE_ST_READY | 1 << LANE_ST_CLOSING | 1 << LANE_ST_DONE,
	[LANE_ST_READY] = 1 << LANE_ST_OPEN | 1 << LANE_ST_CLOSING | 1 << LANE_ST_DONE,
	[LANE_ST_OPEN] = 1 << LANE_ST_CLOSING | 1 << LANE_ST_DONE,
	[LANE_ST_CLOSING] = 1 << LANE_ST_DONE,
	[LANE_ST_DONE] = 0,
};

const char *lane_state_name(enum lane_state s)
{
	return s <= LANE_ST_DONE ? state_names[s] : "?";
}

void lane_set_state(struct lane *l, enum lane_state to)
{
	assert(moves[l->state] >> to & 1);
	l->state = to;
}

static uint32_t round_up(unsigned n)
{
	uint32_t p = 4;

	while (p < n && p < LANE_SLOTS_MAX)
		p *= 2;
	return p;
}

struct lane *lane_new(const struct lane_cfg *cfg, const struct lane_ops *ops, void *self,
		      uint64_t now)
{
	struct lane *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->cfg = *cfg;
	l->cfg.tx_slots = round_up(cfg->tx_slots);
	l->cfg.rx_slots = round_up(cfg->rx_slots);
	l->cfg.mtu = cfg->mtu < LANE_MTU_MAX ? cfg->mtu : LANE_MTU_MAX;
	l->cfg.mtu = l->cfg.mtu > LANE_MTU_MIN ? l->cfg.mtu : LANE_MTU_MIN;
	l->ops = ops;
	l->self = self;
	l->tick_ns = l->heard_ns = now;
	l->close_at = LANE_NEVER;
	if (lane_tx_init(l) || lane_rx_init(l)) {
		lane_free(l);
		return NULL;
	}
	lane_pace_init(l);
	return l;
}

void lane_free(struct lane *l)
{
	if (!l)
		return;
	lane_tx_fini(l);
	lane_rx_fini(l);
	free(l);
}

void lane_address(struct lane *l, struct lane_msg *m)
{
	memcpy(m->to, l->cfg.peer_mac, sizeof(m->to));
	memcpy(m->from, l->cfg.own_mac, sizeof(m->from));
	m->id = l->cfg.peer_id;
	m->ack = m->kind == LANE_HELLO ? l->peer_hello : l->rx.next;
	m->edge = l->rx.read + l->rx.slots;
}

void lane_say(struct lane *l, struct lane_msg *m)
{
	uint8_t *data;
	void *frame = l->ops->room(l->self) ? l->ops->get(l->self, &data) : NULL;

	if (!frame)
		return;
	lane_address(l, m);
	if (m->kind == LANE_PROBE)
		memset(data + LANE_HEAD, 0, m->len);
	if (m->kind == LANE_RESET) {
		struct le64 id = le64_of(l->cfg.own_id);

		m->id = 0;
		m->len = sizeof(id);
		memcpy(data + LANE_HEAD, &id, sizeof(id));
	}
	l->ops->send(l->self, frame, lane_build(m, data));
}

static void done(struct lane *l, int error)
{
	l->error = error;
	lane_tx_drop(l);
	lane_set_state(l, LANE_ST_DONE);
}

void lane_fail(struct lane *l, int error)
{
	struct lane_msg m = {.kind = LANE_RESET};

	if (l->state == LANE_ST_DONE)
		return;
	lane_say(l, &m);
	done(l, error);
}

int lane_reset_names(const struct lane *l, const struct lane_msg *m)
{
	struct le64 id;

	if (m->kind != LANE_RESET || m->len != sizeof(id))
		return 0;
	memcpy(&id, m->body, sizeof(id));
	return le64_get(id) == l->cfg.peer_id;
}

/* All that the peer will ever send is here. */
static int all_received(const struct lane *l)
{
	return l->peer_closed && l->rx.next == l->peer_final;
}

static void say_close(struct lane *l, uint64_t now)
{
	struct lane_msg m = {.kind = LANE_CLOSE,
			     .flags = l->close_abort ? LANE_ABORT : 0,
			     .seq = l->tx.end};

	l->close_gap = l->close_gap ? 2 * l->close_gap : close_first;
	l->close_gap = l->close_gap < close_slowest ? l->close_gap : close_slowest;
	l->close_at = now + l->close_gap;
	lane_say(l, &m);
}

static void linger(struct lane *l, uint64_t until)
{
	if (!l->linger_until || until < l->linger_until)
		l->linger_until = until;
}

static void check_closed(struct lane *l, uint64_t now)
{
	if (l->state != LANE_ST_CLOSING)
		return;
	if (l->close_heard && l->tx.una == l->tx.end)
		done(l, 0);
	else if (now >= l->linger_until)
		done(l, l->peer_closed ? 0 : -ETIMEDOUT);
}

void lane_close(struct lane *l, int abort, uint64_t now)
{
	if (l->state >= LANE_ST_CLOSING)
		return;
	l->close_abort = abort;
	lane_set_state(l, LANE_ST_CLOSING);
	linger(l, now + (l->peer_closed ? LINGER_LAST_MS : LINGER_MS) * LANE_MS);
	lane_rx_discard(l);
	say_close(l, now);
}

/* What we sent or wanted to send will not be read any more: who closes neither sends nor reads. */
static void closed_by_peer(struct lane *l, const struct lane_msg *m, uint64_t now)
{
	l->rx.ack_now = 1;
	if (!l->peer_closed) {
		if (m->seq - l->rx.next > 2 * LANE_SLOTS_MAX) {
			l->stats.refused++;
			return;
		}
		l->peer_closed = 1;
		l->peer_abort = !!(m->flags & LANE_ABORT);
		l->peer_final = m->seq;
		lane_tx_drop(l);
	}
	if (l->state == LANE_ST_CLOSING)
		linger(l, now + LINGER_LAST_MS * LANE_MS);
}

/* Kinds that only make sense between two that have heard each other. */
static int in_stream(struct lane *l, const struct lane_msg *m, void *frame, uint64_t now)
{
	int kept = 0;

	if (!l->heard || !lane_tx_ack(l, m, now)) {
		l->stats.refused++;
		return 0;
	}
	l->heard_ns = now;
	lane_call_open(l);
	switch ((enum lane_kind)m->kind) {
	case LANE_DATA:
		kept = lane_rx_data(l, m, frame, now);
		if (l->state == LANE_ST_CLOSING)
			lane_rx_discard(l);
		break;
	case LANE_ACK:
		if (m->flags & LANE_CLOSED && l->state == LANE_ST_CLOSING)
			l->close_heard = 1;
		break;
	case LANE_PING:
		l->rx.ack_now = 1;
		break;
	case LANE_CLOSE:
		closed_by_peer(l, m, now);
		break;
	default:
		break;
	}
	check_closed(l, now);
	return kept;
}

/* Nobody called for so long that it must have been us who stood still: the peer is not to blame for
 * its silence, and round trips say nothing about the wire. */
static void look_at_clock(struct lane *l, uint64_t now)
{
	if (now - l->tick_ns > l->cfg.dead_ms * LANE_MS / 4)
		l->stood_ns = l->heard_ns = l->tx.progress_ns = now;
	l->tick_ns = now;
}

int lane_input(struct lane *l, const struct lane_msg *m, void *frame, uint64_t now)
{
	if (l->state == LANE_ST_DONE)
		return 0;
	if (memcmp(m->from, l->cfg.peer_mac, sizeof(m->from)) != 0) {
		l->stats.refused++;
		return 0;
	}
	look_at_clock(l, now);
	switch ((enum lane_kind)m->kind) {
	case LANE_HELLO:
		lane_call_hello(l, m, now);
		return 0;
	case LANE_PROBE:
		lane_call_probe(l, m);
		return 0;
	case LANE_PROBED:
		lane_call_probed(l, m, now);
		return 0;
	case LANE_RESET:
		if (lane_reset_names(l, m) && !all_received(l))
			done(l, -ECONNRESET);
		return 0;
	default:
		return in_stream(l, m, frame, now);
	}
}

/* Silence of the peer; a word to it when it has said nothing for long, or stands in our way. */
static uint64_t keep_alive(struct lane *l, uint64_t now)
{
	uint64_t dead = l->cfg.dead_ms * LANE_MS, gap = dead / 4, last;
	struct lane_msg m = {.kind = LANE_PING};

	if (l->state < LANE_ST_OPEN || all_received(l))
		return LANE_NEVER;
	if (now - l->heard_ns > dead ||
	    (l->tx.in_flight && now - l->tx.progress_ns > dead)) {
		lane_fail(l, -ETIMEDOUT);
		return LANE_NEVER;
	}
	if (l->tx.end != l->tx.next && !l->tx.in_flight && l->tx.next == l->tx.edge)
		gap = lane_pace_timeout(l) < gap ? lane_pace_timeout(l) : gap;
	last = l->heard_ns > l->ping_ns ? l->heard_ns : l->ping_ns;
	if (now < last + gap)
		return last + gap;
	l->ping_ns = now;
	lane_say(l, &m);
	return now + gap;
}

uint64_t lane_output(struct lane *l, uint64_t now)
{
	uint64_t next = LANE_NEVER, t;

	if (l->state == LANE_ST_DONE)
		return next;
	look_at_clock(l, now);
	next = lane_call_run(l, now);
	t = keep_alive(l, now);
	next = t < next ? t : next;
	if (l->state >= LANE_ST_OPEN && l->state != LANE_ST_DONE) {
		t = lane_tx_run(l, now);
		next = t < next ? t : next;
	}
	if (l->heard && l->state != LANE_ST_DONE) {
		t = lane_rx_run(l, now);
		next = t < next ? t : next;
	}
	if (l->state == LANE_ST_CLOSING) {
		if (now >= l->close_at && !l->close_heard)
			say_close(l, now);
		next = l->close_at < next ? l->close_at : next;
		next = l->linger_until < next ? l->linger_until : next;
		check_closed(l, now);
	}
	return next;
}

enum lane_state lane_state(const struct lane *l)
{
	return l->state;
}

int lane_error(const struct lane *l)
{
	return l->state == LANE_ST_DONE ? l->error : 0;
}

int lane_end(const struct lane *l)
{
	if (lane_readable(l))
		return 0;
	if (l->peer_closed && l->rx.read == l->peer_final)
		return l->peer_abort ? -ECONNRESET : -EPIPE;
	if (l->state != LANE_ST_DONE)
		return 0;
	return l->error ? l->error : -ECONNRESET;
}

int lane_send_error(const struct lane *l)
{
	if (l->state == LANE_ST_DONE && l->error)
		return l->error;
	if (l->peer_closed)
		return -ECONNRESET;
	return l->state >= LANE_ST_CLOSING ? -ESHUTDOWN : 0;
}

unsigned lane_segment(const struct lane *l)
{
	return l->mtu - LANE_COST;
}

void lane_set_dead_ms(struct lane *l, unsigned ms)
{
	l->cfg.dead_ms = ms;
}

uint64_t lane_own_id(const struct lane *l)
{
	return l->cfg.own_id;
}

int lane_is_over(const struct lane *l)
{
	return l->state == LANE_ST_DONE;
}

void lane_stats(const struct lane *l, struct lane_stats *out)
{
	*out = l->stats;
	out->srtt_ns = l->pace.srtt;
	out->mtu = l->mtu;
	out->window = l->pace.window;
}
