/* SPDX-License-Identifier: Apache-2.0
 * test_path - what two ends agree on before a connection becomes a path, and with whom.
 *
 * TLS is the real one, over loopback; the module is a few functions here.
 */
#include "replication/module.h"
#include "tests/unit/pathrig.h"

#include <errno.h>
#include <stdlib.h>

/* A module whose wire is in this process; what it carried can be looked at. */
struct tp_dev {
	struct tp *wire[2];
	int fail; /* connect does */
	unsigned prepared, connected, discarded;
	uint8_t blob[2][TP_BLOB_MAX];
	size_t blob_len[2]; /* as they came */
	uint8_t carried[1 << 16];
	size_t n;
};
struct tp_end {
	struct tp_dev *dev;
	int server;
};
struct glass {
	struct tp tp;
	struct tp *inner;
	struct tp_dev *dev;
};

static int glass_send(struct tp *tp, const struct iovec *iov, int n)
{
	struct glass *g = (struct glass *)tp;

	for (int i = 0; i < n && g->dev->n + iov[i].iov_len <= sizeof(g->dev->carried);
	     i++) {
		memcpy(g->dev->carried + g->dev->n, iov[i].iov_base, iov[i].iov_len);
		g->dev->n += iov[i].iov_len;
	}
	return tp_send(g->inner, iov, n);
}

static int glass_flush(struct tp *tp)
{
	return tp_flush(((struct glass *)tp)->inner);
}

static int glass_recv(struct tp *tp, void *p, size_t len)
{
	return tp_recv(((struct glass *)tp)->inner, p, len);
}

static void glass_shutdown(struct tp *tp)
{
	tp_shutdown(((struct glass *)tp)->inner);
}

static void glass_close(struct tp *tp)
{
	tp_close(((struct glass *)tp)->inner);
	free(tp);
}

static const struct tp_ops glass_ops = {.name = "glass",
					.send = glass_send,
					.flush = glass_flush,
					.recv = glass_recv,
					.shutdown = glass_shutdown,
					.close = glass_close};

