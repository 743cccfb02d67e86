/* SPDX-License-Identifier: Apache-2.0
 * idle - how the port's thread waits when nothing happens.
 *
 * Where the driver has interrupts for received frames they end the wait; a port that runs on the
 * kernel's sockets (net_af_packet, net_af_xdp) has none, but its sockets can be waited for as
 * well. Else the thread looks now and then. In all three a sender or a time of a lane's that
 * comes sooner wakes it through an event of our own. No wait is longer than the next look at the
 * cable, so that an interrupt that was missed costs no more than that.
 */
#include "replication/dpdk/port_impl.h"

#include "hv/base/err.h"

#include <errno.h>
#include <poll.h>
#include <rte_ethdev.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* Is @fd a socket that takes frames from an interface? */
static int takes_frames(int fd)
{
	int domain = 0;
	socklen_t len = sizeof(domain);

	return !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) &&
	       (domain == AF_PACKET || domain == AF_XDP);
}

void port_idle_before(struct port *p)
{
	p->sleep.event = -1;
	for (int fd = 0; fd < PORT_FDS; fd++)
		if (takes_frames(fd))
			p->sleep.before[fd / 8] |= (uint8_t)(1 << fd % 8);
}

/* The driver's own sockets, which it does not tell of: those that came with it. */
static void find_sockets(struct port *p)
{
	struct port_sleep *s = &p->sleep;

	for (int fd = 0; p->args.iface[0] && fd < PORT_FDS && s->n < PORT_SOCKETS; fd++)
		if (!(s->before[fd / 8] >> fd % 8 & 1) && takes_frames(fd))
			s->fd[s->n++] = fd;
	if (s->n)
		s->mode = PORT_IDLE_SOCKETS;
}

int port_idle_up(struct port *p, int interrupts, struct err *err)
{
	struct port_sleep *s = &p->sleep;
	int fd = interrupts ? rte_eth_dev_rx_intr_ctl_q_get_fd(p->id, 0) : -1;

	s->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->event < 0)
		return err_sys(err, -errno, "dpdk: event");
	if (fd >= 0) {
		s->mode = PORT_IDLE_INTERRUPTS;
		s->fd[s->n++] = fd;
	} else {
		find_sockets(p);
	}
	return 0;
}

void port_idle_down(struct port *p)
{
	if (p->sleep.event >= 0)
		(void)close(p->sleep.event); /* nothing was written to disk */
	p->sleep.event = -1;
}

void port_wake(struct port *p)
{
	const uint64_t one = 1;

	/* Full: it is awake by then. */
	(void)!write(p->sleep.event, &one, sizeof(one));
}

/* Events count in eight bytes, uio devices in four. */
static void drain(int fd)
{
	uint64_t count;

	if (read(fd, &count, sizeof(count)) < 0 && errno == EINVAL)
		(void)!read(fd, &count, sizeof(uint32_t)); /* else it is readable again */
}

/* What came between the last poll and the interrupts' start makes none. */
static int arm(struct port *p)
{
	const uint64_t busy = p->busy_ns;

	if (p->sleep.mode != PORT_IDLE_INTERRUPTS)
		return 1;
	if (rte_eth_dev_rx_intr_enable(p->id, 0))
		return 0;
	port_poll(p);
	return p->busy_ns == busy;
}

static void disarm(struct port *p, int came)
{
	if (p->sleep.mode != PORT_IDLE_INTERRUPTS)
		return;
	(void)rte_eth_dev_rx_intr_disable(p->id, 0); /* else it is only woken too often */
	if (came)
		drain(p->sleep.fd[0]);
}

void port_sleep(struct port *p, uint64_t ns, int quiet)
{
	struct port_sleep *s = &p->sleep;
	struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000),
			      .tv_nsec = (long)(ns % 1000000000)};
	struct pollfd f[1 + PORT_SOCKETS] = {{.fd = s->event, .events = POLLIN}};
	unsigned n = 1;
	int traffic = 0;

	if (quiet && s->n && arm(p)) {
		for (unsigned i = 0; i < s->n; i++)
			f[n++] = (struct pollfd){.fd = s->fd[i], .events = POLLIN};
		atomic_fetch_add(&s->waits, 1);
	}
	port_unlock(p);
	if (ppoll(f, n, &ts, NULL) > 0 && f[0].revents)
		drain(s->event);
	port_lock(p);
	for (unsigned i = 1; i < n; i++)
		traffic |= f[i].revents;
	if (traffic)
		atomic_fetch_add(&s->woken, 1);
	if (quiet)
		disarm(p, traffic);
}

const char *port_idle_mode(struct port *p, unsigned *waits, unsigned *woken)
{
	static const char *const names[] = {"naps", "interrupts", "sockets"};

	*waits = atomic_load(&p->sleep.waits);
	*woken = atomic_load(&p->sleep.woken);
	return names[p->sleep.mode];
}
