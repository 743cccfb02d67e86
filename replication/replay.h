/* SPDX-License-Identifier: Apache-2.0
 * replay - a bounded ring of the bytes that were sent and that the peer may not have yet.
 *
 * Bytes are numbered from 0. Not locked.
 */
#ifndef REPLICATION_REPLAY_H
#define REPLICATION_REPLAY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct replay {
	uint8_t *data;
	size_t cap, head; /* byte number @begin is at data[head] */
	uint64_t begin, end;
};

/* 0 or -ENOMEM. */
int replay_init(struct replay *r, size_t cap);
void replay_fini(struct replay *r);

static inline size_t replay_room(const struct replay *r)
{
	return r->cap - (size_t)(r->end - r->begin);
}

/* Where the next @len bytes, for which there is room, belong: two pieces, the second may be empty. They
 * are kept after replay_commit(); confirmations may come in between. */
void replay_place(struct replay *r, size_t len, struct iovec out[2]);
static inline void replay_commit(struct replay *r, size_t len)
{
	r->end += len;
}
/* All before byte number @pos is not needed any more. 0, or -ERANGE: it is not among those that
 * are kept, or the next. */
int replay_confirm(struct replay *r, uint64_t pos);
/* The kept bytes from number @pos on, at most @max, in up to two pieces; returns how many pieces.
 * @pos is begin to end. */
int replay_peek(const struct replay *r, uint64_t pos, size_t max, struct iovec out[2]);

#endif
