/* SPDX-License-Identifier: Apache-2.0
 * link_connect - the connector's side: one bounded attempt to reach the peer.
 */
#include "ctl/link.h"

#include "ctl/config.h"
#include "hv/base/err.h"
#include "hv/base/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct link_connect {
	int fd;
	struct event *ev;
	struct preface_wire preface;
	link_connected_fn *fn;
	void *arg;
};

void link_connect_cancel(struct link_connect *c)
{
	if (!c)
		return;
	if (c->ev)
		event_free(c->ev);
	if (c->fd >= 0)
		(void)close(c->fd); /* nothing that matters was written through it */
	free(c);
}

/* The socket buffer of a new connection has room for 64 bytes, so one send takes all. */
static int finish(struct link_connect *c)
{
	int soerr = 0, one = 1, flags;
	socklen_t len = sizeof(soerr);
	ssize_t n;

	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &soerr, &len))
		return -errno;
	if (soerr)
		return -soerr;
	if (setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		return -errno;
	n = send(c->fd, &c->preface, sizeof(c->preface), MSG_NOSIGNAL);
	if (n != (ssize_t)sizeof(c->preface))
		return n < 0 ? -errno : -EIO;
	flags = fcntl(c->fd, F_GETFL);
	if (flags < 0 || fcntl(c->fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct link_connect *c = arg;
	int rc = what & EV_TIMEOUT ? -ETIMEDOUT : finish(c);
	link_connected_fn *fn = c->fn;
	void *fn_arg = c->arg;

	if (!rc)
		c->fd = -1; /* the callback's now */
	link_connect_cancel(c);
	fn(fn_arg, rc ? rc : fd, rc ? strerror(-rc) : "");
}

static int start(struct link_connect *c, struct loop *loop,
		 const struct config_addr *local, const struct config_addr *peer,
		 unsigned timeout_ms)
{
	struct timeval limit = {.tv_sec = timeout_ms / 1000,
				.tv_usec = timeout_ms % 1000 * 1000};
	struct config_addr from = *local;

	/* Any port, but our own replication address: the peer lets no other in. */
	if (from.ss.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&from.ss)->sin6_port = 0;
	else
		((struct sockaddr_in *)&from.ss)->sin_port = 0;
	c->fd = socket(peer->ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || bind(c->fd, (struct sockaddr *)&from.ss, from.len))
		return -errno;
	if (connect(c->fd, (const struct sockaddr *)&peer->ss, peer->len) &&
	    errno != EINPROGRESS)
		return -errno;
	c->ev = event_new(loop_base(loop), c->fd, EV_WRITE, on_writable, c);
	return c->ev && !event_add(c->ev, &limit) ? 0 : -ENOMEM;
}

int link_connect(struct loop *loop, const struct config_addr *local,
		 const struct config_addr *peer, const char *vm, uint64_t term,
		 enum preface_kind kind, unsigned timeout_ms, link_connected_fn *fn,
		 void *arg, struct link_connect **c_out, struct err *err)
{
	struct link_connect *c = calloc(1, sizeof(*c));
	int rc;

	*c_out = NULL;
	if (!c)
		return err_set(err, -ENOMEM, "replication link: out of memory");
	c->fd = -1;
	c->fn = fn;
	c->arg = arg;
	rc = preface_encode(vm, term, kind, &c->preface);
	if (!rc)
		rc = start(c, loop, local, peer, timeout_ms);
	if (rc) {
		link_connect_cancel(c);
		return err_sys(err, rc, "replication link to the peer");
	}
	*c_out = c;
	return 0;
}
