/* SPDX-License-Identifier: Apache-2.0
 * part_memory_verify - is the standby's memory what it should be? Asked all the time, a few pages
 * in each epoch, without a pause.
 *
 * Theory of operation. Before the guest is stopped for checkpoint i + 1, digests of some pages are
 * read from its memory while it runs. A page that turns out not to have been written since
 * checkpoint i, and the capture of i + 1 knows that for each page, had all the time the content
 * that it had at i; the digests of others are dropped. Of hot pages there is a copy as of i. So
 * what travels with i + 1 tells of i, and the standby compares before it touches anything of
 * i + 1. It finds memory that went bad on either side, and writes that dirty tracking missed.
 */
#include "remus/part_memory_priv.h"

#include "hv/base/clock.h"
#include "hv/base/xxh.h"
#include "hv/gm.h"

/* How many pages are due, of those that are there. */
static unsigned due(struct mem_part *m)
{
	uint64_t now = clock_mono_ns(), passed = now - m->verify.last, n;

	if (!m->verify.last)
		m->verify.last = passed = now;
	if (m->verify.interval / m->pages > passed)
		return 0; /* not yet one page's time */
	m->verify.last = now;
	n = (uint64_t)((double)passed / (double)m->verify.interval * (double)m->pages) +
	    1;
	return n < SHOT_DIGESTS ? (unsigned)n : SHOT_DIGESTS;
}

static void read_page(struct mem_part *m, uint64_t page)
{
	struct digest *d = &m->verify.digest[m->verify.n++];
	const void *at = gm_base(m->gm) + page * GM_PAGE;

	*d = (struct digest){.page = page};
	if (hot_is(&m->hot, page)) {
		const struct hot_slot *s = hot_slot(&m->hot, page);

		if (s->fresh) {
			m->verify.n--;
			return;
		}
		at = hot_page(&m->hot, s);
		d->certain = 1;
	}
	d->digest = XXH3_64bits(at, GM_PAGE);
}

void mem_verify_read(struct mem_part *m, uint64_t epoch)
{
	struct data_run run = {0};
	unsigned n;

	m->verify.n = 0;
	if (!m->verify.interval || !epoch)
		return;
	for (n = due(m); n; n--) {
		if (m->verify.next >= run.to)
			run = mem_next_data(m, m->verify.next);
		if (m->verify.next < run.from)
			m->verify.next = run.from;
		if (m->verify.next >= m->pages) {
			m->verify.next = 0;
			return;
		}
		read_page(m, m->verify.next++);
	}
}

void mem_verify_keep(struct mem_part *m)
{
	struct shot *s = m->shot;

	for (unsigned i = 0; i < m->verify.n; i++) {
		const struct digest *d = &m->verify.digest[i];

		/* A page that became hot just now is listed. */
		if (!d->certain && mem_is_listed(m, d->page))
			continue;
		s->digest[s->n_digests++] = (struct digest_wire){
			.page = le64_of(d->page), .digest = le64_of(d->digest)};
	}
	m->verify.n = 0;
}
