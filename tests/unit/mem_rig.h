/* SPDX-License-Identifier: Apache-2.0
 * mem_rig - both memory participants and two memories, for the tests that need them: a random guest
 * that writes, and both ends without engines between them.
 */
#ifndef TESTS_UNIT_MEM_RIG_H
#define TESTS_UNIT_MEM_RIG_H

#include <stdlib.h>
#include <string.h>

#include "hv/base/err.h"
#include "hv/gm.h"
#include "remus/parts.h"
#include "remus/stream.h"
#include "tests/unit/unit.h"

enum { RAM = 16 << 20 };

static uint64_t rnd_state = 88172645463325252ull;

static inline uint64_t rnd(void)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return rnd_state;
}

/* Both ends without engines: records go straight from one to the other. */
struct wire {
	struct rec_sink sink;
	struct standby_part to;
	unsigned records, digests;
};

struct both {
	struct gm *a, *b;
	struct mem_part *mp;
	struct mem_standby *ms;
	struct part p;
	struct standby_part s;
	struct wire down;
	struct err err;
};

static inline int deliver(struct rec_sink *base, uint16_t type, uint64_t epoch,
			  const struct iovec *iov, int n)
{
	struct wire *w = (struct wire *)base;
	struct err err = {0};
	void *room = NULL;

	CU_ASSERT_EQUAL_FATAL(n, 1);
	CU_ASSERT_TRUE(iov[0].iov_len <= 256 << 10);
	w->records += type != MEM_DIGESTS;
	w->digests += type == MEM_DIGESTS;
	/* Received where the standby likes, or anywhere. Several may deliver, one at a time. */
	if (rnd() % 2)
		room = w->to.ops->room(w->to.self, type, epoch, iov[0].iov_len);
	if (room)
		memcpy(room, iov[0].iov_base, iov[0].iov_len);
	return w->to.ops->record(w->to.self, type, epoch, room ? room : iov[0].iov_base,
				 iov[0].iov_len, &err);
}

/* The standby's hello reaches the primary. */
static inline int to_primary(struct rec_sink *base, uint16_t type, uint64_t epoch,
			     const struct iovec *iov, int n)
{
	struct both *t = (struct both *)((char *)base - offsetof(struct both, down.sink));

	return t->p.ops->peer_record(t->p.self, type, iov[0].iov_base, iov[0].iov_len,
				     &t->err);
}

static unsigned encoders = 1; /* of the next both_init() */

static inline void both_init(struct both *t, size_t cache, size_t stage)
{
	memset(t, 0, sizeof(*t));
	CU_ASSERT_EQUAL_FATAL(gm_create(RAM, &t->a, &t->err), 0);
	CU_ASSERT_EQUAL_FATAL(gm_create(RAM, &t->b, &t->err), 0);
	CU_ASSERT_EQUAL_FATAL(
		mem_part_create(t->a, NULL, cache, encoders, &t->mp, &t->err), 0);
	CU_ASSERT_EQUAL_FATAL(mem_standby_create(t->b, stage, &t->ms, &t->err), 0);
	mem_part_verify(t->mp, 1); /* as much in each epoch as there may be */
	t->p = mem_part(t->mp);
	t->s = mem_standby(t->ms);
	t->down.to = t->s;
}

static inline void both_fini(struct both *t)
{
	mem_part_destroy(t->mp);
	mem_standby_destroy(t->ms);
	gm_destroy(t->a);
	gm_destroy(t->b);
}

/* A few writes like a guest's: counters, blocks, zeroes, whole random pages, across borders. */
static inline void scribble(struct gm *gm, unsigned writes)
{
	uint8_t bytes[3 * GM_PAGE];
	uint64_t at, len;

	while (writes--) {
		at = rnd() % 3 ? rnd() % (RAM / 64) : rnd() % (RAM - sizeof(bytes));
		len = 1 + rnd() % (rnd() % 4 ? 64 : sizeof(bytes));
		if (rnd() % 4 == 0)
			memset(bytes, 0, len);
		else
			for (uint64_t i = 0; i < len; i += 8)
				*(uint64_t *)(bytes + i) = rnd() % 2 ? rnd() : i;
		if (gm_write(gm, at, bytes, len))
			abort(); /* not CUnit's: this also runs on the guest's thread */
	}
}

#endif
