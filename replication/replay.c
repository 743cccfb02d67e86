/* SPDX-License-Identifier: Apache-2.0
 * replay - keeps what may have to be sent again.
 */
#include "replication/replay.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

int replay_init(struct replay *r, size_t cap)
{
	*r = (struct replay){.data = malloc(cap), .cap = cap};
	return r->data ? 0 : -ENOMEM;
}

void replay_fini(struct replay *r)
{
	free(r->data);
	*r = (struct replay){0};
}

void replay_place(struct replay *r, size_t len, struct iovec out[2])
{
	size_t tail, first;

	assert(len <= replay_room(r));
	/* An empty ring begins anew, so that a calm link uses the same few cache lines. */
	if (r->begin == r->end)
		r->head = 0;
	tail = (r->head + (size_t)(r->end - r->begin)) % r->cap;
	first = r->cap - tail < len ? r->cap - tail : len;
	out[0] = (struct iovec){.iov_base = r->data + tail, .iov_len = first};
	out[1] = (struct iovec){.iov_base = r->data, .iov_len = len - first};
}

int replay_confirm(struct replay *r, uint64_t pos)
{
	if (pos < r->begin || pos > r->end)
		return -ERANGE;
	r->head = (r->head + (size_t)(pos - r->begin)) % r->cap;
	r->begin = pos;
	return 0;
}

int replay_peek(const struct replay *r, uint64_t pos, size_t max, struct iovec out[2])
{
	size_t at = (r->head + (size_t)(pos - r->begin)) % r->cap,
	       n = (size_t)(r->end - pos);

	assert(pos >= r->begin && pos <= r->end);
	n = n < max ? n : max;
	out[0] = (struct iovec){.iov_base = r->data + at,
				.iov_len = r->cap - at < n ? r->cap - at : n};
	out[1] = (struct iovec){.iov_base = r->data, .iov_len = n - out[0].iov_len};
	return (out[0].iov_len > 0) + (out[1].iov_len > 0);
}
