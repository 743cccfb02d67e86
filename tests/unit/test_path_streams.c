/* SPDX-License-Identifier: Apache-2.0
 * test_path_streams - a tcp path of several streams: all there, and none that does not belong.
 */
#include "replication/path_streams.h"
#include "tests/unit/pathrig.h"

#include <errno.h>

enum { MORE_MAX = TP_TCP_STREAMS_MAX };

/* A path with several streams, whose further connections are made here. */
struct many {
	struct path_hall *hall;
	unsigned lost; /* the connection that never reaches the server, from 1; 0: none */
	unsigned asked, n; /* connections; threads */
	pthread_t thread[MORE_MAX];
	int fd[MORE_MAX], rc[MORE_MAX];
};

static const struct path_key *many_key(struct many *m, struct path_key *k,
				       int (*more)(void *, unsigned, int *, struct err *))
{
	*k = (struct path_key){.pair = "pair",
			       .psk = link_psk,
			       .timeout_ms = m->lost ? 1500 : 20000,
			       .more = more,
			       .more_arg = m,
			       .hall = m->hall};
	return k;
}

struct guest {
	struct many *m;
	unsigned i;
};

static void *come(void *arg)
{
	struct guest *g = arg;
	struct err err = {0};

	g->m->rc[g->i] = path_stream_accept(g->m->fd[g->i], &key, g->m->hall, &err);
	free(g);
	return NULL;
}

/* The server's end of a further connection. */
static void arrives(struct many *m, int fd)
{
	struct guest *g = malloc(sizeof(*g));

	CU_ASSERT_FATAL(g && m->n < MORE_MAX);
	*g = (struct guest){.m = m, .i = m->n};
	m->fd[m->n] = fd;
	CU_ASSERT_EQUAL_FATAL(pthread_create(&m->thread[m->n], NULL, come, g), 0);
	m->n++;
}

static int more(void *arg, unsigned n, int *fds, struct err *err)
{
	struct many *m = arg;
	int fd[2];

	m->asked += n;
	for (unsigned i = 0; i < n; i++) {
		link_sockets(fd);
		fds[i] = fd[0];
		if (m->lost == i + 1) {
			CU_ASSERT_EQUAL(close(fd[1]), 0);
		} else {
			arrives(m, fd[1]);
		}
	}
	return 0;
}

struct many_side {
	struct side s;
	struct path_key key;
};

static int admit_many(void *arg, struct path_terms *offer, struct err *err)
{
	struct many_side *s = arg;

	offer->streams = s->s.want->streams;
	return admit(&s->s, offer, err);
}

static void *serve_many(void *arg)
{
	struct many_side *s = arg;

	s->s.rc = path_accept(s->s.fd, &s->key, admit_many, s, &s->s.got, &s->s.tp,
			      &s->s.err);
	return NULL;
}

static void meet_many(struct many *m, struct side side[2], unsigned client,
		      unsigned server)
{
	struct path_terms t[2] = {tcp_terms(), tcp_terms()};
	struct many_side s = {0};
	struct path_key k;
	int fd[2];

	memset(side, 0, 2 * sizeof(*side));
	CU_ASSERT_EQUAL_FATAL(path_hall_create(&m->hall), 0);
	link_sockets(fd);
	t[0].streams = client;
	t[1].streams = server;
	s.s.fd = fd[1];
	s.s.want = &t[1];
	(void)many_key(m, &s.key, NULL);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&s.s.thread, NULL, serve_many, &s), 0);
	side[0].rc = path_connect(fd[0], many_key(m, &k, more), &t[0], &side[0].tp,
				  &side[0].err);
	CU_ASSERT_EQUAL_FATAL(pthread_join(s.s.thread, NULL), 0);
	side[1] = s.s;
	for (unsigned i = 0; i < m->n; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_join(m->thread[i], NULL), 0);
	path_hall_destroy(m->hall);
}

