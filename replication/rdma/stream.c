/* SPDX-License-Identifier: Apache-2.0
 * stream - the operations of transport.h over a link.
 *
 * Theory of operation. Bytes are copied into a registered ring here, written by the device
 * into the ring that the peer registered, and copied out of it there: two copies, both by
 * threads that have the bytes in their cache or want them there, and no memory of a caller
 * is ever pinned. The peer may write into its room at any time; so what is read of the
 * ring is read once, by that copy, and is judged only afterwards.
 *
 * Why no write straight from the caller's memory: send() returns when the bytes may be
 * reused, so it would have to wait for the peer's acknowledgement each time; and a
 * registration that is kept for the next call goes on meaning the old pages when the
 * caller's memory is unmapped and mapped again, without anybody being told. RDMA.md has
 * what the copy costs.
 *
 * The room for a stretch of bytes is taken under the lock, and so is the news that they
 * are there; the copying in between is not.
 */
#include "replication/rdma/link.h"

#include "hv/base/clock.h"
#include "replication/rdma/dev.h"

#include <errno.h>
#include <string.h>

enum {
	POST_STEP = 64 << 10,  /* so much is given to the device without a flush */
	PIECE_MAX = 256 << 10, /* in one request */
	TELL_PART = 8,	       /* the reader hears of each such part of his ring */
	NS_PER_MS = 1000000,
};

static struct link *of(struct tp *tp)
{
	return (struct link *)tp;
}

static int sender_error(const struct link *l)
{
	return l->down ? -ESHUTDOWN : l->dead;
}

typedef int may_fn(const struct link *l);

static int has_room(const struct link *l)
{
	return ring_out_room(&l->out) > 0;
}

static int may_tell(const struct link *l)
{
	return queue_has_slot(l) && ring_out_may_tell(&l->out);
}

/* Until the sender @may, or an error: no progress for too long is one, and then half a
 * send may have gone out, so the stream is not whole any more. Locked. */
static int sender_wait(struct link *l, may_fn *may)
{
	const uint64_t limit = (uint64_t)l->tp.send_timeout_ms * NS_PER_MS;
	uint64_t moved = ~0ull, until = 0;
	int rc = 0;

	queue_progress(l);
	while (!sender_error(l) && !may(l)) {
		if (rc) {
			l->dead = rc;
			queue_say(l, LINK_ABORT);
			break;
		}
		if (moved != l->out.freed + l->out.done) {
			moved = l->out.freed + l->out.done;
			until = clock_mono_ns() + limit;
		}
		rc = wait_change(l, &l->sender, until);
	}
	return sender_error(l);
}

/* Give the device what was put; @tell: and announce all of it. Locked. */
static int write_out(struct link *l, int tell)
{
	const uint64_t part = l->out.remote / TELL_PART;
	int rc = 0, now;

	while (!rc &&
	       (l->out.posted < l->out.put || (tell && l->out.told < l->out.put))) {
		now = tell && l->out.put - l->out.posted <= PIECE_MAX;
		rc = sender_wait(l, now ? may_tell : queue_has_slot);
		if (rc)
			break;
		if (l->out.posted - l->out.told >= part && may_tell(l))
			now = 1;
		queue_write(l, PIECE_MAX, now);
		rc = sender_error(l);
	}
	return rc;
}

/* Room for a stretch of bytes, in @n_out. What the peer has not heard of it cannot free.
 */
static int take_room(struct link *l, size_t *n_out)
{
	int rc = sender_error(l);

	if (!rc && !has_room(l)) {
		rc = write_out(l, 1);
		if (!rc)
			rc = sender_wait(l, has_room);
	}
	*n_out = ring_out_room(&l->out);
	return rc;
}

