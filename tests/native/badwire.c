/* SPDX-License-Identifier: Apache-2.0
 * badwire - a wire between two network namespaces that does what wires do.
 */
#include "tests/native/badwire.h"

#include "hv/base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FRAME = 2048, QUEUE = 20000, BURST = 64, SOCKET_BYTES = 32 << 20 };
#define LATE_NS 2000000ull

/* A frame on its way to end @to. */
struct frame {
	TAILQ_ENTRY(frame) link;
	uint64_t due;
	int to;
	size_t len;
	uint8_t bytes[FRAME];
};
TAILQ_HEAD(frames, frame);

struct forwarder {
	struct badwire_knobs *knobs;
	int fd[2];
	struct frames way; /* by when they are due */
	unsigned under_way;
	uint64_t rng;
};

static _Noreturn void die(const char *what)
{
	(void)fprintf(stderr, "badwire: %s: %s\n", what, strerror(errno));
	exit(2);
}

int badwire_sh(const char *fmt, ...)
{
	char cmd[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(cmd, sizeof(cmd), fmt, ap); /* all callers' commands are short */
	va_end(ap);
	return system(cmd); /* NOLINT(cert-env33-c): the tests' own words */
}

static unsigned dice(struct forwarder *f, unsigned n)
{
	f->rng ^= f->rng << 13;
	f->rng ^= f->rng >> 7;
	f->rng ^= f->rng << 17;
	return (unsigned)(f->rng % n);
}

static void put_on_the_way(struct forwarder *f, const struct frame *from, uint64_t due)
{
	struct frame *n = f->under_way < QUEUE ? malloc(sizeof(*n)) : NULL, *at;

	if (!n)
		return; /* a wire may lose frames */
	memcpy(n, from, sizeof(*n));
	n->due = due;
	f->under_way++;
	at = TAILQ_LAST(&f->way, frames);
	while (at && at->due > due)
		at = TAILQ_PREV(at, frames, link);
	if (at)
		TAILQ_INSERT_AFTER(&f->way, at, n, link);
	else
		TAILQ_INSERT_HEAD(&f->way, n, link);
}

/* So many of 1000 times; it is counted. */
static int happens(struct forwarder *f, const atomic_uint *often)
{
	int yes = dice(f, 1000) < atomic_load(often);

	if (yes)
		atomic_fetch_add(&f->knobs->harmed, 1);
	return yes;
}

static void take(struct forwarder *f, struct frame *in)
{
	struct badwire_knobs *k = f->knobs;
	uint64_t due = clock_mono_ns() + atomic_load(&k->delay_us) * 1000ull;

	if (atomic_load(&k->silent) || happens(f, &k->lose))
		return;
	if (happens(f, &k->late))
		due += LATE_NS;
	if (in->len > ETH_HLEN && happens(f, &k->flip))
		in->bytes[ETH_HLEN + dice(f, (unsigned)in->len - ETH_HLEN)] ^=
			(uint8_t)(1 << dice(f, 8));
	put_on_the_way(f, in, due);
	if (happens(f, &k->twice))
		put_on_the_way(f, in, due);
}

static void receive(struct forwarder *f, int from)
{
	static struct frame in;
	ssize_t n;

	for (int i = 0; i < BURST; i++) {
		n = recv(f->fd[from], in.bytes, sizeof(in.bytes), MSG_DONTWAIT);
		if (n <= 0)
			return;
		in.len = (size_t)n;
		in.to = !from;
		take(f, &in);
	}
}

static void deliver(struct forwarder *f)
{
	struct frame *n;

	/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the first is taken off before it is freed */
	while ((n = TAILQ_FIRST(&f->way)) && n->due <= clock_mono_ns()) {
		TAILQ_REMOVE(&f->way, n, link);
		f->under_way--;
		/* What the kernel does not take is lost, as on any wire. */
		(void)send(f->fd[n->to], n->bytes, n->len, 0);
		free(n);
	}
}

static _Noreturn void forward(struct forwarder *f)
{
	struct pollfd p[2] = {{.fd = f->fd[0], .events = POLLIN},
			      {.fd = f->fd[1], .events = POLLIN}};
	struct timespec ts;
	struct frame *n;
	uint64_t now;

	for (;;) {
		n = TAILQ_FIRST(&f->way);
		now = clock_mono_ns();
		ts = (struct timespec){.tv_sec = 1};
		if (n)
			ts = (struct timespec){
				.tv_nsec = n->due > now
						   ? (long)((n->due - now) % 1000000000)
						   : 0};
		(void)ppoll(p, 2, &ts, NULL); /* whatever it was, both are looked at */
		receive(f, 0);
		receive(f, 1);
		deliver(f);
	}
}

static int packet_socket(const char *dev)
{
	struct sockaddr_ll a = {.sll_family = AF_PACKET,
				.sll_protocol = htons(ETH_P_ALL),
				.sll_ifindex = (int)if_nametoindex(dev)};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), one = 1;
	int bytes = SOCKET_BYTES;

	if (fd < 0 || !a.sll_ifindex ||
	    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) ||
	    bind(fd, (struct sockaddr *)&a, sizeof(a)))
		die(dev);
	return fd;
}

