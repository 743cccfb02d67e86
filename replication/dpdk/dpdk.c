/* SPDX-License-Identifier: Apache-2.0
 * dpdk - the transport module: a stream's two directions over a lane of a port.
 *
 * The sender fills frames of its own and offers them by the dozen, without the port's lock; the
 * receiver takes them by the dozen and copies out of them.
 */
#include "replication/module.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/wire.h"
#include "replication/dpdk/port.h"
#include "replication/lane.h"
#include "replication/lane_wire.h"
#include "replication/transport.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { HANDFUL = 64, BLOB_MAGIC = 0x4e4c4152, BLOB_VERSION = 1 };

/* How one end describes itself. */
struct blob {
	struct le32 magic;
	struct le16 version, mtu;
	struct le64 id;
	uint8_t mac[6];
	uint8_t zero[2];
};
WIRE_SIZE(struct blob, 24);

struct tp_dev {
	struct port *port;
};

struct tp_end {
	struct port *port;
	struct port_end *end;
};

struct dpdk_tp {
	struct tp tp;
	struct port *port;
	struct port_end *end;
	unsigned segment;
	atomic_int down;
	/* the sender's */
	int send_error;
	unsigned told_ms; /* the time-out that the lane knows of */
	void *empty[HANDFUL];
	struct port_filled filled[HANDFUL];
	unsigned n_empty, n_filled, at; /* at: bytes in the frame that is being filled */
	void *frame;
	/* the receiver's */
	int recv_error;
	struct lane_piece piece[HANDFUL];
	unsigned n_pieces, next, used; /* used: bytes of piece[next] */
};

static struct dpdk_tp *of(struct tp *tp)
{
	return (struct dpdk_tp *)tp;
}

static uint64_t in_ms(unsigned ms)
{
	return clock_mono_ns() + ms * 1000000ull;
}

static int may_send(const struct port_end *e)
{
	return e->down || port_has_room(e) || lane_send_error(e->lane);
}

static int may_close(const struct port_end *e)
{
	return e->down || !port_queued(e) || lane_send_error(e->lane);
}

static int may_read(const struct port_end *e)
{
	return e->down || lane_readable(e->lane) || lane_end(e->lane);
}

static int may_start(const struct port_end *e)
{
	return lane_state(e->lane) >= LANE_ST_OPEN;
}

static int error_now(const struct dpdk_tp *t)
{
	return atomic_load(&t->down) ? -ESHUTDOWN : atomic_load(&t->end->send_error);
}

/* Offer what is filled; what there is no room for stays. */
static void offer(struct dpdk_tp *t)
{
	unsigned n = port_offer(t->end, t->filled, t->n_filled);

	t->n_filled -= n;
	memmove(t->filled, t->filled + n, t->n_filled * sizeof(t->filled[0]));
}

/* Until the queue has room, and there are frames. */
static int await_room(struct dpdk_tp *t)
{
	int rc;

	port_lock(t->port);
	rc = port_wait(t->port, t->end, PORT_WRITE, may_send,
		       in_ms(t->tp.send_timeout_ms));
	if (rc) /* half a send may be out: the stream is not whole any more */
		lane_fail(t->end->lane, rc);
	else
		rc = lane_send_error(t->end->lane);
	port_unlock(t->port);
	return atomic_load(&t->down) ? -ESHUTDOWN : rc;
}

static int refill(struct dpdk_tp *t)
{
	int rc = error_now(t);

	if (t->told_ms != t->tp.send_timeout_ms) {
		port_lock(t->port);
		t->told_ms = t->tp.send_timeout_ms;
		lane_set_dead_ms(t->end->lane, t->told_ms);
		port_unlock(t->port);
	}
	while (!rc) {
		offer(t);
		(void)port_attend(t->port, 1); /* awake, or woken */
		if (!t->n_filled)
			t->n_empty = port_grab(t->port, t->empty, HANDFUL);
		if (t->n_empty)
			break;
		rc = await_room(t);
	}
	return rc;
}