static int send_piece(struct link *l, const uint8_t *p, size_t len)
{
	size_t n;
	int rc = 0;

	while (len && !rc) {
		rc = take_room(l, &n);
		if (rc)
			break;
		n = n < len ? n : len;
		n = n < POST_STEP ? n : POST_STEP;
		pthread_mutex_unlock(&l->lock);
		memcpy(l->mem_out.p + l->out.put % l->out.local, p, n);
		pthread_mutex_lock(&l->lock);
		l->out.put += n;
		p += n;
		len -= n;
		if (l->out.put - l->out.posted >= POST_STEP)
			rc = write_out(l, 0);
	}
	return rc;
}

static int stream_send(struct tp *tp, const struct iovec *iov, int n)
{
	struct link *l = of(tp);
	int rc;

	pthread_mutex_lock(&l->lock);
	rc = sender_error(l);
	for (int i = 0; i < n && !rc; i++) {
		rc = send_piece(l, iov[i].iov_base, iov[i].iov_len);
		if (!rc)
			tp->bytes_sent += iov[i].iov_len;
	}
	pthread_mutex_unlock(&l->lock);
	return rc;
}

static int stream_flush(struct tp *tp)
{
	struct link *l = of(tp);
	int rc;

	pthread_mutex_lock(&l->lock);
	rc = sender_error(l);
	if (!rc)
		rc = write_out(l, 1);
	pthread_mutex_unlock(&l->lock);
	return rc;
}

/* Until there is something to read: how much, in @n_out. Locked. */
static int receiver_wait(struct link *l, size_t *n_out)
{
	int looked = 0;

	for (;;) {
		if (l->down)
			return -ESHUTDOWN;
		*n_out = ring_in_ready(&l->in);
		if (*n_out)
			return 0;
		if (l->end)
			return l->end;
		if (looked && wait_change(l, &l->receiver, 0))
			return -ETIMEDOUT; /* not without a deadline */
		queue_progress(l);
		looked = 1;
	}
}

static int stream_recv(struct tp *tp, void *p, size_t len)
{
	struct link *l = of(tp);
	size_t done = 0, n;
	int rc = 0;

	pthread_mutex_lock(&l->lock);
	while (done < len && !(rc = receiver_wait(l, &n))) {
		n = n < len - done ? n : len - done;
		tp->heard_ns = clock_mono_ns();
		pthread_mutex_unlock(&l->lock);
		memcpy((uint8_t *)p + done, l->mem_in.p + l->in.read % l->in.size, n);
		pthread_mutex_lock(&l->lock);
		ring_in_read(&l->in, n);
		done += n;
		if (ring_in_due(&l->in))
			queue_progress(l);
	}
	if (rc == -EPIPE && done)
		l->end = rc = -ECONNRESET;
	tp->bytes_received += done;
	pthread_mutex_unlock(&l->lock);
	return rc;
}

static void stream_shutdown(struct tp *tp)
{
	struct link *l = of(tp);

	pthread_mutex_lock(&l->lock);
	if (!l->down) {
		l->down = 1;
		/* After all that was flushed: the peer can still read our last word. */
		if (!l->dead)
			queue_say(l, LINK_ABORT);
		wait_wake(l);
	}
	pthread_mutex_unlock(&l->lock);
}

/* Say good-bye, unless the stream has ended already, and wait until the peer's device has
 * it: after that the queue pair can go. A path that is dead ends this wait as well. */
static void stream_close(struct tp *tp)
{
	struct link *l = of(tp);
	uint64_t until;

	pthread_mutex_lock(&l->lock);
	queue_progress(l);
	until = clock_mono_ns() + 2ull * l->dev->args.silence_ms * NS_PER_MS;
	if (!l->dead && !l->down)
		queue_say(l, LINK_BYE);
	while (!l->end && l->sq.head != l->sq.tail && !wait_change(l, &l->sender, until))
		queue_progress(l);
	pthread_mutex_unlock(&l->lock);
	link_free(l);
}

const struct tp_ops stream_ops = {
	.name = "rdma",
	.send = stream_send,
	.flush = stream_flush,
	.recv = stream_recv,
	.shutdown = stream_shutdown,
	.loss = tp_loss_unseen,
	.close = stream_close,
};
