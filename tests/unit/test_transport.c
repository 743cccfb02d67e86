/* SPDX-License-Identifier: Apache-2.0
 * test_transport - the suite of promises (tests/native/conform.h), kept by every transport that two
 * ends in one process can have.
 *
 * Each side is a thread. CUnit is not thread-safe: side 0 is the main thread, and only it judges.
 */
#include "hv/base/err.h"
#include "replication/transport.h"
#include "tests/native/conform.h"
#include "tests/unit/link.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>

enum { MiB = 1 << 20 };

/* Side 0 makes both ends and hands one over. */
static int connect_pair(struct conform *c, struct tp **tp_out, struct err *err)
{
	struct tp *e[2];

	if (c->side) {
		conform_get(c, tp_out, sizeof(*tp_out));
		return 0;
	}
	link_open(c->arg, e);
	conform_put(c, &e[1], sizeof(e[1]));
	*tp_out = e[0];
	return 0;
}

struct side {
	struct conform c;
	const char *group;
	int failed;
	pthread_t thread;
};

static void *run(void *arg)
{
	struct side *s = arg;
	int n = 0;

	s->failed = conform_group(&s->c, s->group, &n);
	return NULL;
}

/* All cases of @group over links as @how has them. */
static void suite(const struct conform *how, const char *group)
{
	struct side side[2];
	int sock[2];

	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock),
			      0);
	for (int i = 0; i < 2; i++) {
		side[i] = (struct side){.c = *how, .group = group};
		side[i].c.side = i;
		side[i].c.sock = sock[i];
	}
	CU_ASSERT_EQUAL_FATAL(pthread_create(&side[1].thread, NULL, run, &side[1]), 0);
	(void)run(&side[0]); /* returns nothing */
	CU_ASSERT_EQUAL(pthread_join(side[1].thread, NULL), 0);
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_EQUAL(side[i].failed, 0);
		CU_ASSERT_EQUAL(close(sock[i]), 0);
	}
	if (side[1].c.listener)
		CU_ASSERT_EQUAL(close(side[1].c.listener), 0);
}

static const struct conform loop = {
	.connect = connect_pair, .arg = (void *)&link_loop, .flood = MiB};
static const struct conform seal = {
	.connect = connect_pair, .arg = (void *)&link_seal_loop, .flood = MiB};
static const struct conform session = {.connect = connect_pair,
				       .arg = (void *)&link_session_loop,
				       .flood = 16 * MiB,
				       .end_by_receiver = 1};
static const struct conform streams = {
	.connect = connect_pair, .arg = (void *)&link_streams, .flood = 96 * MiB};
/* As rhea-vm has it, HELLO and all. */
static const struct conform tcp = {
	.connect = conform_connect_path, .address = "127.0.0.1", .flood = 24 * MiB};

#define SUITE(kind, group)               \
	static void kind##_##group(void) \
	{                                \
		suite(&(kind), #group);  \
	}
#define EACH(kind) SUITE(kind, whole) SUITE(kind, harm) SUITE(kind, wire)

EACH(loop)
EACH(seal)
EACH(session)
EACH(streams)
EACH(tcp)
SUITE(tcp, hello)

static void loop_without_buffer(void)
{
	struct err err = {0};
	struct tp *e[2];

	CU_ASSERT_EQUAL(tp_loop_pair(0, e, &err), -EINVAL);
	tp_close(NULL); /* is fine */
}

#define ROW(kind, group)                          \
	{                                         \
#kind ": " #group, kind##_##group \
	}
#define ROWS(kind) ROW(kind, whole), ROW(kind, harm), ROW(kind, wire)

static const struct unit_test tests[] = {
	ROWS(loop),
	ROWS(seal),
	ROWS(session),
	ROWS(streams),
	ROWS(tcp),
	ROW(tcp, hello),
	{"loop without a buffer", loop_without_buffer},
};

int main(void)
{
	return UNIT_MAIN("transport", tests);
}