/* Offer it all and see it sent. What becomes of it is for later calls: the peer may have answered already and
 * closed behind its answer. */
static int push(struct dpdk_tp *t)
{
	int rc = error_now(t);

	offer(t);
	while (!rc && t->n_filled) {
		(void)port_attend(t->port, 1); /* awake, or woken */
		rc = await_room(t);
		offer(t);
	}
	atomic_store(&t->end->asked, 1);
	if (rc || port_attend(t->port, 0))
		return rc;
	port_lock(t->port);
	port_push(t->port, t->end);
	port_unlock(t->port);
	return 0;
}

static void frame_is_full(struct dpdk_tp *t)
{
	t->filled[t->n_filled++] = (struct port_filled){t->frame, t->at};
	t->frame = NULL;
	t->at = 0;
}

static int put_bytes(struct dpdk_tp *t, const uint8_t *p, size_t left)
{
	size_t n;

	while (left) {
		if (!t->frame) {
			if (!t->n_empty && (t->send_error = refill(t)))
				return t->send_error;
			t->frame = t->empty[--t->n_empty];
		}
		n = t->segment - t->at < left ? t->segment - t->at : left;
		memcpy(port_data(t->frame) + LANE_HEAD + t->at, p, n);
		t->at += (unsigned)n;
		p += n;
		left -= n;
		t->tp.bytes_sent += n;
		if (t->at == t->segment)
			frame_is_full(t);
	}
	return 0;
}

static int dpdk_send(struct tp *tp, const struct iovec *iov, int n)
{
	struct dpdk_tp *t = of(tp);

	if (atomic_load(&t->down) && !t->send_error)
		t->send_error = -ESHUTDOWN;
	for (int i = 0; i < n && !t->send_error; i++)
		(void)put_bytes(t, iov[i].iov_base, iov[i].iov_len); /* in send_error */
	return t->send_error;
}

static int dpdk_flush(struct tp *tp)
{
	struct dpdk_tp *t = of(tp);

	if (t->send_error)
		return t->send_error;
	if (t->frame)
		frame_is_full(t);
	t->send_error = push(t);
	return t->send_error;
}

static void give_back(struct dpdk_tp *t)
{
	void *frames[HANDFUL];

	for (unsigned i = 0; i < t->n_pieces; i++)
		frames[i] = t->piece[i].frame;
	port_put_read(t->port, frames, t->n_pieces);
	t->n_pieces = t->next = t->used = 0;
}

static int take(struct dpdk_tp *t)
{
	struct port *p = t->port;
	int rc = 0;

	give_back(t);
	port_lock(p);
	if (!may_read(t->end))
		port_poll(p);
	while (!may_read(t->end))
		(void)port_wait(p, t->end, PORT_READ, may_read,
				in_ms(1000)); /* for ever */
	if (atomic_load(&t->down))
		rc = -ESHUTDOWN;
	if (!rc) {
		t->n_pieces = lane_take(t->end->lane, t->piece, HANDFUL);
		rc = t->n_pieces ? 0 : lane_end(t->end->lane);
	}
	port_unlock(p);
	return rc;
}

static int dpdk_recv(struct tp *tp, void *p, size_t len)
{
	struct dpdk_tp *t = of(tp);
	size_t done = 0, n;
	int rc = t->recv_error;

	while (done < len && !rc) {
		struct lane_piece *c = &t->piece[t->next];

		if (t->next == t->n_pieces) {
			rc = take(t);
			if (rc == -EPIPE && done)
				rc = -ECONNRESET;
			continue;
		}
		n = c->len - t->used < len - done ? c->len - t->used : len - done;
		memcpy((uint8_t *)p + done, c->data + t->used, n);
		done += n;
		t->used += (unsigned)n;
		tp->heard_ns = clock_mono_ns();
		if (t->used == c->len) {
			t->next++;
			t->used = 0;
		}
	}
	tp->bytes_received += done;
	t->recv_error = rc;
	return rc;
}

