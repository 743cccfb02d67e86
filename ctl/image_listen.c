/* SPDX-License-Identifier: Apache-2.0
 * image_listen - the socket on which an exported image is served.
 *
 * Who can connect can read the disk. So a Unix socket is its owner's alone, and what others could reach over
 * the network is refused without TLS.
 */
#include "ctl/image_export.h"

#include "hv/base/err.h"

#include <arpa/inet.h>
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 16, HOST_MAX = 128 };

static const char *scheme(const struct image_nbd *how)
{
	return how->tls_certificates || how->tls_psk ? "nbds" : "nbd";
}

/* @path, of a socket's address, as a part of a URI. */
static void name_unix(const struct image_nbd *how, const char *path,
		      struct image_uri *uri)
{
	size_t room = sizeof(uri->after);
	int n = snprintf(uri->after, room, "?socket=");

	(void)snprintf(uri->before, sizeof(uri->before), "%s+unix:///",
		       scheme(how)); /* fits, as does what follows: 3 bytes for each */
	for (; *path; path++) {
		int plain = isalnum((unsigned char)*path) || strchr("/-._~", *path);

		n += snprintf(uri->after + n, room - (size_t)n, plain ? "%c" : "%%%02X",
			      (unsigned char)*path);
	}
}

/* A socket that nobody listens on any more: its server was killed. */
static int is_stale(const struct sockaddr_un *sun)
{
	struct stat st;
	int fd, stale = 0;

	if (lstat(sun->sun_path, &st) || !S_ISSOCK(st.st_mode))
		return 0;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return 0;
	stale = connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) &&
		errno == ECONNREFUSED;
	(void)close(fd); /* nothing was written through it */
	return stale;
}

/* Mode 0600 from its first moment. */
static int bind_unix(int fd, const struct sockaddr_un *sun)
{
	mode_t old = umask(0177);
	int r = bind(fd, (const struct sockaddr *)sun, sizeof(*sun));

	if (r && errno == EADDRINUSE && is_stale(sun) && !unlink(sun->sun_path))
		r = bind(fd, (const struct sockaddr *)sun, sizeof(*sun));
	r = r ? -errno : 0;
	umask(old);
	return r;
}

static int listen_unix(const struct image_nbd *how, struct image_uri *uri,
		       struct err *err)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd, rc;

	static_assert(sizeof(uri->after) >= 3 * sizeof(sun.sun_path) + 16,
		      "any socket's path has room in a URI");

	if (strlen(how->where) >= sizeof(sun.sun_path))
		return err_set(err, -ENAMETOOLONG,
			       "%s: a socket's path has at most %zu bytes; say another "
			       "with --listen",
			       how->where, sizeof(sun.sun_path) - 1);
	memcpy(sun.sun_path, how->where, strlen(how->where));
	name_unix(how, sun.sun_path, uri);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(err, -errno, "a socket");
	rc = bind_unix(fd, &sun);
	if (!rc && listen(fd, BACKLOG))
		rc = -errno;
	if (!rc)
		return fd;
	(void)close(fd); /* nothing was written through it */
	return err_sys(err, rc, "%s", how->where);
}

static int is_loopback(const struct sockaddr *sa)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)sa;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)sa;

	return sa->sa_family == AF_INET ? ntohl(in->sin_addr.s_addr) >> 24 == 127
					: IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

/* "127.0.0.1:10809" or "[::1]:10809". Owned; NULL: it is neither. */
static struct addrinfo *parse(const char *where)
{
	const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
				       .ai_socktype = SOCK_STREAM};
	const char *colon = strrchr(where, ':');
	size_t n = colon ? (size_t)(colon - where) : 0;
	int brackets = n > 2 && where[0] == '[' && where[n - 1] == ']';
	struct addrinfo *ai = NULL;
	char host[HOST_MAX];

	if (!n || n >= sizeof(host) || (!brackets && memchr(where, ':', n)))
		return NULL;
	memcpy(host, where + brackets, n - 2 * (size_t)brackets);
	host[n - 2 * (size_t)brackets] = 0;
	return getaddrinfo(host, colon + 1, &hints, &ai) ? NULL : ai;
}

/* The port may have been the kernel's choice. */
static int name_tcp(int fd, const struct image_nbd *how, struct image_uri *uri)
{
	struct sockaddr_storage ss = {.ss_family = AF_UNSPEC};
	socklen_t len = sizeof(ss);
	char host[INET6_ADDRSTRLEN], port[8];
	int n, six;

	if (getsockname(fd, (struct sockaddr *)&ss, &len))
		return -errno;
	if (getnameinfo((struct sockaddr *)&ss, len, host, sizeof(host), port,
			sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV))
		return -EINVAL;
	six = ss.ss_family == AF_INET6;
	uri->after[0] = 0;
	n = snprintf(uri->before, sizeof(uri->before), "%s://%s%s%s:%s/", scheme(how),
		     six ? "[" : "", host, six ? "]" : "", port);
	return n < 0 || (size_t)n >= sizeof(uri->before) ? -ENAMETOOLONG : 0;
}

static int listen_tcp(const struct image_nbd *how, struct image_uri *uri, struct err *err)
{
	struct addrinfo *ai = parse(how->where);
	const int one = 1;
	int fd = -1, rc = 0;

	if (!ai)
		return err_set(err, -EINVAL,
			       "\"%s\" is neither a path with a slash nor a numeric "
			       "ADDRESS:PORT",
			       how->where);
	if (!how->tls_certificates && !how->tls_psk && !is_loopback(ai->ai_addr)) {
		rc = err_set(err, -EPERM,
			     "%s: others could read the disk: say --tls-certificates or "
			     "--tls-psk, or serve on 127.0.0.1, [::1] or a socket's path",
			     how->where);
		goto out;
	}
	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(fd, ai->ai_addr, ai->ai_addrlen) || listen(fd, BACKLOG))
		rc = -errno;
	rc = rc ? rc : name_tcp(fd, how, uri);
	if (rc)
		rc = err_sys(err, rc, "%s", how->where);
out:
	freeaddrinfo(ai);
	if (!rc)
		return fd;
	if (fd >= 0)
		(void)close(fd); /* nothing was written through it */
	return rc;
}

int image_listen(const struct image_nbd *how, struct image_uri *uri, struct err *err)
{
	return strchr(how->where, '/') ? listen_unix(how, uri, err)
				       : listen_tcp(how, uri, err);
}
