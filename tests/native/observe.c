/* SPDX-License-Identifier: Apache-2.0
 * observe - a client's eyes on the wire.
 *
 * One packet socket over all interfaces of the namespace: the kernel queues what it saw
 * in one order, whichever port it came in by.
 */
#include "tests/native/observe.h"

#include "hv/base/clock.h"
#include "tests/guest/proto.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct observer {
	char ns[64], port[2][IFNAMSIZ];
	int ifindex[2], sock;
	pthread_t thread;
	pthread_mutex_t lock;
	atomic_int stop, ready; /* ready: 1 yes, -1 failed */
	uint64_t boot_id;
	int boots_allowed;
	struct observed st;
};

__attribute__((format(printf, 2, 3))) static void violation(struct observer *o,
							    const char *fmt, ...)
{
	va_list ap;

	if (o->st.violations++)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(o->st.first_violation, sizeof(o->st.first_violation), fmt,
			ap); /* truncation is fine */
	va_end(ap);
}

static void booted(struct observer *o, const struct gp_frame *f, char name)
{
	o->st.boots++;
	o->st.last_n = 0;
	if (!o->boots_allowed)
		violation(o,
			  "the guest was booted anew: id %" PRIx64 ", was %" PRIx64
			  ", on host %c",
			  f->boot_id, o->boot_id, name);
}

static void note_silence(struct observed *s, uint64_t now)
{
	uint64_t silent = s->frames && now > s->last_ns ? now - s->last_ns : 0;

	s->longest_ns = silent > s->longest_ns ? silent : s->longest_ns;
}

static void judge(struct observer *o, const struct gp_frame *f, int host, uint64_t now)
{
	struct observed *s = &o->st;
	char name = host ? 'b' : 'a';

	if (f->type == GP_FAIL) {
		violation(o,
			  "the guest's own check failed at n=%" PRIu64 " (%" PRIu64
			  ") on host %c",
			  f->n, f->mem_n, name);
		return;
	}
	if (f->type != GP_COUNT && f->type != GP_PONG)
		return;
	if (s->frames && f->boot_id != o->boot_id)
		booted(o, f, name);
	o->boot_id = f->boot_id;
	if (s->frames && f->n <= s->last_n && f->type == GP_COUNT)
		violation(o,
			  "n=%" PRIu64 " after n=%" PRIu64
			  " had been seen (host %c): output left before "
			  "its checkpoint was safe",
			  f->n, s->last_n, name);
	if (f->mem_n != f->n || f->disk_n != f->n)
		violation(o,
			  "n=%" PRIu64 " but memory or disk say otherwise (%" PRIu64
			  ") on host %c",
			  f->n, f->mem_n != f->n ? f->mem_n : f->disk_n, name);
	if (s->last_host >= 0 && host != s->last_host) {
		s->switches++;
		s->gap_ns = now - s->last_ns;
	}
	note_silence(s, now);
	s->frames++;
	s->from[host]++;
	s->last_host = host;
	s->last_n = f->n;
	s->blocks = f->type == GP_COUNT ? f->seq : s->blocks;
	s->last_ns = now;
}

static void take(struct observer *o)
{
	struct gp_frame f;
	struct sockaddr_ll from = {0};
	socklen_t len = sizeof(from);
	ssize_t n = recvfrom(o->sock, &f, sizeof(f), MSG_DONTWAIT,
			     (struct sockaddr *)&from, &len);
	int host = from.sll_ifindex == o->ifindex[1];

	if (n < (ssize_t)sizeof(f) || from.sll_pkttype == PACKET_OUTGOING ||
	    f.ethertype != htons(GP_ETHERTYPE) || f.magic != GP_MAGIC)
		return;
	if (from.sll_ifindex != o->ifindex[host])
		return;
	pthread_mutex_lock(&o->lock);
	judge(o, &f, host, clock_mono_ns());
	pthread_mutex_unlock(&o->lock);
}

static int open_socket(struct observer *o)
{
	char path[128];
	int ns, bytes = 64 << 20;

	(void)snprintf(path, sizeof(path), "/run/netns/%s", o->ns);
	ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0)
		return -1;
	if (setns(ns, CLONE_NEWNET)) {
		close(ns);
		return -1;
	}
	close(ns);
	o->ifindex[0] = (int)if_nametoindex(o->port[0]);
	o->ifindex[1] = (int)if_nametoindex(o->port[1]);
	o->sock = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
	if (o->sock < 0 || !o->ifindex[0] || !o->ifindex[1])
		return -1;
	return setsockopt(o->sock, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
}

static void *observe_main(void *arg)
{
	struct observer *o = arg;
	struct pollfd p = {.events = POLLIN};
	int rc = open_socket(o);

	atomic_store(&o->ready, rc ? -1 : 1);
	if (rc)
		return NULL;
	p.fd = o->sock;
	while (!atomic_load(&o->stop))
		if (poll(&p, 1, 100) > 0)
			take(o);
	return NULL;
}

struct observer *observer_start(const char *ns, const char *port0, const char *port1)
{
	struct observer *o = calloc(1, sizeof(*o));

	if (!o)
		return NULL;
	(void)snprintf(o->ns, sizeof(o->ns), "%s", ns);
	(void)snprintf(o->port[0], IFNAMSIZ, "%s", port0);
	(void)snprintf(o->port[1], IFNAMSIZ, "%s", port1);
	o->sock = -1;
	o->st.last_host = -1;
	pthread_mutex_init(&o->lock, NULL);
	if (pthread_create(&o->thread, NULL, observe_main, o)) {
		free(o);
		return NULL;
	}
	while (!atomic_load(&o->ready))
		sched_yield();
	if (atomic_load(&o->ready) > 0)
		return o;
	perror("observer");
	observer_stop(o);
	return NULL;
}

void observer_stop(struct observer *o)
{
	atomic_store(&o->stop, 1);
	pthread_join(o->thread, NULL);
	if (o->sock >= 0)
		close(o->sock);
	pthread_mutex_destroy(&o->lock);
	free(o);
}

void observer_allow_boots(struct observer *o)
{
	pthread_mutex_lock(&o->lock);
	o->boots_allowed = 1;
	pthread_mutex_unlock(&o->lock);
}

void observer_mark(struct observer *o)
{
	pthread_mutex_lock(&o->lock);
	o->st.longest_ns = 0;
	pthread_mutex_unlock(&o->lock);
}

void observer_read(struct observer *o, struct observed *out)
{
	pthread_mutex_lock(&o->lock);
	*out = o->st;
	note_silence(out, clock_mono_ns());
	pthread_mutex_unlock(&o->lock);
}
