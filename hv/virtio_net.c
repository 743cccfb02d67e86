/* SPDX-License-Identifier: Apache-2.0
 * virtio_net - a network card on a tap (Virtual I/O Device 1.2, 5.1).
 *
 * Theory of operation. What the guest sends goes to the net_out, or straight to the tap, with its
 * 12-byte header unchanged: the kernel does the checksums and the segmenting that the guest left
 * out. When the way out is full the frame stays in the ring, and the queue stands until it is told
 * to go on. What comes from the tap goes to the guest at once. With no buffer posted the tap is not
 * read: the kernel's own queue then drops, as a card without buffers does.
 *
 * With vhost-net all that is the kernel's (virtio_net_vhost.h); this file then only serves the
 * registers, and the queues if vhost fails.
 *
 * A frame that was read but has no room in the posted buffers is kept until there is; it is
 * not part of the state, as input that is lost is the network's business.
 */
#include "hv/devices.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/base/wire.h"
#include "hv/virtio_net_vhost.h"
#include "hv/virtio_pci.h"
#include "hv/virtq.h"
#include "hv/vm.h"

#include <errno.h>
#include <event2/event.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
	F_CSUM = 0,
	F_GUEST_CSUM = 1,
	F_MAC = 5,
	F_GUEST_TSO4 = 7,
	F_GUEST_TSO6 = 8,
	F_HOST_TSO4 = 11,
	F_HOST_TSO6 = 12,
	F_MRG_RXBUF = 15,
	F_STATUS = 16,
};
enum { Q_RX = 0, Q_TX = 1, QUEUES = 2 };
enum { LINK_UP = 1 };
enum {
	HDR = 12,
	HDR_NUM_BUFFERS = 10, /* le16 in the header */
	FRAME_MIN = 14,
	FRAME_MAX = 65535 + 18, /* what a segmenting sender makes, with a VLAN tag */
	RX_BUFS = 64,		/* that one frame can be spread over */
	BUDGET = 64,		/* frames before the lock is given to others */
};

struct cfg_wire {
	uint8_t mac[6];
	struct le16 status;
};
WIRE_SIZE(struct cfg_wire, 8);

struct vnet {
	struct vpci *v;
	struct loop *loop;
	int tap;
	struct net_out out;
	struct vnet_vhost *vhost;    /* NULL: all is done here */
	struct event *rx_ev, *tx_ev; /* the tap has input; has room again */
	struct cfg_wire cfg;
	int tx_stopped;
	unsigned offloads; /* that the tap was told of */
	size_t rx_len;	   /* of a frame in rx_buf that found no room yet */
	uint8_t rx_buf[HDR + FRAME_MAX];
	struct virtq_chain chain[RX_BUFS];
};

static int tap_frame(void *self, const struct iovec *iov, int n)
{
	struct vnet *d = self;
	int rc;

	if (d->tap < 0)
		return 0;
	rc = vnet_tap_write(d, iov, n);
	if (rc != -EAGAIN)
		return rc;
	return event_add(d->tx_ev, NULL) ? -ENOMEM : -EAGAIN;
}

