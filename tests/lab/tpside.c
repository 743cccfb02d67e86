/* SPDX-License-Identifier: Apache-2.0
 * tpside - one side of the suite of promises (tests/native/conform.h), on a host of its own: links as
 * rhea-vm has them, over wires that netem makes bad.
 *
 *   tpside KIND ARGS SIDE MEETING ADDRESS PORT GROUP[=NETEM]...
 *
 * KIND is tcp or a module's name, ARGS the module's. Side 1 listens at MEETING and PORT, side 0 connects
 * there: the way to keep in step, beside the wire. Paths begin at ADDRESS, side 1's on the wire, which
 * is the interface $WIRE; both sides have netem do there what is said behind a group, while that runs.
 * The group "idle" is a look at how a port waits that has nothing to do.
 * With $BARE set, links are the module's own: not sealed.
 *
 *   tpside needles     some of what the group "wire" sends, one piece a line, as tshark writes bytes
 */
#include "hv/base/err.h"
#include "replication/module.h"
#include "replication/transport.h"
#include "tests/native/conform.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	MEETING_TRIES = 600,
	POKES = 100, /* an interrupt may be missed: no wait is long because of that */
	FLOOD = 24 << 20,
	NEEDLES = 20,
	NEEDLE = 16,		/* bytes */
	WIRE_BYTES = 128 << 10, /* emulated hosts are slow */
};

static _Noreturn void die(const char *what, const char *why)
{
	(void)fprintf(stderr, "tpside: %s: %s\n", what, why);
	exit(2);
}

static int wait_there(const struct sockaddr_in *a)
{
	int one = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (s < 0 || setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(s, (const struct sockaddr *)a, sizeof(*a)) || listen(s, 1))
		die("meeting", strerror(errno));
	return accept4(s, NULL, NULL, SOCK_CLOEXEC);
}

/* The peer's host may be slower than this one. */
static int go_there(const struct sockaddr_in *a)
{
	const struct timespec ts = {.tv_nsec = 100 * 1000000};

	for (int i = 0; i < MEETING_TRIES; i++) {
		int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (s >= 0 && !connect(s, (const struct sockaddr *)a, sizeof(*a)))
			return s;
		(void)close(s);		    /* was of no use */
		(void)nanosleep(&ts, NULL); /* shorter is fine */
	}
	return -1;
}

static int meet(int side, const char *address, const char *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
				.sin_port = htons((uint16_t)atoi(port))};
	int one = 1, s;

	if (inet_pton(AF_INET, address, &a.sin_addr) != 1)
		die(address, "no address");
	s = side ? wait_there(&a) : go_there(&a);
	if (s < 0 || setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		die("the other side", "is not there");
	return s;
}

/* NULL: as it was. */
static void netem(const char *what)
{
	char command[256];

	(void)snprintf(command, sizeof(command),
		       what ? "tc qdisc replace dev %s root netem %s limit 10000"
			    : "tc qdisc replace dev %s root pfifo_fast",
		       getenv("WIRE"), what);
	if (system(command)) /* NOLINT(cert-env33-c): the lab's own words */
		die("failed", command);
}

static void silence(struct conform *c, int on)
{
	netem(on ? "loss 100%" : NULL);
}

static void sound_again(struct conform *c)
{
	netem(NULL);
}

/* One group, over the wire that is wanted for it. */
static int step(struct conform *c, char *group)
{
	char *wire = strchr(group, '=');
	int run = 0, failed;

	if (wire)
		*wire++ = 0;
	if (wire)
		netem(wire);
	conform_meet(c);
	failed = conform_group(c, group, &run);
	conform_meet(c);
	if (wire)
		netem(NULL);
	printf("%-6s side %d: %s%s%s: %d cases\n", failed ? "FAILED" : "ok", c->side,
	       group, wire ? " over " : "", wire ? wire : "", run);
	(void)fflush(stdout);
	return failed;
}

