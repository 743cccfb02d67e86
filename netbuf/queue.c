/* SPDX-License-Identifier: Apache-2.0
 * queue - output in the order said, cut by epoch, in chunks from a pool.
 */
#include "netbuf/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_ROOM = NBQ_CHUNK - sizeof(struct nbq_chunk), ENTRY_ALIGN = 8 };

/* Two entries of the largest size never leave a chunk half empty or worse. */
_Static_assert(2 * NBQ_ENTRY_MAX < CHUNK_ROOM, "a chunk holds two entries");

size_t nbq_cost(size_t len)
{
	return (sizeof(struct nbq_entry) + len + ENTRY_ALIGN - 1) &
	       ~(size_t)(ENTRY_ALIGN - 1);
}

static int pool_fill(struct nbq *q)
{
	struct nbq_chunk *c = malloc(NBQ_CHUNK);

	if (!c)
		return -ENOMEM;
	c->next = q->pool;
	q->pool = c;
	return 0;
}

int nbq_init(struct nbq *q)
{
	*q = (struct nbq){0};
	return pool_fill(q);
}

static void free_list(struct nbq_chunk *c)
{
	struct nbq_chunk *next;

	for (; c; c = next) {
		next = c->next;
		free(c);
	}
}

void nbq_fini(struct nbq *q)
{
	free_list(q->head);
	free_list(q->pool);
	*q = (struct nbq){0};
}

static int open_chunk(struct nbq *q, uint64_t epoch)
{
	struct nbq_chunk *c;

	if (!q->pool && pool_fill(q))
		return -ENOMEM;
	c = q->pool;
	q->pool = c->next;
	*c = (struct nbq_chunk){.epoch = epoch};
	if (q->tail)
		q->tail->next = c;
	else
		q->head = c;
	q->tail = c;
	q->last = NULL;
	return 0;
}

static size_t room(const struct nbq *q, uint64_t epoch)
{
	return q->tail && q->tail->epoch == epoch ? CHUNK_ROOM - q->tail->used : 0;
}

/* An empty entry at the tail, with room for @len bytes behind it. */
static struct nbq_entry *open_entry(struct nbq *q, uint64_t epoch, uint32_t port,
				    size_t len)
{
	struct nbq_entry *e;

	if (nbq_cost(len) > room(q, epoch) && open_chunk(q, epoch))
		return NULL;
	e = (struct nbq_entry *)(q->tail->bytes + q->tail->used);
	*e = (struct nbq_entry){.port = port};
	q->tail->used += sizeof(*e);
	q->tail->entries++;
	q->cost += sizeof(*e);
	q->entries++;
	q->last = e;
	return e;
}

/* The last entry has @len bytes more. */
static void grow_last(struct nbq *q, size_t len)
{
	size_t before = nbq_cost(q->last->len), after = nbq_cost(q->last->len + len);

	q->last->len += (uint32_t)len;
	q->tail->used += (uint32_t)(after - before);
	q->tail->payload += len;
	q->cost += after - before;
	q->payload += len;
}

int nbq_put(struct nbq *q, uint64_t epoch, uint32_t port, const struct iovec *iov, int n,
	    size_t len)
{
	struct nbq_entry *e = open_entry(q, epoch, port, len);
	uint8_t *to;

	if (!e)
		return -ENOMEM;
	to = e->bytes;
	for (int i = 0; i < n; i++) {
		if (!iov[i].iov_len)
			continue;
		memcpy(to, iov[i].iov_base, iov[i].iov_len);
		to += iov[i].iov_len;
	}
	grow_last(q, len);
	return 0;
}

int nbq_stream(struct nbq *q, uint64_t epoch, uint32_t port, const uint8_t *p, size_t len)
{
	while (len) {
		size_t part = len, space;

		if (!q->last || q->last->port != port || !room(q, epoch) ||
		    q->last->len == NBQ_ENTRY_MAX) {
			if (!open_entry(q, epoch, port, 1))
				return -ENOMEM;
		}
		/* What is left of the chunk, and of the padding of the entry. */
		space = nbq_cost(q->last->len) - sizeof(*q->last) - q->last->len +
			room(q, epoch);
		if (part > space)
			part = space;
		if (part > NBQ_ENTRY_MAX - q->last->len)
			part = NBQ_ENTRY_MAX - q->last->len;
		memcpy(q->last->bytes + q->last->len, p, part);
		grow_last(q, part);
		p += part;
		len -= part;
	}
	return 0;
}

struct nbq_chunk *nbq_take(struct nbq *q, uint64_t epoch)
{
	struct nbq_chunk *first = q->head, *end = NULL;

	while (q->head && q->head->epoch <= epoch) {
		end = q->head;
		q->head = end->next;
	}
	if (!end)
		return NULL;
	end->next = NULL;
	if (!q->head) {
		q->tail = NULL;
		q->last = NULL;
	}
	return first;
}

void nbq_give_back(struct nbq *q, struct nbq_chunk *c)
{
	struct nbq_chunk *next;

	for (; c; c = next) {
		next = c->next;
		q->cost -= c->used;
		q->payload -= c->payload;
		q->entries -= c->entries;
		c->next = q->pool;
		q->pool = c;
	}
}

void nbq_retag(struct nbq *q, uint64_t epoch)
{
	for (struct nbq_chunk *c = q->head; c; c = c->next)
		c->epoch = epoch;
}

struct nbq_entry *nbq_next(struct nbq_chunk *c, struct nbq_entry *e)
{
	uint8_t *at = e ? (uint8_t *)e + nbq_cost(e->len) : c->bytes;

	return at < c->bytes + c->used ? (struct nbq_entry *)at : NULL;
}
