/* SPDX-License-Identifier: Apache-2.0
 * pairing_reach - can the two hosts reach each other on every path of the config?
 */
#include "ctl/pairing_reach.h"

#include "ctl/pairing_msg.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char hello[] = "rhea pair --check";

static void close_fd(int fd)
{
	if (fd >= 0)
		(void)close(fd); /* nothing that counts was sent */
}

/* Bound to our address of the way; a TCP socket also listens, a UDP one takes only what the peer sends. -1:
 * not, because another has it or for the reason in @w->why. */
static int take_port(struct pairing_way *w)
{
	int type = w->udp ? SOCK_DGRAM | SOCK_NONBLOCK : SOCK_STREAM, one = 1;
	int fd = socket(w->own->ss.ss_family, type | SOCK_CLOEXEC, 0);

	if (fd >= 0 &&
	    (w->udp || !setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one))) &&
	    !bind(fd, (const struct sockaddr *)&w->own->ss, w->own->len) &&
	    !(w->udp ? connect(fd, (const struct sockaddr *)&w->peer->ss, w->peer->len)
		     : listen(fd, 1)))
		return fd;
	if (errno != EADDRINUSE) /* cutting is fine: it is for people */
		(void)snprintf(w->why, sizeof(w->why), "%s: %s", w->own->text,
			       strerror(errno));
	close_fd(fd);
	return -1;
}

static void add(struct pairing_reach *r, int udp, unsigned path,
		const struct config_addr *own, const struct config_addr *peer)
{
	struct pairing_way *w = &r->way[r->n++];

	*w = (struct pairing_way){.udp = udp, .path = path, .own = own, .peer = peer};
	w->fd = take_port(w);
}

void pairing_reach_init(struct pairing_reach *r, const struct config *cfg)
{
	const struct config_path *p = cfg->paths;

	*r = (struct pairing_reach){0};
	for (unsigned i = 0; i < cfg->n_paths; i++)
		add(r, 0, i, &p[i].addr[cfg->self], &p[i].addr[cfg->peer]);
	for (unsigned i = 0; i < config_self(cfg)->n_heartbeat; i++)
		add(r, 1, i, &config_self(cfg)->heartbeat[i],
		    &config_peer(cfg)->heartbeat[i]);
}

void pairing_reach_fini(struct pairing_reach *r)
{
	for (unsigned i = 0; i < r->n; i++)
		close_fd(r->way[i].fd);
	r->n = 0;
}

void pairing_way_name(const struct config *cfg, const struct pairing_way *w, char *out,
		      size_t room)
{
	if (w->udp)
		(void)snprintf(out, room, "heartbeat %u", w->path); /* fits */
	else
		(void)snprintf(out, room, "path %u (%s)", w->path,
			       cfg->paths[w->path].transport); /* fits */
}

static int wait_connected(int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLOUT};
	int soerr = 0, rc = poll(&pfd, 1, PAIRING_REACH_MS);
	socklen_t len = sizeof(soerr);

	if (rc <= 0)
		return rc ? -errno : -ETIMEDOUT;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &soerr, &len))
		return -errno;
	return -soerr;
}

static int try_connect(int fd, const struct config_addr *own,
		       const struct config_addr *peer)
{
	struct sockaddr_storage from = own->ss;

	/* Any port, but our own replication address: the peer lets no other in. */
	if (from.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&from)->sin6_port = 0;
	else
		((struct sockaddr_in *)&from)->sin_port = 0;
	if (bind(fd, (struct sockaddr *)&from, own->len))
		return -errno;
	if (!connect(fd, (const struct sockaddr *)&peer->ss, peer->len))
		return 0;
	return errno == EINPROGRESS ? wait_connected(fd) : -errno;
}

int pairing_way_try(struct pairing_way *w)
{
	int fd = socket(w->own->ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
			0);
	int rc = fd < 0 ? -errno : try_connect(fd, w->own, w->peer);

	close_fd(fd);
	/* Cutting is fine: it is for people. */
	(void)snprintf(w->why, sizeof(w->why), "%s", rc ? strerror(-rc) : "");
	return !rc;
}

void pairing_way_send(struct pairing_way *w)
{
	if (w->udp && w->fd >= 0)
		(void)send(w->fd, hello, sizeof(hello), 0); /* the peer says what came */
}

int pairing_way_hear(struct pairing_way *w)
{
	struct pollfd pfd = {.fd = w->fd, .events = POLLIN};
	char got[sizeof(hello)];
	ssize_t n;

	if (!w->udp || w->fd < 0)
		return -1;
	while (poll(&pfd, 1, PAIRING_HEAR_MS) > 0) {
		n = recv(w->fd, got, sizeof(got), 0);
		if (n == sizeof(hello) && !memcmp(got, hello, sizeof(hello)))
			return 1;
		/* Refused by a port that was not open yet: what comes after counts. */
		if (n < 0 && errno != ECONNREFUSED && errno != EAGAIN && errno != EINTR)
			return 0;
	}
	return 0;
}

size_t pairing_line_put(char *out, size_t room, int result, const char *why)
{
	int n = snprintf(out, room, "%c %.*s\n",
			 result < 0 ? '?'
			 : result   ? '1'
				    : '0',
			 PAIRING_REACH_MAX - 1, why);

	return n > 0 && (size_t)n < room ? (size_t)n : 0;
}

const char *pairing_line_get(const char *text, int *result_out, char *why, size_t room)
{
	size_t len = strcspn(text, "\n");

	*result_out = -1;
	why[0] = '\0';
	if (len >= 2 && text[1] == ' ') {
		*result_out = text[0] == '1' ? 1 : text[0] == '0' ? 0 : -1;
		(void)snprintf(why, room, "%.*s", (int)(len - 2),
			       text + 2); /* cutting is fine */
		pairing_tame(why);
	}
	return text[len] ? text + len + 1 : text + len;
}
