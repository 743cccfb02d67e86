/* SPDX-License-Identifier: Apache-2.0
 * diskrep - the primary's side: made, wired to the disks, counted, ended.
 */
#include "diskrep/diskrep.h"

#include "diskrep/dr.h"
#include "hv/base/err.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

static void no_trigger(void *arg, const char *why)
{
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
	struct diskrep *dr = arg;
	uint64_t n;

	if (read(fd, &n, sizeof(n)) < 0) {
		/* EAGAIN: an earlier turn took it; looking once more does no harm. */
	}
	loop_enter(dr->loop);
	dr_resize_switch(dr, 0);
	dr_pump(dr);
	dr_flushes_answer(dr);
	loop_leave(dr->loop);
}

int diskrep_create(size_t limit_bytes, struct loop *loop, struct epoch_trigger trigger,
		   struct diskrep **dr_out, struct err *err)
{
	struct diskrep *dr = calloc(1, sizeof(*dr));
	pthread_condattr_t mono;

	*dr_out = NULL;
	if (!dr)
		return err_set(err, -ENOMEM, "disk replication: out of memory");
	pthread_mutex_init(&dr->lock, NULL);
	pthread_condattr_init(&mono); /* with this attribute: cannot fail */
	pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
	pthread_cond_init(&dr->compare.ended, &mono);
	pthread_cond_init(&dr->activity.work, &mono);
	pthread_cond_init(&dr->verify.news, NULL); /* default attributes: cannot fail */
	pthread_cond_init(&dr->resize.news, NULL);
	pthread_condattr_destroy(&mono);
	dr->compare.alive_ms = 500;
	dr_durable_reset(dr);
	dr_notes_init(dr);
	dr->loop = loop;
	dr->trigger = trigger;
	if (!trigger.request)
		dr->trigger.request = no_trigger;
	dr->limit = limit_bytes;
	dr->waiting_tail = &dr->waiting;
	dr->sealed_tail = &dr->sealed;
	dr->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (dr->wake_fd >= 0)
		dr->wake = event_new(loop_base(loop), dr->wake_fd, EV_READ | EV_PERSIST,
				     on_wake, dr);
	dr->room = malloc(DR_WRITE_MAX);
	dr->together = malloc(DR_JOINED_MAX);
	if (!dr->room || !dr->together || !dr->wake || event_add(dr->wake, NULL)) {
		diskrep_destroy(dr);
		return err_set(
			err, -ENOMEM,
			"disk replication: no memory, or no event for the I/O loop");
	}
	*dr_out = dr;
	return 0;
}

void diskrep_destroy(struct diskrep *dr)
{
	struct dr_req *q;

	if (!dr)
		return;
	dr_compare_end(dr);
	dr_activity_end(dr);
	dr_verify_end(dr);
	dr_resize_end(dr);
	dr_disinherit(dr);
	dr_notes_fini(dr);
	if (dr->wake)
		event_free(dr->wake);
	if (dr->wake_fd >= 0)
		close(dr->wake_fd);
	free(dr->room);
	free(dr->together);
	dr_marks_forget(dr);
	dr_digests_forget(dr);
	dr_list_free(dr->open);
	dr_list_free(dr->sealed);
	dr_list_free(dr->spare);
	while ((q = dr->pool)) {
		dr->pool = q->next;
		free(q);
	}
	pthread_cond_destroy(&dr->compare.ended);
	pthread_cond_destroy(&dr->activity.work);
	pthread_cond_destroy(&dr->verify.news);
	pthread_cond_destroy(&dr->resize.news);
	pthread_mutex_destroy(&dr->lock);
	free(dr);
}

int diskrep_add(struct diskrep *dr, struct blk inner, int fd, struct blk *outer_out,
		struct err *err)
{
	return diskrep_add_img(dr, inner, img_of_fd(fd), outer_out, err);
}

int diskrep_add_img(struct diskrep *dr, struct blk inner, struct img img,
		    struct blk *outer_out, struct err *err)
{
	struct dr_disk *d;

	if (dr->disks == DR_DISKS_MAX) {
		inner.ops->close(inner.self);
		return err_set(err, -ENOSPC, "disk replication: more than %d disks",
			       DR_DISKS_MAX);
	}
	d = &dr->disk[dr->disks];
	*d = (struct dr_disk){
		.dr = dr,
		.index = dr->disks,
		.inner = inner,
		.img = dr_image_of(img, inner.ops->capacity(inner.self)),
	};
	dr->disks++;
	*outer_out = (struct blk){.ops = &dr_filter_ops, .self = d};
	return 0;
}

void diskrep_stats(struct diskrep *dr, struct diskrep_stats *out)
{
	pthread_mutex_lock(&dr->lock);
	*out = (struct diskrep_stats){
		.epoch_bytes = dr->open ? dr->open->cost : 0,
		.queued_bytes = dr->queued,
		.sent_bytes = dr->sent_bytes,
		.sync_left_bytes = dr->dirty_chunks * DR_CHUNK,
		.chunks_sent = dr->chunks_sent,
		.chunks_same = dr->chunks_same,
	};
	pthread_mutex_unlock(&dr->lock);
}
