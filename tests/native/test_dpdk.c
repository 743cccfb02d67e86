/* SPDX-License-Identifier: Apache-2.0
 * test_dpdk - the dpdk transport between two network namespaces, over the kernel's drivers.
 *
 * DPDK can be started once a process, so every combination gets two processes of its own.
 */
#include "hv/base/err.h"
#include "replication/module.h"
#include "replication/transport.h"
#include "tests/native/conform.h"
#include "tests/native/rekey.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FLOOD = 24 << 20, CONNECT_MS = 20000, IDLE_MS = 2000, WAKES = 20, LAST_WORDS = 6 };

static char ns[2][32];

static int sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int sh(const char *fmt, ...)
{
	char cmd[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(cmd, sizeof(cmd), fmt, ap); /* all callers' commands are short */
	va_end(ap);
	return system(cmd);
}

static void remove_nets(void)
{
	for (int i = 0; i < 2; i++)
		if (ns[i][0])
			(void)sh("ip netns delete %s 2>/dev/null",
				 ns[i]); /* gone: fine */
}

static void make_nets(unsigned mtu)
{
	for (int i = 0; i < 2; i++) {
		(void)snprintf(ns[i], sizeof(ns[i]), "rhea-dpdk-%d-%c", getpid(),
			       'a' + i);
		if (sh("ip netns add %s", ns[i]))
			exit(2);
	}
	/* Router solicitations of the kernel's are no part of this. */
	if (sh("ip -n %s link add wire type veth peer name wire netns %s", ns[0],
	       ns[1]) ||
	    sh("ip -n %s link set wire mtu %u addrgenmode none up", ns[0], mtu) ||
	    sh("ip -n %s link set wire mtu %u addrgenmode none up", ns[1], mtu))
		exit(2);
}

static void enter(int side)
{
	char path[64];
	int fd;

	(void)snprintf(path, sizeof(path), "/run/netns/%s", ns[side]);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		exit(2);
	(void)close(fd); /* was only needed to get there */
}

static struct tp *link_up(struct conform *c)
{
	struct err err = {0};
	struct tp *tp = NULL;

	if (c->connect(c, &tp, &err)) {
		(void)fprintf(stderr, "side %d: %s\n", c->side, err.msg);
		exit(2);
	}
	return tp;
}

static double cpu_ms(void)
{
	struct rusage u = {0};

	(void)getrusage(RUSAGE_SELF, &u); /* cannot fail */
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e3 +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e3;
}

/* A link without traffic does not keep a core hot; the figure is for people, the limit is far
 * from what polling all the time takes. */
static void idle(struct conform *c)
{
	struct tp *tp = link_up(c);
	struct timespec ts = {.tv_sec = IDLE_MS / 1000};
	double before, used;

	conform_meet(c);
	before = cpu_ms();
	(void)nanosleep(&ts, NULL); /* that is the measured stretch */
	used = cpu_ms() - before;
	printf("side %d: an idle link takes %.1f %% of a core\n", c->side,
	       used * 100 / IDLE_MS);
	CONFORM(c, used < IDLE_MS / 20.0);
	conform_meet(c);
	tp_close(tp);
}

/* As replication/dpdk/dpdk.c has it. */
typedef const char *idle_fn(struct tp_dev *dev, unsigned *waits, unsigned *woken);

static idle_fn *find_idle(void)
{
	const char *out = getenv("B") ? getenv("B") : "build/out";
	char path[512];
	void *so;

	(void)snprintf(path, sizeof(path), "%s/rhea-tp-dpdk.so", out);
	so = dlopen(path, RTLD_NOW | RTLD_NOLOAD); /* it is loaded already */
	return so ? (idle_fn *)dlsym(so, "rhea_tp_dpdk_idle") : NULL;
}

/* An idle port waits for its sockets, and what arrives ends the wait. A look at the cable may end one
 * just before; not twenty of them. */
static void wakes(struct conform *c)
{
	struct tp *tp = link_up(c);
	unsigned waits, seen, woken, before;
	idle_fn *idle_of = find_idle();

	CONFORM(c, idle_of != NULL);
	if (!idle_of)
		exit(2);
	CONFORM(c, !strcmp(idle_of(c->dev, &seen, &before), "sockets"));
	for (unsigned i = 0; i < WAKES; i++) {
		idle_of(c->dev, &seen, &woken);
		do
			(void)sched_yield(); /* always 0 */
		while (idle_of(c->dev, &waits, &woken), waits == seen);
		conform_meet(c);
		if (c->side == 0)
			CONFORM(c, conform_send(tp, i, 100) == 0);
		else
			CONFORM(c, conform_recv(tp, i, 100) == 0);
		conform_meet(c);
	}
	idle_of(c->dev, &waits, &woken);
	CONFORM(c, woken > before);
	conform_meet(c);
	tp_close(tp);
}

static void meet_for_rekey(void *arg)
{
	conform_meet(arg);
}

static void rekeys(struct conform *c)
{
	CONFORM(c, rekey_run(link_up(c), c->side, meet_for_rekey, c) == 0);
	conform_meet(c);
}

/* The peer never comes: connect gives up in its time, and the next link is not disturbed. */
static void half_open(struct conform *c)
{
	uint8_t blob[TP_BLOB_MAX], old[TP_BLOB_MAX] = {0};
	struct err err = {0};
	struct tp_end *end;
	struct tp *tp;
	size_t len;

	CONFORM(c, c->module->prepare(c->dev, c->side, &end, blob, &len, &err) == 0);
	if (c->side == 0) {
		blob[8] ^= 0x55; /* an id of ours that nobody has */
		CONFORM(c, c->module->connect(end, blob, len, 300, &tp, &err) ==
					   -ETIMEDOUT ||
				   err.code == -ECONNRESET);
	} else {
		c->module->discard(end);
	}
	CONFORM(c, c->module->prepare(c->dev, c->side, &end, blob, &len, &err) == 0);
	CONFORM(c, c->module->connect(end, old, 24, 300, &tp, &err) == -EPROTO);
	CONFORM(c, c->module->prepare(c->dev, c->side, &end, blob, &len, &err) == 0);
	blob[4] = 2; /* a version that is not ours */
	CONFORM(c, c->module->connect(end, blob, len, 300, &tp, &err) == -EPROTO);
	tp = link_up(c);
	CONFORM(c, conform_send(tp, 1, 1000) == 0);
	CONFORM(c, conform_recv(tp, 1, 1000) == 0);
	conform_meet(c);
	tp_close(tp);
}

/* The cable is pulled: both sides hear of it, long before any time-out of silence. */
static void unplugged(struct conform *c)
{
	struct tp *tp = link_up(c);
	struct err err = {0};
	struct tp_end *end;
	uint8_t blob[TP_BLOB_MAX];
	size_t len;
	char b;
	int rc;

	tp->send_timeout_ms = 600000;
	CONFORM(c, conform_send(tp, 1, 1000) == 0);
	CONFORM(c, conform_recv(tp, 1, 1000) == 0);
	conform_meet(c);
	if (c->side == 0)
		CONFORM(c, sh("ip -n %s link set wire down", ns[0]) == 0);
	CONFORM(c, tp_recv(tp, &b, 1) == -ECONNRESET);
	CONFORM(c, conform_send(tp, 1, 1000) == -ECONNRESET);
	rc = c->module->prepare(c->dev, c->side, &end, blob, &len, &err);
	CONFORM(c, rc == -ENETDOWN);
	tp_close(tp);
	conform_meet(c);
	if (c->side == 0)
		CONFORM(c, sh("ip -n %s link set wire up", ns[0]) == 0);
	conform_meet(c);
	while ((rc = c->module->prepare(c->dev, c->side, &end, blob, &len, &err)) ==
	       -ENETDOWN)
		(void)sched_yield(); /* always 0 */
	CONFORM(c, rc == 0);
	c->module->discard(end);
	conform_meet(c);
	tp = link_up(c);
	CONFORM(c, conform_send(tp, 1, 1000) == 0);
	CONFORM(c, conform_recv(tp, 1, 1000) == 0);
	conform_meet(c);
	tp_close(tp);
}

/* Frames vanish on the way out of both ends: nothing is lost, and nothing comes twice; nor when who
 * has said all goes while a gap holds much of it back. */
static void lossy(struct conform *c)
{
	struct tp *tp;
	char b;

	CONFORM(c, sh("nsenter --net=/run/netns/%s nft -f - <<-'N'\n"
		      "table netdev t {\n"
		      " chain c {\n"
		      "  type filter hook egress device wire priority 0;\n"
		      "  numgen random mod 100 < 2 counter drop\n"
		      " }\n"
		      "}\n"
		      "N",
		      ns[c->side]) == 0);
	tp = link_up(c);
	for (int from = 0; from < 2; from++) {
		if (c->side == from)
			CONFORM(c, conform_send(tp, 9, FLOOD) == 0);
		else
			CONFORM(c, conform_recv(tp, 9, FLOOD) == 0);
	}
	conform_meet(c);
	tp_close(tp);
	for (unsigned i = 0; i < LAST_WORDS; i++) {
		tp = link_up(c);
		if (c->side == 0)
			CONFORM_RC(c, conform_send(tp, i, FLOOD / LAST_WORDS), 0);
		else
			CONFORM_RC(c, conform_recv(tp, i, FLOOD / LAST_WORDS), 0);
		if (c->side == 1)
			CONFORM_RC(c, tp_recv(tp, &b, 1), -EPIPE);
		tp_close(tp);
		conform_meet(c);
	}
	CONFORM(c,
		sh("nsenter --net=/run/netns/%s sh -c 'nft list table netdev t | grep -q \"packets [1-9]\" && nft delete table netdev t'",
		   ns[c->side]) == 0);
	conform_meet(c);
}

enum { IDLE = 1, HALF_OPEN = 2, UNPLUGGED = 4, LOSSY = 8, REKEYS = 16 };
static const struct {
	int bit;
	const char *name;
	void (*fn)(struct conform *c);
} more[] = {{IDLE, "idle", idle},	{IDLE, "wakes", wakes},
	    {REKEYS, "rekeys", rekeys}, {HALF_OPEN, "half open", half_open},
	    {LOSSY, "lossy", lossy},	{UNPLUGGED, "unplugged", unplugged}};

static const struct {
	const char *args;
	unsigned mtu;
	int more;
} kinds[] = {
	{"--vdev=net_af_packet0,iface=wire,framecnt=4096,qdisc_bypass=0 window=4", 1500,
	 IDLE | HALF_OPEN | LOSSY | UNPLUGGED | REKEYS},
	/* Long frames, both ways that they can be: carried, and not. */
	{"--vdev=net_af_packet0,iface=wire,framesz=16384,blocksz=65536 window=8 mtu=9000",
	 9000, 0},
	{"--vdev=net_af_packet0,iface=wire,framesz=16384,blocksz=65536 window=8 mtu=9000",
	 1500, 0},
	{"--vdev=net_af_xdp0,iface=wire window=4", 1500, IDLE | HALF_OPEN | REKEYS},
};

/* One side of one kind; the number of cases that failed. */
static int one_side(struct conform *c, unsigned kind, int *run_out)
{
	const char *out = getenv("B") ? getenv("B") : "build/out";
	struct err err = {0};
	int failed;

	c->module = conform_load(out, "dpdk");
	if (c->module->open(kinds[kind].args, &c->dev, &err)) {
		(void)fprintf(stderr, "side %d: %s\n", c->side, err.msg);
		return 1;
	}
	failed = conform_run(c, run_out);
	for (unsigned i = 0; i < sizeof(more) / sizeof(more[0]); i++) {
		if (!(kinds[kind].more & more[i].bit))
			continue;
		c->failed = 0;
		more[i].fn(c);
		if (c->failed)
			(void)fprintf(stderr, "FAILED: %s\n", more[i].name);
		failed += !!c->failed;
		(*run_out)++;
	}
	c->module->close(c->dev);
	return failed;
}

static int both_sides(unsigned kind, int *run_out)
{
	int sock[2], status, failed = 0, run = 0;
	pid_t pid[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sock))
		return 1;
	for (int i = 0; i < 2; i++) {
		pid[i] = fork();
		if (pid[i] < 0)
			return 1;
		if (pid[i] == 0) {
			struct conform c = {.side = i,
					    .sock = sock[i],
					    .connect = conform_connect_module,
					    .flood = FLOOD};

			(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* best effort */
			(void)close(sock[!i]); /* so that the other's death is seen */
			enter(i);
			failed = one_side(&c, kind, &run);
			exit(failed < 100 ? failed : 100);
		}
	}
	(void)close(sock[0]); /* the children's */
	(void)close(sock[1]);
	for (int i = 0; i < 2; i++)
		if (waitpid(pid[i], &status, 0) != pid[i] || status)
			failed++;
	printf("%s: %s\n", failed ? "FAILED" : "ok", kinds[kind].args);
	*run_out += 1;
	return failed;
}

int main(int argc, char **argv)
{
	int failed = 0, run = 0;

	setbuf(stdout, NULL);
	if (atexit(remove_nets))
		return 2;
	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		make_nets(kinds[i].mtu);
		failed += both_sides(i, &run);
		remove_nets();
	}
	return failed ? 1 : 0;
}
