/* SPDX-License-Identifier: Apache-2.0
 * stripes - several TLS streams as one.
 */
#include "replication/stripes.h"

#include "hv/base/err.h"
#include "replication/tlsstream.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { INLINE_MAX = 16 << 10 }; /* a flush of so much may go on the caller's thread */

struct stripe {
	uint64_t number;
	uint32_t len;
	uint8_t data[STRIPE_MAX];
};

/* Slots first .. first + n - 1 are full; the others are the producer's. */
struct queue {
	unsigned first, n;
	struct stripe slot[STRIPE_DEPTH];
};

struct lane {
	struct stripes *s;
	struct tlsstream *stream;
	pthread_t tx_thread, rx_thread;
	int tx_started, rx_started;
	/* Under s->lock; what is in a slot belongs to who has it. */
	pthread_cond_t tx_cond, rx_cond; /* work; room */
	int rx_error;			 /* nothing more comes */
	struct queue tx, rx;
};

struct stripes {
	unsigned n;
	pthread_mutex_t lock;
	pthread_cond_t sent,
		came; /* room in a queue, or all are empty; a stripe, or an end */
	/* Under lock. */
	int stop, down;
	int send_error, recv_error;
	unsigned timeout_ms;
	/* The sender's. */
	struct lane *filling; /* in @fill, its first free slot, are so many bytes */
	struct stripe *fill;
	uint32_t filled;
	uint64_t next_out;
	/* The receiver's. */
	uint64_t next_in;
	uint32_t taken; /* of the stripe with that number */
	struct lane lane[];
};

static struct stripe *head(struct queue *q)
{
	return &q->slot[q->first];
}

static struct stripe *tail(struct queue *q)
{
	return &q->slot[(q->first + q->n) % STRIPE_DEPTH];
}

static void pop(struct queue *q)
{
	q->first = (q->first + 1) % STRIPE_DEPTH;
	q->n--;
}

/* The whole thing is broken: for senders at once, for the receiver after what has come, and the same for the
 * peer, who may be waiting for the rest of a stripe that is not sent any more. Lock held. */
static void broken(struct stripes *s, int rc)
{
	if (!s->send_error)
		s->send_error = s->down ? -ESHUTDOWN : rc == -EPIPE ? -ECONNRESET : rc;
	for (unsigned i = 0; i < s->n; i++)
		tlsstream_break(s->lane[i].stream);
	pthread_cond_broadcast(&s->sent);
}

static int put(struct lane *l, const struct stripe *st, int flush, unsigned timeout_ms)
{
	struct stripe_wire h = {.len = le32_of(st->len), .number = le64_of(st->number)};
	struct iovec v[2] = {{.iov_base = &h, .iov_len = sizeof(h)},
			     {.iov_base = (void *)st->data, .iov_len = st->len}};
	int rc = tlsstream_send(l->stream, v, 2, timeout_ms);

	return rc || !flush ? rc : tlsstream_flush(l->stream, timeout_ms);
}

