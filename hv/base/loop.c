/* SPDX-License-Identifier: Apache-2.0
 * loop - an event loop (libevent) on one thread, and work posted to it from others.
 */
#include "hv/base/loop.h"

#include "hv/base/err.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct work {
	struct work *next;
	void (*fn)(void *arg);
	void *arg;
};

struct loop {
	struct event_base *base;
	struct event *wake;
	int fd;
	pthread_mutex_t lock;
	struct work *head, **tail;
	int stopping;
	void (*enter)(void *), (*leave)(void *);
	void *guard_arg;
};

void loop_set_guard(struct loop *l, void (*enter)(void *), void (*leave)(void *),
		    void *arg)
{
	l->enter = enter;
	l->leave = leave;
	l->guard_arg = arg;
}

void loop_enter(struct loop *l)
{
	if (l->enter)
		l->enter(l->guard_arg);
}

void loop_leave(struct loop *l)
{
	if (l->leave)
		l->leave(l->guard_arg);
}

static void kick(struct loop *l)
{
	uint64_t one = 1;

	if (write(l->fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is full, so the loop wakes anyway. */
	}
}

static struct work *take_all(struct loop *l)
{
	struct work *w;

	pthread_mutex_lock(&l->lock);
	w = l->head;
	l->head = NULL;
	l->tail = &l->head;
	pthread_mutex_unlock(&l->lock);
	return w;
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
	struct loop *l = arg;
	struct work *w, *next;
	uint64_t n;
	int stop;

	(void)what;
	if (read(fd, &n, sizeof(n)) < 0) {
		/* EAGAIN: an earlier turn took it. */
	}
	for (w = take_all(l); w; w = next) {
		next = w->next;
		loop_enter(l);
		w->fn(w->arg);
		loop_leave(l);
		free(w);
	}
	pthread_mutex_lock(&l->lock);
	stop = l->stopping;
	pthread_mutex_unlock(&l->lock);
	if (stop)
		event_base_loopbreak(l->base);
}

int loop_create(struct loop **loop_out, struct err *err)
{
	struct loop *l = calloc(1, sizeof(*l));

	*loop_out = NULL;
	if (!l)
		return err_set(err, -ENOMEM, "event loop: out of memory");
	pthread_mutex_init(&l->lock, NULL);
	l->tail = &l->head;
	l->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (l->fd >= 0 && evthread_use_pthreads() == 0)
		l->base = event_base_new();
	if (l->base)
		l->wake = event_new(l->base, l->fd, EV_READ | EV_PERSIST, on_wake, l);
	if (!l->wake || event_add(l->wake, NULL)) {
		loop_destroy(l);
		return err_set(err, -EIO, "event loop: libevent could not start");
	}
	*loop_out = l;
	return 0;
}

void loop_destroy(struct loop *l)
{
	struct work *w, *next;

	if (!l)
		return;
	for (w = take_all(l); w; w = next) {
		next = w->next;
		free(w);
	}
	if (l->wake)
		event_free(l->wake);
	if (l->base)
		event_base_free(l->base);
	if (l->fd >= 0)
		close(l->fd);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

struct event_base *loop_base(struct loop *l)
{
	return l->base;
}

int loop_run(struct loop *l)
{
	return event_base_loop(l->base, EVLOOP_NO_EXIT_ON_EMPTY) < 0 ? -EIO : 0;
}

void loop_stop(struct loop *l)
{
	pthread_mutex_lock(&l->lock);
	l->stopping = 1;
	pthread_mutex_unlock(&l->lock);
	kick(l);
}

int loop_post(struct loop *l, void (*fn)(void *arg), void *arg)
{
	struct work *w = malloc(sizeof(*w));

	if (!w)
		return -ENOMEM;
	*w = (struct work){.fn = fn, .arg = arg};
	pthread_mutex_lock(&l->lock);
	*l->tail = w;
	l->tail = &w->next;
	pthread_mutex_unlock(&l->lock);
	kick(l);
	return 0;
}
