/* SPDX-License-Identifier: Apache-2.0
 * compare - finds the chunks in which the standby's images differ from ours.
 *
 * Reading and digesting whole images takes as long as the disks need, so it runs on a thread of its
 * own, beside the sync of memory. It only marks what differs; the first round of the sync waits
 * for it and sends what is marked, as every round does. It clears a chunk's mark before it reads
 * the chunk, so that a write meanwhile is not missed (dr.h tells the whole argument).
 */
#include "diskrep/dr.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "remus/participant.h"
#include "replication/record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* 1 if the chunk is the same there, 0 if not, or -errno. What is zeroes there and data here is not
 * read twice: it counts as different until it is sent. */
static int same_there(struct dr_disk *d, uint64_t c, uint8_t *chunk)
{
	uint32_t len = dr_chunk_len(&d->img, c);
	int zero_there = dr_standby_zero(d, c), r;
	struct dr_digest ours;

	if (zero_there)
		return dr_chunk_data(&d->img, c) > c;
	r = dr_chunk_load(&d->img, c, chunk);
	if (r)
		return r < 0 ? r : 0;
	ours = dr_digest_of(chunk, len);
	return !memcmp(&d->digests[c], &ours, sizeof(ours));
}

static int compare_disk(struct dr_disk *d, uint8_t *chunk)
{
	struct diskrep *dr = d->dr;
	int r = 0, stop = 0;

	for (uint64_t c = 0;
	     r >= 0 && !stop && (c = dr_bits_next(&d->told, c)) < d->img.chunks; c++) {
		dr_pace(dr, dr_chunk_len(&d->img, c));
		(void)dr_unmark(d, c); /* before it is read */
		r = same_there(d, c, chunk);
		pthread_mutex_lock(&dr->lock);
		if (!r)
			dr_mark(d, c * DR_CHUNK, dr_chunk_len(&d->img, c));
		dr->chunks_same += r > 0;
		dr->compare.looked++;
		stop = dr->compare.stop;
		pthread_mutex_unlock(&dr->lock);
	}
	return r < 0 ? r : stop ? -ECANCELED : 0;
}

static void *compare_main(void *arg)
{
	struct diskrep *dr = arg;
	uint8_t *chunk = aligned_alloc(4096, DR_CHUNK);
	uint32_t i = 0;
	int rc = chunk ? 0 : -ENOMEM;

	for (; !rc && i < dr->disks; i++)
		rc = compare_disk(&dr->disk[i], chunk);
	free(chunk);
	pthread_mutex_lock(&dr->lock);
	dr->compare.rc = rc;
	dr->compare.disk = i ? i - 1 : 0;
	dr->compare.done = 1;
	pthread_cond_signal(&dr->compare.ended);
	pthread_mutex_unlock(&dr->lock);
	return NULL;
}

int dr_compare_begin(struct diskrep *dr, struct err *err)
{
	struct dr_compare *c = &dr->compare;
	int r;

	c->done = c->stop = c->rc = 0;
	c->look = c->looked = 0;
	for (uint32_t i = 0; i < dr->disks; i++)
		c->look += dr->disk[i].told.count;
	c->began_ns = clock_mono_ns();
	r = pthread_create(&c->thread, NULL, compare_main, dr);
	if (r)
		return err_sys(err, -r, "disks: a thread to compare them");
	c->running = 1;
	return 0;
}

void dr_compare_end(struct diskrep *dr)
{
	struct dr_compare *c = &dr->compare;

	if (!c->running)
		return;
	pthread_mutex_lock(&dr->lock);
	c->stop = 1;
	pthread_mutex_unlock(&dr->lock);
	pthread_join(c->thread, NULL); /* ours, and joined once: cannot fail */
	c->running = 0;
}

/* 1 once it is done, 0 when it is time to say that we are alive. */
static int wait_a_while(struct diskrep *dr)
{
	struct timespec ts;
	int r = 0, done;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ts.tv_nsec += dr->compare.alive_ms * 1000000l;
	ts.tv_sec += ts.tv_nsec / 1000000000;
	ts.tv_nsec %= 1000000000;
	pthread_mutex_lock(&dr->lock);
	while (!dr->compare.done && !r)
		r = pthread_cond_timedwait(&dr->compare.ended, &dr->lock, &ts);
	done = dr->compare.done;
	pthread_mutex_unlock(&dr->lock);
	return done;
}

int dr_compare_wait(struct diskrep *dr, struct rec_sink *sink, struct err *err)
{
	int rc = 0;

	if (!dr->compare.running)
		return err_set(err, -EPROTO,
			       "disks were not compared before they are synced");
	while (!rc && !wait_a_while(dr))
		rc = rec_put(sink, DR_REC_ALIVE, REC_EPOCH_SYNC, NULL, 0);
	if (rc)
		return err_sys(err, rc, "telling the standby that the sync goes on");
	dr_compare_end(dr);
	if (dr->compare.rc)
		return err_sys(err, dr->compare.rc,
			       "disk %u: comparing it with the standby's",
			       dr->compare.disk);
	return 0;
}
