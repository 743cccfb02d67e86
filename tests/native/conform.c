/* SPDX-License-Identifier: Apache-2.0
 * conform - the promises of a transport, between two processes.
 */
#include "tests/native/conform.h"

#include "hv/base/err.h"
#include "replication/module.h"
#include "replication/transport.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MiB = 1 << 20, TOTAL = 3 * MiB + 17, CONNECT_MS = 20000, CHUNK = 100000 };

void conform_check(struct conform *c, int ok, const char *what, int line)
{
	if (ok)
		return;
	c->failed++;
	(void)fprintf(stderr, "side %d, line %d: not so: %s\n", c->side, line, what);
}

static void die(const char *what)
{
	(void)fprintf(stderr, "conform: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void put_all(int fd, const void *p, size_t len)
{
	if (write(fd, p, len) != (ssize_t)len)
		die("the other side");
}

static void get_all(int fd, void *p, size_t len)
{
	for (size_t n = 0; n < len;) {
		ssize_t got = read(fd, (uint8_t *)p + n, len - n);

		if (got <= 0)
			die("the other side");
		n += (size_t)got;
	}
}

void conform_meet(struct conform *c)
{
	char b = 'm';

	put_all(c->sock, &b, 1);
	get_all(c->sock, &b, 1);
}

int conform_connect_module(struct conform *c, struct tp **tp_out, struct err *err)
{
	uint8_t own[TP_BLOB_MAX], peer[TP_BLOB_MAX];
	size_t own_len, peer_len;
	struct tp_end *end;
	int rc = c->module->prepare(c->dev, c->side, &end, own, &own_len, err);

	if (rc)
		return rc;
	put_all(c->sock, &own_len, sizeof(own_len));
	put_all(c->sock, own, own_len);
	get_all(c->sock, &peer_len, sizeof(peer_len));
	if (peer_len > sizeof(peer))
		die("a description that is too long");
	get_all(c->sock, peer, peer_len);
	return c->module->connect(end, peer, peer_len, CONNECT_MS, tp_out, err);
}

const struct tp_module *conform_load(const char *dir, const char *name)
{
	const struct tp_module *m;
	char path[512];
	void *so;

	(void)snprintf(path, sizeof(path), "%s/rhea-tp-%s.so", dir, name);
	so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	m = so ? dlsym(so, TP_MODULE_SYMBOL) : NULL;
	if (!m || m->version != TP_MODULE_VERSION || strcmp(m->name, name) != 0) {
		(void)fprintf(stderr, "%s: %s\n", path,
			      so ? "another module" : dlerror());
		exit(2);
	}
	return m;
}

static uint8_t byte_at(unsigned seed, size_t pos)
{
	uint64_t x = (pos >> 3) * 0x9e3779b97f4a7c15ull + seed;

	x ^= x >> 29;
	x *= 0xbf58476d1ce4e5b9ull;
	return (uint8_t)(x >> (8 * (pos & 7)));
}

int conform_send(struct tp *tp, unsigned seed, size_t total)
{
	static const size_t size[] = {1, 48, 0, 4096, 16383, 16384, 16385, CHUNK, 7};
	uint8_t *b = malloc(CHUNK);
	struct iovec v[3];
	size_t done = 0;
	int rc = b ? 0 : -ENOMEM;

	for (unsigned i = 0; !rc && done < total; i++) {
		size_t n = size[i % 9];

		n = n < total - done ? n : total - done;
		for (size_t k = 0; k < n; k++)
			b[k] = byte_at(seed, done + k);
		v[0] = (struct iovec){.iov_base = b, .iov_len = n / 3};
		v[1] = (struct iovec){.iov_base = NULL, .iov_len = 0};
		v[2] = (struct iovec){.iov_base = b + n / 3, .iov_len = n - n / 3};
		rc = tp_send(tp, v, 3);
		done += n;
	}
	free(b);
	return rc ? rc : tp_flush(tp);
}

int conform_recv(struct tp *tp, unsigned seed, size_t total)
{
	static const size_t size[] = {48, 1, 4096, 333, 65536, 16384};
	uint8_t *b = malloc(CHUNK);
	size_t done = 0;
	int rc = b ? 0 : -ENOMEM;

	for (unsigned i = 0; !rc && done < total; i++) {
		size_t n = size[i % 6];

		n = n < total - done ? n : total - done;
		rc = tp_recv(tp, b, n);
		for (size_t k = 0; k < n && !rc; k++)
			if (b[k] != byte_at(seed, done + k))
				rc = -EBADMSG;
		done += n;
	}
	free(b);
	return rc;
}

/* Somebody who sends or receives on a thread of its own. */
struct worker {
	int (*fn)(struct tp *tp, unsigned seed, size_t total);
	struct tp *tp;
	unsigned seed;
	size_t total;
	int rc;
	pthread_t thread;
};

static void *work(void *arg)
{
	struct worker *w = arg;

	w->rc = w->fn(w->tp, w->seed, w->total);
	return NULL;
}

static void start(struct worker *w, int (*fn)(struct tp *, unsigned, size_t),
		  struct tp *tp, unsigned seed, size_t total)
{
	*w = (struct worker){.fn = fn, .tp = tp, .seed = seed, .total = total};
	if (pthread_create(&w->thread, NULL, work, w))
		die("thread");
}

static int join(struct worker *w)
{
	if (pthread_join(w->thread, NULL))
		die("thread");
	return w->rc;
}

static int send_text(struct tp *tp, const char *s)
{
	struct iovec v = {.iov_base = (void *)s, .iov_len = strlen(s)};
	int rc = tp_send(tp, &v, 1);

	return rc ? rc : tp_flush(tp);
}

/* Sends until it fails or a flood has gone out; what it failed with. */
static int send_flood(struct conform *c, struct tp *tp)
{
	static uint8_t page[64 << 10];
	struct iovec v = {.iov_base = page, .iov_len = sizeof(page)};
	int rc = 0;

	for (size_t n = 0; !rc && n < c->flood; n += sizeof(page))
		rc = tp_send(tp, &v, 1);
	return rc;
}

/* In every case side 0 does what its name says. Each closes its end itself. */

static void one_way(struct conform *c, struct tp *tp)
{
	for (int from = 0; from < 2; from++) {
		if (c->side == from)
			CONFORM(c, conform_send(tp, 1, TOTAL) == 0);
		else
			CONFORM(c, conform_recv(tp, 1, TOTAL) == 0);
	}
	CONFORM(c, tp->bytes_sent == TOTAL);
	CONFORM(c, tp->bytes_received == TOTAL);
	conform_meet(c);
	tp_close(tp);
}

static void both_ways(struct conform *c, struct tp *tp)
{
	struct worker out, in;

	start(&out, conform_send, tp, (unsigned)c->side, 4 * TOTAL);
	start(&in, conform_recv, tp, (unsigned)!c->side, 4 * TOTAL);
	CONFORM(c, join(&out) == 0);
	CONFORM(c, join(&in) == 0);
	conform_meet(c);
	tp_close(tp);
}

/* A question and its answer, of a checkpoint's size and a word. */
static void turns(struct conform *c, struct tp *tp)
{
	for (unsigned i = 0; i < 500; i++) {
		if (c->side == 0) {
			CONFORM(c, conform_send(tp, i, 4096) == 0);
			CONFORM(c, conform_recv(tp, i, 48) == 0);
		} else {
			CONFORM(c, conform_recv(tp, i, 4096) == 0);
			CONFORM(c, conform_send(tp, i, 48) == 0);
		}
	}
	conform_meet(c);
	tp_close(tp);
}

/* Nobody reads: the sender is held, and gives up after its time-out. So buffers are bounded. */
static void backpressure(struct conform *c, struct tp *tp)
{
	if (c->side == 0) {
		tp->send_timeout_ms = 100;
		CONFORM(c, send_flood(c, tp) == -ETIMEDOUT);
		CONFORM(c, tp->bytes_sent < c->flood);
		CONFORM(c, send_text(tp, "more") == -ETIMEDOUT);
		CONFORM(c, tp_flush(tp) == -ETIMEDOUT);
	}
	conform_meet(c);
	tp_close(tp);
}

static void slow_reader(struct conform *c, struct tp *tp)
{
	struct worker out;

	if (c->side == 0) {
		start(&out, conform_send, tp, 7, c->flood);
		conform_meet(c);
		CONFORM(c, join(&out) == 0);
	} else {
		conform_meet(
			c); /* the other's buffers fill before the first byte is read */
		CONFORM(c, conform_recv(tp, 7, c->flood) == 0);
	}
	conform_meet(c);
	tp_close(tp);
}

static void shutdown_unblocks(struct conform *c, struct tp *tp)
{
	struct worker in, out;
	char b;

	if (c->side == 0) {
		start(&in, conform_recv, tp, 0, 10);
		start(&out, conform_send, tp, 0, c->flood);
		tp_shutdown(tp);
		CONFORM(c, join(&in) == -ESHUTDOWN);
		CONFORM(c, join(&out) == -ESHUTDOWN);
		tp_shutdown(tp); /* twice is fine */
		CONFORM(c, send_text(tp, "x") == -ESHUTDOWN);
		CONFORM(c, tp_recv(tp, &b, 1) == -ESHUTDOWN);
	}
	conform_meet(c);
	tp_close(tp);
}

static void closes_in_good_order(struct conform *c, struct tp *tp)
{
	char b[8];

	if (c->side == 0) {
		CONFORM(c, send_text(tp, "goodbye") == 0);
		tp_close(tp);
		conform_meet(c);
		return;
	}
	CONFORM(c, tp_recv(tp, b, 7) == 0 && !memcmp(b, "goodbye", 7));
	CONFORM(c, tp_recv(tp, b, 1) == -EPIPE);
	CONFORM(c, tp_recv(tp, b, 1) == -EPIPE);
	CONFORM(c, send_flood(c, tp) == -ECONNRESET);
	CONFORM(c, send_text(tp, "x") == -ECONNRESET);
	conform_meet(c);
	tp_close(tp);
}

/* What was flushed arrives, however soon the close comes after it. */
static void closes_behind_much(struct conform *c, struct tp *tp)
{
	char b;

	if (c->side == 0) {
		CONFORM(c, conform_send(tp, 3, TOTAL / 2) == 0);
	} else {
		CONFORM(c, conform_recv(tp, 3, TOTAL / 2) == 0);
		CONFORM(c, tp_recv(tp, &b, 1) == -EPIPE);
	}
	tp_close(tp);
	conform_meet(c);
}

static void closes_within_a_recv(struct conform *c, struct tp *tp)
{
	char b[8];

	if (c->side == 0) {
		CONFORM(c, send_text(tp, "half") == 0);
	} else {
		CONFORM(c, tp_recv(tp, b, 8) == -ECONNRESET);
		CONFORM(c, tp_recv(tp, b, 1) == -ECONNRESET);
	}
	tp_close(tp);
	conform_meet(c);
}

static void dies(struct conform *c, struct tp *tp)
{
	char b[8];

	if (c->side == 0) {
		CONFORM(c, send_text(tp, "fenced") == 0);
		tp_shutdown(tp);
	} else {
		CONFORM(c, send_flood(c, tp) == -ECONNRESET);
		CONFORM(c, tp_recv(tp, b, 6) == 0 && !memcmp(b, "fenced", 6));
		CONFORM(c, tp_recv(tp, b, 1) == -ECONNRESET);
	}
	conform_meet(c);
	tp_close(tp);
}

static void dies_under_load(struct conform *c, struct tp *tp)
{
	struct worker out, in;

	if (c->side == 0) {
		CONFORM(c, conform_recv(tp, 1, TOTAL) == 0);
		tp_shutdown(tp);
	} else {
		start(&out, conform_send, tp, 1, TOTAL + c->flood);
		start(&in, conform_recv, tp, 2, 1000);
		CONFORM(c, join(&out) == -ECONNRESET);
		CONFORM(c, join(&in) == -ECONNRESET);
	}
	conform_meet(c);
	tp_close(tp);
}

static const struct {
	const char *name;
	void (*fn)(struct conform *c, struct tp *tp);
} cases[] = {
	{"one way", one_way},
	{"both ways", both_ways},
	{"turns", turns},
	{"backpressure", backpressure},
	{"slow reader", slow_reader},
	{"shutdown unblocks", shutdown_unblocks},
	{"closes in good order", closes_in_good_order},
	{"closes behind much", closes_behind_much},
	{"closes within a recv", closes_within_a_recv},
	{"dies", dies},
	{"dies under load", dies_under_load},
};

int conform_run(struct conform *c, int *run_out)
{
	int n = sizeof(cases) / sizeof(cases[0]), failed = 0;
	struct err err = {0};
	struct tp *tp;

	for (int i = 0; i < n; i++) {
		c->failed = 0;
		if (c->connect(c, &tp, &err)) {
			(void)fprintf(stderr, "%s: side %d: %s\n", cases[i].name, c->side,
				      err.msg);
			exit(2); /* the other side waits for its own time-out */
		}
		cases[i].fn(c, tp);
		if (c->failed)
			(void)fprintf(stderr, "FAILED: %s (side %d)\n", cases[i].name,
				      c->side);
		failed += !!c->failed;
	}
	*run_out = n;
	return failed;
}