/* The module is loaded; this is only its handle again. */
static void *module_handle(const char *name)
{
	char path[512];
	void *so;

	(void)snprintf(path, sizeof(path), "%s/rhea-tp-%s.so",
		       getenv("B") ? getenv("B") : "build/out", name);
	so = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
	if (!so)
		die(path, dlerror());
	return so;
}

/* A byte through the idle port each time that the other side says so, until it says that it is enough. */
static void poke(struct tp *tp, int sock)
{
	struct iovec v = {.iov_base = (void *)"x", .iov_len = 1};
	char b;

	while (recv(sock, &b, 1, 0) == 1 && b == 'p')
		if (tp_send(tp, &v, 1) || tp_flush(tp))
			die("stream", "cannot be sent on");
}

/* How the port waits when it is idle, as replication/dpdk/dpdk.c tells it. */
static void tell_idle(struct conform *c, struct tp *tp)
{
	const char *(*idle)(struct tp_dev * dev, unsigned *waits, unsigned *woken) =
		dlsym(module_handle(c->module->name), "rhea_tp_dpdk_idle");
	const struct timespec ts = {.tv_nsec = 100 * 1000000};
	unsigned waits = 0, before = 0, woken = 0;
	const char *mode;
	char b;

	if (!idle)
		die("the module", "does not tell how it waits");
	(void)idle(c->dev, &waits, &before); /* the mode is asked for below */
	for (int i = 0; i < POKES && woken <= before; i++) {
		(void)nanosleep(&ts, NULL); /* that is the silence */
		if (write(c->sock, "p", 1) != 1 || tp_recv(tp, &b, 1))
			die("stream", "nothing comes");
		(void)idle(c->dev, &waits, &woken);
	}
	if (write(c->sock, "e", 1) != 1)
		die("the other side", "is gone");
	mode = idle(c->dev, &waits, &woken);
	printf("idle by %s: %s\n", mode,
	       woken > before ? "woken by traffic" : "never woken by traffic");
}

/* Side 1 looks how its port waits, side 0 wakes it. */
static int idle_step(struct conform *c)
{
	struct err e = {0};
	struct tp *tp;

	conform_meet(c);
	if (c->connect(c, &tp, &e))
		die("connect", e.msg);
	if (c->side)
		tell_idle(c, tp);
	else
		poke(tp, c->sock);
	conform_meet(c);
	tp_close(tp);
	return 0;
}

static int needles(void)
{
	for (size_t i = 1; i <= NEEDLES; i++) {
		for (size_t k = 0; k < NEEDLE; k++)
			printf("%s%02x", k ? ":" : "",
			       conform_byte(CONFORM_WIRE_SEED, i * 1000 + k));
		printf("\n");
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *dir = getenv("B") ? getenv("B") : "build/out";
	struct conform c = {.connect = conform_connect_path,
			    .flood = FLOOD,
			    .wire_bytes = WIRE_BYTES,
			    .silence = silence,
			    .sound_again = sound_again};
	struct err e = {0};
	int failed = 0;

	if (argc == 2 && !strcmp(argv[1], "needles"))
		return needles();
	if (argc < 8)
		die("usage", "tpside KIND ARGS SIDE MEETING ADDRESS PORT GROUP...");
	if (strcmp(argv[1], "tcp") != 0) {
		c.module = conform_load(dir, argv[1]);
		if (c.module->open(argv[2], &c.dev, &e))
			die("open", e.msg);
	}
	if (getenv("BARE"))
		c.connect = conform_connect_module;
	c.flips_cut = !strcmp(argv[1], "dpdk");
	c.side = atoi(argv[3]) == 1;
	c.address = argv[5];
	c.sock = meet(c.side, argv[4], argv[6]);
	for (int i = 7; i < argc; i++)
		failed +=
			strcmp(argv[i], "idle") != 0 ? step(&c, argv[i]) : idle_step(&c);
	if (c.module)
		c.module->close(c.dev);
	return failed ? 1 : 0;
}
