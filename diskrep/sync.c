/* SPDX-License-Identifier: Apache-2.0
 * sync - brings the images of an empty or returning standby up to this one's, while the guest
 * writes; why no write is lost is told in dr.h.
 */
#include "diskrep/dr.h"
#include "diskrep/resync.h"
#include "diskrep/standby.h"

#include "hv/base/err.h"
#include "remus/participant.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BEHIND_MIN = 16 }; /* chunks that may be marked at least before writers wait */

/* What one round works with. */
struct round {
	struct diskrep *dr;
	struct rec_sink *sink;
	uint8_t *chunk, *room; /* DR_CHUNK bytes each */
	struct dr_disk *d;
	uint64_t zero_first, zero_count; /* a run that is not sent yet */
	struct dr_sent sent;
};

static size_t words(const struct dr_disk *d)
{
	return (d->img.chunks + 63) / 64;
}

void dr_mark(struct dr_disk *d, uint64_t offset, uint64_t len)
{
	uint64_t end = len ? (offset + len - 1) / DR_CHUNK : 0;

	for (uint64_t c = offset / DR_CHUNK; len && c <= end && c < d->img.chunks; c++) {
		uint64_t bit = UINT64_C(1) << (c % 64);

		d->dr->dirty_chunks += !(d->dirty[c / 64] & bit);
		d->dirty[c / 64] |= bit;
	}
}

void dr_marks_forget(struct diskrep *dr)
{
	for (uint32_t i = 0; i < dr->disks; i++) {
		free(dr->disk[i].dirty);
		dr->disk[i].dirty = NULL;
	}
	dr->dirty_chunks = 0;
	dr->rounds = 0;
}

/* The first round sends all that differs and may take long: nobody waits for it. Then the rest
 * must fit the buffer, and shrink. */
int dr_sync_behind(const struct diskrep *dr)
{
	uint64_t most;

	if (dr->mode != DR_SYNC || !dr->rounds)
		return 0;
	most = dr->rounds < 63 ? dr->limit / DR_CHUNK >> dr->rounds : 0;
	return dr->dirty_chunks >= (most > BEHIND_MIN ? most : BEHIND_MIN);
}

/* Under lock. What was marked since the greeting, and so was not told. */
static void mark_unasked(struct dr_disk *d)
{
	struct act *act = &d->dr->activity.act;
	const struct act_disk *a = &act->disk[d->index];
	uint64_t w, left;

	if (!d->dr->resync.partial)
		return;
	/* The log may know of room that the disk has not got yet. */
	for (w = 0; w < a->cur.words && w < d->told.words; w++) {
		left = (a->cur.word[w] | a->old.word[w]) & ~d->told.word[w];
		for (; left; left &= left - 1) {
			uint64_t c = w * 64 + (unsigned)__builtin_ctzll(left);

			dr_mark(d, c * DR_CHUNK, dr_chunk_len(&d->img, c));
			d->dr->resync.unasked++;
		}
	}
}

int dr_sync_begin(void *self, struct rec_sink *sink, struct err *err)
{
	struct diskrep *dr = self;
	int rc = 0;

	dr_compare_end(dr);
	/* What is still on its way there would be marked by nobody. The link is tried again. */
	if (dr->heir_of)
		rc = drs_applier_settled(&dr->heir_of->applier);
	if (rc)
		return err_sys(err, rc, "what was taken over is not in the images");
	rc = dr_base_send(dr, sink, err);
	if (rc)
		return rc;
	pthread_mutex_lock(&dr->lock);
	dr_marks_forget(dr);
	dr->sync_sent = 0;
	if (!dr->peer_told)
		rc = err_set(err, -EPROTO,
			     "the standby did not tell what its disks hold");
	for (uint32_t i = 0; !rc && i < dr->disks; i++) {
		dr->disk[i].dirty = calloc(words(&dr->disk[i]) + 1, sizeof(uint64_t));
		if (!dr->disk[i].dirty)
			rc = err_set(err, -ENOMEM, "no memory to track disk %u", i);
	}
	if (rc)
		dr_marks_forget(dr);
	else
		dr->mode = DR_SYNC;
	for (uint32_t i = 0; !rc && i < dr->disks; i++)
		mark_unasked(&dr->disk[i]);
	pthread_mutex_unlock(&dr->lock);
	return rc ? rc : dr_compare_begin(dr, err);
}

int dr_unmark(struct dr_disk *d, uint64_t c)
{
	struct diskrep *dr = d->dr;
	uint64_t bit = UINT64_C(1) << (c % 64);
	int was, wake = 0;

	pthread_mutex_lock(&dr->lock);
	was = !!(d->dirty[c / 64] & bit);
	d->dirty[c / 64] &= ~bit;
	dr->dirty_chunks -= was;
	if (was && !dr_sync_behind(dr))
		wake = dr_unstall(dr);
	pthread_mutex_unlock(&dr->lock);
	if (wake)
		dr_wake(dr);
	return was;
}

/* The next chunk at or after @c whose mark is set; the number of chunks if there is none. */
static uint64_t next_marked(struct dr_disk *d, uint64_t c)
{
	uint64_t w, bits;

	pthread_mutex_lock(&d->dr->lock);
	for (; c < d->img.chunks; c = (w + 1) * 64) {
		w = c / 64;
		bits = d->dirty[w] >> (c % 64);
		if (bits) {
			c += (unsigned)__builtin_ctzll(bits);
			break;
		}
	}
	pthread_mutex_unlock(&d->dr->lock);
	return c < d->img.chunks ? c : d->img.chunks;
}

