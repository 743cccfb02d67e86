/* SPDX-License-Identifier: Apache-2.0
 * meter - measures what a transport carries: bandwidth, round trips, loss.
 *
 * Theory of operation. The client asks, the server answers; both ends know the peer already (path.h).
 *
 *     C: ECHO, some bytes    ──►   S: ECHOED           again and again: the round trip
 *     C: BULK, BULK, ..., MARK ──► S: MARKED           a slice: so many bytes in so long
 *     C: END                 ──►   S: ENDED
 *
 * An ECHO of a page and its answer is the smallest checkpoint and its ACK. Bandwidth is measured in
 * slices that grow until one takes slice_ms (or two round trips, if that is longer), so that what waits on
 * the wire before somebody else's bytes is bounded; between slices the wire is left to others for as long
 * as the slice took, if that is wanted. A slice's time is the client's: from the first byte to MARKED,
 * less one round trip. Nothing that the peer says is believed but that it has received so many bytes.
 * The format is in STREAM.md, "Measuring".
 *
 * Threads: the caller's, one at a time. Who must not wait for ever shuts the transport down.
 */
#ifndef REPLICATION_METER_H
#define REPLICATION_METER_H

#include <stddef.h>
#include <stdint.h>

#include "hv/base/wire.h"
#include "replication/transport.h"

struct err;

enum {
	METER_SMALL = 64, /* bytes of content of a small message */
	METER_PAGE = 4096,
	METER_CHUNK = 16 << 10, /* of BULK */
	METER_SLICE_MIN = 64 << 10,
	METER_PAUSE_MS = 100,
	METER_SERVE_MAX_MIB = 16 << 10, /* a server takes no more from one client */
	METER_WHY_MAX = 160,
};

enum meter_type {
	METER_ECHO = 1,
	METER_ECHOED = 2,
	METER_BULK = 3,
	METER_MARK = 4,
	METER_MARKED = 5,
	METER_END = 6,
	METER_ENDED = 7,
	METER_NTYPES,
};

struct meter_wire {
	struct le32
		len; /* of the content: ECHO at most METER_PAGE, BULK 1 to METER_CHUNK; else 0 */
	struct le16 type;
	struct le16 zero;
	struct le64 seq;   /* of ECHO and MARK, and of their answers */
	struct le64 bytes; /* of content, by BULK, so far; MARKED only */
};
WIRE_SIZE(struct meter_wire, 24);

enum meter_go {
	METER_STOP, /* here */
	METER_SLOWER, /* this slice ends, the next one is half as long, after a rest of METER_PAUSE_MS */
	METER_GO,
};

struct meter_params {
	unsigned ms;	   /* for sending */
	uint64_t bytes;	   /* at most */
	unsigned slice_ms; /* how long others may have to wait */
	int rests;	   /* leave the wire to others between slices */
	/* Asked every few milliseconds; METER_STOP comes with the reason in @why. */
	enum meter_go (*go_on)(void *arg, char why[METER_WHY_MAX]);
	void *arg;
};

struct meter_trip {
	unsigned n;
	uint64_t p50_ns, p99_ns;
};

struct meter_result {
	struct meter_trip small, page;
	uint64_t bytes,
		ns;	 /* of the slices that count; 0: stopped before there was one */
	uint64_t sent;	 /* in all */
	unsigned slices; /* that count */
	struct tp_loss loss;
	char stopped[METER_WHY_MAX]; /* "": it was not */
};

/* The client. 0 or -errno with @err: the transport's, or -EBADMSG. */
int meter_run(struct tp *tp, const struct meter_params *prm, struct meter_result *out,
	      struct err *err);
/* The server, until the client says that it was all. As above. */
int meter_serve(struct tp *tp, struct err *err);

/* What came, for @server or for a client: 0 or -EBADMSG. */
int meter_check(const struct meter_wire *h, int server);
/* How many bytes the next slice has, after one of @bytes took @ns and shall take @want_ns; at least
 * METER_SLICE_MIN, at most @max, and no more than eight times as many. */
uint64_t meter_next_slice(uint64_t bytes, uint64_t ns, uint64_t want_ns, uint64_t max);
/* Sorts @ns. */
struct meter_trip meter_quantiles(uint64_t *ns, unsigned n);

#endif
