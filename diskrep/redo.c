/* SPDX-License-Identifier: Apache-2.0
 * redo - what a write that failed here has left goes to the standby in its place.
 *
 * The standby carries out whatever was on an epoch's list. After a write that failed locally, and of which the
 * guest was told so, the images would differ from there on, and nothing would be marked. So its chunks are
 * marked again, and the next capture appends them as they are here now. A guest can make its discards fail on
 * purpose: of many chunks the epoch is not captured, and the link ends, to begin with what is marked.
 */
#include "diskrep/dr.h"

#include <errno.h>

/* Under lock. */
static void add(struct dr_redo *o, const struct dr_disk *d, uint64_t chunk)
{
	for (unsigned i = 0; i < o->n; i++)
		if (o->chunk[i].disk == d->index && o->chunk[i].chunk == chunk)
			return;
	if (o->n == DR_REDO_MAX)
		o->too_many = 1;
	else
		o->chunk[o->n++] =
			(struct dr_redo_chunk){.disk = d->index, .chunk = chunk};
}

void dr_redo_note(struct dr_disk *d, const struct blk_req *r)
{
	struct diskrep *dr = d->dr;
	uint64_t first, count;

	dr_activity_again(d, r);
	dr_chunks_of(d, r, &first, &count);
	for (uint64_t c = first; c < first + count && !dr->redo.too_many; c++)
		add(&dr->redo, d, c);
}

/* Under lock. What is in flight there has the last word, as it will have here. */
static void add_in_flight(struct diskrep *dr, const struct dr_redo_chunk *c,
			  struct dr_list *l)
{
	for (const struct dr_req *q = dr->first; q; q = q->next) {
		struct dr_entry e = dr_entry_of(q);
		uint64_t first, count;

		dr_chunks_of(q->disk, &q->r, &first, &count);
		if (q->disk->index == c->disk && c->chunk >= first &&
		    c->chunk < first + count)
			dr_list_add(dr, l, &e);
	}
}

int dr_redo_capture(struct diskrep *dr, struct dr_list *l)
{
	struct dr_redo o;
	int rc;

	pthread_mutex_lock(&dr->lock);
	o = dr->redo;
	dr->redo.n = 0;
	dr->redo.too_many = 0;
	pthread_mutex_unlock(&dr->lock);
	rc = o.too_many ? -EOVERFLOW : 0;
	for (unsigned i = 0; !rc && i < o.n; i++) {
		rc = dr_keep_chunk(&dr->disk[o.chunk[i].disk], o.chunk[i].chunk, l);
		pthread_mutex_lock(&dr->lock);
		if (!rc)
			add_in_flight(dr, &o.chunk[i], l);
		pthread_mutex_unlock(&dr->lock);
	}
	return rc;
}
