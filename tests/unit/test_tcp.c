/* SPDX-License-Identifier: Apache-2.0
 * test_tcp - who is let in over TCP and who is not, and what an attacker on the wire can do.
 */
#include "hv/base/err.h"
#include "replication/transport.h"
#include "tests/unit/link.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>

static const uint8_t other_psk[TP_PSK_LEN] = "another key, of the same length";

static void refused(const char *id0, const uint8_t *psk0, const char *id1,
		    const uint8_t *psk1, const char *why)
{
	struct link_side side[2] = {0};
	int fd[2];

	link_sockets(fd);
	side[0] = (struct link_side){
		.fd = fd[0], .identity = id0, .psk = psk0, .timeout_ms = 20000};
	side[1] = (struct link_side){.fd = fd[1],
				     .server = 1,
				     .identity = id1,
				     .psk = psk1,
				     .timeout_ms = 20000};
	link_shake_hands(side);
	CU_ASSERT_EQUAL(side[0].rc, -EACCES);
	CU_ASSERT_EQUAL(side[1].rc, -EACCES);
	CU_ASSERT_PTR_NOT_NULL(strstr(side[0].err.msg, "refused us"));
	CU_ASSERT_PTR_NOT_NULL(strstr(side[0].err.msg, "config of both hosts"));
	CU_ASSERT_PTR_NOT_NULL(strstr(side[1].err.msg, why));
	CU_ASSERT_PTR_NULL(side[0].tp);
	CU_ASSERT_PTR_NULL(side[1].tp);
}

static void test_wrong_key(void)
{
	refused("pair", link_psk, "pair", other_psk, "another key");
	refused("pair", other_psk, "pair", link_psk, "another key");
}

static void test_wrong_identity(void)
{
	refused("pair", link_psk, "pairs", link_psk, "another pair");
	refused("pair two", link_psk, "pair one", link_psk, "another pair");
}

/* A peer that says @text and then nothing, until we leave. */
static void against(const char *text, int server, int then_close, int want,
		    const char *why)
{
	struct err err = {0};
	struct tp *tp = NULL;
	int fd[2];

	link_sockets(fd);
	CU_ASSERT_EQUAL(send(fd[server], text, strlen(text), 0), (ssize_t)strlen(text));
	if (then_close)
		CU_ASSERT_EQUAL(shutdown(fd[server], SHUT_WR), 0);
	CU_ASSERT_EQUAL(tp_tcp_open(fd[!server], server, "pair", link_psk,
				    text[0] || then_close ? 20000 : 30, &tp, &err),
			want);
	CU_ASSERT_PTR_NULL(tp);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, why));
	CU_ASSERT_EQUAL(close(fd[server]), 0);
}

static void test_plaintext_peer(void)
{
	const char *why = "does not speak TLS 1.3";

	against("GET / HTTP/1.0\r\n\r\n", 1, 0, -EPROTO, why);
	against("HTTP/1.1 400 Bad Request\r\n\r\n", 0, 0, -EPROTO, why);
	against("SSH-2.0-OpenSSH_9.2p1\r\n", 0, 0, -EPROTO, why);
	against("RHEAxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 1, 0, -EPROTO, why);
}

static void test_silent_peer(void)
{
	for (int server = 0; server < 2; server++) {
		against("", server, 0, -ETIMEDOUT, "did not finish");
		against("", server, 1, -ECONNRESET, "went away");
	}
}

/* A stranger with an ordinary TLS library and no key. */
static void *stranger(void *arg)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *ssl = ctx ? SSL_new(ctx) : NULL;
	long r = -1;

	if (ssl && SSL_set_fd(ssl, *(int *)arg))
		r = SSL_connect(ssl);
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	return (void *)(r == 1 ? 1l : 0l);
}

static void test_stranger_without_key(void)
{
	struct err err = {0};
	struct tp *tp = NULL;
	void *got_in = NULL;
	pthread_t th;
	int fd[2];

	link_sockets(fd);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&th, NULL, stranger, &fd[0]), 0);
	CU_ASSERT_EQUAL(tp_tcp_open(fd[1], 1, "pair", link_psk, 20000, &tp, &err),
			-EACCES);
	CU_ASSERT_PTR_NULL(tp);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.msg, "did not prove"));
	CU_ASSERT_EQUAL(pthread_join(th, &got_in), 0);
	CU_ASSERT_PTR_NULL(got_in);
	CU_ASSERT_EQUAL(close(fd[0]), 0);
}

