/* SPDX-License-Identifier: Apache-2.0
 * lane - a reliable, ordered stream of bytes over Ethernet frames of its own type.
 *
 * Pure: time, frames in and frames out go through arguments and an ops struct, so the
 * same code runs on a real port and in a simulator. The protocol is in LANE.md. Not
 * thread-safe: the owner calls everything under one lock. Times are nanoseconds of one clock.
 *
 *     lane_new ─► CALLING ─► PROBING ─► READY ─► OPEN ─► CLOSING ─► DONE
 *                    any of them ──── lane_fail(), time-out, RESET ────►
 */
#ifndef REPLICATION_LANE_H
#define REPLICATION_LANE_H

#include <stddef.h>
#include <stdint.h>

struct lane;
struct lane_msg;

enum lane_state {
	LANE_ST_CALLING, /* until each end has heard the other */
	LANE_ST_PROBING, /* how long may my frames be? */
	LANE_ST_READY,	 /* I know; does the peer? */
	LANE_ST_OPEN,
	LANE_ST_CLOSING, /* closed here; what was given still goes out */
	LANE_ST_DONE,	 /* nothing more is sent; what came in can still be taken */
};
const char *lane_state_name(enum lane_state s);

/* What a lane wants from the port that it runs on. A frame is a handle of the port's, at least
 * LANE_ETHER + mtu bytes long. */
struct lane_ops {
	/* An empty frame, or NULL. */
	void *(*get)(void *self, uint8_t **data_out);
	void (*put)(void *self, void *frame);
	/* The same frame once more, so that its head can be written and it can be sent
	 * while the lane keeps it: with a reference of its own, or a copy of @len bytes while
	 * the hardware still has an earlier one under its hands. NULL: not now. */
	void *(*again)(void *self, void *frame, size_t len, uint8_t **data_out);
	/* Frames that send() takes for sure. */
	unsigned (*room)(void *self);
	/* Takes a frame from get() or again(). Without room it may be dropped. */
	void (*send)(void *self, void *frame, size_t len);
};

struct lane_cfg {
	uint64_t own_id, peer_id; /* the streams begin with the low halves as numbers */
	uint8_t own_mac[6], peer_mac[6];
	unsigned mtu;		     /* longest Ethernet payload to try */
	unsigned tx_slots, rx_slots; /* frames kept in each direction; rounded up */
	unsigned dead_ms;	     /* silence that means that the peer is gone */
};

struct lane_stats {
	uint64_t sent, resent, received, duplicates, refused, timeouts, probes;
	uint64_t srtt_ns;
	unsigned mtu, window; /* window: congestion, in frames */
};

/* Bytes received in order: @frame is the taker's, to be given back with ops->put. */
struct lane_piece {
	void *frame;
	const uint8_t *data;
	unsigned len;
};

/* NULL: no memory. @ops and @self are borrowed. */
struct lane *lane_new(const struct lane_cfg *cfg, const struct lane_ops *ops, void *self,
		      uint64_t now);
void lane_free(struct lane *l); /* puts all frames; NULL is fine */

/* A frame that lane_parse() found good, whose id is this lane's own, or a RESET that names
 * the peer's id (lane_reset_names()). @data is the frame's first byte. 1: the lane took @frame. */
int lane_input(struct lane *l, const struct lane_msg *m, void *frame, uint64_t now);
/* Timers, and whatever may be sent now. Returns when it wants to be called again. */
uint64_t lane_output(struct lane *l, uint64_t now);

enum lane_state lane_state(const struct lane *l);
/* 0 or -errno of a lane that is DONE without order: -ETIMEDOUT the peer is silent,
 * -ECONNRESET, -EPROTO another version, -EMSGSIZE the wire carries no frame of use. */
int lane_error(const struct lane *l);
/* The stream's end, once all before it was taken: -EPIPE in good order, else -errno; 0: not yet. */
int lane_end(const struct lane *l);
/* 0, or why nothing can be sent any more: -ECONNRESET when the peer closed. */
int lane_send_error(const struct lane *l);

/* How many bytes of the stream one frame carries (OPEN only); they begin at data + LANE_HEAD. */
unsigned lane_segment(const struct lane *l);
/* Frames that lane_push() takes now. */
unsigned lane_room(const struct lane *l);
/* Frames that were pushed and not yet sent for the first time. */
unsigned lane_waiting(const struct lane *l);
/* Takes @frame with @len bytes of the stream. There is room. */
void lane_push(struct lane *l, void *frame, unsigned len);
/* The next @max pieces at most; their number. */
unsigned lane_take(struct lane *l, struct lane_piece *piece, unsigned max);
unsigned lane_readable(const struct lane *l);

/* No more will be pushed. @abort: the peer shall not think that it was in good order.
 * What was pushed still goes out. What comes in is from now on thrown away. */
void lane_close(struct lane *l, int abort, uint64_t now);
/* It is over at once: @error is a negative errno; the peer is told, once. */
void lane_fail(struct lane *l, int error);
void lane_set_dead_ms(struct lane *l, unsigned ms);

uint64_t lane_own_id(const struct lane *l);
/* Does this RESET end @l? Such a frame carries no id of the lane's own. */
int lane_reset_names(const struct lane *l, const struct lane_msg *m);
/* Has @l still something to wait for? Not: it can be freed once its user is gone. */
int lane_is_over(const struct lane *l);
void lane_stats(const struct lane *l, struct lane_stats *out);

#endif
