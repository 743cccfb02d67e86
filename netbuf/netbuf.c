/* SPDX-License-Identifier: Apache-2.0
 * netbuf - the gate: what the guest says is held, passed or refused.
 */
#include "netbuf/netbuf.h"

#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "netbuf/nb.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void no_trigger(void *arg, const char *why)
{
}

static void resume_ports(struct netbuf *nb)
{
	for (uint32_t i = 0; i < nb->ports; i++) {
		struct nb_port *p = &nb->port[i];
		int stopped;

		pthread_mutex_lock(&nb->lock);
		stopped = p->stopped;
		p->stopped = 0;
		pthread_mutex_unlock(&nb->lock);
		if (stopped)
			p->ops->resume(p->self);
	}
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
	struct netbuf *nb = arg;
	uint64_t n;
	int announce;

	if (read(fd, &n, sizeof(n)) < 0) {
		/* EAGAIN: an earlier turn took it; looking once more does no harm. */
	}
	loop_enter(nb->loop);
	resume_ports(nb);
	nb_sniff_again(nb);
	pthread_mutex_lock(&nb->lock);
	announce = nb->announce;
	nb->announce = 0;
	pthread_mutex_unlock(&nb->lock);
	if (announce)
		nb_announce_begin(nb);
	loop_leave(nb->loop);
}

