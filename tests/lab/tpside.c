/* SPDX-License-Identifier: Apache-2.0
 * tpside - one side of a transport that is a module, on a host of its own: some megabytes in both
 * directions at once, every byte looked at.
 *
 *   tpside MODULE ARGS SIDE ADDRESS PORT MIB
 *
 * Side 1 listens at ADDRESS and PORT, side 0 connects there: the way for descriptions of ends, and for
 * keeping in step.
 */
#include "hv/base/err.h"
#include "replication/module.h"
#include "replication/transport.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 65536, CONNECT_MS = 60000, MEETING_TRIES = 600 };

static void die(const char *what, const char *why)
{
	(void)fprintf(stderr, "tpside: %s: %s\n", what, why);
	exit(1);
}

/* The peer's host may be slower than this one. */
static int meet(int side, const char *address, const char *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_port = htons((uint16_t)atoi(port))};
	const struct timespec ts = {.tv_nsec = 100 * 1000000};
	int one = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (s < 0 || inet_pton(AF_INET, address, &a.sin_addr) != 1)
		die(address, "no address");
	if (side == 1) {
		if (setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
		    bind(s, (struct sockaddr *)&a, sizeof(a)) || listen(s, 1))
			die(address, strerror(errno));
		return accept4(s, NULL, NULL, SOCK_CLOEXEC);
	}
	for (int i = 0; i < MEETING_TRIES; i++) {
		if (!connect(s, (struct sockaddr *)&a, sizeof(a)))
			return s;
		(void)nanosleep(&ts, NULL); /* shorter is fine */
	}
	return -1;
}

static struct tp *link_up(const struct tp_module *m, struct tp_dev *dev, int side,
			  int sock)
{
	uint8_t own[TP_BLOB_MAX] = {0}, peer[TP_BLOB_MAX];
	struct err e = {0};
	struct tp_end *end;
	struct tp *tp;
	size_t len;

	if (m->prepare(dev, side, &end, own, &len, &e))
		die("prepare", e.msg);
	/* The same module on both sides: descriptions are of one length. */
	if (write(sock, own, len) != (ssize_t)len ||
	    recv(sock, peer, len, MSG_WAITALL) != (ssize_t)len)
		die("the other side", "went away");
	if (m->connect(end, peer, len, CONNECT_MS, &tp, &e))
		die("connect", e.msg);
	return tp;
}

static uint8_t byte_at(int side, size_t pos)
{
	uint64_t x = ((pos >> 3) + 1) * 0x9e3779b97f4a7c15ull + (unsigned)side;

	return (uint8_t)((x ^ x >> 31) >> (8 * (pos & 7)));
}

struct stream {
	struct tp *tp;
	int side;
	size_t total;
	int rc;
};

static void *send_all(void *arg)
{
	struct stream *s = arg;
	static uint8_t chunk[CHUNK];
	struct iovec v = {.iov_base = chunk, .iov_len = CHUNK};

	for (size_t at = 0; at < s->total && !s->rc; at += CHUNK) {
		for (size_t i = 0; i < CHUNK; i++)
			chunk[i] = byte_at(s->side, at + i);
		s->rc = tp_send(s->tp, &v, 1);
	}
	if (!s->rc)
		s->rc = tp_flush(s->tp);
	return NULL;
}

static int recv_all(struct tp *tp, int side, size_t total)
{
	static uint8_t chunk[CHUNK];
	int rc = 0;

	for (size_t at = 0; at < total && !rc; at += CHUNK) {
		rc = tp_recv(tp, chunk, CHUNK);
		for (size_t i = 0; i < CHUNK && !rc; i++)
			rc = chunk[i] == byte_at(!side, at + i) ? 0 : -EBADMSG;
	}
	return rc;
}

int main(int argc, char **argv)
{
	const char *dir = getenv("B") ? getenv("B") : "build/out";
	const struct tp_module *m;
	struct stream out = {0};
	struct err e = {0};
	struct tp_dev *dev;
	pthread_t thread;
	char path[512], b = 0;
	int rc, sock;
	void *so;

	if (argc != 7)
		die("usage", "tpside MODULE ARGS SIDE ADDRESS PORT MIB");
	(void)snprintf(path, sizeof(path), "%s/rhea-tp-%s.so", dir, argv[1]);
	so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	m = so ? dlsym(so, TP_MODULE_SYMBOL) : NULL;
	if (!m)
		die(path, dlerror());
	if (m->open(argv[2], &dev, &e))
		die("open", e.msg);
	out.side = atoi(argv[3]) == 1;
	out.total = (size_t)atoi(argv[6]) << 20;
	sock = meet(out.side, argv[4], argv[5]);
	if (sock < 0)
		die("the other side", "is not there");
	out.tp = link_up(m, dev, out.side, sock);
	if (pthread_create(&thread, NULL, send_all, &out))
		die("thread", "cannot be made");
	rc = recv_all(out.tp, out.side, out.total);
	(void)pthread_join(thread, NULL); /* our own */
	/* Neither closes before both have all. */
	if (rc || out.rc || write(sock, &b, 1) != 1 || recv(sock, &b, 1, 0) != 1)
		die("stream", strerror(rc ? -rc : -out.rc));
	printf("%zu MiB each way over %s\n", out.total >> 20, argv[2]);
	tp_close(out.tp);
	m->close(dev);
	return 0;
}
