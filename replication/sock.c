/* SPDX-License-Identifier: Apache-2.0
 * sock - a TCP socket that does not block: whoever has to wait polls it.
 *
 * A dead peer is noticed by whoever sends: nothing moves for the time given, or the kernel
 * gives up after TCP_USER_TIMEOUT; an idle link is probed by keep-alives.
 */
#include "replication/sock.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "replication/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	BUFFER = 4 << 20,
	KEEP_IDLE_S = 5,
	KEEP_INTERVAL_S = 2,
	KEEP_PROBES = 5,
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

static int prepare(int fd, struct err *err)
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
	(void)set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, BUFFER);
	(void)set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, BUFFER);
	return 0;
}

int sock_init(struct sock *s, int fd, struct err *err)
{
	int rc;

	s->fd = fd;
	atomic_init(&s->down, 0);
	rc = prepare(fd, err);
	if (rc)
		sock_fini(s);
	return rc;
}

void sock_fini(struct sock *s)
{
	/* Nothing was written to a file, so nothing can be lost here. */
	(void)close(s->fd);
	s->fd = -1;
}

static int wait_for(struct sock *s, short events, int timeout_ms)
{
	struct pollfd p = {.fd = s->fd, .events = events};
	int r = poll(&p, 1, timeout_ms);

	if (r == 0)
		return -ETIMEDOUT;
	return r > 0 || errno == EINTR ? 0 : -errno;
}

/* Bytes that the peer's kernel has not confirmed yet (a Unix socket's peer: not read). */
static int under_way(const struct sock *s)
{
	int n = 0;

	return ioctl(s->fd, SIOCOUTQ, &n) ? 0 : n;
}

/* Room for more. The kernel tells of it only when a third of its buffer is free, which on a slow wire takes
 * longer than any time without progress: what was confirmed meanwhile counts. */
static int wait_room(struct sock *s, int timeout_ms)
{
	int before, rc;

	do {
		before = under_way(s);
		rc = wait_for(s, POLLOUT, timeout_ms);
	} while (rc == -ETIMEDOUT && under_way(s) < before && !atomic_load(&s->down));
	return rc;
}

/* After an error of the socket's: our own doing comes first. */
static int failed(struct sock *s, int rc)
{
	if (atomic_load(&s->down))
		return -ESHUTDOWN;
	return rc == -EPIPE ? -ECONNRESET : rc;
}

int sock_send(struct sock *s, const void *p, size_t len, unsigned timeout_ms)
{
	const uint8_t *at = p;
	ssize_t n;
	int rc;

	while (len) {
		n = send(s->fd, at, len, MSG_NOSIGNAL);
		rc = n >= 0 ? 0 : -errno;
		if (rc == -EAGAIN)
			rc = wait_room(s, (int)timeout_ms);
		else if (rc == -EINTR)
			rc = 0;
		if (rc || atomic_load(&s->down))
			return failed(s, rc);
		if (n > 0) {
			at += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

void sock_send_last(struct sock *s, const void *p, size_t len)
{
	/* As the header says. */
	(void)send(s->fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

long sock_recv(struct sock *s, void *p, size_t room, int timeout_ms)
{
	ssize_t n;
	int rc;

	for (;;) {
		n = recv(s->fd, p, room, 0);
		rc = n > 0 ? 0 : n == 0 ? -ECONNRESET : -errno;
		if (rc == -EAGAIN) {
			rc = wait_for(s, POLLIN, timeout_ms);
			n = 0;
		} else if (rc == -EINTR) {
			rc = 0;
			n = 0;
		}
		if (rc || atomic_load(&s->down))
			return failed(s, rc);
		if (n > 0)
			return n;
	}
}

void sock_shutdown(struct sock *s)
{
	atomic_store(&s->down, 1);
	if (shutdown(s->fd, SHUT_RDWR) < 0) {
		/* ENOTCONN: the peer was faster, and poll has woken for that. */
	}
}

void sock_break(struct sock *s)
{
	if (shutdown(s->fd, SHUT_RDWR) < 0) {
		/* ENOTCONN: then it is broken already. */
	}
}

void sock_no_more(struct sock *s)
{
	if (shutdown(s->fd, SHUT_RD) < 0) {
		/* ENOTCONN: then it has ended anyway. */
	}
}

uint64_t sock_heard(const struct sock *s)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);
	uint64_t now = clock_mono_ns(), ago;

	if (getsockopt(s->fd, IPPROTO_TCP, TCP_INFO, &info, &len))
		return 0;
	ago = info.tcpi_last_ack_recv < info.tcpi_last_data_recv
		      ? info.tcpi_last_ack_recv
		      : info.tcpi_last_data_recv;
	return now > ago * 1000000 ? now - ago * 1000000 : 0;
}

void sock_loss(struct sock *s, struct tp_loss *sum)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	if (getsockopt(s->fd, IPPROTO_TCP, TCP_INFO, &info, &len))
		return;
	sum->unit = "segments";
	sum->sent += info.tcpi_data_segs_out;
	sum->resent += info.tcpi_total_retrans;
}
