/* SPDX-License-Identifier: Apache-2.0
 * ring - who may write where, and when, in the ring of bytes that the peer offers.
 */
#include "replication/rdma/ring.h"

#include <assert.h>
#include <errno.h>

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void marks_push(struct ring_marks *m, uint64_t at)
{
	assert(m->len < m->max);
	m->at[(m->head + m->len++) % RING_MARKS] = at;
}

static void marks_pop(struct ring_marks *m, unsigned n)
{
	m->head = (m->head + n) % RING_MARKS;
	m->len -= n;
}

/* How many of the oldest marks, after the first @from, are at or before @pos. */
static unsigned marks_until(const struct ring_marks *m, unsigned from, uint64_t pos)
{
	unsigned n = from;

	while (n < m->len && m->at[(m->head + n) % RING_MARKS] <= pos)
		n++;
	return n - from;
}

void ring_out_init(struct ring_out *r, uint64_t local, uint64_t remote, unsigned marks)
{
	*r = (struct ring_out){.local = local, .remote = remote};
	r->marks.max = marks < RING_MARKS ? marks : RING_MARKS;
}

size_t ring_out_room(const struct ring_out *r)
{
	/* The peer's credit is no leave to reuse the local bytes: the device may still want
	 * to send them again. */
	uint64_t here = r->local - (r->put - r->done);
	uint64_t there = r->remote - (r->put - r->freed);

	return min64(min64(here, there), r->local - r->put % r->local);
}

size_t ring_out_next(const struct ring_out *r, size_t max, struct ring_piece *p_out)
{
	uint64_t len = min64(r->put - r->posted, max);

	p_out->local_at = r->posted % r->local;
	p_out->remote_at = r->posted % r->remote;
	len = min64(len, r->local - p_out->local_at);
	len = min64(len, r->remote - p_out->remote_at);
	p_out->len = len;
	p_out->end = r->posted + len;
	return len;
}

int ring_out_may_tell(const struct ring_out *r)
{
	return r->marks.len < r->marks.max;
}

uint32_t ring_out_tell(struct ring_out *r)
{
	uint64_t n = r->posted - r->told;

	marks_push(&r->marks, r->posted);
	r->told = r->posted;
	return (uint32_t)n;
}

int ring_out_credit(struct ring_out *r, uint64_t bytes)
{
	if (!bytes || bytes > r->told - r->freed)
		return -EBADMSG;
	r->freed += bytes;
	marks_pop(&r->marks, marks_until(&r->marks, 0, r->freed));
	return 0;
}

void ring_in_init(struct ring_in *r, uint64_t size, unsigned marks)
{
	*r = (struct ring_in){.size = size};
	r->marks.max = marks < RING_MARKS ? marks : RING_MARKS;
}

int ring_in_told(struct ring_in *r, uint64_t bytes)
{
	/* Room that was read but not yet given back is not the peer's to fill. */
	if (!bytes || bytes > r->size - (r->filled - r->credited))
		return -EBADMSG;
	if (r->marks.len == r->marks.max)
		return -EBADMSG;
	r->filled += bytes;
	marks_push(&r->marks, r->filled);
	return 0;
}

size_t ring_in_ready(const struct ring_in *r)
{
	return min64(r->filled - r->read, r->size - r->read % r->size);
}

void ring_in_read(struct ring_in *r, size_t bytes)
{
	assert(bytes <= r->filled - r->read);
	r->read += bytes;
	r->passed += marks_until(&r->marks, r->passed, r->read);
}

int ring_in_due(const struct ring_in *r)
{
	return r->read - r->credited >= r->size / 4 || r->passed >= r->marks.max / 4;
}

uint32_t ring_in_credit(struct ring_in *r)
{
	uint64_t n = r->read - r->credited;

	r->credited = r->read;
	marks_pop(&r->marks, r->passed);
	r->passed = 0;
	return (uint32_t)n;
}

unsigned ring_sq_free(const struct ring_sq *q)
{
	return RING_SQ - (unsigned)(q->tail - q->head);
}

int ring_sq_wants_signal(const struct ring_sq *q, uint64_t end, uint64_t local)
{
	/* Whoever waits for room waits for a full ring or a full queue; of both then at
	 * least three quarters are certain to be told of. */
	return q->unsignalled + 1 >= RING_SQ / 4 || end - q->signalled_end >= local / 4;
}

uint64_t ring_sq_push(struct ring_sq *q, uint64_t end, int signalled)
{
	assert(ring_sq_free(q));
	q->end[q->tail % RING_SQ] = end;
	q->unsignalled++;
	if (signalled) {
		q->unsignalled = 0;
		q->signalled_end = end;
	}
	return q->tail++;
}

int ring_sq_done(struct ring_sq *q, uint64_t number, uint64_t *done_out)
{
	if (number < q->head || number >= q->tail)
		return -EBADMSG;
	*done_out = q->end[number % RING_SQ];
	q->head = number + 1;
	return 0;
}
