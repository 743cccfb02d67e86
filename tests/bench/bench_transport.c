/* SPDX-License-Identifier: Apache-2.0
 * bench_transport - what a transport carries between two network namespaces: bytes one way, and the
 * round trip of a checkpoint and its acknowledgement.
 *
 *   bench_transport [sealed:]MODULE ARGS NS_A NS_B SECONDS
 *
 * MODULE: a transport's name (rhea-tp-MODULE.so in $B), or tcp or tcp:STREAMS, which is encrypted always, or plain, which is
 * tcp's sockets without its records and exists only here; ARGS is then the address in NS_B. The namespaces exist, with what ARGS names in both. One line of JSON on stdout: Gbit/s of payload, microseconds; processor
 * seconds of both sides for 10^9 bytes.
 */
#include "hv/base/clock.h"
#include "hv/base/err.h"
#include "hv/base/hist.h"
#include "replication/module.h"
#include "replication/seal.h"
#include "replication/transport.h"
#include "tests/bench/plain.h"

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
#include <time.h>
#include <unistd.h>

enum {
	CHUNK = 256 << 10,
	CHECKPOINT = 4096,
	ANSWER = 48,
	CONNECT_MS = 20000,
	PORT = 7700,
	WARM_UP = 50,
	IDLE_MS = 1000,
	FIRST_MESSAGES = 40,
	SILENCE_MS = 20,
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

/* One connection, from the first side to the second. */
static int connection(const char *address, int side, int sock)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), listener, one = 1;
	char go = 1;

	if (fd < 0 || inet_pton(AF_INET, address, &a.sin_addr) != 1)
		die(address, NULL);
	if (side) {
		if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
		    bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1) ||
		    write(sock, &go, 1) != 1)
			die("listening", NULL);
		listener = fd;
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		(void)close(listener); /* one connection was all */
	} else if (read(sock, &go, 1) != 1 ||
		   connect(fd, (struct sockaddr *)&a, sizeof(a))) {
		die("connecting", NULL);
	}
	if (fd < 0)
		die("accepting", NULL);
	return fd;
}

/* The pair's own transport needs no module: connections and their handshakes. @streams 0: none, plain. */
static struct tp *tcp_up(const char *address, int side, int sock, unsigned streams)
{
	static const uint8_t psk[TP_PSK_LEN] = {1, 2, 3};
	struct tp *tp[TP_TCP_STREAMS_MAX];
	struct err e = {0};
	unsigned n = 0;
	int fd;

	do {
		fd = connection(address, side, sock);
		if (streams ? tp_tcp_open(fd, side, "bench", psk, CONNECT_MS, &tp[n], &e)
			    : plain_open(fd, &tp[n], &e))
			die("tcp", &e);
	} while (++n < streams);
	if (n > 1 && tp_tcp_join(tp, n, &tp[0], &e))
		die("tcp", &e);
	return tp[0];
}

