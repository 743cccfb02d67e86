/* SPDX-License-Identifier: Apache-2.0
 * lane_tx - the sending side: what is under way, what is lost, what goes next.
 *
 * Loss is found by time (RACK, RFC 8985): a frame is lost when one that was sent later has
 * arrived and it has had its round trip and a little more. So that this also finds the last
 * frames of a burst, one of them is sent again when nothing is heard for two round trips
 * (tail loss probe); the time-out of RFC 6298 is the last resort. What the peer has once
 * said to hold it never gives up again, so its frames are given back at once.
 */
#include "replication/lane_impl.h"

#include <errno.h>
#include <stdlib.h>

enum { REORDER_MAX = 8 };
static const uint64_t reorder_min = 100000;

int lane_tx_init(struct lane *l)
{
	struct lane_tx *t = &l->tx;

	t->slots = l->cfg.tx_slots;
	t->una = t->next = t->end = t->edge = (uint32_t)l->cfg.peer_id;
	t->flight = t->lost = (struct lane_list){LANE_NIL, LANE_NIL};
	t->reorder = 1;
	t->rack_at = LANE_NEVER;
	t->seg = calloc(t->slots, sizeof(*t->seg));
	return t->seg ? 0 : -ENOMEM;
}

static struct lane_seg *seg_of(struct lane_tx *t, uint32_t seq)
{
	return &t->seg[seq & (t->slots - 1)];
}

static void list_remove(struct lane_tx *t, struct lane_list *q, struct lane_seg *s)
{
	if (s->prev != LANE_NIL)
		t->seg[s->prev].next = s->next;
	else
		q->head = s->next;
	if (s->next != LANE_NIL)
		t->seg[s->next].prev = s->prev;
	else
		q->tail = s->prev;
}

static void list_append(struct lane_tx *t, struct lane_list *q, struct lane_seg *s)
{
	uint32_t i = (uint32_t)(s - t->seg);

	s->prev = q->tail;
	s->next = LANE_NIL;
	if (q->tail != LANE_NIL)
		t->seg[q->tail].next = i;
	else
		q->head = i;
	q->tail = i;
}

static void give_back(struct lane *l, struct lane_seg *s)
{
	if (s->frame)
		l->ops->put(l->self, s->frame);
	s->frame = NULL;
}

static void unlist(struct lane_tx *t, struct lane_seg *s)
{
	if (s->state == LANE_SEG_FLIGHT) {
		list_remove(t, &t->flight, s);
		t->in_flight--;
	} else if (s->state == LANE_SEG_LOST) {
		list_remove(t, &t->lost, s);
	}
}

void lane_tx_drop(struct lane *l)
{
	struct lane_tx *t = &l->tx;

	for (; t->una != t->end; t->una++) {
		struct lane_seg *s = seg_of(t, t->una);

		unlist(t, s);
		give_back(l, s);
		s->state = LANE_SEG_FREE;
	}
	t->next = t->end;
	t->rack_at = LANE_NEVER;
}

void lane_tx_fini(struct lane *l)
{
	if (l->tx.seg)
		lane_tx_drop(l);
	free(l->tx.seg);
	l->tx.seg = NULL;
}

unsigned lane_room(const struct lane *l)
{
	return l->tx.slots - (l->tx.end - l->tx.una);
}

unsigned lane_waiting(const struct lane *l)
{
	return l->tx.end - l->tx.next;
}

void lane_push(struct lane *l, void *frame, unsigned len)
{
	struct lane_tx *t = &l->tx;

	*seg_of(t, t->end) = (struct lane_seg){
		.frame = frame,
		.seq = t->end,
		.len = (uint16_t)len,
		.state = LANE_SEG_QUEUED,
	};
	t->end++;
}

/* What one acknowledgement taught. */
struct news {
	unsigned n;	 /* frames that have arrived */
	uint64_t sample; /* 0, or a round trip */
};

