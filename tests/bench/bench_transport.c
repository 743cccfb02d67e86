/* SPDX-License-Identifier: Apache-2.0
 * bench_transport - what a transport carries between two network namespaces: bytes one way, and the
 * round trip of a checkpoint and its acknowledgement.
 *
 *   bench_transport [sealed:]MODULE ARGS NS_A NS_B SECONDS
 *
 * MODULE: a transport's name (rhea-tp-MODULE.so in $B), or tcp, which is encrypted always; ARGS is then
 * the address in NS_B. The namespaces exist, with what ARGS names in both. One line of JSON on stdout: Gbit/s of payload, microseconds.
 */
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/hist.h"
#include "replication/module.h"
#include "replication/seal.h"
#include "replication/transport.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	CHUNK = 256 << 10,
	CHECKPOINT = 4096,
	ANSWER = 48,
	CONNECT_MS = 20000,
	PORT = 7700,
	WARM_UP = 50
};

static void die(const char *what, const struct err *e)
{
	(void)fprintf(stderr, "bench_transport: %s%s%s\n", what, e ? ": " : "",
		      e ? e->msg : "");
	exit(1);
}

static const struct tp_module *load(const char *name)
{
	const char *dir = getenv("B") ? getenv("B") : "build/out";
	const struct tp_module *m;
	char path[512];
	void *so;

	(void)snprintf(path, sizeof(path), "%s/rhea-tp-%s.so", dir, name);
	so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	m = so ? dlsym(so, TP_MODULE_SYMBOL) : NULL;
	if (!m || m->version != TP_MODULE_VERSION)
		die(path, NULL);
	return m;
}

static void enter(const char *ns)
{
	char path[128];
	int fd;

	(void)snprintf(path, sizeof(path), "/run/netns/%s", ns);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		die(ns, NULL);
	(void)close(fd); /* was only needed to get there */
}

static struct tp *link_up(const struct tp_module *m, struct tp_dev *dev, int side,
			  int sock)
{
	uint8_t own[TP_BLOB_MAX] = {0}, peer[TP_BLOB_MAX];
	struct err e = {0};
	struct tp_end *end;
	struct tp *tp;
	size_t len;

	/* Blobs cross padded: the modules read what they know of. */
	if (m->prepare(dev, side, &end, own, &len, &e))
		die("prepare", &e);
	if (write(sock, own, sizeof(own)) != sizeof(own) ||
	    recv(sock, peer, sizeof(peer), MSG_WAITALL) != sizeof(peer))
		die("the other side", NULL);
	if (m->connect(end, peer, len, CONNECT_MS, &tp, &e))
		die("connect", &e);
	return tp;
}

/* The pair's own transport needs no module: a connection and its handshake. */
static struct tp *tcp_up(const char *address, int side, int sock)
{
	static const uint8_t psk[TP_PSK_LEN] = {1, 2, 3};
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), listener = -1;
	struct err e = {0};
	struct tp *tp;
	char go = 1;

	if (fd < 0 || inet_pton(AF_INET, address, &a.sin_addr) != 1)
		die(address, NULL);
	if (side) {
		if (bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1) ||
		    write(sock, &go, 1) != 1)
			die("listening", NULL);
		listener = fd;
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		(void)close(listener); /* one connection was all */
	} else if (read(sock, &go, 1) != 1 ||
		   connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		die("connecting", NULL);
	}
	if (fd < 0 || tp_tcp_open(fd, side, "bench", psk, CONNECT_MS, &tp, &e))
		die("tcp", &e);
	return tp;
}

static struct tp *sealed(struct tp *tp, int side)
{
	static const struct seal_secrets secrets = {.client = {1}, .server = {2}};
	struct err e = {0};

	if (tp_seal_wrap(tp, side, &secrets, &tp, &e))
		die("sealing", &e);
	return tp;
}

static void must(int rc, const char *what)
{
	struct err e = {0};

	if (rc) {
		(void)err_sys(&e, rc, "%s", what);
		die("transport", &e);
	}
}

