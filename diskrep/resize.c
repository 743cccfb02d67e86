/* SPDX-License-Identifier: Apache-2.0
 * resize - the primary's side: asks for room, makes it, and lets the guest have it at a checkpoint.
 */
#include "diskrep/resize.h"

#include "diskrep/dr.h"
#include "hv/base/buf.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "remus/participant.h"
#include "replication/record.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { SECTOR = 512 };

static void failed(struct dr_resize *z, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* Under lock. The first reason counts. */
static void failed(struct dr_resize *z, const char *fmt, ...)
{
	va_list ap;

	if (z->step != RESIZE_OVER && !z->result.why[0]) {
		va_start(ap, fmt);
		(void)vsnprintf(z->result.why, sizeof(z->result.why), fmt,
				ap); /* cutting is fine */
		va_end(ap);
	}
	z->step = RESIZE_OVER;
	pthread_cond_broadcast(&z->news);
}

int dr_sizes_put(struct diskrep *dr, struct rec_sink *sink)
{
	struct dr_wire_sizes w = {.disks = le32_of(dr->disks)};

	pthread_mutex_lock(&dr->lock);
	for (uint32_t i = 0; i < dr->disks; i++)
		w.capacity[i] = le64_of(dr->disk[i].img.capacity);
	pthread_mutex_unlock(&dr->lock);
	return rec_put(sink, DR_REC_SIZES, REC_EPOCH_SYNC, &w, sizeof(w));
}

/* Under lock. May the disk have its new size now? The last record of the epoch that ends says so. */
static struct dr_disk *switch_now(struct diskrep *dr, int paused)
{
	struct dr_resize *z = &dr->resize;
	struct dr_disk *d = &dr->disk[z->result.disk];
	struct dr_entry e = {.op = DR_RESIZE, .disk = d->index, .len = z->result.bytes};

	if (z->step != RESIZE_SWITCH || dr->mode == DR_SYNC ||
	    (dr->mode == DR_ON && !(z->standby && paused)))
		return NULL;
	dr_image_resize(&d->img, z->result.bytes);
	if (dr->mode == DR_ON) {
		dr_list_add(dr, dr->open, &e);
		z->epoch = dr->open->epoch;
	} else {
		/* What a standby has told of it was of the smaller one. */
		dr_digests_forget(dr);
	}
	z->step = dr->mode == DR_ON ? RESIZE_SWITCHED : RESIZE_OVER;
	dr_activity_kick(dr);
	pthread_cond_broadcast(&z->news);
	return d;
}

void dr_resize_switch(struct diskrep *dr, int paused)
{
	struct dr_disk *d;
	uint64_t bytes;

	pthread_mutex_lock(&dr->lock);
	d = switch_now(dr, paused);
	bytes = dr->resize.result.bytes;
	pthread_mutex_unlock(&dr->lock);
	/* All requests that were accepted so far end before the old end, and belong to epoch E or before. */
	if (d && d->on_resize)
		d->on_resize(d->on_resize_arg, bytes);
}

void dr_resize_capture(struct diskrep *dr, struct dr_list *l)
{
	struct dr_resize *z = &dr->resize;

	l->grow_bytes = 0;
	if (z->step != RESIZE_ASK)
		return;
	l->grow_disk = z->result.disk;
	l->grow_bytes = z->result.bytes;
	z->step = RESIZE_ASKED;
}

void dr_resize_committed(struct diskrep *dr, uint64_t epoch)
{
	struct dr_resize *z = &dr->resize;

	if (z->step != RESIZE_SWITCHED || epoch < z->epoch)
		return;
	z->result.standby = 1;
	z->step = RESIZE_OVER;
	pthread_cond_broadcast(&z->news);
}

void dr_resize_unlinked(struct diskrep *dr)
{
	struct dr_resize *z = &dr->resize;

	z->standby = 0;
	if (z->step == RESIZE_ASK || z->step == RESIZE_ASKED)
		failed(z, "the standby was lost meanwhile; the disk is as it was");
	/* The guest has it, and the standby gets it when it returns. */
	if (z->step == RESIZE_SWITCHED)
		z->step = RESIZE_OVER;
	pthread_cond_broadcast(&z->news);
}

int dr_grown_record(struct diskrep *dr, struct reader *r, struct err *err)
{
	struct dr_resize *z = &dr->resize;
	uint32_t disk = rd_u32(r), error = rd_u32(r);
	uint64_t bytes = rd_u64(r);

	if (r->failed || rd_left(r) || error > INT16_MAX || z->step != RESIZE_ASKED ||
	    disk != z->result.disk || bytes != z->result.bytes)
		return err_set(err, -EBADMSG, "room for a disk that nobody asked for");
	if (error)
		failed(z, "the standby has no room for it (%s); the disk is as it was",
		       dr_image_why(-(int)error));
	z->standby = !error;
	if (!error)
		z->step = RESIZE_ROOM;
	pthread_cond_broadcast(&z->news);
	return 0;
}

/* -- the thread; under lock but where it waits -- */

static int over(const struct dr_resize *z)
{
	return z->step == RESIZE_OVER || z->stop;
}

static void ask_standby(struct diskrep *dr)
{
	struct dr_resize *z = &dr->resize;

	if (dr->mode == DR_SYNC)
		failed(z, "a standby is being brought up: try again when it is in step");
	if (over(z) || dr->mode == DR_OFF)
		return;
	z->step = RESIZE_ASK;
	while (!over(z) && z->step != RESIZE_ROOM)
		pthread_cond_wait(&z->news, &dr->lock);
}

static void make_room(struct diskrep *dr)
{
	struct dr_resize *z = &dr->resize;
	struct dr_image img = dr->disk[z->result.disk].img;
	int rc;

	z->step = RESIZE_ROOM;
	pthread_mutex_unlock(&dr->lock);
	rc = dr_image_grow(&img, img.capacity, z->result.bytes);
	pthread_mutex_lock(&dr->lock);
	if (rc) {
		failed(z, "this host has no room for it (%s); the disk is as it was",
		       dr_image_why(rc));
		return;
	}
	if (dr->activity.ready)
		rc = act_resize(&dr->activity.act, z->result.disk, z->result.bytes);
	if (rc)
		failed(z, "no memory for the disk's activity log; the disk is as it was");
}

static void await_switch(struct diskrep *dr)
{
	struct dr_resize *z = &dr->resize;

	z->step = RESIZE_SWITCH;
	while (!over(z) && z->step == RESIZE_SWITCH) {
		if (dr->mode == DR_SYNC || (dr->mode == DR_ON && !z->standby)) {
			failed(z,
			       "a standby came meanwhile: try again when it is in step");
			break;
		}
		if (dr->mode == DR_OFF)
			dr_wake(dr);
		pthread_cond_wait(&z->news, &dr->lock);
	}
	while (!over(z))
		pthread_cond_wait(&z->news, &dr->lock);
}

static void *resize_main(void *arg)
{
	struct diskrep *dr = arg;
	struct dr_resize *z = &dr->resize;
	struct diskrep_resized result;

	pthread_mutex_lock(&dr->lock);
	ask_standby(dr);
	if (!over(z))
		make_room(dr);
	if (!over(z))
		await_switch(dr);
	if (z->step != RESIZE_OVER)
		failed(z, "this process ends");
	z->step = RESIZE_IDLE;
	z->running = 0;
	result = z->result;
	pthread_mutex_unlock(&dr->lock);
	z->on_end(z->arg, &result);
	return NULL;
}

/* Under lock. 0, 1: there is nothing to do, or -errno with @err. */
static int judge(struct diskrep *dr, uint32_t disk, uint64_t bytes, struct err *err)
{
	const struct dr_image *img = &dr->disk[disk].img;

	if (dr->resize.running)
		return err_set(err, -EBUSY, "a disk is being resized already");
	if (dr->verify.running)
		return err_set(err, -EBUSY,
			       "the disks are being verified; try again after that");
	if (bytes % SECTOR)
		return err_set(err, -EINVAL, "a disk is whole sectors of 512 bytes");
	if (bytes > ACT_CAPACITY_MAX)
		return err_set(err, -EFBIG, "no disk can be that large");
	if (bytes < img->capacity)
		return err_set(
			err, -EINVAL,
			"it has %llu bytes, and cannot become smaller while the guest "
			"uses it",
			(unsigned long long)img->capacity);
	return bytes == img->capacity;
}

static int begin(struct diskrep *dr, uint32_t disk, uint64_t bytes, struct err *err)
{
	struct dr_resize *z = &dr->resize;
	int rc;

	if (disk >= dr->disks)
		return err_set(err, -EINVAL, "there is no disk %u", disk);
	if (!bytes) {
		rc = img_size(dr->disk[disk].img.io, &bytes);
		if (rc)
			return err_sys(err, rc, "the image's size");
		bytes -= bytes % SECTOR;
	}
	pthread_mutex_lock(&dr->lock);
	rc = judge(dr, disk, bytes, err);
	if (rc >= 0) {
		z->result = (struct diskrep_resized){
			.disk = disk, .bytes = bytes, .standby = dr->mode == DR_ON};
		z->step = RESIZE_IDLE;
		z->standby = z->stop = 0;
		z->running = !rc;
	}
	pthread_mutex_unlock(&dr->lock);
	return rc;
}

int diskrep_resize(struct diskrep *dr, uint32_t disk, uint64_t bytes,
		   void (*on_end)(void *arg, const struct diskrep_resized *r), void *arg,
		   struct err *err)
{
	struct dr_resize *z = &dr->resize;
	struct diskrep_resized result;
	int rc = begin(dr, disk, bytes, err);

	if (rc < 0)
		return rc;
	if (rc) {
		result = z->result;
		on_end(arg, &result);
		return 0;
	}
	/* The thread of the last time has ended, or is about to. */
	if (z->have_thread)
		pthread_join(z->thread, NULL); /* ours, and joined once: cannot fail */
	z->result.standby = 0;
	z->on_end = on_end;
	z->arg = arg;
	rc = -pthread_create(&z->thread, NULL, resize_main, dr);
	z->have_thread = !rc;
	if (!rc)
		return 0;
	pthread_mutex_lock(&dr->lock);
	z->running = 0;
	pthread_mutex_unlock(&dr->lock);
	return err_sys(err, rc, "a thread to resize a disk");
}

void diskrep_on_resize(struct diskrep *dr, uint32_t disk,
		       void (*fn)(void *arg, uint64_t bytes), void *arg)
{
	dr->disk[disk].on_resize = fn;
	dr->disk[disk].on_resize_arg = arg;
}

uint64_t diskrep_capacity(struct diskrep *dr, uint32_t disk)
{
	uint64_t bytes;

	pthread_mutex_lock(&dr->lock);
	bytes = disk < dr->disks ? dr->disk[disk].img.capacity : 0;
	pthread_mutex_unlock(&dr->lock);
	return bytes;
}

void diskrep_set_capacity(struct diskrep *dr, uint32_t disk, uint64_t bytes)
{
	pthread_mutex_lock(&dr->lock);
	dr_image_resize(&dr->disk[disk].img, bytes);
	pthread_mutex_unlock(&dr->lock);
}

void dr_resize_end(struct diskrep *dr)
{
	struct dr_resize *z = &dr->resize;

	pthread_mutex_lock(&dr->lock);
	z->stop = 1;
	pthread_cond_broadcast(&z->news);
	pthread_mutex_unlock(&dr->lock);
	if (z->have_thread)
		pthread_join(z->thread, NULL); /* ours, and joined once: cannot fail */
	z->have_thread = 0;
}
