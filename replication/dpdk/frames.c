/* SPDX-License-Identifier: Apache-2.0
 * frames - what a lane sees of the port: frames are DPDK's buffers.
 *
 * Stream bytes are put into a buffer once and go to the driver from there: as long as
 * the lane may need them again it holds a reference beside the driver's. `hash.usr` of a
 * buffer tells what it counts as. All of this under the port's lock.
 */
#include "replication/dpdk/port_impl.h"

#include "replication/lane_wire.h"

#include <rte_ethdev.h>
#include <string.h>

uint8_t *port_data(void *frame)
{
	return rte_pktmbuf_mtod((struct rte_mbuf *)frame, uint8_t *);
}

static void *frame_get(void *self, uint8_t **data_out)
{
	struct port *p = self;
	struct rte_mbuf *m = rte_pktmbuf_alloc(p->pool);

	if (!m)
		return NULL;
	m->hash.usr = PORT_FREE_USE;
	*data_out = rte_pktmbuf_mtod(m, uint8_t *);
	return m;
}

void port_put(struct port *p, void *frame)
{
	struct rte_mbuf *m = frame;

	if (m->hash.usr == PORT_APP_USE)
		atomic_fetch_sub(&p->app_frames, 1);
	else if (m->hash.usr == PORT_KEPT_USE)
		atomic_fetch_sub(&p->kept, 1);
	m->hash.usr = PORT_FREE_USE;
	rte_pktmbuf_free(m);
}

static void frame_put(void *self, void *frame)
{
	port_put(self, frame);
}

/* A driver that has not given an earlier copy back may still read its head. */
static void *frame_again(void *self, void *frame, size_t len, uint8_t **data_out)
{
	struct rte_mbuf *m = frame;
	void *copy;

	if (rte_mbuf_refcnt_read(m) == 1) {
		rte_mbuf_refcnt_update(m, 1);
		*data_out = rte_pktmbuf_mtod(m, uint8_t *);
		return m;
	}
	copy = frame_get(self, data_out);
	if (copy)
		memcpy(*data_out, rte_pktmbuf_mtod(m, uint8_t *), len);
	return copy;
}

static unsigned frame_room(void *self)
{
	const struct port *p = self;

	return PORT_OUT - p->n_out;
}

static void frame_send(void *self, void *frame, size_t len)
{
	struct rte_mbuf *m = frame;
	struct port *p = self;

	if (p->n_out == PORT_OUT) {
		rte_pktmbuf_free(m);
		return;
	}
	m->data_len = (uint16_t)len;
	m->pkt_len = (uint32_t)len;
	p->out[p->n_out++] = m;
}

const struct lane_ops port_lane_ops = {
	.get = frame_get,
	.put = frame_put,
	.again = frame_again,
	.room = frame_room,
	.send = frame_send,
};

void port_flush(struct port *p)
{
	unsigned done = 0, n;

	while (done < p->n_out) {
		n = rte_eth_tx_burst(p->id, 0, p->out + done,
				     (uint16_t)(p->n_out - done));
		done += n;
		if (!n)
			break;
	}
	p->n_out -= done;
	memmove(p->out, p->out + done, p->n_out * sizeof(p->out[0]));
}

/* An id of this process that no lane has: the sender missed its end. */
static void answer_stranger(struct port *p, const struct lane_msg *m)
{
	struct le64 id = le64_of(m->id);
	struct lane_msg reset = {.kind = LANE_RESET, .len = sizeof(id)};
	uint8_t *data;
	void *frame;

	if (m->id >> 32 != p->instance || m->kind == LANE_RESET || !frame_room(p))
		return;
	frame = frame_get(p, &data);
	if (!frame)
		return;
	memcpy(reset.to, m->from, sizeof(reset.to));
	memcpy(reset.from, &p->mac, sizeof(reset.from));
	memcpy(data + LANE_HEAD, &id, sizeof(id));
	frame_send(p, frame, lane_build(&reset, data));
}

/* The lane on which @m arrived, or NULL. */
static struct port_end *find_end(struct port *p, const struct lane_msg *m)
{
	for (unsigned i = 0; i < PORT_ENDS; i++) {
		struct port_end *e = &p->end[i];

		if (!e->used)
			continue;
		if (m->kind == LANE_RESET ? e->lane && lane_reset_names(e->lane, m)
					  : m->id == e->id)
			return e;
	}
	return NULL;
}

void port_arrived(struct port *p, struct rte_mbuf *b, uint64_t now)
{
	struct port_end *e = NULL;
	struct lane_msg m;

	b->hash.usr = PORT_KEPT_USE;
	(void)atomic_fetch_add(&p->kept, 1); /* looked at below */
	if (b->nb_segs == 1 &&
	    lane_parse(rte_pktmbuf_mtod(b, uint8_t *), b->data_len, &m) == LANE_GOOD) {
		e = find_end(p, &m);
		if (!e)
			answer_stranger(p, &m);
	}
	/* More than a window can only be several lanes': theirs is sent again. */
	if (!e || !e->lane || (m.kind == LANE_DATA && atomic_load(&p->kept) > p->slots) ||
	    !lane_input(e->lane, &m, b, now))
		port_put(p, b);
}
