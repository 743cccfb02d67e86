/* SPDX-License-Identifier: Apache-2.0
 * link - from prepare to connected, and the end of it.
 *
 * Each link has a protection domain of its own: what one peer may write, the peer of an
 * earlier or other link cannot. Within it the peer may write into one ring of bytes and do
 * nothing else: no reads, no atomics.
 */
#include "replication/rdma/link.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "replication/module.h"
#include "replication/rdma/dev.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

enum {
	NS_PER_MS = 1000000,
	RNR_RETRIES = 2, /* a peer that keeps to its slots needs none */
	BACKLOG = 8,	 /* strangers may knock as well */
	ADDRESS_TRY_MS = 1000,
};

void link_end(struct link *l, int error)
{
	if (!l->end)
		l->end = error;
	/* The peer's good-bye is no success for who sends. */
	if (!l->dead)
		l->dead = error == -EPIPE ? -ECONNRESET : error;
	l->changes++;
}

static void broke(struct link *l)
{
	if (l->in.size)
		queue_progress(l); /* what came before is still to be heard */
	link_end(l, -ECONNRESET);
	wait_wake(l);
}

/* What breaks a connection that is up is the stream's matter, and not told here. */
static void set_step(struct link *l, enum link_step step, int status)
{
	if (l->step != LINK_FAILED && l->step != LINK_UP) {
		l->step = step;
		l->step_status = status;
	}
	wait_wake(l);
}

/* The peer is known, its device may begin to write. */
static void start_stream(struct link *l)
{
	const unsigned marks = l->peer.marks < RING_MARKS ? l->peer.marks : RING_MARKS;

	ring_out_init(&l->out, l->mem_out.len, l->peer.ring, marks);
	ring_in_init(&l->in, l->mem_in.len, marks);
	l->last_heard = clock_mono_ns();
}

/* The answer to our request: the server's ring, and our own nonce as proof. */
static void established(struct link *l, const struct rdma_conn_param *param)
{
	struct hello_private h;

	if (l->server) {
		set_step(l, LINK_UP, 0);
	} else if (!hello_private_parse(param->private_data, param->private_data_len, &h,
					NULL) &&
		   hello_nonce_equal(h.nonce, l->nonce)) {
		l->peer = h;
		start_stream(l);
		set_step(l, LINK_UP, 0);
	} else {
		set_step(l, LINK_FAILED, -EBADMSG);
	}
}

void link_cm_event(struct link *l, const struct rdma_cm_event *e)
{
	pthread_mutex_lock(&l->lock);
	switch (e->event) {
	case RDMA_CM_EVENT_ADDR_RESOLVED:
		set_step(l, LINK_ADDRESS, 0);
		break;
	case RDMA_CM_EVENT_ROUTE_RESOLVED:
		set_step(l, LINK_ROUTE, 0);
		break;
	case RDMA_CM_EVENT_ESTABLISHED:
		established(l, &e->param.conn);
		break;
	case RDMA_CM_EVENT_ADDR_ERROR:
	case RDMA_CM_EVENT_ROUTE_ERROR:
	case RDMA_CM_EVENT_CONNECT_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
	case RDMA_CM_EVENT_REJECTED:
		/* A status of the fabric's own, above 0, says no more than the event. */
		set_step(l, LINK_FAILED, e->status < 0 ? e->status : -ECONNREFUSED);
		break;
	case RDMA_CM_EVENT_DISCONNECTED:
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		broke(l);
		set_step(l, LINK_FAILED, -ECONNRESET);
		break;
	default:
		break; /* nothing that a link acts on */
	}
	pthread_mutex_unlock(&l->lock);
}

/* Does it end @l? */
static int hits(const struct ibv_async_event *e, const struct link *l)
{
	switch (e->event_type) {
	case IBV_EVENT_DEVICE_FATAL:
		return 1;
	case IBV_EVENT_PORT_ERR:
		return l->id && l->id->port_num == e->element.port_num;
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_ACCESS_ERR:
		return l->qp && l->qp == e->element.qp;
	case IBV_EVENT_CQ_ERR:
		return l->cq && l->cq == e->element.cq;
	default:
		return 0; /* what has healed, and what nobody here has asked for */
	}
}

void link_async_event(struct link *l, const struct ibv_async_event *e)
{
	pthread_mutex_lock(&l->lock);
	if (hits(e, l)) {
		broke(l);
		set_step(l, LINK_FAILED, -ENETDOWN);
	}
	pthread_mutex_unlock(&l->lock);
}

