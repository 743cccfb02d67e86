/* SPDX-License-Identifier: Apache-2.0
 * lane_impl - what the files of a lane know of each other.
 */
#ifndef REPLICATION_LANE_IMPL_H
#define REPLICATION_LANE_IMPL_H

#include "replication/lane.h"
#include "replication/lane_wire.h"

#define LANE_MS	   1000000ull
#define LANE_NEVER UINT64_MAX

enum {
	LANE_NIL = UINT32_MAX, /* no slot */
	LANE_HELLOS = 8,       /* whose times are remembered */
};

enum lane_seg_state {
	LANE_SEG_FREE,
	LANE_SEG_QUEUED,
	LANE_SEG_FLIGHT,
	LANE_SEG_SACKED,
	LANE_SEG_LOST
};

/* A frame of the stream on the sending side; its slot is its number modulo the slots. */
struct lane_seg {
	void *frame;
	uint64_t sent_ns;    /* the last time */
	uint32_t prev, next; /* slots, in the list of its state */
	uint32_t seq;
	uint16_t len;
	uint8_t state, tries;
};

struct lane_list {
	uint32_t head, tail; /* slots */
};

struct lane_tx {
	struct lane_seg *seg;
	uint32_t slots; /* a power of two */
	uint32_t una, next,
		end;   /* acknowledged below una, sent below next, queued below end */
	uint32_t edge; /* the peer takes what is below */
	struct lane_list flight, lost; /* in the order of sending; of loss */
	unsigned in_flight;
	uint64_t sent_ns,
		progress_ns; /* last frame out; last time something was acknowledged */
	/* RACK (RFC 8985): the latest sent frame that is known to have arrived */
	uint64_t rack_sent_ns, rack_rtt, rack_at;
	uint32_t rack_seq, peer_duplicates;
	unsigned reorder; /* quarters of a round trip that a frame may be late */
	int probed;	  /* a tail loss probe is out since the last progress */
	int held;	  /* by pacing, until pace.free_at */
	int crowded;	  /* the port had no room for all that could go */
};

/* When and how much: RFC 6298, and a window that gives way to loss. */
struct lane_pace {
	uint64_t srtt, rttvar, min_rtt; /* 0: not known yet */
	uint64_t free_at;		/* the next frame's turn */
	unsigned backoff;
	unsigned window, threshold, window_max; /* frames */
	uint32_t round_end;
	unsigned round_lost, round_acked;
	unsigned calm; /* rounds without a frame that came twice */
	int limited;   /* the window held something back in this round */
};

struct lane_rseg {
	void *frame;
	const uint8_t *data;
	unsigned len;
};

struct lane_rx {
	struct lane_rseg *seg;
	uint64_t *have; /* a bit for each slot that holds a frame */
	uint32_t slots;
	uint32_t read, next,
		top;   /* taken below read, in order below next, none from top on */
	uint32_t turn; /* where the next ACK's ranges begin */
	uint32_t told; /* the edge that the peer has heard of */
	uint32_t duplicates;
	unsigned unacked;
	uint64_t ack_at;
	int ack_now;
};

struct lane {
	struct lane_cfg cfg;
	const struct lane_ops *ops;
	void *self;
	enum lane_state state;
	int error;
	struct lane_tx tx;
	struct lane_rx rx;
	struct lane_pace pace;
	struct lane_stats stats;
	uint64_t tick_ns, heard_ns, ping_ns;
	uint64_t stood_ns; /* we stood still until then */

	int heard, peer_heard, peer_ready; /* HELLOs */
	uint32_t hello_seq, peer_hello;
	uint64_t hello_ns[LANE_HELLOS], hello_at, hello_gap;

	unsigned candidate, mtu; /* Ethernet payload: being tried; found */
	unsigned tries;
	uint32_t probe_seq;
	uint64_t probe_at, probe_ns;

	int close_abort, close_heard; /* what we said; that the peer heard it */
	uint64_t close_at, close_gap, linger_until;
	int peer_closed, peer_abort;
	uint32_t peer_final;
};

static inline int lane_before(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

/* lane.c */
void lane_set_state(struct lane *l, enum lane_state to);
/* Put addresses, id, ack and edge into @m and send it, with m->len bytes of zeros or the body
 * of its kind; nothing if the port has no room: all of these are said again. */
void lane_say(struct lane *l, struct lane_msg *m);
void lane_address(struct lane *l, struct lane_msg *m);

/* lane_call.c: HELLO and PROBE */
void lane_call_hello(struct lane *l, const struct lane_msg *m, uint64_t now);
void lane_call_probe(struct lane *l, const struct lane_msg *m);
void lane_call_probed(struct lane *l, const struct lane_msg *m, uint64_t now);
void lane_call_open(struct lane *l);
uint64_t lane_call_run(struct lane *l, uint64_t now);

/* lane_tx.c */
int lane_tx_init(struct lane *l);
void lane_tx_fini(struct lane *l);
void lane_tx_drop(struct lane *l); /* nothing that is queued will be missed */
/* @m acknowledges; 0 if it says what cannot be. */
int lane_tx_ack(struct lane *l, const struct lane_msg *m, uint64_t now);
uint64_t lane_tx_run(struct lane *l, uint64_t now);

/* lane_pace.c */
void lane_pace_init(struct lane *l);
void lane_pace_rtt(struct lane *l, uint64_t sample);
uint64_t lane_pace_timeout(const struct lane *l); /* retransmission, ns */
uint64_t lane_pace_probe(const struct lane *l);	  /* tail loss probe, ns */
int lane_pace_may(struct lane *l, uint64_t now);  /* may one frame go now? */
void lane_pace_sent(struct lane *l, uint64_t now);
void lane_pace_acked(struct lane *l, unsigned n); /* after tx.una moved */
void lane_pace_lost(struct lane *l, unsigned n);
void lane_pace_found(struct lane *l, unsigned n); /* they were not lost after all */
void lane_pace_timed_out(struct lane *l);

/* lane_rx.c */
int lane_rx_init(struct lane *l);
void lane_rx_fini(struct lane *l);
int lane_rx_data(struct lane *l, const struct lane_msg *m, void *frame, uint64_t now);
void lane_rx_discard(struct lane *l); /* what can be taken is thrown away */
/* Say where we are, if it is time for it. */
uint64_t lane_rx_run(struct lane *l, uint64_t now);
void lane_rx_told(struct lane *l); /* ack and edge just went out with something else */

#endif
