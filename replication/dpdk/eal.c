/* SPDX-License-Identifier: Apache-2.0
 * eal - DPDK's start, and the hardware of one port.
 *
 * DPDK can be started once a process, and whoever starts it becomes one of its threads, with
 * the affinity that it gives: so the port's own thread does it.
 */
#include "replication/dpdk/port_impl.h"

#include "hv/base/err.h"
#include "replication/lane_wire.h"

#include <errno.h>
#include <net/if.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_log.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LINK_TRIES = 500 };

static int start_eal(struct port *p, struct err *err)
{
	static int begun;

	if (begun)
		return err_set(err, -EALREADY,
			       "dpdk: was started in this process before");
	begun = 1;
	/* Its other way to say things is to connect to syslog, also in the middle of things. */
	(void)rte_openlog_stream(stderr); /* returns 0 */
	if (rte_eal_init(p->args.n_eal, p->args.eal) < 0)
		return err_sys(err, -rte_errno, "dpdk: start of DPDK failed");
	return 0;
}

static int find_port(struct port *p, struct err *err)
{
	uint16_t id;

	if (p->args.name[0]) {
		if (rte_eth_dev_get_port_by_name(p->args.name, &p->id))
			return err_set(err, -ENODEV, "dpdk: there is no port %s",
				       p->args.name);
		return 0;
	}
	RTE_ETH_FOREACH_DEV(id)
	{
		p->id = id;
		return 0;
	}
	return err_set(err, -ENODEV,
		       "dpdk: no port: is the device bound to vfio-pci or "
		       "uio_pci_generic, or given with --vdev?");
}

/* As rte_pktmbuf_pool_create(), but buffers may cross pages where no bus address is
 * needed: else, without huge pages, each takes whole pages, and net_af_xdp, which does
 * not know of the gaps, registers too little memory with the kernel. */
static struct rte_mempool *buffers(unsigned n, unsigned room)
{
	struct rte_pktmbuf_pool_private priv = {
		.mbuf_data_room_size = (uint16_t)(RTE_PKTMBUF_HEADROOM + room)};
	unsigned flags =
		rte_eal_iova_mode() == RTE_IOVA_VA ? RTE_MEMPOOL_F_NO_IOVA_CONTIG : 0;
	struct rte_mempool *mp = rte_mempool_create_empty(
		"rhea", n, (unsigned)sizeof(struct rte_mbuf) + priv.mbuf_data_room_size,
		PORT_CACHE, sizeof(priv), SOCKET_ID_ANY, flags);

	if (!mp)
		return NULL;
	/* The buffer given back last is the next one: it is still in the cache. A ring would walk
	 * through all of the window's memory. */
	if (rte_mempool_set_ops_byname(mp, "stack", NULL)) {
		rte_mempool_free(mp);
		return NULL;
	}
	rte_pktmbuf_pool_init(mp, &priv);
	if (rte_mempool_populate_default(mp) < 0) {
		rte_mempool_free(mp);
		return NULL;
	}
	(void)rte_mempool_obj_iter(mp, rte_pktmbuf_init, NULL); /* how many */
	return mp;
}

static int make_pool(struct port *p, struct err *err)
{
	unsigned per = p->args.mtu - LANE_COST, frames;

	frames = (unsigned)(((uint64_t)p->args.window_mib << 20) / per);
	for (p->slots = 64; p->slots * 2 <= frames; p->slots *= 2)
		;
	p->queue = port_queue(p->args.mtu);
	p->pool = buffers(2 * p->slots + port_margin(&p->args), p->args.frame_room);
	if (!p->pool)
		return err_sys(err, rte_errno ? -rte_errno : -ENOMEM,
			       "dpdk: memory for two windows of %u frames of %u bytes",
			       p->slots, p->args.frame_room);
	return 0;
}