static void arrived(struct lane *l, struct lane_seg *s, struct news *news, uint64_t now)
{
	struct lane_tx *t = &l->tx;

	if (s->state == LANE_SEG_SACKED)
		return;
	unlist(t, s);
	give_back(l, s);
	s->state = LANE_SEG_SACKED;
	news->n++;
	/* Which of several copies arrived is known only if the earlier ones would have had time. */
	if (s->tries > 1 && now - s->sent_ns < l->pace.min_rtt)
		return;
	if (s->tries == 1 && s->sent_ns >= l->stood_ns)
		news->sample = now - s->sent_ns;
	if (s->sent_ns > t->rack_sent_ns ||
	    (s->sent_ns == t->rack_sent_ns && lane_before(t->rack_seq, s->seq))) {
		t->rack_sent_ns = s->sent_ns;
		t->rack_seq = s->seq;
		t->rack_rtt = now - s->sent_ns;
	}
}

/* RFC 8985, section 6.2, step 5. The list is in the order of sending, so the first
 * frame that is not late ends it. */
static void find_losses(struct lane *l, uint64_t now)
{
	struct lane_tx *t = &l->tx;
	uint64_t trip = t->reorder > 1 ? l->pace.srtt : l->pace.min_rtt;
	uint64_t late = t->reorder * trip / 4;
	unsigned n = 0;

	late = late > reorder_min ? late : reorder_min;
	t->rack_at = LANE_NEVER;
	while (t->flight.head != LANE_NIL) {
		struct lane_seg *s = &t->seg[t->flight.head];

		if (s->sent_ns > t->rack_sent_ns ||
		    (s->sent_ns == t->rack_sent_ns && !lane_before(s->seq, t->rack_seq)))
			break;
		if (now < s->sent_ns + t->rack_rtt + late) {
			t->rack_at = s->sent_ns + t->rack_rtt + late;
			break;
		}
		unlist(t, s);
		s->state = LANE_SEG_LOST;
		list_append(t, &t->lost, s);
		n++;
	}
	lane_pace_lost(l, n);
}

int lane_tx_ack(struct lane *l, const struct lane_msg *m, uint64_t now)
{
	struct lane_tx *t = &l->tx;
	struct news news = {0};
	uint32_t top = m->n_ranges ? m->ranges[m->n_ranges - 1].to : m->ack;

	if (lane_before(m->ack, t->una))
		return 1; /* overtaken by a later one */
	if (m->ack - t->una > t->next - t->una || top - t->una > t->next - t->una)
		return 0;
	if (lane_before(t->edge, m->edge) && m->edge - m->ack <= LANE_SLOTS_MAX)
		t->edge = m->edge;
	for (; t->una != m->ack; t->una++) {
		arrived(l, seg_of(t, t->una), &news, now);
		seg_of(t, t->una)->state = LANE_SEG_FREE;
	}
	for (unsigned i = 0; i < m->n_ranges; i++)
		for (uint32_t s = m->ranges[i].from; s != m->ranges[i].to; s++)
			arrived(l, seg_of(t, s), &news, now);
	if (m->kind == LANE_ACK && lane_before(t->peer_duplicates, m->seq)) {
		/* Something was sent twice without need: wait longer for what is late. */
		t->reorder += t->reorder < REORDER_MAX;
		lane_pace_found(l, m->seq - t->peer_duplicates);
		t->peer_duplicates = m->seq;
	}
	if (news.sample)
		lane_pace_rtt(l, news.sample);
	if (news.n) {
		t->progress_ns = now;
		t->probed = 0;
		lane_pace_acked(l, news.n);
		find_losses(l, now);
	}
	return 1;
}

