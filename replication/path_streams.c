/* SPDX-License-Identifier: Apache-2.0
 * path_streams - the further connections of a tcp path: who they are, and where they belong.
 */
#include "replication/path_streams.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "replication/path.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char magic[8] = {'R', 'H', 'E', 'A', 'S', 'T', 'R', 'M'};
#define TICKET_LABEL "EXPORTER-rhea-stream"

struct path_hall {
	pthread_mutex_t lock;
	pthread_cond_t came;
	struct path_party *all;
};

int path_party_init(struct path_party *p, struct tp *first, unsigned n, const void *said,
		    size_t len)
{
	uint8_t context[2 * sizeof(struct path_hello_wire) + 1];
	int rc = 0;

	*p = (struct path_party){.n = n, .missing = n - 1, .tp[0] = first};
	if (len >= sizeof(context))
		return -EIO;
	memcpy(context, said, len);
	for (unsigned i = 1; i < n && !rc; i++) {
		context[len] = (uint8_t)i;
		rc = tp_tcp_export(first, TICKET_LABEL, context, len + 1, p->ticket[i],
				   PATH_TICKET_LEN);
	}
	return rc;
}

void path_party_fini(struct path_party *p)
{
	for (unsigned i = 1; i < p->n; i++) {
		tp_close(p->tp[i]);
		p->tp[i] = NULL;
	}
	OPENSSL_cleanse(p->ticket, sizeof(p->ticket));
}

int path_hall_create(struct path_hall **h_out)
{
	struct path_hall *h = calloc(1, sizeof(*h));
	pthread_condattr_t at;

	if (!h)
		return -ENOMEM;
	/* Plain initialisation of these cannot fail on Linux. */
	pthread_mutex_init(&h->lock, NULL);
	pthread_condattr_init(&at);
	pthread_condattr_setclock(&at, CLOCK_MONOTONIC);
	pthread_cond_init(&h->came, &at);
	pthread_condattr_destroy(&at);
	*h_out = h;
	return 0;
}

void path_hall_destroy(struct path_hall *h)
{
	if (!h)
		return;
	pthread_cond_destroy(&h->came);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

void path_hall_expect(struct path_hall *h, struct path_party *p)
{
	pthread_mutex_lock(&h->lock);
	p->next = h->all;
	h->all = p;
	pthread_mutex_unlock(&h->lock);
}

static void leave(struct path_hall *h, const struct path_party *p)
{
	struct path_party **at = &h->all;

	while (*at && *at != p)
		at = &(*at)->next;
	if (*at)
		*at = p->next;
}

void path_hall_leave(struct path_hall *h, const struct path_party *p)
{
	pthread_mutex_lock(&h->lock);
	leave(h, p);
	pthread_mutex_unlock(&h->lock);
}

int path_hall_wait(struct path_hall *h, struct path_party *p, unsigned timeout_ms)
{
	uint64_t until = clock_mono_ns() + timeout_ms * 1000000ull;
	struct timespec ts = {.tv_sec = (time_t)(until / 1000000000),
			      .tv_nsec = (long)(until % 1000000000)};
	int rc = 0;

	pthread_mutex_lock(&h->lock);
	while (p->missing && !rc)
		rc = -pthread_cond_timedwait(&h->came, &h->lock, &ts);
	rc = p->missing ? -ETIMEDOUT : 0;
	leave(h, p);
	pthread_mutex_unlock(&h->lock);
	return rc;
}

/* Who waits for the stream with this ticket, if nobody has brought it yet. Lock held. */
static struct path_party *find(struct path_hall *h, const struct path_stream_wire *w)
{
	for (struct path_party *p = h->all; p; p = p->next)
		if (w->index < p->n && !p->tp[w->index] &&
		    !CRYPTO_memcmp(p->ticket[w->index], w->ticket, PATH_TICKET_LEN))
			return p;
	return NULL;
}

static int hear(struct tp *tp, unsigned timeout_ms, int server,
		struct path_stream_wire *w, struct err *err)
{
	static const uint8_t zero[sizeof(w->zero)];
	int rc;

	tp_tcp_set_recv_timeout(tp, timeout_ms);
	rc = tp_recv(tp, w, sizeof(*w));
	tp_tcp_set_recv_timeout(tp, 0);
	if (rc)
		return err_sys(err, rc, "what a stream is for");
	if (memcmp(w->magic, magic, sizeof(magic)) != 0 ||
	    le16_get(w->version) != PATH_VERSION || w->server != server || !w->index ||
	    w->index >= TP_TCP_STREAMS_MAX || memcmp(w->zero, zero, sizeof(zero)) != 0)
		return err_set(err, -EPROTO,
			       "the peer said something else than which stream it is");
	return 0;
}

static int say(struct tp *tp, const struct path_stream_wire *w)
{
	struct iovec v = {.iov_base = (void *)w, .iov_len = sizeof(*w)};
	int rc = tp_send(tp, &v, 1);

	return rc ? rc : tp_flush(tp);
}

/* The answer goes first: who waits may send on the stream as soon as it has it. */
static int bring(struct path_hall *hall, struct tp *tp, struct path_stream_wire *w,
		 struct err *err)
{
	struct path_party *p;
	int rc;

	w->server = 1;
	pthread_mutex_lock(&hall->lock);
	p = find(hall, w);
	w->status = le16_of(p ? 0 : 1);
	/* A few bytes on a connection that is new: there is room for them, nothing waits. */
	rc = say(tp, w);
	if (p && !rc) {
		p->tp[w->index] = tp;
		p->missing--;
		pthread_cond_broadcast(&hall->came);
	}
	pthread_mutex_unlock(&hall->lock);
	if (!p)
		return err_set(err, -ESTALE, "nobody waits for this stream");
	return rc ? err_sys(err, rc, "answering a stream") : 0;
}

int path_stream_accept(int fd, const struct path_key *key, struct path_hall *hall,
		       struct err *err)
{
	struct path_stream_wire w;
	struct tp *tp;
	int rc = tp_tcp_open(fd, 1, key->pair, key->psk, key->timeout_ms, &tp, err);

	if (rc)
		return rc;
	rc = hear(tp, key->timeout_ms, 0, &w, err);
	rc = rc ? rc : bring(hall, tp, &w, err);
	if (rc)
		tp_close(tp);
	OPENSSL_cleanse(&w, sizeof(w));
	return rc;
}

int path_stream_connect(int fd, const struct path_key *key, struct path_party *p,
			unsigned i, struct err *err)
{
	struct path_stream_wire w = {.version = le16_of(PATH_VERSION),
				     .index = (uint8_t)i};
	struct path_stream_wire answer;
	struct tp *tp;
	int rc = tp_tcp_open(fd, 0, key->pair, key->psk, key->timeout_ms, &tp, err);

	if (rc)
		return err_ctx(err, "stream %u", i);
	memcpy(w.magic, magic, sizeof(magic));
	memcpy(w.ticket, p->ticket[i], sizeof(w.ticket));
	rc = say(tp, &w);
	if (rc)
		(void)err_sys(err, rc, "saying which stream it is"); /* keeps rc */
	rc = rc ? rc : hear(tp, key->timeout_ms, 1, &answer, err);
	if (!rc && (answer.index != w.index || le16_get(answer.status)))
		rc = err_set(err, -ECONNREFUSED, "the peer refused stream %u", i);
	OPENSSL_cleanse(&w, sizeof(w));
	if (rc)
		tp_close(tp);
	else
		p->tp[i] = tp;
	return rc;
}
