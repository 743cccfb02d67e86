/* SPDX-License-Identifier: Apache-2.0
 * plain - what tcp costs without encryption: the same sockets, the same sizes of system calls.
 *
 * Bytes go from and to the caller's memory, as they do with records; only the sealing is missing.
 */
#include "tests/bench/plain.h"

#include "hv/base/err.h"
#include "replication/sock.h"
#include "replication/transport.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER = 256 << 10 };

struct plain {
	struct tp tp;
	struct sock sock;
	size_t held, at, end;
	unsigned char out[BUFFER], in[BUFFER];
};

static struct plain *of(struct tp *tp)
{
	return (struct plain *)tp;
}

static int plain_flush(struct tp *tp)
{
	struct plain *p = of(tp);
	size_t n = p->held;

	p->held = 0;
	return sock_send(&p->sock, p->out, n, tp->send_timeout_ms);
}

static int plain_send(struct tp *tp, const struct iovec *iov, int n)
{
	struct plain *p = of(tp);
	int rc = 0;

	for (int i = 0; i < n && !rc; i++) {
		if (p->held + iov[i].iov_len >= BUFFER)
			rc = plain_flush(tp);
		if (!rc && iov[i].iov_len >= BUFFER) {
			rc = sock_send(&p->sock, iov[i].iov_base, iov[i].iov_len,
				       tp->send_timeout_ms);
		} else if (!rc) {
			memcpy(p->out + p->held, iov[i].iov_base, iov[i].iov_len);
			p->held += iov[i].iov_len;
		}
	}
	return rc;
}

static size_t take(struct plain *p, void *to, size_t len)
{
	size_t n = p->end - p->at < len ? p->end - p->at : len;

	memcpy(to, p->in + p->at, n);
	p->at += n;
	return n;
}

static int plain_recv(struct tp *tp, void *to, size_t len)
{
	struct plain *p = of(tp);
	size_t done = take(p, to, len);
	long n;

	while (done < len) {
		if (len - done >= BUFFER / 2) {
			n = sock_recv(&p->sock, (char *)to + done, len - done, -1);
			done += n > 0 ? (size_t)n : 0;
		} else {
			n = sock_recv(&p->sock, p->in, BUFFER, -1);
			p->at = 0;
			p->end = n > 0 ? (size_t)n : 0;
			done += take(p, (char *)to + done, len - done);
		}
		if (n < 0)
			return (int)n;
	}
	return 0;
}

static void plain_shutdown(struct tp *tp)
{
	sock_shutdown(&of(tp)->sock);
}

static void plain_close(struct tp *tp)
{
	sock_fini(&of(tp)->sock);
	free(tp);
}

static const struct tp_ops plain_ops = {.name = "plain",
					.loss = tp_loss_unseen,
					.send = plain_send,
					.flush = plain_flush,
					.recv = plain_recv,
					.shutdown = plain_shutdown,
					.close = plain_close};

int plain_open(int fd, struct tp **tp_out, struct err *err)
{
	struct plain *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return err_set(err, -ENOMEM, "no memory");
	rc = sock_init(&p->sock, fd, err);
	if (rc) {
		free(p);
		return rc;
	}
	p->tp.ops = &plain_ops;
	p->tp.send_timeout_ms = TP_SEND_TIMEOUT_MS;
	*tp_out = &p->tp;
	return 0;
}
