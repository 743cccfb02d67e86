/* SPDX-License-Identifier: Apache-2.0
 * verify - the primary's side: digests that are true of an epoch's end, and repairs.
 */
#include "diskrep/verify.h"

#include "diskrep/dr.h"
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int covers(const struct dr_disk *d, const struct dr_check *c,
		  const struct blk_req *r)
{
	uint64_t from = c->chunk * DR_CHUNK;

	return c->disk == d->index && r->offset < from + DR_CHUNK &&
	       from < r->offset + r->len;
}

void dr_verify_written(struct dr_disk *d, const struct blk_req *r)
{
	struct dr_verify *v = &d->dr->verify;

	for (unsigned i = 0; i < v->n; i++)
		if (covers(d, &v->batch[i], r))
			v->written[i] = 1;
}

static int in_flight(const struct diskrep *dr, const struct dr_check *c)
{
	for (const struct dr_req *q = dr->first; q; q = q->next)
		if (covers(q->disk, c, &q->r))
			return 1;
	return 0;
}

void dr_verify_committed(struct diskrep *dr, uint64_t epoch)
{
	dr->verify.committed = epoch + 1;
	pthread_cond_signal(&dr->verify.news);
}

void dr_verify_unlinked(struct diskrep *dr)
{
	struct dr_verify *v = &dr->verify;

	if (v->running && !v->stop)
		(void)snprintf(v->result.why, sizeof(v->result.why),
			       "the standby is gone"); /* fits */
	v->stop = 1;
	pthread_cond_signal(&v->news);
}

int dr_verify_record(struct diskrep *dr, struct reader *r, struct err *err)
{
	struct dr_verify *v = &dr->verify;
	uint32_t disk = rd_u32(r), count = rd_u32(r);
	struct diskrep_verified *res = &v->result;

	if (r->failed || disk >= dr->disks || !count || count > DR_DIFFERS_MAX ||
	    rd_left(r) != count * sizeof(uint64_t) || !v->bad[disk].word)
		return err_set(err, -EBADMSG, "what differs: the record is not valid");
	while (count--) {
		uint64_t c = rd_u64(r);

		if (c >= dr->disk[disk].img.chunks)
			return err_set(err, -EBADMSG,
				       "what differs is outside of disk %u", disk);
		if (dr_bits_has(&v->bad[disk], c))
			continue;
		if (res->differ < DISKREP_FIRST)
			res->first[res->differ] =
				(struct diskrep_place){disk, c * DR_CHUNK};
		res->differ++;
		dr_bits_add(&v->bad[disk], c, 1);
	}
	return 0;
}

/* Under lock. The next chunk to be repaired that no request in flight will change. */
static int next_bad(struct diskrep *dr, struct dr_check *c)
{
	struct dr_verify *v = &dr->verify;

	for (uint32_t i = 0; v->repair && i < dr->disks; i++) {
		if (!v->bad[i].count)
			continue;
		*c = (struct dr_check){.disk = i, .chunk = 0};
		for (; (c->chunk = dr_bits_next(&v->bad[i], c->chunk)) < v->bad[i].size;
		     c->chunk++)
			if (!in_flight(dr, c))
				return 1;
	}
	return 0;
}

static int repair_some(struct diskrep *dr, struct dr_list *l)
{
	struct dr_verify *v = &dr->verify;
	struct dr_check c;
	int rc = 0, more = 1;

	for (unsigned n = 0; !rc && n < VERIFY_REPAIRS; n++) {
		pthread_mutex_lock(&dr->lock);
		more = next_bad(dr, &c);
		pthread_mutex_unlock(&dr->lock);
		if (!more)
			break;
		rc = dr_keep_chunk(&dr->disk[c.disk], c.chunk, l);
		pthread_mutex_lock(&dr->lock);
		(void)dr_bits_take(&v->bad[c.disk], c.chunk); /* it was there */
		v->result.repaired += !rc;
		v->went = l->epoch + 1;
		pthread_mutex_unlock(&dr->lock);
	}
	return rc;
}

int dr_verify_capture(struct diskrep *dr, struct dr_list *l)
{
	struct dr_verify *v = &dr->verify;
	int busy;

	pthread_mutex_lock(&dr->lock);
	busy = v->running && !v->stop;
	if (busy && v->ready) {
		for (unsigned i = 0; i < v->n; i++)
			if (!v->written[i])
				l->check[l->checks++] = v->batch[i];
		v->ready = 0;
		v->went = l->epoch + 1;
		pthread_cond_signal(&v->news);
	}
	pthread_mutex_unlock(&dr->lock);
	return busy && v->repair ? repair_some(dr, l) : 0;
}

/* -- the thread -- */

struct walk {
	struct diskrep *dr;
	uint32_t disk;
	uint64_t chunk;
	uint8_t *buf;
};

/* Under lock. What was written is tried again, others join it; 0: that was all. */
static unsigned next_batch(struct walk *w)
{
	struct diskrep *dr = w->dr;
	struct dr_verify *v = &dr->verify;
	unsigned n = 0;

	for (unsigned i = 0; i < v->n; i++) {
		if (!v->written[i]) {
			v->result.chunks++;
		} else if (v->tries[i] == VERIFY_TRIES) {
			v->result.busy++;
		} else {
			v->tries[n] = (uint8_t)(v->tries[i] + 1);
			v->batch[n++] = v->batch[i];
		}
	}
	while (n < VERIFY_BATCH && w->disk < dr->disks) {
		if (w->chunk == dr->disk[w->disk].img.chunks) {
			w->disk++;
			w->chunk = 0;
			continue;
		}
		v->tries[n] = 0;
		v->batch[n++] = (struct dr_check){.disk = w->disk, .chunk = w->chunk++};
	}
	for (unsigned i = 0; i < n; i++)
		v->written[i] = (uint8_t)in_flight(dr, &v->batch[i]);
	v->n = n;
	return n;
}