/* "plain", "tcp", "tcp:STREAMS": how many; -1: another transport. */
static int streams_of(const char *name)
{
	int n = !strncmp(name, "tcp:", 4) ? atoi(name + 4) : 1;

	if (!strcmp(name, "plain"))
		return 0;
	return strncmp(name, "tcp", 3) != 0 || n < 1 || n > TP_TCP_STREAMS_MAX ? -1 : n;
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

/* The standby: takes what comes. The first byte of a chunk says whether there is another. The answer
 * to the last says what processor time they took; the one after that, what time the wait for the first
 * checkpoint took, during which nothing was to be done. */
static void standby(struct tp *tp)
{
	static uint8_t chunk[CHUNK];
	double cpu = cpu_s();

	do
		must(tp_recv(tp, chunk, CHUNK), "recv");
	while (chunk[0]);
	cpu = cpu_s() - cpu;
	memcpy(chunk, &cpu, sizeof(cpu));
	put(tp, chunk, ANSWER);
	cpu = cpu_s();
	must(tp_recv(tp, chunk, CHECKPOINT), "recv");
	cpu = cpu_s() - cpu;
	memcpy(chunk, &cpu, sizeof(cpu));
	put(tp, chunk, ANSWER);
	do {
		must(tp_recv(tp, chunk, CHECKPOINT), "recv");
		put(tp, chunk, ANSWER);
	} while (chunk[0]);
	(void)tp_recv(tp, chunk, 1); /* the end */
}

/* What one way costs. */
struct cost {
	double bytes, seconds, sender_cpu, receiver_cpu;
};

static void one_way(struct tp *tp, unsigned seconds, struct cost *c)
{
	static uint8_t chunk[CHUNK];
	struct iovec v = {.iov_base = chunk, .iov_len = CHUNK};
	uint64_t begin = clock_mono_ns(), end = begin + seconds * 1000000000ull, n = 0;
	double cpu = cpu_s();

	for (; clock_mono_ns() < end; n++) {
		chunk[0] = 1;
		must(tp_send(tp, &v, 1), "send");
	}
	chunk[0] = 0;
	put(tp, chunk, CHUNK);
	must(tp_recv(tp, chunk, ANSWER), "recv");
	c->bytes = (double)(n + 1) * CHUNK;
	c->seconds = (double)(clock_mono_ns() - begin) / 1e9;
	c->sender_cpu = cpu_s() - cpu;
	memcpy(&c->receiver_cpu, chunk, sizeof(c->receiver_cpu));
}

static void pause_ms(unsigned ms)
{
	const struct timespec ts = {.tv_sec = ms / 1000,
				    .tv_nsec = (long)(ms % 1000) * 1000000};

	(void)nanosleep(&ts, NULL); /* shorter is fine */
}

static void one_trip(struct tp *tp, uint8_t more, struct hist *h)
{
	static uint8_t page[CHECKPOINT], answer[ANSWER];
	uint64_t began = clock_mono_ns();

	page[0] = more;
	put(tp, page, CHECKPOINT);
	must(tp_recv(tp, answer, ANSWER), "recv");
	if (h)
		hist_add(h, clock_mono_ns() - began);
}

/* What a link takes while nothing is sent (the busier end, in parts of a core), and how long the first
 * message after some silence takes. */
static double idle(struct tp *tp, struct hist *first)
{
	static uint8_t page[CHECKPOINT], answer[ANSWER];
	double used, peer, cpu = cpu_s();

	pause_ms(IDLE_MS);
	used = cpu_s() - cpu;
	put(tp, page, CHECKPOINT);
	must(tp_recv(tp, answer, ANSWER), "recv");
	memcpy(&peer, answer, sizeof(peer));
	for (int i = 0; i < FIRST_MESSAGES; i++) {
		pause_ms(SILENCE_MS);
		one_trip(tp, 1, first);
	}
	return (used > peer ? used : peer) * 1000 / IDLE_MS;
}

static void round_trips(struct tp *tp, unsigned seconds, struct hist *h)
{
	uint64_t end = clock_mono_ns() + seconds * 1000000000ull;

	for (int i = 0; clock_mono_ns() < end; i++)
		one_trip(tp, 1, i < WARM_UP ? NULL : h);
	one_trip(tp, 0, NULL);
}

static void primary(struct tp *tp, unsigned seconds)
{
	struct hist h = {0}, first = {0};
	struct cost c;
	double rest;

	one_way(tp, seconds, &c);
	rest = idle(tp, &first);
	round_trips(tp, seconds, &h);
	printf("{\"gbit_s\": %.2f, \"sender_cores\": %.2f, \"cpu_s_per_gb\": %.4f, "
	       "\"idle_percent\": %.2f, \"first_p50_us\": %.1f, \"first_max_us\": %.1f, "
	       "\"trip_p50_us\": %.1f, \"trip_p99_us\": %.1f}\n",
	       c.bytes * 8 / c.seconds / 1e9, c.sender_cpu / c.seconds,
	       (c.sender_cpu + c.receiver_cpu) / (c.bytes / 1e9), rest * 100,
	       (double)hist_quantile(&first, 0.5) / 1e3,
	       (double)hist_quantile(&first, 1) / 1e3,
	       (double)hist_quantile(&h, 0.5) / 1e3,
	       (double)hist_quantile(&h, 0.99) / 1e3);
}

int main(int argc, char **argv)
{
	const struct tp_module *m = NULL;
	const char *name = argc > 1 ? argv[1] : "";
	int sock[2], side, status = 0, seal = !strncmp(name, "sealed:", 7), streams;
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
	streams = streams_of(name);
	if (streams < 0) {
		m = load(name);
		if (m->open(argv[2], &dev, &e))
			die("open", &e);
	}
	tp = m ? link_up(m, dev, side, sock[side])
	       : tcp_up(argv[2], side, sock[side], (unsigned)streams);
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
