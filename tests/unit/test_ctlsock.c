/* SPDX-License-Identifier: Apache-2.0
 * test_ctlsock - lines in, lines out; who leaves, who says too much, who does not read.
 */
#include "ctl/ctlsock.h"
#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "tests/unit/unit.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static char dir[] = "/tmp/rhea-ctl-XXXXXX", path[64];
static struct loop *loop;
static struct ctlsock *sock;
static struct ctl_conn *held; /* of "hold" */
static int gone, detached = -1;

static void on_gone(void *arg)
{
	gone++;
	held = NULL;
}

static void flood(struct ctl_conn *c)
{
	static char big[100000];

	memset(big, 'x', sizeof(big) - 1);
	ctl_async(c, on_gone, NULL);
	held = c;
	for (int i = 0; i < 100; i++)
		ctl_send(c, json_pack("{s:s}", "big", big));
}

static void handler(void *arg, struct ctl_conn *c, json_t *req)
{
	const char *cmd = json_string_value(json_object_get(req, "cmd"));

	if (!strcmp(cmd, "echo")) {
		ctl_end(c, json_incref(req));
	} else if (!strcmp(cmd, "hold")) {
		held = c;
		ctl_async(c, on_gone, NULL);
	} else if (!strcmp(cmd, "flood")) {
		flood(c);
	} else if (!strcmp(cmd, "detach")) {
		detached = ctl_detach(c, json_pack("{s:b}", "ok", 1));
	} else {
		ctl_error(c, "no \"%s\" here", cmd);
	}
}

static void turn(void)
{
	for (int i = 0; i < 6; i++)
		CU_ASSERT(event_base_loop(loop_base(loop), EVLOOP_NONBLOCK) >= 0);
}

static int dial(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	(void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path); /* fits */
	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	turn();
	return fd;
}

static void say(int fd, const char *text)
{
	CU_ASSERT_EQUAL(send(fd, text, strlen(text), MSG_NOSIGNAL),
			(ssize_t)strlen(text));
	turn();
}

static const char *hear(int fd)
{
	static char buf[4096];
	ssize_t n = recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT);

	buf[n > 0 ? n : 0] = 0;
	return n == 0 ? "(closed)" : buf;
}

static void test_echo(void)
{
	int fd = dial();

	say(fd, "{\"cmd\":\"echo\",\"n\":1}\n");
	CU_ASSERT_STRING_EQUAL(hear(fd), "{\"cmd\":\"echo\",\"n\":1}\n");
	say(fd, "{\"cmd\":\"ec"); /* in pieces */
	CU_ASSERT_STRING_EQUAL(hear(fd), "");
	say(fd, "ho\"}\n{\"cmd\":\"what\"}\n"); /* and two at once */
	CU_ASSERT_STRING_EQUAL(
		hear(fd), "{\"cmd\":\"echo\"}\n{\"error\":\"no \\\"what\\\" here\"}\n");
	say(fd, "{\"cmd\":\"echo\"}\n");
	CU_ASSERT_STRING_EQUAL(hear(fd), "{\"cmd\":\"echo\"}\n");
	CU_ASSERT_EQUAL(close(fd), 0);
	turn();
}

/* The answer still comes when the client said that it will ask no more. */
static void test_half_closed(void)
{
	int fd = dial();

	CU_ASSERT_EQUAL(send(fd, "{\"cmd\":\"echo\"}\n", 15, MSG_NOSIGNAL), 15);
	CU_ASSERT_EQUAL(shutdown(fd, SHUT_WR), 0);
	turn();
	CU_ASSERT_STRING_EQUAL(hear(fd), "{\"cmd\":\"echo\"}\n");
	CU_ASSERT_STRING_EQUAL(hear(fd), "(closed)");
	CU_ASSERT_EQUAL(close(fd), 0);
}

static void test_async(void)
{
	int fd = dial();

	gone = 0;
	say(fd, "{\"cmd\":\"hold\"}\n{\"cmd\":\"echo\"}\n");
	CU_ASSERT_STRING_EQUAL(hear(fd), ""); /* the second waits for the first */
	ctl_send(held, json_pack("{s:i}", "n", 1));
	ctl_end(held, json_pack("{s:i}", "n", 2));
	turn();
	CU_ASSERT_STRING_EQUAL(hear(fd), "{\"n\":1}\n{\"n\":2}\n{\"cmd\":\"echo\"}\n");
	CU_ASSERT_EQUAL(close(fd), 0);
	turn();
	CU_ASSERT_EQUAL(gone, 0); /* it was over */
	fd = dial();
	say(fd, "{\"cmd\":\"hold\"}\n");
	CU_ASSERT_EQUAL(close(fd), 0);
	turn();
	CU_ASSERT_EQUAL(gone, 1);
}

static void test_bad_input(void)
{
	static const char *const bad[] = {"\n",
					  "hello\n",
					  "[]\n",
					  "{}\n",
					  "{\"cmd\":1}\n",
					  "{\"cmd\":\"a\",}\n",
					  "\"cmd\"\n",
					  "{\"cmd\":\"\xff\"}\n",
					  "{\"a\":1,\"a\":2}\n"};
	int fd = dial();

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		say(fd, bad[i]);
		CU_ASSERT_EQUAL(strncmp(hear(fd), "{\"error\":\"", 10), 0);
	}
	say(fd, "{\"cmd\":\"echo\"}\n"); /* and it is still there */
	CU_ASSERT_STRING_EQUAL(hear(fd), "{\"cmd\":\"echo\"}\n");
	CU_ASSERT_EQUAL(close(fd), 0);
	turn();
}