/* Between client and server on the wire: forwards all, and harms the client's bytes once
 * told to. */
struct wire {
	int fd[2]; /* to the client, to the server */
	atomic_int flip, seen_plain;
	const char *secret;
	pthread_t thread;
};

static int forward(struct wire *w, int from)
{
	char b[4096];
	ssize_t n = recv(w->fd[from], b, sizeof(b), 0);

	if (n <= 0)
		return 0;
	if (memmem(b, (size_t)n, w->secret, strlen(w->secret)))
		atomic_store(&w->seen_plain, 1);
	if (from == 0 && atomic_load(&w->flip))
		b[n - 1] ^= 1;
	return send(w->fd[!from], b, (size_t)n, MSG_NOSIGNAL) == n;
}

static void *wire_run(void *arg)
{
	struct wire *w = arg;
	struct pollfd p[2] = {{.fd = w->fd[0], .events = POLLIN},
			      {.fd = w->fd[1], .events = POLLIN}};

	for (;;) {
		if (poll(p, 2, -1) < 0)
			break;
		if (p[0].revents && !forward(w, 0))
			break;
		if (p[1].revents && !forward(w, 1))
			break;
	}
	(void)close(w->fd[0]); /* ends both sides */
	(void)close(w->fd[1]);
	return NULL;
}

static void tampered(struct link_side side[2], struct wire *w)
{
	struct iovec v = {.iov_base = (void *)w->secret, .iov_len = strlen(w->secret)};
	char b[64];

	CU_ASSERT_EQUAL(tp_send(side[0].tp, &v, 1), 0);
	CU_ASSERT_EQUAL(tp_flush(side[0].tp), 0);
	CU_ASSERT_EQUAL(tp_recv(side[1].tp, b, v.iov_len), 0);
	CU_ASSERT_EQUAL(memcmp(b, w->secret, v.iov_len), 0);
	atomic_store(&w->flip, 1);
	CU_ASSERT_EQUAL(tp_send(side[0].tp, &v, 1), 0);
	CU_ASSERT_EQUAL(tp_flush(side[0].tp), 0);
	CU_ASSERT_EQUAL(tp_recv(side[1].tp, b, v.iov_len), -EBADMSG);
	CU_ASSERT_EQUAL(tp_recv(side[1].tp, b, 1), -EBADMSG);
	CU_ASSERT_EQUAL(atomic_load(&w->seen_plain), 0);
}

static void test_attacker_on_the_wire(void)
{
	struct wire w = {.secret = "what the guest said in confidence"};
	struct link_side side[2] = {0};
	int left[2], right[2];

	link_sockets(left);
	link_sockets(right);
	w.fd[0] = left[1];
	w.fd[1] = right[0];
	side[0] = (struct link_side){
		.fd = left[0], .identity = "p", .psk = link_psk, .timeout_ms = 20000};
	side[1] = (struct link_side){.fd = right[1],
				     .server = 1,
				     .identity = "p",
				     .psk = link_psk,
				     .timeout_ms = 20000};
	CU_ASSERT_EQUAL_FATAL(pthread_create(&w.thread, NULL, wire_run, &w), 0);
	link_shake_hands(side);
	CU_ASSERT_EQUAL(side[0].rc, 0);
	CU_ASSERT_EQUAL(side[1].rc, 0);
	if (!side[0].rc && !side[1].rc)
		tampered(side, &w);
	tp_close(side[0].tp);
	tp_close(side[1].tp);
	CU_ASSERT_EQUAL(pthread_join(w.thread, NULL), 0);
}

/* Between processes of one host, as benchmarks do. */
static void test_unix_socket(void)
{
	struct link_side side[2] = {0};
	struct iovec v = {.iov_base = "abc", .iov_len = 3};
	char b[3];
	int fd[2];

	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	for (int i = 0; i < 2; i++)
		side[i] = (struct link_side){.fd = fd[i],
					     .server = i,
					     .identity = "p",
					     .psk = link_psk,
					     .timeout_ms = 20000};
	link_shake_hands(side);
	CU_ASSERT_FATAL(side[0].tp && side[1].tp);
	CU_ASSERT_EQUAL(tp_send(side[0].tp, &v, 1), 0);
	CU_ASSERT_EQUAL(tp_flush(side[0].tp), 0);
	CU_ASSERT_EQUAL(tp_recv(side[1].tp, b, 3), 0);
	CU_ASSERT_EQUAL(memcmp(b, "abc", 3), 0);
	tp_close(side[0].tp);
	CU_ASSERT_EQUAL(tp_recv(side[1].tp, b, 1), -EPIPE);
	tp_close(side[1].tp);
}

