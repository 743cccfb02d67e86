/* SPDX-License-Identifier: Apache-2.0
 * test_link - the preface, byte by byte, and connections over loopback, friendly and hostile.
 */
#include "ctl/config.h"
#include "ctl/link.h"
#include "ctl/preface.h"
#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct loop *loop;

static struct preface_wire good(void)
{
	struct preface_wire w;

	CU_ASSERT_EQUAL(preface_encode("vm-1.x_Y", 0x0102030405060708ull, 0, &w), 0);
	return w;
}

static void test_golden(void)
{
	static const unsigned char golden[PREFACE_LEN] = {
		'R', 'H', 'E', 'A', 'L', 'I', 'N', 'K', 1,   0,	 0,
		0,   0,	  0,   0,   0,	 8,   7,   6,	5,   4,	 3,
		2,   1,	  'v', 'm', '-', '1', '.', 'x', '_', 'Y'};
	struct preface_wire w = good();
	struct preface p;
	struct err err = {0};

	CU_ASSERT_EQUAL(memcmp(&w, golden, sizeof(w)), 0);
	CU_ASSERT_EQUAL(preface_parse(&w, &p, &err), 0);
	CU_ASSERT_STRING_EQUAL(p.vm, "vm-1.x_Y");
	CU_ASSERT_EQUAL(p.term, 0x0102030405060708ull);
}

static void test_names(void)
{
	static const char longest[] = "0123456789012345678901234567890";
	struct preface_wire w;
	struct err err = {0};
	struct preface p;

	CU_ASSERT_EQUAL(preface_encode(longest, 1, 0, &w), 0);
	CU_ASSERT_EQUAL(preface_parse(&w, &p, &err), 0);
	CU_ASSERT_STRING_EQUAL(p.vm, longest);
	CU_ASSERT_EQUAL(preface_encode("01234567890123456789012345678901", 1, 0, &w),
			-ENAMETOOLONG);
	CU_ASSERT_EQUAL(preface_encode("", 1, 0, &w), 0);
	CU_ASSERT_EQUAL(preface_parse(&w, &p, &err), -EBADMSG);
	w = good();
	memset(w.vm, 'a', sizeof(w.vm)); /* no NUL at all */
	CU_ASSERT_EQUAL(preface_parse(&w, &p, &err), -EBADMSG);
	w = good();
	w.vm[20] = 'x'; /* something behind the NUL */
	CU_ASSERT_EQUAL(preface_parse(&w, &p, &err), -EBADMSG);
}

/* Whatever one byte is changed to: refused, or a preface that says something else. */
static void test_each_byte(void)
{
	struct preface_wire w = good();
	unsigned char *b = (unsigned char *)&w;
	struct preface p;
	struct err err = {0};
	int rc;

	for (size_t i = 0; i < PREFACE_LEN; i++)
		for (unsigned v = 0; v < 256; v++) {
			w = good();
			if (b[i] == v)
				continue;
			b[i] = (unsigned char)v;
			err = (struct err){0};
			rc = preface_parse(&w, &p, &err);
			CU_ASSERT(rc == 0 || (rc == -EBADMSG && err.msg[0]));
			if (i == 10 && (v == PREFACE_FURTHER || v == PREFACE_TEST ||
					v == PREFACE_STREAM)) {
				CU_ASSERT(!rc && p.kind == (enum preface_kind)v);
				continue;
			}
			if (i < 16 ||
			    i >= offsetof(struct preface_wire, vm) + sizeof(w.vm))
				CU_ASSERT_EQUAL(rc, -EBADMSG);
			if (!rc)
				CU_ASSERT(p.term != 0x0102030405060708ull ||
					  strcmp(p.vm, "vm-1.x_Y") != 0);
		}
}

static struct config_addr addr(const char *ip, unsigned port)
{
	struct config_addr a = {.len = sizeof(struct sockaddr_in)};
	struct sockaddr_in *in = (struct sockaddr_in *)&a.ss;

	in->sin_family = AF_INET;
	in->sin_port = htons((uint16_t)port);
	CU_ASSERT_EQUAL(inet_pton(AF_INET, ip, &in->sin_addr), 1);
	return a;
}

