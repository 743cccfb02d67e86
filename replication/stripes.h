/* SPDX-License-Identifier: Apache-2.0
 * stripes - several TLS streams as one: each has a thread for either direction.
 *
 * Theory of operation. What is sent is cut into stripes of at most STRIPE_MAX bytes, which are numbered
 * and go, each with a header, to the stream with the shortest queue. Each stream carries its
 * stripes in the order of their numbers. So the next stripe is always the first of one of them, and who
 * receives waits for that one. A stream that stalls holds the others up as soon as their
 * queues (STRIPE_DEPTH) are full: nothing else is kept, on either side.
 *
 * One stream's death is the death of all: what came on the others before it can still be received, up to
 * the first stripe that is missing. A short flush on idle streams goes out on the caller's thread.
 *
 * The sender calls send and flush, the receiver recv, any thread shutdown, as in transport.h.
 */
#ifndef REPLICATION_STRIPES_H
#define REPLICATION_STRIPES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "hv/base/wire.h"

struct err;
struct stripes;
struct tlsstream;
struct tp_loss;

enum {
	STRIPES_MAX = 8, /* streams */
	STRIPE_MAX = 128 << 10,
	STRIPE_DEPTH = 4,
};

struct stripe_wire {
	struct le32 len; /* of the content, at least 1 */
	struct le32 zero;
	struct le64 number; /* from 0 in each direction */
};
WIRE_SIZE(struct stripe_wire, 16);

/* Takes the @n streams (2 to STRIPES_MAX), also on failure. Returns owned. 0 or -errno with @err. */
int stripes_create(struct tlsstream *const *streams, unsigned n, struct stripes **s_out,
		   struct err *err);
void stripes_close(struct stripes *s);
void stripes_shutdown(struct stripes *s);
int stripes_send(struct stripes *s, const struct iovec *iov, int n, unsigned timeout_ms);
/* When it returns 0, the kernel has all of it. */
int stripes_flush(struct stripes *s);
int stripes_recv(struct stripes *s, void *p, size_t len, size_t *done_out);
/* Adds what all streams have sent, and sent again. Any thread. */
/* On the stream that was heard last, as sock_heard(). */
uint64_t stripes_heard(const struct stripes *s);
void stripes_loss(struct stripes *s, struct tp_loss *sum);

#endif
