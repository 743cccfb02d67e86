/* SPDX-License-Identifier: Apache-2.0
 * pairing_reach - can the two hosts reach each other's replication ports?
 */
#include "ctl/pairing_reach.h"

#include "ctl/config.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int pairing_reach_listen(const struct config *cfg, char *why, size_t room)
{
	const struct config_addr *own = &config_self(cfg)->replication;
	int fd = socket(own->ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	why[0] = '\0';
	if (fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) &&
	    !bind(fd, (const struct sockaddr *)&own->ss, own->len) && !listen(fd, 1))
		return fd;
	if (errno != EADDRINUSE) /* cutting is fine: it is for people */
		(void)snprintf(why, room, "%s: %s", own->text, strerror(errno));
	if (fd >= 0)
		(void)close(fd); /* nothing was sent */
	return -1;
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

int pairing_reach_try(const struct config *cfg, char *why, size_t room)
{
	const struct config_addr *own = &config_self(cfg)->replication;
	const struct config_addr *peer = &config_peer(cfg)->replication;
	int fd = socket(own->ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int rc = fd < 0 ? -errno : try_connect(fd, own, peer);

	if (fd >= 0)
		(void)close(fd); /* nothing was sent */
	/* Cutting is fine: it is for people. */
	(void)snprintf(why, room, "%s -> %s%s%s", own->text, peer->text, rc ? ": " : "",
		       rc ? strerror(-rc) : "");
	return !rc;
}
