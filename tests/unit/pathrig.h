/* SPDX-License-Identifier: Apache-2.0
 * pathrig - two ends of a path over loopback, each with what it is set up for, and how it fared.
 */
#ifndef TESTS_UNIT_PATHRIG_H
#define TESTS_UNIT_PATHRIG_H

#include <pthread.h>
#include <string.h>

#include "hv/base/err.h"
#include "replication/path.h"
#include "replication/transport.h"
#include "tests/unit/link.h"
#include "tests/unit/unit.h"

static const struct path_key key = {.pair = "pair", .psk = link_psk, .timeout_ms = 20000};

/* What each end is set up for, and how it fared. */
struct side {
	int fd, rc;
	const struct path_terms *want;
	struct path_terms got;
	struct tp *tp;
	struct err err;
	pthread_t thread;
};

static inline int admit(void *arg, struct path_terms *offer, struct err *err)
{
	const struct path_terms *want = ((struct side *)arg)->want;

	if (offer->term != want->term || strcmp(offer->vm, want->vm) != 0 ||
	    offer->index != want->index || offer->paths != want->paths ||
	    offer->purpose != want->purpose ||
	    strcmp(offer->transport, want->transport) != 0 ||
	    memcmp(offer->session, want->session, sizeof(offer->session)) != 0)
		return err_set(err, -EPERM, "that is not what was agreed");
	offer->module = want->module;
	offer->dev = want->dev;
	return 0;
}

static inline void *serve(void *arg)
{
	struct side *s = arg;

	s->rc = path_accept(s->fd, &key, admit, s, &s->got, &s->tp, &s->err);
	return NULL;
}

static inline void meet(struct side side[2], const struct path_terms *client,
			const struct path_terms *server)
{
	int fd[2];

	memset(side, 0, 2 * sizeof(*side));
	link_sockets(fd);
	for (int i = 0; i < 2; i++) {
		side[i].fd = fd[i];
		side[i].want = i ? server : client;
	}
	CU_ASSERT_EQUAL_FATAL(pthread_create(&side[1].thread, NULL, serve, &side[1]), 0);
	side[0].rc = path_connect(fd[0], &key, client, &side[0].tp, &side[0].err);
	CU_ASSERT_EQUAL_FATAL(pthread_join(side[1].thread, NULL), 0);
}

static inline void part(struct side side[2])
{
	for (int i = 0; i < 2; i++)
		tp_close(side[i].tp);
}

static inline struct path_terms tcp_terms(void)
{
	return (struct path_terms){.purpose = PATH_JOIN,
				   .index = 1,
				   .paths = 3,
				   .term = 0x1122334455667788ull,
				   .vm = "web",
				   .session = "fifteen letters",
				   .transport = "tcp"};
}

static inline void across(struct side side[2])
{
	static const char words[] = "a secret of the guest";
	struct iovec v = {.iov_base = (void *)words, .iov_len = sizeof(words)};
	char got[sizeof(words)];

	for (int i = 0; i < 2; i++) {
		CU_ASSERT_PTR_NOT_NULL_FATAL(side[i].tp);
		CU_ASSERT(!tp_send(side[i].tp, &v, 1) && !tp_flush(side[i].tp));
		CU_ASSERT_EQUAL(tp_recv(side[!i].tp, got, sizeof(got)), 0);
		CU_ASSERT_STRING_EQUAL(got, words);
	}
}

#endif