enum { REKEY_TOTAL = 2 << 20 };

static void *pump(void *arg)
{
	static uint8_t page[4096] = "rekey";
	struct iovec v = {.iov_base = page, .iov_len = sizeof(page)};
	long rc = 0;

	for (size_t n = 0; !rc && n < REKEY_TOTAL; n += sizeof(page))
		rc = tp_send(arg, &v, 1);
	if (!rc)
		rc = tp_flush(arg);
	return (void *)rc;
}

static int drain(struct tp *tp)
{
	uint8_t b[4096];
	int rc = 0;

	for (size_t n = 0; !rc && n < REKEY_TOTAL; n += sizeof(b))
		rc = tp_recv(tp, b, sizeof(b));
	return rc ? rc : memcmp(b, "rekey", 6);
}

/* Both directions take new keys all the time, while both are busy. */
static void test_rekey(void)
{
	struct tp *e[2];
	pthread_t th[2];
	void *rc;

	link_open(&link_tcp, e);
	for (int i = 0; i < 2; i++) {
		tp_tcp_set_rekey(e[i], 10000);
		CU_ASSERT_EQUAL_FATAL(pthread_create(&th[i], NULL, pump, e[i]), 0);
	}
	CU_ASSERT_EQUAL(drain(e[0]), 0);
	CU_ASSERT_EQUAL(drain(e[1]), 0);
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL(pthread_join(th[i], &rc), 0);
		CU_ASSERT_PTR_NULL(rc);
	}
	tp_close(e[0]);
	tp_close(e[1]);
}

/* What the layers above make keys of: the same at both ends, and nowhere else. */
static void test_export(void)
{
	struct tp *e[2], *other[2];
	uint8_t a[64], b[64];

	link_tcp_inner(e);
	link_tcp_inner(other);
	CU_ASSERT_EQUAL(tp_tcp_export(e[0], "label", "context", 7, a, sizeof(a)), 0);
	CU_ASSERT_EQUAL(tp_tcp_export(e[1], "label", "context", 7, b, sizeof(b)), 0);
	CU_ASSERT_EQUAL(memcmp(a, b, sizeof(a)), 0);
	CU_ASSERT_EQUAL(tp_tcp_export(e[1], "lAbel", "context", 7, b, sizeof(b)), 0);
	CU_ASSERT(memcmp(a, b, 16) != 0 && memcmp(a + 32, b + 32, 16) != 0);
	CU_ASSERT_EQUAL(tp_tcp_export(e[1], "label", "contexT", 7, b, sizeof(b)), 0);
	CU_ASSERT(memcmp(a, b, 16) != 0 && memcmp(a + 32, b + 32, 16) != 0);
	CU_ASSERT_EQUAL(tp_tcp_export(other[1], "label", "context", 7, b, sizeof(b)), 0);
	CU_ASSERT(memcmp(a, b, 16) != 0 && memcmp(a + 32, b + 32, 16) != 0);
	for (int i = 0; i < 2; i++) {
		tp_close(e[i]);
		tp_close(other[i]);
	}
}

static void test_recv_timeout(void)
{
	struct tp *e[2];
	char c;

	link_tcp_inner(e);
	tp_tcp_set_recv_timeout(e[0], 5);
	CU_ASSERT_EQUAL(tp_recv(e[0], &c, 1), -ETIMEDOUT);
	tp_close(e[0]);
	tp_close(e[1]);
}

static const struct unit_test tests[] = {
	{"a wrong key is refused by both", test_wrong_key},
	{"another pair's name is refused by both", test_wrong_identity},
	{"a peer without TLS is refused", test_plaintext_peer},
	{"a silent peer is given up", test_silent_peer},
	{"a stranger with TLS but no key", test_stranger_without_key},
	{"an attacker reads nothing and changes nothing", test_attacker_on_the_wire},
	{"over a Unix socket", test_unix_socket},
	{"new keys on the way", test_rekey},
	{"exported keys", test_export},
	{"nothing comes", test_recv_timeout},
};

int main(void)
{
	return UNIT_MAIN("tcp", tests);
}
