/* SPDX-License-Identifier: Apache-2.0
 * tcp - the transport over a TCP socket with TLS 1.3.
 *
 * Theory of operation. The socket does not block; whoever has to wait polls it without
 * holding the lock, and the lock is held for one TLS record at a time, so the sender and
 * the receiver hardly meet. What is sent is gathered into whole TLS records (16 KiB)
 * until the flush. shutdown(2) wakes both from poll.
 *
 * A dead peer is noticed by whoever sends: nothing moves for send_timeout_ms, or the
 * kernel gives up after TCP_USER_TIMEOUT; an idle link is probed by keep-alives.
 */
#include "replication/transport.h"

#include "hv/base/err.h"
#include "replication/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	RECORD = 16 << 10, /* the largest TLS record's content */
	SOCKET_BUFFER = 4 << 20,
	KEEP_IDLE_S = 5,
	KEEP_INTERVAL_S = 2,
	KEEP_PROBES = 5,
};
_Static_assert((int)TP_PSK_LEN == (int)TLS_PSK_LEN, "one length of key");

struct tcp {
	struct tp tp;
	int fd;
	atomic_int down; /* tp_shutdown() was called here */
	pthread_mutex_t lock;
	struct tls tls; /* under the lock */
	/* The sender's. */
	int send_error;
	size_t held;
	uint64_t rekey_every, rekey_left;
	uint8_t out[RECORD];
	/* The receiver's. */
	int recv_error;
	int recv_timeout_ms; /* -1: none */
};

static struct tcp *of(struct tp *tp)
{
	return (struct tcp *)tp;
}

/* Wait until the socket is ready; @timeout_ms -1: as long as it takes. */
static int wait_for(struct tcp *t, short events, int timeout_ms)
{
	struct pollfd p = {.fd = t->fd, .events = events};
	int r = poll(&p, 1, timeout_ms);

	if (atomic_load(&t->down))
		return -ESHUTDOWN;
	if (r == 0)
		return -ETIMEDOUT;
	return r > 0 || errno == EINTR ? 0 : -errno;
}

/* One TLS record out, new keys first if they are due. As tls_write(). */
static long step_out(struct tcp *t, const uint8_t *p, size_t len, short *events)
{
	long n = 0;

	pthread_mutex_lock(&t->lock);
	if (!t->rekey_left) {
		n = tls_rekey(&t->tls);
		t->rekey_left = t->rekey_every;
	}
	if (!n)
		n = tls_write(&t->tls, p, len, events);
	pthread_mutex_unlock(&t->lock);
	if (n > 0)
		t->rekey_left -=
			(uint64_t)n < t->rekey_left ? (uint64_t)n : t->rekey_left;
	return n;
}

static int write_all(struct tcp *t, const uint8_t *p, size_t len)
{
	short events = 0;
	long n;

	while (len && !t->send_error) {
		if (atomic_load(&t->down)) {
			t->send_error = -ESHUTDOWN;
			break;
		}
		n = step_out(t, p, len, &events);
		if (n > 0) {
			p += n;
			len -= (size_t)n;
		} else if (n == 0) {
			t->send_error = wait_for(t, events, (int)t->tp.send_timeout_ms);
		} else if (atomic_load(&t->down)) {
			t->send_error =
				-ESHUTDOWN; /* our own doing, while it was at it */
		} else {
			/* The peer's good-bye is no success for who sends. */
			t->send_error = n == -EPIPE ? -ECONNRESET : (int)n;
		}
	}
	return t->send_error;
}

static int tcp_flush(struct tp *tp)
{
	struct tcp *t = of(tp);
	size_t n = t->held;

	t->held = 0;
	return write_all(t, t->out, n);
}

static int send_piece(struct tcp *t, const uint8_t *p, size_t len)
{
	size_t n;

	while (len) {
		if (!t->held && len >= RECORD) {
			n = len - len % RECORD;
			if (write_all(t, p, n))
				return t->send_error;
		} else {
			n = len < RECORD - t->held ? len : RECORD - t->held;
			memcpy(t->out + t->held, p, n);
			t->held += n;
			if (t->held == RECORD && tcp_flush(&t->tp))
				return t->send_error;
		}
		p += n;
		len -= n;
	}
	return t->send_error;
}

static int tcp_send(struct tp *tp, const struct iovec *iov, int n)
{
	struct tcp *t = of(tp);
	int rc = t->send_error;

	for (int i = 0; i < n && !rc; i++) {
		rc = send_piece(t, iov[i].iov_base, iov[i].iov_len);
		if (!rc)
			tp->bytes_sent += iov[i].iov_len;
	}
	return rc;
}

static long step_in(struct tcp *t, uint8_t *p, size_t len, short *events)
{
	long n;

	pthread_mutex_lock(&t->lock);
	n = tls_read(&t->tls, p, len, events);
	pthread_mutex_unlock(&t->lock);
	return n;
}

