/* SPDX-License-Identifier: Apache-2.0
 * link - the listener's side: accept, read the preface, hand the socket on.
 */
#include "ctl/link.h"

#include "ctl/config.h"
#include "hv/base/err.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <event2/util.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct pending {
	struct link_listener *l; /* borrowed */
	int fd;			 /* -1: the slot is free */
	struct event *ev, *limit;
	size_t got;
	unsigned char bytes[PREFACE_LEN];
	char from[64];
};

struct link_listener {
	struct loop *loop;
	struct config_addr peer;
	struct evconnlistener *lev;
	link_accept_fn *fn;
	void *arg;
	struct pending pending[LINK_PENDING_MAX];
};

static int same_host(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	if (a->ss_family != b->ss_family)
		return 0;
	if (a->ss_family == AF_INET)
		return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
		       ((const struct sockaddr_in *)b)->sin_addr.s_addr;
	return a->ss_family == AF_INET6 &&
	       !memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr,
		       &((const struct sockaddr_in6 *)b)->sin6_addr,
		       sizeof(struct in6_addr));
}

static void name_of(const struct sockaddr *sa, socklen_t len, char *out, size_t room)
{
	if (getnameinfo(sa, len, out, (socklen_t)room, NULL, 0, NI_NUMERICHOST))
		(void)snprintf(out, room, "?"); /* fits */
}

/* Closes the socket unless it was given away (fd -1 by then). */
static void pending_end(struct pending *p)
{
	if (p->ev)
		event_free(p->ev);
	if (p->limit)
		event_free(p->limit);
	p->ev = p->limit = NULL;
	if (p->fd >= 0)
		(void)close(p->fd); /* nothing was written through it */
	p->fd = -1;
}

static int make_blocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0 ? -errno : 0;
}

static void pending_done(struct pending *p)
{
	struct link_listener *l = p->l;
	struct preface pre;
	struct err err = {0};
	int fd;

	if (preface_parse(p->bytes, &pre, &err) || make_blocking(p->fd)) {
		log_ratelimited(LOG_LVL_WARN, 1000, "link from %s refused: %s", p->from,
				err.msg);
		pending_end(p);
		return;
	}
	fd = p->fd;
	p->fd = -1;
	pending_end(p);
	l->fn(l->arg, &pre, fd);
}

static void on_limit(evutil_socket_t fd, short what, void *arg)
{
	struct pending *p = arg;

	log_ratelimited(LOG_LVL_WARN, 1000, "link from %s: no preface within %d ms",
			p->from, LINK_PREFACE_MS);
	pending_end(p);
}

static void on_bytes(evutil_socket_t fd, short what, void *arg)
{
	struct pending *p = arg;
	ssize_t n;

	n = recv(fd, p->bytes + p->got, PREFACE_LEN - p->got, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		pending_end(p);
		return;
	}
	p->got += (size_t)n;
	if (p->got == PREFACE_LEN)
		pending_done(p);
}

static struct pending *free_slot(struct link_listener *l)
{
	for (unsigned i = 0; i < LINK_PENDING_MAX; i++)
		if (l->pending[i].fd < 0)
			return &l->pending[i];
	return NULL;
}

/* The deadline is for the whole preface: a byte now and then does not win more time. */
static int pending_start(struct pending *p)
{
	static const struct timeval limit = {.tv_sec = LINK_PREFACE_MS / 1000,
					     .tv_usec = LINK_PREFACE_MS % 1000 * 1000};
	int one = 1;

	if (setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		return -errno;
	p->got = 0;
	p->ev = event_new(loop_base(p->l->loop), p->fd, EV_READ | EV_PERSIST, on_bytes,
			  p);
	p->limit = evtimer_new(loop_base(p->l->loop), on_limit, p);
	if (!p->ev || !p->limit || event_add(p->ev, NULL) || event_add(p->limit, &limit))
		return -ENOMEM;
	return 0;
}

static void on_accept(struct evconnlistener *lev, evutil_socket_t fd, struct sockaddr *sa,
		      int len, void *arg)
{
	struct link_listener *l = arg;
	struct sockaddr_storage from = {0};
	struct pending *p = free_slot(l);
	char name[64];

	memcpy(&from, sa, (size_t)len < sizeof(from) ? (size_t)len : sizeof(from));
	name_of(sa, (socklen_t)len, name, sizeof(name));
	if (!same_host(&from, &l->peer.ss) || !p) {
		log_ratelimited(LOG_LVL_WARN, 1000, "link from %s refused: %s", name,
				p ? "not the peer's replication address"
				  : "too many connections that say nothing");
		(void)close(fd); /* nothing was written through it */
		return;
	}
	p->l = l;
	p->fd = fd;
	memcpy(p->from, name, sizeof(p->from));
	if (pending_start(p))
		pending_end(p);
}

static void on_accept_error(struct evconnlistener *lev, void *arg)
{
	log_ratelimited(LOG_LVL_ERR, 1000, "replication listener: accept: %s",
			strerror(errno));
}

int link_listen(struct loop *loop, const struct config_addr *addr,
		const struct config_addr *peer, link_accept_fn *fn, void *arg,
		struct link_listener **l_out, struct err *err)
{
	struct link_listener *l = calloc(1, sizeof(*l));
	int rc;

	*l_out = NULL;
	if (!l)
		return err_set(err, -ENOMEM, "replication listener: out of memory");
	*l = (struct link_listener){.loop = loop, .peer = *peer, .fn = fn, .arg = arg};
	for (unsigned i = 0; i < LINK_PENDING_MAX; i++)
		l->pending[i].fd = -1;
	l->lev = evconnlistener_new_bind(
		loop_base(loop), on_accept, l,
		LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE,
		LINK_PENDING_MAX, (const struct sockaddr *)&addr->ss, (int)addr->len);
	if (!l->lev) {
		rc = errno ? -errno : -EIO;
		free(l);
		return err_sys(
			err, rc,
			"listen for replication on %s (is it this host's address?)",
			addr->text);
	}
	evconnlistener_set_error_cb(l->lev, on_accept_error);
	*l_out = l;
	return 0;
}

void link_listener_destroy(struct link_listener *l)
{
	if (!l)
		return;
	evconnlistener_free(l->lev);
	for (unsigned i = 0; i < LINK_PENDING_MAX; i++)
		pending_end(&l->pending[i]);
	free(l);
}

unsigned link_listener_port(const struct link_listener *l)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} sa = {0};
	socklen_t len = sizeof(sa);

	if (getsockname(evconnlistener_get_fd(l->lev), &sa.any, &len))
		return 0;
	return ntohs(sa.any.sa_family == AF_INET6 ? sa.v6.sin6_port : sa.v4.sin_port);
}
