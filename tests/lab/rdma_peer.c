/* SPDX-License-Identifier: Apache-2.0
 * rdma_peer - one of two processes that hold a transport's module against transport.h.
 *
 *   rdma_peer MODULE ARGS PORT [HOST] GROUP...     without HOST it listens: the server
 *
 * Both sides are given the same groups and run them in step; what is said of "one" and "the
 * other" below is tried both ways round. The exit status is 0 when every check held here.
 * Groups: whole (with the suite of tests/native/conform.h), keys, silent, port, killed, dies. The word "shut-in" before all groups has
 * it done as nobody and with next to no system calls.
 */
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "tests/lab/kit_check.h"
#include "tests/lab/kit_link.h"
#include "tests/lab/kit_shut.h"
#include "tests/native/conform.h"
#include "tests/native/rekey.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	KiB = 1 << 10,
	MiB = 1 << 20,
	FLOOD = 8 * MiB, /* more than the rings of a link */
	KILLS = 4,
	PINNED = 8 * MiB, /* two links of the rings that the script sets up */
};

static int send_text(struct tp *tp, const char *s)
{
	struct iovec v = {.iov_base = (void *)s, .iov_len = strlen(s)};
	int rc = tp_send(tp, &v, 1);

	return rc ? rc : tp_flush(tp);
}

/* Sends until it fails or a flood has gone out; what it failed with. */
static int send_flood(struct tp *tp)
{
	static uint8_t page[64 * KiB];
	struct iovec v = {.iov_base = page, .iov_len = sizeof(page)};
	int rc = 0;

	for (size_t n = 0; !rc && n < FLOOD; n += sizeof(page))
		rc = tp_send(tp, &v, 1);
	return rc;
}

static void stream_one_way(struct kit *k, int from_server, size_t total, size_t step,
			   int flush_each)
{
	struct tp *tp = kit_link(k);
	struct kit_worker w = {
		.tp = tp,
		.seed = 7,
		.total = total,
		.step = step,
		.flush_each = flush_each,
	};

	if (k->server == from_server)
		kit_send(&w);
	else
		kit_recv(&w);
	CHECK_RC(w.rc, 0);
	CHECK(w.done == total && !w.wrong);
	CHECK((k->server == from_server ? tp->bytes_sent : tp->bytes_received) == total);
	kit_sync(k);
	tp_close(tp);
}

/* Each with its announcement: more of them than can be under way. */
static void many_small(struct kit *k, int swap)
{
	stream_one_way(k, swap, 1500 * 48, 48, 1);
}

/* What every transport promises, whoever of the two accepts. */
static void suite(struct kit *k, int swap)
{
	struct conform c = {.side = k->server != swap,
			    .swapped = swap,
			    .sock = k->ctl,
			    .connect = conform_connect_module,
			    .module = k->mod,
			    .dev = k->dev,
			    .flood = FLOOD};
	int run = 0;

	kit_failures += conform_group(&c, "whole", &run);
	if (!swap)
		kit_failures += conform_group(&c, "harm", &run) +
				conform_group(&c, "blobs", &run);
}

static void both_close_at_once(struct kit *k, int swap)
{
	struct tp *tp = kit_link(k);

	kit_sync(k);
	tp_close(tp);
}

/* Links beside each other, each with its own bytes and its own end. */
static void two_links(struct kit *k, int swap)
{
	struct tp *tp[2] = {kit_link(k), kit_link(k)};
	struct kit_worker w[2];
	char b[1];

	for (unsigned i = 0; i < 2; i++) {
		w[i] = (struct kit_worker){.tp = tp[i], .seed = i, .total = MiB};
		kit_start(&w[i], (k->server == swap) == (i == 0) ? kit_send : kit_recv);
	}
	for (int i = 0; i < 2; i++) {
		kit_join(&w[i]);
		CHECK_RC(w[i].rc, 0);
		CHECK(!w[i].wrong);
	}
	kit_sync(k);
	if (k->server == swap) {
		tp_shutdown(tp[0]);
		CHECK_RC(send_text(tp[1], "still"), 0);
	} else {
		CHECK_RC(tp_recv(tp[0], b, 1), -ECONNRESET);
		CHECK_RC(tp_recv(tp[1], b, 1), 0);
		CHECK(b[0] == 's');
	}
	kit_sync(k);
	tp_close(tp[0]);
	tp_close(tp[1]);
}

