/* SPDX-License-Identifier: Apache-2.0
 * lane_call - how a lane begins: HELLO until each has heard the other, then PROBE for the
 * length of frame that the wire really carries.
 */
#include "replication/lane_impl.h"

#include <errno.h>

enum { VERSION_MIN = 1, CAPABILITIES = 0, PROBE_TRIES = 4 };
static const uint64_t hello_first = 10 * LANE_MS, hello_slowest = 100 * LANE_MS,
		      probe_gap = 30 * LANE_MS;

/* What to fall back to when longer frames do not get through. */
static const unsigned fallback[] = {1500, 1280, LANE_MTU_MIN};

static void say_hello(struct lane *l, uint64_t now)
{
	struct lane_msg m = {
		.kind = LANE_HELLO,
		.flags = (l->heard ? LANE_HEARD : 0) |
			 (l->state >= LANE_ST_READY ? LANE_READY : 0) |
			 (l->state >= LANE_ST_OPEN ? LANE_OPENED : 0),
		.seq = ++l->hello_seq,
		.hello = {.version_min = VERSION_MIN,
			  .version_max = LANE_VERSION,
			  .capabilities = CAPABILITIES,
			  .mtu = l->cfg.mtu,
			  .slots = l->rx.slots,
			  .id = l->cfg.own_id},
	};

	l->hello_ns[m.seq % LANE_HELLOS] = now;
	lane_say(l, &m);
}

static void say_probe(struct lane *l, uint64_t now)
{
	struct lane_msg m = {.kind = LANE_PROBE,
			     .seq = ++l->probe_seq,
			     .len = l->candidate - LANE_COST};
	uint64_t gap = 2 * l->pace.srtt;

	l->probe_ns = now;
	l->probe_at = now + (gap > probe_gap ? gap : probe_gap);
	l->tries++;
	lane_say(l, &m);
}

/* The first stretch of stream bytes may come before the last HELLO: both mean that all is well. */
void lane_call_open(struct lane *l)
{
	if (l->state == LANE_ST_READY)
		lane_set_state(l, LANE_ST_OPEN);
	l->peer_ready = 1;
}

static void step(struct lane *l, uint64_t now)
{
	if (l->state == LANE_ST_CALLING && l->heard && l->peer_heard) {
		l->candidate = l->cfg.mtu;
		lane_set_state(l, LANE_ST_PROBING);
		say_probe(l, now);
	}
	if (l->state == LANE_ST_READY && l->peer_ready)
		lane_set_state(l, LANE_ST_OPEN);
}

/* HELLO carries in `ack` the number of the last one heard, for the round trip. An
 * answer that waited for its sender's timer makes it look longer than it is: samples
 * of frames correct that. */
static void take_echo(struct lane *l, const struct lane_msg *m, uint64_t now)
{
	uint32_t age = l->hello_seq - m->ack;

	if (m->flags & LANE_HEARD && !l->pace.srtt && age < LANE_HELLOS)
		lane_pace_rtt(l, now - l->hello_ns[m->ack % LANE_HELLOS]);
}

void lane_call_hello(struct lane *l, const struct lane_msg *m, uint64_t now)
{
	int news;

	if (m->hello.id != l->cfg.peer_id) {
		l->stats.refused++;
		return;
	}
	if (m->hello.version_min > LANE_VERSION || m->hello.version_max < VERSION_MIN) {
		lane_fail(l, -EPROTO);
		return;
	}
	news = !l->heard || (m->flags & LANE_HEARD && !l->peer_heard) ||
	       (m->flags & LANE_READY && !l->peer_ready);
	if (!l->heard) {
		l->heard = 1;
		l->cfg.mtu = m->hello.mtu < l->cfg.mtu ? m->hello.mtu : l->cfg.mtu;
		l->tx.edge = l->tx.una + m->hello.slots;
	}
	l->heard_ns = now;
	l->peer_hello = m->seq;
	take_echo(l, m, now);
	l->peer_heard |= !!(m->flags & LANE_HEARD);
	l->peer_ready |= !!(m->flags & LANE_READY);
	step(l, now);
	if (news || (l->state >= LANE_ST_OPEN && !(m->flags & LANE_OPENED)))
		say_hello(l, now);
}

void lane_call_probe(struct lane *l, const struct lane_msg *m)
{
	struct lane_msg answer = {.kind = LANE_PROBED, .seq = m->seq};

	lane_say(l, &answer);
}

void lane_call_probed(struct lane *l, const struct lane_msg *m, uint64_t now)
{
	/* Answers to the tries of an earlier, longer candidate count for nothing. */
	if (l->state != LANE_ST_PROBING || l->probe_seq - m->seq >= l->tries)
		return;
	if (m->seq == l->probe_seq)
		lane_pace_rtt(l, now - l->probe_ns);
	l->mtu = l->candidate;
	lane_set_state(l, LANE_ST_READY);
	step(l, now);
	say_hello(l, now);
}

static void next_candidate(struct lane *l, uint64_t now)
{
	for (unsigned i = 0; i < sizeof(fallback) / sizeof(fallback[0]); i++) {
		if (fallback[i] >= l->candidate)
			continue;
		l->candidate = fallback[i];
		l->tries = 0;
		say_probe(l, now);
		return;
	}
	lane_fail(l, -EMSGSIZE);
}

uint64_t lane_call_run(struct lane *l, uint64_t now)
{
	uint64_t next;

	if (l->state >= LANE_ST_OPEN)
		return LANE_NEVER;
	if (now >= l->hello_at) {
		say_hello(l, now);
		l->hello_gap = l->hello_gap ? 2 * l->hello_gap : hello_first;
		l->hello_gap =
			l->hello_gap < hello_slowest ? l->hello_gap : hello_slowest;
		l->hello_at = now + l->hello_gap;
	}
	next = l->hello_at;
	if (l->state == LANE_ST_PROBING) {
		if (now >= l->probe_at && l->tries < PROBE_TRIES)
			say_probe(l, now);
		else if (now >= l->probe_at)
			next_candidate(l, now);
		next = l->probe_at < next ? l->probe_at : next;
	}
	return next;
}
