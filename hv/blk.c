/* SPDX-License-Identifier: Apache-2.0
 * blk - the shared bytes of a disk request.
 *
 * Theory of operation. A write's bytes are allocated on the I/O thread and freed on another one, hundreds at
 * once, when their epoch is committed. An allocator gives such memory back to the kernel and takes it
 * anew, page fault by page fault; so those of usual sizes are kept in a pool.
 */
#include "hv/blk.h"

#include <pthread.h>
#include <stdlib.h>

enum { SIZES = 3, POOL_BYTES = 64 << 20 };

static const uint32_t size_of[SIZES] = {4 << 10, 16 << 10, 64 << 10};

/* In the place of the bytes while nobody has them. */
struct spare {
	struct spare *next;
};

static struct {
	pthread_mutex_t lock;
	struct spare *first[SIZES];
	size_t bytes;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* SIZES: too large to be kept. */
static unsigned size_for(uint32_t len)
{
	unsigned i = 0;

	while (i < SIZES && len > size_of[i])
		i++;
	return i;
}

static struct blk_data *take(unsigned i)
{
	struct spare *s;

	pthread_mutex_lock(&pool.lock);
	s = pool.first[i];
	if (s) {
		pool.first[i] = s->next;
		pool.bytes -= size_of[i];
	}
	pthread_mutex_unlock(&pool.lock);
	return (struct blk_data *)s;
}

/* Whether there is room for it. */
static int keep(unsigned i, struct blk_data *d)
{
	struct spare *s = (struct spare *)d;
	int room;

	pthread_mutex_lock(&pool.lock);
	room = pool.bytes + size_of[i] <= POOL_BYTES;
	if (room) {
		s->next = pool.first[i];
		pool.first[i] = s;
		pool.bytes += size_of[i];
	}
	pthread_mutex_unlock(&pool.lock);
	return room;
}

struct blk_data *blk_data_new(uint32_t len)
{
	unsigned i = size_for(len);
	struct blk_data *d = i < SIZES ? take(i) : NULL;

	if (!d)
		d = malloc(sizeof(*d) + (i < SIZES ? size_of[i] : len));
	if (!d)
		return NULL;
	atomic_init(&d->refs, 1);
	d->len = len;
	return d;
}

struct blk_data *blk_data_get(struct blk_data *d)
{
	atomic_fetch_add_explicit(&d->refs, 1, memory_order_relaxed);
	return d;
}

void blk_data_put(struct blk_data *d)
{
	unsigned i;

	/* Release: what this holder did to the bytes comes before the free. Acquire: of all. */
	if (!d || atomic_fetch_sub_explicit(&d->refs, 1, memory_order_acq_rel) != 1)
		return;
	i = size_for(d->len);
	if (i == SIZES || !keep(i, d))
		free(d);
}