/* The fewer of what both ends would like, and each stream is used. */
static void test_streams(void)
{
	static const unsigned ask[][3] = {{1, 1, 1}, {4, 1, 1}, {1, 4, 1},
					  {3, 8, 3}, {8, 2, 2}, {8, 8, 8}};
	struct side side[2];

	for (unsigned i = 0; i < sizeof(ask) / sizeof(ask[0]); i++) {
		struct many m = {0};

		meet_many(&m, side, ask[i][0], ask[i][1]);
		CU_ASSERT(!side[0].rc && !side[1].rc);
		CU_ASSERT_EQUAL(m.asked, ask[i][2] - 1);
		for (unsigned k = 0; k < m.n; k++)
			CU_ASSERT_EQUAL(m.rc[k], 0);
		across(side);
		part(side);
	}
}

static void test_stream_missing(void)
{
	struct many m = {.lost = 2};
	struct side side[2];

	meet_many(&m, side, 4, 4);
	CU_ASSERT(side[0].rc < 0 && !side[0].tp);
	CU_ASSERT_EQUAL(side[1].rc, -ETIMEDOUT);
	CU_ASSERT_PTR_NOT_NULL(strstr(side[1].err.msg, "2 of the peer's 4 streams"));
	CU_ASSERT_PTR_NULL(side[1].tp);
}

/* A connection of somebody who has the key, but was not at the first one. */
static void *splice(void *arg)
{
	int fd = *(int *)arg;
	struct path_stream_wire w = {.version = le16_of(PATH_VERSION), .index = 1};
	struct iovec v = {.iov_base = &w, .iov_len = sizeof(w)};
	struct err err = {0};
	void *said = NULL;
	struct tp *tp;

	memcpy(w.magic, "RHEASTRM", 8);
	if (tp_tcp_open(fd, 0, "pair", link_psk, 20000, &tp, &err))
		return "no TLS";
	if (tp_send(tp, &v, 1) || tp_flush(tp) || tp_recv(tp, &w, sizeof(w)) ||
	    !le16_get(w.status) || tp_recv(tp, &w, 1) != -EPIPE)
		said = "was not refused";
	tp_close(tp);
	return said;
}

static int more_spliced(void *arg, unsigned n, int *fds, struct err *err)
{
	struct many *m = arg;
	pthread_t thread;
	void *said;
	int fd[2];

	/* The place is free, and somebody waits for it. */
	link_sockets(fd);
	arrives(m, fd[1]);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, splice, &fd[0]), 0);
	CU_ASSERT_EQUAL_FATAL(pthread_join(thread, &said), 0);
	CU_ASSERT_PTR_NULL(said);
	return more(arg, n, fds, err);
}

static void test_stream_spliced(void)
{
	struct path_terms t = tcp_terms();
	struct many_side s = {0};
	struct many m = {0};
	struct path_key k;
	struct side side[2] = {0};
	int fd[2];

	t.streams = 2;
	CU_ASSERT_EQUAL_FATAL(path_hall_create(&m.hall), 0);
	link_sockets(fd);
	s.s.fd = fd[1];
	s.s.want = &t;
	(void)many_key(&m, &s.key, NULL);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&s.s.thread, NULL, serve_many, &s), 0);
	side[0].rc = path_connect(fd[0], many_key(&m, &k, more_spliced), &t, &side[0].tp,
				  &side[0].err);
	CU_ASSERT_EQUAL_FATAL(pthread_join(s.s.thread, NULL), 0);
	side[1] = s.s;
	for (unsigned i = 0; i < m.n; i++)
		CU_ASSERT_EQUAL_FATAL(pthread_join(m.thread[i], NULL), 0);
	CU_ASSERT(!side[0].rc && !side[1].rc);
	CU_ASSERT_EQUAL(m.rc[0], -ESTALE);
	CU_ASSERT_EQUAL(m.rc[1], 0);
	across(side);
	part(side);
	path_hall_destroy(m.hall);
}

static const struct unit_test tests[] = {
	{"several streams", test_streams},
	{"a stream that is missing", test_stream_missing},
	{"a stream that does not belong", test_stream_spliced},
};

int main(void)
{
	return UNIT_MAIN("path_streams", tests);
}