static int send_zero_run(struct round *r)
{
	int rc = 0;

	if (r->zero_count)
		rc = dr_send_chunk(r->dr, r->d, REC_EPOCH_SYNC, r->zero_first,
				   (uint32_t)r->zero_count, NULL, r->room, r->sink,
				   &r->sent);
	r->zero_count = 0;
	return rc;
}

static int send_zero(struct round *r, uint64_t c)
{
	int rc = 0;

	if (r->zero_first + r->zero_count != c || r->zero_count == UINT32_MAX)
		rc = send_zero_run(r);
	if (!r->zero_count)
		r->zero_first = c;
	r->zero_count++;
	return rc;
}

static void count_same(struct diskrep *dr)
{
	pthread_mutex_lock(&dr->lock);
	dr->chunks_same++;
	pthread_mutex_unlock(&dr->lock);
}

/* The chunk's mark was cleared before: whatever is written from now on sets it again. */
static int sync_chunk(struct round *r, uint64_t c)
{
	int zero = dr_chunk_load(&r->d->img, c, r->chunk);

	if (zero < 0)
		return zero;
	/* The digests are there in the first round: what compare.c left for this read. */
	if (zero && r->d->digests && dr_standby_zero(r->d, c)) {
		count_same(r->dr);
		return 0;
	}
	if (zero)
		return send_zero(r, c);
	return dr_send_chunk(r->dr, r->d, REC_EPOCH_SYNC, c, 1, r->chunk, r->room,
			     r->sink, &r->sent);
}

static int sync_disk(struct round *r)
{
	uint64_t chunks = r->d->img.chunks;
	int rc = 0;

	for (uint64_t c = 0; !rc && (c = next_marked(r->d, c)) < chunks; c++) {
		if (!r->dr->rounds)
			dr_pace(r->dr, DR_CHUNK);
		(void)dr_unmark(r->d, c); /* only this thread clears now: it was set */
		rc = sync_chunk(r, c);
	}
	return rc ? rc : send_zero_run(r);
}

int dr_sync_round(void *self, struct rec_sink *sink, uint64_t *left_out, struct err *err)
{
	struct diskrep *dr = self;
	struct round r = {.dr = dr, .sink = sink};
	uint32_t i = 0;
	int rc = 0;

	if (!dr->rounds)
		rc = dr_compare_wait(dr, sink, err);
	if (rc)
		return rc;
	r.chunk = aligned_alloc(4096, DR_CHUNK);
	r.room = malloc(DR_CHUNK);
	if (!r.chunk || !r.room)
		rc = -ENOMEM;
	for (; !rc && i < dr->disks; i++) {
		r.d = &dr->disk[i];
		rc = sync_disk(&r);
	}
	free(r.chunk);
	free(r.room);
	if (rc)
		return err_sys(err, rc, "disk %u: bringing the standby's image up",
			       i ? i - 1 : 0);
	pthread_mutex_lock(&dr->lock);
	if (!dr->rounds++)
		dr_digests_forget(dr);
	*left_out = dr->dirty_chunks * DR_CHUNK;
	pthread_mutex_unlock(&dr->lock);
	return 0;
}

/* Returns 0, or an error; *d_out is one reference, or NULL for zeroes. */
static int load_kept(const struct dr_disk *d, uint64_t c, uint8_t *buf,
		     struct blk_data **d_out)
{
	uint32_t len = dr_chunk_len(&d->img, c);
	int zero = dr_chunk_load(&d->img, c, buf);

	*d_out = NULL;
	if (zero)
		return zero < 0 ? zero : 0;
	*d_out = blk_data_new(len);
	if (!*d_out)
		return -ENOMEM;
	memcpy((*d_out)->bytes, buf, len);
	return 0;
}

/* @buf: DR_CHUNK bytes, aligned. */
static int keep_chunk(struct dr_disk *d, uint64_t c, struct dr_list *l, uint8_t *buf)
{
	struct dr_entry e = {
		.disk = d->index,
		.offset = c * DR_CHUNK,
		.len = dr_chunk_len(&d->img, c),
	};
	int rc = load_kept(d, c, buf, &e.data);

	e.op = e.data ? DR_CHUNK_DATA : DR_CHUNK_ZEROES;
	pthread_mutex_lock(&d->dr->lock);
	if (!rc)
		dr_list_add(d->dr, l, &e);
	pthread_mutex_unlock(&d->dr->lock);
	blk_data_put(e.data);
	return rc;
}

int dr_keep_chunk(struct dr_disk *d, uint64_t c, struct dr_list *l)
{
	uint8_t *buf = aligned_alloc(4096, DR_CHUNK);
	int rc = buf ? keep_chunk(d, c, l, buf) : -ENOMEM;

	free(buf);
	return rc;
}

static int keep_rest(struct dr_disk *d, struct dr_list *l, uint8_t *buf)
{
	int rc = 0;

	for (uint64_t c = 0; !rc && (c = next_marked(d, c)) < d->img.chunks; c++)
		rc = keep_chunk(d, c, l, buf);
	return rc;
}

int dr_sync_rest(struct diskrep *dr, struct dr_list *l, struct err *err)
{
	uint8_t *buf = aligned_alloc(4096, DR_CHUNK);
	int rc = buf ? 0 : -ENOMEM;
	uint32_t i = 0;

	for (; !rc && i < dr->disks; i++)
		rc = keep_rest(&dr->disk[i], l, buf);
	free(buf);
	return rc ? err_sys(err, rc, "disk %u: reading what was written last",
			    i ? i - 1 : 0)
		  : 0;
}