int link_requested(struct link *l, struct rdma_cm_id *id, const void *data, size_t len)
{
	struct hello_private h;
	int mine = 0;

	pthread_mutex_lock(&l->lock);
	if (l->step == LINK_NEW && !hello_private_parse(data, len, &h, NULL) &&
	    hello_nonce_equal(h.nonce, l->nonce)) {
		l->peer = h;
		l->id = id;
		id->context = l;
		set_step(l, LINK_REQUESTED, 0);
		mine = 1;
	}
	pthread_mutex_unlock(&l->lock);
	return mine;
}

static struct link *link_new(struct tp_dev *dev, int server)
{
	struct link *l = calloc(1, sizeof(*l));
	pthread_condattr_t at;

	if (!l)
		return NULL;
	l->dev = dev;
	l->server = server;
	l->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	l->tp.ops = &stream_ops;
	l->tp.send_timeout_ms = TP_SEND_TIMEOUT_MS;
	/* Plain initialisation of these cannot fail on Linux. */
	pthread_mutex_init(&l->lock, NULL);
	pthread_condattr_init(&at);
	pthread_condattr_setclock(&at, CLOCK_MONOTONIC);
	pthread_cond_init(&l->change, &at);
	pthread_condattr_destroy(&at);
	dev_add(dev, l);
	if (l->wake < 0 || getrandom(l->nonce, sizeof(l->nonce), 0) != sizeof(l->nonce)) {
		link_free(l);
		return NULL;
	}
	return l;
}

static int no_id(struct err *err)
{
	const int code = -errno;

	return err_sys(err, code, "rdma: making a connection id%s",
		       code == -EACCES ? " (was the device opened under another user or "
					 "with other rights?)"
				       : "");
}

static int start_listening(struct link *l, struct err *err)
{
	const struct hello_args *a = &l->dev->args;
	union dev_address addr;

	dev_address_set(&addr, a->family, a->addr, 0);
	if (rdma_create_id(l->dev->channel, &l->listener, l, RDMA_PS_TCP))
		return no_id(err);
	if (rdma_bind_addr(l->listener, &addr.any) || rdma_listen(l->listener, BACKLOG))
		return err_sys(err, -errno, "rdma: listening for the peer");
	return 0;
}

int link_prepare(struct tp_dev *dev, int server, struct link **l_out,
		 uint8_t blob_out[HELLO_BLOB_LEN], struct err *err)
{
	struct link *l = link_new(dev, server);
	struct hello_blob b = {.caps = HELLO_CAPS};
	int rc = 0;

	if (!l)
		return err_set(err, -ENOMEM, "no memory for an rdma link");
	memcpy(b.nonce, l->nonce, sizeof(b.nonce));
	if (server) {
		rc = start_listening(l, err);
		if (rc) {
			link_free(l);
			return rc;
		}
		b.family = dev->args.family;
		memcpy(b.addr, dev->args.addr, sizeof(b.addr));
		b.port = ntohs(rdma_get_src_port(l->listener));
	}
	hello_blob_encode(&b, blob_out);
	*l_out = l;
	return 0;
}

/* Until the connection manager is at @want. */
static int wait_step(struct link *l, enum link_step want, uint64_t until,
		     const char *what, struct err *err)
{
	enum link_step step;
	int status;

	for (;;) {
		pthread_mutex_lock(&l->lock);
		step = l->step;
		status = l->step_status;
		pthread_mutex_unlock(&l->lock);
		if (step == LINK_FAILED)
			return err_sys(err, status, "rdma: %s", what);
		if (step == want)
			return 0;
		if (clock_mono_ns() >= until)
			return err_sys(err, -ETIMEDOUT, "rdma: %s", what);
		wait_event(l, until);
	}
}

static int memory_make(struct link_memory *m, struct ibv_pd *pd, size_t len, int access,
		       struct err *err)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		       0);

	if (p == MAP_FAILED)
		return err_sys(err, -errno, "rdma: %zu bytes for a ring", len);
	m->p = p;
	m->len = len;
	/* Both are for the better only: large pages are fewer entries for the device; a
	 * child must not come to share, by copy on write, what the device writes to. */
	(void)madvise(p, len, MADV_HUGEPAGE);
	(void)madvise(p, len, MADV_DONTFORK);
	m->mr = ibv_reg_mr(pd, p, len, access);
	if (!m->mr)
		return err_sys(err, -errno,
			       "rdma: registering %zu bytes (is RLIMIT_MEMLOCK at least "
			       "ring plus send?)",
			       len);
	return 0;
}