static int read_batch(struct walk *w)
{
	struct dr_verify *v = &w->dr->verify;

	for (unsigned i = 0; i < v->n; i++) {
		struct dr_check *c = &v->batch[i];
		const struct dr_image *img = &w->dr->disk[c->disk].img;
		uint32_t len = dr_chunk_len(img, c->chunk);
		int zero;

		dr_pace(w->dr, len);
		zero = dr_chunk_load(img, c->chunk, w->buf);
		if (zero < 0)
			return zero;
		c->digest = zero ? dr_digest_zero(len) : dr_digest_of(w->buf, len);
	}
	return 0;
}

/* Under lock. All that went is compared by the standby once the epoch after it is acked, and
 * what it said of that came before. */
static int settled(const struct diskrep *dr)
{
	const struct dr_verify *v = &dr->verify;

	if (v->committed <= v->went)
		return 0;
	for (uint32_t i = 0; v->repair && i < dr->disks; i++)
		if (v->bad[i].count)
			return 0;
	return 1;
}

static void walk(struct walk *w)
{
	struct diskrep *dr = w->dr;
	struct dr_verify *v = &dr->verify;
	int rc = 0;

	pthread_mutex_lock(&dr->lock);
	while (!rc && !v->stop && next_batch(w)) {
		pthread_mutex_unlock(&dr->lock);
		rc = read_batch(w);
		pthread_mutex_lock(&dr->lock);
		v->ready = 1;
		while (v->ready && !v->stop)
			pthread_cond_wait(&v->news, &dr->lock);
	}
	v->n = 0;
	while (!rc && !v->stop && !settled(dr))
		pthread_cond_wait(&v->news, &dr->lock);
	if (rc)
		(void)snprintf(v->result.why, sizeof(v->result.why),
			       "this host's image cannot be read: %s",
			       strerror(-rc)); /* cutting is fine */
	pthread_mutex_unlock(&dr->lock);
}

static void *verify_main(void *arg)
{
	struct walk w = {.dr = arg, .buf = aligned_alloc(4096, DR_CHUNK)};
	struct dr_verify *v = &w.dr->verify;
	struct diskrep_verified result;

	if (w.buf)
		walk(&w);
	free(w.buf);
	pthread_mutex_lock(&w.dr->lock);
	if (!w.buf)
		(void)snprintf(v->result.why, sizeof(v->result.why),
			       "out of memory"); /* fits */
	v->running = 0;
	result = v->result;
	pthread_mutex_unlock(&w.dr->lock);
	v->on_end(v->arg, &result);
	return NULL;
}

static int begin(struct diskrep *dr, int repair, struct err *err)
{
	struct dr_verify *v = &dr->verify;

	if (v->running)
		return err_set(err, -EBUSY, "the disks are being verified already");
	if (dr->resize.running)
		return err_set(err, -EBUSY,
			       "a disk is being resized; try again after that");
	if (dr->mode != DR_ON)
		return err_set(err, -ENOTCONN, "there is no standby in step to verify");
	for (uint32_t i = 0; i < dr->disks; i++) {
		dr_bits_fini(&v->bad[i]);
		if (dr_bits_init(&v->bad[i], dr->disk[i].img.chunks))
			return err_set(err, -ENOMEM, "verify: out of memory");
	}
	v->result = (struct diskrep_verified){0};
	for (uint32_t i = 0; i < dr->disks; i++)
		v->result.total += dr->disk[i].img.chunks;
	v->repair = repair;
	v->stop = v->ready = 0;
	v->n = 0;
	v->went = v->committed;
	v->running = 1;
	return 0;
}

int diskrep_verify(struct diskrep *dr, int repair,
		   void (*on_end)(void *arg, const struct diskrep_verified *r), void *arg,
		   struct err *err)
{
	struct dr_verify *v = &dr->verify;
	int rc;

	pthread_mutex_lock(&dr->lock);
	rc = begin(dr, repair, err);
	pthread_mutex_unlock(&dr->lock);
	if (rc)
		return rc;
	/* The thread of the last time has ended, or is about to. */
	if (v->have_thread)
		pthread_join(v->thread, NULL); /* ours, and joined once: cannot fail */
	v->on_end = on_end;
	v->arg = arg;
	rc = -pthread_create(&v->thread, NULL, verify_main, dr);
	v->have_thread = !rc;
	if (!rc)
		return 0;
	pthread_mutex_lock(&dr->lock);
	v->running = 0;
	pthread_mutex_unlock(&dr->lock);
	return err_sys(err, rc, "verify: a thread");
}

void diskrep_verify_now(struct diskrep *dr, struct diskrep_verified *out,
			int *running_out)
{
	pthread_mutex_lock(&dr->lock);
	*out = dr->verify.result;
	*running_out = dr->verify.running;
	pthread_mutex_unlock(&dr->lock);
}

void dr_verify_end(struct diskrep *dr)
{
	struct dr_verify *v = &dr->verify;

	pthread_mutex_lock(&dr->lock);
	dr_verify_unlinked(dr);
	pthread_mutex_unlock(&dr->lock);
	if (v->have_thread)
		pthread_join(v->thread, NULL); /* ours, and joined once: cannot fail */
	v->have_thread = 0;
	for (uint32_t i = 0; i < DR_DISKS_MAX; i++)
		dr_bits_fini(&v->bad[i]);
}
