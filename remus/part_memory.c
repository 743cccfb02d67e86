/* SPDX-License-Identifier: Apache-2.0
 * part_memory - the guest's memory on the primary: copies of it, encoded against what was sent.
 *
 * Theory of operation. One bitmap says what the peer does not have yet. Pre-copy sends from it
 * and fills it again from the log at the end of each round; a capture (part_memory_capture.c)
 * adds what was written since, copies all of it into pages of a pool, and leaves it empty. What
 * is sent is always such a copy, never guest memory itself: during pre-copy the guest writes
 * on, and the copy is then what the peer has and what later deltas build on. A page torn while
 * it was copied is dirty again by then and goes once more.
 *
 * After encoding (part_memory_encode.c), the copy itself becomes the delta base: no second copy.
 *
 * Threads: capture is the epoch thread's, sync_* and send the sender's and its helpers'. The engine keeps
 * sync_* and capture apart in time; between capture and send stands the queue of shots.
 */
#include "remus/part_memory_priv.h"

#include "hv/base/err.h"
#include "hv/gm.h"
#include "replication/record.h"

#include <errno.h>
#include <stdlib.h>

enum { SPARE_MIN = 1024 }; /* pages kept in the pool, at least */

void mem_shot_put(struct mem_part *m, struct shot *s)
{
	page_pool_give(&m->pool, s->page, s->n);
	shots_put(&m->shots, s);
}

void mem_settle(struct mem_part *m, size_t dirty)
{
	size_t want;

	m->peak -= m->peak / 8;
	if (dirty > m->peak)
		m->peak = dirty;
	want = m->peak + m->peak / 2;
	page_pool_settle(&m->pool, want > SPARE_MIN ? want : SPARE_MIN);
	shots_settle(&m->shots);
}

size_t mem_bits(const uint64_t *map, uint64_t pages)
{
	size_t n = 0;

	for (uint64_t w = 0; w < pages / 64; w++)
		n += (size_t)__builtin_popcountll(map[w]);
	return n;
}

static void mem_unlinked(void *self)
{
	struct mem_part *m = self;
	struct shot *s;

	while ((s = shots_next(&m->shots)))
		mem_shot_put(m, s);
	mem_capture_reset(m);
	m->peer_fits = 0;
	/* Nobody listens to the log now; should it stay on, it only costs speed. */
	(void)gm_log(m->gm, 0, NULL);
}

static const struct part_ops mem_ops = {
	.name = "memory",
	.kind = REC_KIND_MEMORY,
	.setup = part_no_setup,
	.greet = part_no_greet,
	.sync_begin = mem_sync_begin,
	.sync_round = mem_sync_round,
	.ahead = mem_ahead,
	.pause = part_no_pause,
	.capture = mem_capture,
	.resume = part_no_resume,
	.send = mem_send,
	.committed = part_no_committed,
	.peer_record = mem_peer_record,
	.unlinked = mem_unlinked,
	.alone = part_no_event,
	.teardown = part_no_teardown,
};

struct part mem_part(struct mem_part *m)
{
	return (struct part){.ops = &mem_ops, .self = m};
}

int mem_part_create(struct gm *gm, struct vm *vm, size_t cache_bytes, unsigned encoders,
		    struct mem_part **m_out, struct err *err)
{
	struct mem_part *m = calloc(1, sizeof(*m));
	size_t slots = cache_bytes / PC_PAGE;
	int rc;

	*m_out = NULL;
	if (encoders > MEM_LANES_MAX) {
		free(m);
		return err_set(err, -EINVAL,
			       "memory's participant: %u encoders, at most %u", encoders,
			       MEM_LANES_MAX);
	}
	if (!m)
		return err_set(err, -ENOMEM, "memory's participant: out of memory");
	m->gm = gm;
	m->vm = vm;
	m->pages = gm_pages(gm);
	shots_init(&m->shots, m->pages);
	page_pool_init(&m->pool);
	pthread_mutex_init(&m->lock, NULL); /* default attributes: cannot fail */
	m->todo = calloc(m->pages / 64, sizeof(*m->todo));
	rc = mem_encode_init(m, slots < m->pages ? slots : m->pages, encoders);
	if (mem_capture_init(m) || !m->todo || rc) {
		mem_part_destroy(m);
		return err_set(err, -ENOMEM,
			       "memory's participant: no memory for %zu MiB of copies",
			       cache_bytes >> 20);
	}
	*m_out = m;
	return 0;
}

void mem_part_verify(struct mem_part *m, uint64_t ns)
{
	m->verify.interval = ns;
}

void mem_part_stats(struct mem_part *m, struct pc_stats *out)
{
	pthread_mutex_lock(&m->lock);
	*out = m->shown;
	pthread_mutex_unlock(&m->lock);
}

uint64_t mem_part_last_dirty(struct mem_part *m)
{
	return atomic_load(&m->last_dirty);
}

void mem_part_destroy(struct mem_part *m)
{
	struct shot *s;

	if (!m)
		return;
	if (m->shot)
		mem_shot_put(m, m->shot);
	while ((s = shots_next(&m->shots)))
		mem_shot_put(m, s);
	shots_fini(&m->shots);
	mem_capture_fini(m);
	mem_encode_fini(m);
	page_pool_fini(&m->pool);
	pthread_mutex_destroy(&m->lock);
	free(m->todo);
	free(m);
}