static void dpdk_shutdown(struct tp *tp)
{
	struct dpdk_tp *t = of(tp);

	port_lock(t->port);
	atomic_store(&t->down, 1);
	t->end->down = 1;
	port_settle(t->end);
	lane_close(t->end->lane, 1, clock_mono_ns());
	port_push(t->port, t->end);
	pthread_cond_broadcast(&t->end->change);
	port_unlock(t->port);
}

static void dpdk_loss(struct tp *tp, struct tp_loss *out)
{
	struct dpdk_tp *t = of(tp);
	struct lane_stats st;

	port_lock(t->port);
	lane_stats(t->end->lane, &st);
	port_unlock(t->port);
	*out = (struct tp_loss){.unit = "frames", .sent = st.sent, .resent = st.resent};
}

static void dpdk_close(struct tp *tp)
{
	struct dpdk_tp *t = of(tp);
	struct port *p = t->port;
	int rc;

	give_back(t);
	port_lock(p);
	port_settle(t->end);
	/* With a gap in what the peer has, the lane may be full while there are frames yet. */
	rc = port_wait(p, t->end, PORT_WRITE, may_close, in_ms(t->tp.send_timeout_ms));
	for (unsigned i = 0; i < t->n_empty; i++)
		port_put(p, t->empty[i]);
	for (unsigned i = 0; i < t->n_filled; i++)
		port_put(p, t->filled[i].frame);
	if (t->frame)
		port_put(p, t->frame);
	lane_close(t->end->lane, rc != 0, clock_mono_ns());
	port_push(p, t->end);
	port_leave(p, t->end);
	port_unlock(p);
	free(t);
}

static const struct tp_ops dpdk_ops = {
	.name = "dpdk",
	.send = dpdk_send,
	.flush = dpdk_flush,
	.recv = dpdk_recv,
	.shutdown = dpdk_shutdown,
	.loss = dpdk_loss,
	.close = dpdk_close,
};

static int dev_open(const char *args, struct tp_dev **dev_out, struct err *err)
{
	struct tp_dev *d = calloc(1, sizeof(*d));
	int rc = d ? port_open(args, &d->port, err) : err_set(err, -ENOMEM, "dpdk");

	if (rc) {
		free(d);
		return rc;
	}
	*dev_out = d;
	return 0;
}

static void dev_close(struct tp_dev *dev)
{
	if (!dev)
		return;
	port_close(dev->port);
	free(dev);
}

static int dev_prepare(struct tp_dev *dev, int server, struct tp_end **end_out,
		       uint8_t blob_out[TP_BLOB_MAX], size_t *len_out, struct err *err)
{
	struct tp_end *e = calloc(1, sizeof(*e));
	struct blob b = {
		.magic = le32_of(BLOB_MAGIC),
		.version = le16_of(BLOB_VERSION),
		.mtu = le16_of((uint16_t)port_mtu(dev->port)),
	};
	int rc = 0;

	if (!e)
		return err_set(err, -ENOMEM, "dpdk: out of memory");
	e->port = dev->port;
	port_lock(e->port);
	if (!port_is_up(e->port))
		rc = err_set(err, -ENETDOWN, "dpdk: the port has no link");
	e->end = rc ? NULL : port_add(e->port, err);
	port_unlock(e->port);
	if (!e->end) {
		free(e);
		return rc ? rc : -EMFILE;
	}
	b.id = le64_of(e->end->id);
	memcpy(b.mac, port_mac(e->port), sizeof(b.mac));
	memcpy(blob_out, &b, sizeof(b));
	*len_out = sizeof(b);
	*end_out = e;
	return 0;
}

static void end_discard(struct tp_end *end)
{
	if (!end)
		return;
	port_lock(end->port);
	port_leave(end->port, end->end);
	port_unlock(end->port);
	free(end);
}