/* What came out of listener and connector. */
static struct preface got;
static int got_fd, con_fd, accepted;

static void on_link(void *arg, const struct preface *p, int fd)
{
	got = *p;
	got_fd = fd;
	accepted++;
	if (con_fd)
		loop_stop(loop);
}

static void on_connected(void *arg, int fd, const char *why)
{
	con_fd = fd;
	if (got_fd >= 0 || fd < 0)
		loop_stop(loop);
}

static struct link_listener *listener(const char *peer)
{
	struct config_addr a = addr("127.0.0.1", 0), p = addr(peer, 0);
	struct link_listener *l = NULL;
	struct err err = {0};

	got_fd = -1;
	con_fd = accepted = 0;
	CU_ASSERT_EQUAL_FATAL(link_listen(loop, &a, &p, on_link, NULL, &l, &err), 0);
	CU_ASSERT_NOT_EQUAL(link_listener_port(l), 0);
	return l;
}

static void end_loop(void)
{
	loop_destroy(loop);
	loop = NULL;
}

static void new_loop(void)
{
	struct err err = {0};

	CU_ASSERT_EQUAL_FATAL(loop_create(&loop, &err), 0);
}

static void test_meet(void)
{
	struct config_addr local = addr("127.0.0.1", 1), peer;
	struct link_connect *c = NULL;
	struct link_listener *l;
	struct err err = {0};
	char byte = 'x';

	new_loop();
	l = listener("127.0.0.1");
	peer = addr("127.0.0.1", link_listener_port(l));
	CU_ASSERT_EQUAL(link_connect(loop, &local, &peer, "v", 42, 0, 5000, on_connected,
				     NULL, &c, &err),
			0);
	CU_ASSERT_EQUAL(loop_run(loop), 0);
	CU_ASSERT_FATAL(con_fd > 0 && got_fd >= 0);
	CU_ASSERT_STRING_EQUAL(got.vm, "v");
	CU_ASSERT_EQUAL(got.term, 42);
	/* What follows the preface is nobody's but the engine's; both ends block. */
	CU_ASSERT_EQUAL(send(con_fd, "y", 1, 0), 1);
	CU_ASSERT_EQUAL(recv(got_fd, &byte, 1, 0), 1);
	CU_ASSERT_EQUAL(byte, 'y');
	CU_ASSERT_EQUAL(fcntl(con_fd, F_GETFL) & O_NONBLOCK, 0);
	CU_ASSERT_EQUAL(fcntl(got_fd, F_GETFL) & O_NONBLOCK, 0);
	CU_ASSERT(close(con_fd) == 0 && close(got_fd) == 0);
	link_listener_destroy(l);
	end_loop();
}

static void test_refused(void)
{
	struct config_addr local = addr("127.0.0.1", 0), peer;
	struct link_connect *c = NULL;
	struct link_listener *l;
	struct err err = {0};

	new_loop();
	l = listener("127.0.0.1");
	peer = addr("127.0.0.1", link_listener_port(l));
	link_listener_destroy(l);
	CU_ASSERT_EQUAL(link_connect(loop, &local, &peer, "v", 1, 0, 5000, on_connected,
				     NULL, &c, &err),
			0);
	CU_ASSERT_EQUAL(loop_run(loop), 0);
	CU_ASSERT_EQUAL(con_fd, -ECONNREFUSED);
	/* Cancelled: the callback does not come. */
	con_fd = 7;
	CU_ASSERT_EQUAL(link_connect(loop, &local, &peer, "v", 1, 0, 5000, on_connected,
				     NULL, &c, &err),
			0);
	link_connect_cancel(c);
	CU_ASSERT(event_base_loop(loop_base(loop), EVLOOP_NONBLOCK) >= 0);
	CU_ASSERT_EQUAL(con_fd, 7);
	link_connect_cancel(NULL);
	CU_ASSERT(link_connect(loop, &local, &peer, "0123456789012345678901234567890123",
			       1, 0, 5000, on_connected, NULL, &c, &err) < 0);
	end_loop();
}