/* A client that has the address but not the nonce is refused, and is in nobody's way. */
static void stranger(struct kit *k, int swap)
{
	uint8_t blob[2][TP_BLOB_MAX], theirs[TP_BLOB_MAX];
	struct err err = {0};
	struct tp_end *end[2];
	struct tp *tp = NULL;
	size_t len, n;

	for (int i = 0; i < 2; i++)
		if (k->mod->prepare(k->dev, k->server, &end[i], blob[i], &len, &err))
			kit_die("prepare: %s", err.msg);
	n = len;
	kit_tell(k, blob[1], n);
	kit_hear(k, theirs, n);
	if (!k->server) {
		theirs[10] ^= 1; /* in the nonce */
		CHECK_RC(k->mod->connect(end[0], theirs, n, KIT_CONNECT_MS, &tp, &err),
			 -ECONNREFUSED);
		theirs[10] ^= 1;
	} else {
		k->mod->discard(end[0]);
	}
	CHECK_RC(k->mod->connect(end[1], theirs, n, KIT_CONNECT_MS, &tp, &err), 0);
	if (!tp)
		kit_die("connect: %s", err.msg);
	kit_sync(k);
	tp_close(tp);
}

/* Nobody comes: it ends when the time is up. */
static void nobody_comes(struct kit *k, int swap)
{
	uint8_t blob[TP_BLOB_MAX], theirs[TP_BLOB_MAX];
	struct err err = {0};
	struct tp_end *end;
	struct tp *tp;
	size_t n;

	if (k->mod->prepare(k->dev, k->server, &end, blob, &n, &err))
		kit_die("prepare: %s", err.msg);
	kit_tell(k, blob, n);
	kit_hear(k, theirs, n);
	if (k->server)
		CHECK_RC(k->mod->connect(end, theirs, n, 300, &tp, &err), -ETIMEDOUT);
	else
		k->mod->discard(end);
	kit_sync(k);
}

static void shell(const char *command)
{
	if (system(command)) /* NOLINT(cert-env33-c): the lab's own words */
		kit_die("failed: %s", command);
}

/* One's frames vanish from now on, silently. Both are told, whether they send or wait. */
static void silent(struct kit *k, int swap)
{
	struct tp *tp = kit_link(k);
	char command[200], b[1];
	uint64_t began;
	int rc;

	kit_sync(k);
	if (k->server == swap) {
		(void)snprintf(command, sizeof(command),
			       "tc qdisc replace dev %s root netem loss 100%%",
			       getenv("WIRE"));
		shell(command);
	}
	kit_sync(k);
	began = clock_mono_ns();
	rc = k->server ? tp_recv(tp, b, 1) : send_flood(tp);
	CHECK_RC(rc, -ECONNRESET);
	CHECK_TOLD(k->server ? "receiver" : "sender", "a silent path", began);
	kit_sync(k);
	if (k->server == swap) {
		(void)snprintf(command, sizeof(command), "tc qdisc delete dev %s root",
			       getenv("WIRE"));
		shell(command);
	}
	tp_close(tp);
	kit_sync(k);
}

/* One's port goes down: told at once by the device here, by silence there. */
static void port(struct kit *k, int swap)
{
	struct tp *tp = kit_link(k);
	char command[200], b[1];
	uint64_t began;

	kit_sync(k);
	began = clock_mono_ns();
	if (k->server == swap) {
		(void)snprintf(command, sizeof(command), "ip link set %s down",
			       getenv("WIRE"));
		shell(command);
	}
	CHECK_RC(tp_recv(tp, b, 1), -ECONNRESET);
	CHECK_TOLD(k->server == swap ? "its own host" : "the peer", "a port that is down",
		   began);
	kit_sync(k);
	if (k->server == swap) {
		(void)snprintf(command, sizeof(command), "ip link set %s up",
			       getenv("WIRE"));
		shell(command);
	}
	tp_close(tp);
	kit_sync(k);
}

/* The other dies at a random place of its stream, by SIGKILL in the middle of a call. */
static void killed(struct kit *k, int swap)
{
	struct kit_worker out = {.seed = 3, .total = FLOOD},
			  in = {.seed = 3, .total = FLOOD};
	struct tp *tp = kit_link(k);
	unsigned long quarter = 0;

	if (k->server) {
		out.tp = tp;
		kit_hear(k, &quarter, sizeof(quarter));
		kit_start(&out, kit_send);
		while (__atomic_load_n(&tp->bytes_sent, __ATOMIC_RELAXED) < quarter)
			(void)usleep(100);
		(void)kill(getpid(), SIGKILL);
	}
	quarter = (unsigned long)rand() % MiB; /* NOLINT: no secret */
	(void)printf("figure: the peer is killed after %lu bytes\n", quarter);
	kit_tell(k, &quarter, sizeof(quarter));
	in.tp = tp;
	kit_recv(&in);
	CHECK_RC(in.rc, -ECONNRESET);
	CHECK(!in.wrong);
	CHECK_RC(send_text(tp, "x"), -ECONNRESET);
	tp_close(tp);
}