/* Configured and started. @interrupts: for what is received. */
static int try_set_up(struct port *p, int interrupts)
{
	struct rte_eth_conf conf = {.intr_conf.rxq = interrupts ? 1 : 0};
	struct rte_eth_dev_info info;
	uint16_t rx = (uint16_t)port_ring(&p->args), tx = rx;
	int rc = rte_eth_dev_info_get(p->id, &info);

	if (rc)
		return rc;
	/* Drivers without a word on the matter carry what their interface carries; the lane
	 * finds out how much that is. */
	if (p->args.mtu > 1500 && info.max_mtu >= p->args.mtu &&
	    info.max_rx_pktlen >= p->args.mtu + LANE_ETHER)
		conf.rxmode.mtu = p->args.mtu;
	if ((rc = rte_eth_dev_configure(p->id, 1, 1, &conf)) ||
	    (rc = rte_eth_dev_adjust_nb_rx_tx_desc(p->id, &rx, &tx)) ||
	    (rc = rte_eth_rx_queue_setup(p->id, 0, rx, SOCKET_ID_ANY, NULL, p->pool)) ||
	    (rc = rte_eth_tx_queue_setup(p->id, 0, tx, SOCKET_ID_ANY, NULL)) ||
	    (rc = rte_eth_macaddr_get(p->id, &p->mac)) || (rc = rte_eth_dev_start(p->id)))
		return rc;
	if (!interrupts)
		return 0;
	rc = rte_eth_dev_rx_intr_enable(p->id, 0);
	if (!rc)
		rc = rte_eth_dev_rx_intr_disable(p->id, 0);
	if (rc)
		(void)rte_eth_dev_stop(p->id); /* so that it can be configured anew */
	return rc;
}

/* Drivers of cards say by failing, at one step or another, that they have no such interrupts; those on
 * the kernel's interfaces have none, and cannot be started a second time. */
static int set_up(struct port *p, struct err *err)
{
	int interrupts = !p->args.iface[0], rc = try_set_up(p, interrupts);

	if (rc && interrupts) {
		interrupts = 0;
		rc = try_set_up(p, 0);
	}
	if (rc)
		return err_sys(err, rc, "dpdk: port %u", p->id);
	return port_idle_up(p, interrupts, err);
}

void port_hardware_down(struct port *p)
{
	(void)rte_eth_dev_stop(p->id);	/* the process gives all of it up */
	(void)rte_eth_dev_close(p->id); /* the same */
	if (p->flags_fd >= 0)
		(void)close(p->flags_fd); /* nothing was written */
	port_idle_down(p);
	rte_mempool_free(p->pool);
	(void)rte_eal_cleanup(); /* the same */
}

int port_link_is_up(const struct port *p)
{
	struct rte_eth_link link = {0};
	struct ifreq ifr = {0};

	/* The drivers for the kernel's interfaces say "up" whatever happens. */
	if (p->flags_fd >= 0) {
		memcpy(ifr.ifr_name, p->args.iface, sizeof(p->args.iface));
		return ioctl(p->flags_fd, SIOCGIFFLAGS, &ifr) == 0 &&
		       (ifr.ifr_flags & IFF_RUNNING) && (ifr.ifr_flags & IFF_UP);
	}
	if (rte_eth_link_get_nowait(p->id, &link))
		return 1;
	return link.link_status == RTE_ETH_LINK_UP;
}

/* Hardware that was just started talks to its neighbour for a while. No link after that is no error
 * here: it may come later. */
static void await_link(struct port *p)
{
	const struct timespec ts = {.tv_nsec = 10 * 1000000};

	for (int i = 0; i < LINK_TRIES && !port_link_is_up(p); i++)
		(void)nanosleep(&ts, NULL); /* shorter is fine */
	p->link_down = !port_link_is_up(p);
}

int port_hardware_up(struct port *p, struct err *err)
{
	int rc;

	port_idle_before(p);
	rc = start_eal(p, err);
	if (rc)
		return rc;
	rc = (rc = find_port(p, err)) || (rc = make_pool(p, err)) ? rc : set_up(p, err);
	p->flags_fd = -1;
	if (!rc && p->args.iface[0]) {
		p->flags_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (p->flags_fd < 0)
			rc = err_sys(err, -errno, "dpdk: socket");
	}
	if (rc)
		(void)rte_eal_cleanup(); /* nothing more can be done about it */
	else
		await_link(p);
	return rc;
}