void nb_wake(struct netbuf *nb)
{
	uint64_t one = 1;

	if (write(nb->wake_fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is full, so the loop wakes anyway. */
	}
}

static int wire_events(struct netbuf *nb)
{
	struct event_base *base = loop_base(nb->loop);

	nb->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (nb->wake_fd < 0)
		return -errno;
	nb->wake = event_new(base, nb->wake_fd, EV_READ | EV_PERSIST, on_wake, nb);
	nb->timer = event_new(base, -1, 0, nb_announce_timer, nb);
	if (!nb->wake || !nb->timer || event_add(nb->wake, NULL))
		return -ENOMEM;
	return nbq_init(&nb->q);
}

int netbuf_create(size_t limit_bytes, struct loop *loop, int hold,
		  struct epoch_trigger trigger, struct netbuf **nb_out, struct err *err)
{
	struct netbuf *nb = calloc(1, sizeof(*nb));
	int rc;

	*nb_out = NULL;
	if (!nb)
		return err_set(err, -ENOMEM, "output buffer: out of memory");
	pthread_mutex_init(&nb->out, NULL);
	pthread_mutex_init(&nb->lock, NULL);
	nb_plug_init(&nb->plug);
	nb->limit = limit_bytes;
	nb->loop = loop;
	nb->holding = hold;
	nb->trigger = trigger;
	if (!trigger.request)
		nb->trigger.request = no_trigger;
	nb->table_sent = UINT64_MAX;
	nb->wake_fd = -1;
	rc = wire_events(nb);
	if (rc) {
		netbuf_destroy(nb);
		return err_sys(err, rc, "output buffer");
	}
	*nb_out = nb;
	return 0;
}

void netbuf_set_stale(struct netbuf *nb, unsigned us)
{
	nb->stale_ns = us * UINT64_C(1000);
}

void netbuf_set_judged(struct netbuf *nb, uint64_t (*judged_ns)(void *arg), void *arg)
{
	nb->judged_ns = judged_ns;
	nb->judged_arg = arg;
}

void netbuf_destroy(struct netbuf *nb)
{
	if (!nb)
		return;
	if (nb->wake)
		event_free(nb->wake);
	if (nb->timer)
		event_free(nb->timer);
	for (uint32_t i = 0; i < nb->ports; i++)
		nb_sniff_stop(&nb->port[i]);
	if (nb->wake_fd >= 0)
		close(nb->wake_fd);
	nb_snaps_free(nb);
	nbq_fini(&nb->q);
	nb_plug_fini(&nb->plug);
	pthread_mutex_destroy(&nb->lock);
	pthread_mutex_destroy(&nb->out);
	free(nb);
}

int nb_add_port(struct netbuf *nb, const struct nb_port_ops *ops, void *self, int net,
		struct nb_port **port_out)
{
	struct nb_port *p;

	if (nb->ports == NB_PORTS_MAX)
		return -ENOSPC;
	p = &nb->port[nb->ports];
	*p = (struct nb_port){.nb = nb,
			      .ops = ops,
			      .self = self,
			      .net = net,
			      .index = nb->ports,
			      .fd = -1};
	nb->ports++;
	*port_out = p;
	return 0;
}

/* Straight out. A full tap drops, as the queue of any network card does. */
static int pass(struct nb_port *p, const struct iovec *iov, int n, size_t len)
{
	struct netbuf *nb = p->nb;
	int rc = p->ops->write(p->self, iov, n);
	size_t lost = rc < 0 ? len : (size_t)rc;

	atomic_fetch_add_explicit(&nb->dropped_bytes, lost, memory_order_relaxed);
	atomic_fetch_add_explicit(&nb->released_bytes, len - lost, memory_order_relaxed);
	if (rc >= 0)
		atomic_fetch_add_explicit(&nb->released_frames, 1, memory_order_relaxed);
	return 0;
}

/* Why the epoch should end early now that the buffer grew from @before; NULL: it need not. */
static const char *grown(struct netbuf *nb, size_t before)
{
	if (before < nb->limit / 2 && nb->q.cost >= nb->limit / 2)
		return "the output buffer is half full";
	if (!nb->said) {
		nb->said = 1;
		return "output waits";
	}
	return NULL;
}

/* An empty buffer takes any frame, however small the limit is. */
static int full(const struct netbuf *nb, size_t len)
{
	return nb->q.cost && nb->q.cost + nbq_cost(len) > nb->limit;
}

static int hold_frame(struct nb_port *p, const struct iovec *iov, int n, size_t len,
		      int stop, const char **why)
{
	struct netbuf *nb = p->nb;
	size_t before = nb->q.cost;
	int rc;

	rc = full(nb, len) ? -EAGAIN : nbq_put(&nb->q, nb->open, p->index, iov, n, len);
	if (!rc) {
		*why = grown(nb, before);
		return 0;
	}
	/* Out of memory is treated as full; but nothing would wake the device if nothing is held. */
	if (!before)
		return rc;
	p->stopped |= stop;
	atomic_fetch_add_explicit(&nb->refused, 1, memory_order_relaxed);
	*why = "the output buffer is full";
	return -EAGAIN;
}

static size_t iov_len(const struct iovec *iov, int n)
{
	size_t len = 0;

	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	return len;
}

/* @addr: whom the frame tells of, or NULL. */
static int frame(struct nb_port *p, const struct iovec *iov, int n, int stop,
		 const struct nb_addr *addr)
{
	struct netbuf *nb = p->nb;
	size_t len = iov_len(iov, n);
	const char *why = NULL;
	int rc = 0, holding;

	if (len < NB_VNET_HDR || len > NBQ_ENTRY_MAX) {
		atomic_fetch_add_explicit(&nb->dropped_bytes, len, memory_order_relaxed);
		return -EMSGSIZE;
	}
	pthread_mutex_lock(&nb->lock);
	if (addr)
		nb_table_add(&nb->table, addr);
	holding = nb->holding;
	if (holding)
		rc = hold_frame(p, iov, n, len, stop, &why);
	pthread_mutex_unlock(&nb->lock);
	if (why)
		nb->trigger.request(nb->trigger.arg, why);
	return holding ? rc : pass(p, iov, n, len);
}

int nb_frame(struct nb_port *p, const struct iovec *iov, int n, int stop)
{
	return frame(p, iov, n, stop, NULL);
}

/* The first bytes of a frame in one piece: in place, or copied to @room. */
static const uint8_t *frame_head(const struct iovec *iov, int n, uint8_t *room,
				 size_t *len)
{
	size_t want = *len, have = 0;

	if (n && iov[0].iov_len >= want)
		return iov[0].iov_base;
	for (int i = 0; i < n && have < want; i++) {
		size_t part = iov[i].iov_len < want - have ? iov[i].iov_len : want - have;

		if (part)
			memcpy(room + have, iov[i].iov_base, part);
		have += part;
	}
	*len = have;
	return room;
}

int nb_guest_frame(void *port, const struct iovec *iov, int n)
{
	struct nb_port *p = port;
	uint8_t room[NB_VNET_HDR + NB_LEARN_BYTES];
	size_t len = sizeof(room);
	const uint8_t *head = frame_head(iov, n, room, &len);
	struct nb_addr addr;
	int known =
		len > NB_VNET_HDR && nb_learn_parse(head + NB_VNET_HDR, len - NB_VNET_HDR,
						    (uint8_t)p->index, &addr);

	return frame(p, iov, n, 1, known ? &addr : NULL);
}

void nb_bytes(void *port, const void *bytes, size_t len)
{
	struct nb_port *p = port;
	struct netbuf *nb = p->nb;
	struct iovec iov = {.iov_base = (void *)bytes, .iov_len = len};
	const char *why = NULL;
	size_t before;
	int holding, rc = 0;

	if (!len)
		return;
	pthread_mutex_lock(&nb->lock);
	holding = nb->holding;
	before = nb->q.cost;
	if (holding) {
		rc = before + len > nb->limit + NB_CONSOLE_SLACK
			     ? -ENOSPC
			     : nbq_stream(&nb->q, nb->open, p->index, bytes, len);
		why = rc ? "the output buffer is full" : grown(nb, before);
	}
	pthread_mutex_unlock(&nb->lock);
	if (why)
		nb->trigger.request(nb->trigger.arg, why);
	if (!holding)
		(void)pass(p, &iov, 1,
			   len); /* counted there; a console has no way to object */
	if (rc) {
		atomic_fetch_add_explicit(&nb->dropped_bytes, len, memory_order_relaxed);
		log_ratelimited(
			LOG_LVL_WARN, 1000,
			"console output dropped: nothing of what is held can be released");
	}
}

void netbuf_stats(struct netbuf *nb, struct netbuf_stats *out)
{
	*out = (struct netbuf_stats){
		.released_bytes = atomic_load(&nb->released_bytes),
		.released_frames = atomic_load(&nb->released_frames),
		.dropped_bytes = atomic_load(&nb->dropped_bytes),
		.refused = atomic_load(&nb->refused),
	};
	pthread_mutex_lock(&nb->lock);
	out->held_bytes = nb->q.payload;
	out->held_frames = nb->q.entries;
	out->holding = nb->holding;
	pthread_mutex_unlock(&nb->lock);
	out->plugged = nb->plug.kernel != NULL;
	nb_plug_counts(&nb->plug, &out->plug);
}