static void memory_free(struct link_memory *m)
{
	/* Neither can fail for what was made whole. */
	if (m->mr)
		(void)ibv_dereg_mr(m->mr);
	if (m->p)
		(void)munmap(m->p, m->len);
	*m = (struct link_memory){0};
}

/* Another link's thread may hold an event against them at any time. */
static void publish(struct link *l, struct rdma_cm_id *id, struct ibv_cq *cq,
		    struct ibv_qp *qp)
{
	pthread_mutex_lock(&l->lock);
	l->id = id;
	l->cq = cq;
	l->qp = qp;
	pthread_mutex_unlock(&l->lock);
}

static int make_queues(struct link *l, struct err *err)
{
	const int slots = RING_MARKS + RING_CREDITS + 2;
	struct ibv_qp_init_attr at = {
		.qp_type = IBV_QPT_RC,
		.cap = {.max_send_wr = RING_SQ,
			.max_recv_wr = slots,
			.max_send_sge = 1,
			.max_recv_sge = 1},
	};
	uint8_t timeout = hello_ack_timeout(l->dev->args.silence_ms);
	struct ibv_cq *cq;

	l->comp = ibv_create_comp_channel(l->dev->verbs);
	if (!l->comp || dev_nonblocking(l->comp->fd))
		return err_sys(err, -errno, "rdma: making a completion channel");
	cq = ibv_create_cq(l->dev->verbs, RING_SQ + slots, NULL, l->comp, 0);
	if (!cq)
		return err_sys(err, -errno, "rdma: making a completion queue");
	publish(l, l->id, cq, NULL);
	at.send_cq = at.recv_cq = cq;
	if (rdma_create_qp(l->id, l->pd, &at))
		return err_sys(err, -errno, "rdma: making a queue pair");
	publish(l, l->id, cq, l->id->qp);
	/* An old kernel does not know it: then a dead path is told late, by seconds. */
	(void)rdma_set_option(l->id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout,
			      sizeof(timeout));
	if (queue_fill(l))
		return err_sys(err, -EIO, "rdma: posting receive slots");
	return 0;
}

/* All that the device has for one link; the peer is the first to use it, so it is whole
 * before it is asked or answered. */
static int make_resources(struct link *l, struct err *err)
{
	const struct hello_args *a = &l->dev->args;
	int rc;

	if (l->id->verbs != l->dev->verbs)
		return err_set(err, -ENODEV,
			       "rdma: the route to the peer leaves by "
			       "another device than the configured one");
	l->pd = ibv_alloc_pd(l->dev->verbs);
	if (!l->pd)
		return err_sys(err, -errno, "rdma: making a protection domain");
	rc = memory_make(&l->mem_in, l->pd, a->ring,
			 IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE, err);
	if (!rc)
		rc = memory_make(&l->mem_out, l->pd, a->send, 0, err);
	if (!rc)
		rc = make_queues(l, err);
	return rc;
}

static void private_of(const struct link *l, const uint8_t nonce[HELLO_NONCE_LEN],
		       uint8_t out[HELLO_PRIVATE_LEN])
{
	struct hello_private h = {
		.caps = HELLO_CAPS,
		.ring = l->dev->args.ring,
		.rkey = l->mem_in.mr->rkey,
		.addr = (uintptr_t)l->mem_in.p,
		.marks = RING_MARKS,
	};

	memcpy(h.nonce, nonce, sizeof(h.nonce));
	hello_private_encode(&h, out);
}

/* One try to resolve the peer's address, on a new id. */
static int try_address(struct link *l, union dev_address *to, uint64_t until,
		       struct err *err)
{
	const struct hello_args *a = &l->dev->args;
	const uint64_t now = clock_mono_ns();
	union dev_address from;
	struct rdma_cm_id *id;
	int ms = until > now ? (int)((until - now) / NS_PER_MS) : 0;

