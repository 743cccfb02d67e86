/* SPDX-License-Identifier: Apache-2.0
 * queue - frames on their way between a stream's threads and the port, without the port's lock.
 *
 * The lane gets only as many as it can soon send: what waits in the queue is little, so that a
 * frame is still in the cache when the driver reads it.
 */
#include "replication/dpdk/port_impl.h"

#include <rte_prefetch.h>

enum { QUEUE_BYTES = 4 << 20, QUEUE_MIN = 128 };

unsigned port_queue(unsigned mtu)
{
	unsigned n = QUEUE_BYTES / mtu;

	n = n < PORT_QUEUE ? n : PORT_QUEUE;
	return n > QUEUE_MIN ? n : QUEUE_MIN;
}

unsigned port_grab(struct port *p, void **frames, unsigned max)
{
	unsigned before = atomic_fetch_add(&p->app_frames, max), n = max;

	/* Several senders may ask at once: each sees the others' claims. */
	if (before + max > p->slots)
		n = before < p->slots ? p->slots - before : 0;
	if (n && rte_pktmbuf_alloc_bulk(p->pool, (struct rte_mbuf **)frames, n))
		n = 0;
	if (n < max)
		atomic_fetch_sub(&p->app_frames, max - n);
	for (unsigned i = 0; i < n; i++)
		((struct rte_mbuf *)frames[i])->hash.usr = PORT_APP_USE;
	return n;
}

unsigned port_offer(struct port_end *e, const struct port_filled *f, unsigned n)
{
	struct port_queue *q = &e->out;
	unsigned put = atomic_load_explicit(&q->put, memory_order_relaxed);
	unsigned room = e->port->queue - (put - atomic_load(&q->taken));

	n = n < room ? n : room;
	for (unsigned i = 0; i < n; i++)
		q->slot[(put + i) % PORT_QUEUE] = f[i];
	atomic_store(&q->put, put + n);
	return n;
}

static int next_offer(struct port_queue *q, struct port_filled *out)
{
	unsigned taken = atomic_load_explicit(&q->taken, memory_order_relaxed);

	if (taken == atomic_load(&q->put))
		return 0;
	*out = q->slot[taken % PORT_QUEUE];
	atomic_store(&q->taken, taken + 1);
	return 1;
}

static void feed(struct port_end *e, unsigned ahead)
{
	struct port_filled f;

	while (lane_waiting(e->lane) < ahead && lane_room(e->lane) &&
	       next_offer(&e->out, &f)) {
		if (lane_send_error(e->lane)) {
			port_put(e->port, f.frame);
			continue;
		}
		/* The sender's core wrote what is looked at next. */
		rte_prefetch0(f.frame);
		rte_prefetch0(port_data(f.frame));
		lane_push(e->lane, f.frame, f.len);
	}
}

void port_feed(struct port_end *e)
{
	feed(e, 2 * PORT_OUT);
}

void port_settle(struct port_end *e)
{
	feed(e, UINT32_MAX);
}

unsigned port_queued(const struct port_end *e)
{
	return atomic_load(&e->out.put) - atomic_load(&e->out.taken);
}

int port_has_room(const struct port_end *e)
{
	unsigned used = atomic_load(&e->port->app_frames);

	return port_queued(e) <= e->port->queue / 2 &&
	       used + e->port->slots / 4 <= e->port->slots;
}

/* The order: the queue first, then `offered`, then `hot`. The port's thread, which gives up `hot`
 * and then looks at `offered`, sees the frame, or we see that it is not hot. */
int port_attend(struct port *p, int wake)
{
	atomic_store(&p->offered, 1);
	if (atomic_load(&p->hot))
		return 1;
	if (wake)
		port_wake(p);
	return 0;
}

void port_put_read(struct port *p, void *const *frames, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		((struct rte_mbuf *)frames[i])->hash.usr = PORT_FREE_USE;
	atomic_fetch_sub(&p->kept, n);
	rte_pktmbuf_free_bulk((struct rte_mbuf **)frames, n);
}