static void *tx_main(void *arg)
{
	struct lane *l = arg;
	struct stripes *s = l->s;
	struct stripe *st;
	unsigned timeout_ms;
	int rc, last;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		while (!s->stop && (!l->tx.n || s->send_error))
			(void)pthread_cond_wait(&l->tx_cond, &s->lock); /* cannot fail */
		if (s->stop)
			break;
		st = head(&l->tx);
		last = l->tx.n == 1;
		timeout_ms = s->timeout_ms;
		pthread_mutex_unlock(&s->lock);
		/* If it is not the last, the last will flush it as well. */
		rc = put(l, st, last, timeout_ms);
		pthread_mutex_lock(&s->lock);
		pop(&l->tx);
		if (rc)
			broken(s, rc);
		pthread_cond_signal(&s->sent);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static int get(struct lane *l, struct stripe *st, uint64_t least)
{
	struct stripe_wire h;
	size_t done;
	int rc = tlsstream_recv(l->stream, &h, sizeof(h), &done);

	if (rc)
		return rc;
	st->len = le32_get(h.len);
	st->number = le64_get(h.number);
	if (!st->len || st->len > STRIPE_MAX || le32_get(h.zero) || st->number < least)
		return -EBADMSG;
	rc = tlsstream_recv(l->stream, st->data, st->len, &done);
	return rc == -EPIPE ? -ECONNRESET : rc;
}

static void *rx_main(void *arg)
{
	struct lane *l = arg;
	struct stripes *s = l->s;
	uint64_t least = 0;
	struct stripe *st;
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	while (!rc) {
		while (!s->stop && !s->down && l->rx.n == STRIPE_DEPTH)
			(void)pthread_cond_wait(&l->rx_cond, &s->lock); /* cannot fail */
		if (s->stop || s->down)
			break;
		st = tail(&l->rx);
		pthread_mutex_unlock(&s->lock);
		rc = get(l, st, least);
		least = st->number + 1;
		pthread_mutex_lock(&s->lock);
		if (!rc)
			l->rx.n++;
		pthread_cond_signal(&s->came);
	}
	l->rx_error = rc ? rc : -ESHUTDOWN;
	/* The others end by themselves if the peer closes in good order. */
	if (rc && rc != -EPIPE && !s->stop) {
		if (!s->recv_error)
			s->recv_error = s->down ? -ESHUTDOWN : rc;
		broken(s, rc);
	}
	pthread_cond_signal(&s->came);
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* Where the next stripe is filled: the shortest queue. Lock held; waits for room. */
static void choose(struct stripes *s)
{
	struct lane *best;

	while (!s->send_error) {
		best = &s->lane[0];
		for (unsigned i = 1; i < s->n; i++)
			if (s->lane[i].tx.n < best->tx.n)
				best = &s->lane[i];
		if (best->tx.n < STRIPE_DEPTH) {
			s->filling = best;
			s->fill = tail(&best->tx);
			s->filled = 0;
			return;
		}
		(void)pthread_cond_wait(&s->sent, &s->lock); /* cannot fail */
	}
}

/* What is being filled is whole: it gets its number. Lock held. */
static struct stripe *finish(struct stripes *s)
{
	struct stripe *st = s->fill;

	st->len = s->filled;
	st->number = s->next_out++;
	s->fill = NULL;
	return st;
}

/* Lock held. */
static void submit(struct stripes *s)
{
	(void)finish(s); /* is the first free slot */
	s->filling->tx.n++;
	pthread_cond_signal(&s->filling->tx_cond);
}

static int add_piece(struct stripes *s, const uint8_t *p, size_t len)
{
	size_t n;

	while (len) {
		pthread_mutex_lock(&s->lock);
		if (s->fill && s->filled == STRIPE_MAX)
			submit(s);
		if (!s->fill)
			choose(s);
		pthread_mutex_unlock(&s->lock);
		if (!s->fill)
			return -EIO; /* told by send_error */
		n = STRIPE_MAX - s->filled < len ? STRIPE_MAX - s->filled : len;
		memcpy(s->fill->data + s->filled, p, n);
		s->filled += (uint32_t)n;
		p += n;
		len -= n;
	}
	return 0;
}

static int send_error(struct stripes *s)
{
	int rc;

	pthread_mutex_lock(&s->lock);
	rc = s->send_error;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int stripes_send(struct stripes *s, const struct iovec *iov, int n, unsigned timeout_ms)
{
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	s->timeout_ms = timeout_ms;
	pthread_mutex_unlock(&s->lock);
	for (int i = 0; i < n && !rc; i++)
		rc = add_piece(s, iov[i].iov_base, iov[i].iov_len);
	return send_error(s);
}

/* All queues are empty. Lock held. */
static int idle(const struct stripes *s)
{
	for (unsigned i = 0; i < s->n; i++)
		if (s->lane[i].tx.n)
			return 0;
	return 1;
}

/* Without waking a thread for it, as its queue is empty. Lock held; lets go of it. */
static void put_inline(struct stripes *s)
{
	struct stripe *st = finish(s);
	unsigned timeout_ms = s->timeout_ms;
	int rc;

	pthread_mutex_unlock(&s->lock);
	rc = put(s->filling, st, 1, timeout_ms);
	pthread_mutex_lock(&s->lock);
	if (rc)
		broken(s, rc);
}

int stripes_flush(struct stripes *s)
{
	int rc;

	pthread_mutex_lock(&s->lock);
	if (s->fill && !s->send_error) {
		if (s->filled <= INLINE_MAX && idle(s))
			put_inline(s);
		else
			submit(s);
	}
	while (!s->send_error && !idle(s))
		(void)pthread_cond_wait(&s->sent, &s->lock); /* cannot fail */
	rc = s->send_error;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* The lane whose first stripe is the next one, or NULL; *lost_out: it cannot come any more. Lock
 * held. */
static struct lane *find_next(struct stripes *s, int *lost_out)
{
	int lost = 1;

	for (unsigned i = 0; i < s->n; i++) {
		struct lane *l = &s->lane[i];

		if (l->rx.n && head(&l->rx)->number == s->next_in)
			return l;
		lost &= l->rx.n || l->rx_error;
	}
	*lost_out = lost;
	return NULL;
}

/* Why the next stripe cannot come. Lock held. */
static int why_lost(struct stripes *s, size_t done)
{
	int rc = s->down ? -ESHUTDOWN : s->recv_error;

	for (unsigned i = 0; i < s->n && !rc; i++)
		if (s->lane[i].rx.n)
			rc = -ECONNRESET;
	if (!rc)
		rc = done ? -ECONNRESET : -EPIPE;
	s->recv_error = rc;
	return rc;
}

/* Take from @l's first stripe. Lock held; lets go of it. */
static size_t take(struct stripes *s, struct lane *l, uint8_t *p, size_t len)
{
	struct stripe *st = head(&l->rx);
	size_t n = st->len - s->taken < len ? st->len - s->taken : len;

	pthread_mutex_unlock(&s->lock);
	memcpy(p, st->data + s->taken, n);
	pthread_mutex_lock(&s->lock);
	s->taken += (uint32_t)n;
	if (s->taken == st->len) {
		s->taken = 0;
		s->next_in++;
		pop(&l->rx);
		pthread_cond_signal(&l->rx_cond);
	}
	return n;
}

int stripes_recv(struct stripes *s, void *p, size_t len, size_t *done_out)
{
	struct lane *l;
	size_t done = 0;
	int rc = 0, lost;

	pthread_mutex_lock(&s->lock);
	while (done < len && !rc) {
		l = find_next(s, &lost);
		if (s->down)
			rc = -ESHUTDOWN;
		else if (l)
			done += take(s, l, (uint8_t *)p + done, len - done);
		else if (lost)
			rc = why_lost(s, done);
		else
			(void)pthread_cond_wait(&s->came, &s->lock); /* cannot fail */
	}
	pthread_mutex_unlock(&s->lock);
	*done_out = done;
	return rc;
}

void stripes_shutdown(struct stripes *s)
{
	pthread_mutex_lock(&s->lock);
	s->down = 1;
	for (unsigned i = 0; i < s->n; i++) {
		tlsstream_shutdown(s->lane[i].stream);
		pthread_cond_broadcast(&s->lane[i].rx_cond);
	}
	broken(s, -ESHUTDOWN);
	pthread_cond_broadcast(&s->came);
	pthread_mutex_unlock(&s->lock);
}

uint64_t stripes_heard(const struct stripes *s)
{
	uint64_t last = 0, heard;

	for (unsigned i = 0; i < s->n; i++) {
		heard = tlsstream_heard(s->lane[i].stream);
		last = heard > last ? heard : last;
	}
	return last;
}

void stripes_loss(struct stripes *s, struct tp_loss *sum)
{
	for (unsigned i = 0; i < s->n; i++)
		tlsstream_loss(s->lane[i].stream, sum);
}

/* No thread is at a stream any more. Who is sending what nobody flushed is not waited for. */
static void end_threads(struct stripes *s)
{
	pthread_mutex_lock(&s->lock);
	s->stop = 1;
	for (unsigned i = 0; i < s->n; i++) {
		if (s->lane[i].tx.n)
			tlsstream_shutdown(s->lane[i].stream);
		tlsstream_no_more(s->lane[i].stream);
		pthread_cond_broadcast(&s->lane[i].tx_cond);
		pthread_cond_broadcast(&s->lane[i].rx_cond);
	}
	pthread_mutex_unlock(&s->lock);
	/* Joining threads of our own that nobody else joins cannot fail. */
	for (unsigned i = 0; i < s->n; i++) {
		if (s->lane[i].tx_started)
			pthread_join(s->lane[i].tx_thread, NULL);
		if (s->lane[i].rx_started)
			pthread_join(s->lane[i].rx_thread, NULL);
	}
}

void stripes_close(struct stripes *s)
{
	end_threads(s);
	for (unsigned i = 0; i < s->n; i++) {
		tlsstream_close(s->lane[i].stream);
		pthread_cond_destroy(&s->lane[i].tx_cond);
		pthread_cond_destroy(&s->lane[i].rx_cond);
	}
	pthread_cond_destroy(&s->sent);
	pthread_cond_destroy(&s->came);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static int start(struct lane *l)
{
	int rc = -pthread_create(&l->tx_thread, NULL, tx_main, l);

	l->tx_started = !rc;
	if (!rc)
		rc = -pthread_create(&l->rx_thread, NULL, rx_main, l);
	l->rx_started = !rc;
	return rc;
}

int stripes_create(struct tlsstream *const *streams, unsigned n, struct stripes **s_out,
		   struct err *err)
{
	struct stripes *s = calloc(1, sizeof(*s) + n * sizeof(s->lane[0]));
	int rc = 0;

	if (!s) {
		for (unsigned i = 0; i < n; i++)
			tlsstream_close(streams[i]);
		return err_set(err, -ENOMEM, "no memory for %u streams", n);
	}
	s->n = n;
	/* Plain initialisation of these cannot fail on Linux. */
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->sent, NULL);
	pthread_cond_init(&s->came, NULL);
	for (unsigned i = 0; i < n; i++) {
		s->lane[i].s = s;
		s->lane[i].stream = streams[i];
		pthread_cond_init(&s->lane[i].tx_cond, NULL);
		pthread_cond_init(&s->lane[i].rx_cond, NULL);
	}
	for (unsigned i = 0; i < n && !rc; i++)
		rc = start(&s->lane[i]);
	if (rc) {
		stripes_close(s);
		return err_sys(err, rc, "a thread for a link's stream");
	}
	*s_out = s;
	return 0;
}