static int tcp_recv(struct tp *tp, void *p, size_t len)
{
	struct tcp *t = of(tp);
	size_t done = 0;
	short events = 0;
	long n;

	while (done < len && !t->recv_error) {
		n = step_in(t, (uint8_t *)p + done, len - done, &events);
		if (atomic_load(&t->down))
			t->recv_error = -ESHUTDOWN;
		else if (n > 0)
			done += (size_t)n;
		else if (n == 0)
			t->recv_error = wait_for(t, events, t->recv_timeout_ms);
		else
			t->recv_error = n == -EPIPE && done ? -ECONNRESET : (int)n;
	}
	tp->bytes_received += done;
	return t->recv_error;
}

static void tcp_shutdown(struct tp *tp)
{
	struct tcp *t = of(tp);

	atomic_store(&t->down, 1);
	if (shutdown(t->fd, SHUT_RDWR) < 0) {
		/* ENOTCONN: the peer was faster, and poll has woken for that. */
	}
}

static void tcp_free(struct tcp *t)
{
	pthread_mutex_destroy(&t->lock);
	/* Nothing was written to a file, so nothing can be lost here. */
	(void)close(t->fd);
	free(t);
}

static void tcp_close(struct tp *tp)
{
	struct tcp *t = of(tp);

	if (!t->send_error && !atomic_load(&t->down))
		tls_bye(&t->tls);
	tls_fini(&t->tls);
	tcp_free(t);
}

static const struct tp_ops tcp_ops = {
	.name = "tcp",
	.send = tcp_send,
	.flush = tcp_flush,
	.recv = tcp_recv,
	.shutdown = tcp_shutdown,
	.close = tcp_close,
};

static int set_int(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

/* A Unix socket has none of these and needs none: its peer cannot vanish silently. */
static int tcp_options(int fd)
{
	int rc = set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);

	if (!rc)
		rc = set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, TP_SEND_TIMEOUT_MS);
	if (!rc)
		rc = set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEP_IDLE_S);
	if (!rc)
		rc = set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEP_INTERVAL_S);
	if (!rc)
		rc = set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEP_PROBES);
	if (!rc)
		rc = set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	return rc;
}

static int socket_prepare(int fd, struct err *err)
{
	int fl = fcntl(fd, F_GETFL), domain = 0, rc;
	socklen_t len = sizeof(domain);

	if (fl < 0 || fcntl(fd, F_SETFL, fl | O_NONBLOCK) < 0)
		return err_sys(err, -errno, "making the socket non-blocking");
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
		return err_sys(err, -errno, "looking at the link's socket");
	rc = domain == AF_UNIX ? 0 : tcp_options(fd);
	if (rc)
		return err_sys(err, rc, "setting the link's socket options");
	/* Only the privileged form passes the system's limit; the ordinary one would
	 * switch the kernel's own, better, sizing off. So if it is refused, all is well.
	 */
	(void)set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER);
	(void)set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER);
	return 0;
}

int tp_tcp_open(int fd, int server, const char *identity, const uint8_t psk[TP_PSK_LEN],
		unsigned timeout_ms, struct tp **tp_out, struct err *err)
{
	struct tcp *t = calloc(1, sizeof(*t));
	int rc;

	if (!t) {
		(void)close(fd); /* taken */
		return err_set(err, -ENOMEM, "no memory for a link");
	}
	t->fd = fd;
	pthread_mutex_init(&t->lock, NULL); /* cannot fail on Linux */
	t->tp.ops = &tcp_ops;
	t->tp.send_timeout_ms = TP_SEND_TIMEOUT_MS;
	t->recv_timeout_ms = -1;
	t->rekey_every = t->rekey_left = TP_TCP_REKEY_BYTES;
	rc = socket_prepare(fd, err);
	if (!rc)
		rc = tls_init(&t->tls, fd, server, identity, psk, timeout_ms, err);
	if (rc) {
		tcp_free(t);
		return rc;
	}
	*tp_out = &t->tp;
	return 0;
}

void tp_tcp_set_rekey(struct tp *tp, uint64_t bytes)
{
	struct tcp *t = of(tp);

	t->rekey_every = t->rekey_left = bytes;
}

int tp_tcp_export(struct tp *tp, const char *label, const void *context,
		  size_t context_len, void *out, size_t len)
{
	struct tcp *t = of(tp);
	int rc;

	pthread_mutex_lock(&t->lock);
	rc = tls_export(&t->tls, label, context, context_len, out, len);
	pthread_mutex_unlock(&t->lock);
	return rc;
}

void tp_tcp_set_recv_timeout(struct tp *tp, unsigned ms)
{
	of(tp)->recv_timeout_ms = ms ? (int)ms : -1;
}