/* 0 if the port takes nothing now. @ask: wants to hear of it at once. */
static int transmit(struct lane *l, struct lane_seg *s, int ask, uint64_t now)
{
	struct lane_msg m = {.kind = LANE_DATA,
			     .flags = ask ? LANE_ASK : 0,
			     .len = s->len,
			     .seq = s->seq};
	struct lane_tx *t = &l->tx;
	uint8_t *data;
	void *frame = l->ops->again(l->self, s->frame, LANE_HEAD + s->len, &data);

	if (!frame)
		return 0;
	lane_address(l, &m);
	l->ops->send(l->self, frame, lane_build(&m, data));
	unlist(t, s);
	if (s->state == LANE_SEG_QUEUED)
		l->stats.sent++;
	else
		l->stats.resent++;
	if (!t->in_flight)
		t->progress_ns = now;
	s->state = LANE_SEG_FLIGHT;
	s->sent_ns = now;
	s->tries += s->tries < UINT8_MAX;
	list_append(t, &t->flight, s);
	t->in_flight++;
	t->sent_ns = now;
	lane_pace_sent(l, now);
	if (l->rx.next == l->rx.top)
		lane_rx_told(l);
	return 1;
}

static struct lane_seg *next_to_send(struct lane_tx *t)
{
	if (t->lost.head != LANE_NIL)
		return &t->seg[t->lost.head];
	if (t->next != t->end && lane_before(t->next, t->edge))
		return seg_of(t, t->next);
	return NULL;
}

/* Is @s the last one that can go now? Then its acknowledgement should not be delayed. */
static int is_last(struct lane *l, const struct lane_seg *s)
{
	struct lane_tx *t = &l->tx;

	return s->seq + 1 == t->end || s->seq + 1 == t->edge ||
	       t->in_flight + 1 >= l->pace.window;
}

static void send_all(struct lane *l, uint64_t now)
{
	struct lane_tx *t = &l->tx;
	unsigned room = l->ops->room(l->self);
	struct lane_seg *s;

	t->held = t->crowded = 0;
	for (; room && (s = next_to_send(t)); room--) {
		if (!lane_pace_may(l, now)) {
			t->held = t->in_flight < l->pace.window;
			return;
		}
		if (!transmit(l, s, is_last(l, s), now))
			return;
		if (s->seq == t->next)
			t->next++;
	}
	t->crowded = next_to_send(t) != NULL;
}

static void time_out(struct lane *l)
{
	struct lane_tx *t = &l->tx;

	while (t->flight.head != LANE_NIL) {
		struct lane_seg *s = &t->seg[t->flight.head];

		unlist(t, s);
		s->state = LANE_SEG_LOST;
		list_append(t, &t->lost, s);
	}
	l->stats.timeouts++;
	t->probed = 0;
	lane_pace_timed_out(l);
}

/* Time-outs; returns when the next one is. */
static uint64_t silence(struct lane *l, uint64_t now)
{
	struct lane_tx *t = &l->tx;
	uint64_t since = t->sent_ns > t->progress_ns ? t->sent_ns : t->progress_ns;

	if (!t->in_flight)
		return LANE_NEVER;
	if (!t->probed && !l->pace.backoff) {
		if (now < since + lane_pace_probe(l))
			return since + lane_pace_probe(l);
		if (!transmit(l, &t->seg[t->flight.tail], 1, now))
			return now + LANE_MS;
		l->stats.probes++;
		t->probed = 1;
		since = now;
	}
	if (now >= since + lane_pace_timeout(l)) {
		time_out(l);
		return now;
	}
	return since + lane_pace_timeout(l);
}

uint64_t lane_tx_run(struct lane *l, uint64_t now)
{
	struct lane_tx *t = &l->tx;
	uint64_t next;

	if (now >= t->rack_at)
		find_losses(l, now);
	next = silence(l, now);
	send_all(l, now);
	next = t->rack_at < next ? t->rack_at : next;
	if (t->crowded)
		return now;
	if (t->held)
		next = l->pace.free_at < next ? l->pace.free_at : next;
	return next;
}
