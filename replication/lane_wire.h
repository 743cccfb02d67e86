/* SPDX-License-Identifier: Apache-2.0
 * lane_wire - the frames of a lane, to bytes and back; the format is in LANE.md.
 */
#ifndef REPLICATION_LANE_WIRE_H
#define REPLICATION_LANE_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "hv/base/wire.h"

enum {
	LANE_ETHERTYPE = 0x88B5, /* IEEE 802, local experimental 1 */
	LANE_MAGIC = 0x4c52,	 /* "RL" */
	LANE_VERSION = 1,
	LANE_MTU_MIN = 576,
	LANE_MTU_MAX = 16000, /* what fits into one buffer of the ports that there are */
	LANE_SLOTS_MAX = 1 << 20,
	LANE_RANGES_MAX = 60, /* so that an ACK fits into LANE_MTU_MIN */
};

enum lane_kind {
	LANE_HELLO = 1,
	LANE_PROBE = 2,
	LANE_PROBED = 3,
	LANE_DATA = 4,
	LANE_ACK = 5,
	LANE_PING = 6,
	LANE_CLOSE = 7,
	LANE_RESET = 8,
};

enum lane_flag {
	LANE_HEARD = 1,	 /* HELLO: I have heard yours */
	LANE_READY = 2,	 /* HELLO: I know how long my frames may be */
	LANE_OPENED = 4, /* HELLO: I need no answer any more */
	LANE_ASK = 8,	 /* DATA: acknowledge at once */
	LANE_ABORT = 16, /* CLOSE: not in good order */
	LANE_CLOSED = 32 /* ACK: your CLOSE was heard */
};

/* The head of every frame, the Ethernet header first. */
struct lane_head {
	uint8_t to[6], from[6];
	uint8_t ethertype[2]; /* the only big-endian field: it is Ethernet's */
	struct le16 magic;
	uint8_t version, kind;
	struct le16 flags;
	struct le16 len; /* of what follows the head; a frame may be longer (padding) */
	struct le16 zero;
	struct le32 sum; /* low half of XXH3-64 from magic to the head's end, sum 0 */
	struct le32 seq;
	struct le64 id; /* the recipient's */
	struct le32 ack, edge;
};
WIRE_SIZE(struct lane_head, 48);

enum {
	LANE_HEAD = 48,
	LANE_ETHER = 14,
	/* An Ethernet payload of n bytes carries n - LANE_COST bytes of the stream. */
	LANE_COST = LANE_HEAD - LANE_ETHER,
};

struct lane_hello_wire {
	struct le16 version_min, version_max;
	struct le32 capabilities;
	struct le32 mtu;
	struct le32 slots;
	struct le64 id; /* the sender's */
};
WIRE_SIZE(struct lane_hello_wire, 24);

struct lane_range_wire {
	struct le32 from, to; /* [from, to) */
};
WIRE_SIZE(struct lane_range_wire, 8);

struct lane_hello {
	unsigned version_min, version_max;
	uint32_t capabilities, mtu, slots;
	uint64_t id;
};

struct lane_range {
	uint32_t from, to;
};

/* A frame in hand, numbers in the host's order; @body points into the frame. */
struct lane_msg {
	uint8_t to[6], from[6];
	uint8_t kind;
	unsigned flags, len;
	uint64_t id;
	uint32_t seq, ack, edge;
	const uint8_t *body;
	struct lane_hello hello;		   /* of a HELLO */
	struct lane_range ranges[LANE_RANGES_MAX]; /* of an ACK */
	unsigned n_ranges;
};

enum lane_verdict {
	LANE_GOOD,
	LANE_NOT_OURS, /* another protocol */
	LANE_BAD,      /* ours, but damaged or against the rules */
};

/* What the frame of @len bytes says. Bounds come first; nothing is believed about the
 * connection. */
enum lane_verdict lane_parse(const uint8_t *frame, size_t len, struct lane_msg *out);

/* Write the head, and for a HELLO and an ACK the body, before @frame + LANE_HEAD + m->len.
 * Returns the frame's length. @frame has room for LANE_ETHER + LANE_MTU_MIN bytes or,
 * for the other kinds, for the head, and the caller has put m->len bytes behind it. */
size_t lane_build(const struct lane_msg *m, uint8_t *frame);

#endif
