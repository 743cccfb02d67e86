/* SPDX-License-Identifier: Apache-2.0
 * link - pairs of transport ends of every kind, for tests.
 */
#ifndef TESTS_UNIT_LINK_H
#define TESTS_UNIT_LINK_H

#include "hv/base/err.h"
#include "replication/seal.h"
#include "replication/session.h"
#include "replication/transport.h"

#include <CUnit/CUnit.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct link_kind {
	void (*inner)(struct tp *ends_out[2]);
	int fault; /* end 0 gets a fault layer */
};

static const uint8_t link_psk[TP_PSK_LEN] = "0123456789abcdef0123456789abcde";

/* Two ends of a TCP connection over loopback: [0] connected, [1] accepted. */
static inline void link_sockets(int fd_out[2])
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	fd_out[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CU_ASSERT_FATAL(l >= 0 && fd_out[0] >= 0);
	CU_ASSERT_EQUAL_FATAL(bind(l, (struct sockaddr *)&a, sizeof(a)), 0);
	CU_ASSERT_EQUAL_FATAL(listen(l, 1), 0);
	CU_ASSERT_EQUAL_FATAL(getsockname(l, (struct sockaddr *)&a, &len), 0);
	CU_ASSERT_EQUAL_FATAL(connect(fd_out[0], (struct sockaddr *)&a, sizeof(a)), 0);
	fd_out[1] = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	CU_ASSERT_FATAL(fd_out[1] >= 0);
	(void)close(l); /* has done its service */
}

/* One side's handshake, on a thread of its own. */
struct link_side {
	int fd, server, rc;
	const char *identity;
	const uint8_t *psk;
	unsigned timeout_ms;
	uint64_t term; /* for who says it */
	struct tp *tp;
	struct err err;
	pthread_t thread;
};

static inline void *link_handshake(void *arg)
{
	struct link_side *s = arg;

	s->rc = tp_tcp_open(s->fd, s->server, s->identity, s->psk, s->timeout_ms, &s->tp,
			    &s->err);
	return NULL;
}

static inline void link_shake_hands(struct link_side side[2])
{
	for (int i = 0; i < 2; i++)
		CU_ASSERT_EQUAL_FATAL(
			pthread_create(&side[i].thread, NULL, link_handshake, &side[i]),
			0);
	for (int i = 0; i < 2; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_join(side[i].thread, NULL), 0);
}

static inline void link_tcp_inner(struct tp *ends_out[2])
{
	struct link_side side[2] = {0};
	int fd[2];

	link_sockets(fd);
	for (int i = 0; i < 2; i++)
		side[i] = (struct link_side){.fd = fd[i],
					     .server = i,
					     .identity = "test pair",
					     .psk = link_psk,
					     .timeout_ms = 20000};
	link_shake_hands(side);
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL(side[i].rc, 0);
		if (side[i].rc)
			(void)fprintf(stderr, "side %d: %s\n", i, side[i].err.msg);
		CU_ASSERT_PTR_NOT_NULL_FATAL(side[i].tp);
		ends_out[i] = side[i].tp;
	}
}

/* Three streams for one. */
static inline void link_streams_inner(struct tp *ends_out[2])
{
	struct tp *e[2][3];
	struct err err = {0};

	for (int k = 0; k < 3; k++) {
		struct tp *pair[2];

		link_tcp_inner(pair);
		e[0][k] = pair[0];
		e[1][k] = pair[1];
	}
	for (int i = 0; i < 2; i++)
		CU_ASSERT_EQUAL_FATAL(tp_tcp_join(e[i], 3, &ends_out[i], &err), 0);
}

static inline void link_loop_inner(struct tp *ends_out[2])
{
	struct err err = {0};

	CU_ASSERT_EQUAL_FATAL(tp_loop_pair(5000, ends_out, &err), 0);
}

static inline void link_seal(struct tp *ends[2])
{
	static const struct seal_secrets secrets = {.client = "one", .server = "two"};
	struct err err = {0};

	for (int i = 0; i < 2; i++)
		CU_ASSERT_EQUAL_FATAL(tp_seal_wrap(ends[i], i, &secrets, &ends[i], &err),
				      0);
}

static inline void link_seal_inner(struct tp *ends_out[2])
{
	link_loop_inner(ends_out);
	link_seal(ends_out);
}

static inline void link_no_connect(void *arg, unsigned i)
{
}

static inline void link_no_change(void *arg, unsigned i, enum pathsel_state st,
				  const char *why)
{
}

/* A session over one path, which does not come again. It keeps more than the tests send whose sender
 * receives nothing, and so no confirmation. */
static inline void link_session_inner(struct tp *ends_out[2])
{
	struct session_params prm = {.paths = 1,
				     .replay = 8 << 20,
				     .silence_ns = 20000000000ull,
				     .giveup_ns = 40000000000ull,
				     .connect = link_no_connect,
				     .changed = link_no_change};
	struct err err = {0};
	struct session *s;
	struct tp *path[2];
	char byte = 'x';
	struct iovec v = {.iov_base = &byte, .iov_len = 1};

	link_loop_inner(path);
	for (int i = 0; i < 2; i++) {
		prm.server = i;
		CU_ASSERT_EQUAL_FATAL(session_create(&prm, &s, &ends_out[i], &err), 0);
		session_add(s, 0, path[i]);
		session_put(s);
	}
	/* What is said before the path is in use is lost if the link is given up at once. */
	for (int i = 0; i < 2; i++) {
		CU_ASSERT(!tp_send(ends_out[i], &v, 1) && !tp_flush(ends_out[i]));
		CU_ASSERT_EQUAL(tp_recv(ends_out[!i], &byte, 1), 0);
		ends_out[i]->bytes_sent = ends_out[!i]->bytes_received = 0;
	}
}

/* End 0 has the fault layer, if the kind has one, with nothing wrong yet. */
static inline void link_open(const struct link_kind *k, struct tp *ends_out[2])
{
	const struct tp_fault none = {0};
	struct err err = {0};

	k->inner(ends_out);
	if (k->fault)
		CU_ASSERT_EQUAL_FATAL(
			tp_fault_wrap(ends_out[0], &none, &ends_out[0], &err), 0);
}

static const struct link_kind link_loop = {.inner = link_loop_inner};
static const struct link_kind link_tcp = {.inner = link_tcp_inner};
static const struct link_kind link_streams = {.inner = link_streams_inner};
static const struct link_kind link_fault_streams = {.inner = link_streams_inner,
						    .fault = 1};
static const struct link_kind link_seal_loop = {.inner = link_seal_inner};
static const struct link_kind link_session_loop = {.inner = link_session_inner};
static const struct link_kind link_fault_loop = {.inner = link_loop_inner, .fault = 1};
static const struct link_kind link_fault_tcp = {.inner = link_tcp_inner, .fault = 1};

#endif
