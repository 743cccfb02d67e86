/* SPDX-License-Identifier: Apache-2.0
 * path_streams - the further connections of a tcp path that has several streams.
 *
 * Theory of operation. The first connection's HELLOs agree on how many streams there are. Each
 * further one is a TCP connection with a TLS handshake of its own, by the pair's key, and then says a
 * ticket: 32 bytes of the first connection's exporter, with both HELLOs and the stream's number as the
 * context. So only the process at the other end of the first connection can have it, and a stream
 * of another session, path, or pair of processes fits nowhere. The format is in STREAM.md, "Paths".
 */
#ifndef REPLICATION_PATH_STREAMS_H
#define REPLICATION_PATH_STREAMS_H

#include <stdint.h>

#include "hv/base/wire.h"
#include "replication/transport.h"

struct err;
struct path_hall;
struct path_key;

enum { PATH_TICKET_LEN = 32 };

struct path_stream_wire {
	char magic[8]; /* "RHEASTRM" */
	struct le16 version;
	uint8_t server;
	uint8_t index;	    /* of the stream, from 1 */
	struct le16 status; /* of an answer: 0, or it is refused */
	uint8_t zero[2];
	uint8_t ticket[PATH_TICKET_LEN];
};
WIRE_SIZE(struct path_stream_wire, 48);

/* The streams of one path on their way; [0] is the first connection. */
struct path_party {
	struct path_party *next;
	unsigned n, missing;
	uint8_t ticket[TP_TCP_STREAMS_MAX][PATH_TICKET_LEN];
	struct tp *tp[TP_TCP_STREAMS_MAX];
};

/* Tickets for @n streams from @first and the @len bytes at @said. 0 or -EIO. */
int path_party_init(struct path_party *p, struct tp *first, unsigned n, const void *said,
		    size_t len);
/* All but the first are closed. */
void path_party_fini(struct path_party *p);

/* Where a server's first connections wait for their further ones. Any thread. */
int path_hall_create(struct path_hall **h_out); /* returns owned; -ENOMEM */
void path_hall_destroy(struct path_hall *h);	/* nobody is in it; NULL is fine */
/* From before the peer can know the tickets on, until it leaves. */
void path_hall_expect(struct path_hall *h, struct path_party *p);
void path_hall_leave(struct path_hall *h, const struct path_party *p); /* also twice */
/* Until all have come, at most @timeout_ms; then @p has left. 0 or -ETIMEDOUT. */
int path_hall_wait(struct path_hall *h, struct path_party *p, unsigned timeout_ms);

/* The server's side of a further connection: to whom it belongs is found out here. Takes @fd. 0 or
 * -errno with @err: as tp_tcp_open(), -EPROTO, -ESTALE: nobody waits for it. */
int path_stream_accept(int fd, const struct path_key *key, struct path_hall *hall,
		       struct err *err);
/* The client's side, for stream @i. Takes @fd; p->tp[i] is it. */
int path_stream_connect(int fd, const struct path_key *key, struct path_party *p,
			unsigned i, struct err *err);

#endif