static int glass_prepare(struct tp_dev *dev, int server, struct tp_end **end_out,
			 uint8_t blob_out[TP_BLOB_MAX], size_t *len_out, struct err *err)
{
	struct tp_end *e = calloc(1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	*e = (struct tp_end){.dev = dev, .server = server};
	memset(blob_out, server ? 'S' : 'C', TP_BLOB_MAX);
	*len_out = server ? TP_BLOB_MAX : 7;
	*end_out = e;
	__atomic_fetch_add(&dev->prepared, 1, __ATOMIC_SEQ_CST);
	return 0;
}

static int glass_connect(struct tp_end *end, const uint8_t *blob, size_t len,
			 unsigned timeout_ms, struct tp **tp_out, struct err *err)
{
	struct tp_dev *dev = end->dev;
	struct glass *g = calloc(1, sizeof(*g));
	int server = end->server;

	free(end);
	__atomic_fetch_add(&dev->connected, 1, __ATOMIC_SEQ_CST);
	memcpy(dev->blob[server], blob, len);
	dev->blob_len[server] = len;
	if (dev->fail || !g) {
		free(g);
		return err_set(err, -EHOSTUNREACH, "no cable");
	}
	*g = (struct glass){.tp = {.ops = &glass_ops, .send_timeout_ms = 1000},
			    .inner = dev->wire[server],
			    .dev = dev};
	*tp_out = &g->tp;
	return 0;
}

static void glass_discard(struct tp_end *end)
{
	__atomic_fetch_add(&end->dev->discarded, 1, __ATOMIC_SEQ_CST);
	free(end);
}

static const struct tp_module glass_module = {.version = TP_MODULE_VERSION,
					      .name = "glass",
					      .prepare = glass_prepare,
					      .connect = glass_connect,
					      .discard = glass_discard};

static struct path_terms glass_terms(struct tp_dev *dev)
{
	struct path_terms t = tcp_terms();
	struct err err = {0};

	memset(dev, 0, sizeof(*dev));
	CU_ASSERT_EQUAL_FATAL(tp_loop_pair(1 << 20, dev->wire, &err), 0);
	t.transport = "glass";
	t.module = &glass_module;
	t.dev = dev;
	return t;
}

static void test_tcp(void)
{
	struct path_terms t = tcp_terms();
	struct side side[2];

	meet(side, &t, &t);
	CU_ASSERT(!side[0].rc && !side[1].rc);
	across(side);
	CU_ASSERT_STRING_EQUAL(side[0].tp->ops->name, "tcp");
	CU_ASSERT_EQUAL(side[1].got.index, 1);
	CU_ASSERT_EQUAL(side[1].got.purpose, PATH_JOIN);
	CU_ASSERT_EQUAL(side[1].got.term, t.term);
	CU_ASSERT_EQUAL(memcmp(side[1].got.session, t.session, PATH_SESSION_LEN), 0);
	part(side);
}

/* Nothing of what a module carries can be read from its wire, and each end got the other's blob. */
static void test_module(void)
{
	static struct tp_dev dev;
	struct path_terms t = glass_terms(&dev);
	struct side side[2];

	meet(side, &t, &t);
	CU_ASSERT(!side[0].rc && !side[1].rc);
	across(side);
	CU_ASSERT_STRING_EQUAL(side[0].tp->ops->name, "seal");
	CU_ASSERT(dev.n > 40);
	CU_ASSERT_PTR_NULL(memmem(dev.carried, dev.n, "secret", 6));
	CU_ASSERT(dev.blob_len[0] == TP_BLOB_MAX && dev.blob[0][TP_BLOB_MAX - 1] == 'S');
	CU_ASSERT(dev.blob_len[1] == 7 && dev.blob[1][6] == 'C');
	CU_ASSERT(dev.prepared == 2 && dev.connected == 2 && dev.discarded == 0);
	part(side);
}

static void test_module_fails(void)
{
	static struct tp_dev dev;
	struct path_terms t = glass_terms(&dev);
	struct side side[2];

	dev.fail = 1;
	meet(side, &t, &t);
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL(side[i].rc, -EHOSTUNREACH);
		CU_ASSERT_STRING_EQUAL(side[i].err.msg, "glass: no cable");
		CU_ASSERT_PTR_NULL(side[i].tp);
		tp_close(dev.wire[i]);
	}
	CU_ASSERT(dev.prepared == 2 && dev.connected == 2 && dev.discarded == 0);
}

static void refused(const struct path_terms *client, const struct path_terms *server)
{
	struct side side[2];

	meet(side, client, server);
	CU_ASSERT_EQUAL(side[0].rc, -ECONNREFUSED);
	CU_ASSERT_EQUAL(side[1].rc, -EPERM);
	CU_ASSERT_PTR_NOT_NULL(strstr(side[0].err.msg, "not what was agreed"));
	CU_ASSERT_PTR_NULL(side[0].tp);
	CU_ASSERT_PTR_NULL(side[1].tp);
}

static void test_refused(void)
{
	static struct tp_dev dev;
	struct path_terms want = tcp_terms(), t;

	t = tcp_terms();
	t.term++;
	refused(&t, &want);
	t = tcp_terms();
	t.vm = "other";
	refused(&t, &want);
	t = tcp_terms();
	t.session[15] = 1;
	refused(&t, &want);
	t = tcp_terms();
	t.purpose = PATH_FIRST;
	refused(&t, &want);
	/* Another transport than this path's is no way out. */
	t = glass_terms(&dev);
	refused(&want, &t);
	refused(&t, &want);
	CU_ASSERT(dev.prepared == 1 && dev.discarded == 1 && dev.connected == 0);
	tp_close(dev.wire[0]);
	tp_close(dev.wire[1]);
}

/* A server with the key whose answer is changed by @spoil. */
struct liar {
	int fd;
	void (*spoil)(struct path_hello_wire *h);
};

static void *lie(void *arg)
{
	struct liar *l = arg;
	struct path_hello_wire h;
	struct err err = {0};
	struct tp *tp;
	struct iovec v = {.iov_base = &h, .iov_len = sizeof(h)};

	if (tp_tcp_open(l->fd, 1, "pair", link_psk, 20000, &tp, &err))
		return "no TLS";
	if (tp_recv(tp, &h, sizeof(h)))
		return "no HELLO";
	h.server = 1;
	l->spoil(&h);
	if (tp_send(tp, &v, 1) || tp_flush(tp))
		return "no answer";
	(void)tp_recv(tp, &h, 1); /* until the client leaves */
	tp_close(tp);
	return NULL;
}