int vnet_tap_write(struct vnet *d, const struct iovec *iov, int n)
{
	ssize_t r;

	if (d->tap < 0)
		return -ENODEV;
	do
		r = writev(d->tap, iov, n);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

/* One frame of the guest. -EAGAIN: it stays in the ring. */
static int tx_one(struct vnet *d, const struct virtq_chain *c)
{
	int rc;

	if (c->n_in || c->out_len < HDR + FRAME_MIN || c->out_len > HDR + FRAME_MAX)
		return -EINVAL;
	rc = d->out.frame(d->out.self, c->seg, (int)c->n_out);
	if (rc && rc != -EAGAIN)
		log_ratelimited(LOG_LVL_WARN, 10000,
				"net: a frame was dropped on its way out: %s",
				strerror(-rc));
	return rc;
}

/* Take what is in the transmit queue; 1: all of it, 0: the way out is full, or others' turn. */
static int tx_some(struct vnet *d, struct virtq *q)
{
	struct virtq_chain *c = &d->chain[0];

	for (unsigned n = 0; n < BUDGET; n++) {
		int rc = virtq_pop(q, c);

		if (rc < 0) {
			vpci_broken(d->v);
			return 0;
		}
		if (rc == 0)
			return 1;
		if (tx_one(d, c) == -EAGAIN) {
			virtq_unpop(q);
			d->tx_stopped = 1;
			return 0;
		}
		virtq_push(q, c->head, 0);
	}
	vpci_kick(d->v, Q_TX);
	return 0;
}

static void tx(struct vnet *d)
{
	struct virtq *q = vpci_queue(d->v, Q_TX);

	if (d->tx_stopped)
		return;
	while (tx_some(d, q) && virtq_wait(q)) {
		/* More came while we said that there was nothing. */
	}
	vpci_notify(d->v, Q_TX);
}

/* Pop chains until they hold the frame; returns how many, 0 if there is no room now. */
static unsigned rx_room(struct vnet *d, struct virtq *q, size_t len)
{
	unsigned n = 0, max = 1;
	uint64_t room = 0;

	/* More than the ring holds will never be posted at once. */
	if (vpci_has(d->v, F_MRG_RXBUF))
		max = q->size < RX_BUFS ? q->size : RX_BUFS;
	while (n < max && room < len) {
		int rc = virtq_pop(q, &d->chain[n]);

		if (rc > 0 && (d->chain[n].n_out || d->chain[n].in_len < HDR))
			rc = -EPROTO;
		if (rc < 0) {
			vpci_broken(d->v);
			return 0;
		}
		/* Asked for before they are put back: the buffer that has to kick is the one
		 * behind those that are too few. */
		if (rc == 0 && !virtq_wait(q))
			break;
		if (rc > 0)
			room += d->chain[n++].in_len;
	}
	if (room >= len || n == max)
		return n;
	while (n--)
		virtq_unpop(q);
	return 0;
}

/* Copy the frame in rx_buf over @n chains, as many bytes as there is room. */
static void rx_deliver(struct vnet *d, struct virtq *q, unsigned n)
{
	size_t done = 0;

	d->rx_buf[HDR_NUM_BUFFERS] = (uint8_t)n;
	d->rx_buf[HDR_NUM_BUFFERS + 1] = 0;
	for (unsigned i = 0; i < n; i++) {
		size_t part = virtq_write(q, &d->chain[i], 0, d->rx_buf + done,
					  d->rx_len - done);

		virtq_fill(q, i, d->chain[i].head, (uint32_t)part);
		done += part;
	}
	virtq_show(q, n);
}

/* Give the frame in rx_buf to the guest. 0, or -EAGAIN: it has to wait for buffers. */
static int rx_one(struct vnet *d, struct virtq *q)
{
	uint64_t room = 0;
	unsigned n = rx_room(d, q, d->rx_len);

	if (!n)
		return -EAGAIN;
	for (unsigned i = 0; i < n; i++)
		room += d->chain[i].in_len;
	if (room >= d->rx_len) {
		rx_deliver(d, q, n);
	} else {
		/* Longer than this driver can take: as on a wire with a smaller MTU. */
		while (n--)
			virtq_unpop(q);
	}
	d->rx_len = 0;
	return 0;
}

static int rx_ready(const struct vnet *d)
{
	return vpci_running(d->v) && vpci_queue(d->v, Q_RX)->ready;
}

/* Read the tap while there are frames and buffers. Returns 0 when the guest has no buffer. */
static int rx_some(struct vnet *d)
{
	struct virtq *q = vpci_queue(d->v, Q_RX);

	for (unsigned n = 0; n < BUDGET; n++) {
		ssize_t r;

		if (d->rx_len && rx_one(d, q))
			return 0;
		r = read(d->tap, d->rx_buf, sizeof(d->rx_buf));
		if (r < 0 && errno != EAGAIN && errno != EINTR)
			log_ratelimited(LOG_LVL_WARN, 10000,
					"net: the tap gives no frames: %s",
					strerror(errno));
		if (r <= 0)
			return 1;
		d->rx_len = r >= HDR + FRAME_MIN ? (size_t)r : 0;
	}
	return 1;
}

/* Frames to the guest; then watch the tap only if the guest has buffers: else it would wake
 * us all the time. A kick of the queue brings us here again. */
static void rx(struct vnet *d)
{
	int watch = rx_ready(d) && rx_some(d) ? EV_READ : 0;
	int rc = 0;

	if (watch != event_pending(d->rx_ev, EV_READ, NULL))
		rc = watch ? event_add(d->rx_ev, NULL) : event_del(d->rx_ev);
	if (rc)
		log_ratelimited(LOG_LVL_ERR, 1000,
				"net: the tap's event cannot be changed");
	if (rx_ready(d))
		vpci_notify(d->v, Q_RX);
}

static void on_tap_input(evutil_socket_t fd, short what, void *arg)
{
	struct vnet *d = arg;

	loop_enter(d->loop);
	rx(d);
	loop_leave(d->loop);
}

static void on_tap_room(evutil_socket_t fd, short what, void *arg)
{
	struct vnet *d = arg;

	loop_enter(d->loop);
	vnet_tx_resume(d);
	loop_leave(d->loop);
}

void vnet_tx_resume(struct vnet *d)
{
	if (!d->tx_stopped)
		return;
	d->tx_stopped = 0;
	if (vpci_running(d->v) && vpci_queue(d->v, Q_TX)->ready)
		tx(d);
}

/* Which offloads the tap may use towards the guest; the way out needs no permission. */
static void set_offloads(struct vnet *d)
{
	unsigned f = 0;

	if (vpci_has(d->v, F_GUEST_CSUM))
		f |= TUN_F_CSUM;
	if (f && vpci_has(d->v, F_GUEST_TSO4))
		f |= TUN_F_TSO4;
	if (f && vpci_has(d->v, F_GUEST_TSO6))
		f |= TUN_F_TSO6;
	if (f == d->offloads)
		return;
	d->offloads = f;
	if (ioctl(d->tap, TUNSETOFFLOAD, f) && f)
		log_ratelimited(LOG_LVL_DEBUG, 10000, "net: the tap does no offloads: %s",
				strerror(errno));
}

static void vnet_kick(void *self, unsigned queue)
{
	struct vnet *d = self;

	if (d->tap >= 0)
		set_offloads(d);
	if (d->vhost && vnet_vhost_kick(d->vhost, queue))
		return;
	if (queue == Q_TX)
		tx(d);
	else if (d->tap >= 0)
		rx(d);
}

static void vnet_reset(void *self)
{
	struct vnet *d = self;

	d->tx_stopped = 0;
	d->rx_len = 0;
	if (d->vhost)
		vnet_vhost_reset(d->vhost);
}

/* All that counts is in the rings. */
static int vnet_save(void *self, uint32_t instance, struct buf *b)
{
	return 0;
}

static int vnet_load(void *self, uint32_t instance, struct reader *r, struct err *err)
{
	return 0;
}

static void vnet_destroy(void *self)
{
	struct vnet *d = self;

	/* Before the tap that it writes to. */
	vnet_vhost_destroy(d->vhost);
	if (d->rx_ev)
		event_free(d->rx_ev);
	if (d->tx_ev)
		event_free(d->tx_ev);
	if (d->tap >= 0)
		close(d->tap);
	free(d);
}

static const struct virtio_ops vnet_ops = {
	.name = "virtio-net",
	.id = 1,
	.class_code = 0x020000, /* Ethernet */
	.queues = QUEUES,
	.queue_size = VIRTQ_SIZE_MAX,
	.kick = vnet_kick,
	.reset = vnet_reset,
	.save = vnet_save,
	.load = vnet_load,
	.destroy = vnet_destroy,
};

static int events_create(struct vnet *d, struct err *err)
{
	struct event_base *base = loop_base(d->loop);

	if (d->tap < 0)
		return 0;
	d->rx_ev = event_new(base, d->tap, EV_READ | EV_PERSIST, on_tap_input, d);
	d->tx_ev = event_new(base, d->tap, EV_WRITE, on_tap_room, d);
	return d->rx_ev && d->tx_ev ? 0 : err_set(err, -ENOMEM, "virtio-net: events");
}

int vnet_create(struct vm *vm, int tap_fd, const uint8_t mac[6], struct vnet **dev_out,
		struct err *err)
{
	const uint64_t features = 1ull << F_CSUM | 1ull << F_GUEST_CSUM | 1ull << F_MAC |
				  1ull << F_GUEST_TSO4 | 1ull << F_GUEST_TSO6 |
				  1ull << F_HOST_TSO4 | 1ull << F_HOST_TSO6 |
				  1ull << F_MRG_RXBUF | 1ull << F_STATUS;
	struct vnet *d = calloc(1, sizeof(*d));
	int rc;

	*dev_out = NULL;
	if (!d) {
		if (tap_fd >= 0)
			close(tap_fd);
		return err_set(err, -ENOMEM, "virtio-net: out of memory");
	}
	d->tap = tap_fd;
	d->offloads = ~0u;
	d->loop = vm_loop(vm);
	d->out = (struct net_out){.frame = tap_frame, .self = d};
	memcpy(d->cfg.mac, mac, sizeof(d->cfg.mac));
	d->cfg.status = le16_of(LINK_UP);
	rc = events_create(d, err);
	if (!rc)
		rc = vpci_create(vm, &vnet_ops, d, features, &d->cfg, sizeof(d->cfg),
				 &d->v, err);
	if (rc) {
		vnet_destroy(d);
		return rc;
	}
	*dev_out = d;
	return 0;
}

int vnet_use_vhost(struct vnet *d, struct vm *vm, int vhost_fd,
		   const struct vhost_sys *sys, struct err *err)
{
	return vnet_vhost_create(vm, d->v, d->tap, vhost_fd, sys, &d->vhost, err);
}

void vnet_set_out(struct vnet *d, const struct net_out *out)
{
	d->out = *out;
}

int vnet_tap_fd(struct vnet *d)
{
	return d->tap;
}
