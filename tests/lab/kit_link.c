/* SPDX-License-Identifier: Apache-2.0
 * kit_link - two processes on two hosts that make links of a loaded transport, in step.
 */
#include "tests/lab/kit_link.h"

#include "hv/base/err.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 100000 };

void kit_die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap); /* if even this fails, nobody can be told */
	va_end(ap);
	(void)fputc('\n', stderr);
	exit(2);
}

static int listen_once(const struct sockaddr_in *a)
{
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1, fd;

	if (l < 0 || setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
	    bind(l, (const struct sockaddr *)a, sizeof(*a)) || listen(l, 1))
		kit_die("listening for the other side: %s", strerror(errno));
	(void)printf("listening\n"); /* the script waits for this line */
	(void)fflush(stdout);
	fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	(void)close(l); /* has done its service */
	return fd;
}

void kit_meet(struct kit *k, const char *host, unsigned port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	int on = 1;

	k->server = !host;
	if (host) {
		k->ctl = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (inet_pton(AF_INET, host, &a.sin_addr) != 1 ||
		    connect(k->ctl, (struct sockaddr *)&a, sizeof(a)))
			kit_die("connecting to %s: %s", host, strerror(errno));
	} else {
		k->ctl = listen_once(&a);
	}
	if (k->ctl < 0 || setsockopt(k->ctl, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)))
		kit_die("the way to the other side: %s", strerror(errno));
}

void kit_open(struct kit *k, const char *module, const char *args)
{
	void *so = dlopen(module, RTLD_NOW | RTLD_LOCAL);
	struct err err = {0};

	k->mod = so ? dlsym(so, TP_MODULE_SYMBOL) : NULL;
	if (!k->mod || k->mod->version != TP_MODULE_VERSION)
		kit_die("%s: %s", module, k->mod ? "another version" : dlerror());
	if (k->mod->open(args, &k->dev, &err))
		kit_die("open: %s", err.msg);
}

void kit_tell(struct kit *k, const void *p, size_t len)
{
	if (send(k->ctl, p, len, MSG_NOSIGNAL) != (ssize_t)len)
		kit_die("telling the other side: %s", strerror(errno));
}

void kit_hear(struct kit *k, void *p, size_t len)
{
	if (recv(k->ctl, p, len, MSG_WAITALL) != (ssize_t)len)
		kit_die("the other side is gone");
}

void kit_sync(struct kit *k)
{
	char c = 's';

	kit_tell(k, &c, 1);
	kit_hear(k, &c, 1);
	if (c != 's')
		kit_die("the two sides are out of step");
}

struct tp *kit_link(struct kit *k)
{
	uint8_t blob[TP_BLOB_MAX], theirs[TP_BLOB_MAX];
	struct err err = {0};
	struct tp_end *end;
	struct tp *tp;
	size_t len, n;

	if (k->mod->prepare(k->dev, k->server, &end, blob, &len, &err))
		kit_die("prepare: %s", err.msg);
	kit_tell(k, &len, sizeof(len));
	kit_tell(k, blob, len);
	kit_hear(k, &n, sizeof(n));
	if (n > sizeof(theirs))
		kit_die("a blob of %zu bytes", n);
	kit_hear(k, theirs, n);
	if (k->mod->connect(end, theirs, n, KIT_CONNECT_MS, &tp, &err))
		kit_die("connect: %s", err.msg);
	return tp;
}

uint8_t kit_byte(unsigned seed, size_t pos)
{
	uint64_t x = (pos >> 3) * 0x9e3779b97f4a7c15ull + seed;

	x ^= x >> 29;
	x *= 0xbf58476d1ce4e5b9ull;
	return (uint8_t)(x >> (8 * (pos & 7)));
}

static size_t next_size(const struct kit_worker *w, unsigned i)
{
	static const size_t odd[] = {1, 48, 0, 4096, 16383, 65536, 16385, BUFFER, 7};
	size_t n = w->step ? w->step : odd[i % 9];

	return n < w->total - w->done ? n : w->total - w->done;
}

void *kit_send(void *worker)
{
	struct kit_worker *w = worker;
	uint8_t *b = malloc(BUFFER);
	struct iovec v[3];

	for (unsigned i = 0; b && !w->rc && w->done < w->total; i++) {
		size_t n = next_size(w, i), a = n / 3;

		for (size_t j = 0; j < n; j++)
			b[j] = kit_byte(w->seed, w->done + j);
		v[0] = (struct iovec){.iov_base = b, .iov_len = a};
		v[1] = (struct iovec){.iov_base = NULL, .iov_len = 0};
		v[2] = (struct iovec){.iov_base = b + a, .iov_len = n - a};
		w->rc = tp_send(w->tp, v, 3);
		if (!w->rc)
			w->done += n;
		if (!w->rc && w->flush_each)
			w->rc = tp_flush(w->tp);
		/* Sent is sent: what becomes of the buffer must not matter. */
		memset(b, 0xee, n);
	}
	if (!w->rc)
		w->rc = b ? tp_flush(w->tp) : -ENOMEM;
	free(b);
	return NULL;
}

void *kit_recv(void *worker)
{
	struct kit_worker *w = worker;
	uint8_t *b = malloc(BUFFER);

	for (unsigned i = 3; b && !w->rc && w->done < w->total; i++) {
		size_t n = next_size(w, i);

		w->rc = tp_recv(w->tp, b, n);
		for (size_t j = 0; j < n && !w->rc; j++)
			w->wrong += b[j] != kit_byte(w->seed, w->done + j);
		if (!w->rc)
			w->done += n;
	}
	if (!b)
		w->rc = -ENOMEM;
	free(b);
	return NULL;
}

void kit_start(struct kit_worker *w, void *(*fn)(void *))
{
	if (pthread_create(&w->thread, NULL, fn, w))
		kit_die("no thread");
}

void kit_join(struct kit_worker *w)
{
	if (pthread_join(w->thread, NULL))
		kit_die("a thread cannot be joined");
}
