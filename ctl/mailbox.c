/* SPDX-License-Identifier: Apache-2.0
 * mailbox - hand things from other threads to a loop.
 */
#include "ctl/mailbox.h"

#include "hv/base/err.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct mailbox {
	struct loop *loop;
	struct event *ev;
	int fd;
	int delivering, gone; /* loop's thread: destroyed from within fn */
	pthread_mutex_t lock;
	struct mail *head, **tail;
	void (*fn)(void *arg, struct mail *m);
	void (*drop)(struct mail *m);
	void *arg;
};

static struct mail *take(struct mailbox *mb)
{
	struct mail *m;

	pthread_mutex_lock(&mb->lock);
	m = mb->head;
	if (m)
		mb->head = m->next;
	if (!mb->head)
		mb->tail = &mb->head;
	pthread_mutex_unlock(&mb->lock);
	return m;
}

static void fini(struct mailbox *mb)
{
	struct mail *m;

	while ((m = take(mb)))
		mb->drop(m);
	if (mb->ev)
		event_free(mb->ev);
	if (mb->fd >= 0)
		close(mb->fd);
	pthread_mutex_destroy(&mb->lock);
	free(mb);
}

static void on_mail(evutil_socket_t fd, short what, void *arg)
{
	struct mailbox *mb = arg;
	struct loop *loop = mb->loop;
	struct mail *m;
	uint64_t n;

	(void)what; /* only EV_READ is asked for */
	if (read(fd, &n, sizeof(n)) < 0) {
		/* EAGAIN: an earlier turn took it. */
	}
	loop_enter(loop);
	mb->delivering = 1;
	while (!mb->gone && (m = take(mb)))
		mb->fn(mb->arg, m);
	mb->delivering = 0;
	if (mb->gone)
		fini(mb);
	loop_leave(loop);
}

int mailbox_create(struct loop *loop, void (*fn)(void *arg, struct mail *m),
		   void (*drop)(struct mail *m), void *arg, struct mailbox **mb_out,
		   struct err *err)
{
	struct mailbox *mb = calloc(1, sizeof(*mb));

	*mb_out = NULL;
	if (!mb)
		return err_set(err, -ENOMEM, "mailbox: out of memory");
	*mb = (struct mailbox){.loop = loop, .fn = fn, .drop = drop, .arg = arg};
	pthread_mutex_init(&mb->lock, NULL);
	mb->tail = &mb->head;
	mb->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (mb->fd >= 0)
		mb->ev = event_new(loop_base(loop), mb->fd, EV_READ | EV_PERSIST, on_mail,
				   mb);
	if (!mb->ev || event_add(mb->ev, NULL)) {
		fini(mb);
		return err_set(err, -EIO, "mailbox: no event descriptor");
	}
	*mb_out = mb;
	return 0;
}

void mailbox_put(struct mailbox *mb, struct mail *m)
{
	uint64_t one = 1;

	m->next = NULL;
	pthread_mutex_lock(&mb->lock);
	*mb->tail = m;
	mb->tail = &m->next;
	pthread_mutex_unlock(&mb->lock);
	if (write(mb->fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is full, so the loop wakes anyway. */
	}
}

void mailbox_destroy(struct mailbox *mb)
{
	if (!mb)
		return;
	if (mb->delivering)
		mb->gone = 1;
	else
		fini(mb);
}