static int read_blob(const uint8_t *blob, size_t len, struct lane_cfg *cfg,
		     struct err *err)
{
	struct blob b;

	if (len < sizeof(b)) /* a newer peer may say more */
		return err_set(err, -EPROTO, "dpdk: the peer's description is too short");
	memcpy(&b, blob, sizeof(b));
	if (le32_get(b.magic) != BLOB_MAGIC)
		return err_set(err, -EPROTO, "dpdk: the peer describes no DPDK port");
	if (le16_get(b.version) != BLOB_VERSION)
		return err_set(err, -EPROTO,
			       "dpdk: the peer's description has version %u, "
			       "this is %d",
			       le16_get(b.version), BLOB_VERSION);
	*cfg = (struct lane_cfg){
		.peer_id = le64_get(b.id),
		.mtu = le16_get(b.mtu),
		.dead_ms = TP_SEND_TIMEOUT_MS,
	};
	memcpy(cfg->peer_mac, b.mac, sizeof(cfg->peer_mac));
	return 0;
}

/* Locked. Until the lane is open. */
static int start(struct tp_end *end, struct lane_cfg *cfg, unsigned timeout_ms,
		 struct err *err)
{
	struct port_end *e = end->end;
	int rc = port_start_lane(end->port, e, cfg);

	if (rc)
		return err_set(err, rc, "dpdk: memory for a link");
	port_push(end->port, e);
	rc = port_wait(end->port, e, PORT_WRITE, may_start, in_ms(timeout_ms));
	if (!rc && lane_state(e->lane) != LANE_ST_OPEN)
		rc = lane_error(e->lane) ? lane_error(e->lane) : -ECONNRESET;
	if (rc == -ETIMEDOUT)
		rc = err_set(err, rc, "dpdk: the peer does not answer over the wire (%s)",
			     lane_state_name(lane_state(e->lane)));
	else if (rc)
		rc = err_sys(err, rc, "dpdk: no link over the wire");
	if (rc)
		lane_fail(e->lane, rc);
	return rc;
}

static int end_connect(struct tp_end *end, const uint8_t *blob, size_t len,
		       unsigned timeout_ms, struct tp **tp_out, struct err *err)
{
	struct dpdk_tp *t = calloc(1, sizeof(*t));
	struct lane_cfg cfg;
	int rc = t ? read_blob(blob, len, &cfg, err)
		   : err_set(err, -ENOMEM, "dpdk: out of memory");

	port_lock(end->port);
	if (!rc)
		rc = start(end, &cfg, timeout_ms, err);
	if (!t || rc) {
		port_leave(end->port, end->end);
		port_unlock(end->port);
		free(end);
		free(t);
		return rc;
	}
	*t = (struct dpdk_tp){
		.tp = {.ops = &dpdk_ops, .send_timeout_ms = TP_SEND_TIMEOUT_MS},
		.port = end->port,
		.end = end->end,
		.segment = lane_segment(end->end->lane),
	};
	port_unlock(end->port);
	free(end);
	*tp_out = &t->tp;
	return 0;
}

/* For tests: how the port waits when it is idle, how often it waited for traffic, and how often
 * traffic ended that. Any thread. */
const char *rhea_tp_dpdk_idle(struct tp_dev *dev, unsigned *waits, unsigned *woken);
__attribute__((visibility("default"))) const char *
rhea_tp_dpdk_idle(struct tp_dev *dev, unsigned *waits, unsigned *woken)
{
	return port_idle_mode(dev->port, waits, woken);
}

extern const struct tp_module rhea_tp_module;
__attribute__((visibility("default"))) const struct tp_module rhea_tp_module = {
	.version = TP_MODULE_VERSION,
	.name = "dpdk",
	.open = dev_open,
	.close = dev_close,
	.prepare = dev_prepare,
	.connect = end_connect,
	.discard = end_discard,
};