static void spoil_transport(struct path_hello_wire *h)
{
	memcpy(h->transport, "glass", 6);
}
static void spoil_term(struct path_hello_wire *h)
{
	h->term.b[7] ^= 1;
}
static void spoil_session(struct path_hello_wire *h)
{
	h->session[0] ^= 1;
}
static void spoil_index(struct path_hello_wire *h)
{
	h->index = 0;
}
static void spoil_vm(struct path_hello_wire *h)
{
	h->vm[0] ^= 1;
}
static void spoil_version(struct path_hello_wire *h)
{
	h->version = le16_of(PATH_VERSION + 1);
}
static void spoil_magic(struct path_hello_wire *h)
{
	h->magic[0] = 'X';
}
static void spoil_role(struct path_hello_wire *h)
{
	h->server = 0;
}
static void spoil_blob(struct path_hello_wire *h)
{
	h->blob_len = le16_of(TP_BLOB_MAX + 1);
}
static void spoil_zero(struct path_hello_wire *h)
{
	h->zero[4] = 1;
}
static void spoil_name(struct path_hello_wire *h)
{
	memset(h->transport, 'a', sizeof(h->transport));
}
static void spoil_why(struct path_hello_wire *h)
{
	memset(h->why, 'a', sizeof(h->why));
}

/* The client takes no answer but to its own question. */
static void test_lies(void)
{
	static void (*const spoil[])(struct path_hello_wire *) = {
		spoil_transport, spoil_term,	spoil_session, spoil_index,
		spoil_vm,	 spoil_version, spoil_magic,   spoil_role,
		spoil_blob,	 spoil_zero,	spoil_name,    spoil_why};
	struct path_terms t = tcp_terms();
	struct tp *tp = NULL;
	pthread_t thread;
	struct err err;
	void *said;
	int fd[2];

	for (unsigned i = 0; i < sizeof(spoil) / sizeof(spoil[0]); i++) {
		struct liar l = {.spoil = spoil[i]};

		link_sockets(fd);
		l.fd = fd[1];
		err = (struct err){0};
		CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, lie, &l), 0);
		CU_ASSERT_EQUAL(path_connect(fd[0], &key, &t, &tp, &err), -EPROTO);
		CU_ASSERT_PTR_NULL(tp);
		CU_ASSERT_EQUAL_FATAL(pthread_join(thread, &said), 0);
		CU_ASSERT_PTR_NULL(said);
	}
}

/* A client with the key that says nothing. */
static void *say_nothing(void *arg)
{
	struct tp *tp = NULL;
	struct err err = {0};
	char c;

	if (tp_tcp_open(*(int *)arg, 0, "pair", link_psk, 20000, &tp, &err))
		return "no TLS";
	(void)tp_recv(tp, &c, 1); /* until the server leaves */
	tp_close(tp);
	return NULL;
}

static void test_silence(void)
{
	const struct path_key hasty = {
		.pair = "pair", .psk = link_psk, .timeout_ms = 1500};
	struct path_terms t = tcp_terms();
	struct side s = {.want = &t};
	pthread_t thread;
	void *said;
	int fd[2];

	link_sockets(fd);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, say_nothing, &fd[0]), 0);
	s.rc = path_accept(fd[1], &hasty, admit, &s, &s.got, &s.tp, &s.err);
	CU_ASSERT_EQUAL(s.rc, -ETIMEDOUT);
	CU_ASSERT_PTR_NULL(s.tp);
	CU_ASSERT_EQUAL_FATAL(pthread_join(thread, &said), 0);
	CU_ASSERT_PTR_NULL(said);
}

static const struct unit_test tests[] = {
	{"tcp goes on over the connection", test_tcp},
	{"a module is sealed", test_module},
	{"a module without a wire", test_module_fails},
	{"refused, and told why", test_refused},
	{"answers to other questions", test_lies},
	{"a peer that says nothing", test_silence},
};

int main(void)
{
	return UNIT_MAIN("path", tests);
}
