/* SPDX-License-Identifier: Apache-2.0
 * tcp - the transport over TCP sockets with TLS 1.3: one stream, which the callers' threads serve, or several
 * with threads of their own.
 */
#include "replication/transport.h"

#include "hv/base/err.h"
#include "replication/stripes.h"
#include "replication/tls.h"
#include "replication/tlsstream.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

_Static_assert((int)TP_PSK_LEN == (int)TLS_PSK_LEN, "one length of key");

struct tcp {
	struct tp tp;
	struct tlsstream *stream; /* the only one, or the first of the stripes */
	struct stripes *stripes;  /* NULL: there is only one */
	pthread_mutex_t export;
};

static const struct tp_ops tcp_ops;

static struct tcp *of(struct tp *tp)
{
	assert(tp->ops == &tcp_ops);
	return (struct tcp *)tp;
}

static int tcp_send(struct tp *tp, const struct iovec *iov, int n)
{
	struct tcp *t = of(tp);
	int rc = t->stripes ? stripes_send(t->stripes, iov, n, tp->send_timeout_ms)
			    : tlsstream_send(t->stream, iov, n, tp->send_timeout_ms);

	for (int i = 0; i < n && !rc; i++)
		tp->bytes_sent += iov[i].iov_len;
	return rc;
}

static int tcp_flush(struct tp *tp)
{
	struct tcp *t = of(tp);

	return t->stripes ? stripes_flush(t->stripes)
			  : tlsstream_flush(t->stream, tp->send_timeout_ms);
}

static int tcp_recv(struct tp *tp, void *p, size_t len)
{
	struct tcp *t = of(tp);
	size_t done;
	int rc = t->stripes ? stripes_recv(t->stripes, p, len, &done)
			    : tlsstream_recv(t->stream, p, len, &done);

	tp->bytes_received += done;
	return rc;
}

static void tcp_shutdown(struct tp *tp)
{
	struct tcp *t = of(tp);

	if (t->stripes)
		stripes_shutdown(t->stripes);
	else
		tlsstream_shutdown(t->stream);
}

/* A record is read when all of it is here, which takes longer than a silence on a slow wire; and what the
 * peer says may wait behind an acknowledgement that waits behind our own bytes. The kernel knows
 * better. */
static uint64_t tcp_heard(struct tp *tp)
{
	struct tcp *t = of(tp);

	return t->stripes ? stripes_heard(t->stripes) : tlsstream_heard(t->stream);
}

static void tcp_loss(struct tp *tp, struct tp_loss *out)
{
	struct tcp *t = of(tp);

	tp_loss_unseen(tp, out);
	if (t->stripes)
		stripes_loss(t->stripes, out);
	else
		tlsstream_loss(t->stream, out);
}

static void tcp_close(struct tp *tp)
{
	struct tcp *t = of(tp);

	if (t->stripes)
		stripes_close(t->stripes);
	else
		tlsstream_close(t->stream);
	pthread_mutex_destroy(&t->export);
	free(t);
}

static const struct tp_ops tcp_ops = {
	.name = "tcp",
	.send = tcp_send,
	.flush = tcp_flush,
	.recv = tcp_recv,
	.shutdown = tcp_shutdown,
	.heard = tcp_heard,
	.loss = tcp_loss,
	.close = tcp_close,
};

int tp_tcp_open(int fd, int server, const char *identity, const uint8_t psk[TP_PSK_LEN],
		unsigned timeout_ms, struct tp **tp_out, struct err *err)
{
	struct tcp *t = calloc(1, sizeof(*t));
	int rc;

	if (!t) {
		(void)close(fd); /* taken */
		return err_set(err, -ENOMEM, "no memory for a link");
	}
	t->tp.ops = &tcp_ops;
	t->tp.send_timeout_ms = TP_SEND_TIMEOUT_MS;
	rc = tlsstream_open(fd, server, identity, psk, timeout_ms, &t->stream, err);
	if (rc) {
		free(t);
		return rc;
	}
	pthread_mutex_init(&t->export, NULL); /* cannot fail on Linux */
	*tp_out = &t->tp;
	return 0;
}

int tp_tcp_join(struct tp *const *tps, unsigned n, struct tp **tp_out, struct err *err)
{
	struct tlsstream *streams[STRIPES_MAX];
	struct tcp *t = of(tps[0]);
	int rc;

	assert(n > 1 && n <= STRIPES_MAX);
	for (unsigned i = 0; i < n; i++)
		streams[i] = of(tps[i])->stream;
	rc = stripes_create(streams, n, &t->stripes, err);
	for (unsigned i = rc ? 0 : 1; i < n; i++) {
		pthread_mutex_destroy(&of(tps[i])->export);
		free(of(tps[i]));
	}
	if (!rc)
		*tp_out = &t->tp;
	return rc;
}

void tp_tcp_set_rekey(struct tp *tp, uint64_t bytes)
{
	tlsstream_set_rekey(of(tp)->stream, bytes);
}

int tp_tcp_export(struct tp *tp, const char *label, const void *context,
		  size_t context_len, void *out, size_t len)
{
	struct tcp *t = of(tp);
	int rc;

	pthread_mutex_lock(&t->export);
	rc = tlsstream_export(t->stream, label, context, context_len, out, len);
	pthread_mutex_unlock(&t->export);
	return rc;
}

void tp_tcp_set_recv_timeout(struct tp *tp, unsigned ms)
{
	tlsstream_set_recv_timeout(of(tp)->stream, ms);
}