static void put(struct tp *tp, void *p, size_t len)
{
	struct iovec v = {.iov_base = p, .iov_len = len};

	must(tp_send(tp, &v, 1), "send");
	must(tp_flush(tp), "flush");
}

static double cpu_s(void)
{
	struct rusage u = {0};

	(void)getrusage(RUSAGE_SELF, &u); /* cannot fail */
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* The standby: takes what comes. The first byte of a chunk says whether there is another. */
static void standby(struct tp *tp)
{
	static uint8_t chunk[CHUNK];

	do
		must(tp_recv(tp, chunk, CHUNK), "recv");
	while (chunk[0]);
	put(tp, chunk, ANSWER);
	do {
		must(tp_recv(tp, chunk, CHECKPOINT), "recv");
		put(tp, chunk, ANSWER);
	} while (chunk[0]);
	(void)tp_recv(tp, chunk, 1); /* the end */
}

static double one_way(struct tp *tp, unsigned seconds)
{
	static uint8_t chunk[CHUNK];
	struct iovec v = {.iov_base = chunk, .iov_len = CHUNK};
	uint64_t begin = clock_mono_ns(), end = begin + seconds * 1000000000ull, n = 0;

	for (; clock_mono_ns() < end; n++) {
		chunk[0] = 1;
		must(tp_send(tp, &v, 1), "send");
	}
	chunk[0] = 0;
	put(tp, chunk, CHUNK);
	must(tp_recv(tp, chunk, ANSWER), "recv");
	return (double)(n + 1) * CHUNK * 8 / (double)(clock_mono_ns() - begin);
}

static void round_trips(struct tp *tp, unsigned seconds, struct hist *h)
{
	static uint8_t page[CHECKPOINT], answer[ANSWER];
	uint64_t t = clock_mono_ns(), end = t + seconds * 1000000000ull;

	page[0] = 1;
	for (int i = 0; page[0]; i++) {
		t = clock_mono_ns();
		page[0] = t < end;
		put(tp, page, CHECKPOINT);
		must(tp_recv(tp, answer, ANSWER), "recv");
		if (i >= WARM_UP)
			hist_add(h, clock_mono_ns() - t);
	}
}

static void primary(struct tp *tp, unsigned seconds)
{
	struct hist h = {0};
	double rate, before = cpu_s(), cpu;

	rate = one_way(tp, seconds);
	cpu = (cpu_s() - before) / seconds;
	round_trips(tp, seconds, &h);
	printf("{\"gbit_s\": %.2f, \"sender_cores\": %.2f, \"trip_p50_us\": %.1f, "
	       "\"trip_p99_us\": %.1f}\n",
	       rate, cpu, (double)hist_quantile(&h, 0.5) / 1e3,
	       (double)hist_quantile(&h, 0.99) / 1e3);
}

int main(int argc, char **argv)
{
	const struct tp_module *m = NULL;
	const char *name = argc > 1 ? argv[1] : "";
	int sock[2], side, status = 0, seal = !strncmp(name, "sealed:", 7);
	struct tp_dev *dev = NULL;
	struct err e = {0};
	struct tp *tp;
	pid_t pid;

	if (argc != 6 || socketpair(AF_UNIX, SOCK_STREAM, 0, sock))
		die("bench_transport [sealed:]MODULE ARGS NS_A NS_B SECONDS", NULL);
	pid = fork();
	if (pid < 0)
		die("fork", NULL);
	side = pid == 0;
	if (side)
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* best effort */
	(void)close(sock[!side]); /* so that the other's death is seen */
	enter(argv[3 + side]);
	name += seal ? 7 : 0;
	if (strcmp(name, "tcp") != 0) {
		m = load(name);
		if (m->open(argv[2], &dev, &e))
			die("open", &e);
	}
	tp = m ? link_up(m, dev, side, sock[side]) : tcp_up(argv[2], side, sock[side]);
	if (seal)
		tp = sealed(tp, side);
	if (side)
		standby(tp);
	else
		primary(tp, (unsigned)atoi(argv[5]));
	tp_close(tp);
	if (m)
		m->close(dev);
	if (pid > 0 && (waitpid(pid, &status, 0) != pid || status))
		die("the standby", NULL);
	return 0;
}
