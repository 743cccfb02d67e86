/* SPDX-License-Identifier: Apache-2.0
 * ring - who may write where, and when, in the ring of bytes that the peer offers.
 *
 * Pure book-keeping, apart from any device. All positions count bytes since the stream
 * began and never wrap. A stream's two rings, the sender's own and the receiver's, may
 * differ in size: a byte's place in each is its position modulo the size.
 *
 *     sender    freed <= told <= posted <= put     done <= posted
 *     receiver  credited <= read <= filled
 *
 * An announcement ("so many more bytes are there") takes a receive slot at the peer, and
 * so does a credit. Nobody may ever find the other without one, so announcements that the
 * peer has not given back are limited in number: each leaves a mark at the position that
 * it announced, on both sides, and a credit that reaches the position takes it away.
 */
#ifndef REPLICATION_RDMA_RING_H
#define REPLICATION_RDMA_RING_H

#include <stddef.h>
#include <stdint.h>

enum {
	RING_MARKS = 256,
	RING_MARKS_MIN = 8,
	RING_SQ = 128,	   /* requests under way */
	RING_SQ_SPARE = 8, /* of them kept free of data, for credits and last words */
	RING_CREDITS =
		8, /* credits that can be under way: each is a quarter of something */
};

struct ring_marks {
	uint64_t at[RING_MARKS];
	unsigned head, len, max;
};

/* What the sender knows. */
struct ring_out {
	uint64_t local, remote; /* sizes */
	uint64_t put;		/* by the caller into the local ring */
	uint64_t posted;	/* given to the device */
	uint64_t told;		/* announced */
	uint64_t done;		/* the device needs them no more */
	uint64_t freed;		/* the peer gave their room back */
	struct ring_marks marks;
};

/* One contiguous stretch to be written. */
struct ring_piece {
	uint64_t local_at, remote_at, end; /* @end: the position after it */
	size_t len;
};

/* What the receiver knows. */
struct ring_in {
	uint64_t size, filled, read, credited;
	struct ring_marks marks;
	unsigned
		passed; /* the oldest marks, which read has passed but no credit has told */
};

/* Requests that the device has, oldest first. They end in order, so one completion tells
 * of all before it. */
struct ring_sq {
	uint64_t head, tail;	/* numbers of the oldest one and of the next one */
	uint64_t end[RING_SQ];	/* what was posted with and before each */
	unsigned unsignalled;	/* requests since the last one that will be told of */
	uint64_t signalled_end; /* what was posted with that one */
};

/* @marks: how many announcements may be on their way; more than RING_MARKS are not used. */
void ring_out_init(struct ring_out *r, uint64_t local, uint64_t remote, unsigned marks);
/* How many bytes can be put, in one stretch of the local ring. */
size_t ring_out_room(const struct ring_out *r);
/* The next stretch to post, at most @max bytes. Returns its length, 0: nothing. */
size_t ring_out_next(const struct ring_out *r, size_t max, struct ring_piece *p_out);
int ring_out_may_tell(const struct ring_out *r);
/* Announce all that is posted: returns by how much. Only when ring_out_may_tell(). */
uint32_t ring_out_tell(struct ring_out *r);
/* The peer says that it has read so much more: -EBADMSG if that cannot be. */
int ring_out_credit(struct ring_out *r, uint64_t bytes);

/* @marks: as for the sender at the other end; both use the smaller of their limits. */
void ring_in_init(struct ring_in *r, uint64_t size, unsigned marks);
/* The peer says that so much more is there: -EBADMSG if that cannot be. */
int ring_in_told(struct ring_in *r, uint64_t bytes);
/* How many bytes can be read in one stretch of the ring. */
size_t ring_in_ready(const struct ring_in *r);
void ring_in_read(struct ring_in *r, size_t bytes);
/* Is it time to give room back? */
int ring_in_due(const struct ring_in *r);
/* How much to give back; taken as given. */
uint32_t ring_in_credit(struct ring_in *r);

unsigned ring_sq_free(const struct ring_sq *q);
/* Whether the next request, after which @end is posted, should be told of. */
int ring_sq_wants_signal(const struct ring_sq *q, uint64_t end, uint64_t local);
/* One more request is under way: returns its number. */
uint64_t ring_sq_push(struct ring_sq *q, uint64_t end, int signalled);
/* Request @number and all before it are done: up to which position, in @done_out.
 * -EBADMSG if there is no such request. */
int ring_sq_done(struct ring_sq *q, uint64_t number, uint64_t *done_out);

#endif
