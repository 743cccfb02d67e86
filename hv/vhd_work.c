/* SPDX-License-Identifier: Apache-2.0
 * vhd_work - threads behind a VHD image's backend.
 */
#include "hv/vhd_work.h"

#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "hv/vhd_impl.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct jobs {
	struct vhd_job *first, **tail;
};

struct worker {
	struct vhd_work *work;
	pthread_t thread;
	int started;
	pthread_cond_t cond;
	struct jobs jobs;
};

struct vhd_work {
	struct vhd_image *image;
	struct loop *loop;
	pthread_mutex_t lock;
	struct worker flusher, other;
	int stop;
	struct jobs over;
	pthread_cond_t any_over;
	unsigned given; /* and not taken back by the I/O thread, whose this is */
	int event_fd;
	struct event *ev;
};

static void jobs_init(struct jobs *j)
{
	j->first = NULL;
	j->tail = &j->first;
}

static void jobs_add(struct jobs *j, struct vhd_job *job)
{
	job->next = NULL;
	*j->tail = job;
	j->tail = &job->next;
}

static struct vhd_job *jobs_take_all(struct jobs *j)
{
	struct vhd_job *first = j->first;

	jobs_init(j);
	return first;
}

static struct vhd_job *jobs_take_one(struct jobs *j)
{
	struct vhd_job *job = j->first;

	j->first = job->next;
	if (!j->first)
		j->tail = &j->first;
	job->next = NULL;
	return job;
}

static int do_job(struct vhd_image *v, const struct vhd_job *job)
{
	switch (job->kind) {
	case VHD_JOB_PREPARE:
		return vhd_prepare(v, job->off, job->len, 0);
	case VHD_JOB_LOAD:
		return vhd_bits_load(v, job->file, job->block);
	case VHD_JOB_ERASE:
		return vhd_erase(v, job->off, job->len);
	case VHD_JOB_FLUSH:
		return vhd_commit(v);
	}
	return -EINVAL;
}

/* Under lock. */
static void tell(struct vhd_work *w)
{
	uint64_t one = 1;

	pthread_cond_signal(&w->any_over);
	if (write(w->event_fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is full, so the loop wakes anyway. */
	}
}

static void *worker_main(void *arg)
{
	struct worker *k = arg;
	struct vhd_work *w = k->work;
	struct vhd_job *job, *next;
	int status;

	pthread_mutex_lock(&w->lock);
	while (!w->stop) {
		if (!k->jobs.first) {
			pthread_cond_wait(&k->cond, &w->lock);
			continue;
		}
		/* One flush is as good for all who asked before it began. */
		job = k == &w->flusher ? jobs_take_all(&k->jobs)
				       : jobs_take_one(&k->jobs);
		pthread_mutex_unlock(&w->lock);
		status = do_job(w->image, job);
		pthread_mutex_lock(&w->lock);
		for (; job; job = next) {
			next = job->next;
			job->status = status;
			jobs_add(&w->over, job);
		}
		tell(w);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

void vhd_work_give(struct vhd_work *w, struct vhd_job *job)
{
	struct worker *k = job->kind == VHD_JOB_FLUSH ? &w->flusher : &w->other;

	w->given++;
	if (!k->started)
		k->started = !pthread_create(&k->thread, NULL, worker_main, k);
	pthread_mutex_lock(&w->lock);
	if (k->started) {
		jobs_add(&k->jobs, job);
		pthread_cond_signal(&k->cond);
	} else {
		job->status = -EAGAIN;
		jobs_add(&w->over, job);
		tell(w);
	}
	pthread_mutex_unlock(&w->lock);
}

static unsigned call_done(struct vhd_work *w, struct vhd_job *job)
{
	struct vhd_job *next;
	unsigned n = 0;

	for (; job; job = next, n++) {
		next = job->next;
		w->given--;
		job->done(job, job->status);
	}
	return n;
}

unsigned vhd_work_wait(struct vhd_work *w)
{
	struct vhd_job *job;

	pthread_mutex_lock(&w->lock);
	while (w->given && !w->over.first)
		pthread_cond_wait(&w->any_over, &w->lock);
	job = jobs_take_all(&w->over);
	pthread_mutex_unlock(&w->lock);
	return call_done(w, job);
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
	struct vhd_work *w = arg;
	struct vhd_job *job;
	eventfd_t n;

	if (eventfd_read(fd, &n)) {
		/* EAGAIN: an earlier turn took it; the list is looked at all the same. */
	}
	loop_enter(w->loop);
	pthread_mutex_lock(&w->lock);
	job = jobs_take_all(&w->over);
	pthread_mutex_unlock(&w->lock);
	(void)call_done(w, job); /* how many does not matter here */
	loop_leave(w->loop);
}

int vhd_work_create(struct vhd_image *v, struct loop *loop, struct vhd_work **out,
		    struct err *err)
{
	struct vhd_work *w = calloc(1, sizeof(*w));

	*out = NULL;
	if (!w)
		return err_set(err, -ENOMEM, "VHD: out of memory");
	*w = (struct vhd_work){.image = v, .loop = loop};
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->any_over, NULL);
	pthread_cond_init(&w->flusher.cond, NULL);
	pthread_cond_init(&w->other.cond, NULL);
	w->flusher.work = w->other.work = w;
	jobs_init(&w->flusher.jobs);
	jobs_init(&w->other.jobs);
	jobs_init(&w->over);
	w->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (w->event_fd >= 0)
		w->ev = event_new(loop_base(loop), w->event_fd, EV_READ | EV_PERSIST,
				  on_event, w);
	if (!w->ev || event_add(w->ev, NULL)) {
		vhd_work_destroy(w);
		return err_set(err, -ENOMEM, "VHD: no event for its threads");
	}
	*out = w;
	return 0;
}

static void end_worker(struct worker *k)
{
	if (!k->started)
		return;
	pthread_mutex_lock(&k->work->lock);
	k->work->stop = 1;
	pthread_cond_signal(&k->cond);
	pthread_mutex_unlock(&k->work->lock);
	pthread_join(k->thread, NULL); /* ours, and joined once: cannot fail */
}

void vhd_work_destroy(struct vhd_work *w)
{
	if (!w)
		return;
	end_worker(&w->flusher);
	end_worker(&w->other);
	if (w->ev)
		event_free(w->ev);
	if (w->event_fd >= 0)
		close(w->event_fd);
	pthread_cond_destroy(&w->other.cond);
	pthread_cond_destroy(&w->flusher.cond);
	pthread_cond_destroy(&w->any_over);
	pthread_mutex_destroy(&w->lock);
	free(w);
}
