/* SPDX-License-Identifier: Apache-2.0
 * test_console - the ring, attached clients, and clients that do not read.
 */
#include "ctl/console.h"
#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct loop *loop;

static struct console *make(int *guest_out)
{
	struct console *c = NULL;
	struct err err = {0};
	int sv[2];

	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	CU_ASSERT_EQUAL_FATAL(console_create(loop, &c, &err), 0);
	CU_ASSERT_EQUAL(console_source(c, sv[0], &err), 0);
	*guest_out = sv[1];
	return c;
}

/* All that can happen without waiting, some rounds of it. */
static void turn(void)
{
	for (int i = 0; i < 8; i++)
		CU_ASSERT(event_base_loop(loop_base(loop), EVLOOP_NONBLOCK) >= 0);
}

static void say(int fd, const char *text)
{
	CU_ASSERT_EQUAL(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	turn();
}

static int attach(struct console *c)
{
	struct err err = {0};
	int sv[2];

	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	CU_ASSERT_EQUAL(console_attach(c, sv[0], &err), 0);
	turn();
	return sv[1];
}

static size_t hear(int fd, char *buf, size_t room)
{
	ssize_t n = recv(fd, buf, room - 1, MSG_DONTWAIT);

	buf[n > 0 ? n : 0] = 0;
	return n > 0 ? (size_t)n : 0;
}

static void test_both_ways(void)
{
	char buf[128];
	int guest, a, b;
	struct console *c = make(&guest);

	say(guest, "before");
	a = attach(c);
	b = attach(c);
	CU_ASSERT_EQUAL(console_clients(c), 2);
	(void)hear(a, buf, sizeof(buf)); /* judged by its text */
	CU_ASSERT_STRING_EQUAL(buf, "before");
	say(guest, "now");
	(void)hear(a, buf, sizeof(buf)); /* likewise */
	CU_ASSERT_STRING_EQUAL(buf, "now");
	(void)hear(b, buf, sizeof(buf)); /* likewise */
	CU_ASSERT_STRING_EQUAL(buf, "beforenow");
	say(a, "ls\n");
	(void)hear(guest, buf, sizeof(buf)); /* likewise */
	CU_ASSERT_STRING_EQUAL(buf, "ls\n");
	CU_ASSERT_EQUAL(close(a), 0);
	turn();
	CU_ASSERT_EQUAL(console_clients(c), 1);
	console_destroy(c);
	turn(); /* libevent closes sockets from the loop */
	CU_ASSERT_EQUAL(recv(b, buf, sizeof(buf), 0), 0);
	CU_ASSERT_EQUAL(close(b), 0);
	CU_ASSERT_EQUAL(close(guest), 0);
}

static void test_last_words(void)
{
	char buf[128] = "";
	int guest, a;
	struct console *c = make(&guest);

	CU_ASSERT_EQUAL(write(guest, "panic", 5), 5);
	CU_ASSERT_EQUAL(close(guest), 0);
	turn();
	CU_ASSERT_EQUAL(console_tail(c, buf, sizeof(buf)), 5);
	a = attach(c);
	(void)hear(a, buf, sizeof(buf)); /* judged by its text */
	CU_ASSERT_STRING_EQUAL(buf, "panic");
	say(a, "anybody there?"); /* nobody: dropped, and nothing breaks */
	CU_ASSERT_EQUAL(console_clients(c), 1);
	CU_ASSERT_EQUAL(close(a), 0);
	console_destroy(c);
}

static void flood(int guest, size_t bytes)
{
	static char block[4096];
	ssize_t n;

	memset(block, 'x', sizeof(block));
	while (bytes) {
		n = send(guest, block, bytes < sizeof(block) ? bytes : sizeof(block),
			 MSG_DONTWAIT);
		bytes -= n > 0 ? (size_t)n : 0;
		turn();
	}
}

static void test_ring_wraps(void)
{
	static char buf[CONSOLE_RING + 10];
	int guest;
	struct console *c = make(&guest);

	flood(guest, CONSOLE_RING);
	say(guest, "end");
	CU_ASSERT_EQUAL(console_tail(c, buf, sizeof(buf)), CONSOLE_RING);
	CU_ASSERT_EQUAL(memcmp(buf + CONSOLE_RING - 4, "xend", 4), 0);
	CU_ASSERT_EQUAL(console_tail(c, buf, 2), 2);
	CU_ASSERT_EQUAL(memcmp(buf, "nd", 2), 0);
	console_destroy(c);
	CU_ASSERT_EQUAL(close(guest), 0);
}

/* The guest is never held up, the reader is told, and what it gets is bounded. */
static void test_slow_reader(void)
{
	static char buf[64 << 10];
	size_t got = 0, n;
	int guest, slow, noted = 0;
	struct console *c = make(&guest);

	slow = attach(c);
	flood(guest, 8u << 20);
	do {
		n = hear(slow, buf, sizeof(buf));
		got += n;
		turn();
	} while (n);
	CU_ASSERT(got < 2u << 20);
	say(guest, "back");
	while (hear(slow, buf, sizeof(buf)) > 0) {
		noted |= strstr(buf, "skipped") != NULL && strstr(buf, "back") != NULL;
		turn();
	}
	CU_ASSERT(noted);
	CU_ASSERT_EQUAL(close(slow), 0);
	console_destroy(c);
	CU_ASSERT_EQUAL(close(guest), 0);
}

static void test_too_many(void)
{
	int guest, fd[CONSOLE_CLIENTS], sv[2];
	struct console *c = make(&guest);
	struct err err = {0};
	char byte;

	for (int i = 0; i < CONSOLE_CLIENTS; i++)
		fd[i] = attach(c);
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	CU_ASSERT_EQUAL(console_attach(c, sv[0], &err), -EBUSY);
	CU_ASSERT_EQUAL(recv(sv[1], &byte, 1, 0), 0); /* was taken and closed */
	CU_ASSERT_EQUAL(close(sv[1]), 0);
	for (int i = 0; i < CONSOLE_CLIENTS; i++)
		CU_ASSERT_EQUAL(close(fd[i]), 0);
	console_destroy(c);
	console_destroy(NULL);
	CU_ASSERT_EQUAL(close(guest), 0);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"both ways", test_both_ways},	 {"last words", test_last_words},
		{"ring wraps", test_ring_wraps}, {"slow reader", test_slow_reader},
		{"too many", test_too_many},
	};
	struct err err = {0};
	int rc;

	if (loop_create(&loop, &err))
		return 2;
	rc = UNIT_MAIN("console", tests);
	loop_destroy(loop);
	return rc;
}