/* Of the namespace that this process is in: no frame longer than the wire's, no sum left open. */
static void work_yourself(const char *dev)
{
	static const uint32_t off[] = {ETHTOOL_SGSO, ETHTOOL_STSO, ETHTOOL_STXCSUM};
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	for (size_t i = 0; i < sizeof(off) / sizeof(off[0]); i++) {
		struct ethtool_value v = {.cmd = off[i]};
		struct ifreq r = {.ifr_data = (void *)&v};

		(void)snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", dev); /* is short */
		if (s < 0 || ioctl(s, SIOCETHTOOL, &r))
			die(dev);
	}
	(void)close(s); /* was only needed for this */
}

static void enter(const char *ns)
{
	char path[64];
	int fd;

	(void)snprintf(path, sizeof(path), "/run/netns/%s", ns); /* is short */
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		die(path);
	(void)close(fd); /* was only needed to get there */
}

void badwire_enter(const struct badwire *w, int side)
{
	enter(w->ns[side]);
	work_yourself("wire");
}

static void make_nets(const struct badwire *w)
{
	static const char *const end[] = {"left", "right"};

	if (badwire_sh("ip netns add %s", w->ns_m))
		exit(2);
	/* Router solicitations of the kernel's are no part of this. */
	for (int i = 0; i < 2; i++)
		if (badwire_sh("ip netns add %s && ip -n %s link set lo up", w->ns[i],
			       w->ns[i]) ||
		    badwire_sh("ip -n %s link add wire type veth peer name %s netns %s",
			       w->ns[i], end[i], w->ns_m) ||
		    badwire_sh("ip -n %s link set wire addrgenmode none up && "
			       "ip -n %s addr add 10.99.0.%d/24 dev wire && "
			       "ip -n %s link set %s addrgenmode none up",
			       w->ns[i], w->ns[i], 1 + i, w->ns_m, end[i]))
			exit(2);
}

void badwire_up(struct badwire *w)
{
	struct forwarder f = {.rng = 88172645463325252ull};

	memset(w, 0, sizeof(*w));
	for (int i = 0; i < 2; i++)
		(void)snprintf(w->ns[i], sizeof(w->ns[i]), "rhea-wire-%d-%c", getpid(),
			       'a' + i);
	(void)snprintf(w->ns_m, sizeof(w->ns_m), "rhea-wire-%d-m", getpid());
	make_nets(w);
	w->knobs = mmap(NULL, sizeof(*w->knobs), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (w->knobs == MAP_FAILED)
		die("memory for the wire");
	w->pid = fork();
	if (w->pid < 0)
		die("a process for the wire");
	if (w->pid)
		return;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* best effort */
	enter(w->ns_m);
	f.knobs = w->knobs;
	TAILQ_INIT(&f.way);
	f.fd[0] = packet_socket("left");
	f.fd[1] = packet_socket("right");
	forward(&f);
}

void badwire_down(struct badwire *w)
{
	if (w->pid > 0) {
		(void)kill(w->pid, SIGKILL); /* gone already: fine */
		(void)waitpid(w->pid, NULL, 0);
	}
	w->pid = 0;
	for (int i = 0; i < 2; i++)
		if (w->ns[i][0])
			(void)badwire_sh("ip netns delete %s 2>/dev/null",
					 w->ns[i]); /* gone: fine */
	if (w->ns_m[0])
		(void)badwire_sh("ip netns delete %s 2>/dev/null", w->ns_m);
	w->ns[0][0] = w->ns[1][0] = w->ns_m[0] = 0;
}