/* The script cuts the server's power once both have said so. */
static void dies(struct kit *k, int swap)
{
	struct tp *tp = kit_link(k);
	char b[1];
	int rc;

	kit_sync(k);
	(void)printf("waiting for the power cut\n");
	(void)fflush(stdout);
	rc = tp_recv(tp, b, 1);
	CHECK_RC(rc, -ECONNRESET);
	CHECK_RC(send_flood(tp), -ECONNRESET);
	tp_close(tp);
}

static void meet_for_rekey(void *arg)
{
	kit_sync(arg);
}

static void rekeys(struct kit *k, int swap)
{
	CHECK_RC(rekey_run(kit_link(k), k->server, meet_for_rekey, k), 0);
	kit_sync(k);
}

struct test {
	const char *group, *name;
	void (*fn)(struct kit *k, int swap);
	int both; /* tried both ways round */
};

static const struct test tests[] = {
	{"whole", "the suite", suite, 1},
	{"whole", "many small", many_small, 1},
	{"whole", "both close at once", both_close_at_once, 0},
	{"whole", "two links", two_links, 1},
	{"whole", "stranger", stranger, 0},
	{"whole", "nobody comes", nobody_comes, 0},
	{"keys", "new keys", rekeys, 0},
	{"silent", "silent path", silent, 1},
	{"port", "port down", port, 1},
	{"killed", "killed peer", killed, 0},
	{"dies", "power cut", dies, 0},
};

static void run_test(struct kit *k, const struct test *t, int swap)
{
	const uint64_t began = clock_mono_ns();
	const int before = kit_failures;

	kit_test_name = t->name;
	kit_sync(k);
	t->fn(k, swap);
	(void)printf("%-6s %s%s, %.1f s\n", kit_failures == before ? "ok" : "FAILED",
		     t->name, swap ? ", the other way" : "",
		     (double)(clock_mono_ns() - began) / 1e9);
	(void)fflush(stdout);
}

static void run_group(struct kit *k, const char *group)
{
	const size_t n = sizeof(tests) / sizeof(tests[0]);
	int known = 0;

	for (size_t i = 0; i < n; i++)
		if (!strcmp(tests[i].group, group)) {
			known = 1;
			run_test(k, &tests[i], 0);
			if (tests[i].both)
				run_test(k, &tests[i], 1);
		}
	if (!known)
		kit_die("no group is called %s", group);
}

/* A process that is killed in a test must not take the whole run with it. Devices do not
 * survive a fork, so each process opens its own. */
static int run_killed(const struct kit *base, char **argv)
{
	int status, bad = 0;

	for (int i = 0; i < KILLS && !bad; i++) {
		pid_t pid = fork();

		if (pid < 0)
			kit_die("fork: %s", strerror(errno));
		if (pid == 0) {
			struct kit k = *base;

			srand((unsigned)i + 1);
			kit_open(&k, argv[1], argv[2]);
			run_group(&k, "killed");
			k.mod->close(k.dev);
			exit(kit_failures ? 1 : 0);
		}
		if (waitpid(pid, &status, 0) != pid)
			kit_die("waitpid: %s", strerror(errno));
		if (base->server)
			bad = !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL;
		else
			bad = status != 0;
	}
	return bad;
}

int main(int argc, char **argv)
{
	struct kit k = {0};
	int first = 4;

	if (argc < 5)
		kit_die("usage: rdma_peer MODULE ARGS PORT [HOST] GROUP...");
	if (strchr(argv[4], '.'))
		first = 5;
	kit_meet(&k, first == 5 ? argv[4] : NULL, (unsigned)atoi(argv[3])); /* NOLINT */
	for (int i = first; i < argc; i++)
		if (!strcmp(argv[i], "killed")) {
			kit_failures += run_killed(&k, argv);
		} else if (!strcmp(argv[i], "shut-in")) {
			kit_be_nobody(PINNED);
			kit_open(&k, argv[1], argv[2]);
			/* The first word on a stream asks what it is: not a call for later. */
			(void)printf("shutting in\n");
			kit_shut_in();
		} else {
			if (!k.dev)
				kit_open(&k, argv[1], argv[2]);
			run_group(&k, argv[i]);
		}
	if (k.dev)
		k.mod->close(k.dev);
	return kit_failures ? 1 : 0;
}
