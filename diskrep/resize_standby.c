/* SPDX-License-Identifier: Apache-2.0
 * resize_standby - room for disks that grow on the primary, and disks of another size than ours.
 */
#include "diskrep/resize.h"

#include "diskrep/dr.h"
#include "diskrep/standby.h"
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "remus/participant.h"
#include "replication/record.h"

#include <errno.h>
#include <string.h>

static void *grow_main(void *arg)
{
	struct drs_grow *g = arg;
	struct drs_room r;
	int rc;

	pthread_mutex_lock(&g->lock);
	while (g->wanted) {
		g->wanted = 0;
		r = g->room;
		pthread_mutex_unlock(&g->lock);
		rc = dr_image_grow(&r.img, r.from, r.bytes);
		if (rc)
			log_err("disk %u: it cannot get room for %llu bytes: %s", r.disk,
				(unsigned long long)r.bytes, dr_image_why(rc));
		pthread_mutex_lock(&g->lock);
		r.rc = rc;
		g->done = r;
	}
	g->running = 0;
	pthread_mutex_unlock(&g->lock);
	return NULL;
}

void drs_grow_begin(struct diskrep_standby *s, uint32_t disk, uint64_t bytes)
{
	struct drs_grow *g = &s->grow;
	int running, rc = 0;

	pthread_mutex_lock(&g->lock);
	g->room = (struct drs_room){.img = s->img[disk],
				    .disk = disk,
				    .from = s->img[disk].capacity,
				    .bytes = bytes};
	g->wanted = 1;
	running = g->running;
	g->running = 1;
	pthread_mutex_unlock(&g->lock);
	if (running)
		return;
	if (g->have_thread)
		pthread_join(g->thread, NULL); /* ours, and joined once: cannot fail */
	rc = pthread_create(&g->thread, NULL, grow_main, g);
	g->have_thread = !rc;
	if (!rc)
		return;
	pthread_mutex_lock(&g->lock);
	g->running = g->wanted = 0;
	g->done = g->room;
	g->done.rc = -rc;
	pthread_mutex_unlock(&g->lock);
}

void drs_grow_wait(struct diskrep_standby *s)
{
	struct drs_grow *g = &s->grow;

	if (g->have_thread)
		pthread_join(g->thread, NULL); /* likewise */
	g->have_thread = 0;
	g->done = (struct drs_room){.bytes = 0};
}

int drs_grow_report(struct diskrep_standby *s, struct rec_sink *sink)
{
	struct drs_grow *g = &s->grow;
	struct dr_wire_grown w;
	uint64_t bytes;

	pthread_mutex_lock(&g->lock);
	bytes = g->done.bytes;
	w = (struct dr_wire_grown){
		.disk = le32_of(g->done.disk),
		.error = le32_of((uint32_t)-g->done.rc),
		.capacity = le64_of(bytes),
	};
	g->done.bytes = 0;
	pthread_mutex_unlock(&g->lock);
	return bytes ? rec_put(sink, DR_REC_GROWN, REC_EPOCH_SYNC, &w, sizeof(w)) : 0;
}

/* How much of the image the claim of this host is about, which the primary will get to hear. What is beyond may hold
 * anything: a growth that came to nothing, or what a guest wrote here that never was committed. */
static uint64_t known(struct diskrep_standby *s, unsigned i)
{
	struct diskrep *dr = s->resync.own;
	uint64_t bytes = s->img[i].capacity;

	if (!dr || !dr->activity.ready || s->resync.at.role != ACT_NONE)
		return bytes;
	pthread_mutex_lock(&dr->lock);
	if (dr->activity.act.claim.role != ACT_NONE &&
	    dr->activity.act.capacity[i] < bytes)
		bytes = dr->activity.act.capacity[i];
	pthread_mutex_unlock(&dr->lock);
	return bytes;
}

/* What the primary has beyond the end of what this host knows is zeroes or marked there (resize.h). */
static int adopt(struct diskrep_standby *s, unsigned i, uint64_t bytes, struct err *err)
{
	struct dr_image *img = &s->img[i];
	uint64_t from = known(s, i);
	int rc = bytes > from ? dr_image_grow(img, from, bytes) : 0;

	if (rc)
		return err_set(
			err, rc,
			"disk %u has %llu bytes here and %llu on the primary, and cannot "
			"grow: %s",
			i, (unsigned long long)img->capacity, (unsigned long long)bytes,
			dr_image_why(rc));
	if (bytes != img->capacity)
		log_info("disk %u: %llu bytes now, as on the primary; it was %llu", i,
			 (unsigned long long)bytes, (unsigned long long)img->capacity);
	dr_image_resize(img, bytes);
	return 0;
}

int drs_sizes_record(struct diskrep_standby *s, struct reader *r, struct err *err)
{
	uint32_t disks = rd_u32(r), zero = rd_u32(r);
	uint64_t bytes[DR_DISKS_MAX];
	int rc = 0;

	for (unsigned i = 0; i < DR_DISKS_MAX; i++) {
		bytes[i] = rd_u64(r);
		if (bytes[i] % DRS_SECTOR || bytes[i] > ACT_CAPACITY_MAX ||
		    (i >= disks && bytes[i]))
			zero = 1;
	}
	if (r->failed || rd_left(r) || zero || disks > DR_DISKS_MAX)
		return err_set(err, -EBADMSG,
			       "the disks' sizes: the record is not valid");
	/* What the last link has left: sets of another size, and perhaps somebody who makes room. */
	drs_resync_reset(s);
	drs_grow_wait(s);
	/* Another number of disks is told by the hello. */
	for (unsigned i = 0; !rc && disks == s->n && i < disks; i++)
		rc = adopt(s, i, bytes[i], err);
	return rc;
}

void drs_resized(struct diskrep_standby *s, const struct drs_epoch *e)
{
	for (unsigned i = 0; i < s->n; i++) {
		s->at_capacity[i] = e->after[i];
		if (s->img[i].capacity != e->after[i])
			dr_image_resize(&s->img[i], e->after[i]);
	}
}

int drs_take_sizes(struct diskrep_standby *s, struct err *err)
{
	struct diskrep *dr = s->resync.own;
	int rc = 0;

	for (unsigned i = 0; dr && !rc && i < s->n; i++) {
		if (!s->at_capacity[i])
			continue; /* nothing was ever acked: this host does not go on */
		pthread_mutex_lock(&dr->lock);
		rc = dr->activity.ready
			     ? act_resize(&dr->activity.act, i, s->at_capacity[i])
			     : 0;
		if (!rc)
			dr_image_resize(&dr->disk[i].img, s->at_capacity[i]);
		pthread_mutex_unlock(&dr->lock);
	}
	return rc ? err_set(err, rc, "no memory for the disks' activity log") : 0;
}
