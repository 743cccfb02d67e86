/* SPDX-License-Identifier: Apache-2.0
 * test_sock - a socket of a slow wire: what moves, however slowly, is not stuck, and is heard.
 */
#include "replication/sock.h"

#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	TIMEOUT_MS = 60,
	SLOW_MS = 5 * TIMEOUT_MS, /* so long it is read slowly */
	SIP = 4096,		  /* several are a piece of the kernel's */
	MUCH = 24 << 20,	  /* more than all buffers hold */
};

/* Ends of a TCP connection over loopback. */
static void connected(int fd[2])
{
	struct sockaddr_in sa = {.sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	CU_ASSERT_EQUAL_FATAL(bind(l, (struct sockaddr *)&sa, len), 0);
	CU_ASSERT_EQUAL_FATAL(listen(l, 1), 0);
	CU_ASSERT_EQUAL_FATAL(getsockname(l, (struct sockaddr *)&sa, &len), 0);
	fd[0] = socket(AF_INET, SOCK_STREAM, 0);
	CU_ASSERT_EQUAL_FATAL(connect(fd[0], (struct sockaddr *)&sa, len), 0);
	fd[1] = accept(l, NULL, NULL);
	CU_ASSERT_FATAL(fd[1] >= 0);
	(void)close(l);
}

/* By sips, and then all of it. */
static void *read_slowly(void *arg)
{
	const int *fd = arg;
	uint64_t until = clock_mono_ns() + SLOW_MS * UINT64_C(1000000);
	char *buf = malloc(1 << 20);

	while (buf && clock_mono_ns() < until && read(*fd, buf, SIP) > 0)
		(void)poll(NULL, 0, 2); /* only a pause */
	while (buf && read(*fd, buf, 1 << 20) > 0)
		continue;
	free(buf);
	return NULL;
}

static void send_much(int fd[2], int reading, int expect)
{
	struct sock s;
	struct err err = {0};
	pthread_t t;
	void *p = calloc(1, MUCH);

	CU_ASSERT_PTR_NOT_NULL_FATAL(p);
	CU_ASSERT_EQUAL_FATAL(sock_init(&s, fd[0], &err), 0);
	if (reading)
		CU_ASSERT_EQUAL_FATAL(pthread_create(&t, NULL, read_slowly, &fd[1]), 0);
	CU_ASSERT_EQUAL(sock_send(&s, p, MUCH, TIMEOUT_MS), expect);
	sock_fini(&s);
	if (reading)
		pthread_join(t, NULL);
	(void)close(fd[1]);
	free(p);
}

static void test_slow(void)
{
	int fd[2];

	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	send_much(fd, 1, 0);
}

static void test_stuck(void)
{
	int fd[2];

	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	send_much(fd, 0, -ETIMEDOUT);
	connected(fd);
	send_much(fd, 0, -ETIMEDOUT);
}

/* The peer's kernel confirms what its process does not read. */
static void test_heard(void)
{
	uint64_t first, last, until = clock_mono_ns() + 10 * UINT64_C(1000000000);
	struct sock s;
	struct err err = {0};
	int fd[2];

	connected(fd);
	CU_ASSERT_EQUAL_FATAL(sock_init(&s, fd[0], &err), 0);
	first = sock_heard(&s);
	CU_ASSERT(first > 0 && first <= clock_mono_ns());
	(void)poll(NULL, 0, 50); /* long enough to be told apart in milliseconds */
	CU_ASSERT(sock_heard(&s) <= first + 10 * UINT64_C(1000000));
	CU_ASSERT_EQUAL(sock_send(&s, "a word", 6, TIMEOUT_MS), 0);
	do
		last = sock_heard(&s);
	while (last < first + 40 * UINT64_C(1000000) && clock_mono_ns() < until);
	CU_ASSERT(last >= first + 40 * UINT64_C(1000000));
	sock_fini(&s);
	(void)close(fd[1]);
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	CU_ASSERT_EQUAL_FATAL(sock_init(&s, fd[0], &err), 0);
	CU_ASSERT_EQUAL(sock_heard(&s), 0);
	sock_fini(&s);
	(void)close(fd[1]);
}

static const struct unit_test tests[] = {
	{"slow is not stuck", test_slow},
	{"stuck is", test_stuck},
	{"heard by its kernel", test_heard},
};

int main(void)
{
	return UNIT_MAIN("sock", tests);
}