static void test_endless_line(void)
{
	static char block[4096];
	size_t sent = 0;
	ssize_t n;
	int fd = dial();

	memset(block, ' ', sizeof(block));
	do {
		n = send(fd, block, sizeof(block), MSG_NOSIGNAL | MSG_DONTWAIT);
		sent += n > 0 ? (size_t)n : 0;
		turn();
	} while (n > 0 && sent < 64u << 20);
	CU_ASSERT(n < 0 && errno == EPIPE);
	CU_ASSERT(sent < 1u << 20);
	CU_ASSERT_EQUAL(close(fd), 0);
	turn();
}

static void test_no_reader(void)
{
	int fd = dial();

	gone = 0;
	say(fd, "{\"cmd\":\"flood\"}\n");
	CU_ASSERT_EQUAL(gone, 1);
	CU_ASSERT_EQUAL(close(fd), 0);
	turn();
}

static void test_detach(void)
{
	int fd = dial();

	say(fd, "{\"cmd\":\"detach\"}\n");
	CU_ASSERT_FATAL(detached >= 0);
	CU_ASSERT_STRING_EQUAL(hear(fd), "{\"ok\":true}\n");
	say(fd, "raw");
	CU_ASSERT_STRING_EQUAL(hear(detached), "raw");
	CU_ASSERT_EQUAL(close(detached), 0);
	CU_ASSERT_STRING_EQUAL(hear(fd), "(closed)");
	CU_ASSERT_EQUAL(close(fd), 0);
}

static void test_crowd(void)
{
	int fd[CTLSOCK_CLIENTS_MAX + 1];

	for (int i = 0; i <= CTLSOCK_CLIENTS_MAX; i++)
		fd[i] = dial();
	CU_ASSERT_PTR_NOT_NULL(strstr(hear(fd[CTLSOCK_CLIENTS_MAX]), "too many"));
	for (int i = 0; i <= CTLSOCK_CLIENTS_MAX; i++)
		CU_ASSERT_EQUAL(close(fd[i]), 0);
	turn();
}

static void test_socket_file(void)
{
	struct ctlsock *second = NULL;
	struct err err = {0};
	struct stat st;
	char stale[64];
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	CU_ASSERT_EQUAL(stat(path, &st), 0);
	CU_ASSERT_EQUAL(st.st_mode & 07, 0); /* nothing for others */
	/* One that is answered is left alone, one that is not is replaced. */
	CU_ASSERT_EQUAL(ctlsock_create(loop, path, handler, NULL, &second, &err),
			-EADDRINUSE);
	CU_ASSERT_PTR_NULL(second);
	(void)snprintf(stale, sizeof(stale), "%s/stale", dir);	       /* fits */
	(void)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", stale); /* fits */
	CU_ASSERT_EQUAL(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	CU_ASSERT_EQUAL(close(fd), 0);
	CU_ASSERT_EQUAL(ctlsock_create(loop, stale, handler, NULL, &second, &err), 0);
	ctlsock_destroy(second);
	CU_ASSERT(stat(stale, &st) < 0 && errno == ENOENT);
	ctlsock_destroy(NULL);
}

static void test_parse(void)
{
	struct err err = {0};
	char *deep = malloc(CTLSOCK_LINE_MAX + 2);

	CU_ASSERT_PTR_NOT_NULL_FATAL(deep);
	memset(deep, '[', CTLSOCK_LINE_MAX + 2);
	CU_ASSERT_PTR_NULL(
		ctl_parse(deep, CTLSOCK_LINE_MAX, &err)); /* no stack overflow */
	CU_ASSERT_EQUAL(err.code, -EBADMSG);
	CU_ASSERT_PTR_NULL(ctl_parse(deep, CTLSOCK_LINE_MAX + 1, &err));
	CU_ASSERT_EQUAL(err.code, -E2BIG);
	CU_ASSERT_PTR_NULL(ctl_parse("", 0, &err));
	free(deep);
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"echo", test_echo},
		{"half closed", test_half_closed},
		{"async", test_async},
		{"bad input", test_bad_input},
		{"endless line", test_endless_line},
		{"no reader", test_no_reader},
		{"detach", test_detach},
		{"crowd", test_crowd},
		{"socket file", test_socket_file},
		{"parse", test_parse},
	};
	struct err err = {0};
	int rc;

	if (!mkdtemp(dir))
		return 2;
	(void)snprintf(path, sizeof(path), "%s/sock", dir); /* fits */
	if (loop_create(&loop, &err) ||
	    ctlsock_create(loop, path, handler, NULL, &sock, &err))
		return 2;
	rc = UNIT_MAIN("ctlsock", tests);
	ctlsock_destroy(sock);
	loop_destroy(loop);
	return rmdir(dir) ? 2 : rc;
}