static int dial(struct link_listener *l)
{
	struct config_addr a = addr("127.0.0.1", link_listener_port(l));
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(connect(fd, (struct sockaddr *)&a.ss, a.len), 0);
	return fd;
}

/* Run the loop until the listener closed @fd; true if it did that without a byte. */
static int is_closed(int fd)
{
	char byte;

	while (recv(fd, &byte, 1, MSG_DONTWAIT) < 0 &&
	       (errno == EAGAIN || errno == EWOULDBLOCK))
		CU_ASSERT(event_base_loop(loop_base(loop), EVLOOP_ONCE) >= 0);
	return 1;
}

static void test_hostile(void)
{
	static const char http[] = "GET / HTTP/1.1\r\nHost: example\r\n"
				   "User-Agent: a port scanner of sorts\r\n\r\n";
	struct link_listener *l;
	struct preface_wire w = good();
	int fd;

	new_loop();
	l = listener("127.0.0.1");
	fd = dial(l); /* another protocol */
	CU_ASSERT_EQUAL(send(fd, http, sizeof(http) - 1, 0), (ssize_t)sizeof(http) - 1);
	CU_ASSERT(is_closed(fd));
	CU_ASSERT_EQUAL(close(fd), 0);
	fd = dial(l); /* ends in the middle */
	CU_ASSERT_EQUAL(send(fd, &w, 40, 0), 40);
	CU_ASSERT_EQUAL(shutdown(fd, SHUT_WR), 0);
	CU_ASSERT(is_closed(fd));
	CU_ASSERT_EQUAL(close(fd), 0);
	fd = dial(l); /* says nothing: the deadline ends it */
	CU_ASSERT(is_closed(fd));
	CU_ASSERT_EQUAL(close(fd), 0);
	CU_ASSERT_EQUAL(accepted, 0);
	fd = dial(l); /* byte by byte is fine */
	for (size_t i = 0; i < sizeof(w); i++) {
		CU_ASSERT_EQUAL(send(fd, (char *)&w + i, 1, 0), 1);
		CU_ASSERT(event_base_loop(loop_base(loop), EVLOOP_NONBLOCK) >= 0);
	}
	while (!accepted)
		CU_ASSERT(event_base_loop(loop_base(loop), EVLOOP_ONCE) >= 0);
	CU_ASSERT(close(fd) == 0 && close(got_fd) == 0);
	link_listener_destroy(l);
	link_listener_destroy(NULL);
	end_loop();
}

static void test_stranger(void)
{
	struct link_listener *l;
	int fd;

	new_loop();
	l = listener("127.0.0.2"); /* only this address is the peer's */
	fd = dial(l);
	CU_ASSERT(is_closed(fd));
	CU_ASSERT_EQUAL(accepted, 0);
	CU_ASSERT_EQUAL(close(fd), 0);
	link_listener_destroy(l);
	end_loop();
}

/* More silent connections than slots: the rest is closed, and the listener lives on. */
static void test_crowd(void)
{
	int fd[LINK_PENDING_MAX + 1];
	struct link_listener *l;

	new_loop();
	l = listener("127.0.0.1");
	for (int i = 0; i <= LINK_PENDING_MAX; i++) {
		fd[i] = dial(l);
		CU_ASSERT(event_base_loop(loop_base(loop), EVLOOP_NONBLOCK) >= 0);
	}
	CU_ASSERT(is_closed(fd[LINK_PENDING_MAX]));
	for (int i = 0; i <= LINK_PENDING_MAX; i++)
		CU_ASSERT_EQUAL(close(fd[i]), 0);
	link_listener_destroy(l);
	end_loop();
}

int main(void)
{
	static const struct unit_test tests[] = {
		{"golden", test_golden},       {"names", test_names},
		{"each byte", test_each_byte}, {"meet", test_meet},
		{"refused", test_refused},     {"hostile", test_hostile},
		{"stranger", test_stranger},   {"crowd", test_crowd},
	};

	return UNIT_MAIN("link", tests);
}