	ms = ms < ADDRESS_TRY_MS ? ms : ADDRESS_TRY_MS;
	dev_address_set(&from, a->family, a->addr, 0);
	if (rdma_create_id(l->dev->channel, &id, l, RDMA_PS_TCP))
		return no_id(err);
	pthread_mutex_lock(&l->lock);
	l->id = id;
	l->step = LINK_NEW;
	pthread_mutex_unlock(&l->lock);
	if (rdma_resolve_addr(id, &from.any, &to->any, ms))
		return err_sys(err, -errno, "rdma: resolving the peer's address");
	return wait_step(l, LINK_ADDRESS, until, "resolving the peer's address", err);
}

/* The kernel asks the network for a neighbour a few times, and once it has given up it does
 * not ask again for the rest of the time-out; a link that has just come up loses those.
 * So it is asked anew. */
static int resolve(struct link *l, const struct hello_blob *b, uint64_t until,
		   struct err *err)
{
	union dev_address to;
	int rc;

	if (b->family != l->dev->args.family)
		return err_set(err, -EAFNOSUPPORT,
			       "rdma: one host's address is IPv4, the other's IPv6");
	dev_address_set(&to, b->family, b->addr, b->port);
	rc = try_address(l, &to, until, err);
	while (rc == -ETIMEDOUT && clock_mono_ns() < until) {
		struct rdma_cm_id *old = l->id;

		publish(l, NULL, NULL, NULL);
		(void)rdma_destroy_id(old); /* nothing was made of it */
		rc = try_address(l, &to, until, err);
	}
	if (rc)
		return rc;
	if (rdma_resolve_route(l->id, ADDRESS_TRY_MS))
		return err_sys(err, -errno, "rdma: finding a route to the peer");
	return wait_step(l, LINK_ROUTE, until, "finding a route to the peer", err);
}

/* Ask, or answer, and wait until both can send. */
static int shake_hands(struct link *l, const struct hello_blob *b, uint64_t until,
		       struct err *err)
{
	uint8_t words[HELLO_PRIVATE_LEN];
	struct rdma_conn_param param = {
		.private_data = words,
		.private_data_len = sizeof(words),
		.flow_control = 1,
		.retry_count = HELLO_RETRIES,
		.rnr_retry_count = RNR_RETRIES,
	};
	int r;

	private_of(l, b->nonce, words);
	if (l->server) {
		pthread_mutex_lock(&l->lock);
		start_stream(l);
		pthread_mutex_unlock(&l->lock);
	}
	r = l->server ? rdma_accept(l->id, &param) : rdma_connect(l->id, &param);
	if (r)
		return err_sys(err, -errno, "rdma: connecting to the peer");
	return wait_step(l, LINK_UP, until, "connecting to the peer", err);
}

int link_connect(struct link *l, const uint8_t *blob, size_t len, unsigned timeout_ms,
		 struct err *err)
{
	const uint64_t until = clock_mono_ns() + (uint64_t)timeout_ms * NS_PER_MS;
	struct hello_blob b;
	int rc = hello_blob_parse(blob, len, !l->server, &b, err);

	if (rc)
		return rc;
	if (l->server)
		rc = wait_step(l, LINK_REQUESTED, until, "waiting for the peer", err);
	else
		rc = resolve(l, &b, until, err);
	if (!rc)
		rc = make_resources(l, err);
	if (!rc)
		rc = shake_hands(l, &b, until, err);
	if (!rc && l->server) {
		/* Strangers who still knock are answered by nobody. */
		(void)rdma_destroy_id(l->listener);
		l->listener = NULL;
	}
	return rc;
}

/* In the order of who needs whom. None of these can fail but by a fault of the device,
 * and then the kernel takes everything back when the process ends. */
void link_free(struct link *l)
{
	if (!l)
		return;
	if (l->qp) {
		(void)rdma_disconnect(l->id);
		rdma_destroy_qp(l->id);
	}
	dev_remove(l->dev, l);
	memory_free(&l->mem_in);
	memory_free(&l->mem_out);
	if (l->cq)
		(void)ibv_destroy_cq(l->cq);
	if (l->comp)
		(void)ibv_destroy_comp_channel(l->comp);
	if (l->pd)
		(void)ibv_dealloc_pd(l->pd);
	if (l->id)
		(void)rdma_destroy_id(l->id);
	if (l->listener)
		(void)rdma_destroy_id(l->listener);
	if (l->wake >= 0)
		(void)close(l->wake);
	pthread_cond_destroy(&l->change);
	pthread_mutex_destroy(&l->lock);
	free(l);
}
