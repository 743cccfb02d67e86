/* SPDX-License-Identifier: Apache-2.0
 * queue - output in the order said, cut by epoch, in chunks from a pool (internal to netbuf).
 *
 * Theory of operation. One list of chunks holds the output of all ports. A chunk belongs to one
 * epoch; sealing an epoch is no more than putting what follows into a chunk of the next one, and
 * releasing it is taking chunks off the head. Bytes are copied once, into the chunk, and never
 * move. Not locked: whoever owns the queue locks it.
 */
#ifndef NETBUF_QUEUE_H
#define NETBUF_QUEUE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum {
	NBQ_CHUNK = 256 << 10,
	NBQ_ENTRY_MAX =
		96 << 10, /* above the largest offloaded frame with all its headers */
};

/* One frame, or console bytes that were said in a row. */
struct nbq_entry {
	uint32_t len;
	uint32_t port;
	uint8_t bytes[];
};

struct nbq_chunk {
	struct nbq_chunk *next;
	uint64_t epoch;
	uint32_t used; /* of bytes */
	uint32_t entries;
	size_t payload; /* without headers and padding */
	uint8_t bytes[];
};

struct nbq {
	struct nbq_chunk *head, *tail, *pool;
	struct nbq_entry *last; /* of the tail chunk, or NULL */
	size_t cost;		/* bytes in use, with headers; until given back */
	size_t payload;
	uint64_t entries;
};

/* Makes the first chunks, so that an empty queue always has room. 0 or -ENOMEM. */
int nbq_init(struct nbq *q);
void nbq_fini(struct nbq *q); /* drops what is held; idempotent */

/* What an entry of @len bytes adds to @cost. */
size_t nbq_cost(size_t len);
/* Append one entry, copied from @iov (@len bytes in all, at most NBQ_ENTRY_MAX). @epoch is
 * not below that of any entry before. 0 or -ENOMEM. */
int nbq_put(struct nbq *q, uint64_t epoch, uint32_t port, const struct iovec *iov, int n,
	    size_t len);
/* Append bytes of a stream: joined to the last entry where that is the same port and epoch, cut
 * where it must be. 0 or -ENOMEM (some of it may have been taken). */
int nbq_stream(struct nbq *q, uint64_t epoch, uint32_t port, const uint8_t *p,
	       size_t len);

/* Take all chunks up to and including @epoch off the head. They still count as held until
 * nbq_give_back(). NULL if there are none. */
struct nbq_chunk *nbq_take(struct nbq *q, uint64_t epoch);
void nbq_give_back(struct nbq *q, struct nbq_chunk *list);
/* Everything that is held belongs to @epoch from now on. */
void nbq_retag(struct nbq *q, uint64_t epoch);

/* Walk a chunk's entries: NULL starts, NULL ends. */
struct nbq_entry *nbq_next(struct nbq_chunk *c, struct nbq_entry *e);

#endif
