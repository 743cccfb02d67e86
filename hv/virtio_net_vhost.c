/* SPDX-License-Identifier: Apache-2.0
 * virtio_net_vhost - a network card whose queues vhost-net serves.
 */
#include "hv/virtio_net_vhost.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/vhost.h"
#include "hv/virtio_pci.h"
#include "hv/virtq.h"
#include "hv/vm.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { FEATURE_BITS = 64 };

/* An eventfd of vhost's, watched by the I/O loop. */
struct signal {
	struct vnet_vhost *h;
	unsigned queue;
	int fd;
	struct event *ev;
};

struct vnet_vhost {
	struct vhost *vh;
	struct vpci *v;
	struct loop *loop;
	int tap;
	int given_up; /* vhost refused something: not asked again */
	struct signal call[VHOST_QUEUES], broken[VHOST_QUEUES];
};

static void drain(int fd)
{
	uint64_t n;

	if (read(fd, &n, sizeof(n)) < 0) {
		/* EAGAIN: an earlier turn took it; once more does no harm. */
	}
}

static void on_call(evutil_socket_t fd, short what, void *arg)
{
	struct signal *s = arg;

	loop_enter(s->h->loop);
	drain(fd);
	if (vpci_running(s->h->v))
		vpci_interrupt(s->h->v, s->queue);
	loop_leave(s->h->loop);
}

static void on_broken(evutil_socket_t fd, short what, void *arg)
{
	struct signal *s = arg;

	loop_enter(s->h->loop);
	drain(fd);
	if (vhost_serves(s->h->vh, s->queue))
		vpci_broken(s->h->v);
	loop_leave(s->h->loop);
}

static int signal_create(struct vnet_vhost *h, unsigned queue, event_callback_fn fn,
			 struct signal *s)
{
	s->h = h;
	s->queue = queue;
	s->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (s->fd < 0)
		return -errno;
	s->ev = event_new(loop_base(h->loop), s->fd, EV_READ | EV_PERSIST, fn, s);
	return !s->ev || event_add(s->ev, NULL) ? -ENOMEM : 0;
}

static void signal_destroy(struct signal *s)
{
	if (s->ev)
		event_free(s->ev);
	if (s->fd >= 0)
		close(s->fd);
}

/* The loop's thread: look at the kicks of all queues that vhost does not serve. */
static void watch_kicks(void *arg)
{
	struct vnet_vhost *h = arg;

	for (unsigned i = 0; i < VHOST_QUEUES; i++)
		if (!vhost_serves(h->vh, i) && vpci_watch_kick(h->v, i, 1))
			log_err("net: no memory to look at the kicks of queue %u", i);
}

static void watch_later(struct vnet_vhost *h)
{
	if (loop_post(h->loop, watch_kicks, h))
		log_err("net: no memory to take the queues back from vhost-net");
}

/* From here on this process serves the card; each queue goes on where vhost was. */
static void give_up(struct vnet_vhost *h, int rc)
{
	log_err("net: vhost-net: %s: rhea-vm serves the card by itself", strerror(-rc));
	h->given_up = 1;
	vhost_stop(h->vh);
	watch_later(h);
	for (unsigned i = 0; i < VHOST_QUEUES; i++)
		vpci_kick(h->v, i);
}

static int on_pause(void *self)
{
	struct vnet_vhost *h = self;

	return vhost_pause(h->vh);
}

static void on_resume(void *self)
{
	struct vnet_vhost *h = self;
	int rc = vhost_resume(h->vh);

	if (rc)
		give_up(h, rc);
}

static const struct vm_pause_ops pause_ops = {.pause = on_pause, .resume = on_resume};

int vnet_vhost_create(struct vm *vm, struct vpci *v, int tap, int fd,
		      const struct vhost_sys *sys, struct vnet_vhost **h_out,
		      struct err *err)
{
	struct vnet_vhost *h = calloc(1, sizeof(*h));
	int rc;

	*h_out = NULL;
	if (!h) {
		close(fd);
		return err_set(err, -ENOMEM, "vhost-net: out of memory");
	}
	h->v = v;
	h->loop = vm_loop(vm);
	h->tap = tap;
	for (unsigned i = 0; i < VHOST_QUEUES; i++)
		h->call[i].fd = h->broken[i].fd = -1;
	rc = vhost_create(fd, vm_gm(vm), sys, &h->vh, err);
	for (unsigned i = 0; i < VHOST_QUEUES && !rc; i++) {
		rc = signal_create(h, i, on_call, &h->call[i]);
		rc = rc ? rc : signal_create(h, i, on_broken, &h->broken[i]);
		if (rc)
			err_sys(err, rc, "vhost-net: events");
	}
	rc = rc ? rc : vm_on_pause(vm, &pause_ops, h, err);
	if (rc)
		vnet_vhost_destroy(h);
	else
		*h_out = h;
	return rc;
}

void vnet_vhost_destroy(struct vnet_vhost *h)
{
	if (!h)
		return;
	vhost_destroy(h->vh);
	for (unsigned i = 0; i < VHOST_QUEUES; i++) {
		signal_destroy(&h->call[i]);
		signal_destroy(&h->broken[i]);
	}
	free(h);
}

static uint64_t negotiated(const struct vnet_vhost *h)
{
	uint64_t f = 0;

	for (unsigned i = 0; i < FEATURE_BITS; i++)
		f |= vpci_has(h->v, i) ? 1ull << i : 0;
	return f;
}

int vnet_vhost_kick(struct vnet_vhost *h, unsigned queue)
{
	struct vhost_queue w = {
		.q = vpci_queue(h->v, queue),
		.kick = vpci_kick_fd(h->v, queue),
		.call = h->call[queue].fd,
		.broken = h->broken[queue].fd,
		.tap = h->tap,
	};
	int rc;

	if (h->given_up)
		return 0;
	if (vhost_serves(h->vh, queue))
		return 1;
	rc = vhost_start(h->vh, queue, &w, negotiated(h));
	if (!rc)
		rc = vpci_watch_kick(h->v, queue, 0);
	if (rc)
		give_up(h, rc);
	return !rc;
}

void vnet_vhost_reset(struct vnet_vhost *h)
{
	vhost_forget(h->vh);
	watch_later(h);
}
